"""Connections: one transaction, one project; errors in our words; an unsafe server is refused."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from mover.catalog import database as database_module
from mover.catalog.database import Database
from mover.clock import SystemClock
from mover.errors import CatalogRefused, CatalogUnavailable, CatalogUnsafe
from tests.support.postgres import Dsns


async def test_a_project_transaction_commits_on_exit_and_rolls_back_on_error(database: Database) -> None:
    """A workflow's state, jobs and audit record stand or fall together."""
    insert = "insert into mover.cohort (id, project_id, name, version, expression, created_by)"
    insert += " values (%s, 'demo', %s, 1, 'true', 't')"
    async with database.project("demo") as conn:
        await conn.execute(insert, ["cohort-1", "kept"])
    with pytest.raises(ZeroDivisionError):
        async with database.project("demo") as conn:
            await conn.execute(insert, ["cohort-2", "lost"])
            raise ZeroDivisionError
    async with database.project("demo") as conn:
        rows = await (await conn.execute("select name from mover.cohort")).fetchall()
    assert [row.name for row in rows] == ["kept"]


async def test_the_project_is_forgotten_when_the_transaction_ends(database: Database) -> None:
    """A pooled connection must not carry one project's sight over to its next user (D18)."""
    async with database.project("demo") as conn:
        await conn.execute("select 1 from mover.batch")
    for _ in range(4):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            async with database.instance() as conn:
                await conn.execute("select 1 from mover.batch")


async def test_unique_violations_pass_through_to_the_caller(database: Database) -> None:
    """Insert-or-get is written with them; they are expected by name."""
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with database.instance() as conn:
            await conn.execute("insert into mover.node (id, version) values ('n', '1'), ('n', '1')")


async def test_a_server_that_is_not_there_is_reported_within_the_timeout() -> None:
    """A person waits seconds for the hint, not for ever."""
    with pytest.raises(CatalogUnavailable):
        await Database.open("host=/nonexistent dbname=none", name="test", timeout_s=0.3)


async def test_a_server_that_does_not_let_us_in_is_asked_once_and_one_that_is_away_less_and_less_often(
    dsns: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try was a failed login at the server, five a second for ever, and nobody was told why nothing began."""
    slept: list[float] = []

    class Moved(SystemClock):
        async def sleep(self, duration_s: float) -> None:
            slept.append(duration_s)

    monkeypatch.setattr(database_module, "SYSTEM", Moved())
    monkeypatch.setattr(database_module, "monotonic_s", lambda: sum(slept))
    for wrong, why in ({"password": "wren"}, "password"), ({"dbname": "gone"}, "database does not exist"):
        with pytest.raises(CatalogRefused, match=why) as refused:
            await Database.open(make_conninfo(dsns.daemon, **wrong), name="test")
        assert "DSN" in refused.value.advice and "wren" not in str(refused.value)
    assert slept == []
    with pytest.raises(CatalogUnavailable, match="within 30 s: no server listens there"):
        await Database.open(make_conninfo(dsns.daemon, host="/nonexistent"), name="test")
    assert slept[:5] == [0.2, 0.4, 0.8, 1.6, 3.2] and set(slept[5:-1]) == {5.0} and sum(slept) == pytest.approx(30)


@pytest.mark.parametrize("setting", ["synchronous_commit = off", "synchronous_commit = local"])
async def test_a_database_that_may_lose_commits_is_refused(dsns: Dsns, setting: str) -> None:
    """Measured: 14 to 34 % of acknowledged commits were lost with it off, under kill -9 alone (D15)."""
    with psycopg.connect(dsns.superuser, autocommit=True) as conn:
        conn.execute(f"alter role mover_daemon in database {dsns.database} set {setting}")
    with pytest.raises(CatalogUnsafe, match="synchronous_commit"):
        await Database.open(dsns.daemon, name="test")


async def test_a_cut_connection_becomes_catalog_unavailable_and_the_pool_heals(database: Database, dsns: Dsns) -> None:
    """A restarted PostgreSQL costs one failed transaction, which says `later`; the next one works."""
    with pytest.raises(CatalogUnavailable) as caught:
        async with database.instance() as conn:
            with psycopg.connect(dsns.superuser, autocommit=True) as killer:
                killer.execute("select pg_terminate_backend(%s)", [conn.info.backend_pid])
            await conn.execute("select 1")
    assert caught.value.retry == "later"
    async with database.instance() as conn:
        assert (await (await conn.execute("select 1 as one")).fetchone()).one == 1
