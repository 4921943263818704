"""What a parser may be made to do by bytes from outside; called inside the sandbox by the tests."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from mover.errors import StructureInvalid


def echo(*arguments: object) -> bytes:
    return repr(arguments).encode()


def read_from(descriptor: int, offset: int, length: int) -> bytes:
    return os.pread(descriptor, length, offset)


def first_bytes(*descriptors: int) -> bytes:
    """The first byte of each descriptor, in their order."""
    return b"".join(os.pread(descriptor, 1, 0) for descriptor in descriptors)


def read_by_name(*given: object) -> bytes:
    """Two descriptors and names: the links' slots, what a library would open, and another place."""
    one, other, first, folder, elsewhere = given
    for at, descriptor in enumerate((one, other)):
        os.dup2(descriptor, first + at)  # type: ignore[arg-type,operator]
    names = sorted(os.listdir(str(folder)))
    told = b"".join(Path(str(folder), name).read_bytes() for name in names)
    try:
        Path(str(elsewhere)).read_bytes()
    except PermissionError:
        return told + b" and nothing else"
    return told


def produce(size_bytes: int) -> bytes:
    return bytes(size_bytes)


def refuse() -> bytes:
    raise StructureInvalid("page 3 loops", where="page 3", details=[{"page": 3}])


def leak() -> bytes:
    raise ValueError("patient SMITH^JANE")


def crash() -> bytes:
    ctypes.string_at(0)
    return b"alive"


def hang() -> bytes:
    time.sleep(60)
    return b"awake"


def spin() -> bytes:
    while True:
        pass


def take_memory() -> bytes:
    held = []
    while True:
        held.append(bytearray(64 << 20))


def write_file(path: str) -> bytes:
    Path(path).write_text("escaped")
    return b"written"


def append_to_own_code() -> bytes:
    with open(__file__, "a") as code:
        code.write("#")
    return b"written"


def read_file(path: str) -> bytes:
    return Path(path).read_bytes()


def list_folder(path: str) -> bytes:
    return repr(os.listdir(path)).encode()


def connect(port: int) -> bytes:
    socket.create_connection(("127.0.0.1", port), timeout=2)
    return b"connected"


def send_datagram(port: int) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", port))
    return b"sent"


def run_program() -> bytes:
    return subprocess.check_output(["/bin/echo", "ran"])


def fork_child() -> bytes:
    if os.fork() == 0:
        os._exit(0)
    return b"forked"


def signal_process(pid: int) -> bytes:
    os.kill(pid, signal.SIGTERM)
    return b"signalled"


def environment() -> bytes:
    return repr(sorted(os.environ)).encode()


def open_descriptors() -> bytes:
    return repr(sorted(int(name) for name in os.listdir("/proc/self/fd"))).encode()


def not_bytes() -> str:
    return "text"


def sparse_memfd(size_bytes: int) -> bytes:
    """The skeleton trick: a memfd of the slide's size, opened again by path as C libraries do."""
    memfd = os.memfd_create("skeleton")
    os.ftruncate(memfd, size_bytes)
    os.pwrite(memfd, b"II*\0", 0)
    with open(f"/proc/self/fd/{memfd}", "rb") as again:
        head = again.read(4)
        again.seek(0, 2)
        return head + str(again.tell()).encode()


def slide_in_memfd() -> bytes:
    """tifffile writes a tiled TIFF into a memfd; OpenSlide reads it by path, tifffile by file object
    (given a path it would resolve the link to a name that does not exist)."""
    import numpy
    import openslide
    import tifffile

    path = f"/proc/self/fd/{os.memfd_create('slide')}"
    with open(path, "w+b") as out:
        tifffile.imwrite(out, numpy.zeros((512, 512, 3), dtype=numpy.uint8), tile=(256, 256), photometric="rgb")
    with open(path, "rb") as again, openslide.OpenSlide(path) as slide, tifffile.TiffFile(again) as tiff:
        return f"{slide.dimensions} {len(tiff.pages)}".encode()
