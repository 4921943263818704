"""What makes protection shorter: asked by one person, approved by another, after a delay, carried out once.

Shorter rules of a policy's file, forgetting what the rules keep, emptying the trash before its time, releasing a hold,
taking a tag away, agreeing that a suddenly small or flooding snapshot is right, a deletion beyond the breaker, and
removing a key of a repository. Who
is a person, what is open and what is over is the database's to say (migration 0012): a holder of the daemon's own
database role, or of an admin token and all the tokens it makes, is still one person.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mover.catalog.database import Connection, refusals
from mover.catalog.queries import load
from mover.decide.retention import terms_of
from mover.errors import Conflict, Denied, NotFound, RequestInvalid, TierError
from mover.jobs import in_thread
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import ProtectPolicy
from mover.protect.keys import check_removable, remove_keys
from mover.protect.retention import Retention
from mover.protect.site import PAGE_MAX, ProtectSite
from mover.randomness import new_id

SQL = load(__file__)
OPEN_TOLD = 100

log = get_logger("protect")


class Shortenings:
    def __init__(self, site: ProtectSite, retention: Retention) -> None:
        self._site, self._retention = site, retention

    async def ask(self, identity: Identity, body: wire.ShorteningRequest) -> wire.Shortening:
        """Asked again while it is open, it is the same one."""
        policy, wanted = self._wanted(body)
        values = {
            "id": new_id("shortening"), "kind": body.kind, "policy": policy.name if policy else None,
            "subjects": sorted(set(body.subjects)), "wanted": msgspec.json.encode(wanted).decode(),
            "reason": body.reason,
        }  # fmt: skip
        if body.kind == "remove-key" and policy is not None:
            await in_thread(check_removable, self._site, self._retention.named(policy.name), body.subjects)
        async with self._site.database.project(identity.project) as conn:
            if policy is not None:
                await self._retention.terms(conn, policy)
            with refusals():
                row = await SQL.one(conn, "ask", **values, **self._who(identity))
        log.warning("protection: shortening asked for", subject=row.id, kind=body.kind, actor=identity.actor)
        return await self.view(identity.project, row.id)

    async def plan(self, identity: Identity, body: wire.ShorteningRequest) -> wire.Plan:
        """What it would let go, if it were carried out now."""
        policy, _ = self._wanted(body)
        if body.kind == "shorten" and policy is not None:
            async with self._site.database.project(identity.project) as conn:
                return await self._retention.plan_by(conn, policy, policy.keep)
        what = policy.name if policy else ""
        steps = [wire.PlanStep(action=body.kind, subject=one, reason=body.reason) for one in body.subjects or [what]]
        return wire.Plan(step="shorten", counts={body.kind: len(steps)}, bytes=0, steps=steps)

    def _wanted(self, body: wire.ShorteningRequest) -> tuple[ProtectPolicy | None, dict[str, Any]]:
        of_policy = body.kind in ("shorten", "large", "remove-key")
        if (body.kind in ("shorten", "large")) == bool(body.subjects) or (body.kind == "untag") != bool(body.tags):
            raise RequestInvalid(
                "`shorten` and `large` name a policy, the others what they are about; only `untag` names tags"
            )
        if not of_policy and body.policy is not None:
            raise RequestInvalid("this names no policy", where="$.policy")
        policy = self._retention.as_declared(self._retention.named(body.policy)) if of_policy else None
        if body.kind == "shorten" and policy is not None:
            return policy, msgspec.to_builtins(terms_of(policy))
        return policy, {"tags": sorted(set(body.tags))} if body.tags else {}

    async def approve(self, identity: Identity, shortening: str) -> wire.Shortening:
        return await self._say("approve", identity, shortening)

    async def withdraw(self, identity: Identity, shortening: str) -> wire.Shortening:
        return await self._say("withdraw", identity, shortening)

    async def _say(self, word: str, identity: Identity, shortening: str) -> wire.Shortening:
        async with self._site.database.project(identity.project) as conn:
            with refusals():
                await SQL.one(conn, word, id=shortening, **self._who(identity))
        return await self.view(identity.project, shortening)

    def _who(self, identity: Identity) -> dict[str, object]:
        return {"proof": identity.proven, "actor": identity.actor, "node": self._site.node}

    async def apply_due(self, project: str) -> int:
        """Carry out what two persons agreed on and whose delay is over; how many. One that cannot be carried out any
        more keeps no other from it."""
        async with self._site.database.project(project) as conn:
            due = await SQL.many(conn, "due", limit=PAGE_MAX)
        applied = 0
        for one in due:
            try:
                applied += await self._apply(project, one)
            except (Conflict, NotFound, Denied, TierError) as error:
                log.warning("shortening not carried out", subject=one.id, code=error.code)
        return applied

    async def _apply(self, project: str, due: Any) -> bool:
        """A key leaves the repository before the transaction says so: killed between, the next turn finds it gone."""
        async with self._site.database.project(project) as conn:
            with refusals():
                applied = bool((await SQL.one(conn, "apply", id=due.id, node=self._site.node)).applied)
            if applied and due.kind == "remove-key":
                policy = self._retention.named(due.policy)
                await in_thread(remove_keys, self._site, policy, list(due.subjects))
        return applied

    async def view(self, project: str, shortening: str) -> wire.Shortening:
        async with self._site.database.project(project) as conn:
            row = await SQL.one(conn, "get", id=shortening)
        if row is None:
            raise NotFound("no such shortening", where=shortening)
        return _shortening(row)

    async def list(self, project: str, after: str | None, limit: int) -> wire.ShorteningPage:
        """Newest first."""
        limit = min(limit, PAGE_MAX)
        async with self._site.database.project(project) as conn:
            rows = await SQL.many(conn, "page", after=after, limit=limit + 1)
        seen = [_shortening(row) for row in rows[:limit]]
        return wire.ShorteningPage(shortenings=seen, next=seen[-1].id if len(rows) > limit else None)


async def waiting(conn: Connection) -> list[wire.Shortening]:
    return [_shortening(row) for row in await SQL.many(conn, "open", limit=OPEN_TOLD)]


def _shortening(row: Any) -> wire.Shortening:
    return wire.Shortening(
        id=row.id, kind=row.kind, state=_state(row), policy=row.policy, subjects=list(row.subjects),
        shorter=list(row.shorter), wanted=row.wanted, reason=row.reason, requested_by=row.requested_by,
        requested_at=row.requested_at, not_before=row.not_before, lapses_at=row.lapses_at,
        approved_by=row.approved_by, approved_at=row.approved_at, withdrawn_by=row.withdrawn_by,
        applied_at=row.applied_at,
    )  # fmt: skip


def _state(row: Any) -> Any:
    if row.applied_at is not None:
        return "applied"
    if row.withdrawn_at is not None:
        return "withdrawn"
    if row.lapses_at <= row.now:
        return "lapsed"
    return "asked" if row.approved_at is None else "approved"
