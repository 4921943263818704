"""Step 1, the work: walk a declared folder, then make each pack a de-identified slide in the archive.

Order for one pack, and what a crash between leaves (D14, D19):
  1. the source is digested; the vault commits its number      -> a number nobody uses yet; found again by digest
  2. a confined child plans the recipe, another verifies it    -> nothing
  3. the engine writes `slides/<number>/<attempt>/…` and reads it back cold -> an object no sidecar vouches for
  4. the sidecar is put conditionally: now the object exists   -> found by the next attempt, which adopts it
  5. slide, grant, proofs, pack and audit record in one transaction
Objects of attempts that no sidecar names are removed by the attempt that finds them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct
from psycopg.types.json import Jsonb

from mover import __version__, audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.clock import SYSTEM, Clock, monotonic_s
from mover.decide.packs import FoundPack, split_suffix
from mover.deid.deidentify import Prepared, SlideVerifier, prepare_slide
from mover.deid.outcome import SlidePlan
from mover.deid.vault import Vault
from mover.errors import (
    CatalogError,
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    EntryMissing,
    FormatUnsupported,
    JobError,
    MoverError,
    TierError,
    TierFull,
    TierUnavailable,
    ZoneCrossing,
)
from mover.ingest.batches import SQL, Batches
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread, siblings_open
from mover.jobs.shards import cancel_shards, renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.names import decode_names, encode_names, name_bytes, name_text
from mover.model.policy import ImagesPolicy
from mover.model.sidecar import Sidecar, Thumbnail, decode_sidecar, encode_sidecar, sidecar_key, slide_folder
from mover.model.tiers import Digest, Fingerprint
from mover.policy import PolicyBook
from mover.randomness import new_id, random_bytes
from mover.sandbox import Sandbox
from mover.tiers.guard import guarded
from mover.tiers.port import PruneTier, ReadTier
from mover.tiers.staging import FileEntry
from mover.transfer import Transfer, clear

MARKER_MAX_BYTES = 16 << 20

log = get_logger("ingest")


class Published(Struct, frozen=True):
    """A slide that stands in the archive behind its sidecar, read back cold."""

    sidecar: Sidecar
    prepared: Prepared


class _Attempt(Struct, frozen=True):
    """One try at one pack. `key` is an original name: it stays in memory."""

    number: str
    key: str
    suffix: str
    seen: Fingerprint
    name: str


class _Ending(Struct, frozen=True):
    """How a batch ended, for the record."""

    action: str
    reason: str = ""


class Packs:
    """Handlers of `batch-walk` and `pack-deidentify` shards, on the node that may read identified tiers."""

    def __init__(
        self,
        batches: Batches,
        database: Database,
        vault: Vault,
        tiers: Mapping[str, ReadTier],
        policies: PolicyBook,
        transfer: Transfer,
        sandbox: Sandbox,
        *,
        site: str,
        node: str,
        clock: Clock = SYSTEM,
    ) -> None:
        self._batches = batches
        self._database = database
        self._vault = vault
        self._tiers = tiers
        self._policies = policies
        self._transfer = transfer
        self._sandbox = sandbox
        self._site = site
        self._node = node
        self._clock = clock

    # --- batch-walk -----------------------------------------------------------------------------------------

    async def walk(self, shard: Shard) -> None:
        """Find the packs, seal their names, and cut the work into shards."""
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            batch = await SQL.one(conn, "walking", id=shard.subject_id)
            if batch is None:
                # the walk of a round that has ended
                await finish_shard(conn, shard)
                return
        policy = self._policies.get(batch.policy, ImagesPolicy)
        folder, expected = await self._open_names(shard, batch)
        body = wire.BatchRequest(
            folder=folder, expected=expected, expected_count=None if expected else batch.expected_count
        )
        tally = await in_thread(self._batches.tally, policy, folder, body)
        rows = await self._seal_packs(shard.project, batch.id, tally.packs)
        async with self._database.project(shard.project) as conn:
            await SQL.one(conn, "lock", id=batch.id)
            async with conn.cursor() as cursor:
                await cursor.executemany(SQL["insert_pack"], rows)
            await conn.execute(
                SQL["walked"], {"id": batch.id, "found": len(tally.packs), "missing": tally.missing + tally.undeclared}
            )
            shards = await self._cut(conn, policy, batch.id)
            await add_shards(conn, shard.project, shards)
            await finish_shard(conn, shard)
            ending = None if shards else await self._close(conn, shard.project, batch.id)
            await self._record(conn, shard.project, "batch walked", batch.id, packs=len(rows), missing=tally.missing)
            if ending is not None:
                await self._record(conn, shard.project, ending.action, batch.id, reason=ending.reason)
        log.info("batch walked", batch=batch.id, count=len(rows))

    async def _open_names(self, shard: Shard, batch: Any) -> tuple[str, list[str] | None]:
        ids = [batch.folder] + ([batch.expected_list] if batch.expected_list else [])
        sealed = await self._vault.unseal(shard.project, ids, purpose="walk a declared batch", actor="daemon")
        folder = name_text(sealed[batch.folder])
        if batch.expected_list is None:
            return folder, None
        return folder, decode_names(sealed[batch.expected_list])

    async def _seal_packs(self, project: str, batch: str, packs: tuple[FoundPack, ...]) -> list[dict[str, object]]:
        """Names into the vault first, so that the catalog only ever refers to what is there."""
        barcodes = [(f"{batch}\0{p.barcode}", name_bytes(p.barcode)) for p in packs]
        entries = [
            (f"{batch}\0{p.barcode}\0" + "\0".join(p.keys), encode_names(p.keys))
            for p in packs
        ]
        barcode_ids = await self._vault.seal_many(project, "barcode", barcodes)
        entry_ids = await self._vault.seal_many(project, "entry", entries)
        return [
            {
                "id": new_id("pack"),
                "project": project,
                "batch": batch,
                "barcode": barcode_id,
                "entry": entry_id,
                "state": "quarantined" if pack.reason else "found",
                "reason": pack.reason,
                "explanation": pack.explanation,
                "size_bytes": pack.size_bytes,
            }
            for pack, barcode_id, entry_id in zip(packs, barcode_ids, entry_ids, strict=True)
        ]

    async def _cut(self, conn: Connection, policy: ImagesPolicy, batch: str) -> list[NewShard]:
        """Shards of packs, the largest first, so that the last shard is not the longest."""
        packs = [row.id for row in await SQL.many(conn, "found_packs", batch=batch)]
        size = policy.packs_per_shard
        queue = tier_queue(policy.source)
        return [
            NewShard(queue, "pack-deidentify", batch, tuple(packs[at : at + size])) for at in range(0, len(packs), size)
        ]

    # --- pack-deidentify ------------------------------------------------------------------------------------

    async def deidentify(self, shard: Shard) -> None:
        async with self._database.project(shard.project) as conn:
            batch = await SQL.one(conn, "get", id=shard.subject_id)
            packs = await SQL.many(conn, "members", ids=list(shard.members))
        policy = self._policies.get(batch.policy, ImagesPolicy)
        names = await self._vault.unseal(
            shard.project, [p.entry for p in packs], purpose="de-identify declared packs", actor="daemon"
        )
        for pack in packs:
            await self._pack(shard, policy, pack.id, decode_names(names[pack.entry]))
        async with self._database.project(shard.project) as conn:
            batch = await SQL.one(conn, "lock", id=batch.id)
            await finish_shard(conn, shard)
            # a shard that outlived its round (the batch failed, and was perhaps declared again) closes nothing
            if batch.state == "working" and await siblings_open(conn, shard) == 0:
                ending = await self._close(conn, shard.project, batch.id)
                await self._record(conn, shard.project, ending.action, batch.id, reason=ending.reason)

    async def _pack(self, shard: Shard, policy: ImagesPolicy, pack: str, keys: list[str]) -> None:
        """One pack to its final state. What is wrong with the pack is a value; what is wrong with a whole tier,
        the catalog or our lease is raised, and the shard is tried again later."""
        began_s = monotonic_s()
        try:
            await self._publish(shard, policy, pack, keys, began_s)
        except (TierUnavailable, TierFull, ZoneCrossing, JobError, CatalogError):
            raise
        except MoverError as error:
            if error.retry == "later" and shard.failures < 2:
                raise
            await self._quarantine(shard, pack, error, began_s)

    async def _publish(self, shard: Shard, policy: ImagesPolicy, pack: str, keys: list[str], began_s: float) -> None:
        source, archive = self._tiers[policy.source], self._tiers[policy.archive]
        assert isinstance(archive, PruneTier)
        suffix = "." + keys[0].rpartition(".")[2].lower()
        if suffix == ".mrxs":
            raise FormatUnsupported("3DHISTECH MIRAX is recognised; its writer does not exist yet", where=pack)
        seen, digest = await in_thread(guarded, lambda _: self._digest(source, keys[0]), source)
        number, _ = await self._vault.mint_number(digest.blake3, body=encode_names(keys))
        async with self._database.project(shard.project) as conn:
            stands = (await SQL.one(conn, "slide_exists", number=number)).stands
        if stands:
            await self._duplicate(shard, pack, number, began_s)
            return
        attempt = _Attempt(number, keys[0], suffix, seen, f"{shard.epoch}-{random_bytes(4).hex()}")
        published = await in_thread(
            guarded, lambda _: self._archive(source, archive, policy, attempt), source, archive
        )
        await self._record_slide(shard, policy, pack, published, began_s)

    def _digest(self, source: ReadTier, key: str) -> tuple[Fingerprint, Digest]:
        with source.open(key) as opened:
            metrics.BYTES_READ.labels(source.name).inc(opened.size_bytes)
            return opened.fingerprint(), self._transfer.digest(opened, tier=source.name)

    def _archive(self, source: ReadTier, archive: PruneTier, policy: ImagesPolicy, attempt: _Attempt) -> Published:
        """Steps 2 to 4, blocking: plan, verify, write, read back cold, vouch."""
        with source.open(attempt.key) as opened:
            if not isinstance(opened, FileEntry):
                raise TierUnavailable("slides are parsed through a descriptor, which this tier has none of",
                                      where=source.name, hint="Declare batches on a posix tier.")  # fmt: skip
            if opened.fingerprint() != attempt.seen:
                raise ChangedWhileReading("the slide image changed after it was digested", where=attempt.number)
            prepared = prepare_slide(
                self._sandbox,
                opened.fileno(),
                suffix=attempt.suffix,
                known=(split_suffix(attempt.key.rpartition("/")[2])[0],),
                thumbnail_px=policy.thumbnail_edge_px,
            )
            if prepared.plan.family not in policy.accept:
                raise FormatUnsupported(f"policy {policy.name} does not accept {prepared.plan.family}")
            sidecar = self._vouched(archive, attempt.number)
            if sidecar is None:
                try:
                    sidecar = self._write(archive, source, opened, attempt, prepared)
                except EntryMissing:
                    # another attempt at the same scan was vouched for meanwhile, and swept ours away
                    sidecar = self._vouched(archive, attempt.number)
                    if sidecar is None:
                        raise
                    self._adopt(archive, opened, sidecar, prepared, tier=source.name)
            else:
                self._adopt(archive, opened, sidecar, prepared, tier=source.name)
        self._remove_unvouched(archive, sidecar)
        return Published(sidecar, prepared)

    def _write(
        self, archive: PruneTier, source: ReadTier, opened: FileEntry, attempt: _Attempt, prepared: Prepared
    ) -> Sidecar:
        number, plan, picture = attempt.number, prepared.plan, prepared.thumbnail
        folder = f"{slide_folder(number)}/{attempt.name}"
        slide_key, thumbnail_key = f"{folder}/{number}.{plan.extension}", f"{folder}/{number}.jpg"
        clearance = clear(SlideVerifier(plan, proved=True, seen=attempt.seen), opened, plan.recipe)
        moved = self._transfer.run_recipe(
            plan.recipe,
            source=opened,
            source_tier=source,
            target=archive,
            key=slide_key,
            clearance=clearance,
            seen=attempt.seen,
            segments=True,
        )
        with suppress(EntryExists):  # ours, when the answer to an earlier request was lost; the bytes decide
            archive.put(thumbnail_key, [picture], size_bytes=len(picture))
        if b"".join(archive.stream(thumbnail_key, cold=True)) != picture:
            raise DigestMismatch("a thumbnail reads back differently", where=number)
        sidecar = Sidecar(
            number=number,
            site=self._site,
            family=plan.family,
            extension=plan.extension,
            key=slide_key,
            size_bytes=moved.digest.size_bytes,
            blake3=moved.digest.blake3,
            segments=moved.digest.segments,
            thumbnail=Thumbnail(thumbnail_key, len(picture), blake3(picture).hexdigest()),
            facts=slide_facts(plan),
            evidence=msgspec.to_builtins(prepared.evidence),
            created_at=self._clock.now().isoformat(),
            software=f"mover {__version__}",
        )
        try:
            archive.put(sidecar_key(number), [encode_sidecar(sidecar)])
        except EntryExists:
            # another attempt was faster: its object is the slide, ours is removed by the caller
            vouched = self._vouched(archive, number)
            assert vouched is not None
            return vouched
        return sidecar

    def _vouched(self, archive: ReadTier, number: str) -> Sidecar | None:
        try:
            return decode_sidecar(archive.read(sidecar_key(number)))
        except EntryMissing:
            return None

    def _adopt(
        self, archive: ReadTier, opened: FileEntry, sidecar: Sidecar, prepared: Prepared, *, tier: str
    ) -> None:
        """An earlier attempt was cut off after its sidecar: believe its bytes only after reading them."""
        expected = self._transfer.digest_recipe(prepared.plan.recipe, opened, tier=tier)
        found = self._transfer.digest_stream(archive.stream(sidecar.key, cold=True))
        if not expected.blake3 == found.blake3 == sidecar.blake3:
            raise DigestMismatch("the archive holds other bytes under this number", where=sidecar.number)

    def _remove_unvouched(self, archive: PruneTier, sidecar: Sidecar) -> None:
        """Attempts that were cut off leave objects no sidecar names; only our own number's folder is looked at.

        The slide stands whatever becomes of them: two attempts may sweep at once, and an archive may refuse."""
        vouched = {sidecar.key, sidecar.thumbnail.key, sidecar_key(sidecar.number)}
        try:
            for entry in list(archive.list(slide_folder(sidecar.number))):
                if entry.key not in vouched:
                    with suppress(EntryMissing):
                        archive.remove(entry.key)
        except TierError as error:
            log.warning("attempts not swept", number=sidecar.number, code=error.code)

    # --- outcomes -------------------------------------------------------------------------------------------

    async def _record_slide(
        self, shard: Shard, policy: ImagesPolicy, pack: str, published: Published, began_s: float
    ) -> None:
        sidecar, plan, evidence = published.sidecar, published.prepared.plan, published.prepared.evidence
        async with self._database.project(shard.project) as conn:
            if not await self._undecided(conn, shard, pack):
                return
            await conn.execute(SQL["grant_slide"], {"project": shard.project, "number": sidecar.number})
            made = await SQL.one(conn, "insert_slide", **_slide_row(sidecar, policy.archive))
            if made is None:
                # the same scan under another name was published while we worked
                await self._write_duplicate(conn, shard, pack, sidecar.number, began_s)
                return
            verified = await proofs.add(
                conn,
                project=shard.project,
                kind="verified",
                subject=pack,
                count=1,
                bytes=sidecar.size_bytes,
                root=sidecar.blake3,
                verifier=f"mover.transfer {__version__}",
                details={"method": "cold re-read of the archive", "number": sidecar.number},
            )
            deidentified = await proofs.add(
                conn,
                project=shard.project,
                kind="deidentified",
                subject=pack,
                count=plan.tile_count,
                bytes=plan.recipe.copied_bytes,
                root=sidecar.blake3,
                verifier=evidence.verifier,
                details=msgspec.to_builtins(evidence),
            )
            await conn.execute(
                SQL["publish"],
                {
                    "id": pack,
                    "number": sidecar.number,
                    "family": sidecar.family,
                    "decisions": Jsonb(msgspec.to_builtins(plan.decisions)),
                    "seconds": round(monotonic_s() - began_s, 3),
                    "verified": verified,
                    "deidentified": deidentified,
                },
            )
            await self._record(conn, shard.project, "pack published", pack, number=sidecar.number)
        metrics.PACKS.labels("published").inc()
        log.info("pack published", pack=pack, number=sidecar.number, bytes=sidecar.size_bytes)

    async def _undecided(self, conn: Connection, shard: Shard, pack: str) -> bool:
        """First in every outcome's transaction: the shard is still ours, and the pack waits for an outcome."""
        await renew_shard(conn, shard, lease_s=LEASE_S)
        return await SQL.one(conn, "lock_undecided", id=pack) is not None

    async def _duplicate(self, shard: Shard, pack: str, number: str, began_s: float) -> None:
        async with self._database.project(shard.project) as conn:
            if await self._undecided(conn, shard, pack):
                await self._write_duplicate(conn, shard, pack, number, began_s)

    async def _write_duplicate(
        self, conn: Connection, shard: Shard, pack: str, number: str, began_s: float
    ) -> None:
        seconds = round(monotonic_s() - began_s, 3)
        await conn.execute(SQL["grant_slide"], {"project": shard.project, "number": number})
        await conn.execute(SQL["duplicate"], {"id": pack, "number": number, "family": None, "seconds": seconds})
        await self._record(conn, shard.project, "pack duplicate", pack, number=number)
        metrics.PACKS.labels("duplicate").inc()

    async def _quarantine(self, shard: Shard, pack: str, error: MoverError, began_s: float) -> None:
        """The pack stays where it is, in the identified zone, with a reason a person can act on."""
        async with self._database.project(shard.project) as conn:
            if not await self._undecided(conn, shard, pack):
                return
            await conn.execute(
                SQL["quarantine"],
                {
                    "id": pack,
                    "reason": error.code,
                    "explanation": error.what,
                    "family": None,
                    "seconds": round(monotonic_s() - began_s, 3),
                },
            )
            await self._record(conn, shard.project, "pack quarantined", pack, reason=error.code)
        metrics.PACKS.labels("quarantined").inc()
        metrics.PACKS_QUARANTINED.labels(error.code).inc()
        log.warning("pack quarantined", pack=pack, code=error.code)

    async def _close(self, conn: Connection, project: str, batch: str) -> _Ending:
        """Every pack has a final state. The caller holds the batch's row, so this happens once, and puts the
        ending on record as the transaction's last statement (D21).

        A batch that is not what was declared does not complete: four slides must not be missing silently.
        """
        row = await SQL.one(conn, "get", id=batch)
        if row.missing_count:
            explanation = f"declared {row.expected_count}, found {row.found_count}: {row.missing_count} differ"
            await conn.execute(SQL["fail"], {"id": batch, "explanation": explanation})
            return _Ending("batch failed", "batch-incomplete")
        packs = await SQL.many(conn, "all_packs", batch=batch)
        lines = "".join(f"{p.id} {p.state} {p.reason or ''} {p.number or ''}\n" for p in packs)
        proof = await proofs.add(
            conn,
            project=project,
            kind="complete",
            subject=batch,
            count=len(packs),
            bytes=sum(p.size_bytes for p in packs),
            root=blake3(lines.encode()).hexdigest(),
            verifier=f"mover.ingest {__version__}",
            details={},
        )
        await conn.execute(SQL["complete"], {"id": batch, "proof": proof})
        waiting = await SQL.many(conn, "waiting_records", batch=batch)
        queue = tier_queue(row.tier)
        await add_shards(conn, project, [NewShard(queue, "records-match", r.id, priority=6) for r in waiting])
        return _Ending("batch complete")

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """A batch that cannot be walked or worked on says so; declaring it again tries again. What was not begun
        of it is called off, so that two rounds of one batch never mix."""
        await SQL.one(conn, "lock", id=shard.subject_id)
        await cancel_shards(conn, shard.subject_id)
        await conn.execute(SQL["fail"], {"id": shard.subject_id, "explanation": f"{error.code}: {error.what}"})
        await self._record(conn, shard.project, "batch failed", shard.subject_id, reason=error.code)

    async def _record(
        self, conn: Connection, project: str, action: str, subject: str, *, reason: str = "", **details: object
    ) -> None:
        await audit.record(
            conn,
            project=project,
            node=self._node,
            actor="daemon",
            action=action,
            subject=subject,
            reason=reason,
            details=dict(details),
        )


def slide_facts(plan: SlidePlan) -> dict[str, Any]:
    """What cohorts may ask about a slide, flat: `levels` is their number, their sizes stand beside it."""
    facts: dict[str, Any] = msgspec.to_builtins(plan.facts)
    return {**facts, "levels": len(plan.facts.levels), "level_sizes": facts["levels"]}


def _slide_row(sidecar: Sidecar, tier: str) -> dict[str, object]:
    return {
        "number": sidecar.number,
        "site": sidecar.site,
        "family": sidecar.family,
        "extension": sidecar.extension,
        "size_bytes": sidecar.size_bytes,
        "digest": sidecar.blake3,
        "segments": list(sidecar.segments),
        "tier": tier,
        "key": sidecar.key,
        "thumbnail_key": sidecar.thumbnail.key,
        "thumbnail_bytes": sidecar.thumbnail.size_bytes,
        "thumbnail_digest": sidecar.thumbnail.blake3,
        "facts": Jsonb(sidecar.facts),
    }


def markers(policy: ImagesPolicy, tier: ReadTier) -> Iterator[tuple[str, list[str]]]:
    """Folders of a source tier that hold the policy's marker file, with the names its lines expect: each
    declares itself ready. An empty marker expects whatever is there."""
    if policy.marker is None:
        return
    for entry in tier.list(""):
        folder, _, name = entry.key.rpartition("/")
        if folder and name == policy.marker and entry.fingerprint.size_bytes <= MARKER_MAX_BYTES:
            lines = tier.read(entry.key).decode("utf-8", "surrogateescape").splitlines()
            yield folder, [line.strip() for line in lines if line.strip()]
