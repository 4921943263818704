"""Errors as RFC 9457 problem+json, in one place.

What we raise on purpose travels with its fields. What we did not foresee travels as a request id only: its
text may quote a row, a path or a name, so neither the answer nor the log holds it; the log has the kind of
exception and the lines of code it passed through.
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from mover.api.request_id import request_id
from mover.errors import (
    BodyTooLarge,
    LimitExceeded,
    MethodNotAllowed,
    MoverError,
    NotFound,
    RequestError,
    Unauthenticated,
)
from mover.log import get_logger
from mover.metrics import ERRORS
from mover.model import wire

MEDIA_TYPE = "application/problem+json"
_log = get_logger("api")


def problem_of(error: MoverError, *, request: str) -> wire.Problem:
    return wire.Problem(
        type=f"urn:mover:error:{error.code}",
        title=type(error).__name__,
        status=error.status,
        code=error.code,
        detail=error.what,
        where=error.where,
        retry=error.retry,
        hint=error.advice,
        request=request,
        details=error.details,
    )


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware; aiohttp demands the parameters' names."""
    try:
        return await handler(request)
    except MoverError as error:
        return answer(error, request)
    except web.HTTPException as error:
        return answer(translate(error), request, headers=_allowed(error))
    except Exception as error:  # noqa: BLE001 - the outer edge: recorded in kind, answered without its text
        _log.error("request failed", method=request.method, exc_info=error)
        return answer(MoverError("something we did not foresee went wrong"), request)


def answer(error: MoverError, request: web.Request, *, headers: dict[str, str] | None = None) -> web.Response:
    headers = dict(headers or {})
    ERRORS.labels(error.code).inc()
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="mover"'  # RFC 9110, 11.6.1
    if isinstance(error, LimitExceeded):
        headers["Retry-After"] = str(next((one["after_s"] for one in error.details if "after_s" in one), 1))
    problem = problem_of(error, request=request_id(request))
    try:
        body = msgspec.json.encode(problem)
    except (UnicodeEncodeError, TypeError):
        # the facts beside the problem cannot be said in JSON; the problem itself must be
        body = msgspec.json.encode(msgspec.structs.replace(problem, where="", details=[]))
    return web.Response(
        body=body, status=error.status, content_type=MEDIA_TYPE, headers=headers
    )


def translate(error: web.HTTPException) -> MoverError:
    """aiohttp's own refusals in our words."""
    if isinstance(error, web.HTTPNotFound):
        return NotFound("no such path", hint="See /openapi.json.")
    if isinstance(error, web.HTTPMethodNotAllowed):
        return MethodNotAllowed("this path cannot do that")
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        return BodyTooLarge("the body is larger than this daemon takes")
    return RequestError(f"the request was refused by HTTP itself ({error.status})")


def _allowed(error: web.HTTPException) -> dict[str, str]:
    return {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
