"""The application: every operation on its path, one way in, one way out.

The way in, in this order: who asks (and how often), may this role do this, then what is asked. A caller
without rights learns nothing from how its body would have been judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mover import metrics
from mover.api import (
    accounts,
    adoptions,
    answers,
    archives,
    audit,
    batches,
    cohorts,
    dumps,
    events,
    folders,
    oversight,
    plots,
    policies,
    protection,
    quarantine,
    records,
    restores,
    rulings,
    runs,
    scans,
    service,
    sessions,
    shortenings,
    snapshots,
    streaming,
    tags,
    tokens,
    transfers,
    vault,
    verify,
    viewing,
)
from mover.api.admission import Admission, Face, allow
from mover.api.limits import Gate, Limits
from mover.api.openapi import document
from mover.api.operation import Call, Leaving, Operation, Streamed, Waiting
from mover.api.parsing import read_body, read_key, read_last_event, read_path, read_query
from mover.api.peers import is_local
from mover.api.problems import answer_errors
from mover.api.request_id import HEADER, request_id
from mover.api.rooms import AccessRoom, Rooms
from mover.api.signin import SignIn
from mover.api.streaming import Cut, Streams
from mover.api.waiting import Changed, Waits
from mover.clock import SYSTEM, Clock
from mover.errors import RequestInvalid
from mover.log import bound, get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.pictures import Picture

OPERATIONS: tuple[Operation, ...] = (
    *batches.OPERATIONS,
    *viewing.OPERATIONS,
    *vault.OPERATIONS,
    *dumps.OPERATIONS,
    *quarantine.OPERATIONS,
    *adoptions.OPERATIONS,
    *rulings.OPERATIONS,
    *scans.OPERATIONS,
    *records.OPERATIONS,
    *cohorts.OPERATIONS,
    *runs.OPERATIONS,
    *transfers.OPERATIONS,
    *verify.OPERATIONS,
    *restores.OPERATIONS,
    *archives.OPERATIONS,
    *folders.OPERATIONS,
    *snapshots.OPERATIONS,
    *shortenings.OPERATIONS,
    *policies.OPERATIONS,
    *protection.OPERATIONS,
    *answers.OPERATIONS,
    *audit.OPERATIONS,
    *tokens.OPERATIONS,
    *sessions.OPERATIONS,
    *accounts.OPERATIONS,
    *service.OPERATIONS,
    *oversight.OPERATIONS,
    *plots.OPERATIONS,
    *tags.OPERATIONS,
    *events.OPERATIONS,
)

# an answer is data: opened as a page of its own, a picture with a script in it among them, it does nothing, and in
# another site's frame it is not shown
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
PIECE_BYTES = 1 << 16
KEPT = "private, no-cache"
_log = get_logger("api")


@dataclass(frozen=True)
class _House:
    rooms: Rooms
    access: AccessRoom
    version: str
    limits: Limits
    admission: Admission
    waits: Waits
    streams: Streams
    clock: Clock


def make_app(
    rooms: Rooms, access: AccessRoom, *, version: str, limits: Limits | None = None, clock: Clock = SYSTEM,
    face: Face = Face(),  # noqa: B008 - frozen
) -> web.Application:  # fmt: skip
    """The caller serves it with `api.serve`, which also holds the bounds that HTTP's own parser keeps."""
    limits = limits or Limits()
    gate = Gate(limits, clock)
    admission = Admission(access, gate, face)
    streams = Streams(limits, access, clock=clock)
    house = _House(rooms, access, version, limits, admission, Waits(limits, clock), streams, clock)
    app = web.Application(middlewares=[_account(house), answer_errors], client_max_size=limits.body_bytes)
    SignIn(access, admission, gate, limits).add_routes(app)
    for operation in OPERATIONS:
        app.router.add_route(operation.method, operation.path, _endpoint(operation, house))
    _add_plain_routes(app, house)

    async def stop_waiting(_: web.Application) -> None:
        house.waits.closing = True
        house.streams.close()

    app.on_shutdown.append(stop_waiting)
    return app


def _endpoint(operation: Operation, house: _House) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        identity = await house.admission.admit(request)
        allow(identity, operation.action)
        call = await _parse(request, operation, house, identity)
        answer = await operation.handler(call)

        async def recorded() -> None:
            """Before a byte of it leaves: what cannot be recorded is not given. And not before there is something to
            give: what somebody took for an id may be a name."""
            if operation.reads:
                what = list(call.path.values())[:1]  # a slide's tiles are that slide
                await house.rooms.audit.accessed(call.project, operation.reads, *what, by=call.actor,
                                                 request=call.request)  # fmt: skip

        if isinstance(answer, Streamed):
            return await _stream(request, answer.lines, answer.media_type, recorded)
        if isinstance(answer, AsyncIterator):
            return await _stream(request, answer, operation.media_type, recorded)
        await recorded()
        if isinstance(answer, Leaving):
            response = _reply(answer.answer, operation)
            house.admission.clear_cookie(request, response)
            return response
        return _reply(answer, operation)

    return handle


async def _parse(request: web.Request, operation: Operation, house: _House, identity: Identity) -> Call[Any, Any]:
    query = read_query(request, operation.query)
    planned = getattr(query, "plan", False)

    async def until(
        look: Callable[[], Awaitable[Any]], final: frozenset[str], changed: Changed | None = None, /
    ) -> Any:
        assert isinstance(query, Waiting)
        return await house.waits.until_changed(
            look, final, query=query, gone=lambda: request.transport is None, changed=changed
        )

    return Call(
        rooms=house.rooms,
        access=house.access,
        identity=identity,
        path=read_path(request),
        query=query,
        key=read_key(request, required=operation.key == "required" and not planned),
        body=await read_body(request, operation.body, timeout_s=house.limits.body_timeout_s),
        request=request_id(request),
        until=until,
        streamed=partial(house.streams.framed, identity),
        last_event=read_last_event(request),
        known=request.headers.get("If-None-Match", ""),
    )


def _reply(answer: Any, operation: Operation) -> web.Response:
    if isinstance(answer, Picture):
        return _picture(answer)
    if isinstance(answer, str):
        return web.Response(body=answer.encode(), headers={"Content-Type": operation.media_type})
    status = 200 if isinstance(answer, wire.Plan) else operation.status
    return _json(answer, status=status)


def _picture(answer: Picture) -> web.Response:
    """What never changes is kept by the browser that asked, for that sign-in only, and shown after it asked again: a
    slide that is withdrawn is shown no more, and what still may be seen is neither drawn nor sent twice."""
    headers = {"Content-Type": answer.media_type}
    if answer.etag:
        headers |= {"ETag": answer.etag, "Cache-Control": KEPT, "Vary": "Cookie, Authorization, Mover-Project"}
    return web.Response(body=answer.data, status=304 if answer.data is None else 200, headers=headers)


async def _stream(
    request: web.Request, lines: AsyncIterator[bytes], media_type: str, recorded: Callable[[], Awaitable[None]]
) -> web.StreamResponse:
    """What is too long to stand in memory. The first piece is made before the status is said, so that a failure
    up to there is still a problem; a later one cuts the connection, which no reader takes for the end."""
    try:
        first = await anext(lines, b"")
        await recorded()
        response = web.StreamResponse(headers={"Content-Type": media_type})
        _stamp(response, request)
        await response.prepare(request)
        await _send(request, response, first, lines)
    finally:
        # whoever makes the pieces is told that nobody takes them any more
        if isinstance(lines, AsyncGenerator):
            await lines.aclose()
    return response


async def _send(request: web.Request, response: web.StreamResponse, first: bytes, lines: AsyncIterator[bytes]) -> None:
    try:
        await _put(response, first)
        async for line in lines:
            await _put(response, line)
        await response.write_eof()
    except ConnectionResetError:
        return  # whoever asked went away
    except Cut:
        if request.transport is not None:
            request.transport.abort()
    except BaseException:
        if request.transport is not None:
            request.transport.abort()
        raise


async def _put(response: web.StreamResponse, line: bytes) -> None:
    """Who reads nothing of a stream would stay for ever, whatever becomes of its rights. In pieces, so that a slow line
    is not taken for one that stands still."""
    for at in range(0, len(line), PIECE_BYTES):
        try:
            async with asyncio.timeout(streaming.STALLED_S):
                await response.write(line[at : at + PIECE_BYTES])
        except TimeoutError:
            raise Cut from None


def _stamp(response: web.StreamResponse, request: web.Request) -> None:
    response.headers[HEADER] = request_id(request)
    response.headers.setdefault("Cache-Control", "no-store")  # the pages beside the API say their own
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")


def _json(answer: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")


def _add_plain_routes(app: web.Application, house: _House) -> None:
    """What is asked without a role: is it alive, what can it do, how is it doing."""
    openapi = msgspec.json.encode(document(OPERATIONS, version=house.version))

    async def healthz(request: web.Request) -> web.Response:
        if request.query:
            raise RequestInvalid("this path takes no parameters", where="query")
        await house.rooms.health()
        return _json(wire.Health(version=house.version))

    async def describe(request: web.Request) -> web.Response:
        return web.Response(body=openapi, content_type="application/json")

    async def expose(request: web.Request) -> web.Response:
        if not is_local(request) or house.admission.is_passed_on(request) or "Authorization" in request.headers:
            allow(await house.admission.admit(request), "metrics.read")
        return web.Response(body=house.rooms.metrics(), headers={"Content-Type": metrics.CONTENT_TYPE})

    app.router.add_get("/healthz", healthz)
    app.router.add_get("/openapi.json", describe)
    app.router.add_get("/metrics", expose)


def _account(house: _House) -> Middleware:
    """One line and one header set per request. The line holds the route's pattern, not the path or the query;
    every line that is written on the way carries the same request id."""

    @web.middleware
    async def account(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun_s = house.clock.monotonic_s()
        with bound(request=request_id(request)):
            response = await handler(request)
            if not response.prepared:
                _stamp(response, request)
            _record(request, response, seconds=house.clock.monotonic_s() - begun_s)
        return response

    return account


def _record(request: web.Request, response: web.StreamResponse, *, seconds: float) -> None:
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "none"
    method = request.method if request.method in ("GET", "POST", "DELETE") else "other"
    _log.info("request", method=method, route=route, status=response.status, seconds=round(seconds, 4))
    metrics.HTTP_REQUESTS.labels(method, route, str(response.status)).inc()
    metrics.HTTP_SECONDS.labels(method, route).observe(seconds)
