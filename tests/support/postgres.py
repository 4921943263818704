"""A real PostgreSQL for the tests: one server a session, one fresh database a test.

The server is shared by all processes of pytest-xdist; the last one to leave stops it. A database is a copy
of a template that was migrated once, with the project `demo` and a second one, `other`, in it.
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

TEMPLATE = "mover_template"
PROJECT = "demo"
OTHER_PROJECT = "other"


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
    name = f"t_{secrets.token_hex(8)}"
    with psycopg.connect(server.dsn(SUPERUSER, "postgres"), autocommit=True) as conn:
        conn.execute(f"create database {name} template {template}")
        try:
            yield Dsns(
                database=name,
                superuser=server.dsn(SUPERUSER, name),
                daemon=server.dsn(DAEMON, name),
                vault=server.dsn(VAULT, name),
            )
        finally:
            conn.execute(f"drop database {name} with (force)")


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
