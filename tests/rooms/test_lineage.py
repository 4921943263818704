"""OpenLineage events of runs, from the real catalog to a real HTTP receiver."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mover.catalog.database import Database
from mover.model import wire
from mover.model.access import Identity
from mover.runs.lineage import Lineage, Target
from tests.rooms.rig import Rig
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]

ANN = Identity(actor="ann", role="operator", project="demo")


class Receiver:
    """Keeps what it is sent; answers as it is told to."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.status = 201
        self.secrets: list[str | None] = []

    async def take(self, request: web.Request) -> web.Response:
        self.secrets.append(request.headers.get("Authorization"))
        if self.status < 300:
            self.events.append(await request.json())
        return web.Response(status=self.status)


class Room:
    def __init__(self, rig: Rig, receiver: Receiver, url: str, session: aiohttp.ClientSession) -> None:
        self.rig, self.receiver = rig, receiver
        self._session = session
        self.token_file = rig.folder / "lineage.token"
        self.token_file.write_text("s3cret\n")
        self.lineage = Lineage(rig.database, Target(url, "site", self.token_file))

    async def turn(self) -> int:
        return await self.lineage.turn(self._session)

    def due(self) -> None:
        self.rig.rows("update mover.lineage set not_before = now()")

    async def trained(self, exit_status: int | None, *, cancelled: bool = False) -> str:
        """A run to its end."""
        numbers = self.rig.slides([100])
        run = await self.rig.runs.request(ANN, wire.RunRequest(files=numbers), key=f"k/{numbers[0]}")
        await self.rig.work()
        if cancelled:
            await self.rig.runs.cancel(ANN, run.id)
        elif exit_status is None:
            self.rig.rows("update mover.run set lease_until = now() - interval '1 s' where id = %s", run.id)
            await self.rig.runs.expire()
        else:
            await self.rig.runs.finish(ANN, run.id, wire.FinishRequest(exit=exit_status))
        await self.rig.work()
        return run.id

    def events(self) -> list[str]:
        return [event["eventType"] for event in self.receiver.events]


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


@pytest.fixture
async def room(rig: Rig) -> AsyncIterator[Room]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/api/v1/lineage", receiver.take)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        room = Room(rig, receiver, str(server.make_url("/api/v1/lineage")), session)
        await room.turn()
        yield room


async def test_a_run_tells_its_begin_and_its_end_with_the_manifest_as_the_datasets_version(room: Room) -> None:
    """A lineage service answers which model saw which data: by a version that equal content shares."""
    run = await room.trained(0)
    assert await room.turn() == 2
    start, complete = room.receiver.events
    assert room.events() == ["START", "COMPLETE"]
    [row] = room.rig.rows("select manifest_root from mover.run where id = %s", run)
    for event in (start, complete):
        # what the schema 2-0-2 requires of a RunEvent and of its facets
        assert {"eventType", "eventTime", "run", "job", "producer", "schemaURL"} <= event.keys()
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert uuid.UUID(event["run"]["runId"]).version == 8 and event["run"] == start["run"]
        [data] = event["inputs"]
        assert data["namespace"] == "site" and data["facets"]["version"]["datasetVersion"] == row.manifest_root
        assert data["inputFacets"]["inputStatistics"]["fileCount"] == 1
        facets = [*data["facets"].values(), *data["inputFacets"].values()]
        assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in facets)
    [snapshot] = room.rig.rows("select repository_id from mover.snapshot where run_id = %s", run)
    assert [one["facets"]["version"]["datasetVersion"] for one in complete["outputs"]] == [snapshot.repository_id]
    assert start["outputs"] == [] and room.receiver.secrets == ["Bearer s3cret"] * 2
    assert await room.turn() == 0


async def test_a_receiver_that_is_away_loses_nothing_and_holds_no_run_up(room: Room) -> None:
    """The run ends while nobody listens; the events come later, in order, each once where nothing crashed."""
    room.receiver.status = 503
    run = await room.trained(0)
    assert await room.turn() == 0 and len(room.receiver.secrets) == 1  # the rest is not asked in vain
    assert (await room.rig.runs.view("demo", run)).state == "protected"
    assert await room.turn() == 0 and len(room.receiver.secrets) == 1  # nor before its pause is over
    room.receiver.status = 200
    room.due()
    assert await room.turn() == 2 and room.events() == ["START", "COMPLETE"]


async def test_a_failed_job_a_lapsed_lease_and_a_cancelled_run_end_as_what_they_are(room: Room) -> None:
    """COMPLETE would tell a person that the model was trained."""
    await room.trained(3)
    await room.turn()
    await room.trained(None)
    await room.turn()
    await room.trained(None, cancelled=True)
    await room.turn()
    assert room.events() == ["START", "FAIL", "START", "ABORT", "START", "ABORT"]


async def test_an_event_that_is_refused_holds_no_other_back_and_is_dropped_in_the_end(room: Room) -> None:
    """A receiver that cannot read one event must not cost the others, and the outbox does not grow for ever."""
    await room.trained(0)
    room.receiver.status = 400
    assert await room.turn() == 0 and len(room.receiver.secrets) == 2
    room.rig.rows("update mover.lineage set not_before = now(), at = now() - interval '8 days'")
    assert await room.turn() == 0
    assert room.rig.rows("select * from mover.lineage") == []


async def test_where_nobody_delivers_nothing_is_collected(room: Room) -> None:
    """An installation without a lineage service must not fill a table for one."""
    room.rig.rows("update mover.lineage_reader set seen_at = now() - interval '2 days'")
    await room.trained(0)
    assert room.rig.rows("select * from mover.lineage") == []
