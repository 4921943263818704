"""What the kernel's mount table says about a folder; nothing here ever asks the file system itself.

A network mount whose server is gone answers no call at all, not even stat(2): whoever must know what a folder
stands on, before daring to touch it, reads proc_pid_mountinfo(5), which always answers.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from msgspec import Struct

MOUNTS = "/proc/self/mountinfo"
_OCTAL = re.compile(r"\\([0-7]{3})")

# Answers come from another machine (or, with FUSE, from another process): calls may hang, and another client's
# changes are seen late. Names as the kernel's mount table spells them; `fuse.` counts whatever stands behind.
NETWORK = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "pvfs2", "fuse",
     "virtiofs", "wekafs", "panfs", "orangefs", "coda")
)  # fmt: skip
NFS = frozenset(("nfs", "nfs4"))

# nfs(5): the kernel's defaults, which the mount table does not repeat
_NFS_CACHE_S = {"acregmax": 60.0, "acdirmax": 60.0}
_CIFS_CACHE_S = 1.0  # mount.cifs(8), actimeo


class Mount(Struct, frozen=True):
    """One line of the table: device number, path of the mounted folder in its file system, mount point."""

    device: str
    root: PurePosixPath
    point: PurePosixPath
    filesystem: str
    source: str
    options: tuple[str, ...]

    @property
    def network(self) -> bool:
        return self.filesystem in NETWORK or self.filesystem.startswith("fuse.")

    @property
    def nfs(self) -> bool:
        return self.filesystem in NFS

    def option(self, name: str) -> str | None:
        """The value of `name=value`, '' for a bare word, None when it is not there."""
        for one in self.options:
            key, _, value = one.partition("=")
            if key == name:
                return value
        return None

    @property
    def attribute_cache_s(self) -> float:
        """How long this client may go on believing what it knows of files and folders that another changed."""
        if self.nfs:
            if self.option("noac") is not None:
                return 0.0
            return max(_seconds(self.option(name), default) for name, default in _NFS_CACHE_S.items())
        if self.filesystem in ("cifs", "smb3"):
            return _seconds(self.option("actimeo"), _CIFS_CACHE_S)
        return 0.0

    @property
    def soft(self) -> bool:
        """A soft mount gives up on a slow server in mid-write and loses what it had taken (nfs(5))."""
        return self.nfs and (self.option("soft") is not None or self.option("softerr") is not None)


NOWHERE = Mount("", PurePosixPath("/"), PurePosixPath("/"), "unknown", "unknown", ())


def table() -> list[Mount]:
    with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
        return [parsed(line) for line in lines]


def parsed(line: str) -> Mount:
    """proc_pid_mountinfo(5): id, parent, device, root, point, options, optional fields, '-', type, source, and the
    super block's options, where NFS says what it was mounted with."""
    fields, _, tail = line.partition(" - ")
    words, kinds = fields.split(" "), tail.split()
    options = [*words[5].split(","), *(kinds[2].split(",") if len(kinds) > 2 else [])]
    return Mount(words[2], PurePosixPath(plain(words[3])), PurePosixPath(plain(words[4])), kinds[0], kinds[1],
                 tuple(options))  # fmt: skip


def listed(fstab: Path) -> list[Mount]:
    """What fstab(5) would mount, whether it is there or not."""
    try:
        lines = fstab.read_text("utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []
    fields = [line.split() for line in lines if not line.lstrip().startswith("#")]
    return [
        Mount("", PurePosixPath("/"), PurePosixPath(plain(one[1])), one[2], plain(one[0]), tuple(one[3].split(",")))
        for one in fields
        if len(one) >= 4 and one[1].startswith("/")
    ]


def mount_of(path: Path | str, *, mounts: list[Mount] | None = None) -> Mount:
    """The mount a path lies on, by its spelling alone: a symlink on the way is not resolved, since that would ask
    the file system. Of two mounts at one point the later one is seen."""
    spelled = PurePosixPath(os.path.abspath(path))
    found = NOWHERE
    for one in mounts if mounts is not None else table():
        if spelled.is_relative_to(one.point) and len(one.point.parts) >= len(found.point.parts):
            found = one
    return found


def stands_on(path: Path | str) -> Mount:
    """The mount behind a path, links resolved and an automount brought up: this does ask the file system, and may
    wait as long as that does."""
    with suppress(OSError):  # what is not there stands on what its spelling says
        os.stat(os.path.join(path, "."))
    return mount_of(os.path.realpath(path))


def mount_of_device(device: int) -> Mount:
    """The mount with this device number. btrfs subvolumes have device numbers of their own: NOWHERE."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return next((one for one in table() if one.device == wanted), NOWHERE)


def plain(text: str) -> str:
    return _OCTAL.sub(lambda found: chr(int(found[1], 8)), text)


def _seconds(text: str | None, default: float) -> float:
    try:
        return float(text) if text else default
    except ValueError:
        return default
