"""What claims to be clean: scans of deidentified tiers, their verdicts, and what becomes slides of it."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Paged, Query, Streamed, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"scanned", "complete", "failed"})
MEDIA_TYPE = "application/jsonl; charset=utf-8"


@OPERATIONS.add(
    "POST", "/v1/adoptions", "adoptions.request", wire.Adoption, body=wire.AdoptionRequest, status=202
)
async def request(call: Call[wire.AdoptionRequest, Query]) -> wire.Adoption:
    """Scan what stands on a deidentified tier as if it were a source; what is clean is registered where it lies."""
    return await call.rooms.adoptions.request(call.project, call.actor, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/adoptions", "adoptions.read", wire.AdoptionPage, query=Paged)
async def list_adoptions(call: Call[None, Paged]) -> wire.AdoptionPage:
    """The scans of the project, newest first."""
    return await call.rooms.adoptions.list(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/adoptions/{id}", "adoptions.read", wire.Adoption, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Adoption:
    """One scan with its verdicts; with `wait`, as soon as its state changes or is final."""
    return await call.until(lambda: call.rooms.adoptions.view(call.project, call.id), FINAL)


@OPERATIONS.add(
    "POST", "/v1/adoptions/{id}/register", "adoptions.request", wire.Adoption, body=wire.AdoptionRegister, status=202
)
async def register(call: Call[wire.AdoptionRegister, Query]) -> wire.Adoption:
    """The verdicts were seen: register what is clean of it."""
    return await call.rooms.adoptions.register(call.project, call.actor, call.id, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/adoptions/{id}/report", "adoptions.read", str, media_type=MEDIA_TYPE)
async def report(call: Call[None, Query]) -> Streamed:
    """Every file with its verdict and the places that would go, by masked shape, as JSON lines."""
    return Streamed(call.rooms.adoptions.report(call.project, call.id), MEDIA_TYPE)
