"""Looks at data that claims to be clean, through the sandbox: the front of `adopted`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from mover.decide.adoption import CleanLook
from mover.deid.dicom import READ_BY_ONE, by_children
from mover.deid.identity import Refused
from mover.errors import IdentityError, IntegrityError, LimitExceeded
from mover.sandbox import Sandbox, read_answer

LOOK_S: Final = 600.0


def look_at_slide(sandbox: Sandbox, fd: int, *, suffix: str) -> CleanLook:
    return _look(sandbox, "mover.deid.adopted:slide", (suffix,), (fd,))


def look_at_folder(
    sandbox: Sandbox, fds: Sequence[int], *, names: Sequence[str], suffix: str, number: str
) -> CleanLook:
    """A slide of several files, the main one first; `names` are those of the others from the main file's folder on."""
    return _look(sandbox, "mover.deid.adopted:folder", (list(names), suffix, number), fds)


def look_at_objects(sandbox: Sandbox, fds: Sequence[int]) -> list[CleanLook]:
    """DICOM objects, each by itself; a child that dies takes the guilty one with it only."""
    found = by_children(fds, READ_BY_ONE, lambda part: _objects(sandbox, part))
    return [CleanLook("DICOM", code=one.code, what=one.what) if isinstance(one, Refused) else one for one in found]


def _objects(sandbox: Sandbox, fds: Sequence[int]) -> list[CleanLook | Refused]:
    answer = sandbox.run("mover.deid.adopted:objects", (), tuple(fds), timeout_s=LOOK_S)
    return list(read_answer(answer, list[CleanLook]))


def _look(sandbox: Sandbox, what: str, args: tuple[object, ...], fds: Sequence[int]) -> CleanLook:
    try:
        return read_answer(sandbox.run(what, args, tuple(fds), timeout_s=LOOK_S), CleanLook)
    except (IdentityError, IntegrityError, LimitExceeded) as refusal:
        return CleanLook("", code=refusal.code, what=refusal.what)


def attributes_of(fd: int) -> tuple[str, ...]:
    """Names of what hangs on a file besides its bytes; what the system keeps there for itself is nobody's."""
    return tuple(sorted(name for name in os.listxattr(fd) if name.startswith("user.")))
