"""What of an entry's metadata travels, and in which order it is put on.

Owner first, because a change of owner takes set-uid bits and capabilities away; then mode, extended attributes and
ACLs, which may change the mode's group bits; times last, because everything before moves them. All of it happens
on the temporary name, before its sync: an entry never stands under its final name without what belongs to it.

Set-uid and set-gid bits and file capabilities travel with the owner only: on another owner's file they are a hole.
`xattrs` means the `user.` names; `trusted.` and `security.` belong to the system that holds the file (capabilities,
with the owner, are the exception). What cannot be set is said (MetadataUnsupported), never left out in silence.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from mover.errors import MetadataUnsupported
from mover.model.moving import Keep

FILE_MODE, FOLDER_MODE = 0o644, 0o755
# file systems round times, the coarsest in use to 2 s; more than that is another time
MTIME_ROUNDED_NS = 2_000_000_000

_CAPABILITIES = "security.capability"
_ACLS = ("system.posix_acl_access", "system.posix_acl_default", "system.nfs4_acl")
_NONE = (errno.ENODATA, errno.EOPNOTSUPP)


def mode_of(seen: os.stat_result, keep: Keep) -> int:
    """The mode that the entry will have. Sticky bits of folders travel with the mode."""
    if not keep.mode:
        return FOLDER_MODE if stat.S_ISDIR(seen.st_mode) else FILE_MODE
    return seen.st_mode & (0o7777 if keep.owner else 0o1777)


def dress(source: int, target: int, seen: os.stat_result, keep: Keep) -> os.stat_result:
    """Put on an open file or folder all that `keep` says; its status afterwards. `seen` is the source's status."""
    if keep.owner:
        _try(lambda: os.fchown(target, seen.st_uid, seen.st_gid), "its owner cannot be set")
    mode = mode_of(seen, keep)
    if stat.S_IMODE(os.fstat(target).st_mode) != mode:
        _try(lambda: os.fchmod(target, mode), "its mode cannot be set")
    if keep.xattrs:
        _try(lambda: _copy_xattrs(source, target, keep), "its extended attributes cannot be carried")
    if keep.acls:
        _try(lambda: _copy_acls(source, target), "its access list cannot be carried")
    if keep.mtime:
        _try(lambda: os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns)), "its time cannot be set")
    now = os.fstat(target)
    refuse_other(now, seen, keep, mode=mode)
    return now


def refuse_other(now: os.stat_result, seen: os.stat_result, keep: Keep, *, mode: int) -> None:
    """Some file systems take a mode, an owner or a time and forget it: what they answer afterwards counts."""
    if stat.S_IMODE(now.st_mode) != mode and not keep.acls:  # an ACL's mask stands in the group bits
        raise MetadataUnsupported("the target does not hold the mode")
    if keep.owner and (now.st_uid, now.st_gid) != (seen.st_uid, seen.st_gid):
        raise MetadataUnsupported("the target does not hold the owner")
    if keep.mtime and abs(now.st_mtime_ns - seen.st_mtime_ns) >= MTIME_ROUNDED_NS:
        raise MetadataUnsupported("the target does not hold the time")


def dress_link(name: bytes, seen: os.stat_result, keep: Keep, *, folder: int) -> None:
    """A symlink has an owner and a time; its mode means nothing and it holds no attributes of users."""
    if keep.owner:
        _try(
            lambda: os.chown(name, seen.st_uid, seen.st_gid, dir_fd=folder, follow_symlinks=False),
            "its owner cannot be set",
        )
    if keep.mtime:
        times = (seen.st_atime_ns, seen.st_mtime_ns)
        _try(lambda: os.utime(name, ns=times, dir_fd=folder, follow_symlinks=False), "its time cannot be set")


def dress_time(target: int, mtime_ns: int) -> None:
    """What comes from an object tier has no more than a time."""
    _try(lambda: os.utime(target, ns=(mtime_ns, mtime_ns)), "its time cannot be set")


def is_dressed(now: os.stat_result, seen: os.stat_result, keep: Keep) -> bool:
    """Whether mode, owner and time are as they should be already (attributes and ACLs are not looked at)."""
    try:
        refuse_other(now, seen, keep, mode=mode_of(seen, keep))
    except MetadataUnsupported:
        return False
    return True


def _copy_xattrs(source: int, target: int, keep: Keep) -> None:
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno in _NONE:
            return  # the source's file system has none to carry
        raise
    for name in names:
        if name.startswith("user.") or (keep.owner and name == _CAPABILITIES):
            os.setxattr(target, name, os.getxattr(source, name))


def _copy_acls(source: int, target: int) -> None:
    """Also the absence of one: a file made in a folder with a default ACL inherits what its source never had."""
    for name in _ACLS:
        value = _xattr(source, name)
        if value is not None:
            os.setxattr(target, name, value)
        elif _xattr(target, name) is not None:
            os.removexattr(target, name)


def _xattr(descriptor: int, name: str) -> bytes | None:
    try:
        return os.getxattr(descriptor, name)
    except OSError as error:
        if error.errno in _NONE:
            return None
        raise


def _try(call: Callable[[], None], what: str) -> None:
    try:
        call()
    except OSError as error:
        raise MetadataUnsupported(f"{what}: {errno.errorcode.get(error.errno or 0, 'error')}") from error
