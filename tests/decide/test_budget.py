"""Budgets: tokens, hours, shares and giving way, as laws."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mover.decide.budget import (
    BURST_S,
    Bucket,
    Latency,
    Step,
    Use,
    fraction,
    is_open,
    limits_at,
    number,
    quantum,
    share,
)
from mover.model.policy import BackoffRule, BudgetPolicy, BudgetWindow

BERLIN = ZoneInfo("Europe/Berlin")
RULE = BackoffRule()


# --- tokens ------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    rate=st.floats(1, 1e9),
    claims=st.lists(st.tuples(st.floats(0, 20), st.floats(0.01, 5)), min_size=1, max_size=30),
)
def test_no_stretch_of_time_lets_more_through_than_rate_times_time_and_one_burst(
    rate: float, claims: list[tuple[float, float]]
) -> None:
    """The promise to a scanner's NAS: whatever we ask and whenever, it never gives more."""
    bucket, now_s, went = Bucket(), 0.0, []
    for pause_s, seconds_worth in claims:
        now_s += pause_s
        bucket, place = bucket.advanced(now_s, rate=rate).claimed(rate * seconds_worth)
        now_s += bucket.wait_s(place, rate=rate)
        bucket = bucket.advanced(now_s, rate=rate)
        assert bucket.wait_s(place, rate=rate) * rate <= rate * 1e-6 + 1e-3  # its turn came when it was told to
        went.append((now_s, rate * seconds_worth))
    for first in range(len(went)):
        for last in range(first, len(went)):
            moved = sum(amount for _, amount in went[first : last + 1])
            # a claim ends a wait: what came before it was paid for before this stretch began
            allowed = rate * (went[last][0] - went[first][0]) + rate * BURST_S + went[first][1]
            assert moved <= allowed * (1 + 1e-9) + 1
    total = sum(amount for _, amount in went)
    assert total <= (rate * went[-1][0] + rate * BURST_S) * (1 + 1e-9) + 1


@given(rates=st.lists(st.floats(1, 1e6), min_size=1, max_size=20), amount=st.floats(1, 1e7))
def test_a_claim_gets_its_turn_whatever_becomes_of_the_rate(rates: list[float], amount: float) -> None:
    """Nobody starves: after as many tokens as were claimed ahead, it goes, also when the burst shrinks on the way."""
    bucket, place = Bucket().advanced(0.0, rate=rates[0]).claimed(amount)
    now_s = 0.0
    for rate in rates:
        now_s += 0.25
        bucket = bucket.advanced(now_s, rate=rate)
    bucket = bucket.advanced(now_s + bucket.wait_s(place, rate=rates[-1]) + 1e-6, rate=rates[-1])
    assert bucket.wait_s(place, rate=rates[-1]) < 1e-3


def test_claims_go_in_the_order_they_came() -> None:
    """A shard that asks for little does not overtake one that asks for much, so that both end."""
    bucket = Bucket(0.0, 0.0, 0.0)
    bucket, first = bucket.claimed(1000)
    bucket, second = bucket.claimed(1)
    assert bucket.wait_s(first, rate=100) < bucket.wait_s(second, rate=100)


def test_lifting_a_limit_lets_everybody_go_and_saves_no_burst_of_free_hours() -> None:
    bucket, place = Bucket(0.0, 0.0, 0.0).claimed(1e9)
    assert bucket.wait_s(place, rate=None) == 0
    after = bucket.advanced(3600.0, rate=None)
    after, place = after.claimed(100)
    assert after.wait_s(place, rate=10) == pytest.approx(10)


def test_a_rate_of_nothing_waits_and_never_divides_by_it() -> None:
    """A daemon whose share is not known yet has none."""
    bucket, place = Bucket().advanced(0.0, rate=0.0).claimed(1)
    assert bucket.wait_s(place, rate=0.0) == float("inf")


@given(st.floats(1, 1e12))
def test_large_claims_are_cut_so_that_two_who_share_take_turns(rate: float) -> None:
    assert 64 << 10 <= quantum(rate) <= 32 << 20


# --- hours -------------------------------------------------------------------------------------------------


def night() -> BudgetPolicy:
    window = BudgetWindow(begin="22:30", end="06:00", read_bytes_s="unlimited")
    return BudgetPolicy(name="nas", tier="nas", read_bytes_s=1000, windows=(window,), time_zone="Europe/Berlin")


def local(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN)


@pytest.mark.parametrize(
    ("at", "limit"),
    [
        ("2026-03-02T22:29", 1000),
        ("2026-03-02T22:30", None),
        ("2026-03-02T23:59", None),
        ("2026-03-03T00:00", None),
        ("2026-03-03T05:59", None),
        ("2026-03-03T06:00", 1000),
        ("2026-03-03T12:00", 1000),
    ],
)
def test_a_window_goes_over_midnight(at: str, limit: int | None) -> None:
    """The common case: bulk work at night, none of it in the clinic's hours."""
    assert number(limits_at(night(), local(at)).read_bytes_s) == limit


def test_a_window_over_midnight_belongs_to_the_day_it_began() -> None:
    """`fri 22:30 to 06:00` is Friday's night: Saturday's early morning, and not Friday's."""
    friday = BudgetWindow(days=("fri",), begin="22:30", end="06:00")
    assert not is_open(friday, local("2026-03-06T05:00"))
    assert is_open(friday, local("2026-03-06T23:00"))
    assert is_open(friday, local("2026-03-07T05:00"))
    assert not is_open(friday, local("2026-03-07T23:00"))


def test_the_first_open_window_that_names_a_limit_wins_and_others_stay() -> None:
    windows = (
        BudgetWindow(begin="08:00", end="18:00", read_bytes_s=10),
        BudgetWindow(begin="00:00", end="00:00", read_bytes_s=20, open_files=3),
    )
    policy = BudgetPolicy(name="nas", tier="nas", read_bytes_s=1, write_bytes_s=7, windows=windows)
    by_day, by_night = limits_at(policy, local("2026-03-02T12:00")), limits_at(policy, local("2026-03-02T20:00"))
    assert (by_day.read_bytes_s, by_day.open_files, by_day.write_bytes_s) == (10, 3, 7)
    assert (by_night.read_bytes_s, by_night.open_files) == (20, 3)


def open_minutes(window: BudgetWindow, first: datetime, hours: int) -> int:
    moments = (first.astimezone(UTC) + timedelta(minutes=minute) for minute in range(hours * 60))
    return sum(is_open(window, moment.astimezone(BERLIN)) for moment in moments)


def test_windows_follow_the_wall_clock_when_the_hour_changes() -> None:
    """22:30 to 06:00 is seven and a half hours by the wall; in the night of autumn it lasts one more, in that of
    spring one less. An hour that comes twice is in its window twice."""
    window = BudgetWindow(begin="22:30", end="06:00")
    assert open_minutes(window, local("2026-06-10T12:00"), 24) == 450
    assert open_minutes(window, local("2026-10-24T12:00"), 24) == 510
    assert open_minutes(window, local("2026-03-28T12:00"), 24) == 390
    assert open_minutes(BudgetWindow(begin="02:15", end="02:45"), local("2026-10-24T12:00"), 24) == 60
    assert open_minutes(BudgetWindow(begin="02:15", end="02:45"), local("2026-03-28T12:00"), 24) == 0


@given(
    begin=st.integers(0, 1439),
    end=st.integers(0, 1439),
    days=st.sets(st.sampled_from(["mon", "tue", "wed", "thu", "fri", "sat", "sun"]), min_size=1),
)
@settings(max_examples=40, deadline=None)
def test_a_window_is_open_as_long_as_it_says_on_each_of_its_days(begin: int, end: int, days: set[str]) -> None:
    """Counted over a week without a change of hour."""
    window = BudgetWindow(days=tuple(days), begin=_clock(begin), end=_clock(end))  # type: ignore[arg-type]
    monday = datetime(2026, 6, 1, tzinfo=UTC)
    minutes = sum(is_open(window, monday + timedelta(minutes=minute)) for minute in range(7 * 1440))
    length = end - begin if end > begin else end - begin + 1440

    assert minutes == len(days) * length


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


# --- shares ------------------------------------------------------------------------------------------------


@given(total=st.integers(0, 10_000), users=st.integers(1, 100))
def test_whole_shares_sum_to_the_total_and_differ_by_one_at_most(total: int, users: int) -> None:
    parts = share(total, users)
    assert sum(parts) == total and len(parts) == users and max(parts) - min(parts) <= 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["beat", "leave", "die"])), max_size=80))
def test_held_fractions_never_sum_above_one_and_settle_to_equal_parts(events: list[tuple[int, str]]) -> None:
    """Nodes come, go and die in any order: as each takes only what no other holds, no moment exceeds the tier's
    budget. After that, two rounds of heartbeats make the parts equal."""
    held: dict[str, float] = {}
    dead: set[str] = set()

    def beat(node: str) -> None:
        uses = [Use(one, held[one], 99.0 if one in dead else 1.0) for one in held]
        held[node] = fraction(node, uses, stale_s=30.0)

    for number_, what in events:
        node = f"node{number_}"
        if what == "beat":
            dead.discard(node)
            # one that comes back from the dead holds nothing until it asked
            held[node] = held.get(node, 0.0)
            beat(node)
        elif node in held:
            held.pop(node) if what == "leave" else dead.add(node)
        assert sum(part for one, part in held.items() if one not in dead) <= 1 + 1e-9
    alive = sorted(set(held) - dead)
    for _ in range(2):
        for node in alive:
            beat(node)
    assert all(held[node] == pytest.approx(1 / len(alive)) for node in alive)


# --- giving way ----------------------------------------------------------------------------------------------


def after(latency: Latency, seconds: float, *, times: int, begin_s: float, every_s: float = 1.0) -> Latency:
    for turn in range(times):
        step = Step(seconds, 1 << 20)
        latency = latency.observed(step, now_s=begin_s + turn * every_s, rule=RULE)
    return latency


def test_a_tier_that_slows_down_is_left_alone_more_and_more_and_never_wholly() -> None:
    """A scanner's NAS under load: halved and halved again, down to the least part, which is above nothing."""
    quiet = after(Latency(), 0.01, times=50, begin_s=1)
    assert quiet.ratio == 1.0
    slow = after(quiet, 0.05, times=12, begin_s=100)
    assert slow.ratio <= 0.25
    long = after(slow, 0.05, times=500, begin_s=200)
    assert long.ratio == RULE.least > 0


def test_recovery_is_even_and_ends_at_the_whole() -> None:
    """Additive: the tier gets time to show that it is well."""
    slow = after(after(Latency(), 0.01, times=50, begin_s=1), 0.05, times=100, begin_s=100)
    begun = after(slow, 0.01, times=30, begin_s=300)
    ratios = [begun.ratio]
    for turn in range(400):
        begun = begun.observed(Step(0.01, 1 << 20), now_s=400.0 + turn, rule=RULE)
        ratios.append(begun.ratio)
    grown = [b - a for a, b in zip(ratios, ratios[1:], strict=False)][2:]
    assert all(0 <= one <= 1 / RULE.recover_s + 1e-9 for one in grown)
    assert ratios[-1] == 1.0


def test_one_outlier_changes_nothing() -> None:
    """A disk that spins up once is no reason to crawl for two minutes."""
    quiet = after(Latency(), 0.01, times=50, begin_s=1)
    assert after(quiet, 30.0, times=1, begin_s=100).ratio == 1.0


def test_less_than_twice_as_slow_is_no_reason() -> None:
    quiet = after(Latency(), 0.01, times=50, begin_s=1)
    assert after(quiet, 0.018, times=500, begin_s=100).ratio == 1.0


def test_large_and_small_steps_are_each_compared_with_their_like() -> None:
    """32 MiB take longer than 4 KiB; a change of work is not a change of the tier."""
    latency = Latency()
    for turn in range(200):
        small = turn % 2 == 0
        step = Step(0.001 if small else 0.3, 4096 if small else 32 << 20)
        latency = latency.observed(step, now_s=float(turn + 1), rule=RULE)
    assert latency.ratio == 1.0
    grouped = latency.observed(Step(1.0, 4096 * 1000, files=1000), now_s=300.0, rule=RULE)
    assert grouped.slowness == pytest.approx(latency.slowness, abs=0.05)


def test_a_busy_day_is_not_taken_for_quiet() -> None:
    """The memory of quiet times fades in days, not in hours."""
    quiet = after(Latency(), 0.01, times=50, begin_s=1)
    busy = after(quiet, 0.05, times=8 * 60, begin_s=100, every_s=60.0)
    assert busy.ratio == RULE.least


def test_without_a_limit_giving_way_is_a_part_of_the_best_rate_of_late() -> None:
    """A ratio of nothing would be no limit at all."""
    latency = Latency()
    for turn in range(100):
        latency = latency.observed(Step(0.01, 1 << 20), now_s=1 + turn / 10, rule=RULE)
    assert latency.rate(None, least=1.0) is None
    assert latency.peak_bytes_s == pytest.approx(10 << 20, rel=0.2)
    slower = replace(latency, ratio=0.5)
    assert slower.rate(None, least=1.0) == pytest.approx(5 << 20, rel=0.2)
    assert slower.rate(1000.0, least=1.0) == 500.0


@given(
    st.lists(st.tuples(st.floats(1e-6, 1e4), st.integers(0, 1 << 40), st.integers(1, 10_000)), max_size=60),
    st.floats(0.01, 600),
)
@settings(max_examples=60, deadline=None)
def test_whatever_a_tier_does_the_ratio_stays_between_the_least_and_one(
    steps: list[tuple[float, int, int]], every_s: float
) -> None:
    latency = Latency()
    for turn, (seconds, size, files) in enumerate(steps):
        latency = latency.observed(Step(seconds, size, files), now_s=1 + turn * every_s, rule=RULE)
        assert RULE.least <= latency.ratio <= 1.0
        rate = latency.rate(1000.0, least=1.0)
        assert rate is not None and 1.0 <= rate <= 1000.0
