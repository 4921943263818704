"""May a run be staged now, and if not, what does it wait for? Capacity that concurrent requests can never over-commit.

The caller holds the tier's row lock while it asks and records the answer, so that requests are judged one after the
other, in the order of their line: the more important first, then who needs it sooner, then who came first.

A run may pass those ahead of it only when that delays none of them, whatever the order in which the runs on the tier
end: how long a training takes is nobody's to know here. So a small run goes first into room that the one ahead could
not have used at that moment either, and into no other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from msgspec import Struct

# sums of runs that are told apart; beyond, nobody passes anybody
SUMS_MAX = 4096
# who has more ahead of it passes nobody
PASSED_MAX = 64


class TierSpace(Struct, frozen=True):
    """What a flash tier has: declared or measured capacity, free bytes now, bytes promised to live runs
    (all of each run's, staged or not) and bytes of those promises that are not on the tier yet."""

    capacity_bytes: int
    free_bytes: int
    promised_bytes: int
    outstanding_bytes: int
    reserve_bytes: int

    @property
    def usable_bytes(self) -> int:
        return max(self.capacity_bytes - self.reserve_bytes, 0)


class Admission(Struct, frozen=True):
    verdict: Literal["admit", "wait", "refuse"]
    reason: str


def admit(run_bytes: int, space: TierSpace, *, ahead: Sequence[int] = (), holders: Sequence[int] = ()) -> Admission:
    """Whether the tier may promise a run its bytes. `ahead`: what each run that waits before it asks for; `holders`:
    what each run on the tier was promised."""
    usable = space.usable_bytes
    if run_bytes > usable:
        return Admission("refuse", f"{run_bytes} bytes never fit: the tier offers {usable}")
    if space.promised_bytes + run_bytes > usable:
        return Admission("wait", f"{space.promised_bytes} of {usable} bytes are promised to other runs")
    place = _delayed(run_bytes, ahead, holders, room=usable - space.promised_bytes)
    if place:
        return Admission("wait", f"it fits, and could delay the run at place {place} of the line")
    return Admission("admit", f"fits: {run_bytes} bytes, {usable - space.promised_bytes} not promised")


def copy(bytes_to_copy: int, space: TierSpace, *, passing: bool = False) -> Admission:
    """Whether what does not stand on the tier yet has room there now. Who passes somebody for whom there was none may
    take none."""
    free = max(space.free_bytes - space.outstanding_bytes - space.reserve_bytes, 0)
    if bytes_to_copy > (0 if passing else free):
        return Admission("wait", f"{bytes_to_copy} bytes to copy, {free} free after what is under way")
    return Admission("admit", f"{bytes_to_copy} bytes to copy, {free} free")


def missing_bytes(line: Sequence[int], space: TierSpace) -> int:
    """What has to be released until the last of a line may begin, with everybody before it."""
    return max(sum(line) + space.promised_bytes - space.usable_bytes, 0)


def _delayed(run_bytes: int, ahead: Sequence[int], holders: Sequence[int], *, room: int) -> int:
    """The first place of the line that this run could delay, or 0. Is there an order of endings in which the one at
    that place could begin, but not beside this run? Those before it may have been let in and have ended by then."""
    held, missing = tuple(sorted(holders)), -room
    for place, size in enumerate(ahead[:PASSED_MAX]):
        missing += size
        released = _released(held, tuple(ahead[:place]))
        if released is None:
            return place + 1
        at = bisect_left(released, missing)
        if at < len(released) and released[at] < missing + run_bytes:
            return place + 1
    return PASSED_MAX + 1 if len(ahead) > PASSED_MAX else 0


@lru_cache(maxsize=2 * PASSED_MAX)
def _released(holders: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...] | None:
    """What may have been released at some moment: every sum of some of these, ascending. None where they are too many.
    It is asked for again with each run behind, and grows by one place at a time."""
    if before:
        known = _released(holders, before[:-1])
        return None if known is None else _with(known, before[-1])
    sums: tuple[int, ...] | None = (0,)
    for size in holders:
        sums = None if sums is None else _with(sums, size)
    return sums


def _with(sums: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    found = {*sums, *(one + size for one in sums)}
    return tuple(sorted(found)) if len(found) <= SUMS_MAX else None
