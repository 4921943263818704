"""SQL as the daemon's role in one project, against the rows of another. Row level security hides them; what is
written must not hang on them either, and what is over must stay over (D18)."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from tests.foundations.conftest import SECOND, attacker, populated, two_projects
from tests.support.facts import DIGEST
from tests.support.postgres import Dsns

__all__ = ["attacker", "populated", "two_projects"]

INTO_ANOTHER_PROJECT = {
    "run_entry": f"""insert into mover.run_entry (project_id, run_id, path, size_bytes, digest)
                     values ('demo', 'run-b', 'data/x', 1, '{DIGEST}')""",
    "stray": """insert into mover.stray (project_id, run_id, path, size_bytes, why, moved_to)
                values ('demo', 'run-b', 'out/x', 1, 'stranger', 'y')""",
    "snapshot": """insert into mover.snapshot (id, project_id, run_id, tier, repository_id, policy, state, files,
                   bytes, added_bytes) values ('s', 'demo', 'run-b', 'protect', 'x', 'p', 'checked', 0, 0, 0)""",
    "artifact": f"""insert into mover.artifact (project_id, snapshot_id, path, size_bytes, digest)
                    values ('demo', 'snapshot-b', 'x', 1, '{DIGEST}')""",
    "ledger": """insert into mover.ledger (project_id, record_set_id, table_name, line, state)
                 values ('demo', 'records-b', 'images', 99, 'late')""",
    "pack": """insert into mover.pack (id, project_id, batch_id, barcode, entry)
               values ('p', 'demo', 'batch-b', 'x', 'y')""",
    "record_set": """insert into mover.record_set (id, project_id, batch_id, policy, version, source, created_by)
                     values ('r', 'demo', 'batch-b', 'p', 9, 's', 'eve')""",
    "aligned": f"""insert into mover.aligned (project_id, number, facts, record_set_id)
                   values ('demo', '{SECOND}', '{{}}', 'records-b')""",
    "selection": f"""insert into mover.selection (id, project_id, cohort_id, count, bytes, root)
                     values ('s', 'demo', 'cohort-b', 1, 1, '{DIGEST}')""",
    "slide_place": f"""insert into mover.slide_place (project_id, place, number) values ('demo', 9, '{SECOND}')""",
    "run": """insert into mover.run (id, project_id, selection_id, tier, policy, requested_by)
              values ('r', 'demo', 'selection-b', 'flash', 'stage', 'eve')""",
}


@pytest.mark.parametrize("table", INTO_ANOTHER_PROJECT)
def test_no_row_hangs_on_another_projects(attacker: psycopg.Connection[Any], table: str) -> None:
    """Found: the check of a foreign key does not know row level security. A project could reserve flash in
    another's name, hold its content, or occupy its paths."""
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        attacker.execute(INTO_ANOTHER_PROJECT[table])


def test_every_tie_between_two_tables_of_projects_names_the_project(populated: Dsns) -> None:
    """Also the ones added tomorrow."""
    with psycopg.connect(populated.superuser) as conn:
        loose = conn.execute(
            """select c.conrelid::regclass::text, c.conname from pg_constraint c
               where c.contype = 'f' and c.connamespace = 'mover'::regnamespace
                 and exists (select from pg_attribute where attrelid = c.conrelid and attname = 'project_id')
                 and exists (select from pg_attribute where attrelid = c.confrelid and attname = 'project_id')
                 and not exists (select from pg_attribute a where a.attrelid = c.conrelid and a.attname = 'project_id'
                                 and a.attnum = any (c.conkey))"""
        ).fetchall()
    # a proof is tied by its subject and kind, and a subject has one project
    assert {name for _, name in loose if "proof" not in name} == set()


def test_nobody_mints_a_slide_that_no_project_was_granted(attacker: psycopg.Connection[Any]) -> None:
    """A number somebody else will be given could be taken first, with other bytes behind it."""
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        attacker.execute(
            f"""insert into mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts)
                values ('1123456789ABCDEFG', 'ward', 'aperio', 'svs', 1, '{DIGEST}', 'archive', 'k', '{{}}')"""
        )


@pytest.mark.parametrize("again", ["null", "now() + interval '1 year'"])
def test_a_revoked_token_stays_revoked(attacker: psycopg.Connection[Any], again: str) -> None:
    attacker.execute("update mover.token set revoked_at = now() where id = 'token-a'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        attacker.execute(f"update mover.token set revoked_at = {again} where id = 'token-a'")


FUNCTIONS = [
    "select mover.audit_append('other', 'n1', '{}')",
    "select mover.token_by_hash('\\x62') from mover.token where hash is not null",
    "select hash, posix_uid from mover.token",
    "create function mover.sha256(bytea) returns bytea language sql as 'select $1'",
    "create table public.planted (id text)",
    "set role mover_dispatch",
    "alter function mover.shards_due(text[], integer) set search_path = public",
    "select pg_read_file('/etc/passwd')",
    "copy (select 1) to program 'true'",
    "select lo_import('/etc/passwd')",
    "create extension dblink",
]


@pytest.mark.parametrize("attack", FUNCTIONS)
def test_what_crosses_projects_has_one_purpose_only(attacker: psycopg.Connection[Any], attack: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        attacker.execute(attack)


def test_functions_that_run_as_others_find_their_names_where_we_put_them(populated: Dsns) -> None:
    """`security definer` with an open search path would run whatever a temporary schema holds."""
    with psycopg.connect(populated.superuser) as conn:
        open_ones = conn.execute(
            """select proname from pg_proc where prosecdef and pronamespace = 'mover'::regnamespace
               and not coalesce(proconfig, '{}') @> array['search_path=mover, pg_temp']"""
        ).fetchall()
        by_anybody = conn.execute(
            """select proname from pg_proc where pronamespace = 'mover'::regnamespace
               and (proacl is null or exists (select from aclexplode(proacl) where grantee = 0))"""
        ).fetchall()
    assert open_ones == by_anybody == []


def test_a_temporary_table_stands_in_for_nothing(attacker: psycopg.Connection[Any]) -> None:
    attacker.execute("create temp table token as select 't' as id, '\\x41'::bytea as hash, 'eve' as actor,"
                     " 'admin' as role, 'other' as project_id, 0 as posix_uid, 0 as posix_gid,"
                     " null::timestamptz as expires_at,"
                     " null::timestamptz as revoked_at")  # fmt: skip
    attacker.execute("set search_path = pg_temp, mover")
    assert attacker.execute("select * from mover.token_by_hash('\\x41')").fetchall() == []
