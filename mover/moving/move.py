"""Moving what a plan froze (shards `transfer-plan` and `transfer-move`).

Order, and what a crash between leaves: entries are frozen and the shards added in one transaction; an entry is
durable and read back under its final name before its row says `moved`; the row, the target's `mover.entry` and the
transfer's counts change together, under the shard's fence. A crash anywhere leaves rows that say `waiting` for
entries that may stand already: they are met again, read, and become `present`. Nothing is lost and nothing doubled.

Locks in a transaction: the own shard, the transfer, its entries, `mover.entry` in order of keys, the audit head.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Protocol

import msgspec
from msgspec import structs
from psycopg.types.json import Jsonb

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import monotonic_s, pause
from mover.decide.moving import WORKING, Round, check_transfer, next_state
from mover.errors import AttemptsExhausted, LeaseLost, MoverError, TierError
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread, siblings_open
from mover.jobs.shards import postpone_shard, renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.moving import Item, Options, Outcome
from mover.model.names import name_text
from mover.model.tiers import Fingerprint
from mover.moving.journal import CatalogJournal
from mover.moving.places import Ends
from mover.moving.plan import Found, Planner
from mover.tiers.port import ReadTier
from mover.tiers.staging import StagingTier

SQL = load(__file__)
SHARD_ENTRIES = 20_000
SHARD_BYTES = 8 << 30
# rounds over what failed and may pass; entries have their own bound (`tries`), this one is for what nobody foresaw
ROUNDS_MAX = 50
AGAIN_LATER_S = 2.0
LONGEST_LATER_S = 60.0
BUSY_LATER_S = 2.0
# objects whose marks are asked for at once
ASKING = 16

log = get_logger("moving")


class Carries(Protocol):
    """`mover.transfer.carrier.Carrier`, as far as it is used here."""

    def carry(
        self, items: Any, *, source: ReadTier, target: StagingTier, options: Options = ..., journal: Any = None,
        stopped: Any = ...,
    ) -> Iterator[list[Outcome]]: ...  # fmt: skip


class Releasing(Protocol):
    """What follows a move: `release.Releases`."""

    async def begin(self, conn: Connection, transfer: Any, body: wire.TransferRequest) -> str: ...


class Move:
    """Handlers of the shards of transfers on a node that reaches their tiers."""

    def __init__(
        self, database: Database, ends: Ends, carrier: Carries, planner: Planner, releases: Releasing, *, node: str
    ) -> None:
        self._database, self._ends, self._carrier = database, ends, carrier
        self._planner, self._releases, self._node = planner, releases, node

    # --- transfer-plan ----------------------------------------------------------------------------------------

    async def plan(self, shard: Shard) -> None:
        """Freeze the entries and begin, or refuse with every offender as a row."""
        async with self._database.project(shard.project) as conn:
            row = await SQL.one(conn, "get", id=shard.subject_id)
            body = body_of(row)
            if row.state != "planning":
                await finish_shard(conn, shard)
                return
            found = await self._planner.find(conn, body)
            reason = why_refused(found, body)
            await self._planner.freeze(conn, shard.project, row.id, refused="refused" if reason else "failed")
            # only now, and for a moment: freezing a million entries outlasts a lease, and both rows are asked for
            await renew_shard(conn, shard, lease_s=LEASE_S)
            row = await SQL.one(conn, "lock", id=shard.subject_id)
            if row.state != "planning":
                raise LeaseLost("the transfer was aborted while it was planned", where=row.id)
            await self._planned(conn, row, body, found, reason)
            await finish_shard(conn, shard)
            await self._audit(
                conn, row, "transfer refused" if reason else "transfer planned", reason=reason or "",
                details={"entries": found.entries, "bytes": found.bytes, "codes": found.by_code},
            )  # fmt: skip

    async def _planned(
        self, conn: Connection, row: Any, body: wire.TransferRequest, found: Found, reason: str | None
    ) -> None:
        state = "refused" if reason else self._first_state(body, found)
        check_transfer("planning", state, subject=row.id)
        offenders = [msgspec.to_builtins(one) for one in found.reasons] + list(found.offenders)
        failed = 0 if reason else found.refused
        await conn.execute(
            SQL["planned"],
            {
                "id": row.id, "state": state, "reason": reason, "explanation": explain(found, reason),
                "offenders": Jsonb(offenders) if offenders else None,
                "entries": found.entries + found.skipped + failed, "bytes": found.bytes, "looked_at": found.looked_at,
                # the names of a list are entries now; every look at the transfer would read them again
                "request": Jsonb(msgspec.to_builtins(_without_keys(body))),
                "estimate_s": found.estimate_s, "skipped": found.skipped, "failed": failed,
            },
        )  # fmt: skip
        if state in WORKING:
            await add_move_shards(conn, row, each=body.canary if state == "canary" else None)

    def _first_state(self, body: wire.TransferRequest, found: Found) -> str:
        if not found.entries:
            return "done"       # a policy's condition under which nothing is due now
        return "canary" if body.canary and found.entries > body.canary else "moving"

    # --- transfer-move ----------------------------------------------------------------------------------------

    async def move(self, shard: Shard) -> None:
        """Carry the waiting entries of a range and record each outcome; the last shard decides what follows."""
        at, first, last = (int(member) for member in shard.members)
        async with self._database.project(shard.project) as conn:
            row = await SQL.one(conn, "get", id=shard.subject_id)
            body = body_of(row)
            if row.state in WORKING and await self._too_many(conn, shard, body.sources[at], at):
                await postpone_shard(conn, shard, delay_s=BUSY_LATER_S)
                return
            rows = await SQL.many(conn, "waiting", transfer=row.id, at=at, first=first, last=last)
        if row.state in WORKING and rows:
            counts = await self._carry(shard, row, body, at, rows)
        else:
            counts = Counter()
        await self._end(shard, counts)

    async def _too_many(self, conn: Connection, shard: Shard, source: wire.TransferSource, at: int) -> bool:
        """Of two that look at each other, the older goes on."""
        if source.limits.shards is None:
            return False
        running = await SQL.one(conn, "running_before", id=shard.id, subject=shard.subject_id, at=str(at))
        return bool(running.shards >= source.limits.shards)

    async def _carry(
        self, shard: Shard, row: Any, body: wire.TransferRequest, at: int, rows: list[Any]
    ) -> Counter[str]:
        said = body.sources[at]
        source, target = self._ends.tier(said.tier), self._ends.tier(row.target)
        await in_thread(source.check_identity)
        await in_thread(target.check_identity)
        stop = threading.Event()
        items = _paced((_item(one) for one in rows), said.limits, stop=stop)
        journal = CatalogJournal(self._database, shard.project, row.id, asyncio.get_running_loop())
        outcomes = self._carrier.carry(
            items, source=source, target=target, options=Options(keep=body.keep, readback=body.readback),
            journal=journal, stopped=stop.is_set,
        )  # fmt: skip
        counts: Counter[str] = Counter()
        left = {one.id for one in rows}
        keys = {one.id: name_text(bytes(one.target)) for one in rows}
        async with aclosing(_in_threads(outcomes, stop)) as steps:
            async for found in steps:
                left -= {one.id for one in found}
                await self._refuse_vanished(found, source, target, shard, body)
                if target.kind == "object":
                    found = await in_thread(_with_marks, found, target, keys)
                settled, working = await self._record(shard, found, body)
                counts.update(settled)
                if not working:
                    stop.set()
        if left and not stop.is_set():
            raise MoverError(f"{len(left)} entries came back without an outcome", where=shard.id)
        return counts

    async def _refuse_vanished(
        self, found: list[Outcome], source: StagingTier, target: StagingTier, shard: Shard, body: wire.TransferRequest
    ) -> None:
        """Below an unmounted root every entry is missing. Failures count only while both tiers are the ones they
        claim to be; what came before them is durable and is recorded."""
        if not any(one.state == "failed" for one in found):
            return
        try:
            await in_thread(source.check_identity)
            await in_thread(target.check_identity)
        except MoverError:
            await self._record(shard, [one for one in found if one.state != "failed"], body)
            raise

    async def _record(
        self, shard: Shard, found: list[Outcome], body: wire.TransferRequest
    ) -> tuple[Counter[str], bool]:
        """One transaction for a list of outcomes. False: the transfer was paused or aborted meanwhile."""
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            row = await SQL.one(conn, "lock", id=shard.subject_id)
            settled = await SQL.many(conn, "settle", transfer=row.id, tries=body.tries, **_columns(found))
            await conn.execute(SQL["put_entries"], {"transfer": row.id, "project": shard.project, **_written(found)})
            counts = Counter(one.state for one in settled)
            sums = {state: sum(one.size_bytes for one in settled if one.state == state) for state in counts}
            await conn.execute(
                SQL["count"],
                {
                    "id": row.id, "moved": counts["moved"], "moved_bytes": sums.get("moved", 0),
                    "present": counts["present"], "present_bytes": sums.get("present", 0),
                    "skipped": counts["skipped"], "failed": counts["failed"],
                },
            )  # fmt: skip
        for state, count in counts.items():
            metrics.TRANSFER_ENTRIES.labels(state).inc(count)
        metrics.TRANSFER_BYTES.inc(sums.get("moved", 0))
        return counts, row.state in WORKING

    # --- the end of a shard -----------------------------------------------------------------------------------

    async def _end(self, shard: Shard, counts: Counter[str]) -> None:
        async with self._database.project(shard.project) as conn:
            row = await SQL.one(conn, "lock", id=shard.subject_id)
            await finish_shard(conn, shard)
            if row.state in WORKING and await siblings_open(conn, shard) == 0:
                await self.end_round(conn, row)
            await self._audit(
                conn, row, "transfer shard moved", details={"entries": list(shard.members), "counts": dict(counts)}
            )

    async def end_round(self, conn: Connection, row: Any) -> None:
        """No shard is open any more: what follows? In the transaction that holds the transfer's row."""
        left = await SQL.one(conn, "left", transfer=row.id)
        stands = row.moved_count + row.present_count
        next_ = next_state(Round(row.verb, row.state, left.waiting, row.failed_count, stands))
        if next_ == "again":
            await self._again(conn, row)
        elif next_ == "releasing":
            state = await self._releases.begin(conn, row, body_of(row))
            await set_state(conn, row, state, reason="release" if state == "waiting" else None)
        else:
            await set_state(conn, row, next_, reason="canary" if next_ == "waiting" else None)

    async def _again(self, conn: Connection, row: Any) -> None:
        if row.rounds >= ROUNDS_MAX:
            raise AttemptsExhausted(f"{ROUNDS_MAX} rounds, and entries still wait", where=row.id)
        await conn.execute(SQL["next_round"], {"id": row.id})
        await add_move_shards(conn, row)
        delay_s = min(LONGEST_LATER_S, AGAIN_LATER_S * 2.0 ** min(row.rounds, 8))
        await conn.execute(SQL["delay_shards"], {"id": row.id, "delay_s": delay_s})

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """A shard was given up. What stands stands; `mover transfer resume` goes on when the reason is mended."""
        row = await SQL.one(conn, "lock", id=shard.subject_id)
        if row.state in ("planning", *WORKING):
            await conn.execute(SQL["cancel_waiting"], {"id": row.id})
            await set_state(conn, row, "failed", reason=error.code, explanation=error.what)
            await self._audit(conn, row, "transfer failed", reason=error.code)

    async def _audit(
        self, conn: Connection, row: Any, action: str, *, reason: str = "", details: dict[str, Any] | None = None
    ) -> None:
        await audit.record(
            conn, project=row.project_id, node=self._node, actor="daemon", action=action, subject=row.id,
            reason=reason, details=details,
        )  # fmt: skip


# --- words that the front and the handlers share ------------------------------------------------------------------


def body_of(row: Any) -> wire.TransferRequest:
    """The request as it was kept; a policy stands in it already as what it said then."""
    return msgspec.convert(row.request, wire.TransferRequest)


def _without_keys(body: wire.TransferRequest) -> wire.TransferRequest:
    return structs.replace(body, sources=[structs.replace(source, keys=None) for source in body.sources])


def why_refused(found: Found, body: wire.TransferRequest) -> str | None:
    """The code of the first reason, or None. With `report`, single offenders stop nothing."""
    if found.reasons:
        return found.reasons[0].code
    if found.refused and (body.offenders == "refuse" or not found.entries):
        return max(found.by_code, key=lambda code: found.by_code[code])
    return None


def explain(found: Found, reason: str | None) -> str | None:
    if found.reasons:
        return "; ".join(f"{one.subject}: {one.what}" if one.subject else one.what for one in found.reasons)[:2000]
    if reason is not None:
        return f"{found.refused} of {found.refused + found.entries} entries cannot be moved"
    if not found.entries:
        return f"nothing is due among {found.looked_at} entries"
    return None


async def add_move_shards(conn: Connection, row: Any, *, each: int | None = None) -> None:
    """Shards over what waits; of a canary, over the first `each` entries of each source."""
    parts = await SQL.many(conn, "parts", transfer=row.id, each=each, entries=SHARD_ENTRIES, bytes=SHARD_BYTES)
    shards = [
        NewShard(tier_queue(row.target), "transfer-move", row.id, (str(p.at), str(p.first), str(p.last)), priority=3)
        for p in parts
    ]
    await add_shards(conn, row.project_id, shards)


async def set_state(
    conn: Connection, row: Any, state: str, *, reason: str | None = None, explanation: str | None = None
) -> None:
    check_transfer(row.state, state, subject=row.id)
    await conn.execute(
        SQL["set_state"], {"id": row.id, "state": state, "reason": reason, "explanation": explanation}
    )


# --- one shard's small tools -----------------------------------------------------------------------------------


def _item(row: Any) -> Item:
    return Item(
        id=row.id, source=name_text(bytes(row.source)), target=name_text(bytes(row.target)), kind=row.kind,
        fingerprint=Fingerprint(row.size_bytes, row.mtime_ns, row.mark), blake3=row.known or "",
        trusted_since=row.known_since.isoformat() if row.known_since else "",
    )  # fmt: skip


def _paced(items: Iterator[Item], limits: wire.TransferLimits, *, stop: threading.Event) -> Iterator[Item]:
    """Items no faster than the source's own limits allow, measured over all of the shard. Runs in the carrier's
    thread; with several shards of one source each has the share that `limits.shards` leaves it."""
    began_s = monotonic_s()
    bytes_, files = 0, 0
    shards = limits.shards or 1
    for item in items:
        due_s = max(bytes_ * shards / limits.bytes_s if limits.bytes_s else 0.0,
                    files * shards / limits.files_s if limits.files_s else 0.0)  # fmt: skip
        while not stop.is_set() and (ahead_s := began_s + due_s - monotonic_s()) > 0:
            pause(min(ahead_s, 0.25))
        if stop.is_set():
            return
        yield item
        bytes_, files = bytes_ + item.fingerprint.size_bytes, files + 1


async def _in_threads(outcomes: Iterator[list[Outcome]], stop: threading.Event) -> AsyncGenerator[list[Outcome], None]:
    """Each step of the iterator in a thread. A cancelled handler stops the carrier and leaves when it stands still."""
    try:
        while True:
            step = asyncio.ensure_future(in_thread(next, outcomes, None))
            try:
                found = await asyncio.shield(step)
            except asyncio.CancelledError:
                stop.set()
                await asyncio.wait({step})
                raise
            if found is None:
                return
            yield found
    finally:
        stop.set()
        close = getattr(outcomes, "close", None)
        if close is not None:
            await in_thread(close)


def _with_marks(found: list[Outcome], target: StagingTier, keys: dict[int, str]) -> list[Outcome]:
    """Outcomes of an object tier with what a listing will show of them, so that the next walk knows them again. The
    names are written once; one that cannot be asked for is found by the walk."""

    def marked(one: Outcome) -> Outcome:
        if one.written is not None or one.state not in ("moved", "present"):
            return one
        try:
            mark = target.stat(keys[one.id]).fingerprint
        except TierError:
            return one
        return structs.replace(one, written=mark) if mark.size_bytes == one.size_bytes else one

    with ThreadPoolExecutor(min(ASKING, max(1, len(found))), thread_name_prefix="marks") as pool:
        return list(pool.map(marked, found))


def _columns(found: Sequence[Outcome]) -> dict[str, list[Any]]:
    return {
        "ids": [one.id for one in found], "states": [one.state for one in found],
        "digests": [one.blake3 or None for one in found], "verified": [one.verified for one in found],
        "shared": [one.shared for one in found], "trusted": [one.trusted_since or None for one in found],
        "codes": [one.code or None for one in found], "whats": [one.what or None for one in found],
        "retries": [one.retry for one in found],
    }  # fmt: skip


def _written(found: Sequence[Outcome]) -> dict[str, list[Any]]:
    """What the catalog shall know of the target: of files whose fingerprint there is known."""
    stands = [one for one in found if one.state in ("moved", "present") and one.written is not None and one.blake3]
    marks = [one.written for one in stands if one.written is not None]
    return {
        "entries": [one.id for one in stands], "found_digests": [one.blake3 for one in stands],
        "found_verified": [one.verified for one in stands], "sizes": [mark.size_bytes for mark in marks],
        "mtimes": [mark.mtime_ns for mark in marks], "marks": [mark.mark for mark in marks],
    }  # fmt: skip
