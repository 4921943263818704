"""What was set aside on flash has an end, and a reason for it (D12)."""

from __future__ import annotations

import pytest

from mover.decide.setaside import DAY_S, Aside, Purge, plan_purge

OLD, OLDER, NEW = (Aside(what, 1, 10, days * DAY_S) for what, days in (("old", 31), ("older", 400), ("new", 30)))


@pytest.mark.parametrize(
    ("held_days", "most", "going"),
    [(30, 9, ["older", "old"]), (30, 1, ["older"]), (400, 9, []), (1, 9, ["older", "old", "new"]), (None, 9, [])],
)
def test_the_oldest_goes_first_and_never_before_its_time(held_days: int | None, most: int, going: list[str]) -> None:
    held_s = None if held_days is None else int(held_days * DAY_S)
    plan = plan_purge([NEW, OLD, OLDER], held_s=held_s, policy="clean", most=most)
    assert [step.what for step in plan] == going


def test_a_step_says_why() -> None:
    """The audit record has these words, and no others."""
    assert plan_purge([OLD], held_s=int(30 * DAY_S), policy="clean", most=1) == [
        Purge("old", 1, 10, "set aside 31.0 days ago; the policy clean holds it for 30.0")
    ]
