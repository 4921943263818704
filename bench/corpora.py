"""What is moved: made from seeds, so that every run of every machine moves the same bytes.

Slides are incompressible and unique, as JPEG tiles are; small files are thumbnail-like 80 KB; tiny files are
0.2 to 4 KB in folders of a hundred, as patches, annotations and logs are. Checkpoints are what a run leaves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from blake3 import blake3
from msgspec import Struct

STEP_BYTES = 8 << 20
SMALL_BYTES = 80_000
FILES_PER_FOLDER = 100
SHARDS, LOGS, LOG_LINES = 16, 400, 1000
ISLAND_BYTES, ISLAND_EVERY_BYTES = 2 << 20, 64 << 20


class Corpus(Struct, frozen=True):
    """A tree on disk. `files` and `size_bytes` are what must come out on the other side."""

    folder: Path
    files: int
    size_bytes: int


def slides(folder: Path, sizes: Sequence[int]) -> Corpus:
    """One large file per size with a thumbnail beside it."""
    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        _write_large(folder / f"slide{number:02}.svs", size, seed=number)
        (folder / f"slide{number:02}.jpg").write_bytes(_random(1000 + number).bytes(60_000))
    return Corpus(folder, 2 * len(sizes), sum(sizes) + 60_000 * len(sizes))


def many(folder: Path, count: int, *, low: int, high: int) -> Corpus:
    """`count` files of `low` to `high` bytes each, a hundred to a folder."""
    folder.mkdir(parents=True)
    chance = _random(7)
    sizes = chance.integers(low, high + 1, count)
    pool = chance.bytes(int(4 << 20) + high)
    starts = chance.integers(0, 4 << 20, count)
    for first in range(0, count, FILES_PER_FOLDER):
        below = os.open(_made(folder, first), os.O_RDONLY)
        for number in range(first, min(first + FILES_PER_FOLDER, count)):
            start = int(starts[number])
            # the number in front makes every file unlike every other
            content = number.to_bytes(8, "little") + pool[start : start + int(sizes[number]) - 8]
            _write_at(below, f"f{number:07}.bin", content)
        os.close(below)
    return Corpus(folder, count, int(sizes.sum()))


class Checkpoint(Struct, frozen=True):
    """A tree of a training run in two versions. The shards that differ lie beside it, and `put` brings one version
    of them into the tree as training does: a new file under the old name. What does not change is never touched."""

    corpus: Corpus
    versions: Path

    def put(self, version: int) -> None:
        for shard in sorted((self.versions / str(version)).iterdir()):
            fresh = self.corpus.folder / f".{shard.name}"
            shutil.copyfile(shard, fresh)
            os.replace(fresh, self.corpus.folder / shard.name)


def checkpoint(folder: Path, size_bytes: int) -> Checkpoint:
    """Shards of float32 weights, normally distributed as weights are, and logs of text. In the second version every
    other shard has a twentieth of its bytes new in one piece, and the first of them grew near its start."""
    folder.mkdir(parents=True)
    versions = folder.with_name(f"{folder.name}-versions")
    for version in ("1", "2"):
        (versions / version).mkdir(parents=True)
    for number in range(SHARDS):
        name, chance = f"shard{number:02}.pt", _random(number)
        weights = (chance.standard_normal(size_bytes // SHARDS // 4, dtype=np.float32) * 0.02).tobytes()
        (folder / name).write_bytes(weights)
        if number % 2 == 0:
            (versions / "1" / name).write_bytes(weights)
            (versions / "2" / name).write_bytes(_trained(weights, chance, grown=number == 0))
    for number in range(LOGS):
        losses = _random(1000 + number).random(LOG_LINES)
        lines = "".join(f"step {step} loss {loss:.6f}\n" for step, loss in enumerate(losses))
        (folder / f"log{number:03}.txt").write_text(lines)
    files, total = count(folder)
    return Checkpoint(Corpus(folder, files, total), versions)


def _trained(weights: bytes, chance: np.random.Generator, *, grown: bool) -> bytes:
    length = len(weights) // 20
    start = int(chance.integers(0, len(weights) - length))
    fresh = weights[:start] + chance.bytes(length) + weights[start + length :]
    return fresh[:1000] + b"inserted" + fresh[1000:] if grown else fresh


def islands(path: Path, size_bytes: int) -> None:
    """One sparse file with a little data every so often: large to read, small to keep."""
    path.parent.mkdir(parents=True)
    with path.open("wb", buffering=0) as stream:
        for number, at in enumerate(range(0, size_bytes, ISLAND_EVERY_BYTES)):
            stream.seek(at)
            stream.write(_random(number).bytes(ISLAND_BYTES))
        stream.truncate(size_bytes)


def empty(folder: Path, count: int) -> Corpus:
    """Names without content, for walks: the metadata is all a walk reads. Two threads, the kernel does the work."""
    folder.mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda first: _nodes(folder, first, count), range(0, count, FILES_PER_FOLDER)))
    return Corpus(folder, count, 0)


def _nodes(folder: Path, first: int, count: int) -> None:
    below = os.open(_made(folder, first), os.O_RDONLY)
    for number in range(first, min(first + FILES_PER_FOLDER, count)):
        os.mknod(f"f{number:07}.bin", 0o100644, dir_fd=below)
    os.close(below)


def _made(folder: Path, first: int) -> Path:
    """Folders two deep: no folder holds more than a few hundred names."""
    number = first // FILES_PER_FOLDER
    made = folder / f"d{number // FILES_PER_FOLDER:03}" / f"d{number:05}"
    made.mkdir(parents=True, exist_ok=True)
    return made


def _write_at(below: int, name: str, content: bytes) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=below)
    os.write(descriptor, content)
    os.close(descriptor)


def _write_large(path: Path, size: int, *, seed: int) -> None:
    chance = _random(seed)
    with path.open("wb", buffering=0) as stream:
        for at in range(0, size, STEP_BYTES):
            stream.write(chance.bytes(min(STEP_BYTES, size - at)))


def _random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


# --- warm, cold, equal ----------------------------------------------------------------------------------


def files_of(folder: Path) -> Iterator[str]:
    for place, _, names in os.walk(folder):
        for name in names:
            yield os.path.join(place, name)


def warm(folder: Path) -> None:
    """Every byte into the page cache."""
    buffer = bytearray(1 << 20)
    for path in files_of(folder):
        descriptor = os.open(path, os.O_RDONLY)
        while os.readv(descriptor, [buffer]):
            pass
        os.close(descriptor)


def cool(folder: Path) -> None:
    """Every byte out of the page cache; names stay known. Dirty pages would stay, so the caller syncs first."""
    for path in files_of(folder):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def forget_names() -> bool:
    """Names and inodes out of the kernel's memory too, as root only; whether that was possible."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("2\n")
    except OSError:
        return False
    return True


def digest(folder: Path) -> str:
    """Of names and contents: equal for equal trees. Hidden control folders of tiers do not count."""
    whole = blake3()
    for path in sorted(files_of(folder)):
        relative = os.path.relpath(path, folder)
        if not relative.startswith(".mover"):
            whole.update(relative.encode() + b"\0" + blake3(max_threads=1).update_mmap(path).digest())
    return whole.hexdigest()


def count(folder: Path) -> tuple[int, int]:
    """Files and bytes, to see that a tool did all its work."""
    found = [os.stat(path).st_size for path in files_of(folder) if "/.mover/" not in path]
    return len(found), sum(found)
