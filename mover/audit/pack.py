"""`mover audit pack`: manifest, proofs, certificates, policies, records and checkpoints of one run in one signed file.

Written line by line as it is read: a pack of 100,000 slides is some hundred megabytes that never stand in memory. The
chains come whole, from their first record that stands, since a chain proves nothing in pieces. What two people let go
before it stands in packs of its own, made by the same writer (`make_range`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from blake3 import blake3

from mover import __version__, signing
from mover.audit import chain
from mover.catalog import queries
from mover.catalog.database import Connection, Database
from mover.clock import SYSTEM, Clock
from mover.errors import Conflict, NotFound
from mover.model import auditpack as lines
from mover.model.manifest import parse_manifest
from mover.signing import SigningKey

SLICE = 5000
PIECE_BYTES = 1 << 20
LEVEL = 3

_Q = queries.load(__file__)


async def make_pack(
    database: Database, project: str, run: str, *, by: str, node: str, site: str, key_file: Path, request: str = "",
    clock: Clock = SYSTEM,
) -> AsyncIterator[bytes]:  # fmt: skip
    """The file, piece by piece. That it was made is itself a record of its chains, and among them. NotFound for no run
    of the project, Conflict for one that was never sealed."""
    key = await asyncio.to_thread(signing.load_key, key_file)
    async with database.project(project) as conn:
        await _check_sealed(conn, run)
        await chain.record(
            conn, project=project, node=node, actor=by, action="audit pack made", subject=run, request=request
        )
    look = _Look(database, project)
    [row] = await look.many("run", run=run)
    head = _head(project, run, by=by, site=site, clock=clock)
    async for piece in _written(_groups(look, row, head), key):
        yield piece


async def make_range(
    database: Database, project: str, range_: lines.Range, *, by: str, site: str, key_file: Path, clock: Clock = SYSTEM
) -> AsyncIterator[bytes]:
    """The records of a retirement as a pack, piece by piece, with every checkpoint that stands now."""
    key = await asyncio.to_thread(signing.load_key, key_file)
    head = _head(project, "", by=by, site=site, clock=clock)
    async for piece in _written(_range_groups(_Look(database, project), range_, head), key):
        yield piece


class _Look:
    """Each question is a transaction of its own: whoever takes the pack slowly holds none. What it is made of is never
    changed, only added to, and asked for in the order in which one names the other."""

    def __init__(self, database: Database, project: str) -> None:
        self.database, self.project = database, project

    async def many(self, name: str, **values: Any) -> list[Any]:
        async with self.database.project(self.project) as conn:
            return await _Q.many(conn, name, **values)


async def _check_sealed(conn: Connection, run: str) -> None:
    row = await _Q.one(conn, "state", run=run)
    if row is None:
        raise NotFound(f"there is no run {run}")
    if not row.sealed:
        raise Conflict(
            f"the run was never sealed (it is {row.state}), so there is nothing to prove of it", where=run,
            hint="`mover run show` says why.",
        )  # fmt: skip


def _head(project: str, run: str, *, by: str, site: str, clock: Clock) -> lines.Head:
    made_at = clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return lines.Head(site=site, project=project, run=run, made_at=made_at, made_by=by, tool=f"mover {__version__}")


async def _written(groups: AsyncIterator[list[lines.AnyLine]], key: SigningKey) -> AsyncIterator[bytes]:
    sheaf = _Sheaf(key)
    async for group in groups:
        piece = await asyncio.to_thread(sheaf.add, group)
        if piece:
            yield piece
    yield await asyncio.to_thread(sheaf.end)


class _Sheaf:
    """Encodes, hashes and compresses; in a worker thread."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._hash = blake3()
        self._count = 0
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compressobj()

    def add(self, group: Iterable[lines.AnyLine]) -> bytes:
        encoded = [msgspec.json.encode(line) + b"\n" for line in group]
        self._count += len(encoded)
        text = b"".join(encoded)
        self._hash.update(text)
        return self._compressor.compress(text)

    def end(self) -> bytes:
        digest = self._hash.hexdigest()
        signature = signing.sign(lines.signed_bytes(self._count, digest), self._key)
        line = lines.End(lines=self._count, blake3=digest, signature=signature)
        return self._compressor.compress(msgspec.json.encode(line) + b"\n") + self._compressor.flush()


async def _groups(look: _Look, row: Any, head: lines.Head) -> AsyncIterator[list[lines.AnyLine]]:
    yield [head, _run(row)]
    texts, numbers = await asyncio.to_thread(_manifest, row.manifest)
    for at in range(0, len(texts), SLICE):
        yield [lines.ManifestLine(text=text) for text in texts[at : at + SLICE]]
    policies, batches = {row.policy}, set()
    for at in range(0, len(numbers), SLICE):
        some = numbers[at : at + SLICE]
        slides = [_slide(one) for one in await look.many("slides", numbers=some)]
        yield [*slides]
        yield await _proofs(look, "proofs", ids=[id for one in slides for ids in one.proofs.values() for id in ids])
        for found in await look.many("batches", numbers=some):
            batches.add(found.batch_id)
            policies.add(found.policy)
    for batch in sorted(batches):
        yield [
            lines.Certificate(batch=one.batch_id, digest=one.digest, body=one.body)
            for one in await look.many("certificates", batch=batch)
        ]
    yield [
        lines.Policy(name=one.name, digest=one.digest, loaded_at=one.loaded_at, text=one.text)
        for one in await look.many("policies", names=sorted(policies))
    ]
    snapshots = [_snapshot(one) for one in await look.many("snapshots", run=row.id)]
    yield [*snapshots]
    yield await _proofs(look, "proofs_of", subjects=[row.id, *(one.id for one in snapshots), *sorted(batches)])
    async for group in _chains(look):
        yield group


async def _range_groups(look: _Look, range_: lines.Range, head: lines.Head) -> AsyncIterator[list[lines.AnyLine]]:
    yield [head, range_]
    upto = (await look.many("last_checkpoint", project=look.project))[0].n
    async for bodies in _checkpoints(look, upto):
        yield bodies
    ends = {one.node: one.upto for one in range_.chains}
    async for records in _records(look, ends, only=list(ends)):
        yield records


async def _chains(look: _Look) -> AsyncIterator[list[lines.AnyLine]]:
    """The checkpoints before the records, both as they stood at one time: none may say more than the records that
    follow, and none of those tell of a checkpoint that is not there."""
    async with look.database.still(look.project) as conn:
        ends = {one.node: one.seq for one in await chain.heads(conn, look.project)}
        upto = (await _Q.one(conn, "last_checkpoint", project=look.project)).n
    async for bodies in _checkpoints(look, upto):
        yield bodies
    async for records in _records(look, ends):
        yield records


async def _checkpoints(look: _Look, upto: int) -> AsyncIterator[list[lines.AnyLine]]:
    after = 0
    while bodies := await look.many("checkpoints", project=look.project, after=after, upto=upto, limit=SLICE):
        yield [lines.Checkpoint(body=one.body) for one in bodies]
        after += len(bodies)


async def _records(
    look: _Look, ends: dict[str, int], *, only: list[str] | None = None
) -> AsyncIterator[list[lines.AnyLine]]:
    async for slice_ in chain.slices(look.database, look.project, ends=ends, only=only):
        yield [
            lines.Record(
                node=one.node, seq=one.seq, at=one.at, body=one.body, prev=one.prev.hex(), hash=one.hash.hex()
            )
            for one in slice_
        ]  # fmt: skip


async def _proofs(look: _Look, name: str, **wanted: list[str]) -> list[lines.AnyLine]:
    return [
        lines.Proof(
            id=one.id, of=one.kind, subject=one.subject_id, count=one.count, bytes=one.bytes, root=one.root,
            verifier=one.verifier, at=one.at, details=one.details,
        )
        for one in await look.many(name, **wanted)
    ]  # fmt: skip


def _manifest(text: str) -> tuple[list[str], list[str]]:
    """Its lines, and the numbers of the slides it names."""
    entries = parse_manifest(text.encode()).entries
    return text.splitlines(), sorted({one.slide for one in entries if one.slide is not None})


def _run(row: Any) -> lines.Run:
    return lines.Run(
        id=row.id, state=row.state, policy=row.policy, tier=row.tier, requested_by=row.requested_by,
        posix_uid=row.posix_uid, selection=row.selection_id, expression=row.expression,
        manifest_root=row.manifest_root, created_at=row.created_at, ready_at=row.ready_at,
        finished_at=row.finished_at, cleaned_at=row.cleaned_at,
        proofs={"ready": row.ready_proof, "protected": row.protected_proof, "cleaned": row.cleaned_proof},
    )  # fmt: skip


def _slide(row: Any) -> lines.Slide:
    proofs = {
        kind: tuple(ids)
        for kind in ("verified", "deidentified", "adopted")
        if (ids := getattr(row, kind))
    }  # fmt: skip
    return lines.Slide(number=row.number, digests=tuple(row.digests), proofs=proofs, granted=not proofs)


def _snapshot(row: Any) -> lines.Snapshot:
    return lines.Snapshot(
        id=row.id, repository=row.repository_id, tier=row.tier, policy=row.policy, state=row.state, files=row.files,
        bytes=row.bytes, recorded_at=row.recorded_at,
    )  # fmt: skip
