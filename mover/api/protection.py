"""Turns of a policy's upkeep on demand, and the keys of its repositories."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Planned, Query, ShortQuery, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"done", "waiting", "failed"})


class KeysQuery(Query, frozen=True):
    policy: ShortQuery | None = None
    second: bool = False


@OPERATIONS.add(
    "POST", "/v1/protection/turns", "snapshots.turn", wire.ProtectTurn, body=wire.TurnRequest, query=Planned,
    status=202,
)  # fmt: skip
async def request(call: Call[wire.TurnRequest, Planned]) -> wire.ProtectTurn | wire.Plan:
    """Judge by the rules, prune, check, drill or copy now; one that runs already is that one."""
    if call.query.plan:
        return await call.rooms.turns.plan_request(call.identity, call.body)
    return await call.rooms.turns.request(call.identity, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/protection/turns/{id}", "snapshots.read", wire.ProtectTurn, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.ProtectTurn:
    """One turn: its plan, what it did, why it waits; with `wait`, as soon as its state changes or it ended."""
    return await call.until(lambda: call.rooms.turns.view(call.project, call.id), FINAL)


@OPERATIONS.add("GET", "/v1/protection/keys", "snapshots.keys", wire.RepositoryKeys, query=KeysQuery)
async def list_keys(call: Call[None, KeysQuery]) -> wire.RepositoryKeys:
    """The keys of a policy's repository, or of its second one, as they say of themselves."""
    return await call.rooms.keys.list(call.query.policy, second=call.query.second)


@OPERATIONS.add("POST", "/v1/protection/keys", "snapshots.keys", wire.RepositoryKeys, body=wire.KeyRequest, status=201)
async def add_key(call: Call[wire.KeyRequest, Query]) -> wire.RepositoryKeys:
    """One more password, from a file on the daemon's machine; a key is removed by two persons (`remove-key`)."""
    return await call.rooms.keys.add(call.identity, call.body, request=call.request)
