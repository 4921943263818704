"""How fast tiers may be used, in this process: threads ask before each step and wait until it fits.

The judgement is `mover.decide.budget`; here its values are kept under one lock and threads wait on it. Rules are
found by tier; the rule without a tier holds for all tiers together. Everything is first come, first served, and
large claims are cut, so that shards which share a limit take turns. The share that this daemon holds of each tier's
budget is set from outside (`Shares`, from the catalog): unknown means none yet, a lost catalog leaves the last one.

Ask for open files of all tiers of a step at once: two threads that each hold one and want the other's never end.
A thread that holds a slot of a tier and asks for another of it goes on with the one it has.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

from mover import metrics
from mover.clock import SYSTEM, ThreadClock
from mover.decide import budget as decide
from mover.errors import Stopping
from mover.model.policy import BackoffRule, BudgetPolicy, Limits

Direction = Literal["read", "write"]
DIRECTIONS: tuple[Direction, ...] = ("read", "write")

# a waiting thread asks again this often, because limits, windows, shares and ratios change meanwhile
ASK_AGAIN_S = 0.25
LIMITS_KEPT_S = 1.0
ALL_TIERS = ""
NO_LIMITS = Limits()


class Budgets:
    """The budgets of one process, for all its threads. Without rules nothing waits."""

    def __init__(
        self,
        policies: Iterable[BudgetPolicy] = (),
        *,
        source_tiers: Iterable[str] = (),
        shared: bool = False,
        clock: ThreadClock = SYSTEM,
    ) -> None:
        """`source_tiers` give way by the default rule also without a policy. With `shared`, a tier's limits are
        divided among daemons and nothing passes before `hold` said this one's fraction."""
        self._clock, self._shared = clock, shared
        self._source_tiers = frozenset(source_tiers)
        self._condition = threading.Condition()
        self._rules: dict[str, BudgetPolicy] = {}
        self._limits: dict[str, tuple[float, Limits]] = {}
        self._buckets: dict[tuple[str, str], decide.Bucket] = {}
        self._latencies: dict[tuple[str, Direction], decide.Latency] = {}
        self._fractions: dict[str, float] = {}
        self._used_at_s: dict[str, float] = {}
        self._slots = _Slots()
        self._mine = threading.local()
        self._closed = False
        # told, in the thread that asks, that a share is needed now
        self.on_need: Callable[[], None] | None = None
        self.use(policies)

    def give_way(self, tier: str) -> None:
        """One source tier more, from now on."""
        with self._condition:
            self._source_tiers |= {tier}

    # --- what the engine calls ----------------------------------------------------------------------------

    def take(
        self, tier: str, *, direction: Direction, bytes_: int, files: int = 0, stopped: Callable[[], bool] | None = None
    ) -> None:
        """Return when so much may be read from or written to the tier. Called before each step (32 MiB at most)
        or group. `stopped` ends the wait early; the caller then stops by itself. Stopping when the house closes."""
        if not self._rules and tier not in self._source_tiers:
            return
        self._touch(tier)
        for key in (tier, ALL_TIERS):
            if files:
                self._pass(key, tier, direction, "files_s", files, stopped)
            if bytes_:
                self._pass(key, tier, direction, "bytes_s", bytes_, stopped)

    def observe(self, tier: str, *, direction: Direction, seconds: float, bytes_: int, files: int = 1) -> None:
        """A step or group of so many files took so long, waiting for budgets not counted: when a tier becomes
        slower than in its quiet times, rate and concurrency fall (and the metric shows it)."""
        metrics.TIER_LATENCY.labels(tier, direction).observe(seconds)
        if self is UNLIMITED:
            return
        step, now_s = decide.Step(seconds, bytes_, max(1, files)), self._clock.monotonic_s()
        with self._condition:
            known = self._latencies.get((tier, direction), decide.Latency())
            after = known.observed(step, now_s=now_s, rule=self._backoff_rule(tier))
            self._latencies[tier, direction] = after
            if after.ratio > known.ratio:
                self._condition.notify_all()
        metrics.TIER_BACKOFF.labels(tier, direction).set(after.ratio)

    @contextlib.contextmanager
    def open_files(self, *tiers: str) -> Iterator[None]:
        """A slot on each of the tiers, got together: name all tiers of a step in one call."""
        held: set[str] = self._mine.__dict__.setdefault("open_files", set())
        new = [key for key in self._keys(tiers) if key not in held]
        with self._held({(key, "open_files"): 1 for key in new}, tiers):
            held.update(new)
            try:
                yield
            finally:
                held.difference_update(new)

    @contextlib.contextmanager
    def memory(self, *tiers: str, bytes_: int) -> Iterator[None]:
        """Room for buffers of a step. More than the whole limit is granted when nobody else holds any."""
        with self._held({(key, "memory_bytes"): bytes_ for key in self._keys(tiers)}, tiers):
            yield

    # --- what the house calls -----------------------------------------------------------------------------

    def use(self, policies: Iterable[BudgetPolicy]) -> None:
        """From now on these rules; who waits asks again at once."""
        with self._condition:
            self._rules = {policy.tier or ALL_TIERS: policy for policy in policies}
            self._limits.clear()
            self._condition.notify_all()

    def hold(self, fractions: Mapping[str, float]) -> None:
        """What this daemon holds of each tier's budget, from the catalog. Tiers that are not named keep theirs."""
        with self._condition:
            self._fractions |= fractions
            self._condition.notify_all()
        for tier, fraction in fractions.items():
            metrics.BUDGET_SHARE.labels(tier).set(fraction)

    def release(self, tiers: Iterable[str]) -> None:
        """These tiers' fractions were given back: the next step waits until one is held again."""
        with self._condition:
            for tier in tiers:
                self._fractions.pop(tier, None)
                metrics.BUDGET_SHARE.labels(tier).set(0)

    def in_use(self, *, within_s: float) -> list[str]:
        """Limited tiers that were asked for lately or have somebody waiting: whose share must be held."""
        since_s = self._clock.monotonic_s() - within_s
        with self._condition:
            held = {tier for tier, _ in self._slots.used if tier}
            recent = {tier for tier, at_s in self._used_at_s.items() if at_s >= since_s}
            return sorted(tier for tier in held | recent if tier in self._rules)

    def governs(self, *tiers: str) -> bool:
        """Whether a rule holds for any of these tiers: then work on them is cut small, to wait often and briefly."""
        with self._condition:
            return any(key in self._rules for key in (*tiers, ALL_TIERS))

    def ratio(self, tier: str, direction: Direction) -> float:
        with self._condition:
            return self._latencies.get((tier, direction), decide.Latency()).ratio

    def close(self) -> None:
        """Who waits, and whoever asks from now on, is sent home with Stopping."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    # --- tokens -------------------------------------------------------------------------------------------

    def _pass(
        self, key: str, tier: str, direction: Direction, unit: str, amount: int, stopped: Callable[[], bool] | None
    ) -> None:
        """One claim after another through one bucket, each at the end of the queue."""
        name, left = f"{direction}_{unit}", amount
        while left > 0:
            with self._condition:
                rate = self._rate(key, direction, name)
            if rate is None:
                return
            piece = min(left, decide.quantum(rate) if unit == "bytes_s" else decide.quantum_files(rate))
            if not self._pass_piece(key, tier, direction, name, piece, stopped):
                return
            left -= piece

    def _pass_piece(
        self, key: str, tier: str, direction: Direction, name: str, piece: int, stopped: Callable[[], bool] | None
    ) -> bool:
        began_s = self._clock.monotonic_s()
        with self._condition:
            bucket, place = self._advanced(key, direction, name).claimed(piece)
            self._buckets[key, name] = bucket
            while wait_s := self._wait_s(key, direction, name, place):
                self._refuse_when_closed()
                if stopped is not None and stopped():
                    return False
                self._used_at_s[tier] = self._clock.monotonic_s()
                self._clock.wait(self._condition, min(wait_s, ASK_AGAIN_S))
        waited_s = self._clock.monotonic_s() - began_s
        if waited_s > 0:
            metrics.BUDGET_WAIT.labels(tier, direction).inc(waited_s)
        return True

    def _wait_s(self, key: str, direction: Direction, name: str, place: float) -> float:
        bucket = self._advanced(key, direction, name)
        self._buckets[key, name] = bucket
        return bucket.wait_s(place, rate=self._rate(key, direction, name))

    def _advanced(self, key: str, direction: Direction, name: str) -> decide.Bucket:
        bucket = self._buckets.get((key, name), decide.Bucket())
        return bucket.advanced(self._clock.monotonic_s(), rate=self._rate(key, direction, name))

    def _rate(self, key: str, direction: Direction, name: str) -> float | None:
        """The limit of this minute, this daemon's part of it, and what giving way leaves of that."""
        limit = decide.number(getattr(self._limits_of(key), name))
        mine = None if limit is None else limit * self._fraction(key)
        rule = self._backoff_rule(key)
        if rule is None or key == ALL_TIERS:
            return mine
        latency = self._latencies.get((key, direction), decide.Latency())
        if name.endswith("files_s"):
            return mine if mine is None else max(mine * latency.ratio, min(1.0, mine))
        return latency.rate(mine, least=min(LEAST_BYTES_S, mine) if mine is not None else LEAST_BYTES_S)

    def _fraction(self, key: str) -> float:
        if key == ALL_TIERS or not self._shared:
            return 1.0
        return self._fractions.get(key, 0.0)

    def _limits_of(self, key: str) -> Limits:
        """The limits of this minute; the wall clock is asked once a second."""
        rule = self._rules.get(key)
        if rule is None:
            return NO_LIMITS
        now_s = self._clock.monotonic_s()
        known = self._limits.get(key)
        if known is None or now_s - known[0] >= LIMITS_KEPT_S:
            local = self._clock.now().astimezone(ZoneInfo(rule.time_zone) if rule.time_zone else UTC)
            known = now_s, decide.limits_at(rule, local)
            self._limits[key] = known
        return known[1]

    def _backoff_rule(self, key: str) -> BackoffRule | None:
        if key in self._rules:
            return self._rules[key].backoff
        return DEFAULT_BACKOFF if key in self._source_tiers else None

    # --- slots --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _held(self, wanted: dict[tuple[str, str], int], tiers: tuple[str, ...]) -> Iterator[None]:
        if not wanted or (not self._rules and not self._source_tiers.intersection(tiers)):
            yield
            return
        for tier in tiers:
            self._touch(tier)
        began_s = self._clock.monotonic_s()
        with self._condition:
            ticket = self._slots.ask(wanted)
            try:
                while not self._slots.may_go(ticket, self._room):
                    self._refuse_when_closed()
                    for tier in tiers:
                        self._used_at_s[tier] = self._clock.monotonic_s()
                    self._clock.wait(self._condition, ASK_AGAIN_S)
            except BaseException:
                self._slots.forget(ticket)
                raise
            self._slots.go(ticket)
        waited_s = self._clock.monotonic_s() - began_s
        if waited_s > 0:
            metrics.BUDGET_WAIT.labels(tiers[0], "read").inc(waited_s)
        try:
            yield
        finally:
            with self._condition:
                self._slots.give_back(ticket)
                self._condition.notify_all()

    def _keys(self, tiers: tuple[str, ...]) -> list[str]:
        """All tiers together count only under a rule: who waits for one tier holds up nobody on another."""
        return [*dict.fromkeys(tiers), *([ALL_TIERS] if ALL_TIERS in self._rules else [])]

    def _room(self, key: tuple[str, str]) -> float:
        """How many may be held at once; at least one, or nothing would ever end."""
        tier, name = key
        limit = decide.number(getattr(self._limits_of(tier), name))
        ratio = 1.0
        if name == "open_files" and tier != ALL_TIERS and self._backoff_rule(tier) is not None:
            ratio = min(self._latencies.get((tier, one), decide.Latency()).ratio for one in DIRECTIONS)
        if limit is None:
            return math.inf if ratio >= 1.0 else max(1, int(self._slots.peak(key) * ratio))
        return max(1, int(limit * self._fraction(tier) * ratio))

    def _touch(self, tier: str) -> None:
        with self._condition:
            self._refuse_when_closed()
            self._used_at_s[tier] = self._clock.monotonic_s()
            needs = self._shared and tier in self._rules and tier not in self._fractions
        if needs and self.on_need is not None:
            self.on_need()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Stopping("the daemon ends; what waited for a budget comes again")


LEAST_BYTES_S = 64 << 10
# Of source tiers without a policy, gentler than a policy's own: files that were in the page cache a moment ago make a
# device's ordinary pace look slow, and nobody said yet how dear this source is.
DEFAULT_BACKOFF = BackoffRule(factor=4.0, least=0.25, recover_s=30.0)


class _Ticket(Struct, frozen=True, eq=False):
    wanted: dict[tuple[str, str], int]


class _Slots:
    """What is held and who waits, in the order they came. Called under the lock of the budgets."""

    def __init__(self) -> None:
        self.used: dict[tuple[str, str], int] = {}
        self._waiting: list[_Ticket] = []
        self._peaks: dict[tuple[str, str], int] = {}

    def ask(self, wanted: dict[tuple[str, str], int]) -> _Ticket:
        ticket = _Ticket(wanted)
        self._waiting.append(ticket)
        return ticket

    def may_go(self, ticket: _Ticket, room: Callable[[tuple[str, str]], float]) -> bool:
        """When it fits, and nobody who came earlier waits for any of the same."""
        for earlier in self._waiting:
            if earlier is ticket:
                break
            if earlier.wanted.keys() & ticket.wanted.keys():
                return False
        return all(
            not self.used.get(key) or self.used[key] + count <= room(key) for key, count in ticket.wanted.items()
        )

    def go(self, ticket: _Ticket) -> None:
        self.forget(ticket)
        for key, count in ticket.wanted.items():
            self.used[key] = self.used.get(key, 0) + count
            self._peaks[key] = max(self._peaks.get(key, 0), self.used[key])

    def forget(self, ticket: _Ticket) -> None:
        self._waiting.remove(ticket)

    def give_back(self, ticket: _Ticket) -> None:
        for key, count in ticket.wanted.items():
            left = self.used[key] - count
            if left:
                self.used[key] = left
            else:
                del self.used[key]

    def peak(self, key: tuple[str, str]) -> int:
        return self._peaks.get(key, 1)


UNLIMITED = Budgets()
