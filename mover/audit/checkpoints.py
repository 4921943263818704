"""Where the chains end, signed and written to other tiers: the head that no owner of the database can rewrite.

The database is asked for the heads, a key of this site signs them, and every tier of the `audit` policies gets the
same bytes under a name that is written once. What `verify` compares the chains with is read from those tiers, never
from the database. A thief with the database and the signing key but without a tier is found by that tier's copies;
who holds everything is found by a bucket with object lock, or by a fingerprint and a checkpoint on paper.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from blake3 import blake3
from msgspec import UNSET, Struct

from mover import signing
from mover.audit import chain
from mover.catalog import queries
from mover.catalog.database import Connection, Database
from mover.clock import SYSTEM, Clock
from mover.decide.audit import Head, Loss, is_lost
from mover.errors import EntryExists, EntryMissing, MoverError, TierUnavailable
from mover.log import get_logger
from mover.model import auditpack, wire
from mover.model.checkpoint import (
    BYTES_MAX,
    ChainEnd,
    Checkpoint,
    Lost,
    Restored,
    Retired,
    RetiredChain,
    SignedCheckpoint,
    folder_of,
    key_of,
    pack_key_of,
)
from mover.model.policy import AuditPolicy
from mover.signing import SigningKey
from mover.tiers.port import ReadTier, WriteTier

COPIES_MAX = 1000  # in one turn: a tier that was away for weeks catches up over several
LISTED_MAX = 1_000_000
READ_MAX = 100  # the newest of a tier: each proves everything before it
# of a pack, to its second line, compressed and not: that line names the chains, a few hundred bytes each
RANGE_BYTES, RANGE_TEXT_MAX = 1 << 20, 16 << 20

Said = Restored | Retired

_Q = queries.load(__file__)
logger = get_logger(__name__)


class Anchors(Struct, frozen=True):
    """Heads that were kept elsewhere, what the tiers hold, which losses two people know of, and which of the oldest
    records they let go."""

    numbered: list[tuple[int, Head]]  # by the checkpoint that says it
    copies: list[wire.CheckpointCopies]
    restored: list[wire.AuditRestore]
    retired: chain.RetiredRecords

    @property
    def heads(self) -> list[Head]:
        return [head for _, head in self.numbered]


class Read(Struct, frozen=True):
    """Of one tier: the heads that its copies tell of, which of them say what two people said, and what is to say of
    all of them."""

    heads: list[tuple[int, Head]]
    said: dict[int, Said]
    copies: wire.CheckpointCopies


class Checkpoints:
    """Of one daemon. `tiers` are those it can write, by name."""

    def __init__(
        self,
        database: Database,
        tiers: Mapping[str, WriteTier],
        policies: Sequence[AuditPolicy],
        *,
        key_file: Path,
        before: Sequence[str] = (),
        site: str,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database = database
        self._tiers = tiers
        self._policies = policies
        self._key_file, self._before = key_file, before
        self._site = site
        self._clock = clock

    async def keep(self, project: str) -> int:
        """What is due now: a new checkpoint where the chains have grown, and copies that are missing. The number of
        copies written."""
        if not self._policies:
            return 0
        await self._make(project)
        return sum([await self._copy(project, name) for policy in self._policies for name in policy.targets])

    async def _make(self, project: str) -> None:
        every_s = min(policy.every_s for policy in self._policies)
        async with self._database.project(project) as conn:
            await _Q.one(conn, "turn", project=project)
            newest = await _Q.one(conn, "newest", project=project)
            if newest is not None and newest.age_s < every_s:
                return
            ends = tuple(ChainEnd(one.node, one.seq, one.hash.hex()) for one in await chain.heads(conn, project))
            if not ends or (newest is not None and decoded(newest.body).checkpoint.heads == ends):
                return
            site, at = self.stamp()
            made = Checkpoint(
                site=site, project=project, n=newest.n + 1 if newest else 1, at=at, heads=ends,
                previous=newest.digest if newest else "",
            )  # fmt: skip
            body, fingerprint = await asyncio.to_thread(self.signed, made)
            await add(conn, project, made.n, body, fingerprint)

    async def _copy(self, project: str, name: str) -> int:
        tier = self._tiers.get(name)
        if tier is None:
            return 0
        async with self._database.project(project) as conn:
            missing = await _Q.many(conn, "missing", project=project, tier=name, limit=COPIES_MAX)
        written = 0
        for row in missing:
            key = key_of(project, row.n)
            try:
                await asyncio.to_thread(_put, tier, key, row.body.encode())
            except MoverError as error:
                logger.warning("checkpoint not copied", tier=name, code=error.code)
                break
            async with self._database.project(project) as conn:
                await conn.execute(_Q["copied"], {"project": project, "n": row.n, "tier": name})
            written += 1
        return written

    async def anchors(self, project: str) -> Anchors:
        """The heads that stand on other tiers, and what is to say of each tier's copies. What two people said is lost
        excuses the copies of a tier only where that tier says it, too; and of what they let go each tier must say so,
        and hold the pack."""
        async with self._database.project(project) as conn:
            wanted = int((await _Q.one(conn, "count", project=project)).n)
            accepted = await _Q.many(conn, "accepted", project=project)
            retired = await _Q.many(conn, "retired", project=project)
        said = {row.n: restored_of(row) for row in accepted} | {row.n: retired_of(row) for row in retired}
        read = [await asyncio.to_thread(_read, tier, project, wanted, said) for tier in self.tiers()]
        # every tier that can be read says so, and a checkpoint says one thing: whatever else claims to lets nothing go
        confirmed = [one.said for one in read if one.copies.unread is None]
        retired = [row for row in retired if all(one.get(row.n) == retired_of(row) for one in confirmed)]
        heads, told = [head for one in read for head in one.heads], [one.copies for one in read]
        # a pack may stand where no policy sends checkpoints any more
        beside = sorted({name for row in retired for name in row.tiers}.difference(one.tier for one in told))
        told += [wire.CheckpointCopies(tier=name) for name in beside]
        copies = [await self.judged(project, one, retired) for one in told]
        return Anchors(
            heads, copies, [restore_view(row) for row in accepted],
            chain.RetiredRecords(ends_of(project, retired), [retirement_view(row) for row in retired]),
        )  # fmt: skip

    async def judged(self, project: str, told: wire.CheckpointCopies, retired: Sequence[Any]) -> wire.CheckpointCopies:
        """What is said of a tier, and what is wrong with the packs of retired records that must stand there."""
        wanted = [row for row in retired if told.tier in row.tiers]
        if not wanted or told.unread:
            return told
        tier = self._tiers.get(told.tier)
        if tier is None:
            return wire.CheckpointCopies(tier=told.tier, unread=TierUnavailable.code)
        try:
            found = [what for row in wanted for what in await asyncio.to_thread(_pack_problems, tier, project, row)]
        except MoverError as error:
            return wire.CheckpointCopies(tier=told.tier, unread=error.code)
        return msgspec.structs.replace(told, problems=[*told.problems, *found])

    def tiers(self) -> list[WriteTier]:
        """Those of the policies that this daemon has."""
        names = dict.fromkeys(name for policy in self._policies for name in policy.targets)
        return [self._tiers[name] for name in names if name in self._tiers]

    def absent(self) -> list[str]:
        """Those of the policies that this daemon does not have."""
        return sorted({name for policy in self._policies for name in policy.targets}.difference(self._tiers))

    def tier(self, name: str) -> WriteTier | None:
        return self._tiers.get(name)

    def signed(self, made: Checkpoint) -> tuple[bytes, str]:
        """Blocking: the file as it goes to the tiers, and the fingerprint of this site's key."""
        return _signed(made, signing.load_key(self._key_file))

    def signers(self) -> list[str]:
        """Blocking: the fingerprints of this site's key and of those before it, as root's files have them. What the
        catalog says of keys is no word in this: whoever owns it could say any."""
        return [signing.public_fingerprint(signing.load_key(self._key_file)), *self._before]

    def stamp(self) -> tuple[str, str]:
        return self._site, self._clock.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def restored_of(row: Any) -> Restored:
    """As the checkpoint says it."""
    return Restored(
        id=row.id, reason=row.reason, asked_by=row.asked_by, approved_by=row.approved_by,
        after=row.facts["after"], lost=tuple(Lost(**one) for one in row.facts["lost"]),
    )  # fmt: skip


def retired_of(row: Any) -> Retired:
    """As the checkpoint says it."""
    return Retired(
        id=row.id, reason=row.reason, asked_by=row.asked_by, approved_by=row.approved_by,
        before=row.before.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), chains=chains_of(row), pack=row.digest,
        tiers=tuple(row.tiers), carried=tuple(row.carried),
    )  # fmt: skip


def chains_of(row: Any) -> tuple[RetiredChain, ...]:
    return tuple(RetiredChain(**one) for one in row.chains)


def range_of(row: Any) -> auditpack.Range:
    """As its pack says it."""
    return auditpack.Range(id=row.id, before=row.before, chains=chains_of(row))


def records_of(row: Any) -> int:
    return sum(one.upto - one.after for one in chains_of(row))


def ends_of(project: str, rows: Iterable[Any]) -> dict[str, Head]:
    """Of each chain the last record that two people let go."""
    ends: dict[str, Head] = {}
    for one in (one for row in rows for one in chains_of(row)):
        if one.node not in ends or ends[one.node].seq < one.upto:
            ends[one.node] = Head(project, one.node, one.upto, bytes.fromhex(one.hash))
    return ends


def retirement_view(row: Any) -> wire.AuditRetirement:
    return wire.AuditRetirement(
        id=row.id,
        state="retired" if row.approved_at and not row.left else "approved" if row.approved_at
        else "lapsed" if row.lapsed else "asked",
        before=row.before,
        chains=[wire.RetiredRecords(node=one.node, after=one.after, upto=one.upto) for one in chains_of(row)],
        records=records_of(row), left=row.left, pack=pack_key_of(row.project_id, row.id), digest=row.digest,
        bytes=row.bytes, tiers=row.tiers, checkpoint=row.n, reason=row.reason, asked_by=row.asked_by,
        asked_at=row.asked_at, approved_by=row.approved_by, approved_at=row.approved_at,
    )  # fmt: skip


def restore_view(row: Any) -> wire.AuditRestore:
    return wire.AuditRestore(
        id=row.id, state="accepted" if row.approved_at else "lapsed" if row.lapsed else "asked",
        after=row.facts["after"], checkpoint=row.n, lost=[wire.LostRecords(**one) for one in row.facts["lost"]],
        reason=row.reason, asked_by=row.asked_by, asked_at=row.asked_at, approved_by=row.approved_by,
        approved_at=row.approved_at,
    )  # fmt: skip


async def add(conn: Connection, project: str, n: int, body: bytes, fingerprint: str) -> None:
    values = {"project": project, "n": n, "digest": blake3(body).hexdigest(), "fingerprint": fingerprint}
    await conn.execute(_Q["add"], values | {"body": body.decode()})


async def checkpoint_page(conn: Connection, project: str, *, before: int | None, limit: int) -> wire.Checkpoints:
    rows = await _Q.many(conn, "page", project=project, before=before, limit=limit + 1)
    made = [
        wire.Checkpoint(
            n=row.n,
            at=row.at,
            digest=row.digest,
            fingerprint=row.fingerprint,
            tiers=row.tiers,
            records=sum(end.seq for end in decoded(row.body).checkpoint.heads),
        )  # fmt: skip
        for row in rows[:limit]
    ]
    return wire.Checkpoints(checkpoints=made, next=str(made[-1].n) if len(rows) > limit else None)


def _signed(checkpoint: Checkpoint, key: SigningKey) -> tuple[bytes, str]:
    signature = signing.sign(signing.canonical(checkpoint), key)
    return signing.canonical(SignedCheckpoint(checkpoint, signature)) + b"\n", signature.fingerprint


def decoded(body: str | bytes) -> SignedCheckpoint:
    return msgspec.json.decode(body, type=SignedCheckpoint)


def problems_of(body: bytes) -> list[str]:
    """Whether these bytes are a checkpoint that its own key signed; whose key it is, the fingerprint tells."""
    try:
        signed = decoded(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ["it is no checkpoint"]
    if signing.canonical(signed) + b"\n" != body:
        return ["it is not as a checkpoint is written"]
    return signing.problems_of(signed.signature, signing.canonical(signed.checkpoint))


# --- on the tiers (blocking) -------------------------------------------------------------------------------


def _put(tier: WriteTier, key: str, body: bytes) -> None:
    try:
        tier.put(key, [body], size_bytes=len(body))
    except EntryExists:
        if b"".join(tier.stream(key, cold=True)) != body:
            raise


def _read(tier: ReadTier, project: str, wanted: int, accepted: Mapping[int, Said]) -> Read:
    """The newest copies of a tier, read and judged, and those that tell of restores and retirements, however old.
    `wanted` is how many the database knows of: it may have been put back to an older state, then the tier has more."""
    try:
        numbers = sorted(numbers_on(tier, project))
        problems = [f"checkpoint {n} is not there" for n in _gaps(numbers, wanted)]
        chosen = sorted({*numbers[-READ_MAX:], *(n for n in numbers if n in accepted)})
        bodies = {n: tier.read(key_of(project, n), 0, None) for n in chosen}
    except MoverError as error:
        return Read([], {}, wire.CheckpointCopies(tier=tier.name, unread=error.code))
    sound: dict[int, Checkpoint] = {}
    for n, body in bodies.items():
        found = problems_of(body[:BYTES_MAX]) or misplaced(bodies, n, project)
        if not found:
            sound[n] = decoded(body).checkpoint
            found = _unsaid(sound[n], accepted)
        problems += [f"checkpoint {n}: {what}" for what in found]
    said = {n: told for n, one in sound.items() if (told := _said(one)) is not None and told == accepted.get(n)}
    losses = [loss for n, one in said.items() if isinstance(one, Restored) for loss in losses_of(n, one)]
    heads = [(n, head) for n, one in sound.items() for head in heads_of(one)]
    signers = sorted({decoded(body).signature.fingerprint for body in bodies.values() if not problems_of(body)})
    newest = numbers[-1] if numbers else 0
    copies = wire.CheckpointCopies(
        tier=tier.name, newest=newest, count=len(numbers), signers=signers, problems=problems[:READ_MAX]
    )
    return Read([(n, head) for n, head in heads if not is_lost(losses, n, head)], said, copies)


def losses_of(n: int, restored: Restored) -> list[Loss]:
    return [Loss(restored.after, n, one.node, one.kept) for one in restored.lost]


def heads_of(checkpoint: Checkpoint) -> list[Head]:
    return [Head(checkpoint.project, end.node, end.seq, bytes.fromhex(end.hash)) for end in checkpoint.heads]


def _said(one: Checkpoint) -> Said | None:
    told = one.retired if one.restored is UNSET else one.restored
    return None if told is UNSET else told


def _unsaid(one: Checkpoint, accepted: Mapping[int, Said]) -> list[str]:
    """A restore or a retirement that only the copy tells of, or only the catalog, or not so. What a later restore took
    away with all around it, that one tells."""
    told = _said(one)
    if one.n in accepted:
        what = "restore" if isinstance(accepted[one.n], Restored) else "retirement"
        return [] if told == accepted[one.n] else [f"it does not tell of the {what} that the catalog says it does"]
    covered = any(isinstance(later, Restored) and later.after < one.n < n for n, later in accepted.items())
    if told is not None and not covered:
        what = "restore" if isinstance(told, Restored) else "retirement"
        return [f"it tells of a {what} that no two people accepted"]
    return []


def _pack_problems(tier: ReadTier, project: str, row: Any) -> list[str]:
    """Of the pack in which the records of a retirement stand. What the digest pins says itself which those are: a row
    that names others, whoever wrote it, finds no pack."""
    hasher, first = blake3(), b""
    try:
        for piece in tier.stream(pack_key_of(project, row.id)):
            hasher.update(piece)
            first += piece[: RANGE_BYTES - len(first)]
    except EntryMissing:
        return [f"the pack of {row.id} is not there"]
    if hasher.hexdigest() != row.digest:
        return [f"the pack of {row.id} is not the one that two people agreed on"]
    if _range_in(first) != range_of(row):
        return [f"the pack of {row.id} does not hold the records that its row names"]
    return []


def _range_in(first: bytes) -> auditpack.Range | None:
    """Which records a pack that begins like this says it holds; None where it says nothing of the kind."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(first)) as reader:
            lines = reader.read(RANGE_TEXT_MAX).split(b"\n", 2)
        return msgspec.json.decode(lines[1], type=auditpack.Range) if len(lines) == 3 else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, zstandard.ZstdError):
        return None


def misplaced(bodies: Mapping[int, bytes], n: int, project: str) -> list[str]:
    """A genuine checkpoint under another one's name, or after one that it does not follow."""
    checkpoint = decoded(bodies[n]).checkpoint
    if (checkpoint.n, checkpoint.project) != (n, project):
        return ["it is another one's"]
    if n - 1 in bodies and checkpoint.previous != blake3(bodies[n - 1]).hexdigest():
        return ["it does not follow the one before it"]
    return []


def numbers_on(tier: ReadTier, project: str) -> Iterator[int]:
    try:
        for at, entry in enumerate(tier.list(folder_of(project))):
            name = entry.key.rpartition("/")[2]
            if at < LISTED_MAX and name.endswith(".json") and name[:-5].isdecimal():
                yield int(name[:-5])
    except EntryMissing:
        return


def _gaps(numbers: Sequence[int], wanted: int) -> list[int]:
    have, newest = set(numbers), max(numbers[-1] if numbers else 0, wanted)
    return [n for n in range(1, newest + 1) if n not in have][:READ_MAX]
