"""What stood in a database before a migration stands in it afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from mover.catalog import factcolumns, migrate, selections
from mover.catalog.database import Database
from mover.catalog.postgres import EmbeddedServer
from tests.support.facts import DIGEST, insert
from tests.support.postgres import Dsns, add_tiers, fresh_database

BEFORE = "0019_fact_columns.sql"


@pytest.fixture
def older(server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dsns]:
    """A database of the version before facts had columns."""
    every = migrate.read_migrations()
    with fresh_database(server, template="template1") as made:
        with monkeypatch.context() as patch:
            patch.setattr(migrate, "read_migrations", lambda: [one for one in every if one.file < BEFORE])
            migrate.migrate(made.superuser)
        yield made


@pytest.mark.slow
async def test_frozen_lists_from_before_are_the_same_lists_and_their_slides_can_be_asked(older: Dsns) -> None:
    """A run of last year is restaged from its selection; two selections of one root share their list."""
    numbers = sorted(f"{n:017d}" for n in range(12))
    lists = {"first": numbers[:5], "again": numbers[:5], "other": numbers[3:], "none": []}
    with psycopg.connect(older.superuser) as conn:
        conn.execute("insert into mover.project (id) values ('demo'), ('empty')")
    add_tiers(older)
    with psycopg.connect(older.superuser) as conn:
        for number in numbers:
            insert(conn, "slide", number=number, site="ward", family="aperio", extension="svs", size_bytes=10,
                   digest=DIGEST, tier="archive", key=number, facts="{}")  # fmt: skip
            insert(conn, "slide_grant", project_id="demo", number=number)
        for name, members in lists.items():
            root = {"first": "1" * 64, "again": "1" * 64}.get(name, f"{name:0>64}")
            insert(conn, "selection", project_id="demo", id=f"selection-{name}", count=len(members), bytes=0, root=root)
            for number in members:
                insert(conn, "selection_slide", project_id="demo", selection_id=f"selection-{name}", number=number)

    assert BEFORE in migrate.migrate(older.superuser)

    database = await Database.open(older.daemon, name="test", max_size=2)
    try:
        async with database.project("demo") as conn:
            rows = await (await conn.execute("select selection_id, number from mover.selection_slide")).fetchall()
            found = {name: sorted(r.number for r in rows if r.selection_id == f"selection-{name}") for name in lists}
            assert found == lists
            assert not await factcolumns.place_marked(conn, "demo")
            assert await factcolumns.build(conn, "demo") == 1
            assert await selections.counts(conn, ["family = 'aperio'", "family <> 'aperio'"]) == [(12, 120), (0, 0)]
    finally:
        await database.close()
