"""What two people decide about a withdrawn slide: it was a false alarm, or its bytes go for good."""

from __future__ import annotations

from mover.api.operation import Call, Limit, Operations, PathQuery, Query, ShortQuery, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"done", "declined", "failed"})


class RulingsQuery(Query, frozen=True):
    """With `open=true` only those that wait for a second person; with `number` only those about one slide."""

    open: bool = False
    number: ShortQuery | None = None
    after: PathQuery | None = None
    limit: Limit = 100


@OPERATIONS.add("POST", "/v1/slides/{number}/rulings", "rulings.ask", wire.Ruling, body=wire.RulingRequest, status=201)
async def ask(call: Call[wire.RulingRequest, Query]) -> wire.Ruling:
    """Ask that a withdrawn slide be reinstated, or that its bytes be removed; a second person decides."""
    return await call.rooms.rulings.ask(call.identity, call.id, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/rulings", "rulings.read", wire.RulingPage, query=RulingsQuery)
async def list_rulings(call: Call[None, RulingsQuery]) -> wire.RulingPage:
    """The rulings of the project, newest first."""
    query = call.query
    return await call.rooms.rulings.list(
        call.project, query.after, query.limit, open=query.open, number=query.number
    )


@OPERATIONS.add("GET", "/v1/rulings/{id}", "rulings.read", wire.Ruling, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Ruling:
    """One ruling; with `wait`, as soon as its state changes or is final."""
    return await call.until(lambda: call.rooms.rulings.view(call.project, call.id), FINAL)


@OPERATIONS.add("POST", "/v1/rulings/{id}/decide", "rulings.decide", wire.Ruling, body=wire.RulingDecision)
async def decide(call: Call[wire.RulingDecision, Query]) -> wire.Ruling:
    """The second person grants or declines."""
    return await call.rooms.rulings.decide(call.identity, call.id, call.body, request=call.request)
