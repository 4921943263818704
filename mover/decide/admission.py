"""May a run be staged now? Capacity that concurrent requests can never over-commit.

The caller holds the tier's row lock while it asks and records the answer, so that two requests are judged
one after the other.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class TierSpace(Struct, frozen=True):
    """What a flash tier has: declared or measured capacity, free bytes now, bytes promised to live runs
    (all of each run's, staged or not) and bytes of those promises that are not on the tier yet."""

    capacity_bytes: int
    free_bytes: int
    promised_bytes: int
    outstanding_bytes: int
    reserve_bytes: int


class Admission(Struct, frozen=True):
    verdict: Literal["admit", "wait", "refuse"]
    reason: str


def admit(run_bytes: int, bytes_to_copy: int, space: TierSpace) -> Admission:
    """`bytes_to_copy` leaves out what already stands on the tier by digest."""
    usable = space.capacity_bytes - space.reserve_bytes
    if run_bytes > usable:
        return Admission("refuse", f"{run_bytes} bytes never fit: the tier offers {max(usable, 0)}")
    if space.promised_bytes + run_bytes > usable:
        return Admission("wait", f"{space.promised_bytes} of {usable} bytes are promised to other runs")
    free = space.free_bytes - space.outstanding_bytes - space.reserve_bytes
    if bytes_to_copy > free:
        return Admission(
            "wait", f"{bytes_to_copy} bytes to copy, {max(free, 0)} free after what is under way"
        )
    return Admission("admit", f"fits: {bytes_to_copy} bytes to copy, {free} free")
