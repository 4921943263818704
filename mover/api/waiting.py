"""The long poll: an answer as soon as the state is another, at the latest after `wait` seconds.

The room is asked again and again, first soon, then every half second: one indexed row, and no listener that
could miss a notification. A room that says when something changed is asked then, and seldom otherwise. The loop
ends early when the daemon stops or the caller has gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mover.api.limits import Limits
from mover.api.operation import Waiting
from mover.clock import Clock
from mover.errors import LimitExceeded

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 0.5
TOLD_PAUSE_S = 2.0
Changed = Callable[[float], Awaitable[None]]


class Waits:
    """All long polls of this process."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._open = 0
        self.closing = False

    async def until_changed(
        self,
        look: Callable[[], Awaitable[Any]],
        final: frozenset[str],
        *,
        query: Waiting,
        gone: Callable[[], bool],
        changed: Changed | None = None,
    ) -> Any:
        """`look` answers with something that has a `state`."""
        seen = await look()
        known = query.state or seen.state
        if not query.wait or seen.state != known or seen.state in final:
            return seen
        if self._open >= self._limits.waiting:
            raise LimitExceeded(f"{self._limits.waiting} requests wait already")
        self._open += 1
        try:
            return await self._poll(look, seen, final, known=known, wait_s=query.wait, gone=gone, changed=changed)
        finally:
            self._open -= 1

    async def _poll(
        self,
        look: Callable[[], Awaitable[Any]],
        seen: Any,
        final: frozenset[str],
        *,
        known: str,
        wait_s: float,
        gone: Callable[[], bool],
        changed: Changed | None,
    ) -> Any:
        deadline_s = self._clock.monotonic_s() + wait_s
        pause_s = FIRST_PAUSE_S
        while seen.state == known and seen.state not in final and not self.closing and not gone():
            left_s = deadline_s - self._clock.monotonic_s()
            if left_s <= 0:
                break
            if changed is None:
                await self._clock.sleep(min(pause_s, left_s))
            else:
                await changed(min(TOLD_PAUSE_S, left_s))
            pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)
            seen = await look()
        return seen
