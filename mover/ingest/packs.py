"""Step 1, the work: walk a declared folder, then make each pack a de-identified slide in the archive.

Order for one pack, and what a crash between leaves (D14, D19):
  1. the source is digested; the vault commits its number      -> a number nobody uses yet; found again by digest
     (of DICOM objects: and what stands for their people and UIDs)  -> likewise
  2. a confined child plans the recipes, another look proves them   -> nothing
  3. the engine writes `slides/<number>/<attempt>/...` and reads it back cold -> objects no sidecar vouches for
  4. the sidecar is put conditionally: now all of them exist   -> found by the next attempt, which adopts them
  5. slide, files, grant, proofs, pack and audit record in one transaction
Objects of attempts that no sidecar names are removed by the attempt that finds them.

Read `making` and `objects` for 2, `publish` for 3 and 4, `outcomes` for 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mover import __version__
from mover.catalog.database import Connection, Database
from mover.catalog.releases import release
from mover.clock import SYSTEM, Clock, monotonic_s
from mover.decide.packs import FoundPack, Members, Waivers, members_of, scan_digest
from mover.decide.quarantine import cause_of, kind_of
from mover.deid.vault import UNSEAL_LIMIT, Vault
from mover.errors import (
    CatalogError,
    DumpOverdue,
    EntryMissing,
    IdentifierFoundLater,
    JobError,
    MoverError,
    TierFull,
    TierUnavailable,
    ZoneCrossing,
)
from mover.ingest.batches import SQL, Batches, bare_suffixes, standing_rules
from mover.ingest.making import Maker, SlideMaker, Source, digest_sources
from mover.ingest.objects import ObjectMaker, survey_folder
from mover.ingest.outcomes import Case, Outcomes
from mover.ingest.publish import Attempt, Publisher, applied, check_rules
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread, siblings_open
from mover.jobs.shards import cancel_shards, postpone_shard, renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.names import decode_names, encode_names, name_bytes, name_text
from mover.model.policy import DeidPolicy, DumpPolicy, ImagesPolicy
from mover.policy import PolicyBook
from mover.randomness import new_id, random_bytes
from mover.sandbox import Sandbox
from mover.tiers.guard import guarded
from mover.tiers.port import ReadTier, prunable
from mover.transfer import Transfer

MARKER_MAX_BYTES = 16 << 20
# how soon a pack that waits for a dump looks again
DUMP_LATER_S = 60.0

# a pack that was released or reopened, and is there no more
_GONE = cause_of(EntryMissing.code, "the pack is no longer in the batch's folder", "")
UNSEEN = {"reason": _GONE.code, "explanation": _GONE.words, "cause": _GONE.id}

log = get_logger("ingest")


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
        self.publisher = Publisher(transfer, site=site, clock=clock)
        self._outcomes = Outcomes(database, node=node)

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
        rules, waivers = await self._decided(shard.project, batch.id)
        tally = await in_thread(self._batches.tally, policy, folder, body, waivers)
        judged_by = judge_of(self._policies.profile(policy.profile))
        rows = await self._seal_packs(shard.project, batch.id, tally.packs, rules=rules, judged_by=judged_by)
        async with self._database.project(shard.project) as conn:
            await SQL.one(conn, "lock", id=batch.id)
            async with conn.cursor() as cursor:
                await cursor.executemany(SQL["insert_pack"], rows)
            seen = [row["barcode"] for row in rows]
            await conn.execute(SQL["unseen"], {"batch": batch.id, "seen": seen, "judged_by": judged_by, **UNSEEN})
            await conn.execute(
                SQL["walked"], {"id": batch.id, "found": len(tally.packs), "missing": tally.missing + tally.undeclared}
            )
            shards = await self._cut(conn, policy, batch.id)
            await add_shards(conn, shard.project, shards)
            await finish_shard(conn, shard)
            ending = None if shards else await self._outcomes.close(conn, shard.project, batch.id)
            record = self._outcomes.record
            excluded = sum(row["rule"] is not None for row in rows)
            found: dict[str, Any] = {"packs": len(rows), "missing": tally.missing}
            found |= {"excluded": excluded} if excluded else {}
            await record(conn, shard.project, "batch walked", batch.id, **found)
            if ending is not None:
                await record(conn, shard.project, ending.action, batch.id, reason=ending.reason)
        log.info("batch walked", batch=batch.id, count=len(rows))

    async def _open_names(self, shard: Shard, batch: Any) -> tuple[str, list[str] | None]:
        ids = [batch.folder] + ([batch.expected_list] if batch.expected_list else [])
        sealed = await self._vault.unseal(shard.project, ids, purpose="walk a declared batch", actor="daemon")
        folder = name_text(sealed[batch.folder])
        if batch.expected_list is None:
            return folder, None
        return folder, decode_names(sealed[batch.expected_list])

    async def _decided(self, project: str, batch: str) -> tuple[list[Any], Waivers]:
        """What people decided about causes and packs before this walk."""
        async with self._database.project(project) as conn:
            rules = await standing_rules(conn)
            waived = await SQL.many(conn, "waived_packs", batch=batch)
        names: dict[str, str] = {}
        for start in range(0, len(waived), UNSEAL_LIMIT):
            ids = [row.barcode for row in waived[start : start + UNSEAL_LIMIT]]
            found = await self._vault.unseal(project, ids, purpose="walk a batch with decisions", actor="daemon")
            names |= {id: name_text(name) for id, name in found.items()}
        return rules, Waivers(
            thumbnails=frozenset(names[row.barcode] for row in waived if "thumbnail" in row.waived),
            # what was excluded for not being declared is known about too: it makes no batch incomplete
            declared=frozenset(names[row.barcode] for row in waived if "declared" in row.waived or row.reason),
            suffixes=bare_suffixes(rules),
        )

    async def _seal_packs(
        self, project: str, batch: str, packs: tuple[FoundPack, ...], *, rules: list[Any], judged_by: str
    ) -> list[dict[str, object]]:
        """Names into the vault first, so that the catalog only ever refers to what is there."""
        excluding = {rule.cause: rule.id for rule in rules if rule.action == "exclude"}
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
                "reason": pack.reason,
                "explanation": pack.explanation,
                "size_bytes": pack.size_bytes,
                **held_back(pack, excluding, judged_by),
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
        judged_by = judge_of(self._policies.profile(policy.profile))
        for pack in packs:
            if await self._waits_for_dump(shard):
                return
            keys = decode_names(names[pack.entry])
            case = Case(shard, pack.id, monotonic_s(), kind_of(keys), judged_by)
            await self._pack(case, policy, keys)
        async with self._database.project(shard.project) as conn:
            batch = await SQL.one(conn, "lock", id=batch.id)
            await finish_shard(conn, shard)
            # a shard that outlived its round (the batch failed, and was perhaps declared again) closes nothing
            if batch.state == "working" and await siblings_open(conn, shard) == 0:
                ending = await self._outcomes.close(conn, shard.project, batch.id)
                await self._outcomes.record(conn, shard.project, ending.action, batch.id, reason=ending.reason)

    async def _waits_for_dump(self, shard: Shard) -> bool:
        """No slide is released whose crosswalk might be lost: the shard comes again, however long it takes (R15)."""
        policies = [one.policy for one in self._policies.all() if isinstance(one.policy, DumpPolicy)]
        async with self._database.project(shard.project) as conn:
            verdict = await release(conn, policies)
            if verdict.allowed:
                return False
            why = f"no new slide is released: {verdict.why}"
            await postpone_shard(conn, shard, delay_s=DUMP_LATER_S, code=DumpOverdue.code, error=why)
        log.error("release stopped", batch=shard.subject_id, code=DumpOverdue.code, what=verdict.why)
        return True

    async def _pack(self, case: Case, policy: ImagesPolicy, keys: list[str]) -> None:
        """One pack to its final state. What is wrong with the pack is a value; what is wrong with a whole tier,
        the catalog or our lease is raised, and the shard is tried again later."""
        try:
            await self._publish(case, policy, keys)
        except (TierUnavailable, TierFull, ZoneCrossing, JobError, CatalogError):
            raise
        except MoverError as error:
            if error.retry == "later" and case.shard.failures < 2:
                raise
            await self._outcomes.quarantine(case, error)

    async def _publish(self, case: Case, policy: ImagesPolicy, keys: list[str]) -> None:
        source, archive = self._tiers[policy.source], prunable(self._tiers[policy.archive])
        members = members_of(keys)
        profile = applied(self._policies.profile(policy.profile), dicom=members.kind == "dicom")
        sources = await self._digest(source, members)
        scan = scan_digest(members, [one.blake3 for one in sources])
        number, _ = await self._vault.mint_number(scan, body=encode_names(keys))
        async with self._database.project(case.shard.project) as conn:
            known = await SQL.one(conn, "slide_rules", number=number)
        if known.withdrawn is not None:
            raise IdentifierFoundLater("this scan was published, and withdrawn when its patient's records came")
        standing = known.rules
        if standing is not None:
            check_rules(standing, profile)
            await self._outcomes.duplicate(case, number)
            return
        maker = await self._maker(policy, source, members, sources, number)
        attempt = Attempt(number, f"{case.shard.epoch}-{random_bytes(4).hex()}", source, profile)
        published = await in_thread(
            guarded, lambda _: self.publisher.publish(archive, attempt, maker), source, archive
        )
        await self._outcomes.publish(case, published, tier=policy.archive)

    async def _digest(self, source: ReadTier, members: Members) -> list[Source]:
        return await in_thread(
            guarded, lambda _: digest_sources(source, self._transfer, members.files), source
        )

    async def _maker(
        self, policy: ImagesPolicy, source: ReadTier, members: Members, sources: Sequence[Source], number: str
    ) -> Maker:
        """Who will make the pack's files. What DICOM objects name is minted in between, all at once."""
        profile = self._policies.profile(policy.profile)
        if members.kind != "dicom":
            return SlideMaker(
                self._sandbox, source, members, sources, policy=policy, profile=profile, number=number
            )
        survey = await in_thread(
            guarded,
            lambda _: survey_folder(self._sandbox, source, sources, policy=policy, where=number),
            source,
        )
        aliases = await self._vault.aliases([one.survey.identity for one in survey.objects], number=number)
        return ObjectMaker(self._sandbox, source, survey, aliases=aliases, policy=policy, profile=profile)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """A batch that cannot be walked or worked on says so; declaring it again tries again. What was not begun
        of it is called off, so that two rounds of one batch never mix."""
        await SQL.one(conn, "lock", id=shard.subject_id)
        await cancel_shards(conn, shard.subject_id)
        await conn.execute(SQL["fail"], {"id": shard.subject_id, "explanation": f"{error.code}: {error.what}"})
        await self._outcomes.record(conn, shard.project, "batch failed", shard.subject_id, reason=error.code)


def judge_of(profile: DeidPolicy) -> str:
    """By what a pack is judged: this software under this profile. Another answer may come only of another of them."""
    return f"mover {__version__} {applied(profile, dicom=False).blake3}"


def held_back(pack: FoundPack, excluding: Mapping[str, str], judged_by: str) -> dict[str, object]:
    """The state a pack has after the walk, and what it waits for. `excluding`: rules by cause."""
    kind = kind_of(pack.keys)
    if not pack.reason:
        return {"state": "found", "cause": None, "kind": kind, "judged_by": None, "rule": None}
    cause = cause_of(pack.reason, pack.explanation, kind).id
    rule = excluding.get(cause)
    state = "quarantined" if rule is None else "excluded"
    return {"state": state, "cause": cause, "kind": kind, "judged_by": judged_by, "rule": rule}


def markers(policy: ImagesPolicy, tier: ReadTier) -> Iterator[tuple[str, list[str]]]:
    """Folders of a source tier that hold the policy's marker file, with the names its lines expect: each
    declares itself ready. An empty marker expects whatever is there."""
    if policy.marker is None:
        return
    for entry in tier.list(""):
        folder, _, name = entry.key.rpartition("/")
        if folder and name == policy.marker and entry.fingerprint.size_bytes <= MARKER_MAX_BYTES:
            lines = tier.read(entry.key).decode("utf-8", "surrogateescape").split("\n")  # U+0085 ends no name
            yield folder, [line.strip() for line in lines if line.strip()]
