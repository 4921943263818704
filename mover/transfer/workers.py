"""Processes that carry groups of small files: a name costs more Python than bytes do, and Python runs one thread.

A worker is a fresh interpreter (nothing is ever forked from a process with threads) that imports this room and
little else. It speaks over two pipes in frames of four bytes of length and a body: in come jobs, pickled because
names of any bytes have no other short form, out go reports in msgpack; an empty frame asks to stop the job that
runs. It ignores the signals that a terminal or systemd sends to everybody, because its parent decides, and it ends
with its parent: when the pipe closes or the parent's number changes, at once and in the middle of whatever it does.
(PR_SET_PDEATHSIG would tie it to the thread that started it.)

What a dead worker leaves are temporary names; its job is run again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import queue
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable

import msgspec

from mover.clock import monotonic_s
from mover.errors import TierHung, WorkerLost
from mover.transfer.group import Job, Report, never, run_group

ASK_EVERY_S = 0.2
UNANSWERED_S = 15.0  # so long a report may take before the tiers are asked whether they still answer
FRAME_BYTES_MAX = 64 << 20
OPEN_FILES_MAX = 65_536
PARENT_EVERY_MS = 1000

_LENGTH = struct.Struct("<I")
_BOOT = "import sys; sys.path[:] = sys.argv[1:]; from mover.transfer.workers import serve; serve()"


class Workers:
    """A bounded number of worker processes, started when first needed. Thread-safe; `run` blocks."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self._free = threading.BoundedSemaphore(processes)
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(
        self, job: Job, *, stopped: Callable[[], bool] = never, answers: Callable[[], bool] | None = None
    ) -> Report:
        """The job's report. WorkerLost when its process ended; TierHung when `answers` says that a tier of the job
        does not: the process is left to the kernel, which does not let it go."""
        with self._free:
            worker = self._take()
            try:
                report = worker.run(job, stopped=stopped, answers=answers)
            except BaseException:
                self._forget(worker)
                raise
            self._idle.put(worker)
            return report

    def close(self) -> None:
        """End all, also those in the middle of a job."""
        with self._lock:
            self._closed = True
            workers, self._all = self._all, set()
        for worker in workers:
            worker.end()

    def _take(self) -> _Worker:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            if self._closed:
                raise WorkerLost("the worker processes were ended")
            worker = _Worker()
            self._all.add(worker)
            return worker

    def _forget(self, worker: _Worker) -> None:
        with self._lock:
            self._all.discard(worker)
        worker.end()


class _Worker:
    """The parent's end of one process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _BOOT, *sys.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()

    def run(self, job: Job, *, stopped: Callable[[], bool], answers: Callable[[], bool] | None) -> Report:
        try:
            _send(self._in, pickle.dumps(job, protocol=5))
            self._await(stopped, answers)
            frame = _receive(self._out)
        except OSError:
            frame = None
        if frame is None:
            raise WorkerLost("a worker process ended in the middle of a group")
        return msgspec.msgpack.decode(frame, type=Report)

    def _await(self, stopped: Callable[[], bool], answers: Callable[[], bool] | None) -> None:
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        told, asked_s = False, monotonic_s()
        while not poll.poll(ASK_EVERY_S * 1000):
            if not told and stopped():
                told = True
                _send(self._in, b"")
            if answers is not None and monotonic_s() - asked_s >= UNANSWERED_S:
                if not answers():
                    raise TierHung("a tier does not answer in the middle of a group")
                asked_s = monotonic_s()

    def end(self) -> None:
        """Killed: what it had in hand stays under temporary names. One that the kernel holds on to is left behind."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)


# --- frames ------------------------------------------------------------------------------------------------


def _send(pipe: int, data: bytes) -> None:
    rest = memoryview(_LENGTH.pack(len(data)) + data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def _receive(pipe: int) -> bytes | None:
    """A frame, or None at the end of the pipe."""
    head = _exactly(pipe, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > FRAME_BYTES_MAX:
        raise OSError(errno.EMSGSIZE, "a frame beyond its bound")
    return _exactly(pipe, length)


def _exactly(pipe: int, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        piece = os.read(pipe, length - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)


# --- the other side ------------------------------------------------------------------------------------------


def serve() -> None:
    """The life of a worker process: jobs from its standard input until that closes."""
    jobs_in, reports_out = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # whatever prints must not end up between reports
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0)  # modes are given, never masked; every name is created with its own
    _raise_open_files()
    jobs: queue.SimpleQueue[tuple[bytes, threading.Event]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs_in, jobs, os.getppid()), name="listen", daemon=True).start()
    while True:
        frame, stop = jobs.get()
        report = run_group(pickle.loads(frame), stopped=stop.is_set)
        _send(reports_out, msgspec.msgpack.encode(report))


def _listen(pipe: int, jobs: queue.SimpleQueue[tuple[bytes, threading.Event]], parent: int) -> None:
    """A stop belongs to the job before it. The end of the parent is the end of this process."""
    stop = threading.Event()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while True:
        if poll.poll(PARENT_EVERY_MS):
            frame = _receive(pipe)
            if frame is None:
                os._exit(1)
            if frame:
                stop = threading.Event()
                jobs.put((frame, stop))
            else:
                stop.set()
        if os.getppid() != parent:
            os._exit(1)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
