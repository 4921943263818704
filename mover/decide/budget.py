"""How fast a tier may be used: limits by time of day, shares between nodes, and giving way when a tier slows down.

Three judgements, each a value that a doer (`mover.transfer.budgets`) carries under its lock:

    limits_at   the policy and the site's local time in, the limits of this minute out
    Bucket      tokens: what was asked and what has accrued; never more than rate x time + burst, first come first
                served, so that nobody starves
    Latency     steps' seconds in, a ratio out: multiplicative decrease when the tier becomes slower than in quiet
                times, additive recovery, never zero (I10 has a twin: work without an end is as bad as without bound)

and `shares`, by which the daemons of several nodes divide one tier's budget so that the parts never sum above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from mover.model.policy import LIMIT_NAMES, BackoffRule, BudgetPolicy, BudgetWindow, Limits

BURST_S = 1.0
QUANTUM_S = 0.25
QUANTUM_BYTES_MIN = 64 << 10
QUANTUM_BYTES_MAX = 32 << 20

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60


# --- limits by time ------------------------------------------------------------------------------------------


def limits_at(policy: BudgetPolicy, local: datetime) -> Limits:
    """The policy's own limits, each replaced by the first window that is open and names it. `local` is the wall
    clock of the site: an hour that comes twice in autumn is in the window twice, one that is left out in spring
    never."""
    names = {name: getattr(policy, name) for name in LIMIT_NAMES}
    for window in reversed(policy.windows):
        if is_open(window, local):
            names |= {name: said for name in LIMIT_NAMES if (said := getattr(window, name)) is not None}
    return Limits(**names)


def is_open(window: BudgetWindow, local: datetime) -> bool:
    """A window that ends at or before it begins goes on over midnight and belongs to the day it began."""
    begin, end, now = _minutes(window.begin), _minutes(window.end), local.hour * 60 + local.minute
    today, yesterday = DAYS[local.weekday()], DAYS[(local.weekday() - 1) % 7]
    if begin < end:
        return today in window.days and begin <= now < end
    return (today in window.days and now >= begin) or (yesterday in window.days and now < end)


def _minutes(text: str) -> int:
    hours, minutes = text.split(":")
    return int(hours) * 60 + int(minutes)


def number(limit: int | str | None) -> int | None:
    """A limit as arithmetic: None where there is none."""
    return limit if isinstance(limit, int) else None


# --- tokens --------------------------------------------------------------------------------------------------


class Bucket(Struct, frozen=True):
    """A queue of claims on a stream of tokens. `accrued` is what has come so far, `asked` what was claimed; a claim
    may go when as much has accrued as was claimed up to and with it. Both only grow, and `accrued` never runs ahead
    of `asked` by more than the burst: so what goes between any two moments is at most rate x time + burst."""

    accrued: float = 0.0
    asked: float = 0.0
    at_s: float | None = None

    def advanced(self, now_s: float, *, rate: float | None) -> Bucket:
        """At `now_s`; without a rate (no limit) every claim may go and the burst is not saved up."""
        if rate is None:
            return Bucket(self.asked, self.asked, now_s)
        burst = rate * BURST_S
        if self.at_s is None:
            return Bucket(self.asked + burst, self.asked, now_s)
        came = rate * max(0.0, now_s - self.at_s)
        return Bucket(min(self.accrued + came, self.asked + burst), self.asked, now_s)

    def claimed(self, amount: float) -> tuple[Bucket, float]:
        """The bucket with the claim in it, and the claim's place."""
        place = self.asked + amount
        return Bucket(self.accrued, place, self.at_s), place

    def wait_s(self, place: float, *, rate: float | None) -> float:
        """How long at this rate until the claim may go; 0 is now."""
        lacking = place - self.accrued
        # a rounding error of a thousandth of a byte must not make anybody wait again
        if rate is None or lacking <= 1e-3:
            return 0.0
        return lacking / rate if rate > 0 else float("inf")


def quantum(rate: float | None) -> int:
    """The largest single claim in bytes: larger ones are cut, so that two who share a limit take turns."""
    if rate is None:
        return QUANTUM_BYTES_MAX
    return int(min(QUANTUM_BYTES_MAX, max(QUANTUM_BYTES_MIN, rate * QUANTUM_S)))


def quantum_files(rate: float) -> int:
    return max(1, int(rate * QUANTUM_S))


# --- shares between nodes --------------------------------------------------------------------------------------


def share(total: int, users: int) -> tuple[int, ...]:
    """A whole number (open files) in equal parts that sum to it exactly; the first ones get what is left over."""
    part, left = divmod(total, users)
    return tuple(part + (1 if index < left else 0) for index in range(users))


class Use(Struct, frozen=True):
    """A node's row: what fraction of a tier's budget it holds until it says otherwise, and how long ago it spoke."""

    node: str
    fraction: float
    age_s: float


def fraction(node: str, uses: Sequence[Use], *, stale_s: float) -> float:
    """What `node` may hold now: an equal part, but never what others still hold. A newcomer waits a heartbeat until
    the others have given way, so the held fractions never sum above one. Who was not heard of for `stale_s` drops
    out."""
    others = [use for use in uses if use.node != node and use.age_s < stale_s]
    free = 1.0 - sum(use.fraction for use in others)
    return max(0.0, min(1.0 / (len(others) + 1), free))


# --- giving way ------------------------------------------------------------------------------------------------

EWMA_GAIN = 0.2
QUIET_DOWN_GAIN = 0.2
# the idea of "quiet" may double in this time: a tier that became slower for good is accepted in days, and a
# tier that is busy for a day is not taken for quiet
QUIET_DOUBLES_S = 24 * 3600.0
# below this a step is quick whatever it is compared with: half a millisecond after a tenth says nothing
QUICK_S = 0.005
CUT_PAUSE_STEPS = 4
STEP_CLASSES = (64 << 10, 1 << 20, 8 << 20, 32 << 20)
PEAK_WINDOW_S = 1.0
PEAK_KEPT = 0.9


class Step(Struct, frozen=True):
    """One finished step as its caller saw it. Groups of small files say how many: seconds count per file."""

    seconds: float
    bytes_: int
    files: int = 1


class Latency(Struct, frozen=True):
    """What is known of one tier in one direction. `quiet_s` by class of step size; `slowness` is how much slower
    than quiet the last steps were; `ratio` is the part of the usual rate and concurrency that is used now."""

    quiet_s: tuple[float, ...] = (0.0,) * (len(STEP_CLASSES) + 1)
    slowness: float = 1.0
    ratio: float = 1.0
    steps_since_cut: int = CUT_PAUSE_STEPS
    at_s: float = 0.0
    window_s: float = 0.0
    window_bytes: float = 0.0
    peak_bytes_s: float = 0.0

    def observed(self, step: Step, *, now_s: float, rule: BackoffRule | None) -> Latency:
        """After one more step; the ratio moves only under a rule."""
        size_class, seconds = _classified(step)
        known = self.quiet_s[size_class]
        elapsed_s = max(0.0, now_s - self.at_s) if self.at_s else 0.0
        quiet = _quiet(known, seconds, elapsed_s)
        factor = rule.factor if rule else 2.0
        # one outlier alone, however long, never makes a cut: its weight is held at twice the factor
        seen = max(1.0, min(seconds / max(known, QUICK_S), 2 * factor)) if known else 1.0
        slowness = self.slowness + EWMA_GAIN * (seen - self.slowness)
        after = Latency(
            quiet_s=(*self.quiet_s[:size_class], quiet, *self.quiet_s[size_class + 1 :]),
            slowness=slowness,
            ratio=self.ratio,
            steps_since_cut=self.steps_since_cut + 1,
            at_s=now_s,
            window_s=self.window_s,
            window_bytes=self.window_bytes,
            peak_bytes_s=self.peak_bytes_s,
        )._counted(step.bytes_, now_s)
        return after if rule is None else after._judged(rule, elapsed_s)

    def _judged(self, rule: BackoffRule, elapsed_s: float) -> Latency:
        """Cut at most once in a few steps: what was cut must first be felt."""
        if self.slowness > rule.factor:
            if self.steps_since_cut < CUT_PAUSE_STEPS:
                return self
            ratio = max(rule.least, self.ratio * rule.cut)
            return replace(self, ratio=ratio, steps_since_cut=0)
        return replace(self, ratio=min(1.0, self.ratio + min(elapsed_s, rule.recover_s) / rule.recover_s))

    def _counted(self, bytes_: int, now_s: float) -> Latency:
        """The best rate of late: what a ratio is of, where the policy names no limit."""
        if not self.window_s:
            return replace(self, window_s=now_s, window_bytes=float(bytes_))
        elapsed_s, moved = now_s - self.window_s, self.window_bytes + bytes_
        if elapsed_s < PEAK_WINDOW_S:
            return replace(self, window_bytes=moved)
        kept = self.peak_bytes_s * (PEAK_KEPT if self.ratio >= 1.0 else 1.0)
        return replace(self, window_s=now_s, window_bytes=0.0, peak_bytes_s=max(moved / elapsed_s, kept))

    def rate(self, limit: float | None, *, least: float) -> float | None:
        """The limit that holds now: the policy's, or while giving way a part of it or of the best rate of late."""
        if self.ratio >= 1.0:
            return limit
        usual = limit if limit is not None else self.peak_bytes_s
        return max(usual * self.ratio, least) if usual or limit is not None else None


def _classified(step: Step) -> tuple[int, float]:
    """Steps of like size are compared with each other; a step above the largest class counts per 32 MiB."""
    each_bytes, each_s = step.bytes_ / max(1, step.files), step.seconds / max(1, step.files)
    for index, most in enumerate(STEP_CLASSES):
        if each_bytes <= most:
            return index, each_s
    return len(STEP_CLASSES), each_s * STEP_CLASSES[-1] / each_bytes


def _quiet(known: float, seconds: float, elapsed_s: float) -> float:
    """Quiet times are the fast ones: down at once, up only with the days."""
    if not known:
        return max(seconds, 1e-6)
    if seconds < known:
        return max(known + QUIET_DOWN_GAIN * (seconds - known), 1e-6)
    return min(seconds, known * 2.0 ** (min(elapsed_s, QUIET_DOUBLES_S) / QUIET_DOUBLES_S))

