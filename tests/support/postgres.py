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

import psycopg
from msgspec import Struct

from mover.catalog.migrate import migrate
from mover.catalog.postgres import DAEMON, SUPERUSER, VAULT, Embedded, EmbeddedServer
from tests.support import spare

TEMPLATE = "mover_template"
PROJECT = "demo"
OTHER_PROJECT = "other"
GONE_MS = 10_000  # for which a test's forgotten connections may take to end


class Dsns(Struct, frozen=True):
    """One fresh database, as each role meets it."""

    database: str
    superuser: str
    daemon: str
    vault: str


@contextmanager
def running_server(shared: Path) -> Iterator[EmbeddedServer]:
    """The session's server in `shared`, a folder that all test processes of the session know."""
    embedded = Embedded(shared / "catalog")
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
            database=made.name,
            superuser=server.dsn(SUPERUSER, made.name),
            daemon=server.dsn(DAEMON, made.name),
            vault=server.dsn(VAULT, made.name),
        )
    finally:
        if template == TEMPLATE and _is_clean(server, made):
            _SPARE.append(made)
        else:
            _drop(server, made)


_SPARE: list[spare.Spare] = []  # of this process's one server


def _made(server: EmbeddedServer, template: str) -> spare.Spare:
    name = f"t_{secrets.token_hex(8)}"
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        conn.execute(f"create database {name} template {template}")
    with psycopg.connect(server.dsn(SUPERUSER, name)) as conn:
        return spare.seen_new(conn, name)


def _is_clean(server: EmbeddedServer, made: spare.Spare) -> bool:
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        conn.execute(
            "select pg_terminate_backend(pid, %s) from pg_stat_activity where datname = %s", [GONE_MS, made.name]
        )
    with psycopg.connect(server.dsn(SUPERUSER, made.name)) as conn:
        return spare.emptied(conn, made)


def _drop(server: EmbeddedServer, made: spare.Spare) -> None:
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        conn.execute(f"drop database {made.name} with (force)")


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
