"""One look over all rooms, for the page that is open all day, for `mover needs`, and for whoever is to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from mover.catalog.database import Database
from mover.clock import monotonic_s
from mover.decide import needs as decide
from mover.decide.access import judge
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import Policy
from mover.oversight.cold import ages, cold
from mover.oversight.levels import Levels, Room
from mover.oversight.needs import facts_of
from mover.oversight.shards import nodes, shards
from mover.oversight.trials import trial
from mover.oversight.usage import duplicates, usage

Tiers = Callable[[], Awaitable[list[wire.Tier]]]
# how long what was said of ages is said again, and to how many projects
AGES_S = 60.0
PROJECTS_KEPT = 100
# what the daemon itself has to say, in words
Warnings = Callable[[list[wire.Tier]], Awaitable[list[str]]]


class Oversight:
    def __init__(self, database: Database, *, tiers: Tiers, warnings: Warnings, node: str) -> None:
        self._database, self._tiers, self._warnings = database, tiers, warnings
        self._levels = Levels(database, node=node)
        self._ages: dict[str, tuple[float, wire.TierAges]] = {}
        self._counting = asyncio.Lock()

    async def needs(self, identity: Identity) -> wire.Needs:
        def may(action: str) -> bool:
            return judge(identity.role, action, identity.scopes) == "allowed"

        found = await self._found(identity.project, may)
        return wire.Needs(needs=[wire.Need(**msgspec.structs.asdict(one)) for one in found])

    async def every_need(self, project: str) -> list[decide.Need]:
        """Whoever may read them: for alarms, which name no more than the overview does."""
        return await self._found(project, lambda action: True)

    async def _found(self, project: str, may: Callable[[str], bool]) -> list[decide.Need]:
        async with self._database.project(project) as conn:
            facts = await facts_of(conn)
        others = await self._of_the_machine() if may("tiers.read") else []
        return decide.needs(facts, may=may, others=others)

    async def _of_the_machine(self) -> list[decide.Need]:
        tiers, forecasts = await self._tiers(), await self._levels.forecasts()
        found = [decide.away(tier.name, tier.explanation or "") for tier in tiers if not tier.online]
        found += [decide.warned(words) for words in await self._warnings(tiers)]
        filling = (decide.filling(tier.name, forecasts.get(tier.name)) for tier in tiers if tier.role != "source")
        return found + [one for one in filling if one is not None]

    async def trial(self, identity: Identity, policy: Policy) -> wire.Plan:
        """What a policy that nobody follows yet would do, for who may know of it."""
        needs = [decide.Need(**msgspec.structs.asdict(one)) for one in (await self.needs(identity)).needs]
        async with self._database.project(identity.project) as conn:
            return await trial(conn, policy, needs=needs, paces=await self.pace(60))

    async def pace(self, minutes: int) -> wire.Paces:
        return await self._levels.pace(minutes)

    async def levels(self, days: int) -> wire.Levels:
        return await self._levels.levels(days)

    async def shards(
        self, project: str, *, subject: str | None, kind: str | None, state: str | None, after: str | None, limit: int
    ) -> wire.ShardPage:
        async with self._database.project(project) as conn:
            return await shards(conn, subject=subject, kind=kind, state=state, after=after, limit=limit)

    async def nodes(self, project: str) -> wire.Nodes:
        async with self._database.project(project) as conn:
            return await nodes(conn)

    async def usage(self, project: str, tier: str, /, *, folder: str) -> wire.Usage:
        async with self._database.still(project) as conn:
            return await usage(conn, tier, folder=folder)

    async def duplicates(self, project: str, tier: str, /, *, after: str | None, limit: int) -> wire.DuplicatePage:
        async with self._database.still(project) as conn:
            return await duplicates(conn, tier, after=after, limit=limit)

    async def cold(
        self, project: str, tier: str, /, *, by: str, older_s: int, folder: str, after: str | None, limit: int
    ) -> wire.ColdPage:
        async with self._database.still(project) as conn:
            return await cold(conn, tier, by=by, older_s=older_s, folder=folder, after=after, limit=limit)

    async def ages(self, project: str) -> wire.TierAges:
        """Asked by every page that is open all day: looked at once in a while for all of them, one at a time."""
        async with self._counting:
            known = self._ages.get(project)
            if known is not None and monotonic_s() - known[0] < AGES_S:
                return known[1]
            async with self._database.still(project) as conn:
                found = await ages(conn)
            while len(self._ages) >= PROJECTS_KEPT:
                self._ages.pop(next(iter(self._ages)))
            self._ages[project] = (monotonic_s(), found)
            return found

    async def sample(self) -> None:
        """One turn; the daemon takes one every `levels.TURN_S`."""
        await self._levels.sample(
            Room(tier.name, tier.capacity_bytes, tier.free_bytes)
            for tier in await self._tiers()
            if tier.online and tier.capacity_bytes is not None and tier.free_bytes is not None
        )
