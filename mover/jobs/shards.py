"""Shards: add, claim, renew, finish. Every function takes the connection it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct
from psycopg.types.json import Jsonb

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.errors import LeaseLost
from mover.randomness import new_id

SQL = load(__file__)
# shards written by one statement
ADD_SLICE = 1000


class NewShard(Struct, frozen=True):
    queue: str
    kind: str
    subject_id: str
    members: tuple[str, ...] = ()
    priority: int = 0


class Shard(Struct, frozen=True):
    """A claimed shard. `epoch` is the fencing number: only its holder may finish it."""

    id: str
    project: str
    queue: str
    kind: str
    subject_id: str
    members: tuple[str, ...]
    epoch: int
    claims: int
    failures: int


def tier_queue(tier: str) -> str:
    """A node serves the queues of the tiers it can reach."""
    return f"tier:{tier}"


def queue_tier(queue: str) -> str:
    """The tier whose queue it is."""
    return queue.removeprefix("tier:")


async def add_shards(conn: Connection, project: str, shards: Iterable[NewShard]) -> None:
    """Add shards in the caller's transaction; feeders hear of them when it commits."""
    rows = [{"id": new_id("shard"), **msgspec.structs.asdict(shard)} for shard in shards]
    for start in range(0, len(rows), ADD_SLICE):
        part = Jsonb(rows[start : start + ADD_SLICE], msgspec.json.encode)
        await conn.execute(SQL["add"], {"project": project, "shards": part})
    await conn.execute(SQL["wake"])


async def claim_shard(conn: Connection, shard_id: str, *, holder: str, lease_s: float) -> Shard | None:
    """The shard, held by us; None when somebody else holds it or it is finished."""
    row = await (
        await conn.execute(SQL["claim"], {"id": shard_id, "holder": holder, "lease_s": lease_s})
    ).fetchone()
    if row is None:
        return None
    return Shard(
        row.id,
        row.project_id,
        row.queue,
        row.kind,
        row.subject_id,
        tuple(row.members),
        row.epoch,
        row.claims,
        row.failures,
    )


async def renew_shard(conn: Connection, shard: Shard, *, lease_s: float) -> None:
    """The fence: first in every transaction that changes something for a shard and does not finish it. The row
    stays locked until the commit, so nobody takes the shard over in between. Raises LeaseLost."""
    await _held(conn, "renew", shard, lease_s=lease_s)


async def hold_shard(conn: Connection, shard: Shard, *, lease_s: float) -> bool:
    """A sign of life. False once this claim has finished the shard: what its handler still does needs no lease.
    Raises LeaseLost when it is another's."""
    row = await _held(conn, "hold", shard, lease_s=lease_s)
    return bool(row.held)


async def finish_shard(conn: Connection, shard: Shard) -> None:
    """Mark done in the transaction that records the result.

    Raises LeaseLost when another worker took over: the whole transaction must then roll back, so that a
    paused worker that wakes up late changes nothing.
    """
    await _held(conn, "finish", shard)


async def put_back_shard(
    conn: Connection, shard: Shard, *, code: str, error: str, delay_s: float
) -> None:
    await _held(conn, "put_back", shard, code=code, error=error, delay_s=delay_s)


async def fail_shard(conn: Connection, shard: Shard, *, code: str, error: str) -> None:
    await _held(conn, "fail", shard, code=code, error=error)


async def postpone_shard(
    conn: Connection, shard: Shard, *, delay_s: float, code: str | None = None, error: str | None = None
) -> None:
    """Not now: come again later. It is neither a try nor a failure; `code` and `error` say what it waits for."""
    await _held(conn, "postpone", shard, delay_s=delay_s, code=code, error=error)


async def others_running(conn: Connection, shard: Shard) -> int:
    """How many other shards of the same subject somebody may still be working on, of whatever kind."""
    parameters = {"subject": shard.subject_id, "id": shard.id}
    row = await SQL.one(conn, "others_running", **parameters)
    assert row is not None
    return int(row.running)


async def siblings_open(conn: Connection, shard: Shard) -> int:
    """How many other shards of the same subject and kind are unfinished.

    Call with the subject's row locked FOR UPDATE: of two shards that finish at once, exactly one sees zero.
    """
    parameters = {"subject": shard.subject_id, "kind": shard.kind, "id": shard.id}
    row = await SQL.one(conn, "siblings_open", **parameters)
    assert row is not None
    return int(row.open)


async def cancel_shards(conn: Connection, subject_id: str) -> None:
    await conn.execute(SQL["cancel"], {"subject": subject_id})


async def _held(conn: Connection, statement: str, shard: Shard, **parameters: object) -> Any:
    row = await (
        await conn.execute(SQL[statement], {"id": shard.id, "epoch": shard.epoch, **parameters})
    ).fetchone()
    if row is None:
        raise LeaseLost("another worker holds this shard now", where=shard.id)
    return row
