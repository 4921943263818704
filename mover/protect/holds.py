"""What anybody who works here may do alone: hold a snapshot, tag it, bring it back from the trash.

A hold beats every rule, every plan, every prune and what two persons agreed on. Taking one away is a shortening
(`mover.protect.shortenings`).
"""

from __future__ import annotations

from mover.catalog.database import refusals
from mover.catalog.queries import load
from mover.errors import Conflict, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.protect.site import ProtectSite
from mover.protect.snapshots import Snapshots, get
from mover.randomness import new_id

SQL = load(__file__)
# what comes back from the trash would go there again by the same rules
UNTRASHED_S = 30 * 86_400


class Holds:
    def __init__(self, site: ProtectSite, snapshots: Snapshots) -> None:
        self._site, self._snapshots = site, snapshots

    async def hold(self, identity: Identity, snapshot: str, body: wire.HoldRequest) -> wire.Snapshot:
        """The same hold asked for again is the same hold."""
        if body.until is not None and body.until.tzinfo is None:
            raise RequestInvalid("until needs an offset, such as Z", where="$.until")
        row = await get(self._site, identity.project, snapshot)
        async with self._site.database.project(identity.project) as conn:
            with refusals():
                await SQL.one(
                    conn, "place", id=new_id("hold"), snapshot=row.id, reason=body.reason, until=body.until,
                    proof=identity.proven, actor=identity.actor, node=self._site.node,
                )  # fmt: skip
        return await self._snapshots.view(identity.project, row.id)

    async def untrash(self, identity: Identity, snapshot: str, body: wire.HoldRequest) -> wire.Snapshot:
        """Back from the trash, by a hold: without `until` for 30 days, in which somebody may widen the rules."""
        row = await get(self._site, identity.project, snapshot)
        if row.state != "trashed":
            raise Conflict(f"the snapshot is {row.state}; only what is in the trash comes back", where=row.id)
        if body.until is None:
            async with self._site.database.project(identity.project) as conn:
                until = (await SQL.one(conn, "until", seconds=UNTRASHED_S)).until
            body = wire.HoldRequest(reason=body.reason, until=until)
        return await self.hold(identity, row.id, body)

    async def tag(self, identity: Identity, snapshot: str, body: wire.TagRequest) -> wire.Snapshot:
        row = await get(self._site, identity.project, snapshot)
        async with self._site.database.project(identity.project) as conn:
            with refusals():
                await SQL.one(
                    conn, "tag", snapshot=row.id, tags=body.tags, proof=identity.proven, actor=identity.actor,
                    node=self._site.node,
                )  # fmt: skip
        return await self._snapshots.view(identity.project, row.id)
