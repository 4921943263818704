"""The second repository of a policy that keeps two: what is kept is carried there, and damage is repaired from it.

A *copy* turn (shard `protect-copy`) carries the kept snapshots that are not there yet, oldest first, and proves each by
reading it back there; then what the catalog forgot, and removed from the first repository, goes from the second. The
second is never ahead in forgetting: rules, trash, holds and breakers were passed in the first. Its packs are pruned as
there, and never while the plan would break the breaker.
"""

from __future__ import annotations

from datetime import timedelta

from mover.catalog.instance import server_now
from mover.catalog.queries import load
from mover.decide.retention import breaks
from mover.errors import RepositoryLocked, TierError
from mover.jobs import Shard, in_thread
from mover.jobs.shards import renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.policy import ProtectPolicy
from mover.protect.site import ProtectSite, patiently, second_of
from mover.protect.taking import check_fresh
from mover.protect.upkeep import Upkeep, plan_of
from mover.repository.facts import SnapshotFacts
from mover.repository.repository import Repository

SQL = load(__file__)
COPIES_AT_ONCE = 100

log = get_logger("protect")


class Copies:
    def __init__(self, site: ProtectSite, upkeep: Upkeep) -> None:
        self._site, self._upkeep = site, upkeep

    async def begin_due(self, project: str) -> int:
        began = 0
        for policy in self._upkeep.policies():
            if policy.copy is not None and policy.copy.repository in self._site.tiers:
                began += await self._upkeep.begin(project, policy, "copy", every_s=policy.copy.every_s)
        return began

    async def copy(self, shard: Shard) -> None:
        policy = await self._upkeep.policy_of(shard)
        if policy is None:
            return
        other = second_of(self._site, policy)
        if other is None:
            await self._upkeep.end(shard, policy, "done", "the policy keeps no second repository any more", {}, {})
            return
        try:
            counts = await self._carry(shard, policy, other)
            counts |= await self._let_go(shard, policy, other)
        except (RepositoryLocked, TierError) as error:
            await self._upkeep.end(shard, policy, "waiting", error.what, {}, {})
            return
        why = f"{counts['left']} snapshots wait for the next turn" if counts["left"] else None
        await self._upkeep.end(shard, policy, "done", why, {}, counts)

    async def _carry(self, shard: Shard, policy: ProtectPolicy, other: Repository) -> dict[str, int]:
        repository = self._site.repositories.of(policy)
        there = await in_thread(lambda: {_origin(one) for one in patiently(other.snapshots)})
        async with self._site.database.project(shard.project) as conn:
            rows = await SQL.many(conn, "kept", policy=policy.name, tier=policy.repository)
        wanted = [row for row in rows if row.repository_id not in there]
        copied = added = 0
        for row in wanted[:COPIES_AT_ONCE]:
            made = await in_thread(_copy, repository, other, row.repository_id)
            copied, added = copied + 1, added + made
            async with self._site.database.project(shard.project) as conn:
                await renew_shard(conn, shard, lease_s=LEASE_S)
        return {"copied": copied, "added_bytes": added, "left": len(wanted) - copied}

    async def _let_go(self, shard: Shard, policy: ProtectPolicy, other: Repository) -> dict[str, int]:
        """Copies of what the first repository let go of, file and all."""
        async with self._site.database.project(shard.project) as conn:
            rows = await SQL.many(conn, "gone", policy=policy.name, tier=policy.repository)
            now = await server_now(conn)
        gone = {row.repository_id for row in rows}
        forgotten = await in_thread(
            lambda: other.forget([one.snapshot_id for one in other.snapshots() if _origin(one) in gone])
        )
        grace = timedelta(seconds=policy.prune_grace_s)
        plan = plan_of(await in_thread(lambda: other.prune(grace=grace, now=now, plan_only=True)))
        if breaks(plan["sweep"], plan["packs"], policy.breaker_percent):
            log.warning("prune of copies waits", policy=policy.name, count=plan["sweep"])
            return {"forgotten": len(forgotten), "freed_bytes": 0}
        done = await in_thread(lambda: other.prune(grace=grace, now=now))
        return {"forgotten": len(forgotten), "freed_bytes": done.freed_bytes}


def _origin(facts: SnapshotFacts) -> str:
    return facts.original or facts.snapshot_id


def _copy(repository: Repository, other: Repository, snapshot_id: str) -> int:
    """Blocking. New bytes of a copy that was read back whole."""
    copy = patiently(lambda: repository.copy_to(other, snapshot_id))
    check_fresh(other, copy.snapshot_id)
    return copy.added_bytes
