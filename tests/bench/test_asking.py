"""The race of requests, at a size that shows only that it works. Nothing here asserts a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import asking
from bench.context import SMOKE, Context


@pytest.mark.slow
@pytest.mark.soak
def test_every_kind_of_offender_is_counted_and_no_run_more_than_fits_is_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race itself ends where an offender is not named, or where one run more is let in."""
    for name, value in {"NAMES": 1000, "AT_ONCE": 12, "FIT": 4, "WARMING": 1, "WATCHERS": 3}.items():
        monkeypatch.setattr(asking, name, value)

    asking.asking(context := Context(tmp_path, SMOKE, {}, lambda _: None))

    claims = {claim.id: claim for claim in context.finished}
    assert set(claims) == {"P14-accepted", "P14-refusal", "P14-at-once"}
    assert len(claims["P14-accepted"].rounds["ours"]) == asking.ACCEPTED
    assert len(claims["P14-refusal"].rounds["each kind of offender"]) == 4
    assert len(claims["P14-at-once"].rounds["ours"]) == 12
