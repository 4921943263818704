from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mover import log
from mover.api import Limits, Rooms, make_app, serve
from mover.clock import SYSTEM, Clock
from mover.settings import Listen
from tests.api.small_rooms import SmallAccess, small_rooms

LOOPBACK = Listen(unix=None, host="127.0.0.1", port=0, tls=None)


class Served:
    """An application on a free loopback port and a session that speaks raw HTTP to it."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, rooms: Rooms, access: SmallAccess, app: web.Application
    ) -> None:
        self.url = url
        self.session = session
        self.rooms = rooms
        self.access = access
        self.app = app

    def ask(self, method: str, path: str, *, role: str = "operator", **more: Any) -> Any:
        headers = {"Authorization": f"Bearer mvr_{role}"} if role else {}
        headers |= more.pop("headers", {})
        return self.session.request(method, self.url + path, headers=headers, **more)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What the process's log holds, standard library's messages included."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    log.configure(level="debug", stream=stream)
    yield stream
    log.configure(level="warning")
    root.handlers[:], level = before
    root.setLevel(level)


@pytest.fixture
async def serve_small() -> AsyncIterator[Any]:
    """Call it with limits or a clock; what it started is stopped after the test."""
    async with AsyncExitStack() as stack:

        async def start(*, limits: Limits | None = None, clock: Clock = SYSTEM, project: str = "demo") -> Served:
            rooms = small_rooms()
            access = SmallAccess(project=project)
            app = make_app(rooms, access, version="0", limits=limits, clock=clock)
            server = await serve(app, LOOPBACK, limits=limits)
            stack.push_async_callback(server.stop)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Served(server.urls[0], session, rooms, access, app)

        yield start


@pytest.fixture
async def served(serve_small: Any) -> Served:
    return await serve_small()
