"""What needs a person, how full and how fast tiers are, and what works: one look over all rooms."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from mover.api.operation import Call, Operations, Paged, Query, ShortQuery
from mover.model import wire

OPERATIONS = Operations()


class PaceQuery(Query, frozen=True):
    minutes: Annotated[int, Meta(ge=1, le=10_080)] = 60


class LevelsQuery(Query, frozen=True):
    days: Annotated[int, Meta(ge=1, le=730)] = 30


class UsageQuery(Query, frozen=True):
    """`folder` as answers write it; nothing is the whole tier."""

    folder: Annotated[str, Meta(max_length=4096)] = ""


class ColdQuery(Paged, frozen=True):
    """`older`: not used for so many seconds. By folder as scans saw it, by slide where slides stand, by run or cohort
    where runs do."""

    older: Annotated[int, Meta(ge=86_400, le=3_155_760_000)] = 180 * 86_400
    by: Literal["folder", "slide", "run", "cohort"] = "folder"
    folder: Annotated[str, Meta(max_length=4096)] = ""


class AlarmsQuery(Paged, frozen=True):
    """`standing`: only those that are not over."""

    standing: bool = False


class ShardsQuery(Paged, frozen=True):
    """Of one batch, run or other subject; of one kind; in one state."""

    subject: ShortQuery | None = None
    kind: ShortQuery | None = None
    state: Literal["waiting", "running", "done", "failed", "cancelled"] | None = None


@OPERATIONS.add("GET", "/v1/needs", "status.read", wire.Needs)
async def needs(call: Call[None, Query]) -> wire.Needs:
    """What waits for a person, the most urgent first."""
    return await call.rooms.oversight.needs(call.identity)


@OPERATIONS.add("GET", "/v1/alarms", "alarms.read", wire.AlarmPage, query=AlarmsQuery)
async def alarms(call: Call[None, AlarmsQuery]) -> wire.AlarmPage:
    """What was told to whom, newest first."""
    query = call.query
    return await call.rooms.alarms.page(call.project, standing=query.standing, after=query.after, limit=query.limit)


@OPERATIONS.add("POST", "/v1/alarms/test", "alarms.test", wire.AlarmTest, body=wire.AlarmTestRequest)
async def try_alarm(call: Call[wire.AlarmTestRequest, Query]) -> wire.AlarmTest:
    """Send one receiver a test now, and say whether it took it."""
    return await call.rooms.alarms.test(call.project, call.body.receiver)


@OPERATIONS.add("GET", "/v1/pace", "tiers.read", wire.Paces, query=PaceQuery)
async def pace(call: Call[None, PaceQuery]) -> wire.Paces:
    """How fast bytes went between tiers, up to a week back."""
    return await call.rooms.oversight.pace(call.query.minutes)


@OPERATIONS.add("GET", "/v1/levels", "tiers.read", wire.Levels, query=LevelsQuery)
async def levels(call: Call[None, LevelsQuery]) -> wire.Levels:
    """How full tiers were, and when they will be full."""
    return await call.rooms.oversight.levels(call.query.days)


@OPERATIONS.add("GET", "/v1/tiers/{name}/usage", "scans.read", wire.Usage, query=UsageQuery)
async def usage(call: Call[None, UsageQuery]) -> wire.Usage:
    """What fills a tier below a folder, as the scans of the project saw it; folders of deidentified tiers only."""
    return await call.rooms.oversight.usage(call.project, call.id, folder=call.query.folder)


@OPERATIONS.add("GET", "/v1/tiers/{name}/duplicates", "scans.read", wire.DuplicatePage, query=Paged)
async def duplicates(call: Call[None, Paged]) -> wire.DuplicatePage:
    """Contents that stand on a tier more than once, by digest, the most that could be spared first."""
    return await call.rooms.oversight.duplicates(call.project, call.id, after=call.query.after, limit=call.query.limit)


@OPERATIONS.add("GET", "/v1/tiers/{name}/cold", "scans.read", wire.ColdPage, query=ColdQuery)
async def cold(call: Call[None, ColdQuery]) -> wire.ColdPage:
    """What nobody used for long on a deidentified tier, the longest unused first; nothing is moved or removed."""
    query = call.query
    return await call.rooms.oversight.cold(
        call.project, call.id, by=query.by, older_s=query.older, folder=query.folder, after=query.after,
        limit=query.limit,
    )  # fmt: skip


@OPERATIONS.add("GET", "/v1/ages", "scans.read", wire.TierAges)
async def ages(call: Call[None, Query]) -> wire.TierAges:
    """How long ago what stands on each tier was last used."""
    return await call.rooms.oversight.ages(call.project)


@OPERATIONS.add("GET", "/v1/nodes", "shards.read", wire.Nodes)
async def nodes(call: Call[None, Query]) -> wire.Nodes:
    """The daemons of the last month: when each was seen, what it runs, how much it holds."""
    return await call.rooms.oversight.nodes(call.project)


@OPERATIONS.add("GET", "/v1/shards", "shards.read", wire.ShardPage, query=ShardsQuery)
async def shards(call: Call[None, ShardsQuery]) -> wire.ShardPage:
    """Work as it is dispatched, the newest first."""
    query = call.query
    return await call.rooms.oversight.shards(
        call.project, subject=query.subject, kind=query.kind, state=query.state, after=query.after, limit=query.limit
    )
