"""Letting waiting runs in: capacity that concurrent requests can never over-commit (judged in `decide.admission`).

A judgement goes through a tier's whole line, in one transaction under the tier's row lock, and whoever asks while one
is under way shares the next: two hundred requests at once cost a handful of judgements. What takes long, cutting a run
into shards, comes after the lock. A crash in between leaves runs that are `admitted`; the next judgement begins them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from mover.catalog import selections
from mover.catalog.database import Connection, turn_to
from mover.catalog.queries import load
from mover.decide.admission import Admission, TierSpace, admit, copy
from mover.errors import IdentifierFoundLater, MoverError, TierError
from mover.jobs import NewShard, add_shards, in_thread
from mover.jobs.shards import tier_queue
from mover.log import get_logger
from mover.model.policy import StagePolicy
from mover.runs import entries
from mover.runs.site import RunSite, step

SQL = load(__file__)
# runs judged at one go; those behind them are judged at the next
WAITING_MAX = 1000
# runs that may wait before one tier and be found, with those whose policy is not loaded
LINE_MAX = 100_000
# runs that are cut into shards at one go
BEGIN_MAX = 1000
# a shard of large files; and of tars, which are made of small ones
SHARD_BYTES, TARS_BYTES = 8 << 30, 1 << 30

log = get_logger("runs")


class Admissions:
    def __init__(self, site: RunSite) -> None:
        self._site = site
        self._turns: dict[str, _Turns] = defaultdict(_Turns)

    async def admit_waiting(self, tier: str) -> None:
        """Let waiting runs in, whatever their project, in the order of their line.

        Called when a run is requested, when space was freed, and by the daemon from time to time: nothing waits
        for an event that was lost.
        """
        turns = self._turns[tier]
        turns.asked += 1
        ticket = turns.asked
        async with turns.lock:
            if turns.judged >= ticket:
                return
            last = turns.asked
            waiting = await self._judge_line(tier)
            turns.judged = last
        if waiting:
            await self._begin_admitted(tier)

    async def _judge_line(self, tier: str) -> bool:
        """Whether anybody waited. The folder below an unmounted tier has a size too, which says nothing."""
        async with self._site.database.instance() as conn:
            found = await SQL.one(conn, "anybody", tier=tier)
        if not found.waiting:
            return bool(found.admitted)
        try:
            await in_thread(self._site.flash[tier].roots.check_identity)
            async with self._site.database.instance() as conn:
                await self._judge_locked(conn, tier)
        except TierError as error:
            log.warning("admission waits", tier=tier, code=error.code)
        return True

    async def _judge_locked(self, conn: Connection, tier: str) -> None:
        beside = await in_thread(self._beside, tier)
        # in one order for everybody, so that no two wait for each other
        locked = {name: await SQL.one(conn, "lock_tier", tier=name) for name in sorted({tier, *beside})}[tier]
        # first what is on its way and then what is free: an entry that lands in between counts twice, not never
        outstanding = sum([(await SQL.one(conn, "outstanding", tier=name)).bytes for name in (tier, *beside)])
        elsewhere = sum([(await SQL.one(conn, "promised", tier=name)).bytes for name in beside])
        capacity, free = await in_thread(self._site.flash[tier].roots.space)
        capacity = max(capacity - elsewhere, 0)
        space = TierSpace(
            capacity_bytes=min(capacity, locked.capacity_bytes or capacity), free_bytes=free, promised_bytes=0,
            outstanding_bytes=outstanding, reserve_bytes=0,
        )  # fmt: skip
        holders = [row.bytes for row in await SQL.many(conn, "holders", tier=tier)]
        await _Line(self._site, conn, tier, space, holders).judge()

    def _beside(self, tier: str) -> list[str]:
        """Flash tiers on the same file system: what one promises the other has not. One that is away is on another."""
        device = self._site.flash[tier].roots.device()
        found = []
        for name, flash in list(self._site.flash.items()):  # they may become more meanwhile
            with suppress(MoverError):
                if name != tier and flash.roots.device() == device:
                    found.append(name)
        return found

    async def _begin_admitted(self, tier: str) -> None:
        async with self._site.database.instance() as conn:
            admitted = await SQL.many(conn, "admitted", tier=tier, limit=BEGIN_MAX)
        for one in admitted:
            async with self._site.database.project(one.project_id) as conn:
                run = await SQL.one(conn, "lock_admitted", id=one.run_id)
                # None: cancelled meanwhile, or begun by another daemon
                policy = self._site.policy(run.policy) if run else None
                if policy is not None:
                    await self._begin(conn, run, policy)

    async def _begin(self, conn: Connection, run: Any, policy: StagePolicy) -> None:
        await step(conn, run.id, "admitted", "staging")
        most = TARS_BYTES if run.layout == "shards" else SHARD_BYTES
        shards = cut_shards(await SQL.many(conn, "paths", run=run.id), policy.entries_per_shard, most)
        queue = tier_queue(run.tier)
        await add_shards(
            conn, run.project_id, [NewShard(queue, "run-stage", run.id, tuple(part), priority=5) for part in shards]
        )


def cut_shards(rows: Iterable[Any], most: int, most_bytes: int) -> Iterator[list[str]]:
    """Small files many together, because one sync makes all of them durable; of large ones so few that the nodes of a
    tier share them."""
    paths: list[str] = []
    size = 0
    for row in rows:
        if paths and (len(paths) == most or size + row.size_bytes > most_bytes):
            yield paths
            paths, size = [], 0
        paths.append(row.path)
        size += row.size_bytes
    if paths:
        yield paths


class _Turns:
    """Who asked for a judgement of a tier, and up to whom it was given."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.asked = self.judged = 0


class _Line:
    """One judgement of a tier's line, in a transaction that holds the tier."""

    def __init__(self, site: RunSite, conn: Connection, tier: str, space: TierSpace, holders: list[int]) -> None:
        self._site, self._conn, self._tier = site, conn, tier
        self._space, self._holders = space, holders
        self._ahead: list[int] = []
        self._short_of_room = False
        # written last, in the order of the projects: each record holds its chain until the commit
        self._records: list[tuple[str, str, str, str]] = []

    async def judge(self) -> None:
        policies = self._site.policies_to(self._tier)
        limits = {"tier": self._tier, "policies": list(policies), "limit": WAITING_MAX, "most": LINE_MAX}
        for run in await SQL.many(self._conn, "queue", **limits):
            await self._judge(run, policies[run.policy])
        for run in await SQL.many(self._conn, "without_policy", **limits):
            await self._explain(run, f"the policy {run.policy} is not loaded")
        for project, action, run_id, reason in sorted(self._records):
            await turn_to(self._conn, project)
            await self._site.record_own(self._conn, project, action, run_id, reason=reason)

    async def _judge(self, run: Any, policy: StagePolicy) -> None:
        space = self._space_of(policy)
        # what those who wait could release may be thousands of sums
        verdict = await asyncio.to_thread(admit, run.bytes, space, ahead=self._ahead, holders=self._holders)
        if run.overdue:
            await self._refuse(run, "deadline-passed", "its deadline passed before there was room")
        elif verdict.verdict == "refuse":
            await self._refuse(run, "too-large", verdict.reason)
        elif verdict.verdict == "wait":
            self._ahead.append(run.bytes)
        else:
            await self._admit(run, space)

    async def _admit(self, run: Any, space: TierSpace) -> None:
        """It may have its bytes; is there room for what it copies, and is its set still whole?"""
        if not await self._hold(run):
            return
        if not await entries.stand(self._conn, run.run_id):
            await self._explain(run, "its files are being laid out")
            self._ahead.append(run.bytes)
            return
        if gone := await selections.withdrawn_since(self._conn, run.selection_id):
            await self._refuse(run, IdentifierFoundLater.code, f"{len(gone)} of its slides were withdrawn meanwhile")
            offenders = [{"number": number, "why": "quarantined"} for number in gone]
            await self._conn.execute(SQL["name_offenders"], {"id": run.run_id, "offenders": Jsonb(offenders)})
            return
        to_copy = (await SQL.one(self._conn, "to_copy", run=run.run_id, tier=self._tier)).bytes
        if (await self._room(run, to_copy, space)).verdict == "wait":
            self._ahead.append(run.bytes)
            self._short_of_room = True
            return
        await step(self._conn, run.run_id, "requested", "admitted")
        await self._conn.execute(SQL["reserve"], {"id": run.run_id, "bytes": run.bytes, "to_copy": to_copy})
        self._records.append((run.project_id, "run admitted", run.run_id, ""))
        self._holders.append(run.bytes)
        self._space = _with(self._space, outstanding_bytes=self._space.outstanding_bytes + to_copy)

    async def _room(self, run: Any, to_copy: int, space: TierSpace) -> Admission:
        """What no live run holds can be given up for this one; it is counted only where it is needed."""
        found = copy(to_copy, space, passing=self._short_of_room)
        if found.verdict == "admit" or self._short_of_room:
            return found
        idle = await SQL.one(self._conn, "evictable_bytes", run=run.run_id, tier=self._tier)
        return copy(to_copy, _with(space, free_bytes=space.free_bytes + idle.bytes))

    def _space_of(self, policy: StagePolicy) -> TierSpace:
        return _with(self._space, promised_bytes=sum(self._holders), reserve_bytes=policy.reserve_bytes)

    async def _refuse(self, run: Any, reason: str, why: str) -> None:
        if not await self._hold(run):
            return
        await step(self._conn, run.run_id, "requested", "refused", reason=reason, why=why)
        self._records.append((run.project_id, "run refused", run.run_id, reason))

    async def _hold(self, run: Any) -> bool:
        """From here on nobody cancels it until the commit. False when somebody did."""
        await turn_to(self._conn, run.project_id)
        return await SQL.one(self._conn, "hold_waiting", id=run.run_id) is not None

    async def _explain(self, run: Any, why: str) -> None:
        await turn_to(self._conn, run.project_id)
        await self._conn.execute(SQL["explain_waiting"], {"id": run.run_id, "explanation": why})


def _with(space: TierSpace, **changes: int) -> TierSpace:
    return msgspec.structs.replace(space, **changes)
