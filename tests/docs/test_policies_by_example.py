"""The page of examples: none that is shipped is missing, and what it shows could be taken over."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover.policy import load_files
from tests.docs.commands import ROOT, blocks

PAGE = (ROOT / "docs" / "policies-by-example.md").read_text("utf-8")
SHIPPED = sorted((ROOT / "policies").rglob("*.yaml"))
EXAMPLES = [block.text for block in blocks(PAGE) if block.language == "yaml"]


def test_every_policy_that_is_shipped_is_explained() -> None:
    headings = [line for line in PAGE.splitlines() if line.startswith("### ")]
    names = [str(path.relative_to(ROOT / "policies")).removeprefix("examples/") for path in SHIPPED]
    assert len(names) > 12 and [name for name in names if not any(f"`{name}`" in line for line in headings)] == []


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_is_a_policy(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    assert len(load_files([tmp_path / "p.yaml"]).all()) == 1
