"""Where the catalog is, as each new connection is told.

A DSN that stands in a file is read again whenever somebody connects: a password that was changed at the server and in
the file is taken without a restart, and what is connected stays connected. Only how one gets in may change so. Another
host, port, database or role is another catalog, and half of our connections would work in each: that waits for a
restart, and until then the old one is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mover.errors import CatalogUnavailable, SettingsInvalid
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


def unreachable(error: psycopg.OperationalError, otherwise: str) -> CatalogUnavailable:
    why = unbelieved(str(error))
    if why is None:
        return CatalogUnavailable(otherwise)
    return CatalogUnavailable(f"the database is not believed: {why[0]}", hint=why[1])


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
