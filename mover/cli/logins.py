"""The site's own PostgreSQL, for `mover init`: files with the logins of two daemons, and what its server is told.

Passwords are ours, made once and kept. Only a superuser's DSN that is given (`--admin`) is ever used by us; it is kept
nowhere.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mover.catalog.logins import DUMP, statements

if TYPE_CHECKING:
    from psycopg import Connection

# a folder of the identified daemon, which the other's units do not see whatever is renamed within
APART = "identified"
# file, its role at the server, and whether it is the identified daemon's
FILES = (
    ("dsn", "mover_daemon", False),
    (f"{APART}/dsn", "mover_daemon", True),
    (f"{APART}/vault-dsn", "mover_vault", True),
    (f"{APART}/dump-dsn", DUMP, True),
)
SCRIPT = "database.sql"
_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,62}")


def place_of(answer: str) -> dict[str, str]:
    """Host, port and database of the answer. RequestInvalid where it says who comes, or with which password."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    from mover.errors import RequestInvalid

    try:
        found = {name: str(value) for name, value in conninfo_to_dict(answer).items() if value is not None}
    except psycopg.ProgrammingError as error:
        raise RequestInvalid("`database` is no DSN", hint="Such as: host=db.ward.example dbname=mover") from error
    told = sorted({"user", "password", "passfile", "service"} & set(found))
    if told:
        raise RequestInvalid(f"`database` says {told[0]}", hint="Name the server and the database; logins are made.")
    if not _NAME.fullmatch(found.setdefault("dbname", "mover")) or not found.get("host"):
        raise RequestInvalid(
            "`database` names no server, or a database with another name than small letters, digits, _ and -",
            hint="Such as: host=db.ward.example dbname=mover, or host=/run/postgresql for a server on this machine.",
        )
    return found


def admin_dsn(place: dict[str, str], *, dbname: str) -> str:
    """What a superuser would say to it."""
    from psycopg.conninfo import make_conninfo

    return make_conninfo("", **{**place, "dbname": dbname, "user": "postgres"})


def at_database(admin: str, dbname: str) -> str:
    """The superuser's DSN at our database."""
    from psycopg.conninfo import make_conninfo

    return make_conninfo(admin, dbname=dbname)


def write_files(folder: Path, place: dict[str, str]) -> dict[str, str]:
    """A file for each login, made once and kept; the password of each role. 0600 and the caller's."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    from mover.catalog.postgres import write_private
    from mover.randomness import new_secret

    secrets: dict[str, str] = {}
    (folder / APART).mkdir(mode=0o700, exist_ok=True)
    for name, role, _ in FILES:
        path = folder / name
        if path.exists():
            secrets[role] = str(conninfo_to_dict(path.read_text("utf-8").strip())["password"])
    for name, role, _ in FILES:
        secrets.setdefault(role, new_secret())
        if not (folder / name).exists():
            write_private(folder / name, make_conninfo("", **{**place, "user": role, "password": secrets[role]}) + "\n")
    return secrets


def refuse_others(admin: str, folder: Path) -> None:
    """Conflict where the server has one of our logins with a password that no file of this site holds."""
    from mover.catalog import carrying

    held = {role for name, role, _ in FILES if (folder / name).exists()}
    with _superuser(admin) as conn:
        carrying.refuse_others(conn, {role for _, role, _ in FILES} - held, where=folder)


def script(place: dict[str, str], secrets: dict[str, str]) -> str:
    """For psql, by a superuser of the server; called again it changes nothing but passwords back to ours."""
    name = place["dbname"]
    return f"""\
-- Written by `mover init`: the roles and the database of Mover, for a superuser of the server:
--   psql {_shell(admin_dsn(place, dbname="postgres"))} -f FILE
-- Tables come after that, by `mover db migrate`. Passwords stand here as verifiers only.
-- Not for a server that another Mover uses: its daemons would lose their logins.
\\set ON_ERROR_STOP on
{statements(secrets)}
select 'create database "{name}" encoding ''UTF8'' template template0'
where not exists (select from pg_database where datname = '{name}') \\gexec
"""


def tell(admin: str, place: dict[str, str], secrets: dict[str, str]) -> bool:
    """The same by a superuser's DSN; whether the database was made now. CatalogError where it is no superuser's."""
    with _superuser(admin) as conn:
        conn.execute(statements(secrets).encode())
        if _stands(conn, place["dbname"]):
            return False
        conn.execute(f"create database \"{place['dbname']}\" encoding 'UTF8' template template0".encode())
        return True


def look(admin: str, place: dict[str, str]) -> str:
    """What `tell` would meet, in words."""
    with _superuser(admin) as conn:
        found = conn.execute("select rolname from pg_roles where rolname ~ '^mover_'").fetchall()
        missing = sorted({role for _, role, _ in FILES} - {str(role) for (role,) in found})
        database = "is there" if _stands(conn, place["dbname"]) else "would be made"
        roles = f"roles {' '.join(missing)} would be made" if missing else "its roles are there"
        version = conn.info.parameter_status("server_version")
        return f"PostgreSQL {version}: the database {place['dbname']} {database}, {roles}"


def _superuser(admin: str) -> Connection[tuple[object, ...]]:
    import psycopg

    from mover.catalog.carrying import check_superuser
    from mover.errors import CatalogError, CatalogUnavailable

    try:
        conn = psycopg.connect(admin, autocommit=True)
    except psycopg.OperationalError as error:
        raise CatalogUnavailable(
            "the server of --admin does not let us in", hint="Try it: psql with that DSN."
        ) from error
    try:
        check_superuser(conn)
    except CatalogError:
        conn.close()
        raise
    return conn


def _stands(conn: Connection[tuple[object, ...]], name: str) -> bool:
    return conn.execute("select from pg_database where datname = %s", [name]).fetchone() is not None


def own(folder: Path, *, clean: os.stat_result, identified: os.stat_result) -> None:
    """Each file to the user of its daemon, where root made it."""
    for name, _, names in FILES:
        owner = identified if names else clean
        os.chown(folder / name, owner.st_uid, owner.st_gid)
    os.chown(folder / APART, 0, identified.st_gid)  # root's: nobody else puts files, or links, where root writes
    (folder / APART).chmod(0o750)


def _shell(text: str) -> str:
    import shlex

    return shlex.quote(text)
