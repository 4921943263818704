"""What every part of this room works with, in one value, and the few steps they share."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from msgspec import Struct

from mover import audit
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.lifecycle import check_transition
from mover.errors import Conflict, IdentifierFoundLater, NotFound, RequestError
from mover.jobs import Shard
from mover.jobs.shards import renew_shard
from mover.jobs.worker import LEASE_S
from mover.model.access import Identity
from mover.model.policy import CleanPolicy, StagePolicy
from mover.policy import PolicyBook
from mover.runs.roots import FlashRoots, Requester

SQL = load(__file__)
PLAN_STEPS_MAX = 1000
ENTRIES_PAGE = 5000
# of a manifest in memory at once
PIECE_CHARS = 8 << 20


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

    def policies_to(self, tier: str) -> dict[str, StagePolicy]:
        """Every policy that stages to a tier, by name."""
        every = [one.policy for one in self.policies.all() if isinstance(one.policy, StagePolicy)]
        return {policy.name: policy for policy in every if policy.flash == tier}

    def policies_like(self, name: str) -> list[str]:
        """Every policy that stages between the same two tiers."""
        own = self.policy(name)
        every = [one.policy for one in self.policies.all() if isinstance(one.policy, StagePolicy)]
        return [p.name for p in every if own and (p.archive, p.flash) == (own.archive, own.flash)] or [name]

    def aside_policy(self, tier: str) -> CleanPolicy | None:
        """By which what was set aside on a tier is held: of several the one that holds it for longest."""
        every = [one.policy for one in self.policies.all() if isinstance(one.policy, CleanPolicy)]
        return max(
            (policy for policy in every if policy.flash == tier),
            key=lambda policy: math.inf if policy.aside_s is None else policy.aside_s,
            default=None,
        )

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
    _found(await SQL.one(conn, "lock", id=run), run)
    return await get(conn, run)


async def manifest_of(
    database: Database, project: str, run: str, *, decided: bool = False
) -> AsyncGenerator[str, None]:
    """The sealed manifest, kept for ever, in pieces. It never changes: no transaction is open between two of them.
    `decided`: also what a seal that did not come to its end was to write; nothing where none began."""
    first, length = 1, 1
    while first <= length:
        async with database.project(project) as conn:
            row = _found(await SQL.one(conn, "manifest", run=run, first=first, most=PIECE_CHARS), run)
        if decided and row.length is None:
            return
        if not (decided or row.sealed):
            raise Conflict(f"the run is {row.state}; its manifest is sealed with `ready`", where=run)
        first, length = first + PIECE_CHARS, row.length
        yield row.piece


async def step(
    conn: Connection, run: str, before: str, after: str, *, reason: str | None = None, why: str | None = None
) -> None:
    """Move a run that is held along the table, or raise IllegalTransition."""
    check_transition(before, after, subject=run)
    await conn.execute(SQL["set_state"], {"id": run, "state": after, "reason": reason, "explanation": why})


async def may_stage(conn: Connection, shard: Shard) -> bool:
    """First in every transaction that touches a root on its way: the shard is still ours, and the run is staged, which
    it stays until the commit. So no cancellation, and no cleanup behind it, comes between."""
    await renew_shard(conn, shard, lease_s=LEASE_S)
    return await SQL.one(conn, "hold_staging", id=shard.subject_id) is not None


async def refuse_withdrawn(conn: Connection, run: str, paths: list[str] | None = None) -> None:
    """Selected before, and withdrawn since: no byte of it goes to flash, and no root with it becomes ready."""
    if await SQL.many(conn, "withdrawn", run=run, paths=paths):
        gone = await SQL.many(conn, "withdrawn", run=run, paths=None)
        raise IdentifierFoundLater(
            f"{len(gone)} slides of the run were withdrawn since it was made", where=run,
            details=[{"number": row.number, "why": "quarantined"} for row in gone],
        )  # fmt: skip


def requester(run: Any) -> Requester:
    return Requester(run.posix_uid, run.posix_gid)


async def entries_of(conn: Connection, run: str) -> list[Any]:
    """Every entry of a run, in the manifest's order. Some thousand at a time: the event loop conducts."""
    found: list[Any] = []
    async with conn.cursor("run_entries") as cursor:
        await cursor.execute(SQL["entries"], {"run": run})
        while page := await cursor.fetchmany(ENTRIES_PAGE):
            found += page
    return found


async def tars_of(conn: Connection, run: Any) -> list[Any]:
    """The tars in which the entries of a run stand, if they do."""
    return await SQL.many(conn, "tars", run=run.id) if run.layout == "shards" else []


def names_of(entries: Sequence[Any], tars: Sequence[Any]) -> list[Any]:
    """What has a name below the root: files that stand in no tar, and tars."""
    return [entry for entry in entries if entry.shard is None] + list(tars)


async def expression_of(conn: Connection, selection: str | None) -> str | None:
    """What a selection was frozen from, unless it was a list."""
    row = await SQL.one(conn, "expression", selection=selection)
    return row.expression if row else None


def _found(row: Any, run: str) -> Any:
    if row is None:
        raise NotFound("no such run", where=run)
    return row
