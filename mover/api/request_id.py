"""One id per request: the caller's if it is harmless, else our own; it comes back in the answer's header and
runs through every log line and audit record the request causes.

Because it does, a caller's id must be a random one: a UUID or hexadecimal digits. A case number is short and plain
too, and would stand in the log for ever.
"""

from __future__ import annotations

import re

from aiohttp import web

from mover.randomness import random_bytes

HEADER = "X-Request-Id"
_HARMLESS = re.compile(r"[0-9a-f]{16,64}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEY = web.RequestKey("request_id", str)


def request_id(request: web.Request) -> str:
    if _KEY not in request:
        given = request.headers.get(HEADER, "")
        request[_KEY] = given if _HARMLESS.fullmatch(given) else random_bytes(10).hex()
    return request[_KEY]
