"""Where a restore may go: a folder is opened once, judged by its descriptor, and used by it.

The daemon writes there with its own rights, which may be root's. So the rights of whoever asks are read off the
folders on the way: each must let the requester pass, the last must let the requester write, none may be a link.
Between the judgement and the write only the descriptor counts; a folder that is exchanged meanwhile changes
nothing. Access lists are not read: what only they would grant is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mover.errors import Denied, NotFound, RequestInvalid
from mover.repository.reading import Requester
from mover.repository.reading_child import THROUGH_FLAGS
from mover.repository.rights import SEARCH, WRITE, rights_of
from mover.tiers.zones import overlap


@contextmanager
def restore_place(
    to: str, *, requester: Requester | None, local: bool, roots: Sequence[str], forbidden: Sequence[Path]
) -> Iterator[Path]:
    """The target as a path through the open folder that will hold it. Denied where this requester may not make a
    folder, and in or around a `forbidden` place; RequestInvalid for a path that is no plain absolute one.

    root and the daemon's own user, whom the kernel names on the local socket (`local`), may name any place; others
    one below a declared root. A token's user is an API admin's word: it must not open root's whole machine. Without
    POSIX rights the folder must be the daemon's own: there is nobody else in whose name it could be written to.
    """
    pure = PurePosixPath(to)
    if not pure.is_absolute() or ".." in pure.parts or "\0" in to or not pure.name:
        raise RequestInvalid("the place to restore to is an absolute path without '..'", where=to)
    try:
        folder = _open(pure.parent, requester, local, roots)
    except FileNotFoundError as error:
        raise NotFound("the folder that should hold the restore's target does not exist", where=to) from error
    except OSError as error:
        raise Denied("a folder on the way to the restore's target is a link or not a folder", where=to) from error
    try:
        real = os.readlink(f"/proc/self/fd/{folder}")
        if any(overlap(Path(real) / pure.name, tier) for tier in forbidden):
            raise Denied("nothing is restored into an identified tier, an archive or a repository, nor around one")
        yield Path(f"/proc/self/fd/{folder}") / pure.name
    finally:
        os.close(folder)


def _open(parent: PurePosixPath, requester: Requester | None, local: bool, roots: Sequence[str]) -> int:
    if local and requester is not None and requester.uid in (0, os.geteuid()):
        return os.open(os.path.realpath(parent), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for root in roots:
        if parent.is_relative_to(root):
            return _descend(root, parent.relative_to(root).parts, requester)
    raise Denied(
        "restores go below a declared root of the protect policy", where=str(parent),
        hint="Name a folder below one of its `roots`, or ask with a token that acts for a user who may write there.",
    )  # fmt: skip


def _descend(root: str, parts: Sequence[str], requester: Requester | None) -> int:
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            _demand(folder, requester, SEARCH)
            inner = os.open(part, THROUGH_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        _demand(folder, requester, WRITE | SEARCH)
        return folder
    except BaseException:
        os.close(folder)
        raise


def _demand(folder: int, requester: Requester | None, rights: int) -> None:
    facts = os.fstat(folder)
    if requester is None:
        if rights & WRITE and facts.st_uid != os.geteuid():
            raise Denied(
                "without POSIX rights a restore goes into a folder of the daemon's own user only",
                hint="Use a token that carries posix_uid and posix_gid, or the local socket.",
            )
        return
    if rights_of(facts, requester) & rights != rights:
        raise Denied("the requester may not make a folder there", hint="Name a folder of your own.")
