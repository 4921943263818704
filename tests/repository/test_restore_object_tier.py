"""A restore from a bucket whose connections are cut: what is missing is asked for again, what stands is kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from mover.demo import seaweed
from mover.errors import TierError
from mover.repository import filling
from mover.repository.repository import create_repository, open_repository
from mover.repository.restore import Order, clear
from mover.tiers import object_wire
from tests.repository.conftest import PASSWORD, listing, take
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.seaweed import object_tier

pytestmark = pytest.mark.slow
NAME = "restore-1"


def test_a_restore_whose_connections_are_cut_goes_on_where_it_was(
    tmp_path: Path, weed: seaweed.Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away for longer than anybody resends ends the attempt and costs the next one nothing twice."""
    monkeypatch.setattr(object_wire, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(filling, "RUN_BYTES", 2 << 20)
    out, target = tmp_path / "out", tmp_path / "back"
    out.mkdir()
    for shard in range(4):
        (out / f"shard{shard}.pt").write_bytes(random.Random(shard).randbytes(4 << 20))
    with FaultProxy(weed.endpoint) as proxy:
        tier = object_tier(weed, prefix="cut", role="protect", endpoint=proxy.endpoint)
        snapshot = take(create_repository(tier, PASSWORD, prefix="repo"), out).snapshot_id
        repository = open_repository(tier, PASSWORD, prefix="repo")
        order = Order(name=NAME)
        read: list[int] = []
        cut: list[int] = []
        stood: list[int] = []
        real, written = filling.BlobReader.read_run, filling.Filler._write

        def counted(self: filling.BlobReader, pack_id: str, offset: int, length: int) -> bytes:
            if stood and not cut:
                cut.append(len(read))
                proxy.faults.append(Fault("cut_answer", method="GET", match="/data/", times=0, at=100_000))
            read.append(length)
            return real(self, pack_id, offset, length)

        def standing(self: filling.Filler, step: Any, stretch: Any) -> None:
            written(self, step, stretch)
            stood.append(len(step))

        monkeypatch.setattr(filling.BlobReader, "read_run", counted)
        monkeypatch.setattr(filling.Filler, "_write", standing)
        with pytest.raises(TierError):
            repository.restore(snapshot, target, path="/artifacts", order=order)
        assert not target.exists() and (tmp_path / f".restoring-{NAME}").is_dir()
        proxy.faults.clear()
        before = len(read)
        proxy.faults.append(Fault("cut_answer", method="GET", match="/data/", times=1, at=100_000))

        done = repository.restore(snapshot, target, path="/artifacts", order=order)
        clear(target, NAME)

    assert done.complete and listing(target) == listing(out)
    assert 0 < sum(read[before:]) < 16 << 20  # what stood was not fetched again
