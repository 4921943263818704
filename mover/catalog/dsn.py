"""Where the catalog is, as each new connection is told.

A DSN that stands in a file is read again whenever somebody connects: a password that was changed at the server and in
the file is taken without a restart, and what is connected stays connected. Only how one gets in may change so. Another
host, port, database or role is another catalog, and half of our connections would work in each: that waits for a
restart, and until then the old one is used.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mover.errors import CatalogRefused, CatalogUnavailable, SettingsInvalid
from mover.log import get_logger
from mover.settings import read_dsn

# a DSN, or what says it anew
Source = str | Callable[[], str]

# what says which catalog it is, and as whom we are there
_FIXED = ("host", "hostaddr", "port", "dbname", "user", "service")

log = get_logger("catalog")


class Followed:
    """The DSN of a file; `more` is set on top of it. Asked for at each new connection."""

    def __init__(self, file: Path, dsn: str, **more: str) -> None:
        self._file, self._taken, self._more = file, dsn, more
        self.problem: str | None = None

    @property
    def taken(self) -> str:
        """The last good one."""
        return self._taken

    def __call__(self) -> str:
        """Blocking, and short. A file that cannot be taken changes nothing: it is said once, and the last good one
        counts."""
        problem = None
        try:
            self._taken = same_catalog(self._taken, read_dsn(self._file), file=self._file)
        except SettingsInvalid as error:
            problem = error.what
        if problem is not None and problem != self.problem:
            log.warning("DSN not taken", what=problem)
        self.problem = problem
        return make_conninfo(self._taken, **self._more)


def current(source: Source) -> str:
    """Blocking where a file is followed."""
    return source if isinstance(source, str) else source()


async def ask(source: Source) -> str:
    return await asyncio.to_thread(current, source)


def same_catalog(old: str, new: str, *, file: Path) -> str:
    """`new`, or SettingsInvalid where it names another catalog than `old`, or none."""
    if new == old:
        return new
    was, wanted = _parts(old, file), _parts(new, file)
    other = [name for name in _FIXED if was.get(name) != wanted.get(name)]
    if other:
        raise SettingsInvalid(
            f"the DSN has another {' and another '.join(other)}: that is taken at the next start",
            where=str(file), hint="A password, its `passfile` and what TLS needs may change while the daemon works.",
        )  # fmt: skip
    return new


# what libpq says (the wheel's and our children's speak English), and what we say: its own words may quote the DSN
_NOT_SIGNED = (
    "its certificate is by another authority, or is not valid today",
    "`sslrootcert` of the DSN is its authority's file; a certificate that ended is renewed at the server.",
)
_UNBELIEVED = {
    "certificate verify failed": _NOT_SIGNED,
    # by another authority of the same name
    "signature failure": _NOT_SIGNED,
    "does not match host name": (
        "its certificate is for another host name",
        "The DSN's `host` is a name that stands in the certificate; have one made for it, or mend the DSN.",
    ),
    "root certificate file": (
        "the file of its authority cannot be read",
        "`sslrootcert` of the DSN names a PEM file that the daemon's user may read.",
    ),
    "server does not support SSL": (
        "the DSN wants TLS, and the server offers none", "Set ssl=on at the server, with its certificate and key.",
    ),
    "SSL support is not compiled in": (
        "the DSN wants TLS, and these PostgreSQL programs cannot", "Name your distribution's with `database.bin_dir`.",
    ),
}  # fmt: skip


def unbelieved(words: str) -> tuple[str, str] | None:
    """Why TLS to the database was refused, by either side, and what helps; None where something else went wrong."""
    return next((told for said, told in _UNBELIEVED.items() if said in words), None)


# what no waiting mends: SQLSTATE 28000, 28P01 and 3D000, of which libpq has the words only. Words of directories (LDAP,
# PAM, RADIUS) are left out: they are the same where the directory is away. A server of another language is waited for,
# but for `pg_hba.conf`, which none translates
_REFUSED = [
    (r"password authentication failed|no password supplied", "it asks for a password, and not for the one it was given",
     r"The role and its password stand in the DSN's file; psql: \password ROLE sets it at the server."),
    (r"pg_hba\.conf", "its pg_hba.conf lets nobody in with this role, database, address and encryption",
     "Add a line to the server's pg_hba.conf, then psql: select pg_reload_conf(). Or mend the DSN."),
    (r"(Peer|Ident|[Cc]ertificate) authentication failed", "it takes us for somebody else than the DSN's role",
     "Its pg_hba.conf and pg_ident.conf say who is which role; give the DSN that role, or a password."),
    (r'role ".*" does not exist|is not permitted to log in', "the DSN's role is unknown there, or may not log in",
     "`mover init --admin DSN` makes the roles; psql: alter role ROLE login."),
    (r'database ".*" does not exist', "the DSN's database does not exist there",
     "Mend `dbname` in the DSN's file, or have the database made."),
]  # fmt: skip
# what comes right by itself, or at the server
_AWAY = [
    (r"certificate file|private key file", "the DSN's own certificate or its key cannot be used (`sslcert`, `sslkey`)"),
    (r"Is the server running", "no server listens there"),
    (r"failed to resolve host|could not translate host name", "the name of its host is not known"),
    (r"timeout expired|timed out|No route to host|unreachable", "its host does not answer"),
    (r"the database system is", "it is starting, recovering or shutting down"),
    (r"too many (clients|connections)|remaining connection slots", "it has no connection left for us"),
    (r"not currently accepting connections|permission denied for database", "the database takes no connections now"),
    (r"FATAL:", "it refuses us; its own log says why"),
]


def unreachable(error: psycopg.OperationalError, otherwise: str) -> CatalogUnavailable:
    """CatalogRefused where waiting changes nothing. The reason is told in our words: libpq's quote the DSN."""
    words = str(error)
    if why := unbelieved(words):
        return CatalogUnavailable(f"the database is not believed: {why[0]}", hint=why[1])
    # where a DSN names several servers, one that lets nobody in says nothing of one that is away
    tries = words.split("\n- host: ")[1:] or [words]
    refusals = [_refusal(one) for one in tries]
    if first := all(refusals) and refusals[0]:
        return CatalogRefused(f"the database lets us not in: {first[0]}", hint=first[1])
    away = [told for one in tries for said, told in _AWAY if re.search(said, one)]
    told = next((refusal[0] for refusal in refusals if refusal), away[0] if away else "")
    return CatalogUnavailable(f"{otherwise}: {told}" if told else otherwise)


def _refusal(words: str) -> tuple[str, str] | None:
    return next(((what, hint) for said, what, hint in _REFUSED if re.search(said, words)), None)


def reach(dsn: str, otherwise: str, *, autocommit: bool = False) -> psycopg.Connection[Any]:
    """Blocking, for commands."""
    try:
        return psycopg.connect(dsn, autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise unreachable(error, otherwise) from error


def _parts(dsn: str, file: Path) -> dict[str, Any]:
    try:
        return conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # its text may quote the password
        raise SettingsInvalid("the file holds no DSN that PostgreSQL's client understands", where=str(file)) from None
