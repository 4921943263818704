"""Who fails too often waits; the judgement is `decide.signin`. In memory, and of this process: a restart forgives."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mover.clock import Clock
from mover.decide.signin import Failures, refused_for_s, slowed_by_s
from mover.errors import LimitExceeded

# remembered at once; who was unseen for longest is forgotten first
REMEMBERED = 20_000
# tries that stand still at once
STANDING = 200

Key = tuple[str, str]


class Throttle:
    """A try counts as failed from its beginning, so that a hundred at once are a hundred; what went well is taken
    back."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[Key, Failures] = OrderedDict()
        self._refused: OrderedDict[str, int] = OrderedDict()
        self._standing = 0

    def begin(self, name: str, address: str) -> None:
        """Raises LimitExceeded while this name has to wait at this place, which counts for nothing."""
        now_s = self._clock.monotonic_s()
        wait_s = refused_for_s(self._of(("pair", f"{address} {name}")), now_s)
        if wait_s > 0:
            raise LimitExceeded("too many tries failed", details=[{"after_s": math.ceil(wait_s)}])
        for key in _keys(name, address):
            self._keep(key, self._of(key).one_more(now_s))

    @asynccontextmanager
    async def slowed(self, name: str, address: str, *, known_place: bool) -> AsyncIterator[None]:
        """Goes on when the try's turn has come."""
        failures = self._of(("name", name)), self._of(("address", address))
        delay_s = slowed_by_s(*failures, self._clock.monotonic_s(), known_place=known_place)
        if delay_s > 0:
            if self._standing >= STANDING:
                raise LimitExceeded("too many tries at this moment", details=[{"after_s": math.ceil(delay_s)}])
            self._standing += 1
            try:
                await self._clock.sleep(delay_s)
            finally:
                self._standing -= 1
        yield

    def failed(self, name: str) -> int:
        """How many were refused in this name since the last that was not."""
        self._refused[name] = self._refused.pop(name, 0) + 1
        while len(self._refused) > REMEMBERED:
            self._refused.popitem(last=False)
        return self._refused[name]

    def succeeded(self, name: str, address: str) -> int:
        """Takes the try back; answers how many were refused before it."""
        for key in _keys(name, address):
            kept = self._of(key)
            self._keep(key, Failures(0.0 if key[0] == "pair" else max(0.0, kept.count - 1), kept.at_s))
        return self._refused.pop(name, 0)

    def _of(self, key: Key) -> Failures:
        return self._failures.get(key, Failures())

    def _keep(self, key: Key, failures: Failures) -> None:
        self._failures[key] = failures
        self._failures.move_to_end(key)
        while len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)


def _keys(name: str, address: str) -> tuple[Key, Key, Key]:
    return ("pair", f"{address} {name}"), ("address", address), ("name", name)
