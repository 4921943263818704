"""The archive is kept with the runs that came from it: second copies, locks, repairs (policy kind `archive`).

A *turn* (shard `archive-keep`) of a policy copies every published slide that has no whole second copy yet, all its
files under the same keys, each read back cold; the proof is written when all stand. Then, on tiers with object lock,
what a kept manifest names is locked on. Nothing is removed here.

What a kill leaves, copy by copy: a row that says `writing`, and some of the files. The next turn goes on: a file that
stands is read and believed only for its digest. The row comes before the first byte, so that whoever removes a
withdrawn slide knows each tier on which bytes of it may stand; from then on nothing more of it is copied.

Both copies are read again as every tier is (`moving.verify`), a share a day, each repaired from the other. What staging
or a turn finds damaged or gone is a *doubt*: it is read and repaired at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from msgspec import Struct

from mover import __version__, audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide.keeping import enough_s
from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    EntryMissing,
    MoverError,
    NotFound,
    SettingsInvalid,
)
from mover.jobs import FailureHandler, Handler, NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import SQL as SHARDS
from mover.jobs.shards import postpone_shard, renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import name_bytes
from mover.model.policy import ArchivePolicy
from mover.model.recipe import plain_copy
from mover.model.sidecar import decode_sidecar, sidecar_key
from mover.model.tiers import LockMode
from mover.moving.places import Ends
from mover.moving.verifications import Verifications
from mover.policy import PolicyBook
from mover.randomness import new_id
from mover.tiers.locking import ObjectLocks, object_locks
from mover.tiers.port import ReadTier
from mover.tiers.staging import StagingTier
from mover.transfer import Transfer

SQL = load(__file__)
KIND = "archive-keep"
PRIORITY = -5
SLICE_S = 20.0  # a worker is given back after so long
SLIDES_AT_ONCE = 4  # copied beside each other
LOCKS_AT_ONCE = 500
KEEPERS = 4
DOUBTS_AT_ONCE = 1000
MEASURE_S = 300.0  # how often the whole archive is counted

log = get_logger("archive")


class _Copied(Struct, frozen=True):
    """What became of one slide's copy. `reason` is a code where it is not whole; `doubted` the key on the first tier
    that kept it from being so."""

    number: str
    files: int = 0
    bytes: int = 0
    root: str = ""
    reason: str = ""
    doubted: str = ""


class Archives:
    def __init__(
        self, database: Database, ends: Ends, policies: PolicyBook, transfer: Transfer, verifications: Verifications, *,
        node: str, clock: Clock = SYSTEM,
    ) -> None:  # fmt: skip
        self._database, self._ends, self._policies, self._transfer = database, ends, policies, transfer
        self._verifications, self._node, self._clock = verifications, node, clock
        self._measured_s: float | None = None

    def handlers(self) -> dict[str, Handler]:
        return {KIND: self.keep}

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {KIND: self.failed}

    # --- what begins ------------------------------------------------------------------------------------------

    async def begin_due(self, project: str) -> int:
        """Turns whose time has come, and readings of what was doubted; how many began."""
        began = 0
        for policy in self._rules():
            if policy.tier in self._ends.tiers:
                by = f"policy:{policy.name}"
                began += await self._begin(project, policy, by=by, every_s=policy.every_s)
        return began + await self._read_doubted(project)

    def _rules(self) -> Iterator[ArchivePolicy]:
        return (one.policy for one in self._policies.all() if isinstance(one.policy, ArchivePolicy))

    async def _begin(self, project: str, policy: ArchivePolicy, *, by: str, every_s: float) -> bool:
        async with self._database.project(project) as conn:
            values = {"id": new_id("turn"), "project": project, "policy": policy.name, "by": by, "every_s": every_s}
            begun = await SQL.one(conn, "begin_turn", **values)
            if begun is None:
                return False
            await add_shards(conn, project, [NewShard(tier_queue(policy.tier), KIND, begun.id, priority=PRIORITY)])
        return True

    async def _read_doubted(self, project: str) -> int:
        began = 0
        async with self._database.project(project) as conn:
            doubted = [one.tier for one in await SQL.many(conn, "doubted_tiers")]
        for tier in (one for one in doubted if one in self._ends.tiers):  # others wait for a node that reaches them
            async with self._database.project(project) as conn:
                keys = [one.key for one in await SQL.many(conn, "doubted", tier=tier, limit=DOUBTS_AT_ONCE)]
                if keys:
                    spelled = tuple(map(name_bytes, keys))
                    await self._verifications.begin_list(conn, project, tier, spelled, repair_from=self._other(tier))
                    began += 1
        return began

    def _other(self, tier: str) -> str | None:
        """Where the other copy of what stands on a tier is."""
        for policy in self._rules():
            if policy.second_copy is not None and tier in (policy.tier, policy.second_copy):
                other = policy.second_copy if tier == policy.tier else policy.tier
                return other if other in self._ends.tiers else None
        return None

    # --- a turn -------------------------------------------------------------------------------------------------

    async def keep(self, shard: Shard) -> None:
        """As far as a slice goes; what is left waits for its next turn of the worker."""
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            row = await SQL.one(conn, "turn", id=shard.subject_id)
        policy = next((one for one in self._rules() if one.name == row.policy), None)
        if row.state != "running" or policy is None:
            await self._end(shard, "failed", "no policy of this name keeps the archive any more")
            return
        until_s = self._clock.monotonic_s() + SLICE_S
        for tier in filter(None, (policy.tier, policy.second_copy)):
            await in_thread(self._ends.tier(tier).check_identity)
        done = await self._copy_all(shard, row, policy, until_s)
        if not (done and await self._lock_all(shard, row, policy, until_s)):
            async with self._database.project(shard.project) as conn:
                await postpone_shard(conn, shard, delay_s=0)
                await conn.execute(SHARDS["wake"])
            return
        await self._end(shard, "done", None)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        values = {"id": shard.subject_id, "state": "failed", "explanation": f"{error.code}: {error.what}"}
        await conn.execute(SQL["end_turn"], values)
        log.error("archive not kept", subject=shard.subject_id, code=error.code)

    async def _end(self, shard: Shard, state: str, why: str | None) -> None:
        async with self._database.project(shard.project) as conn:
            await conn.execute(SQL["end_turn"], {"id": shard.subject_id, "state": state, "explanation": why})
            row = await SQL.one(conn, "turn", id=shard.subject_id)
            await finish_shard(conn, shard)
            if row.copied or row.failed or row.locked or row.missing:
                counts = {"copied": row.copied, "failed": row.failed, "locked": row.locked, "missing": row.missing}
                await audit.record(
                    conn, project=shard.project, node=self._node, actor=row.created_by, action="archive kept",
                    subject=row.policy, reason=why or "", details=counts,
                )  # fmt: skip

    async def _count(self, conn: Connection, turn: str, **counts: int) -> None:
        none = {"copied": 0, "bytes": 0, "failed": 0, "locked": 0, "missing": 0}
        await conn.execute(SQL["count"], {"id": turn, **none, **counts})

    # --- second copies --------------------------------------------------------------------------------------------

    async def _copy_all(self, shard: Shard, row: Any, policy: ArchivePolicy, until_s: float) -> bool:
        """False when the slice was over before."""
        if policy.second_copy is None:
            return True
        after, first, second = "", policy.tier, policy.second_copy
        while True:
            values = {"first": first, "second": second, "after": after, "since": row.started_at}
            async with self._database.project(shard.project) as conn:
                found = await SQL.many(conn, "uncopied", **values, limit=SLIDES_AT_ONCE)
            if not found:
                return True
            if self._clock.monotonic_s() > until_s:
                return False
            ended = await asyncio.gather(
                *(self._copy(shard, one, first, second) for one in found), return_exceptions=True
            )
            for error in ended:
                if isinstance(error, BaseException):
                    raise error
            after = found[-1].number

    async def _copy(self, shard: Shard, one: Any, first: str, second: str) -> None:
        """The row, the bytes, the proof. A tier that is away is raised: then the row says `writing`, and the next turn
        goes on."""
        at = {"number": one.number, "tier": second}
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["share_withdrawals"])
            if one.withdrawn or await SQL.one(conn, "begin_copy", **at) is None:
                # what was begun before the slide was withdrawn ends here; its bytes go with the slide's
                await conn.execute(SQL["not_copied"], {**at, "reason": "identifier-found-later"})
                return
            files = await SQL.many(conn, "files", number=one.number)
        made = await in_thread(self._carry, one.number, files, self._ends.tier(first), self._ends.tier(second))
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await self._record(conn, shard, made, first, second)

    def _carry(self, number: str, files: Sequence[Any], first: StagingTier, second: StagingTier) -> _Copied:
        """Blocking. The sidecar goes last, as it did when the slide was published."""
        for one in files:
            try:
                self._carry_file(one, first, second)
            except (EntryMissing, DigestMismatch, ChangedWhileReading) as error:
                return _Copied(number, reason=error.code, doubted=one.key)
            except EntryExists as error:
                return _Copied(number, reason=error.code)
        with suppress(EntryMissing):  # the catalog vouches for the files where an archive has no sidecars
            self._carry_sidecar(number, first, second)
        return _Copied(number, len(files), sum(one.size_bytes for one in files), files[0].root)

    def _carry_file(self, one: Any, first: StagingTier, second: StagingTier) -> None:
        """EntryExists where other bytes stand under the name: nobody knows what that is."""
        with first.open(one.key) as source:
            if source.size_bytes != one.size_bytes:
                raise DigestMismatch("the archive holds other bytes than the catalog says", where=first.name)
            try:
                self._transfer.run_recipe(
                    plain_copy(one.size_bytes), source=source, source_tier=first, target=second, key=one.key,
                    expected=one.digest,
                )  # fmt: skip
            except EntryExists:
                if self._transfer.digest_stream(second.stream(one.key, cold=True)).blake3 != one.digest:
                    raise

    def _carry_sidecar(self, number: str, first: ReadTier, second: StagingTier) -> None:
        key = sidecar_key(number)
        data = first.read(key)
        decode_sidecar(data)
        with suppress(EntryExists):  # an earlier turn's; the sidecar of a number is written once
            second.put(key, [data], size_bytes=len(data))

    async def _record(self, conn: Connection, shard: Shard, made: _Copied, first: str, second: str) -> None:
        at = {"number": made.number, "tier": second}
        if made.reason:
            await conn.execute(SQL["not_copied"], {**at, "reason": made.reason})
            if made.doubted:
                values = {"project": shard.project, "tier": first, "key": made.doubted, "reason": made.reason}
                await conn.execute(SQL["doubt"], values)
            await self._count(conn, shard.subject_id, failed=1)
            log.warning("slide not copied", tier=second, number=made.number, code=made.reason)
            return
        proof = await proofs.add(
            conn, project=shard.project, kind="verified", subject=made.number, count=made.files, bytes=made.bytes,
            root=made.root, verifier=f"mover.moving.archives {__version__}", details={"tier": second, "from": first},
        )  # fmt: skip
        await conn.execute(SQL["copied"], {**at, "proof": proof})
        await self._count(conn, shard.subject_id, copied=1, bytes=made.bytes)

    # --- locks ------------------------------------------------------------------------------------------------------

    async def _lock_all(self, shard: Shard, row: Any, policy: ArchivePolicy, until_s: float) -> bool:
        """Of every tier of the policy, what kept manifests name. False when the slice was over before."""
        if policy.lock_s is None:
            return True
        for name in filter(None, (policy.tier, policy.second_copy)):
            locks = object_locks(self._ends.tier(name))
            if locks is None:
                raise SettingsInvalid("the tier cannot be asked for object locks", where=name)
            number, key = "", ""
            while True:
                enough = row.now + timedelta(seconds=enough_s(policy.lock_s))
                values = {"tier": name, "enough": enough, "number": number, "key": key, "limit": LOCKS_AT_ONCE}
                async with self._database.project(shard.project) as conn:
                    found = await SQL.many(conn, "unlocked", **values)
                if not found:
                    break
                if self._clock.monotonic_s() > until_s:
                    return False
                await self._lock(shard, policy, locks, [one.key for one in found], now=row.now)
                number, key = found[-1]
        return True

    async def _lock(
        self, shard: Shard, policy: ArchivePolicy, locks: ObjectLocks, keys: list[str], *, now: datetime
    ) -> None:
        mode: LockMode = "COMPLIANCE" if policy.lock_mode == "compliance" else "GOVERNANCE"
        until = now + timedelta(seconds=policy.lock_s or 0)
        held = await in_thread(_extended, locks, keys, until, mode)
        name = locks.tier.name
        missing = [one for one, lock in held.items() if lock is None and not one.endswith("/sidecar.json")]
        kept = {one: lock for one, lock in held.items() if lock is not None}
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["locked"], {"tier": name, "keys": list(kept), "untils": list(kept.values())})
            for one in missing:
                values = {"project": shard.project, "tier": name, "key": one, "reason": EntryMissing.code}
                await conn.execute(SQL["doubt"], values)
            await self._count(conn, shard.subject_id, locked=len(kept), missing=len(missing))

    # --- ask, look, measure -----------------------------------------------------------------------------------

    async def ask(self, identity: Identity, name: str, *, request: str = "") -> wire.Archive:
        """A turn now, whatever the time; one that runs goes on."""
        policy = next((one for one in self._rules() if one.name == name), None)
        if policy is None:
            raise NotFound("no archive policy has this name", where=name[:60], hint="See `mover archive list`.")
        if await self._begin(identity.project, policy, by=identity.actor, every_s=0):
            async with self._database.project(identity.project) as conn:
                await audit.record(
                    conn, project=identity.project, node=self._node, actor=identity.actor, action="archive turn asked",
                    subject=policy.name, request=request,
                )  # fmt: skip
        return await self._view(identity.project, policy)

    async def list(self, project: str) -> wire.Archives:
        return wire.Archives(archives=[await self._view(project, policy) for policy in self._rules()])

    async def _view(self, project: str, policy: ArchivePolicy) -> wire.Archive:
        tiers = [name for name in (policy.tier, policy.second_copy) if name is not None]
        async with self._database.project(project) as conn:
            stand = await SQL.one(conn, "standing", first=policy.tier, second=policy.second_copy)
            damage = await SQL.one(conn, "damage", tiers=tiers)
            turn = await SQL.one(conn, "last_turn", policy=policy.name)
            locked = await SQL.one(conn, "locked_until", tiers=tiers) if policy.lock_s else None
        return wire.Archive(
            policy=policy.name, tier=policy.tier, second_copy=policy.second_copy, slides=stand.slides,
            bytes=stand.bytes, copied=stand.copied, late=stand.late if policy.second_copy else 0, failed=stand.failed,
            damaged=damage.damaged, doubted=damage.doubted, locked_until=locked.until if locked else None,
            turn=_turn(turn) if turn else None,
        )  # fmt: skip

    async def measure(self, project: str) -> None:
        """Counting a large archive takes a while, so not at every look."""
        now_s = self._clock.monotonic_s()
        if self._measured_s is not None and now_s - self._measured_s < MEASURE_S:
            return
        self._measured_s = now_s
        for seen in (await self.list(project)).archives:
            metrics.ARCHIVE_UNCOPIED.labels(seen.policy).set(seen.late)
            metrics.ARCHIVE_DAMAGED.labels(seen.policy).set(seen.damaged + seen.doubted)


def _turn(row: Any) -> wire.ArchiveTurn:
    return wire.ArchiveTurn(
        state=row.state, started_at=row.started_at, finished_at=row.finished_at, copied=row.copied, bytes=row.bytes,
        failed=row.failed, locked=row.locked, missing=row.missing, explanation=row.explanation,
    )  # fmt: skip


def _extended(locks: ObjectLocks, keys: Sequence[str], until: datetime, mode: LockMode) -> dict[str, datetime | None]:
    """Blocking, with KEEPERS threads. None of a key that is not there."""

    def extend(key: str) -> datetime | None:
        try:
            return locks.extend(key, until=until, mode=mode).until
        except EntryMissing:
            return None

    with ThreadPoolExecutor(KEEPERS, thread_name_prefix="keep") as pool:
        return dict(zip(keys, pool.map(extend, keys), strict=True))
