"""Step 3, first half: columns to ask about and cohorts to save."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query
from mover.model import wire

OPERATIONS = Operations()


@OPERATIONS.add("POST", "/v1/cohorts", "cohorts.save", wire.Cohort, body=wire.CohortRequest, status=201)
async def save(call: Call[wire.CohortRequest, Query]) -> wire.Cohort:
    """Save an expression under a name; another expression of that name is its next version."""
    return await call.rooms.cohorts.save(call.project, call.actor, call.body)


@OPERATIONS.add("POST", "/v1/cohorts/count", "cohorts.read", wire.Count, body=wire.CountRequest)
async def count(call: Call[wire.CountRequest, Query]) -> wire.Count:
    """How many slides and bytes an expression names today; nothing is saved."""
    slides, size_bytes = await call.rooms.cohorts.count(call.project, call.body.expression)
    return wire.Count(count=slides, bytes=size_bytes)


@OPERATIONS.add("GET", "/v1/cohorts", "cohorts.read", wire.CohortPage)
async def list_cohorts(call: Call[None, Query]) -> wire.CohortPage:
    """The saved cohorts of the project."""
    return wire.CohortPage(cohorts=await call.rooms.cohorts.list(call.project))


@OPERATIONS.add("GET", "/v1/cohorts/{ref}", "cohorts.read", wire.Cohort)
async def get(call: Call[None, Query]) -> wire.Cohort:
    """One cohort by id, name or name@version."""
    return await call.rooms.cohorts.get(call.project, call.id)


@OPERATIONS.add("GET", "/v1/columns", "cohorts.read", wire.Columns)
async def columns(call: Call[None, Query]) -> wire.Columns:
    """What an expression may ask about."""
    return await call.rooms.cohorts.columns(call.project)
