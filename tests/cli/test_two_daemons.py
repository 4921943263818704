"""`mover init` for two zones: from one set of answers to two daemons that run, on a real server, real folders."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from mover.catalog.logins import verifier
from mover.catalog.postgres import SUPERUSER, Embedded, EmbeddedServer
from mover.cli import handed
from mover.clock import monotonic_s, pause
from mover.settings import load
from tests.cli.conftest import Said

Mover = Callable[..., Said]
READY_S = 300.0
SHIPPED = Path(__file__).parents[2] / "systemd"
OWNERS = {"state": 4711, "state-identified": 4712}


@pytest.fixture
def tmp_path(open_place: Path) -> Path:
    """Tiers are tried as the users of the two daemons."""
    return open_place


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """The site's own server: roles belong to a whole server, so the session's would lose its passwords."""
    embedded = Embedded(tmp_path / "server")
    server = embedded.start()
    with psycopg.connect(server.superuser_dsn) as conn:
        conn.execute("alter role mover_daemon password null; alter role mover_vault password null")
    yield server
    embedded.stop()


@pytest.fixture
def answers(tmp_path: Path, server: EmbeddedServer) -> Path:
    for name in ("source", "archive", "flash", "protect", *OWNERS):
        (tmp_path / name).mkdir(mode=0o700)
    if os.geteuid() == 0:  # as tmpfiles.d makes them: each its daemon's
        for name, uid in OWNERS.items():
            os.chown(tmp_path / name, uid, uid)
        for name in ("archive", "flash", "protect"):
            os.chown(tmp_path / name, OWNERS["state"], OWNERS["state"])
        os.chown(tmp_path / "source", OWNERS["state-identified"], OWNERS["state-identified"])
    (tmp_path / "source" / "pack.svs").write_bytes(b"II")
    place = make_conninfo("", host=psycopg.conninfo.conninfo_to_dict(server.dsn(SUPERUSER))["host"], dbname="ward")
    said = {"source": "source", "bucket": "archive", "flash": "flash", "protect": "protect", "state": "state"}
    lines = [f"{name}: {tmp_path / folder}" for name, folder in said.items()]
    file = tmp_path / "answers.yaml"
    file.write_text("\n".join([*lines, f"database: {place}", "site: ward"]) + "\n")
    return file


class Pair:
    """Both daemons, handed their keys as systemd does."""

    def __init__(self, site: Path) -> None:
        self.site, self.children = site, list[subprocess.Popen[bytes]]()
        self.log = site / "journal"

    def start(self) -> None:
        for name in handed.KEYS:
            (self.site / "site/credentials" / name).symlink_to(self.site / "site/identified" / name)
        environment = os.environ | {"CREDENTIALS_DIRECTORY": str(self.site / "site" / "credentials")}
        for name, state in ("identified.yaml", "state-identified"), ("mover.yaml", "state"):
            command = [sys.executable, "-m", "mover", "daemon", "--config", str(self.site / "site" / name)]
            with open(self.log, "ab") as log:
                self.children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                      env=environment))  # fmt: skip
            deadline = monotonic_s() + READY_S
            while not (self.site / state / "urls").exists():
                assert self.children[-1].poll() is None and monotonic_s() < deadline, self.log.read_text()
                pause(0.05)

    def stop(self) -> None:
        for child in self.children:
            child.terminate()
        for child in self.children:
            child.wait(60)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_one_set_of_answers_makes_two_daemons_that_run(
    mover: Mover, answers: Path, server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, logins, rights and a database: done by hand, each of them was somebody's afternoon."""
    admin, site = server.dsn(SUPERUSER), tmp_path / "site"
    words = ("init", "--from-file", str(answers), "--config", "site", "--yes", "--admin", admin)
    planned = mover(*words, "--plan")
    assert planned.status == 0 and "the database ward would be made" in planned.out, planned.err
    assert "vault-dsn: login mover_vault of the identified daemon" in planned.out and not site.exists()
    assert [row for row in _databases(admin) if row == "ward"] == []
    with psycopg.connect(admin) as conn:
        conn.execute("alter role mover_vault password 'of another site'")
    refused = mover(*words)
    assert refused.status != 0 and "mover_vault with a password of somebody else" in refused.out + refused.err
    assert not site.exists(), "another site on this server would have lost its logins"
    with psycopg.connect(admin) as conn:
        conn.execute("alter role mover_vault password null")

    made = mover(*words, "--json")
    assert made.status == 0, made.err
    steps = [command for command, _ in json.loads(made.out)["next"]]
    assert steps[0].startswith(f"mover --config {site}/identified.yaml db migrate --admin ")
    assert "dbname=ward" in steps[0]
    assert "mover units write" in steps[:-5]  # before the doctor: keys are found by what units say
    assert steps[-3:-1] == ["systemctl enable --now mover-identified mover",
                            f"mover --config {site}/mover.yaml status"]  # fmt: skip
    _check_rights(tmp_path)
    clean, identified = load(site / "mover.yaml"), load(site / "identified.yaml")
    assert (clean.role, set(clean.tiers)) == ("clean", {"archive", "flash", "protect"})
    assert (identified.role, set(identified.tiers)) == ("identified", {"intake", "archive", "protect"})
    assert clean.database.vault_dsn == clean.database.dsn and "mover_vault" in (identified.database.vault_dsn or "")
    assert not any(tier.deletes for tier in clean.tiers.values()) and clean.database.dump_dsn is None

    before = tree(tmp_path)
    again = mover(*words)
    assert again.status == 0 and "nothing was changed" in again.out and tree(tmp_path) == before
    other = mover(*words, "--project", "second")
    assert other.status == 3 and "+project: second" in other.out and "left as it is" in other.err
    assert tree(tmp_path) == before

    monkeypatch.setattr(handed, "FOLDERS", (units(site),))
    [schema] = [one for one in doctor(mover, "mover.yaml") if one["about"] == "schema"]
    assert (schema["verdict"], schema["what"]) == ("bad", "no tables yet") and "db migrate" in schema["remedy"]
    migrated = mover("--config", "site/mover.yaml", "db", "migrate", "--admin", make_conninfo(admin, dbname="ward"))
    assert migrated.status == 0, migrated.err
    pair = Pair(tmp_path)
    try:
        pair.start()
        for name in ("mover.yaml", "identified.yaml"):
            told = mover("--config", f"site/{name}", "tier", "list", "--json")
            assert told.status == 0 and all(tier["online"] for tier in json.loads(told.out)), told.err
            shown = doctor(mover, name)
            rights = "user 471" if os.geteuid() == 0 else "nothing"  # of whom pytest's folders are hidden
            assert [one for one in shown if one["verdict"] == "bad" and rights not in one["what"]] == []
            assert {"daemon", "database", "schema", "policies"} <= {
                one["about"] for one in shown if one["verdict"] == "good"
            }
    finally:
        pair.stop()
    _check_rekey(mover, site)


def _check_rekey(mover: Mover, site: Path) -> None:
    """The clean daemon may read every file that its unit does not hide: no key stands there, not for a moment."""
    beside, identified = {path.name for path in site.iterdir()}, site / "identified"
    rekey = ("--config", "site/identified.yaml", "vault", "rekey")
    old = (identified / "vault.key").read_bytes()
    done = mover(*rekey)
    assert done.status == 0 and "names wait" in done.out, done.out + done.err
    assert "Now: systemctl restart mover-identified" in done.out
    assert {path.name for path in site.iterdir()} == beside and (identified / "vault.key").read_bytes() != old
    assert (identified / "vault.key.generation-1").read_bytes() == old
    # a site from before that folder: its units go on, and a new key is made where it is hidden
    drop_in = site / "units/mover-identified.service.d/50-tiers.conf"
    drop_in.unlink()
    for name in handed.KEYS:
        (identified / name).rename(site / name)
    assert [one for one in doctor(mover, "identified.yaml") if "vault key" in one["about"]] == []
    refused = mover(*rekey)
    assert refused.status == 3 and f"mv {site}/vault.key {site}/certificate.key {identified}/ " in refused.err
    assert not list(site.glob("vault.key.*"))
    for name in handed.KEYS:
        (site / name).rename(identified / name)
    [told] = [one for one in doctor(mover, "identified.yaml") if one["about"] == "permissions: vault key"]
    assert told["verdict"] == "bad" and told["remedy"].startswith("mover units write && ")


def doctor(mover: Mover, name: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(mover("--config", f"site/{name}", "doctor", "--json").out)["findings"]
    return found


def units(site: Path) -> Path:
    """Those of the package, for this site, with what `mover units write` adds of secrets."""
    folder = site / "units"
    for name in ("mover.service", "mover-identified.service"):
        (folder / f"{name}.d").mkdir(parents=True)
        (folder / name).write_text((SHIPPED / name).read_text("utf-8").replace("/etc/mover", str(site)))
    handed_over = f"[Service]\nLoadCredential=repository-password:{site}/credentials/repository-password\n"
    (folder / "mover.service.d" / "50-tiers.conf").write_text(handed_over)
    keys = "".join(f"LoadCredential={name}:{site}/identified/{name}\n" for name in handed.KEYS)
    (folder / "mover-identified.service.d" / "50-tiers.conf").write_text(f"[Service]\n{keys}")
    return folder


def _databases(admin: str) -> list[str]:
    with psycopg.connect(admin) as conn:
        return [name for (name,) in conn.execute("select datname from pg_database").fetchall()]


def _check_rights(root: Path) -> None:
    """Root's are what systemd hands over; a login is its daemon's; nothing is open to others."""
    clean, identified = OWNERS["state"], OWNERS["state-identified"]
    owners = {
        "site/identified/vault.key": 0, "site/identified/certificate.key": 0,
        "site/credentials/repository-password": 0, "site/dsn": clean,
        "site/identified/dsn": identified, "site/identified/vault-dsn": identified,
        "site/identified/dump-dsn": identified,
        "state/audit.key": clean, "state/admin-token": clean,
    }  # fmt: skip
    for name, uid in owners.items():
        facts = (root / name).stat()
        assert stat.S_IMODE(facts.st_mode) == 0o600, name
        assert os.geteuid() != 0 or facts.st_uid == uid, name
    assert stat.S_IMODE((root / "site/credentials").stat().st_mode) == 0o700
    apart = (root / "site/identified").stat()
    assert os.geteuid() != 0 or (apart.st_uid, stat.S_IMODE(apart.st_mode)) == (0, 0o750)
    for shared in ("archive", "protect") if os.geteuid() == 0 else ():
        mark = (root / shared / ".mover").stat()
        assert (stat.S_IMODE(mark.st_mode), mark.st_gid) == (0o2770, clean), shared


@pytest.mark.slow
def test_without_a_superuser_psql_is_told_the_same(
    mover: Mover, answers: Path, server: EmbeddedServer, tmp_path: Path
) -> None:
    """The server is often somebody else's: they get a script without a password in it."""
    told = mover("init", "--from-file", str(answers), "--config", "site", "--yes")
    script = tmp_path / "site" / "database.sql"
    assert told.status == 0 and "sudo -u postgres psql" in told.out and f"< {script}" in told.out, told.err
    settings = load(tmp_path / "site" / "identified.yaml")
    secrets = [str(psycopg.conninfo.conninfo_to_dict(dsn or "")["password"])
               for dsn in (settings.database.dsn, settings.database.vault_dsn, settings.database.dump_dsn)]  # fmt: skip
    assert len(set(secrets)) == 3 and not any(secret in script.read_text() for secret in secrets)
    psql = server.bin_dir / "psql"
    for _ in range(2):  # again changes nothing
        subprocess.run([psql, "-q", "-d", server.dsn(SUPERUSER), "-f", script], check=True, stdin=subprocess.DEVNULL)
    assert _databases(server.dsn(SUPERUSER)).count("ward") == 1
    for dsn in (settings.database.dsn, settings.database.vault_dsn, settings.database.dump_dsn):
        psycopg.connect(dsn or "").close()


def test_a_place_of_the_database_says_neither_who_nor_a_password(mover: Mover, tmp_path: Path) -> None:
    for name in ("source", "archive", "flash", "protect"):
        (tmp_path / name).mkdir()
    folders = ("--source", "source", "--bucket", "archive", "--flash", "flash", "--protect", "protect", "--state", "s")
    wrong = (("host=db user=me", "says user"), ("host=", "names no server"), ("nas", "no DSN"))
    for place, why in wrong:
        said = mover("init", *folders, "--database", place, "--yes")
        assert said.status == 1 and why in said.out and not (tmp_path / "s").exists(), said.out
    said = mover("init", *folders, "--database", "host=/nowhere", "--admin", "host=/x password=y", "--yes")
    assert said.status == 1 and "everybody's" in said.out


def test_a_verifier_is_what_postgresql_makes_of_a_password() -> None:
    """The example of RFC 7677, 3: user `user`, password `pencil`, as PostgreSQL writes it down."""
    import base64

    made = verifier("pencil", salt=base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    assert made == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
