"""A site's own authority: each of our clients believes what it signed, for the name we call and while it is valid, and
nothing else. What is refused is said in our words with a remedy, and nothing is sent instead in another way.

Object tiers: tests/tiers/test_credentials.py. The daemon's certificate renewed: tests/api/test_serve.py."""

from __future__ import annotations

import asyncio
import io
import secrets
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from aiohttp import ClientSession, web
from aiosmtpd.smtp import SMTP
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from psycopg.conninfo import make_conninfo

from mover.access.oidc import Provider
from mover.api import make_app, serve
from mover.catalog import dsn, postgres
from mover.catalog.database import Database
from mover.catalog.dumping import Dumper
from mover.catalog.migrate import migrate
from mover.catalog.postgres import Embedded
from mover.cli import command
from mover.cli.db import check_open
from mover.clock import SYSTEM, monotonic_s
from mover.errors import CatalogError, CatalogUnavailable, MoverError, SettingsInvalid
from mover.oversight.receivers import Said, deliver
from mover.runs.lineage import Target, post
from mover.sdk import Client
from mover.settings import Listen, Mail, Oidc, Tls, Webhook, load
from tests.api.small_rooms import SmallAccess, small_rooms
from tests.support.authority import Authority

DEBIANS = Path("/usr/lib/postgresql/15/bin")
pytestmark = pytest.mark.slow

# (the certificate that is shown, the authority that is believed, what is said)
REFUSED = [
    ("right", "other", "by an authority that is not trusted here"),
    ("right", "system", "by an authority that is not trusted here"),
    ("other name", "own", "for another name"),
    ("ended", "own", "has ended"),
]
NOW = SYSTEM.now()
SAID = Said(
    id="alarm-1/1", site="ward", project="demo", event="test", at=NOW, code="test", severity="know", noun="service",
    subject=None, words="a test", hint="", count=1, opened_at=NOW, link=None,
)  # fmt: skip


SITE = {"version": 1, "site": "ward", "project": "demo"}


class Ward:
    """Every service that we call, once behind each certificate; `heard` is what got through to any of them."""

    def __init__(self, folder: Path) -> None:
        (folder / "other").mkdir()
        own, other = Authority(folder), Authority(folder / "other")
        self.authorities: dict[str, Path | None] = {"own": own.file, "other": other.file, "system": None}
        self.certificates = {
            "right": own.certify("127.0.0.1", file="right.pem"),
            "other name": own.certify("elsewhere.example", "127.0.0.2", file="name.pem"),
            "ended": own.certify("127.0.0.1", ended=True, file="ended.pem"),
        }
        self.ports: dict[tuple[str, str], int] = {}
        self.heard: list[str] = []

    def tls(self, shown: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificates[shown])
        return context

    async def hook(self, _: web.Request) -> web.Response:
        self.heard.append("webhook")
        return web.Response()

    async def description(self, request: web.Request) -> web.Response:
        self.heard.append("provider")
        url = f"https://{request.host}"
        return web.json_response({"issuer": url, **{f"{name}_endpoint": url for name in ("authorization", "token")},
                                  "jwks_uri": url})  # fmt: skip

    @web.middleware
    async def overheard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.heard.append("daemon")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def handle_DATA(self, *_: Any) -> str:  # noqa: N802 - the library's name
        self.heard.append("mail")
        return "250 taken"


@pytest.fixture
async def ward(tmp_path: Path) -> AsyncIterator[Ward]:
    made, loop, ended = Ward(tmp_path), asyncio.get_running_loop(), []
    app = web.Application()
    app.add_routes([web.post("/hook", made.hook), web.get("/.well-known/openid-configuration", made.description)])
    runner = web.AppRunner(app)
    await runner.setup()
    for shown, file in made.certificates.items():
        tls = made.tls(shown)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        daemons = make_app(small_rooms(), SmallAccess(), version="0")
        daemons.middlewares.insert(0, made.overheard)
        daemon = await serve(daemons, Listen(None, "127.0.0.1", 0, Tls(file, file)))
        starttls = await loop.create_server(lambda tls=tls: SMTP(made, tls_context=tls), "127.0.0.1", 0)  # type: ignore[misc]
        mail = await loop.create_server(lambda: SMTP(made), "127.0.0.1", 0, ssl=tls)
        ended += [starttls, mail, daemon]
        listening = {"web": site._server, "starttls": starttls, "tls": mail}
        made.ports |= {(name, shown): one.sockets[0].getsockname()[1] for name, one in listening.items()}  # type: ignore[union-attr]
        made.ports["daemon", shown] = int(daemon.urls[0].rpartition(":")[2])
    yield made
    for one in ended:
        await one.stop() if hasattr(one, "stop") else one.close()
    await runner.cleanup()


async def webhook(ward: Ward, shown: str, ca_file: Path | None) -> None:
    await deliver(Webhook(f"https://127.0.0.1:{ward.ports['web', shown]}/hook", None, ca_file), SAID)


def mail(tls: Any) -> Callable[[Ward, str, Path | None], Awaitable[None]]:
    async def send(ward: Ward, shown: str, ca_file: Path | None) -> None:
        port = ward.ports[tls, shown]
        await deliver(Mail(("night@ward",), "mover@ward", "127.0.0.1", port, tls, None, None, ca_file), SAID)

    return send


async def provider(ward: Ward, shown: str, ca_file: Path | None) -> None:
    settings = Oidc(
        f"https://127.0.0.1:{ward.ports['web', shown]}",
        "mover",
        Path("unread"),
        (),
        "Ward",
        ("openid",),
        "sub",
        ca_file,
    )

    async def secret() -> str | None:
        return "s3cret"

    await Provider(settings, redirect_uri="https://mover.example/back", secret=secret).begin("/")


async def sdk(ward: Ward, shown: str, ca_file: Path | None) -> None:
    async with Client(f"https://127.0.0.1:{ward.ports['daemon', shown]}", ca_file=_word(ca_file)) as client:
        await client.health()


async def cli(ward: Ward, shown: str, ca_file: Path | None) -> None:
    token = ward.certificates["right"].with_name("token")
    token.write_text("mvr_viewer")
    words = ["--url", f"https://127.0.0.1:{ward.ports['daemon', shown]}", "--token-file", str(token)]
    words += ["--ca-file", str(ca_file)] if ca_file else []
    done = await asyncio.to_thread(CliRunner().invoke, command, [*words, "status"])
    if done.exception is not None:
        raise done.exception


async def lineage(ward: Ward, shown: str, ca_file: Path | None) -> None:
    target = Target(f"https://127.0.0.1:{ward.ports['web', shown]}/hook", "ward", None, ca_file)
    async with ClientSession() as session:
        assert await post(session, target, {}) == 200


def _word(path: Path | None) -> str | None:
    return str(path) if path else None


CLIENTS = {
    "webhook": webhook, "starttls": mail("starttls"), "mail": mail("tls"), "provider": provider, "sdk": sdk, "cli": cli,
    "lineage": lineage,
}  # fmt: skip


async def test_each_client_believes_the_sites_authority_and_nothing_else(ward: Ward, tmp_path: Path) -> None:
    """One that is lenient gives alarms, sign-ins and tokens to whoever stands in between."""
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("no certificate")
    for name, client in CLIENTS.items():
        await client(ward, "right", ward.authorities["own"])
        assert ward.heard, name
        ward.heard.clear()
        for shown, believed, what in REFUSED:
            with pytest.raises(MoverError, match=f"is not believed: its certificate.*{what}") as refused:
                await client(ward, shown, ward.authorities[believed])
            assert "ca" in refused.value.advice and refused.value.advice != type(refused.value).hint, name
        for unread in (rubbish, tmp_path / "none.pem"):
            with pytest.raises(SettingsInvalid, match="holds no certificate that can be read"):
                await client(ward, "right", unread)
        assert not ward.heard, name


async def test_an_authority_is_not_named_for_an_address_without_tls(tmp_path: Path) -> None:
    """Who names one believes that he is safe."""
    with pytest.raises(SettingsInvalid, match="without TLS"):
        Client("http://127.0.0.1:1", ca_file=str(tmp_path / "ca.pem"))
    plain = {"url": "http://127.0.0.1:1/", "ca_file": "ca.pem"}
    oidc = {"issuer": plain["url"], "client_id": "mover", "roles": [], "ca_file": "ca.pem"}
    for settings in (
        {"lineage": plain}, {"receivers": {"night": {"kind": "webhook", **plain}}},
        {"access": {"public_url": "https://mover.example", "oidc": oidc}},
    ):  # fmt: skip
        (tmp_path / "mover.yaml").write_text(yaml.safe_dump({**SITE, **settings}))
        with pytest.raises(SettingsInvalid, match="shows no certificate"):
            load(tmp_path / "mover.yaml")
        (tmp_path / "mover.yaml").write_text(yaml.safe_dump({**SITE, **settings}).replace("http:", "https:"))
        load(tmp_path / "mover.yaml")


# --- the database ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A real one with ssl=on, at an address of its own: (its server, how it is reached, its authority)."""
    (tmp_path / "other").mkdir()
    address = f"127.{secrets.randbelow(200) + 20}.{secrets.randbelow(250)}.{secrets.randbelow(250) + 2}"
    authority = Authority(tmp_path)
    Authority(tmp_path / "other")
    file = str(authority.certify(address, "db.ward.example"))
    asserted = {"listen_addresses": address, "ssl": "on", "ssl_ca_file": str(authority.file)}
    for name, value in {**asserted, "ssl_cert_file": file, "ssl_key_file": file}.items():
        monkeypatch.setitem(postgres._ASSERTED, name, value)
    embedded = Embedded(tmp_path / "state", bin_dir=DEBIANS)
    server = embedded.start()
    with psycopg.connect(server.superuser_dsn) as conn:
        where = conn.execute("select setting from pg_settings where name = 'hba_file'").fetchone()
        assert where is not None
        with open(where[0], "a", encoding="ascii") as rules:
            rules.write("hostssl all all 127.0.0.0/8 scram-sha-256\n")
        conn.execute("select pg_reload_conf()")
    reached = make_conninfo(
        server.superuser_dsn, host=address, sslmode="verify-full", sslrootcert=str(authority.file), gssencmode="disable"
    )
    yield server, reached, authority
    embedded.kill()


@pytest.mark.skipif(not DEBIANS.exists(), reason="needs Debian package: postgresql-15")
async def test_the_database_is_believed_by_its_authority_name_and_dates(tls_server: Any, tmp_path: Path) -> None:
    """As `sslmode=verify-full` of the DSN wants it, for the daemon, migrations and dumps."""
    server, reached, authority = tls_server
    await _until_believed(reached)
    database = await Database.open(reached, name="tls")
    async with database.instance() as conn:
        shown = await (await conn.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()")).fetchone()
    assert shown is not None and shown.ssl
    await database.close()
    migrate(reached)
    _dump(reached)
    refused = {
        make_conninfo(reached, sslrootcert=str(tmp_path / "other/ca.pem")): "by another authority",
        make_conninfo(reached, sslrootcert=str(tmp_path / "none.pem")): "authority cannot be read",
        make_conninfo(
            reached, host="other.example", hostaddr=dsn._parts(reached, tmp_path)["host"]
        ): "another host name",
    }
    for given, what in refused.items():
        await _refused(given, what)
    authority.certify(dsn._parts(reached, tmp_path)["host"], ended=True)
    with psycopg.connect(server.superuser_dsn) as admin:
        admin.execute("select pg_reload_conf()")
    await _until_refused(reached)
    await _refused(reached, "not valid today")


@pytest.mark.skipif(not DEBIANS.exists(), reason="needs Debian package: postgresql-15")
async def test_the_passphrase_of_a_clients_key_stands_in_no_process_list(
    tls_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq has no variable for it; words of a command can be read by every user of the machine."""
    server, reached, authority = tls_server
    await _until_believed(reached)
    migrate(reached)
    with psycopg.connect(server.superuser_dsn) as conn:
        [where] = conn.execute("select setting from pg_settings where name = 'hba_file'").fetchone() or ()
        with open(where, "w", encoding="ascii") as rules:  # noqa: ASYNC230 - a line
            rules.write("local all all scram-sha-256\nhostssl all all all scram-sha-256 clientcert=verify-ca\n")
        conn.execute("select pg_reload_conf()")
    await _until_refused(reached)
    both = authority.certify("client", file="client.pem")
    key = serialization.load_pem_private_key(both.read_bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"wren-phrase")
    (tmp_path / "key.pem").touch(mode=0o600)
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)
    )
    given = make_conninfo(reached, sslcert=str(both), sslkey=str(tmp_path / "key.pem"), sslpassword="wren-phrase")
    seen: list[tuple[Any, Any]] = []
    real = subprocess.Popen

    def noting(words: Any, **more: Any) -> Any:
        seen.append((words, more["env"]))
        return real(words, **more)

    monkeypatch.setattr("mover.catalog.dumping.subprocess.Popen", noting)
    dumper = Dumper(given, bin_dir=DEBIANS)
    with dumper.moment() as moment:
        assert b"".join(dumper.stream(moment)).startswith(b"PGDMP")
    assert len(seen) == 1 and "wren-phrase" not in str(seen)
    monkeypatch.undo()
    handed = Dumper("service=ward sslpassword=x")._running("psql", [], io.BytesIO(), reading=True)
    with pytest.raises(CatalogError, match="cannot be handed on unseen"), handed:
        raise AssertionError
    with pytest.raises(SettingsInvalid, match="passphrase on the command line"):
        check_open("host=db sslpassword=x")


async def _refused(given: str, what: str) -> None:
    with pytest.raises(CatalogUnavailable, match=f"is not believed: .*{what}") as caught:
        await Database.open(given, name="tls", timeout_s=0.1)
    assert "DSN" in caught.value.advice
    for use in (lambda: migrate(given), lambda: Dumper(given).facts()):
        with pytest.raises(CatalogUnavailable, match=what):
            use()


async def _until_believed(given: str) -> None:
    """The server has read its rules."""
    await _until(given, lambda error: error is None)


async def _until_refused(given: str) -> None:
    await _until(given, lambda error: error is not None)


async def _until(given: str, good: Callable[[Exception | None], bool]) -> None:
    deadline_s = monotonic_s() + 120
    while monotonic_s() < deadline_s:
        error: Exception | None = None
        try:
            psycopg.connect(given).close()
        except psycopg.OperationalError as refused:
            error = refused
        if good(error):
            return
        await SYSTEM.sleep(0.05)
    raise AssertionError("the server did not read its files anew")


def _dump(reached: str) -> None:
    """The wheel's programs speak no TLS: that is said, with what to name instead."""
    for bin_dir in (DEBIANS, None):
        dumper = Dumper(reached, bin_dir=bin_dir)
        with dumper.moment() as moment:
            if bin_dir is not None:
                assert b"".join(dumper.stream(moment)).startswith(b"PGDMP")
                continue
            with pytest.raises(CatalogError) as refused:
                list(dumper.stream(moment))
            assert "bin_dir" in refused.value.advice
