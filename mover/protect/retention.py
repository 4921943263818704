"""Retention carried out: verdicts with their reasons onto rows, then the files of what is forgotten.

The judgement is `mover.decide.retention`. Forgetting is not pruning: packs stay until a prune.
"""

from __future__ import annotations

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide import retention
from mover.errors import RepositoryLocked, TierError
from mover.jobs import in_thread
from mover.log import get_logger
from mover.model import wire
from mover.model.policy import ProtectPolicy
from mover.protect.site import PAGE_MAX, PLAN_STEPS_MAX, ProtectSite

SQL = load(__file__)

log = get_logger("protect")


class Retention:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def retain(self, conn: Connection, policy: ProtectPolicy, run: str) -> int:
        """Per policy and run, on the order of record and the server's clock (D12); reasons with each verdict."""
        verdicts = retention.plan(await self._recorded(conn, run), policy.keep)
        for verdict in verdicts:
            statement = "keep" if verdict.keep else "forget"
            await conn.execute(SQL[statement], {"id": verdict.id, "reasons": list(verdict.reasons)})
        return sum(not v.keep for v in verdicts)

    async def _recorded(self, conn: Connection, run: str) -> list[retention.SnapshotRecord]:
        rows = await SQL.many(conn, "of_run", run=run)
        # the newest one is what proves the run protected: no rule forgets it
        newest = rows[-1].id if rows else None
        return [retention.SnapshotRecord(r.id, r.sequence, r.recorded_at, held=r.id == newest) for r in rows]

    async def forget(self, project: str, policy: ProtectPolicy) -> None:
        """Snapshot files of forgotten rows go after the row says so; their packs stay until a prune."""
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "list", run=None, limit=PAGE_MAX)
        forgotten = [row.repository_id for row in rows if row.state == "forgotten"]
        if not forgotten:
            return
        try:
            await in_thread(self._site.repositories.of(policy).forget, forgotten)
        except (RepositoryLocked, TierError) as error:
            # somebody snapshots or restores, or the tier went away; the rows say `forgotten`, and the next
            # protection tries again
            log.info("forgetting waits", tier=policy.repository, code=error.code)

    async def forget_plan(self, project: str) -> wire.Plan:
        """What the keep rules would forget now, with the reason of each verdict."""
        policy = self._site.policies.default(ProtectPolicy)
        steps = []
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "list", run=None, limit=PAGE_MAX)
            for run in sorted({r.run_id for r in rows if r.state == "checked"}):
                for verdict in retention.plan(await self._recorded(conn, run), policy.keep):
                    action = "keep" if verdict.keep else "forget"
                    steps.append(wire.PlanStep(action=action, subject=verdict.id, reason="; ".join(verdict.reasons)))
        counts = {action: sum(s.action == action for s in steps) for action in ("keep", "forget")}
        return wire.Plan(
            step="forget", counts=counts, bytes=0, steps=steps[:PLAN_STEPS_MAX], truncated=len(steps) > PLAN_STEPS_MAX
        )  # fmt: skip
