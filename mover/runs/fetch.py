"""One archived file to the content store of a flash tier: from the copy it was published as, or from the second one.

What is read is believed only for its digest. A copy that is gone or holds other bytes is a doubt in the catalog: it is
read again and repaired by whoever keeps the archive (`moving.archives`), while the run goes on from the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from mover.model.recipe import plain_copy
from mover.runs.roots import content_key
from mover.runs.site import Flash
from mover.tiers.port import ReadTier, WriteTier
from mover.transfer import Transfer

SQL = load(__file__)

log = get_logger("runs")


class Fetch:
    def __init__(
        self, database: Database, tiers: Mapping[str, ReadTier], flash: dict[str, Flash], transfer: Transfer
    ) -> None:
        self._database, self._tiers, self._flash, self._transfer = database, tiers, flash, transfer

    async def fetch(self, shard: Shard, tier: str, entry: Any) -> None:
        """Raises ArchiveLost when every copy was looked at and none is whole. While one cannot be looked at, its
        tier's error is raised, and staging waits."""
        async with self._database.project(shard.project) as conn:
            copies = await SQL.many(conn, "copies", number=entry.number)
        away: MoverError | None = None
        for name in (entry.archive_tier, *(one.tier for one in copies)):
            try:
                await in_thread(self._read, name, tier, entry)
            except (EntryMissing, DigestMismatch) as error:
                await self._doubt(shard, name, entry, error)
            except (TierUnavailable, TierDenied) as error:
                away = away or error
            else:
                if name != entry.archive_tier:
                    metrics.STAGED_FROM_COPY.labels(name).inc()
                return
        raise away or ArchiveLost("no copy of an archived file is whole", where=entry.number)

    async def _doubt(self, shard: Shard, name: str, entry: Any, error: MoverError) -> None:
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
            try:
                self._transfer.run_recipe(
                    plain_copy(entry.size_bytes), source=opened, source_tier=source, target=target,
                    key=content_key(entry.digest), expected=entry.digest,
                )  # fmt: skip
            except EntryExists:
                # an earlier attempt, or another run, put it there before its row was written
                try:
                    self._flash[target.name].roots.check_content(entry.digest)
                except DigestMismatch as error:
                    set_aside(self._flash[target.name], target.name, entry.digest)
                    raise ChangedWhileReading("content on flash was damaged and is fetched anew") from error


def set_aside(flash: Flash, tier: str, digest: str) -> None:
    """Other runs may hold the same inode: a person has to know."""
    log.error("content damaged", tier=tier, digest=digest)
    flash.roots.set_aside(digest)
