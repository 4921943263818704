"""A process that reads and seals for a snapshot: its socket, and the memory that both sides see."""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys

import msgspec

from mover.errors import ComputeError
from mover.repository.crypto import MasterKey
from mover.repository.small_child import LENGTH, receive

ANSWER_TIMEOUT_S = 600.0
END_S = 5.0

_BOOT = (
    "import sys, json; sys.path[:0] = json.loads(sys.argv[1]); from importlib import import_module;"
    "import_module('mover.repository.' + sys.argv[2]).serve(int(sys.argv[3]), int(sys.argv[4]))"
)
_GONE = "a process that seals small files is gone or does not answer"


class HelperProcess:
    """`module` is the one of this room whose `serve` it runs. One thread at a time."""

    def __init__(self, module: str, region_bytes: int, key: MasterKey) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(ANSWER_TIMEOUT_S)
        region_fd = os.memfd_create("small", os.MFD_CLOEXEC)
        try:
            os.ftruncate(region_fd, region_bytes)
            self._memory = mmap.mmap(region_fd, region_bytes)
            self.process = _started(module, theirs.fileno(), region_fd)
        except OSError as cause:
            self._channel.close()
            raise ComputeError("a process that seals small files could not be started") from cause
        finally:
            theirs.close()
            os.close(region_fd)
        self.region = memoryview(self._memory)
        secret = msgspec.msgpack.encode(key)  # over the socket: arguments and environment can be read by others
        self.send(LENGTH.pack(len(secret)) + secret, [])

    def send(self, message: bytes, fds: list[int]) -> None:
        try:
            sent = socket.send_fds(self._channel, [message], fds) if fds else 0
            self._channel.sendall(message[sent:])
        except OSError as cause:
            raise ComputeError(_GONE) from cause

    def answer(self) -> bytes:
        try:
            (length,) = LENGTH.unpack(receive(self._channel, LENGTH.size))
            return receive(self._channel, length)
        except (OSError, EOFError) as cause:
            raise ComputeError(_GONE) from cause

    def close(self) -> None:
        """End of file on the socket is the child's word to go."""
        self._channel.close()
        self.region.release()
        self._memory.close()
        try:
            self.process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _started(module: str, channel_fd: int, region_fd: int) -> subprocess.Popen[bytes]:
    paths = json.dumps([os.path.abspath(path or ".") for path in sys.path])
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, paths, module, str(channel_fd), str(region_fd)],
        pass_fds=(channel_fd, region_fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
    )
