"""Databases that tests left as they found them, emptied and used again.

Making a database and removing it costs hundreds of files and a checkpoint that waits for every other test's; emptying
one costs a few statements. A database is used again only where nobody can tell it from a new one: the same schema,
rights and settings, the template's rows and no others, sequences at their start, and tables so small that the planner
still takes them for those nobody has analyzed.
"""

from __future__ import annotations

from typing import Any

import psycopg
from msgspec import Struct

# Below it the planner takes a table that was never analyzed for one of ten pages, as it takes an empty one.
PAGES_MAX = 10
_OURS = "(select oid from pg_namespace where nspname in ('mover', 'mover_meta', 'queue', 'vault'))"
# A row's xmin says which transaction wrote it: every change of a definition is a new one. What autovacuum tells the
# planner is written in place, so it is named.
_SHAPE = f"""
with rel as (select oid, xmin::text as written, relpages, reltuples from pg_class where relnamespace in {_OURS}),
seen (what, id, written) as (
  select 'relation', oid::text, concat_ws(' ', written, relpages, reltuples) from rel
  union all select 'column', concat_ws(' ', attrelid, attnum), xmin::text from pg_attribute
    where attrelid in (select oid from rel)
  union all select 'rule', oid::text, xmin::text from pg_rewrite where ev_class in (select oid from rel)
  union all select 'function', oid::text, xmin::text from pg_proc where pronamespace in {_OURS}
  union all select 'type', oid::text, xmin::text from pg_type where typnamespace in {_OURS}
  union all select 'trigger', oid::text, xmin::text from pg_trigger
  union all select 'policy', oid::text, xmin::text from pg_policy
  union all select 'constraint', oid::text, xmin::text from pg_constraint
  union all select 'value', oid::text, xmin::text from pg_enum
  union all select 'default', oid::text, xmin::text from pg_attrdef
  union all select 'rights', oid::text, xmin::text from pg_default_acl
  union all select 'extension', oid::text, xmin::text from pg_extension
  union all select 'schema', oid::text, xmin::text from pg_namespace where nspname !~ '^pg_(toast_)?temp_'
  union all select 'database', oid::text, xmin::text from pg_database where datname = current_database()
  union all select 'setting', setrole::text, xmin::text from pg_db_role_setting
    where setdatabase = (select oid from pg_database where datname = current_database())
)
select md5(string_agg(concat_ws(' ', what, id, written), ';' order by what, id, written)) from seen
"""
_FILLED = f"""
select oid::regclass::text, pg_relation_size(oid) / current_setting('block_size')::bigint from pg_class
where relkind = 'r' and relnamespace in {_OURS} and pg_relation_size(oid) > 0
"""
_SEQUENCES = f"""
select setval(c.oid::regclass, 1, false) from pg_sequence s join pg_class c on c.oid = s.seqrelid
where c.relnamespace in {_OURS} and pg_sequence_last_value(s.seqrelid) is not null
"""
# Keys and triggers guard rows against the daemon's role; a superuser that empties everything is neither wrong nor slow.
_UNGUARDED = "set local session_replication_role = replica"


class Spare(Struct, frozen=True):
    """A database, and what stood in it when it was new: its schema's fingerprint and the rows of its template."""

    name: str
    shape: str
    seeds: tuple[tuple[str, str], ...]


def seen_new(conn: psycopg.Connection[Any], name: str) -> Spare:
    """What a database is that was made just now."""
    seeds = tuple((table, _rows(conn, table)) for table, _ in conn.execute(_FILLED).fetchall())
    return Spare(name, _shape(conn), seeds)


def emptied(conn: psycopg.Connection[Any], spare: Spare) -> bool:
    """Whether the database, which nobody else uses, is as good as new now. If not, it is as it was: drop it."""
    filled = conn.execute(_FILLED).fetchall()
    if _shape(conn) != spare.shape or any(pages > PAGES_MAX for _, pages in filled):
        return False
    seeds = dict(spare.seeds)
    changed = [table for table in seeds if _rows(conn, table) != seeds[table]]
    emptied = [table for table, _ in filled if table not in seeds] + changed
    conn.execute(";".join([_UNGUARDED, *(f"delete from {table}" for table in emptied), _SEQUENCES]))
    for table in changed:
        again = f"insert into {table} overriding system value select * from json_populate_recordset(null::{table}, %s)"
        conn.execute(again, [seeds[table]])
    return True


def _shape(conn: psycopg.Connection[Any]) -> str:
    [(shape,)] = conn.execute(_SHAPE).fetchall()
    return str(shape)


def _rows(conn: psycopg.Connection[Any], table: str) -> str:
    [(rows,)] = conn.execute(f"select coalesce(json_agg(t order by t::text), '[]')::text from {table} t").fetchall()
    return str(rows)
