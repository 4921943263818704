"""The figures of the pages for reports, as SVG or PNG: each with the rights of the data that it shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from mover import plots
from mover.api.operation import ID_PATTERN, Call, Operations, Query, ShortQuery
from mover.clock import SYSTEM
from mover.errors import LimitExceeded, NotFound, RequestInvalid
from mover.model import wire
from mover.model.pictures import Picture
from mover.plots import MEDIA_TYPES, Canvas
from mover.plots.figures import WEEKS

OPERATIONS = Operations()
SVG, PNG = MEDIA_TYPES["svg"], MEDIA_TYPES["png"]
# painted at once, a large PNG takes eighty megabytes while it is; and waiting for that
PAINTED, WAITING = 2, 30
PAGE, PAGES_MAX = 1000, 5
Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Edge = Annotated[int, Meta(ge=240, le=1600)]


class PlotQuery(Query, frozen=True):
    """A PNG has two pixels for each of `width` and `height`."""

    format: Literal["svg", "png"] = "svg"
    theme: Literal["light", "dark"] = "light"
    width: Edge = 800
    height: Edge = 400


class FillQuery(PlotQuery, frozen=True, kw_only=True):
    tier: ShortQuery
    days: Annotated[int, Meta(ge=1, le=730)] = 30


class UsageQuery(PlotQuery, frozen=True, kw_only=True):
    """`folder` as `GET /v1/tiers/{name}/usage` writes it; nothing is the whole tier."""

    tier: ShortQuery
    folder: Annotated[str, Meta(max_length=4096)] = ""


class PaceQuery(PlotQuery, frozen=True, kw_only=True):
    """From one tier, to one tier, or between two; all pairs where neither is said."""

    source: ShortQuery | None = None
    target: ShortQuery | None = None
    minutes: Annotated[int, Meta(ge=1, le=10_080)] = 60


class DistributionQuery(PlotQuery, frozen=True, kw_only=True):
    """Of the slides that an expression selects; of all where nothing is said."""

    column: ShortQuery
    expression: Annotated[str, Meta(max_length=4096)] = ""


class CalendarQuery(PlotQuery, frozen=True, kw_only=True):
    policy: ShortQuery | None = None
    height: Edge = 240


class OneQuery(PlotQuery, frozen=True, kw_only=True):
    id: Id
    height: Edge = 240


def _plot(name: str, action: str, query: type[PlotQuery]) -> Callable[..., object]:
    return OPERATIONS.add("GET", f"/v1/plots/{name}", action, str, query=query, media_type=SVG, also=(PNG,))


@_plot("fill", "tiers.read", FillQuery)
async def fill(call: Call[None, FillQuery]) -> Picture:
    """How full a tier was, and where that leads."""
    query = call.query
    levels = await call.rooms.oversight.levels(query.days)
    level = next((one for one in levels.tiers if one.tier == query.tier and one.at), None)
    if level is None:
        raise NotFound("nothing is known of how full this tier was", where=query.tier)
    return await _drawn(query, partial(plots.fill, level))


@_plot("pace", "tiers.read", PaceQuery)
async def pace(call: Call[None, PaceQuery]) -> Picture:
    """How fast bytes went between tiers."""
    query = call.query
    told = await call.rooms.oversight.pace(query.minutes)
    return await _drawn(query, partial(plots.pace, told, query.source, query.target))


@_plot("treemap", "scans.read", UsageQuery)
async def treemap(call: Call[None, UsageQuery]) -> Picture:
    """What fills a deidentified tier, by folder, coloured by age."""
    seen = await call.rooms.oversight.usage(call.project, call.query.tier, folder=call.query.folder)
    if seen.folders is None:
        raise RequestInvalid("folders of an identified tier are names of people", where=call.query.tier)
    return await _drawn(call.query, partial(plots.treemap, seen))


@_plot("ages", "scans.read", UsageQuery)
async def ages(call: Call[None, UsageQuery]) -> Picture:
    """What fills a tier, by size of file and by age."""
    seen = await call.rooms.oversight.usage(call.project, call.query.tier, folder=call.query.folder)
    return await _drawn(call.query, partial(plots.ages, seen))


@_plot("distribution", "cohorts.read", DistributionQuery)
async def distribution(call: Call[None, DistributionQuery]) -> Picture:
    """The values of one column among the slides that an expression selects."""
    query = call.query
    asked = wire.DescribeRequest(expression=query.expression or None, columns=[query.column])
    found = await call.rooms.cohorts.describe(call.project, asked)
    return await _drawn(query, partial(plots.distribution, found.columns[0], found.count, query.expression))


@_plot("calendar", "snapshots.read", CalendarQuery)
async def calendar(call: Call[None, CalendarQuery]) -> Picture:
    """The snapshots of a year by day, coloured by the rule that keeps them."""
    now = SYSTEM.now()
    found: list[wire.Snapshot] = []
    after = None
    for _ in range(PAGES_MAX):
        page = await call.rooms.snapshots.list(
            call.project, run=None, series=None, tag=None, state=None, policy=call.query.policy,
            since=now - timedelta(weeks=WEEKS), until=None, after=after, limit=PAGE,
        )  # fmt: skip
        found += page.snapshots
        after = page.next
        if after is None:
            break
    return await _drawn(call.query, partial(plots.calendar, found, now.date(), whole=after is None))


@_plot("ledger", "records.read", OneQuery)
async def ledger(call: Call[None, OneQuery]) -> Picture:
    """What became of the rows of a set of tables, and of its images."""
    return await _drawn(call.query, partial(plots.ledger, await call.rooms.records.view(call.project, call.query.id)))


@_plot("run", "runs.read", OneQuery)
async def run(call: Call[None, OneQuery]) -> Picture:
    """Where a run is in its life."""
    return await _drawn(call.query, partial(plots.run, await call.rooms.runs.view(call.project, call.query.id)))


async def _drawn(query: PlotQuery, draw: Callable[..., Canvas]) -> Picture:
    def paint() -> bytes:
        return plots.render(draw(wide=query.width, high=query.height), query.format, query.theme)

    return Picture(await PAINTERS.paint(paint), media_type=MEDIA_TYPES[query.format])


class Painters:
    """Threads of their own: figures that wait hold none of those that moves, hashes and tiers need."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(PAINTED, thread_name_prefix="painter")
        self._room = threading.BoundedSemaphore(PAINTED + WAITING)

    async def paint(self, figure: Callable[[], bytes]) -> bytes:
        if not self._room.acquire(blocking=False):
            raise LimitExceeded(f"more than {WAITING} figures are waiting to be painted", hint="Ask again soon.")
        work = self._threads.submit(figure)
        work.add_done_callback(lambda _: self._room.release())  # also of one that nobody waits for any more
        return await asyncio.wrap_future(work)


PAINTERS = Painters()
