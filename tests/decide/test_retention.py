"""Retention: laws that hold for any history, and the cases people argue about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from mover.decide.retention import (
    KeepRules,
    SnapshotRecord,
    Terms,
    Verdict,
    breaks,
    in_force,
    plan,
    shorter,
    simulate,
    terms_of,
)
from mover.errors import RequestInvalid
from mover.model.policy import ProtectPolicy, SecondRule

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = START + timedelta(hours=60_000)
WEEK_S = 7 * 86_400


def history(*hours: float, held: tuple[int, ...] = ()) -> list[SnapshotRecord]:
    """Snapshots s0, s1 .. in the order of record, at so many hours after the start."""
    return [
        SnapshotRecord(f"s{place}", place, START + timedelta(hours=hour), held=place in held)
        for place, hour in enumerate(hours)
    ]


NEWEST = "the newest that counts: that the series is protected rests on it"


def kept(verdicts: list[Verdict]) -> set[str]:
    return {verdict.id for verdict in verdicts if verdict.keep}


DOUBT = st.sampled_from([None, None, None, "flood", "collapsed", "missing"])
RECORDS = st.lists(
    st.tuples(st.integers(0, 60_000), st.sets(st.sampled_from("abc")), st.booleans(), DOUBT), max_size=25
).map(
    lambda rows: [
        SnapshotRecord(f"s{place}", place, START + timedelta(hours=hours), tuple(sorted(tags)), held, doubt)
        for place, (hours, tags, held, doubt) in enumerate(rows)
    ]
)
COUNT = st.integers(0, 5)
RULES = st.builds(
    KeepRules,
    last=COUNT,
    hourly=COUNT,
    daily=COUNT,
    weekly=COUNT,
    monthly=COUNT,
    yearly=COUNT,
    within_s=st.none() | st.integers(0, 10**7),
    tags=st.sets(st.sampled_from("abc")).map(lambda tags: tuple(sorted(tags))),
    at_least_s=st.sampled_from([0, 3600, WEEK_S, 10**8]),
)


@given(RECORDS, RULES)
def test_every_snapshot_gets_one_verdict_with_reasons(records: list[SnapshotRecord], rules: KeepRules) -> None:
    """Nothing is both kept and removed, nothing is forgotten about, and a person can read why."""
    verdicts = plan(records, rules, now=NOW)

    assert sorted(verdict.id for verdict in verdicts) == sorted(record.id for record in records)
    assert all(verdict.reasons and all(verdict.reasons) for verdict in verdicts)


@given(RECORDS, RULES)
def test_what_is_held_is_kept_whatever_the_rules(records: list[SnapshotRecord], rules: KeepRules) -> None:
    """Holds beat everything."""
    assert {record.id for record in records if record.held} <= kept(plan(records, rules, now=NOW))


@given(RECORDS, RULES, RULES)
def test_more_rules_keep_a_superset(records: list[SnapshotRecord], one: KeepRules, other: KeepRules) -> None:
    """Adding or raising a rule never costs a snapshot, unless there was no rule at all."""
    within = [each for each in (one.within_s, other.within_s) if each is not None]
    more = KeepRules(
        **{name: max(getattr(one, name), getattr(other, name)) for name in _COUNTS},
        within_s=max(within) if within else None,
        tags=tuple(sorted({*one.tags, *other.tags})),
        at_least_s=max(one.at_least_s, other.at_least_s),
    )

    if not one.none:
        assert kept(plan(records, one, now=NOW)) <= kept(plan(records, more, now=NOW))


_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


@given(RECORDS, RULES)
def test_forgetting_what_was_planned_changes_no_later_verdict(records: list[SnapshotRecord], rules: KeepRules) -> None:
    """A plan carried out twice, or half carried out and planned again, removes nothing more."""
    remaining = [record for record in records if record.id in kept(plan(records, rules, now=NOW))]

    assert kept(plan(remaining, rules, now=NOW)) == {record.id for record in remaining}


@given(RECORDS, RULES, st.randoms())
def test_the_order_of_the_list_does_not_matter(records: list[SnapshotRecord], rules: KeepRules, chance: object) -> None:
    """Order is the sequence of record, not how a query happened to sort."""
    shuffled = list(records)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]

    assert plan(shuffled, rules, now=NOW) == plan(records, rules, now=NOW)


def test_without_any_rule_everything_is_kept_and_says_so() -> None:
    """An empty policy is not a wish to delete."""
    verdicts = plan(history(0, 1, 2), KeepRules())

    assert all(verdict.keep for verdict in verdicts)
    assert "no keep rule is set, so everything is kept" in verdicts[0].reasons


def test_keep_last_counts_by_order_of_record_not_by_time() -> None:
    """A snapshot recorded with the clock set back is still the newest record."""
    verdicts = plan(history(100, 200, -5000), KeepRules(last=2))

    assert kept(verdicts) == {"s1", "s2"}
    assert verdicts[0].reasons == (NEWEST, "last 1 of 2")
    assert verdicts[2].reasons == ("no rule keeps it (last 2)",)


def test_daily_keeps_the_newest_of_each_day_and_skips_days_without_any() -> None:
    """A week in which nothing ran must not use up the days that did."""
    verdicts = plan(history(0, 5, 24, 24 * 9, 24 * 9 + 1), KeepRules(daily=3))

    assert kept(verdicts) == {"s1", "s2", "s4"}
    assert [verdict.reasons for verdict in verdicts if verdict.keep] == [
        (NEWEST, "daily 1 of 3 (2026-03-10)"),
        ("daily 2 of 3 (2026-03-02)",),
        ("daily 3 of 3 (2026-03-01)",),
    ]


def test_a_flood_of_snapshots_in_one_hour_displaces_no_earlier_day() -> None:
    """A hundred tiny snapshots made to push the good one out use up one period only."""
    flood = [48 + minute / 60 for minute in range(59)]
    verdicts = plan(history(0, 24, *flood), KeepRules(daily=3, hourly=2))

    assert {"s0", "s1"} <= kept(verdicts)


def test_weeks_are_iso_weeks_and_years_turn_in_utc() -> None:
    """The 31st of December may lie in week 1 of the next year."""
    records = [
        SnapshotRecord("old", 0, datetime(2025, 12, 28, 23, tzinfo=UTC)),
        SnapshotRecord("new", 1, datetime(2025, 12, 31, 23, tzinfo=UTC)),
    ]

    verdicts = plan(records, KeepRules(weekly=1, yearly=2))

    assert verdicts[0].reasons == (NEWEST, "weekly 1 of 1 (2026-W01)", "yearly 1 of 2 (2025)")
    assert verdicts[1].reasons == ("no rule keeps it (weekly 1, yearly 2)",)


def test_within_counts_back_from_the_newest_record() -> None:
    """A site that stood still for a year loses nothing when it wakes up."""
    verdicts = plan(history(0, 9000, 9001), KeepRules(within_s=3600))

    assert kept(verdicts) == {"s1", "s2"}


def test_a_kept_tag_and_a_hold_are_named_as_reasons() -> None:
    """The audit shows the same words."""
    records = [
        SnapshotRecord("tagged", 0, START, tags=("paper",)),
        SnapshotRecord("held", 1, START, held=True),
        SnapshotRecord("newest", 2, START),
    ]

    verdicts = {verdict.id: verdict.reasons for verdict in plan(records, KeepRules(last=1, tags=("paper",)))}

    assert verdicts["tagged"] == ("tag 'paper' is kept",)
    assert verdicts["held"] == ("it is held",)


# --- what may displace -------------------------------------------------------------------------------------------

LEGITIMATE = st.lists(st.integers(0, 50_000), min_size=1, max_size=20).map(
    lambda hours: [
        SnapshotRecord(f"legit{place}", place * 2, START + timedelta(hours=hour)) for place, hour in enumerate(hours)
    ]
)


@given(LEGITIMATE, st.data(), RULES, st.integers(0, 60_000))
def test_what_is_young_or_doubtful_displaces_nothing(
    legitimate: list[SnapshotRecord], data: st.DataObject, rules: KeepRules, hours: int
) -> None:
    """Back-dated, future-dated, tiny and flooding: wherever they stand in the order of record and whatever time they
    have, each snapshot that would be kept without them is kept with them."""
    now = START + timedelta(hours=hours)
    strangers = [
        SnapshotRecord(f"stranger{at}", 2 * place + 1, now + timedelta(hours=shift), doubt=doubt)
        if doubt
        else SnapshotRecord(f"stranger{at}", 2 * place + 1, now - timedelta(seconds=rules.at_least_s * share))
        for at, (place, shift, doubt, share) in enumerate(
            data.draw(
                st.lists(
                    st.tuples(
                        st.integers(-1, 20),
                        st.integers(-90_000, 90_000),
                        st.sampled_from(["flood", "collapsed", "missing", None]),
                        st.floats(0, 0.99),
                    ),
                    unique_by=lambda row: row[0],
                    max_size=10,
                )  # fmt: skip
            )
        )
        if doubt or rules.at_least_s
    ]

    both = kept(plan([*legitimate, *strangers], rules, now=now))

    assert kept(plan(legitimate, rules, now=now)) | {one.id for one in strangers} <= both


def test_ten_thousand_in_an_hour_push_out_nothing_that_any_rule_kept() -> None:
    """`last` alone gives way to whoever records most. A flood is known as one before it counts."""
    days = [SnapshotRecord(f"day{day}", day, START + timedelta(days=day)) for day in range(60)]
    flood = [
        SnapshotRecord(f"flood{at}", 100 + at, START + timedelta(days=60, seconds=at / 3), doubt="flood")
        for at in range(10_000)
    ]
    rules = KeepRules(last=20, daily=14, monthly=12)
    now = START + timedelta(days=200)

    assert kept(plan(days, rules, now=now)) <= kept(plan([*days, *flood], rules, now=now))


def test_a_young_snapshot_is_kept_and_counts_only_when_people_had_time_to_look() -> None:
    """Before that, whatever is in it took nobody's place."""
    records = history(0, 1, 2, 240)
    rules = KeepRules(last=2)

    early = plan(records, rules, now=START + timedelta(hours=241))
    late = plan(records, rules, now=START + timedelta(hours=240 + 169))

    assert kept(early) == {"s1", "s2", "s3"} and kept(late) == {"s2", "s3"}
    assert early[0].reasons == ("on record for less than 7 days",)


def test_each_doubt_is_named() -> None:
    """Whoever is asked to agree must read what to."""
    records = [
        SnapshotRecord(doubt, at, START, doubt=doubt)  # type: ignore[arg-type]
        for at, doubt in enumerate(("flood", "collapsed", "missing"))
    ]
    verdicts = {one.id: " ".join(one.reasons) for one in plan(records, KeepRules(last=1), now=NOW)}

    assert "flood" in verdicts["flood"] and "two persons" in verdicts["flood"]
    assert "smaller" in verdicts["collapsed"] and "missing from the repository" in verdicts["missing"]


# --- what protects less -------------------------------------------------------------------------------------------


@given(RECORDS, RULES, RULES)
def test_rules_that_are_not_shorter_keep_whatever_was_kept(
    records: list[SnapshotRecord], one: KeepRules, other: KeepRules
) -> None:
    """The law on which one person may lengthen: nothing that is called not shorter costs a snapshot."""
    if not shorter(Terms(one), Terms(other)):
        assert kept(plan(records, one, now=NOW)) <= kept(plan(records, other, now=NOW))


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (KeepRules(last=3), KeepRules(last=3), ()),
        (KeepRules(last=3), KeepRules(last=4, monthly=1), ()),
        (KeepRules(last=3), KeepRules(), ()),
        (KeepRules(), KeepRules(last=10**6), ("keep.last", "keep.hourly", "keep.daily")),
        (KeepRules(last=3), KeepRules(last=2, monthly=12), ("keep.last",)),
        (KeepRules(within_s=5), KeepRules(last=9), ("keep.within_s",)),
        (KeepRules(within_s=5), KeepRules(within_s=4), ("keep.within_s",)),
        (KeepRules(tags=("a", "b")), KeepRules(tags=("a",)), ("keep.tags",)),
        (KeepRules(last=3), KeepRules(last=3, at_least_s=0), ("keep.at_least_s",)),
    ],
)
def test_shorter_is_what_is_not_provably_as_long(before: KeepRules, after: KeepRules, words: tuple[str, ...]) -> None:
    found = shorter(Terms(before), Terms(after))
    assert set(words) <= set(found) and bool(words) == bool(found)


def test_trash_delay_and_breaker_can_be_shortened_too() -> None:
    """Otherwise a shortening would begin with them."""
    policy = terms_of(ProtectPolicy(name="p", flash="f", repository="r"))
    less = Terms(policy.keep, policy.trash_s - 1, policy.delay_s - 1, policy.breaker_percent + 1)
    assert shorter(policy, less) == ("breaker_percent", "delay_s", "trash_s")
    assert shorter(less, policy) == ()


def test_a_lock_holds_as_long_and_as_strictly_as_was_promised() -> None:
    """Taking `lock_s` out of a file, or the mode down, unlocks nothing; what the file says more, it gets."""
    bare = ProtectPolicy(name="p", flash="f", repository="r")
    strict = replace(bare, lock_s=86_400 * 30)
    mild = replace(strict, lock_s=86_400 * 60, lock_mode="governance")
    assert shorter(terms_of(strict), terms_of(bare)) == ("lock_s", "lock_strength")
    assert shorter(terms_of(strict), terms_of(mild)) == ("lock_strength",)
    assert shorter(terms_of(replace(bare, append_only="chattr")), terms_of(bare)) == ("lock_strength",)

    assert in_force(bare, terms_of(strict)) == strict
    assert in_force(mild, terms_of(strict)) == replace(mild, lock_mode="compliance")
    assert in_force(bare, terms_of(mild)) == mild
    for longer in (strict, bare):
        assert in_force(longer, terms_of(bare)) is longer
    sealed = replace(bare, append_only="chattr")
    assert in_force(bare, terms_of(sealed)) == sealed
    assert in_force(strict, terms_of(sealed)) is strict


def test_a_second_copy_goes_on_where_and_as_often_as_was_promised() -> None:
    """Two copies that one person can make one, or copy once in a century, are one."""
    bare = ProtectPolicy(name="p", flash="f", repository="r", breaker_percent=100)
    twice = replace(bare, copy=SecondRule(repository="other", prefix="a/b", every_s=60), breaker_percent=5)
    moved = replace(twice, copy=SecondRule(repository="third", prefix="a/b", every_s=60))
    seldom = replace(twice, copy=SecondRule(repository="other", prefix="a/b", every_s=10**9))
    assert shorter(terms_of(twice), terms_of(bare)) == ("breaker_percent", "copy")
    assert shorter(terms_of(twice), terms_of(moved)) == ("copy",)
    assert shorter(terms_of(twice), terms_of(seldom)) == ("copy_every_s",)
    assert shorter(terms_of(bare), terms_of(seldom)) == ()
    for less in (bare, moved, seldom):
        assert in_force(less, terms_of(twice)) == twice
    assert in_force(twice, terms_of(bare)) is twice


@pytest.mark.parametrize(("removed", "total", "verdict"), [(20, 20, False), (21, 100, True), (100, 1000, False)])
def test_a_small_repository_may_be_tidied_and_a_large_one_not_emptied(removed: int, total: int, verdict: bool) -> None:
    assert breaks(removed, total, 10) is verdict


# --- simulation ---------------------------------------------------------------------------------------------------


@given(LEGITIMATE, RULES)
def test_a_simulation_is_the_plan_at_each_moment(records: list[SnapshotRecord], rules: KeepRules) -> None:
    """In which steps one forgets makes no difference: what is kept at a time was kept at every time before."""
    found = simulate({"s": records}, rules, now=NOW, past_days=70, ahead_days=0)

    for moment in found.moments:
        seen = [one for one in records if one.recorded_at <= moment.at]
        assert moment.kept == len(kept(plan(seen, rules, now=moment.at)))
    assert found.moments[-1].at == NOW and found.later == 0
    assert {one.id for one in found.leaving} == {
        one.id for one in plan([r for r in records if r.recorded_at <= NOW], rules, now=NOW) if not one.keep
    }


@given(LEGITIMATE, RULES, st.integers(0, 50_000), st.integers(0, 10_000))
def test_what_is_kept_now_was_kept_at_every_time_before(
    records: list[SnapshotRecord], rules: KeepRules, hours: int, more: int
) -> None:
    """So a turn that was late, or ran twice as often, kept the same."""
    ordered = sorted(records, key=lambda one: one.recorded_at)
    series = [SnapshotRecord(one.id, at, one.recorded_at) for at, one in enumerate(ordered)]
    early, late = START + timedelta(hours=hours), START + timedelta(hours=hours + more)
    then = [one for one in series if one.recorded_at <= early]
    now = [one for one in series if one.recorded_at <= late]

    assert kept(plan(now, rules, now=late)) & {one.id for one in then} <= kept(plan(then, rules, now=early))


def test_the_time_ahead_goes_on_at_the_pace_of_each_series() -> None:
    """A daily series brings about ninety more in ninety days; one that ended brings nothing."""
    now = START + timedelta(days=100)
    daily = [SnapshotRecord(f"d{day}", day, START + timedelta(days=day, hours=1), bytes=5) for day in range(100)]
    ended = [SnapshotRecord(f"e{day}", day, START + timedelta(days=day), bytes=5) for day in range(30)]

    found = simulate({"daily": daily, "ended": ended}, KeepRules(last=5), now=now, past_days=100, ahead_days=90)

    assert 88 <= found.later <= 91
    assert [one.kept for one in found.moments][-1] == 5 + 7 + 5  # last 5 and a week of young ones; last 5
    assert found.moments[-1].bytes == 17 * 5
    assert {one.id for one in found.leaving if one.at > now} >= {"d99", "d95"}
    assert not {one.id for one in found.leaving} & {"e29", "e25"}


def test_moments_are_a_week_apart_and_end_where_was_asked() -> None:
    found = simulate({}, KeepRules(last=1), now=NOW, past_days=15, ahead_days=8)
    assert [(moment.at - NOW).days for moment in found.moments] == [-15, -8, -1, 0, 7, 8]


@pytest.mark.parametrize(
    ("records", "rules"),
    [
        (history(0), KeepRules(last=-1)),
        (history(0), KeepRules(within_s=-1)),
        (history(0) + history(0), KeepRules()),
        ([*history(0), SnapshotRecord("other", 0, START)], KeepRules()),
        ([SnapshotRecord("naive", 0, datetime(2026, 3, 1))], KeepRules()),
    ],
)
def test_nonsense_is_refused_before_anything_is_judged(records: list[SnapshotRecord], rules: KeepRules) -> None:
    """A wrong plan deletes; a refusal does not."""
    with pytest.raises(RequestInvalid):
        plan(records, rules, now=NOW)
