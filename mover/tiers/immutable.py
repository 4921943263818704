"""The immutable attribute of a file (`chattr +i`), set by one process and taken off by none of ours.

Setting it and taking it off need one and the same capability, CAP_LINUX_IMMUTABLE. So the daemon starts a small
process, the sealer, which can do one thing: make a descriptor it is handed immutable. Then the daemon gives the
capability up for itself and for whatever it starts, for ever. Who takes over the daemon's process can have further
files made immutable, and can neither remove, change nor free those that are.

What this protects from: the daemon's own stolen identity, other users, jobs, a wrong command. Not from root on this
machine, nor from who writes to the disk below the file system. Folders can still be renamed: nothing in them is lost.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from mover.errors import MoverError, SettingsInvalid, TierDenied, TierError

GETFLAGS, SETFLAGS, IMMUTABLE = 0x8008_6601, 0x4008_6602, 0x10
CAP_LINUX_IMMUTABLE = 9
PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, PR_SET_DUMPABLE = 24, 47, 3, 4
CAPABILITY_VERSION_3 = 0x2008_0522
ANSWER_S = 30.0
ANSWER_BYTES = 4

_LIBC = ctypes.CDLL(None, use_errno=True)
_BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from mover.tiers.immutable import serve; serve(0)"


def flags_of(descriptor: int) -> int:
    """Attributes of an open file; OSError (ENOTTY, EOPNOTSUPP) where the file system has none."""
    return int(struct.unpack("=l", fcntl.ioctl(descriptor, GETFLAGS, struct.pack("=l", 0)))[0])


def is_immutable(descriptor: int) -> bool:
    try:
        return bool(flags_of(descriptor) & IMMUTABLE)
    except OSError:
        return False


def set_immutable(descriptor: int, *, on: bool = True) -> None:
    """OSError EPERM without the capability."""
    flags = flags_of(descriptor)
    wanted = flags | IMMUTABLE if on else flags & ~IMMUTABLE
    fcntl.ioctl(descriptor, SETFLAGS, struct.pack("=l", wanted))


# --- the sealer -------------------------------------------------------------------------------------------


class Sealer:
    """The daemon's end. Made before the daemon has threads: capabilities belong to threads."""

    def __init__(self, process: subprocess.Popen[bytes], end: socket.socket) -> None:
        self._process, self._end = process, end
        self._turn = threading.Lock()

    @classmethod
    def start(cls) -> Sealer:
        """Raises SettingsInvalid where this process may not set the attribute at all."""
        if not has_capability():
            raise SettingsInvalid(
                "append_only: chattr needs the capability CAP_LINUX_IMMUTABLE at the start",
                hint="Add it to AmbientCapabilities= and CapabilityBoundingSet= of the unit (docs/protection.md), or "
                "use a bucket with object lock.",
            )  # fmt: skip
        import json

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            paths = json.dumps([os.path.abspath(path or ".") for path in sys.path])
            process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, paths], stdin=theirs.fileno(), stdout=subprocess.DEVNULL, cwd="/", env={},
                start_new_session=True,
            )  # fmt: skip
        ours.settimeout(ANSWER_S)
        return cls(process, ours)

    def __call__(self, descriptor: int) -> None:
        """Make it immutable. TierDenied where the file system has no such attribute; TierError when the sealer is
        gone: then nothing more is called kept."""
        with self._turn:
            try:
                socket.send_fds(self._end, [b"+"], [descriptor])
                answer = self._end.recv(ANSWER_BYTES)
            except OSError as error:
                raise TierError("the process that makes files immutable does not answer") from error
        number = struct.unpack("=i", answer)[0] if len(answer) == ANSWER_BYTES else errno.EPIPE
        if number:
            raise TierDenied(
                f"the file cannot be made immutable ({errno.errorcode.get(number, 'error')})",
                hint="Use a file system with the attribute (ext4, xfs, btrfs), or a bucket with object lock.",
            )

    def close(self) -> None:
        self._end.close()
        self._process.wait()


def serve(channel: int) -> None:
    """The sealer's whole life: until the daemon's end is closed."""
    _LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    with socket.socket(fileno=channel) as end:
        while True:
            word, sent, _, _ = end.recvmsg(1, socket.CMSG_SPACE(4))
            if not word:
                return
            end.send(struct.pack("=i", _sealed(sent)))


def _sealed(sent: list[tuple[int, int, bytes]]) -> int:
    """0, or the number of the error."""
    descriptors = array.array("i")
    for level, kind, data in sent:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    try:
        for descriptor in descriptors:
            set_immutable(descriptor)
    except OSError as error:
        return error.errno or errno.EIO
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return 0 if descriptors else errno.EBADF


# --- capabilities -----------------------------------------------------------------------------------------


def has_capability() -> bool:
    effective, _, _ = _capabilities()
    return bool(effective >> CAP_LINUX_IMMUTABLE & 1)


def give_up() -> None:
    """This thread, those it starts and every program they start are without the capability from here on. Raises
    MoverError when one of them could still get it back."""
    # the bounding set first: it may need another capability, and a refusal leaves all as it was
    if _LIBC.prctl(PR_CAPBSET_DROP, CAP_LINUX_IMMUTABLE, 0, 0, 0) != 0 and os.geteuid() == 0:
        raise MoverError("the capability CAP_LINUX_IMMUTABLE cannot be given up for programs that are started")
    _LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_LOWER, CAP_LINUX_IMMUTABLE, 0, 0)
    bit = ~(1 << CAP_LINUX_IMMUTABLE)
    effective, permitted, inheritable = (one & bit for one in _capabilities())
    _set_capabilities(effective, permitted, inheritable)
    if has_capability():
        raise MoverError("the capability CAP_LINUX_IMMUTABLE is still there")


def _capabilities() -> tuple[int, int, int]:
    """Effective, permitted, inheritable of this thread."""
    data = (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if _LIBC.capget(ctypes.byref(header), ctypes.byref(data)) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    low, high = data[0:3], data[3:6]
    return low[0] | high[0] << 32, low[1] | high[1] << 32, low[2] | high[2] << 32


def _set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    words = [one & 0xFFFF_FFFF for one in (effective, permitted, inheritable)]
    words += [one >> 32 for one in (effective, permitted, inheritable)]
    data = (ctypes.c_uint32 * 6)(*words)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    if _LIBC.capset(ctypes.byref(header), ctypes.byref(data)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


# --- what a folder can do -----------------------------------------------------------------------------------


def takes_attribute(folder: Path) -> bool:
    """Whether files of this file system have attributes at all; whether they can be set shows the first probe."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags_of(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
