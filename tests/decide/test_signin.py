"""How fast somebody may try to sign in."""

from __future__ import annotations

import pytest

from mover.decide.access import why_not_here, why_not_name, why_not_scopes
from mover.decide.signin import (
    FORGIVEN_S,
    SLOW_MAX_S,
    WAIT_MAX_S,
    Failures,
    refused_for_s,
    slowed_by_s,
    why_not_password,
    worth_a_record,
)


@pytest.mark.parametrize(("count", "wait_s"), [(0, 0), (4, 0), (5, 1), (6, 2), (8, 8), (10, 32), (11, 60), (9999, 60)])
def test_each_failure_beyond_the_free_ones_doubles_the_wait(count: int, wait_s: float) -> None:
    assert refused_for_s(Failures(count, 100.0), 100.0) == wait_s


def test_nobody_is_locked_out_for_good() -> None:
    """Whatever happened, a minute later one try is heard; and failures are forgiven, one a minute."""
    worst = Failures(1e9, 0.0)
    assert refused_for_s(worst, WAIT_MAX_S) == 0
    assert slowed_by_s(worst, Failures(), 0.0, known_place=False) == SLOW_MAX_S
    assert slowed_by_s(worst, Failures(), 0.0, known_place=True) == 0
    assert slowed_by_s(Failures(), worst, 0.0, known_place=True) == SLOW_MAX_S
    assert slowed_by_s(Failures(9, 0.0), Failures(49, 0.0), 0.0, known_place=False) == 0
    kept = Failures().one_more(0.0).one_more(0.0)
    assert kept.now(FORGIVEN_S) == 1 and kept.now(10 * FORGIVEN_S) == 0
    assert kept.one_more(FORGIVEN_S) == Failures(2, FORGIVEN_S)


def test_refusals_are_told_by_tens() -> None:
    """An attacker does not fill the audit."""
    assert [count for count in range(1, 1000) if worth_a_record(count)] == [5, 50, 500]


@pytest.mark.parametrize(("password", "good"), [
    ("correct horse battery", True), ("Ann", False), ("i am ann, hello", False), ("abababababab", False),
])  # fmt: skip
def test_what_is_no_secret_is_no_password(password: str, good: bool) -> None:
    assert (why_not_password("ann", password) == "") == good


@pytest.mark.parametrize(("name", "good"), [
    ("ann", True), ("ann@ward.example", True), ("a" * 128, True), ("", False), ("a" * 129, False), ("ann smith", False),
    ("daemon", False), ("MACHINE", False), ("-ann", False), ("ann\n", False), ("änn", False), ("uid:0", False),
])  # fmt: skip
def test_who_did_something_is_told_by_a_name_that_is_only_theirs(name: str, good: bool) -> None:
    assert (why_not_name(name) == "") == good


def test_a_token_is_for_actions_of_its_role() -> None:
    assert why_not_scopes("viewer", ["runs.read"]) == ""
    assert "runs.clean" in why_not_scopes("viewer", ["runs.read", "runs.clean"])
    assert "runs.dance" in why_not_scopes("admin", ["runs.dance"])


@pytest.mark.parametrize(("origin", "site", "good"), [
    ("", "", True), ("https://mover.example", "same-origin", True), ("https://MOVER.example", "", True),
    ("https://evil.example", "", False), ("null", "", False), ("https://mover.example.evil.example", "", False),
    ("https://mover.example:8443", "", False), ("", "cross-site", False), ("", "same-site", False), ("", "none", False),
    ("https://mover.example", "cross-site", False),
])  # fmt: skip
def test_a_change_comes_from_a_page_of_ours(origin: str, site: str, good: bool) -> None:
    assert (why_not_here(sent_origin=origin, sent_site=site, host="mover.example") == "") == good
