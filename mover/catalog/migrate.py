"""Brings a database to today's schema. Also for DBAs: the files in `migrations/` can be applied by hand.

One file, one transaction; a file that was applied is never edited again, its checksum is kept and compared.
The whole runs under an advisory lock, which PostgreSQL drops when a migrator dies. `schema.sql` says the
same as all migrations together and a test proves it; until the first release, a change is made in
schema.sql and 0001 both.

Software of the landed state before works on today's schema (`migrations/landed.txt`, docs/upgrade.md): it meets files
that it does not know, reads beside each which landed state it belongs to, and goes on where that is the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
from blake3 import blake3
from msgspec import Struct
from procrastinate.schema import SchemaManager
from psycopg import sql

from mover.catalog.dsn import reach
from mover.errors import CatalogUnavailable, MigrationFailed, NoRoom, SchemaMismatch

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
    applied_at  timestamptz not null default now(),
    landing     integer,
    backup      text
);
alter table mover_meta.migration
    -- which landed state the file belongs to, for software that does not know it; what was dumped before it
    add column if not exists landing integer, add column if not exists backup text;
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


class SchemaState(Struct, frozen=True):
    """What a database has of our migrations. `later`: files of a newer version that we do not know, and `landing` the
    newest landed state among all (None: a file does not say which it belongs to)."""

    newest: str
    landing: int | None
    missing: tuple[str, ...]
    later: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return not self.newest


def landing_of(file: str) -> int:
    """The number of the landed state that first had this migration; what has not landed belongs to the next."""
    landed = (MIGRATIONS / "landed.txt").read_text("utf-8").split()
    return next((n for n, newest in enumerate(landed, start=1) if file <= newest), len(landed) + 1)


def own_landing() -> int:
    return landing_of(read_migrations()[-1].file)


def schema_state(dsn: str) -> SchemaState:
    """Looks and changes nothing. SchemaMismatch where this software and the database do not fit together."""
    with _connected(dsn) as conn:
        row = conn.execute("select to_regclass('mover_meta.migration') is not null").fetchone()
        if row is None or not row[0]:
            return SchemaState("", None, tuple(one.file for one in read_migrations()), ())
        return _state(conn, read_migrations())


def check_schema(dsn: str) -> SchemaState:
    """Of a database that somebody else migrates. SchemaMismatch unless this software works with it."""
    state = schema_state(dsn)
    if state.missing:
        raise SchemaMismatch(
            "the database was migrated by an older version", where=state.newest or "no migration",
            hint="`mover db migrate --admin DSN` brings it up to this one, after a backup.",
        )  # fmt: skip
    return state


def migrate(dsn: str, *, backup: str | None = None) -> list[str]:
    """Applies what is missing and names it. `dsn` is a superuser's, or a login's that may become mover_owner,
    mover_dispatch and mover_guard (the roles then exist: roles.sql). Any number may call it at once. `backup` names
    the dump that was made before (`backups`), for the record."""
    with _connected(dsn) as conn:
        conn.execute(sql.SQL("set lock_timeout = {}").format(sql.Literal(f"{_LOCK_TIMEOUT_S}s")))
        try:
            conn.execute("select pg_advisory_lock(%s)", [_LOCK])
        except psycopg.errors.LockNotAvailable as error:
            raise CatalogUnavailable(f"another migration held its lock for {_LOCK_TIMEOUT_S} s") from error
        _ensure_roles(conn)
        with conn.transaction():
            conn.execute(cast(LiteralString, _META))
        return [*_apply_ours(conn, read_migrations(), backup), *_apply_queue(conn)]


@contextmanager
def _connected(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with reach(dsn, "no connection to migrate the catalog", autocommit=True) as conn:
        yield conn


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


def _apply_ours(conn: psycopg.Connection[Any], migrations: list[Migration], backup: str | None) -> list[str]:
    state = _state(conn, migrations)
    missing = [migration for migration in migrations if migration.file in state.missing]
    for migration in missing:
        with _told(migration, backup), conn.transaction():
            conn.execute(migration.text.encode())
            conn.execute(
                "insert into mover_meta.migration (file, checksum, landing, backup) values (%s, %s, %s, %s)",
                [migration.file, migration.checksum, landing_of(migration.file), backup],
            )
    return [migration.file for migration in missing]


@contextmanager
def _told(migration: Migration, backup: str | None) -> Iterator[None]:
    """The database's own words may quote rows: they stay behind as the cause."""
    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise NoRoom(
            "the disk of the database ran full under a migration; nothing of it stands", where=migration.file,
            hint="Free space where the database stands, and start again; the version that ran before goes on with it.",
        ) from error  # fmt: skip
    except psycopg.Error as error:
        back = f", or `mover db restore {backup}` brings back what stood before" if backup else ""
        raise MigrationFailed(
            f"a migration failed ({type(error).__name__} {error.sqlstate or ''}); nothing of it stands",
            where=migration.file, hint=f"The version that ran before goes on with this database{back}.",
        ) from error  # fmt: skip


def _state(conn: psycopg.Connection[Any], migrations: list[Migration]) -> SchemaState:
    # an older version's table has no column for the landing
    rows = conn.execute(
        "select file, checksum, (to_jsonb(m) ->> 'landing')::integer from mover_meta.migration m order by file"
    ).fetchall()
    known = {migration.file: migration.checksum for migration in migrations}
    _refuse_edited({file: checksum for file, checksum, _ in rows if file in known}, known)
    applied = {file for file, _, _ in rows}
    missing = tuple(file for file in known if file not in applied)
    later = {file: landing for file, _, landing in rows if file not in known}
    _refuse_newer(later, missing, own=landing_of(migrations[-1].file))
    landing = max((landing_of(file) if file in known else later[file] or 0 for file in applied), default=None)
    return SchemaState(max(applied, default=""), landing, missing, tuple(later))


def _refuse_newer(later: dict[str, int | None], missing: tuple[str, ...], *, own: int) -> None:
    """Expand first, contract a landed state later: so the schema of the next one still has all that we read."""
    if not later:
        return
    far = [file for file, landing in later.items() if landing is None or landing > own + 1]
    if far or missing:
        raise SchemaMismatch(
            "the database was migrated by a newer version, and not by the next one", where=(far or [*later])[0],
            hint="Install that version or newer.",
        )  # fmt: skip


def _refuse_edited(applied: dict[str, str], known: dict[str, str]) -> None:
    for file, checksum in sorted(applied.items()):
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
