"""Runs: request, admit, look, hold, finish, cancel, clean (design runs.md).

Judgement is in `decide.lifecycle`, `decide.admission` and `decide.cleanup`; the work itself is in
`runs.stage` and `runs.clean`, as shards. This front changes states, always together with the shards and the
audit record that belong to the change. Asking is in `requests`, letting in in `admission`, seeing in `look`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.finishing import check_paths
from mover.decide.lifecycle import check_transition
from mover.errors import Conflict, NotProtected, RunRefused
from mover.jobs import FailureHandler, Handler, NewShard, add_shards, in_thread
from mover.jobs.shards import cancel_shards, tier_queue
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import path_text
from mover.policy import PolicyBook
from mover.runs.admission import Admissions
from mover.runs.content import ContentStore
from mover.runs.entries import LayOut
from mover.runs.hooks import AFTER, PHASES, Phase, chain
from mover.runs.look import PAGE_MAX, Look
from mover.runs.requests import Requests, named
from mover.runs.roots import run_key
from mover.runs.site import PLAN_STEPS_MAX, Flash, RunSite, get, lock, step
from mover.runs.watch import Watch
from mover.tiers.port import deletion_off, refuse_kept

SQL = load(__file__)
# a plan is an answer to a request: what would take longer to read is named as unread
PLAN_READ_BYTES = 64 << 20
# nothing is left to give up
GIVEN_UP = frozenset({"cleaning", "cleaned", "cancelled", "failed"})

# in a class that has a method `list`, the word means that method
PlanSteps = list[wire.PlanStep]

__all__ = ["Flash", "Runs"]


class Runs:
    def __init__(self, database: Database, flash: dict[str, Flash], policies: PolicyBook, *, node: str) -> None:
        self._site = RunSite(database, flash, policies, node)
        self._requests, self._admissions, self._look = Requests(self._site), Admissions(self._site), Look(self._site)
        self._store = ContentStore(database, flash, node=node)
        self.watch = Watch(database, self._look)
        self._lay_out = LayOut(self._site, self._admissions.admit_waiting)

    def handlers(self) -> dict[str, Handler]:
        return {"run-lay-out": self._lay_out.lay_out}

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {"run-lay-out": self._lay_out.failed}

    # --- request and look -----------------------------------------------------------------------------------

    async def request(self, identity: Identity, body: wire.RunRequest, *, key: str, request: str = "") -> wire.Run:
        """Freeze, admit and begin to stage; the same key again gives the same run.

        Raises Conflict for the same key with another body, and RunRefused, listing every offender, when the
        set is not whole: then nothing was moved.
        """
        asked = await self._requests.ask(identity, body, key=key, request=request)
        if asked.refused:
            raise RunRefused(asked.explanation, where=asked.run, details=asked.refused)
        if asked.new:
            await self.admit_waiting(asked.tier)
        answer = await self.view(identity.project, asked.run)
        if answer.state == "refused":
            raise RunRefused(answer.explanation or "refused", where=answer.id, details=named(answer.offenders, body))
        return answer

    async def plan_request(self, identity: Identity, body: wire.RunRequest) -> wire.Plan:
        """What `request` would stage, and how; nothing is kept."""
        return await self._requests.plan(identity, body)

    async def admit_waiting(self, tier: str) -> None:
        """Called when a run is requested, when space was freed, and by the daemon from time to time."""
        await self._admissions.admit_waiting(tier)

    async def tend_store(self, project: str, tier: str) -> None:
        """What a flash tier needs now and then: rows for content that has none, and an end for what was set aside."""
        await self._store.sweep(project, tier)
        policy = self._site.aside_policy(tier)
        if policy is not None:
            await self._store.purge(project, tier, policy)

    async def view(self, project: str, run: str) -> wire.Run:
        return await self._look.view(project, run)

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.RunPage:
        return await self._look.list(project, after, limit)

    def manifest(self, project: str, run: str) -> AsyncIterator[bytes]:
        """The sealed manifest, kept for ever, in pieces."""
        return self._look.manifest(project, run)

    async def ready(self, project: str, run: str, after: str | None = None, limit: int = PAGE_MAX) -> wire.StagedPage:
        """Entries that may be read already, as they came."""
        return await self._look.ready(project, run, after, limit)

    async def strays(self, project: str, run: str, after: str | None = None, limit: int = PAGE_MAX) -> wire.StrayPage:
        """What cleanup moved aside."""
        return await self._look.strays(project, run, after, limit)

    @contextmanager
    def watching(self, run: str) -> Iterator[Callable[[float], Awaitable[None]]]:
        """What waits, for so many seconds at most, until the run may have changed."""
        with self.watch.over(run) as changes:
            yield changes.wait

    def events(self, project: str, run: str, *, after: int) -> AsyncIterator[wire.RunEvent | wire.RunProgress]:
        """What happens to it, as it happens."""
        return self.watch.events(project, run, after=after)

    # --- hold and end ---------------------------------------------------------------------------------------

    async def heartbeat(self, project: str, run: str) -> wire.Run:
        async with self._site.database.project(project) as conn:
            renewed = await SQL.one(conn, "renew_lease", id=run)
            row = await get(conn, run)
            if renewed is None:
                raise Conflict(f"the run is {row.state}; only a ready run has a lease", where=run)
        return await self.view(project, run)

    async def finish(self, identity: Identity, run: str, body: wire.FinishRequest) -> wire.Run:
        """Protect what training left. A repeated finish of a run under way changes nothing; one that names other
        things is a Conflict, because those would not be protected. Denied where it names paths of somebody else."""
        finish = msgspec.json.decode(msgspec.json.encode(body))
        async with self._site.database.project(identity.project) as conn:
            row = await lock(conn, run)
            place = self._site.flash.get(row.tier)
            out = f"{place.seen_as}/{run_key(run)}/out" if place else None
            check_paths(identity, body, run=run, run_uid=row.posix_uid, own_out=out)
            if row.state == "ready":
                await self._finish(conn, row, finish, clean_after=False, reason=None)
                await self._site.record(conn, identity, "run finished", run)
            elif row.state not in ("finishing", "protecting", "protected", "cleaning", "cleaned"):
                check_transition(row.state, "finishing", subject=run)
            elif row.finish != finish:
                raise Conflict(
                    f"the run is {row.state} already, after another finish", where=run,
                    hint="What this request names is not protected with it; its lease may have lapsed before.",
                )  # fmt: skip
        return await self.view(identity.project, run)

    async def _finish(
        self, conn: Connection, row: Any, finish: dict[str, Any], *, clean_after: bool, reason: str | None
    ) -> None:
        check_transition(row.state, "finishing", subject=row.id)
        await conn.execute(
            SQL["finishing"],
            {"id": row.id, "finish": Jsonb(finish), "clean_after": clean_after, "reason": reason},
        )
        shard = NewShard(tier_queue(row.tier), "run-protect", row.id, priority=8)
        await add_shards(conn, row.project_id, [shard])

    async def expire(self) -> int:
        """Runs whose lease lapsed go to protection and then to cleanup, never to deletion."""
        async with self._site.database.instance() as conn:
            lapsed = await SQL.many(conn, "lapsed")
        for found in lapsed:
            async with self._site.database.project(found.project_id) as conn:
                row = await SQL.one(conn, "lock_lapsed", id=found.run_id)
                if row is None:
                    continue  # a heartbeat came first, or another daemon
                await self._finish(conn, row, {}, clean_after=True, reason="lease-expired")
                await self._site.record_own(conn, found.project_id, "run lease expired", row.id, reason="lease-expired")
        return len(lapsed)

    async def cancel(self, identity: Identity, run: str) -> wire.Run:
        """Give a run up, wherever it is. One that was never ready is removed. Of one that was, what the job wrote is
        protected first, as after a lapsed lease; one that is on its way to its end goes to it without a rest."""
        async with self._site.database.project(identity.project) as conn:
            row = await lock(conn, run)
            if row.state not in GIVEN_UP:
                await self._cancel(conn, row)
                await self._site.record(conn, identity, "run cancelled", run)
        return await self.view(identity.project, run)

    async def _cancel(self, conn: Connection, row: Any) -> None:
        if row.state == "ready":
            await self._finish(conn, row, {}, clean_after=True, reason="cancelled")
        elif row.state in ("finishing", "protecting"):
            await conn.execute(SQL["clean_after"], {"id": row.id})
        elif row.state == "protected":
            await self._clean(conn, row)
        else:
            await step(conn, row.id, row.state, "cancelled", reason="cancelled")
            await cancel_shards(conn, row.id)
            await add_shards(conn, row.project_id, [NewShard(tier_queue(row.tier), "run-clean", row.id)])

    async def clean(self, identity: Identity, run: str) -> wire.Run:
        """Remove the run root. NotProtected, with what is unprotected, before protection is proved; EntryLocked where
        deletion on its tier is not switched on."""
        async with self._site.database.project(identity.project) as conn:
            row = await lock(conn, run)
            if row.state not in ("protected", "cleaning", "cleaned", "cancelled", "failed"):
                raise await self._not_protected(row)
            if row.ready_proof is not None and row.state != "cleaned":
                refuse_kept(self._site.flash[row.tier].roots)
            # a cleanup that failed is asked for again, and so are hooks behind it; one under way is left alone
            left = await SQL.one(conn, "cleaning_left", run=run)
            if not left.open and (row.state != "cleaned" or left.hooks):
                await self._clean(conn, row)
                await self._site.record(conn, identity, "run cleaning asked", run)
        return await self.view(identity.project, run)

    async def _clean(self, conn: Connection, row: Any) -> None:
        if row.state == "protected":
            await step(conn, row.id, "protected", "cleaning", reason=row.reason)
        kind = AFTER if row.state == "cleaned" else "run-clean"
        await add_shards(conn, row.project_id, [NewShard(tier_queue(row.tier), kind, row.id)])

    async def _not_protected(self, row: Any) -> NotProtected | Conflict:
        if row.ready_at is None:
            return Conflict(f"the run is {row.state}; cancel it instead", where=row.id)
        listing = await in_thread(self._site.flash[row.tier].roots.listing, row.id, below="out")
        unprotected = [{"path": path_text(path), "size_bytes": size} for path, size in sorted(listing.items())]
        return NotProtected(
            f"the run is {row.state}: {len(unprotected)} artifacts are not proved protected",
            where=row.id,
            details=unprotected[:PLAN_STEPS_MAX],
        )

    async def plan_clean(self, project: str, run: str) -> wire.Plan:
        from mover.runs.clean import plan_for

        async with self._site.database.project(project) as conn:
            row = await get(conn, run)
        roots = self._site.flash[row.tier].roots
        steps = (await plan_for(self._site.database, row, roots, read_bytes=PLAN_READ_BYTES)).steps
        planned = [wire.PlanStep(action=s.action, subject=path_text(s.path), reason=s.reason, bytes=s.size_bytes)
                   for s in steps[:PLAN_STEPS_MAX]]  # fmt: skip
        before, after = (self._planned_hooks(row.tier, phase) for phase in PHASES)
        counts: dict[str, int] = {"hook": len(before) + len(after)} if before or after else {}
        for one in steps:
            counts[one.action] = counts.get(one.action, 0) + 1
        why = deletion_off(roots) if row.ready_proof is not None else None
        waits = [wire.PlanStep(action="wait", subject=run, reason=why)] if why else []
        return wire.Plan(
            step="clean",
            counts=counts,
            bytes=sum(s.size_bytes for s in steps if s.action == "remove"),
            steps=[*waits, *before, *planned, *after],
            truncated=len(steps) > PLAN_STEPS_MAX,
        )

    def _planned_hooks(self, tier: str, phase: Phase) -> PlanSteps:
        rules = chain(self._site.policies, tier, phase)
        return [wire.PlanStep(action="hook", subject=rule.name, reason=phase) for rule in rules]
