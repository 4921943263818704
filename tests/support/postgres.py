"""A real PostgreSQL for the tests: one server a session, one fresh database a test.

The server is shared by all processes of pytest-xdist; the last one to leave stops it. A database is a copy
of a template that was migrated once, with the project `demo` and a second one, `other`, in it; a test that left its
schema alone hands its database on, emptied (`spare`).
"""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from msgspec import Struct

from mover.catalog.migrate import migrate
from mover.catalog.postgres import DAEMON, SUPERUSER, VAULT, Embedded, EmbeddedServer
from tests.support import ramdisk, spare

TEMPLATE = "mover_template"
PROJECT = "demo"
OTHER_PROJECT = "other"
GONE_MS = 10_000  # for which a test's forgotten connections may take to end


class Made(Struct, frozen=True):
    """A database, and the connection that looks at it between two tests: opening one costs more than the look."""

    database: spare.Spare
    watch: psycopg.Connection[Any]


class Dsns(Struct, frozen=True):
    """One fresh database, as each role meets it."""

    database: str
    superuser: str
    daemon: str
    vault: str


@contextmanager
def running_server(shared: Path) -> Iterator[EmbeddedServer]:
    """The session's server in `shared`, a folder that all test processes of the session know. No test cuts its power or
    fills its disk: it may lie in memory."""
    with ramdisk.folder(shared, "catalog") as state:
        embedded = Embedded(state)
        server = embedded.start()
        try:
            with open(shared / "template.lock", "wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                _make_template(server)
            yield server
        finally:
            while _SPARE:
                _drop(server, _SPARE.pop())
            embedded.stop()


def _make_template(server: EmbeddedServer) -> None:
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        if conn.execute("select from pg_database where datname = %s", [TEMPLATE]).fetchone() is not None:
            return
        conn.execute(f"drop database if exists {TEMPLATE}_new with (force)")
        conn.execute(f"create database {TEMPLATE}_new")
        migrate(server.dsn(SUPERUSER, f"{TEMPLATE}_new"))
        with psycopg.connect(server.dsn(SUPERUSER, f"{TEMPLATE}_new")) as fresh:
            fresh.execute("insert into mover.project (id) values (%s), (%s)", [PROJECT, OTHER_PROJECT])
        conn.execute(f"alter database {TEMPLATE}_new rename to {TEMPLATE}")


@contextmanager
def fresh_database(server: EmbeddedServer, *, template: str = TEMPLATE) -> Iterator[Dsns]:
    """A database like the template: an earlier test's that was left clean, or a new one."""
    made = _SPARE.pop() if template == TEMPLATE and _SPARE else _made(server, template)
    try:
        yield Dsns(
            database=made.database.name,
            superuser=server.dsn(SUPERUSER, made.database.name),
            daemon=server.dsn(DAEMON, made.database.name),
            vault=server.dsn(VAULT, made.database.name),
        )
    finally:
        if template == TEMPLATE and _is_clean(made):
            _SPARE.append(made)
        else:
            _drop(server, made)


_SPARE: list[Made] = []  # of this process's one server


def _made(server: EmbeddedServer, template: str) -> Made:
    name = f"t_{secrets.token_hex(8)}"
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        conn.execute(f"create database {name} template {template}")
    watch = psycopg.connect(server.dsn(SUPERUSER, name), autocommit=True, prepare_threshold=None)
    with watch.transaction():
        return Made(spare.seen_new(watch, name), watch)


def _is_clean(made: Made) -> bool:
    """Whoever else is connected is sent away first. A test that ended our connection leaves nothing to look with."""
    try:
        with made.watch.transaction():
            made.watch.execute(
                "select pg_terminate_backend(pid, %s) from pg_stat_activity"
                " where datname = current_database() and pid <> pg_backend_pid()", [GONE_MS]
            )  # fmt: skip
            return spare.emptied(made.watch, made.database)
    except psycopg.OperationalError:
        return False


def _drop(server: EmbeddedServer, made: Made) -> None:
    made.watch.close()
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        conn.execute(f"drop database {made.database.name} with (force)")


TIERS = [
    ("intake", "posix", "identified", "source"),
    ("archive", "object", "deidentified", "archive"),
    ("flash", "posix", "deidentified", "flash"),
    ("protect", "posix", "deidentified", "protect"),
]


def add_tiers(dsns: Dsns) -> None:
    """The four tiers of the demo hospital, as rows only; nothing stands behind them."""
    with psycopg.connect(dsns.superuser) as conn:
        conn.cursor().executemany(
            "insert into mover.tier (name, kind, zone, role, identity, traits)"
            " values (%s, %s, %s, %s, 'test', '{}') on conflict do nothing",
            TIERS,
        )
