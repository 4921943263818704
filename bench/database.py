"""A real catalog for the races that record what they did: the embedded PostgreSQL, started off the clock."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import psycopg

from mover.catalog.migrate import migrate
from mover.catalog.postgres import SUPERUSER, Embedded, EmbeddedServer

ENTRIES = """
    create table bench_entry (
        id bigint not null, size_bytes bigint not null, mtime_ns bigint not null,
        mark text not null, digest text not null, verified boolean not null
    )
"""

TIER = """
    insert into mover.tier (name, kind, zone, role, identity, traits)
    values ('bench', 'posix', 'deidentified', 'flash', 'bench', '{}') on conflict do nothing
"""


class Catalog:
    """A migrated database below `folder` with a logged table for outcomes; stops the server at the end."""

    def __init__(self, folder: Path) -> None:
        self._embedded = Embedded(folder)

    def __enter__(self) -> Catalog:
        self.server: EmbeddedServer = self._embedded.start()
        self.dsn, self.pid = self.server.dsn(SUPERUSER), self.server.pid
        migrate(self.dsn)
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(ENTRIES)
            conn.execute("insert into mover.project (id) values ('bench') on conflict do nothing")
            conn.execute(TIER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._embedded.stop()

    def rows(self) -> int:
        """Recorded outcomes since the last question."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            found = conn.execute("select count(*) from bench_entry").fetchone()
            conn.execute("truncate bench_entry")
        return int(found[0]) if found else 0
