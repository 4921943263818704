"""Retention carried out: the terms that hold, verdicts with their reasons onto rows, and what goes to the trash.

The judgement is `mover.decide.retention`; the right to let something go is the database's, which judges again by the
terms in force (migration 0012). Trash is a row's state: the file stays in the repository until `mover.protect.upkeep`
removes it. Forgetting is not pruning: packs stay until a prune.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC
from itertools import groupby
from typing import Any

import msgspec

from mover.catalog.database import Connection, Database
from mover.catalog.instance import server_now
from mover.catalog.queries import load
from mover.decide import retention
from mover.decide.retention import SnapshotRecord, Terms, Verdict, terms_of
from mover.errors import LimitExceeded
from mover.model import wire
from mover.model.policy import KeepRules, ProtectPolicy
from mover.policy import PolicyBook
from mover.protect.site import PLAN_STEPS_MAX, ProtectSite

SQL = load(__file__)
# of one series, newest first; what lies beyond is not judged, so it is kept
SERIES_MAX = 100_000
SERIES_AT_ONCE = 500
HISTORY_MAX = 50_000


def series_of(run: str) -> str:
    """A run's snapshots are one series; the repository's tag of them says the same."""
    return f"run:{run}"


class Retention:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    async def terms(self, conn: Connection, policy: ProtectPolicy) -> Terms:
        """What holds for this policy's snapshots now, whatever shorter thing its file says."""
        return await follow(conn, self.as_declared(policy), node=self._site.node)

    def as_declared(self, policy: ProtectPolicy) -> ProtectPolicy:
        declared = self._site.declared
        return policy if declared is None else declared.get(policy.name, ProtectPolicy)

    async def retain(self, conn: Connection, policy: ProtectPolicy, series: str) -> int:
        """Judge one series by the terms that hold; how many went to the trash."""
        return await self.retain_all(conn, policy, [series])

    async def retain_all(self, conn: Connection, policy: ProtectPolicy, series: list[str]) -> int:
        trashed = 0
        terms = await self.terms(conn, policy)
        for name, verdicts in await self._judged(conn, policy, series, terms.keep):
            texts = [msgspec.json.encode(v.reasons).decode() for v in verdicts]
            await conn.execute(SQL["reasons"], {"ids": [v.id for v in verdicts], "reasons": texts})
            doomed = [v.id for v in verdicts if not v.keep]
            if doomed:
                values = {"policy": policy.name, "series": name, "ids": doomed, "node": self._site.node}
                trashed += len(await SQL.many(conn, "trash", **values))
        return trashed

    async def _judged(
        self, conn: Connection, policy: ProtectPolicy, series: list[str], keep: KeepRules
    ) -> list[tuple[str, list[Verdict]]]:
        rows = await SQL.many(conn, "standing", policy=policy.name, series=series, limit=SERIES_MAX)
        now = await server_now(conn)
        if len(rows) == SERIES_MAX and len(series) > 1:  # more than is judged at once: each alone
            return [pair for one in series for pair in await self._judged(conn, policy, [one], keep)]
        return [
            (name, retention.plan(_records(found), keep, now=now))
            for name, found in groupby(rows, key=lambda row: str(row.series))
        ]

    async def beside(self, conn: Connection, policy: ProtectPolicy, series: list[str]) -> list[Any]:
        """All rows of these series that count for a rule, and those that are forgotten and whose file may be there."""
        return await SQL.many(conn, "beside", policy=policy.name, series=series, limit=SERIES_MAX)

    async def kept_of(self, conn: Connection, policy: ProtectPolicy, rows: list[Any]) -> set[str]:
        """What the terms that hold keep, when these rows, by series, are all there are."""
        keep, now = (await self.terms(conn, policy)).keep, await server_now(conn)
        return {
            verdict.id
            for _, found in groupby(rows, key=lambda row: str(row.series))
            for verdict in retention.plan(_records(found), keep, now=now)
            if verdict.keep
        }

    async def series_after(self, conn: Connection, policy: ProtectPolicy, after: str) -> list[str]:
        values = {"policy": policy.name, "after": after, "limit": SERIES_AT_ONCE}
        return [row.series for row in await SQL.many(conn, "series", **values)]

    async def forget_plan(self, project: str, policy_name: str | None = None) -> wire.Plan:
        """What the terms that hold would forget now, with the reason of each verdict; nothing is changed."""
        policy = self.named(policy_name)
        async with self._site.database.project(project) as conn:
            return await self.plan_by(conn, policy, (await self.terms(conn, policy)).keep)

    async def plan_by(self, conn: Connection, policy: ProtectPolicy, keep: KeepRules) -> wire.Plan:
        """What goes stands first; its bytes are of the snapshots, before anything that they share is counted once."""
        steps: dict[str, list[wire.PlanStep]] = {"forget": [], "keep": []}
        counts, after, size_bytes = {"keep": 0, "forget": 0}, "", 0
        while page := await self.series_after(conn, policy, after):
            for _, verdicts in await self._judged(conn, policy, page, keep):
                for verdict in verdicts:
                    action = "keep" if verdict.keep else "forget"
                    counts[action] += 1
                    size_bytes += 0 if verdict.keep else verdict.bytes
                    if len(steps[action]) < PLAN_STEPS_MAX:
                        step = wire.PlanStep(
                            action=action, subject=verdict.id, bytes=verdict.bytes, reason="; ".join(verdict.reasons)
                        )
                        steps[action].append(step)
            after = page[-1]
        told = (steps["forget"] + steps["keep"])[:PLAN_STEPS_MAX]
        return wire.Plan(
            step=f"forget of {policy.name}", counts=counts, bytes=size_bytes, steps=told,
            truncated=sum(counts.values()) > len(told),
        )  # fmt: skip

    async def simulate(self, project: str, body: wire.SimulationRequest) -> wire.Simulation:
        """What these rules would have kept and will keep; nothing is changed, and no policy is."""
        policy = self.named(body.policy)
        series = series_of(body.run) if body.run else None
        async with self._site.database.project(project) as conn:
            values = {"policy": policy.name, "series": series, "limit": HISTORY_MAX + 1}
            rows = await SQL.many(conn, "history", **values)
            now = await server_now(conn)
        if len(rows) > HISTORY_MAX:
            raise LimitExceeded(f"more than {HISTORY_MAX} snapshots to think about", hint="Name one run.")
        rows.sort(key=lambda row: str(row.series))
        history = {name: _records(found) for name, found in groupby(rows, key=lambda row: str(row.series))}
        found = await asyncio.to_thread(
            lambda: retention.simulate(
                history, body.keep, now=now, past_days=body.past_days, ahead_days=body.ahead_days
            )
        )
        standing = {row.id for row in rows if row.state == "checked"}
        return _simulation(policy, body, found, standing)

    def named(self, name: str | None) -> ProtectPolicy:
        if name is None:
            return self._site.policies.default(ProtectPolicy)
        return self._site.policies.get(name, ProtectPolicy)


async def follow(conn: Connection, policy: ProtectPolicy, *, node: str) -> Terms:
    """What holds for a policy after its file was read, as `policy` says it."""
    wanted = msgspec.json.encode(terms_of(policy)).decode()
    row = await SQL.one(conn, "follow", policy=policy.name, wanted=wanted, node=node)
    return msgspec.convert(row.terms, Terms, strict=False)


async def policies_in_force(database: Database, project: str, policies: PolicyBook, *, node: str) -> PolicyBook:
    """The book as it holds: whoever takes a lock, `append_only` or the second copy out of a file undoes nothing."""
    held = []
    for one in policies.all():
        policy = one.policy
        if isinstance(policy, ProtectPolicy):
            async with database.project(project) as conn:
                policy = retention.in_force(policy, await follow(conn, policy, node=node))
        held.append(msgspec.structs.replace(one, policy=policy))
    return PolicyBook(held)


def _simulation(
    policy: ProtectPolicy, body: wire.SimulationRequest, found: retention.Simulation, standing: set[str]
) -> wire.Simulation:
    leaving = [
        wire.SimulatedLeaving(snapshot=one.id, series=one.series, at=one.at, reason=one.reason)
        for one in found.leaving
        if one.id in standing
    ]
    return wire.Simulation(
        policy=policy.name, rules=retention.spoken(body.keep) or "everything", standing=len(standing),
        moments=[wire.SimulatedMoment(at=m.at, kept=m.kept, bytes=m.bytes) for m in found.moments],
        leaving=leaving[:PLAN_STEPS_MAX], leaving_count=len(leaving), later=found.later,
        shorter=list(retention.shorter(terms_of(policy), msgspec.structs.replace(terms_of(policy), keep=body.keep))),
    )  # fmt: skip


def _records(rows: Iterable[Any]) -> list[SnapshotRecord]:
    return [
        SnapshotRecord(
            r.id, r.sequence, r.recorded_at.astimezone(UTC), tuple(r.tags), r.held,
            None if r.doubt == "incomplete" else r.doubt, r.bytes,
        )
        for r in rows
    ]  # fmt: skip
