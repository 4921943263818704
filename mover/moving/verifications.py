"""Verifications, the front: ask, look, end, report; what policies start; the damage that stands, for the alarm.

Only deidentified tiers are verified: the catalog holds digests of no others, and their keys are names (D10).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Literal

import msgspec
from blake3 import blake3

from mover import audit, metrics
from mover.catalog.database import Connection, Database
from mover.decide.moving import clean_prefix, csv_cell
from mover.decide.verification import is_due, of_archive, portion_bytes
from mover.errors import Conflict, MoverError, NotFound, RequestInvalid
from mover.jobs import NewShard, add_shards, in_thread
from mover.jobs.shards import cancel_shards, tier_queue
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import key_text, name_bytes, name_text, text_key
from mover.model.policy import ArchivePolicy, VerifyPolicy
from mover.moving.places import Ends
from mover.moving.verify import FINAL, SEALED_RUNS, SQL
from mover.policy import Loaded, PolicyBook
from mover.randomness import new_id
from mover.tiers import beneath

PAGE_MAX = 1000
REPORT_SLICE = 5000
# how long a report names what was whole; a tier of ten million entries makes as many lines a month
KEPT_DAYS = 90
PRUNED_AT_ONCE = 100_000
# below everything that somebody waits for
PRIORITY = -5
Format = Literal["jsonl", "csv"]
REPORT = (
    "key", "state", "finding", "source", "subject", "expected", "found", "size_bytes", "found_bytes", "code",
    "explanation", "quarantine", "repaired_from", "looked_at",
)  # fmt: skip

log = get_logger("verify")


class Asked(msgspec.Struct, frozen=True):
    """A request with its place found. `keys` as the tier spells them."""

    tier: str
    scope: Literal["tier", "run", "list"]
    prefix: str = ""
    run: str | None = None
    keys: tuple[bytes, ...] = ()
    strangers: bool = False
    repair_from: str | None = None
    policy: str | None = None
    limit_bytes: int | None = None


class Verifications:
    def __init__(self, database: Database, ends: Ends, policies: PolicyBook, *, node: str) -> None:
        self._database, self._ends, self._policies, self._node = database, ends, policies, node

    # --- ask ------------------------------------------------------------------------------------------------

    async def request(
        self, identity: Identity, body: wire.VerificationRequest, *, key: str = "", request: str = ""
    ) -> wire.Verification:
        """A verification that begins by planning. The same key again gives the same one; Conflict for the key with
        another body."""
        asked = await self._asked(identity.project, body)
        verification = new_id("verification")
        async with self._database.project(identity.project) as conn:
            earlier = await self._remember(conn, identity.project, key, body, verification) if key else None
            if earlier is None:
                await self._create(conn, identity.project, identity.actor, asked, verification)
                await self._record(conn, identity, "verification requested", verification, request=request)
        return await self.view(identity.project, earlier or verification)

    async def plan_request(self, identity: Identity, body: wire.VerificationRequest) -> wire.Plan:
        """How much there is to read; of a list, which of its keys the catalog knows is found on the way."""
        asked = await self._asked(identity.project, body)
        async with self._database.project(identity.project) as conn:
            if asked.scope == "list":
                entries, size = len(asked.keys), 0
            elif asked.scope == "run":
                row = await SQL.one(conn, "run_total", run=asked.run)
                entries, size = row.entries, row.bytes
            else:
                row = await SQL.one(conn, "total", tier=asked.tier, prefix=name_bytes(asked.prefix))
                entries, size = row.entries, row.bytes
        repair = f"damage is repaired from {asked.repair_from}" if asked.repair_from else "damage is reported"
        step = wire.PlanStep(action="read", subject=asked.run or asked.tier, reason=repair, bytes=size)
        return wire.Plan(step="verify", counts={"entries": entries}, bytes=size, steps=[step])

    async def _asked(self, project: str, body: wire.VerificationRequest) -> Asked:
        if body.run is not None:
            if body.tier is not None or body.keys is not None or body.prefix:
                raise RequestInvalid("a run is verified whole: it takes no tier, prefix or keys")
            return await self._asked_run(project, body.run)
        if body.tier is None:
            raise RequestInvalid("a verification names a tier or a run")
        if body.keys is not None and body.prefix:
            raise RequestInvalid("a list names whole keys: it takes no prefix")
        self._check_tier(body.tier, where="tier")
        self._check_copy(body.tier, body.repair_from)
        prefix = _prefix(body.prefix)
        if body.keys is not None:
            return Asked(body.tier, "list", keys=tuple(_keys(body.keys)), repair_from=body.repair_from)
        return Asked(
            body.tier, "tier", prefix, strangers=body.strangers and self._knows_its_own(body.tier),
            repair_from=body.repair_from,
        )  # fmt: skip

    async def _asked_run(self, project: str, run: str) -> Asked:
        async with self._database.project(project) as conn:
            row = await SQL.one(conn, "run", id=run)
        if row is None:
            raise NotFound("there is no such run", where=run)
        if row.state not in SEALED_RUNS:
            raise Conflict(f"the run is {row.state}; only a sealed run root can be verified", where=run)
        self._check_tier(row.tier, where="run")
        return Asked(row.tier, "run", run=run)

    def _check_tier(self, name: str, *, where: str) -> None:
        if name not in self._ends.tiers or name not in self._ends.places:
            hint = "`mover tier list` names them."
            raise RequestInvalid(f"{name[:60]} is not a tier of this node", where=where, hint=hint)
        if self._ends.tiers[name].zone != "deidentified":
            raise RequestInvalid("the catalog knows digests of deidentified tiers only", where=name)

    def _check_copy(self, tier: str, copy: str | None) -> None:
        if copy is None:
            return
        self._check_tier(copy, where="repair_from")
        if copy == tier:
            raise RequestInvalid("a tier is no second copy of itself", where="repair_from")
        if self._ends.places[tier].read_only:
            raise RequestInvalid("the tier is read-only: nothing can be repaired on it", where=tier)

    def _knows_its_own(self, tier: str) -> bool:
        """Jobs write what they like on flash, and a repository's packs are known to its own check."""
        return self._ends.places[tier].role in ("archive", "source")

    async def _remember(
        self, conn: Connection, project: str, key: str, body: wire.VerificationRequest, verification: str
    ) -> str | None:
        """The earlier verification of this key, or None after binding the key to the new one (D13)."""
        digest = blake3(msgspec.json.encode(body, order="sorted")).hexdigest()
        hashed = blake3(b"verification\0" + key.encode()).hexdigest()
        values = {"project": project, "key": hashed}
        if await SQL.one(conn, "remember", **values, body_digest=digest, subject=verification) is not None:
            return None
        earlier = await SQL.one(conn, "remembered", **values)
        if earlier.body_digest != digest:
            raise Conflict(
                "this Idempotency-Key already stands for another request", where=earlier.subject_id,
                hint="Use a fresh key for a new verification.",
            )  # fmt: skip
        return str(earlier.subject_id)

    async def _create(self, conn: Connection, project: str, actor: str, asked: Asked, verification: str) -> None:
        values = {
            "id": verification, "project": project, "tier": asked.tier, "scope": asked.scope,
            "prefix": name_bytes(asked.prefix), "run": asked.run, "policy": asked.policy, "strangers": asked.strangers,
            "repair_from": asked.repair_from, "limit_bytes": asked.limit_bytes, "actor": actor,
        }  # fmt: skip
        await conn.execute(SQL["insert"], values)
        if asked.keys:
            await conn.execute(
                SQL["insert_keys"], {"project": project, "id": verification, "keys": list(asked.keys)}
            )
        shard = NewShard(tier_queue(asked.tier), "verify", verification, priority=PRIORITY)
        await add_shards(conn, project, [shard])

    async def abort(self, identity: Identity, verification: str, *, request: str = "") -> wire.Verification:
        """No further entry is read; what was found stays. Aborting twice is aborting once."""
        async with self._database.project(identity.project) as conn:
            row = await SQL.one(conn, "lock", id=verification)
            if row is None:
                raise NotFound("there is no such verification", where=verification)
            if row.state not in FINAL:
                values = {"id": verification, "state": "aborted", "reason": "aborted", "explanation": None}
                await conn.execute(SQL["set_state"], values)
                await cancel_shards(conn, verification)
                await self._record(conn, identity, "verification aborted", verification, request=request)
        return await self.view(identity.project, verification)

    # --- look -------------------------------------------------------------------------------------------------

    async def view(self, project: str, verification: str) -> wire.Verification:
        async with self._database.project(project) as conn:
            row = await SQL.one(conn, "get", id=verification)
            if row is None:
                raise NotFound("there is no such verification", where=verification)
            return await self._view(conn, row)

    async def list(self, project: str, after: str | None, limit: int) -> wire.VerificationPage:
        """Newest first."""
        limit = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "page", after=after, limit=limit + 1)
            seen = [await self._view(conn, row) for row in rows[:limit]]
        return wire.VerificationPage(verifications=seen, next=seen[-1].id if len(rows) > limit else None)

    async def _view(self, conn: Connection, row: Any) -> wire.Verification:
        counts = await SQL.many(conn, "counts", id=row.id)
        found: dict[str, int] = {}
        for one in counts:
            found[one.kind] = found.get(one.kind, 0) + one.count
        trouble = None if row.state in FINAL else await SQL.one(conn, "trouble", id=row.id)
        return wire.Verification(
            id=row.id, tier=row.tier, scope=row.scope, prefix=key_text(name_text(bytes(row.prefix))), run=row.run_id,
            policy=row.policy, state=row.state, reason=row.reason or (trouble.code if trouble else None),
            explanation=row.explanation or (trouble.error if trouble else None), strangers=row.strangers,
            repair_from=row.repair_from, limit_bytes=int(row.limit_bytes) if row.limit_bytes is not None else None,
            entries=row.entries, bytes=int(row.bytes), checked=row.checked_count, checked_bytes=int(row.checked_bytes),
            listed=row.listed_count, findings=found, open={o.kind: o.count for o in counts if o.state == "open"},
            repaired=sum(one.count for one in counts if one.state == "repaired"), created_by=row.created_by,
            created_at=row.created_at, started_at=row.started_at, finished_at=row.finished_at,
        )  # fmt: skip

    async def findings(
        self, project: str, verification: str, after: str | None, limit: int
    ) -> wire.FindingPage:
        """In the order in which they were found."""
        limit = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            if await SQL.one(conn, "get", id=verification) is None:
                raise NotFound("there is no such verification", where=verification)
            rows = await SQL.many(conn, "findings", id=verification, after=after, limit=limit + 1)
        seen = [_finding(row) for row in rows[:limit]]
        return wire.FindingPage(findings=seen, next=seen[-1].id if len(rows) > limit else None)

    async def report(self, project: str, verification: str, format_: Format) -> AsyncIterator[bytes]:
        """Every entry that was to be looked at, with what was found; a slice at a time."""
        await self.view(project, verification)
        if format_ == "csv":
            yield (",".join(REPORT) + "\r\n").encode()
        after = 0
        while True:
            async with self._database.project(project) as conn:
                rows = await SQL.many(conn, "report", id=verification, after=after, limit=REPORT_SLICE)
            if rows:
                yield await in_thread(_lines, rows, format_)
                after = rows[-1].id
            elif after == 0 and format_ == "jsonl":
                yield b""
            if len(rows) < REPORT_SLICE:
                return

    # --- what policies start, what the alarm says ---------------------------------------------------------------

    async def begin_due(self, project: str, policies: PolicyBook | None = None) -> int:
        """Verifications of policies whose time has come; how many began. Any number of daemons begin one."""
        began = 0
        async with self._database.project(project) as conn:
            await conn.execute(SQL["prune"], {"days": KEPT_DAYS, "limit": PRUNED_AT_ONCE})
        for declared, policy in _readings((policies or self._policies).all()):
            if policy.tier in self._ends.tiers:
                try:
                    began += await self._begin(project, policy, declared=declared)
                except MoverError as error:
                    # one policy that cannot begin keeps no other from it
                    log.warning("verification not begun", policy=policy.name, code=error.code)
        return began

    async def begin_list(
        self, conn: Connection, project: str, tier: str, keys: tuple[bytes, ...], *, repair_from: str | None
    ) -> None:
        """What somebody found damaged or gone is read at once, and repaired where another copy stands."""
        verification, by = new_id("verification"), "archive"
        await self._create(conn, project, by, Asked(tier, "list", keys=keys, repair_from=repair_from), verification)
        await audit.record(
            conn, project=project, node=self._node, actor=by, action="verification begun", subject=verification,
            reason="archived files were not what the catalog says", details={"tier": tier, "entries": len(keys)},
        )  # fmt: skip

    async def _begin(self, project: str, policy: VerifyPolicy, *, declared: str) -> bool:
        self._check_tier(policy.tier, where=policy.name)
        self._check_copy(policy.tier, policy.repair_from)
        prefix = _prefix(policy.prefix)
        async with self._database.project(project) as conn:
            await conn.execute(SQL["lock_policy"], {"project": project, "policy": policy.name})
            last = await SQL.one(conn, "last_of", policy=policy.name, declared=declared)
            if last.running or not is_due(policy, last_age_s=last.age_s, known_for_s=last.known_s or 0.0):
                return False
            total = await SQL.one(conn, "total", tier=policy.tier, prefix=name_bytes(prefix))
            if not total.entries:
                return False    # nothing is known yet: a site on its first day is not damaged
            asked = Asked(
                policy.tier, "tier", prefix, strangers=policy.strangers and self._knows_its_own(policy.tier),
                repair_from=policy.repair_from, policy=policy.name, limit_bytes=portion_bytes(policy, total.bytes),
            )  # fmt: skip
            verification, by = new_id("verification"), f"policy:{policy.name}"
            await self._create(conn, project, by, asked, verification)
            await audit.record(
                conn, project=project, node=self._node, actor=by, action="verification begun", subject=verification,
                reason=f"every {policy.every_s} s", details={"tier": policy.tier, "limit_bytes": asked.limit_bytes},
            )  # fmt: skip
        return True

    async def measure(self, project: str) -> None:
        """The damage that stands, as a gauge; what is repaired disappears."""
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "open")
        metrics.VERIFY_OPEN.clear()
        for row in rows:
            metrics.VERIFY_OPEN.labels(row.tier, row.kind).set(row.count)

    async def _record(
        self, conn: Connection, identity: Identity, action: str, verification: str, *, request: str
    ) -> None:
        await audit.record(
            conn, project=identity.project, node=self._node, actor=identity.actor, action=action,
            subject=verification, request=request,
        )  # fmt: skip


def _readings(policies: Sequence[Loaded]) -> Iterator[tuple[str, VerifyPolicy]]:
    """With the name of the policy that declares them: a verify policy one, an archive policy one of each copy."""
    for loaded in policies:
        if isinstance(loaded.policy, VerifyPolicy):
            yield loaded.name, loaded.policy
        if isinstance(loaded.policy, ArchivePolicy):
            yield from ((loaded.name, one) for one in of_archive(loaded.policy))


def _prefix(text: str) -> str:
    try:
        prefix = clean_prefix(text_key(text))
    except ValueError as error:
        raise RequestInvalid(str(error), where="prefix") from None
    if prefix is None:
        raise RequestInvalid("a prefix stays below the tier's root", where="prefix")
    return prefix


def _keys(texts: Sequence[str]) -> list[bytes]:
    """Each once, as the tier spells it. RequestInvalid for what is no key of a tier."""
    found: dict[bytes, None] = {}
    for position, text in enumerate(texts):
        try:
            key = text_key(text)
            beneath.key_parts(key)
        except (ValueError, RequestInvalid) as error:
            what = error.what if isinstance(error, RequestInvalid) else str(error)
            raise RequestInvalid(f"key {position + 1} of the list: {what}", where="keys") from None
        found[name_bytes(key)] = None
    return list(found)


def _finding(row: Any) -> wire.Finding:
    return wire.Finding(
        id=row.id, kind=row.kind, state=row.state, key=key_text(name_text(bytes(row.key))), subject=row.subject,
        expected=row.expected, found=row.found, bytes=row.size_bytes, found_bytes=row.found_bytes, code=row.code,
        explanation=row.explanation, quarantine=row.quarantine, repaired_from=row.repaired_from,
        repaired_at=row.repaired_at, at=row.at,
    )  # fmt: skip


def _lines(rows: Sequence[Any], format_: Format) -> bytes:
    lines = [_line(row) for row in rows]
    if format_ == "jsonl":
        return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    return b"".join(
        (",".join(csv_cell("" if line[name] is None else str(line[name])) for name in REPORT) + "\r\n").encode()
        for line in lines
    )


def _line(row: Any) -> dict[str, Any]:
    return {
        "key": key_text(name_text(bytes(row.key))), "state": row.finding or row.state, "finding": row.kind,
        "source": row.source, "subject": row.subject, "expected": row.digest, "found": row.found,
        "size_bytes": row.size_bytes, "found_bytes": row.found_bytes, "code": row.code,
        "explanation": row.explanation, "quarantine": row.quarantine, "repaired_from": row.repaired_from,
        "looked_at": row.finished_at.isoformat() if row.finished_at else None,
    }  # fmt: skip
