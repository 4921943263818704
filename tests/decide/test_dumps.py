"""When a dump is due, which stay, and whether slides may be released."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.dumps import ALWAYS_KEPT, DumpFacts, is_due, judge, may_release
from mover.decide.keeping import changed, enough_s, renewal_due, renewal_every_s
from mover.model.policy import DumpPolicy, KeepRules

POLICY = DumpPolicy(name="dump", targets=("a", "b"), at="02:30", max_age_s=36 * 3600)
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def dump(state: str, *, hours: float, number: int = 1) -> DumpFacts:
    at = NOON - timedelta(hours=hours)
    return DumpFacts(f"dump-{number}", number, state, at, at if state != "making" else None)


@pytest.mark.parametrize(
    ("newest", "due"),
    [
        (None, True),
        (dump("verified", hours=9), False),         # 03:00, after the hour of the day
        (dump("verified", hours=10), True),         # 02:00, before it
        (dump("verified", hours=33), True),
        (dump("making", hours=99), False),          # the shard has its own patience
        (dump("failed", hours=0.2), False),
        (dump("failed", hours=0.3), True),          # not only tomorrow night
        (dump("damaged", hours=1), True),
    ],
)  # fmt: skip
def test_a_dump_is_due_once_a_day_and_soon_after_one_that_is_no_good(newest: DumpFacts | None, due: bool) -> None:
    assert bool(is_due(POLICY, newest, now=NOON)) is due


def test_a_machine_that_slept_over_the_hour_makes_the_dump_when_it_wakes() -> None:
    early = NOON.replace(hour=1)
    assert not is_due(POLICY, DumpFacts("d", 1, "verified", early - timedelta(hours=2)), now=early)
    assert is_due(POLICY, DumpFacts("d", 1, "verified", early - timedelta(days=2)), now=early)


@given(
    states=st.lists(st.sampled_from(["verified", "damaged"]), min_size=1, max_size=30),
    keep=st.builds(
        KeepRules,
        last=st.integers(0, 3),
        daily=st.integers(0, 3),
        monthly=st.integers(0, 2),
        at_least_s=st.sampled_from([0, 604_800]),
    ),
)
def test_the_newest_two_whole_dumps_always_stay(states: list[str], keep: KeepRules) -> None:
    """Whatever the rules and whatever is damaged: a newest dump that turns out bad has one before it."""
    dumps = [dump(state, hours=24 * (len(states) - i), number=i) for i, state in enumerate(states)]
    whole = [one.id for one in dumps if one.state == "verified"]
    gone = {v.id for v in judge(DumpPolicy(name="dump", targets=("a", "b"), keep=keep), dumps, now=NOON) if not v.keep}
    assert not gone & set(whole[-ALWAYS_KEPT:])
    assert len(dumps) - len(gone) >= min(ALWAYS_KEPT, len(dumps))


def test_dumps_that_somebody_asks_for_displace_no_nights() -> None:
    """Seven in a minute would be the last seven, and what stood in the vault yesterday would be nowhere."""
    nights = [dump("verified", hours=24 * (7 - i), number=i) for i in range(7)]
    asked = [dump("verified", hours=0, number=10 + i) for i in range(7)]
    assert [v.id for v in judge(POLICY, nights + asked, now=NOON) if not v.keep] == []
    later = NOON + timedelta(seconds=POLICY.keep.at_least_s)
    assert "dump-1" in {v.id for v in judge(POLICY, nights + asked, now=later) if not v.keep}


def test_a_damaged_dump_stays_until_two_newer_ones_are_whole_and_no_rule_would_keep_it() -> None:
    """Its whole copy may be the best there is; and that it is damaged is a word that whoever writes rows can write."""
    policy = DumpPolicy(name="dump", targets=("a", "b"), keep=KeepRules(last=1, at_least_s=0))
    damaged = dump("damaged", hours=48, number=1)
    one, two = dump("verified", hours=24, number=2), dump("verified", hours=0, number=3)
    assert [v.id for v in judge(policy, [damaged, one], now=NOON) if not v.keep] == []
    assert [v.id for v in judge(policy, [damaged, one, two], now=NOON) if not v.keep] == ["dump-1"]
    assert [v.id for v in judge(POLICY, [damaged, one, two], now=NOON) if not v.keep] == []


@pytest.mark.parametrize(("age_s", "allowed"), [(None, False), (0, True), (36 * 3600, True), (36 * 3600 + 1, False)])
def test_slides_are_released_only_beside_a_young_dump(age_s: float | None, allowed: bool) -> None:
    verdict = may_release(POLICY, age_s)
    assert verdict.allowed is allowed and bool(verdict.why) is not allowed


# --- locks ------------------------------------------------------------------------------------------------


@given(st.integers(86_400, 10**9))
def test_a_lock_is_renewed_many_times_before_it_runs_out(retain_s: int) -> None:
    """A week without a daemon must not be enough for a lock of a month to lapse: it is extended at half its life."""
    assert renewal_every_s(retain_s) * 4 <= retain_s
    assert enough_s(retain_s) + renewal_every_s(retain_s) < retain_s


@pytest.mark.parametrize(
    ("age_s", "running", "failed", "due"),
    [(None, False, False, True), (None, True, False, False), (3599, False, True, False), (3600, False, True, True),
     (3600, False, False, False), (86_400, False, False, True), (10**6, True, False, False)],
)  # fmt: skip
def test_a_pass_is_due_after_its_time_and_soon_after_a_failed_one(
    age_s: float | None, running: bool, failed: bool, due: bool
) -> None:
    assert renewal_due(30 * 86_400, age_s=age_s, running=running, failed=failed) is due


def test_only_a_change_of_state_is_recorded() -> None:
    """A probe an hour would fill the audit with what everybody knows."""
    assert changed("immutable", "not immutable", ["deleted"]) == "tier found not immutable"
    assert changed("unknown", "immutable", []) == "tier found immutable"
    assert changed("not immutable", "not immutable", ["deleted"]) == changed("immutable", "immutable", []) == ""
