"""The audit record and the check of its chains."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from mover import audit
from mover.api.operation import ID_PATTERN, Call, Limit, Operations, Paged, PathQuery, Planned, Query, ShortQuery
from mover.catalog.database import Database
from mover.clock import monotonic_s
from mover.errors import RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.oversight import looked_at

PACK = "application/zstd"
FHIR = "application/fhir+ndjson"
ACCESS_S = 3600.0
ACCESS_MAX = 10_000
Id = Annotated[str, Meta(pattern=ID_PATTERN)]

OPERATIONS = Operations()


class AuditQuery(Query, frozen=True):
    """`action` is its first words; `since` and `until` are half open."""

    subject: ShortQuery | None = None
    actor: ShortQuery | None = None
    action: ShortQuery | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: PathQuery | None = None
    limit: Limit = 100


class EventQuery(Query, frozen=True):
    """As the search: `action` is its first words; `since` and `until` are half open."""

    subject: ShortQuery | None = None
    actor: ShortQuery | None = None
    action: ShortQuery | None = None
    since: datetime | None = None
    until: datetime | None = None


class PackQuery(Query, frozen=True):
    run: Id


@OPERATIONS.add("GET", "/v1/audit", "audit.read", wire.AuditPage, query=AuditQuery)
async def page(call: Call[None, AuditQuery]) -> wire.AuditPage:
    """Who did what, in the order of the chains."""
    query = call.query
    wanted = audit.Wanted(query.subject, query.actor, query.action, query.since, query.until)
    return await call.rooms.audit.page(call.project, wanted, after=query.after, limit=query.limit)


@OPERATIONS.add("GET", "/v1/audit/verify", "audit.read", wire.AuditVerdict)
async def verify(call: Call[None, Query]) -> wire.AuditVerdict:
    """Recompute every chain of the project and compare it with the checkpoints on other tiers."""
    return await call.rooms.audit.verify(call.project)


@OPERATIONS.add("GET", "/v1/audit/checkpoints", "audit.read", wire.Checkpoints, query=Paged)
async def checkpoints(call: Call[None, Paged]) -> wire.Checkpoints:
    """Where the chains ended, signed, newest first, and which tiers have each."""
    return await call.rooms.audit.checkpoints(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/audit/pack", "audit.pack", str, query=PackQuery, media_type=PACK)
async def pack(call: Call[None, PackQuery]) -> AsyncIterator[bytes]:
    """One run with its proofs, policies, certificates, records and checkpoints as one signed file.

    `mover audit verify FILE` checks it without a daemon. That it was made is a record, too."""
    return call.rooms.audit.pack(call.project, call.query.run, by=call.actor, request=call.request)


@OPERATIONS.add(
    "GET", "/v1/audit/export", "audit.read", str, media_type="application/jsonl; charset=utf-8", reads="audit"
)
async def export(call: Call[None, Query]) -> AsyncIterator[bytes]:
    """Every chain as JSON lines, each record as it was hashed, so that an outsider can recompute it."""
    return call.rooms.audit.export(call.project)


@OPERATIONS.add("GET", "/v1/audit/events", "audit.read", str, query=EventQuery, media_type=FHIR, reads="audit")
async def events(call: Call[None, EventQuery]) -> AsyncIterator[bytes]:
    """The records as FHIR AuditEvents (R4), one to a line, oldest first, for the hospital's own audit repository."""
    query = call.query
    wanted = audit.Wanted(query.subject, query.actor, query.action, query.since, query.until)
    return call.rooms.audit.events(call.project, wanted)


@OPERATIONS.add("GET", "/v1/audit/restores", "audit.read", wire.AuditRestores)
async def restores(call: Call[None, Query]) -> wire.AuditRestores:
    """What people said of records that a restored catalog lost, newest first."""
    return await call.rooms.audit.restores(call.project)


@OPERATIONS.add(
    "POST", "/v1/audit/restores", "audit.restore", wire.AuditRestore, body=wire.AuditRestoreRequest, status=201
)
async def ask_restore(call: Call[wire.AuditRestoreRequest, Query]) -> wire.AuditRestore:
    """Say that the catalog was restored from an older dump; a second person approves.

    What is lost is found on the tiers, and written down."""
    return await call.rooms.audit.ask_restore(call.identity, call.body)


@OPERATIONS.add("POST", "/v1/audit/restores/{id}/approve", "audit.restore", wire.AuditRestore)
async def approve_restore(call: Call[None, Query]) -> wire.AuditRestore:
    """The second person's word: the loss is recorded, signed and told for ever, and checkpoints go on."""
    return await call.rooms.audit.approve_restore(call.identity, call.id)


@OPERATIONS.add("GET", "/v1/audit/retirements", "audit.read", wire.AuditRetirements)
async def retirements(call: Call[None, Query]) -> wire.AuditRetirements:
    """Which of the oldest records left the catalog for packs on tiers, or are asked to, newest first."""
    return await call.rooms.audit.retirements(call.project)


@OPERATIONS.add(
    "POST", "/v1/audit/retirements", "audit.retire", wire.AuditRetirement, body=wire.AuditRetirementRequest,
    query=Planned, status=201,
)  # fmt: skip
async def ask_retirement(call: Call[wire.AuditRetirementRequest, Planned]) -> wire.AuditRetirement | wire.Plan:
    """Ask that records older than a day, and than six years, leave the catalog; a second person approves.

    They are written as a signed pack onto every tier that checkpoints go to, read back and checked, first."""
    if call.query.plan:
        return await call.rooms.audit.plan_retirement(call.project, call.body)
    return await call.rooms.audit.ask_retirement(call.identity, call.body)


@OPERATIONS.add("POST", "/v1/audit/retirements/{id}/approve", "audit.retire", wire.AuditRetirement)
async def approve_retirement(call: Call[None, Query]) -> wire.AuditRetirement:
    """The second person's word: it is recorded, signed and told for ever, and the records leave piece by piece."""
    return await call.rooms.audit.approve_retirement(call.identity, call.id)


class Trail:
    """The audit room as the API asks it: each question is one transaction of one project."""

    def __init__(
        self, database: Database, checkpoints: audit.Checkpoints, *, node: str, site: str, key_file: Path,
        years: int | None = None,
    ) -> None:  # fmt: skip
        self._database = database
        self._checkpoints = checkpoints
        self._node, self._site, self._key_file = node, site, key_file
        self._restores = audit.Restores(database, checkpoints, node=node)
        self._retirements = audit.Retirements(
            database, checkpoints, node=node, site=site, key_file=key_file, years=years
        )
        self._accessed: dict[tuple[str, str, tuple[str, ...], str], float] = {}

    async def page(self, project: str, wanted: audit.Wanted, /, *, after: str | None, limit: int) -> wire.AuditPage:
        async with self._database.project(project) as conn:
            return await audit.page(conn, project, wanted, after=after, limit=limit)

    async def verify(self, project: str, /) -> wire.AuditVerdict:
        """The copies are read first: what is added afterwards is beyond them, never before."""
        known = await self._checkpoints.anchors(project)
        async with self._database.still(project) as conn:
            return await audit.verify(
                conn, project, anchors=known.heads, copies=known.copies, restored=known.restored, retired=known.retired
            )

    async def checkpoints(self, project: str, after: str | None, limit: int, /) -> wire.Checkpoints:
        if after is not None and not (after.isascii() and after.isdecimal() and len(after) < 19):
            raise RequestInvalid("`after` is not the `next` of an earlier page")
        async with self._database.project(project) as conn:
            return await audit.checkpoint_page(conn, project, before=int(after) if after else None, limit=limit)

    async def ask_restore(self, identity: Identity, body: wire.AuditRestoreRequest, /) -> wire.AuditRestore:
        return await self._restores.ask(identity, body.reason)

    async def approve_restore(self, identity: Identity, id: str, /) -> wire.AuditRestore:
        return await self._restores.approve(identity, id)

    async def restores(self, project: str, /) -> wire.AuditRestores:
        return await self._restores.list(project)

    async def plan_retirement(self, project: str, body: wire.AuditRetirementRequest, /) -> wire.Plan:
        return await self._retirements.plan(project, body.before)

    async def ask_retirement(self, identity: Identity, body: wire.AuditRetirementRequest, /) -> wire.AuditRetirement:
        return await self._retirements.ask(identity, body)

    async def approve_retirement(self, identity: Identity, id: str, /) -> wire.AuditRetirement:
        return await self._retirements.approve(identity, id)

    async def retirements(self, project: str, /) -> wire.AuditRetirements:
        return await self._retirements.list(project)

    async def retire(self, project: str, /) -> int:
        """What two people let go leaves; the daemon calls it again and again."""
        return await self._retirements.go_on(project)

    async def accessed(self, project: str, what: str, /, *subject: str, by: str, request: str) -> None:
        """One record for who reads the same thing again and again within the hour: a page of a table is no event."""
        key, now_s = (project, what, subject, by), monotonic_s()
        if now_s - self._accessed.get(key, -ACCESS_S) < ACCESS_S:
            return
        async with self._database.project(project) as conn:
            if what == "slide":
                await looked_at(conn, project, subject[0])
            await audit.record(
                conn, project=project, node=self._node, actor=by, action=f"{what} read",
                subject=subject[0] if subject else project, request=request,
            )  # fmt: skip
        while len(self._accessed) >= ACCESS_MAX:
            self._accessed.pop(next(iter(self._accessed)))
        self._accessed.pop(key, None)
        self._accessed[key] = now_s

    async def export(self, project: str, /) -> AsyncIterator[bytes]:
        async for line in audit.export(self._database, project):
            yield line

    async def events(self, project: str, wanted: audit.Wanted, /) -> AsyncIterator[bytes]:
        async for piece in audit.events(self._database, project, wanted, site=self._site):
            yield piece

    async def pack(self, project: str, run: str, /, *, by: str, request: str) -> AsyncIterator[bytes]:
        async for piece in audit.make_pack(
            self._database, project, run, by=by, node=self._node, site=self._site, key_file=self._key_file,
            request=request,
        ):  # fmt: skip
            yield piece
