"""The tables' bytes, read once from the source tier and held still while they are examined.

They are copied into sealed memory files: both looks of the child see the same bytes, whatever happens on the
source meanwhile, and nothing of them ever stands on a disk of ours.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial

from blake3 import blake3
from msgspec import Struct

from mover.errors import EntryMissing, StructureInvalid
from mover.tiers.port import ReadTier

TABLE_BYTES_MAX = 256 << 20
TOTAL_BYTES_MAX = 512 << 20


class Gathered(Struct, frozen=True):
    """Descriptors and digests in the order asked for."""

    fds: tuple[int, ...]
    digests: dict[str, str]
    size_bytes: int


@contextmanager
def gathered(tier: ReadTier, files: Mapping[str, str]) -> Iterator[Gathered]:
    """The tables (name -> key on the tier); blocking. Raises EntryMissing naming the table, StructureInvalid
    when a table is larger than it may be, and the tier's own errors."""
    with ExitStack() as stack:
        tier.check_identity()
        fds, digests, total = [], {}, 0
        for name, key in files.items():
            fd = os.memfd_create("table", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            stack.callback(os.close, fd)
            digests[name], size = _fill(fd, tier, name, key)
            total += size
            if total > TOTAL_BYTES_MAX:
                raise StructureInvalid(f"the tables have more than {TOTAL_BYTES_MAX} bytes together")
            fds.append(fd)
        yield Gathered(fds=tuple(fds), digests=digests, size_bytes=total)


@asynccontextmanager
async def held(tier: ReadTier, files: Mapping[str, str]) -> AsyncIterator[Gathered]:
    """`gathered` for the event loop. A cancelled caller leaves the reading thread to its end, and whatever it
    opened is closed then: memory files must not outlive their shard."""
    stack = ExitStack()
    work = asyncio.ensure_future(asyncio.to_thread(stack.enter_context, gathered(tier, files)))
    try:
        yield await asyncio.shield(work)
    finally:
        if work.done():
            stack.close()
        else:
            work.add_done_callback(partial(_end, stack))


def _end(stack: ExitStack, work: asyncio.Future[Gathered]) -> None:
    if not work.cancelled():
        work.exception()
    stack.close()


def _fill(fd: int, tier: ReadTier, name: str, key: str) -> tuple[str, int]:
    digest, size = blake3(), 0
    try:
        for chunk in tier.stream(key):
            size += len(chunk)
            if size > TABLE_BYTES_MAX:
                raise StructureInvalid(f"the table has more than {TABLE_BYTES_MAX} bytes", where=f"table {name}")
            digest.update(chunk)
            _write(fd, chunk)
    except EntryMissing as error:
        raise EntryMissing("the file of a declared table is not there", where=f"table {name}") from error
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return digest.hexdigest(), size


def _write(fd: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(fd, view) :]
