"""Quarantine with a way out: what waits is shown by cause, and one reviewed decision is about all of it.

What is decided, by whom and why, the packs' new states, the batches' next step and the audit record are one
transaction; a crash leaves all of it or nothing. What is released goes through the whole walk, plan and proof again, so
a decision can only ever ask for another look (`decide.quarantine` says which decisions are sound). What is excluded
stays in the identified zone, and its batch gets a new proof of completeness that counts it.

Where two persons decide (`decide.quarantine.reviewers`), the first one's decision is a row that changes nothing else;
the second one's word and all that follows from it are one transaction, so a kill leaves the proposal as it was.

Locks are taken in the order in which the workers take them: batches by id, then packs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from mover import audit
from mover.catalog.database import Connection, Database, refusals
from mover.catalog.queries import load
from mover.decide.quarantine import (
    RECORDS,
    WAIVERS,
    Cause,
    Offer,
    Reviewing,
    advice,
    cause_of,
    check_decision,
    offers,
    proposal,
    reviewers,
    unlisted,
)
from mover.errors import Conflict, NotFound, RequestInvalid
from mover.ingest.outcomes import Ending, Outcomes
from mover.ingest.packs import judge_of
from mover.ingest.reviewing import Said, of_cause, said_by
from mover.jobs import NewShard, add_shards
from mover.jobs.shards import tier_queue
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import ImagesPolicy
from mover.policy import PolicyBook, with_column
from mover.randomness import new_id

CAUSES_MAX: Final = 200  # shown at once
LEARNED_AT_ONCE: Final = 10_000
RECORDS_MAX: Final = 1000
RULES_MAX: Final = 1000
PAGE_MAX: Final = 1000
RECORDS_PRIORITY: Final = 6
WALK_PRIORITY: Final = 7
ENDED: Final = ("complete", "failed")

_Q = load(__file__)


class _Made(Struct, frozen=True):
    """A decision that is carried out: by whom it was made and why; with a proposal, why another one confirmed it."""

    offer: Offer
    standing: bool
    reason: str
    by: str
    packs: Sequence[str] | None
    proposal: str | None = None
    confirmed: str = ""


class Quarantine:
    def __init__(self, database: Database, policies: PolicyBook, *, node: str) -> None:
        self._database, self._policies, self._node = database, policies, node
        self._outcomes = Outcomes(database, node=node)

    # --- look -----------------------------------------------------------------------------------------------

    async def causes(self, project: str, batch: str | None = None) -> wire.QuarantineCauses:
        """What waits, by cause. Sets of tables are among it when no batch is asked for."""
        await self._learn(project)
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "causes", batch=batch, cause=None)
            held = await _Q.many(conn, "held_records", limit=RECORDS_MAX) if batch is None else []
            said = await self._said(conn, rows, held)
        found = [self._shown(row, said) for row in rows] + self._grouped(held, said)
        found.sort(key=lambda one: (-one.count, one.id))
        return wire.QuarantineCauses(causes=found[:CAUSES_MAX], more=max(0, len(found) - CAUSES_MAX))

    async def cause(
        self, project: str, id: str, after: str | None = None, limit: int = 100
    ) -> wire.QuarantineCause:
        """One cause with a page of its packs."""
        await self._learn(project)
        async with self._database.project(project) as conn:
            found, records = await self._find(conn, id)
            if records:
                return found
            rows = await _Q.many(conn, "page", cause=id, after=after or "", limit=min(limit, PAGE_MAX))
        return replace(found, packs=[row.id for row in rows])

    async def draft(self, project: str, id: str, body: wire.QuarantineDraftRequest) -> wire.QuarantineDraft:
        """The records policy with the rule that a refused set lacks, for a person to look at."""
        async with self._database.project(project) as conn:
            _, records = await self._find(conn, id)
        newest = records[0] if records else None
        table = unlisted(newest.explanation) if newest else ""
        if newest is None or not table:
            raise Conflict("no rule of a policy would mend this", where=id, hint="See `mover quarantine show`.")
        stands = self._policies.loaded(newest.policy)
        text = with_column(stands.text, table, body.column)
        return wire.QuarantineDraft(policy=newest.policy, table=table, digest=stands.digest, text=text)

    async def rules(self, project: str, *, standing: bool = False) -> wire.QuarantineRules:
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "rules", standing=standing, limit=RULES_MAX)
        return wire.QuarantineRules(rules=[_rule(row) for row in rows])

    async def _learn(self, project: str) -> None:
        """Causes of packs from before there were causes; the same function makes all of them. In a transaction of its
        own, because it takes packs before any batch."""
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "unlearned", limit=LEARNED_AT_ONCE)
            if not rows:
                return
            named = [{"id": row.id, "cause": cause_of(row.reason, row.explanation, row.kind).id} for row in rows]
            async with conn.cursor() as cursor:
                await cursor.executemany(_Q["learn"], named)

    async def _find(self, conn: Connection, id: str) -> tuple[wire.QuarantineCause, list[Any]]:
        """The cause, and the sets of tables it is about, where it is about those."""
        rows = await _Q.many(conn, "causes", batch=None, cause=id)
        if rows:
            return self._shown(rows[0], await self._said(conn, rows, [])), []
        held = await _Q.many(conn, "held_records", limit=RECORDS_MAX)
        records = [row for row in held if _cause_of_records(row).id == id]
        if not records:
            raise NotFound("nothing waits for this cause", where=id, hint="See `mover quarantine list`.")
        return self._grouped(records, await self._said(conn, [], records))[0], records

    # --- decide ---------------------------------------------------------------------------------------------

    async def decide(
        self, identity: Identity, id: str, body: wire.QuarantineDecisionRequest, *, request: str = ""
    ) -> wire.QuarantineDecision:
        """Decide about everything that waits for a cause, or about some packs of it; or, where two persons do, propose
        it to the other."""
        project = identity.project
        await self._learn(project)
        async with self._database.project(project) as conn:
            found, records = await self._find(conn, id)
            offer = _offer(found, body.action)
            standing = _stands(offer, body)
            if self._reviewers(found, body.action) > 1:
                proposed = await self._propose(conn, identity, found, body, standing)
                return wire.QuarantineDecision(proposal=proposed, left=proposed.waiting)
            made = _Made(offer, standing, body.reason, identity.actor, body.packs)
            return await self._carry_out(conn, identity, found, records, made, request=request)

    async def review(
        self, identity: Identity, id: str, body: wire.QuarantineReview, *, request: str = ""
    ) -> wire.QuarantineDecision:
        """Another person's word on what was proposed. Confirmed, it is about what waits for the cause now."""
        project, confirm = identity.project, body.decision == "confirm"
        await self._learn(project)
        async with self._database.project(project) as conn:
            row = await _Q.one(conn, "proposal", id=id)
            if row is None:
                raise NotFound("no such proposal", where=id)
            with refusals():
                await _Q.one(conn, "review", id=id, confirm=confirm, reason=body.reason, **self._who(identity))
            told = _proposal(await _Q.one(conn, "proposal", id=id))
            if not confirm or told.rule:  # or the same person confirmed it before
                rule = _rule(await _Q.one(conn, "rule", id=told.rule)) if told.rule else None
                return wire.QuarantineDecision(proposal=told, rule=rule, packs=rule.packs if rule else 0)
            found, records = await self._find(conn, row.cause)
            offer = _offer(found, row.action)
            made = _Made(offer, row.standing, row.reason, row.proposed_by, row.packs, id, body.reason)
            return await self._carry_out(conn, identity, found, records, made, request=request)

    async def proposals(self, project: str, *, open: bool = False) -> wire.QuarantineProposals:
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "proposals", open=open, limit=RULES_MAX)
        return wire.QuarantineProposals(proposals=[_proposal(row) for row in rows])

    async def _propose(
        self, conn: Connection, identity: Identity, found: wire.QuarantineCause, body: wire.QuarantineDecisionRequest,
        standing: bool,
    ) -> wire.QuarantineProposal:  # fmt: skip
        waiting = found.count
        if body.packs is not None:
            waiting = (await _Q.one(conn, "waiting", cause=found.id, packs=body.packs)).count
        if not waiting:
            raise Conflict("none of these packs waits for this cause", where=found.id)
        values = {
            "id": new_id("proposal"), "cause": found.id, "action": body.action, "standing": standing,
            "packs": None if body.packs is None else sorted(set(body.packs)), "code": found.code, "kind": found.kind,
            "words": found.words, "waiting": waiting, "reason": body.reason,
        }  # fmt: skip
        with refusals():
            row = await _Q.one(conn, "propose", **values, **self._who(identity))
        return _proposal(await _Q.one(conn, "proposal", id=row.id))

    async def _carry_out(
        self, conn: Connection, identity: Identity, found: wire.QuarantineCause, records: list[Any], made: _Made, *,
        request: str,
    ) -> wire.QuarantineDecision:  # fmt: skip
        project, id, cause = identity.project, found.id, _cause_in(found)
        if made.standing:
            await conn.execute(_Q["supersede"], {"cause": id, "actor": made.by})
        rule = new_id("rule")
        with refusals():
            await conn.execute(_Q["insert_rule"], {
                "id": rule, "project": project, "cause": id, "action": made.offer.action, "standing": made.standing,
                "code": cause.code, "kind": cause.kind, "words": cause.words, "reason": made.reason, "actor": made.by,
                "proposal": made.proposal,
            })  # fmt: skip
        batches: list[str] = []
        endings: list[tuple[Ending, str]] = []
        why = ""
        if records:
            count = await self._retry_records(conn, project, records)
        elif made.offer.action == "exclude":
            count, batches, endings = await self._exclude(conn, project, rule, cause, made.packs)
        else:
            count, batches, why = await self._release(conn, project, rule, cause, made.offer, made.packs)
        left = 0 if records else (await _Q.one(conn, "waiting", cause=id, packs=_listed(made.packs))).count
        if not count:
            raise Conflict(why or "none of these packs waits for this cause", where=id)
        await conn.execute(_Q["decided"], {"id": rule, "packs": count})
        proposed = _proposal(await _Q.one(conn, "proposal", id=made.proposal)) if made.proposal else None
        answer = wire.QuarantineDecision(
            rule=_rule(await _Q.one(conn, "rule", id=rule)), proposal=proposed, packs=count, batches=batches, left=left,
            why_left=why if left else "",
        )  # fmt: skip
        # the chains' heads are locked last (D21)
        for ending, batch in endings:
            await self._outcomes.record(conn, project, ending.action, batch, reason=ending.reason)
        details = {
            "cause": id, "code": cause.code, "decision": made.offer.action, "packs": count, "standing": made.standing,
        } | ({"proposal": made.proposal, "proposed by": made.by} if made.proposal else {})  # fmt: skip
        reason = made.confirmed or made.reason
        await self._audit(conn, project, identity.actor, "quarantine decided", rule, reason, request, details)
        return answer

    async def plan_decide(
        self, project: str, actor: str, id: str, body: wire.QuarantineDecisionRequest
    ) -> wire.Plan:
        """What the decision would be about; nothing is changed."""
        await self._learn(project)
        async with self._database.project(project) as conn:
            found, records = await self._find(conn, id)
            offer = _offer(found, body.action)
            standing = _stands(offer, body)
            count = len(records) or (await _Q.one(conn, "waiting", cause=id, packs=body.packs)).count
        step = wire.PlanStep(action=body.action, subject=id, reason=offer.says(standing=standing), bytes=found.bytes)
        counts = {"packs" if not records else "record sets": count, "standing": int(standing)}
        if self._reviewers(found, body.action) < 2:
            return wire.Plan(step="quarantine", counts=counts, bytes=found.bytes, steps=[step])
        first = wire.PlanStep(action="confirm first", subject=id, reason="two persons decide about this: another one"
                              " confirms it before anything happens")  # fmt: skip
        return wire.Plan(step="quarantine", counts=counts, bytes=found.bytes, steps=[first, step])

    async def revoke(
        self, project: str, actor: str, rule: str, body: wire.QuarantineRevokeRequest, *, request: str = ""
    ) -> wire.QuarantineRule:
        """A decision holds no more: what it kept out waits for a person again. What it released stays decided."""
        async with self._database.project(project) as conn:
            row = await _Q.one(conn, "rule", id=rule)
            if row is None:
                raise NotFound("no such decision", where=rule)
            revoked = await _Q.one(conn, "revoke", id=rule, actor=actor, reason=body.reason)
            if revoked is None:
                raise Conflict("this decision holds no more already", where=rule)
            endings: list[tuple[Ending, str]] = []
            for batch in await _Q.many(conn, "lock_batches_of_rule", rule=rule):
                cursor = await conn.execute(_Q["readmit"], {"rule": rule, "batch": batch.id})
                endings += await self._settle(conn, project, batch, row.code, cursor.rowcount)
            answer = _rule(await _Q.one(conn, "rule", id=rule))
            for ending, id in endings:
                await self._outcomes.record(conn, project, ending.action, id, reason=ending.reason)
            details = {"cause": row.cause, "code": row.code, "decision": row.action}
            await self._audit(conn, project, actor, "quarantine revoked", rule, body.reason, request, details)
        return answer

    # --- the ways -------------------------------------------------------------------------------------------

    async def _exclude(
        self, conn: Connection, project: str, rule: str, cause: Cause, packs: Sequence[str] | None
    ) -> tuple[int, list[str], list[tuple[Ending, str]]]:
        total = 0
        batches: list[str] = []
        endings: list[tuple[Ending, str]] = []
        chosen = list(packs) if packs is not None else None
        for batch in await _Q.many(conn, "lock_batches", cause=cause.id, packs=chosen):
            values = {"rule": rule, "cause": cause.id, "batch": batch.id, "packs": chosen}
            cursor = await conn.execute(_Q["exclude"], values)
            if cursor.rowcount:
                total += cursor.rowcount
                batches.append(batch.id)
                endings += await self._settle(conn, project, batch, cause.code, -cursor.rowcount)
        return total, batches, endings

    async def _settle(
        self, conn: Connection, project: str, batch: Any, code: str, undeclared: int
    ) -> list[tuple[Ending, str]]:
        """A batch that ended gets a new proof of what became of its packs, or completes now that nothing of it is
        unaccounted for. One that is at work ends by itself later."""
        if code == "not-declared" and batch.missing_count is not None:
            await conn.execute(_Q["differ"], {"id": batch.id, "by": undeclared})
        if batch.state not in ENDED or batch.found_count is None:
            return []
        if (await _Q.one(conn, "undecided", batch=batch.id)).count:
            return []  # it failed in the middle of its work, and waits to be declared again
        return [(await self._outcomes.close(conn, project, batch.id), batch.id)]

    async def _release(
        self, conn: Connection, project: str, rule: str, cause: Cause, offer: Offer, packs: Sequence[str] | None
    ) -> tuple[int, list[str], str]:
        """Back to the walk. A batch at work is left: its round knows nothing of packs that join it."""
        total, why = 0, ""
        batches: list[str] = []
        shards: list[NewShard] = []
        chosen = list(packs) if packs is not None else None
        for batch in await _Q.many(conn, "lock_batches", cause=cause.id, packs=chosen):
            if batch.state not in ENDED:
                why = "their batches are at work: decide again when they are done"
                continue
            unlike = self._judge(batch.policy) if offer.changed else None
            cursor = await conn.execute(_Q["release"], {
                "rule": rule, "cause": cause.id, "batch": batch.id, "packs": chosen, "unlike": unlike,
                "waive": WAIVERS.get(offer.action),
            })  # fmt: skip
            if not cursor.rowcount:
                why = why or offer.why
                continue
            total += cursor.rowcount
            batches.append(batch.id)
            await conn.execute(_Q["walk_again"], {"id": batch.id})
            shards.append(NewShard(tier_queue(batch.tier), "batch-walk", batch.id, priority=WALK_PRIORITY))
        await add_shards(conn, project, shards)
        return total, batches, why

    async def _retry_records(self, conn: Connection, project: str, records: list[Any]) -> int:
        """Sets whose batch is complete are matched now; the others when it is."""
        cursor = await conn.execute(_Q["retry_records"], {"ids": [row.id for row in records]})
        await add_shards(conn, project, [
            NewShard(tier_queue(row.tier), "records-match", row.id, priority=RECORDS_PRIORITY)
            for row in records if row.batch_state == "complete"
        ])  # fmt: skip
        return cursor.rowcount

    # --- who decides, and what is shown -----------------------------------------------------------------------

    def _reviewers(self, found: wire.QuarantineCause, action: str) -> int:
        return next(offer.reviewers for offer in found.offers if offer.action == action)

    def _shown(self, row: Any, said: Said) -> wire.QuarantineCause:
        cause = cause_of(row.code, row.explanation, row.kind)
        return self._cause(
            cause, of_cause(said, cause.kind, row.policies), count=row.count, bytes=row.bytes, batches=row.batches,
            since=row.since, packs=list(row.packs),
        )  # fmt: skip

    def _grouped(self, rows: Sequence[Any], said: Said) -> list[wire.QuarantineCause]:
        """Sets of tables by cause."""
        groups: dict[str, list[Any]] = {}
        for row in rows:
            groups.setdefault(_cause_of_records(row).id, []).append(row)
        since: Callable[[Any], Any] = lambda row: row.finished_at or row.created_at  # noqa: E731
        return [
            self._cause(
                _cause_of_records(held[0]), of_cause(said, RECORDS, {row.policy for row in held}),
                count=len(held), bytes=0, batches=len({row.batch_id for row in held}), since=min(map(since, held)),
                packs=[row.id for row in held[:5]],
            )
            for held in groups.values()
        ]  # fmt: skip

    def _cause(self, cause: Cause, said: Sequence[Reviewing], **counted: Any) -> wire.QuarantineCause:
        offered = [
            wire.QuarantineOffer(
                action=one.action, why=one.why, standing=one.standing, changed=one.changed, later=one.later,
                reviewers=reviewers(cause, one.action, said),
            )
            for one in offers(cause)
        ]  # fmt: skip
        return wire.QuarantineCause(
            id=cause.id, code=cause.code, kind=cause.kind, words=cause.words, offers=offered, advice=advice(cause),
            proposal=proposal(cause),
            **counted,
        )  # fmt: skip

    async def _said(self, conn: Connection, rows: Sequence[Any], records: Sequence[Any]) -> Said:
        """By the policies of what waits."""
        names = {name for row in rows for name in row.policies} | {row.policy for row in records}
        return await said_by(conn, self._policies, names)

    def _who(self, identity: Identity) -> dict[str, object]:
        return {"proof": identity.proven, "actor": identity.actor, "node": self._node}

    def _judge(self, policy: str) -> str:
        images = self._policies.get(policy, ImagesPolicy)
        return judge_of(self._policies.profile(images.profile))

    async def _audit(
        self, conn: Connection, project: str, actor: str, action: str, subject: str, reason: str, request: str,
        details: dict[str, Any],
    ) -> None:  # fmt: skip
        await audit.record(
            conn, project=project, node=self._node, actor=actor, action=action, subject=subject, reason=reason,
            request=request, details=details,
        )  # fmt: skip


# --- small tools -------------------------------------------------------------------------------------------


def _stands(offer: Offer, body: wire.QuarantineDecisionRequest) -> bool:
    """Does the decision hold for what comes later? By default where that is sound and nobody chose single packs."""
    if body.standing and not offer.standing:
        raise RequestInvalid(
            f"{offer.action} cannot hold for packs that nobody has seen yet", hint="Decide about those that wait."
        )
    return offer.standing and body.packs is None if body.standing is None else body.standing


def _offer(found: wire.QuarantineCause, action: str) -> Offer:
    return check_decision(_cause_in(found), action)


def _cause_in(found: wire.QuarantineCause) -> Cause:
    return Cause(found.id, found.code, found.kind, found.words)


def _listed(packs: Sequence[str] | None) -> list[str] | None:
    return None if packs is None else list(packs)


def _cause_of_records(row: Any) -> Cause:
    return cause_of(row.reason, row.explanation, RECORDS)


def _proposal(row: Any) -> wire.QuarantineProposal:
    values = {name: getattr(row, name) for name in wire.QuarantineProposal.__struct_fields__}
    lapsed = row.state == "open" and row.lapses_at <= row.now
    return wire.QuarantineProposal(**values | ({"state": "lapsed"} if lapsed else {}))


def _rule(row: Any) -> wire.QuarantineRule:
    values = {name: getattr(row, name) for name in wire.QuarantineRule.__struct_fields__}
    return wire.QuarantineRule(**values)
