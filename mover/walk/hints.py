"""What the catalog holds of a watch, and how a watcher hands over what it heard.

The promise of `folder_watch`: every change after `since` and before `heard_at` stands in the hints, or was read by a
scan since. The marks are in place before `since` is written; `heard_at` is the database's time from before the
kernel's queue was emptied, and is written with the hints that came, in one transaction. Whatever the watcher is not
sure of is a gap: the watch then begins anew, and only a full scan reaches behind it.

Everything here blocks and belongs in a thread or in the watcher's own process.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from msgspec import Struct
from psycopg.rows import namedtuple_row

from mover.catalog.database import translated
from mover.catalog.dsn import Source, current
from mover.catalog.queries import load

SQL = load(__file__)
HINTS_MAX = 50_000  # of one tier; a full scan is as good as more


class Heard(Struct):
    """Folders that changed since the last hand-over: path below the root, and whether all below it counts."""

    folders: dict[bytes, bool]
    gap: str | None = None

    def add(self, folder: bytes, *, deep: bool) -> None:
        self.folders[folder] = deep or self.folders.get(folder, False)
        if len(self.folders) > HINTS_MAX:
            self.lose("too-many")

    def lose(self, gap: str) -> None:
        """Nobody knows any more what changed. The first reason is kept; hints before it are of no use."""
        self.gap = self.gap or gap
        self.folders.clear()


class Book:
    """The catalog, as the watcher writes it. One connection, which is opened again after a failure."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._conn: psycopg.Connection[Any] | None = None

    def now(self) -> datetime:
        with translated():
            found: datetime = self._one(self._open(), "now").now
            return found

    def hand_over(self, tier: str, heard: Heard, *, until: datetime) -> None:
        """All of a project's is durable together. What was handed over before a failure does no harm twice."""
        with translated():
            conn = self._open()
            for project in [row.id for row in conn.execute(SQL["projects"])]:
                with conn.transaction():
                    conn.execute("select set_config('mover.project', %s, true)", [project])
                    self._write(conn, tier, heard, until)

    def descriptor(self) -> int | None:
        """Readable when somebody asked for a word, or the connection ended; None while there is no connection."""
        return None if self._conn is None or self._conn.closed else self._conn.fileno()

    def is_asked(self) -> bool:
        """Whether somebody asked since the last time; takes no time."""
        if self._conn is None or self._conn.closed:
            return False
        with translated():
            return bool(list(self._conn.notifies(timeout=0)))

    def _write(self, conn: psycopg.Connection[Any], tier: str, heard: Heard, until: datetime) -> None:
        gap = heard.gap
        if heard.folders and self._one(conn, "is_wanted", tier=tier).wanted:
            folders = sorted(heard.folders)
            conn.execute(
                SQL["hint"], {"tier": tier, "folders": folders, "deep": [heard.folders[one] for one in folders]}
            )
            if self._one(conn, "count", tier=tier, limit=HINTS_MAX + 1).count > HINTS_MAX:
                gap = gap or "too-many"
        if gap is not None:
            conn.execute(SQL["forget"], {"tier": tier})
        conn.execute(SQL["watch"], {"tier": tier, "heard_at": until, "gap": gap})

    def _one(self, conn: psycopg.Connection[Any], name: str, **parameters: object) -> Any:
        return conn.execute(SQL[name], parameters).fetchone()

    def _open(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = psycopg.connect(
                current(self._source), row_factory=namedtuple_row, application_name="mover-watch", autocommit=True
            )
            self._conn.execute(SQL["listen"])
        return self._conn

    def close(self) -> None:
        if self._conn is not None:
            self._conn.close()
