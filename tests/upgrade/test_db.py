"""`mover db` as an administrator types it: status, backup, restore; the embedded database carried to a server."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from mover.catalog import backups, carrying, leaving, majors
from mover.catalog import migrate as migrations
from mover.catalog.dumping import Dumper
from mover.catalog.migrate import Migration, check_schema, migrate, read_migrations, schema_state
from mover.catalog.postgres import LEFT, SUPERUSER, Embedded, EmbeddedServer
from mover.cli import command
from mover.cli.db import LACKING
from mover.errors import CatalogError, Conflict, MoverError, SchemaMismatch, SettingsInvalid
from mover.settings import load
from tests.support.facts import NUMBER, insert, whole_project
from tests.support.postgres import TIERS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dumping")]

DEBIANS = Path("/usr/lib/postgresql/15/bin")
SETTINGS = """\
# the ward's own
version: 1
site: ward
project: demo
database:
  embedded: true  # for a start
  start_timeout_s: 60

# who may come
listen: {tcp: "127.0.0.1:0"}
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stopped site with one row of everything and a job that waits; and more rows than one range."""
    folder = tmp_path_factory.mktemp("site")
    fill(folder, None)
    yield folder
    Embedded(folder / "state").kill()


def fill(folder: Path, bin_dir: Path | None) -> None:
    embedded = Embedded(folder / "state", bin_dir=bin_dir)
    server = embedded.start()
    try:
        migrate(server.superuser_dsn)
        with psycopg.connect(server.superuser_dsn) as conn:
            conn.execute("insert into mover.project (id) values ('demo')")
            for name, kind, zone, role in TIERS:
                insert(conn, "tier", name=name, kind=kind, zone=zone, role=role, identity="test", traits="{}")
            whole_project(conn, "demo", mark="a", number=NUMBER)
            conn.execute("set local search_path = queue")
            conn.execute("insert into queue.procrastinate_jobs (queue_name, task_name) values ('tier:intake', 'shard')")
            conn.execute(
                "insert into mover.artifact (project_id, snapshot_id, path, size_bytes, digest)"
                " select 'demo', 'snapshot-a', 'a' || n, 1, %s from generate_series(1, 12000) n",
                ["ab" * 32],
            )
    finally:
        embedded.stop()
    (folder / "mover.yaml").write_text(SETTINGS)


@pytest.fixture
def site(filled: Path, tmp_path: Path) -> Iterator[Path]:
    """A site of one's own, of the same rows."""
    os.system(f"cp -a {filled}/. {tmp_path}/site")
    yield tmp_path / "site"
    Embedded(tmp_path / "site/state").kill()


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A real server beside: Debian's PostgreSQL 15 where it is installed, else one more of ours."""
    embedded = Embedded(tmp_path / "elsewhere", bin_dir=DEBIANS if DEBIANS.exists() else None)
    server = embedded.start()
    forget_logins(server.superuser_dsn)
    yield server
    embedded.kill()


def forget_logins(admin: str) -> None:
    """A server of ours has Mover's logins already; a site's own has not."""
    with psycopg.connect(admin) as conn:
        conn.execute("alter role mover_daemon password null; alter role mover_vault password null")


def said(site: Path, *words: str) -> Any:
    done = CliRunner().invoke(command, ["--config", str(site / "mover.yaml"), "db", *words, "--json"])
    if isinstance(done.exception, MoverError):
        raise done.exception
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return json.loads(done.stdout[done.stdout.index("{") :])


def test_an_administrator_looks_backs_up_and_goes_back(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command as it is typed, on a site whose daemon is stopped; beside one that runs, only what harms nobody."""
    embedded = Embedded(site / "state")
    dsn = embedded.start().superuser_dsn
    before = said(site, "status")
    assert before["missing"] == [] and before["newest"] == read_migrations()[-1].file and before["backups"] == []
    typed = ["--config", str(site / "mover.yaml"), "db", "status"]
    with monkeypatch.context() as patch:
        later = [*read_migrations(), Migration("9999_later.sql", "")]
        patch.setattr(migrations, "read_migrations", lambda: later)
        lacking = CliRunner().invoke(command, typed, standalone_mode=False)
    assert lacking.return_value == LACKING and "lacks 1 migrations" in lacking.output
    assert CliRunner().invoke(command, typed, standalone_mode=False).return_value == 0
    made = said(site, "backup")
    assert made["rows"] > 12_000 and [one["backup"] for one in said(site, "status")["backups"]] == [made["backup"]]
    assert said(site, "migrate", "--plan") == {"missing": [], "backup": False}

    with open(site / "state/daemon.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for words in (("restore", made["backup"]), ("move", "host=/nowhere dbname=mover"), ("migrate",)):
            with pytest.raises(Conflict, match="another daemon runs"):
                said(site, *words)

    with psycopg.connect(dsn) as conn:
        conn.execute("delete from mover.artifact")
    with pytest.raises(Conflict, match="another process uses"):
        said(site, "restore", made["backup"])
    embedded.stop()
    aside = said(site, "restore", made["backup"])["put_aside"]
    assert said(site, "status")["put_aside"] == [aside]
    assert said(site, "forget", "--plan")["dropped"] == [aside] == said(site, "forget")["dropped"]
    dsn = embedded.start().superuser_dsn
    assert Dumper(dsn).facts()["mover.artifact"].rows == 12_001 and said(site, "status")["put_aside"] == []
    embedded.stop()


def test_the_embedded_database_moves_to_a_server_and_every_row_is_compared(
    site: Path, elsewhere: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended at each step and called again: nothing is lost, nothing half, and the old one is not opened once more."""
    admin = elsewhere.dsn(SUPERUSER)
    for dsn, refusal in (("postgresql://postgres:secret@db/mover", "everybody's"), ("host='", "no DSN")):
        with pytest.raises(SettingsInvalid, match=refusal):
            said(site, "move", dsn)
    (site / "mover.yaml").write_text(SETTINGS.replace("database:", '"database":'))
    with pytest.raises(SettingsInvalid, match="cannot be replaced"):
        said(site, "move", admin)
    (site / "mover.yaml").write_text(SETTINGS)
    with psycopg.connect(admin) as conn:
        conn.execute("alter role mover_vault password 'of another site'")
    with pytest.raises(Conflict, match="mover_vault with a password of somebody else"):
        said(site, "move", admin)
    forget_logins(admin)
    planned = said(site, "move", admin, "--plan")
    assert planned["bytes"] > 0 and not (site / "state/database").exists()

    embedded = Embedded(site / "state")
    own = embedded.start().superuser_dsn
    with pytest.raises(Conflict, match="another process uses"):
        said(site, "move", admin)
    whole = Dumper(own).facts()
    embedded.stop()

    def ended(*_: object, **__: object) -> None:
        raise InterruptedError

    for room, step in ((carrying, "compare"), (leaving, "rewrite"), (Embedded, "leave")):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(room, step, ended)
            said(site, "move", admin)
        if step != "leave":
            assert load(site / "mover.yaml").database.embedded and (site / "mover.yaml").read_text() == SETTINGS
        else:  # the settings count already: what is missing is only the note that keeps the old one closed
            assert not load(site / "mover.yaml").database.embedded
            said(site, "move", admin)
            assert (site / "state/postgres" / LEFT).exists(), "it could take rows that nobody would see again"
            (site / "state/postgres" / LEFT).unlink()
            (site / "mover.yaml").write_text(SETTINGS)
        if step == "compare":
            with psycopg.connect(admin) as conn:
                conn.execute("update mover.artifact set size_bytes = 2 where path = 'a11000'")
            with pytest.raises(CatalogError, match="not what was sent") as refused:
                said(site, "move", admin)
            assert refused.value.details[0]["where"].startswith("mover.artifact, rows ")
            own = embedded.start().superuser_dsn
            with psycopg.connect(admin) as conn:
                conn.execute("update mover.artifact set size_bytes = 1 where path = 'a11000'")
                conn.execute("alter table mover.slide_tag no force row level security")
            with pytest.raises(CatalogError) as refused:
                carrying.carry(own, admin, bin_dir=None, say=print)
            assert {one["where"] for one in refused.value.details} == {
                f"relation mover.slide_tag r mover_owner rls t {forced}" for forced in "ft"
            }
            with psycopg.connect(admin) as conn:
                conn.execute("alter table mover.slide_tag force row level security")
            embedded.stop()

    done = said(site, "move", admin)
    assert done["rows"] > 12_000 and Path(done["settings_before"]).read_text() == SETTINGS
    settings = load(site / "mover.yaml")
    assert settings.database.start_timeout_s == 60, "what else was said of the database was dropped"
    assert "# the ward's own" in settings.file.read_text() and "# who may come" in settings.file.read_text()
    given = settings.database
    assert given.dsn and given.vault_dsn and given.dump_dsn and not given.embedded
    assert check_schema(given.dsn).missing == () and Dumper(given.dump_dsn).facts() == whole
    for dsn, role, vault in (given.vault_dsn, "mover_vault", True), (given.dsn, "mover_daemon", False):
        with psycopg.connect(dsn) as conn:
            row = conn.execute("select current_user, has_schema_privilege('vault', 'usage')").fetchone()
        assert row == (role, vault)
    assert {path.stat().st_mode & 0o777 for path in (site / "state/database").iterdir()} == {0o600}
    with pytest.raises(Conflict, match="was left"):
        embedded.start()
    assert (site / "state/postgres" / LEFT).exists()

    assert said(site, "status")["embedded"] is False
    made = said(site, "backup")["backup"]
    assert made in [one.name for one in backups.listed(site / "state/backups")]
    with pytest.raises(SettingsInvalid, match="may not migrate"):
        said(site, "migrate")
    assert said(site, "migrate", "--admin", admin) == {"applied": [], "backup": None}
    with pytest.raises(SettingsInvalid, match="server's already"):
        said(site, "move", admin)


@pytest.mark.skipif(not DEBIANS.exists(), reason="needs Debian package: postgresql-15")
def test_the_embedded_database_goes_into_a_newer_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 15, ended at each step and called again: one of the two clusters always stands whole at its place."""
    fill(tmp_path, DEBIANS)
    data, aside = tmp_path / "state/postgres/data", tmp_path / "state/postgres/data-15"
    with pytest.raises(SchemaMismatch) as refused:
        said(tmp_path, "status")
    assert "mover db upgrade" in refused.value.advice
    assert said(tmp_path, "upgrade", "--plan")["from"] == "15" == (data / "PG_VERSION").read_text().strip()
    with pytest.raises(CatalogError, match="binaries of PostgreSQL 15 were not found"):
        said(tmp_path, "upgrade", "--from", str(tmp_path))
    older = Embedded(tmp_path / "state", bin_dir=DEBIANS)
    whole = Dumper(older.start().superuser_dsn).facts()
    older.stop()

    def ended(*_: object, **__: object) -> None:
        raise InterruptedError

    for room, step, stands in ((majors, "carry", "15"), (Embedded, "exchange_data", "15"), (majors, "_name_old", "18")):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(room, step, ended)
            said(tmp_path, "upgrade")
        assert (data / "PG_VERSION").read_text().strip() == stands and not aside.exists()
    assert said(tmp_path, "upgrade")["put_aside"] == str(aside)
    assert not (tmp_path / "state" / majors.SIDE).exists()

    newer = Embedded(tmp_path / "state")
    dsn = newer.start().superuser_dsn
    assert Dumper(dsn).facts() == whole and migrate(dsn) == []
    assert schema_state(newer.start().daemon_dsn).missing == (), "the daemon's password is the one it had"
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select count(*) from queue.procrastinate_jobs").fetchone() == (1,)
    assert said(tmp_path, "forget", "--plan")["dropped"] == [str(aside)] == said(tmp_path, "forget")["dropped"]
    assert not aside.exists()
    newer.stop()
