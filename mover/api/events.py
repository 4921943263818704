"""What changed, as it changes: a page or a program that shows something asks again when it is told to."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query, Streamed
from mover.api.streaming import MEDIA_TYPE

OPERATIONS = Operations()


@OPERATIONS.add("GET", "/v1/events", "status.read", str, media_type=MEDIA_TYPE)
async def follow(call: Call[None, Query]) -> Streamed:
    """Server-sent events: nouns and ids that changed in the project, without contents (`Last-Event-ID` resumes)."""
    items = call.rooms.changes.events(call.identity, after=call.last_event)
    return Streamed(call.streamed(items), MEDIA_TYPE)
