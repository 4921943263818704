"""The facts from which `decide.needs` tells what waits for a person."""

from __future__ import annotations

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide.needs import Fact

SQL = load(__file__)


async def facts_of(conn: Connection) -> list[Fact]:
    """Of the connection's project; those that count nothing are among them."""
    return [Fact(**row._asdict()) for row in await SQL.many(conn, "facts")]
