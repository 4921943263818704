"""Retention: laws that hold for any history, and the cases people argue about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.retention import KeepRules, SnapshotRecord, Verdict, plan
from mover.errors import RequestInvalid

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


def history(*hours: float, held: tuple[int, ...] = ()) -> list[SnapshotRecord]:
    """Snapshots s0, s1 .. in the order of record, at so many hours after the start."""
    return [
        SnapshotRecord(f"s{place}", place, START + timedelta(hours=hour), held=place in held)
        for place, hour in enumerate(hours)
    ]


def kept(verdicts: list[Verdict]) -> set[str]:
    return {verdict.id for verdict in verdicts if verdict.keep}


RECORDS = st.lists(
    st.tuples(st.integers(0, 60_000), st.sets(st.sampled_from("abc")), st.booleans()), max_size=25
).map(
    lambda rows: [
        SnapshotRecord(f"s{place}", place, START + timedelta(hours=hours), tuple(sorted(tags)), held)
        for place, (hours, tags, held) in enumerate(rows)
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
)


@given(RECORDS, RULES)
def test_every_snapshot_gets_one_verdict_with_reasons(records: list[SnapshotRecord], rules: KeepRules) -> None:
    """Nothing is both kept and removed, nothing is forgotten about, and a person can read why."""
    verdicts = plan(records, rules)

    assert sorted(verdict.id for verdict in verdicts) == sorted(record.id for record in records)
    assert all(verdict.reasons and all(verdict.reasons) for verdict in verdicts)


@given(RECORDS, RULES)
def test_what_is_held_is_kept_whatever_the_rules(records: list[SnapshotRecord], rules: KeepRules) -> None:
    """Holds beat everything."""
    assert {record.id for record in records if record.held} <= kept(plan(records, rules))


@given(RECORDS, RULES, RULES)
def test_more_rules_keep_a_superset(records: list[SnapshotRecord], one: KeepRules, other: KeepRules) -> None:
    """Adding or raising a rule never costs a snapshot, unless there was no rule at all."""
    within = [each for each in (one.within_s, other.within_s) if each is not None]
    more = KeepRules(
        **{name: max(getattr(one, name), getattr(other, name)) for name in _COUNTS},
        within_s=max(within) if within else None,
        tags=tuple(sorted({*one.tags, *other.tags})),
    )

    if not one.none:
        assert kept(plan(records, one)) <= kept(plan(records, more))


_COUNTS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


@given(RECORDS, RULES)
def test_forgetting_what_was_planned_changes_no_later_verdict(
    records: list[SnapshotRecord], rules: KeepRules
) -> None:
    """A plan carried out twice, or half carried out and planned again, removes nothing more."""
    remaining = [record for record in records if record.id in kept(plan(records, rules))]

    assert kept(plan(remaining, rules)) == {record.id for record in remaining}


@given(RECORDS, RULES, st.randoms())
def test_the_order_of_the_list_does_not_matter(
    records: list[SnapshotRecord], rules: KeepRules, chance: object
) -> None:
    """Order is the sequence of record, not how a query happened to sort."""
    shuffled = list(records)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]

    assert plan(shuffled, rules) == plan(records, rules)


def test_without_any_rule_everything_is_kept_and_says_so() -> None:
    """An empty policy is not a wish to delete."""
    verdicts = plan(history(0, 1, 2), KeepRules())

    assert all(verdict.keep for verdict in verdicts)
    assert verdicts[0].reasons == ("no keep rule is set, so everything is kept",)


def test_keep_last_counts_by_order_of_record_not_by_time() -> None:
    """A snapshot recorded with the clock set back is still the newest record."""
    verdicts = plan(history(100, 200, -5000), KeepRules(last=2))

    assert kept(verdicts) == {"s1", "s2"}
    assert verdicts[0].reasons == ("last 1 of 2",)
    assert verdicts[2].reasons == ("no rule keeps it (last 2)",)


def test_daily_keeps_the_newest_of_each_day_and_skips_days_without_any() -> None:
    """A week in which nothing ran must not use up the days that did."""
    verdicts = plan(history(0, 5, 24, 24 * 9, 24 * 9 + 1), KeepRules(daily=3))

    assert kept(verdicts) == {"s1", "s2", "s4"}
    assert [verdict.reasons for verdict in verdicts if verdict.keep] == [
        ("daily 1 of 3 (2026-03-10)",),
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

    assert verdicts[0].reasons == ("weekly 1 of 1 (2026-W01)", "yearly 1 of 2 (2025)")
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
def test_nonsense_is_refused_before_anything_is_judged(
    records: list[SnapshotRecord], rules: KeepRules
) -> None:
    """A wrong plan deletes; a refusal does not."""
    with pytest.raises(RequestInvalid):
        plan(records, rules)
