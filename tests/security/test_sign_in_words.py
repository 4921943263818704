"""What people type when they sign in, and what others send in their place: nothing of it stands in a log, in an audit
record or in an answer, and no line of a log is anybody's but ours."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator, Iterator

import aiohttp
import psycopg
import pytest

from mover import log
from mover.access import Access
from mover.api import Server, make_app, serve
from mover.catalog.database import Database
from mover.model import wire
from mover.model.access import Identity
from mover.settings import Listen
from tests.api.small_rooms import small_rooms
from tests.support.postgres import Dsns

MACHINE = Identity(actor="uid:0", role="admin", project="demo")
NAME, PASSWORD = "SMITH-JANE-S26-10482", "jane smith 1961-04-02"
FORGED = '{"event":"request","level":"info","status":200,"actor":"root"}'


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    log.configure(level="debug", stream=stream)
    yield stream
    log.configure(level="warning")
    root.handlers[:], level = before
    root.setLevel(level)


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    access = Access(database, project="demo", node="n1", own_uid=990)
    await access.accounts.make(MACHINE, wire.AccountRequest(name="ann", role="viewer", password="four random words"))
    running = await serve(make_app(small_rooms(), access, version="0"), Listen(None, "127.0.0.1", 0, None))
    yield running
    await running.stop()


WORDS = [NAME, PASSWORD, "four random words", "mvr_" + "k" * 43, "x" * 43]
# a header cannot hold line feeds; what looks like one, aiohttp or a browser might still make of these
INJECTED = [
    f"ann\n{FORGED}", f"ann\r\n{FORGED}", f"ann\u2028{FORGED}", f"\x1b[2Jann{FORGED}", 'ann","actor":"root',
    f"%0a{FORGED}",
]  # fmt: skip


async def test_nothing_that_somebody_typed_is_written_anywhere(
    server: Server, logged: io.StringIO, dsns: Dsns
) -> None:
    """A person types the password into the field of the name, and a case number into both: no log has it for ever."""
    jar = aiohttp.DummyCookieJar()
    answers = []
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        for name in (*WORDS, *INJECTED, "ann"):
            for body in ({"name": name[:128], "password": PASSWORD}, {"token": name[:128]}):
                async with session.post(f"{server.urls[0]}/v1/session", json=body) as answer:
                    answers.append(await answer.text())
        for name, header in (("Cookie", "mover={}"), ("Authorization", "Bearer {}"), ("Mover-CSRF", "{}"),
                             ("X-Request-Id", "{}"), ("X-Forwarded-For", "{}"), ("Mover-Project", "{}"),
                             ("Origin", "https://{}"), ("User-Agent", "{}")):  # fmt: skip
            for word in (*WORDS, *(one for one in INJECTED if one.isprintable() and one.isascii())):
                headers = {name: header.format(word)}
                async with session.get(f"{server.urls[0]}/v1/session", headers=headers) as answer:
                    answers.append(await answer.text())
        for path in (f"/v1/session/tokens/{NAME}", f"/v1/session?to={NAME}", f"/v1/session/oidc/callback?code={NAME}"):
            async with session.get(server.urls[0] + path) as answer:
                answers.append(await answer.text())
    with psycopg.connect(dsns.superuser) as conn:
        kept = str([conn.execute(f"select t::text from mover.{table} t").fetchall() for table in TABLES])  # type: ignore[arg-type]
    for word in (*WORDS, "SMITH", "10482", "random words"):
        assert word not in logged.getvalue() and word not in kept and word not in "".join(answers), word
    assert "ann" in kept


TABLES = ("audit_record", "account", "session", "token")


async def test_every_line_of_the_log_is_ours(server: Server, logged: io.StringIO) -> None:
    """A name that holds a whole line of a log makes no line of it."""
    async with aiohttp.ClientSession() as session:
        for word in INJECTED:
            body = {"name": word, "password": word}
            async with session.post(f"{server.urls[0]}/v1/session", json=body) as answer:
                assert answer.status in (401, 422)
    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    asked = [line for line in lines if line["event"] == "request"]
    assert len(asked) == len(INJECTED) and {line["status"] for line in asked} <= {401, 422}
    assert all("actor" not in line and line["route"] == "/v1/session" for line in asked)
    assert "root" not in logged.getvalue() and "\x1b" not in logged.getvalue()
