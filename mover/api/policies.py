"""Policies: read, checked while somebody types, changed with a plan first, agreed on by a second person."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Paged, Planned, Query, ShortQuery
from mover.model import wire

OPERATIONS = Operations()


class PolicyChangesQuery(Paged, frozen=True):
    """Of one policy; `waiting`: those that nobody agreed on yet."""

    name: ShortQuery | None = None
    waiting: bool = False


@OPERATIONS.add("GET", "/v1/policy-schema", "policies.read", wire.PolicySchema)
async def schema(call: Call[None, Query]) -> wire.PolicySchema:
    """The JSON Schema of policies, and the tiers, receivers and profiles that they can name here."""
    return await call.rooms.policies.schema()


@OPERATIONS.add("POST", "/v1/policy-check", "policies.change", wire.PolicyChecked, body=wire.PolicyCheckRequest)
async def check(call: Call[wire.PolicyCheckRequest, Query]) -> wire.PolicyChecked:
    """Every mistake of a text with its line and column, and the text as values; nothing is kept."""
    return await call.rooms.policies.check(call.body)


@OPERATIONS.add("GET", "/v1/policies/{name}", "policies.read", wire.PolicyDetail)
async def view(call: Call[None, Query]) -> wire.PolicyDetail:
    """One policy: its text, what of it holds, and what waits for a second person."""
    return await call.rooms.policies.view(call.project, call.id)


@OPERATIONS.add("GET", "/v1/policies/{name}/versions", "policies.read", wire.PolicyVersionPage, query=Paged)
async def versions(call: Call[None, Paged]) -> wire.PolicyVersionPage:
    """What stood under this name, newest first: by whom, why, and what was another before."""
    return await call.rooms.policies.versions(call.id, call.query.after, call.query.limit)


@OPERATIONS.add(
    "POST", "/v1/policies/{name}", "policies.change", wire.PolicyChange, body=wire.PolicyChangeRequest, query=Planned
)
async def change(call: Call[wire.PolicyChangeRequest, Planned]) -> wire.PolicyChange | wire.Plan:
    """Make or change a policy; what is risky waits for a second person, all else acts at once."""
    body = call.body
    if call.query.plan:
        return await call.rooms.policies.plan(call.identity, call.id, body.text, body.digest)
    return await call.rooms.policies.change(call.identity, call.id, body.text, body.digest, body.reason)


@OPERATIONS.add(
    "POST", "/v1/policies/{name}/remove", "policies.change", wire.PolicyChange, body=wire.PolicyRemovalRequest,
    query=Planned,
)  # fmt: skip
async def remove(call: Call[wire.PolicyRemovalRequest, Planned]) -> wire.PolicyChange | wire.Plan:
    """The policy goes; its versions stay readable."""
    body = call.body
    if call.query.plan:
        return await call.rooms.policies.plan(call.identity, call.id, None, body.digest)
    return await call.rooms.policies.change(call.identity, call.id, None, body.digest, body.reason)


@OPERATIONS.add("GET", "/v1/policy-changes", "policies.read", wire.PolicyChangePage, query=PolicyChangesQuery)
async def list_changes(call: Call[None, PolicyChangesQuery]) -> wire.PolicyChangePage:
    """Changes that were asked for, newest first."""
    query = call.query
    return await call.rooms.policies.changes(call.project, query.name, query.waiting, query.after, query.limit)


@OPERATIONS.add("GET", "/v1/policy-changes/{id}", "policies.read", wire.PolicyChange)
async def view_change(call: Call[None, Query]) -> wire.PolicyChange:
    """One of them: its text, why it waits, who asked and who agreed."""
    return await call.rooms.policies.view_change(call.project, call.id)


@OPERATIONS.add("POST", "/v1/policy-changes/{id}/approve", "policies.approve", wire.PolicyChange)
async def approve(call: Call[None, Query]) -> wire.PolicyChange:
    """Agree, as another person than who asked: then it is carried out."""
    return await call.rooms.policies.approve(call.identity, call.id)


@OPERATIONS.add("POST", "/v1/policy-changes/{id}/withdraw", "policies.change", wire.PolicyChange)
async def withdraw(call: Call[None, Query]) -> wire.PolicyChange:
    """Take it back: the policy stays as it is."""
    return await call.rooms.policies.withdraw(call.identity, call.id)
