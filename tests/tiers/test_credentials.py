"""Keys of object stores change without a restart, and never stand in an error."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import msgspec
import pytest

from mover import settings
from mover.clock import pause
from mover.demo.seaweed import Seaweed
from mover.errors import MoverError, SettingsInvalid, TierDenied, TierUnavailable
from mover.settings import Sts
from mover.tiers.credentials import (
    Credentials,
    FileSource,
    Keyring,
    StsSource,
    check_credentials,
    read_azure,
    read_google,
)
from mover.tiers.object import KEYS_HELD_S, ObjectTier
from tests.support.authority import make_authority
from tests.support.faultproxy import FaultProxy
from tests.support.seaweed import object_tier

ROLE = "arn:aws:iam::000000000000:role/mover"


def written(path: Path, text: str | bytes) -> Path:
    """Replaced whole, as a rotation does."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(text if isinstance(text, bytes) else text.encode())
    fresh.chmod(0o600)
    fresh.replace(path)
    return path


def ini(key: str) -> str:
    return f"[default]\naws_access_key_id = {key}\naws_secret_access_key = S\n"


class MovedClock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic_s(self) -> float:
        return self.at.timestamp()

    async def sleep(self, duration_s: float) -> None:
        self.at += timedelta(seconds=duration_s)


class Scripted:
    """Keys that last an hour, each call others."""

    def __init__(self, clock: MovedClock) -> None:
        self.clock, self.calls, self.away = clock, 0, False

    def load(self) -> Credentials:
        self.calls += 1
        if self.away:
            raise TierUnavailable("STS did not answer")
        return Credentials(f"K{self.calls}", "S", "T", self.clock.at + timedelta(hours=1))

    def stamp(self) -> object:
        return "one"


# --- files --------------------------------------------------------------------------------------------------


def test_a_file_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    """A rotation that needs a restart is one that somebody forgets."""
    path = written(tmp_path / "keys", ini("OLD"))
    keys = Keyring(FileSource(path))
    first = keys.current()
    assert keys.current() is first
    written(path, ini("NEW"))
    assert keys.current().access_key_id == "NEW"


def test_a_file_in_the_middle_of_being_written_changes_nothing(tmp_path: Path) -> None:
    """Some tools write in place: the old keys hold until the file can be read."""
    path = written(tmp_path / "keys", ini("OLD"))
    clock = MovedClock()
    keys = Keyring(FileSource(path), clock=clock)
    assert keys.current().access_key_id == "OLD"
    path.write_text("[defa")
    assert keys.current().access_key_id == "OLD"
    path.write_text(ini("NEW"))
    clock.at += timedelta(seconds=2)
    assert keys.current().access_key_id == "NEW"


def test_keys_are_never_shown(tmp_path: Path) -> None:
    """A repr ends in logs."""
    shown = repr(Credentials("AKIA", "hidden")) + repr(Keyring(FileSource(written(tmp_path / "k", ini("AKIA")))))
    assert "AKIA" not in shown and "hidden" not in shown


@pytest.mark.parametrize("text", ["{", "{}", '{"account_name": "a"}', '{"account_name":"a","account_key":"k","x":1}'])
def test_half_a_key_for_azure_or_google_is_an_error(tmp_path: Path, text: str) -> None:
    """Never a guess: without keys the libraries would ask the cloud's metadata address."""
    path = written(tmp_path / "keys", text)
    for scheme in ("az", "gs"):
        with pytest.raises(SettingsInvalid):
            check_credentials(scheme, path)


def test_keys_for_azure_and_google_are_read(tmp_path: Path) -> None:
    """In the forms that their own tools give."""
    azure = read_azure(written(tmp_path / "az", '{"account_name": "a", "sas_token": "sv=1"}'))
    assert (azure.account_name, azure.sas_token) == ("a", "sv=1")
    assert "private_key" in read_google(written(tmp_path / "gs", '{"client_email": "a", "private_key": "b"}')).text


def test_a_tier_goes_on_when_its_keys_are_rotated(weed: Seaweed, tmp_path: Path) -> None:
    """The old ones are refused from one moment to the next, in all three ways that requests go."""
    good = Path(weed.credentials_file).read_bytes()
    path = written(tmp_path / "keys", good)
    tier = ObjectTier(
        "archive", "deidentified", url=f"s3://tests/{tmp_path.name}", endpoint=weed.endpoint, credentials_file=path
    )
    tier.establish()
    tier.put("a", [b"abc"])
    written(path, ini("NOBODY"))
    pause(KEYS_HELD_S)  # the library asks for keys at most ten times a second
    view = memoryview(bytearray(3))
    assert tier.control is not None
    for refused in (lambda: tier.read("a"), lambda: tier.read_into("a", 0, view, ""), tier.control.keeps_versions):
        with pytest.raises(TierDenied):
            refused()
    written(path, good)
    assert tier.read("a") == b"abc" and not tier.control.keeps_versions()
    tier.read_into("a", 0, view, "")
    assert bytes(view) == b"abc"


# --- STS ----------------------------------------------------------------------------------------------------


def test_keys_that_expire_are_renewed_before_they_do() -> None:
    """An upload of an hour must not end at its last part."""
    clock = MovedClock()
    source = Scripted(clock)
    keys = Keyring(source, clock=clock)
    assert [keys.current().access_key_id for _ in range(3)] == ["K1"] * 3
    clock.at += timedelta(minutes=56)
    assert keys.current().access_key_id == "K2" and source.calls == 2


def test_while_sts_is_away_the_old_keys_serve_as_long_as_they_are_valid() -> None:
    """And then the tier is unavailable, which is tried again."""
    clock = MovedClock()
    source = Scripted(clock)
    keys = Keyring(source, clock=clock)
    keys.current()
    source.away = True
    clock.at += timedelta(minutes=56)
    assert keys.current().access_key_id == "K1"
    asked = source.calls
    assert keys.current().access_key_id == "K1" and source.calls == asked, "not asked again within a second"
    clock.at += timedelta(minutes=5)
    with pytest.raises(TierUnavailable):
        keys.current()


def test_refused_keys_are_fetched_anew_once() -> None:
    """`renew` says whether asking the store again may help."""
    clock = MovedClock()
    keys = Keyring(Scripted(clock), clock=clock)
    first = keys.current()
    assert keys.renew(first) and keys.current().access_key_id == "K2"
    assert keys.renew(first), "somebody else has renewed them meanwhile"


class _Sts(BaseHTTPRequestHandler):
    """The two calls of AWS STS that we make, in its query protocol, handing out the store's real keys."""

    keys: dict[str, str] = {}
    asked: list[dict[str, list[str]]] = []
    status = 200
    lifetime = timedelta(hours=1)

    def do_POST(self) -> None:
        asked = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        signed = self.headers.get("authorization", "")
        self.asked.append({**asked, "signed": [signed]})
        action = asked["Action"][0]
        expires = (datetime.now(UTC) + self.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
            f"<AccessKeyId>{self.keys['access_key_id']}</AccessKeyId><SecretAccessKey>{self.keys['secret_access_key']}"
            f"</SecretAccessKey><SessionToken></SessionToken><Expiration>{expires}</Expiration>"
            f"</Credentials></{action}Result></{action}Response>"
            if self.status == 200
            else "<ErrorResponse><Error><Code>AccessDenied</Code><Message>SECRET</Message></Error></ErrorResponse>"
        ).encode()
        self.send_response(self.status)
        self.send_header("content-type", "text/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def sts(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(_Sts, "keys", msgspec.json.decode(Path(weed.credentials_file).read_bytes()))
    monkeypatch.setattr(_Sts, "asked", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Sts)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def sts_source(one: Sts) -> StsSource:
    return StsSource(one, region="us-east-1", ca_file=None, proxy=None, tier="archive")


@pytest.mark.slow
def test_a_tier_lives_by_keys_of_sts(weed: Seaweed, sts: str, tmp_path: Path) -> None:
    """AssumeRoleWithWebIdentity: the platform's token stands in a file, and nothing else is secret here."""
    token = written(tmp_path / "token", "eyJ.web.identity\n")
    one = Sts(role=ROLE, token_file=token, file=None, endpoint=sts, duration_s=3600)
    tier = ObjectTier(
        "archive", "deidentified", url=f"s3://tests/{tmp_path.name}", endpoint=weed.endpoint, sts=one
    )
    tier.establish()
    tier.put("a", [b"abc"])
    assert tier.read("a") == b"abc" and len(_Sts.asked) == 1
    asked = _Sts.asked[0]
    assert (asked["Action"], asked["WebIdentityToken"]) == (["AssumeRoleWithWebIdentity"], ["eyJ.web.identity"])
    assert asked["signed"] == [""]
    written(token, "eyJ.next\n")
    assert tier.read("a") == b"abc" and _Sts.asked[-1]["WebIdentityToken"] == ["eyJ.next"]


def test_a_role_is_assumed_with_long_lived_keys(sts: str, tmp_path: Path) -> None:
    """AssumeRole is signed with the keys of the file."""
    one = Sts(role=ROLE, token_file=None, file=written(tmp_path / "k", ini("LONG")), endpoint=sts, duration_s=900)
    found = sts_source(one).load()
    assert found.access_key_id == _Sts.keys["access_key_id"] and found.expires_at is not None
    assert "Credential=LONG/" in _Sts.asked[0]["signed"][0] and _Sts.asked[0]["DurationSeconds"] == ["900"]


def test_a_refusal_of_sts_says_so_without_its_words(
    sts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STS quotes principals and tokens."""
    monkeypatch.setattr(_Sts, "status", 403)
    one = Sts(role=ROLE, token_file=written(tmp_path / "t", "token"), file=None, endpoint=sts, duration_s=900)
    with pytest.raises(TierDenied) as caught:
        sts_source(one).load()
    assert "SECRET" not in f"{caught.value}{caught.value.__cause__}"
    away = msgspec.structs.replace(one, endpoint="http://127.0.0.1:9")
    with pytest.raises(TierUnavailable):
        sts_source(away).load()
    with pytest.raises(SettingsInvalid):
        sts_source(msgspec.structs.replace(one, token_file=tmp_path / "missing")).load()


# --- settings -----------------------------------------------------------------------------------------------

TIERS = """
version: 1
site: ward
project: demo
tiers:
  archive:
    kind: object
    zone: deidentified
    role: archive
    url: s3://bucket/prefix
    endpoint: https://store.example.org
    %s
"""


def load(folder: Path, lines: str, **environment: str) -> settings.Tier:
    file = folder / "mover.yaml"
    file.write_text(TIERS % lines.replace("\n", "\n    "))
    return settings.load(file, environment=settings.read_environment(environment)).tiers["archive"]


def test_settings_name_one_source_of_keys(tmp_path: Path) -> None:
    """A file, a systemd credential, or STS; with `credentials_file` as the short form."""
    assert load(tmp_path, "credentials_file: keys").credentials_file == tmp_path / "keys"
    assert load(tmp_path, "credentials: {file: keys}").credentials_file == tmp_path / "keys"
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "archive-keys").write_text("x")
    found = load(tmp_path, "credentials: {systemd: archive-keys}", CREDENTIALS_DIRECTORY=str(tmp_path / "given"))
    assert found.credentials_file == tmp_path / "given" / "archive-keys"
    assert load(tmp_path, "credentials: {systemd: archive-keys}").credentials_file == tmp_path / "state/archive-keys"
    sts = load(tmp_path, f"credentials: {{sts: {{role: '{ROLE}', token_file: token}}}}").sts
    assert sts is not None and sts.token_file == tmp_path / "token" and sts.duration_s == 3600
    more = load(tmp_path, "credentials_file: k\naddressing: virtual\nca_file: ca.pem\nproxy: proxy:3128")
    assert (more.addressing, more.ca_file, more.proxy) == ("virtual", tmp_path / "ca.pem", "proxy:3128")


@pytest.mark.parametrize(
    "lines",
    [
        "region: x",
        "credentials: {}",
        "credentials: {file: a, systemd: b}",
        "credentials: {file: a}\ncredentials_file: b",
        f"credentials: {{sts: {{role: '{ROLE}'}}}}",
        f"credentials: {{sts: {{role: '{ROLE}', token_file: a, file: b}}}}",
        "credentials: {sts: {role: admin, token_file: a}}",
        "credentials: {systemd: ../../etc/shadow}",
        "credentials_file: a\nproxy: http://proxy",
        "credentials_file: a\naddressing: guess",
    ],
)
def test_half_a_configuration_is_refused(tmp_path: Path, lines: str) -> None:
    """Never a guess."""
    with pytest.raises(SettingsInvalid):
        load(tmp_path, lines)


# --- authorities and addresses ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_store_under_the_hospitals_own_authority_is_trusted_with_its_certificate_only(
    weed: Seaweed, tmp_path: Path
) -> None:
    """All three clients check it: the library for small objects, the private loop, and our own sockets."""
    authority, certificate = make_authority(tmp_path)
    with FaultProxy(weed.endpoint, certificate=certificate) as proxy:
        assert proxy.endpoint.startswith("https:")
        tier = object_tier(weed, endpoint=proxy.endpoint, ca_file=authority)
        data = os.urandom(9 << 20)
        tier.put("large", [data], size_bytes=len(data))
        view = memoryview(bytearray(len(data)))
        tier.read_into("large", 0, view, "")
        assert view == data and tier.traits.multipart
        strange = ObjectTier(
            "archive", "deidentified", url=f"s3://tests/{tier.where.prefix}", endpoint=proxy.endpoint,
            credentials_file=weed.credentials_file,
        )  # fmt: skip
        assert strange.control is not None
        for refused in (lambda: strange.read("large"), lambda: strange.read_into("large", 0, view, "")):
            with pytest.raises(TierUnavailable):
                refused()
        with pytest.raises(TierUnavailable):
            strange.control.keeps_versions()


def test_addresses_are_judged_before_the_first_request(tmp_path: Path) -> None:
    """What cannot work, or not safely, is said at once."""
    keys = written(tmp_path / "keys", ini("K"))
    rubbish = written(tmp_path / "ca.pem", "no certificate")

    def make(url: str = "s3://b/p", **more: object) -> ObjectTier:
        return ObjectTier("a", "deidentified", url=url, credentials_file=keys, **more)  # type: ignore[arg-type]

    for wrong in (
        {"ca_file": rubbish},
        {"ca_file": tmp_path / "missing"},
        {"endpoint": "https://10.0.0.1", "addressing": "virtual"},
        {"endpoint": "http://store.example.org"},
    ):
        with pytest.raises(MoverError):
            make(**wrong)
    assert make(endpoint="https://s.example.org").where.bucket_url == "https://s.example.org/b"
    virtual = make(endpoint="https://s.example.org:8443", addressing="virtual")
    assert virtual.where.bucket_url == "https://b.s.example.org:8443"
    assert make(region="eu-west-1").where.bucket_url == "https://s3.eu-west-1.amazonaws.com/b"
    assert make().where.path_of("ä b/c+d") == "/p/%C3%A4%20b/c%2Bd"
