"""Reading server-sent events, and coming back after the last one when the connection breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TypeVar

import msgspec

from mover.errors import ServiceUnreachable
from mover.model import wire
from mover.sdk.transport import Ask, Transport

# the daemon says something every fifteen seconds; who hears nothing for so long hears nobody
SILENCE_S = 60.0
PAUSE_S = 2.0
# connections in a row on which nothing new was heard
ATTEMPTS = 5
# one event, as it stands in memory
EVENT_BYTES_MAX = 1 << 20

Seen = wire.RunEvent | wire.RunProgress
Changing = wire.Changed | wire.ChangesReset
E = TypeVar("E")
_OF_RUNS: dict[str, type[Seen]] = {"state": wire.RunEvent, "progress": wire.RunProgress}
_OF_CHANGES: dict[str, type[Changing]] = {"changed": wire.Changed, "reset": wire.ChangesReset}


def run_events(transport: Transport, run: str, *, after: int) -> AsyncGenerator[Seen, None]:
    """Until the run's end."""
    return _followed(transport, f"/v1/runs/{run}/events", after, _OF_RUNS)


def changes(transport: Transport, *, after: int) -> AsyncGenerator[Changing, None]:
    """Without end. The first says where it begins, and may name nothing."""
    return _followed(transport, "/v1/events", after, _OF_CHANGES)


async def _followed(
    transport: Transport, path: str, after: int, kinds: Mapping[str, type[E]]
) -> AsyncGenerator[E, None]:
    """Until the stream's end. A broken connection is opened again after the last event that had an id and was heard, so
    none is missed and none comes twice; ServiceUnreachable when that does not help."""
    silent = 0
    while True:
        ask = Ask("GET", path, last_event=after, timeout_s=None, silence_s=SILENCE_S)
        try:
            async for seen in _parsed(transport.stream(ask), kinds):
                silent = 0
                after = getattr(seen, "id", after)
                yield seen
            return
        except ServiceUnreachable:
            silent += 1
            if silent >= ATTEMPTS:
                raise
        await asyncio.sleep(PAUSE_S)


async def _parsed(pieces: AsyncIterator[bytes], kinds: Mapping[str, type[E]]) -> AsyncIterator[E]:
    """Events of kinds that are known here; a newer daemon may know more."""
    rest = b""
    async for piece in pieces:
        *events, rest = (rest + piece).split(b"\n\n")
        if len(rest) > EVENT_BYTES_MAX:
            raise ServiceUnreachable(f"an event of more than {EVENT_BYTES_MAX} bytes")
        for event in events:
            fields = dict(line.split(": ", 1) for line in event.decode().split("\n") if ": " in line)
            kind = kinds.get(fields.get("event", ""))
            if kind is not None:
                yield msgspec.json.decode(fields["data"], type=kind)
