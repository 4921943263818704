"""Server-sent events: what happens as it happens, in the framing of the HTML standard (section 9.2).

A comment keeps the connection alive where nothing happens; a watcher that was cut off comes back with `Last-Event-ID`.
A stream whose caller may no longer, or whose daemon stops, is cut and not ended: a reader takes the end for the end of
what it watched, and a cut for a reason to ask again, here or at the next daemon. Both bounds, of a caller and of the
daemon, are in `limits`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from mover.api.limits import Limits
from mover.api.rooms import AccessRoom
from mover.clock import SYSTEM, Clock
from mover.errors import CatalogUnavailable, LimitExceeded
from mover.model import wire
from mover.model.access import Identity

MEDIA_TYPE = "text/event-stream"
# after which a watcher that was cut off comes back, and how long nothing may be said
RETRY_MS = 3000
ALIVE_S = 15.0
# how long somebody who may no longer is told more
STANDING_S = 2.0
# for how long a reader may take nothing of what is sent to it
STALLED_S = 60.0
_NAMES: dict[type[msgspec.Struct], str] = {
    wire.RunEvent: "state",
    wire.RunProgress: "progress",
    wire.Changed: "changed",
    wire.ChangesReset: "reset",
}


class Cut(Exception):
    """The stream is over before what it tells of is."""


class _Open:
    """One stream, and whether its caller still may."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.caller = identity.token_id or identity.actor
        self.stands = True


class Streams:
    """All event streams of this process."""

    def __init__(self, limits: Limits, access: AccessRoom, *, clock: Clock = SYSTEM) -> None:
        self._limits, self._access, self._clock = limits, access, clock
        self._open: set[_Open] = set()
        self._closing = asyncio.Event()
        self._asking = asyncio.Lock()
        self._asked_s = float("-inf")

    def close(self) -> None:
        """Every stream is cut now, between two events."""
        self._closing.set()

    async def framed(self, identity: Identity, items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        """Each item as one event, named by its type; one with an `id` can be resumed after. Raises Cut."""
        held = self._enter(identity)
        closing = asyncio.ensure_future(self._closing.wait())
        following = asyncio.ensure_future(anext(items, None))
        try:
            first = await following
            yield f"retry: {RETRY_MS}\n\n".encode() + (frame(first) if first is not None else b"")
            while first is not None:
                following = asyncio.ensure_future(anext(items, None))
                async for line in self._until(following, closing, held):
                    yield line
                first = following.result()
        finally:
            closing.cancel()
            following.cancel()
            await asyncio.gather(closing, following, return_exceptions=True)
            self._open.discard(held)

    def _enter(self, identity: Identity) -> _Open:
        held = _Open(identity)
        if len(self._open) >= self._limits.streams:
            raise LimitExceeded(f"{self._limits.streams} streams are open already")
        if sum(one.caller == held.caller for one in self._open) >= self._limits.caller_streams:
            raise LimitExceeded(f"{self._limits.caller_streams} streams of this caller are open already")
        self._open.add(held)
        return held

    async def _until(
        self, following: asyncio.Future[Any], closing: asyncio.Future[Any], held: _Open
    ) -> AsyncIterator[bytes]:
        """The next event, with comments while it does not come."""
        said_s = self._clock.monotonic_s()
        while True:
            wait_s = min(ALIVE_S, STANDING_S)
            done, _ = await asyncio.wait({following, closing}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            if closing in done or not await self._stands(held):
                raise Cut
            if following in done:
                item = following.result()
                if item is not None:
                    yield frame(item)
                return
            if self._clock.monotonic_s() - said_s >= ALIVE_S:
                said_s = self._clock.monotonic_s()
                yield b": alive\n\n"

    async def _stands(self, held: _Open) -> bool:
        """One question for all streams, asked by whichever comes first when the last answer is too old. A catalog that
        cannot be asked has nothing to tell either."""
        async with self._asking:
            if self._clock.monotonic_s() - self._asked_s >= STANDING_S:
                every = list(self._open)
                try:
                    answers = await self._access.standing([one.identity for one in every])
                except CatalogUnavailable:
                    answers = [one.stands for one in every]
                for one, stands in zip(every, answers, strict=True):
                    one.stands = stands
                self._asked_s = self._clock.monotonic_s()
        return held.stands


def frame(item: Any) -> bytes:
    """JSON has no line ends of its own, so the data is one line."""
    number = getattr(item, "id", None)
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {_NAMES[type(item)]}\ndata: ".encode() + msgspec.json.encode(item) + b"\n\n"
