"""The oldest records of the audit leave the catalog for a signed pack: two people say so, and nothing is lost by it.

In this order, and each step is refused unless the one before it stands:

1. The audit is verified; the records that may leave are written as a pack (`pack.make_range`) onto every tier that the
   checkpoints go to, read back cold from each, and checked like any pack (`packcheck`).
2. The first person asks. The database compares what is asked with its own rows, stamps and clock: six years at least.
3. The second approves. The packs are read again; a record and a signed checkpoint say the same, in one transaction.
4. When every tier has that checkpoint, and the packs still stand there, records leave by thousands, oldest first, each
   time with a record of it (`go_on`).

What a kill leaves: after 1 a pack that nobody speaks of, harmless, under a name that is never used again; after 2 or 3
what they decided; within 4 a chain that begins later, which `verify` takes only up to what all of the above say.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from mover.audit import chain, checkpoints
from mover.audit.checkpoints import Checkpoints, range_of, retired_of, retirement_view
from mover.audit.pack import make_range
from mover.audit.packcheck import Checked, check_pack
from mover.catalog import queries
from mover.catalog.database import Connection, Database, refusals
from mover.decide.retiring import Oldest, Retiring, retiring, why_not
from mover.errors import Conflict, EntryMissing, MoverError, NotFound, TierError, TierUnavailable, tier_error
from mover.log import get_logger
from mover.model import auditpack, wire
from mover.model.access import Identity
from mover.model.checkpoint import ChainEnd, Checkpoint, RetiredChain, pack_key_of
from mover.randomness import new_id
from mover.tiers.port import WriteTier

# in one pack, which is some hundred megabytes and a minute's work; what is more leaves with the next one
RECORDS_MAX = 500_000
# in one transaction: a fraction of a second
BATCH = 5000
PIECE_BYTES = 1 << 20
STAYS = "Nothing leaves meanwhile. A pack that is lost is copied from another tier, under the same name."

_Q = queries.load(__file__)
_C = queries.load(checkpoints.__file__)
logger = get_logger(__name__)


class Retirements:
    """`years` is what the settings keep; None keeps all records for ever."""

    def __init__(
        self, database: Database, kept: Checkpoints, *, node: str, site: str, key_file: Path, years: int | None
    ) -> None:
        self._database, self._kept = database, kept
        self._node, self._site, self._key_file = node, site, key_file
        self._years = years

    async def plan(self, project: str, before: datetime) -> wire.Plan:
        found, _ = await self._found(project, before)
        steps = [
            wire.PlanStep(action="retire", subject=one.node, reason=f"records {one.after + 1} to {one.upto} are older")
            for one in found.pieces
        ]  # fmt: skip
        steps += [wire.PlanStep(action="keep", subject=one.node, reason=one.reason) for one in found.kept]
        return wire.Plan(
            step="retire", counts={"records": found.records, "chains": len(found.pieces)}, bytes=0, steps=steps
        )

    async def ask(self, identity: Identity, body: wire.AuditRetirementRequest) -> wire.AuditRetirement:
        project = identity.project
        found, tiers = await self._found(project, body.before)
        if not found.pieces:
            raise Conflict("no record is older than that and covered by a checkpoint on every tier", where=project)
        async with self._database.project(project) as conn:
            with refusals():
                await conn.execute(_Q["may_ask"], {"proof": identity.proven, "actor": identity.actor})
        range_ = auditpack.Range(id=new_id("retirement"), before=body.before, chains=await self._ends(project, found))
        digest, size_bytes = await self._packed(project, identity.actor, range_, tiers)
        async with self._database.project(project) as conn:
            with refusals():
                await conn.execute(_Q["ask"], {
                    "id": range_.id, "before": body.before, "years": self._years,
                    "chains": msgspec.json.encode(range_.chains).decode(), "digest": digest, "bytes": size_bytes,
                    "tiers": [one.name for one in tiers], "reason": body.reason, **self._who(identity),
                })  # fmt: skip
            return retirement_view(await self._row(conn, project, range_.id))

    async def approve(self, identity: Identity, id: str) -> wire.AuditRetirement:
        """The packs are read again, then all of it in one transaction; the record comes before the checkpoint, whose
        heads are to cover it."""
        project = identity.project
        async with self._database.project(project) as conn:
            row = await self._row(conn, project, id)
            await self._refuse_young(conn, project, row.before)
        await self._whole(project)
        await self._refuse_unless_held(project, row)
        async with self._database.project(project) as conn:
            await conn.execute(_C["turn"], {"project": project})
            newest = await _C.one(conn, "newest", project=project)
            with refusals():
                n = (await _Q.one(conn, "approve", id=id, **self._who(identity))).n
            row = await self._row(conn, project, id)
            ends = tuple(ChainEnd(one.node, one.seq, one.hash.hex()) for one in await chain.heads(conn, project))
            site, at = self._kept.stamp()
            made = Checkpoint(
                site=site, project=project, n=n, at=at, heads=ends, previous=newest.digest, retired=retired_of(row)
            )
            body, fingerprint = await asyncio.to_thread(self._kept.signed, made)
            await checkpoints.add(conn, project, made.n, body, fingerprint)
            return retirement_view(row)

    async def go_on(self, project: str) -> int:
        """What two people let go leaves, as long as the packs stand; returns how many records. Whatever keeps it from
        going on is tried again with the next turn."""
        async with self._database.project(project) as conn:
            rows = await _C.many(conn, "retired", project=project)
        gone = 0
        for row in (row for row in rows if row.left):
            try:
                await self._refuse_unless_held(project, row)
                await self._whole(project)  # what changed since two people agreed would leave with its own traces
                while left := await self._retire(project, row.id):
                    gone += left
            except (Conflict, NotFound, TierError) as error:
                logger.info("retired records stay for now", code=error.code)
        return gone

    async def _retire(self, project: str, id: str) -> int:
        async with self._database.project(project) as conn:
            with refusals():
                return int((await _Q.one(conn, "retire", id=id, limit=BATCH, node=self._node)).gone)

    # --- what may leave --------------------------------------------------------------------------------------

    async def _found(self, project: str, before: datetime) -> tuple[Retiring, list[WriteTier]]:
        tiers = self._kept.tiers()
        async with self._database.project(project) as conn:
            await self._refuse_young(conn, project, before)
            if not tiers:
                raise Conflict(
                    "no tier takes checkpoints, so none can take a pack", where=project,
                    hint="A policy of kind audit names them.",
                )  # fmt: skip
            if absent := self._kept.absent():
                raise Conflict(
                    f"this daemon lacks tiers that take checkpoints: {', '.join(absent)}", where=project,
                    hint="Ask a daemon that has all of them: the pack goes to each.",
                )  # fmt: skip
            rows = await _Q.many(
                conn, "beginnings", project=project, before=before, tiers=[one.name for one in tiers],
                limit=RECORDS_MAX,
            )  # fmt: skip
        await self._whole(project)
        return retiring([Oldest(row.node, row.first, row.older, row.covered) for row in rows], limit=RECORDS_MAX), tiers

    async def _refuse_young(self, conn: Connection, project: str, before: datetime) -> None:
        """By the database's clock, and by what the settings say now."""
        why = why_not(before, now=(await _Q.one(conn, "now")).at, years=self._years)
        if why:
            raise Conflict(why, where=project, hint="`retention: {audit_years: …}` in mover.yaml says how many years.")

    async def _packed(
        self, project: str, by: str, range_: auditpack.Range, tiers: Sequence[WriteTier]
    ) -> tuple[str, int]:
        """Onto every tier, and checked as it came back; its digest and size."""
        pieces = make_range(self._database, project, range_, by=by, site=self._site, key_file=self._key_file)
        key = pack_key_of(project, range_.id)
        try:
            with tempfile.TemporaryDirectory(prefix="mover-audit-") as folder:
                made, back = Path(folder) / "made", Path(folder) / "back"
                digest, size_bytes = await _spooled(made, pieces)
                for tier in tiers:
                    await asyncio.to_thread(_put_and_read_back, tier, key, made, back, digest)
                await asyncio.to_thread(self._check, back, range_, project)
        except OSError as error:
            raise tier_error(error, of="the pack") from error
        return digest, size_bytes

    async def _ends(self, project: str, found: Retiring) -> tuple[RetiredChain, ...]:
        async with self._database.project(project) as conn:
            rows = await _C.many(
                conn, "records_at", project=project, nodes=[one.node for one in found.pieces],
                seqs=[one.upto for one in found.pieces],
            )  # fmt: skip
        hashes = {row.node: bytes(row.hash).hex() for row in rows}
        return tuple(RetiredChain(one.node, one.after, one.upto, hashes[one.node]) for one in found.pieces)

    async def _whole(self, project: str) -> None:
        """Nothing leaves an audit that does not verify, or of which a tier of the policies cannot be asked, or for an
        earlier pack no tier, or whose tiers know of more than the catalog: that one was restored."""
        known = await self._kept.anchors(project)
        async with self._database.still(project) as conn:
            newest = (await _C.one(conn, "count", project=project)).n
            verdict = await chain.verify(
                conn, project, anchors=known.heads, copies=known.copies, restored=known.restored, retired=known.retired
            )
        wanted = {one.name for one in self._kept.tiers()}
        away = {one.tier for one in known.copies if one.unread and one.tier in wanted}
        # a tier that is gone for good keeps nothing back, as long as another one has the pack
        away.update(name for one in verdict.packs_unread for name in one.tiers)
        if away:
            raise Conflict(
                f"tiers cannot be read now: {', '.join(sorted(away))}", where=project,
                hint="Ask when they can; docs/audit.md says what to do where one is gone for good.",
            )  # fmt: skip
        if not verdict.whole or any(one.newest > newest for one in known.copies):
            raise Conflict(
                "the audit is not whole, so nothing leaves it", where=project, hint="`mover audit verify` says what is."
            )

    def _check(self, file: Path, range_: auditpack.Range, project: str) -> None:
        """Blocking: what was read back is the pack that was meant, signed by this site, and holds by itself."""
        found: Checked = check_pack(file, trusted=self._kept.signers())
        if not found.whole:
            raise Conflict(
                "the pack does not hold by itself: nothing leaves", where=range_.id,
                details=[{"problem": one} for one in found.problems[:20]],
            )  # fmt: skip
        said = (found.retirement, found.before, found.ranges, found.project)
        if said != (range_.id, range_.before, range_.chains, project):
            raise Conflict("the pack does not hold the records that are named: nothing leaves", where=range_.id)

    async def _refuse_unless_held(self, project: str, row: Any) -> None:
        """On every tier that two people read the name of: as the device holds it, checked like any pack, and with the
        very records that the row names. The row could say anything, whoever owns the database writes it."""
        try:
            with tempfile.TemporaryDirectory(prefix="mover-audit-") as folder:
                for name in row.tiers:
                    await asyncio.to_thread(self._held_on, name, project, row, Path(folder) / "back")
        except OSError as error:
            raise tier_error(error, of="the pack") from error

    def _held_on(self, name: str, project: str, row: Any, back: Path) -> None:
        """Blocking."""
        tier = self._kept.tier(name)
        if tier is None:
            raise Conflict(f"{name}: {TierUnavailable.code}", where=row.id, hint=STAYS)
        try:
            digest = _read_back(tier, pack_key_of(project, row.id), back)
        except MoverError as error:
            why = "the pack is not there" if isinstance(error, EntryMissing) else error.code
            raise Conflict(f"{name}: {why}", where=row.id, hint=STAYS) from error
        if digest != row.digest:
            raise Conflict(f"{name}: the pack is not the one that was written", where=row.id, hint=STAYS)
        self._check(back, range_of(row), project)

    async def list(self, project: str) -> wire.AuditRetirements:
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "retirements", project=project, id=None)
        return wire.AuditRetirements(retirements=[retirement_view(row) for row in rows])

    def _who(self, identity: Identity) -> dict[str, Any]:
        return {"proof": identity.proven, "actor": identity.actor, "node": self._node}

    async def _row(self, conn: Connection, project: str, id: str) -> Any:
        row = await _Q.one(conn, "retirements", project=project, id=id)
        if row is None:
            raise NotFound("no such retirement", where=id)
        return row


# --- files ---------------------------------------------------------------------------------------------------


async def _spooled(path: Path, pieces: AsyncIterator[bytes]) -> tuple[str, int]:
    """A tier wants to know how large a file is before it comes."""
    hasher, size_bytes = blake3(), 0
    with path.open("wb") as file:
        async for piece in pieces:
            hasher.update(piece)
            size_bytes += await asyncio.to_thread(file.write, piece)
    return hasher.hexdigest(), size_bytes


def _put_and_read_back(tier: WriteTier, key: str, made: Path, back: Path, digest: str) -> None:
    """Blocking. What the device holds is what is compared, not what the cache does."""
    tier.put(key, _pieces(made), size_bytes=made.stat().st_size)
    if _read_back(tier, key, back) != digest:
        raise Conflict("the tier gave back another pack than it was given: nothing leaves", where=tier.name)


def _read_back(tier: WriteTier, key: str, back: Path) -> str:
    """Blocking: its digest."""
    hasher = blake3()
    with back.open("wb") as file:
        for piece in tier.stream(key, cold=True):
            hasher.update(piece)
            file.write(piece)
    return hasher.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
