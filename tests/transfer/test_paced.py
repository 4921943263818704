"""A paced tier is the tier it wraps, at the speed its budget allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover.model.policy import BudgetPolicy
from mover.tiers import identity as identities
from mover.tiers.posix import PosixTier
from mover.transfer.budgets import Budgets
from mover.transfer.paced import PacedTier
from tests.support.clocks import SimulatedClock

MB = 1_000_000


@pytest.fixture
def paced(tmp_path: Path) -> tuple[PacedTier, SimulatedClock]:
    identity = identities.establish(tmp_path, name="archive", zone="deidentified")
    clock = SimulatedClock()
    policy = BudgetPolicy(name="archive", tier="archive", read_bytes_s=MB, write_bytes_s=2 * MB, backoff=None)
    inner = PosixTier("archive", "deidentified", tmp_path, role="archive", identity=identity)
    return PacedTier(inner, Budgets([policy], clock=clock)), clock


def test_what_is_written_and_read_outside_of_the_engine_is_paid_for(paced: tuple[PacedTier, SimulatedClock]) -> None:
    """Repositories and checks read and write through the port: no way past the budget of a NAS."""
    tier, clock = paced
    data = bytes(range(250)) * 40_000
    tier.put("a/b", [data[: 4 * MB], data[4 * MB :]], size_bytes=len(data))
    assert clock.monotonic_s() == pytest.approx(4.0, abs=0.1)  # 10 MB at 2 MB/s, one second of burst
    assert b"".join(tier.stream("a/b", cold=True)) == data
    assert clock.monotonic_s() == pytest.approx(13.0, abs=0.1)
    assert tier.read("a/b", 5, 2 * MB) == data[5 : 5 + 2 * MB]
    assert clock.monotonic_s() == pytest.approx(15.0, abs=0.1)
    assert tier.read("a/b") == data


def test_a_stream_left_early_gives_its_place_back(paced: tuple[PacedTier, SimulatedClock]) -> None:
    tier, _ = paced
    tier.put("a", [bytes(100)])
    stream = tier.stream("a")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert tier._budgets._slots.used == {}
