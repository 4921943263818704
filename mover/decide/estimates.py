"""How long until a run is ready: learnt from what runs took here before, as an interval; None where nothing is known.

Staging is compared with the runs that were most like it in bytes and in files; waiting is read from how long runs hold
their place. Both say on how many runs they are based, and the fewer those are, the wider is the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import ceil, log2

from msgspec import Struct

# what a file costs beside its bytes, in bytes: openings, syncs, rows
FILE_BYTES = 4 << 20
ALIKE = 20
LOW, LIKELY, HIGH = 0.1, 0.5, 0.9


class Pace(Struct, frozen=True):
    """A run that was staged: what it copied, how many files it has, from its admission until it was ready."""

    copy_bytes: int
    files: int
    seconds: float


class Hold(Struct, frozen=True):
    """A run on the tier: what it was promised, and for how long it has had it."""

    bytes: int
    held_s: float


class Estimate(Struct, frozen=True):
    low_s: float
    likely_s: float
    high_s: float
    based_on: int


def staging(history: Sequence[Pace], *, copy_bytes: int, files: int, left: float = 1.0) -> Estimate | None:
    """Seconds until the share `left` of a run is staged."""
    own = _work(copy_bytes, files)
    alike = sorted(history, key=lambda pace: _distance(pace, copy_bytes, files))[:ALIKE]
    paces = sorted(pace.seconds / _work(pace.copy_bytes, pace.files) for pace in alike)
    if not paces:
        return None
    return _widened(lambda share: _quantile(paces, share) * own * left, len(paces))


def waiting(holders: Sequence[Hold], holds: Sequence[float], *, missing_bytes: int) -> Estimate | None:
    """Seconds until the holders have released so many bytes, when they hold their place for as long as others did.
    None when history does not speak of enough of them: some have held theirs for longer than anybody before."""
    if missing_bytes <= 0:
        return Estimate(0.0, 0.0, 0.0, len(holds))
    known = []
    for holder in holders:
        rest = sorted(seconds - holder.held_s for seconds in holds if seconds > holder.held_s)
        if rest:
            known.append((holder.bytes, rest))
    if sum(size for size, _ in known) < missing_bytes:
        return None
    return _widened(lambda share: _released(known, missing_bytes, share), len(holds))


def together(first: Estimate | None, then: Estimate | None) -> Estimate | None:
    """One after the other."""
    if first is None or then is None:
        return None
    return Estimate(
        round(first.low_s + then.low_s, 1), round(first.likely_s + then.likely_s, 1),
        round(first.high_s + then.high_s, 1), min(first.based_on, then.based_on),
    )  # fmt: skip


def _released(known: Sequence[tuple[int, list[float]]], missing_bytes: int, share: float) -> float:
    """When the bytes that end first make up what is missing."""
    ends = sorted((_quantile(rest, share), size) for size, rest in known)
    released = accumulate(size for _, size in ends)
    return next(seconds for (seconds, _), so_far in zip(ends, released, strict=True) if so_far >= missing_bytes)


def _widened(seconds: Callable[[float], float], runs: int) -> Estimate:
    """One run says little about the next: twice as wide with one, a tenth wider with ten."""
    wider = 1 + 1 / runs
    low, likely, high = (seconds(share) for share in (LOW, LIKELY, HIGH))
    return Estimate(round(low / wider, 1), round(likely, 1), round(high * wider, 1), runs)


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(ceil(share * len(ordered)) - 1, 0)]


def _work(copy_bytes: int, files: int) -> int:
    return copy_bytes + max(files, 1) * FILE_BYTES


def _distance(pace: Pace, copy_bytes: int, files: int) -> float:
    """In doublings, of bytes and of files."""
    by_bytes = abs(log2((pace.copy_bytes + FILE_BYTES) / (copy_bytes + FILE_BYTES)))
    return by_bytes + abs(log2(max(pace.files, 1) / max(files, 1)))
