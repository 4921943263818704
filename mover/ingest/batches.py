"""Step 1, the front: a folder is declared ready and becomes a batch; what people see of it.

The folder, the expected names and every entry path are identifiers (D10): they go to the vault before the
catalog holds an id for them, and come back only for the workers of `ingest.packs` or for a person with a
purpose.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from mover import audit
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.packs import Tally, Waivers, canonical_name, find_packs
from mover.decide.quarantine import cause_of, reviewers, suffixes_of
from mover.deid.vault import Vault
from mover.errors import Conflict, EntryMissing, NotFound, RequestInvalid
from mover.ingest import evidence
from mover.ingest.reviewing import of_cause, said_by
from mover.jobs import NewShard, add_shards
from mover.jobs.shards import tier_queue
from mover.model import wire
from mover.model.names import decode_names, encode_names, name_bytes, shown_name
from mover.model.policy import ImagesPolicy
from mover.policy import PolicyBook
from mover.randomness import new_id
from mover.tiers.port import ReadTier

SQL = load(__file__)
PLAN_STEPS_MAX = 1000
PAGE_MAX = 1000
EXPECTED_MAX = 100_000
WALK_MAX = 1_000_000
EVERY = wire.SlideFilter()
# of two daemons each knows its own tiers
AT_THE_OTHER = "Where two daemons work, ask the one that reads the source: mover --config /etc/mover/identified.yaml …"


class Batches:
    def __init__(
        self,
        database: Database,
        vault: Vault,
        tiers: Mapping[str, ReadTier],
        policies: PolicyBook,
        *,
        node: str,
    ) -> None:
        self._database = database
        self._vault = vault
        self._tiers = tiers
        self._policies = policies
        self._node = node

    # --- declare ------------------------------------------------------------------------------------------

    async def declare(
        self, project: str, actor: str, body: wire.BatchRequest, *, request: str = "", again: bool = True
    ) -> wire.Batch:
        """A batch for the folder. The same folder is the same batch; with `again`, a batch that ended is walked
        again, and what is published of it stays as it is; so does what waits for two persons."""
        policy = self._policy(body)
        folder = clean_folder(body.folder)
        sealed = await self._seal(project, policy, folder, body.expected)
        async with self._database.project(project) as conn:
            batch, begins = await self._declare(conn, project, actor, body, policy, sealed, again=again)
            if begins:
                await add_shards(conn, project, [NewShard(tier_queue(policy.source), "batch-walk", batch, priority=7)])
            answer = await self._view(conn, batch)
            if begins:
                await audit.record(
                    conn,
                    project=project,
                    node=self._node,
                    actor=actor,
                    action="batch declared",
                    subject=batch,
                    request=request,
                )
        return answer

    async def plan_declare(self, project: str, actor: str, body: wire.BatchRequest) -> wire.Plan:
        """What a walk would find and do now; nothing is kept, and no name is shown."""
        policy = self._policy(body)
        async with self._database.project(project) as conn:
            waivers = Waivers(suffixes=bare_suffixes(await standing_rules(conn)))
        tally = await asyncio.to_thread(self.tally, policy, clean_folder(body.folder), body, waivers)
        steps = [
            wire.PlanStep(
                action="quarantine" if pack.reason else "de-identify",
                subject=f"pack {position + 1}",
                reason=pack.explanation or f"{pack.suffix} with {len(pack.keys)} entries",
                bytes=pack.size_bytes,
            )
            for position, pack in enumerate(tally.packs)
        ]
        counts = {"packs": len(tally.packs), "missing": tally.missing, "undeclared": tally.undeclared}
        counts |= {action: sum(s.action == action for s in steps) for action in ("de-identify", "quarantine")}
        return wire.Plan(
            step="images",
            counts=counts,
            bytes=sum(s.bytes for s in steps if s.action == "de-identify"),
            steps=steps[:PLAN_STEPS_MAX],
            truncated=len(steps) > PLAN_STEPS_MAX,
        )

    def tally(
        self,
        policy: ImagesPolicy,
        folder: str,
        body: wire.BatchRequest,
        waivers: Waivers = Waivers(),  # noqa: B008 - a frozen value
    ) -> Tally:
        """Walk the folder (blocking). EntryMissing when nothing is there, or no image: an empty source is never
        success."""
        tier = self._tiers[policy.source]
        tier.check_identity()
        entries = []
        for entry in tier.list(folder):
            entries.append(entry)
            if len(entries) > WALK_MAX:
                raise RequestInvalid(f"more than {WALK_MAX} entries in one batch folder", hint="Declare its parts.")
        if not entries:
            raise EntryMissing("the declared folder is empty or does not exist", where=policy.source)
        tally = find_packs(
            entries,
            require_thumbnail=policy.require_thumbnail,
            without_thumbnail=frozenset(policy.without_thumbnail),
            folder=folder,
            dicom_names=policy.dicom_names,
            expected_count=body.expected_count,
            expected=frozenset(canonical_name(n) for n in body.expected) if body.expected is not None else None,
            ignore=frozenset([policy.marker.casefold()]) if policy.marker else frozenset(),
            waivers=waivers,
        )
        if not tally.packs:
            raise EntryMissing("the declared folder holds no slide image", where=policy.source)
        return tally

    def _policy(self, body: wire.BatchRequest) -> ImagesPolicy:
        policy = self._policies.get(body.policy, ImagesPolicy) if body.policy else self._policies.default(ImagesPolicy)
        if body.tier is not None and body.tier != policy.source:
            raise RequestInvalid(f"policy {policy.name} reads from {policy.source}, not from {body.tier}")
        if policy.source not in self._tiers or policy.archive not in self._tiers:
            raise RequestInvalid(
                f"a tier of policy {policy.name} is not configured on this node",
                hint=AT_THE_OTHER,
            )
        self._policies.profile(policy.profile)  # one that is not there stops the batch before anything is read
        if body.expected is not None and body.expected_count not in (None, len(body.expected)):
            raise RequestInvalid("expected_count and expected disagree")
        if body.expected is not None and len(body.expected) > EXPECTED_MAX:
            raise RequestInvalid(f"more than {EXPECTED_MAX} expected names")
        return policy

    async def _seal(
        self, project: str, policy: ImagesPolicy, folder: str, expected: list[str] | None
    ) -> tuple[str, str | None]:
        """Ids of the sealed folder and list; the vault commits before the catalog refers to them."""
        [folder_id] = await self._vault.seal_many(
            project, "folder", [(f"{policy.source}\0{folder}", name_bytes(folder))]
        )
        if expected is None:
            return folder_id, None
        body = encode_names(sorted(expected))
        [list_id] = await self._vault.seal_many(project, "expected", [(f"{folder_id}\0{body.hex()}", body)])
        return folder_id, list_id

    async def _declare(
        self,
        conn: Connection,
        project: str,
        actor: str,
        body: wire.BatchRequest,
        policy: ImagesPolicy,
        sealed: tuple[str, str | None],
        *,
        again: bool,
    ) -> tuple[str, bool]:
        count = len(body.expected) if body.expected is not None else body.expected_count
        expectation = {"expected_count": count, "expected_list": sealed[1]}
        made = await SQL.one(
            conn,
            "declare",
            id=new_id("batch"),
            project=project,
            tier=policy.source,
            policy=policy.name,
            folder=sealed[0],
            actor=actor,
            **expectation,
        )
        if made is not None:
            return made.id, True
        batch = await SQL.one(conn, "by_folder", tier=policy.source, folder=sealed[0])
        if batch.state not in ("complete", "failed"):
            if (batch.expected_count, batch.expected_list) != (count, sealed[1]):
                raise Conflict("this folder is being worked on with another expectation", where=batch.id)
            return batch.id, False
        if not again:
            return batch.id, False
        await conn.execute(SQL["declare_again"], {"id": batch.id, **expectation})
        kept = await self._for_two(conn, batch)
        await conn.execute(SQL["reopen_packs"], {"batch": batch.id, "kept": kept})
        return batch.id, True

    async def _for_two(self, conn: Connection, batch: Any) -> list[str]:
        """Reasons whose packs wait on, however often somebody declares: to look again at those, two persons decide."""
        held = {row.reason for row in await SQL.many(conn, "held_for", batch=batch.id)}
        said = of_cause(await said_by(conn, self._policies, [batch.policy]), "", [batch.policy])
        return sorted(reason for reason in held if reviewers(cause_of(reason, None, ""), "retry", said) > 1)

    # --- look ---------------------------------------------------------------------------------------------

    async def view(self, project: str, batch: str) -> wire.Batch:
        async with self._database.project(project) as conn:
            return await self._view(conn, batch)

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.BatchPage:
        """Newest first."""
        bound = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            ids = [row.id for row in await SQL.many(conn, "page", after=after, limit=bound)]
            return wire.BatchPage(batches=await _views(conn, ids), next=ids[-1] if len(ids) == bound else None)

    async def packs(
        self, project: str, batch: str, state: str | None = None, after: str | None = None, limit: int = 100
    ) -> wire.PackPage:
        async with self._database.project(project) as conn:
            await self._view(conn, batch)
            bound = min(limit, PAGE_MAX)
            rows = await SQL.many(conn, "packs", batch=batch, state=state, after=after or "", limit=bound)
            proven = await proofs.of_subjects(conn, [row.id for row in rows])
        packs = [wire.Pack(**row._asdict(), proofs=proven[row.id]) for row in rows]
        return wire.PackPage(packs=packs, next=rows[-1].id if len(rows) == bound else None)

    async def slides(
        self, project: str, after: str | None = None, limit: int = 100, *, only: wire.SlideFilter = EVERY
    ) -> wire.SlidePage:
        bound = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            # each way from what is few; planned for what is asked, or a plan for any would read all
            found = "slides_of_batch" if only.batch else "slides_withdrawn" if only.is_out else "slides"
            asked = msgspec.structs.asdict(only)
            rows = await SQL.planned(conn, found, after=after or "", limit=bound, **asked)
        slides = [wire.Slide(**row._asdict()) for row in rows]
        return wire.SlidePage(slides=slides, next=rows[-1].number if len(rows) == bound else None)

    async def slide(self, project: str, number: str) -> wire.Slide:
        async with self._database.project(project) as conn:
            row = await SQL.one(conn, "slide", number=number)
        if row is None:
            raise NotFound("no such slide", where=number)
        return wire.Slide(**row._asdict())

    async def evidence(self, project: str, number: str) -> wire.SlideEvidence:
        async with self._database.project(project) as conn:
            return await evidence.of_slide(conn, number)

    async def thumbnail(self, project: str, number: str) -> wire.SlideThumbnail:
        return await evidence.thumbnail(self._database, project, self._tiers, number)

    async def reveal(self, project: str, actor: str, body: wire.RevealRequest) -> wire.Revealed:
        """Original names of packs, for a person with a purpose; the look itself is on record."""
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "reveal", ids=body.packs)
        if len(rows) != len(set(body.packs)):
            raise NotFound(f"{len(set(body.packs)) - len(rows)} of the packs do not exist")
        sealed = await self._vault.unseal(
            project, [row.entry for row in rows], purpose=body.purpose, actor=actor
        )
        return wire.Revealed(
            names={row.id: [shown_name(n) for n in decode_names(sealed[row.entry])] for row in rows}
        )

    async def _view(self, conn: Connection, batch: str) -> wire.Batch:
        for found in await _views(conn, [batch]):
            return found
        raise NotFound("no such batch", where=batch)


async def _views(conn: Connection, ids: list[str]) -> list[wire.Batch]:
    """A handful of questions, however many batches; newest first."""
    rows = await SQL.many(conn, "seen", ids=ids)
    lines: dict[str, list[Any]] = {id: [] for id in ids}
    for line in await SQL.many(conn, "counts", ids=ids):
        lines[line.batch].append(line)
    trouble = {one.batch: one for one in await SQL.many(conn, "trouble", ids=ids)}
    proven = await proofs.of_subjects(conn, ids)
    return [_batch(row, lines[row.id], trouble.get(row.id), proven[row.id]) for row in rows]


def _batch(row: Any, lines: list[Any], trouble: Any, proven: list[wire.Proof]) -> wire.Batch:
    packs: dict[str, int] = {}
    reasons: dict[str, int] = {}
    for line in lines:
        packs[line.state] = packs.get(line.state, 0) + line.count
        if line.reason and line.state == "quarantined":
            reasons[line.reason] = reasons.get(line.reason, 0) + line.count
    explanation = row.explanation
    if row.state in ("declared", "walking", "working"):
        explanation = f"tried again after {trouble.code}: {trouble.error}" if trouble else None
    return wire.Batch(
        id=row.id,
        state=row.state,
        tier=row.tier,
        policy=row.policy,
        created_at=row.created_at,
        finished_at=row.finished_at,
        expected_count=row.expected_count,
        found_count=row.found_count,
        missing_count=row.missing_count,
        packs=packs,
        reasons=reasons,
        bytes=sum(line.bytes for line in lines),
        proofs=proven,
        explanation=explanation,
    )


def clean_folder(folder: str) -> str:
    """A folder below the tier's root, in one spelling. Raises RequestInvalid for anything that leaves it."""
    parts = [part for part in folder.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in folder:
        raise RequestInvalid("the folder must lie below the source tier's root")
    return "/".join(parts)


async def standing_rules(conn: Connection) -> list[Any]:
    """The decisions about causes of quarantine that hold for packs that come now (`ingest.quarantine`)."""
    return await SQL.many(conn, "standing_rules")


def bare_suffixes(rules: list[Any]) -> frozenset[str]:
    """Suffixes whose packs need no thumbnail by a standing decision."""
    bare = [rule.kind for rule in rules if rule.action == "accept-without-thumbnail"]
    return frozenset().union(*(suffixes_of(kind) for kind in bare))


async def many(conn: Connection, statement: str, **parameters: object) -> list[Any]:
    return await (await conn.execute(SQL[statement], parameters)).fetchall()
