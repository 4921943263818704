"""May a run be staged now, and if not, what does it wait for? Capacity that concurrent requests can never over-commit.

The caller holds the tier's row lock while it asks and records the answer, so that requests are judged one after the
other, in the order of their line: the more important first, then who needs it sooner, then who came first.

A run may pass those ahead of it only when that delays none of them, whatever the order in which the runs on the tier
end: how long a training takes is nobody's to know here. So a small run goes first into room that the one ahead could
not have used at that moment either, and into no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

# sums of runs that are told apart; beyond, nobody passes anybody
SUMS_MAX = 4096


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
    room = usable - space.promised_bytes
    for place in range(len(ahead)):
        if _could_delay(run_bytes, ahead[: place + 1], holders, room=room):
            return Admission("wait", f"it fits, and could delay the run at place {place + 1} of the line")
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


def _could_delay(run_bytes: int, line: Sequence[int], holders: Sequence[int], *, room: int) -> bool:
    """Is there an order of endings in which the last of the line could begin, but not beside this run? Those before
    it in the line may have been let in and have ended by then."""
    missing = sum(line) - room
    sums = {0}
    for size in (*holders, *line[:-1]):
        sums |= {one + size for one in sums}
        if len(sums) > SUMS_MAX:
            return True
    return any(missing <= released < missing + run_bytes for released in sums)
