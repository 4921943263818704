"""The warm process that forks one confined child per call.

It is started fresh (never forked from the daemon, whose threads and secrets it must not inherit), imports
the named modules once, gives up network and capabilities, and then only receives descriptors and forks.
It reads no request itself: the first descriptor of each message is a socket on which the child talks with
the caller. The caller gets a pidfd of the child before it sends anything, so that it can always kill it.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import NoReturn

import msgspec

from mover.errors import MoverError
from mover.sandbox import confine

# What one call may bring: a slide of several files comes as many descriptors as it has files. The first FIRST_ROUND
# go through the zygote, the rest to the child itself, ROUND at a time (the kernel takes 253 in one message).
MAX_DESCRIPTORS = 2048
FIRST_ROUND = 64
ROUND = 200
MAX_REQUEST_BYTES = 256 << 20
MAX_RESULT_BYTES = 512 << 20
HEAD = struct.Struct("<BQ")
OK, REFUSED, FAILED = 0, 1, 2
TRIAL = ""  # in place of a function: nothing is called


class Setup(msgspec.Struct, frozen=True):
    preload: tuple[str, ...]
    allowed: tuple[str, ...]
    limits: confine.Limits


class Request(msgspec.Struct, frozen=True):
    """`more` descriptors follow the request itself, in rounds. `folder`: of links to them; they may be opened again."""

    function: str
    args: tuple[object, ...]
    cpu_s: float
    more: int = 0
    folder: str = ""


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """`count` bytes or EOFError; memory grows with what arrives, not with what was announced."""
    data = bytearray()
    while len(data) < count:
        chunk = sock.recv(min(count - len(data), 1 << 20))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def serve(control_fd: int) -> NoReturn:
    control = socket.socket(fileno=control_fd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the daemon; we end with its socket
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    setup = msgspec.msgpack.decode(control.recv(1 << 18), type=Setup)
    gc.disable()  # of what is loaded nothing is garbage
    for module in setup.preload:
        importlib.import_module(module)
    readable = confine.readable_places(("mover", "scanners", *setup.preload))
    confine.no_new_privileges()
    protection = confine.Protection(
        landlock_abi=confine.landlock_abi(),
        network_namespace=confine.leave_network(),
        seccomp=confine.seccomp_known(),
    )
    confine.drop_capabilities()
    gc.freeze()
    gc.enable()
    control.sendall(msgspec.msgpack.encode(protection))
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 16, FIRST_ROUND + 1)
        if not message:
            os._exit(0)  # the daemon is gone
        if descriptors:
            _fork(control, descriptors, setup, readable, protection.landlock_abi)


def _fork(
    control: socket.socket, descriptors: list[int], setup: Setup, readable: tuple[str, ...], abi: int
) -> None:
    zygote_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        control.close()
        confine.die_with_parent(zygote_pid)
        _child(socket.socket(fileno=descriptors[0]), descriptors[1:], setup, readable, abi)
    with socket.socket(fileno=descriptors[0]) as call:
        try:
            pidfd = os.pidfd_open(pid)
            socket.send_fds(call, [b"p"], [pidfd])
            os.close(pidfd)
        except OSError:
            pass  # the caller gave up, or the child is gone: it sees the end of its socket
    for descriptor in descriptors[1:]:
        os.close(descriptor)


def _child(
    call: socket.socket, descriptors: list[int], setup: Setup, readable: tuple[str, ...], abi: int
) -> NoReturn:
    """Confine, then read the request, run it, answer, leave. Nothing but the answer comes out."""
    try:
        length = HEAD.unpack(read_exactly(call, HEAD.size))[1]
        request = msgspec.msgpack.decode(read_exactly(call, length), type=Request)
        if request.more:
            confine.allow_files(setup.limits.open_files)
            descriptors += _receive_more(call, request.more)
        again = tuple(descriptors) if request.folder else ()
        confine.enclose(
            readable=readable, limits=setup.limits, cpu_s=request.cpu_s, abi=abi, folder=request.folder, again=again
        )
        status, payload = _answer(setup, request, descriptors)
        call.sendall(HEAD.pack(status, len(payload)))
        call.sendall(payload)
    finally:
        os._exit(0)


def _receive_more(call: socket.socket, count: int) -> list[int]:
    """Each round is one byte with its descriptors, and answered with one: so few are under way at any time that the
    kernel's bound on those (RLIMIT_NOFILE of the sender) is never met."""
    received: list[int] = []
    while len(received) < count:
        message, descriptors, flags, _ = socket.recv_fds(call, 1, ROUND)
        if not message or not descriptors or flags & socket.MSG_CTRUNC:
            raise EOFError
        received += descriptors
        call.sendall(b"k")
    return received


def _answer(setup: Setup, request: Request, descriptors: list[int]) -> tuple[int, bytes]:
    if request.function == TRIAL:
        return OK, b""
    try:
        result = _resolve(setup.allowed, request.function)(*descriptors, *request.args)
        if not isinstance(result, bytes):
            raise TypeError("a sandboxed function returns bytes")
        return OK, result
    except MoverError as error:
        return REFUSED, msgspec.msgpack.encode(
            {
                "code": error.code,
                "what": error.what,
                "where": error.where,
                "hint": error.advice,
                "details": error.details,
            },
            enc_hook=repr,
        )
    except BaseException as error:  # noqa: BLE001 - only the type leaves: a message may hold an identifier
        return FAILED, type(error).__name__.encode()


def _resolve(allowed: tuple[str, ...], name: str) -> Callable[..., object]:
    module, _, function = name.partition(":")
    if not any(module.startswith(prefix) for prefix in allowed):
        raise PermissionError
    found: Callable[..., object] = getattr(importlib.import_module(module), function)
    return found


if __name__ == "__main__":
    serve(int(sys.argv[1]))
