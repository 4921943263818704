"""Verifications: read again what stands on a tier, look, end, report."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from mover.api.operation import Call, Operations, Paged, Planned, Query, Streamed, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"complete", "failed", "aborted"})
MEDIA_TYPES = {"jsonl": "application/jsonl; charset=utf-8", "csv": "text/csv; charset=utf-8"}


class ReportQuery(Query, frozen=True):
    format: Literal["jsonl", "csv"] = "jsonl"


@OPERATIONS.add(
    "POST", "/v1/verifications", "verifications.request", wire.Verification,
    body=wire.VerificationRequest, query=Planned, status=202,
)  # fmt: skip
async def request(call: Call[wire.VerificationRequest, Planned]) -> wire.Verification | wire.Plan:
    """Read a tier, a run root or a list of keys again, cold, and compare with the catalog."""
    if call.query.plan:
        return await call.rooms.verifications.plan_request(call.identity, call.body)
    return await call.rooms.verifications.request(call.identity, call.body, key=call.key, request=call.request)


@OPERATIONS.add("GET", "/v1/verifications", "verifications.read", wire.VerificationPage, query=Paged)
async def list_verifications(call: Call[None, Paged]) -> wire.VerificationPage:
    """The verifications of the project, newest first."""
    return await call.rooms.verifications.list(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/verifications/{id}", "verifications.read", wire.Verification, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Verification:
    """One verification: how far, what was found; with `wait`, as soon as its state changes or is final."""
    return await call.until(lambda: call.rooms.verifications.view(call.project, call.id), FINAL)


@OPERATIONS.add("GET", "/v1/verifications/{id}/findings", "verifications.read", wire.FindingPage, query=Paged)
async def findings(call: Call[None, Paged]) -> wire.FindingPage:
    """What is not as the catalog says, in the order in which it was found."""
    return await call.rooms.verifications.findings(call.project, call.id, call.query.after, call.query.limit)


@OPERATIONS.add(
    "GET", "/v1/verifications/{id}/report", "verifications.read", str, query=ReportQuery,
    media_type=MEDIA_TYPES["jsonl"],
)  # fmt: skip
async def report(call: Call[None, ReportQuery]) -> Streamed:
    """Every entry with what was found, as JSON lines or CSV; bytes in names that are no text as \\xNN."""
    lines: AsyncIterator[bytes] = call.rooms.verifications.report(call.project, call.id, call.query.format)
    return Streamed(lines, MEDIA_TYPES[call.query.format])


@OPERATIONS.add("POST", "/v1/verifications/{id}/abort", "verifications.request", wire.Verification, status=202)
async def abort(call: Call[None, Query]) -> wire.Verification:
    """Read no further; what was found stays."""
    return await call.rooms.verifications.abort(call.identity, call.id, request=call.request)
