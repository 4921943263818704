"""Signing in by an identity provider: a real one's flow, and what a crooked one, or somebody between, would try."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey
from oidc_provider_mock import User, run_server_in_thread

from mover import daemon
from mover.access.oidc import Began, Provider
from mover.access.sessions import Vouched
from mover.clock import SystemClock
from mover.errors import ProviderUnavailable, SettingsInvalid, Unauthenticated
from mover.settings import Oidc, OidcRoleFile, People

BACK = "https://mover.example/v1/session/oidc/callback"
SECRET = "s3cret:with a/colon"
RULES = (
    OidcRoleFile("groups", "mover-admins", "demo", "admin"),
    OidcRoleFile("groups", "staff", "demo", "viewer"),
    OidcRoleFile("groups", "staff", "other", "viewer"),
    OidcRoleFile("department", "pathology", "third", "operator"),
)


class MovedClock(SystemClock):
    moved_s = 0.0

    def monotonic_s(self) -> float:
        return 1000.0 + self.moved_s


async def more_secret() -> str | None:
    return SECRET


def provider(issuer: str, clock: SystemClock | None = None, **more: Any) -> Provider:
    settings = Oidc(
        issuer=issuer, client_id="mover", client_secret_file=Path("unread"), roles=RULES, label="Ward",
        scopes=("openid", "profile"), ca_file=None, **{"name_claim": "preferred_username"} | more,
    )  # fmt: skip
    return Provider(settings, redirect_uri=BACK, secret=more_secret, clock=clock or SystemClock())


# --- a provider that somebody else wrote ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def mock() -> Iterator[str]:
    claims = {"preferred_username": "dora", "groups": ["staff", "mover-admins"], "department": "pathology"}
    with run_server_in_thread(require_nonce=True, user_claims=[User(sub="0815", claims=claims)]) as server:
        yield f"http://localhost:{server.server_port}"


async def consent(began: Began, **form: str) -> dict[str, str]:
    """What the browser brings back."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(began.url, data={"sub": "0815"} | form, allow_redirects=False) as answer,
    ):
        target = answer.headers["Location"]
    assert target.startswith(BACK)
    return {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}


async def test_a_person_comes_back_vouched_for_with_the_roles_of_the_settings(mock: str) -> None:
    ward = provider(mock)
    began = await ward.begin("/ui/runs")
    asked = parse_qs(urlsplit(began.url).query)
    assert asked["code_challenge_method"] == ["S256"] and asked["redirect_uri"] == [BACK]
    assert SECRET not in began.url and began.binding not in began.url
    said = await consent(began)
    finished = await ward.finish(state=said["state"], binding=began.binding, code=said["code"])
    assert finished.to == "/ui/runs"
    assert finished.vouched == Vouched(mock, "0815", "dora", {"demo": "admin", "other": "viewer", "third": "operator"})


async def test_a_way_back_is_gone_once_and_by_who_began_it(mock: str) -> None:
    """A code and a state that somebody saw open nothing: not from another browser, not twice, not the next day."""
    clock = MovedClock()
    ward = provider(mock, clock)
    began = await ward.begin("/")
    said = await consent(began)
    for binding in ("", "x", began.binding[:-1]):
        with pytest.raises(Unauthenticated):
            await ward.finish(state=said["state"], binding=binding, code=said["code"])
        with pytest.raises(Unauthenticated, match="not begun here"):
            await ward.finish(state=said["state"], binding=began.binding, code=said["code"])
        began = await ward.begin("/")
        said = await consent(began)
    clock.moved_s += 601
    with pytest.raises(Unauthenticated, match="is over"):
        await ward.finish(state=said["state"], binding=began.binding, code=said["code"])
    began = await ward.begin("/")
    said = await consent(began)
    await ward.finish(state=said["state"], binding=began.binding, code=said["code"])
    with pytest.raises(Unauthenticated):
        await ward.finish(state=said["state"], binding=began.binding, code=said["code"])


async def test_a_person_whose_name_is_none_here_is_nobody(mock: str) -> None:
    for claim in ("department_of", "groups"):
        ward = provider(mock, name_claim=claim)
        began = await ward.begin("/")
        said = await consent(began)
        with pytest.raises(Unauthenticated, match="no name"):
            await ward.finish(state=said["state"], binding=began.binding, code=said["code"])


async def test_the_daemon_asks_with_the_secret_of_the_settings_or_does_not_start(tmp_path: Path) -> None:
    settings = Oidc("https://login.example", "mover", tmp_path / "secret", RULES, "Ward", ("openid",), "name", None)
    people = People(public_url="https://mover.example", oidc=settings)
    with pytest.raises(SettingsInvalid, match="not there"):
        await daemon._provider(people)
    (tmp_path / "secret").write_text("s3cret\n")
    with pytest.raises(SettingsInvalid, match="read by others"):
        (tmp_path / "secret").chmod(0o644)
        await daemon._provider(people)
    (tmp_path / "secret").chmod(0o600)
    made = await daemon._provider(people)
    assert made is not None and (made._redirect_uri, made.label) == (BACK, "Ward")
    assert await made._secret() == "s3cret"
    (tmp_path / "secret").write_text("another\n")
    assert await made._secret() == "another"
    assert await daemon._provider(People()) is None


# --- one that lies ----------------------------------------------------------------------------------------------


class Crooked:
    """Says what a test wants it to say; its answers to honest questions are right."""

    def __init__(self) -> None:
        self.keys = [RSAKey.generate_key(2048, parameters={"kid": "k1"})]
        self.served = list(self.keys)
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.described: dict[str, Any] = {}
        self.token: str | None = None
        self.sign_with: Any = None
        self.asked: dict[str, int] = {"keys": 0, "description": 0}
        self.challenge = self.nonce = ""
        self.url = ""

    async def description(self, _: web.Request) -> web.Response:
        self.asked["description"] += 1
        told = {"issuer": self.url, "authorization_endpoint": f"{self.url}/authorize?tenant=ward",
                "token_endpoint": f"{self.url}/token", "jwks_uri": f"{self.url}/keys"}  # fmt: skip
        return web.json_response(told | self.described)

    async def jwks(self, _: web.Request) -> web.Response:
        self.asked["keys"] += 1
        return web.json_response({"keys": [key.as_dict(private=False) for key in self.served]})

    async def issue(self, request: web.Request) -> web.Response:
        form = await request.post()
        expected = base64.b64encode(b"mover:s3cret%3Awith+a%2Fcolon").decode()
        if "client_secret" not in form and request.headers.get("Authorization") != f"Basic {expected}":
            return web.json_response({"error": "invalid_client"}, status=401)
        hashed = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        if base64.urlsafe_b64encode(hashed).decode().rstrip("=") != self.challenge:
            return web.json_response({"error": "invalid_grant"}, status=400)
        return web.json_response({"id_token": self.token or self.signed()})

    def signed(self) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": "mover", "sub": "0815", "exp": now + 300, "iat": now, "nonce": self.nonce,
                  "preferred_username": "dora", "groups": ["staff"]}  # fmt: skip
        kept = {name: value for name, value in (claims | self.claims).items() if value is not None}
        header = {"alg": "RS256", "kid": "k1"} | self.header
        return jwt.encode(header, kept, self.sign_with or self.keys[0], algorithms=[header["alg"]])

    async def through(self, ward: Provider) -> Vouched:
        began = await ward.begin("/")
        asked = {name: values[0] for name, values in parse_qs(urlsplit(began.url).query).items()}
        assert asked["tenant"] == "ward"
        self.challenge, self.nonce = asked["code_challenge"], asked["nonce"]
        return (await ward.finish(state=asked["state"], binding=began.binding, code="c")).vouched


@pytest.fixture
async def crooked() -> AsyncIterator[Crooked]:
    made = Crooked()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", made.description)
    app.router.add_get("/keys", made.jwks)
    app.router.add_post("/token", made.issue)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
    yield made
    await runner.cleanup()


async def test_what_is_signed_for_us_now_is_taken(crooked: Crooked) -> None:
    """Or the refusals below would prove nothing. The client names itself as the provider wants it."""
    assert (await crooked.through(provider(crooked.url))).roles == {"demo": "viewer", "other": "viewer"}
    crooked.described = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    crooked.claims = {"aud": ["mover", "another"], "azp": "mover", "groups": "mover-admins"}
    assert (await crooked.through(provider(crooked.url))).roles == {"demo": "admin"}


@pytest.mark.parametrize("claims", [
    {"iss": "https://evil.example"}, {"iss": None}, {"aud": "another"}, {"aud": None}, {"aud": ["another"]},
    {"aud": ["mover", "another"]}, {"azp": "another"}, {"nonce": "of another"}, {"nonce": None}, {"exp": 1},
    {"exp": None}, {"iat": 2**33}, {"sub": None}, {"sub": 17}, {"preferred_username": "jane smith"},
    {"preferred_username": ["dora"]}, {"preferred_username": "machine"},
])  # fmt: skip
async def test_what_was_not_said_to_us_for_this_sign_in_is_refused(crooked: Crooked, claims: dict[str, Any]) -> None:
    crooked.claims = claims
    with pytest.raises(Unauthenticated):
        await crooked.through(provider(crooked.url))


async def test_what_another_key_signed_or_none_is_refused(crooked: Crooked) -> None:
    """`none`, the client's own secret as a key (HS256), a stranger's key under the known name, and no token at all."""
    head, _, rest = crooked.signed().partition(".")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","kid":"k1"}').decode().rstrip("=")
    body = rest.partition(".")[0]
    stranger = RSAKey.generate_key(2048, parameters={"kid": "k1"})
    for token, header, key in (
        (f"{unsigned}.{body}.", {}, None),
        (f"{head}.{body}.", {}, None),
        ("", {}, stranger),
        ("", {"alg": "HS256"}, OctKey.import_key(SECRET * 4)),
        ("no token", {}, None),
    ):
        crooked.token, crooked.header, crooked.sign_with = token or None, header, key
        with pytest.raises(Unauthenticated):
            await crooked.through(provider(crooked.url))


async def test_keys_are_asked_once_and_again_for_a_new_one_at_most_each_minute(crooked: Crooked) -> None:
    """A provider changes its keys; who sends tokens of unknown keys makes us ask it no oftener."""
    clock = MovedClock()
    ward = provider(crooked.url, clock)
    for _ in range(3):
        await crooked.through(ward)
    assert crooked.asked == {"keys": 1, "description": 1}
    crooked.keys = [RSAKey.generate_key(2048, parameters={"kid": "k2"})]
    crooked.served, crooked.header = crooked.keys, {"kid": "k2"}
    with pytest.raises(Unauthenticated):
        await crooked.through(ward)
    assert crooked.asked["keys"] == 1
    clock.moved_s += 61
    assert (await crooked.through(ward)).name == "dora"
    assert crooked.asked["keys"] == 2


@pytest.mark.parametrize("described", [
    {"issuer": "https://evil.example"}, {"issuer": None}, {"token_endpoint": 7}, {"jwks_uri": "http://127.0.0.1:1/keys"},
])  # fmt: skip
async def test_a_provider_that_is_another_or_none_is_told_so(crooked: Crooked, described: dict[str, Any]) -> None:
    crooked.described = described
    with pytest.raises(ProviderUnavailable):
        await crooked.through(provider(crooked.url))


async def test_whoever_begins_and_never_comes_back_takes_no_memory(crooked: Crooked) -> None:
    ward = provider(crooked.url)
    began = [await ward.begin("/") for _ in range(1005)]
    states = [parse_qs(urlsplit(one.url).query)["state"][0] for one in began]
    with pytest.raises(Unauthenticated, match="not begun here"):
        await ward.finish(state=states[0], binding=began[0].binding, code="c")
    assert len(set(states)) == 1005
