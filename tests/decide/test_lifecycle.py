"""The run's lifecycle: one table, drawn in the docs and obeyed by the code."""

from pathlib import Path

import pytest

from mover.decide.lifecycle import FINAL, RUN, check_transition
from mover.errors import IllegalTransition

DOCS = Path(__file__).parents[2] / "docs" / "runs.md"


def test_the_docs_draw_the_same_table():
    """A picture that drifts from the code is worse than none."""
    drawn = {}
    for line in DOCS.read_text().split("```")[1].strip().splitlines():
        before, _, after = line.partition("->")
        drawn[before.strip()] = tuple(after.split())
    assert drawn == {state: steps for state, steps in RUN.items() if steps}


def test_every_state_a_step_leads_to_is_in_the_table():
    assert {after for steps in RUN.values() for after in steps} <= RUN.keys()


@pytest.mark.parametrize("before", sorted(RUN))
@pytest.mark.parametrize("after", sorted(RUN))
def test_only_the_table_s_steps_are_allowed(before: str, after: str):
    if after in RUN[before]:
        check_transition(before, after, subject="run-x")
    else:
        with pytest.raises(IllegalTransition):
            check_transition(before, after, subject="run-x")


def test_nothing_is_cleaned_that_was_ready_and_not_protected():
    """I5: from `ready` every way to `cleaning` leads through `protected`."""
    seen, queue = set(), ["ready"]
    while queue:
        state = queue.pop()
        if state in seen or state == "protected":
            continue
        seen.add(state)
        queue += RUN[state]
    assert "cleaning" not in seen


def test_an_end_leads_nowhere_but_to_the_removal_of_what_is_left():
    assert {after for state in FINAL for after in RUN[state]} <= {"cleaning"}
