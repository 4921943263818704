"""The tests' own databases: one that is used again is as good as new, and one that is not is never used again."""

from __future__ import annotations

import psycopg
import pytest

from mover.catalog.postgres import EmbeddedServer
from tests.support.facts import NUMBER, whole_project
from tests.support.postgres import add_tiers, fresh_database

TABLES = """
select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname in ('mover', 'mover_meta', 'queue', 'vault') and c.relkind in ('r', 'S') order by 1
"""


def content(dsn: str) -> dict[str, list[object]]:
    """Every row of every table, and where each sequence stands."""
    with psycopg.connect(dsn) as conn:
        names = [name for (name,) in conn.execute(TABLES).fetchall()]
        return {name: sorted(map(str, conn.execute(f"select * from {name}"))) for name in names}  # type: ignore[arg-type]


def test_a_database_with_a_row_of_everything_is_handed_on_as_the_template_is(server: EmbeddedServer) -> None:
    """What one test leaves must never be what the next one finds."""
    with fresh_database(server) as dsns:
        first, new = dsns.database, content(dsns.superuser)
        add_tiers(dsns)
        with psycopg.connect(dsns.superuser) as conn:
            whole_project(conn, "demo", mark="a", number=NUMBER)
            conn.execute("update vault.ring set generation = generation + 1")
            conn.execute("delete from mover.project where id = 'other'")
        assert content(dsns.superuser) != new
    with fresh_database(server) as dsns:
        assert dsns.database == first
        assert {name for name, rows in content(dsns.superuser).items() if rows != new[name]} == set()


@pytest.mark.parametrize(
    "change",
    [
        "alter table mover.slide add column more text",
        "drop trigger if exists never on mover.slide; create index more on mover.slide (site)",
        "create or replace function mover.more() returns int language sql as 'select 1'",
        "grant select on vault.number to mover_daemon",
        "alter table mover.pack disable row level security",
        "do $$ begin execute format('alter database %I set work_mem to 99', current_database()); end $$",
        "create schema elsewhere",
        "analyze mover.project",
        "insert into mover.project (id) select 'p' || n from generate_series(1, 4000) n",
    ],
    ids=["column", "index", "function", "grant", "policy", "setting", "schema", "statistics", "size"],
)
def test_a_database_whose_schema_or_plans_may_differ_is_not_handed_on(server: EmbeddedServer, change: str) -> None:
    with fresh_database(server) as dsns:
        first = dsns.database
        with psycopg.connect(dsns.superuser) as conn:
            conn.execute(change)  # type: ignore[arg-type]
    with fresh_database(server) as dsns:
        assert dsns.database != first


def test_a_connection_that_a_test_forgot_is_ended(server: EmbeddedServer) -> None:
    with fresh_database(server) as dsns:
        forgotten = psycopg.connect(dsns.daemon)
        forgotten.execute("lock table mover.project in share mode")
    with pytest.raises(psycopg.OperationalError):
        forgotten.execute("select 1")
