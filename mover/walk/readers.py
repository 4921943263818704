"""The conductor's end of the reading processes.

Each is a fresh interpreter, not a fork: a daemon has threads, and a fork of it could hang in a lock that one of
them held. Writing to a reader never blocks us, or two that write to each other would wait for ever; a reader that
is ahead of us waits in its own write, which is the bound of what lies in between.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from mover.clock import monotonic_s
from mover.errors import TierUnavailable
from mover.walk.reader import FRAME, Job, Reader, Seen, Task

PROCESSES = 2
DEPTH = 2  # task lists that wait in one reader
# one folder that is not answered for this long is a hung mount
SILENT_S = 300.0
LOOK_S = 0.5
RECEIVE_BYTES = 1 << 20
END_S = 2.0
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from mover.walk.reader import main; main(int(sys.argv[2]))"
)


class Lookers(Protocol):
    """Whatever looks at folders (or at prefixes of a bucket) for a conductor."""

    def room(self) -> int:
        """How many lists of tasks may be handed over now."""

    def hand(self, tasks: list[Task]) -> None: ...

    def take(self) -> Sequence[Seen]:
        """What came, waiting a moment; possibly nothing."""

    def close(self) -> None: ...


class Readers:
    """`processes` readers of one root, all started with the first work: their start is a tenth of a second that they
    share. The descriptor stays the caller's."""

    def __init__(self, job: Job, *, processes: int = PROCESSES, tier: str = "", silent_s: float = SILENT_S) -> None:
        self._tier = tier
        self._silent_s = silent_s
        self._heard_s = monotonic_s()
        self._selector = selectors.DefaultSelector()
        self._job = job
        self._processes = processes
        self._readers: list[_Reader] = []

    def room(self) -> int:
        return self._processes * DEPTH - sum(reader.waiting for reader in self._readers)

    def hand(self, tasks: list[Task]) -> None:
        if not any(one.waiting for one in self._readers):
            self._heard_s = monotonic_s()
        while len(self._readers) < self._processes:
            self._start()
        reader = min(self._readers, key=lambda one: one.waiting)
        reader.waiting += 1
        reader.queue(msgspec.msgpack.encode(tasks))
        self._watch(reader)

    def _start(self) -> None:
        reader = _Reader(self._job)
        self._readers.append(reader)
        self._selector.register(reader.channel, selectors.EVENT_READ, reader)

    def take(self) -> list[Seen]:
        came: list[Seen] = []
        for key, events in self._selector.select(LOOK_S):
            reader: _Reader = key.data
            if events & selectors.EVENT_WRITE:
                reader.push()
                self._watch(reader)
            if events & selectors.EVENT_READ:
                self._heard_s = monotonic_s()
                came += self._receive(reader)
        if monotonic_s() - self._heard_s > self._silent_s and any(reader.waiting for reader in self._readers):
            raise TierUnavailable(
                f"a folder was not answered for {self._silent_s:g} s", where=self._tier,
                hint="The mount hangs. Look at its server; the walk goes on from where it was.",
            )  # fmt: skip
        return came

    def _receive(self, reader: _Reader) -> list[Seen]:
        came: list[Seen] = []
        try:
            messages = reader.pull()
        except (EOFError, ConnectionError):
            raise TierUnavailable(
                "a reading process ended in the middle", where=self._tier,
                hint="Was it killed for memory? The walk goes on from where it was.",
            ) from None  # fmt: skip
        for message in messages:
            seen = msgspec.msgpack.decode(message, type=list[Seen])
            if not seen:
                reader.waiting -= 1
            came += seen
        return came

    def _watch(self, reader: _Reader) -> None:
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if reader.outgoing else 0)
        self._selector.modify(reader.channel, wanted, reader)

    def close(self) -> None:
        """Readers end with their socket. One that hangs in the kernel is killed and left to it."""
        for reader in self._readers:
            reader.channel.close()
        for reader in self._readers:
            reader.end()
        self._selector.close()


class InThread:
    """A reader in the caller's own thread, for so few folders that starting a process would cost more than they do.
    Every call lets other threads run. Only for local file systems: a hung mount would keep the thread."""

    def __init__(self, job: Job) -> None:
        self._reader = Reader(job, library=ctypes.CDLL(None, use_errno=True))
        self._came: Iterator[list[Seen]] | None = None

    def room(self) -> int:
        return 1 if self._came is None else 0

    def hand(self, tasks: list[Task]) -> None:
        self._came = self._reader.read(tasks)

    def take(self) -> list[Seen]:
        came = next(self._came, None) if self._came is not None else None
        if came is None:
            self._came = None
        return came or []

    def close(self) -> None:
        self._came = None


class _Reader:
    """One process, its socket, what waits to be sent and what came in half."""

    def __init__(self, job: Job) -> None:
        self.waiting = 0
        self.outgoing = bytearray()
        self._incoming = bytearray()
        self.channel, theirs = socket.socketpair()
        with theirs:
            paths = json.dumps([os.path.abspath(path or ".") for path in sys.path])
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _BOOT, paths, str(theirs.fileno())],
                pass_fds=(theirs.fileno(), job.root),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                cwd="/",
            )
        self.channel.setblocking(False)
        self.queue(msgspec.msgpack.encode(job))

    def queue(self, message: bytes) -> None:
        self.outgoing += FRAME.pack(len(message)) + message
        self.push()

    def push(self) -> None:
        try:
            while self.outgoing:
                del self.outgoing[: self.channel.send(self.outgoing)]
        except BlockingIOError:
            return
        except ConnectionError:
            self.outgoing.clear()  # its end is noticed where its answers are awaited

    def pull(self) -> list[bytes]:
        """The whole messages that are there; EOFError when the process is gone."""
        try:
            came = self.channel.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not came:
            raise EOFError
        self._incoming += came
        return list(self._whole())

    def _whole(self) -> list[bytes]:
        messages, at = [], 0
        while len(self._incoming) - at >= FRAME.size:
            (length,) = FRAME.unpack_from(self._incoming, at)
            stop = at + FRAME.size + length
            if stop > len(self._incoming):
                break
            messages.append(bytes(self._incoming[at + FRAME.size : stop]))
            at = stop
        del self._incoming[:at]
        return messages

    def end(self) -> None:
        try:
            self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


def _environment() -> dict[str, str]:
    """Nothing of the daemon's; one thread each."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    single = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}
    return {**kept, **single, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"}
