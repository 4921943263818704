"""What a daemon that works takes from its files at once, and what waits for its next start.

Files are followed by themselves within seconds. Who changed one wants to know now, and in words, whether it was taken:
`mover reload`, `systemctl reload`, SIGHUP. Settings with a mistake change nothing at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from mover import audit, log
from mover.catalog.database import Database
from mover.errors import SettingsInvalid
from mover.model import wire
from mover.settings import Settings, load

# followed while we work, each by its own step
FOLLOWED = frozenset({"tiers", "log_level"})

Step = Callable[[], Awaitable[wire.Reload]]

logger = log.get_logger("reload")


class Reloading:
    """Of one daemon. `steps` follow what is followed; `journal` is how the log is written."""

    def __init__(self, database: Database, settings: Settings, steps: Sequence[Step], *, journal: bool) -> None:
        self._database, self._settings, self._steps = database, settings, steps
        self._journal, self._level = journal, settings.log_level
        self._turning = asyncio.Lock()

    async def turn(self, project: str, /, *, by: str, request: str = "") -> wire.Reload:
        """All that can be taken, said in the log, in a record and in the answer."""
        async with self._turning:
            told = await self._take()
        logger.info("reloaded", count=len(told.taken), kept=told.restart, failed=len(told.refused))
        async with self._database.project(project) as conn:
            await audit.record(
                conn, project=project, node=self._settings.node, actor=by, action="daemon reloaded",
                subject=self._settings.node, request=request,
                details={"taken": told.taken, "restart": told.restart, "refused": len(told.refused)},
            )  # fmt: skip
        return told

    async def _take(self) -> wire.Reload:
        try:
            now = await asyncio.to_thread(load, self._settings.file)
        except SettingsInvalid as error:
            said = [f"{error.what} ({error.where}): nothing was taken", *error.details]
            return wire.Reload(taken=[], restart=[], refused=[str(one) for one in said])
        taken = self._leveled(now.log_level)
        told = [await step() for step in self._steps]
        return wire.Reload(
            taken=[*taken, *(one for part in told for one in part.taken)],
            restart=[*differing(self._settings, now), *(one for part in told for one in part.restart)],
            refused=[one for part in told for one in part.refused],
        )

    def _leveled(self, level: str) -> list[str]:
        if level == self._level:
            return []
        log.configure(level=level, journal=self._journal)
        self._level = level
        return [f"log_level {level}"]


def differing(old: Settings, new: Settings) -> list[str]:
    """Settings that are others now, by name, and are followed from the next start on."""
    fields = [one.name for one in msgspec.structs.fields(Settings) if one.name not in FOLLOWED]
    return [name for name in fields if _still(old, name) != _still(new, name)]


def _still(settings: Settings, name: str) -> object:
    """What stands in DSN files is followed at each new connection."""
    if name == "database":
        return msgspec.structs.replace(settings.database, dsn=None, vault_dsn=None, dump_dsn=None)
    return getattr(settings, name)
