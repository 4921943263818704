"""Where a race is run: a folder below the root, or a file system made for it alone.

ext4 makes creating files three to ten times slower for minutes after many were deleted (its inode allocator
skips recently deleted ones). So races of many files get a fresh ext4 in an image, mounted over a loop device
with direct IO, and lose it whole afterwards; without the right to mount they share the root's file system and
nothing is deleted before the end. Races of a few large files run on the root's file system itself.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

SLACK = 1.15  # file systems need room for themselves


class NoRoom(Exception):
    """The root cannot hold what was asked for; nothing was made."""


class Place(Struct, frozen=True):
    """A folder to race in; `kind` says on which file system. `image` is the file behind the mount, or "". What is
    `kept` goes with the root at the end, so that no deletion slows the creations of a later race."""

    folder: Path
    kind: str
    image: str = ""
    kept: bool = False

    def fresh(self, name: str) -> Path:
        """A folder that never was before."""
        made = self.folder / name
        made.mkdir(parents=True)
        return made

    def remove(self) -> None:
        if self.kept:
            return
        if self.image:
            subprocess.run(["umount", str(self.folder)], check=True)
            os.unlink(self.image)
        shutil.rmtree(self.folder, ignore_errors=True)


def demand_room(root: Path, need_bytes: int, *, what: str) -> None:
    """NoRoom unless the root's file system can take so much, with a reserve."""
    free = shutil.disk_usage(root).free
    if free < need_bytes * SLACK:
        raise NoRoom(
            f"{what} needs {need_bytes * SLACK / 1e9:.1f} GB below {root} and {free / 1e9:.1f} GB are free; "
            "give another folder with --root, or fewer claims with --only"
        )


def plain(root: Path, name: str, *, kept: bool = False) -> Place:
    folder = root / name
    folder.mkdir(parents=True)
    return Place(folder, f"{filesystem(folder)}, the root's own", kept=kept)


def fresh_filesystem(root: Path, name: str, *, kind: str, size_bytes: int, files: int = 0) -> Place | None:
    """A new file system of its own, or None where this user cannot make or mount one. `files` is how many inodes
    it must have; lazy initialisation is switched off, because it would write beside the measurement."""
    if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None:
        return None
    folder, image = root / name, root / f"{name}.img"
    folder.mkdir(parents=True)
    with image.open("wb") as stream:
        stream.truncate(int(size_bytes * SLACK) + (512 << 20))
    if _made(kind, image, files) and _mounted(kind, image, folder):
        return Place(folder, f"fresh {kind} in an image, loop device, direct IO", str(image))
    image.unlink()
    folder.rmdir()
    return None


def _made(kind: str, image: Path, files: int) -> bool:
    inodes = ["-N", str(max(files, 65536))] if files and kind == "ext4" else []
    options = {"ext4": ["-q", "-F", *inodes, "-E", "nodiscard"], "xfs": ["-q", "-f", "-K", "-m", "reflink=1"]}[kind]
    return _works(f"mkfs.{kind}", *options, str(image))


def _mounted(kind: str, image: Path, folder: Path) -> bool:
    found = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", str(image)], capture_output=True, text=True, check=False
    )
    device = found.stdout.strip()
    if found.returncode or not device:
        return False
    options = "noatime,noinit_itable" if kind == "ext4" else "noatime"
    mounted = _works("mount", "-t", kind, "-o", options, device, str(folder))
    _works("losetup", "--detach", device)  # takes effect when the mount goes
    return mounted


def _works(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def filesystem(folder: Path) -> str:
    """Type of the file system that holds the folder, by the longest mount point on the way to it."""
    path, best = os.path.realpath(folder), ("", "unknown")
    for line in Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines():
        point, kind = line.split()[1:3]
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def remove_leftovers(root: Path) -> None:
    """What a killed run left: mounts below the root first, then everything."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()]
    for point in sorted(mounted, reverse=True):
        if point.startswith(f"{root.resolve()}/") and not _works("umount", point):
            _works("umount", "--lazy", point)  # in use by what a kill left: gone from here with its last user
    shutil.rmtree(root, ignore_errors=True)
