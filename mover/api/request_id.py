"""One id per request: the caller's if it is harmless, else our own; it comes back in the answer's header and
runs through every log line and audit record the request causes."""

from __future__ import annotations

import re

from aiohttp import web

from mover.randomness import random_bytes

HEADER = "X-Request-Id"
_HARMLESS = re.compile(r"^[A-Za-z0-9._-]{8,64}$")
_KEY = web.RequestKey("request_id", str)


def request_id(request: web.Request) -> str:
    if _KEY not in request:
        given = request.headers.get(HEADER, "")
        request[_KEY] = given if _HARMLESS.match(given) else random_bytes(10).hex()
    return request[_KEY]
