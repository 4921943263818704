"""The child of `reading`: takes on a user and opens files in that user's name.

Standard library only, and started by file name in isolated mode, so that it is up in milliseconds and needs
nothing that the user could not read or could have planted. Called as

    python -I -S reading_child.py SOCKET_FD UID GID GROUP,GROUP,..

It answers one JSON message (SOCK_SEQPACKET) per request, and goes when the socket is closed.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import sys
from collections.abc import Callable

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# To pass through a folder takes the right to search it, not the right to list it.
THROUGH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO swapped in for a file must not hold us; regular files ignore it.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

# Below the kernel's default socket buffer (208 KiB); replies are cut before they reach it.
MAX_MESSAGE_BYTES = 160 << 10
REPLY_CUT_BYTES = 48 << 10


def open_regular(name: bytes, folder_fd: int) -> int:
    """A regular file's descriptor; anything else that stands there now is refused."""
    fd = os.open(name, FILE_FLAGS, dir_fd=folder_fd)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file")


def open_below(root: bytes, relative: bytes, through: Callable[[int], object] = lambda _: None) -> int:
    """A folder or regular file below `root`, each component opened without following links. `through` is asked about
    each folder on the way, the root first."""
    parts = [part for part in relative.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise OSError(errno.EINVAL, "a relative path may not climb")
    fd = os.open(root, (os.O_PATH if parts else os.O_RDONLY) | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        for depth, part in enumerate(parts):
            through(fd)
            flags = THROUGH_FLAGS if depth + 1 < len(parts) else FILE_FLAGS
            below = os.open(part, flags, dir_fd=fd)
            os.close(fd)
            fd = below
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise OSError(errno.EINVAL, "neither a folder nor a regular file")
    except OSError:
        os.close(fd)
        raise
    return fd


def row(name: bytes, folder_fd: int) -> list[int | str]:
    """lstat in nine numbers and a link's target; or [errno]."""
    try:
        facts = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        link = stat.S_ISLNK(facts.st_mode)
        target = os.readlink(name, dir_fd=folder_fd).decode("latin-1") if link else ""
    except OSError as failure:
        return [failure.errno or errno.EIO]
    return [
        facts.st_mode,
        facts.st_uid,
        facts.st_gid,
        facts.st_ino,
        facts.st_dev,
        facts.st_nlink,
        facts.st_size,
        facts.st_mtime_ns,
        facts.st_ctime_ns,
        target,
    ]


class Child:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._folders: dict[int, int] = {}

    def serve(self) -> None:
        while message := self._channel.recv(MAX_MESSAGE_BYTES):
            verb, *arguments = json.loads(message)
            try:
                getattr(self, "do_" + verb)(*arguments)
            except OSError as failure:
                self._say({"error": failure.errno or errno.EIO})

    def do_root(self, root: str, relative: str) -> None:
        fd = open_below(root.encode("latin-1"), relative.encode("latin-1"))
        self._give(fd)

    def do_enter(self, token: int, name: str) -> None:
        self._give(os.open(name.encode("latin-1"), FOLDER_FLAGS, dir_fd=self._folders[token]))

    def do_names(self, token: int) -> None:
        names = [os.fsencode(name).decode("latin-1") for name in os.listdir(self._folders[token])]
        self._in_parts("names", names)

    def do_look(self, token: int, names: list[str]) -> None:
        fd = self._folders[token]
        self._in_parts("found", [row(name.encode("latin-1"), fd) for name in names])

    def do_open(self, token: int, names: list[str]) -> None:
        codes, fds = [], []
        for name in names:
            try:
                fds.append(open_regular(name.encode("latin-1"), self._folders[token]))
                codes.append(0)
            except OSError as failure:
                codes.append(failure.errno or errno.EIO)
        self._say({"opened": codes}, fds)
        for fd in fds:
            os.close(fd)

    def do_leave(self, token: int) -> None:
        os.close(self._folders.pop(token))
        self._say({})

    def _give(self, fd: int) -> None:
        """Hand over a descriptor; folders stay open here too, for the names below them."""
        folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        self._say({"token": fd if folder else -1}, [fd])
        if folder:
            self._folders[fd] = fd
        else:
            os.close(fd)

    def _in_parts(self, field: str, items: list[str] | list[list[int | str]]) -> None:
        """As many messages as it takes; all but the last say `more`."""
        part: list[object] = []
        size = 0
        for item in items:
            size += len(json.dumps(item))
            if size > REPLY_CUT_BYTES and part:
                self._say({field: part, "more": True})
                part, size = [], len(json.dumps(item))
            part.append(item)
        self._say({field: part})

    def _say(self, reply: dict[str, object], fds: list[int] | None = None) -> None:
        socket.send_fds(self._channel, [json.dumps(reply).encode()], fds or [])


def become(uid: int, gid: int, groups: list[int]) -> None:
    """For good: real, effective and saved ids and all capabilities, then proof that the way back is closed."""
    if os.geteuid() != 0:
        import ctypes  # noqa: F401  # while we may: the user need not be able to read our libraries
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    give_up_capabilities()
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid):
        sys.exit(70)
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return
    sys.exit(70)


def give_up_capabilities() -> None:
    """The kernel takes them from who was root. Who held a few of them as another user keeps them through setuid(2), and
    could read everything under whatever name. Ambient ones go with the inheritable, capabilities(7)."""
    if any(_capabilities()):
        import ctypes

        header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)
        ctypes.CDLL(None).capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
    if any(_capabilities()):
        sys.exit(70)


def _capabilities() -> list[int]:
    """Inheritable, permitted, effective and ambient."""
    with open("/proc/self/status", "rb") as status:  # as bytes: codecs are modules, which we may not read any more
        words = dict(line.split(b":", 1) for line in status)
    return [int(words[name], 16) for name in (b"CapInh", b"CapPrm", b"CapEff", b"CapAmb")]


def main() -> None:
    channel_fd, uid, gid, groups = sys.argv[1:5]
    become(int(uid), int(gid), [int(group) for group in groups.split(",") if group])
    with socket.socket(fileno=int(channel_fd)) as channel:
        Child(channel).serve()


if __name__ == "__main__":
    main()
