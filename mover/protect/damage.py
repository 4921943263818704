"""Damage as people are told of it: by snapshot and path. Paths are for the project whose snapshot it is, and for nobody
else: several projects may keep theirs in one repository."""

from __future__ import annotations

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.model.names import path_text
from mover.repository.facts import CheckResult

SQL = load(__file__)
PATHS_MAX = 20  # of one snapshot


async def hits_told(conn: Connection, found: CheckResult) -> list[str]:
    """One line for each snapshot of the connection's project that is hit, and one for all of the others."""
    paths: dict[str, list[str]] = {}
    for damage in found.damage:
        for hit in damage.hits:
            paths.setdefault(hit.snapshot_id, []).extend(hit.paths)
    own = {row.repository_id: row.id for row in await SQL.many(conn, "own", ids=list(paths))}
    lines = [f"snapshot {own[one]} ({one[:8]}): {_listed(paths[one])}" for one in paths if one in own]
    others = len(paths) - len(own)
    return [*lines, f"{others} snapshots that are not on this project's record"] if others else lines


def _listed(paths: list[str]) -> str:
    told = sorted({path_text(path) for path in paths})
    more = f" and {len(told) - PATHS_MAX} more" if len(told) > PATHS_MAX else ""
    return ", ".join(told[:PATHS_MAX]) + more
