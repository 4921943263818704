"""Two daemons that share a tier share its budget: each holds a fraction, written in the catalog.

A heartbeat, under the tier's advisory lock: read what the others hold, take an equal part but never more than is
free (`decide.budget.fraction`), write it. So the fractions of all that live never sum above one; a newcomer waits
until the others' next heartbeat. Who does not use a tier for a while gives its part back; who dies drops out after
`STALE_S`. When the catalog is lost the last share stays: never none, and never everything. A daemon that is cut
off for longer than that and goes on with its last share is the one case in which two may together exceed a limit.
"""

from __future__ import annotations

import asyncio

from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock, end_if_cancelled
from mover.decide.budget import Use, fraction
from mover.errors import CatalogUnavailable
from mover.log import get_logger
from mover.transfer.budgets import Budgets

SQL = load(__file__)
BEAT_S = 1.0
STALE_S = 15.0
# a tier that was not asked for this long is not in use
IDLE_S = 10.0

log = get_logger("budgets")


class Shares:
    """Holds this daemon's fractions. `node` must be another for every process that shares a tier."""

    def __init__(self, database: Database, budgets: Budgets, *, node: str, clock: Clock = SYSTEM) -> None:
        self._database, self._budgets, self._node, self._clock = database, budgets, node, clock
        self._held: dict[str, float] = {}

    async def run(self) -> None:
        """Beat until cancelled; an idle daemon asks the catalog nothing."""
        lost = False
        loop, needed = asyncio.get_running_loop(), asyncio.Event()
        self._budgets.on_need = lambda: _tell(loop, needed)
        while True:
            end_if_cancelled()
            needed.clear()
            try:
                await self.beat()
                lost = False
            except CatalogUnavailable as error:
                if not lost:
                    log.warning("budget shares kept", code=error.code, count=len(self._held))
                lost = True
            await self._until(needed)

    async def _until(self, needed: asyncio.Event) -> None:
        """The next beat, or sooner when a thread waits for its first share."""
        pause = asyncio.ensure_future(self._clock.sleep(BEAT_S))
        need = asyncio.ensure_future(needed.wait())
        try:
            await asyncio.wait({pause, need}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            need.cancel()

    async def beat(self) -> None:
        """Take, keep or give back, tier by tier in the order of their names."""
        wanted = set(self._budgets.in_use(within_s=IDLE_S))
        idle = self._held.keys() - wanted
        if idle:
            await self.leave(idle)
        for tier in sorted(wanted):
            async with self._database.instance() as conn:
                mine = await self._hold(conn, tier)
            self._held[tier] = mine
            self._budgets.hold({tier: mine})

    async def leave(self, tiers: set[str] | None = None) -> None:
        """Stop using first, then give back: never the other way round."""
        leaving = set(self._held) if tiers is None else tiers
        self._budgets.release(leaving)
        async with self._database.instance() as conn:
            await conn.execute(SQL["leave"], {"node": self._node, "tiers": sorted(leaving)})
        self._held = {tier: mine for tier, mine in self._held.items() if tier not in leaving}

    async def _hold(self, conn: Connection, tier: str) -> float:
        await conn.execute(SQL["lock_tier"], {"tier": tier})
        await conn.execute(SQL["drop_stale"], {"tier": tier, "node": self._node, "stale_s": STALE_S})
        uses = [Use(row.node, row.fraction, row.age_s) for row in await SQL.many(conn, "uses", tier=tier)]
        mine = fraction(self._node, uses, stale_s=STALE_S)
        if mine < self._held.get(tier, 0.0):
            # given up before the commit that lets another take it; a larger one counts only after the commit
            self._budgets.hold({tier: mine})
        await conn.execute(SQL["hold"], {"tier": tier, "node": self._node, "fraction": mine})
        return mine


def _tell(loop: asyncio.AbstractEventLoop, needed: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(needed.set)
    except RuntimeError:
        return  # the loop has ended; who asks is sent home by the budgets' own end
