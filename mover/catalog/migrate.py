"""Brings a database to today's schema. Also for DBAs: the files in `migrations/` can be applied by hand.

One file, one transaction; a file that was applied is never edited again, its checksum is kept and compared.
The whole runs under an advisory lock, which PostgreSQL drops when a migrator dies. `schema.sql` says the
same as all migrations together and a test proves it; until the first release, a change is made in
schema.sql and 0001 both.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
from blake3 import blake3
from msgspec import Struct
from procrastinate.schema import SchemaManager
from psycopg import sql

from mover.errors import CatalogUnavailable, SchemaMismatch

MIGRATIONS = Path(__file__).parent / "migrations"
_FILE = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")
# "mover" in ASCII; one number for every migrator of this database
_LOCK = 0x6D6F766572
_LOCK_TIMEOUT_S = 600

_META = """
create schema if not exists mover_meta;
create table if not exists mover_meta.migration (
    file        text primary key,
    checksum    text not null,
    applied_at  timestamptz not null default now()
);
create table if not exists mover_meta.queue_migration (
    file        text primary key,
    applied_at  timestamptz not null default now()
);
revoke all on schema mover_meta from public;
grant usage on schema mover_meta to mover_daemon;
grant select on mover_meta.migration, mover_meta.queue_migration to mover_daemon;
"""

_QUEUE_GRANTS = """
grant usage on schema queue to mover_daemon;
grant select, insert, update, delete on all tables in schema queue to mover_daemon;
grant usage on all sequences in schema queue to mover_daemon;
grant execute on all functions in schema queue to mover_daemon;
"""


class Migration(Struct, frozen=True):
    file: str
    text: str

    @property
    def checksum(self) -> str:
        return blake3(self.text.encode()).hexdigest()


def migrate(dsn: str) -> list[str]:
    """Applies what is missing and names it. `dsn` is a superuser's, or a login's that may become mover_owner,
    mover_dispatch and mover_guard (the roles then exist: roles.sql). Any number may call it at once."""
    try:
        conn = psycopg.connect(dsn, autocommit=True)
    except psycopg.OperationalError as error:
        raise CatalogUnavailable("no connection to migrate the catalog") from error
    with conn:
        conn.execute(sql.SQL("set lock_timeout = {}").format(sql.Literal(f"{_LOCK_TIMEOUT_S}s")))
        try:
            conn.execute("select pg_advisory_lock(%s)", [_LOCK])
        except psycopg.errors.LockNotAvailable as error:
            raise CatalogUnavailable(f"another migration held its lock for {_LOCK_TIMEOUT_S} s") from error
        _ensure_roles(conn)
        with conn.transaction():
            conn.execute(cast(LiteralString, _META))
        return [*_apply_ours(conn, read_migrations()), *_apply_queue(conn)]


def read_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """In order, without a gap: a missing number means a file was lost on the way here."""
    files = sorted(path for path in folder.iterdir() if path.suffix == ".sql")
    for count, path in enumerate(files, start=1):
        match = _FILE.match(path.name)
        if match is None or int(match[1]) != count:
            raise SchemaMismatch("migrations are numbered 0001, 0002, … without a gap", where=path.name)
    return [Migration(file=path.name, text=path.read_text("utf-8")) for path in files]


def _ensure_roles(conn: psycopg.Connection[Any]) -> None:
    """Only a superuser may; otherwise a DBA has run roles.sql before."""
    if conn.info.parameter_status("is_superuser") != "on":
        return
    with conn.transaction():
        # roles belong to the cluster: two databases migrated at once must not touch them together
        conn.execute("select pg_advisory_xact_lock(%s)", [_LOCK + 1])
        conn.execute((Path(__file__).parent / "roles.sql").read_bytes())
        conn.execute(sql.SQL("grant create on database {} to mover_owner").format(sql.Identifier(conn.info.dbname)))


def _apply_ours(conn: psycopg.Connection[Any], migrations: list[Migration]) -> list[str]:
    applied = dict(conn.execute("select file, checksum from mover_meta.migration").fetchall())
    _refuse_edited(applied, migrations)
    missing = [migration for migration in migrations if migration.file not in applied]
    for migration in missing:
        with conn.transaction():
            conn.execute(migration.text.encode())
            conn.execute(
                "insert into mover_meta.migration (file, checksum) values (%s, %s)",
                [migration.file, migration.checksum],
            )
    return [migration.file for migration in missing]


def _refuse_edited(applied: dict[str, str], migrations: list[Migration]) -> None:
    known = {migration.file: migration.checksum for migration in migrations}
    for file, checksum in sorted(applied.items()):
        if file not in known:
            raise SchemaMismatch(
                "the database was migrated by a newer version", where=file, hint="Install that version or newer."
            )
        if known[file] != checksum:
            raise SchemaMismatch(
                "a migration was edited after it had been applied", where=file,
                hint="Put the file back and write the change as a new migration; "
                "a demo's or a developer's database is made anew by removing its state directory.",
            )  # fmt: skip


def _apply_queue(conn: psycopg.Connection[Any]) -> list[str]:
    """Procrastinate's own schema in `queue`; on an upgrade, the migrations it ships that are newer than ours.
    Its SQL names nothing by schema, so whoever uses it sets search_path to queue."""
    shipped = sorted(path.name for path in Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    applied = {file for (file,) in conn.execute("select file from mover_meta.queue_migration").fetchall()}
    missing = [name for name in shipped if name not in applied]
    if not missing:
        return []
    texts = [(Path(SchemaManager.get_migrations_path()) / name).read_text("utf-8") for name in missing]
    with conn.transaction():
        conn.execute("set local role mover_owner")
        conn.execute("set local search_path = queue")
        for text in texts if applied else [SchemaManager.get_schema()]:
            conn.execute(text.encode())
        conn.execute(_QUEUE_GRANTS.encode())
        conn.execute("reset role")
        conn.cursor().executemany(
            "insert into mover_meta.queue_migration (file) values (%s)", [[name] for name in missing]
        )
    return [f"queue/{missing[-1]}"]
