"""The races of runs, at a size that shows only that they work. Nothing here asserts a time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import runs
from bench.context import SMOKE, Context


@pytest.mark.slow
@pytest.mark.soak
def test_runs_are_staged_beside_the_engine_and_restaged_by_their_tenth(tmp_path: Path) -> None:
    """The race itself ends where a root is not what was sealed, or where what stands was copied again."""
    (tmp_path / "scratch").mkdir()
    context = Context(tmp_path, msgspec.structs.replace(SMOKE, small_files=20, run_files=50), {}, lambda line: None)

    runs.staging(context)
    runs.tars(context)
    runs.checks(context)

    claims = {claim.id: claim for claim in context.finished}
    expected = "P13 P13-shared P13-cleaned P13-small P13-small-shared P13-small-cleaned"
    expected += " P13-shards P13-shards-read P14-check"
    assert set(claims) == set(expected.split())
    assert claims["P13"].peers["the engine alone"] > 0 and len(claims["P13"].rounds["restage"]) == SMOKE.rounds
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
