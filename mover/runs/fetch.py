"""Archived files to the content store of a flash tier: from the copies they were published as, or from second ones.

The engine carries them as it carries everything, small ones in groups with one sync, each against the digest that the
catalog promised. What it could not bring is tried again one by one, from every copy in turn.

What is read is believed only for its digest. A copy that is gone or holds other bytes is a doubt in the catalog: it is
read again and repaired by whoever keeps the archive (`moving.archives`), while the run goes on from the other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import Any, cast

from msgspec import Struct

from mover import metrics
from mover.catalog.database import Database
from mover.catalog.queries import load
from mover.errors import (
    ArchiveLost,
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    EntryMissing,
    MoverError,
    TierDenied,
    TierUnavailable,
)
from mover.jobs import Shard, in_thread
from mover.log import get_logger
from mover.model.moving import Item, Keep, Options, Outcome
from mover.model.recipe import plain_copy
from mover.runs import content
from mover.runs.roots import content_key
from mover.runs.site import Flash
from mover.tiers.port import ReadTier, WriteTier
from mover.tiers.staging import StagingTier
from mover.transfer import Carrier

SQL = load(__file__)
# what the engine could not bring
ALONE_AT_ONCE = 4
# objects whose version is asked for before they are read
ASKED_AT_ONCE, ASKED_AHEAD = 16, 256
# content has no owner, mode or time of its own: whoever shares it gives it a mode, and its time says when it came
OPTIONS = Options(keep=Keep(mode=False, mtime=False))

log = get_logger("runs")


class Fetched(Struct, frozen=True):
    """Entries whose content is durable and read back, and those of which no copy is whole."""

    entries: list[Any]
    lost: list[Any]


class Fetch:
    def __init__(
        self, database: Database, tiers: Mapping[str, ReadTier], flash: dict[str, Flash], carrier: Carrier
    ) -> None:
        self._database, self._tiers, self._flash, self._carrier = database, tiers, flash, carrier
        self._judging = asyncio.Lock()

    async def fetch(self, shard: Shard, tier: str, entries: Sequence[Any]) -> AsyncGenerator[Fetched, None]:
        """Each entry once, as it comes. While a copy cannot be looked at and none is whole, its tier's error is
        raised, after all that the engine could bring, and staging waits."""
        waiting: dict[str, list[Any]] = {}
        for entry in entries:
            waiting.setdefault(entry.digest, []).append(entry)
        for archive in dict.fromkeys(entry.archive_tier for entry in entries):
            ours = [these[0] for these in waiting.values() if these[0].archive_tier == archive]
            async with aclosing(self._carried(archive, tier, ours)) as coming:
                async for digests in coming:
                    yield Fetched([entry for digest in digests for entry in waiting.pop(digest)], [])
        left = list(waiting.values())
        for at in range(0, len(left), ALONE_AT_ONCE):
            yield await self._alone(shard, tier, left[at : at + ALONE_AT_ONCE])

    async def _carried(self, archive: str, tier: str, entries: list[Any]) -> AsyncGenerator[list[str], None]:
        """Digests as the engine brings them. What it does not bring is nobody's fault yet, and is tried alone."""
        source, target = self._tiers.get(archive), self._tiers[tier]
        if source is None or not entries:
            return
        stop = threading.Event()
        carrying = self._carrier.carry(
            _items(source, entries), source=source, target=cast(StagingTier, target), options=OPTIONS,
            stopped=stop.is_set,
        )  # fmt: skip
        try:
            while (outcomes := await in_thread(next, carrying, None)) is not None:
                yield [one.blake3 for one in outcomes if one.state in ("moved", "present")]
        except (TierUnavailable, TierDenied) as error:
            log.warning("archive away", tier=archive, code=error.code)
        finally:
            stop.set()
            await in_thread(cast(Generator[list[Outcome], None, None], carrying).close)

    async def _alone(self, shard: Shard, tier: str, some: list[list[Any]]) -> Fetched:
        """The first error, when all of them were tried."""
        tried = await asyncio.gather(*(self._one(shard, tier, these[0]) for these in some), return_exceptions=True)
        entries, lost = [], []
        for these, error in zip(some, tried, strict=True):
            if isinstance(error, ArchiveLost):
                lost += these
            elif error is None:
                entries += these
        found = next((one for one in tried if one is not None and not isinstance(one, ArchiveLost)), None)
        if found is not None:
            raise found
        return Fetched(entries, lost)

    async def _one(self, shard: Shard, tier: str, entry: Any) -> None:
        """Raises ArchiveLost when every copy was looked at and none is whole. While one cannot be looked at, its
        tier's error is raised."""
        async with self._database.project(shard.project) as conn:
            copies = await SQL.many(conn, "copies", number=entry.number)
        away: MoverError | None = None
        for name in (entry.archive_tier, *(one.tier for one in copies)):
            try:
                await in_thread(self._read, name, tier, entry)
            except EntryExists:
                # an earlier attempt, or another run, put it there before its row was written
                return await self.judge(shard, tier, entry.digest)
            except (EntryMissing, DigestMismatch) as error:
                await self.doubt(shard, name, entry, error)
            except (TierUnavailable, TierDenied) as error:
                away = away or error
            else:
                if name != entry.archive_tier:
                    metrics.STAGED_FROM_COPY.labels(name).inc()
                return None
        raise away or ArchiveLost("no copy of an archived file is whole", where=entry.number)

    async def judge(self, shard: Shard, tier: str, digest: str) -> None:
        """Content that stands there without a row is whole, or is set aside and fetched anew. Under its lock, so that
        what another fetched since is not taken for it; one at a time, because a connection waits meanwhile."""
        async with self._judging, self._database.project(shard.project) as conn:
            await content.locked(conn, tier, {digest})
            try:
                return await in_thread(self._flash[tier].roots.check_content, digest)
            except DigestMismatch:
                await content.set_aside(conn, self._flash[tier], tier, digest)
        raise ChangedWhileReading("content on flash was damaged and is fetched anew", where=tier)

    async def doubt(self, shard: Shard, name: str, entry: Any, error: MoverError) -> None:
        log.error("archived file not whole", tier=name, number=entry.number, code=error.code)
        async with self._database.project(shard.project) as conn:
            values = {"project": shard.project, "tier": name, "key": entry.archive_key, "reason": error.code}
            await conn.execute(SQL["doubt"], values)

    # --- blocking -------------------------------------------------------------------------------------------

    def _read(self, name: str, tier: str, entry: Any) -> None:
        source, target = self._tiers.get(name), self._tiers[tier]
        if source is None:
            raise TierUnavailable("this node does not reach the tier", where=name)
        assert isinstance(target, WriteTier)
        try:
            self._copy(source, target, entry)
        except DigestMismatch:
            # other bytes may come from the way as well as from the disk
            self._copy(source, target, entry)

    def _copy(self, source: ReadTier, target: WriteTier, entry: Any) -> None:
        with source.open(entry.archive_key) as opened:
            if opened.size_bytes != entry.size_bytes:
                raise DigestMismatch("the archive holds other bytes than the catalog says", where=entry.number)
            self._carrier.transfer.run_recipe(
                plain_copy(entry.size_bytes), source=opened, source_tier=source, target=target,
                key=content_key(entry.digest), expected=entry.digest,
            )  # fmt: skip


def _items(source: ReadTier, entries: Sequence[Any]) -> Iterator[Item]:
    """As they stand now; one that is missing or of another size is looked at alone. Objects are asked many at once."""
    if source.kind != "object":
        yield from filter(None, map(partial(_item, source), count(), entries))
        return
    with ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="asked") as pool:
        for at in range(0, len(entries), ASKED_AHEAD):
            yield from filter(None, pool.map(partial(_item, source), count(at), entries[at : at + ASKED_AHEAD]))


def _item(source: ReadTier, id: int, entry: Any) -> Item | None:
    try:
        seen = source.stat(entry.archive_key).fingerprint
    except EntryMissing:
        return None
    if seen.size_bytes != entry.size_bytes:
        return None
    return Item(id, entry.archive_key, content_key(entry.digest), "file", seen, blake3=entry.digest)
