"""What waits for a person, by cause, and the way out."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Paged, Planned, Query, ShortQuery
from mover.model import wire

OPERATIONS = Operations()


class OfBatch(Query, frozen=True):
    batch: ShortQuery | None = None


class Standing(Query, frozen=True):
    """With `standing=true` only decisions that hold for what comes later."""

    standing: bool = False


class Open(Query, frozen=True):
    """With `open=true` only those that wait for a second person."""

    open: bool = False


@OPERATIONS.add("GET", "/v1/quarantine", "quarantine.read", wire.QuarantineCauses, query=OfBatch)
async def causes(call: Call[None, OfBatch]) -> wire.QuarantineCauses:
    """What waits in the project or in one batch, by cause, with the decisions that are sound."""
    return await call.rooms.quarantine.causes(call.project, call.query.batch)


@OPERATIONS.add("GET", "/v1/quarantine/{cause}", "quarantine.read", wire.QuarantineCause, query=Paged)
async def view(call: Call[None, Paged]) -> wire.QuarantineCause:
    """One cause with a page of what waits for it."""
    return await call.rooms.quarantine.cause(call.project, call.id, call.query.after, call.query.limit)


@OPERATIONS.add(
    "POST",
    "/v1/quarantine/{cause}/decisions",
    "quarantine.decide",
    wire.QuarantineDecision,
    body=wire.QuarantineDecisionRequest,
    query=Planned,
)
async def decide(call: Call[wire.QuarantineDecisionRequest, Planned]) -> wire.QuarantineDecision | wire.Plan:
    """Decide about everything that waits for a cause, or propose it where two persons decide."""
    if call.query.plan:
        return await call.rooms.quarantine.plan_decide(call.project, call.actor, call.id, call.body)
    return await call.rooms.quarantine.decide(call.identity, call.id, call.body, request=call.request)


@OPERATIONS.add(
    "POST",
    "/v1/quarantine/{cause}/draft",
    "policies.change",
    wire.QuarantineDraft,
    body=wire.QuarantineDraftRequest,
)
async def draft(call: Call[wire.QuarantineDraftRequest, Query]) -> wire.QuarantineDraft:
    """The policy with the rule that an unlisted column lacks; nothing is saved."""
    return await call.rooms.quarantine.draft(call.project, call.id, call.body)


@OPERATIONS.add("GET", "/v1/quarantine-proposals", "quarantine.read", wire.QuarantineProposals, query=Open)
async def proposals(call: Call[None, Open]) -> wire.QuarantineProposals:
    """Decisions that one person proposed to another, the newest first."""
    return await call.rooms.quarantine.proposals(call.project, open=call.query.open)


@OPERATIONS.add(
    "POST",
    "/v1/quarantine-proposals/{id}/review",
    "quarantine.decide",
    wire.QuarantineDecision,
    body=wire.QuarantineReview,
)
async def review(call: Call[wire.QuarantineReview, Query]) -> wire.QuarantineDecision:
    """Another person confirms what was proposed, and it is done; or declines it."""
    return await call.rooms.quarantine.review(call.identity, call.id, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/quarantine-rules", "quarantine.read", wire.QuarantineRules, query=Standing)
async def rules(call: Call[None, Standing]) -> wire.QuarantineRules:
    """The decisions, the newest first."""
    return await call.rooms.quarantine.rules(call.project, standing=call.query.standing)


@OPERATIONS.add(
    "POST",
    "/v1/quarantine-rules/{id}/revoke",
    "quarantine.decide",
    wire.QuarantineRule,
    body=wire.QuarantineRevokeRequest,
)
async def revoke(call: Call[wire.QuarantineRevokeRequest, Query]) -> wire.QuarantineRule:
    """A decision holds no more; what it kept out waits for a person again."""
    return await call.rooms.quarantine.revoke(call.project, call.actor, call.id, call.body, request=call.request)
