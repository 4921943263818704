"""A whole database from one PostgreSQL to another, and the proof that it arrived: `mover db move`, `mover db upgrade`.

Nobody may write meanwhile: the caller holds what keeps daemons away. Order, and what a kill between leaves:
  1. the roles stand on the target                                  -> roles that own nothing
  2. dumped and restored in one transaction of the target            -> nothing, or the whole
  3. every row of every table is read from both and compared; so are sequences, rules, rights and row security
What a kill left whole is not carried again, only compared. The source is read and never written.

Rows are compared as text, in an order that depends on no server's collation, so that neither a hash nor a count is
trusted; a digest of each range of rows is what is kept and told. `read` and `rows` never leave this module: rows are
names of the vault, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psycopg
from blake3 import blake3
from msgspec import Struct
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mover.catalog.dumping import AS_TEXT, SCHEMAS, Dumper, standing_schemas
from mover.catalog.logins import DUMP, statements
from mover.catalog.postgres import DAEMON, SUPERUSER, VAULT
from mover.catalog.room import fullness_told
from mover.errors import CatalogError, Conflict

LOGINS = (DAEMON, VAULT, DUMP)
RANGE_ROWS = 10_000
DIFFERENT_MAX = 100
_EVERY = [*SCHEMAS, "queue"]
# text of definitions that is the same in every supported PostgreSQL; not-null has rows of its own since 18
_OUTLINE = """
with ns as (select oid, nspname from pg_namespace where nspname = any (%(schemas)s)),
rel as (select * from pg_class where relnamespace in (select oid from ns))
select format('schema %%s %%s %%s', nspname, nspowner::regrole, nspacl) from pg_namespace
    where oid in (select oid from ns)
union all select format('relation %%s %%s %%s rls %%s %%s', oid::regclass, relkind, relowner::regrole,
    relrowsecurity, relforcerowsecurity) from rel where relkind in ('r', 'v', 'S', 'i', 'p')
union all select format('grant %%s on %%s to %%s', x.privilege_type, rel.oid::regclass, x.grantee::regrole)
    from rel cross join aclexplode(coalesce(relacl, acldefault(case relkind when 'S' then 's' else 'r' end::"char",
    relowner))) x where relkind in ('r', 'v', 'S', 'p') and x.privilege_type <> 'MAINTAIN'
union all select format('column %%s.%%s %%s %%s %%s', attrelid::regclass, attname, format_type(atttypid, atttypmod),
    attnotnull, attacl) from pg_attribute where attnum > 0 and not attisdropped
    and attrelid in (select oid from rel where relkind in ('r', 'v', 'p'))
union all select format('default %%s %%s %%s', adrelid::regclass, adnum, pg_get_expr(adbin, adrelid)) from pg_attrdef
    where adrelid in (select oid from rel)
union all select format('index %%s', pg_get_indexdef(indexrelid)) from pg_index where indrelid in (select oid from rel)
union all select format('rule %%s %%s %%s', conrelid::regclass, conname, pg_get_constraintdef(oid)) from pg_constraint
    where connamespace in (select oid from ns) and contype in ('c', 'f', 'p', 'u', 'x')
union all select format('policy %%s %%s %%s %%s %%s', polrelid::regclass, polname, polcmd,
    pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)) from pg_policy
    where polrelid in (select oid from rel)
union all select format('trigger %%s', pg_get_triggerdef(oid)) from pg_trigger
    where tgrelid in (select oid from rel) and not tgisinternal
union all select format('function %%s %%s %%s %%s %%s', oid::regprocedure, proowner::regrole, prosecdef, proacl,
    md5(prosrc)) from pg_proc where pronamespace in (select oid from ns)
union all select format('role %%s %%s %%s', rolname, rolcanlogin, rolbypassrls) from pg_roles
    where rolname in ('mover_owner', 'mover_dispatch', 'mover_guard', 'mover_daemon', 'mover_vault')
"""
_SEQUENCES = """
select format('%%I.%%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'S' and n.nspname = any (%(schemas)s) order by 1
"""

Say = Callable[[str], None]


class Compared(Struct, frozen=True):
    """One table, read whole from both: its rows and a digest of each range of them."""

    table: str
    rows: int
    ranges: tuple[str, ...]


def check_superuser(conn: psycopg.Connection[Any]) -> None:
    if conn.info.parameter_status("is_superuser") != "on":
        raise CatalogError("roles are made by a superuser", hint="Give the DSN of one; it is not kept.")


def refuse_others(conn: psycopg.Connection[Any], roles: Collection[str], *, where: Path) -> None:
    """`roles`: whose password no file of this site holds. Conflict where the server has one of them with a password."""
    query = "select rolname from pg_authid where rolname = any (%s) and rolpassword is not null order by 1"
    if others := [str(role) for (role,) in conn.execute(query, [list(roles)]).fetchall()]:
        raise Conflict(
            f"the server has {', '.join(others)} with a password of somebody else", where=str(where),
            hint="Another Mover uses this server, and would lose its logins: take one of your own. Nobody does? "
            f"psql: alter role {others[0]} password null",
        )  # fmt: skip


def ensure_logins(admin: str, secrets: dict[str, str]) -> None:
    """On the target: our roles, and a login that may read everything for dumps."""
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(statements(secrets).encode())
        # the embedded superuser applied the migrations, and so owns the record of them
        if conn.execute("select from pg_roles where rolname = %s", [SUPERUSER]).fetchone() is None:
            conn.execute(sql.SQL("create role {} nologin").format(sql.Identifier(SUPERUSER)))


def carry(source: str, target: str, *, bin_dir: Path | None, say: Say) -> list[Compared]:
    """Both DSNs are superusers'. CatalogError names what differs; then the target is not used."""
    theirs = Dumper(target, bin_dir=bin_dir)
    with fullness_told("the new database"):
        with psycopg.connect(target) as conn:
            standing = standing_schemas(conn)
        if not standing:
            say("dumping and restoring")
            ours = Dumper(source, bin_dir=bin_dir)
            with ours.moment() as moment:
                theirs.restore(ours.stream(moment, queue=True))
        say("comparing every row" if not standing else "what stands there already is compared, every row")
        return compare(source, target, say=say)


def compare(source: str, target: str, *, say: Say) -> list[Compared]:
    with _still(source) as ours, _still(target) as theirs:
        wrong = sorted(_outline(ours) ^ _outline(theirs))
        tables, compared = _tables(ours), []
        if wrong or tables != _tables(theirs) or (_sequences(ours) != _sequences(theirs)):
            raise _different(wrong or ["tables or sequences"])
        for table in tables:
            compared.append(_compare_table(ours, theirs, table))
            say(f"{table}: {compared[-1].rows} rows are the same")
    return compared


def _compare_table(ours: psycopg.Connection[Any], theirs: psycopg.Connection[Any], table: str) -> Compared:
    ranges, rows = [], 0
    for left, right in _side_by_side(_ranges(ours, table), _ranges(theirs, table)):
        if left != right:
            raise _different([f"{table}, rows {rows + 1} to {rows + max(left[0], right[0])} of their order"])
        rows += left[0]
        ranges.append(left[1])
    return Compared(table, rows, tuple(ranges))


Range = tuple[int, str]
_NOTHING: Range = (0, "")


def _side_by_side(left: Iterator[Range], right: Iterator[Range]) -> Iterator[tuple[Range, Range]]:
    while True:
        pair = next(left, _NOTHING), next(right, _NOTHING)
        if pair == (_NOTHING, _NOTHING):
            return
        yield pair


def _ranges(conn: psycopg.Connection[Any], table: str) -> Iterator[Range]:
    """Rows in their order as text, so many at once: a count and a digest over each with its length before it."""
    query = sql.SQL('select t::text from {} t order by t::text collate "C"').format(sql.SQL(table))
    with conn.cursor(name="rows") as cursor:
        cursor.itersize = RANGE_ROWS
        cursor.execute(query)
        while some := cursor.fetchmany(RANGE_ROWS):
            digest = blake3()
            for (row,) in some:
                body = str(row).encode()
                digest.update(len(body).to_bytes(8, "big") + body)
            yield len(some), digest.hexdigest()


@contextlib.contextmanager
def _still(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(make_conninfo(dsn, options=AS_TEXT)) as conn:
        conn.execute("set transaction isolation level repeatable read, read only")
        conn.execute("set local row_security = off")
        conn.execute("set local search_path = pg_catalog")
        yield conn


def _outline(conn: psycopg.Connection[Any]) -> set[str]:
    return {str(line) for (line,) in conn.execute(_OUTLINE, {"schemas": _EVERY}).fetchall()}


def _tables(conn: psycopg.Connection[Any]) -> list[str]:
    query = (
        "select format('%%I.%%I', schemaname, tablename) from pg_tables where schemaname = any (%(schemas)s) order by 1"
    )
    return [str(name) for (name,) in conn.execute(query, {"schemas": _EVERY}).fetchall()]


def _sequences(conn: psycopg.Connection[Any]) -> dict[str, object]:
    names = [str(name) for (name,) in conn.execute(_SEQUENCES, {"schemas": _EVERY}).fetchall()]
    query = "select last_value, is_called from {}"
    return {name: conn.execute(sql.SQL(query).format(sql.SQL(name))).fetchone() for name in names}


def _different(what: list[str]) -> CatalogError:
    return CatalogError(
        "what arrived is not what was sent; it is not used", details=[{"where": one} for one in what[:DIFFERENT_MAX]],
        hint="Drop the new database, and begin again; the old one is untouched.",
    )  # fmt: skip
