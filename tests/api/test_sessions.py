"""Cookies over the real HTTP face: how they are set, what they open, and what no other site makes them open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mover.access.oidc import Began, Finished
from mover.access.sessions import Vouched
from mover.api import OPERATIONS, Face, make_app, serve
from mover.api.limits import Limits
from mover.errors import LimitExceeded, ProviderUnavailable, Unauthenticated
from mover.model import wire
from mover.settings import Listen
from tests.api.small_rooms import SmallAccess, small_rooms

LOOPBACK = Listen(unix=None, host="127.0.0.1", port=0, tls=None)
SIGN_IN = {"name": "operator", "password": "correct horse battery"}


class Browser:
    """One that keeps no cookies by itself: each test says what is sent."""

    def __init__(self, url: str, session: aiohttp.ClientSession, access: SmallAccess, rooms: Any) -> None:
        self.url, self.session, self.access, self.rooms = url, session, access, rooms

    async def ask(self, method: str, path: str, role: str = "operator", **more: Any) -> tuple[int, Any, Any]:
        headers = more.pop("headers", {})
        if role:
            headers = {"Cookie": f"{more.pop('cookie', 'mover')}=session-{role}"} | headers
        async with self.session.request(method, self.url + path, headers=headers, **more) as answer:
            raw = await answer.read()
            json = answer.content_type.endswith("json")
            return answer.status, await answer.json(content_type=None) if json else raw.decode(), answer.headers

    async def change(self, role: str = "operator", **headers: str) -> int:
        status, _, _ = await self.ask("POST", "/v1/runs/run-1/cancel", role, headers=headers)
        return status


@asynccontextmanager
async def browsing(face: Face = Face(), limits: Limits | None = None, **access: Any) -> AsyncIterator[Browser]:  # noqa: B008
    small, rooms = SmallAccess(**access), small_rooms()
    server = await serve(make_app(rooms, small, version="0", face=face, limits=limits), LOOPBACK)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        yield Browser(server.urls[0], session, small, rooms)
    await server.stop()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with browsing() as made:
        yield made


def cookies(headers: Any) -> dict[str, Morsel[str]]:
    found: dict[str, Morsel[str]] = {}
    for line in headers.getall("Set-Cookie", []):
        found |= SimpleCookie(line)
    return found


CSRF = "session-operator"[::-1]


async def test_signing_in_sets_a_cookie_that_no_page_reads_and_no_other_site_sends(browser: Browser) -> None:
    status, said, headers = await browser.ask("POST", "/v1/session", "", json=SIGN_IN)
    cookie = cookies(headers)["mover"]
    assert (status, said["actor"], said["csrf"]) == (201, "a-operator", CSRF)
    assert (cookie.value, cookie["path"], cookie["samesite"]) == ("session-operator", "/", "Strict")
    assert cookie["httponly"] and not cookie["secure"] and not cookie["domain"] and not cookie["max-age"]
    assert headers["Cache-Control"] == "no-store"
    status, seen, _ = await browser.ask("GET", "/v1/session")
    assert (status, seen) == (200, said)


async def test_behind_tls_the_cookie_is_for_this_host_alone_and_another_name_opens_nothing() -> None:
    """A neighbouring host could set `mover` for all of the domain; `__Host-` it cannot."""
    async with browsing(Face("https://mover.example")) as browser:
        _, _, headers = await browser.ask("POST", "/v1/session", "", json=SIGN_IN)
        cookie = cookies(headers)["__Host-mover"]
        assert cookie["secure"] and cookie["path"] == "/" and not cookie["domain"]
        assert (await browser.ask("GET", "/v1/session"))[0] == 401
        assert (await browser.ask("GET", "/v1/session", cookie="__Host-mover"))[0] == 200


FORGED: list[dict[str, str]] = [
    {},
    {"Mover-CSRF": ""},
    {"Mover-CSRF": "session-viewer"[::-1]},
    {"Mover-CSRF": CSRF, "Origin": "https://evil.example"},
    {"Mover-CSRF": CSRF, "Origin": "null"},
    {"Mover-CSRF": CSRF, "Sec-Fetch-Site": "cross-site"},
    {"Mover-CSRF": CSRF, "Sec-Fetch-Site": "same-site"},
    {"Content-Type": "text/plain"},
    {"X-HTTP-Method-Override": "GET"},
]


@pytest.mark.parametrize("headers", FORGED)
async def test_a_cookie_alone_changes_nothing(browser: Browser, headers: dict[str, str]) -> None:
    """What another site's form, script or image can send, changes nothing."""
    assert await browser.change(**headers) == 403
    assert browser.rooms.runs.calls == []


async def test_a_page_of_ours_changes_what_its_person_may(browser: Browser) -> None:
    assert await browser.change(**{"Mover-CSRF": CSRF}) == 202
    ours = {"Mover-CSRF": CSRF, "Origin": browser.url, "Sec-Fetch-Site": "same-origin"}
    assert await browser.change(**ours) == 202
    assert await browser.change("viewer", **{"Mover-CSRF": "session-viewer"[::-1]}) == 403


async def test_a_page_says_when_nobody_sits_at_it(browser: Browser) -> None:
    """What it asks by itself then is answered, and counts as nobody's."""
    for headers in ({}, {"Mover-Unattended": "1"}):
        assert (await browser.ask("GET", "/v1/session", headers=headers))[0] == 200
    assert [name for name, *_ in browser.access.sessions.calls] == ["unattended"]


async def test_every_route_that_changes_wants_more_than_a_cookie(browser: Browser) -> None:
    """Also the routes added tomorrow: the list is the router's."""
    changing = {(one.method, one.path) for one in OPERATIONS if one.method != "GET"}
    for method, path in sorted(changing):
        status, said, _ = await browser.ask(method, path.replace("{", "").replace("}", ""), "admin", json={})
        assert (status, said["code"]) == (403, "cross-site"), path
    assert len(changing) > 60


async def test_a_token_in_the_header_is_judged_alone(browser: Browser) -> None:
    """A script with a token needs no word for changes, and a cookie beside it lends it nothing."""
    assert await browser.change("admin", Authorization="Bearer mvr_operator") == 202
    assert await browser.change("admin", Authorization="Bearer mvr_viewer") == 403
    assert await browser.change("admin", Authorization="Bearer mvr_nobody") == 401
    assert await browser.change("admin", Authorization="Basic YTpi") == 401


@pytest.mark.parametrize("cookie", ["session-nobody", "", "x" * 4000, "session-operator; mover=session-nobody"])
async def test_what_is_no_session_opens_nothing(browser: Browser, cookie: str) -> None:
    status, _, _ = await browser.ask("GET", "/v1/batches", "", headers={"Cookie": f"mover={cookie}"})
    assert status == 401


async def test_wrong_cookies_count_against_their_address() -> None:
    async with browsing(limits=Limits(requests_per_s=0.01, burst=3)) as browser:
        statuses = [(await browser.ask("GET", "/v1/batches", f"nobody-{n}"))[0] for n in range(4)]
        assert statuses == [401, 401, 401, 429]


async def test_the_local_socket_knows_its_peer_and_no_cookie(tmp_path: Path) -> None:
    """The kernel's word stands; a cookie there is somebody's mistake."""
    app = make_app(small_rooms(), SmallAccess(known_uid=os.getuid()), version="0")
    server = await serve(app, Listen(unix=tmp_path / "s", host=None, port=None, tls=None))
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(tmp_path / "s"))) as session:
        headers = {"Cookie": "mover=session-viewer", "Mover-Project": "second"}
        async with session.get("http://localhost/v1/session", headers=headers) as answer:
            said = await answer.json()
        assert (said["kind"], said["role"], said["project"]) == ("machine", "admin", "second")
        async with session.post("http://localhost/v1/runs/run-1/cancel") as answer:
            assert answer.status == 202
    await server.stop()


async def test_a_request_means_one_project_and_only_where_its_person_has_a_role(browser: Browser) -> None:
    for project, wanted in (("second", 200), ("demo", 200), ("third", 404), ("Jane Smith", 422), ("", 422)):
        status, said, _ = await browser.ask("GET", "/v1/session", headers={"Mover-Project": project})
        assert status == wanted
        assert status != 200 or said["project"] == project
    headers = {"Authorization": "Bearer mvr_admin", "Mover-Project": "second"}
    assert (await browser.ask("GET", "/v1/tokens", "", headers=headers))[0] == 404
    status, said, _ = await browser.ask(
        "POST", "/v1/session/project", json={"project": "second"}, headers={"Mover-CSRF": CSRF}
    )
    assert (status, said["project"]) == (200, "second")


async def test_signing_out_takes_the_cookie_away(browser: Browser) -> None:
    status, said, headers = await browser.ask("DELETE", "/v1/session?all=true", headers={"Mover-CSRF": CSRF})
    assert (status, said) == (200, {"ended": 1})
    assert cookies(headers)["mover"].value == "" and cookies(headers)["mover"]["max-age"] == "0"
    assert browser.access.sessions.calls == [("end", ("session-operator", True))]


async def test_signing_in_again_ends_the_session_before(browser: Browser) -> None:
    """A cookie that somebody planted before is worth nothing after."""
    status, said, headers = await browser.ask("POST", "/v1/session", "viewer", json=SIGN_IN)
    assert (status, said["actor"]) == (201, "a-operator")
    assert browser.access.sessions.calls[-1] == ("end", ("session-viewer", False))
    assert cookies(headers)["mover"].value == "session-operator"


@pytest.mark.parametrize(("more", "status"), [
    ({"json": {"name": "nobody", "password": "correct horse"}}, 401),
    ({"json": {"name": "operator"}}, 201),  # the small room asks for no password
    ({"json": {"name": "operator", "pass": "x"}}, 422),
    ({"json": {"name": "a" * 129, "password": "x"}}, 422),
    ({"data": "name=operator&password=x", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 415),
    ({"data": b"\xff", "headers": {"Content-Type": "application/json"}}, 422),
    ({"json": SIGN_IN, "headers": {"Origin": "https://evil.example"}}, 403),
    ({"json": SIGN_IN, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
    ({"json": SIGN_IN, "params": {"password": "in the url"}}, 422),
])  # fmt: skip
async def test_signing_in_takes_json_from_our_own_page(browser: Browser, more: Any, status: int) -> None:
    """Another site's form signs nobody in to somebody else's account."""
    seen, _, headers = await browser.ask("POST", "/v1/session", "", **more)
    assert seen == status and ("Set-Cookie" in headers) == (status == 201)


async def test_who_must_wait_is_told_for_how_long(browser: Browser) -> None:
    async def wait(*_: Any, **__: Any) -> str:
        raise LimitExceeded("too many tries failed", details=[{"after_s": 42}])

    browser.access.sessions.sign_in = wait  # type: ignore[method-assign]
    status, _, headers = await browser.ask("POST", "/v1/session", "", json=SIGN_IN)
    assert (status, headers["Retry-After"]) == (429, "42")


@pytest.mark.parametrize(("sent", "proxies", "address"), [
    ("10.0.0.9", (), "127.0.0.1"),
    ("10.0.0.9", ("127.0.0.1",), "10.0.0.9"),
    ("10.6.6.6, 10.0.0.9", ("127.0.0.1",), "10.0.0.9"),
    ("", ("127.0.0.1",), "127.0.0.1"),
])  # fmt: skip
async def test_a_proxys_word_about_addresses_is_taken_where_the_settings_name_it(
    sent: str, proxies: tuple[str, ...], address: str
) -> None:
    """Otherwise anybody would try from a new address each time; or all would be slowed together."""
    async with browsing(Face(proxies=frozenset(proxies))) as browser:
        await browser.ask("POST", "/v1/session", "", json=SIGN_IN, headers={"X-Forwarded-For": sent})
        assert browser.access.sessions.calls[0][1][1] == address


# --- the identity provider --------------------------------------------------------------------------------------


class SmallProvider:
    label = "Ward"

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.answers: list[Exception | Finished] = []

    async def begin(self, to: str) -> Began:
        self.begun.append(to)
        return Began("https://idp.example/authorize?state=s", "the-binding")

    async def finish(self, *, state: str, binding: str, code: str) -> Finished:
        if (state, binding, code) != ("s", "the-binding", "c"):
            raise Unauthenticated("another browser began this sign-in")
        answer = self.answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def provider(browser: Browser) -> SmallProvider:
    browser.access.provider = made = SmallProvider()
    return made


WAY_BACK = "/v1/session/oidc/callback?state=s&code=c"
BOUND = {"Cookie": "mover-sign-in=the-binding"}
DORA = Vouched("https://idp.example", "0815", "dora", {"demo": "viewer"})


async def test_by_the_provider_and_back_to_where_one_wanted(browser: Browser, provider: SmallProvider) -> None:
    assert (await browser.ask("GET", "/v1/session/ways", ""))[1] == {"password": True, "provider": "Ward"}
    status, _, headers = await browser.ask(
        "GET", "/v1/session/oidc?to=/ui/runs%3Fstate%3Dready", "", allow_redirects=False
    )
    assert (status, headers["Location"]) == (302, "https://idp.example/authorize?state=s")
    binding = cookies(headers)["mover-sign-in"]
    assert binding["httponly"] and binding["samesite"] == "Lax" and binding["path"] == "/v1/session/oidc"
    provider.answers = [Finished(DORA, provider.begun[0])]
    status, page, headers = await browser.ask("GET", WAY_BACK, "", headers=BOUND)
    assert status == 200 and 'url=/ui/runs?state=ready"' in page and "<script" not in page
    assert cookies(headers)["mover"].value == "session-viewer" and cookies(headers)["mover"]["samesite"] == "Strict"
    assert cookies(headers)["mover-sign-in"]["max-age"] == "0"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert browser.access.sessions.calls == [("vouched", (DORA, "127.0.0.1"))]


@pytest.mark.parametrize("to", [
    "//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nSet-Cookie:x", "", "ui/",
    '/"><script>', "/" + "a" * 600,
])  # fmt: skip
async def test_nobody_is_sent_elsewhere(browser: Browser, provider: SmallProvider, to: str) -> None:
    """An open redirect would lend our name to another site."""
    status, _, _ = await browser.ask("GET", "/v1/session/oidc", "", params={"to": to}, allow_redirects=False)
    assert (status, provider.begun) == (422, [])


@pytest.mark.parametrize(("path", "headers", "answer"), [
    (WAY_BACK, {}, Finished(DORA, "/ui/")),
    (WAY_BACK, {"Cookie": "mover-sign-in=another"}, Finished(DORA, "/ui/")),
    ("/v1/session/oidc/callback?state=s", BOUND, Finished(DORA, "/ui/")),
    ("/v1/session/oidc/callback?error=access_denied&state=s", BOUND, Finished(DORA, "/ui/")),
    ("/v1/session/oidc/callback?state=s&code=c%00", BOUND, Finished(DORA, "/ui/")),
    ("/v1/session/oidc/callback?state=x&code=c", BOUND, Finished(DORA, "/ui/")),
    (WAY_BACK, BOUND, ProviderUnavailable("the identity provider does not answer")),
])  # fmt: skip
async def test_whatever_goes_wrong_on_the_way_back_opens_nothing(
    browser: Browser, provider: SmallProvider, path: str, headers: dict[str, str], answer: Any
) -> None:
    """The page for signing in says so; no detail is in the address, where others would read it."""
    provider.answers = [answer]
    status, page, told = await browser.ask("GET", path, "", headers=headers)
    assert status == 200 and "/ui/?sign-in=failed" in page
    assert "mover" not in cookies(told) and browser.access.sessions.calls == []


async def test_without_a_provider_there_is_no_such_way(browser: Browser) -> None:
    assert (await browser.ask("GET", "/v1/session/ways", ""))[1]["provider"] is None
    assert (await browser.ask("GET", "/v1/session/oidc", "", allow_redirects=False))[0] == 404


async def test_what_is_a_sessions_alone_is_refused_to_a_token(browser: Browser) -> None:
    headers = {"Authorization": "Bearer mvr_operator"}
    asks = [("DELETE", "/v1/session", None), ("GET", "/v1/session/tokens", None),
            ("POST", "/v1/session/project", {"project": "demo"}),
            ("POST", "/v1/session/password", {"old": "x", "new": "four random words"})]  # fmt: skip
    answers = await asyncio.gather(*(browser.ask(m, p, "", json=b, headers=headers) for m, p, b in asks))
    assert [status for status, _, _ in answers] == [409] * 4
    assert wire.Session(**(await browser.ask("GET", "/v1/session", "", headers=headers))[1]).kind == "bearer"
