"""Step 2: record sets and their ledgers."""

from __future__ import annotations

from mover.api.operation import Call, Limit, Operations, Paged, PathQuery, Planned, Query, ShortQuery, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"aligned", "quarantined"})


class OfBatch(Paged, frozen=True):
    batch: ShortQuery | None = None


class LedgerQuery(Query, frozen=True):
    table: ShortQuery | None = None
    state: ShortQuery | None = None
    after: PathQuery | None = None
    limit: Limit = 100


@OPERATIONS.add(
    "POST",
    "/v1/records",
    "records.declare",
    wire.RecordSet,
    body=wire.RecordsRequest,
    query=Planned,
    status=202,
)
async def declare(call: Call[wire.RecordsRequest, Planned]) -> wire.RecordSet | wire.Plan:
    """Declare the tables of a batch; they wait until its image work is complete."""
    if call.query.plan:
        return await call.rooms.records.plan_declare(call.project, call.actor, call.body)
    return await call.rooms.records.declare(call.project, call.actor, call.body, request=call.request)


@OPERATIONS.add("POST", "/v1/records/found", "names.reveal", wire.FoundTables, body=wire.TablesLook)
async def found(call: Call[wire.TablesLook, Query]) -> wire.FoundTables:
    """Files on the source tier that may be tables, for a purpose that goes on record."""
    return await call.rooms.records.found(call.project, call.actor, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/records", "records.read", wire.RecordSetPage, query=OfBatch)
async def list_records(call: Call[None, OfBatch]) -> wire.RecordSetPage:
    """The record sets of the project or of one batch, newest first."""
    query = call.query
    return await call.rooms.records.list(call.project, query.batch, query.after, query.limit)


@OPERATIONS.add("GET", "/v1/records/{id}", "records.read", wire.RecordSet, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.RecordSet:
    """One record set with its ledger's totals; with `wait`, as soon as its state changes or is final."""
    return await call.until(lambda: call.rooms.records.view(call.project, call.id), FINAL)


@OPERATIONS.add("GET", "/v1/records/{id}/ledger", "records.read", wire.LedgerPage, query=LedgerQuery, reads="ledger")
async def ledger(call: Call[None, LedgerQuery]) -> wire.LedgerPage:
    """The ledger line by line: every row and every image in exactly one state."""
    query = call.query
    return await call.rooms.records.ledger(call.project, call.id, query.table, query.state, query.after, query.limit)
