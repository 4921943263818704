"""What waits for a person: in the order of urgency, in words, and only for who may read it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mover.decide.access import ACTIONS, may
from mover.decide.forecast import Forecast
from mover.decide.needs import RULES, Fact, away, filling, needs, warned

AT = datetime(2026, 11, 22, tzinfo=UTC)
DAY_S = 86_400.0


def everything(action: str) -> bool:
    return True


def test_the_most_urgent_comes_first_and_nothing_is_said_of_nothing() -> None:
    facts = [Fact("run-failed", 1, "run-1", AT), Fact("packs-quarantined", 1200, None, AT), Fact("batch-failed", 0)]
    facts.append(Fact("damage-found", 2, "verification-1", AT, "archive"))
    found = needs(facts, may=everything, others=[away("flash", ""), warned("no policy of kind dump")])
    assert [one.code for one in found] == [
        "damage-found", "tier-away", "warning", "packs-quarantined", "run-failed",
    ]  # fmt: skip
    assert found[0].words == "2 files on archive are damaged or missing" and found[0].subject is None
    assert found[3].words == "1,200 packs wait in quarantine"
    assert (found[4].words, found[4].subject) == ("a run failed and was not cleaned yet", "run-1")
    assert all(one.hint for one in found)
    # a warning leads to where it is mended
    assert found[2].noun == "policy" and "examples/dump.yaml" in found[2].hint
    assert warned("archive is not immutable: no lock").noun == "service"
    begun = warned("deletion is not switched on for flash: what is to go there waits")
    assert (begun.severity, begun.noun) == ("know", "tier"), "a site begins so; it is no alarm"


def test_a_role_is_told_only_of_what_it_may_read() -> None:
    """A count is a leak, too."""
    facts = [Fact(code, 1) for code in RULES]
    told = {
        role: {one.code for one in needs(facts, may=lambda a, r=role: may(r, a))} for role in ("viewer", "custodian")
    }
    assert told["viewer"] == set(RULES) - {"loss-asked", "retirement-asked"}
    theirs = {"packs-quarantined", "quarantine-asked", "batch-failed", "ruling-asked", "loss-asked", "retirement-asked"}
    assert told["custodian"] == theirs
    assert {rule.action for rule in RULES.values()} <= set(ACTIONS)


@pytest.mark.parametrize(
    ("days", "severity", "words"),
    [
        (0.0, "now", "flash is full"),
        (1.0, "now", "flash will be full within a day or so, as it fills now"),
        (9.0, "soon", "flash will be full in 9 days, as it fills now"),
        (15.0, None, None), (None, None, None),
    ],
)  # fmt: skip
def test_a_tier_that_fills_up_is_told_in_time(days: float | None, severity: str | None, words: str | None) -> None:
    seen = filling("flash", Forecast(1.0, None if days is None else days * DAY_S, None, None))
    assert (seen.severity, seen.words) == (severity, words) if seen else severity is None
    assert filling("flash", None) is None
