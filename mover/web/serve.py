"""Serving the pages: a shell that holds no data, files that never change, and headers that let nothing else run.

What is shown comes from the API, asked by the browser with the rights of whoever signed in; so these routes need no
rights, and nobody learns from them more than from the package itself. The policy of the page (CSP level 3) allows
scripts and styles of this daemon only: what slips into a page as text stays text.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from mover.errors import NotFound
from mover.web.assets import Asset, load

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # for browsers that do not know frame-ancestors
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
# the shell names the version of everything else, so it is asked for each time, and mostly answered by 304
SHELL_CACHE = "no-cache"
FILE_CACHE = "public, max-age=31536000, immutable"


def mount(app: web.Application, described: dict[str, Any]) -> None:
    """The pages below /ui/; / leads there. `described` is the OpenAPI document of the API beside them."""
    held = load(described)

    async def shell(request: web.Request) -> web.Response:
        return _answer(request, held.shell, cache=SHELL_CACHE)

    async def file(request: web.Request) -> web.Response:
        if request.match_info["version"] != held.version:
            raise NotFound("these pages are of another version", hint="Load the page again.")
        found = held.files.get(request.match_info["name"])
        if found is None:
            raise NotFound("no such file")
        return _answer(request, found, cache=FILE_CACHE)

    async def icon(request: web.Request) -> web.Response:
        return _answer(request, held.files["icon.svg"], cache=SHELL_CACHE)

    async def home(request: web.Request) -> web.Response:
        return web.Response(status=302, headers=HEADERS | {"Location": "/ui/"})

    app.router.add_get("/ui/static/{version}/{name:.+}", file)
    app.router.add_get("/ui/{page:.*}", shell)
    app.router.add_get("/favicon.ico", icon)
    for path in ("/", "/ui"):
        app.router.add_get(path, home)


def _answer(request: web.Request, asset: Asset, *, cache: str) -> web.Response:
    packed = bool(asset.packed) and "gzip" in request.headers.get("Accept-Encoding", "")
    etag = f'"{asset.etag}-gz"' if packed else f'"{asset.etag}"'  # RFC 9110, 8.8.3.3: one for each coding
    headers = HEADERS | {"ETag": etag, "Cache-Control": cache, "Vary": "Accept-Encoding"}
    if etag in request.headers.get("If-None-Match", ""):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = asset.media_type
    if packed:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=asset.packed if packed else asset.body, headers=headers)
