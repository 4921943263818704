"""Sealed dumps of vault and catalog: made, looked at, drilled. What is in them is opened by two key files only."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"verified", "failed", "damaged", "gone"})


@OPERATIONS.add("POST", "/v1/dumps", "dumps.make", wire.Dump, body=wire.DumpRequest, status=202)
async def make(call: Call[wire.DumpRequest, Query]) -> wire.Dump:
    """Dump vault and catalog now; one that is being made already is that one."""
    return await call.rooms.dumps.request(call.identity, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/dumps", "dumps.read", wire.Dumps)
async def list_dumps(call: Call[None, Query]) -> wire.Dumps:
    """The dumps, newest first, and whether new slides are released."""
    return await call.rooms.dumps.list(call.project)


@OPERATIONS.add("GET", "/v1/dumps/{id}", "dumps.read", wire.Dump, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Dump:
    """One dump with its copies and drills; with `wait`, as soon as its state changes or is final."""
    return await call.until(lambda: call.rooms.dumps.view(call.project, call.id), FINAL)


@OPERATIONS.add("POST", "/v1/dumps/{id}/drill", "dumps.drill", wire.Dump, status=202)
async def drill(call: Call[None, Query]) -> wire.Dump:
    """Read both copies again; where this site's daemon has been given both key files, restore one and compare."""
    return await call.rooms.dumps.request_drill(call.identity, call.id, request=call.request)
