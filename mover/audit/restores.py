"""After the catalog was restored from an older dump: two people say so, and the audit goes on.

The tiers' checkpoints then tell of records that the catalog no longer has, and each new one meets an old one under its
number. That is what a forgery looks like, too; so nobody alone ends the alarm, and nothing ends it for good. The first
person asks: the tiers are read, and what they know and the catalog does not is written down. The second approves: the
tiers' checkpoints become the catalog's again, a record says what is lost, and the next checkpoint, signed, says the
same on every tier. From then on what the old checkpoints say of lost records is told as lost by `verify`, for ever;
what they say of every record that still stands is compared as before. Whoever used this to rewrite records would leave
exactly that: two names, a reason, and which records cannot be proved.

What a kill leaves: approving is one transaction, so all of it or nothing; copying goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover.audit import chain, checkpoints
from mover.audit.checkpoints import Anchors, Checkpoints, restore_view, restored_of
from mover.catalog import queries
from mover.catalog.database import Connection, Database, refusals
from mover.decide.audit import Head, Loss, is_lost
from mover.errors import Conflict, MoverError, NotFound
from mover.model import wire
from mover.model.access import Identity
from mover.model.checkpoint import BYTES_MAX, ChainEnd, Checkpoint, Lost, key_of
from mover.randomness import new_id
from mover.signing import same_key
from mover.tiers.port import ReadTier

# a checkpoint an hour for three years; older dumps are no backup of anything
BODIES_MAX = 26_000

_SIGNERS = "Was it signed before the key changed, its fingerprint belongs in `audit_keys_before` of mover.yaml."

_Q = queries.load(checkpoints.__file__)


class Found(Struct, frozen=True):
    """What the tiers know and the catalog does not: the checkpoints after `after`, byte for byte, and what they tell of
    records that are not there."""

    after: int
    bodies: dict[int, bytes]
    lost: tuple[Lost, ...]

    @property
    def newest(self) -> int:
        return max(self.bodies)

    @property
    def facts(self) -> dict[str, Any]:
        """What is agreed on: the newest checkpoint holds the digests of all before it."""
        return {
            "after": self.after, "newest": self.newest, "digest": blake3(self.bodies[self.newest]).hexdigest(),
            "lost": [msgspec.structs.asdict(one) for one in self.lost],
        }  # fmt: skip


class Restores:
    def __init__(self, database: Database, kept: Checkpoints, *, node: str) -> None:
        self._database, self._kept, self._node = database, kept, node

    async def ask(self, identity: Identity, reason: str) -> wire.AuditRestore:
        found = await self._found(identity.project)
        async with self._database.project(identity.project) as conn:
            with refusals():
                asked = await _Q.one(
                    conn, "ask_restore", id=new_id("acceptance"), n=found.newest + 1,
                    facts=msgspec.json.encode(found.facts).decode(), reason=reason, **self._who(identity),
                )  # fmt: skip
            return restore_view(await self._row(conn, identity.project, asked.id))

    async def approve(self, identity: Identity, id: str) -> wire.AuditRestore:
        """All in one transaction. The record comes before the checkpoint, whose heads are to cover it."""
        project = identity.project
        async with self._database.project(project) as conn:
            await self._row(conn, project, id)
        found = await self._found(project)
        async with self._database.project(project) as conn:
            await _Q.one(conn, "turn", project=project)
            if (await self._row(conn, project, id)).facts != found.facts:
                raise Conflict("the tiers say something else than when this was asked", where=id, hint="Ask again.")
            with refusals():
                await conn.execute(_Q["approve_restore"], {"id": id, **self._who(identity)})
            row = await self._row(conn, project, id)
            for n, body in sorted(found.bodies.items()):
                await checkpoints.add(conn, project, n, body, checkpoints.decoded(body).signature.fingerprint)
            ends = tuple(ChainEnd(one.node, one.seq, one.hash.hex()) for one in await chain.heads(conn, project))
            site, at = self._kept.stamp()
            made = Checkpoint(
                site=site, project=project, n=row.n, at=at, heads=ends, previous=found.facts["digest"],
                restored=restored_of(row),
            )  # fmt: skip
            body, fingerprint = await asyncio.to_thread(self._kept.signed, made)
            await checkpoints.add(conn, project, made.n, body, fingerprint)
            return restore_view(row)

    async def list(self, project: str) -> wire.AuditRestores:
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "restores", project=project, id=None)
        return wire.AuditRestores(restores=[restore_view(row) for row in rows])

    def _who(self, identity: Identity) -> dict[str, Any]:
        return {"proof": identity.proven, "actor": identity.actor, "node": self._node}

    async def _row(self, conn: Connection, project: str, id: str) -> Any:
        row = await _Q.one(conn, "restores", project=project, id=id)
        if row is None:
            raise NotFound("no such statement", where=id)
        return row

    # --- what is lost ----------------------------------------------------------------------------------------

    async def _found(self, project: str) -> Found:
        """Raises Conflict where there is nothing to say, or where a restore does not explain what is found."""
        async with self._database.project(project) as conn:
            own = {row.n: row for row in await _Q.many(conn, "digests", project=project, limit=BODIES_MAX)}
        bodies: dict[int, bytes] = {}
        for tier in self._kept.tiers():
            for n, body in (await asyncio.to_thread(_unknown, tier, project, own)).items():
                if bodies.setdefault(n, body) != body:
                    raise Conflict(f"tiers hold different checkpoints under the number {n}", where=tier.name)
        if not bodies:
            raise Conflict("the tiers know of no checkpoint that the catalog lacks: nothing is to be accepted")
        after = min(bodies) - 1
        _check_row(project, after, own, bodies, await asyncio.to_thread(self._kept.signers))
        known = await self._kept.anchors(project)
        async with self._database.still(project) as conn:
            common = await _Q.one(conn, "body", project=project, n=after)
            told = [*([common.body] if common else []), *bodies.values()]
            lost = await _lost(conn, project, told, retired=known.retired.ends)
        found = Found(after, bodies, lost)
        await self._check_explained(project, found, known)
        return found

    async def _check_explained(self, project: str, found: Found, known: Anchors) -> None:
        """With what is lost left out, every chain is whole and fits all other copies: nothing else hides behind it."""
        losses = [Loss(found.after, found.newest + 1, one.node, one.kept) for one in found.lost]
        anchors = [head for n, head in known.numbered if not is_lost(losses, n, head)]
        async with self._database.still(project) as conn:
            verdict = await chain.verify(conn, project, anchors=anchors, retired=known.retired)
        if not verdict.whole:
            raise Conflict(
                "more is broken than a restore explains", where=project, details=verdict.broken[:20],
                hint="`mover audit verify` says what.",
            )  # fmt: skip


def _unknown(tier: ReadTier, project: str, own: Mapping[int, Any]) -> dict[int, bytes]:
    """Blocking: checkpoints of the tier that the catalog does not have, or not so. A tier that is away says nothing
    now, and gets its copies later."""
    found: dict[int, bytes] = {}
    try:
        for n in sorted(checkpoints.numbers_on(tier, project), reverse=True)[:BODIES_MAX]:
            body = tier.read(key_of(project, n), 0, None)[:BYTES_MAX]
            if n in own and own[n].digest == blake3(body).hexdigest():
                break
            found[n] = body
    except MoverError:
        return {}
    return found


def _check_row(
    project: str, after: int, own: Mapping[int, Any], bodies: Mapping[int, bytes], signers: list[str]
) -> None:
    """One row without a gap, each signed by a key of this site, the first following what the catalog has."""
    if sorted(bodies) != list(range(after + 1, after + 1 + len(bodies))):
        raise Conflict("checkpoints are missing between those that the tiers hold", where=project)
    for n, body in bodies.items():
        why = checkpoints.problems_of(body) or checkpoints.misplaced(bodies, n, project)
        if not why and not same_key(signer := checkpoints.decoded(body).signature.fingerprint, signers):
            why = [f"it is signed by {signer}, which is no key of this site"]
        if not why and n - 1 == after and checkpoints.decoded(body).checkpoint.previous != _digest(own, after):
            why = ["it does not follow the last one that the catalog has"]
        if why:
            raise Conflict(f"checkpoint {n}: {why[0]}", where=project, hint=_SIGNERS)
    if any(row.copied for n, row in own.items() if n > after):
        raise Conflict("a tier took a checkpoint that others do not have", where=project)


def _digest(own: Mapping[int, Any], n: int) -> str:
    return own[n].digest if n in own else ""


async def _lost(
    conn: Connection, project: str, bodies: Iterable[str | bytes], *, retired: Mapping[str, Head]
) -> tuple[Lost, ...]:
    """Of each chain: the last record that copies and catalog agree on, and the last that copies tell of. What two
    people let go is not lost."""
    heads = [head for body in bodies for head in checkpoints.heads_of(checkpoints.decoded(body).checkpoint)]
    rows = await _Q.many(
        conn, "records_at", project=project, nodes=[one.node for one in heads], seqs=[one.seq for one in heads]
    )
    have = {(row.node, row.seq): bytes(row.hash) for row in rows}
    lost = []
    for node in sorted({one.node for one in heads}):
        told = [one for one in heads if one.node == node]
        agreed = [one.seq for one in told if have.get((node, one.seq)) == one.hash]
        kept = max([*agreed, retired[node].seq if node in retired else 0])
        upto = max(one.seq for one in told)
        if upto > kept:
            lost.append(Lost(node, kept, upto))
    return tuple(lost)
