"""The race over a catalog of slides, at a size that shows only that it works. Nothing here asserts a time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import cohorts
from bench.context import SMOKE, Context


@pytest.mark.slow
@pytest.mark.soak
def test_a_count_by_columns_is_the_count_by_documents_also_when_blocks_are_repeated(tmp_path: Path) -> None:
    """The race itself compares both ways and ends where they differ; ten times the blocks are ten times the slides."""
    told: list[str] = []
    sizes = msgspec.structs.replace(SMOKE, cohort_slides=40_000, cohort_repeated=300_000)

    cohorts.cohorts(context := Context(tmp_path, sizes, {}, told.append))

    claims = {claim.id: claim for claim in context.finished}
    assert set(claims) == {"P16", "P16-large", "P16-selections"}
    assert set(cohorts.QUESTIONS) < set(claims["P16"].rounds) and claims["P16"].peers["documents, row by row"] > 0
    assert claims["P16-selections"].ours < 10
    assert any("columns made in" in line for line in told)
