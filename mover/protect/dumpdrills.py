"""A dump that was never restored is a hope. Drills, and the restore itself.

A drill reads both copies cold, digest and structure. Where both key files are given to this machine, or to the command
of a person who has them, it also restores the dump into a scratch database of the same cluster and compares every
table. Without them **that the dump opens is not tried**, and the drill says `read`, not `restore`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.catalog.dumping import Dumper, TableFacts, differing
from mover.clock import monotonic_s
from mover.deid.sealedstream import open_sealed
from mover.deid.vaultkeys import RevealKey, VaultKey
from mover.errors import ConfigError, Denied, EntryMissing, IntegrityError, MoverError
from mover.jobs import Shard, finish_shard, in_thread
from mover.jobs.shards import renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.protect import dumpfiles
from mover.protect.dumpfiles import Told, Written
from mover.protect.dumps import SQL, Dumps
from mover.protect.site import ProtectSite
from mover.randomness import new_id, random_bytes
from mover.tiers.port import ReadTier

log = get_logger("dumps")


class Compared(Struct, frozen=True):
    """What a restore into a scratch database showed; `different` names tables."""

    tables: int
    rows: int
    different: tuple[str, ...]


class Found(Struct, frozen=True):
    """What a drill found; `why` is empty when it passed. `damaged`: tiers whose copy is not what was written."""

    restored: Compared | None
    damaged: tuple[str, ...]
    why: str
    note: str = ""

    @property
    def passed(self) -> bool:
        return not self.why

    @property
    def kind(self) -> Literal["read", "restore"]:
        return "read" if self.restored is None else "restore"


# --- what needs no catalog: for a person with both key files ------------------------------------------------


def restore(dumper: Dumper, tier: ReadTier, told: Told, prefix: str, *, key: RevealKey) -> Compared:
    """Blocking. Reads the copy once for its digest, once to restore it, and compares every table. Conflict when the
    database is not empty; DigestMismatch before anything is restored."""
    where = dumpfiles.file_key(prefix, told.dump, told.file)
    dumpfiles.read_back(tier, where, Written(told.digest, told.size_bytes))
    dumper.restore(open_sealed(tier.stream(where, cold=True), key))
    return _compared(told.tables, dumper.facts())


def drill(dumper: Dumper, tier: ReadTier, told: Told, prefix: str, *, key: RevealKey) -> Compared:
    """Blocking. As `restore`, into a scratch database that is gone afterwards."""
    with dumper.scratch(random_bytes(6).hex()) as scratch:
        return restore(scratch, tier, told, prefix, key=key)


def trusted(tier: ReadTier, prefix: str, dump: str | None, *, key: VaultKey, site: str) -> Told:
    """Blocking. The sidecar of the named dump, or of the latest, signed with this vault's key."""
    sidecar = dumpfiles.find(tier, prefix, dump)
    dumpfiles.check_signed(sidecar, key)
    if sidecar.told.site != site:
        raise IntegrityError(f"this is a dump of the site {sidecar.told.site}", where=sidecar.told.dump)
    return sidecar.told


def _compared(wanted: Mapping[str, TableFacts], found: dict[str, TableFacts]) -> Compared:
    rows = sum(one.rows for one in found.values())
    return Compared(len(found), rows, tuple(differing(dict(wanted), found)))


# --- the daemon's own drills ---------------------------------------------------------------------------------


class DumpDrills:
    def __init__(self, site: ProtectSite, dumps: Dumps) -> None:
        self._site, self._dumps = site, dumps

    async def drill(self, shard: Shard) -> None:
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            row = await SQL.one(conn, "drill", id=shard.subject_id)
            dump = await SQL.one(conn, "get", id=row.dump_id)
            copies = await SQL.many(conn, "copies", ids=[dump.id])
            if row.passed is not None:
                await finish_shard(conn, shard)
                return
        began_s = monotonic_s()
        found = await in_thread(self._drill, dump, copies)
        await self._end(shard, dump, copies, found, seconds=monotonic_s() - began_s)

    def _drill(self, dump: Any, copies: list[Any]) -> Found:
        """Blocking. TierUnavailable is raised: an answer that did not come is no finding."""
        wanted = Written(dump.digest, dump.size_bytes)
        damaged, whole = [], []
        for copy in copies:
            tier = self._site.tiers[copy.tier]
            try:
                dumpfiles.read_back(tier, copy.key, wanted)
                whole.append((tier, copy.key))
            except (IntegrityError, EntryMissing) as error:
                damaged.append((copy.tier, error.what))
        if damaged:
            why = "; ".join(f"{tier}: {what}" for tier, what in damaged)
            return Found(None, tuple(tier for tier, _ in damaged), why)
        return self._restored(dump, *whole[0])

    def _restored(self, dump: Any, tier: ReadTier, key: str) -> Found:
        try:
            keys = self._dumps.means.drill_keys
            joined = RevealKey.join(*keys) if keys is not None else None
        except (ConfigError, Denied) as error:
            return Found(None, (), "", f"that it opens was not tried: {error.what}")
        if joined is None:
            return Found(None, (), "", "that it opens was not tried: the key files are not on this machine")
        try:
            with self._dumps.means.dumper.scratch(random_bytes(6).hex()) as scratch:
                scratch.restore(open_sealed(tier.stream(key, cold=True), joined))
                compared = _compared(msgspec.convert(dump.facts, dict[str, TableFacts]), scratch.facts())
        except (IntegrityError, Denied) as error:
            return Found(None, (), f"it does not open: {error.what}")
        return _judged(compared)

    async def _end(self, shard: Shard, dump: Any, copies: list[Any], found: Found, *, seconds: float) -> None:
        async with self._site.database.project(shard.project) as conn:
            await SQL.one(conn, "lock", id=dump.id)
            for copy in copies:
                state = "damaged" if copy.tier in found.damaged else "whole"
                await conn.execute(SQL["read"], {"dump": dump.id, "tier": copy.tier, "state": state})
            if found.passed:
                await conn.execute(SQL["drilled"], {"id": dump.id})
            else:
                await conn.execute(SQL["damaged"], {"id": dump.id, "explanation": found.why})
            await _ended(conn, shard.subject_id, found, seconds=seconds)
            await finish_shard(conn, shard)
            action = "dump drilled" if found.passed else "dump found damaged"
            why = found.why or found.note
            await self._site.record(conn, shard.project, action, dump.id, reason=why, kind=found.kind)
        metrics.DUMP_DRILLS.labels(found.kind, "passed" if found.passed else "failed").inc()
        if not found.passed:
            log.error("dump found damaged", subject=dump.id, what=found.why)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """It could not be looked at: that is no finding about the dump."""
        await _ended(conn, shard.subject_id, Found(None, (), f"{error.code}: {error.what}"), seconds=None)
        metrics.DUMP_DRILLS.labels("read", "failed").inc()
        log.error("dump not drilled", subject=shard.subject_id, code=error.code)
        await self._site.record(conn, shard.project, "dump not drilled", shard.subject_id, reason=error.code)


async def record_drill(
    database: Database, project: str, *, node: str, dump: str, actor: str, purpose: str, compared: Compared,
    seconds: float,
) -> bool:  # fmt: skip
    """What a person's drill showed; False when the catalog knows no such dump (it is older than a restore)."""
    drill_id = new_id("drill")
    found = _judged(compared)
    async with database.project(project) as conn:
        if await SQL.one(conn, "lock", id=dump) is None:
            return False
        values = {"id": drill_id, "project": project, "dump": dump, "kind": "restore", "by": actor}
        await conn.execute(SQL["begin_drill"], values)
        await _ended(conn, drill_id, found, seconds=seconds)
        await conn.execute(SQL["drilled"], {"id": dump})
        await audit.record(
            conn, project=project, node=node, actor=actor, action="dump drilled", subject=dump, reason=purpose,
            details={"kind": "restore", "passed": found.passed},
        )  # fmt: skip
    return True


async def _ended(conn: Connection, drill_id: str, found: Found, *, seconds: float | None) -> None:
    values = {
        "id": drill_id, "passed": found.passed, "kind": found.kind, "explanation": found.why or found.note or None,
        "tables": found.restored.tables if found.restored else 0, "rows": found.restored.rows if found.restored else 0,
        "seconds": seconds,
    }  # fmt: skip
    await conn.execute(SQL["end_drill"], values)


def _judged(compared: Compared) -> Found:
    why = f"tables differ after a restore: {', '.join(compared.different)}" if compared.different else ""
    return Found(compared, (), why)
