"""A paced tier is the tier it wraps, at the speed its budget allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover.model.policy import BudgetPolicy
from mover.model.recipe import plain_copy
from mover.tiers import identity as identities
from mover.tiers.posix import PosixTier
from mover.transfer import Transfer
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


def test_a_digest_of_a_whole_source_is_paid_for(paced: tuple[PacedTier, SimulatedClock]) -> None:
    """Intake digests a slide before it is copied: the scanner's NAS feels that reading as much as the other."""
    tier, clock = paced
    data = bytes(21 * MB)
    tier._inner.put("a", [data])
    transfer = Transfer(budgets=tier._budgets)
    with tier.open("a") as opened:
        digest = transfer.digest(opened, tier="archive")
        assert clock.monotonic_s() == pytest.approx(20.0, abs=0.3)
        assert transfer.digest(opened) == digest
        assert transfer.digest_recipe(plain_copy(len(data)), opened, tier="archive") == digest
    assert clock.monotonic_s() == pytest.approx(41.0, abs=0.5)


def test_a_recipe_is_paid_for_on_both_tiers_also_when_its_caller_names_no_budget(
    paced: tuple[PacedTier, SimulatedClock], tmp_path: Path
) -> None:
    """Ingest and staging call the engine as they always did; the daemon's transfer holds the budgets."""
    tier, clock = paced
    tier._inner.put("a", [bytes(5 * MB)])
    transfer = Transfer(budgets=tier._budgets)
    with tier.open("a") as opened:
        transfer.run_recipe(
            plain_copy(opened.size_bytes), source=opened, source_tier=tier, target=tier, key="b", sparse=False
        )
    # 5 MB read from the source and 5 MB read back, at 1 MB/s with a second of burst; writing is quicker
    assert clock.monotonic_s() >= 4.0


def test_a_stream_left_early_gives_its_place_back(paced: tuple[PacedTier, SimulatedClock]) -> None:
    tier, _ = paced
    tier.put("a", [bytes(100)])
    stream = tier.stream("a")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert tier._budgets._slots.used == {}
