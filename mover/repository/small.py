"""Small files by the batch, in processes of their own.

A small file costs more in the interpreter than in ciphers and digests, and an interpreter is one core. So from
HELP_FROM_FILES on, open descriptors go to helpers (`small_child`), which read, digest, compress and seal as this
process would; sealed blobs come back in memory that both see, facts over the socket. What is known already is decided
here: only blobs that are new go into a pack. A helper that dies ends the snapshot, as a thread that fails does.

Bounds: HELPERS processes, one batch (writer.BATCH files) each, REGION_BYTES of shared memory each.
"""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
import threading
from queue import SimpleQueue

import msgspec

from mover.errors import ComputeError
from mover.repository.blobs import BlobWriter
from mover.repository.crypto import MasterKey
from mover.repository.cutting import READERS, FileReader, Stored, Tally
from mover.repository.small_child import COUNT, LARGE, LENGTH, REGION_BYTES, Sealed, receive

# Starting a helper costs as much as this many files.
HELP_FROM_FILES = 4000
HELPERS = READERS  # each is asked by one reading thread at a time
ANSWER_TIMEOUT_S = 600.0
END_S = 5.0

_BOOT = (
    "import sys, json; sys.path[:0] = json.loads(sys.argv[1]);"
    "from mover.repository.small_child import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


class SmallFiles:
    """`read_all` may run in several threads."""

    def __init__(self, files: FileReader, blobs: BlobWriter, tally: Tally, *, key: MasterKey) -> None:
        self._files, self._blobs, self._tally, self._key = files, blobs, tally, key
        self._seen = 0
        self._guard = threading.Lock()
        self._helpers: list[_Helper] = []
        self._free: SimpleQueue[_Helper] = SimpleQueue()

    def close(self) -> None:
        for helper in self._helpers:
            helper.close()

    def read_all(self, fds: list[int]) -> list[Stored | OSError]:
        """Closes every descriptor."""
        self._seen += len(fds)
        if self._seen < HELP_FROM_FILES:
            return self._files.read_all(fds)
        left = fds
        helper: _Helper | None = None
        try:
            helper = self._take()
            sealed = helper.read(fds)
            grown = [fd for fd, one in zip(fds, sealed, strict=True) if one.error == LARGE]
            left = list(set(fds).difference(grown))
            outcomes = self._outcomes(sealed, grown)
            self._tally.count(size_bytes=sum(one.size_bytes for one in sealed))
            self._blobs.store_sealed([blob for one in sealed for blob in one.blobs], helper.region)
        finally:
            if helper is not None:
                self._free.put(helper)
            _close_all(left)
        return outcomes

    def _outcomes(self, sealed: list[Sealed], grown: list[int]) -> list[Stored | OSError]:
        """What has grown beyond what is small meanwhile is read here, all at once so that every one is closed."""
        read = iter(self._files.read_all(grown))
        return [next(read) if one.error == LARGE else _outcome(one) for one in sealed]

    def _take(self) -> _Helper:
        with self._guard:
            if len(self._helpers) < HELPERS and self._free.empty():
                self._helpers.append(_Helper(self._key))
                return self._helpers[-1]
        return self._free.get()


class _Helper:
    """One process, its socket and the memory it shares with us."""

    def __init__(self, key: MasterKey) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(ANSWER_TIMEOUT_S)
        region_fd = os.memfd_create("small", os.MFD_CLOEXEC)
        try:
            os.ftruncate(region_fd, REGION_BYTES)
            self._memory = mmap.mmap(region_fd, REGION_BYTES)
            self._process = _started(theirs.fileno(), region_fd)
        except OSError as cause:
            self._channel.close()
            raise ComputeError("a process that seals small files could not be started") from cause
        finally:
            theirs.close()
            os.close(region_fd)
        self.region = memoryview(self._memory)
        secret = msgspec.msgpack.encode(key)  # over the socket: arguments and environment can be read by others
        self._channel.sendall(LENGTH.pack(len(secret)) + secret)
        self._decoder = msgspec.msgpack.Decoder(list[Sealed])

    def read(self, fds: list[int]) -> list[Sealed]:
        try:
            socket.send_fds(self._channel, [COUNT.pack(len(fds))], fds)
            (length,) = LENGTH.unpack(receive(self._channel, LENGTH.size))
            return self._decoder.decode(receive(self._channel, length))
        except (OSError, EOFError) as cause:
            raise ComputeError("a process that seals small files is gone or does not answer") from cause

    def close(self) -> None:
        """End of file on the socket is the child's word to go."""
        self._channel.close()
        self.region.release()
        self._memory.close()
        try:
            self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _outcome(one: Sealed) -> Stored | OSError:
    return OSError(one.error, os.strerror(one.error)) if one.error else one.stored


def _close_all(fds: list[int]) -> None:
    """Neighbours in one call. A call for each would let go of the interpreter lock for each, and the walker, who asks
    the system for as much, would wait for it every time: measured, half of its time."""
    first = 0
    fds = sorted(fds)
    for place in range(1, len(fds) + 1):
        if place == len(fds) or fds[place] != fds[place - 1] + 1:
            os.closerange(fds[first], fds[place - 1] + 1)
            first = place


def _started(channel_fd: int, region_fd: int) -> subprocess.Popen[bytes]:
    paths = json.dumps([os.path.abspath(path or ".") for path in sys.path])
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _BOOT, paths, str(channel_fd), str(region_fd)],
        pass_fds=(channel_fd, region_fd),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
    )
