"""Restores as jobs: ask, follow, give up; the versions of a path."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from mover.api.operation import Call, Limit, Operations, Paged, PathQuery, Planned, Query, ShortQuery, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"complete", "incomplete", "cancelled", "failed"})


class VersionsQuery(Query, frozen=True):
    path: PathQuery
    run: ShortQuery | None = None
    series: ShortQuery | None = None
    as_of: datetime | None = None
    every: bool = False
    after: Annotated[int, Meta(ge=1)] | None = None
    limit: Limit = 100


class DiffQuery(Query, frozen=True):
    to: ShortQuery
    path: PathQuery = "/"
    after: PathQuery | None = None
    limit: Limit = 100


@OPERATIONS.add(
    "POST", "/v1/restores", "restores.request", wire.Restore,
    body=wire.RestoreRequest, query=Planned, status=202, key="required",
)  # fmt: skip
async def request(call: Call[wire.RestoreRequest, Planned]) -> wire.Restore | wire.Plan:
    """Bring a snapshot, or a path of it, into a folder; the same Idempotency-Key gives the same restore."""
    if call.query.plan:
        return await call.rooms.restores.plan_request(call.identity, call.body)
    return await call.rooms.restores.request(call.identity, call.body, key=call.key, request=call.request)


@OPERATIONS.add("GET", "/v1/restores", "restores.read", wire.RestorePage, query=Paged)
async def list_restores(call: Call[None, Paged]) -> wire.RestorePage:
    """The restores of the project, newest first."""
    return await call.rooms.restores.list(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/restores/{id}", "restores.read", wire.Restore, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Restore:
    """One restore: how far, how fast, what is damaged; with `wait`, as soon as its state changes or is final."""
    return await call.until(lambda: call.rooms.restores.view(call.project, call.id), FINAL)


@OPERATIONS.add("POST", "/v1/restores/{id}/cancel", "restores.request", wire.Restore, status=202)
async def cancel(call: Call[None, Query]) -> wire.Restore:
    """Stop between two pieces; what has landed stays."""
    return await call.rooms.restores.cancel(call.identity, call.id, request=call.request)


@OPERATIONS.add("GET", "/v1/versions", "snapshots.read", wire.VersionPage, query=VersionsQuery)
async def versions(call: Call[None, VersionsQuery]) -> wire.VersionPage:
    """The versions of a path over the snapshots of a run or series, newest on record first."""
    query = call.query
    return await call.rooms.versions.versions(
        call.project, query.path, run=query.run, series=query.series, as_of=query.as_of, every=query.every,
        after=query.after, limit=query.limit,
    )  # fmt: skip


@OPERATIONS.add("GET", "/v1/snapshots/{id}/diff", "snapshots.read", wire.SnapshotDiff, query=DiffQuery)
async def diff(call: Call[None, DiffQuery]) -> wire.SnapshotDiff:
    """What is different in another snapshot: added, removed, changed, or other facts of the same content."""
    query = call.query
    return await call.rooms.versions.diff(
        call.project, call.id, query.to, path=query.path, beyond=query.after, limit=query.limit
    )
