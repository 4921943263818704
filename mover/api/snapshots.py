"""Step 4: snapshots, their files, checking, and what retention would forget."""

from __future__ import annotations

from mover.api.operation import Call, Limit, Operations, PathQuery, Query, ShortQuery
from mover.model import wire

OPERATIONS = Operations()


class OfRun(Query, frozen=True):
    run: ShortQuery | None = None


class FilesQuery(Query, frozen=True):
    path: PathQuery = "/"
    after: PathQuery | None = None
    limit: Limit = 100


@OPERATIONS.add("GET", "/v1/snapshots", "snapshots.read", wire.SnapshotPage, query=OfRun)
async def list_snapshots(call: Call[None, OfRun]) -> wire.SnapshotPage:
    """The snapshots of the project or of one run."""
    return await call.rooms.snapshots.list(call.project, call.query.run)


# the two fixed paths stand before {id}, which would take them
@OPERATIONS.add("GET", "/v1/snapshots/forget-plan", "snapshots.read", wire.Plan)
async def forget_plan(call: Call[None, Query]) -> wire.Plan:
    """What the retention rules would keep and forget now, each with its reason; nothing is changed."""
    return await call.rooms.retention.forget_plan(call.project)


@OPERATIONS.add("POST", "/v1/snapshots/check", "snapshots.check", wire.Check)
async def check(call: Call[None, Query]) -> wire.Check:
    """Read the repository back: every object is decrypted and hashed."""
    return await call.rooms.snapshots.check(call.project)


@OPERATIONS.add("GET", "/v1/snapshots/{id}", "snapshots.read", wire.Snapshot)
async def view(call: Call[None, Query]) -> wire.Snapshot:
    """One snapshot."""
    return await call.rooms.snapshots.view(call.project, call.id)


@OPERATIONS.add("GET", "/v1/snapshots/{id}/files", "snapshots.read", wire.SnapshotFiles, query=FilesQuery)
async def files(call: Call[None, FilesQuery]) -> wire.SnapshotFiles:
    """What lies under a path of a snapshot."""
    query = call.query
    return await call.rooms.snapshots.files(call.project, call.id, query.path, query.after, query.limit)
