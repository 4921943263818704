"""Step 5: the run root goes, strays are moved aside, and a listing proves it (shard `run-clean`).

Order: the site's hooks come first (`hooks`); the plan is made from what stands there then; every stray is recorded
before it is moved, and moved before anything is removed; names that share content go in groups, each with the marks
that this leaves; the root goes last; then the proof of emptiness and `cleaned` in one transaction.
A crash leaves either the old root or a part of it, and the next attempt plans again from what is left.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover import __version__, audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.cleanup import CleanStep, Standing, plan_cleanup
from mover.errors import EntryLocked, HookFailed, IntegrityError, MoverError, NotProtected
from mover.jobs import Shard, finish_shard, in_thread
from mover.jobs.shards import others_running, postpone_shard, renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.manifest import ManifestEntry, manifest_root
from mover.model.names import path_text
from mover.runs import content
from mover.runs.content import ContentStore
from mover.runs.hooks import Hooks
from mover.runs.roots import FlashRoots, Shared, hash_file, run_key
from mover.runs.runs import Runs
from mover.runs.site import Flash, entries_of, lock, manifest_of, names_of, step, tars_of
from mover.runs.stage import groups
from mover.tiers.port import deletion_off

SQL = load(__file__)
# until it is looked again whether somebody still works on the run
OTHERS_S = 1.0
# how soon a run whose tier deletes nothing is asked about again: switching on takes a restart
SWITCHED_S = 60.0
# strays recorded by one statement
STRAYS_SLICE = 5000

log = get_logger("runs")


class CleanPlan(Struct, frozen=True):
    """What cleanup would do with everything that stands in a root, and why. `shared`: of what goes, the names that
    share content's inodes."""

    steps: list[CleanStep]
    shared: list[Shared]


async def plan_for(database: Database, run: Any, roots: FlashRoots, *, read_bytes: int | None = None) -> CleanPlan:
    """From what stands there now. What nobody touched since its bytes were known is not read; artifacts are, so no
    transaction is open meanwhile. `read_bytes`: read no more than so much, and nothing of `data/`; the plan then says
    what is still to be read."""
    async with database.project(run.project_id) as conn:
        entries = names_of(await entries_of(conn, run.id), await tars_of(conn, run))
        artifacts = await SQL.many(conn, "artifacts", run=run.id)
        marks = {row.path: row.mark for row in await SQL.many(conn, "content_marks", run=run.id, tier=run.tier)}
    marks |= {e.path: e.mark for e in entries if e.mark}
    digests = {e.path: e.digest for e in entries}
    looked = await in_thread(roots.look, run.id, manifest=digests, marks=marks)
    if not roots.reflink:
        looked = await _look_again(database, run, roots, looked, digests)
    protected = _as_standing(looked, {a.path: a.digest for a in artifacts})
    sealed = await _sealed(database, run)
    expected = protected | await in_thread(roots.within, lambda _: _own_files(roots, run, sealed)) | digests
    spared = frozenset(digests) if read_bytes is not None else frozenset()
    standing = await in_thread(_read, roots, run.id, looked, expected, spared, read_bytes)
    steps = plan_cleanup(standing, manifest={e.path: e.size_bytes for e in entries}, artifacts=protected)
    going = (one for one in steps if one.action == "remove" and one.path in digests and not roots.reflink)
    return CleanPlan(steps, [Shared(one.path, digests[one.path], one.size_bytes, one.mark) for one in going])


async def _look_again(
    database: Database, run: Any, roots: FlashRoots, looked: list[Standing], digests: dict[str, str]
) -> list[Standing]:
    """Links and unlinks of other runs move the inodes of this one's files, and say so with their commit: what seems to
    have moved is looked at once more, under the digests' locks."""
    moved = [one.path for one in looked if one.unread and one.path in digests]
    proved: set[str] = set()
    for at in range(0, len(moved), content.AT_ONCE):
        part = moved[at : at + content.AT_ONCE]
        async with database.project(run.project_id) as conn:
            known = await content.locked(conn, run.tier, {digests[path] for path in part})
            marks = await in_thread(roots.entry_marks, run.id, part)
        proved |= {path for path, mark in marks.items() if mark == known.get(digests[path])}
    return [msgspec.structs.replace(one, unchanged=True, unread=False) if one.path in proved else one for one in looked]


def _read(
    roots: FlashRoots, run: str, looked: list[Standing], expected: Mapping[str, str], spared: frozenset[str],
    read_bytes: int | None,
) -> list[Standing]:  # fmt: skip
    """Whatever its bytes decide about; strangers go aside unread."""
    left = math.inf if read_bytes is None else read_bytes
    found = []
    for one in looked:
        if one.unread and one.path in expected and one.path not in spared and one.size_bytes <= left:
            left -= one.size_bytes
            one = roots.read(run, one, expected[one.path])
        found.append(one)
    return found


def _as_standing(standing: list[Standing], protected: dict[str, str]) -> dict[str, str]:
    """Protected digests by the names that stand there: the catalog keeps those that are no text escaped."""
    texts = {one.path: path_text(one.path) for one in standing}
    return {path: protected[text] for path, text in texts.items() if text in protected}


async def _sealed(database: Database, run: Any) -> str | None:
    """The digest of its manifest as the catalog keeps it, a piece at a time; also of one that was only decided."""
    digest, found = blake3(), False
    async for piece in manifest_of(database, run.project_id, run.id, decided=True):
        found = True
        await asyncio.to_thread(digest.update, piece.encode())
    return digest.hexdigest() if found else None


def _own_files(roots: FlashRoots, run: Any, sealed: str | None) -> dict[str, str]:
    """Digests of what the seal wrote, as the catalog knows it; RUN.json of an earlier version is the daemon's own, in a
    folder only the daemon can write."""
    own = {} if sealed is None else {"manifest.jsonl": sealed}
    if run.identity is not None:
        return own | {"RUN.json": blake3(run.identity.encode()).hexdigest()}
    identity = roots.run_root(run.id) / "RUN.json"
    if identity.is_file() and not identity.is_symlink():
        own["RUN.json"] = hash_file(identity)
    return own


class Clean:
    def __init__(self, database: Database, flash: dict[str, Flash], runs: Runs, *, hooks: Hooks, node: str) -> None:
        self._database = database
        self._flash = flash
        self._runs = runs
        self._hooks = hooks
        self._node = node
        self._content = ContentStore(database, flash, node=node)

    async def clean(self, shard: Shard) -> None:
        run = await self._begin(shard)
        if run is None:
            return
        roots = self._flash[run.tier].roots
        await in_thread(roots.check_identity)
        await self._hooks.run(shard, run, "before-clean")
        plan = await plan_for(self._database, run, roots)
        steps = plan.steps
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await self._record_strays(conn, run, steps)
            await self._record_plan(conn, shard, run, steps)
        async with self._content.room_for_next_try(shard.project, run.tier):
            await in_thread(self._put_aside, roots, run.id, steps)
        await self._unlink_shared(shard, run, roots, plan.shared)
        await in_thread(self._remove, roots, run, steps)
        if run.ready_proof is None and run.admitted_at is not None:
            await self._adopt(shard, run)
        await self._prove(shard, run, steps)
        await self._runs.admit_waiting(run.tier)

    async def _begin(self, shard: Shard) -> Any:
        """The run to clean, or None when there is nothing to do now. Nothing else touches its root from here on:
        a run that ends here is never staged or protected again, and whoever still works on it is waited for."""
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            run = await lock(conn, shard.subject_id)
            if run.state not in ("protected", "cancelled", "failed", "cleaning"):
                await self._end(conn, shard, run)
                return None
            # D6: the state machine alone is not believed; the proof row is looked at again before bytes go
            if run.ready_proof is not None and run.protected_proof is None:
                raise NotProtected("cleanup asked for without a proof of protection", where=run.id)
            if await others_running(conn, shard):
                await postpone_shard(conn, shard, delay_s=OTHERS_S)
                return None
            # one that was never ready is our own unfinished work
            why = deletion_off(self._flash[run.tier].roots) if run.ready_proof is not None else None
            if why is not None:
                await conn.execute(SQL["explain"], {"id": run.id, "explanation": f"not cleaned: {why}"})
                await postpone_shard(conn, shard, delay_s=SWITCHED_S, code=EntryLocked.code, error=why)
                return None
            if run.state != "cleaning":
                await step(conn, run.id, run.state, "cleaning", reason=run.reason, why=run.explanation)
            return run

    async def _end(self, conn: Connection, shard: Shard, run: Any) -> None:
        if run.state != "cleaned":
            log.warning("cleanup skipped", run=run.id, state=run.state)
        await finish_shard(conn, shard)

    async def _record_strays(self, conn: Connection, run: Any, steps: list[CleanStep]) -> None:
        strays = [one for one in steps if one.action == "stray"]
        for at in range(0, len(strays), STRAYS_SLICE):
            part = strays[at : at + STRAYS_SLICE]
            paths = [path_text(one.path) for one in part]
            await conn.execute(
                SQL["put_strays"],
                {
                    "project": run.project_id,
                    "run": run.id,
                    "paths": paths,
                    "sizes": [one.size_bytes for one in part],
                    "why": [one.reason for one in part],
                    "moved_to": [f".mover/strays/{run.id}/{path}" for path in paths],
                },
            )

    async def _record_plan(self, conn: Connection, shard: Shard, run: Any, steps: list[CleanStep]) -> None:
        """Before the first byte goes: an attempt that is cut off proves nothing, and its successor sees only what
        was left. The trail holds what each of them set out to remove."""
        removed = [s for s in steps if s.action == "remove"]
        await audit.record(
            conn,
            project=shard.project,
            node=self._node,
            actor="daemon",
            action="run cleanup begun",
            subject=run.id,
            details={
                "attempt": shard.epoch,
                "remove": len(removed),
                "bytes": sum(s.size_bytes for s in removed),
                "strays": len(steps) - len(removed),
            },
        )

    def _put_aside(self, roots: FlashRoots, run: str, steps: list[CleanStep]) -> None:
        roots.unseal(run)
        roots.withdraw(run)
        for stray in (one for one in steps if one.action == "stray"):
            roots.move_stray(run, stray.path)

    async def _unlink_shared(self, shard: Shard, run: Any, roots: FlashRoots, shared: list[Shared]) -> None:
        """Unlinking moves the inodes that other runs share, now or later. So the names go in groups, each with the
        marks that it leaves: what was untouched before need not be read by anybody after. A kill costs a group's
        reading."""
        for group in groups(shared):
            async with self._database.project(shard.project) as conn:
                await renew_shard(conn, shard, lease_s=LEASE_S)
                known = await content.locked(conn, run.tier, {one.digest for one in group})
                marks = await in_thread(roots.unlink_shared, run.id, group, known)
                await content.unlinked(conn, run.tier, marks)

    def _remove(self, roots: FlashRoots, run: Any, steps: list[CleanStep]) -> None:
        """Nothing but what was judged is removed, and only as it was judged; whatever appeared or changed since
        is a stranger too: then the removal stops, and the next attempt plans from what is left."""
        judged = {one.path: one.mark for one in steps if one.action == "remove"}
        roots.remove(run.id, judged, promised=run.ready_proof is not None)
        # a tier that went away meanwhile would look empty too
        roots.check_identity()
        if not roots.is_gone(run):
            raise IntegrityError("the run root still stands after its removal", where=run)

    async def _adopt(self, shard: Shard, run: Any) -> None:
        """What was fetched for a run that was never ready, and not linked, makes room for others."""
        async with self._database.project(shard.project) as conn:
            entries = await entries_of(conn, run.id)
        await self._content.adopt(shard.project, run.tier, sorted({one.digest for one in entries}))

    async def _prove(self, shard: Shard, run: Any, steps: list[CleanStep]) -> None:
        removed = [s for s in steps if s.action == "remove"]
        async with self._database.project(shard.project) as conn:
            # of all attempts: each records a stray before it moves it
            strays = (await SQL.one(conn, "strays", run=run.id)).count
            proof = await proofs.add(
                conn,
                project=shard.project,
                kind="cleaned",
                subject=run.id,
                count=len(removed),
                bytes=sum(s.size_bytes for s in removed),
                root=manifest_root(ManifestEntry(path_text(s.path), s.size_bytes, s.reason) for s in removed),
                verifier=f"mover.runs.clean {__version__}",
                details={"strays": strays, "root": run_key(run.id), "listing": "absent", "attempt": shard.epoch},
            )
            await conn.execute(SQL["cleaned"], {"id": run.id, "proof": proof})
            await self._hooks.put_after(conn, run)
            await finish_shard(conn, shard)
            await audit.record(
                conn,
                project=shard.project,
                node=self._node,
                actor="daemon",
                action="run cleaned",
                subject=run.id,
                details={"removed": len(removed), "strays": strays},
            )
        metrics.STRAYS.inc(strays)
        log.info("run cleaned", run=run.id, count=len(removed), strays=strays)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """Cleanup that failed for good leaves the rest of the root where it is, and the run where it came from, with
        the reason: who waits for it learns why, and asking again tries again."""
        run = await lock(conn, shard.subject_id)
        reason, why = "cleanup-failed", f"not cleaned: {error.code}: {error.what}"
        if isinstance(error, HookFailed):
            reason, why = error.code, f"nothing was removed: {error.what}"
        if run.state == "cleaning":
            back = "protected" if run.protected_proof else "failed"
            await step(conn, run.id, "cleaning", back, reason=reason, why=why)
        else:
            await conn.execute(SQL["explain"], {"id": run.id, "explanation": why})
        await audit.record(
            conn,
            project=shard.project,
            node=self._node,
            actor="daemon",
            action="run cleanup failed",
            subject=shard.subject_id,
            reason=error.code,
        )
