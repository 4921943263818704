"""Server-sent events over HTTP: their framing, coming back after the last one, and the bounds."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mover.api import Limits, streaming
from mover.model import wire
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
    assert retry == "retry: 2000" and len(events) == 4
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


async def test_a_daemon_that_stops_ends_its_streams() -> None:
    """Between two events, without waiting for the next."""
    streams = streaming.Streams(Limits())
    never = asyncio.Event()

    async def items() -> Any:
        yield wire.RunEvent(id=1, run="run-1", state="staging", at=AT)
        await never.wait()

    lines = streams.framed("ann", items())
    assert b"id: 1" in await anext(lines)
    streams.close()
    async with asyncio.timeout(60):
        assert [line async for line in lines] == []
