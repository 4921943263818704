"""What makes protection shorter and so takes two persons and a delay; and what holds."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Paged, Planned, Query
from mover.model import wire

OPERATIONS = Operations()


@OPERATIONS.add("GET", "/v1/protection", "snapshots.read", wire.Protection)
async def protection(call: Call[None, Query]) -> wire.Protection:
    """What holds for each protect policy, whatever its file says, what is doubtful or missing, and what waits."""
    return await call.rooms.upkeep.view(call.project)


@OPERATIONS.add("POST", "/v1/protection/rebuild", "snapshots.rebuild", wire.Rebuilds, status=202)
async def rebuild(call: Call[None, Query]) -> wire.Rebuilds:
    """The catalog was lost: find the snapshots again that the repositories hold and it does not know."""
    return await call.rooms.rebuild.request(call.identity)


@OPERATIONS.add(
    "POST", "/v1/shortenings", "shortenings.ask", wire.Shortening, body=wire.ShorteningRequest, query=Planned,
    status=201,
)  # fmt: skip
async def ask(call: Call[wire.ShorteningRequest, Planned]) -> wire.Shortening | wire.Plan:
    """Ask for what shortens protection; another person approves, and the policy's delay passes."""
    if call.query.plan:
        return await call.rooms.shortenings.plan(call.identity, call.body)
    return await call.rooms.shortenings.ask(call.identity, call.body)


@OPERATIONS.add("GET", "/v1/shortenings", "shortenings.read", wire.ShorteningPage, query=Paged)
async def list_shortenings(call: Call[None, Paged]) -> wire.ShorteningPage:
    """What was asked for, newest first."""
    return await call.rooms.shortenings.list(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/shortenings/{id}", "shortenings.read", wire.Shortening)
async def view(call: Call[None, Query]) -> wire.Shortening:
    """One of them: who asked, who approved, not before when."""
    return await call.rooms.shortenings.view(call.project, call.id)


@OPERATIONS.add("POST", "/v1/shortenings/{id}/approve", "shortenings.approve", wire.Shortening)
async def approve(call: Call[None, Query]) -> wire.Shortening:
    """Agree, as another person than who asked."""
    return await call.rooms.shortenings.approve(call.identity, call.id)


@OPERATIONS.add("POST", "/v1/shortenings/{id}/withdraw", "shortenings.ask", wire.Shortening)
async def withdraw(call: Call[None, Query]) -> wire.Shortening:
    """Take it back: protection stays as it is."""
    return await call.rooms.shortenings.withdraw(call.identity, call.id)
