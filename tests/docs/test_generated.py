"""Documents that are made from code say what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

from mover import metrics
from mover.errors import all_errors

ROOT = Path(__file__).parents[2]


def test_the_page_of_errors_is_made_from_the_errors() -> None:
    """A person looks an error up by its code; `python docs/make_errors.py` mends this test."""
    made = runpy.run_path(str(ROOT / "docs" / "make_errors.py"))["page"]()
    assert (ROOT / "docs" / "errors.md").read_text("utf-8") == made
    assert all(f"| `{error.code}` |" in made for error in all_errors())


def test_the_page_of_metrics_is_made_from_the_metrics() -> None:
    """Alerts are written from this page; `python docs/make_metrics.py` mends this test."""
    made = runpy.run_path(str(ROOT / "docs" / "make_metrics.py"))["page"]()
    assert (ROOT / "docs" / "metrics.md").read_text("utf-8") == made
    assert all(f"| `{name}` |" in made for name in metrics.names())
    answered = {line.split()[2] for line in metrics.render().decode().splitlines() if line.startswith("# TYPE")}
    assert answered == set(metrics.names())


def test_every_error_says_what_to_do_and_has_its_own_code() -> None:
    errors = all_errors()
    assert len({error.code for error in errors}) == len(errors) > 40
    assert all(
        error.hint.endswith((".", "?")) and 400 <= error.status <= 599 and error.exit_status > 0 for error in errors
    )


def test_the_licence_is_the_whole_apache_2_0() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def test_the_page_of_errors_says_where_to_look_for_every_exit_status() -> None:
    """A script has the number only."""
    page = (ROOT / "docs" / "errors.md").read_text("utf-8")
    assert [error.code for error in all_errors() if f"\n| {error.exit_status} | " not in page] == []
