"""The audit record and the check of its chains."""

from __future__ import annotations

from mover.api.operation import Call, Limit, Operations, PathQuery, Query, ShortQuery
from mover.model import wire

OPERATIONS = Operations()


class AuditQuery(Query):
    subject: ShortQuery | None = None
    after: PathQuery | None = None
    limit: Limit = 100


@OPERATIONS.add("GET", "/v1/audit", "audit.read", wire.AuditPage, query=AuditQuery)
async def page(call: Call[None, AuditQuery]) -> wire.AuditPage:
    """Who did what, in the order of the chains."""
    query = call.query
    return await call.rooms.audit.page(
        call.project, subject=query.subject, after=query.after, limit=query.limit
    )


@OPERATIONS.add("GET", "/v1/audit/verify", "audit.read", wire.AuditVerdict)
async def verify(call: Call[None, Query]) -> wire.AuditVerdict:
    """Recompute every chain of the project."""
    return await call.rooms.audit.verify(call.project)
