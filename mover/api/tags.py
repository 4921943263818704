"""Tags of slides: which there are, the changes that put them, and the taking back of a change."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Paged, Planned, Query, ShortQuery
from mover.model import wire

OPERATIONS = Operations()


class ChangesQuery(Paged, frozen=True):
    tag: ShortQuery | None = None


@OPERATIONS.add("GET", "/v1/tags", "tags.read", wire.Tags)
async def list_tags(call: Call[None, Query]) -> wire.Tags:
    """The tags of the project, with how many slides have each."""
    return await call.rooms.tags.list(call.project)


@OPERATIONS.add("GET", "/v1/tags/changes", "tags.read", wire.TagChangePage, query=ChangesQuery)
async def changes(call: Call[None, ChangesQuery]) -> wire.TagChangePage:
    """Who put which tag on how many slides, newest first."""
    query = call.query
    return await call.rooms.tags.changes(call.project, tag=query.tag, after=query.after, limit=query.limit)


@OPERATIONS.add(
    "POST", "/v1/tags/changes", "tags.change", wire.TagChange, body=wire.TagChangeRequest, query=Planned, status=201
)
async def change(call: Call[wire.TagChangeRequest, Planned]) -> wire.TagChange | wire.Plan:
    """Put a tag on slides or take it off them, as one change that can be taken back."""
    if call.query.plan:
        return await call.rooms.tags.plan_change(call.identity, call.body)
    return await call.rooms.tags.change(call.identity, call.body, request=call.request)


@OPERATIONS.add("POST", "/v1/tags/changes/{id}/undo", "tags.change", wire.TagChange, query=Planned, status=201)
async def undo(call: Call[None, Planned]) -> wire.TagChange | wire.Plan:
    """Take a whole change back; what somebody changed since stays as it is."""
    if call.query.plan:
        return await call.rooms.tags.plan_undo(call.project, call.id)
    return await call.rooms.tags.undo(call.identity, call.id, request=call.request)
