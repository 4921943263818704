"""Who may bring a withdrawn slide back, and who may have its bytes removed."""

from __future__ import annotations

import pytest

from mover.decide.rulings import FOUND_LATER, Action, Withdrawn, why_not_ask, why_not_decide
from mover.errors import IdentifierFoundLater


@pytest.mark.parametrize(
    ("action", "slide", "may"),
    [
        ("reinstate", Withdrawn(FOUND_LATER, own=True), True), ("remove", Withdrawn(FOUND_LATER), True),
        ("remove", Withdrawn("subject-erased"), True),
        # another project's words are not this one's to judge
        ("reinstate", Withdrawn(FOUND_LATER), False), ("reinstate", Withdrawn("subject-erased", own=True), False),
        ("reinstate", Withdrawn(), False), ("remove", Withdrawn(), False),
        ("reinstate", Withdrawn(FOUND_LATER, own=True, removed=True), False),
        ("remove", Withdrawn(FOUND_LATER, removed=True), False),
    ],
)  # fmt: skip
def test_what_may_be_asked(action: Action, slide: Withdrawn, may: bool) -> None:
    assert (why_not_ask(action, slide) == "") is may
    assert IdentifierFoundLater.code == FOUND_LATER


@pytest.mark.parametrize(
    ("action", "same", "runs", "may"),
    [
        ("reinstate", False, 0, True), ("reinstate", True, 0, False), ("reinstate", False, 3, True),
        ("remove", False, 0, True), ("remove", False, 1, False), ("remove", True, 0, False),
    ],
)  # fmt: skip
def test_a_second_person_grants_and_no_bytes_go_under_a_run(action: Action, same: bool, runs: int, may: bool) -> None:
    assert (why_not_decide(action, same_person=same, runs=runs) == "") is may
