"""The file systems under the demo: a read-only source, a flash that can reflink, a protect apart.

Where root allows it, flash and protect are loop-mounted images and the source is a read-only bind of the
hospital's folder, so that the demo meets real boundaries: EROFS, EXDEV, reflinks, a full device. Where it
does not, they are plain folders, and each place says so in one sentence a person can read.

Only mounts below our own root are ever undone, and only those that /proc/self/mountinfo shows there. A
killed run leaves its mounts behind; the next `prepare` undoes them first.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec

from mover.demo.trees import remove_tree
from mover.errors import SettingsInvalid, TierFull

GIB = 1 << 30
FLASH_BYTES = 6 * GIB
PROTECT_BYTES = 3 * GIB
LEAST_BYTES = GIB  # below this an image is not worth mounting
COMMAND_S = 60.0
_FICLONE = 0x40049409
_TOOLS = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")


class Place(msgspec.Struct, frozen=True):
    """`path` is what a tier is declared with; `sentence` says what stands there and, if plain, why."""

    name: str
    path: str
    kind: str  # xfs, ext4, bind, folder
    read_only: bool
    reflinks: bool
    sentence: str


class Places(msgspec.Struct, frozen=True):
    root: str
    source: Place
    flash: Place
    protect: Place

    @property
    def all(self) -> tuple[Place, ...]:
        return (self.source, self.flash, self.protect)


class _Refused(Exception):
    """A mount that did not work out; the text becomes part of the place's sentence."""


def prepare(root: Path, *, source: Path, fresh: bool = True) -> Places:
    """The three places under `root`. `source` must be complete: nobody can write through its place.

    Running it again is the same as running it once: what stood there is released first. With `fresh`
    flash and protect are empty; without, they keep what they held. End with `release`.
    """
    base = Path(root).absolute()
    own(base)
    release(base)
    if fresh:
        _discard(base)
    free = shutil.disk_usage(base).free
    if free < LEAST_BYTES:
        raise TierFull(f"{free / 1e9:.1f} GB are free where the demo wants to work", where=str(base))
    return Places(
        root=str(base),
        source=_source_place(base, Path(source).absolute()),
        flash=_image_place(base, "flash", ("xfs", "ext4"), size_bytes=min(FLASH_BYTES, free * 6 // 10)),
        protect=_image_place(base, "protect", ("ext4",), size_bytes=min(PROTECT_BYTES, free * 3 // 10)),
    )


def release(root: Path | Places) -> list[str]:
    """Undo every mount below `root`, deepest first; the mount points undone. Contents are kept."""
    base = Path(root.root if isinstance(root, Places) else root).absolute()
    undone = []
    for point in sorted(mounts_below(base), key=len, reverse=True):
        if os.geteuid() != 0:
            raise SettingsInvalid(
                "A demo run by root left mounts here", where=point, hint=f"Run once: sudo umount -l '{point}'"
            )
        for options in ([], ["-l"]):
            if _run("umount", *options, point) is None:
                undone.append(point)
                break
    return undone


def mounts_below(base: Path) -> list[str]:
    """Mount points strictly below `base`, as the kernel lists them."""
    inside = str(base).rstrip("/") + "/"
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        # Spaces, tabs, newlines and backslashes are written as octal (proc(5)).
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4])
        if point.startswith(inside):
            points.append(point)
    return points


# --- single places --------------------------------------------------------------------------------------


def _source_place(root: Path, source: Path) -> Place:
    point = root / "places" / "source"
    point.mkdir(parents=True, exist_ok=True)
    try:
        _need_root()
        _must("mount", "--bind", str(source), str(point))
        _must("mount", "-o", "remount,bind,ro,nosuid,nodev", str(point))
    except _Refused as refused:
        for left in mounts_below(root / "places"):
            if left == str(point):
                _run("umount", "-l", left)
        return Place(
            name="source",
            path=str(source),
            kind="folder",
            read_only=False,
            reflinks=False,
            sentence=f"source is a plain folder that could be written to ({refused}); the mover never does",
        )
    return Place(
        name="source",
        path=str(point),
        kind="bind",
        read_only=True,
        reflinks=False,
        sentence="source is mounted read-only",
    )


def _image_place(root: Path, name: str, kinds: tuple[str, ...], *, size_bytes: int) -> Place:
    """The first kind of file system that can be made and mounted, else a plain folder."""
    point = root / "places" / name
    point.mkdir(parents=True, exist_ok=True)
    reason = ""
    for kind in kinds:
        try:
            _need_root()
            if size_bytes < LEAST_BYTES:
                raise _Refused("the disk is nearly full")
            _mount_image(root / "images" / f"{name}.{kind}", point, kind, size_bytes)
        except _Refused as refused:
            reason = reason or str(refused)
            continue
        reflinks = _reflinks(point)
        return Place(
            name=name,
            path=str(point),
            kind=kind,
            read_only=False,
            reflinks=reflinks,
            sentence=f"{name} is its own {kind} file system{' with reflinks' if reflinks else ''}",
        )
    sentence = f"{name} is a plain folder on the demo's own file system ({reason})"
    return Place(
        name=name, path=str(point), kind="folder", read_only=False, reflinks=_reflinks(point), sentence=sentence
    )


def _mount_image(image: Path, point: Path, kind: str, size_bytes: int) -> None:
    """A sparse image, made once, mounted through a loop device that goes away with the mount."""
    image.parent.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        making = image.with_suffix(".making")  # renamed when whole: a killed mkfs is not mistaken for one
        with making.open("wb") as stream:
            stream.truncate(size_bytes)
        if kind == "xfs":
            _must("mkfs.xfs", "-q", "-f", "-m", "reflink=1", str(making))
        else:
            options = "lazy_itable_init=1,lazy_journal_init=1"
            _must("mkfs.ext4", "-q", "-F", "-m", "0", "-E", options, str(making))
        making.rename(image)
    _must("mount", "-t", kind, "-o", "loop,nosuid,nodev,noatime", str(image), str(point))


def _reflinks(folder: Path) -> bool:
    """Whether a file there can share its blocks with another: tried, not guessed."""
    first, second = folder / ".reflink-a", folder / ".reflink-b"
    try:
        first.write_bytes(b"x" * 4096)
        with first.open("rb") as source, second.open("wb") as target:
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        return True
    except OSError:
        return False
    finally:
        first.unlink(missing_ok=True)
        second.unlink(missing_ok=True)


# --- housekeeping ----------------------------------------------------------------------------------------


def own(root: Path) -> None:
    """Our own folder, or root's right to use another's; anything else gets a hint instead of a traceback."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = os.geteuid() != 0 and any(
            path.stat().st_uid != os.geteuid() for path in (root, root / "places", root / "images") if path.exists()
        )
    except PermissionError:
        foreign = True
    if foreign:
        raise SettingsInvalid(
            "Leftovers of another user stand where the demo wants to work",
            where=str(root),
            hint=f"Call `sudo make clean`, or by hand: sudo umount -l '{root}'/places/*; sudo rm -rf '{root}'.",
        )


def _discard(root: Path) -> None:
    """Empty flash and protect. Nothing is mounted below by now, so this cannot reach into the source."""
    if mounts_below(root / "places"):
        raise SettingsInvalid(
            "A mount of an earlier demo could not be undone", where=str(root / "places"), hint="See `mount`."
        )
    for name in ("places", "images"):
        if (root / name).exists():
            remove_tree(root / name)


def _need_root() -> None:
    if os.geteuid() != 0:
        raise _Refused("mounting needs root")


def _must(*command: str) -> None:
    complaint = _run(*command)
    if complaint is not None:
        raise _Refused(complaint)


def _run(*command: str) -> str | None:
    """None when it worked, else one line of why."""
    search = os.pathsep.join([os.environ.get("PATH", ""), *_TOOLS])
    tool = shutil.which(command[0], path=search)
    if tool is None:
        return f"{command[0]} is not installed"
    try:
        done = subprocess.run(
            [tool, *command[1:]], capture_output=True, text=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {COMMAND_S:.0f} s"
    if done.returncode == 0:
        return None
    return f"{command[0]}: {(done.stderr.strip().splitlines() or ['failed'])[0].split(': ')[-1]}"
