"""May new slides be released? Only while vault and catalog have a verified dump that is young enough (R15).

Who makes dumps and who releases slides are two rooms that meet here, in rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide.dumps import Release, may_release
from mover.model.policy import DumpPolicy

SQL = load(__file__)


async def release(conn: Connection, policies: Iterable[DumpPolicy]) -> Release:
    """The strictest policy decides; without any policy everything is allowed, and `mover status` warns."""
    ages = {row.policy: row.age_s for row in await SQL.many(conn, "ages")}
    verdicts = [may_release(policy, ages.get(policy.name)) for policy in policies]
    return next((one for one in verdicts if not one.allowed), Release(True))


async def dump_ages(conn: Connection) -> dict[str, float]:
    return {row.policy: row.age_s for row in await SQL.many(conn, "ages")}
