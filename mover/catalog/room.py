"""A disk that runs full while a database is dumped, migrated or carried, said as what it is.

Room is looked for before (`backups`, `majors`); somebody else may take it meanwhile.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from mover.catalog.dsn import unbelieved, unreachable
from mover.errors import CatalogError, CatalogUnavailable, NoRoom

# what the C library says, and so what PostgreSQL and its programs repeat
FULL = "No space left on device"
GONE = "server closed the connection"
# and what is said of a server that ended, or comes up again: what one does whose log finds no room
_ENDED = (GONE, "connection is closed", "connection is lost", "Is the server running", "the database system is",
          "because of crash of another")  # fmt: skip
_OFTEN_FULL = "Often its disk is full: free space where it stands, and type the same command again."


@contextmanager
def fullness_told(where: object) -> Iterator[None]:
    """NoRoom for a full disk; CatalogUnavailable for a server that went away, as PostgreSQL does where its log finds no
    room, and for whatever else it refuses. The caller has removed what it began. What the database said may quote rows:
    it stays behind as the cause."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NoRoom("the disk ran full; nothing was changed", where=str(where)) from error
    except psycopg.errors.DiskFull as error:
        raise NoRoom("the disk of the database ran full; nothing was changed", where=str(where)) from error
    except psycopg.OperationalError as error:
        if any(one in str(error) for one in _ENDED) and not unbelieved(str(error)):
            raise _gone(where) from error
        kind = f"{type(error).__name__} {error.sqlstate or ''}".strip()
        raise unreachable(error, f"nothing was changed, for the database went no further ({kind})") from error


def ended_for_room(program: str, words: str) -> CatalogError | None:
    """What `pg_dump` and `pg_restore` say of the same. None: it is about something else."""
    if FULL in words:
        return NoRoom(
            f"{program} met a full disk; nothing was changed", where="the folder of the database",
            hint="Free space there, and type the same command again.",
        )  # fmt: skip
    return _gone(f"under {program}") if GONE in words else None


def _gone(where: object) -> CatalogUnavailable:
    return CatalogUnavailable(
        "the database went away in between; nothing was changed", where=str(where), hint=_OFTEN_FULL
    )
