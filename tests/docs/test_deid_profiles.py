"""The page on profiles tells the truth: its examples load, its words are the model's."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import msgspec
import pytest

from mover.decide.profiles import OPTIONS
from mover.model.policy import CodeSystem, ColumnClass, DeidPolicy
from mover.policy import default_folder, load_profile

PAGE = (Path(__file__).parents[2] / "docs" / "deid-profiles.md").read_text()
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_the_page_load(text: str, tmp_path: Path) -> None:
    """People copy them; one that is refused teaches them to distrust the page."""
    (tmp_path / "p.yaml").write_text(text)
    assert isinstance(load_profile(tmp_path / "p.yaml").policy, DeidPolicy)


def test_the_page_has_examples_and_names_every_class_code_and_option() -> None:
    assert len(EXAMPLES) >= 3
    words = {*typing.get_args(ColumnClass), *typing.get_args(CodeSystem), *OPTIONS}
    assert [word for word in sorted(words) if f"`{word}`" not in PAGE] == []


def test_the_page_explains_every_column_the_example_needs() -> None:
    """Column by column: one that is required and not explained would be a riddle."""
    profile = load_profile(default_folder() / "deid" / "example-three-csv.yaml").policy
    assert isinstance(profile, DeidPolicy)
    for table in profile.tables:
        needed = [name for name, rule in table.columns.items() if not rule.optional]
        assert [name for name in needed if f"`{name}`" not in PAGE] == []


def test_a_profile_is_the_same_after_a_round_trip() -> None:
    """It travels to the sandbox and into certificates as data."""
    profile = load_profile(default_folder() / "deid" / "example-three-csv.yaml").policy
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(profile), type=DeidPolicy) == profile
