"""Step 4: snapshots, their files, checking, and what retention would forget."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from mover.api.operation import Call, Limit, Operations, Paged, PathQuery, Query, ShortQuery
from mover.model import wire

OPERATIONS = Operations()


class SnapshotsQuery(Paged, frozen=True):
    run: ShortQuery | None = None
    series: ShortQuery | None = None
    tag: ShortQuery | None = None
    policy: ShortQuery | None = None
    since: datetime | None = None
    until: datetime | None = None
    state: Literal["written", "checked", "trashed", "forgotten"] | None = None


class PolicyQuery(Query, frozen=True):
    policy: ShortQuery | None = None


class FilesQuery(Query, frozen=True):
    path: PathQuery = "/"
    after: PathQuery | None = None
    limit: Limit = 100


@OPERATIONS.add("GET", "/v1/snapshots", "snapshots.read", wire.SnapshotPage, query=SnapshotsQuery)
async def list_snapshots(call: Call[None, SnapshotsQuery]) -> wire.SnapshotPage:
    """The project's snapshots, newest on record first: of a run, a series or a tag, or of a policy in one state.

    The trash is `trashed`; `since` and `until` bound when they were recorded."""
    query = call.query
    return await call.rooms.snapshots.list(
        call.project, run=query.run, series=query.series, tag=query.tag, state=query.state, policy=query.policy,
        since=query.since, until=query.until, after=query.after, limit=query.limit,
    )  # fmt: skip


# the two fixed paths stand before {id}, which would take them
@OPERATIONS.add("GET", "/v1/snapshots/forget-plan", "snapshots.read", wire.Plan, query=PolicyQuery)
async def forget_plan(call: Call[None, PolicyQuery]) -> wire.Plan:
    """What the rules of a policy would keep and forget now, each with its reason; nothing is changed."""
    return await call.rooms.retention.forget_plan(call.project, call.query.policy)


@OPERATIONS.add("POST", "/v1/snapshots/simulate", "snapshots.read", wire.Simulation, body=wire.SimulationRequest)
async def simulate(call: Call[wire.SimulationRequest, Query]) -> wire.Simulation:
    """What other keep rules would have kept and will keep; nothing is changed."""
    return await call.rooms.retention.simulate(call.project, call.body)


@OPERATIONS.add("POST", "/v1/snapshots/check", "snapshots.check", wire.Check)
async def check(call: Call[None, Query]) -> wire.Check:
    """Read the repository back: every object is decrypted and hashed."""
    return await call.rooms.snapshots.check(call.project)


@OPERATIONS.add("GET", "/v1/snapshots/{id}", "snapshots.read", wire.Snapshot)
async def view(call: Call[None, Query]) -> wire.Snapshot:
    """One snapshot."""
    return await call.rooms.snapshots.view(call.project, call.id)


@OPERATIONS.add(
    "GET", "/v1/snapshots/{id}/files", "snapshots.read", wire.SnapshotFiles, query=FilesQuery, reads="snapshot"
)
async def files(call: Call[None, FilesQuery]) -> wire.SnapshotFiles:
    """What lies under a path of a snapshot."""
    query = call.query
    return await call.rooms.snapshots.files(call.project, call.id, query.path, query.after, query.limit)


@OPERATIONS.add("POST", "/v1/snapshots/{id}/holds", "snapshots.hold", wire.Snapshot, body=wire.HoldRequest)
async def hold(call: Call[wire.HoldRequest, Query]) -> wire.Snapshot:
    """Keep a snapshot whatever the rules say; only two persons release a hold before its end."""
    return await call.rooms.holds.hold(call.identity, call.id, call.body)


@OPERATIONS.add("POST", "/v1/snapshots/{id}/untrash", "snapshots.hold", wire.Snapshot, body=wire.HoldRequest)
async def untrash(call: Call[wire.HoldRequest, Query]) -> wire.Snapshot:
    """Bring a snapshot back from the trash, held for 30 days if no `until` is said."""
    return await call.rooms.holds.untrash(call.identity, call.id, call.body)


@OPERATIONS.add("POST", "/v1/snapshots/{id}/tags", "snapshots.hold", wire.Snapshot, body=wire.TagRequest)
async def tag(call: Call[wire.TagRequest, Query]) -> wire.Snapshot:
    """Add tags, which keep rules may name; only two persons take one away."""
    return await call.rooms.holds.tag(call.identity, call.id, call.body)
