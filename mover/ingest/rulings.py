"""The way back of a withdrawal, and the way out: two people reinstate a slide, or remove its bytes for good.

Removing goes the other way round than publishing: the sidecar first, so that nothing vouches for what goes; the files;
then the word that they are gone. All of it wherever a copy was begun, and every version that a bucket keeps. A kept
manifest holds nobody's name in the archive: it says from then on that it cannot be staged exactly, and the second
person says how many such manifests there are.

What a kill leaves, step by step: nothing; the list of what is to go, each with the digest that was read and the mark it
was read under; some of it gone, and the list says what is left. A file that is not what the catalog says, or not what
was read, stops the removal: nobody knows what that is.

Who is a person is the database's to say, and so is what a ruling lets be done (migration 0027): the daemon's own role
writes none, removes nothing without one, and takes no withdrawal back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from blake3 import blake3

from mover import audit
from mover.catalog.database import Connection, Database, refusals
from mover.catalog.queries import load
from mover.decide.rulings import Withdrawn, why_not_ask, why_not_decide
from mover.errors import (
    ChangedWhileReading,
    Conflict,
    Denied,
    DigestMismatch,
    EntryLocked,
    EntryMissing,
    MoverError,
    NotFound,
)
from mover.jobs import FailureHandler, Handler, NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import postpone_shard, renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.sidecar import decode_sidecar, sidecar_key
from mover.randomness import new_id
from mover.tiers.guard import guarded
from mover.tiers.locking import freeing
from mover.tiers.port import PruneTier, ReadTier
from mover.transfer import Transfer

KIND: Final = "slide-remove"
PAGE_MAX: Final = 1000
PINS_TOLD: Final = 100
# a removal waits for a copy that is being made, and for locks that have not run out
WAIT_S: Final = 3600

_Q = load(__file__)
log = get_logger("ingest")


class Rulings:
    def __init__(
        self, database: Database, tiers: Mapping[str, ReadTier], transfer: Transfer, *, node: str
    ) -> None:
        self._database, self._tiers, self._transfer, self._node = database, tiers, transfer, node

    def handlers(self) -> dict[str, Handler]:
        return {KIND: self.remove}

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {KIND: self.failed}

    # --- ask and decide -------------------------------------------------------------------------------------

    async def ask(self, identity: Identity, number: str, body: wire.RulingRequest, *, request: str = "") -> wire.Ruling:
        async with self._database.project(identity.project) as conn:
            row = await _Q.one(conn, "withdrawn", number=number)
            if row is None:
                raise NotFound("no such slide", where=number)
            why = why_not_ask(body.action, _withdrawn(row))
            if why:
                raise Conflict(why, where=number)
            values = {"id": new_id("ruling"), "number": number, "action": body.action, "reason": body.reason}
            with refusals():
                asked = await _Q.one(conn, "ask", **values, **self._who(identity, request))
            if not asked.made:
                raise Conflict("somebody asked about this slide already", where=number,
                               hint="See `mover slide rulings`; a second person grants or declines.")  # fmt: skip
            return _ruling(await _Q.one(conn, "get", id=values["id"]))

    async def decide(self, identity: Identity, id: str, body: wire.RulingDecision, *, request: str = "") -> wire.Ruling:
        """The second person's word, which the database judges by their tokens. A slide is reinstated with it; its bytes
        go by a shard of their own."""
        project, grants, who = identity.project, body.decision == "grant", self._who(identity, request)
        async with self._database.project(project) as conn:
            row = await _Q.one(conn, "get", id=id)
            if row is None:
                raise NotFound("no such ruling", where=id)
            if row.state != "asked":
                raise Conflict(f"the ruling is {row.state}", where=id)
            holders = await _Q.many(conn, "holders", number=row.number)
            pins = await _Q.many(conn, "manifests", number=row.number)
            with refusals():
                person = (await _Q.one(conn, "person", proof=identity.proven, actor=identity.actor)).person
        same = identity.actor == row.asked_by or person == row.asked_person
        self._check(row, holders if grants else (), pins if grants else (), same=same, told=grants * body.manifests)
        if grants and row.action == "reinstate":
            await self._tell_others(project, row.number, holders)
        async with self._database.project(project) as conn:
            await conn.execute(_Q["lock_withdrawals"])
            if grants:
                await self._prepare(conn, project, row)
            with refusals():
                await _Q.one(conn, "decide", id=id, grant=grants, reason=body.reason, manifests=len(pins), **who)
            told = _ruling(await _Q.one(conn, "get", id=id))
        if (told.action, told.state) == ("reinstate", "done"):
            log.warning("slide reinstated", number=row.number)
        return told

    def _who(self, identity: Identity, request: str) -> dict[str, object]:
        return {"proof": identity.proven, "actor": identity.actor, "node": self._node, "request": request}

    def _check(
        self, row: Any, holders: Sequence[Any], pins: Sequence[Any], *, same: bool, told: int = 0
    ) -> None:
        """The runs of other projects are counted, and not named."""
        runs = len({one.run_id for one in holders if one.run_id})
        why = why_not_decide(row.action, same_person=same, runs=runs, manifests=len(pins), told=told)
        if why:
            own = [{"run": one.run_id} for one in pins if one.project_id == row.project_id]
            hint = f"Who knows that says so: --manifests {len(pins)}." if pins and not runs else ""
            raise (Denied if same else Conflict)(why, where=row.id, hint=hint, details=own[:PINS_TOLD])

    async def _prepare(self, conn: Connection, project: str, row: Any) -> None:
        slide = await _Q.one(conn, "withdrawn", number=row.number)
        why = why_not_ask(row.action, _withdrawn(slide))
        if why:
            raise Conflict(why, where=row.number)
        if row.action == "remove":
            await add_shards(conn, project, [NewShard(tier_queue(slide.tier), KIND, row.id)])

    async def _tell_others(self, project: str, number: str, holders: Sequence[Any]) -> None:
        """Projects that were told of the withdrawal are told of its end; before it commits, so rather twice than
        never."""
        for other in sorted({one.project_id for one in holders} - {project}):
            async with self._database.project(other) as conn:
                await self._audit(conn, other, "daemon", "slide reinstated", number, "")

    async def view(self, project: str, id: str) -> wire.Ruling:
        async with self._database.project(project) as conn:
            row = await _Q.one(conn, "get", id=id)
        if row is None:
            raise NotFound("no such ruling", where=id)
        return _ruling(row)

    async def list(
        self, project: str, after: str | None = None, limit: int = 100, *, open: bool = False, number: str | None = None
    ) -> wire.RulingPage:
        bound = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "page", after=after, open=open, number=number, limit=bound)
        return wire.RulingPage(rulings=[_ruling(row) for row in rows], next=rows[-1].id if len(rows) == bound else None)

    # --- remove ---------------------------------------------------------------------------------------------

    async def remove(self, shard: Shard) -> None:
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            ruling = await _Q.one(conn, "get", id=shard.subject_id)
            intended: Sequence[Any] = await _Q.many(conn, "intended", id=ruling.id)
            copying = await _Q.many(conn, "copying", number=ruling.number)
        if copying:
            await self._wait(shard, f"a copy to {copying[0].tier} is under way")
            return
        if not intended:
            intended = await self._intend(shard, ruling)
        try:
            await self._remove_all(shard, intended)
        except EntryLocked as locked:
            await self._wait(shard, locked.what)
            return
        async with self._database.project(shard.project) as conn:
            await conn.execute(_Q["gone"], {"number": ruling.number})
            await conn.execute(_Q["end"], {"id": ruling.id, "state": "done", "explanation": None})
            await finish_shard(conn, shard)
            await self._audit(
                conn, shard.project, "daemon", "slide removed", ruling.number, ruling.reason, ruling=ruling.id,
                files=len(intended), bytes=sum(one.size_bytes for one in intended),
            )  # fmt: skip
        log.warning("slide removed", number=ruling.number, count=len(intended))

    async def _remove_all(self, shard: Shard, intended: Sequence[Any]) -> None:
        for one in intended:
            if one.state == "intended":
                tier = self._tier(one.tier)
                await in_thread(guarded, lambda _, one=one, tier=tier: _remove(tier, one), tier)
                async with self._database.project(shard.project) as conn:
                    await renew_shard(conn, shard, lease_s=LEASE_S)
                    await conn.execute(_Q["removed"], {"ruling": shard.subject_id, "place": one.place})

    async def _wait(self, shard: Shard, why: str) -> None:
        """Granted, and not yet to be had: a lock is shortened by nobody, for no reason."""
        async with self._database.project(shard.project) as conn:
            await conn.execute(_Q["explain"], {"id": shard.subject_id, "explanation": f"it waits: {why}"})
            await postpone_shard(conn, shard, delay_s=WAIT_S, error=why)

    async def _intend(self, shard: Shard, ruling: Any) -> Sequence[Any]:
        """What is to go, each read once more: a name alone removes nothing."""
        async with self._database.project(shard.project) as conn:
            files = await _Q.many(conn, "files", number=ruling.number)
        tiers = {one.tier: self._tier(one.tier) for one in files}
        found = await in_thread(
            guarded, lambda _: _read(tiers, ruling.number, files, self._transfer), *tiers.values()
        )
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            for place, one in enumerate(found):
                await conn.execute(_Q["intend"], {"project": shard.project, "ruling": ruling.id, "place": place, **one})
            await self._audit(
                conn, shard.project, "daemon", "slide removal begun", ruling.number, ruling.reason, ruling=ruling.id,
                files=[{"key": one["key"], "blake3": one["digest"]} for one in found],
            )  # fmt: skip
        async with self._database.project(shard.project) as conn:
            return await _Q.many(conn, "intended", id=ruling.id)

    def _tier(self, name: str) -> PruneTier:
        tier = self._tiers.get(name)
        if not isinstance(tier, PruneTier):
            raise EntryMissing("the slide's tier is not configured on this node", where=name)
        return tier

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """The slide stays withdrawn; what is left of it can be asked for again."""
        values = {"id": shard.subject_id, "state": "failed", "explanation": f"{error.code}: {error.what}"}
        await conn.execute(_Q["end"], values)
        await self._audit(conn, shard.project, "daemon", "slide removal failed", shard.subject_id, error.code)

    async def _audit(
        self, conn: Connection, project: str, actor: str, action: str, subject: str, reason: str, *,
        request: str = "", **details: Any,
    ) -> None:  # fmt: skip
        await audit.record(
            conn, project=project, node=self._node, actor=actor, action=action, subject=subject, reason=reason,
            request=request, details=details,
        )  # fmt: skip


# --- the tier (blocking) ------------------------------------------------------------------------------------


def _read(tiers: dict[str, PruneTier], number: str, files: list[Any], transfer: Transfer) -> list[dict[str, Any]]:
    """The sidecar and every file that stands still, as they are now. Raises DigestMismatch for one that is not what
    the catalog says."""
    found = []
    for name in dict.fromkeys(one.tier for one in files):
        with suppress(EntryMissing):  # an earlier removal that failed took it
            with tiers[name].open(sidecar_key(number)) as opened:
                data = opened.read(0, opened.size_bytes)
                mark = opened.fingerprint().mark
            if decode_sidecar(data).number != number:
                raise DigestMismatch("the sidecar speaks of another slide", where=number)
            found.append(_intent(name, sidecar_key(number), blake3(data).hexdigest(), len(data), mark))
    for one in files:
        try:
            mark = tiers[one.tier].stat(one.key).fingerprint.mark
            digest = transfer.digest_stream(tiers[one.tier].stream(one.key, cold=True)).blake3
        except EntryMissing:
            continue
        if digest != one.digest:
            raise DigestMismatch("a file of the slide is not what the catalog says", where=number)
        found.append(_intent(one.tier, one.key, digest, one.size_bytes, mark))
    return found


def _intent(tier: str, key: str, digest: str, size_bytes: int, mark: str) -> dict[str, Any]:
    return {"tier": tier, "key": key, "digest": digest, "size_bytes": size_bytes, "mark": mark}


def _remove(tier: PruneTier, one: Any) -> None:
    """The file that was read, and no other; one that is gone already is removed."""
    try:
        now = tier.stat(one.key).fingerprint
        if (now.mark, now.size_bytes) != (one.mark, one.size_bytes):
            raise ChangedWhileReading("a file of the slide was written anew meanwhile", where=tier.name)
        freeing(tier).remove(one.key)  # with every version that a bucket keeps
    except EntryMissing:
        return


def _withdrawn(row: Any) -> Withdrawn:
    return Withdrawn(row.reason or "", own=row.own, removed=row.removed_at is not None)


def _ruling(row: Any) -> wire.Ruling:
    return wire.Ruling(
        id=row.id, number=row.number, action=row.action, state=row.state, reason=row.reason, asked_by=row.asked_by,
        asked_at=row.asked_at, decided_by=row.decided_by, decided_at=row.decided_at, decision=row.decision,
        manifests=row.named if row.action == "remove" else 0, explanation=row.explanation,
    )  # fmt: skip
