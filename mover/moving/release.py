"""The second half of a move (D14): sources leave, one by one, each proved a moment before.

Order, and what a crash between leaves: the copy is read cold and the source read again -> the row says `leaving`
with the trash name, device and inode -> the rename, both folders synced -> the copy still stands, or the source goes
back -> the row says `released`. A row that says `leaving` after a crash is looked up under both names, by inode.
Nothing is removed here: purging comes after the hold, by row id, and only a file of the inode that was written down,
which nobody wrote to, and whose bytes stand elsewhere still. Bringing back is the same rename the other way.

The look after the rename is what stands between two releases that each count on the copy the other takes away (a move
there and a move back, of whatever projects and daemons), and a copy that is the source itself by a way that no mount
table shows: each first takes its own away and then looks, so that at least one of them sees the other's gone.

Nothing leaves and nothing is purged when a tier is not the one it claims to be, when anything was recorded later
than now, or when the catalog is not the one the release was made in.

Locks in a transaction: the own shard, the transfer, the release, its entries, the audit head.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from blake3 import blake3
from msgspec import Struct, structs

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.moving import (
    Refusal,
    Standing,
    check_release,
    clock_went_back,
    judge_release,
    needs_second_person,
    owned_key,
)
from mover.errors import (
    Conflict,
    IntegrityError,
    MoverError,
    ReleaseRefused,
    RequestInvalid,
    TierError,
    TierUnavailable,
)
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread, siblings_open
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.names import name_bytes, name_text
from mover.model.tiers import Fingerprint
from mover.moving.move import SQL as MOVE
from mover.moving.move import set_state
from mover.moving.places import Ends
from mover.moving.trash import Inode, Trash, inode_of, trash_key
from mover.randomness import new_id
from mover.tiers.guard import guarded, wanted
from mover.tiers.port import OpenEntry, ReadTier, deletion_off, refuse_kept
from mover.transfer.digest import digest_source

SQL = load(__file__)
SHARD_ENTRIES = 2_000
SLICE_ENTRIES = 128
SLICE_BYTES = 8 << 30
# rows whose file may be in the trash; of a purge that was given up in the middle some still are
IN_TRASH = ("leaving", "released", "purging")
Result = TypeVar("Result")
_KEEPS = (IntegrityError, TierError, RequestInvalid)

log = get_logger("moving")


class _Look(Struct, frozen=True):
    """An entry as it was found: to leave under `inode`, already gone to the trash, or kept for a reason. `copied`:
    the copy's fingerprint when it was read and found equal."""

    id: int
    key: str
    trash: str
    copy: str = ""
    inode: Inode | None = None
    copied: Fingerprint | None = None
    left: bool = False
    kept: Refusal | None = None


class Releases:
    """The front, and the handlers of `transfer-release`, `transfer-restore` and `transfer-purge`."""

    def __init__(self, database: Database, ends: Ends, trash: Mapping[str, Trash], *, node: str) -> None:
        self._database, self._ends, self._trash, self._node = database, ends, trash, node

    # --- the front --------------------------------------------------------------------------------------------

    async def begin(self, conn: Connection, transfer: Any, body: wire.TransferRequest) -> str:
        """Rows for what may leave, one release a tier. Answers the transfer's next state: `releasing`, `waiting`
        for a second person, or its end when nothing is left to release."""
        epoch = (await SQL.one(conn, "epoch")).epoch
        waits = False
        releases = []
        for tier in transfer.sources:
            made = await self._one_tier(conn, transfer, body, tier, epoch)
            if made is not None:
                releases.append(made)
                waits = waits or made.reason is not None
        if not releases:
            return "incomplete" if transfer.failed_count else "done"
        if waits:
            return "waiting"
        for made in releases:
            await self._start(conn, made)
        return "releasing"

    async def _one_tier(
        self, conn: Connection, transfer: Any, body: wire.TransferRequest, tier: str, epoch: str
    ) -> Any:
        ats = [at for at, source in enumerate(body.sources) if source.tier == tier]
        counted = await SQL.one(conn, "releasable", transfer=transfer.id, ats=ats)
        if not counted.entries:
            return None
        known = await SQL.one(conn, "tier_entries", tier=tier)
        reason = needs_second_person(
            counted.entries, tier_entries=known.entries or None, free_entries=body.release.entries,
            percent=body.release.percent, hold_s=body.release.hold_s, by_policy=body.policy is not None,
        )  # fmt: skip
        return await SQL.one(
            conn, "insert", id=_release_id(), project=transfer.project_id, transfer=transfer.id, tier=tier,
            reason=reason, entries=counted.entries, bytes=counted.bytes, hold_s=body.release.hold_s, epoch=epoch,
            actor=transfer.created_by, ats=ats,
        )  # fmt: skip

    async def approve(self, conn: Connection, transfer: Any, actor: str) -> None:
        """In the transaction that holds the transfer's row."""
        for row in await SQL.many(conn, "of_transfer", transfer=transfer.id):
            if row.state == "waiting":
                await SQL.one(conn, "approved", id=row.id, actor=actor)
                await self._start(conn, row)

    async def drop(self, conn: Connection, transfer: str) -> None:
        """Releases that wait for approval are given up; their sources stay."""
        await conn.execute(SQL["drop"], {"transfer": transfer})

    async def _start(self, conn: Connection, row: Any) -> None:
        check_release("waiting", "releasing", subject=row.id)
        await conn.execute(SQL["set_state"], {"id": row.id, "state": "releasing", "explanation": None})
        await self._add_shards(conn, row, "transfer-release", ("waiting", "leaving"))

    async def restore(self, conn: Connection, transfer: str) -> None:
        """Begin to bring back whatever of the transfer is held. Conflict when nothing is."""
        rows = await SQL.many(conn, "of_transfer", transfer=transfer)
        held = [row for row in rows if row.state in ("held", "failed")]
        if not held:
            raise Conflict("nothing of this transfer is held in a trash", where=transfer)
        for row in held:
            check_release(row.state, "restoring", subject=row.id)
            await conn.execute(SQL["set_state"], {"id": row.id, "state": "restoring", "explanation": None})
            await self._add_shards(conn, row, "transfer-restore", IN_TRASH)

    async def begin_purges(self) -> int:
        """Releases whose hold is over go on to be purged; how many. Called from time to time by every daemon."""
        async with self._database.instance() as conn:
            over = await SQL.many(conn, "over")
        begun = 0
        for one in over:
            if one.tier not in self._trash:
                continue
            async with self._database.project(one.project_id) as conn:
                row = await SQL.one(conn, "lock", id=one.release_id)
                if row.state != "held" or (refused := await self._unfit(conn, row)) is not None:
                    if row.state == "held" and row.explanation != refused:
                        await conn.execute(SQL["set_state"], {"id": row.id, "state": "held", "explanation": refused})
                    continue
                await conn.execute(SQL["set_state"], {"id": row.id, "state": "purging", "explanation": None})
                await self._add_shards(conn, row, "transfer-purge", ("released", "purging"))
                await self._audit(conn, row, "release purge begins", {"entries": row.entries})
                begun += 1
        return begun

    async def _add_shards(self, conn: Connection, row: Any, kind: str, states: Sequence[str]) -> None:
        """At least one, so that somebody ends it also when nothing is left to do."""
        parts = await SQL.many(conn, "parts", release=row.id, states=list(states), entries=SHARD_ENTRIES)
        ranges = [(str(part.first), str(part.last)) for part in parts] or [("0", "0")]
        queue = tier_queue(row.tier)
        await add_shards(conn, row.project_id, [NewShard(queue, kind, row.id, one, priority=2) for one in ranges])

    async def views(self, conn: Connection, transfer: str) -> list[wire.Release]:
        found = []
        for row in await SQL.many(conn, "seen_of_transfer", transfer=transfer):
            counts = {one.state: one.count for one in await SQL.many(conn, "counts", release=row.id)}
            kept = {one.code: one.count for one in await SQL.many(conn, "kept", release=row.id)}
            found.append(wire.Release(
                id=row.id, tier=row.tier, state=row.state, reason=row.reason, explanation=row.explanation,
                entries=row.entries, bytes=int(row.bytes), counts=counts, kept=kept, hold_until=row.hold_until,
                requested_by=row.requested_by, approved_by=row.approved_by,
            ))  # fmt: skip
        return found

    # --- what stands against any removal ------------------------------------------------------------------------

    async def _unfit(self, conn: Connection, row: Any) -> str | None:
        """Why nothing may be removed now, whatever the plan said (D12)."""
        facts = await SQL.one(conn, "fit")
        if clock_went_back(facts.now, facts.newest):
            return "the server's clock went back: no hold can be trusted to be over"
        if facts.epoch != row.epoch:
            return "the catalog is not the one the release was made in (restored from a backup?)"
        return None if row.state == "restoring" else deletion_off(self._trash_of(row.tier))

    async def _refuse_unfit(self, conn: Connection, row: Any) -> None:
        refused = await self._unfit(conn, row)
        if refused is not None:
            raise ReleaseRefused(refused, where=row.id)

    def _trash_of(self, tier: str) -> Trash:
        if tier not in self._trash:
            raise TierUnavailable("this node does not reach the tier, or may not write to it", where=tier)
        return self._trash[tier]

    # --- transfer-release -----------------------------------------------------------------------------------------

    async def release(self, shard: Shard) -> None:
        counts = await self._each(shard, "releasing", ("waiting", "leaving"), self._release_slice)
        async with self._database.project(shard.project) as conn:
            row = await self._finish(conn, shard)
            if row.state == "releasing" and await siblings_open(conn, shard) == 0:
                await conn.execute(SQL["held"], {"id": row.id})
                await self._end_transfer(conn, row.transfer_id)
            await self._audit(conn, row, "sources released", {"entries": list(shard.members), "counts": dict(counts)})

    async def _release_slice(self, shard: Shard, row: Any, rows: list[Any]) -> Counter[str]:
        transfer, held = await self._facts(shard, row, rows)
        ends = self._ends.tier(row.tier), self._ends.tier(transfer.target)
        looks = await _stoppable(
            lambda stop: guarded(lambda _: self._look_at(row, transfer, rows, held, stop), *ends)
        )
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await self._refuse_unfit(conn, row)
            await conn.execute(SQL["leaving"], _leaving(looks))
            await conn.execute(SQL["keep"], _kept(looks))
        leaving = [one for one in looks if one.kept is None]
        tier = self._ends.tier(row.tier)
        moved = await in_thread(guarded, lambda left: self._leave(row.tier, wanted(leaving, left)), tier)
        target = transfer.target
        moved = await in_thread(guarded, lambda left: self._stay_gone(row.tier, target, wanted(moved, left)), *ends)
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.execute(SQL["keep"], _kept(moved))
            gone = [one.id for one in moved if one.left]
            await conn.execute(SQL["released"], {"ids": gone})
            await conn.execute(SQL["entries_gone"], {"ids": gone, "tier": row.tier})
        counts = Counter({"released": len(gone), "kept": sum(one.kept is not None for one in [*looks, *moved])})
        for state, count in counts.items():
            metrics.RELEASES.labels(state).inc(count)
        return counts

    async def _facts(self, shard: Shard, row: Any, rows: list[Any]) -> tuple[Any, frozenset[str]]:
        keys = [key for one in rows if (key := _text(one.source)) is not None]
        async with self._database.project(shard.project) as conn:
            transfer = await MOVE.one(conn, "get", id=row.transfer_id)
            held = frozenset(one.key for one in await SQL.many(conn, "keys_held", tier=row.tier, keys=keys))
        return transfer, held

    def _look_at(
        self, row: Any, transfer: Any, rows: list[Any], held: frozenset[str], stop: threading.Event
    ) -> list[_Look]:
        """Blocking. Both tiers are asked for their identity before anything is judged by what is missing on them."""
        target = self._ends.tier(transfer.target)
        target.check_identity()
        source, trash = self._ends.tier(row.tier), self._trash_of(row.tier)
        role = self._ends.places[row.tier].role
        looks = []
        with trash.opened() as root:
            for one in rows:
                if stop.is_set():
                    break
                key = name_text(bytes(one.source))
                look = _Look(one.id, key, trash_key(row.id, key), name_text(bytes(one.target)))
                if one.state == "leaving" and Inode(one.device, one.inode).same(trash.find(root, look.trash)):
                    copied = _equal_copy(target, look.copy, one.digest)
                    looks.append(_replace(look, inode=_of_row(one), copied=copied, left=True))
                    continue
                inode, copied, standing = self._stand(
                    source, target, one, look, held=key in held, owned=owned_key(role, key)
                )
                looks.append(_replace(look, inode=inode, copied=copied, kept=judge_release(standing)))
        return looks

    def _stand(
        self, source: ReadTier, target: ReadTier, row: Any, look: _Look, *, held: bool, owned: bool
    ) -> tuple[Inode | None, Fingerprint | None, Standing]:
        """Read the source again and the copy cold; the cheap questions first."""
        inode, unchanged = None, False
        if row.verified_at is not None and not held and not owned:
            inode, unchanged = _reread_source(source, look.key, row)
        copied = _equal_copy(target, look.copy, row.digest) if unchanged else None
        return inode, copied, Standing(
            verified=row.verified_at is not None, held_by_row=held, owned=owned, links=inode.links if inode else 1,
            source_unchanged=unchanged or held or owned or row.verified_at is None, copy_equal=copied is not None,
        )  # fmt: skip

    def _leave(self, tier: str, looks: Iterable[_Look]) -> list[_Look]:
        """Blocking: the renames. One that fails is kept with its code; a tier that is gone stops all."""
        found = []
        trash = self._trash_of(tier)
        with trash.opened() as root:
            for look in looks:
                assert look.inode is not None
                try:
                    if look.left:
                        trash.drop_twin(root, look.key, expected=look.inode)
                    else:
                        trash.rename(root, look.key, look.trash, expected=look.inode)
                    found.append(_replace(look, left=True))
                except TierUnavailable:
                    raise
                except _KEEPS as error:
                    found.append(_replace(look, kept=Refusal(error.code, error.what)))
            gone = [one for one in found if one.left and one.kept is None]
            trash.sync(root, [*(one.trash for one in gone), *(one.key for one in gone)])
        return found

    def _stay_gone(self, tier: str, target: str, looks: Iterable[_Look]) -> list[_Look]:
        """Blocking. What left goes back when its copy is not what was read any more, or when somebody who had it open
        wrote to it since: then what is in the trash stands nowhere else."""
        copies, trash = self._ends.tier(target), self._trash_of(tier)
        copies.check_identity()
        found = []
        with trash.opened() as root:
            for look in looks:
                assert look.inode is not None
                why = None
                if look.left and not _stands(copies, look):
                    why = Refusal("copy-differs", "the copy is not there any more as it was read")
                elif look.left and not look.inode.unwritten(trash.find(root, look.trash)):
                    why = Refusal("source-changed", "the source was written to while it left")
                found.append(_give_back(trash, root, look, why) if why else look)
            back = [one for one in found if one.left and one.kept is not None]
            trash.sync(root, [*(one.key for one in back), *(one.trash for one in back)])
        return [_replace(one, left=one.left and one.kept is None) for one in found]

    # --- transfer-restore and transfer-purge -------------------------------------------------------------------------

    async def bring_back(self, shard: Shard) -> None:
        counts = await self._each(shard, "restoring", IN_TRASH, self._restore_slice)
        async with self._database.project(shard.project) as conn:
            row = await self._finish(conn, shard)
            if row.state == "restoring" and await siblings_open(conn, shard) == 0:
                await conn.execute(SQL["restored_or_held"], {"id": row.id})
            said = {"entries": list(shard.members), "counts": dict(counts)}
            await self._audit(conn, row, "sources brought back", said)

    async def _restore_slice(self, shard: Shard, row: Any, rows: list[Any]) -> Counter[str]:
        tier = self._ends.tier(row.tier)
        found = await in_thread(guarded, lambda left: self._bring_back(row, wanted(rows, left)), tier)
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            back = [one.id for one in found if one.kept is None]
            await conn.execute(SQL["restored"], {"ids": back})
            await conn.execute(SQL["entries_back"], {"ids": back, "tier": row.tier})
            await conn.execute(SQL["noted"], _kept(found))
        counts = Counter({"restored": len(back), "held": len(found) - len(back)})
        metrics.RELEASES.labels("restored").inc(len(back))
        return counts

    def _bring_back(self, row: Any, rows: Iterable[Any]) -> list[_Look]:
        """Blocking. What stands under its old name already was brought back before a crash."""
        found = []
        trash = self._trash_of(row.tier)
        with trash.opened() as root:
            for one in rows:
                inode = Inode(one.device, one.inode)
                look = _Look(one.id, name_text(bytes(one.source)), name_text(bytes(one.trash)), inode=inode)
                try:
                    if inode.same(trash.find(root, look.key)):
                        trash.drop_twin(root, look.trash, expected=inode)
                    else:
                        trash.rename(root, look.trash, look.key, expected=inode)
                    found.append(look)
                except TierUnavailable:
                    raise
                except _KEEPS as error:
                    found.append(_replace(look, kept=Refusal(error.code, error.what)))
            back = [one for one in found if one.kept is None]
            trash.sync(root, [*(one.key for one in back), *(one.trash for one in back)])
            trash.tidy(root, row.id)
        return found

    async def purge(self, shard: Shard) -> None:
        counts = await self._each(shard, "purging", ("released", "purging"), self._purge_slice)
        async with self._database.project(shard.project) as conn:
            row = await self._finish(conn, shard)
            if row.state == "purging" and await siblings_open(conn, shard) == 0:
                await conn.execute(SQL["purged_or_held"], {"id": row.id})
            await self._audit(conn, row, "sources purged", {"entries": list(shard.members), "counts": dict(counts)})

    async def _purge_slice(self, shard: Shard, row: Any, rows: list[Any]) -> Counter[str]:
        """The rows say `purging` before the first name goes: bytes go only after no row counts on them."""
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await self._refuse_unfit(conn, row)
            await conn.execute(SQL["purging"], {"ids": [one.id for one in rows], "release": row.id})
        last = await self._last_copies(shard, row, rows)
        tier = self._ends.tier(row.tier)
        found = await in_thread(guarded, lambda left: self._remove(row, wanted(rows, left), last), tier)
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            gone = [one.id for one in found if one.kept is None]
            await conn.execute(SQL["purged"], {"ids": gone})
            await conn.execute(SQL["keep"], _kept(found))
        metrics.RELEASES.labels("purged").inc(len(gone))
        return Counter({"purged": len(gone), "kept": len(found) - len(gone)})

    async def _last_copies(self, shard: Shard, row: Any, rows: list[Any]) -> frozenset[int]:
        """Rows whose bytes stand nowhere else that we know of: the copy was removed by hand, or was itself released.
        One that was moved on stands where the catalog says (I1)."""
        async with self._database.project(shard.project) as conn:
            transfer = await MOVE.one(conn, "get", id=row.transfer_id)
        target = self._ends.tier(transfer.target)
        gone = await in_thread(guarded, lambda left: _without_copy(target, wanted(rows, left)), target)
        if not gone:
            return frozenset()
        async with self._database.project(shard.project) as conn:
            digests = sorted({one.digest for one in gone})
            known = {one.digest for one in await SQL.many(conn, "stands_elsewhere", digests=digests)}
        return frozenset(one.id for one in gone if one.digest not in known)

    def _remove(self, row: Any, rows: Iterable[Any], last: frozenset[int]) -> list[_Look]:
        """Blocking. By row, and only the inode of the row, as it was written when it left; the last shard's tidy
        takes the empty folders."""
        found = []
        trash = self._trash_of(row.tier)
        with trash.opened() as root:
            for one in rows:
                look = _Look(one.id, name_text(bytes(one.source)), name_text(bytes(one.trash)))
                if one.id in last:
                    why = Refusal("copy-missing", "no copy of it stands any more; it waits in the trash")
                    found.append(_replace(look, kept=why))
                    continue
                try:
                    refuse_kept(trash)
                    trash.remove(root, look.trash, expected=_of_row(one))
                    found.append(look)
                except TierUnavailable:
                    raise
                except _KEEPS as error:
                    found.append(_replace(look, kept=Refusal(error.code, error.what)))
            trash.sync(root, [one.trash for one in found])
            trash.tidy(root, row.id)
        return found

    # --- what the three share -----------------------------------------------------------------------------------------

    async def _each(
        self,
        shard: Shard,
        state: str,
        states: Sequence[str],
        do: Callable[[Shard, Any, list[Any]], Awaitable[Counter[str]]],
    ) -> Counter[str]:
        """The shard's entries, a slice at a time, as long as the release is in `state`."""
        first, last = (int(member) for member in shard.members)
        counts: Counter[str] = Counter()
        after = first - 1
        while True:
            async with self._database.project(shard.project) as conn:
                row = await SQL.one(conn, "get", id=shard.subject_id)
                await self._refuse_unfit(conn, row)
                rows = await SQL.many(
                    conn, "slice", release=row.id, after=after, last=last, states=list(states), limit=SLICE_ENTRIES
                )
            if row.state != state or not rows:
                return counts
            rows = _within_bytes(rows)
            counts.update(await do(shard, row, rows))
            after = rows[-1].id

    async def _finish(self, conn: Connection, shard: Shard) -> Any:
        row = await SQL.one(conn, "get", id=shard.subject_id)
        await MOVE.one(conn, "lock", id=row.transfer_id)
        row = await SQL.one(conn, "lock", id=shard.subject_id)
        await finish_shard(conn, shard)
        return row

    async def _end_transfer(self, conn: Connection, transfer_id: str) -> None:
        """The transfer ends with its last release. A source that was kept is an end with something left."""
        rows = await SQL.many(conn, "of_transfer", transfer=transfer_id)
        transfer = await MOVE.one(conn, "lock", id=transfer_id)
        if transfer.state != "releasing" or any(row.state in ("waiting", "releasing") for row in rows):
            return
        kept = await SQL.one(conn, "kept_of", transfer=transfer_id)
        left = transfer.failed_count or kept.entries or any(row.state == "failed" for row in rows)
        why = f"{kept.entries} sources were kept" if kept.entries else None
        await set_state(conn, transfer, "incomplete" if left else "done", explanation=why)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """A shard was given up: what left stays in the trash, and everything else where it is."""
        row = await SQL.one(conn, "get", id=shard.subject_id)
        await MOVE.one(conn, "lock", id=row.transfer_id)
        row = await SQL.one(conn, "lock", id=shard.subject_id)
        if row.state in ("restoring", "purging"):
            await conn.execute(SQL["set_state"], {"id": row.id, "state": "held", "explanation": error.what})
        elif row.state == "releasing":
            await conn.execute(SQL["set_state"], {"id": row.id, "state": "failed", "explanation": error.what})
            await self._end_transfer(conn, row.transfer_id)
        await self._audit(conn, row, "release failed", {"code": error.code})

    async def _audit(self, conn: Connection, row: Any, action: str, details: dict[str, Any]) -> None:
        await audit.record(
            conn, project=row.project_id, node=self._node, actor="daemon", action=action, subject=row.id,
            details=details,
        )  # fmt: skip


# --- small tools --------------------------------------------------------------------------------------------------


def _reread_source(source: ReadTier, key: str, row: Any) -> tuple[Inode | None, bool]:
    """The inode whose bytes were read just now, and whether they are still what was copied."""
    try:
        with source.open(key) as opened:
            fileno = getattr(opened, "fileno", None)
            before = opened.fingerprint()
            same = (before.size_bytes, before.mtime_ns) == (row.size_bytes, row.mtime_ns)
            if fileno is None or not same:
                return None, False
            inode = inode_of(os.fstat(fileno()))
            unchanged = _digest(opened, before.size_bytes) == row.digest and opened.fingerprint() == before
            return inode, unchanged
    except TierUnavailable:
        raise
    except _KEEPS:
        return None, False


def _equal_copy(target: ReadTier, key: str, digest: str) -> Fingerprint | None:
    """The copy's fingerprint before it was read cold, when it reads as the source did."""
    hasher = blake3()
    try:
        seen = target.stat(key).fingerprint
        for piece in target.stream(key, cold=True):
            hasher.update(piece)
    except TierUnavailable:
        raise
    except _KEEPS:
        return None
    return seen if hasher.hexdigest() == digest else None


def _stands(copies: ReadTier, look: _Look) -> bool:
    try:
        return look.copied is not None and copies.stat(look.copy).fingerprint == look.copied
    except TierUnavailable:
        raise
    except _KEEPS:
        return False


def _without_copy(target: ReadTier, rows: Iterable[Any]) -> list[Any]:
    """Blocking. Rows whose copy is not at its place, on a tier that is the one it claims to be."""
    gone = []
    for one in rows:
        try:
            entry = target.stat(name_text(bytes(one.target)))
            if entry.kind != "file" or entry.fingerprint.size_bytes != one.size_bytes:
                gone.append(one)
        except TierUnavailable:
            raise
        except _KEEPS:
            gone.append(one)
    target.check_identity()
    return gone


def _give_back(trash: Trash, root: int, look: _Look, why: Refusal) -> _Look:
    """Under its old name again; where that was taken meanwhile it waits in the trash, which purges nothing that is
    kept."""
    assert look.inode is not None
    try:
        trash.rename(root, look.trash, look.key, expected=structs.replace(look.inode, written=None))
    except TierUnavailable:
        raise
    except _KEEPS as error:
        why = Refusal(why.code, f"{why.what}; it waits in the trash ({error.code})")
    return _replace(look, kept=why)


def _of_row(row: Any) -> Inode:
    return Inode(row.device, row.inode, written=(row.size_bytes, row.mtime_ns))


def _digest(opened: OpenEntry, size_bytes: int) -> str:
    found = digest_source(opened)
    return found.blake3 if found.size_bytes == size_bytes else ""


def _release_id() -> str:
    return new_id("release")


def _replace(look: _Look, **changes: Any) -> _Look:
    return structs.replace(look, **changes)


def _text(key: bytes) -> str | None:
    """Rows of other workflows hold text; a key that is none is not among them."""
    try:
        return bytes(key).decode()
    except UnicodeDecodeError:
        return None


def _within_bytes(rows: list[Any]) -> list[Any]:
    """The first of them: what is read again between two commits is bounded, so that a kill costs little."""
    size_bytes = 0
    for count, row in enumerate(rows, start=1):
        size_bytes += row.size_bytes
        if size_bytes >= SLICE_BYTES:
            return rows[:count]
    return rows


async def _stoppable(call: Callable[[threading.Event], Result]) -> Result:
    """In a thread, with an event that is set when the handler is cancelled: reading files again
    takes long, and whoever lost the shard or stops the daemon waits for one of them, not for all."""
    stop = threading.Event()
    work = asyncio.ensure_future(in_thread(call, stop))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({work})
        raise


def _leaving(looks: Sequence[_Look]) -> dict[str, list[Any]]:
    found = [(one, one.inode) for one in looks if one.kept is None and one.inode is not None]
    return {
        "ids": [one.id for one, _ in found], "trash": [name_bytes(one.trash) for one, _ in found],
        "devices": [inode.device for _, inode in found], "inodes": [inode.inode for _, inode in found],
    }  # fmt: skip


def _kept(looks: Sequence[_Look]) -> dict[str, list[Any]]:
    found = [(one.id, one.kept) for one in looks if one.kept is not None]
    return {
        "ids": [id_ for id_, _ in found], "codes": [kept.code for _, kept in found],
        "whats": [kept.what for _, kept in found],
    }  # fmt: skip
