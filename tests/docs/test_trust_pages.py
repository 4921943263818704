"""Pages that say "a test tries to break this" name tests that are there."""

from __future__ import annotations

import re

import pytest

from tests.docs.commands import ROOT

NAMED = re.compile(r"`((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`")


def _there(file: str, test: str) -> bool:
    found = ROOT / "tests" / file
    return found.exists() and (not test or f"def {test}(" in found.read_text("utf-8"))


@pytest.mark.parametrize(("page", "rows"), [("security.md", 18), ("reliability.md", 23)])
def test_every_test_that_a_page_names_exists(page: str, rows: int) -> None:
    """A promise with a test that was renamed is a promise that nobody keeps."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    named = NAMED.findall(text)
    wrong = [f"{file}::{test}" for file, test in named if not _there(file, test)]
    assert wrong == [] and len({line for line in text.splitlines() if NAMED.search(line)}) >= rows


def test_every_promise_and_every_threat_has_a_test() -> None:
    """A row without one is a wish."""
    for page, title in (("security.md", "## Threats"), ("reliability.md", "## What may happen")):
        text = (ROOT / "docs" / page).read_text("utf-8")
        rows = [line for line in text.split(title)[1].split("\n## ")[0].splitlines() if line.startswith("| ")][1:]
        assert [row for row in rows if not NAMED.search(row)] == [], page
