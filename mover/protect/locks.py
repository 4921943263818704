"""What is kept stays kept: locks are renewed while a kept snapshot needs the object, and tried to be broken each hour.

**Renewal** (shard `lock-renew`): snapshots that somebody hid although we keep them are brought back; then everything
that the kept snapshots need is locked until `retain_s` from now by the database's clock, slice by slice. A row per
object says until when, so that a killed pass goes on and a pass over what is locked for long costs a listing. Needed
packs that were hidden, or that somebody put other bytes upon, are brought back, those that are gone are told as
missing. Nothing is ever shortened; what no snapshot needs any more runs out by itself.

**The lock probe** (shard `lock-probe`) attacks objects of its own with the daemon's credential. What succeeds makes the
tier *not immutable*: a row, an audit record, a metric, an error in the log, and a line of `mover status`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from msgspec import Struct

from mover import metrics
from mover.catalog.database import Connection
from mover.catalog.instance import server_now
from mover.catalog.queries import load
from mover.decide.keeping import HOUR_S, State, changed, enough_s, renewal_due
from mover.errors import EntryMissing, MoverError, TierUnavailable
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.protect.keeping import HIDDEN, PASSING, Rule, bring_back_doors, put_right, rules
from mover.protect.site import ProtectSite
from mover.randomness import new_id, some_of
from mover.repository.kept import Kept, keys_to_keep
from mover.tiers.locking import AppendOnlyTier, KeepingTier, LockingTier, below, innermost, object_locks
from mover.tiers.lockprobe import Probe, probe_files, probe_objects

SQL = load(__file__)
SLICE = 500  # objects between two transactions
OVERLAID_SLICE = 8  # the same, of those that are read whole
DOUBTED_SHARE, DOUBTED_MIN = 0.02, 20  # of what rows say, about which a pass asks the store all the same
KEEPERS = 4  # that are asked for at the same moment
PRIORITY = -5
MISSING_TOLD = 100
# what an earlier start's probe of traits left on a bucket that keeps everything for days
PROBE_LEFTOVERS = ".mover/probe-"

log = get_logger("locks")


class Turn(Struct, frozen=True):
    """What became of one slice."""

    kept: tuple[tuple[str, datetime | None], ...]
    brought_back: tuple[str, ...]
    missing: tuple[str, ...]


Looked = tuple[tuple[str, ...], Kept, set[str]]  # what came back, what is needed, packs with several versions


class Locks:
    def __init__(self, site: ProtectSite) -> None:
        self._site = site

    # --- what begins ------------------------------------------------------------------------------------------

    async def begin_due(self, project: str) -> int:
        """Probes whose hour has come and passes that are due; how many began. Any number of daemons begin one."""
        began = 0
        for rule in rules(self._site.policies):
            if rule.tier in self._site.tiers:
                began += await self._begin_probe(project, rule)
                if rule.repository:
                    began += await self._begin_renewal(project, rule)
        return began

    async def _begin_probe(self, project: str, rule: Rule) -> bool:
        async with self._site.database.project(project) as conn:
            values = {"tier": rule.tier, "policy": rule.policy, "means": rule.means, "every_s": HOUR_S}
            if await SQL.one(conn, "ask_probe", **values) is None:
                return False
            await add_shards(conn, project, [NewShard(tier_queue(rule.tier), "lock-probe", rule.tier)])
        return True

    async def _begin_renewal(self, project: str, rule: Rule) -> bool:
        async with self._site.database.project(project) as conn:
            last = await SQL.one(conn, "due_renewal", tier=rule.tier, prefix=rule.prefix)
            if not renewal_due(rule.retain_s, age_s=last.age_s, running=last.running, failed=last.failed):
                return False
            renewal = new_id("renewal")
            values = {"id": renewal, "project": project, "tier": rule.tier, "prefix": rule.prefix}
            if await SQL.one(conn, "begin_renewal", **values, retain_s=rule.retain_s) is None:
                return False
            await add_shards(conn, project, [NewShard(tier_queue(rule.tier), "lock-renew", renewal, priority=PRIORITY)])
        return True

    # --- renewal ----------------------------------------------------------------------------------------------

    async def renew(self, shard: Shard) -> None:
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            row = await SQL.one(conn, "renewal", id=shard.subject_id)
            known = {r.repository_id: r.state for r in await SQL.many(conn, "known", tier=row.tier)}
            now = await server_now(conn)
        place = (row.tier, row.prefix)
        rule = next((one for one in rules(self._site.policies) if (one.tier, one.prefix) == place), None)
        if rule is None or row.state != "running":
            await self._end(shard, Kept((), 0), (), 0, "no policy keeps this repository any more")
            return
        tier = self._tier(rule)
        back, kept, overlaid = await in_thread(self._look, rule, tier, known)
        await self._doubt(shard, rule, tier, [key for key in kept.keys if key not in overlaid], now=now)
        missing: list[str] = []
        for keys in _slices(kept.keys, overlaid):
            turn = await self._turn(
                shard, rule, tier, keys, now=now, needed=len(kept.keys), back=len(back), overlaid=overlaid
            )
            missing += turn.missing[: MISSING_TOLD - len(missing)]
            await self._tell_back(shard, rule, (*back, *turn.brought_back))
            back = ()
        swept = await in_thread(self._sweep, rule, tier)
        await self._end(shard, kept, missing, swept, "")

    def _tier(self, rule: Rule) -> KeepingTier:
        kept = self._site.repositories.kept_tier(rule.tier, rule.prefix)
        assert isinstance(kept, KeepingTier)  # the rule says so
        return kept

    def _look(self, rule: Rule, tier: KeepingTier, known: Mapping[str, str]) -> Looked:
        """Blocking. What came back, what is needed, and of which packs more than one version stands. Snapshots are
        brought back first, because only then can be told what is needed; but only those that the catalog keeps: another
        client may forget its own. Index files, and then packs, come back when what is needed cannot be told without."""
        back = bring_back_doors(tier, rule.prefix)
        forgotten = [snapshot for snapshot, state in known.items() if state == "forgotten"]
        ours = {snapshot for snapshot, state in known.items() if state != "forgotten"}
        back += _brought_back(tier, rule.prefix, "snapshots/", only=ours)
        back += put_right(tier, rule.prefix, "snapshots/", "index/")
        repository = self._site.repositories.at(rule.tier, rule.prefix)
        for kind in ("index/", "data/"):
            kept = keys_to_keep(repository, forgotten=forgotten)
            if kept.whole:
                break
            back += _brought_back(tier, rule.prefix, kind) + put_right(tier, rule.prefix, kind)
        else:
            kept = keys_to_keep(repository, forgotten=forgotten)
        return tuple(back), kept, _overlaid(tier, rule.prefix) & set(kept.keys)

    async def _doubt(self, shard: Shard, rule: Rule, tier: KeepingTier, keys: list[str], *, now: datetime) -> None:
        """A row that was forged would let a lock run out. So the store is asked about a random share of what the rows
        say; where one says more than holds, none is believed, and this pass asks about all."""
        share = _random_share(keys)
        enough = now + timedelta(seconds=enough_s(rule.retain_s))
        async with self._site.database.project(shard.project) as conn:
            rows = await SQL.many(conn, "fresh", tier=rule.tier, keys=share, enough=enough)
        wrong = await in_thread(_wrong, tier, {row.key: row.until for row in rows})
        if not wrong:
            return
        log.error("locks not as written down", tier=rule.tier, count=len(wrong))
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["distrusted"], {"tier": rule.tier})
            await self._site.record(
                conn, shard.project, "locks not as written down", rule.tier, reason="the store says less than the rows",
                count=len(wrong), keys=wrong[:MISSING_TOLD],
            )  # fmt: skip

    async def _turn(
        self, shard: Shard, rule: Rule, tier: KeepingTier, keys: list[str], *, now: datetime,
        needed: int, back: int, overlaid: Collection[str],
    ) -> Turn:  # fmt: skip
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            enough = now + timedelta(seconds=enough_s(rule.retain_s))
            fresh = {r.key for r in await SQL.many(conn, "fresh", tier=rule.tier, keys=keys, enough=enough)}
            fresh = fresh.difference(overlaid)
        until = now + timedelta(seconds=rule.retain_s)
        turn = await in_thread(_keep, tier, [key for key in keys if key not in fresh], until, overlaid)
        locked = [(key, held) for key, held in turn.kept if held is not None and rule.retain_s]
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(
                SQL["locked"], {"tier": rule.tier, "keys": [k for k, _ in locked], "untils": [u for _, u in locked]}
            )
            counts = {"renewed": len(turn.kept), "brought_back": len(turn.brought_back) + back, "needed": needed}
            await conn.execute(SQL["count"], {"id": shard.subject_id, **counts})
        metrics.LOCKS_RENEWED.labels(rule.tier).inc(len(turn.kept))
        return turn

    async def _tell_back(self, shard: Shard, rule: Rule, keys: Sequence[str]) -> None:
        """Somebody with write access tried to make us forget: that is an alarm, whoever it was."""
        if not keys:
            return
        metrics.LOCKS_BROUGHT_BACK.labels(rule.tier).inc(len(keys))
        log.error("hidden objects brought back", tier=rule.tier, count=len(keys))
        async with self._site.database.project(shard.project) as conn:
            await self._site.record(
                conn, shard.project, "hidden objects brought back", rule.tier, reason="a kept snapshot needs them",
                count=len(keys), keys=list(keys[:MISSING_TOLD]),
            )  # fmt: skip

    def _sweep(self, rule: Rule, tier: KeepingTier) -> int:
        """Blocking. What was removed long ago still holds its hidden versions; those that ran out go."""
        if not isinstance(tier, LockingTier):
            return 0
        return sum(tier.locks.sweep(prefix) for prefix in below(rule.prefix, PASSING, *HIDDEN))

    async def _end(self, shard: Shard, kept: Kept, missing: Sequence[str], swept: int, why: str) -> None:
        if missing or not kept.whole:
            why = f"{len(missing)} objects that kept snapshots need are gone"
            why += "" if kept.whole else "; what is needed cannot be told, so everything that is there was kept"
            log.error("kept objects missing", count=len(missing), shard=shard.id)
        async with self._site.database.project(shard.project) as conn:
            values = {"needed": len(kept.keys), "missing": len(missing), "swept": swept, "explanation": why or None}
            await conn.execute(SQL["renewed"], {"id": shard.subject_id, **values})
            row = await SQL.one(conn, "renewal", id=shard.subject_id)
            await conn.execute(SQL["dropped"], {"tier": row.tier})
            await finish_shard(conn, shard)
            if missing or not kept.whole:
                await self._site.record(
                    conn, shard.project, "kept objects missing", row.tier, reason=why, keys=list(missing)
                )

    async def renewal_failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        what = f"{error.code}: {error.what}"
        await conn.execute(SQL["renewal_failed"], {"id": shard.subject_id, "explanation": what})
        log.error("locks not renewed", shard=shard.id, code=error.code)
        await self._site.record(conn, shard.project, "locks not renewed", shard.subject_id, reason=error.code)

    # --- the lock probe -----------------------------------------------------------------------------------------

    async def probe(self, shard: Shard) -> None:
        rule = next((one for one in rules(self._site.policies) if one.tier == shard.subject_id), None)
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            now = await server_now(conn)
            if rule is None:
                await finish_shard(conn, shard)
                return
        try:
            found = await in_thread(self._probe, rule, now)
        except TierUnavailable as error:
            async with self._site.database.project(shard.project) as conn:
                what = f"the last probe had no answer ({error.code})"
                await conn.execute(SQL["unanswered"], {"tier": rule.tier, "explanation": what})
                await finish_shard(conn, shard)
            log.warning("lock probe without an answer", tier=rule.tier, code=error.code)
            return
        await self._probed(shard, rule, found)

    def _probe(self, rule: Rule, now: datetime) -> Probe:
        """Blocking."""
        if rule.means == "immutable files":
            tier = self._tier(rule)
            assert isinstance(tier, AppendOnlyTier)
            return probe_files(innermost(tier), tier)
        locks = object_locks(self._site.tiers[rule.tier])
        assert locks is not None  # the policies were held against the traits at the start
        found = probe_objects(locks, now=now, mode=rule.mode)
        locks.sweep(PROBE_LEFTOVERS)
        return found

    async def _probed(self, shard: Shard, rule: Rule, found: Probe) -> None:
        state: State = "immutable" if found.immutable else "not immutable"
        async with self._site.database.project(shard.project) as conn:
            before = await SQL.one(conn, "tier_lock", tier=rule.tier)
            values = {"tier": rule.tier, "state": state, "succeeded": list(found.succeeded),
                      "explanation": found.why, "standing": found.standing}  # fmt: skip
            await conn.execute(SQL["probed"], values)
            await finish_shard(conn, shard)
            action = changed(before.state, state, found.succeeded)
            if action:
                await self._site.record(
                    conn, shard.project, action, rule.tier, reason=found.why, tried=list(found.tried),
                    succeeded=list(found.succeeded),
                )  # fmt: skip
        metrics.TIER_IMMUTABLE.labels(rule.tier).set(found.immutable)
        if not found.immutable:
            log.error("tier not immutable", tier=rule.tier, what=found.why)

    # --- what is told -------------------------------------------------------------------------------------------

    async def told(self) -> dict[str, wire.TierLock]:
        """By tier: what the last probe found, and when."""
        async with self._site.database.instance() as conn:
            rows = await SQL.many(conn, "tier_locks")
        kept = {rule.tier for rule in rules(self._site.policies)}
        return {row.tier: _told(row) for row in rows if row.tier in kept}

    async def measure(self) -> None:
        """Gauges as the catalog has them, so that a daemon that did not probe itself tells them too."""
        metrics.TIER_IMMUTABLE.clear()
        for tier, lock in (await self.told()).items():
            if lock.state != "unknown":
                metrics.TIER_IMMUTABLE.labels(tier).set(lock.state == "immutable")


def _told(row: Any) -> wire.TierLock:
    return wire.TierLock(
        means=row.means, state=row.state, explanation=row.explanation or None, succeeded=list(row.succeeded),
        probed_at=row.probed_at, since=row.since,
    )  # fmt: skip


def _slices(keys: Sequence[str], few: Collection[str]) -> Iterator[list[str]]:
    """At least one, so that a pass over an empty repository is written down too."""
    left = (key for key in keys if key not in few)
    yield list(islice(left, SLICE))
    for rest, size in ((left, SLICE), (iter(sorted(few)), OVERLAID_SLICE)):
        while taken := list(islice(rest, size)):
            yield taken


def _brought_back(tier: KeepingTier, prefix: str, kind: str, *, only: Collection[str] | None = None) -> list[str]:
    """Blocking."""
    if not isinstance(tier, LockingTier):
        return []
    hidden = [key for place in below(prefix, kind) for key in tier.locks.hidden(place)]
    wanted = [key for key in hidden if only is None or key.rsplit("/", 1)[-1] in only]
    return [key for key in wanted if tier.bring_back(key)]


def _random_share(keys: list[str]) -> list[str]:
    """DOUBTED_SHARE of them, and no fewer than DOUBTED_MIN."""
    count = min(max(int(len(keys) * DOUBTED_SHARE), DOUBTED_MIN), SLICE, len(keys))
    return some_of(keys, count)


def _wrong(tier: KeepingTier, untils: Mapping[str, datetime]) -> list[str]:
    """Blocking. Keys of which the store does not say what was written down, or that are not seen."""
    if not isinstance(tier, LockingTier):
        return []

    def holds(key: str) -> bool:
        try:
            held = tier.locks.of(key)
        except EntryMissing:
            return False
        return held is not None and held.until >= untils[key]

    with ThreadPoolExecutor(KEEPERS, thread_name_prefix="keep") as pool:
        return [key for key, is_so in zip(untils, pool.map(holds, untils), strict=True) if not is_so]


def _overlaid(tier: KeepingTier, prefix: str) -> set[str]:
    """Blocking. Packs."""
    if not isinstance(tier, LockingTier):
        return set()
    return {key for place in below(prefix, "data/") for key in tier.locks.overlaid(place)}


def _keep(tier: KeepingTier, keys: Sequence[str], until: datetime, overlaid: Collection[str]) -> Turn:
    """Blocking, with KEEPERS threads. One that is not there may only be hidden."""

    def keep(key: str) -> tuple[str, datetime | None, str]:
        try:
            righted = key in overlaid and tier.put_right(key, until)
            return key, tier.keep(key, until), "brought back" if righted else ""
        except EntryMissing:
            if not tier.bring_back(key):
                return key, None, "missing"
            return key, tier.keep(key, until), "brought back"

    with ThreadPoolExecutor(KEEPERS, thread_name_prefix="keep") as pool:
        found = list(pool.map(keep, keys))
    return Turn(
        tuple((key, held) for key, held, what in found if what != "missing"),
        tuple(key for key, _, what in found if what == "brought back"),
        tuple(key for key, _, what in found if what == "missing"),
    )
