"""What the machine itself can do, measured in the same run: the device, memory, the digest, the page cache.

Device figures use O_DIRECT in blocks of 4 MiB on four threads; each is the best of its tries, because a limit is
what is possible, not what is usual. `python -m bench.limits copy SOURCE TARGET` copies a tree that way, cold to
durable: the rate that no copy between these two folders can pass. It races like any other tool.
"""

from __future__ import annotations

import argparse
import errno
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BLOCK_BYTES = 4 << 20
THREADS = 4
ALIGNMENT = 4096
TRIES = 3

Limits = dict[str, float]

SAYS = {
    "device-write": "sequential write, O_DIRECT, 4 MiB, 4 threads, fdatasync (GB/s)",
    "device-read": "sequential read, O_DIRECT, 4 MiB, 4 threads (GB/s)",
    "device-copy": "read and write at once on the same device: bytes copied per second (GB/s)",
    "page-cache-read": "read(2) of cached bytes, 1 MiB pieces, one thread (GB/s)",
    "memcpy": "memory to memory, one thread (GB/s)",
    "blake3": "BLAKE3, one thread (GB/s)",
    "blake3-2": "BLAKE3, two threads (GB/s)",
    "create": "create, write 2 KB, close, without names synced one by one; two processes, one sync (thousand files/s)",
}


def measure(root: Path, *, size_bytes: int) -> Limits:
    """All but `create`, below `root`; leaves nothing."""
    import numpy as np
    from blake3 import blake3

    folder = root / "limits"
    folder.mkdir(parents=True)
    first, second = folder / "first", folder / "second"
    found: Limits = {}
    found["device-write"] = _best(lambda: _write_direct(first, size_bytes), size_bytes)
    found["device-read"] = _best(lambda: _read_direct(first, size_bytes), size_bytes)
    found["device-copy"] = _best(lambda: copy_direct(first, second), size_bytes)
    _read_cached(first)
    found["page-cache-read"] = _best(lambda: _read_cached(first), size_bytes)
    ours, theirs = np.ones(128 << 20, np.uint8), np.zeros(128 << 20, np.uint8)
    found["memcpy"] = _best(lambda: np.copyto(theirs, ours), ours.nbytes)
    found["blake3"] = _best(lambda: blake3(max_threads=1).update(ours.data), ours.nbytes)
    found["blake3-2"] = _best(lambda: blake3(max_threads=2).update(ours.data), ours.nbytes)
    first.unlink()
    second.unlink()
    folder.rmdir()
    return {name: round(value, 3) for name, value in found.items()}


def create_rate(folder: Path, count: int) -> float:
    """Thousand files of 2 KB a second, two processes, one sync at the end; a fresh folder, left behind."""
    code = (
        "import os,sys\nplace,count=sys.argv[1],int(sys.argv[2])\ndata=os.urandom(2048)\n"
        "for n in range(count):\n"
        "    if n%100==0: os.mkdir(f'{place}/{n}')\n"
        "    f=os.open(f'{place}/{n-n%100}/{n}',os.O_WRONLY|os.O_CREAT|os.O_EXCL); os.write(f,data); os.close(f)\n"
    )
    halves = [folder / "first", folder / "second"]
    for half in halves:
        half.mkdir(parents=True)
    began = time.monotonic()
    running = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", code, str(half), str(count // 2)]) for half in halves
    ]
    for process in running:
        process.wait()
    os.sync()
    return round(count / (time.monotonic() - began) / 1000, 3)


def _best(work: Callable[[], object], size_bytes: int) -> float:
    """GB/s of the fastest try."""
    fastest = float("inf")
    for _ in range(TRIES):
        began = time.monotonic()
        work()
        fastest = min(fastest, time.monotonic() - began)
    return size_bytes / fastest / 1e9


# --- the device -----------------------------------------------------------------------------------------


def _write_direct(path: Path, size: int) -> None:
    path.unlink(missing_ok=True)
    descriptor = _create_direct(path, size)
    _each_block(size, lambda at, buffer: os.pwrite(descriptor, buffer, at))
    os.fdatasync(descriptor)
    os.close(descriptor)


def _read_direct(path: Path, size: int) -> None:
    descriptor = _open_direct(path)
    _each_block(size, lambda at, buffer: os.preadv(descriptor, [buffer], at))
    os.close(descriptor)


def copy_direct(source: Path, target: Path) -> None:
    """One file, past the page cache on both sides, then fdatasync."""
    size = source.stat().st_size
    target.unlink(missing_ok=True)
    reading, writing = _open_direct(source), _create_direct(target, size)

    def block(at: int, buffer: mmap.mmap) -> None:
        count = os.preadv(reading, [buffer], at)
        # direct writes are of whole sectors; the end is cut off afterwards
        os.pwrite(writing, memoryview(buffer)[: -(-count // ALIGNMENT) * ALIGNMENT], at)

    _each_block(size, block)
    os.ftruncate(writing, size)
    os.fdatasync(writing)
    os.close(reading)
    os.close(writing)


def _each_block(size: int, work: Callable[[int, mmap.mmap], object]) -> None:
    """Call `work(offset, an aligned buffer of the thread)` for every block, the blocks dealt out in turn."""

    def share(first: int) -> None:
        buffer = mmap.mmap(-1, BLOCK_BYTES)
        for at in range(first * BLOCK_BYTES, size, THREADS * BLOCK_BYTES):
            work(at, buffer)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(share, range(THREADS)))


def _open_direct(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY)
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    return _opened(path, os.O_RDONLY)


def _create_direct(path: Path, size: int) -> int:
    descriptor = _opened(path, os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(descriptor, 0, max(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT))
    return descriptor


def _opened(path: Path, flags: int) -> int:
    """Past the page cache where the file system has a device behind it; a memory file system refuses."""
    try:
        return os.open(path, flags | os.O_DIRECT, 0o644)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o644)


def _read_cached(path: Path) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


# --- as a tool in a race --------------------------------------------------------------------------------


def _copy_tree(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source):
        into = target / os.path.relpath(folder, source)
        into.mkdir(parents=True, exist_ok=True)
        for name in names:
            copy_direct(Path(folder) / name, into / name)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("verb", choices=["copy"])
    words.add_argument("source", type=Path)
    words.add_argument("target", type=Path)
    asked = words.parse_args()
    began = time.monotonic()
    _copy_tree(asked.source, asked.target)
    print(json.dumps({"seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
