"""Steps 3 to 5 as a scheduler sees them: ask, wait, train, finish, clean."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Paged, Planned, Query, Streamed, Waiting
from mover.api.streaming import MEDIA_TYPE
from mover.model import wire

OPERATIONS = Operations()
JSONL = "application/jsonl; charset=utf-8"
# a waiting scheduler is told of `ready` and of every end; `protected` is a rest on the way to `cleaned`
FINAL = frozenset({"cleaned", "refused", "failed", "cancelled"})


@OPERATIONS.add(
    "POST", "/v1/runs", "runs.request", wire.Run,
    body=wire.RunRequest, query=Planned, status=202, key="required",
)  # fmt: skip
async def request(call: Call[wire.RunRequest, Planned]) -> wire.Run | wire.Plan:
    """Ask for a set of slides on flash; the same Idempotency-Key gives the same run."""
    if call.query.plan:
        return await call.rooms.runs.plan_request(call.identity, call.body)
    return await call.rooms.runs.request(call.identity, call.body, key=call.key, request=call.request)


@OPERATIONS.add("GET", "/v1/runs", "runs.read", wire.RunPage, query=Paged)
async def list_runs(call: Call[None, Paged]) -> wire.RunPage:
    """The runs of the project, newest first."""
    return await call.rooms.runs.list(call.project, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/runs/{id}", "runs.read", wire.Run, query=Waiting)
async def view(call: Call[None, Waiting]) -> wire.Run:
    """One run; with `wait`, as soon as its state changes or is final."""
    with call.rooms.runs.watching(call.id) as changed:
        return await call.until(lambda: call.rooms.runs.view(call.project, call.id), FINAL, changed)


@OPERATIONS.add("GET", "/v1/runs/{id}/events", "runs.read", str, media_type=MEDIA_TYPE)
async def events(call: Call[None, Query]) -> Streamed:
    """Server-sent events: every state with its id (`Last-Event-ID` resumes), and progress with its pace in between."""
    items = call.rooms.runs.events(call.project, call.id, after=call.last_event)
    return Streamed(call.streamed(items), MEDIA_TYPE)


@OPERATIONS.add("GET", "/v1/runs/{id}/manifest", "runs.read", str, media_type=JSONL, reads="manifest")
async def manifest(call: Call[None, Query]) -> Streamed:
    """The sealed manifest, JSON lines, format version 1; kept for ever."""
    return Streamed(call.rooms.runs.manifest(call.project, call.id), JSONL)


@OPERATIONS.add("GET", "/v1/runs/{id}/ready", "runs.read", wire.StagedPage, query=Paged)
async def ready(call: Call[None, Paged]) -> wire.StagedPage:
    """The entries that already stand verified on flash, as they came; asked again after `cursor`, those since."""
    return await call.rooms.runs.ready(call.project, call.id, call.query.after, call.query.limit)


@OPERATIONS.add("GET", "/v1/runs/{id}/strays", "runs.read", wire.StrayPage, query=Paged)
async def strays(call: Call[None, Paged]) -> wire.StrayPage:
    """What cleanup moved aside instead of removing it, by path."""
    return await call.rooms.runs.strays(call.project, call.id, call.query.after, call.query.limit)


@OPERATIONS.add("POST", "/v1/runs/{id}/heartbeat", "runs.heartbeat", wire.Run)
async def heartbeat(call: Call[None, Query]) -> wire.Run:
    """Keep the lease."""
    return await call.rooms.runs.heartbeat(call.project, call.id)


@OPERATIONS.add(
    "POST", "/v1/runs/{id}/finish", "runs.finish", wire.Run,
    body=wire.FinishRequest, query=Planned, status=202,
)  # fmt: skip
async def finish(call: Call[wire.FinishRequest, Planned]) -> wire.Run | wire.Plan:
    """Training is over: protect what it left behind."""
    if call.query.plan:
        return await call.rooms.protection.plan_finish(call.identity, call.id, call.body)
    return await call.rooms.runs.finish(call.identity, call.id, call.body)


@OPERATIONS.add("POST", "/v1/runs/{id}/clean", "runs.clean", wire.Run, query=Planned, status=202)
async def clean(call: Call[None, Planned]) -> wire.Run | wire.Plan:
    """Remove the run root; refused before protection is proved."""
    if call.query.plan:
        return await call.rooms.runs.plan_clean(call.project, call.id)
    return await call.rooms.runs.clean(call.identity, call.id)


@OPERATIONS.add("POST", "/v1/runs/{id}/cancel", "runs.cancel", wire.Run, status=202)
async def cancel(call: Call[None, Query]) -> wire.Run:
    """Give up a run, wherever it is; what a job wrote already is protected before anything goes."""
    return await call.rooms.runs.cancel(call.identity, call.id)
