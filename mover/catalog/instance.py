"""Instance-wide rows: projects, nodes, tiers and the policies that were in force."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from psycopg.types.json import Jsonb

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.errors import TierUnavailable
from mover.model.tiers import TierKind, TierRole, Traits, Zone

SQL = load(__file__)


async def server_now(conn: Connection) -> datetime:
    """The database's clock: the only one that decides."""
    now: datetime = (await SQL.one(conn, "server_now")).now
    return now


async def ensure_project(conn: Connection, project: str) -> None:
    await conn.execute(SQL["ensure_project"], {"id": project})


async def register_node(conn: Connection, node: str, *, version: str) -> None:
    await conn.execute(SQL["register_node"], {"id": node, "version": version})


async def node_seen(conn: Connection, node: str) -> None:
    await conn.execute(SQL["seen"], {"id": node})


async def registered_tier(conn: Connection, name: str) -> Any:
    """The row, or None when the tier was never registered."""
    return await SQL.one(conn, "tier", name=name)


async def register_tier(
    conn: Connection,
    name: str,
    *,
    kind: TierKind,
    zone: Zone,
    role: TierRole,
    identity: str,
    traits: Traits,
    capacity_bytes: int | None,
) -> None:
    """Raises TierUnavailable when this name was registered as something else: zones never change quietly."""
    earlier = await registered_tier(conn, name)
    if earlier is not None and (earlier.kind, earlier.zone, earlier.role) != (kind, zone, role):
        raise TierUnavailable(
            f"the tier was registered as {earlier.zone} {earlier.kind} {earlier.role}, not as {zone} {kind} {role}",
            where=name,
            hint="Give the new tier a new name.",
        )
    values = {
        "name": name, "kind": kind, "zone": zone, "role": role, "identity": identity,
        "traits": Jsonb(msgspec.to_builtins(traits)), "capacity": capacity_bytes,
    }  # fmt: skip
    await conn.execute(SQL["register_tier"], values)


async def put_policy(conn: Connection, *, name: str, digest: str, kind: str, text: str) -> None:
    await conn.execute(SQL["put_policy"], {"name": name, "digest": digest, "kind": kind, "text": text})


async def reserved_bytes(conn: Connection, tier: str) -> int:
    row = await SQL.one(conn, "reserved", tier=tier)
    return int(row.bytes) if row else 0


async def shard_counts(conn: Connection) -> dict[str, int]:
    return {row.state: row.count for row in await SQL.many(conn, "shard_counts")}


async def queue_counts(conn: Connection) -> dict[tuple[str, str], int]:
    """Unfinished shards by (queue, state)."""
    rows = await SQL.many(conn, "queue_counts")
    return {(row.queue, row.state): row.count for row in rows}


async def run_counts(conn: Connection) -> dict[str, int]:
    return {row.state: row.count for row in await SQL.many(conn, "run_counts")}
