"""Transfers, the front: ask, look, pause, resume, abort, approve, bring back, report; and what policies start.

Judgement is in `decide.moving`. What needs a tier is judged in the request where that is quick (the way, its zones,
its places), and in the shard `transfer-plan` where it means listing. Every change of state commits together with
its shards and its audit record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
from blake3 import blake3
from psycopg.types.json import Jsonb

from mover import audit
from mover.catalog.database import Connection, Database, refusals
from mover.catalog.instance import server_now
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide.moving import FINAL, WORKING, Refusal, csv_cell, is_due, judge_way, parse_when
from mover.errors import Conflict, Denied, MoverError, NotFound, RequestInvalid, TransferRefused
from mover.jobs import NewShard, add_shards, in_thread
from mover.jobs.shards import tier_queue
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import key_text, name_text
from mover.model.policy import MovePolicy
from mover.moving.move import SQL as MOVE
from mover.moving.move import Move, add_move_shards, body_of, explain, set_state, why_refused
from mover.moving.places import Ends
from mover.moving.plan import SQL as PLAN
from mover.moving.plan import Found, Planner, folder_of, valid_sources
from mover.moving.release import Releases
from mover.policy import PolicyBook
from mover.randomness import new_id
from mover.tiers.port import deletion_off

SQL = load(__file__)
PLAN_STEPS_MAX = 1000
PAGE_MAX = 1000
OFFENDERS_IN_PAGE = 10
REPORT_SLICE = 5_000
BY_POLICY = "policy:"
Format = Literal["jsonl", "csv"]

log = get_logger("moving")


class Transfers:
    def __init__(
        self,
        database: Database,
        ends: Ends,
        policies: PolicyBook,
        planner: Planner,
        move: Move,
        releases: Releases,
        *,
        node: str,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database, self._ends, self._policies = database, ends, policies
        self._planner, self._move, self._releases = planner, move, releases
        self._node, self._clock = node, clock

    # --- ask ------------------------------------------------------------------------------------------------

    async def request(
        self, identity: Identity, body: wire.TransferRequest, *, key: str, request: str = ""
    ) -> wire.Transfer:
        """A transfer that begins by planning; the same key again gives the same transfer. Raises TransferRefused
        with every reason that stands before anything is listed, and Conflict for the key with another body."""
        asked, policy = self._asked(body)
        await self._check(asked)
        transfer = new_id("transfer")
        async with self._database.project(identity.project) as conn:
            earlier = await self._remember(conn, identity.project, key, body, transfer)
            if earlier is None:
                await self._create(conn, identity, asked, policy, transfer)
                await self._record(conn, identity, "transfer requested", transfer, request=request)
        return await self.view(identity.project, earlier or transfer)

    async def plan_request(self, identity: Identity, body: wire.TransferRequest) -> wire.Plan:
        """What `request` would move, entry by entry (the first of them), in numbers and seconds; keeps nothing.
        Raises TransferRefused with the offenders, as the transfer would."""
        asked, _ = self._asked(body)
        await self._check(asked)
        async with self._database.project(identity.project) as conn, conn.transaction(force_rollback=True):
            found = await self._planner.find(conn, asked)
            reason = why_refused(found, asked)
            if reason is not None:
                raise refusal(found, reason)
            rows = await PLAN.many(conn, "steps", limit=PLAN_STEPS_MAX + 1)
        steps = [_step(row, asked) for row in rows[:PLAN_STEPS_MAX]]
        counts = {"entries": found.entries, "present": found.present, "skipped": found.skipped}
        counts |= {"failed": found.refused, "looked at": found.looked_at}
        if found.estimate_s is not None:
            counts["seconds"] = round(found.estimate_s)
        pace = "" if found.estimate_s is not None else " (no history between these tiers: no estimate)"
        return wire.Plan(
            step=f"{asked.verb} to {asked.to}{pace}", counts={n: c for n, c in counts.items() if c or n == "entries"},
            bytes=found.bytes, steps=steps, truncated=len(rows) > PLAN_STEPS_MAX,
        )  # fmt: skip

    def _asked(self, body: wire.TransferRequest) -> tuple[wire.TransferRequest, str | None]:
        """The request in full. Of a policy, what it says now."""
        if body.policy is not None:
            if body.sources or body.to is not None:
                raise RequestInvalid("a transfer names a policy, or sources and a target, not both")
            return from_policy(self._policies.get(body.policy, MovePolicy)), body.policy
        if not body.sources or body.to is None:
            raise RequestInvalid("a transfer names its sources and a target tier, or a policy")
        return body, None

    async def _check(self, body: wire.TransferRequest) -> None:
        wrong = list(valid_sources(body))
        if wrong:
            raise RequestInvalid(wrong[0], details=[{"what": one} for one in wrong[:PLAN_STEPS_MAX]])
        for source in body.sources:
            if source.where is not None:
                parse_when(source.where)
        if body.verb == "move" and not body.readback:
            raise RequestInvalid("a move reads its copies back; without that no source may leave")
        refusals = await in_thread(self._refusals, body)
        if refusals:
            raise TransferRefused(
                refusals[0].what, where=refusals[0].subject, details=[msgspec.to_builtins(one) for one in refusals]
            )

    def _refusals(self, body: wire.TransferRequest) -> list[Refusal]:
        """Blocking: asks the mount table."""
        assert body.to is not None
        found: list[Refusal] = []
        for source in body.sources:
            start = self._ends.end(source.tier, folder_of(source.prefix) or "")
            parts = (folder_of(body.prefix), folder_of(source.to))
            end = self._ends.end(body.to, "/".join(part for part in parts if part))
            # a list is judged entry by entry: its prefix is only where its names begin
            overlapping = source.keys is None and self._ends.overlapping(start, end)
            found += judge_way(start, end, release=body.verb == "move", overlapping=overlapping)
            if body.verb == "move" and (why := deletion_off(self._ends.tier(source.tier))) is not None:
                found.append(Refusal("entry-locked", f"{why}: its sources may be copied, and not moved", source.tier))
        return found

    async def _remember(
        self, conn: Connection, project: str, key: str, body: wire.TransferRequest, transfer: str
    ) -> str | None:
        """The earlier transfer of this key, or None after binding the key to the new one (D13)."""
        digest = blake3(msgspec.json.encode(body, order="sorted")).hexdigest()
        hashed = blake3(key.encode()).hexdigest()
        bound = await SQL.one(conn, "remember", project=project, key=hashed, body_digest=digest, subject=transfer)
        if bound is not None:
            return None
        earlier = await SQL.one(conn, "remembered", project=project, key=hashed)
        assert earlier is not None
        if earlier.body_digest != digest:
            raise Conflict(
                "this Idempotency-Key already stands for another request", where=earlier.subject_id,
                hint="Use a fresh key for a new transfer.",
            )  # fmt: skip
        return str(earlier.subject_id)

    async def _create(
        self, conn: Connection, identity: Identity, body: wire.TransferRequest, policy: str | None, transfer: str
    ) -> None:
        assert body.to is not None
        kept = msgspec.structs.replace(body, policy=policy)
        by_policy = not identity.token_id and identity.actor.startswith(
            BY_POLICY
        )  # nobody's word: any person's is another
        person = None if by_policy else await self._person(conn, identity)
        await conn.execute(
            SQL["insert"],
            {
                "id": transfer, "project": identity.project, "verb": body.verb, "target": body.to, "policy": policy,
                "sources": sorted({source.tier for source in body.sources}),
                "request": Jsonb(msgspec.to_builtins(kept)), "actor": identity.actor, "person": person,
            },
        )  # fmt: skip
        plan = NewShard(tier_queue(body.to), "transfer-plan", transfer, priority=4)
        await add_shards(conn, identity.project, [plan])

    # --- steer ------------------------------------------------------------------------------------------------

    async def pause(self, identity: Identity, transfer: str) -> wire.Transfer:
        """What is on its way is finished, nothing new begins. Pausing twice is pausing once."""
        async with self._database.project(identity.project) as conn:
            row = await self._lock(conn, transfer)
            if row.state != "paused":
                await set_state(conn, row, "paused", reason="paused")
                await conn.execute(MOVE["cancel_waiting"], {"id": transfer})
                await self._record(conn, identity, "transfer paused", transfer)
        return await self.view(identity.project, transfer)

    async def resume(self, identity: Identity, transfer: str) -> wire.Transfer:
        """Go on after a pause; after an end with failures, try again what failed. What stands is not moved twice."""
        async with self._database.project(identity.project) as conn:
            row = await self._lock(conn, transfer)
            if row.state in WORKING:
                return await self._view(conn, row)
            if row.state in ("incomplete", "failed"):
                again = await SQL.one(conn, "again", id=transfer)
                await conn.execute(SQL["uncount_failed"], {"id": transfer, "count": again.entries})
            state = row.paused_in if row.state == "paused" and row.paused_in else "moving"
            await set_state(conn, row, state)
            await self._go_on(conn, row, state)
            await self._record(conn, identity, "transfer resumed", transfer)
        return await self.view(identity.project, transfer)

    async def _go_on(self, conn: Connection, row: Any, state: str) -> None:
        """New shards over what waits; when nothing does, the round ends at once."""
        body = body_of(row)
        moving = await self._lock(conn, row.id)
        await add_move_shards(conn, row, each=body.canary if state == "canary" else None)
        left = await MOVE.one(conn, "left", transfer=row.id)
        if not left.waiting:
            await self._move.end_round(conn, moving)

    async def abort(self, identity: Identity, transfer: str) -> wire.Transfer:
        """Give up the rest. What was moved stays where it is and in the report; sources that wait to be released
        stay too."""
        async with self._database.project(identity.project) as conn:
            row = await self._lock(conn, transfer)
            if row.state != "aborted":
                await set_state(conn, row, "aborted", reason="aborted")
                await conn.execute(MOVE["cancel_waiting"], {"id": transfer})
                await self._releases.drop(conn, transfer)
                await self._record(conn, identity, "transfer aborted", transfer)
        return await self.view(identity.project, transfer)

    async def approve(self, identity: Identity, transfer: str) -> wire.Transfer:
        """After a canary: the rest. Before a large release: a second person's word, who is not the requester. The
        tokens that one person made are one person."""
        async with self._database.project(identity.project) as conn:
            row = await self._lock(conn, transfer)
            if row.state != "waiting":
                raise Conflict(f"the transfer is {row.state}; nothing waits for approval", where=transfer)
            if row.reason == "release":
                if identity.actor == row.created_by or await self._person(conn, identity) == row.asked_person:
                    raise Denied(
                        "the release waits for a second person", where=transfer,
                        hint="Somebody else than who asked for the transfer approves it.",
                    )  # fmt: skip
                await self._releases.approve(conn, row, identity.actor)
                await set_state(conn, row, "releasing")
            else:
                await set_state(conn, row, "moving")
                await self._go_on(conn, row, "moving")
            await self._record(conn, identity, "transfer approved", transfer, reason=row.reason or "")
        return await self.view(identity.project, transfer)

    async def restore(self, identity: Identity, transfer: str) -> wire.Transfer:
        """Bring released sources back from the trash, as long as they are held."""
        async with self._database.project(identity.project) as conn:
            await self._lock(conn, transfer)
            await self._releases.restore(conn, transfer)
            await self._record(conn, identity, "release restore asked", transfer)
        return await self.view(identity.project, transfer)

    # --- look -------------------------------------------------------------------------------------------------

    async def view(self, project: str, transfer: str) -> wire.Transfer:
        async with self._database.project(project) as conn:
            return await self._view(conn, await self._get(conn, transfer))

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.TransferPage:
        """Newest first, each with the first of its offenders."""
        bound = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "page", after=after, limit=bound)
            found = [_in_a_page(await self._view(conn, row)) for row in rows]
        return wire.TransferPage(transfers=found, next=rows[-1].id if len(rows) == bound else None)

    async def _view(self, conn: Connection, row: Any) -> wire.Transfer:
        body = body_of(row)
        counts = {
            "moved": row.moved_count, "present": row.present_count, "skipped": row.skipped_count,
            "failed": row.failed_count,
        }  # fmt: skip
        codes = {one.code: one.count for one in await SQL.many(conn, "codes", id=row.id)}
        if row.state == "refused":
            counts = {"refused": sum(codes.values())}
        else:
            counts["waiting"] = max(0, row.entries - sum(counts.values()))
        trouble = None if row.state in FINAL else await SQL.one(conn, "trouble", id=row.id)
        return wire.Transfer(
            id=row.id, verb=row.verb, state=row.state, reason=row.reason,
            explanation=row.explanation or (f"tried again after {trouble.code}: {trouble.error}" if trouble else None),
            sources=[f"{s.tier}:{s.prefix}" for s in body.sources],
            to=f"{row.target}:{body.prefix}", policy=row.policy, entries=row.entries, bytes=int(row.bytes),
            counts={state: count for state, count in counts.items() if count}, codes=codes,
            done_bytes=int(row.moved_bytes + row.present_bytes), moved_bytes=int(row.moved_bytes),
            **await self._pace(conn, row), estimate_s=row.estimate_s, rounds=row.rounds, canary=body.canary,
            offenders=row.offenders or [], releases=await self._releases.views(conn, row.id),
            created_by=row.created_by, created_at=row.created_at, started_at=row.started_at,
            finished_at=row.finished_at,
        )  # fmt: skip

    async def _pace(self, conn: Connection, row: Any) -> dict[str, float | None]:
        busy = await SQL.one(conn, "busy", id=row.id)
        entries = row.moved_count + row.present_count
        done = int(row.moved_bytes + row.present_bytes)
        if not busy.seconds or not entries:
            return {"rate_bytes_s": None, "rate_entries_s": None, "eta_s": None}
        share = max(done / int(row.bytes) if row.bytes else 0.0, 1e-9) if row.bytes else entries / max(1, row.entries)
        eta = busy.seconds * (1 - share) / share if row.state in WORKING and share > 0 else None
        return {
            "rate_bytes_s": round(done / busy.seconds, 1), "rate_entries_s": round(entries / busy.seconds, 2),
            "eta_s": None if eta is None else round(max(0.0, eta), 1),
        }  # fmt: skip

    async def report(self, project: str, transfer: str, format_: Format) -> AsyncIterator[bytes]:
        """Every entry with its outcome, by its number, a slice at a time."""
        async with self._database.project(project) as conn:
            body = body_of(await self._get(conn, transfer))
        if format_ == "csv":
            yield (",".join(REPORT) + "\r\n").encode()
        after = 0
        while True:
            async with self._database.project(project) as conn:
                rows = await SQL.many(conn, "report", id=transfer, after=after, limit=REPORT_SLICE)
            if rows:
                yield await in_thread(_lines, rows, body, format_)
                after = rows[-1].id
            elif after == 0 and format_ == "jsonl":
                yield b""
            if len(rows) < REPORT_SLICE:
                return

    # --- what policies start ------------------------------------------------------------------------------------

    async def begin_due(self, project: str) -> int:
        """Transfers of policies whose time has come; how many began. The key is made of the one before, so any
        number of daemons begin one."""
        began = 0
        for loaded in self._policies.all():
            policy = loaded.policy
            if not isinstance(policy, MovePolicy) or policy.every_s is None:
                continue
            if policy.source not in self._ends.tiers or policy.target not in self._ends.tiers:
                continue
            async with self._database.project(project) as conn:
                last = await SQL.one(conn, "last_of", policy=policy.name)
                now = await server_now(conn)
            running = last is not None and last.state not in FINAL
            if is_due(now, last=last.created_at if last else None, every_s=policy.every_s, running=running):
                began += await self._begin(project, policy, last.id if last else "first")
        return began

    async def _begin(self, project: str, policy: MovePolicy, after: str) -> int:
        identity = Identity(actor=f"{BY_POLICY}{policy.name}", role="operator", project=project)
        try:
            await self.request(identity, wire.TransferRequest(policy=policy.name), key=f"{policy.name}/{after}")
        except MoverError as error:
            # one policy that cannot be followed keeps no other from it
            log.warning("policy not followed", policy=policy.name, code=error.code)
            return 0
        return 1

    # --- small tools --------------------------------------------------------------------------------------------

    async def _get(self, conn: Connection, transfer: str) -> Any:
        row = await MOVE.one(conn, "get", id=transfer)
        if row is None:
            raise NotFound("no such transfer", where=transfer)
        return row

    async def _lock(self, conn: Connection, transfer: str) -> Any:
        row = await MOVE.one(conn, "lock", id=transfer)
        if row is None:
            raise NotFound("no such transfer", where=transfer)
        return row

    async def _person(self, conn: Connection, identity: Identity) -> str:
        with refusals():
            row = await SQL.one(conn, "person", proof=identity.proven, actor=identity.actor)
        return str(row.person)

    async def _record(
        self, conn: Connection, identity: Identity, action: str, transfer: str, *, request: str = "", reason: str = ""
    ) -> None:
        await audit.record(
            conn, project=identity.project, node=self._node, actor=identity.actor, action=action, subject=transfer,
            request=request, reason=reason,
        )  # fmt: skip


def from_policy(policy: MovePolicy) -> wire.TransferRequest:
    limits = wire.TransferLimits(
        bytes_s=policy.limits.bytes_s, files_s=policy.limits.files_s, shards=policy.limits.shards
    )
    rule = policy.release
    return wire.TransferRequest(
        verb="move" if rule else "copy",
        sources=[wire.TransferSource(tier=policy.source, prefix=policy.prefix, where=policy.when, limits=limits)],
        to=policy.target, prefix=policy.to_prefix, policy=policy.name, keep=policy.keep, canary=policy.canary,
        offenders=policy.offenders, tries=policy.tries,
        release=wire.TransferRelease(hold_s=rule.hold_s, entries=rule.entries, percent=rule.percent)
        if rule else wire.TransferRelease(),
    )  # fmt: skip


def refusal(found: Found, reason: str) -> TransferRefused:
    details = [msgspec.to_builtins(one) for one in found.reasons] + list(found.offenders)
    return TransferRefused(explain(found, reason) or reason, where=reason, details=details)


def _in_a_page(seen: wire.Transfer) -> wire.Transfer:
    """A thousand refused plans of a thousand offenders each are no answer; one transfer's own view has them."""
    return msgspec.structs.replace(seen, offenders=seen.offenders[:OFFENDERS_IN_PAGE])


def _step(row: Any, body: wire.TransferRequest) -> wire.PlanStep:
    action: str = "read and compare" if row.present else body.verb
    if row.code is not None:
        action = "skip" if row.code == "left-out" else "report"
    return wire.PlanStep(
        action=action, subject=f"{body.sources[row.at].tier}:{key_text(name_text(bytes(row.source)))}",
        reason=row.what or f"to {body.to}:{key_text(name_text(bytes(row.target)))}", bytes=row.size_bytes,
    )  # fmt: skip


# --- the report -------------------------------------------------------------------------------------------------

REPORT = (
    "entry", "source", "target", "kind", "size_bytes", "mtime_ns", "state", "digest", "verified_at", "shared",
    "trusted_since", "tries", "code", "what", "release", "trash",
)  # fmt: skip


def _lines(rows: list[Any], body: wire.TransferRequest, format_: Format) -> bytes:
    facts = [_facts(row, body) for row in rows]
    if format_ == "jsonl":
        return b"".join(msgspec.json.encode(one) + b"\n" for one in facts)
    return "".join(",".join(csv_cell(_cell(one[name])) for name in REPORT) + "\r\n" for one in facts).encode()


def _facts(row: Any, body: wire.TransferRequest) -> dict[str, Any]:
    return {
        "entry": row.id, "source": f"{body.sources[row.at].tier}:{key_text(name_text(bytes(row.source)))}",
        "target": f"{body.to}:{key_text(name_text(bytes(row.target)))}", "kind": row.kind,
        "size_bytes": row.size_bytes, "mtime_ns": row.mtime_ns, "state": row.state, "digest": row.digest,
        "verified_at": row.verified_at, "shared": row.shared, "trusted_since": row.trusted_since, "tries": row.tries,
        "code": row.code, "what": row.what, "release": row.release,
        "trash": key_text(name_text(bytes(row.trash))) if row.trash is not None else None,
    }  # fmt: skip


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
