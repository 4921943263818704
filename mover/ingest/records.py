"""Step 2: the tables of a batch are declared, wait for its images, are matched and stripped of identifiers.

A record set is one version of all tables of a policy. The same bytes under the same policy are the same set; a
corrected or cumulative export is the next version and replaces what the earlier ones said of the batch's slides.

Before anything is aligned, what the tables say of the patients is sought in their published slides (`searchagain`):
a record set is aligned only when its slides were searched.

What a crash leaves, in order: sealed paths that nothing refers to; a set in `matching` whose shard is run again;
image names and pseudonyms in the vault that nothing refers to yet. Ledger, facts, proof, state, audit record and
the end of the shard are one transaction, so there is never half a ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from mover import audit, metrics
from mover.align.child import Answer
from mover.align.examine import Examiner
from mover.align.gather import Gathered, held
from mover.align.record import report_of, superseded, write
from mover.catalog import facts, proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide.alignment import NamedImage
from mover.decide.packs import members_of
from mover.decide.searchagain import Dictionary
from mover.decide.tables import check_policy, fact_columns
from mover.deid.vault import UNSEAL_LIMIT, Vault
from mover.errors import (
    ChangedWhileReading,
    ConfigError,
    EntryMissing,
    IdentityError,
    MoverError,
    NotFound,
    RequestError,
    RequestInvalid,
)
from mover.ingest.batches import AT_THE_OTHER, clean_folder
from mover.ingest.searchagain import SearchAgain, withdrawn_by
from mover.jobs import FailureHandler, Handler, NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import tier_queue
from mover.log import get_logger
from mover.model import wire
from mover.model.names import decode_names, key_text
from mover.model.policy import RecordsPolicy
from mover.policy import PolicyBook
from mover.randomness import new_id
from mover.sandbox import Sandbox
from mover.tiers.port import ReadTier

LIST_LIMIT = 1000
IMAGES_LIMIT = 1_000_000
# one look at the source tier
TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
LOOKED_MAX = 100_000
FOUND_MAX = 500
KIND = "records-match"
PRIORITY = 6
# sets that wait, read again at once: to plan a policy, or because it is another
TRIED_AT_ONCE = 5
TRIED_FOR_S = 60
# quarantined for what the bytes themselves are: declaring the same bytes again changes nothing
OF_THE_BYTES = frozenset({"place-unknown", "structure-invalid", "format-unknown"})
# the set stops and a person decides; everything else is tried again by the worker
STOPPING = (IdentityError, RequestError, ConfigError, EntryMissing, ChangedWhileReading)

_Q = load(__file__)
log = get_logger("records")


class _Tried(msgspec.Struct, frozen=True):
    """The last plan of a policy, for a while the answer to the same question of the same person."""

    key: bytes
    until_s: float
    plan: wire.Plan


class Records:
    def __init__(
        self,
        database: Database,
        vault: Vault,
        tiers: Mapping[str, ReadTier],
        sandbox: Sandbox,
        policies: PolicyBook,
        *,
        site: str,
        node: str,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database = database
        self._vault = vault
        self._tiers = tiers
        self._policies = policies
        self._site = site
        self._node = node
        self._examiner = Examiner(sandbox, vault, clock=clock)
        self._clock = clock
        self._tried: _Tried | None = None
        self._due_after = ""
        self._again = SearchAgain(database, tiers, sandbox, node=node, keyed=lambda text: vault.keyed(text))

    def handlers(self) -> dict[str, Handler]:
        return {KIND: self.match}

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {KIND: self.failed}

    # --- declare ------------------------------------------------------------------------------------------

    async def declare(
        self, project: str, actor: str, body: wire.RecordsRequest, *, request: str = ""
    ) -> wire.RecordSet:
        """The record set of these tables: a new version, or the one that was made from the same bytes."""
        policy = self._policy(body)
        files = _ordered(policy, body)
        async with held(self._tiers[policy.source], files) as tables:
            content = self._keyed(policy, tables)
        source = await self._seal(project, body.batch, files)
        async with self._database.project(project) as conn:
            batch = await _batch(conn, body.batch)
            await facts.check_columns(conn, fact_columns(policy))
            standing = await _Q.one(conn, "newest_of_content", batch=batch.id, content=content)
            if standing is not None and _stands(standing, batch):
                return await self._view(conn, standing.id)
            record_set = new_id("records")
            await conn.execute(
                _Q["declare"],
                {"id": record_set, "project": project, "batch": batch.id, "policy": policy.name, "source": source,
                 "content": content, "actor": actor},
            )  # fmt: skip
            if batch.state == "complete":
                # otherwise the transaction that completes the batch adds it, under the same lock
                shard = NewShard(tier_queue(policy.source), KIND, record_set, priority=PRIORITY)
                await add_shards(conn, project, [shard])
            answer = await self._view(conn, record_set)
            await self._audit(
                conn, project, actor, "records declared", record_set, request=request,
                details={"batch": batch.id, "version": answer.version, "policy": policy.name},
            )  # fmt: skip
            return answer

    async def plan_declare(self, project: str, actor: str, body: wire.RecordsRequest) -> wire.Plan:
        """What matching these tables with the batch's present images would give; nothing is kept but the audit
        record of the look at the images' names."""
        policy = self._policy(body)
        files = _ordered(policy, body)
        async with self._database.project(project) as conn:
            batch = await _batch(conn, body.batch)
            await facts.check_columns(conn, fact_columns(policy))
        images = await self._images(project, batch.id, purpose="plan records", actor=actor)
        async with held(self._tiers[policy.source], files) as tables:
            try:
                answer = await self._examiner.examine(project, policy, tables, images, mint=False)
            except IdentityError as error:
                step = wire.PlanStep(action="quarantine", subject="record set", reason=_explained(error))
                return wire.Plan(step="records", counts={"quarantine": 1}, bytes=tables.size_bytes, steps=[step])
            return _plan(answer, tables, waiting=batch.state != "complete")

    async def found(self, project: str, actor: str, body: wire.TablesLook, *, request: str = "") -> wire.FoundTables:
        """What may be tables where the policy takes them from, for a person with a purpose. The record comes first: a
        look that broke off may have shown names."""
        policy = self._policy(body)
        folder = clean_folder(body.folder) if body.folder.strip("/") else ""
        async with self._database.project(project) as conn:
            await self._audit(
                conn, project, actor, "tables listed", policy.source, reason=body.purpose, request=request,
                details={"policy": policy.name},
            )  # fmt: skip
        found, whole = await in_thread(_tables, self._tiers[policy.source], folder)
        return wire.FoundTables(
            tier=policy.source, policy=policy.name, tables=[table.name for table in policy.tables], found=found,
            whole=whole,
        )  # fmt: skip

    async def plan_policy(self, project: str, actor: str, policy: RecordsPolicy) -> wire.Plan:
        """What would become of the sets that wait for this policy if it said this: each is read and matched by it, and
        nothing is kept but the audit record of the look at names."""
        async with self._database.project(project) as conn:
            waiting = await _Q.many(conn, "waiting_of_policy", policy=policy.name, limit=TRIED_AT_ONCE + 1)
        # a plan is asked for at each word of its reason; who else asks looks, too, and so is on record
        key = msgspec.json.encode([project, actor, policy, [row.id for row in waiting]])
        now_s = self._clock.monotonic_s()
        if self._tried is None or self._tried.key != key or now_s >= self._tried.until_s:
            steps = [await self._try(project, actor, policy, row) for row in waiting[:TRIED_AT_ONCE]]
            passing = sum(step.action == "pass" for step in steps)
            counts = {"sets that wait": len(steps), "would pass": passing, "would wait on": len(steps) - passing}
            if not steps:
                steps = [wire.PlanStep(action="know", subject=policy.name, reason="no set of tables waits for it now;"
                                       " sets that are declared from now on go by it")]  # fmt: skip
            truncated = len(waiting) > TRIED_AT_ONCE
            plan = wire.Plan(step="records", counts=counts, bytes=0, steps=steps, truncated=truncated)
            self._tried = _Tried(key, now_s + TRIED_FOR_S, plan)
        return self._tried.plan

    async def _try(self, project: str, actor: str, policy: RecordsPolicy, row: Any) -> wire.PlanStep:
        purpose = f"plan the policy {policy.name}"
        try:
            check_policy(policy)
            files = await self._files(project, row.source, purpose=purpose, actor=actor)
            images = await self._images(project, row.batch_id, purpose=purpose, actor=actor)
            async with held(self._tiers[policy.source], files) as tables:
                answer = await self._examiner.examine(project, policy, tables, images, mint=False)
        except MoverError as error:
            return wire.PlanStep(action="wait", subject=row.id, reason=_explained(error))
        aligned = report_of(answer)["slides_aligned"]
        return wire.PlanStep(action="pass", subject=row.id, reason=f"{aligned} slides would be aligned")

    async def _files(self, project: str, source: str, *, purpose: str, actor: str) -> dict[str, str]:
        sealed = await self._vault.unseal(project, [source], purpose=purpose, actor=actor)
        try:
            return msgspec.msgpack.decode(sealed[source], type=dict[str, str])
        except msgspec.DecodeError as error:
            raise NotFound("where these tables lie is not kept any more", where=source) from error

    async def declare_due(self, project: str) -> int:
        """Sets that were refused for a column nobody listed are declared again once their policy is another: the rule
        that somebody made for them, and a second person looked at, is what they waited for. Each at most once for a
        change: what is refused again waits again."""
        here = [one.name for one in self._policies.of(RecordsPolicy) if one.source in self._tiers]
        async with self._database.project(project) as conn:
            due = await _Q.many(
                conn, "due_again", node=self._node, here=here, after=self._due_after, limit=TRIED_AT_ONCE
            )  # fmt: skip
        # what is away now comes again after all others, so that it holds up none of them
        self._due_after = due[-1].id if len(due) == TRIED_AT_ONCE else ""
        for row in due:
            try:
                seen = await self._declare_again(project, row)
            except MoverError as error:
                seen = isinstance(error, STOPPING)
                log.warning("records wait", record_set=row.id, code=error.code)
            if seen:
                async with self._database.project(project) as conn:
                    await conn.execute(_Q["seen_again"], {"id": row.id})
        return len(due)

    async def _declare_again(self, project: str, row: Any) -> bool:
        """Whether it is the set that it was: nothing came of its policy's change."""
        files = await self._files(project, row.source, purpose=f"declare {row.id} again", actor="daemon")
        body = wire.RecordsRequest(batch=row.batch_id, files=files, policy=row.policy)
        return (await self.declare(project, "daemon", body)).id == row.id

    def _policy(self, body: wire.RecordsRequest | wire.TablesLook) -> RecordsPolicy:
        named = self._policies.get(body.policy, RecordsPolicy) if body.policy else None
        policy = named or self._policies.default(RecordsPolicy)
        check_policy(policy)
        if policy.source not in self._tiers:
            raise RequestInvalid(
                f"the tier {policy.source} of policy {policy.name} is not configured on this node",
                hint=AT_THE_OTHER,
            )
        return policy

    def _keyed(self, policy: RecordsPolicy, tables: Gathered) -> str:
        """The keyed digest of the tables' bytes and the policy: nobody without the key can try tables."""
        said = msgspec.json.encode([policy, sorted(tables.digests.items())], order="sorted")
        return self._vault.keyed(f"records|{said.decode()}").hex()

    async def _seal(self, project: str, batch: str, files: dict[str, str]) -> str:
        """The id of the sealed paths; the vault commits before the catalog refers to it."""
        body = msgspec.msgpack.encode(files)
        [sealed] = await self._vault.seal_many(project, "tables", [(f"{batch}\0{body.hex()}", body)])
        return sealed

    # --- match --------------------------------------------------------------------------------------------

    async def match(self, shard: Shard) -> None:
        """The work of one shard. What may not pass quarantines the set; what may pass later is raised for the
        worker to try again."""
        found = await self._begin(shard)
        if found is None:
            return
        try:
            await self._match(shard, found)
        except STOPPING as error:
            await self._quarantine(shard, error)

    async def _begin(self, shard: Shard) -> Any:
        """The set to match, or None when there is nothing to do now; then the shard is finished."""
        async with self._database.project(shard.project) as conn:
            row = await _Q.one(conn, "get", id=shard.subject_id)
            if row is None:
                raise NotFound("no such record set", where=shard.subject_id)
            batch = await _batch(conn, row.batch_id)
            ready = batch.state == "complete" and row.state in ("waiting-for-images", "matching")
            if ready:
                await conn.execute(_Q["begin"], {"id": row.id})
                return row
            # finished before, or the batch was opened again: its completion adds a new shard
            await conn.execute(_Q["wait"], {"id": row.id})
            await finish_shard(conn, shard)
            return None

    async def _match(self, shard: Shard, row: Any) -> None:
        project = shard.project
        policy = self._policies.get(row.policy, RecordsPolicy)
        check_policy(policy)
        purpose = f"match {row.id}"
        images = await self._images(project, row.batch_id, purpose=purpose, actor="daemon")
        files = await self._files(project, row.source, purpose=purpose, actor="daemon")
        async with held(self._tiers[policy.source], files) as tables:
            if self._keyed(policy, tables) != row.content:
                raise ChangedWhileReading(
                    "the tables or their policy changed after they were declared", hint="Declare them again."
                )
            words = await self._examiner.words(policy, tables, images)
            await self._again.search(shard, words)
            # what was withdrawn waits in quarantine, and its rows are late
            images = await self._still_published(project, row.batch_id, images)
            answer = await self._examiner.examine(project, policy, tables, images, mint=True)
            await self._examiner.remember_images(project, policy, images)
            await self._write(shard, row, policy, answer, words=words, table_bytes=tables.size_bytes)

    async def _still_published(self, project: str, batch: str, images: list[NamedImage]) -> list[NamedImage]:
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "images", batch=batch, limit=IMAGES_LIMIT + 1)
        numbers = [row.number for row in rows]
        return [
            msgspec.structs.replace(image, number=number) for image, number in zip(images, numbers, strict=True)
        ]

    async def _write(
        self,
        shard: Shard,
        row: Any,
        policy: RecordsPolicy,
        answer: Answer,
        *,
        words: list[Dictionary],
        table_bytes: int,
    ) -> None:
        project = shard.project
        async with self._database.project(project) as conn:
            batch = await _batch(conn, row.batch_id)
            if batch.state != "complete":
                await conn.execute(_Q["wait"], {"id": row.id})
                await finish_shard(conn, shard)
                return
            newer = (await _Q.one(conn, "newer_aligned", batch=row.batch_id, version=row.version)).newer
            answer = superseded(answer) if newer else answer
            proof = await write(
                conn, project, row.id, policy, answer, batch=row.batch_id, version=row.version,
                table_bytes=table_bytes, replaces=not newer,
            )  # fmt: skip
            await self._again.prove(conn, project, row.id, words)
            report = report_of(answer)
            await conn.execute(_Q["align"], {"id": row.id, "proof": proof, "report": Jsonb(report)})
            await finish_shard(conn, shard)
            await self._audit(
                conn, project, "daemon", "records aligned", row.id,
                details={"ledger": report["ledger"], "slides": report["slides_aligned"], "proof": proof},
            )  # fmt: skip
        for states in report["ledger"].values():
            for state, count in states.items():
                metrics.ROWS.labels(state).inc(count)
        log.info("records aligned", record_set=row.id, slides=report["slides_aligned"])

    async def _images(self, project: str, batch: str, *, purpose: str, actor: str) -> list[NamedImage]:
        """The batch's images by original name, numbered from 1 in their lasting order."""
        async with self._database.project(project) as conn:
            cursor = await conn.execute(_Q["images"], {"batch": batch, "limit": IMAGES_LIMIT + 1})
            rows = await cursor.fetchall()
        if len(rows) > IMAGES_LIMIT:
            raise RequestInvalid(f"a batch of more than {IMAGES_LIMIT} images cannot be matched", where=batch)
        entries = [row.entry for row in rows]
        bodies: dict[str, bytes] = {}
        for start in range(0, len(entries), UNSEAL_LIMIT):
            part = entries[start : start + UNSEAL_LIMIT]
            bodies |= await self._vault.unseal(project, part, purpose=purpose, actor=actor)
        return [
            NamedImage(line, _plain(members_of(decode_names(bodies[row.entry])).image_name), row.number)
            for line, row in enumerate(rows, start=1)
        ]

    async def _quarantine(self, shard: Shard, error: MoverError) -> None:
        async with self._database.project(shard.project) as conn:
            await conn.execute(
                _Q["quarantine"], {"id": shard.subject_id, "reason": error.code, "explanation": _explained(error)}
            )
            await finish_shard(conn, shard)
            await self._audit(
                conn, shard.project, "daemon", "records quarantined", shard.subject_id, reason=error.code,
                details={"explanation": _explained(error)},
            )  # fmt: skip
        log.warning("records quarantined", record_set=shard.subject_id, code=error.code)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """The shard was tried often enough; the set says so, and may be declared again."""
        await conn.execute(
            _Q["quarantine"], {"id": shard.subject_id, "reason": error.code, "explanation": _explained(error)}
        )
        await self._audit(conn, shard.project, "daemon", "records quarantined", shard.subject_id, reason=error.code)

    # --- look ---------------------------------------------------------------------------------------------

    async def view(self, project: str, id: str) -> wire.RecordSet:
        async with self._database.project(project) as conn:
            return await self._view(conn, id)

    async def list(
        self, project: str, batch: str | None = None, after: str | None = None, limit: int = 100
    ) -> wire.RecordSetPage:
        """The newest first; proofs stand in the single view."""
        bound = min(limit, LIST_LIMIT)
        async with self._database.project(project) as conn:
            rows = await _Q.planned(conn, "page", batch=batch, after=after, limit=bound)
        records = [_record_set(row, []) for row in rows]
        return wire.RecordSetPage(records=records, next=rows[-1].id if len(rows) == bound else None)

    async def ledger(
        self,
        project: str,
        id: str,
        table: str | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> wire.LedgerPage:
        async with self._database.project(project) as conn:
            await self._view(conn, id)
            return await facts.ledger_page(conn, id, table=table, state=state, after=after, limit=limit)

    async def _view(self, conn: Connection, id: str) -> wire.RecordSet:
        row = await _Q.one(conn, "get", id=id)
        if row is None:
            raise NotFound("no such record set", where=id)
        withdrawn = await withdrawn_by(conn, id)
        return msgspec.structs.replace(_record_set(row, await proofs.of_subject(conn, id)), withdrawn=withdrawn)

    async def _audit(
        self,
        conn: Connection,
        project: str,
        actor: str,
        action: str,
        subject: str,
        *,
        reason: str = "",
        request: str = "",
        details: dict[str, Any] | None = None,
    ) -> None:
        await audit.record(
            conn, project=project, node=self._node, actor=actor, action=action, subject=subject, reason=reason,
            request=request, details=details,
        )  # fmt: skip


# --- small tools -------------------------------------------------------------------------------------------


def _ordered(policy: RecordsPolicy, body: wire.RecordsRequest) -> dict[str, str]:
    """The paths in the policy's order; the set must be exactly the policy's."""
    declared, given = [table.name for table in policy.tables], set(body.files)
    missing, unknown = sorted(set(declared) - given), sorted(given - set(declared))
    if missing or unknown:
        raise RequestInvalid(
            f"policy {policy.name} has the tables {', '.join(declared)}: {len(missing)} of them are missing and"
            f" {len(unknown)} others were given",
            details=[{"missing": name} for name in missing],
        )
    return {name: body.files[name].replace("\\", "/").strip("/") for name in declared}


def _tables(tier: ReadTier, folder: str) -> tuple[list[wire.FoundTable], bool]:
    """Blocking. A name that a request cannot say as it is stays out: its file is declared from the command line of who
    renames it."""
    tier.check_identity()
    found, whole = [], True
    for looked, entry in enumerate(tier.list(folder)):
        if looked >= LOOKED_MAX:
            whole = False
            break
        if entry.kind == "file" and entry.key.casefold().endswith(TABLE_SUFFIXES) and key_text(entry.key) == entry.key:
            found.append(entry)
    youngest = sorted(found, key=lambda one: one.fingerprint.mtime_ns, reverse=True)
    shown = [
        wire.FoundTable(
            path=one.key, bytes=one.fingerprint.size_bytes,
            changed_at=datetime.fromtimestamp(one.fingerprint.mtime_ns // 1_000_000_000, UTC),
        )
        for one in youngest[:FOUND_MAX]
    ]  # fmt: skip
    return shown, whole and len(found) <= FOUND_MAX


def _plain(name: str) -> str:
    """A name that is not UTF-8 as text that no table can match: guessing its encoding could tie it wrongly."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _stands(standing: Any, batch: Any) -> bool:
    """Is the earlier set of the same bytes still the answer? Not when the batch got new images since, and not
    when it was quarantined for something that may have passed."""
    if standing.state == "quarantined" and standing.reason not in OF_THE_BYTES:
        return False
    if standing.finished_at is None or batch.finished_at is None:
        return standing.finished_at is None or batch.state == "complete"
    return bool(standing.finished_at >= batch.finished_at) and batch.state == "complete"


def _explained(error: MoverError) -> str:
    """A sentence without identifiers: our errors hold none."""
    return (f"{error.what} [{error.where}]" if error.where else error.what)[:1000]


def _plan(answer: Answer, tables: Gathered, *, waiting: bool) -> wire.Plan:
    report = report_of(answer)
    counts = {f"{table} {state}": n for table, states in report["ledger"].items() for state, n in states.items()}
    when = "once the batch's images are complete" if waiting else "at once"
    steps = [
        wire.PlanStep(action="match", subject=table, reason=f"{total} lines, {when}")
        for table, total in report["totals"].items()
    ]
    return wire.Plan(
        step="records",
        counts={**counts, "slides aligned": report["slides_aligned"]},
        bytes=tables.size_bytes,
        steps=steps,
    )


def _record_set(row: Any, proven: list[wire.Proof]) -> wire.RecordSet:
    report = row.report or {}
    return wire.RecordSet(
        id=row.id,
        batch=row.batch_id,
        version=row.version,
        state=row.state,
        reason=row.reason,
        explanation=row.explanation,
        policy=row.policy,
        created_at=row.created_at,
        finished_at=row.finished_at,
        ledger=report.get("ledger", {}),
        totals=report.get("totals", {}),
        slides_aligned=report.get("slides_aligned", 0),
        k=report.get("k"),
        proofs=proven,
    )


async def _batch(conn: Connection, id: str) -> Any:
    row = await _Q.one(conn, "lock_batch", id=id)
    if row is None:
        raise NotFound("no such batch", where=id)
    return row
