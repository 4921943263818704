"""Watching runs: a state that changed, on whichever daemon, wakes whoever waits for it here.

A notification is a hint, never the truth: who is woken looks at the rows, and who is not woken looks anyway, later.
So a lost notification costs seconds, and a database that was away costs nothing but the time it was.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import msgspec

from mover.catalog.database import Database
from mover.clock import SYSTEM, Clock, end_if_cancelled
from mover.decide.lifecycle import FINAL
from mover.errors import CatalogUnavailable
from mover.log import get_logger
from mover.model import wire
from mover.runs.look import Look
from mover.runs.shared import Shared

RECONNECT_S = 1.0
# between two looks at a run whose bytes are moving, and at any other nobody spoke of
STEP_S = 1.0
IDLE_S = 10.0
# looks over which a pace is told
PACED = 10
MOVING = frozenset({"requested", "admitted", "staging"})

log = get_logger("runs")


class Changes:
    """What one watcher of a run has not looked at yet."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        self._event.set()

    async def wait(self, duration_s: float) -> None:
        """Until the run may have changed since the last call, or for so long."""
        try:
            async with asyncio.timeout(duration_s):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()


class _Watched:
    """A run that somebody watches: one look serves all of them."""

    def __init__(self) -> None:
        self.watchers: set[Changes] = set()
        self.progress: dict[str, Shared[wire.RunProgress]] = defaultdict(Shared)  # by project: another's sees nothing

    def tell(self) -> None:
        for shared in self.progress.values():
            shared.forget()
        for changes in self.watchers:
            changes.tell()


class Watch:
    def __init__(self, database: Database, look: Look, *, clock: Clock = SYSTEM) -> None:
        self._database, self._look, self._clock = database, look, clock
        self._watched: dict[str, _Watched] = {}

    @contextmanager
    def over(self, run: str) -> Iterator[Changes]:
        """From here on no change is missed. Begin it before the first look."""
        changes = Changes()
        watched = self._watched.setdefault(run, _Watched())
        watched.watchers.add(changes)
        try:
            yield changes
        finally:
            watched.watchers.discard(changes)
            if not watched.watchers:
                del self._watched[run]

    async def listen(self) -> None:
        """Until cancelled. Everybody looks once when the listening begins: something may have been missed before."""
        while True:
            end_if_cancelled()
            try:
                async with self._database.dedicated() as conn:
                    await conn.execute("listen mover_runs")
                    for watched in self._watched.values():
                        watched.tell()
                    async for note in conn.notifies():
                        self._tell(note.payload)
            except CatalogUnavailable as error:
                log.warning("listener reconnects", code=error.code)
            await self._clock.sleep(RECONNECT_S)

    def _tell(self, run: str) -> None:
        if run in self._watched:
            self._watched[run].tell()

    async def events(self, project: str, run: str, *, after: int) -> AsyncIterator[wire.RunEvent | wire.RunProgress]:
        """The states after event `after`, then each as it comes, and how far it is in between; ends with an end."""
        pace = _Pace(self._clock)
        told: wire.RunProgress | None = None
        with self.over(run) as changes:
            shared = self._watched[run].progress[project]
            while True:
                seen = await shared.get(lambda: self._look.progress(project, run), age_s=STEP_S / 2)
                for event in await self._look.events(project, run, after=after):
                    after = event.id
                    yield event
                if seen.state in FINAL:
                    return
                moving = seen.state in MOVING
                if moving and seen != told:
                    told = seen
                    yield msgspec.structs.replace(seen, rate_bytes_s=pace.of(seen.staged_bytes))
                await changes.wait(STEP_S if moving else IDLE_S)


class _Pace:
    """Bytes a second over the last looks."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looks: deque[tuple[float, int]] = deque(maxlen=PACED)

    def of(self, staged_bytes: int) -> float | None:
        self._looks.append((self._clock.monotonic_s(), staged_bytes))
        (began_s, began), (now_s, now) = self._looks[0], self._looks[-1]
        return round((now - began) / (now_s - began_s), 1) if now_s > began_s and now > began else None
