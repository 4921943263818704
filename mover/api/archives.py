"""Archives that are kept with their runs: second copies, locks, damage; and a turn now instead of later."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query
from mover.model import wire

OPERATIONS = Operations()


@OPERATIONS.add("GET", "/v1/archives", "archives.read", wire.Archives)
async def list_archives(call: Call[None, Query]) -> wire.Archives:
    """How the slides of every archive policy stand, and what its newest turn did."""
    return await call.rooms.archives.list(call.project)


@OPERATIONS.add("POST", "/v1/archives/{id}/keep", "archives.keep", wire.Archive, status=202)
async def keep(call: Call[None, Query]) -> wire.Archive:
    """Copy and lock what is due now, whatever the time; by the policy's name. One that runs goes on."""
    return await call.rooms.archives.ask(call.identity, call.id, request=call.request)
