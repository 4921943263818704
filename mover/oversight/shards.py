"""Work as it is dispatched: who holds what, what is tried again, and which shard of a run the others wait for."""

from __future__ import annotations

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.model import wire

SQL = load(__file__)


async def shards(
    conn: Connection, *, subject: str | None, kind: str | None, state: str | None, after: str | None, limit: int
) -> wire.ShardPage:
    rows = await SQL.many(conn, "page", subject=subject, kind=kind, state=state, after=after, limit=limit)
    found = [wire.Shard(**row._asdict()) for row in rows]
    return wire.ShardPage(shards=found, next=found[-1].id if len(found) == limit else None)


async def nodes(conn: Connection) -> wire.Nodes:
    return wire.Nodes(nodes=[wire.Node(**row._asdict()) for row in await SQL.many(conn, "nodes")])
