"""What leaves the daemon's face whoever asks for it however: answers that are data and nothing else, and a log in which
nobody writes but the daemon."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest

from mover import log
from mover.api import Face, Limits, make_app, serve
from tests.api.conftest import LOOPBACK, Served, serve_small, served
from tests.api.small_rooms import SmallAccess, small_rooms
from tests.api.test_routes import PEOPLE, document, send

__all__ = ["serve_small", "served"]


async def test_no_answer_is_a_page_and_none_is_another_sites_to_show_or_embed(served: Served) -> None:
    """A certificate, a figure, a report or a refusal, opened in a tab of its own by who is signed in: it runs nothing,
    and no browser guesses that it may be something else."""
    seen: set[str] = set()
    for path, methods in (await document(served))["paths"].items():
        for method, said in methods.items():
            if "x-mover-action" not in said:
                continue
            for role in (*PEOPLE, ""):
                async with send(served, method, path, said, role, session=bool(role)) as answer:
                    await answer.read()
                seen.add(answer.content_type)
                headers = answer.headers
                assert "default-src 'none'" in headers["Content-Security-Policy"], path
                assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path
                assert headers["X-Content-Type-Options"] == "nosniff" and "unsafe" not in script_of(headers), path
                assert headers["Cross-Origin-Resource-Policy"] == "same-origin", path
                assert headers["Cache-Control"] == "no-store" or answer.status == 200, path
                assert "Access-Control-Allow-Origin" not in headers, path
    assert not seen & {"text/html", "application/xhtml+xml", "text/javascript"} and "application/json" in seen


def script_of(headers: object) -> str:
    policy = str(headers["Content-Security-Policy"])  # type: ignore[index]
    return next((part for part in policy.split(";") if part.strip().startswith("script-src")), "")


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via"])
async def test_who_comes_through_a_proxy_of_this_machine_is_not_this_machine(served: Served, header: str) -> None:
    """Metrics are open to the machine itself; a proxy on it would have opened them to everybody."""
    async with served.ask("GET", "/metrics", role="", headers={header: "10.0.0.9"}) as answer:
        assert answer.status == 401
    async with served.ask("GET", "/metrics", role="viewer", headers={header: "10.0.0.9"}) as answer:
        assert answer.status == 200


async def test_a_proxy_that_the_settings_name_is_never_this_machine() -> None:
    face = Face(proxies=frozenset({"127.0.0.1"}))
    server = await serve(make_app(small_rooms(), SmallAccess(), version="0", face=face), LOOPBACK)
    async with aiohttp.ClientSession() as session, session.get(f"{server.urls[0]}/metrics") as answer:
        assert answer.status == 401
    await server.stop()


# --- the log ----------------------------------------------------------------------------------------------------

FORGED = '<0>{"event":"owned","level":"critical"}'
# as text in a header, in a body, and as it looks in a URL
LINES = (f"x\\n{FORGED}", f"\x1b]0;owned\x07{FORGED}", f"\x9b31m{FORGED}", f"\u2028{FORGED}", f'"}}\\n{FORGED}')
HEADERS = ("X-Request-Id", "User-Agent", "Idempotency-Key", "Mover-Project", "Last-Event-ID", "Origin", "Cookie")
RAW = (
    b"GET /v1/runs/a%0a%3c0%3e%7b%22event%22:%22owned%22%7d HTTP/1.1\r\nAuthorization: Bearer mvr_admin\r\n\r\n",
    b"GET /v1/runs?owned=%0a%3c0%3e&limit=%1b%5b31m HTTP/1.1\r\nAuthorization: Bearer mvr_admin\r\n\r\n",
    b"GET /\x1b[31mowned HTTP/1.1\r\nHost: x\r\n\r\n",
    b"owned\n<0>{} / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"<0>OWNED / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/9.owned\r\nHost: x\r\n\r\n",
    b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX-A: b\r\n <0>owned: folded\r\n\r\n",
    b"POST /v1/cohorts HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /owned",
    b"POST /v1/cohorts HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nowned!",
    b"POST /v1/cohorts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, owned\r\n\r\n0\r\n\r\n",
    b"POST /v1/cohorts HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nowned\r\n",
    b"POST /v1/cohorts HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nowned",
    b"\x16\x03\x01\x02\x00owned",
)


@pytest.fixture
def journal() -> Iterator[io.StringIO]:
    """The log as systemd's journal reads it: a line begins with its priority."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers[:], root.level
    log.configure(level="debug", journal=True, stream=stream)
    yield stream
    log.configure(level="warning")
    root.handlers[:], level = before
    root.setLevel(level)


async def raw(url: str, sent: bytes) -> bytes:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(sent)
    await writer.drain()
    writer.write_eof()
    async with asyncio.timeout(60):
        said = await reader.read()
    writer.close()
    return said


async def test_nobody_writes_a_line_into_the_log_by_what_they_ask(serve_small: object, journal: io.StringIO) -> None:
    """A forged line would hide a deed, raise an alarm at night or speak to the terminal of who reads it. Two requests
    in one (smuggled past a proxy) are none: what is ambiguous is refused and the connection ends."""
    limits = Limits(requests_per_s=10_000, burst=10_000)
    served = await serve_small(limits=limits)  # type: ignore[operator]
    for sent in RAW:
        answers = (await raw(served.url, sent)).split(b"HTTP/1.1 ")[1:]
        assert len(answers) <= 1 and not any(one.startswith(b"2") for one in answers), (sent, answers)
    for line in LINES:
        body = {"name": line, "expression": line, "folder": line, "reason": line, line: line}
        for name in (
            "X-Request-Id",
            "User-Agent",
            "Idempotency-Key",
            "Mover-Project",
            "Last-Event-ID",
            "Origin",
            "Cookie",
        ):
            value = "".join(one for one in line if " " <= one <= "~")
            async with served.ask("POST", "/v1/cohorts", json=body, headers={name: value}) as answer:
                assert answer.status >= 400
        async with served.ask("POST", "/v1/session", role="", json={"name": line, "password": line}) as answer:
            assert answer.status >= 400
        async with served.ask("GET", "/v1/audit", role="admin", params={"actor": line, "action": line}) as answer:
            await answer.read()
    lines = journal.getvalue().split("\n")[:-1]
    assert len(lines) > len(LINES) * 9
    for one in lines:
        assert one[:3] in ("<3>", "<4>", "<6>", "<7>"), one
        said = json.loads(one[3:])
        assert set(said) <= log.FIELDS | {"event", "level", "timestamp", "room", "at"}, one
    assert "owned" not in journal.getvalue().lower() and journal.getvalue().isascii()
