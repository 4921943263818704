"""Plain folders that policies protect: how far they are, and now instead of later."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query
from mover.model import wire

OPERATIONS = Operations()


@OPERATIONS.add("GET", "/v1/folders", "folders.read", wire.ProtectedFolders)
async def list_folders(call: Call[None, Query]) -> wire.ProtectedFolders:
    """Every folder of every protect policy: its schedule, its newest whole snapshot, what is not in it yet."""
    return await call.rooms.folders.list(call.project)


@OPERATIONS.add("POST", "/v1/folders/{id}/protect", "folders.protect", wire.ProtectedFolder, status=202)
async def protect(call: Call[None, Query]) -> wire.ProtectedFolder:
    """Protect it at the daemon's next turn, whatever its schedule says; by its id or its name."""
    return await call.rooms.folders.ask(call.identity, call.id)
