"""Asking for a run: the set is frozen and remembered under its key, or refused whole, with every offender."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct
from psycopg.types.json import Jsonb

from mover.catalog import facts, selections
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.errors import Conflict, NotFound, RequestInvalid, RunRefused
from mover.jobs import NewShard, add_shards
from mover.jobs.shards import tier_queue
from mover.model import wire
from mover.model.access import Identity
from mover.model.facts import SLIDE_COLUMNS
from mover.model.policy import StagePolicy
from mover.randomness import new_id
from mover.runs import entries
from mover.runs.entries import Layout
from mover.runs.guard import Guard, Judged
from mover.runs.site import PLAN_STEPS_MAX, RunSite, get

SQL = load(__file__)
# a key whose run came so far stands for nothing any more: asking again is a mistake, not a repetition (D13)
SOURCES = ("cohort", "expression", "files", "selection", "like", "splits")
OVER = frozenset("finishing protecting protected cleaning cleaned cancelled failed".split())


class _Chosen(Struct, frozen=True):
    """A frozen selection, or what keeps the set from being whole."""

    selection_id: str = ""
    count: int = 0
    bytes: int = 0
    offenders: list[dict[str, Any]] = []
    explanation: str = ""
    # the run that is repeated exactly: its files under its names, whatever policies and facts say by now
    like: Any = None
    # by number, of what was judged for this very run
    split_of: Mapping[str, str] = {}


def _digest_of(identity: Identity, body: wire.RunRequest) -> str:
    """What was asked for, and for whom: `out/` is that user's. What was not said does not count, so that a field that a
    later version adds makes no repeated request another one."""
    asked = {"uid": identity.posix_uid, "gid": identity.posix_gid, "body": _said(body)}
    return blake3(msgspec.json.encode(asked, order="sorted")).hexdigest()


def _said(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _said(one) for name, one in value.items()}
    if not isinstance(value, Struct):
        return value
    given = ((field.name, getattr(value, field.name), field.default) for field in msgspec.structs.fields(value))
    return {name: _said(one) for name, one, usual in given if one != usual}


class Asked(Struct, frozen=True):
    """The run of a key. `refused` and why, when this very request was."""

    run: str
    tier: str
    new: bool = False
    refused: list[dict[str, Any]] = []
    explanation: str = ""


class Requests:
    def __init__(self, site: RunSite) -> None:
        self._site = site
        self._guard = Guard(site, self._cohort)

    async def ask(self, identity: Identity, body: wire.RunRequest, *, key: str, request: str = "") -> Asked:
        """The run of this key; a new one waits to be let in, or was refused.

        Raises Conflict for the same key with another body, or of a run that is over.
        """
        policy = self._policy(body)
        run = new_id("run")
        judged = None
        if body.splits is not None and not await self._known(identity.project, key):
            judged = await self._judge(identity, body, policy, subject=run)
        async with self._site.database.project(identity.project) as conn:
            earlier = await self._remember(conn, identity, key, body, run)
            if earlier is not None:
                return Asked(earlier, policy.flash)
            chosen = await self._create(conn, identity, body, policy, run, judged)
            action = "run refused" if chosen.offenders else "run requested"
            await self._site.record(conn, identity, action, run, request=request)
        return Asked(
            run, policy.flash, new=not chosen.offenders, refused=named(chosen.offenders, body),
            explanation=chosen.explanation,
        )  # fmt: skip

    async def plan(self, identity: Identity, body: wire.RunRequest) -> wire.Plan:
        """What `request` would stage, and how; nothing is kept."""
        policy = self._policy(body)
        judged = await self._judge(identity, body, policy, subject="plan") if body.splits is not None else None
        async with self._site.database.project(identity.project) as conn, conn.transaction(force_rollback=True):
            chosen = await self._choose(conn, identity.project, body, judged)
            if chosen.offenders:
                raise RunRefused(
                    judged.explanation if judged else "the set is not whole", details=named(chosen.offenders, body)
                )
            layout = await self._layout(conn, body, policy, chosen)
            if layout.name == "shards":
                steps = await self._tar_steps(conn, policy, chosen, layout)
            else:
                steps = await self._steps(conn, policy, chosen)
        copied = sum(s.bytes for s in steps if s.action == "copy")
        counts = {"link": sum(s.action == "link" for s in steps), "copy": sum(s.action == "copy" for s in steps)}
        return wire.Plan(
            step="stage",
            counts=counts,
            bytes=copied,
            steps=steps[:PLAN_STEPS_MAX],
            truncated=len(steps) > PLAN_STEPS_MAX,
        )

    async def _steps(self, conn: Connection, policy: StagePolicy, chosen: _Chosen) -> list[wire.PlanStep]:
        steps: list[wire.PlanStep] = []
        async for files in entries.files_of(conn, chosen.selection_id):
            digests = [file.digest for file in files]
            rows = await SQL.planned(conn, "standing", tier=policy.flash, digests=digests)
            standing = {row.digest for row in rows}
            slides = groupby(files, key=lambda file: file.number)
            steps += [_step_of(number, list(of), standing) for number, of in slides]
        return steps

    async def _tar_steps(
        self, conn: Connection, policy: StagePolicy, chosen: _Chosen, layout: Layout
    ) -> list[wire.PlanStep]:
        like = chosen.like
        if like is not None and layout == entries.layout_of(like):
            tars = [row._asdict() for row in await SQL.many(conn, "tars", run=like.id)]
        else:
            tars = (await entries.laid_out(conn, chosen.selection_id, layout, chosen.split_of)).tars
        asked = [tar["made_of"] for tar in tars]
        made = {row.made_of for row in await SQL.many(conn, "made", tier=policy.flash, made_of=asked)}
        return [
            wire.PlanStep(
                action="link" if tar["made_of"] in made else "copy",
                subject=tar["path"],
                reason="stands on the flash tier" if tar["made_of"] in made else f"made of {tar['count']} files",
                bytes=tar["size_bytes"],
            )
            for tar in tars
        ]

    def _policy(self, body: wire.RunRequest) -> StagePolicy:
        given = [name for name in SOURCES if getattr(body, name) is not None]
        if len(given) != 1:
            raise RequestInvalid("a run names exactly one of cohort, expression, files, selection, like and splits")
        policies = self._site.policies
        policy = policies.get(body.policy, StagePolicy) if body.policy else policies.default(StagePolicy)
        if body.tier is not None and body.tier != policy.flash:
            raise RequestInvalid(f"policy {policy.name} stages to {policy.flash}, not to {body.tier}")
        if policy.flash not in self._site.flash:
            raise RequestInvalid(f"{policy.flash} is not a flash tier of this node")
        return policy

    async def _judge(self, identity: Identity, body: wire.RunRequest, policy: StagePolicy, *, subject: str) -> Judged:
        """Before the transaction that keeps the run: what was learnt is on record whatever becomes of the run."""
        return await self._guard.judge(identity, body.splits or {}, subject=subject, unknown=policy.unknown_patients)

    async def _known(self, project: str, key: str) -> bool:
        """Whether the key has its run already, so that nothing has to be judged again."""
        async with self._site.database.project(project) as conn:
            found = await SQL.one(conn, "remembered", project=project, key=blake3(key.encode()).hexdigest())
        return found is not None

    async def _remember(
        self, conn: Connection, identity: Identity, key: str, body: wire.RunRequest, run: str
    ) -> str | None:
        """The earlier run of this key, or None after binding the key to the new one.

        The insert waits for a concurrent request with the same key, so exactly one of them makes a run.
        """
        project, digest = identity.project, await asyncio.to_thread(_digest_of, identity, body)
        # a key is the caller's own words, which may hold anything; for "the same again" its digest is enough (D10)
        key = blake3(key.encode()).hexdigest()
        bound = await SQL.one(
            conn, "remember", project=project, key=key, route="POST /v1/runs", body_digest=digest, subject=run
        )
        if bound is not None:
            return None
        earlier = await SQL.one(conn, "remembered", project=project, key=key)
        assert earlier is not None
        hint = "Use a fresh key for a new run, as cluster/job/submit-time/restart: scheduler ids wrap and are requeued."
        if earlier.body_digest != digest:
            raise Conflict(
                "this Idempotency-Key already stands for another request", where=earlier.subject_id, hint=hint
            )
        if earlier.state in OVER:
            raise Conflict(
                f"the run of this Idempotency-Key is over: it is {earlier.state}", where=earlier.subject_id, hint=hint
            )
        return str(earlier.subject_id)

    async def _create(
        self,
        conn: Connection,
        identity: Identity,
        body: wire.RunRequest,
        policy: StagePolicy,
        run: str,
        judged: Judged | None,
    ) -> _Chosen:
        chosen = await self._choose(conn, identity.project, body, judged)
        layout = await self._layout(conn, body, policy, chosen)
        refused = bool(chosen.offenders)
        values = {
            "id": run,
            "project": identity.project,
            "selection": None if refused else chosen.selection_id,
            "tier": policy.flash,
            "policy": policy.name,
            "state": "refused" if refused else "requested",
            "reason": "set-not-whole" if refused else None,
            "explanation": chosen.explanation if refused else None,
            "offenders": Jsonb(selections.storable(chosen.offenders), msgspec.json.encode) if refused else None,
            "actor": identity.actor,
            "uid": identity.posix_uid,
            "gid": identity.posix_gid,
            "layout": layout.name,
            "label": layout.label,
            "shard_bytes": layout.shard_bytes,
            "lease_s": body.lease_s or policy.lease_s,
            "priority": body.priority,
            "deadline": body.deadline,
            "like": None if refused or chosen.like is None else chosen.like.id,
            "files": 0 if refused else chosen.count,
            "bytes": 0 if refused else chosen.bytes,
        }
        await conn.execute(SQL["insert_run"], values)
        if refused:
            return chosen
        if chosen.split_of or chosen.count <= entries.AT_ONCE_MAX:
            await entries.write(conn, await get(conn, run), chosen.split_of)
        else:
            shard = NewShard(tier_queue(policy.flash), "run-lay-out", run, priority=7)
            await add_shards(conn, identity.project, [shard])
        return chosen

    async def _choose(self, conn: Connection, project: str, body: wire.RunRequest, judged: Judged | None) -> _Chosen:
        """The frozen selection, or every offender that keeps the set from being whole."""
        if judged is not None:
            return await self._apart(conn, project, judged)
        if body.files is not None:
            found = await selections.resolve(conn, body.files)
            if found.offenders or not found.rows:
                offenders = found.offenders or [{"why": "empty"}]
                return _Chosen(offenders=offenders, explanation=_unusable(found.offenders, body.files))
            frozen = await selections.freeze_rows(conn, project, found.rows)
        elif body.selection is not None:
            return await self._frozen(conn, body.selection)
        elif body.like is not None:
            earlier = await get(conn, body.like)
            if earlier.selection_id is None:
                raise NotFound("no such run to repeat", where=body.like)
            gone = await SQL.many(conn, "unstageable", run=earlier.id)
            if gone:
                offenders = [one._asdict() for one in gone]
                return _Chosen(offenders=offenders, explanation=f"{len(gone)} of its slides cannot be staged any more")
            listed = await selections.frozen(conn, earlier.selection_id)
            assert listed is not None  # a run refers to it
            return _Chosen(listed.selection_id, listed.count, listed.bytes, like=earlier)
        else:
            cohort_id, expression = None, body.expression
            if body.cohort is not None:
                cohort_id, expression = await self._cohort(conn, body.cohort)
            frozen = await selections.freeze(conn, project, expression=expression, cohort_id=cohort_id)
        if frozen.count == 0:
            return _Chosen(offenders=[{"why": "empty"}], explanation="the expression selects no slide")
        return _Chosen(frozen.selection_id, frozen.count, frozen.bytes)

    async def _frozen(self, conn: Connection, selection: str) -> _Chosen:
        """A list that was frozen before, as it is."""
        found = await selections.frozen(conn, selection)
        if found is None or found.count == 0:
            raise NotFound("no such selection, or an empty one", where=selection)
        gone = await selections.withdrawn_since(conn, selection)
        offenders = [{"number": number, "why": "quarantined"} for number in gone]
        why = f"{len(gone)} of its slides were withdrawn since it was frozen" if gone else ""
        return _Chosen(selection, found.count, found.bytes, offenders=offenders, explanation=why)

    async def _apart(self, conn: Connection, project: str, judged: Judged) -> _Chosen:
        """One selection of all splits; each slide knows its own."""
        if judged.offenders:
            return _Chosen(offenders=judged.offenders, explanation=judged.explanation)
        frozen = await selections.freeze(conn, project, numbers=judged.every)
        return _Chosen(frozen.selection_id, frozen.count, frozen.bytes, split_of=judged.split_of)

    async def _cohort(self, conn: Connection, reference: str) -> tuple[str, str]:
        name, _, version = reference.partition("@")
        number = int(version) if version.isdigit() else None
        row = await SQL.one(conn, "cohort", ref=reference, name=name, version=number)
        if row is None:
            raise NotFound("no such cohort", where=reference)
        return row.id, row.expression

    async def _layout(self, conn: Connection, body: wire.RunRequest, policy: StagePolicy, chosen: _Chosen) -> Layout:
        """As it was asked for; as it was, where an earlier run is repeated; else as the policy has it."""
        like = chosen.like
        if like is not None and body.layout is None:
            given, label, shard_bytes = like.layout, like.layout_label, body.shard_bytes or like.shard_bytes
        else:
            # tars are kept apart by splits in any case
            usual = "split" if body.splits is not None and policy.layout != "shards" else policy.layout
            given, label = body.layout or usual, body.layout_label or policy.layout_label
            shard_bytes = body.shard_bytes or policy.shard_bytes
        layout = Layout(given, label, shard_bytes if given == "shards" else None)
        if chosen.offenders:
            return layout
        if body.shard_bytes is not None and given != "shards":
            raise RequestInvalid("shard_bytes goes with layout `shards`")
        if layout.name == "split" and not (chosen.split_of or (like and await SQL.one(conn, "split", run=like.id))):
            raise RequestInvalid("layout `split` needs splits")
        if layout.name == "label" and not layout.label:
            raise RequestInvalid("layout `label` needs layout_label, the fact that names the folders")
        if layout.label and layout.label not in {*await facts.columns(conn), *SLIDE_COLUMNS}:
            raise RequestInvalid("layout_label is no column of this project", hint="See `mover cohort columns`.")
        return layout


def _unusable(offenders: list[dict[str, Any]], files: list[str]) -> str:
    """How many of what was named cannot be used, by what is wrong with them."""
    kinds = Counter(str(one["why"]) for one in offenders)
    why = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return f"{len(offenders)} of {len(files)} unusable" + (f": {why}" if why else "")


def _step_of(number: str, files: list[Any], standing: set[str]) -> wire.PlanStep:
    """What staging does with one slide: whatever of it is not on flash is copied."""
    absent = [file for file in files if file.digest not in standing]
    return wire.PlanStep(
        action="copy" if absent else "link",
        subject=number,
        reason=f"from {absent[0].tier}" if absent else "stands on the flash tier",
        bytes=sum(file.size_bytes for file in absent or files),
    )


def named(offenders: list[dict[str, Any]], body: wire.RunRequest) -> list[dict[str, Any]]:
    """Offenders with the names as the requester wrote them. The catalog keeps only masked shapes: what is no
    number may be a name (D10), and goes back to nobody but who sent it."""

    def sent(offender: dict[str, Any]) -> dict[str, Any]:
        source = (body.splits or {}).get(offender.get("split", ""), body)
        # of a frozen list nothing was sent but its id
        return {"name": source.files[offender["position"] - 1], **offender} if source.files is not None else offender

    return [sent(offender) if offender.get("position") else offender for offender in offenders]
