"""Server-sent events over HTTP: their framing, coming back after the last one, and the bounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from mover.api import Limits, streaming
from mover.errors import CatalogUnavailable
from tests.api.conftest import Served
from tests.api.small_rooms import AT

PATH = "/v1/runs/run-1/events"
WATCHED = "/v1/runs/run-watched/events"


async def read_to(response: Any, end: bytes) -> bytes:
    """What comes until these words."""
    async with asyncio.timeout(60):
        return await response.content.readuntil(end)


async def test_states_have_ids_and_progress_has_none_and_the_run_s_end_is_the_stream_s(served: Served) -> None:
    async with served.ask("GET", PATH) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        text = (await response.read()).decode()
    retry, *events = text.rstrip("\n").split("\n\n")
    assert retry == "retry: 3000" and len(events) == 4
    number, name, data = events[0].split("\n")
    assert (number, name) == ("id: 3", "event: state")
    assert json.loads(data.removeprefix("data: ")) == {
        "id": 3, "run": "run-1", "state": "staging", "reason": None, "at": AT.isoformat().replace("+00:00", "Z")
    }  # fmt: skip
    assert events[1].startswith("event: progress\ndata: {")


async def test_a_watcher_that_was_cut_off_hears_only_what_came_after(served: Served) -> None:
    async with served.ask("GET", PATH, headers={"Last-Event-ID": "3"}) as response:
        text = await response.text()
    assert "id: 3" not in text and "id: 4" in text
    async with served.ask("GET", PATH, headers={"Last-Event-ID": "soon"}) as response:
        assert response.status == 422 and (await response.json(content_type=None))["where"] == "Last-Event-ID"


async def test_a_run_that_is_not_there_is_a_problem_and_no_stream(served: Served) -> None:
    async with served.ask("GET", "/v1/runs/run-none/events") as response:
        assert (response.status, response.content_type) == (404, "application/problem+json")


async def test_nothing_happening_keeps_the_connection_alive_and_what_happens_comes_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "ALIVE_S", 0.01)
    async with served.ask("GET", WATCHED) as response:
        await read_to(response, b": alive\n\n: alive\n\n")
        served.rooms.runs.over.set()  # type: ignore[attr-defined]
        await read_to(response, b'"state":"cleaned"')


async def test_streams_are_bounded_for_a_caller_and_for_the_daemon_and_come_free_again(serve_small: Any) -> None:
    """A thousand forgotten watchers must not keep the next one out."""
    served = await serve_small(limits=Limits(streams=2, caller_streams=1))
    first = await served.ask("GET", WATCHED)
    async with served.ask("GET", WATCHED) as more:
        assert more.status == 429 and "of this caller" in await more.text()
    second = await served.ask("GET", WATCHED, role="viewer")
    async with served.ask("GET", WATCHED, role="admin") as more:
        assert more.status == 429 and "2 streams" in await more.text()
    first.close()
    served.rooms.runs.over.set()
    await second.read()
    # whoever went away without a word is noticed when something is said to it
    statuses: list[int] = []
    while statuses[-1:] != [200] and len(statuses) < 1200:
        await asyncio.sleep(0.05)
        async with served.ask("GET", PATH) as response:
            statuses.append(response.status)
    assert statuses[-1] == 200


async def test_a_daemon_that_stops_cuts_its_streams(serve_small: Any) -> None:
    """Between two events, without waiting for the next; and no reader takes it for the end of what it watches."""
    served = await serve_small()
    response = await served.ask("GET", WATCHED)
    await read_to(response, b"id: 4")
    await served.app.shutdown()
    with pytest.raises(aiohttp.ClientError):
        async with asyncio.timeout(60):
            await response.read()


async def test_a_stream_is_cut_soon_after_its_caller_may_no_longer(
    serve_small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed out, revoked, expired, in another role now: what is open ends with it, what still may goes on, and one
    question is asked for all of them. While the catalog is away nobody is cut."""
    monkeypatch.setattr(streaming, "STANDING_S", 0.01)
    served = await serve_small()
    mine = await served.ask("GET", WATCHED)
    others = await served.ask("GET", WATCHED, role="viewer")
    await read_to(mine, b"id: 4")
    answers = served.access.standing

    async def away(held: Any) -> list[bool]:
        raise CatalogUnavailable("away")

    served.access.standing = away
    await asyncio.sleep(0.1)
    served.access.standing = answers
    served.access.over.add("operator")
    with pytest.raises(aiohttp.ClientError):
        async with asyncio.timeout(60):
            await mine.read()
    served.rooms.runs.over.set()
    assert b'"state":"cleaned"' in await others.read()


async def test_changes_are_events_of_their_own(served: Served) -> None:
    """Nouns and ids, no contents; what is too much to tell is a reset."""
    async with served.ask("GET", "/v1/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        _, first, second = (await response.text()).rstrip("\n").split("\n\n")
    assert first == 'id: 7\nevent: changed\ndata: {"id":7,"nouns":{"runs":["run-1"],"audit":null}}'
    assert second == 'id: 8\nevent: reset\ndata: {"id":8}'
