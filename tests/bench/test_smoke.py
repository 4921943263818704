"""One race from corpus to claim, at sizes that show only that it works. Nothing here asserts a time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench import __main__ as command
from bench import peers
from bench.context import SMOKE

SIZES = msgspec.structs.replace(
    SMOKE, limits_bytes=8_000_000, slides=(9_000_000, 1_000_000), durable_files=40, growth_files=(20, 40),
    checkpoint_bytes=2_000_000,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["P1", *(pytest.param(race, marks=pytest.mark.soak) for race in ("P5", "P10"))])
def test_a_race_runs_to_its_claims_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    """The whole way: corpus, our engine and its catalog as processes, whatever peers are here, claims."""
    if not peers.find("rsync") or not peers.find("restic"):
        pytest.skip("rsync or restic is not installed: make bench-deps")
    told: list[str] = []
    found, failures = command.run(tmp_path / "bench-data", SIZES, only=[name], told=told.append)
    claims = {claim.id: claim for claim in found.claims}
    unmeasured = {id for id in failures if not id.startswith("P1-rclone") and "borg" not in id}
    assert not unmeasured, failures
    assert name in claims, told
    assert claims[name].ours > 0 and claims[name].rounds and claims[name].cpu
    assert any("in a daemon" in tool for tool in [claims[name].ours_tool, *claims[name].peers])
    assert not (tmp_path / "bench-data").exists()
    assert found.limits["device-write"] > 0 and found.machine.cores > 0
