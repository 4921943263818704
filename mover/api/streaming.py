"""Server-sent events: what happens as it happens, in the framing of the HTML standard (section 9.2).

A comment keeps the connection alive where nothing happens; a watcher that was cut off comes back with `Last-Event-ID`.
Both bounds, of a caller and of the daemon, are in `limits`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from mover.api.limits import Limits
from mover.errors import LimitExceeded

MEDIA_TYPE = "text/event-stream"
# after which a watcher that was cut off comes back, and how long nothing may be said
RETRY_MS = 2000
ALIVE_S = 15.0


class Streams:
    """All event streams of this process."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: Counter[str] = Counter()
        self._closing = asyncio.Event()

    def close(self) -> None:
        """Every stream ends now, between two events."""
        self._closing.set()

    async def framed(self, caller: str, items: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        """Each item as one event, named by its type; one with an `id` can be resumed after."""
        if self._open.total() >= self._limits.streams:
            raise LimitExceeded(f"{self._limits.streams} streams are open already")
        if self._open[caller] >= self._limits.caller_streams:
            raise LimitExceeded(f"{self._limits.caller_streams} streams of this caller are open already")
        self._open[caller] += 1
        closing = asyncio.ensure_future(self._closing.wait())
        following = asyncio.ensure_future(anext(items, None))
        try:
            first = await following
            yield f"retry: {RETRY_MS}\n\n".encode() + (frame(first) if first is not None else b"")
            while first is not None and not closing.done():
                following = asyncio.ensure_future(anext(items, None))
                async for line in self._until(following, closing):
                    yield line
                first = following.result() if following.done() else None
        finally:
            closing.cancel()
            following.cancel()
            await asyncio.gather(closing, following, return_exceptions=True)
            self._open[caller] -= 1
            self._open += Counter()

    async def _until(
        self, following: asyncio.Future[Any], closing: asyncio.Future[Any]
    ) -> AsyncIterator[bytes]:
        """The next event, with comments while it does not come; nothing when the daemon stops first."""
        while True:
            done, _ = await asyncio.wait({following, closing}, timeout=ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if following in done:
                item = following.result()
                if item is not None:
                    yield frame(item)
            if done:
                return
            yield b": alive\n\n"


def frame(item: Any) -> bytes:
    """JSON has no line ends of its own, so the data is one line."""
    number = getattr(item, "id", None)
    name = "state" if number is not None else "progress"
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {name}\ndata: ".encode() + msgspec.json.encode(item) + b"\n\n"
