"""What a page tells somebody to type can be typed; what it leads to is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.commands import PAGES, ROOT, Line, lines, refusal


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_can_be_typed(page: Path) -> None:
    """Pages outlive options. A command that is gone is found here, and not by somebody at night."""
    wrong = [f"{one.page}:{one.number}: {one.text}: {why}" for one in lines(page) if (why := refusal(one))]
    assert wrong == []


def test_commands_are_found_at_all() -> None:
    """A finder that finds nothing lets everything pass."""
    found = [line for page in PAGES for line in lines(page)]
    assert len(found) > 250 and len({line.text.split()[1] for line in found if line.text.split()[1:]}) > 30


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mover run request --cohort x --kye y", "--kye"),
        ("mover run reqest --cohort x", "reqest"),
        ("mover run finish", "Missing argument"),
        ("mover restore SNAPSHOT --to", "requires an argument"),
        ("mover protect keep | prone (--plan | --apply)", "prone"),
        ("mover copy FROM TO [--plan] [--wiat]", "--wiat"),
        ("moover status", "moover"),
        ("mover doctor --config mover.yaml", "--config"),
    ],
)
def test_what_cannot_be_typed_is_refused(text: str, why: str) -> None:
    assert why in (refusal(Line("page", 1, text, True)) or "")
