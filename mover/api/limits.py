"""The bounds of the HTTP face, by name, and the gate that keeps one caller from taking all of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from msgspec import Meta, Struct

from mover.clock import Clock
from mover.errors import LimitExceeded

MAX_WAIT_S = 60
MAX_PAGE = 1000


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Each bound and why it is there."""

    # a list of 100,000 expected names fits
    body_bytes: Annotated[int, Meta(ge=1024)] = 16 << 20
    # the longest parameter, 4096 characters, may be twelve bytes a character once it stands in a URL
    line_bytes: Annotated[int, Meta(ge=1024)] = 64 << 10
    header_bytes: Annotated[int, Meta(ge=1024)] = 8190
    # a body that trickles in holds a connection
    body_timeout_s: Annotated[float, Meta(gt=0)] = 30.0
    # one token's (or peer's) steady rate, and what it may take at once
    requests_per_s: Annotated[float, Meta(gt=0)] = 100.0
    burst: Annotated[int, Meta(ge=1)] = 400
    # callers remembered by the gate
    callers: Annotated[int, Meta(ge=1)] = 10_000
    # long polls open at the same time
    waiting: Annotated[int, Meta(ge=1)] = 1_000
    # event streams open at the same time, of all callers and of one (a scheduler watches many jobs with one token)
    streams: Annotated[int, Meta(ge=1)] = 1_000
    caller_streams: Annotated[int, Meta(ge=1)] = 200


class Gate:
    """One token bucket per caller. The caller forgotten first is the one unseen for longest, whose bucket is
    full again anyway."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def pass_one(self, caller: str) -> None:
        """Takes one token, or raises LimitExceeded."""
        level = self._level(caller)
        self._buckets[caller] = (max(level - 1, 0.0), self._clock.monotonic_s())
        self._buckets.move_to_end(caller)
        while len(self._buckets) > self._limits.callers:
            self._buckets.popitem(last=False)
        if level < 1:
            raise self._exceeded()

    def refuse_if_empty(self, caller: str) -> None:
        """Takes nothing: for callers whose failures alone are counted."""
        if self._level(caller) < 1:
            raise self._exceeded()

    def _level(self, caller: str) -> float:
        now_s = self._clock.monotonic_s()
        level, seen_s = self._buckets.get(caller, (float(self._limits.burst), now_s))
        return min(float(self._limits.burst), level + (now_s - seen_s) * self._limits.requests_per_s)

    def _exceeded(self) -> LimitExceeded:
        return LimitExceeded(f"more than {self._limits.requests_per_s:g} requests a second")
