"""What this process may do, and what somebody else might: capabilities(7), and modes and access lists as the kernel
reads them.

A service's user may hold a few of root's rights (the unit gives `mover` three), and root in a container may lack most.
So nothing here asks who we are; it asks what we can.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

from msgspec import Struct

READ, WRITE, SEARCH = 4, 2, 1

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_SETGID, CAP_SETUID = 1, 2, 6, 7

_ACL = "system.posix_acl_access"
_ACL_HEADER, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x02, 0x04, 0x08, 0x10, 0x20


class Requester(Struct, frozen=True):
    """In whose name is read. `groups` are the supplementary groups the requester really has."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def can_become_others() -> bool:
    """May this thread start a child that takes on another user and that user's groups?"""
    return _holds(CAP_SETUID) and _holds(CAP_SETGID)


def reads_past_modes() -> bool:
    """Does the kernel let this thread read what its user may not?"""
    return _holds(CAP_DAC_OVERRIDE) or _holds(CAP_DAC_READ_SEARCH)


def _holds(capability: int) -> bool:
    """Capabilities belong to threads; those of a thread are its starter's."""
    with open("/proc/thread-self/status", "rb") as status:
        effective = next(line for line in status if line.startswith(b"CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


def rights_of(facts: os.stat_result, requester: Requester) -> int:
    """rwx of this requester as the kernel reads a mode: the first class that fits counts, path_resolution(7)."""
    if requester.uid == 0:
        return READ | WRITE | SEARCH
    if requester.uid == facts.st_uid:
        return facts.st_mode >> 6 & 7
    if facts.st_gid in (requester.gid, *requester.groups):
        return facts.st_mode >> 3 & 7
    return facts.st_mode & 7


def permits(descriptor: int, requester: Requester, wanted: int) -> bool:
    """Would the kernel let this requester do all that is `wanted` with the open file or folder? Its access list counts
    where it has one: the mode's middle digit is then the list's mask and says of no group what it may. (With an empty
    mask Linux looks at the mode alone.)"""
    facts = os.fstat(descriptor)
    listed = requester.uid not in (0, facts.st_uid) and facts.st_mode & 0o070
    if listed and (entries := list(_access_list(descriptor))):
        return _listed(entries, facts, requester, wanted)
    return rights_of(facts, requester) & wanted == wanted


def _listed(entries: list[tuple[int, int, int]], facts: os.stat_result, requester: Requester, wanted: int) -> bool:
    """acl(5), access check algorithm: of who is no owner. Of several groups one must grant all that is wanted."""
    mask = next((rights for tag, rights, _ in entries if tag == _MASK), 7)
    groups = {requester.gid, *requester.groups}
    named = [rights for tag, rights, who in entries if tag == _USER and who == requester.uid]
    if not named:
        named = [rights for tag, rights, who in entries
                 if (tag == _GROUP and who in groups) or (tag == _GROUP_OBJ and facts.st_gid in groups)]  # fmt: skip
    if named:
        return any(rights & mask & wanted == wanted for rights in named)
    return any(rights & wanted == wanted for tag, rights, _ in entries if tag == _OTHER)


def _access_list(descriptor: int) -> Iterator[tuple[int, int, int]]:
    """(tag, rights, who) each; nothing where there is no list. By the descriptor's name in /proc, so that one opened
    with O_PATH has its list, too."""
    try:
        raw = os.getxattr(f"/proc/self/fd/{descriptor}", _ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return
        raise
    yield from _ACL_ENTRY.iter_unpack(raw[_ACL_HEADER.size :])
