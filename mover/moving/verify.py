"""Verification: what stands on a tier is read again, cold, and compared with what the catalog says of it.

One shard carries a verification through its states, in slices, so that it never keeps a worker from staging:

    planning    the work list is frozen, oldest proof first
    reading     entry by entry: whole, bit-rot, changed, missing, unreadable; each chunk is recorded at once
    listing     (tiers) what stands there and the catalog does not know becomes a candidate
    confirming  candidates are looked at once more: what was just being written is known by then
    complete    or failed, or aborted

What a kill leaves: rows that wait are read again, a listing begins anew. Nothing is deleted here. A repair is: the
copy is read cold; the finding says where the damaged bytes go; they are moved there by a rename that replaces
nothing; the engine brings the copy over under the old name, durable and read back; the finding says `repaired`. A
crash after the rename leaves the name empty and the finding open: the repair goes on where it was.

Below an unmounted root everything is missing: after each chunk the tier has to be the one it claims to be, or the
chunk is thrown away and the shard waits (I7).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any

from blake3 import blake3
from msgspec import Struct

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide import verification as decide
from mover.decide.verification import Known, Look, Verdict
from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    EntryMissing,
    IntegrityError,
    LeaseLost,
    MoverError,
    RequestInvalid,
    TierDenied,
    TierError,
    TierFull,
    TierUnavailable,
)
from mover.jobs import Shard, finish_shard, in_thread
from mover.jobs.shards import SQL as SHARDS
from mover.jobs.shards import postpone_shard, renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.names import name_bytes, name_text
from mover.model.recipe import plain_copy
from mover.model.tiers import Fingerprint
from mover.moving.places import Ends
from mover.moving.trash import Trash
from mover.randomness import new_id
from mover.tiers.port import ReadTier
from mover.transfer import Transfer

SQL = load(__file__)
FINAL = frozenset({"complete", "failed", "aborted"})
# runs in these states have a root that equals its manifest
SEALED_RUNS = frozenset({"ready", "finishing", "protecting", "protected"})
QUARANTINE = ".mover/quarantine"
OLDER_VERSION = "an older version of the same key"

# a worker is given back after so long; other work has its turn
SLICE_S = 20.0
CHUNK_ENTRIES = 64
CHUNK_BYTES = 1 << 30
READERS = 4
LISTED_AT_ONCE = 1000
REPAIRS_AT_ONCE = 16
COPIES_TRIED = 8
# an entry that changes while it is read is read again this often
READ_AGAIN = 2

log = get_logger("verify")


class Looked(Struct, frozen=True):
    row: Any
    look: Look
    verdict: Verdict


class Verify:
    """Handler of the shards `verify` on a node that reaches the tier (and, to repair, the other one)."""

    def __init__(
        self, database: Database, ends: Ends, transfer: Transfer, *, node: str, clock: Clock = SYSTEM
    ) -> None:
        self._database, self._ends, self._transfer = database, ends, transfer
        self._node, self._clock = node, clock

    async def verify(self, shard: Shard) -> None:
        """As far as a slice goes; what is left waits for its next turn."""
        steps = {
            "planning": self._plan, "reading": self._read, "listing": self._list, "confirming": self._confirm,
        }  # fmt: skip
        began_s = self._clock.monotonic_s()
        while True:
            async with self._database.project(shard.project) as conn:
                row = await SQL.one(conn, "get", id=shard.subject_id)
                if row.state in FINAL:
                    await finish_shard(conn, shard)
                    return
                if self._clock.monotonic_s() - began_s > SLICE_S:
                    await postpone_shard(conn, shard, delay_s=0)
                    await conn.execute(SHARDS["wake"])
                    return
            await in_thread(self._ends.tier(row.tier).check_identity)
            await steps[row.state](shard, row)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """A verification that cannot go on says so; what it found stays."""
        row = await SQL.one(conn, "lock", id=shard.subject_id)
        if row.state in FINAL:
            return
        await self._end(conn, row, "failed", reason=error.code, explanation=error.what)

    # --- planning ---------------------------------------------------------------------------------------------

    async def _plan(self, shard: Shard, row: Any) -> None:
        """The work list, whole or not at all. A tier of which the catalog vouches for nothing is no success (I7)."""
        async with self._database.project(shard.project) as conn:
            refused = await self._freeze(conn, row)
            found = await SQL.one(conn, "measured", id=row.id)
            await self._fence(conn, shard, "planning")
            if refused or not found.entries:
                why = refused or "the catalog vouches for nothing there: there is nothing to compare with"
                await self._end(conn, row, "failed", reason="nothing-known", explanation=why)
                return
            await conn.execute(SQL["planned"], {"id": row.id, "entries": found.entries, "bytes": found.bytes})

    async def _freeze(self, conn: Connection, row: Any) -> str:
        """Why there is no work list, or ""."""
        values = {"project": row.project_id, "id": row.id, "tier": row.tier, "prefix": row.prefix}
        if row.scope == "run":
            run = await SQL.one(conn, "run", id=row.run_id)
            if run.state not in SEALED_RUNS:
                return f"the run is {run.state}: its root is not sealed"
            await conn.execute(SQL["freeze_run"], values | {"run": row.run_id})
        elif row.scope == "list":
            await conn.execute(SQL["freeze_list"], values)
        else:
            await conn.execute(SQL["freeze_known"], values | {"limit_bytes": row.limit_bytes})
        return ""

    # --- reading ----------------------------------------------------------------------------------------------

    async def _read(self, shard: Shard, row: Any) -> None:
        """Repairs first: what a kill interrupted has its name empty."""
        if row.repair_from is not None and await self._repair_some(shard, row):
            return
        async with self._database.project(shard.project) as conn:
            waiting = await SQL.many(conn, "waiting", id=row.id, limit=CHUNK_ENTRIES)
        if not waiting:
            await self._go_on(shard, row, "reading", "listing" if row.scope == "tier" and row.strangers else "complete")
            return
        looked = await self._look_at(row.tier, _chunk(waiting))
        await self._record(shard, row, looked, "reading")

    async def _look_at(self, tier: str, rows: Sequence[Any]) -> list[Looked]:
        """Throws the chunk away when the tier is not itself any more: then nothing of it means anything."""
        opened = self._ends.tier(tier)
        looks = await in_thread(look_at_all, opened, rows)
        await in_thread(opened.check_identity)
        return [Looked(one, look, decide.judge(_known(one), look)) for one, look in zip(rows, looks, strict=True)]

    async def _record(self, shard: Shard, row: Any, looked: list[Looked], state: str) -> None:
        """One transaction for a chunk, under the shard's fence."""
        whole = [one for one in looked if one.verdict.kind is None]
        found = [one for one in looked if one.verdict.kind is not None]
        async with self._database.project(shard.project) as conn:
            await self._fence(conn, shard, state)
            states = ["found" if one.verdict.kind else "whole" for one in looked]
            await conn.execute(SQL["settle"], {"ids": [one.row.id for one in looked], "states": states})
            await self._put_whole(conn, row, [(one.row.key, one.look) for one in whole])
            keys = {"tier": row.tier, "id": row.id}
            await conn.execute(SQL["close_findings"], keys | {"keys": [o.row.key for o in whole], "state": "cleared"})
            await conn.execute(SQL["close_findings"], keys | {"keys": [o.row.key for o in found], "state": "repeated"})
            await self._put_findings(conn, row, found)
            read = sum(one.look.fingerprint.size_bytes for one in looked if one.look.digest and one.look.fingerprint)
            await conn.execute(SQL["count"], {"id": row.id, "checked": len(looked), "bytes": read, "listed": 0})
        metrics.BYTES_VERIFIED.labels(row.tier).inc(read)
        for kind, count in Counter(str(one.verdict.kind) for one in found).items():
            metrics.VERIFY_FINDINGS.labels(row.tier, kind).inc(count)
            log.warning("entries not as catalogued", tier=row.tier, subject=row.id, kind=kind, count=count)

    async def _put_whole(self, conn: Connection, row: Any, whole: list[tuple[bytes, Look]]) -> None:
        """A run root is the run's own and ends with it: it leaves no entries behind."""
        if row.scope == "run":
            return
        prints = [look.fingerprint for _, look in whole if look.fingerprint is not None]
        values = {
            "project": row.project_id, "tier": row.tier, "keys": [key for key, _ in whole],
            "digests": [look.digest for _, look in whole], "sizes": [one.size_bytes for one in prints],
            "mtimes": [one.mtime_ns for one in prints], "marks": [one.mark for one in prints],
        }  # fmt: skip
        await conn.execute(SQL["put_whole"], values)

    async def _put_findings(self, conn: Connection, row: Any, found: list[Looked]) -> None:
        """Without a second copy the explanation is given at once; with one, the repair gives it."""
        rows = [
            {
                "finding": new_id("finding"), "project": row.project_id, "id": row.id, "tier": row.tier,
                "key": one.row.key, "kind": one.verdict.kind, "source": one.row.source, "subject": one.row.subject,
                "expected": one.row.digest, "found": one.look.digest or None, "size_bytes": one.row.size_bytes,
                "found_bytes": one.look.fingerprint.size_bytes if one.look.fingerprint else None,
                "code": one.look.code or None,
                "explanation": None if row.repair_from and one.verdict.kind != "stranger" else one.verdict.reason,
            }
            for one in found
        ]  # fmt: skip
        if rows:
            async with conn.cursor() as cursor:
                await cursor.executemany(SQL["find"], rows)

    # --- strangers ----------------------------------------------------------------------------------------------

    async def _list(self, shard: Shard, row: Any) -> None:
        """What stands below the prefix. A listing that fails half-way raises; a later try begins anew."""
        tier = self._ends.tier(row.tier)
        async with self._database.project(shard.project) as conn:
            await self._fence(conn, shard, "listing")
            await conn.execute(SQL["restart_listing"], {"id": row.id})
        entries = iter(tier.list(name_text(row.prefix)))
        while part := await in_thread(_next_files, entries):
            async with self._database.project(shard.project) as conn:
                await self._fence(conn, shard, "listing")
                await self._put_candidates(conn, row, part)
                await conn.execute(SQL["count"], {"id": row.id, "checked": 0, "bytes": 0, "listed": len(part)})
        await in_thread(tier.check_identity)
        await self._go_on(shard, row, "listing", "confirming")

    async def _put_candidates(self, conn: Connection, row: Any, part: list[tuple[bytes, int]]) -> None:
        known = await self._known_keys(conn, row, [key for key, _ in part])
        strange = [(key, size) for key, size in part if key not in known]
        if strange:
            values = {"keys": [key for key, _ in strange], "sizes": [size for _, size in strange]}
            await conn.execute(SQL["insert_strangers"], values | {"project": row.project_id, "id": row.id})

    async def _known_keys(self, conn: Connection, row: Any, keys: list[bytes]) -> set[bytes]:
        """On an archive, where only we write, a walk's look is no word for an entry; elsewhere it is."""
        seen = self._ends.places[row.tier].role != "archive"
        return {bytes(one.key) for one in await SQL.many(conn, "known_keys", tier=row.tier, keys=keys, seen=seen)}

    async def _confirm(self, shard: Shard, row: Any) -> None:
        async with self._database.project(shard.project) as conn:
            waiting = await SQL.many(conn, "waiting", id=row.id, limit=LISTED_AT_ONCE)
            known = await self._known_keys(conn, row, [bytes(one.key) for one in waiting])
        if not waiting:
            await self._go_on(shard, row, "confirming", "complete")
            return
        looked = await self._look_at(row.tier, [one for one in waiting if bytes(one.key) not in known])
        settled = [one for one in waiting if bytes(one.key) in known]
        settled += [one.row for one in looked if one.verdict.kind == "missing"]
        async with self._database.project(shard.project) as conn:
            await self._fence(conn, shard, "confirming")
            states = ["known"] * len(settled)
            await conn.execute(SQL["settle"], {"ids": [one.id for one in settled], "states": states})
        strange = [one for one in looked if one.verdict.kind != "missing"]
        if strange:
            await self._record(shard, row, strange, "confirming")

    # --- repair -------------------------------------------------------------------------------------------------

    async def _repair_some(self, shard: Shard, row: Any) -> bool:
        """Judge and repair what was found; False when nothing is left to."""
        async with self._database.project(shard.project) as conn:
            found = await SQL.many(conn, "unrepaired", id=row.id, limit=REPAIRS_AT_ONCE)
        for finding in found:
            why = self._obstacle(row, finding) or await self._repair(shard, row, finding)
            if why:
                async with self._database.project(shard.project) as conn:
                    await self._fence(conn, shard, None)
                    await conn.execute(SQL["unrepairable"], {"finding": finding.id, "explanation": why})
        return bool(found)

    def _obstacle(self, row: Any, finding: Any) -> str:
        place, tier = self._ends.places[row.tier], self._ends.tier(row.tier)
        judged = decide.Place(tier.kind, place.role, place.read_only, tier.traits.versioning)
        return decide.obstacle(finding.kind, judged, scope=row.scope, second_copy=row.repair_from is not None)

    async def _repair(self, shard: Shard, row: Any, finding: Any) -> str:
        """Why it could not be repaired, or "". The copy's tier away, the own one full: raised, and tried again."""
        copies = self._ends.tier(row.repair_from)
        async with self._database.project(shard.project) as conn:
            values = {"tier": row.repair_from, "digest": finding.expected, "limit": COPIES_TRIED,
                      "key": finding.key, "subject": finding.subject}  # fmt: skip
            keys = [name_text(bytes(one.key)) for one in await SQL.many(conn, "second_copies", **values)]
        copy = await in_thread(whole_copy, copies, keys, finding.expected)
        if copy is None:
            return f"no whole second copy stands on {row.repair_from} ({len(keys)} were read)"
        try:
            written = await self._brought(row, finding)
            if written is None:
                if finding.kind != "missing":
                    if await self._written_since(row, finding):
                        return "it is not what was found there any more; the next reading says what it is"
                    await self._set_aside(shard, row, finding)
                written = await in_thread(self._bring, copies, copy, row, finding)
        except (EntryExists, ChangedWhileReading, DigestMismatch) as error:
            return f"the copy could not be brought over ({error.code})"
        await self._repaired(shard, row, finding, written)
        return ""

    async def _brought(self, row: Any, finding: Any) -> Fingerprint | None:
        """Did an earlier try bring the copy over, and its end was cut? What stands there is read, not believed."""
        if finding.kind != "missing" and not finding.quarantine:
            return None
        standing = await in_thread(look_at, self._ends.tier(row.tier), name_text(bytes(finding.key)))
        return standing.fingerprint if standing.digest == finding.expected else None

    async def _written_since(self, row: Any, finding: Any) -> bool:
        """Does something else than the damaged bytes stand there by now? A repair may wait for its copy's tier for
        days; only what was found is moved aside. A name that is empty was moved aside before a kill."""
        standing = await in_thread(look_at, self._ends.tier(row.tier), name_text(bytes(finding.key)))
        return not standing.missing and standing.digest != (finding.found or "")

    async def _set_aside(self, shard: Shard, row: Any, finding: Any) -> None:
        """First the word where it goes, then the rename. Asked again after a kill, it finds it there."""
        aside = self._aside(row.tier, finding.id)
        async with self._database.project(shard.project) as conn:
            await self._fence(conn, shard, None)
            await conn.execute(SQL["quarantine"], {"finding": finding.id, "quarantine": aside})
        await in_thread(self._move_aside, row.tier, name_text(bytes(finding.key)), aside)

    def _aside(self, tier: str, finding: str) -> str:
        """A bucket's own history is its quarantine; only where it keeps versions does anything come this far."""
        return OLDER_VERSION if self._ends.places[tier].path is None else f"{QUARANTINE}/{finding}"

    def _move_aside(self, name: str, key: str, aside: str) -> None:
        tier, place = self._ends.tier(name), self._ends.places[name]
        if place.path is None:
            # a bucket that keeps versions: the damaged object stays one of them, behind a delete marker
            with suppress(EntryMissing):
                tier.tidy(key)
            return
        trash = Trash(place.path, tier=name, check_identity=tier.check_identity)
        with trash.opened() as root:
            found, there = trash.find(root, key), trash.find(root, aside)
            if found is None:
                return  # it is aside already, or gone
            if there is not None and (there.device, there.inode) == (found.device, found.inode):
                trash.remove(root, key, expected=found)  # a link was made and its first name not removed
                return
            trash.rename(root, key, aside, expected=found)

    def _bring(self, copies: ReadTier, copy: str, row: Any, finding: Any) -> Fingerprint:
        target = self._ends.tier(row.tier)
        key = name_text(bytes(finding.key))
        with copies.open(copy) as source:
            self._transfer.run_recipe(
                plain_copy(source.size_bytes), source=source, source_tier=copies, target=target, key=key,
                expected=finding.expected,
            )  # fmt: skip
        return target.stat(key).fingerprint

    async def _repaired(self, shard: Shard, row: Any, finding: Any, written: Fingerprint) -> None:
        said = {"finding": finding.id, "from": row.repair_from, "digest": finding.expected}
        if finding.quarantine or finding.kind != "missing":
            said["quarantine"] = finding.quarantine or self._aside(row.tier, finding.id)
        async with self._database.project(shard.project) as conn:
            await self._fence(conn, shard, None)
            await self._put_whole(conn, row, [(bytes(finding.key), Look(written, finding.expected))])
            changes = {"finding": finding.id, "copy_tier": row.repair_from, "explanation": "repaired and read back"}
            await conn.execute(SQL["repaired"], changes)
            await conn.execute(SQL["unlocked"], {"tier": row.tier, "key": name_text(bytes(finding.key))})
            await audit.record(
                conn, project=row.project_id, node=self._node, actor=row.created_by, action="entry repaired",
                subject=row.id, reason=finding.kind, details=said,
            )  # fmt: skip
        metrics.VERIFY_REPAIRED.labels(row.tier).inc()
        log.info("entry repaired", tier=row.tier, subject=row.id, kind=finding.kind)

    # --- steps and ends -----------------------------------------------------------------------------------------

    async def _fence(self, conn: Connection, shard: Shard, state: str | None) -> None:
        """First in every transaction that changes something: the shard is ours, and the verification goes on."""
        await renew_shard(conn, shard, lease_s=LEASE_S)
        row = await SQL.one(conn, "lock", id=shard.subject_id)
        if row.state in FINAL or (state is not None and row.state != state):
            raise LeaseLost("the verification was ended meanwhile", where=shard.subject_id)

    async def _go_on(self, shard: Shard, row: Any, before: str, after: str) -> None:
        async with self._database.project(shard.project) as conn:
            await self._fence(conn, shard, before)
            if after == "complete":
                await self._end(conn, row, "complete")
            else:
                values = {"id": row.id, "state": after, "reason": None, "explanation": None}
                await conn.execute(SQL["set_state"], values)

    async def _end(self, conn: Connection, row: Any, state: str, *, reason: str = "", explanation: str = "") -> None:
        """The last of its transaction: it ends with the audit record."""
        counts = Counter({one.kind: one.count for one in await SQL.many(conn, "counts", id=row.id)})
        values = {"id": row.id, "state": state, "reason": reason or None, "explanation": explanation or None}
        await conn.execute(SQL["set_state"], values)
        await audit.record(
            conn, project=row.project_id, node=self._node, actor=row.created_by, action=f"verification {state}",
            subject=row.id, reason=reason, details={"tier": row.tier, "findings": dict(counts)},
        )  # fmt: skip


def _known(row: Any) -> Known:
    size, printed = row.size_bytes, None
    if row.mtime_ns is not None and row.mark:
        printed = Fingerprint(size, row.mtime_ns, row.mark)
    return Known(row.digest, size, printed)


def _chunk(rows: Sequence[Any]) -> list[Any]:
    """The first of them, up to so many bytes: what a kill makes us read again. At least one."""
    chosen: list[Any] = []
    size = 0
    for row in rows:
        if chosen and size + (row.size_bytes or 0) > CHUNK_BYTES:
            break
        chosen.append(row)
        size += row.size_bytes or 0
    return chosen


# --- in threads -------------------------------------------------------------------------------------------------


def look_at_all(tier: ReadTier, rows: Sequence[Any]) -> list[Look]:
    """Each entry as it stands, a few at a time. TierUnavailable ends all of it."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="verify") as pool:
        return list(pool.map(lambda row: look_at(tier, name_text(bytes(row.key)), digest=row.digest is not None), rows))


def look_at(tier: ReadTier, key: str, *, digest: bool = True) -> Look:
    """The entry read whole and cold, with the fingerprint it had before and after. What cannot be read is a value;
    a tier that is away is not."""
    for _ in range(READ_AGAIN + 1):
        try:
            before = tier.stat(key)
            if not digest:
                return Look(before.fingerprint)
            if before.kind != "file":
                return Look(before.fingerprint, code="not-a-file")
            found = _digest(tier, key)
            if tier.stat(key).fingerprint == before.fingerprint:
                return Look(before.fingerprint, found)
        except EntryMissing:
            return Look()
        except (TierUnavailable, TierFull):
            raise
        except ChangedWhileReading:
            continue
        except (TierDenied, TierError, IntegrityError, RequestInvalid) as error:
            return Look(code=error.code)
    return Look(code="changed-while-reading")


def _digest(tier: ReadTier, key: str) -> str:
    hasher = blake3()
    for piece in tier.stream(key, cold=True):
        hasher.update(piece)
    return hasher.hexdigest()


def whole_copy(tier: ReadTier, keys: Sequence[str], digest: str) -> str | None:
    """The first of the copies that is whole, read cold: a repair from a damaged copy would destroy the evidence."""
    for key in keys:
        if look_at(tier, key).digest == digest:
            return key
    tier.check_identity()
    return None


def _next_files(entries: Iterator[Any]) -> list[tuple[bytes, int]]:
    return [(name_bytes(one.key), one.fingerprint.size_bytes) for one in islice(entries, LISTED_AT_ONCE)]
