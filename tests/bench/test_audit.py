"""The race over an audit pack, at a size that shows only that it works. Nothing here asserts a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import audit
from bench.context import SMOKE, Context


@pytest.mark.slow
@pytest.mark.soak
def test_a_pack_of_a_generated_run_is_written_and_holds(tmp_path: Path) -> None:
    """The race itself ends where the pack does not hold or is of another manifest."""
    audit.packs(context := Context(tmp_path, SMOKE, {}, lambda line: None))
    [claim] = context.finished
    assert claim.id == "P17" and "1000 slides and 1001 records" in claim.work
