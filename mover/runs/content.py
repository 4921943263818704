"""The content store of a flash tier, as the catalog knows it; the files themselves are `roots`' work.

A row says that a digest stands there, and its mark how the inode looked after our own last link or unlink. Bytes whose
inode still looks so were touched by nobody else, and are shared without reading them. Every link, unlink and judgement
is one transaction with the mark it leaves, under the digests' locks; a kill between the two leaves a mark that moved,
which costs a read and never a wrong belief. A row without a mark is content that nobody vouches for: a fetch that was
given up left it. It makes room for others as any content does, and is read before it is shared.

What must not be shared any more is set aside and told to every run that holds it (I4). What is set aside, here and by
cleanup, is kept for as long as the tier's policy says, and goes with a record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.eviction import Idle, plan_eviction
from mover.decide.setaside import Aside, Purge, plan_purge
from mover.errors import TierFull
from mover.jobs import in_thread
from mover.log import get_logger
from mover.model.policy import CleanPolicy
from mover.runs.roots import STRAYS, ContentFile, FlashRoots
from mover.runs.site import Flash
from mover.tiers.port import deletion_off

SQL = load(__file__)
# linked, unlinked or judged in one transaction: each digest's lock takes a place in the database's shared table
AT_ONCE = 256
# beside the copy itself: manifests, records.parquet, and what jobs write into out/
HEADROOM_BYTES = 64 << 20
# idle digests looked at together; more of them are looked at while there is no room
EVICT_MAX = 10_000
# strays of so many runs, and so many damaged files, go in one turn
PURGED_AT_ONCE = 100

log = get_logger("runs")


async def locked(conn: Connection, tier: str, digests: Sequence[str] | set[str]) -> dict[str, str]:
    """From here to the commit nobody else links, judges or evicts these; digest -> mark of those that are known."""
    held = {"tier": tier, "digests": list(digests)}
    await conn.execute(SQL["lock_digests"], held)
    return await marks_of(conn, tier, digests)


async def marks_of(conn: Connection, tier: str, digests: Sequence[str] | set[str]) -> dict[str, str]:
    """Digests that may stand on flash: who finds there what it did not expect reads it."""
    return {row.digest: row.mark for row in await SQL.many(conn, "contents", tier=tier, digests=list(digests))}


async def put(conn: Connection, tier: str, sizes: Mapping[str, int], marks: Mapping[str, str]) -> None:
    """These stand there, read back; `sizes` and `marks` by digest."""
    values = {"digests": list(sizes), "sizes": list(sizes.values()), "marks": [marks[one] for one in sizes]}
    await conn.execute(SQL["put_contents"], {"tier": tier, **values})


async def forget(conn: Connection, tier: str, digest: str) -> None:
    """It does not stand there any more."""
    await conn.execute(SQL["drop_content"], {"tier": tier, "digest": digest})


async def unlinked(conn: Connection, tier: str, marks: Mapping[str, str]) -> None:
    """Our own unlinks moved these, under the digests' locks."""
    if marks:
        values = {"digests": list(marks), "marks": list(marks.values())}
        await conn.execute(SQL["unlinked"], {"tier": tier, **values})


async def set_aside(conn: Connection, flash: Flash, tier: str, digest: str) -> None:
    """Damaged content loses its name and its row; the runs that hold its inode are told. The caller holds its lock. A
    kill before the commit leaves a file among the damaged that is on no record; the next sweep finds it and tells."""
    await _tell_damaged(conn, tier, await in_thread(flash.roots.set_aside, digest))
    await forget(conn, tier, digest)


async def _tell_damaged(conn: Connection, tier: str, aside: ContentFile) -> None:
    values = {"tier": tier, "digest": aside.digest, "moved_to": aside.key, "size_bytes": aside.size_bytes}
    await conn.execute(SQL["put_damaged"], values)
    told = await SQL.many(conn, "tell_damaged", tier=tier, digest=aside.digest)
    metrics.CONTENT_DAMAGED.labels(tier).inc()
    log.error("content damaged", tier=tier, digest=aside.digest, count=len(told))
    for one in told:
        log.error("run holds damaged content", project=one.project, run=one.run, digest=aside.digest)


class ContentStore:
    """What is done to the whole store of a tier."""

    def __init__(self, database: Database, flash: dict[str, Flash], *, node: str) -> None:
        self._database, self._flash, self._node = database, flash, node

    def _roots(self, tier: str) -> FlashRoots:
        return self._flash[tier].roots

    # --- room -----------------------------------------------------------------------------------------------

    async def make_room(self, project: str, tier: str, need_bytes: int) -> None:
        """Evict what no live run holds, least recently used first, when `need_bytes` would not fit otherwise."""
        _, free = await in_thread(self._roots(tier).space)
        missing = need_bytes + HEADROOM_BYTES - free if need_bytes and not deletion_off(self._roots(tier)) else 0
        while missing > 0:
            async with self._database.project(project) as conn:
                rows = await SQL.many(conn, "evictable", tier=tier, limit=EVICT_MAX)
            steps = plan_eviction([Idle(row.digest, row.size_bytes) for row in rows], need_bytes=missing)
            if not steps:
                return
            for at in range(0, len(steps), AT_ONCE):
                await self.evict(project, tier, [step.digest for step in steps[at : at + AT_ONCE]])
            freed = sum(step.size_bytes for step in steps)
            missing -= freed
            log.info("content evicted", tier=tier, count=len(steps), bytes=freed)

    @asynccontextmanager
    async def room_for_next_try(self, project: str, tier: str) -> AsyncIterator[None]:
        """Work that found the tier full is tried again, and should then find room, if idle content is all that fills
        it: names, folders and manifests need little, and wait for no admission."""
        try:
            yield
        except TierFull:
            await self.make_room(project, tier, HEADROOM_BYTES)
            raise

    async def evict(self, project: str, tier: str, digests: list[str]) -> None:
        """The rows go before the files, each under the digests' locks: a crash between leaves bytes without a row,
        which the next sweep or staging of that digest finds; never a row without bytes. Whoever took a digest in
        between has written its row again, and keeps the file."""
        async with self._database.project(project) as conn:
            await locked(conn, tier, digests)
            await conn.execute(SQL["drop_idle"], {"tier": tier, "digests": digests})
        async with self._database.project(project) as conn:
            taken = await locked(conn, tier, digests)
            await in_thread(self._roots(tier).evict, [digest for digest in digests if digest not in taken])

    # --- what has no row --------------------------------------------------------------------------------------

    async def adopt(self, project: str, tier: str, digests: Sequence[str]) -> int:
        """Rows for those of these digests that stand there without one; how many. Nothing is removed by it: what a
        fetch brings at this moment gets its true row from whoever links it."""
        adopted = 0
        for at in range(0, len(digests), AT_ONCE):
            part = digests[at : at + AT_ONCE]
            async with self._database.project(project) as conn:
                known = await marks_of(conn, tier, part)
                found = await in_thread(self._roots(tier).content_standing, [one for one in part if one not in known])
                values = {
                    "digests": [one.digest for one in found], "sizes": [one.size_bytes for one in found],
                    "since": [one.since_s for one in found],
                }  # fmt: skip
                await conn.execute(SQL["adopt"], {"tier": tier, **values})
            adopted += len(found)
        return adopted

    async def sweep(self, project: str, tier: str) -> int:
        """Every file of the store has a row, and every damaged one is on record and told; how many contents had none.
        A folder of the store at a time: 256 hold all of it."""
        roots, found = self._roots(tier), 0
        await in_thread(roots.check_identity)
        for folder in await in_thread(roots.content_folders):
            found += await self.adopt(
                project, tier, [one.digest for one in await in_thread(roots.content_files, folder)]
            )
        for aside in await in_thread(roots.damaged):
            async with self._database.project(project) as conn:
                await conn.execute(SQL["lock_digests"], {"tier": tier, "digests": [aside.digest]})
                if not await SQL.many(conn, "damaged_known", tier=tier, key=aside.key):
                    await _tell_damaged(conn, tier, aside)
        if found:
            log.info("content adopted", tier=tier, count=found)
        return found

    # --- what was set aside -----------------------------------------------------------------------------------

    async def purge(self, project: str, tier: str, policy: CleanPolicy) -> int:
        """What was set aside and held for long enough goes: strays of the tier's runs, of every project, and damaged
        content. On record first; a kill before the row says that it is gone leaves work to repeat."""
        if policy.aside_s is None or deletion_off(self._roots(tier)):
            return 0
        limits = {"tier": tier, "held_s": policy.aside_s, "limit": PURGED_AT_ONCE}
        async with self._database.project(project) as conn:
            strays = {row.run_id: row for row in await SQL.many(conn, "strays_due", **limits)}
            damaged = {row.moved_to: row for row in await SQL.many(conn, "damaged_due", **limits)}
        aside = [Aside(row.run_id, row.files, row.bytes, row.age_s) for row in strays.values()]
        aside += [Aside(row.moved_to, 1, row.size_bytes, row.age_s) for row in damaged.values()]
        plan = plan_purge(aside, held_s=policy.aside_s, policy=policy.name, most=PURGED_AT_ONCE)
        for step in plan:
            run = strays.get(step.what)
            await self._purge(run.project_id if run else project, tier, step, run=run is not None)
        return len(plan)

    async def _purge(self, project: str, tier: str, step: Purge, *, run: bool) -> None:
        async with self._database.project(project) as conn:
            await audit.record(
                conn, project=project, node=self._node, actor="daemon", subject=step.what, reason=step.reason,
                action="strays purged" if run else "damaged content purged",
                details={"tier": tier, "files": step.files, "bytes": step.bytes},
            )  # fmt: skip
        await in_thread(self._roots(tier).purge, f"{STRAYS}/{step.what}" if run else step.what)
        async with self._database.project(project) as conn:
            if run:
                await conn.execute(SQL["strays_purged"], {"run": step.what})
            else:
                await conn.execute(SQL["damaged_purged"], {"tier": tier, "key": step.what})
        log.info("set aside purged", tier=tier, files=step.files, bytes=step.bytes)
