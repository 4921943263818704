"""Opening files below one folder, and nowhere else; the few system calls Python does not offer.

Every path is resolved by the kernel beneath a root descriptor, without symlinks and magic links (openat2,
Linux 5.6); older kernels walk component by component with O_NOFOLLOW. An entry is first opened with O_PATH,
which touches no driver, and only a plain file is then opened for bytes: a FIFO or device never hangs us.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Callable
from typing import TypeVar

from mover.errors import (
    EntryExists,
    EntryMissing,
    RequestInvalid,
    TierDenied,
    TierError,
    TierFull,
    TierUnavailable,
)

Parts = list[bytes]

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = 437
_BENEATH = 0x08 | 0x04 | 0x02  # RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_FICLONE = 0x40049409
_SYNC_WRITE = 2  # SYNC_FILE_RANGE_WRITE: start the disk, do not wait
_NO_SUCH_RENAME = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
MAX_KEY_BYTES = 4000
MAX_PART_BYTES = 255
STALE_TRIES = 4
_SILLY = re.compile(rb"\.nfs[0-9a-fA-F]{24}")

Result = TypeVar("Result")

_KINDS: dict[int, type[TierError]] = {
    errno.ENOENT: EntryMissing,
    errno.ENOTDIR: EntryMissing,
    errno.EEXIST: EntryExists,
    errno.ENOSPC: TierFull,
    errno.EDQUOT: TierFull,
    errno.EFBIG: TierFull,
    errno.EACCES: TierDenied,
    errno.EPERM: TierDenied,
    errno.EROFS: TierDenied,
    errno.ELOOP: TierDenied,
    errno.EXDEV: TierDenied,
    errno.ESTALE: TierUnavailable,
    errno.ENODEV: TierUnavailable,
    errno.ENXIO: TierUnavailable,
    errno.ENOTCONN: TierUnavailable,
    errno.ETIMEDOUT: TierUnavailable,
    errno.ECONNABORTED: TierUnavailable,
    errno.EHOSTDOWN: TierUnavailable,
}


def translated(error: OSError, what: str, *, tier: str) -> TierError:
    """Our word for an operating system's error. The path stays out: on identified tiers it is an identifier."""
    number = error.errno or 0
    kind = _KINDS.get(number, TierError)
    return kind(f"{what}: {errno.errorcode.get(number, 'error')}", where=tier)


def key_parts(key: str) -> Parts:
    """The parts of a key as the file system spells them; RequestInvalid for every way out of the root."""
    raw = os.fsencode(key)
    parts = raw.split(b"/")
    if b"\0" in raw:
        raise RequestInvalid("a key with a NUL character")
    if len(raw) > MAX_KEY_BYTES or any(len(part) > MAX_PART_BYTES for part in parts):
        raise RequestInvalid("a key or one of its parts is too long")
    if any(part in (b"", b".", b"..") for part in parts):
        raise RequestInvalid("a key that is empty, absolute or has an empty, '.' or '..' part")
    return parts


def reopening(call: Callable[[], Result]) -> Result:
    """A handle that went stale (ESTALE: what it named was removed or replaced on the server) is no answer about the
    name: everything is opened anew from the root and asked again, a few times. `call` opens all it uses itself."""
    for _ in range(STALE_TRIES - 1):
        try:
            return call()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return call()


def is_passing(name: bytes) -> bool:
    """An NFS client's name for a file that was removed while open ("silly rename"): 16 hex digits of the file's
    number, 8 of a counter. It goes when the last one closes it."""
    return name.startswith(b".nfs") and _SILLY.fullmatch(name) is not None


def open_root(root: str) -> int:
    return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_beneath(root: int, parts: Parts, flags: int) -> int:
    """An open descriptor of the path below `root`; OSError (ELOOP, EXDEV, ENOENT ...) otherwise."""
    if not parts:
        return os.open(".", flags | os.O_CLOEXEC, dir_fd=root)
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, 0, _BENEATH)
    while True:
        opened = int(_LIBC.syscall(_OPENAT2, root, b"/".join(parts), how, ctypes.c_size_t(len(how))))
        if opened >= 0:
            return opened
        number = ctypes.get_errno()
        if number in (errno.EINTR, errno.EAGAIN):
            continue
        if number in (errno.ENOSYS, errno.EPERM):  # EPERM: an old container's filter for unknown calls
            return walk_beneath(root, parts, flags)
        raise OSError(number, os.strerror(number))


def walk_beneath(root: int, parts: Parts, flags: int) -> int:
    """openat2's meaning with older calls: each component opened without following a link."""
    at = os.dup(root)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = deeper
        return os.open(parts[-1], flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def open_folder(root: int, parts: Parts) -> int:
    return open_beneath(root, parts, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def open_file(root: int, parts: Parts, flags: int = os.O_RDONLY, *, single_link: bool = False) -> int:
    """A descriptor of a plain file. Raises TierDenied for any other kind, OSError for the rest."""
    place = open_beneath(root, parts, os.O_PATH | os.O_NOFOLLOW)
    try:
        status = os.fstat(place)
        if not stat.S_ISREG(status.st_mode):
            raise TierDenied("the entry is not a plain file", hint="Links, pipes and devices are never followed.")
        if single_link and status.st_nlink != 1:
            raise TierDenied("the entry has further hard links", hint="Copy it; a second name may change it.")
        return os.open(f"/proc/self/fd/{place}", flags | os.O_NOCTTY | os.O_CLOEXEC)
    finally:
        os.close(place)


def stat_beneath(root: int, parts: Parts) -> os.stat_result:
    place = open_beneath(root, parts, os.O_PATH | os.O_NOFOLLOW)
    try:
        return os.fstat(place)
    finally:
        os.close(place)


def make_folders(root: int, parts: Parts, *, mode: int = 0o755) -> int:
    """Open the folder, making what is missing on the way. The caller syncs the names (see `sync_names`)."""
    for depth in range(1, len(parts) + 1):
        try:
            os.close(open_beneath(root, parts[:depth], os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW))
        except FileNotFoundError:
            parent = open_folder(root, parts[: depth - 1])
            try:
                os.mkdir(parts[depth - 1], mode, dir_fd=parent)
            except FileExistsError:
                pass  # another worker was faster
            finally:
                os.close(parent)
    return open_folder(root, parts)


def rename_noreplace(folder: int, source: bytes, target: bytes, *, seen: os.stat_result | None = None) -> None:
    """Rename within one folder; FileExistsError when the target is taken, then nothing changed.

    Where the file system has no such rename (NFS among others), a hard link does it: a crash between its two calls
    leaves the whole file under both names, and the temporary one is swept later.

    An error says little about a call that went over a network: the server may have done it and its answer was
    lost, and the repeated request then finds the name taken, by us. So the names are read again and the file they
    lead to decides. `seen` is the source's fstat; without it a rename whose answer was lost stays an error.
    """
    try:
        rename_noreplace_only(folder, source, target)
    except OSError as error:
        if error.errno not in _NO_SUCH_RENAME:
            if seen is None or not _leads_to(folder, target, seen):
                raise
            _drop_twin(folder, source, seen)
        else:
            link_noreplace(folder, source, target)


def link_noreplace(folder: int, source: bytes, target: bytes) -> None:
    """`rename_noreplace` by link and unlink, as every NFS can: what the names lead to afterwards decides."""
    try:
        os.link(source, target, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError:
        if not _linked(folder, source, target):
            raise
    with contextlib.suppress(OSError):  # it stands under its final name; what is left of the other one is swept
        os.unlink(source, dir_fd=folder)


def _linked(folder: int, source: bytes, target: bytes) -> bool:
    """Did a link happen whose call failed? Opening asks the server again where a stat may be answered from memory."""
    try:
        opened = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return False
    try:
        seen = os.fstat(opened)
    finally:
        os.close(opened)
    return seen.st_nlink > 1 and _leads_to(folder, target, seen)


def _leads_to(folder: int, name: bytes, seen: os.stat_result) -> bool:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (seen.st_dev, seen.st_ino)


def _drop_twin(folder: int, source: bytes, seen: os.stat_result) -> None:
    """After a rename that happened nothing stands at the old name; what still does is our own second link."""
    if _leads_to(folder, source, seen):
        with contextlib.suppress(OSError):  # swept later
            os.unlink(source, dir_fd=folder)


def rename_noreplace_only(folder: int, source: bytes, target: bytes) -> None:
    if _LIBC.renameat2(folder, source, folder, target, _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename_between(old: int, source: bytes, new: int, target: bytes) -> None:
    """The kernel's no-replace rename from one folder to another of the same file system."""
    if _LIBC.renameat2(old, source, new, target, _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def exchange(old: int, one: bytes, new: int, other: bytes) -> None:
    """Two names of one file system lead to each other's things, in one step: no moment without either."""
    if _LIBC.renameat2(old, one, new, other, _RENAME_EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def remove_tree(folder: int, name: bytes) -> None:
    """A folder of ours with all that is in it."""
    top = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        empty_tree(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=folder)


def empty_tree(top: int) -> None:
    """All that is in an open folder of ours goes. What lies deeper is first moved up, so that no depth of names, of
    which a key may have two thousand, takes descriptors or a recursion of that depth."""
    moved = 0
    while found := _entries(top):
        for one, is_folder in found:
            if not is_folder:
                os.unlink(one, dir_fd=top)
                continue
            moved = _lift(top, one, moved)
            os.rmdir(one, dir_fd=top)


def _lift(top: int, name: bytes, moved: int) -> int:
    """Empty a folder into the one above it; the number of the last name that was given."""
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for one, is_folder in _entries(inner):
            if not is_folder:
                os.unlink(one, dir_fd=inner)
                continue
            while True:
                moved += 1
                try:
                    os.rename(one, b".removing-%d" % moved, src_dir_fd=inner, dst_dir_fd=top)
                    break
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                        raise
    finally:
        os.close(inner)
    return moved


def _entries(folder: int) -> list[tuple[bytes, bool]]:
    with os.scandir(folder) as found:
        return [(os.fsencode(one.name), one.is_dir(follow_symlinks=False)) for one in found]


def reflink(source: int, target: int) -> None:
    fcntl.ioctl(target, _FICLONE, source)


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """A hint: the disk starts while we go on copying. Its failure is seen by the sync that follows."""
    _LIBC.sync_file_range(descriptor, ctypes.c_longlong(offset), ctypes.c_longlong(length), ctypes.c_uint(_SYNC_WRITE))


def open_direct(descriptor: int, flags: int) -> int:
    """A second descriptor of the same file past the cache, or -1 where the file system has no such thing."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return -1


def drop_cache(descriptor: int) -> None:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
