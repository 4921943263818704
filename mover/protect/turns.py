"""Turns that somebody wants now: the same shards as by the clock, with a plan before them."""

from __future__ import annotations

from datetime import timedelta

import msgspec

from mover.catalog.instance import server_now
from mover.decide.retention import breaks
from mover.errors import NotFound, RequestInvalid
from mover.jobs import in_thread
from mover.model import wire
from mover.model.access import Identity
from mover.model.amounts import counted
from mover.model.policy import ProtectPolicy
from mover.protect.retention import Retention
from mover.protect.site import ProtectSite, patiently
from mover.protect.upkeep import SQL, Upkeep, plan_of, told_missing, turn_view

# somebody waits for it
PRIORITY = 0
WHAT = {
    "drill": "a few random files of a random kept snapshot are restored and compared",
    "sample": "a share of the packs, by chance, is read, opened and hashed",
    "whole": "all packs are read, opened and hashed",
    "copy": "what is kept is carried to the second repository and read back there",
}


class Turns:
    def __init__(self, site: ProtectSite, upkeep: Upkeep, retention: Retention) -> None:
        self._site, self._upkeep, self._retention = site, upkeep, retention

    async def request(self, identity: Identity, body: wire.TurnRequest, *, request: str = "") -> wire.ProtectTurn:
        """One that runs already is that one."""
        policy = self._policy(body)
        began = await self._upkeep.begin(identity.project, policy, body.kind, every_s=0, priority=PRIORITY)
        async with self._site.database.project(identity.project) as conn:
            row = await SQL.one(conn, "newest", policy=policy.name, kind=body.kind)
            if began:
                await self._site.record(
                    conn, identity.project, f"protect-{body.kind} asked for", policy.name, actor=identity.actor,
                    request=request, turn=row.id,
                )  # fmt: skip
        return turn_view(row)

    async def plan_request(self, identity: Identity, body: wire.TurnRequest) -> wire.Plan:
        """What it would do, and what it would wait for; nothing is changed."""
        policy = self._policy(body)
        if body.kind == "keep":
            plan = await self._retention.forget_plan(identity.project, policy.name)
            waits = [wire.PlanStep(action="wait", subject=policy.name, reason=why) for why in self._off(policy)]
            return msgspec.structs.replace(plan, steps=waits + plan.steps)
        if body.kind == "prune":
            return await self._plan_prune(identity.project, policy)
        step = wire.PlanStep(action=body.kind, subject=policy.name, reason=WHAT[body.kind])
        return wire.Plan(step=f"{body.kind} of {policy.name}", counts={}, bytes=0, steps=[step])

    async def _plan_prune(self, project: str, policy: ProtectPolicy) -> wire.Plan:
        async with self._site.database.project(project) as conn:
            await self._retention.terms(conn, policy)
            now, breaker = await server_now(conn), await SQL.one(conn, "opened", policy=policy.name)
            missing = told_missing(await SQL.one(conn, "missing", tier=policy.repository))
        repository, grace = self._site.repositories.of(policy), timedelta(seconds=policy.prune_grace_s)
        found = await in_thread(lambda: patiently(lambda: repository.prune(grace=grace, now=now, plan_only=True)))
        counts = plan_of(found)
        steps = [
            wire.PlanStep(
                action=one.action, subject=counted(one.packs, "pack"), reason=one.reason, bytes=one.size_bytes
            )
            for one in found.steps
        ]  # fmt: skip
        large = breaks(counts["sweep"], counts["packs"], breaker.percent) and not breaker.opened
        waits = self._off(policy) + [missing] * bool(missing)
        waits += ["so many packs at once take two persons (mover protect ask large)"] * large
        steps[:0] = [wire.PlanStep(action="wait", subject=policy.name, reason=why) for why in waits]
        swept = sum(one.size_bytes for one in found.steps if one.action == "sweep")
        packs = {name: count for name, count in counts.items() if name not in ("packs", "free_bytes") and count}
        return wire.Plan(step=f"prune of {policy.name}", counts=packs, bytes=swept, steps=steps)

    def _off(self, policy: ProtectPolicy) -> list[str]:
        why = self._upkeep.waits(policy)
        return [why] if why else []

    def _policy(self, body: wire.TurnRequest) -> ProtectPolicy:
        policy = self._retention.named(body.policy)
        if policy.name not in {one.name for one in self._upkeep.policies()}:
            raise NotFound("the tier of this policy's repository is not served here", where=policy.repository)
        if body.kind == "copy" and policy.copy is None:
            raise RequestInvalid("the policy keeps no second repository (`copy`)", where=policy.name)
        return policy

    async def view(self, project: str, turn: str) -> wire.ProtectTurn:
        async with self._site.database.project(project) as conn:
            row = await SQL.one(conn, "turn", id=turn)
        if row is None:
            raise NotFound("no such turn, or a later one took its place", where=turn, hint="mover protect show")
        return turn_view(row)
