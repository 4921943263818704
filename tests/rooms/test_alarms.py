"""Alarms from the real catalog to a real HTTP receiver and a real mail server."""

from __future__ import annotations

import asyncio
import email
import json
from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiosmtpd.smtp import SMTP

from mover.catalog.database import Database
from mover.decide.needs import Need
from mover.errors import NotFound
from mover.model.policy import AlarmPolicy
from mover.oversight import Alarms
from mover.settings import Mail, Webhook
from tests.rooms.rig import PROJECT, Rig
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
NIGHT = AlarmPolicy(name="night", receivers=("pager", "post"), after_s=0)


class Outside:
    """A pager's endpoint and a mail server; each keeps what it took, and refuses while `away`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.headers: list[tuple[str, str]] = []
        self.mails: list[Message] = []
        self.away = False

    async def take(self, request: web.Request) -> web.Response:
        if self.away:
            return web.Response(status=503)
        self.headers.append((request.headers["Authorization"], request.content_type))
        self.events.append(json.loads(await request.read()))
        return web.Response(status=202)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 taken"


class House:
    def __init__(self, rig: Rig, outside: Outside, pager: Webhook, post: Mail) -> None:
        self.rig, self.outside = rig, outside
        self.found: list[Need] = []
        self.alarms = Alarms(
            rig.database,
            [NIGHT],
            {"pager": pager, "post": post},
            find=self._find,
            site="ward",
            link="https://mover.ward",
        )

    async def _find(self, project: str) -> list[Need]:
        return self.found

    async def turn(self) -> int:
        self.rig.rows("update mover.alarm_telling set not_before = now()")
        return await self.alarms.turn(PROJECT)


@pytest.fixture
async def house(tmp_path: Path, dsns: Dsns, database: Database) -> AsyncIterator[House]:
    outside = Outside()
    app = web.Application()
    app.router.add_post("/hook", outside.take)
    (tmp_path / "token").write_text("s3cret\n")
    mail = await asyncio.get_running_loop().create_server(lambda: SMTP(outside), "127.0.0.1", 0)
    async with mail, TestServer(app) as server:
        pager = Webhook(str(server.make_url("/hook")), tmp_path / "token", None)
        port = mail.sockets[0].getsockname()[1]
        post = Mail(("night@ward",), "mover@ward", "127.0.0.1", port, "none", None, None, None)
        yield House(Rig(tmp_path, dsns, database), outside, pager, post)


FAILED = Need("batch-failed", "now", "batch", "a batch failed", "Read why, then declare it again.", subject="batch-1")


async def test_a_pager_and_a_mailbox_hear_the_beginning_and_the_end(house: House) -> None:
    """As a CloudEvent and as a mail; once each, however often it is looked at."""
    house.found = [FAILED]
    assert [await house.turn() for _ in range(3)] == [2, 0, 0]
    house.found = []
    assert [await house.turn() for _ in range(2)] == [2, 0]

    begun, ended = house.outside.events
    assert (begun["specversion"], begun["type"], ended["type"]) == ("1.0", "mover.alarm.opened", "mover.alarm.closed")
    assert begun["source"] == "urn:mover:ward:demo" and begun["id"] != ended["id"]
    assert begun["data"]["subject"] == "batch-1" and begun["data"]["hint"] == FAILED.hint
    assert set(house.outside.headers) == {("Bearer s3cret", "application/cloudevents+json")}
    first, second = house.outside.mails
    assert (
        first["Subject"] == "[mover ward] a batch failed" and second["Subject"] == "[mover ward] over: a batch failed"
    )
    assert first["References"] == second["References"] and first["Message-ID"] != second["Message-ID"]
    assert FAILED.hint in first.get_payload() and "https://mover.ward" in first.get_payload()
    [alarm] = (await house.alarms.page(PROJECT, standing=False, after=None, limit=9)).alarms
    assert alarm.closed_at and {(one.receiver, one.event) for one in alarm.tellings if one.told_at} == {
        (name, event) for name in ("pager", "post") for event in ("opened", "closed")
    }
    assert not (await house.alarms.page(PROJECT, standing=True, after=None, limit=9)).alarms


async def test_a_receiver_that_is_away_keeps_no_other_waiting_and_hears_all_of_it_later_in_order(house: House) -> None:
    house.outside.away = True
    house.found = [FAILED]
    assert await house.turn() == 1 and len(house.outside.mails) == 1
    house.found = []
    assert await house.turn() == 1 and house.outside.events == []
    house.outside.away = False
    assert await house.turn() == 2
    assert [one["type"].rpartition(".")[2] for one in house.outside.events] == ["opened", "closed"]


async def test_after_a_week_nobody_waits_for_it_any_more(house: House) -> None:
    house.outside.away = True
    house.found = [FAILED]
    await house.turn()
    house.rig.rows("update mover.alarm_telling set at = now() - interval '8 days' where told_at is null")
    await house.turn()
    house.outside.away = False
    assert await house.turn() == 0
    [alarm] = (await house.alarms.page(PROJECT, standing=True, after=None, limit=9)).alarms
    assert [one.receiver for one in alarm.tellings if one.given_up_at] == ["pager"]


async def test_a_receiver_can_be_tried(house: House) -> None:
    assert (await house.alarms.test(PROJECT, "pager")).told and (await house.alarms.test(PROJECT, "post")).told
    assert house.outside.events[0]["type"] == "mover.alarm.test"
    house.outside.away = True
    assert not (await house.alarms.test(PROJECT, "pager")).told
    with pytest.raises(NotFound):
        await house.alarms.test(PROJECT, "nobody")
