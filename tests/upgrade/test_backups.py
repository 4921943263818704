"""Before a migration stands a backup; the version before goes on; a migration takes nothing away that it uses."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import msgspec
import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import DiskFull

from mover.catalog import backups
from mover.catalog import migrate as module
from mover.catalog.dumping import Dumper, differing
from mover.catalog.migrate import (
    Migration,
    check_schema,
    landing_of,
    migrate,
    own_landing,
    read_migrations,
    schema_state,
)
from mover.catalog.postgres import SUPERUSER, EmbeddedServer
from mover.catalog.room import ended_for_room, fullness_told
from mover.errors import (
    CatalogError,
    CatalogRefused,
    CatalogUnavailable,
    MigrationFailed,
    MoverError,
    NoRoom,
    NotFound,
    SchemaMismatch,
)
from tests.support.facts import NUMBER, whole_project
from tests.support.postgres import Dsns, add_tiers, fresh_database

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dumping")]

LANDED = (module.MIGRATIONS / "landed.txt").read_text("utf-8").split()


@pytest.fixture
def landed(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dsns]:
    """A database as the newest landed state left it."""
    every = read_migrations()
    with fresh_database(server, template="template1") as made:
        with monkeypatch.context() as patch:
            patch.setattr(module, "read_migrations", lambda: [one for one in every if one.file <= LANDED[-1]])
            migrate(made.superuser)
        yield made


def next_version(patch: pytest.MonkeyPatch, text: str) -> str:
    every = read_migrations()
    name = f"{len(every) + 1:04}_later.sql"
    patch.setattr(module, "read_migrations", lambda: [*every, Migration(name, text)])
    return name


def test_a_migration_that_fails_leaves_a_way_back_that_is_walked(
    server: EmbeddedServer, dsns: Dsns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the backup to the refusal, to what an administrator types, to the rows that stood there."""
    add_tiers(dsns)
    with psycopg.connect(dsns.superuser) as conn:
        whole_project(conn, "demo", mark="a", number=NUMBER)
    whole = Dumper(dsns.superuser).facts()
    go = {"folder": tmp_path, "dump_dsn": dsns.superuser, "bin_dir": server.bin_dir}
    assert backups.migrate_after_backup(dsns.superuser, **go) == [] and backups.listed(tmp_path) == []

    with monkeypatch.context() as patch:
        name = next_version(patch, "delete from mover.slide_view; select 1 / 0;")
        with pytest.raises(MigrationFailed) as failed:
            backups.migrate_after_backup(dsns.superuser, **go)
        [made] = backups.listed(tmp_path)
        assert failed.value.where == name and made.name in failed.value.advice
        assert made.tables == whole == Dumper(dsns.superuser).facts(), "a failed migration left something of itself"
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}

        next_version(patch, "delete from mover.slide_view; do $$ begin raise disk_full; end $$;")
        with pytest.raises(NoRoom, match="nothing of it stands"):
            migrate(dsns.superuser)
        next_version(patch, "delete from mover.slide_view;")
        assert backups.migrate_after_backup(dsns.superuser, **go) == [name]
        assert differing(whole, Dumper(dsns.superuser).facts()) == ["mover.slide_view", "mover_meta.migration"]
        with psycopg.connect(dsns.superuser) as conn:
            assert conn.execute("select landing, backup from mover_meta.migration where file = %s", [name]).fetchone() \
                == (own_landing(), backups.listed(tmp_path)[0].name)  # fmt: skip

    aside = backups.go_back(dsns.superuser, tmp_path, made.name, bin_dir=server.bin_dir)
    assert Dumper(dsns.superuser).facts() == whole and migrate(dsns.superuser) == []
    with psycopg.connect(make_conninfo(dsns.superuser, dbname=aside)) as conn:
        assert conn.execute("select count(*) from mover.slide_view").fetchone() == (0,), "what stood there was kept"

    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("delete from mover.slide_view")
    again = backups.go_back(dsns.superuser, tmp_path, made.name, bin_dir=server.bin_dir)
    assert sorted([aside, again]) == backups.standing_aside(dsns.superuser), "typed twice, the first way back was lost"
    assert backups.drop_aside(dsns.superuser) == sorted([aside, again])
    assert backups.standing_aside(dsns.superuser) == []


def test_a_backup_counts_only_when_it_was_read_again_and_is_looked_at_before_it_is_trusted(
    server: EmbeddedServer, dsns: Dsns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_halves() -> None:
        (tmp_path / "killed.zst.new").write_bytes(b"half")
        (tmp_path / "killed.zst").write_bytes(b"no sidecar came")

    leave_halves()
    with monkeypatch.context() as patch:
        patch.setattr(backups.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))
        with pytest.raises(NoRoom, match="MiB are free"):
            backups.make(dsns.superuser, tmp_path)
    assert list(tmp_path.iterdir()) == [], "what a kill left counted as room that is used, at every start anew"

    def full(*_: object) -> Iterator[bytes]:
        yield b"PGDMP"
        raise OSError(errno.ENOSPC, "no space left on device")

    for stream, refusal in (lambda *_: iter([b"PGDMP and no more"]), "pg_restore ended"), (full, "the disk ran full"):
        leave_halves()
        with monkeypatch.context() as patch:
            patch.setattr(Dumper, "stream", stream)
            with pytest.raises(CatalogError, match=refusal):
                backups.make(dsns.superuser, tmp_path)
        assert list(tmp_path.iterdir()) == [], "half a dump holds the room that PostgreSQL beside it needs"
    made = [backups.make(dsns.superuser, tmp_path, kept=1) for _ in range(2)][-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [made.name, f"{made.name}.json"]

    for ended, refusal in (
        (DiskFull(), NoRoom), (psycopg.OperationalError(), CatalogUnavailable), (OSError(errno.EIO, "I/O"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(Dumper, "restore", Mock(side_effect=ended))
            with pytest.raises(refusal, match="nothing was changed" if issubclass(refusal, MoverError) else None):
                backups.go_back(dsns.superuser, tmp_path, made.name, bin_dir=server.bin_dir)
    with psycopg.connect(dsns.superuser, autocommit=True) as conn:
        query = "select from pg_database where datname = %s"
        assert conn.execute(query, [f"{dsns.database}_restored"]).fetchall() == []
        conn.execute(f"create database {dsns.database}_restored")
    assert backups.standing_aside(dsns.daemon) == [], "a name alone makes nobody's database ours"
    left = [f"{dsns.database}_restored"]
    assert backups.standing_aside(dsns.superuser) == left == backups.drop_aside(dsns.superuser), "a kill leaves it"

    sidecar = tmp_path / f"{made.name}.json"
    sound = sidecar.read_bytes()
    sidecar.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(CatalogError, match="beside a backup is damaged") as damaged:
        backups.listed(tmp_path)
    assert damaged.value.where == str(sidecar) and made.name in damaged.value.advice
    sidecar.write_bytes(sound)
    with open(tmp_path / made.name, "r+b") as file:
        file.truncate(made.size_bytes - 1)
    with pytest.raises(CatalogError, match="the backup is damaged") as damaged:
        backups.go_back(dsns.superuser, tmp_path, made.name, bin_dir=server.bin_dir)
    assert damaged.value.where == made.name and "another one" in damaged.value.advice
    assert backups.standing_aside(dsns.superuser) == [] and migrate(dsns.superuser) == []
    with pytest.raises(NotFound):
        backups.go_back(dsns.superuser, tmp_path, "20200101T000000-0001.zst")


def test_a_damaged_sidecar_lets_no_dumps_pile_up(
    server: EmbeddedServer, dsns: Dsns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was met after the new dump counted: each start of an upgrade failed and left one more, until the disk of the
    database was full."""
    made = backups.make(dsns.superuser, tmp_path)
    for day in range(1, backups.KEPT + 2):
        older = msgspec.structs.replace(made, name=f"2020010{day}.zst", taken_at=datetime(2020, 1, day, tzinfo=UTC))
        (tmp_path / older.name).touch()
        (tmp_path / f"{older.name}.json").write_bytes(msgspec.json.encode(older)[: -100 if day == 3 else None])
    (tmp_path / f"{made.name}.json").unlink()
    with monkeypatch.context() as patch:
        name, go = next_version(patch, "select 1;"), {"dump_dsn": dsns.superuser, "bin_dir": server.bin_dir}
        assert backups.migrate_after_backup(dsns.superuser, tmp_path, **go) == [name], "the start goes on"
    *kept, _ = sorted(one.name for one in tmp_path.glob("*.zst"))
    assert kept == ["20200102.zst", "20200103.zst", "20200104.zst"]
    with pytest.raises(CatalogError, match="beside a backup is damaged"):
        backups.listed(tmp_path)


def test_a_database_that_goes_no_further_is_told_as_what_it_is(dsns: Dsns) -> None:
    """A statement that was cancelled, a password that is another now: room would be freed in vain."""
    with (
        pytest.raises(CatalogUnavailable, match=r"^nothing was changed, .*QueryCanceled 57014") as refused,
        fullness_told("here"), psycopg.connect(dsns.superuser) as conn,
    ):  # fmt: skip
        conn.execute("set statement_timeout = 1; select pg_sleep(60)")
    assert "disk" not in str(refused.value)
    with pytest.raises(CatalogRefused) as refused, fullness_told("here"):
        psycopg.connect(make_conninfo(dsns.superuser, password="wren"))
    assert "password" in refused.value.what and "disk" not in str(refused.value)
    gone = psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly")
    for ended in (gone, psycopg.errors.CannotConnectNow("the database system is in recovery mode")):
        with pytest.raises(CatalogUnavailable, match="went away in between") as refused, fullness_told("here"):
            raise ended
        assert "disk is full" in refused.value.advice


def test_what_the_programs_say_of_a_full_disk_is_said_as_one() -> None:
    full = ended_for_room("pg_restore", "error: COPY failed: could not extend file: No space left on device")
    gone = ended_for_room("pg_restore", "error: could not execute query: server closed the connection unexpectedly")
    assert isinstance(full, NoRoom) and isinstance(gone, CatalogUnavailable)
    assert all(one.where and "ree space" in one.advice for one in (full, gone))
    assert ended_for_room("pg_restore", "error: role does not exist") is None


def test_the_version_before_works_on_and_any_older_one_says_that_it_does_not(
    landed: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is not upgraded yet, and a release that somebody goes back to, meet the newer schema."""
    every = read_migrations()
    assert own_landing() == len(LANDED) + (every[-1].file > LANDED[-1]), "what has not landed belongs to the next"
    assert [landing_of(file) for file in LANDED] == list(range(1, len(LANDED) + 1))
    with monkeypatch.context() as patch:
        # a day without a migration asks the same
        later = [*(one.file for one in every if one.file > LANDED[-1]), next_version(patch, "select 1;")]
        assert schema_state(landed.daemon).missing == tuple(later)
        with pytest.raises(SchemaMismatch, match="older version") as refused:
            check_schema(landed.daemon)
        assert "mover db migrate" in refused.value.advice
        assert migrate(landed.superuser) == later and check_schema(landed.daemon).later == ()

        patch.setattr(module, "read_migrations", lambda: [one for one in every if one.file <= LANDED[-1]])
        assert check_schema(landed.daemon).later == tuple(later)
        assert migrate(landed.superuser) == []
        patch.setattr(module, "read_migrations", lambda: [one for one in every if one.file <= LANDED[-2]])
        for refused_by in (lambda: check_schema(landed.daemon), lambda: migrate(landed.superuser)):
            with pytest.raises(SchemaMismatch, match="not by the next one"):
                refused_by()


def test_a_database_without_any_schema_is_told(server: EmbeddedServer) -> None:
    with fresh_database(server, template="template1") as made:
        assert schema_state(server.dsn(SUPERUSER, made.database)).empty
        with pytest.raises(SchemaMismatch, match="older version"):
            check_schema(made.superuser)


# --- what the landed version reads and writes -----------------------------------------------------------------------

# What a migration that has not landed may take away: the landed version does not use it, for the reason beside it.
CONTRACTED: dict[str, str] = {}

_OURS = "select oid from pg_namespace where nspname in ('mover', 'vault')"
_READ = f"""
select format('column %s.%s %s', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod))
  from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where c.relnamespace in ({_OURS}) and c.relkind in ('r', 'v', 'p')
union all select format('function %s(%s) %s', p.oid::regproc, pg_get_function_identity_arguments(p.oid),
    pg_get_function_result(p.oid)) from pg_proc p where p.pronamespace in ({_OURS})
union all select format('word %s %s', enumtypid::regtype, enumlabel) from pg_enum
union all select format('grant %s on %s to %s', x.privilege_type, c.oid::regclass, x.grantee::regrole)
  from pg_class c cross join aclexplode(c.relacl) x where x.grantee <> 0 and c.relnamespace in ({_OURS})
union all
select format('grant %s on %s.%s to %s', x.privilege_type, a.attrelid::regclass, a.attname, x.grantee::regrole)
  from pg_attribute a cross join aclexplode(a.attacl) x
  where a.attrelid in (select oid from pg_class where relnamespace in ({_OURS}))
union all select format('grant %s on %s to %s', x.privilege_type, p.oid::regprocedure, x.grantee::regrole)
  from pg_proc p cross join aclexplode(p.proacl) x where x.grantee <> 0 and p.pronamespace in ({_OURS})
"""
# an insert of the landed version names none of these
_DEMANDED = f"""
select format('%s.%s', c.oid::regclass, a.attname) from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
  where c.relnamespace in ({_OURS}) and c.relkind = 'r'
  and a.attnotnull and not a.atthasdef and a.attidentity = '' and a.attgenerated = ''
"""
# what an `on conflict` of it relies on
_UNIQUE = f"""
select regexp_replace(pg_get_indexdef(indexrelid), '^.* ON ', '') from pg_index
  where indisunique and indrelid in (select oid from pg_class where relnamespace in ({_OURS}))
"""


def said(dsn: str, query: str) -> set[str]:
    with psycopg.connect(dsn) as conn:
        return {str(line) for (line,) in conn.execute(query).fetchall()}


def taken_away(old: str, new: str) -> list[str]:
    """What the landed version would miss, or be refused for, in the newer schema."""
    before, uniques = said(old, _READ), said(old, _UNIQUE) - said(new, _UNIQUE)
    tables = {one.rpartition(".")[0].removeprefix("column ") for one in before if one.startswith("column ")}
    asked = {one for one in said(new, _DEMANDED) - said(old, _DEMANDED) if one.rpartition(".")[0] in tables}
    missed = (before - said(new, _READ)) | {f"unique {one}" for one in uniques} | {f"demands {one}" for one in asked}
    return sorted(missed - set(CONTRACTED))


def test_new_migrations_take_nothing_away_that_the_landed_version_uses(landed: Dsns, dsns: Dsns) -> None:
    """Expand first, contract one landed state later (docs/upgrade.md). That the rule bites is tried beside it."""
    assert taken_away(landed.superuser, dsns.superuser) == []
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("alter table mover.slide rename column family to kin")
        conn.execute("alter table mover.lineage add column owner text not null")
        conn.execute("alter table mover.shard alter column queue type varchar")
        conn.execute("revoke select on mover.batch from mover_daemon")
        conn.execute("drop function mover.dump_ages()")
    lines = taken_away(landed.superuser, dsns.superuser)
    wanted = [
        "column mover.shard.queue text", "column mover.slide.family text", "demands mover.lineage.owner",
        "demands mover.slide.kin", "grant SELECT on mover.batch to mover_daemon",
    ]  # fmt: skip
    assert [one for one in lines if "dump_ages" not in one] == wanted
    assert any("dump_ages" in one for one in lines)
