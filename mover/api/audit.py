"""The audit record and the check of its chains."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mover import audit
from mover.api.operation import Call, Limit, Operations, PathQuery, Query, ShortQuery
from mover.catalog.database import Database
from mover.model import wire

OPERATIONS = Operations()


class AuditQuery(Query, frozen=True):
    subject: ShortQuery | None = None
    after: PathQuery | None = None
    limit: Limit = 100


@OPERATIONS.add("GET", "/v1/audit", "audit.read", wire.AuditPage, query=AuditQuery)
async def page(call: Call[None, AuditQuery]) -> wire.AuditPage:
    """Who did what, in the order of the chains."""
    query = call.query
    return await call.rooms.audit.page(call.project, subject=query.subject, after=query.after, limit=query.limit)


@OPERATIONS.add("GET", "/v1/audit/verify", "audit.read", wire.AuditVerdict)
async def verify(call: Call[None, Query]) -> wire.AuditVerdict:
    """Recompute every chain of the project."""
    return await call.rooms.audit.verify(call.project)


@OPERATIONS.add("GET", "/v1/audit/export", "audit.read", str, media_type="application/jsonl; charset=utf-8")
async def export(call: Call[None, Query]) -> AsyncIterator[bytes]:
    """Every chain as JSON lines, each record as it was hashed, so that an outsider can recompute it."""
    return call.rooms.audit.export(call.project)


class Trail:
    """The audit room as the API asks it: each question is one transaction of one project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, project: str, /, *, subject: str | None, after: str | None, limit: int) -> wire.AuditPage:
        async with self._database.project(project) as conn:
            return await audit.page(conn, project, subject=subject, after=after, limit=limit)

    async def verify(self, project: str, /) -> wire.AuditVerdict:
        async with self._database.project(project) as conn:
            return await audit.verify(conn, project)

    async def export(self, project: str, /) -> AsyncIterator[bytes]:
        async with self._database.project(project) as conn:
            async for line in audit.export(conn, project):
                yield line
