"""Files that survive: written without a name, synced, read back past the cache, then named (D14).

Used by the one-shot command, which has no tier and no transfer engine. Messages name the error, never the path.

Many small files go as a group (`write_outputs`): the disk starts on each while the next is written, all are synced
side by side, so that one commit of the journal serves many, and read back; then all get their names, and each folder is
synced once. If everything stops before the names, nothing of the group is seen; between the names, some files stand
whole and a later run makes the others.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from blake3 import blake3
from msgspec import Struct

from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    IntegrityError,
    MoverError,
    ShortRead,
    tier_error,
)
from mover.model.recipe import Literal as Bytes
from mover.model.recipe import Recipe
from mover.randomness import random_bytes
from mover.tiers.beneath import open_direct, start_writeback
from mover.tiers.posix import ALIGNMENT
from mover.wholefile import sync_folder, write_new, write_over

MTIME_S: Final = 315_532_800  # 1980-01-01: the time of scanning is not to be read from a file
STEP_BYTES: Final = 8 << 20
GROUP_FILES: Final = 64  # open at a time, for each thread that writes groups
SYNC_THREADS: Final = 16
DIRECT_BYTES: Final = 1 << 20
THREADED_BYTES: Final = 16 << 20  # from here on several threads hash one file


class Wanted(Struct, frozen=True):
    """One output of a group: its final path, the open source and what that was when it was proved."""

    target: Path
    source: int
    recipe: Recipe
    before: os.stat_result | None


def write_output(target: Path, source_fd: int, recipe: Recipe, before: os.stat_result | None) -> str:
    """Write, sync, re-read cold, compare, then give it its name; the digest. Nothing is ever replaced. `before` is
    what the source was when it was proved: bytes of another are never published."""
    hidden = target.with_name(f".{target.name}.{random_bytes(4).hex()}.part")
    try:
        fd, named = _open_nameless(target.parent, hidden)
    except OSError as error:
        raise tier_error(error) from error
    try:
        expected = pour(fd, source_fd, recipe)
        if before is not None:
            check_unchanged(source_fd, before)
        os.fchmod(fd, 0o640)
        os.utime(fd, (MTIME_S, MTIME_S))
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if digest_of(fd) != expected:
            raise DigestMismatch("the output reads back differently from what was written")
        _give_name(fd, hidden if named else None, target)
        sync_folder(target.parent)
        return expected
    except OSError as error:
        raise tier_error(error) from error
    finally:
        os.close(fd)
        if named:
            hidden.unlink(missing_ok=True)


class _Part:
    """One file of a group on its way. `failed` is what its neighbours do not suffer from."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.target = wanted.target
        self.failed: MoverError | None = None
        self._hidden = self.target.with_name(f".{self.target.name}.{random_bytes(4).hex()}.part")
        self._fd, self._named = _open_nameless(self.target.parent, self._hidden)
        self._digest = ""

    def write(self) -> None:
        wanted = self.wanted
        self._digest = pour(self._fd, wanted.source, wanted.recipe)
        if wanted.before is not None:
            check_unchanged(wanted.source, wanted.before)
        os.fchmod(self._fd, 0o640)
        os.utime(self._fd, (MTIME_S, MTIME_S))
        start_writeback(self._fd, 0, 0)

    def sync(self) -> None:
        os.fsync(self._fd)

    def make_sure(self) -> None:
        """Durable, and equal to what was written when read past the cache."""
        self.sync()
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if _digest_past_cache(self._fd) != self._digest:
            raise DigestMismatch("the output reads back differently from what was written")

    def give_name(self) -> str:
        _give_name(self._fd, self._hidden if self._named else None, self.target)
        return self._digest

    def close(self) -> None:
        os.close(self._fd)
        if self._named:
            self._hidden.unlink(missing_ok=True)


def write_outputs(group: Sequence[Wanted], *, read_back: bool = True) -> list[str | MoverError]:
    """As `write_output`, for many small files together: for each, in order, its digest or why it alone is not written.
    Raises what ends the whole group: a full disk, a name that is taken. Then nothing more gets a name. Only who
    compares with tools that do not read back what they wrote leaves it out (`bench`)."""
    found: list[str | MoverError] = []
    for at in range(0, len(group), GROUP_FILES):
        found += _write_group(group[at : at + GROUP_FILES], read_back)
    return found


def _write_group(group: Sequence[Wanted], read_back: bool) -> list[str | MoverError]:
    parts: list[_Part] = []
    try:
        for wanted in group:
            parts.append(_Part(wanted))
            _try(parts[-1], parts[-1].write)
        with ThreadPoolExecutor(min(SYNC_THREADS, max(1, len(parts)))) as pool:
            list(pool.map(lambda one: _try(one, one.make_sure if read_back else one.sync), parts))
        found = [one.failed or one.give_name() for one in parts]
        for folder in dict.fromkeys(one.target.parent for one in parts):
            sync_folder(folder)
        return found
    except OSError as error:
        raise tier_error(error) from error
    finally:
        for one in parts:
            one.close()


def _try(part: _Part, step: Callable[[], None]) -> None:
    """What is the matter with one source, or one copy of it, is that file's own."""
    if part.failed is None:
        try:
            step()
        except IntegrityError as error:
            part.failed = error


def _open_nameless(folder: Path, hidden: Path) -> tuple[int, bool]:
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600), False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    return os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), True


def _give_name(fd: int, hidden: Path | None, target: Path) -> None:
    """link(2) refuses a taken name, so nothing is overwritten."""
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if hidden is None:
            # With a folder's descriptor Python calls linkat(2), which follows this link to the nameless file.
            os.link(f"/proc/self/fd/{fd}", target.name, dst_dir_fd=folder, follow_symlinks=True)
        else:
            os.link(hidden, target.name, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError as error:
        raise EntryExists("an output of that number is already there") from error
    finally:
        os.close(folder)


def pour(fd: int, source_fd: int, recipe: Recipe) -> str:
    digest = _hasher(recipe.size_bytes)
    for data in _made(source_fd, recipe):
        digest.update(data)
        write_all(fd, data)
    return digest.hexdigest()


def recipe_digest(source_fd: int, recipe: Recipe) -> str:
    """What the output would be, without writing it."""
    digest = _hasher(recipe.size_bytes)
    for data in _made(source_fd, recipe):
        digest.update(data)
    return digest.hexdigest()


def _hasher(size_bytes: int) -> blake3:
    """Small files are hashed many at a time, one thread each."""
    return blake3(max_threads=blake3.AUTO if size_bytes >= THREADED_BYTES else 1)


def _made(source_fd: int, recipe: Recipe) -> Iterator[bytes]:
    for segment in recipe.segments:
        for at in range(0, segment.length, STEP_BYTES):
            length = min(STEP_BYTES, segment.length - at)
            if isinstance(segment, Bytes):
                yield segment.data[at : at + length]
            else:
                yield _read_exactly(source_fd, segment.offset + at, length)


def _read_exactly(fd: int, offset: int, length: int) -> bytes:
    data = os.pread(fd, length, offset)
    while len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            raise ShortRead("the file is shorter than it was")
        data += more
    return data


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def append_synced(fd: int, line: bytes) -> None:
    write_all(fd, line)
    os.fsync(fd)


def write_private(path: Path, data: bytes, *, replace: bool = True) -> None:
    """0600 from the first byte on, replaced in one step, or with `replace=False` left as it is (EntryExists)."""
    try:
        if replace:
            write_over(path, data)
        else:
            write_new(path, data)
    except FileExistsError as error:
        raise EntryExists("there is a file of that name; it was left as it is", hint="Name another file.") from error
    except OSError as error:
        raise tier_error(error, of="the file") from error


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise tier_error(error) from error


def digest_of(fd: int) -> str:
    """Of what is there now, though it be shorter or longer than it was. No more room is asked for than is read."""
    size_bytes = os.fstat(fd).st_size
    digest = _hasher(size_bytes)
    at = 0
    while chunk := os.pread(fd, max(1, min(STEP_BYTES, size_bytes - at)), at):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


class _Block(threading.local):
    """Room for direct reads, aligned as a page is; one for each thread."""

    def __init__(self) -> None:
        self.view = memoryview(mmap.mmap(-1, DIRECT_BYTES))


_BLOCK = _Block()


def _digest_past_cache(fd: int) -> str:
    """As `digest_of`; where the file system can, straight from the device, which spares the cache one more copy."""
    direct = open_direct(fd, os.O_RDONLY)
    if direct < 0:
        return digest_of(fd)
    digest, at = blake3(max_threads=1), 0
    try:
        while count := os.preadv(direct, [_BLOCK.view], at):
            digest.update(_BLOCK.view[:count])
            at += count
            if count % ALIGNMENT:
                break
        return digest.hexdigest()
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return digest_of(fd)
    finally:
        os.close(direct)


def digest_of_file(path: Path) -> tuple[str, int]:
    """Digest and size of an output that lies there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise tier_error(error) from error
    try:
        return digest_of(fd), os.fstat(fd).st_size
    finally:
        os.close(fd)


def check_unchanged(fd: int, before: os.stat_result) -> None:
    now = os.fstat(fd)
    if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (before.st_size, before.st_mtime_ns, before.st_ctime_ns):
        raise ChangedWhileReading("the source changed while it was read")
