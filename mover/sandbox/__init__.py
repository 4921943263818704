"""Untrusted bytes are parsed in a confined child (design D16).

`Sandbox.run("mover.deid.child:plan", args, fds)` forks a child from a warm zygote, which has no network, no
files but our own code, bounded memory and time, and the given descriptors. Read `confine` for what each
fence keeps out, `zygote` for who talks to whom.

A MoverError raised in the child is raised here again with its code, words and details. Everything else (a
crash, a limit, a timeout, any other exception) is SandboxFailed and names the exception's type at most:
messages of parsers may quote what they parsed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import TypeVar

import msgspec

from mover import errors
from mover.clock import monotonic_s
from mover.sandbox.confine import Limits, Protection
from mover.sandbox.zygote import (
    FIRST_ROUND,
    HEAD,
    MAX_DESCRIPTORS,
    MAX_REQUEST_BYTES,
    MAX_RESULT_BYTES,
    OK,
    REFUSED,
    ROUND,
    TRIAL,
    Request,
    Setup,
)

__all__ = ["Limits", "Protection", "Sandbox", "read_answer"]

Answer = TypeVar("Answer")
ALLOWED = ("mover.deid.", "mover.align.", "scanners.")
START_TIMEOUT_S = 60.0
ROOM = 16  # of a child's open files, what its fences, streams and libraries need
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from mover.sandbox.zygote import serve; serve(int(sys.argv[2]))"
)


def read_answer(answer: bytes, kind: type[Answer]) -> Answer:
    """What a child sent, as the type that was asked for. A child that a file has taken over may send anything: then
    the file failed, not the work around it."""
    try:
        return msgspec.msgpack.decode(answer, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.SandboxFailed("the parsing child answered in other words than it was asked in") from error


class _ZygoteGone(Exception):
    """The zygote ended before it had forked our child; nothing ran, so trying again is safe. Its text is how it ended,
    as far as is known: " (SIGSYS)" of a filter of system calls."""


class Sandbox:
    """A zygote and at most `max_children` children at a time. Calls may come from any thread."""

    def __init__(
        self,
        preload: tuple[str, ...] = (),
        *,
        allowed: tuple[str, ...] = ALLOWED,
        limits: Limits | None = None,
        max_children: int | None = None,
    ) -> None:
        self._setup = Setup(preload=preload, allowed=allowed, limits=limits or Limits())
        self._slots = threading.BoundedSemaphore(max_children or os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._zygote: _Zygote | None = None
        self._closed = False

    def run(
        self,
        function: str,
        args: tuple[object, ...] = (),
        fds: tuple[int, ...] = (),
        *,
        timeout_s: float = 120.0,
        folder: str = "",
    ) -> bytes:
        """`function` ("package.module:name") called as f(*fds, *args) in a fresh child; its bytes.

        `args` must be msgpack-able; the descriptors stay open here and are the caller's to close. With `folder`, one
        of links that the caller made, the child may list it and open the files of its descriptors again by name: for
        libraries that take no descriptor. It reads nothing by that which it was not given.
        """
        if not any(function.startswith(prefix) for prefix in self._setup.allowed):
            raise errors.RequestInvalid("that function may not be called in the sandbox")
        return self._run(function, args, fds, timeout_s, folder)

    def trial(self) -> None:
        """A child is forked, confined and asked for nothing: what every file would meet first. Raises SandboxFailed
        where this machine or its service manager does not let it."""
        self._run(TRIAL, (), (), START_TIMEOUT_S, "")

    def _run(
        self, function: str, args: tuple[object, ...], fds: tuple[int, ...], timeout_s: float, folder: str
    ) -> bytes:
        bound = min(MAX_DESCRIPTORS, self._setup.limits.open_files - ROOM)
        if len(fds) > bound:
            raise errors.LimitExceeded(f"more than {bound} descriptors for one child")
        more = max(0, len(fds) - FIRST_ROUND)
        body = msgspec.msgpack.encode(Request(function=function, args=args, cpu_s=timeout_s, more=more, folder=folder))
        if len(body) > MAX_REQUEST_BYTES:
            raise errors.LimitExceeded(f"a sandbox request over {MAX_REQUEST_BYTES} bytes")
        with self._slots:
            try:
                return self._call(body, fds, timeout_s)
            except _ZygoteGone:
                self._forget_zygote()
            try:
                return self._call(body, fds, timeout_s)
            except _ZygoteGone as gone:
                raise errors.SandboxFailed(
                    f"the parsing zygote ended twice before it could start a child{gone}"
                ) from None

    @property
    def protection(self) -> Protection:
        """Which fences stand on this machine; starts the zygote if need be."""
        try:
            return self._warm().protection
        except _ZygoteGone as gone:
            raise errors.SandboxFailed(f"the parsing zygote does not start{gone}") from None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warm(self) -> _Zygote:
        with self._lock:
            if self._closed:
                raise errors.SandboxFailed("the sandbox is closed")
            if self._zygote is None:
                self._zygote = _Zygote(self._setup)
            return self._zygote

    def _forget_zygote(self) -> None:
        with self._lock:
            zygote, self._zygote = self._zygote, None
        if zygote is not None:
            zygote.close()

    def _call(self, body: bytes, fds: tuple[int, ...], timeout_s: float) -> bytes:
        zygote = self._warm()
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                zygote.fork(theirs, fds[:FIRST_ROUND])
            child = _receive_child(ours)
            try:
                return _converse(ours, body, fds[FIRST_ROUND:], monotonic_s() + timeout_s)
            finally:
                _end(child)


class _Zygote:
    """The running process and its control socket. Concurrent sends are whole messages (SEQPACKET)."""

    def __init__(self, setup: Setup) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _BOOT, json.dumps(_import_paths()), str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    cwd="/",
                )
            except OSError as error:  # too many processes, no memory, no interpreter where it was
                self._control.close()
                raise _ZygoteGone(f" ({os.strerror(error.errno or 0)})") from error
        try:
            self._control.sendall(msgspec.msgpack.encode(setup))
            self._control.settimeout(START_TIMEOUT_S)
            hello = self._control.recv(4096)
            self._control.settimeout(None)
        except OSError:
            hello = b""
        if not hello:
            how = self._ending()
            self.close()
            raise _ZygoteGone(how)
        self.protection = msgspec.msgpack.decode(hello, type=Protection)

    def fork(self, call: socket.socket, fds: tuple[int, ...]) -> None:
        try:
            socket.send_fds(self._control, [b"f"], [call.fileno(), *fds])
        except OSError:
            raise _ZygoteGone from None

    def _ending(self) -> str:
        """Its signal or its status; what it wrote may quote what it read."""
        try:
            status = self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            return " (no answer in time)"
        try:
            return f" ({signal.Signals(-status).name})" if status < 0 else f" (status {status})"
        except ValueError:  # one of those for real time
            return f" (signal {-status})"

    def close(self) -> None:
        """The end of the control socket ends the zygote, whose end kills its children."""
        self._control.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _import_paths() -> list[str]:
    return [os.path.abspath(path or ".") for path in sys.path]


def _environment() -> dict[str, str]:
    """Nothing of the daemon's: no secret, no proxy. One thread each, so that forking stays safe."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    single = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL", "NUMEXPR")}
    return {**kept, **single, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "2"}


def _receive_child(call: socket.socket) -> int:
    call.settimeout(START_TIMEOUT_S)
    try:
        message, descriptors, _, _ = socket.recv_fds(call, 1, 1)
    except OSError:
        raise _ZygoteGone from None
    if not message or not descriptors:
        raise _ZygoteGone
    return descriptors[0]


def _end(child: int) -> None:
    """Kill whatever is left of the child and wait until it is gone: no bytes are read behind our back."""
    try:
        signal.pidfd_send_signal(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    poll = select.poll()
    poll.register(child, select.POLLIN)
    poll.poll(5000)
    os.close(child)


def _converse(call: socket.socket, body: bytes, fds: tuple[int, ...], deadline_s: float) -> bytes:
    try:
        _send(call, HEAD.pack(OK, len(body)) + body, deadline_s)
        for at in range(0, len(fds), ROUND):
            call.settimeout(max(0.001, deadline_s - monotonic_s()))
            socket.send_fds(call, [b"d"], fds[at : at + ROUND])
            _receive(call, 1, deadline_s)
        status, length = HEAD.unpack(_receive(call, HEAD.size, deadline_s))
        if length > MAX_RESULT_BYTES:
            raise errors.SandboxFailed("the parsing child's answer is larger than its bound")
        payload = _receive(call, length, deadline_s)
    except TimeoutError:
        raise errors.SandboxFailed("the parsing child did not answer in time and was ended") from None
    except (EOFError, OSError):
        raise errors.SandboxFailed("the parsing child crashed or went over a limit") from None
    if status == OK:
        return payload
    raise _rebuilt(payload) if status == REFUSED else _failure(payload)


def _send(call: socket.socket, data: bytes, deadline_s: float) -> None:
    view = memoryview(data)
    while view:
        call.settimeout(max(0.001, deadline_s - monotonic_s()))
        view = view[call.send(view) :]


def _receive(call: socket.socket, count: int, deadline_s: float) -> bytes:
    data = bytearray()
    while len(data) < count:
        call.settimeout(max(0.001, deadline_s - monotonic_s()))
        chunk = call.recv(min(count - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


class _Refusal(msgspec.Struct, frozen=True):
    code: str
    what: str
    where: str
    hint: str
    details: list[dict[str, object]]


def _rebuilt(payload: bytes) -> errors.MoverError:
    try:
        told = msgspec.msgpack.decode(payload, type=_Refusal)
    except msgspec.DecodeError:
        return errors.SandboxFailed("the parsing child answered nonsense")
    return errors.by_code(told.code)(told.what, where=told.where, hint=told.hint, details=told.details)


def _failure(payload: bytes) -> errors.SandboxFailed:
    name = payload.decode("ascii", "replace")
    kind = name if name.isidentifier() and len(name) <= 80 else "an unnamed exception"
    return errors.SandboxFailed(f"the parsing child failed with {kind}", details=[{"exception": kind}])
