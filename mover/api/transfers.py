"""The general verb: copy or move between tiers, look, steer, report."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

from mover.api.operation import Call, Operations, Paged, Planned, Query, Streamed, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"done", "incomplete", "refused", "failed", "aborted"})
MEDIA_TYPES = {"jsonl": "application/jsonl; charset=utf-8", "csv": "text/csv; charset=utf-8"}


class ReportQuery(Query, frozen=True):
    format: Literal["jsonl", "csv"] = "jsonl"


@OPERATIONS.add(
    "POST", "/v1/transfers", "transfers.request", wire.Transfer,
    body=wire.TransferRequest, query=Planned, status=202, key="required",
)  # fmt: skip
async def request(call: Call[wire.TransferRequest, Planned]) -> wire.Transfer | wire.Plan:
    """Copy or move a tree, a list or what a condition selects; the same Idempotency-Key gives the same transfer."""
    if call.query.plan:
        return await call.rooms.transfers.plan_request(call.identity, call.body)
    return await call.rooms.transfers.request(call.identity, call.body, key=call.key, request=call.request)


@OPERATIONS.add("GET", "/v1/transfers", "transfers.read", wire.TransferPage, query=Paged)
async def list_transfers(call: Call[None, Paged]) -> wire.TransferPage:
    """The transfers of the project, newest first."""
    return await call.rooms.transfers.list(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/transfers/{id}", "transfers.read", wire.Transfer, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Transfer:
    """One transfer: how far, how fast, what failed; with `wait`, as soon as its state changes or is final."""
    return await call.until(lambda: call.rooms.transfers.view(call.project, call.id), FINAL)


@OPERATIONS.add(
    "GET", "/v1/transfers/{id}/report", "transfers.read", str, query=ReportQuery, media_type=MEDIA_TYPES["jsonl"]
)
async def report(call: Call[None, ReportQuery]) -> Streamed:
    """Every entry with its outcome, as JSON lines or CSV; bytes in names that are no text as \\xNN."""
    lines: AsyncIterator[bytes] = call.rooms.transfers.report(call.project, call.id, call.query.format)
    return Streamed(lines, MEDIA_TYPES[call.query.format])


@OPERATIONS.add("POST", "/v1/transfers/{id}/pause", "transfers.steer", wire.Transfer, status=202)
async def pause(call: Call[None, Query]) -> wire.Transfer:
    """Finish what is on its way, begin nothing new."""
    return await call.rooms.transfers.pause(call.identity, call.id)


@OPERATIONS.add("POST", "/v1/transfers/{id}/resume", "transfers.steer", wire.Transfer, status=202)
async def resume(call: Call[None, Query]) -> wire.Transfer:
    """Go on after a pause, or try again what failed."""
    return await call.rooms.transfers.resume(call.identity, call.id)


@OPERATIONS.add("POST", "/v1/transfers/{id}/abort", "transfers.steer", wire.Transfer, status=202)
async def abort(call: Call[None, Query]) -> wire.Transfer:
    """Give up the rest; what was moved stays, and sources that wait to be released stay too."""
    return await call.rooms.transfers.abort(call.identity, call.id)


@OPERATIONS.add("POST", "/v1/transfers/{id}/approve", "transfers.approve", wire.Transfer, status=202)
async def approve(call: Call[None, Query]) -> wire.Transfer:
    """Go on after the canary; or, as a second person, let a large release of sources begin."""
    return await call.rooms.transfers.approve(call.identity, call.id)


@OPERATIONS.add("POST", "/v1/transfers/{id}/restore", "transfers.restore", wire.Transfer, status=202)
async def restore(call: Call[None, Query]) -> wire.Transfer:
    """Bring released sources back from the trash while they are held."""
    return await call.rooms.transfers.restore(call.identity, call.id)
