"""The race over pages, at a size that shows only that it works. Nothing here asserts a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import pages
from bench.context import SMOKE, Context
from tests.web.browser import CHROMIUM


@pytest.mark.slow
@pytest.mark.soak
def test_pages_of_a_generated_hospital_are_painted_and_whole(tmp_path: Path) -> None:
    """The race itself ends where a page complains of anything."""
    if not CHROMIUM.exists():
        pytest.skip("Debian's chromium looks at the pages: apt-get install chromium-headless-shell")
    pages.pages(context := Context(tmp_path, SMOKE, {}, lambda line: None))
    assert [claim.id for claim in context.finished] == ["P18", "P18-whole"]
    assert all(claim.ours > 0 and len(claim.rounds) == len(pages.PATHS) for claim in context.finished)
