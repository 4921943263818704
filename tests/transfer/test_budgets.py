"""Budgets as threads meet them: waiting, turns, slots, changes on the way, giving way. Time is simulated."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from mover.errors import Stopping
from mover.model.policy import BudgetPolicy, BudgetWindow
from mover.transfer.budgets import UNLIMITED, Budgets
from tests.support.clocks import SimulatedClock, run_threads

MB = 1_000_000


def made(clock: SimulatedClock, *policies: BudgetPolicy, **more: object) -> Budgets:
    return Budgets(policies, clock=clock, **more)  # type: ignore[arg-type]


def taking(
    budgets: Budgets, tier: str, bytes_: int, times: int, log: list[tuple[float, str]], name: str
) -> Callable[[], None]:
    def body() -> None:
        for _ in range(times):
            budgets.take(tier, direction="read", bytes_=bytes_)
            log.append((budgets._clock.monotonic_s(), name))

    return body


def test_threads_together_never_read_more_than_the_limit_and_a_burst() -> None:
    """The sum counts, not each thread's part; and it is used whole, or nights would be too short."""
    clock, log = SimulatedClock(threads=4), []
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", read_bytes_s=10 * MB))
    bodies = [taking(budgets, "nas", MB, 50, log, str(i)) for i in range(4)]
    run_threads(clock, budgets._condition, bodies)
    for now_s, _ in log:
        went = sum(MB for at_s, _ in log if at_s <= now_s)
        assert went <= 10 * MB * now_s + 10 * MB + 1
    assert log[-1][0] == pytest.approx(19.0, abs=0.5)


def test_a_shard_of_large_groups_and_one_of_small_steps_take_turns() -> None:
    """Fair by bytes: while both want, neither gets much more than half."""
    clock, log = SimulatedClock(threads=2), []
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", read_bytes_s=10 * MB))
    bodies = [taking(budgets, "nas", 100 * MB, 2, log, "large"), taking(budgets, "nas", 2 * MB, 40, log, "small")]
    run_threads(clock, budgets._condition, bodies)
    small_end = max(at_s for at_s, name in log if name == "small")
    assert small_end == pytest.approx(15.0, abs=3.0)  # 80 MB at half of 10 MB/s, less the burst


def test_reading_and_writing_and_other_tiers_do_not_wait_for_each_other() -> None:
    clock = SimulatedClock()
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", read_bytes_s=MB))
    budgets.take("nas", direction="write", bytes_=1000 * MB)
    budgets.take("flash", direction="read", bytes_=1000 * MB)
    assert clock.monotonic_s() == 0
    budgets.take("nas", direction="read", bytes_=11 * MB)
    assert clock.monotonic_s() == pytest.approx(10.0, abs=0.1)


def test_files_a_second_hold_back_what_bytes_do_not() -> None:
    """A PACS minds requests, not bytes."""
    clock = SimulatedClock()
    budgets = made(clock, BudgetPolicy(name="pacs", tier="pacs", read_files_s=100))
    budgets.take("pacs", direction="read", bytes_=1, files=4100)
    assert clock.monotonic_s() == pytest.approx(40.0, abs=0.1)


def test_a_budget_without_a_tier_is_the_node_s_over_all_tiers() -> None:
    clock = SimulatedClock()
    budgets = made(clock, BudgetPolicy(name="node", read_bytes_s=MB))
    for tier in ("a", "b", "c"):
        budgets.take(tier, direction="read", bytes_=2 * MB)
    assert clock.monotonic_s() == pytest.approx(5.0, abs=0.1)


def test_without_rules_nothing_waits() -> None:
    UNLIMITED.take("nas", direction="read", bytes_=1 << 60, files=1 << 40)
    UNLIMITED.observe("nas", direction="read", seconds=1000.0, bytes_=1)
    with UNLIMITED.open_files("nas"), UNLIMITED.memory("nas", bytes_=1 << 60):
        assert UNLIMITED.ratio("nas", "read") == 1.0


def test_a_new_limit_reaches_who_waits_already() -> None:
    """The operator lifts the limit at noon: the shard that asked at nine must not sleep till evening."""
    clock, log = SimulatedClock(threads=2), []
    slow, fast = (BudgetPolicy(name="nas", tier="nas", read_bytes_s=rate) for rate in (100, 10 * MB))
    budgets = made(clock, slow)

    def operator() -> None:
        while clock.monotonic_s() < 5:
            with budgets._condition:
                clock.wait(budgets._condition, 1.0)
        budgets.use([fast])

    run_threads(clock, budgets._condition, [taking(budgets, "nas", MB, 1, log, "one"), operator])
    assert log[0][0] == pytest.approx(5.5, abs=0.6)


def test_a_window_that_opens_reaches_who_waits_already() -> None:
    night = BudgetWindow(begin="22:30", end="06:00", read_bytes_s="unlimited")
    policy = BudgetPolicy(name="nas", tier="nas", read_bytes_s=100, windows=(night,), time_zone="Europe/Berlin")
    clock = SimulatedClock(begin=datetime(2026, 3, 2, 21, 20, tzinfo=UTC))
    made(clock, policy).take("nas", direction="read", bytes_=100 * MB)
    assert clock.monotonic_s() == pytest.approx(600, abs=2)


def test_open_files_are_bounded_and_given_back() -> None:
    clock, most, now_open = SimulatedClock(threads=6), [0], [0]
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", open_files=2))

    def body() -> None:
        with budgets.open_files("nas"):
            now_open[0] += 1
            most[0] = max(most[0], now_open[0])
            with budgets._condition:
                clock.wait(budgets._condition, 1.0)
            now_open[0] -= 1

    run_threads(clock, budgets._condition, [body] * 6)
    assert most == [2] and now_open == [0]
    assert clock.monotonic_s() >= 3


def test_slots_of_two_tiers_are_got_together_so_that_opposite_moves_end() -> None:
    """One moves a to b, one b to a, each tier has one slot: had each one and waited for the other's, none ended."""
    clock, done = SimulatedClock(threads=2), []
    budgets = made(clock, *(BudgetPolicy(name=tier, tier=tier, open_files=1) for tier in ("aa", "bb")))

    def body(*tiers: str) -> Callable[[], None]:
        def moves() -> None:
            for _ in range(20):
                with budgets.open_files(*tiers), budgets._condition:
                    clock.wait(budgets._condition, 0.1)
            done.append(tiers)

        return moves

    run_threads(clock, budgets._condition, [body("aa", "bb"), body("bb", "aa")])
    assert len(done) == 2


def test_a_thread_that_holds_a_slot_does_not_wait_for_itself() -> None:
    """A move holds its tiers' slots and asks one of them what stands there: with one slot it would wait for ever."""
    clock = SimulatedClock()
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", open_files=1), BudgetPolicy(name="node", open_files=1))
    with budgets.open_files("nas"):
        with budgets.open_files("nas"):
            assert clock.monotonic_s() == 0
        assert budgets._slots.used[("nas", "open_files")] == 1
    assert budgets._slots.used == {}


def test_memory_is_bounded_and_one_buffer_above_the_limit_goes_alone() -> None:
    """A part that is larger than the limit must not wait for ever."""
    clock, held, most = SimulatedClock(threads=3), [0], []
    budgets = made(clock, BudgetPolicy(name="node", memory_bytes=100))

    def body(bytes_: int) -> Callable[[], None]:
        def uses() -> None:
            with budgets.memory("nas", bytes_=bytes_):
                held[0] += bytes_
                most.append(held[0])
                with budgets._condition:
                    clock.wait(budgets._condition, 1.0)
                held[0] -= bytes_

        return uses

    run_threads(clock, budgets._condition, [body(60), body(60), body(500)])
    assert max(one for one in most if one != 500) <= 100 and 500 in most


def test_who_waits_on_one_tier_holds_up_nobody_on_another() -> None:
    clock = SimulatedClock()
    budgets = made(clock, *(BudgetPolicy(name=tier, tier=tier, open_files=1) for tier in ("aa", "bb")))
    with budgets.open_files("aa"):
        budgets._slots.ask({("aa", "open_files"): 1})
        with budgets.open_files("bb"):
            assert clock.monotonic_s() == 0


# --- shares of daemons ---------------------------------------------------------------------------------------


def test_nothing_passes_before_the_share_is_known_and_then_only_the_share() -> None:
    """Two daemons that start at once must not both believe that they are alone."""
    clock, log = SimulatedClock(threads=2), []
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", read_bytes_s=10 * MB), shared=True)

    def heart() -> None:
        with budgets._condition:
            clock.wait(budgets._condition, 3.0)
        assert log == [] and budgets.in_use(within_s=10) == ["nas"]
        budgets.hold({"nas": 0.5})

    run_threads(clock, budgets._condition, [taking(budgets, "nas", MB, 40, log, "one"), heart])
    assert log[0][0] >= 3.0
    assert log[-1][0] == pytest.approx(3 + 8, abs=1.2)  # 40 MB at 5 MB/s


def test_a_tier_not_used_for_a_while_gives_its_share_back() -> None:
    clock = SimulatedClock()
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", read_bytes_s=10 * MB), shared=True)
    budgets.hold({"nas": 1.0})
    budgets.take("nas", direction="read", bytes_=1)
    assert budgets.in_use(within_s=10) == ["nas"]
    clock.advance(11)
    assert budgets.in_use(within_s=10) == []


def test_a_share_of_open_files_is_at_least_one() -> None:
    clock = SimulatedClock()
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", open_files=3), shared=True)
    budgets.hold({"nas": 0.1})
    with budgets.open_files("nas"):
        assert clock.monotonic_s() == 0


# --- giving way ------------------------------------------------------------------------------------------------


class ScriptedTier:
    """A tier whose latency depends on who else uses it: the scanner, from one moment to another."""

    def __init__(self, clock: SimulatedClock, busy: range) -> None:
        self._clock, self._busy = clock, busy

    def read(self) -> float:
        seconds = 0.2 if int(self._clock.monotonic_s()) in self._busy else 0.02
        self._clock.advance(seconds)
        return seconds


def test_a_scanner_that_begins_to_work_gets_its_nas_back_and_we_return_when_it_rests() -> None:
    """The figure this is for: what we ask of the tier while its own user is at work."""
    clock = SimulatedClock()
    tier = ScriptedTier(clock, range(100, 400))
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", read_bytes_s=40 * MB))
    reads: list[float] = []
    while clock.monotonic_s() < 900:
        budgets.take("nas", direction="read", bytes_=MB)
        budgets.observe("nas", direction="read", seconds=tier.read(), bytes_=MB)
        reads.append(clock.monotonic_s())
    hours = ((50, 100), (150, 400), (700, 900))
    before, busy, late = (len([at for at in reads if a <= at < b]) / (b - a) for a, b in hours)
    assert before > 25
    assert 0 < busy < before / 15
    assert late > before * 0.9
    assert budgets.ratio("nas", "read") == 1.0


def test_a_source_tier_gives_way_also_without_a_policy() -> None:
    """"Must never feel us" holds on the day of the installation, before anybody wrote a budget."""
    clock = SimulatedClock()
    budgets = made(clock, source_tiers=["nas"])
    for _ in range(100):
        clock.advance(0.1)
        budgets.observe("nas", direction="read", seconds=0.01, bytes_=MB)
    for _ in range(60):
        clock.advance(0.1)
        budgets.observe("nas", direction="read", seconds=0.1, bytes_=MB)
    assert budgets.ratio("nas", "read") < 0.3
    began_s = clock.monotonic_s()
    for _ in range(100):
        budgets.take("nas", direction="read", bytes_=MB)
    assert clock.monotonic_s() - began_s > 30  # the peak was 10 MB/s


def test_giving_way_also_means_fewer_at_once_and_at_least_one() -> None:
    clock = SimulatedClock()
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", open_files=8))
    for seconds in [0.01] * 50 + [0.2] * 60:
        clock.advance(1.0)
        budgets.observe("nas", direction="read", seconds=seconds, bytes_=MB)
    assert budgets._room(("nas", "open_files")) == 1


# --- the end ---------------------------------------------------------------------------------------------------


def test_closing_sends_home_who_waits() -> None:
    """A daemon must end within its stop time, also when a limit would keep it for hours."""
    clock = SimulatedClock(threads=2)
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", read_bytes_s=1))

    def waits() -> None:
        with pytest.raises(Stopping):
            budgets.take("nas", direction="read", bytes_=MB)

    def closes() -> None:
        with budgets._condition:
            clock.wait(budgets._condition, 5.0)
        budgets.close()

    run_threads(clock, budgets._condition, [waits, closes])
    with pytest.raises(Stopping):
        budgets.take("nas", direction="read", bytes_=1)


def test_who_is_stopped_leaves_the_queue_within_one_claim() -> None:
    """A cancelled transfer of a terabyte must not stand before everybody else."""
    clock, stop = SimulatedClock(), threading.Event()
    budgets = made(clock, BudgetPolicy(name="nas", tier="nas", read_bytes_s=MB))
    budgets.take("nas", direction="read", bytes_=MB)
    stop.set()
    budgets.take("nas", direction="read", bytes_=10**12, stopped=stop.is_set)
    assert clock.monotonic_s() <= 1.0
    budgets.take("nas", direction="read", bytes_=MB)
    assert clock.monotonic_s() <= 2.5
