"""Walks: what stands on the tiers, and how far it has drifted from the catalog."""

from __future__ import annotations

from mover.api.operation import Call, Limit, Operations, Paged, PathQuery, Query, ShortQuery, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"complete", "caught-up", "incomplete", "failed"})


class ScansQuery(Query, frozen=True):
    tier: ShortQuery | None = None
    after: PathQuery | None = None
    limit: Limit = 100


@OPERATIONS.add("POST", "/v1/scans", "scans.declare", wire.Scan, body=wire.ScanRequest, status=202)
async def declare(call: Call[wire.ScanRequest, Query]) -> wire.Scan:
    """Walk a tier, or a folder of it, into the catalog; the same place again is the scan that runs there."""
    return await call.rooms.scans.declare(call.project, call.actor, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/scans", "scans.read", wire.ScanPage, query=ScansQuery)
async def list_scans(call: Call[None, ScansQuery]) -> wire.ScanPage:
    """The scans of the project or of one tier, newest first."""
    query = call.query
    return await call.rooms.scans.list(call.project, query.tier, query.after, query.limit)


@OPERATIONS.add("GET", "/v1/scans/{id}", "scans.read", wire.Scan, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Scan:
    """One scan: how far, what could not be seen, what drifted; with `wait`, as soon as its state changes."""
    return await call.until(lambda: call.rooms.scans.view(call.project, call.id), FINAL)


@OPERATIONS.add("GET", "/v1/scans/{id}/findings", "scans.read", wire.ScanFindingPage, query=Paged)
async def findings(call: Call[None, Paged]) -> wire.ScanFindingPage:
    """What could not be seen and what drifted, by code; paths of deidentified tiers only."""
    return await call.rooms.scans.findings(call.project, call.id, call.query.after, call.query.limit)
