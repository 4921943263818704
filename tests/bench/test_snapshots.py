"""The three legs of a snapshot race: what counts, and what takes a tool out."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from bench import corpora, snapshots
from bench.context import SMOKE, Context
from bench.measure import RunFailed, Step
from bench.places import plain
from bench.snapshots import Tool, _Legs

COPY = Tool(
    "copy", (), lambda base: (base / "repository").mkdir(),
    snapshot=lambda tree, base: Step(("cp", "-a", f"{tree}/.", f"{base}/repository")),
    restore=lambda base, target: Step(("cp", "-a", f"{base}/repository/.", str(target))),
    repository="repository", env=lambda base: {},
)  # fmt: skip


def legs_of(tmp_path: Path, tool: Tool) -> _Legs:
    context = Context(tmp_path / "root", SMOKE, {}, lambda line: None)
    context.root.mkdir()
    place = plain(context.root, "p10")
    return _Legs(context, place, corpora.checkpoint(place.folder / "tree", 200_000), tool)


@pytest.mark.parametrize("tool", [COPY, snapshots.TOOLS[0]], ids=["cp", "ours"])
@pytest.mark.slow
def test_a_tool_that_does_all_three_legs_has_a_run_of_each_and_leaves_nothing(tmp_path: Path, tool: Tool) -> None:
    legs = legs_of(tmp_path, tool)
    legs.run(0)
    assert not legs.tally("first").failure
    assert [len(legs.tally(leg).runs) for leg in snapshots.LEGS] == [1, 1, 1]
    assert legs.sizes["second"] > 0.2
    assert sorted(path.name for path in (tmp_path / "root" / "p10").iterdir()) == ["tree", "tree-versions"]


def _damaged(base: Path) -> None:
    raise RunFailed("restic check: status 1")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"checked": _damaged}, "restic check"),
        ({"restore": lambda base, target: Step(("cp", f"{base}/repository/shard00.pt", str(target)))}, "other bytes"),
        ({"snapshot": lambda tree, base: Step(("false",))}, "false"),
    ],
)
@pytest.mark.slow
def test_what_was_not_read_back_or_not_restored_equal_counts_for_nothing(
    tmp_path: Path, wrong: dict[str, object], said: str
) -> None:
    """A fast tool that loses bytes is not a fast tool: ours least of all."""
    legs = legs_of(tmp_path, msgspec.structs.replace(COPY, **wrong))
    legs.run(0)
    legs.run(1)
    assert not legs.tally("first").runs
    assert said in legs.tally("first").failure


@pytest.mark.slow
def test_what_stock_restic_cannot_read_is_told(tmp_path: Path) -> None:
    """The oracle at the end of each of our runs does look: an unreadable repository is no result."""
    if shutil.which("restic") is None:
        pytest.skip("needs Debian package: restic")
    from bench.ours import made_repository

    made_repository(tmp_path)
    snapshots._read_by_restic(tmp_path)
    (key,) = (tmp_path / "tier" / "keys").iterdir()
    key.write_bytes(b"")
    with pytest.raises(RunFailed, match="restic check"):
        snapshots._read_by_restic(tmp_path)
