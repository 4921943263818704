"""Work that ended long ago leaves the catalog, in small pieces; what it said stands in proofs and in the audit.

Jobs of the dispatcher go as soon as they end. Shards stay for a while, because somebody may ask what was done, and
those that failed longer, because somebody may ask why. What was removed before a kill is gone; the next turn goes on.
"""

from __future__ import annotations

from collections import Counter

from mover import metrics
from mover.catalog.database import Database
from mover.catalog.queries import load

SQL = load(__file__)
# rows of one statement, and statements of one turn and project: a turn never holds a worker up
PIECE = 2_000
PIECES = 50


async def forget_ended(database: Database, *, done_days: int, failed_days: int, piece: int = PIECE) -> int:
    """One turn over every project; how many went."""
    async with database.instance() as conn:
        projects = [row.id for row in await SQL.many(conn, "projects")]
    gone: Counter[str] = Counter()
    for project in projects:
        for _ in range(PIECES):
            async with database.project(project) as conn:
                rows = await SQL.many(conn, "forget", done_days=done_days, failed_days=failed_days, limit=piece)
            gone.update(row.state for row in rows)
            if len(rows) < piece:
                break
    for state, count in gone.items():
        metrics.SHARDS_FORGOTTEN.labels(state).inc(count)
    return gone.total()


async def measure(database: Database, project: str) -> None:
    """Sizes of tables, and how old the oldest work is that stands."""
    async with database.project(project) as conn:
        sizes, oldest = await SQL.many(conn, "sizes"), await SQL.one(conn, "oldest")
    metrics.TABLE_BYTES.clear()
    for row in sizes:
        metrics.TABLE_BYTES.labels(row.name).set(row.size_bytes)
    metrics.SHARD_OLDEST.set(oldest.seconds or 0.0)
