"""Letting waiting runs in: capacity that concurrent requests can never over-commit (the judgement is
`decide.admission`)."""

from __future__ import annotations

from typing import Any

from mover.catalog import selections
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide.admission import Admission, TierSpace, admit
from mover.errors import IdentifierFoundLater, RequestError, TierError
from mover.jobs import NewShard, add_shards, in_thread
from mover.jobs.shards import tier_queue
from mover.log import get_logger
from mover.model.policy import StagePolicy
from mover.runs.site import RunSite, step

SQL = load(__file__)
# runs judged at one go; those behind them are judged at the next
WAITING_MAX = 1000

log = get_logger("runs")


class Admissions:
    def __init__(self, site: RunSite) -> None:
        self._site = site

    async def admit_waiting(self, tier: str) -> None:
        """Let waiting runs in, oldest first and whatever their project, until one has to wait on.

        Called when a run is requested, when space was freed, and by the daemon from time to time: nothing waits
        for an event that was lost. A crash in between leaves runs that are judged the next time.
        """
        async with self._site.database.instance() as conn:
            parameters = {"tier": tier, "limit": WAITING_MAX}
            waiting = await SQL.many(conn, "waiting", **parameters)
        if not waiting:
            return
        try:
            # the folder below an unmounted tier has a size too, which says nothing
            await in_thread(self._site.flash[tier].roots.check_identity)
            for one in waiting:
                async with self._site.database.project(one.project_id) as conn:
                    if not await self._admit(conn, tier, one.run_id):
                        return
        except TierError as error:
            log.warning("admission waits", tier=tier, code=error.code)

    async def _admit(self, conn: Connection, tier: str, run_id: str) -> bool:
        """Judge one run, under the tier's lock. False when it waits, and all that came later with it."""
        locked = await SQL.one(conn, "lock_tier", tier=tier)
        run = await SQL.one(conn, "lock_waiting", id=run_id)
        if run is None:
            return True
        policy = self._known_policy(run.policy)
        if policy is None:
            await self._explain_once(conn, run, f"the policy {run.policy} is not loaded")
            return True
        if run.selection_id is not None and await selections.withdrawn_since(conn, run.selection_id):
            await self._refuse_withdrawn(conn, run)
            return True
        verdict = await self._judge(conn, tier, run, policy, locked.capacity_bytes)
        if verdict.verdict == "wait":
            await self._explain_once(conn, run, verdict.reason)
            return False
        if verdict.verdict == "refuse":
            await step(conn, run.id, "requested", "refused", reason="too-large", why=verdict.reason)
        else:
            await self._begin(conn, tier, run, policy)
        refused = verdict.verdict == "refuse"
        await self._site.record_own(
            conn, run.project_id, "run refused" if refused else "run admitted", run.id,
            reason="too-large" if refused else "",
        )  # fmt: skip
        return True

    async def _refuse_withdrawn(self, conn: Connection, run: Any) -> None:
        """Asked for before, it waited for space while a slide of it was withdrawn."""
        code = IdentifierFoundLater.code
        await step(conn, run.id, "requested", "refused", reason=code, why="a slide of it was withdrawn meanwhile")
        await self._site.record_own(conn, run.project_id, "run refused", run.id, reason=code)

    def _known_policy(self, name: str) -> StagePolicy | None:
        try:
            return self._site.policies.get(name, StagePolicy)
        except RequestError:
            return None

    async def _judge(
        self, conn: Connection, tier: str, run: Any, policy: StagePolicy, declared: int | None
    ) -> Admission:
        capacity, free = await in_thread(self._site.flash[tier].roots.space)
        promised = await SQL.one(conn, "reserved", tier=tier)
        outstanding = await SQL.one(conn, "outstanding", tier=tier)
        to_copy = await SQL.one(conn, "to_copy", run=run.id, tier=tier)
        evictable = await SQL.one(conn, "evictable_bytes", run=run.id, tier=tier)
        assert promised and outstanding and to_copy and evictable
        space = TierSpace(
            capacity_bytes=min(capacity, declared or capacity),
            free_bytes=free + evictable.bytes,
            promised_bytes=promised.bytes,
            outstanding_bytes=outstanding.bytes,
            reserve_bytes=policy.reserve_bytes,
        )
        return admit(run.bytes, to_copy.bytes, space)

    async def _begin(self, conn: Connection, tier: str, run: Any, policy: StagePolicy) -> None:
        await conn.execute(SQL["reserve"], {"id": run.id, "bytes": run.bytes})
        await step(conn, run.id, "requested", "admitted")
        await step(conn, run.id, "admitted", "staging")
        paths = [row.path for row in await SQL.many(conn, "paths", run=run.id)]
        size = policy.entries_per_shard
        await add_shards(
            conn,
            run.project_id,
            [
                NewShard(tier_queue(tier), "run-stage", run.id, tuple(paths[at : at + size]), priority=5)
                for at in range(0, len(paths), size)
            ],
        )

    async def _explain_once(self, conn: Connection, run: Any, why: str) -> None:
        if run.explanation != why:
            await conn.execute(SQL["explain_waiting"], {"id": run.id, "explanation": why})
