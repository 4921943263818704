"""What every part of this room works with, in one value, and the few steps they share."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from mover import audit
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.lifecycle import check_transition
from mover.errors import NotFound, RequestError
from mover.model.access import Identity
from mover.model.policy import StagePolicy
from mover.policy import PolicyBook
from mover.runs.roots import FlashRoots

SQL = load(__file__)
PLAN_STEPS_MAX = 1000


class Flash(Struct, frozen=True):
    """A flash tier as runs see it."""

    roots: FlashRoots
    seen_as: str
    capacity_bytes: int | None
    # how long this node may go on believing what another changed (NFS): waited out before a seal
    settle_s: float = 0.0


class RunSite(Struct, frozen=True):
    database: Database
    flash: dict[str, Flash]
    policies: PolicyBook
    node: str

    def policy(self, name: str) -> StagePolicy | None:
        """As it is loaded now; a run may have been asked for under one that is not any more."""
        try:
            return self.policies.get(name, StagePolicy)
        except RequestError:
            return None

    def policies_like(self, name: str) -> list[str]:
        """Every policy that stages between the same two tiers."""
        own = self.policy(name)
        every = [one.policy for one in self.policies.all() if isinstance(one.policy, StagePolicy)]
        return [p.name for p in every if own and (p.archive, p.flash) == (own.archive, own.flash)] or [name]

    async def record(self, conn: Connection, identity: Identity, action: str, run: str, *, request: str = "") -> None:
        """What somebody did to a run, in the transaction that does it."""
        await audit.record(
            conn, project=identity.project, node=self.node, actor=identity.actor, action=action, subject=run,
            request=request,
        )  # fmt: skip

    async def record_own(self, conn: Connection, project: str, action: str, run: str, *, reason: str = "") -> None:
        """What the daemon did to a run by itself."""
        await audit.record(
            conn, project=project, node=self.node, actor="daemon", action=action, subject=run, reason=reason
        )


async def get(conn: Connection, run: str) -> Any:
    """A run of the project as it stands."""
    return _found(await SQL.one(conn, "get", id=run), run)


async def lock(conn: Connection, run: str) -> Any:
    """The same, held for a change of state."""
    return _found(await SQL.one(conn, "lock", id=run), run)


async def step(
    conn: Connection, run: str, before: str, after: str, *, reason: str | None = None, why: str | None = None
) -> None:
    """Move a run that is held along the table, or raise IllegalTransition."""
    check_transition(before, after, subject=run)
    await conn.execute(SQL["set_state"], {"id": run, "state": after, "reason": reason, "explanation": why})


async def entries_of(conn: Connection, run: str) -> list[Any]:
    """Every entry of a run, in the manifest's order."""
    return await SQL.many(conn, "entries", run=run)


async def strays_of(conn: Connection, run: str) -> list[Any]:
    """What cleanup moved aside."""
    return await SQL.many(conn, "strays", run=run)


async def expression_of(conn: Connection, selection: str | None) -> str | None:
    """What a selection was frozen from, unless it was a list."""
    row = await SQL.one(conn, "expression", selection=selection)
    return row.expression if row else None


def _found(row: Any, run: str) -> Any:
    if row is None:
        raise NotFound("no such run", where=run)
    return row
