"""Settings: read once, whole or not at all; nothing beyond this machine without TLS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mover import settings
from mover.errors import SettingsInvalid
from mover.settings import Environment, read_environment

LEAST = "version: 1\nsite: ward\nproject: demo\n"
FULL = """version: 1
site: ward
project: demo
node: node-a
role: both
state_dir: var
listen: {tcp: "0.0.0.0:8620", tls: {certificate: c.pem, key: k.pem}}
tiers:
  intake: {kind: posix, zone: identified, role: source, path: /data/intake, read_only: true}
  archive:
    kind: object
    zone: deidentified
    role: archive
    url: s3://slides
    endpoint: http://127.0.0.1:8333
    credentials_file: s3.json
  flash: {kind: posix, zone: deidentified, role: flash, path: flash, seen_as: /mnt/flash, capacity_bytes: 1000}
vault_key: secrets/vault.key
workers: {shards: 8}
"""


def load(folder: Path, text: str, **variables: str) -> settings.Settings:
    path = folder / "mover.yaml"
    path.write_text(text)
    return settings.load(path, environment=read_environment(variables))


def refused(folder: Path, text: str) -> list[tuple[str, str]]:
    with pytest.raises(SettingsInvalid) as caught:
        load(folder, text)
    return [(str(one["where"]).rpartition("/")[2], str(one["what"])) for one in caught.value.details]


def test_three_lines_are_enough(tmp_path: Path) -> None:
    """Everything else has a default that is safe: embedded database, Unix socket, shipped policies."""
    found = load(tmp_path, LEAST)
    assert found.database.embedded and found.database.dsn is None
    assert found.listen.unix == tmp_path / "state/mover.sock" and found.listen.host is None
    assert found.vault_key == tmp_path / "state/vault.key"
    assert (found.policies / "images.yaml").exists() and found.node


def test_every_value_arrives_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    found = load(tmp_path, FULL)
    assert (found.listen.host, found.listen.port, found.listen.unix) == ("0.0.0.0", 8620, None)
    assert found.tiers["flash"].path == tmp_path / "flash" and found.tiers["flash"].seen_as == "/mnt/flash"
    assert found.tiers["archive"].credentials_file == tmp_path / "s3.json"
    assert found.tiers["intake"].path == Path("/data/intake") and found.tiers["intake"].read_only
    assert [tier.name for tier in found.tiers_of(role="archive")] == ["archive"]
    assert found.vault_key == tmp_path / "secrets/vault.key" and found.workers.shards == 8


@pytest.mark.parametrize("address", ["0.0.0.0:80", "192.168.1.2:80", "[::]:80", "node-a:80"])
def test_beyond_loopback_tls_is_required(tmp_path: Path, address: str) -> None:
    """A token on the wire in clear is a token given away."""
    assert refused(tmp_path, LEAST + f'listen: {{tcp: "{address}"}}\n') == [
        ("mover.yaml:4:15", "beyond loopback TLS is required: give `tls: {certificate, key}`")
    ]


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1:0", "127.0.0.1"), ("[::1]:80", "::1"), ("localhost:80", "localhost")]
)
def test_loopback_needs_no_tls(tmp_path: Path, address: str, host: str) -> None:
    assert load(tmp_path, LEAST + f'listen: {{tcp: "{address}"}}\n').listen.host == host


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("listen: {tcp: here}\n", "mover.yaml:4:15", "HOST:PORT"),
        ("listen: {tcp: 127.0.0.1:99999}\n", "mover.yaml:4:15", "HOST:PORT"),
        ("listen: {tcp: '::1:80'}\n", "mover.yaml:4:15", "HOST:PORT"),
        ("listen: {tls: {certificate: a, key: b}}\n", "mover.yaml:4:15", "no `tcp`"),
        ("listen: {tcp: 127.0.0.1:1, tls: {certificate: a}}\n", "mover.yaml:4:33", "`key` is missing"),
        ("database: {embedded: false}\n", "mover.yaml:4:11", "both"),
        ("database: {embedded: false, dsn_file: a}\n", "mover.yaml:4:11", "both"),
        ("database: {dsn_file: a, vault_dsn_file: b}\n", "mover.yaml:4:11", "not both"),
        ("tiers: {a1: {kind: posix, zone: identified, role: source}}\n", "mover.yaml:4:13", "has a `path`"),
        (
            "tiers: {a1: {kind: posix, zone: identified, role: flash, path: p}}\n",
            "mover.yaml:4:33",
            "only a source may be identified",
        ),
        (
            "tiers: {a1: {kind: object, zone: deidentified, role: archive, url: u}}\n",
            "mover.yaml:4:13",
            "`credentials_file`",
        ),
        (
            "tiers: {a1: {kind: posix, zone: deidentified, role: flash, path: p, read_only: true}}\n",
            "mover.yaml:4:80",
            "written to",
        ),
        ("tiers: {UPPER: {}}\n", "mover.yaml:4:9", "regex"),
        ("wrokers: {shards: 2}\n", "mover.yaml:4:1", "did you mean `workers`?"),
        ("workers: {shards: 0}\n", "mover.yaml:4:19", ">= 1"),
    ],
)
def test_half_a_configuration_is_refused_where_it_stands(tmp_path: Path, text: str, where: str, what: str) -> None:
    """Never a guess: what is half said is said to be half, with its place."""
    found = refused(tmp_path, LEAST + text)
    assert found[0][0] == where and what in found[0][1], found


def test_a_clean_daemon_is_given_no_identified_tier(tmp_path: Path) -> None:
    """Two processes for two zones: the clean one cannot read intake even by mistake (D20)."""
    assert "identified" in refused(tmp_path, FULL.replace("role: both", "role: clean"))[0][1]


def test_an_unknown_version_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, LEAST.replace("version: 1", "version: 2"))[0][0] == "mover.yaml:1:10"


def test_dsns_come_from_private_files(tmp_path: Path) -> None:
    """A DSN holds a password: it stands neither in the settings nor in a file that others can read."""
    text = LEAST + "database: {embedded: false, dsn_file: dsn, vault_dsn_file: vault-dsn}\n"
    for name in ("dsn", "vault-dsn"):
        (tmp_path / name).write_text(f"host={name}\n")
        (tmp_path / name).chmod(0o600)
    assert load(tmp_path, text).database.vault_dsn == "host=vault-dsn"
    (tmp_path / "dsn").chmod(0o644)
    with pytest.raises(SettingsInvalid, match="read by others"):
        load(tmp_path, text)
    (tmp_path / "dsn").unlink()
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load(tmp_path, text)


def test_systemds_credentials_come_first(tmp_path: Path) -> None:
    """`LoadCredential=` gives a 0400 file that exists only for the service."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("vault.key", "certificate.key"):
        (credentials / name).write_bytes(b"k")
    found = load(tmp_path, FULL, CREDENTIALS_DIRECTORY=str(credentials))
    assert found.vault_key == credentials / "vault.key"
    assert found.certificate_key == credentials / "certificate.key"
    assert found.repository_password_file == tmp_path / "var/repository-password"


def test_keys_of_before_are_written_as_they_are_shown(tmp_path: Path) -> None:
    """What is mistyped would be believed by nobody, and be missed only after a restore."""
    shown = " ".join(["0a1b"] * 10)
    for said in (shown, shown.replace(" ", "")):
        assert load(tmp_path, f"{LEAST}audit_keys_before: ['{said}']\n").audit_keys_before == (said,)
    with pytest.raises(SettingsInvalid):
        load(tmp_path, f"{LEAST}audit_keys_before: ['{shown[:-1]}']\n")


def test_a_socket_path_that_is_too_long_is_met_by_a_hint(tmp_path: Path) -> None:
    """Socket names end at 107 bytes; the kernel's own message says nothing of that."""
    with pytest.raises(SettingsInvalid, match="107"):
        load(tmp_path, LEAST + f"state_dir: {'x' * 120}\n")
    assert load(tmp_path, LEAST + f"state_dir: {'x' * 120}\nlisten: {{tcp: 127.0.0.1:1}}\n").listen.unix is None


OIDC = """access:
  public_url: https://mover.example
  proxies: [10.0.0.1]
  session_s: 3600
  oidc:
    issuer: https://login.example/realms/main
    client_id: mover
    client_secret_file: secrets/oidc
    roles: [{claim: groups, value: staff, project: demo, role: viewer}]
"""


def test_an_identity_provider_gives_the_roles_that_the_settings_say(tmp_path: Path) -> None:
    people = load(tmp_path, LEAST + OIDC).access
    assert (people.public_url, people.session_s, people.idle_s) == ("https://mover.example", 3600, 1800)
    assert people.proxies == {"10.0.0.1"} and people.oidc is not None
    assert people.oidc.client_secret_file == tmp_path / "secrets/oidc"
    assert [(rule.value, rule.role) for rule in people.oidc.roles] == [("staff", "viewer")]
    assert load(tmp_path, LEAST).access.oidc is None


@pytest.mark.parametrize(("before", "after", "what"), [
    ("  public_url: https://mover.example\n", "", "needs `public_url`"),
    ("https://mover.example", "http://mover.example", "it is https"),
    ("https://mover.example", "https://mover.example/ui", "regex"),
    ("issuer: https:", "issuer: http:", "it is https"),
    ("role: viewer", "role: scheduler", "enum"),
    ("    client_id: mover\n", "", "`client_id` is missing"),
])  # fmt: skip
def test_half_an_identity_provider_is_refused(tmp_path: Path, before: str, after: str, what: str) -> None:
    assert before in OIDC
    assert what in refused(tmp_path, LEAST + OIDC.replace(before, after))[0][1]


def test_the_environment_says_only_what_surrounds_us() -> None:
    found = read_environment({"JOURNAL_STREAM": "8:1", "WATCHDOG_USEC": "30000000", "NOTIFY_SOCKET": "@x"})
    assert found == Environment(
        config=Path("mover.yaml"), credentials_dir=None, journal=True, notify_socket="@x", watchdog_s=30.0,
        runtime_dir=None, token_file=None, url=None,
    )  # fmt: skip


def test_settings_are_found_in_one_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said, the environment, this folder, this host: root on a server means that server."""
    host = tmp_path / "etc"
    host.mkdir()
    monkeypatch.setattr(settings, "HOST_CONFIG", host / "mover.yaml")
    monkeypatch.setattr(settings, "HOST_IDENTIFIED", host / "identified.yaml")
    monkeypatch.chdir(tmp_path)

    def found() -> Path:
        return read_environment({}).config

    seen = [found()]
    for file in (host / "identified.yaml", host / "mover.yaml", tmp_path / "mover.yaml"):
        file.touch()
        seen.append(found())
    assert seen == [Path("mover.yaml"), host / "identified.yaml", host / "mover.yaml", Path("mover.yaml")]
    assert read_environment({"MOVER_CONFIG": "/elsewhere.yaml"}).config == Path("/elsewhere.yaml")

    if os.geteuid() == 0:
        for path, mode in (tmp_path / "mover.yaml", 0o666), (tmp_path, 0o777):
            before = path.stat().st_mode
            path.chmod(mode)
            assert found() == host / "mover.yaml", "settings name programs, and root would run those of somebody else"
            path.chmod(before)
        os.chown(tmp_path / "mover.yaml", 1, 1)
        assert found() == host / "mover.yaml"
