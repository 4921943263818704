"""Reading files and folders with the rights of the person who asked.

The daemon may read everything; whoever asks to protect a path may not. So each folder and file of a tree is
opened by a child process that has taken on the requester's user and groups for good, and comes back as an
open descriptor over a Unix socket. No path is ever opened twice and none but a root's own is opened by more
than one component: each step is openat(folder, name, O_NOFOLLOW), so that a symlink swapped in leads nowhere.

Without the right to take on other users (CAP_SETUID, CAP_SETGID) that child cannot be. Then a run's own out/, which
the daemon gave away itself, is read by a `JudgedReader`: opened with our rights, and handed on only where those of the
requester, read off the very thing that was opened, would have opened it too.

`Reader` is used by one thread at a time (the walker); the descriptors it returns may go to any thread.
"""

from __future__ import annotations

import errno
import os
import socket
import stat as stat_bits
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import msgspec
from msgspec import Struct

from mover.errors import ComputeError, Denied
from mover.repository import reading_child
from mover.repository.reading_child import FOLDER_FLAGS
from mover.repository.rights import READ, SEARCH, Requester, can_become_others, permits, reads_past_modes

__all__ = [
    "BATCH", "ChildReader", "DirectReader", "FolderHandle", "Found", "JudgedReader", "Reader", "Requester", "found_of",
    "open_reader",
]  # fmt: skip

# Names looked at, and files opened, in one exchange with the child.
BATCH = 64
# A child that says nothing for so long reads from a tier that hangs.
CHILD_TIMEOUT_S = 600.0

Kind = Literal["file", "folder", "symlink", "other"]


class Found(Struct, frozen=True):
    """One name of a folder as lstat saw it; `error` is an errno when it could not even be looked at."""

    name: bytes
    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    inode: int = 0
    device_id: int = 0
    links: int = 0
    size_bytes: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    target: bytes = b""
    error: int = 0


class FolderHandle(Struct, frozen=True):
    """An open folder. `token` means something to the reader that made it only."""

    token: int
    facts: Found
    xattr_fd: int  # a descriptor for fstat and xattrs; owned by the handle


class Reader(Protocol):
    """Failures on single entries are OSError with the errno the requester would have seen."""

    def open_root(self, root: Path, relative: str) -> FolderHandle | int:
        """A folder's handle or a file's descriptor. `root` is the administrator's word and opened by path;
        every component of `relative` is opened without following links."""

    def enter(self, folder: FolderHandle, name: bytes) -> FolderHandle: ...

    def names(self, folder: FolderHandle) -> list[bytes]: ...

    def look(self, folder: FolderHandle, names: Sequence[bytes]) -> list[Found]: ...

    def open_files(self, folder: FolderHandle, names: Sequence[bytes]) -> list[int | OSError]:
        """Descriptors of regular files; the caller closes them."""

    def leave(self, folder: FolderHandle) -> None: ...

    def close(self) -> None: ...


def open_reader(requester: Requester | None, *, root: Path, judged: bool = False) -> Reader:
    """The reader for this requester. Denied, naming the root, when the daemon can neither take on the requester's
    rights nor, where that may stand for them (`judged`), read them off what it opens: reading with its own instead is
    what must never happen."""
    if requester is None or requester.uid == os.geteuid() == 0:
        return DirectReader()
    myself = _is_myself(requester)
    if myself and not reads_past_modes():
        return DirectReader()
    if requester.uid != 0 and can_become_others():
        return ChildReader(requester, root=root)
    if judged or myself:
        return JudgedReader(requester)
    raise Denied(
        f"reading below {root} in the name of user {requester.uid} needs a daemon that may become that user",
        hint="Give the daemon CAP_SETUID and CAP_SETGID (systemd/mover.service says how), or ask in the name of its "
        "own user.",
    )


def _is_myself(requester: Requester) -> bool:
    """The daemon's own user, in a group that the daemon really is in: a login would give the same rights."""
    return requester.uid == os.geteuid() and requester.gid in {os.getegid(), *os.getgroups()}


def found_of(name: bytes, facts: os.stat_result, target: bytes = b"") -> Found:
    return Found(
        name=name,
        kind=_kind(facts.st_mode),
        mode=stat_bits.S_IMODE(facts.st_mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
        inode=facts.st_ino,
        device_id=facts.st_dev,
        links=facts.st_nlink,
        size_bytes=facts.st_size,
        mtime_ns=facts.st_mtime_ns,
        ctime_ns=facts.st_ctime_ns,
        target=target,
    )


def _kind(mode: int) -> Kind:
    if stat_bits.S_ISREG(mode):
        return "file"
    if stat_bits.S_ISDIR(mode):
        return "folder"
    return "symlink" if stat_bits.S_ISLNK(mode) else "other"


class DirectReader:
    """The daemon's own rights; tokens are descriptors."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def open_root(self, root: Path, relative: str) -> FolderHandle | int:
        fd = reading_child.open_below(os.fsencode(root), os.fsencode(relative))
        if stat_bits.S_ISDIR(os.fstat(fd).st_mode):
            return self.keep(fd, b"")
        return fd

    def enter(self, folder: FolderHandle, name: bytes) -> FolderHandle:
        return self.keep(os.open(name, FOLDER_FLAGS, dir_fd=folder.token), name)

    def names(self, folder: FolderHandle) -> list[bytes]:
        return sorted(os.fsencode(name) for name in os.listdir(folder.token))

    def names_by_kind(self, folder: FolderHandle) -> tuple[list[bytes], list[bytes]]:
        """What the folder's own listing calls regular files, and all other names."""
        plain: list[bytes] = []
        others: list[bytes] = []
        with os.scandir(folder.token) as entries:
            for entry in entries:
                (plain if _is_plain(entry) else others).append(os.fsencode(entry.name))
        return sorted(plain), sorted(others)

    def look(self, folder: FolderHandle, names: Sequence[bytes]) -> list[Found]:
        return [self._look(folder.token, name) for name in names]

    def open_files(self, folder: FolderHandle, names: Sequence[bytes]) -> list[int | OSError]:
        opened: list[int | OSError] = []
        for name in names:
            try:
                opened.append(reading_child.open_regular(name, folder.token))
            except OSError as failure:
                opened.append(failure)
        return opened

    def leave(self, folder: FolderHandle) -> None:
        self._open.discard(folder.token)
        os.close(folder.token)

    def close(self) -> None:
        """Folders of a walk that was broken off are closed here."""
        while self._open:
            os.close(self._open.pop())

    def keep(self, fd: int, name: bytes) -> FolderHandle:
        self._open.add(fd)
        return FolderHandle(fd, found_of(name, os.fstat(fd)), fd)

    def _look(self, fd: int, name: bytes) -> Found:
        try:
            facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
            link = stat_bits.S_ISLNK(facts.st_mode)
            return found_of(name, facts, os.readlink(name, dir_fd=fd) if link else b"")
        except OSError as failure:
            return Found(name=name, kind="other", error=failure.errno or errno.EIO)


def _is_plain(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file(follow_symlinks=False)
    except OSError:  # a file system whose listing knows no kinds, and nothing to look at any more
        return False


class JudgedReader:
    """Everything is opened with the daemon's own rights, and closed again where the requester's would not have opened
    it. Each folder and file is judged by its descriptor, so that what is judged is what is read."""

    def __init__(self, requester: Requester) -> None:
        self._requester, self._direct = requester, DirectReader()

    def open_root(self, root: Path, relative: str) -> FolderHandle | int:
        fd = reading_child.open_below(os.fsencode(root), os.fsencode(relative), through=self._may_search)
        self._demand(fd)
        return self._direct.keep(fd, b"") if stat_bits.S_ISDIR(os.fstat(fd).st_mode) else fd

    def enter(self, folder: FolderHandle, name: bytes) -> FolderHandle:
        self._may_search(folder.token)
        fd = os.open(name, FOLDER_FLAGS, dir_fd=folder.token)
        self._demand(fd)
        return self._direct.keep(fd, name)

    def names(self, folder: FolderHandle) -> list[bytes]:
        return self._direct.names(folder)

    def look(self, folder: FolderHandle, names: Sequence[bytes]) -> list[Found]:
        if not permits(folder.token, self._requester, SEARCH):
            return [Found(name=name, kind="other", error=errno.EACCES) for name in names]
        return self._direct.look(folder, names)

    def open_files(self, folder: FolderHandle, names: Sequence[bytes]) -> list[int | OSError]:
        if not permits(folder.token, self._requester, SEARCH):
            return [_no_access() for _ in names]
        return [self._judged(opened) for opened in self._direct.open_files(folder, names)]

    def leave(self, folder: FolderHandle) -> None:
        self._direct.leave(folder)

    def close(self) -> None:
        self._direct.close()

    def _judged(self, opened: int | OSError) -> int | OSError:
        try:
            if not isinstance(opened, OSError):
                self._demand(opened)
        except OSError as refused:
            return refused
        return opened

    def _demand(self, fd: int) -> None:
        """The right to read it; without it, it is closed."""
        try:
            if not permits(fd, self._requester, READ):
                raise _no_access()
        except OSError:
            os.close(fd)
            raise

    def _may_search(self, folder_fd: int) -> None:
        if not permits(folder_fd, self._requester, SEARCH):
            raise _no_access()


def _no_access() -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES))


class _Reply(Struct):
    """What the child answers; see reading_child. It runs as somebody else: its words are typed data."""

    error: int = 0
    token: int = -1
    names: list[str] = []
    found: list[list[int | str]] = []
    opened: list[int] = []
    more: bool = False


class ChildReader:
    """Everything below `root` is opened by a child that holds the requester's rights and none of ours. The root
    itself is the administrator's word: the way to it may be closed to the requester on this node, whose jobs run on
    others."""

    def __init__(self, requester: Requester, *, root: Path) -> None:
        try:
            self._root_fd = os.open(root, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            self._root_fd = -1  # told when the root is opened, as the requester would see it
        self._root = root
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(CHILD_TIMEOUT_S)
        words = [str(requester.uid), str(requester.gid), ",".join(str(group) for group in requester.groups)]
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", reading_child.__file__, str(theirs.fileno()), *words],
                pass_fds=[theirs.fileno(), *([self._root_fd] if self._root_fd >= 0 else [])],
                cwd="/",
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._socket = ours
        self._decoder = msgspec.json.Decoder(_Reply)
        self._open: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open_root(self, root: Path, relative: str) -> FolderHandle | int:
        known = f"/proc/self/fd/{self._root_fd}" if root == self._root and self._root_fd >= 0 else root
        reply, fds = self._ask("root", _text(os.fsencode(known)), _text(os.fsencode(relative)))
        if stat_bits.S_ISDIR(os.fstat(fds[0]).st_mode):
            return self._keep(reply.token, fds[0], b"")
        return fds[0]

    def enter(self, folder: FolderHandle, name: bytes) -> FolderHandle:
        reply, fds = self._ask("enter", folder.token, _text(name))
        return self._keep(reply.token, fds[0], name)

    def names(self, folder: FolderHandle) -> list[bytes]:
        reply, _ = self._ask("names", folder.token)
        found = [_bytes(name) for name in reply.names]
        while reply.more:
            reply, _ = self._answer()
            found += [_bytes(name) for name in reply.names]
        return sorted(found)

    def look(self, folder: FolderHandle, names: Sequence[bytes]) -> list[Found]:
        reply, _ = self._ask("look", folder.token, [_text(name) for name in names])
        rows = reply.found
        while reply.more:
            reply, _ = self._answer()
            rows += reply.found
        return [_found_of_row(name, row) for name, row in zip(names, rows, strict=True)]

    def open_files(self, folder: FolderHandle, names: Sequence[bytes]) -> list[int | OSError]:
        reply, fds = self._ask("open", folder.token, [_text(name) for name in names])
        given = iter(fds)
        return [OSError(code, os.strerror(code)) if code else next(given) for code in reply.opened]

    def leave(self, folder: FolderHandle) -> None:
        self._open.discard(folder.xattr_fd)
        os.close(folder.xattr_fd)
        self._ask("leave", folder.token)

    def close(self) -> None:
        """End of file on the socket is the child's word to go."""
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1
        while self._open:
            os.close(self._open.pop())
        self._socket.close()
        try:
            self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _keep(self, token: int, fd: int, name: bytes) -> FolderHandle:
        self._open.add(fd)
        return FolderHandle(token, found_of(name, os.fstat(fd)), fd)

    def _ask(self, verb: str, *arguments: object) -> tuple[_Reply, list[int]]:
        try:
            self._socket.send(msgspec.json.encode([verb, *arguments]))
        except OSError as cause:
            raise ComputeError("the child that reads in the requester's name is gone") from cause
        return self._answer()

    def _answer(self) -> tuple[_Reply, list[int]]:
        try:
            message, fds, _, _ = socket.recv_fds(
                self._socket, reading_child.MAX_MESSAGE_BYTES, BATCH, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as cause:
            raise ComputeError("the child that reads in the requester's name does not answer") from cause
        if not message:
            raise ComputeError("the child that reads in the requester's name ended")
        reply = self._decoder.decode(message)
        if reply.error:
            raise OSError(reply.error, os.strerror(reply.error))
        return reply, fds


def _found_of_row(name: bytes, row: list[int | str]) -> Found:
    """Rows are [errno] or the nine numbers of reading_child.row and the link's target."""
    numbers = [int(value) for value in row[:9]]
    if len(row) == 1:
        return Found(name=name, kind="other", error=numbers[0])
    mode, uid, gid, inode, device_id, links, size_bytes, mtime_ns, ctime_ns = numbers
    return Found(
        name=name,
        kind=_kind(mode),
        mode=stat_bits.S_IMODE(mode),
        uid=uid,
        gid=gid,
        inode=inode,
        device_id=device_id,
        links=links,
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        ctime_ns=ctime_ns,
        target=_bytes(str(row[9])),
    )


def _text(raw: bytes) -> str:
    """Any bytes as JSON text: one code point per byte."""
    return raw.decode("latin-1")


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")
