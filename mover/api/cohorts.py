"""Step 3, first half: columns to ask about and cohorts to save."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Paged, Query
from mover.model import wire

OPERATIONS = Operations()


class WithValues(Query, frozen=True):
    values: bool = False


@OPERATIONS.add("POST", "/v1/cohorts", "cohorts.save", wire.Cohort, body=wire.CohortRequest, status=201)
async def save(call: Call[wire.CohortRequest, Query]) -> wire.Cohort:
    """Save an expression under a name; another expression of that name is its next version."""
    return await call.rooms.cohorts.save(call.project, call.actor, call.body)


@OPERATIONS.add("POST", "/v1/cohorts/count", "cohorts.read", wire.Count, body=wire.CountRequest)
async def count(call: Call[wire.CountRequest, Query]) -> wire.Count:
    """How many slides and bytes an expression names today; nothing is saved."""
    slides, size_bytes = await call.rooms.cohorts.count(call.project, call.body.expression)
    return wire.Count(count=slides, bytes=size_bytes)


@OPERATIONS.add("POST", "/v1/cohorts/explain", "cohorts.read", wire.Explanation, body=wire.CountRequest)
async def explain(call: Call[wire.CountRequest, Query]) -> wire.Explanation:
    """An expression in words, how many slides each of its clauses selects alone, and how they are found."""
    return await call.rooms.cohorts.explain(call.project, call.body.expression)


@OPERATIONS.add("POST", "/v1/cohorts/describe", "cohorts.read", wire.Description, body=wire.DescribeRequest)
async def describe(call: Call[wire.DescribeRequest, Query]) -> wire.Description:
    """How the values of columns are spread over what an expression names today."""
    return await call.rooms.cohorts.describe(call.project, call.body)


@OPERATIONS.add("GET", "/v1/cohorts", "cohorts.read", wire.CohortPage, query=Paged)
async def list_cohorts(call: Call[None, Paged]) -> wire.CohortPage:
    """The saved cohorts of the project, by name; each is counted as it selects now."""
    return await call.rooms.cohorts.list(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/cohorts/{ref}", "cohorts.read", wire.Cohort)
async def get(call: Call[None, Query]) -> wire.Cohort:
    """One cohort by id, name or name@version."""
    return await call.rooms.cohorts.get(call.project, call.id)


@OPERATIONS.add("POST", "/v1/cohorts/{ref}/freeze", "cohorts.save", wire.Selection, status=201)
async def freeze(call: Call[None, Query]) -> wire.Selection:
    """Write down the slides that a cohort names now; the list never changes."""
    return await call.rooms.cohorts.freeze(call.project, call.actor, call.id)


@OPERATIONS.add("POST", "/v1/cohorts/{ref}/split", "cohorts.save", wire.CohortSplit, body=wire.SplitRequest, status=201)
async def split(call: Call[wire.SplitRequest, Query]) -> wire.CohortSplit:
    """Deal a cohort's slides out, by patients and evenly by a column; each part is a list that never changes."""
    return await call.rooms.cohorts.split(call.identity, call.id, call.body)


@OPERATIONS.add("GET", "/v1/selections/{id}", "cohorts.read", wire.SelectionPage, query=Paged)
async def selection(call: Call[None, Paged]) -> wire.SelectionPage:
    """One frozen list, with a page of its numbers."""
    return await call.rooms.cohorts.selection(call.project, call.id, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/columns", "cohorts.read", wire.Columns, query=WithValues)
async def columns(call: Call[None, WithValues]) -> wire.Columns:
    """What an expression may ask about; with `values=true` also the most frequent values."""
    return await call.rooms.cohorts.columns(call.project, values=call.query.values)
