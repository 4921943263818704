"""Which needs leave the building, to whom, and when again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.alarms import Alarm, turn
from mover.decide.needs import Need
from mover.model.policy import AlarmPolicy

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NIGHT = AlarmPolicy(name="night", receivers=("pager",), severity="now", after_s=60, again_s=3600)
ALL = AlarmPolicy(name="all", receivers=("ward", "pager"), severity="know", codes=("tier-filling",), after_s=0)


def need(code: str = "batch-failed", severity: str = "now", count: int = 1, noun: str = "batch") -> Need:
    return Need(code, severity, noun, "words", "hint", count=count, subject="flash" if noun == "tier" else None)  # type: ignore[arg-type]


def said(found: list[Need], open_: list[Alarm], *, minutes: float = 0):
    result = turn((NIGHT, ALL), found, {alarm.key: alarm for alarm in open_}, now=NOON + timedelta(minutes=minutes))
    return [(telling.key, telling.event, telling.receivers) for telling in result.tellings], result


def test_a_need_is_told_once_it_has_stood_for_so_long() -> None:
    """What mends itself within a minute wakes nobody."""
    opened = Alarm("batch-failed", 1, NOON)
    assert said([need()], [])[0] == []
    assert said([need()], [opened], minutes=0.5)[0] == []
    assert said([need()], [opened], minutes=1)[0] == [("batch-failed", "opened", ("pager",))]


def test_it_is_told_again_when_it_grows_or_stands_and_when_it_is_over() -> None:
    told = Alarm("batch-failed", 1, NOON, told_at=NOON, told_count=1)
    assert said([need()], [told], minutes=5)[0] == []
    assert said([need(count=3)], [told], minutes=5)[0] == []
    assert said([need(count=3)], [told], minutes=10)[0] == [("batch-failed", "grew", ("pager",))]
    assert said([need()], [told], minutes=60)[0] == [("batch-failed", "reminded", ("pager",))]
    assert said([], [told], minutes=5)[0] == [("batch-failed", "closed", ("pager", "ward"))]
    assert said([], [Alarm("batch-failed", 1, NOON)])[0] == []  # nobody had heard of it


def test_a_policy_picks_by_severity_and_by_code_and_each_receiver_hears_it_once() -> None:
    assert said([need("scan-incomplete", "know")], [])[1].standing == ()
    found = need("tier-filling", "now", noun="tier")
    assert said([found], [])[0] == [("tier-filling/flash", "opened", ("pager", "ward"))]


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_who_hears_a_beginning_hears_the_end_and_nothing_between_two_ends(looks: list[tuple[int, bool]]) -> None:
    """Whatever comes and goes, at whatever pace: tellings of one alarm are opened, anything, closed."""
    open_: dict[str, Alarm] = {}
    events: list[str] = []
    now = NOON
    for minutes, there in looks:
        now += timedelta(minutes=minutes)
        result = turn((NIGHT,), [need(count=minutes + 1)] if there else [], open_, now=now)
        for key, found in result.standing:
            open_.setdefault(key, Alarm(key, found.count, now))
        for telling in result.tellings:
            events.append(telling.event)
            if telling.event != "closed":
                alarm = open_[telling.key]
                open_[telling.key] = Alarm(alarm.key, alarm.count, alarm.opened_at, now, minutes + 1)
        for key in result.closed:
            del open_[key]
    told = False
    for event in events:
        assert told == (event != "opened")
        told = event != "closed"
