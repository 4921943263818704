"""What stands on a tier or waits for it, over all projects: why it may not be taken out of the settings."""

from __future__ import annotations

from msgspec import Struct

from mover.catalog.database import Database
from mover.catalog.queries import load

SQL = load(__file__)


class Standing(Struct, frozen=True):
    project: str
    what: str
    count: int


async def standing(database: Database, tier: str, *, queue: str) -> list[Standing]:
    """`queue`: of the work that is done where this tier is."""
    async with database.instance() as conn:
        projects = [row.id for row in await SQL.many(conn, "projects")]
    found = []
    for project in projects:
        async with database.project(project) as conn:
            rows = await SQL.many(conn, "standing", tier=tier, queue=queue)
        found += [Standing(project, row.what, row.count) for row in rows]
    return found
