"""Projects are apart in the database, not only in the API (D18)."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.foundations.conftest import SECOND
from tests.support.facts import NUMBER
from tests.support.postgres import Dsns


def tables(conn: psycopg.Connection[Any]) -> list[str]:
    found = conn.execute(
        "select table_name from information_schema.columns where table_schema = 'mover' and column_name = 'project_id'"
    ).fetchall()
    assert len(found) >= 20
    return sorted(name for (name,) in found)


def rows(conn: psycopg.Connection[Any], table: str) -> list[str]:
    statement = sql.SQL("select project_id from mover.{}").format(sql.Identifier(table))
    return [project for (project,) in conn.execute(statement).fetchall()]


def enter(conn: psycopg.Connection[Any], project: str) -> None:
    conn.execute("select set_config('mover.project', %s, true)", [project])


def test_every_table_shows_a_project_its_own_rows_and_no_others(two_projects: psycopg.Connection[Any]) -> None:
    """Also the tables added tomorrow: the list is asked of the database."""
    for project in ("demo", "other"):
        enter(two_projects, project)
        seen = {table: rows(two_projects, table) for table in tables(two_projects)}
        assert {table: set(found) for table, found in seen.items()} == {table: {project} for table in seen}
        assert [number for (number,) in two_projects.execute("select number from mover.slide").fetchall()] == [
            {"demo": NUMBER, "other": SECOND}[project]
        ]
        two_projects.rollback()


def test_without_a_project_every_query_is_an_error(two_projects: psycopg.Connection[Any]) -> None:
    """An empty answer would look like an empty project (I7)."""
    names = tables(two_projects)
    for _ in range(2):
        for table in names:
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="project is not set"):
                rows(two_projects, table)
            two_projects.rollback()
        enter(two_projects, "demo")  # the second round: a setting that was there must not linger
        two_projects.commit()


def test_a_second_project_can_change_nothing_of_the_first(two_projects: psycopg.Connection[Any]) -> None:
    enter(two_projects, "other")
    for statement in (
        "update mover.batch set state = 'failed' where id = 'batch-a'",
        "update mover.run set state = 'cancelled' where id = 'run-a'",
        "delete from mover.ledger where record_set_id = 'records-a'",
        "update mover.token set revoked_at = now() where id = 'token-a'",
    ):
        assert two_projects.execute(statement).rowcount == 0, statement


def test_rows_cannot_be_written_into_or_moved_to_another_project(two_projects: psycopg.Connection[Any]) -> None:
    for statement in (
        "insert into mover.cohort (id, project_id, name, version, expression, created_by)"
        " values ('cohort-z', 'demo', 'z', 1, 'true', 'eve')",
        f"insert into mover.slide_grant (project_id, number) values ('demo', '{SECOND}')",
        "update mover.batch set project_id = 'demo' where id = 'batch-b'",
        "select mover.audit_append('demo', 'n1', '{}')",
    ):
        enter(two_projects, "other")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            two_projects.execute(statement)
        two_projects.rollback()


def test_the_owner_is_bound_too(populated: Dsns) -> None:
    """Without FORCE the owner's functions would see every row (measured: 10 of 10)."""
    with psycopg.connect(populated.superuser) as conn:
        conn.execute("set role mover_owner")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="project is not set"):
            conn.execute("select * from mover.batch")


def test_the_roles_own_nothing_and_cannot_become_others(populated: Dsns) -> None:
    with psycopg.connect(populated.superuser) as conn:
        for role in ("mover_daemon", "mover_vault"):
            facts = conn.execute(
                "select rolsuper, rolbypassrls, rolcreaterole, rolcreatedb from pg_roles where rolname = %s", [role]
            ).fetchone()
            assert facts == (False, False, False, False)
            owned = conn.execute("select count(*) from pg_class where relowner = %s::regrole", [role]).fetchone()
            member = conn.execute("select count(*) from pg_auth_members where member = %s::regrole", [role]).fetchone()
            assert owned == member == (0,)
    with psycopg.connect(populated.daemon) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("set role mover_owner")


HISTORY = [
    "update mover.audit_record set body = '{}'",
    "delete from mover.audit_record",
    "insert into mover.audit_record values ('demo', 'n1', 9, now(), '{}', '', '')",
    "truncate mover.audit_record",
    "update mover.audit_head set seq = 0",
    "delete from mover.audit_head",
    "insert into mover.audit_head values ('demo', 'n9', 0, '')",
    "update mover.proof set count = 99",
    "delete from mover.proof",
    "truncate mover.proof",
    "delete from mover.slide",
    "update mover.slide set digest = repeat('0', 64)",
    "delete from mover.run",
    "delete from mover.snapshot",
    "alter table mover.audit_record disable row level security",
    "drop table mover.proof",
    "create table mover.mine (id text)",
    "create or replace function mover.check_proof() returns trigger language plpgsql as 'begin return new; end'",
    "alter table mover.proof disable trigger check_proof",
    "set session_replication_role = replica",
    "select hash from mover.token",
]


@pytest.mark.parametrize("attack", HISTORY)
def test_the_daemons_role_cannot_rewrite_history(two_projects: psycopg.Connection[Any], attack: str) -> None:
    """A stolen daemon credential loses no record and no proof (I8)."""
    enter(two_projects, "demo")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        two_projects.execute(attack)


@pytest.mark.parametrize("table", ["mover.batch", "mover.slide", "mover.audit_record", "queue.procrastinate_jobs"])
def test_the_vaults_role_sees_no_ordinary_table(populated: Dsns, table: str) -> None:
    with psycopg.connect(populated.vault) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(f"select * from {table}")


@pytest.mark.parametrize("table", ["vault.sealed", "vault.number", "vault.subject"])
def test_the_daemons_role_sees_nothing_of_the_vault(populated: Dsns, table: str) -> None:
    """Not even the ciphertext (D10)."""
    with psycopg.connect(populated.daemon) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute(f"select * from {table}")
