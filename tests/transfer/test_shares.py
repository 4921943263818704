"""Daemons that share a tier share its budget: real processes on one PostgreSQL, time simulated in each."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from mover.catalog.database import Database
from mover.errors import CatalogUnavailable
from mover.model.policy import BudgetPolicy
from mover.transfer import shares
from mover.transfer.budgets import Budgets
from mover.transfer.shares import Shares
from tests.support.clocks import SimulatedClock
from tests.support.postgres import Dsns

pytestmark = pytest.mark.usefixtures("tier_rows")
RATE = 1_000_000
NAS = BudgetPolicy(name="intake", tier="intake", read_bytes_s=RATE)


def daemon(database: Database, node: str, clock: SimulatedClock | None = None) -> tuple[Shares, Budgets]:
    budgets = Budgets([NAS], shared=True, clock=clock or SimulatedClock())
    with budgets._condition:
        budgets._used_at_s["intake"] = budgets._clock.monotonic_s()
    return Shares(database, budgets, node=node), budgets


def held(budgets: Budgets) -> float:
    return budgets._fraction("intake")


async def test_a_newcomer_waits_until_the_other_gave_way(database: Database) -> None:
    """At no moment do both believe in more than there is."""
    (one, ones), (two, twos) = daemon(database, "n1"), daemon(database, "n2")
    seen = []
    for shares_ in (one, two, one, two, one, two):
        await shares_.beat()
        seen.append((held(ones), held(twos)))
    assert seen[0] == (1.0, 0.0) and seen[1] == (1.0, 0.0)
    assert seen[2] == (0.5, 0.0) and seen[3] == (0.5, 0.5)
    assert all(a + b <= 1.0 for a, b in seen)


async def test_who_dies_drops_out_and_who_leaves_does_at_once(database: Database, dsns: Dsns) -> None:
    (one, ones), (two, _), (three, _) = (daemon(database, name) for name in ("n1", "n2", "n3"))
    for _ in range(3):
        for shares_ in (one, two, three):
            await shares_.beat()
    assert held(ones) == pytest.approx(1 / 3)
    await two.leave()
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("update mover.tier_use set seen_at = seen_at - interval '60 s' where node = 'n3'")
    await one.beat()
    assert held(ones) == 1.0


async def test_an_idle_daemon_gives_its_share_back_and_asks_nothing(database: Database, dsns: Dsns) -> None:
    clock = SimulatedClock()
    one, ones = daemon(database, "n1", clock)
    await one.beat()
    clock.advance(shares.IDLE_S + 1)
    await one.beat()
    assert held(ones) == 0.0
    with psycopg.connect(dsns.superuser) as conn:
        assert conn.execute("select count(*) from mover.tier_use").fetchone() == (0,)


async def test_a_lost_catalog_leaves_the_last_share(database: Database, dsns: Dsns) -> None:
    """Never unlimited: the moment when nobody coordinates is the worst one for two daemons at full speed."""
    (one, ones), (two, _) = daemon(database, "n1"), daemon(database, "n2")
    for _ in range(2):
        await one.beat()
        await two.beat()
    await database.close()
    with pytest.raises(CatalogUnavailable):
        await one.beat()
    assert held(ones) == 0.5


async def test_many_beating_at_once_never_hold_more_than_the_whole(database: Database, dsns: Dsns) -> None:
    """The lock, not luck: eight daemons start in one moment."""
    made = [daemon(database, f"n{i}") for i in range(8)]
    for _ in range(3):
        await asyncio.gather(*(one.beat() for one, _ in made))
        assert sum(held(budgets) for _, budgets in made) <= 1 + 1e-9
    assert all(held(budgets) == pytest.approx(1 / 8) for _, budgets in made)


CHILD = """
import asyncio, sys
from mover.catalog.database import Database
from tests.transfer.test_shares import take_for
asyncio.run(take_for(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""


async def take_for(dsn: str, node: str, seconds: float) -> None:
    """In a process of its own: take as much as goes in so many simulated seconds; print the bytes. Each line from
    the parent is one round: a heartbeat in the first, taking in the last."""
    database = await Database.open(dsn, name=node, max_size=2)
    clock = SimulatedClock()
    one, budgets = daemon(database, node, clock)
    taken = 0
    for line in sys.stdin:
        if line.strip() == "beat":
            with budgets._condition:
                budgets._used_at_s["intake"] = clock.monotonic_s()
            await one.beat()
        else:
            end_s = clock.monotonic_s() + seconds
            while clock.monotonic_s() < end_s:
                budgets.take("intake", direction="read", bytes_=10_000)
                taken += 10_000
        sys.stdout.write(f"{taken}\n")
        sys.stdout.flush()
    await database.close()


def started(dsns: Dsns, node: str, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, dsns.daemon, node, str(seconds)], cwd=Path(__file__).parents[2], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
async def test_two_processes_take_together_what_one_may(dsns: Dsns) -> None:
    """The measure the issue asks for: bytes taken by both in the same time, against the tier's limit."""
    seconds = 20.0
    children = [started(dsns, node, seconds) for node in ("n1", "n2")]

    def tell(child: subprocess.Popen[str], what: str) -> int:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(f"{what}\n")
        child.stdin.flush()
        return int(child.stdout.readline())

    try:
        for _ in range(2):
            for child in children:
                await asyncio.to_thread(tell, child, "beat")
        together = [await asyncio.to_thread(tell, child, "take") for child in children]
        assert sum(together) <= RATE * (seconds + 1) * 1.01
        assert min(together) >= RATE * seconds / 2 * 0.99
        # one dies hard; the other holds the whole once the dead one is stale
        children[0].kill()
        with psycopg.connect(dsns.superuser) as conn:
            conn.execute("update mover.tier_use set seen_at = seen_at - interval '60 s' where node = 'n1'")
        await asyncio.to_thread(tell, children[1], "beat")
        alone = await asyncio.to_thread(tell, children[1], "take") - together[1]
        assert RATE * seconds * 0.99 <= alone <= RATE * (seconds + 1) * 1.01
    finally:
        for child in children:
            child.kill()
            child.communicate()
