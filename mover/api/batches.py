"""Step 1: batches, their packs, the slides they became, and the look into the vault."""

from __future__ import annotations

from datetime import datetime

from mover.api.operation import Call, Limit, Operations, Paged, PathQuery, Planned, Query, ShortQuery, Waiting
from mover.model import wire

OPERATIONS = Operations()
FINAL = frozenset({"complete", "failed"})


class PacksQuery(Query, frozen=True):
    state: ShortQuery | None = None
    after: PathQuery | None = None
    limit: Limit = 100


class SlidesQuery(Paged, frozen=True):
    """`since` and `until`: when they were published."""

    batch: ShortQuery | None = None
    family: ShortQuery | None = None
    state: wire.SlideState | None = None
    since: datetime | None = None
    until: datetime | None = None
    tag: ShortQuery | None = None


@OPERATIONS.add("POST", "/v1/batches", "batches.declare", wire.Batch, body=wire.BatchRequest, query=Planned, status=202)
async def declare(call: Call[wire.BatchRequest, Planned]) -> wire.Batch | wire.Plan:
    """Declare a folder of a source tier ready for the image workflow."""
    if call.query.plan:
        return await call.rooms.batches.plan_declare(call.project, call.actor, call.body)
    return await call.rooms.batches.declare(call.project, call.actor, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/batches", "batches.read", wire.BatchPage, query=Paged)
async def list_batches(call: Call[None, Paged]) -> wire.BatchPage:
    """The batches of the project, newest first."""
    return await call.rooms.batches.list(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/batches/{id}", "batches.read", wire.Batch, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Batch:
    """One batch; with `wait`, as soon as its state changes or is final."""
    return await call.until(lambda: call.rooms.batches.view(call.project, call.id), FINAL)


@OPERATIONS.add("GET", "/v1/batches/{id}/packs", "batches.read", wire.PackPage, query=PacksQuery)
async def packs(call: Call[None, PacksQuery]) -> wire.PackPage:
    """The packs of a batch with state and reason, by id."""
    query = call.query
    return await call.rooms.batches.packs(call.project, call.id, query.state, query.after, query.limit)


@OPERATIONS.add(
    "GET", "/v1/batches/{id}/certificate", "batches.certify", str, media_type="application/json; charset=utf-8"
)
async def certificate(call: Call[None, Query]) -> str:
    """The signed certificate of a complete batch; the same until something of the batch changes."""
    identity = call.identity
    return await call.rooms.certificates.issue(
        call.project, call.actor, identity.role, call.id, request=call.request
    )


@OPERATIONS.add("POST", "/v1/reveal", "names.reveal", wire.Revealed, body=wire.RevealRequest)
async def reveal(call: Call[wire.RevealRequest, Query]) -> wire.Revealed:
    """The original names of packs, for a purpose; every look is an audit record."""
    return await call.rooms.batches.reveal(call.project, call.actor, call.body)


@OPERATIONS.add("GET", "/v1/slides", "slides.read", wire.SlidePage, query=SlidesQuery)
async def slides(call: Call[None, SlidesQuery]) -> wire.SlidePage:
    """The slides granted to the project, or some of them, by number."""
    query = call.query
    only = wire.SlideFilter(query.batch, query.family, query.state, query.since, query.until, query.tag)
    return await call.rooms.batches.slides(call.project, query.after, query.limit, only=only)


@OPERATIONS.add("GET", "/v1/slides/{number}", "slides.read", wire.Slide, reads="slide")
async def slide(call: Call[None, Query]) -> wire.Slide:
    """One slide with what is known of it."""
    return await call.rooms.batches.slide(call.project, call.id)


@OPERATIONS.add("GET", "/v1/slides/{number}/evidence", "slides.read", wire.SlideEvidence, reads="slide")
async def evidence(call: Call[None, Query]) -> wire.SlideEvidence:
    """Before and after of one slide: what was removed, changed and kept, masked; what was looked for; its proofs."""
    return await call.rooms.batches.evidence(call.project, call.id)


@OPERATIONS.add("GET", "/v1/slides/{number}/thumbnail", "slides.read", wire.SlideThumbnail, reads="slide")
async def thumbnail(call: Call[None, Query]) -> wire.SlideThumbnail:
    """The small picture of a slide, made anew when it was published and proved here again by its digest."""
    return await call.rooms.batches.thumbnail(call.project, call.id)
