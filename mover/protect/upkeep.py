"""What is done for a policy's repository every so often: rules carried out, trash emptied, packs pruned.

A *keep* turn (shard `protect-keep`, hourly), in this order, because each step counts on the one before:

1. what two persons agreed on is carried out; the terms that hold are read;
2. the repository's snapshot files are listed: a row whose file is gone, and not by us, or names another series, is
   missing from now on. It is kept, counts for nothing, and is an alarm: somebody with the repository's keys was at
   work;
3. every series is judged; what no rule keeps goes to the trash, as far as the database and the breaker let it;
4. what was in the trash for long enough becomes `forgotten` in the database, which judges it once more; then its file
   is removed, then the row says so. A crash between leaves a forgotten row whose file the next turn removes. Before
   that the daemon judges by what it sees itself: rows without a file that names their series count for nothing, whoever
   told the database that they have one. What was displaced by such rows stands again.

A *prune* turn (shard `protect-prune`) plans first. It waits while any snapshot of the repository is missing, because
the packs of what somebody else removed are all that is left of it, and while more packs would go than the breaker lets
pass, until two persons agree (`large`). Marks and grace are `Repository.prune`'s.

Nothing is removed while the database's clock and this machine's are far apart, or the database's went back.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import msgspec

from mover import metrics
from mover.catalog.database import Connection
from mover.catalog.instance import server_now
from mover.catalog.queries import load
from mover.decide.retention import breaks
from mover.errors import MoverError, RepositoryDamaged, RepositoryLocked, TierError
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.policy import ProtectPolicy
from mover.protect import shortenings
from mover.protect.retention import SQL as RETENTION
from mover.protect.retention import Retention
from mover.protect.shortenings import Shortenings
from mover.protect.site import ProtectSite
from mover.randomness import new_id
from mover.repository.facts import PruneResult
from mover.repository.repository import Repository
from mover.tiers.port import deletion_off

SQL = load(__file__)
KEEP_EVERY_S = 3600
# of so many snapshot files the tags are remembered
TAGS_MAX = 200_000
FORGOTTEN_AT_ONCE = 1000
CLOCKS_APART_S = 300.0
PRUNE_PATIENCE_S = 60.0
FILE_ID = re.compile(r"[0-9a-f]{64}")
# below everything that somebody waits for
PRIORITY = -5

log = get_logger("protect")


class Upkeep:
    """Begins turns, handles their shards, and says what holds and what waits."""

    def __init__(self, site: ProtectSite, retention: Retention, agreed: Shortenings) -> None:
        self._site, self._retention, self._agreed = site, retention, agreed
        self._tags: dict[str, tuple[str, ...]] = {}

    # --- what begins ----------------------------------------------------------------------------------------------

    async def begin_due(self, project: str) -> int:
        """Turns whose time has come; how many began. Any number of daemons begin one."""
        began = 0
        for policy in self.policies():
            began += await self.begin(project, policy, "keep", every_s=KEEP_EVERY_S)
            began += await self.begin(project, policy, "prune", every_s=policy.prune_every_s)
        return began

    def policies(self) -> list[ProtectPolicy]:
        loaded = (one.policy for one in self._site.policies.all())
        return [p for p in loaded if isinstance(p, ProtectPolicy) and p.repository in self._site.tiers]

    async def begin(
        self, project: str, policy: ProtectPolicy, kind: str, *, every_s: int, priority: int = PRIORITY
    ) -> bool:
        async with self._site.database.project(project) as conn:
            await conn.execute(SQL["lock_policy"], {"project": project, "policy": policy.name})
            last = await SQL.one(conn, "last", policy=policy.name, kind=kind)
            if last is not None and (last.state == "running" or (last.age_s < every_s and not last.opened)):
                return False
            turn = new_id("turn")
            await conn.execute(SQL["begin"], {"id": turn, "project": project, "policy": policy.name, "kind": kind})
            shard = NewShard(tier_queue(policy.repository), f"protect-{kind}", turn, priority=priority)
            await add_shards(conn, project, [shard])
        return True

    # --- keep -------------------------------------------------------------------------------------------------------

    async def keep(self, shard: Shard) -> None:
        policy = await self.policy_of(shard)
        if policy is None:
            return
        agreed = await self._agreed.apply_due(shard.project)
        async with self._site.database.project(shard.project) as conn:
            await self._retention.terms(conn, policy)
        missing = await self._look(shard, policy)
        trashed = await self._retain(shard, policy)
        forgotten, back = await self._empty_trash(shard, policy)
        counts = {"agreed": agreed, "missing": missing, "trashed": trashed, "forgotten": forgotten, "kept again": back}
        await self.end(shard, policy, "done", None, {}, counts)

    def waits(self, policy: ProtectPolicy) -> str:
        """Why nothing goes from the policy's repository, however much its rules forget."""
        return deletion_off(self._site.tiers[policy.repository]) or ""

    async def policy_of(self, shard: Shard) -> ProtectPolicy | None:
        """The policy of the shard's turn. A turn whose policy is gone is over."""
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            turn = await SQL.one(conn, "turn", id=shard.subject_id)
            policy = next((p for p in self.policies() if turn is not None and p.name == turn.policy), None)
            if policy is None:
                why = "there is no such policy any more"
                await conn.execute(SQL["end"], {"id": shard.subject_id, "state": "failed", "explanation": why})
                await finish_shard(conn, shard)
        return policy

    async def _look(self, shard: Shard, policy: ProtectPolicy) -> int:
        """Snapshot files that left the repository, and not by us."""
        async with self._site.database.project(shard.project) as conn:
            listed_at, rows = await server_now(conn), await RETENTION.many(conn, "files", policy=policy.name)
        held = await in_thread(self._with_files, self._site.repositories.of(policy), rows)
        present = [row.repository_id for row in held]
        async with self._site.database.project(shard.project) as conn:
            values = {"policy": policy.name, "present": present, "listed_at": listed_at, "node": self._site.node}
            lost = await RETENTION.many(conn, "present", **values)
            found = await SQL.one(conn, "missing", tier=policy.repository)
        if lost:
            log.error("snapshots missing", policy=policy.name, missing=len(lost), tier=policy.repository)
        return int(found.missing)

    async def _retain(self, shard: Shard, policy: ProtectPolicy) -> int:
        trashed, after = 0, ""
        while True:
            async with self._site.database.project(shard.project) as conn:
                await renew_shard(conn, shard, lease_s=LEASE_S)
                page = await self._retention.series_after(conn, policy, after)
                if not page:
                    return trashed
                trashed += await self._retention.retain_all(conn, policy, page)
                after = page[-1]

    async def _empty_trash(self, shard: Shard, policy: ProtectPolicy) -> tuple[int, int]:
        """How many were forgotten, and how many the rules keep again."""
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            if not self._clocks_agree(await server_now(conn), policy) or self.waits(policy):
                return 0, 0
            values = {"policy": policy.name, "limit": FORGOTTEN_AT_ONCE, "node": self._site.node}
            over = await RETENTION.many(conn, "over", **values)
        async with self._site.database.project(shard.project) as conn:
            rows = await RETENTION.many(conn, "unpurged", policy=policy.name, limit=FORGOTTEN_AT_ONCE)
        back = await self._displaced(shard, policy, [row for row in rows if row.trashed_for is None])
        if rows:
            await self._remove(shard, policy, [row for row in rows if row.id not in back])
        returned = {one.snapshot for one in over if one.comes_back} | back
        return len({one.snapshot for one in over} - returned), len(returned)

    async def _displaced(self, shard: Shard, policy: ProtectPolicy, rows: Sequence[Any]) -> set[str]:
        """Of forgotten rows those that the rules keep when only rows with a file of their series count."""
        if not rows:
            return set()
        async with self._site.database.project(shard.project) as conn:
            beside = await self._retention.beside(conn, policy, sorted({row.series for row in rows}))
        held = await in_thread(self._with_files, self._site.repositories.of(policy), beside)
        async with self._site.database.project(shard.project) as conn:
            kept = await self._retention.kept_of(conn, policy, held)
            back = sorted(kept & {row.id for row in rows})
            if back:
                log.error("snapshots displaced by rows without a file", policy=policy.name, count=len(back))
                await conn.execute(RETENTION["back"], {"ids": back, "node": self._site.node})
        return set(back)

    def _with_files(self, repository: Repository, rows: Sequence[Any]) -> list[Any]:
        """Blocking. The rows whose file is there, can be read, and names their series. A file never changes: each is
        read once."""
        there = set(repository.snapshot_ids())
        if len(self._tags) > TAGS_MAX:
            self._tags.clear()
        for file_id in {row.repository_id for row in rows} & there - self._tags.keys():
            with suppress(RepositoryDamaged):
                facts = repository.facts(file_id)
                self._tags |= {file_id: facts.tags} if facts is not None else {}
        rows = [row for row in rows if row.repository_id in there]
        return [row for row in rows if row.series in self._tags.get(row.repository_id, ())]

    async def _remove(self, shard: Shard, policy: ProtectPolicy, rows: Sequence[Any]) -> None:
        """The files of forgotten rows. A file that says to be of another series than its row is nobody's to remove."""
        try:
            gone = await in_thread(_forget, self._site.repositories.of(policy), rows)
        except (RepositoryLocked, TierError) as error:
            # somebody snapshots or restores, or the tier went away: the rows say `forgotten`, the next turn tries again
            log.info("forgetting waits", tier=policy.repository, code=error.code)
            return
        if len(gone) < len(rows):
            log.error("snapshots not removed", policy=policy.name, count=len(rows) - len(gone), reason="another series")
        async with self._site.database.project(shard.project) as conn:
            await conn.execute(RETENTION["purged"], {"ids": gone})

    def _clocks_agree(self, database_now: datetime, policy: ProtectPolicy) -> bool:
        apart_s = abs((database_now - self._site.clock.now()).total_seconds())
        if apart_s > CLOCKS_APART_S:
            log.error("clocks apart", policy=policy.name, seconds=round(apart_s), what="nothing is removed")
        return apart_s <= CLOCKS_APART_S

    # --- prune ------------------------------------------------------------------------------------------------------

    async def prune(self, shard: Shard) -> None:
        policy = await self.policy_of(shard)
        if policy is None:
            return
        await self._look(shard, policy)
        async with self._site.database.project(shard.project) as conn:
            now, breaker = await server_now(conn), await SQL.one(conn, "opened", policy=policy.name)
            missing = told_missing(await SQL.one(conn, "missing", tier=policy.repository))
        off = self.waits(policy)
        if missing or off or breaker is None or not self._clocks_agree(now, policy):
            why = f"{missing}: their packs are all that is left of them" if missing else off
            await self.end(shard, policy, "waiting", why or "no terms hold yet, or clocks differ", {}, {})
            return
        repository, grace = self._site.repositories.of(policy), timedelta(seconds=policy.prune_grace_s)
        plan = plan_of(await in_thread(lambda: repository.prune(grace=grace, now=now, plan_only=True)))
        if not breaker.opened and breaks(plan["sweep"], plan["packs"], breaker.percent):
            why = f"{plan['sweep']} of {plan['packs']} packs would go at once; two persons may agree to that (`large`)"
            await self.end(shard, policy, "waiting", why, plan, {})
            return
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["progress"], _said(shard, plan, {}))
        done = await in_thread(lambda: repository.prune(grace=grace, now=now, patience_s=PRUNE_PATIENCE_S))
        metrics.PRUNED_BYTES.labels(policy.repository).inc(done.freed_bytes)
        why = "" if done.finished else "somebody's lock stood in the way; the next turn goes on"
        await self.end(shard, policy, "done", why or None, plan, _counts_of(done))

    # --- how a turn ends --------------------------------------------------------------------------------------------

    async def end(
        self, shard: Shard, policy: ProtectPolicy, state: str, why: str | None, plan: dict[str, int],
        counts: dict[str, int],
    ) -> None:  # fmt: skip
        async with self._site.database.project(shard.project) as conn:
            await conn.execute(SQL["progress"], _said(shard, plan, counts))
            await conn.execute(SQL["end"], {"id": shard.subject_id, "state": state, "explanation": why})
            await finish_shard(conn, shard)
            if any(counts.values()) or state == "waiting":
                await self._site.record(
                    conn, shard.project, f"{shard.kind} {state}", policy.name, reason=why or "", plan=plan,
                    counts=counts,
                )  # fmt: skip
        if state == "waiting":
            log.warning("protect turn waits", policy=policy.name, kind=shard.kind, what=why)
        log.info("protect turn ended", policy=policy.name, kind=shard.kind, state=state)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        await conn.execute(SQL["end"], {"id": shard.subject_id, "state": "failed", "explanation": error.what})
        await self._site.record(conn, shard.project, f"{shard.kind} failed", shard.subject_id, reason=error.code)

    # --- what holds, what waits -------------------------------------------------------------------------------------

    async def view(self, project: str) -> wire.Protection:
        """The terms that hold for each policy, what its file would shorten, what is doubtful, and what waits."""
        async with self._site.database.project(project) as conn:
            counts = await SQL.many(conn, "counts")
            terms = await RETENTION.many(conn, "terms")
            turns = {row.policy: await SQL.many(conn, "turns", policy=row.policy) for row in terms}
            waits = await shortenings.waiting(conn)
        with_file = {one.name for one in self._site.policies.all()}
        return wire.Protection(
            policies=[
                _terms(
                    row, [c for c in counts if c.policy == row.policy], turns[row.policy],
                    # of a policy that left the files nobody judges, renews or prunes anything: everything stays
                    shorter=list(row.shorter) if row.policy in with_file else ["file"],
                )
                for row in terms
            ],
            waiting=waits,
        )  # fmt: skip

    async def measure(self, project: str) -> None:
        """Gauges for the alarms; what is over disappears."""
        seen = await self.view(project)
        metrics.SHORTENINGS_WAITING.clear()
        for one in seen.policies:
            metrics.SNAPSHOTS_MISSING.labels(one.policy).set(one.missing)
            metrics.SNAPSHOTS_DOUBTFUL.labels(one.policy).set(one.doubtful)
            metrics.SNAPSHOTS_TRASHED.labels(one.policy).set(one.snapshots.get("trashed", 0))
            metrics.SHORTENINGS_WAITING.labels("file").inc(bool(one.shorter))
        for waiting in seen.waiting:
            metrics.SHORTENINGS_WAITING.labels(waiting.kind).inc()


def _forget(repository: Repository, rows: Sequence[Any]) -> list[str]:
    """Blocking. The rows whose file is not there any more; what is no id of the format never was."""
    gone, ours = [row for row in rows if not FILE_ID.fullmatch(row.repository_id)], []
    for row in (row for row in rows if FILE_ID.fullmatch(row.repository_id)):
        facts = repository.facts(row.repository_id)
        if facts is None or row.series in facts.tags:
            ours.append(row)
    repository.forget(row.repository_id for row in ours)
    return [row.id for row in (*gone, *ours)]


def told_missing(found: Any) -> str:
    """What a prune waits for: snapshots that left the repository, this project's or another's; "" when none did."""
    if found.missing:
        return f"{found.missing} snapshots are missing from the repository"
    return "snapshots of another project are missing from this tier" if found.elsewhere else ""


def plan_of(result: PruneResult) -> dict[str, int]:
    found = {"packs": sum(step.packs for step in result.steps), "sweep": 0}
    for step in result.steps:
        found[step.action] = found.get(step.action, 0) + step.packs
    return found | {"free_bytes": sum(step.free_bytes for step in result.steps)}


def _counts_of(result: PruneResult) -> dict[str, int]:
    return {
        "marked": result.marked, "unmarked": result.unmarked, "swept": result.swept, "repacked": result.repacked,
        "freed_bytes": result.freed_bytes, "denied": len(result.denied), "damaged": len(result.damaged),
    }  # fmt: skip


def _said(shard: Shard, plan: dict[str, int], counts: dict[str, int]) -> dict[str, object]:
    return {
        "id": shard.subject_id, "plan": msgspec.json.encode(plan).decode(),
        "counts": msgspec.json.encode(counts).decode(),
    }  # fmt: skip


def _terms(row: Any, counts: Sequence[Any], turns: Sequence[Any], *, shorter: list[str]) -> wire.ProtectTerms:
    return wire.ProtectTerms(
        policy=row.policy, terms=row.terms, since=row.since, shorter=shorter,
        snapshots={c.state: c.count for c in counts}, doubtful=sum(c.doubtful for c in counts),
        missing=sum(c.missing for c in counts),
        turns=[turn_view(t) for t in turns],
    )  # fmt: skip


def turn_view(row: Any) -> wire.ProtectTurn:
    return wire.ProtectTurn(
        id=row.id, policy=row.policy, kind=row.kind, state=row.state, plan=row.plan, counts=row.counts,
        explanation=row.explanation, started_at=row.started_at, finished_at=row.finished_at,
    )  # fmt: skip
