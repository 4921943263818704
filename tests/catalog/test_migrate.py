"""Migrations: whole or not at all, never edited, and together equal to schema.sql."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from mover.catalog import migrate as module
from mover.catalog.migrate import Migration, migrate, read_migrations
from mover.catalog.postgres import SUPERUSER, EmbeddedServer
from mover.errors import CatalogUnavailable, MigrationFailed, SchemaMismatch
from tests.support.postgres import Dsns, fresh_database


@pytest.fixture
def empty(server: EmbeddedServer) -> Iterator[Dsns]:
    with fresh_database(server, template="template1") as made:
        yield made


def shape(server: EmbeddedServer, dsn: str) -> list[str]:
    """What a database is made of, as pg_dump says it, in an order of its own."""
    command = [str(server.bin_dir / "pg_dump"), "--schema-only", "--dbname", dsn]
    command += [f"--schema={schema}" for schema in ("mover", "vault", "queue")]
    text = subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout
    return sorted(line for line in text.splitlines() if line and not line.startswith(("--", "\\")))


@pytest.mark.slow
def test_all_migrations_together_make_schema_sql(server: EmbeddedServer, empty: Dsns) -> None:
    """schema.sql is what people read; a database that was migrated must be that and nothing else."""
    migrate(empty.superuser)
    with (
        fresh_database(server, template="template1") as other,
        psycopg.connect(other.superuser, autocommit=True) as conn,
    ):
        conn.execute(f"grant create on database {other.database} to mover_owner")
        conn.execute((Path(module.__file__).parent / "schema.sql").read_bytes())
        conn.execute("begin; set local role mover_owner; set local search_path = queue")
        conn.execute(module.SchemaManager.get_schema().encode())
        conn.execute(module._QUEUE_GRANTS.encode())
        conn.execute("commit")
        migrated, written = shape(server, empty.superuser), shape(server, other.superuser)
        assert len(written) > 500
        assert migrated == written, "the newest migration and its section in schema.sql differ"


def test_a_second_run_changes_nothing(dsns: Dsns) -> None:
    assert migrate(dsns.superuser) == []


@pytest.mark.slow
def test_many_migrators_at_once_apply_each_file_once(empty: Dsns) -> None:
    """Every daemon migrates at its start; they start together."""
    applied: list[list[str]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(empty.superuser))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(files) for files in applied) == [0, 0, 0, len(read_migrations()) + 1]


def test_an_edited_migration_is_refused(dsns: Dsns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sites with the same version number must have the same tables."""
    edited = [msgspec.structs.replace(one, text=one.text + "\n-- a word") for one in read_migrations()]
    monkeypatch.setattr(module, "read_migrations", lambda: edited)
    with pytest.raises(SchemaMismatch, match="edited"):
        migrate(dsns.superuser)


def test_a_database_from_a_newer_version_is_refused(dsns: Dsns) -> None:
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("insert into mover_meta.migration values ('0099_later.sql', 'x')")
    with pytest.raises(SchemaMismatch, match="newer"):
        migrate(dsns.superuser)


def test_a_failing_migration_leaves_nothing_of_itself(dsns: Dsns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill in the middle must leave the old schema or the new one."""
    name = f"{len(read_migrations()) + 1:04}_broken.sql"
    broken = Migration(name, "create table mover.half (id text); set role mover_owner; select 1/0;")
    after = [*read_migrations(), broken]
    monkeypatch.setattr(module, "read_migrations", lambda: after)
    with pytest.raises(MigrationFailed, match="DivisionByZero 22012") as refused:
        migrate(dsns.superuser, backup="20260101T000000-0040.zst")
    assert refused.value.where == name and "db restore 20260101T000000-0040.zst" in refused.value.advice
    with psycopg.connect(dsns.superuser) as conn:
        assert conn.execute("select to_regclass('mover.half')").fetchone() == (None,)
    after[-1] = Migration(name, "create table mover.half (id text);")
    assert migrate(dsns.superuser) == [name]


def test_files_are_numbered_without_a_gap(tmp_path: Path) -> None:
    """A lost file would be noticed only by the query that needs it."""
    (tmp_path / "0001_start.sql").write_text("select 1")
    (tmp_path / "0003_later.sql").write_text("select 1")
    with pytest.raises(SchemaMismatch, match="gap"):
        read_migrations(tmp_path)


def test_the_queue_is_usable_by_the_daemon(dsns: Dsns) -> None:
    """Procrastinate's tables stand in their own schema under our owner, and the daemon may work with them."""
    with psycopg.connect(dsns.daemon, options="-c search_path=queue") as conn:
        conn.execute("insert into procrastinate_jobs (queue_name, task_name) values ('tier:intake', 'shard')")
        conn.execute("delete from procrastinate_jobs")
        owner = conn.execute("select tableowner from pg_tables where tablename = 'procrastinate_jobs'").fetchone()
    assert owner == ("mover_owner",)


def test_a_login_without_superuser_can_migrate_when_the_roles_exist(server: EmbeddedServer, empty: Dsns) -> None:
    """A site's DBA gives no superuser away: roles.sql once, then a login that may become the owner."""
    with psycopg.connect(empty.superuser, autocommit=True) as conn:
        conn.execute("drop role if exists site_admin")
        conn.execute("create role site_admin login password 'x' in role mover_owner, mover_dispatch, mover_guard")
        conn.execute(f"grant create on database {empty.database} to site_admin, mover_owner")
    dsn = f"host={server.socket_dir} dbname={empty.database} user=site_admin password=x"
    try:
        assert len(migrate(dsn)) == len(read_migrations()) + 1
    finally:
        with psycopg.connect(empty.superuser, autocommit=True) as conn:
            conn.execute("drop owned by site_admin")
            conn.execute("drop role site_admin")


def test_no_server_is_said_so(server: EmbeddedServer) -> None:
    with pytest.raises(CatalogUnavailable):
        migrate(server.dsn(SUPERUSER, "no_such_database"))
