"""Runs: request, admit, look, hold, finish, cancel, clean (design runs.md).

Judgement is in `decide.lifecycle`, `decide.admission` and `decide.cleanup`; the work itself is in
`runs.stage` and `runs.clean`, as shards. This front changes states, always together with the shards and the
audit record that belong to the change.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct
from psycopg.types.json import Jsonb

from mover import audit
from mover.catalog import facts, proofs, selections
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.admission import Admission, TierSpace, admit
from mover.decide.layout import slide_path
from mover.decide.lifecycle import check_transition
from mover.errors import (
    Conflict,
    IdentifierFoundLater,
    NotFound,
    NotProtected,
    RequestError,
    RequestInvalid,
    RunRefused,
    TierError,
)
from mover.jobs import NewShard, add_shards, in_thread
from mover.jobs.shards import cancel_shards, tier_queue
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.facts import SLIDE_COLUMNS
from mover.model.names import path_text
from mover.model.policy import StagePolicy
from mover.policy import PolicyBook
from mover.randomness import new_id
from mover.runs.roots import FlashRoots, run_key

SQL = load(__file__)
PLAN_STEPS_MAX = 1000
PAGE_MAX = 1000
# runs judged at one go; those behind them are judged at the next
WAITING_MAX = 1000
StagedEntries = list[wire.StagedEntry]  # in a class that has a method `list`, the word means that method

# states in which shards move a run on
WORKING = frozenset({"staging", "finishing", "protecting", "cleaning", "cancelled", "failed"})

log = get_logger("runs")


class Flash(Struct, frozen=True):
    """A flash tier as runs see it."""

    roots: FlashRoots
    seen_as: str
    capacity_bytes: int | None
    # how long this node may go on believing what another changed (NFS): waited out before a seal
    settle_s: float = 0.0


class Runs:
    def __init__(
        self,
        database: Database,
        flash: dict[str, Flash],
        policies: PolicyBook,
        *,
        node: str,
    ) -> None:
        self._database = database
        self._flash = flash
        self._policies = policies
        self._node = node

    # --- request ------------------------------------------------------------------------------------------

    async def request(
        self, identity: Identity, body: wire.RunRequest, *, key: str, request: str = ""
    ) -> wire.Run:
        """Freeze, admit and begin to stage; the same key again gives the same run.

        Raises Conflict for the same key with another body, and RunRefused, listing every offender, when the
        set is not whole: then nothing was moved.
        """
        policy = self._policy(body)
        run = new_id("run")
        async with self._database.project(identity.project) as conn:
            earlier = await self._remember(conn, identity.project, key, body, run)
            if earlier is None:
                offenders = await self._create(conn, identity, body, policy, run)
                action = "run refused" if offenders else "run requested"
                await self._record(conn, identity, action, run, request=request)
        if earlier is None:
            await self.admit_waiting(policy.flash)
        answer = await self.view(identity.project, earlier or run)
        if answer.state == "refused":
            raise RunRefused(answer.explanation or "refused", where=answer.id, details=named(answer.offenders, body))
        return answer

    async def plan_request(self, identity: Identity, body: wire.RunRequest) -> wire.Plan:
        """What `request` would stage, and how; nothing is kept."""
        policy = self._policy(body)
        async with self._database.project(identity.project) as conn, conn.transaction(force_rollback=True):
            chosen = await self._choose(conn, identity.project, body, policy)
            if chosen.offenders:
                raise RunRefused("the set is not whole", details=named(chosen.offenders, body))
            rows = await self._selected(conn, policy.flash, chosen.selection_id)
        steps = [_step_of(number, list(files)) for number, files in groupby(rows, key=lambda row: row.number)]
        copied = sum(s.bytes for s in steps if s.action == "copy")
        counts = {"link": sum(s.action == "link" for s in steps), "copy": sum(s.action == "copy" for s in steps)}
        return wire.Plan(
            step="stage",
            counts=counts,
            bytes=copied,
            steps=steps[:PLAN_STEPS_MAX],
            truncated=len(steps) > PLAN_STEPS_MAX,
        )

    def _policy(self, body: wire.RunRequest) -> StagePolicy:
        given = [name for name in ("cohort", "expression", "files", "like") if getattr(body, name) is not None]
        if len(given) != 1:
            raise RequestInvalid("a run names exactly one of cohort, expression, files and like")
        policy = self._policies.get(body.policy, StagePolicy) if body.policy else self._policies.default(StagePolicy)
        if body.tier is not None and body.tier != policy.flash:
            raise RequestInvalid(f"policy {policy.name} stages to {policy.flash}, not to {body.tier}")
        if policy.flash not in self._flash:
            raise RequestInvalid(f"{policy.flash} is not a flash tier of this node")
        return policy

    async def _remember(
        self, conn: Connection, project: str, key: str, body: wire.RunRequest, run: str
    ) -> str | None:
        """The earlier run of this key, or None after binding the key to the new one.

        The insert waits for a concurrent request with the same key, so exactly one of them makes a run.
        """
        digest = blake3(msgspec.json.encode(body, order="sorted")).hexdigest()
        # a key is the caller's own words, which may hold anything; for "the same again" its digest is enough (D10)
        key = blake3(key.encode()).hexdigest()
        bound = await SQL.one(
            conn, "remember", project=project, key=key, route="POST /v1/runs", body_digest=digest, subject=run
        )
        if bound is not None:
            return None
        earlier = await SQL.one(conn, "remembered", project=project, key=key)
        assert earlier is not None
        if earlier.body_digest != digest:
            raise Conflict(
                "this Idempotency-Key already stands for another request",
                where=earlier.subject_id,
                hint="Use a fresh key for a new run; scheduler ids wrap, so add the submit time.",
            )
        return str(earlier.subject_id)

    async def _create(
        self,
        conn: Connection,
        identity: Identity,
        body: wire.RunRequest,
        policy: StagePolicy,
        run: str,
    ) -> list[dict[str, Any]]:
        chosen = await self._choose(conn, identity.project, body, policy)
        refused = bool(chosen.offenders)
        await conn.execute(
            SQL["insert_run"],
            {
                "id": run,
                "project": identity.project,
                "selection": None if refused else chosen.selection_id,
                "tier": policy.flash,
                "policy": policy.name,
                "state": "refused" if refused else "requested",
                "reason": "set-not-whole" if refused else None,
                "explanation": chosen.explanation if refused else None,
                "offenders": Jsonb(selections.storable(chosen.offenders)) if refused else None,
                "actor": identity.actor,
                "uid": identity.posix_uid,
                "gid": identity.posix_gid,
                "layout": body.layout or policy.layout,
                "label": body.layout_label or policy.layout_label,
                "lease_s": body.lease_s or policy.lease_s,
            },
        )
        if not refused:
            await self._write_entries(conn, identity.project, run, body, policy, chosen.selection_id)
        return chosen.offenders

    async def _choose(
        self, conn: Connection, project: str, body: wire.RunRequest, policy: StagePolicy
    ) -> _Chosen:
        """The frozen selection, or every offender that keeps the set from being whole."""
        if body.files is not None:
            known, offenders = await selections.resolve_numbers(conn, project, body.files)
            if offenders or not known:
                return _Chosen("", offenders or [{"why": "empty"}], f"{len(offenders)} of {len(body.files)} unusable")
            frozen = await selections.freeze(conn, project, numbers=known)
        elif body.like is not None:
            earlier = await SQL.one(conn, "get", id=body.like)
            if earlier is None or earlier.selection_id is None:
                raise NotFound("no such run to repeat", where=body.like)
            gone = await selections.withdrawn_since(conn, earlier.selection_id)
            if gone:
                offenders = [{"number": number, "why": "quarantined"} for number in gone]
                return _Chosen("", offenders, f"{len(gone)} of its slides were withdrawn since")
            return _Chosen(earlier.selection_id, [], "")
        else:
            cohort_id, expression = None, body.expression
            if body.cohort is not None:
                cohort_id, expression = await self._cohort(conn, body.cohort)
            frozen = await selections.freeze(conn, project, expression=expression, cohort_id=cohort_id)
        if frozen.count == 0:
            return _Chosen("", [{"why": "empty"}], "the expression selects no slide")
        return _Chosen(frozen.selection_id, [], "")

    async def _cohort(self, conn: Connection, reference: str) -> tuple[str, str]:
        name, _, version = reference.partition("@")
        number = int(version) if version.isdigit() else None
        row = await SQL.one(conn, "cohort", ref=reference, name=name, version=number)
        if row is None:
            raise NotFound("no such cohort", where=reference)
        return row.id, row.expression

    async def _selected(self, conn: Connection, tier: str, selection: str) -> list[Any]:
        return await SQL.many(conn, "selected", tier=tier, selection=selection)

    async def _write_entries(
        self,
        conn: Connection,
        project: str,
        run: str,
        body: wire.RunRequest,
        policy: StagePolicy,
        selection: str,
    ) -> None:
        layout, label = body.layout or policy.layout, body.layout_label or policy.layout_label
        if layout == "label" and not label:
            raise RequestInvalid("layout `label` needs layout_label, the fact that names the folders")
        if label and label not in {*await facts.columns(conn), *SLIDE_COLUMNS}:
            raise RequestInvalid("layout_label is no column of this project", hint="See `mover cohort columns`.")
        entries = [
            {
                "project": project,
                "run": run,
                "path": slide_path(
                    row.number, row.extension, layout=layout, facts=row.facts, label=label,
                    name=row.name, several=row.several,
                ),
                "number": row.number,
                "size_bytes": row.size_bytes,
                "digest": row.digest,
                "archive_tier": row.tier,
                "archive_key": row.key,
            }
            for row in await self._selected(conn, policy.flash, selection)
        ]
        async with conn.cursor() as cursor:
            await cursor.executemany(SQL["insert_entry"], entries)

    # --- admission ----------------------------------------------------------------------------------------

    async def admit_waiting(self, tier: str) -> None:
        """Let waiting runs in, oldest first and whatever their project, until one has to wait on.

        Called when a run is requested, when space was freed, and by the daemon from time to time: nothing waits
        for an event that was lost. A crash in between leaves runs that are judged the next time.
        """
        async with self._database.instance() as conn:
            parameters = {"tier": tier, "limit": WAITING_MAX}
            waiting = await SQL.many(conn, "waiting", **parameters)
        if not waiting:
            return
        try:
            # the folder below an unmounted tier has a size too, which says nothing
            await in_thread(self._flash[tier].roots.check_identity)
            for one in waiting:
                async with self._database.project(one.project_id) as conn:
                    if not await self._admit(conn, tier, one.run_id):
                        return
        except TierError as error:
            log.warning("admission waits", tier=tier, code=error.code)

    async def _admit(self, conn: Connection, tier: str, run_id: str) -> bool:
        """Judge one run, under the tier's lock. False when it waits, and all that came later with it."""
        locked = await SQL.one(conn, "lock_tier", tier=tier)
        run = await SQL.one(conn, "lock_waiting", id=run_id)
        if run is None:
            return True
        policy = self._known_policy(run.policy)
        if policy is None:
            await self._explain_once(conn, run, f"the policy {run.policy} is not loaded")
            return True
        if run.selection_id is not None and await selections.withdrawn_since(conn, run.selection_id):
            await self._refuse_withdrawn(conn, run)
            return True
        verdict = await self._judge(conn, tier, run, policy, locked.capacity_bytes)
        if verdict.verdict == "wait":
            await self._explain_once(conn, run, verdict.reason)
            return False
        if verdict.verdict == "refuse":
            await self._step(conn, run.id, "requested", "refused", reason="too-large", why=verdict.reason)
        else:
            await self._begin(conn, tier, run, policy)
        await audit.record(
            conn,
            project=run.project_id,
            node=self._node,
            actor="daemon",
            action="run refused" if verdict.verdict == "refuse" else "run admitted",
            subject=run.id,
            reason="too-large" if verdict.verdict == "refuse" else "",
        )
        return True

    async def _refuse_withdrawn(self, conn: Connection, run: Any) -> None:
        """Asked for before, it waited for space while a slide of it was withdrawn."""
        code = IdentifierFoundLater.code
        await self._step(conn, run.id, "requested", "refused", reason=code, why="a slide of it was withdrawn meanwhile")
        await audit.record(
            conn, project=run.project_id, node=self._node, actor="daemon", action="run refused", subject=run.id,
            reason=code,
        )  # fmt: skip

    def _known_policy(self, name: str) -> StagePolicy | None:
        try:
            return self._policies.get(name, StagePolicy)
        except RequestError:
            return None

    async def _judge(
        self, conn: Connection, tier: str, run: Any, policy: StagePolicy, declared: int | None
    ) -> Admission:
        capacity, free = await in_thread(self._flash[tier].roots.space)
        promised = await SQL.one(conn, "reserved", tier=tier)
        outstanding = await SQL.one(conn, "outstanding", tier=tier)
        to_copy = await SQL.one(conn, "to_copy", run=run.id, tier=tier)
        evictable = await SQL.one(conn, "evictable_bytes", run=run.id, tier=tier)
        assert promised and outstanding and to_copy and evictable
        space = TierSpace(
            capacity_bytes=min(capacity, declared or capacity),
            free_bytes=free + evictable.bytes,
            promised_bytes=promised.bytes,
            outstanding_bytes=outstanding.bytes,
            reserve_bytes=policy.reserve_bytes,
        )
        return admit(run.bytes, to_copy.bytes, space)

    async def _begin(self, conn: Connection, tier: str, run: Any, policy: StagePolicy) -> None:
        await conn.execute(SQL["reserve"], {"id": run.id, "bytes": run.bytes})
        await self._step(conn, run.id, "requested", "admitted")
        await self._step(conn, run.id, "admitted", "staging")
        paths = [row.path for row in await SQL.many(conn, "paths", run=run.id)]
        size = policy.entries_per_shard
        await add_shards(
            conn,
            run.project_id,
            [
                NewShard(tier_queue(tier), "run-stage", run.id, tuple(paths[at : at + size]), priority=5)
                for at in range(0, len(paths), size)
            ],
        )

    async def _explain_once(self, conn: Connection, run: Any, why: str) -> None:
        if run.explanation != why:
            await self._explain(conn, run.id, "requested", why)

    # --- look ---------------------------------------------------------------------------------------------

    async def view(self, project: str, run: str) -> wire.Run:
        async with self._database.project(project) as conn:
            return await self._view(conn, await self._get(conn, run))

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.RunPage:
        async with self._database.project(project) as conn:
            parameters = {"after": after, "limit": min(limit, PAGE_MAX)}
            ids = [row.id for row in await SQL.many(conn, "page", **parameters)]
            runs = [await self._view(conn, await self._get(conn, run)) for run in ids]
        return wire.RunPage(runs=runs, next=ids[-1] if len(ids) == parameters["limit"] else None)

    async def manifest(self, project: str, run: str) -> str:
        """The sealed manifest, kept for ever."""
        async with self._database.project(project) as conn:
            row = await self._get(conn, run)
        if row.manifest is None:
            raise Conflict(f"the run is {row.state}; its manifest is sealed with `ready`", where=run)
        return str(row.manifest)

    async def ready(
        self, project: str, run: str, after: str | None = None, limit: int = PAGE_MAX
    ) -> StagedEntries:
        """Entries that may be read already, in order of path."""
        async with self._database.project(project) as conn:
            await self._get(conn, run)
            parameters = {"run": run, "after": after or "", "limit": min(limit, PAGE_MAX)}
            rows = await SQL.many(conn, "staged", **parameters)
        return [wire.StagedEntry(**row._asdict()) for row in rows]

    async def _get(self, conn: Connection, run: str) -> Any:
        row = await SQL.one(conn, "get", id=run)
        if row is None:
            raise NotFound("no such run", where=run)
        return row

    async def _view(self, conn: Connection, row: Any) -> wire.Run:
        progress = await SQL.one(conn, "progress", run=row.id)
        strays = await SQL.many(conn, "strays", run=row.id)
        snapshots = await SQL.many(conn, "snapshots", run=row.id)
        expression = await SQL.one(conn, "expression", selection=row.selection_id)
        seen = f"{self._flash[row.tier].seen_as}/{run_key(row.id)}" if row.tier in self._flash else None
        present = row.state not in ("requested", "refused", "cleaned")
        return wire.Run(
            id=row.id,
            state=row.state,
            tier=row.tier,
            policy=row.policy,
            reason=row.reason,
            explanation=row.explanation or await self._trouble(conn, row),
            offenders=row.offenders or [],
            root=seen if present else None,
            out=f"{seen}/out" if present and row.ready_at else None,
            **progress._asdict(),
            manifest_root=row.manifest_root,
            lease_until=row.lease_until,
            created_at=row.created_at,
            ready_at=row.ready_at,
            cleaned_at=row.cleaned_at,
            expression=expression.expression if expression else None,
            estimate_s=await self._estimate(conn, row, progress),
            snapshots=[s.id for s in snapshots],
            strays=[s._asdict() for s in strays],
            proofs=await proofs.of_subject(conn, row.id),
        )

    async def _trouble(self, conn: Connection, row: Any) -> str | None:
        if row.state not in WORKING:
            return None
        found = await SQL.one(conn, "trouble", id=row.id)
        return f"tried again after {found.code}: {found.error}" if found else None

    async def _estimate(self, conn: Connection, row: Any, progress: Any) -> float | None:
        """Seconds until ready at the pace of this tier's newest runs; None before there is a history."""
        if row.state not in ("requested", "admitted", "staging"):
            return None
        rate = await SQL.one(conn, "rate", tier=row.tier)
        if rate is None or not rate.bytes_s:
            return None
        return round((progress.bytes - progress.staged_bytes) / float(rate.bytes_s), 1)

    # --- hold and end ---------------------------------------------------------------------------------------

    async def heartbeat(self, project: str, run: str) -> wire.Run:
        async with self._database.project(project) as conn:
            renewed = await SQL.one(conn, "renew_lease", id=run)
            row = await self._get(conn, run)
            if renewed is None:
                raise Conflict(f"the run is {row.state}; only a ready run has a lease", where=run)
        return await self.view(project, run)

    async def finish(self, identity: Identity, run: str, body: wire.FinishRequest) -> wire.Run:
        """Protect what training left. A repeated finish of a run under way changes nothing; one that names other
        things is a Conflict, because those would not be protected."""
        finish = msgspec.json.decode(msgspec.json.encode(body))
        async with self._database.project(identity.project) as conn:
            row = await self._lock(conn, run)
            if row.state == "ready":
                await self._finish(conn, row, finish, clean_after=False, reason=None)
                await self._record(conn, identity, "run finished", run)
            elif row.state not in ("finishing", "protecting", "protected", "cleaning", "cleaned"):
                check_transition(row.state, "finishing", subject=run)
            elif row.finish != finish:
                raise Conflict(
                    f"the run is {row.state} already, after another finish", where=run,
                    hint="What this request names is not protected with it; its lease may have lapsed before.",
                )  # fmt: skip
        return await self.view(identity.project, run)

    async def _finish(
        self, conn: Connection, row: Any, finish: dict[str, Any], *, clean_after: bool, reason: str | None
    ) -> None:
        check_transition(row.state, "finishing", subject=row.id)
        await conn.execute(
            SQL["finishing"],
            {"id": row.id, "finish": Jsonb(finish), "clean_after": clean_after, "reason": reason},
        )
        shard = NewShard(tier_queue(row.tier), "run-protect", row.id, priority=8)
        await add_shards(conn, row.project_id, [shard])

    async def expire(self) -> int:
        """Runs whose lease lapsed go to protection and then to cleanup, never to deletion."""
        async with self._database.instance() as conn:
            lapsed = await SQL.many(conn, "lapsed")
        for found in lapsed:
            async with self._database.project(found.project_id) as conn:
                row = await SQL.one(conn, "lock_lapsed", id=found.run_id)
                if row is None:
                    continue  # a heartbeat came first, or another daemon
                await self._finish(conn, row, {}, clean_after=True, reason="lease-expired")
                await audit.record(
                    conn,
                    project=found.project_id,
                    node=self._node,
                    actor="daemon",
                    action="run lease expired",
                    subject=row.id,
                    reason="lease-expired",
                )
        return len(lapsed)

    async def cancel(self, identity: Identity, run: str) -> wire.Run:
        """Stop a run that is not ready yet; what was staged of it is removed."""
        async with self._database.project(identity.project) as conn:
            row = await self._lock(conn, run)
            if row.state != "cancelled":
                check_transition(row.state, "cancelled", subject=run)
                await cancel_shards(conn, run)
                await self._step(conn, run, row.state, "cancelled", reason="cancelled")
                await add_shards(conn, row.project_id, [NewShard(tier_queue(row.tier), "run-clean", run)])
                await self._record(conn, identity, "run cancelled", run)
        return await self.view(identity.project, run)

    async def clean(self, identity: Identity, run: str) -> wire.Run:
        """Remove the run root. NotProtected, with what is unprotected, before protection is proved."""
        async with self._database.project(identity.project) as conn:
            row = await self._lock(conn, run)
            if row.state not in ("protected", "cleaning", "cleaned", "cancelled", "failed"):
                raise await self._not_protected(row)
            if row.state == "protected":
                await self._step(conn, run, "protected", "cleaning", reason=row.reason)
            # a cleanup that failed is asked for again; one under way is left alone
            if row.state != "cleaned" and (await SQL.one(conn, "cleaning_shards", run=run)).open == 0:
                await add_shards(conn, row.project_id, [NewShard(tier_queue(row.tier), "run-clean", run)])
                await self._record(conn, identity, "run cleaning asked", run)
        return await self.view(identity.project, run)

    async def _not_protected(self, row: Any) -> NotProtected | Conflict:
        if row.ready_at is None:
            return Conflict(f"the run is {row.state}; cancel it instead", where=row.id)
        listing = await in_thread(self._flash[row.tier].roots.listing, row.id, below="out")
        unprotected = [{"path": path_text(path), "size_bytes": size} for path, size in sorted(listing.items())]
        return NotProtected(
            f"the run is {row.state}: {len(unprotected)} artifacts are not proved protected",
            where=row.id,
            details=unprotected[:PLAN_STEPS_MAX],
        )

    async def plan_clean(self, project: str, run: str) -> wire.Plan:
        from mover.runs.clean import plan_for

        async with self._database.project(project) as conn:
            row = await self._get(conn, run)
        steps = await plan_for(self._database, row, self._flash[row.tier].roots)
        counts: dict[str, int] = {}
        for step in steps:
            counts[step.action] = counts.get(step.action, 0) + 1
        return wire.Plan(
            step="clean",
            counts=counts,
            bytes=sum(s.size_bytes for s in steps if s.action == "remove"),
            steps=[
                wire.PlanStep(action=s.action, subject=path_text(s.path), reason=s.reason, bytes=s.size_bytes)
                for s in steps[:PLAN_STEPS_MAX]
            ],
            truncated=len(steps) > PLAN_STEPS_MAX,
        )

    # --- small tools ------------------------------------------------------------------------------------------

    async def _lock(self, conn: Connection, run: str) -> Any:
        row = await SQL.one(conn, "lock", id=run)
        if row is None:
            raise NotFound("no such run", where=run)
        return row

    async def _step(
        self,
        conn: Connection,
        run: str,
        before: str,
        after: str,
        *,
        reason: str | None = None,
        why: str | None = None,
    ) -> None:
        check_transition(before, after, subject=run)
        await self._explain(conn, run, after, why, reason=reason)

    async def _explain(
        self, conn: Connection, run: str, state: str, why: str | None, *, reason: str | None = None
    ) -> None:
        await conn.execute(SQL["set_state"], {"id": run, "state": state, "reason": reason, "explanation": why})

    async def _record(
        self, conn: Connection, identity: Identity, action: str, run: str, *, request: str = ""
    ) -> None:
        await audit.record(
            conn,
            project=identity.project,
            node=self._node,
            actor=identity.actor,
            action=action,
            subject=run,
            request=request,
        )


def _step_of(number: str, files: list[Any]) -> wire.PlanStep:
    """What staging does with one slide: whatever of it is not on flash is copied."""
    absent = [file for file in files if not file.standing]
    return wire.PlanStep(
        action="copy" if absent else "link",
        subject=number,
        reason=f"from {absent[0].tier}" if absent else "stands on the flash tier",
        bytes=sum(file.size_bytes for file in absent or files),
    )


def named(offenders: list[dict[str, Any]], body: wire.RunRequest) -> list[dict[str, Any]]:
    """Offenders with the names as the requester wrote them. The catalog keeps only masked shapes: what is no
    number may be a name (D10), and goes back to nobody but who sent it."""
    files = body.files or []
    return [{"name": files[o["position"] - 1], **o} if o.get("position") else o for o in offenders]


class _Chosen(Struct, frozen=True):
    selection_id: str
    offenders: list[dict[str, Any]]
    explanation: str
