"""The catalog refuses a PostgreSQL that would lose what it acknowledged (D15)."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from mover.catalog import postgres
from mover.catalog.database import Database
from mover.catalog.postgres import Embedded
from mover.errors import CatalogUnsafe


@pytest.mark.slow
async def test_fsync_off_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured: with fsync off the whole cluster was damaged by a power cut, and once did not start."""
    monkeypatch.setitem(postgres._ASSERTED, "fsync", "off")
    monkeypatch.setitem(postgres._ASSERTED, "full_page_writes", "off")
    embedded = Embedded(tmp_path)
    server = embedded.start()
    try:
        with pytest.raises(CatalogUnsafe, match="fsync=off, full_page_writes=off"):
            await Database.open(server.daemon_dsn, name="test")
    finally:
        embedded.stop()


@pytest.mark.slow
async def test_our_own_server_cannot_be_weakened_by_its_files(tmp_path: Path) -> None:
    """What is given on the command line beats postgresql.conf and ALTER SYSTEM."""
    embedded = Embedded(tmp_path)
    server = embedded.start()
    try:
        with psycopg.connect(server.superuser_dsn, autocommit=True) as conn:
            conn.execute("alter system set fsync = off")
            conn.execute("alter system set synchronous_commit = off")
        embedded.stop()
        server = embedded.start()
        database = await Database.open(server.daemon_dsn, name="test")
        await database.close()
    finally:
        embedded.stop()
