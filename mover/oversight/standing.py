"""What is on its way and until when, and when what must happen again and again happened last."""

from __future__ import annotations

from collections.abc import Callable

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.model import wire

SQL = load(__file__)
MOVING_MAX = 50
# whose table of rights says who may know of it
_NOUNS = {
    "run": "runs", "batch": "batches", "record": "records", "transfer": "transfers", "verification": "verifications",
    "restore": "restores", "scan": "scans",
}  # fmt: skip


async def moving(conn: Connection, may: Callable[[str], bool]) -> list[wire.OnItsWay]:
    """The oldest first; only what the caller may read."""
    rows = await SQL.many(conn, "moving", limit=MOVING_MAX)
    return [wire.OnItsWay(**row._asdict()) for row in rows if may(f"{_NOUNS[row.noun]}.read")]


async def last(conn: Connection, may: Callable[[str], bool]) -> list[wire.LastTime]:
    return [wire.LastTime(what=row.what, at=row.at) for row in await SQL.many(conn, "last") if may(f"{row.of}.read")]
