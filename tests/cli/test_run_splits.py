"""`mover run request --split`: what a part is, is seen by how it is written."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from mover.cli.run import _splits
from mover.model import wire
from mover.randomness import new_id


def test_a_part_is_a_frozen_list_a_cohort_an_expression_or_a_file(tmp_path: Path) -> None:
    """Taken for the wrong thing, a split would be another set of slides than the one that was dealt out."""
    (tmp_path / "val.txt").write_text("N1\n\n N2 \n")
    selection = new_id("selection")
    said = (f"train={selection}", f"val=@{tmp_path}/val.txt", "test=prostate@2", "late=gleason >= 7 and stage = 'I'")
    assert _splits(said) == {
        "train": wire.SplitSource(selection=selection),
        "val": wire.SplitSource(files=["N1", "N2"]),
        "test": wire.SplitSource(cohort="prostate@2"),
        "late": wire.SplitSource(expression="gleason >= 7 and stage = 'I'"),
    }
    assert _splits(()) is None
    for wrong in (("train",), ("train=", "test=a"), ("train=a", "train=b")):
        with pytest.raises(click.BadParameter):
            _splits(wrong)
