"""One look for all who want to see the same: what is looked at so is looked at by one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mover.clock import monotonic_s

T = TypeVar("T")


class Shared(Generic[T]):
    """Who comes while a look is under way takes the next, with all who come meanwhile: nobody is told what was seen
    before they asked, unless they say how old it may be. Hold no connection while you wait for it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._began_s = self._from_s = float("-inf")
        self._seen: T

    async def get(self, look: Callable[[], Awaitable[T]], *, age_s: float = 0.0) -> T:
        asked_s = monotonic_s()
        async with self._lock:
            if self._began_s < max(asked_s - age_s, self._from_s):
                began_s = monotonic_s()
                self._seen = await look()
                self._began_s = began_s
            return self._seen

    def forget(self) -> None:
        """What was looked at before now is too old for everybody."""
        self._from_s = monotonic_s()
