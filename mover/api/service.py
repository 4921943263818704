"""The machine itself: tiers, policies, and how it is doing."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query
from mover.model import wire

OPERATIONS = Operations()


@OPERATIONS.add("GET", "/v1/tiers", "tiers.read", wire.Tiers)
async def tiers(call: Call[None, Query]) -> wire.Tiers:
    """The tiers with zone, role, traits and room."""
    return await call.rooms.tiers()


@OPERATIONS.add("GET", "/v1/policies", "policies.read", wire.Policies)
async def policies(call: Call[None, Query]) -> wire.Policies:
    """The policies in force, with their text and digest."""
    return await call.rooms.policies.all()


@OPERATIONS.add("GET", "/v1/status", "status.read", wire.Status)
async def status(call: Call[None, Query]) -> wire.Status:
    """Who you are to this daemon, and how much work waits."""
    return await call.rooms.status(call.identity)


@OPERATIONS.add("POST", "/v1/reload", "service.reload", wire.Reload)
async def reload(call: Call[None, Query]) -> wire.Reload:
    """Take what its files say now, and say what waits for a restart."""
    return await call.rooms.reload(call.project, by=call.actor, request=call.request)
