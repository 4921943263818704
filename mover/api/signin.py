"""The ways in, for whom nobody knows yet: by a name or a token, or by the site's identity provider.

Plain routes: they have no role to ask for and no identity to give. A session's secret is another one after each way in,
and whichever session the browser had before is over.
"""

from __future__ import annotations

import html
import re
from contextlib import suppress
from typing import Any

import msgspec
from aiohttp import web

from mover.api.admission import Admission
from mover.api.limits import Gate, Limits
from mover.api.parsing import read_body
from mover.api.request_id import request_id
from mover.api.rooms import AccessRoom
from mover.errors import MoverError, NotFound, RequestInvalid, Unauthenticated
from mover.log import get_logger
from mover.model import wire

SESSION = "/v1/session"
WAYS = "/v1/session/ways"
BEGIN = "/v1/session/oidc"
CALLBACK = "/v1/session/oidc/callback"
# while somebody is at the identity provider; Lax, for the way back begins there
BINDING = "mover-sign-in"
BINDING_LIVES_S = 600
POLICY = "default-src 'none'; frame-ancestors 'none'"
HOME = "/ui/"
FAILED = "/ui/?sign-in=failed"
_WORD = re.compile(r"^[\x21-\x7e]{1,4096}\Z")
# a path of this daemon: neither another host (//, /\) nor anything that a header or a page could misread
_TO = re.compile(r"^/(?![/\\])[A-Za-z0-9/_.~?&=%#-]{0,500}\Z")
_log = get_logger("api")


class SignIn:
    def __init__(self, access: AccessRoom, admission: Admission, gate: Gate, limits: Limits) -> None:
        self._access = access
        self._admission = admission
        self._gate = gate
        self._limits = limits

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post(SESSION, self.by_secret)
        app.router.add_get(WAYS, self.ways, allow_head=False)
        app.router.add_get(BEGIN, self.begin, allow_head=False)
        app.router.add_get(CALLBACK, self.callback, allow_head=False)

    async def ways(self, request: web.Request) -> web.Response:
        """What a page for signing in offers."""
        _take(request, ())
        provider = self._access.provider
        return _json(wire.SignInWays(provider=provider.label if provider else None))

    async def by_secret(self, request: web.Request) -> web.Response:
        self._counted(request)
        self._admission.refuse_elsewhere(request)
        _take(request, ())
        body = await read_body(request, wire.SessionRequest, timeout_s=self._limits.body_timeout_s)
        secret = await self._access.sessions.sign_in(
            body, address=self._admission.address(request), request=request_id(request)
        )
        await self._forget(request)
        response = _json(await self._access.sessions.view(await self._access.sessions.identify(secret)), status=201)
        self._admission.set_cookie(request, response, secret)
        return response

    async def begin(self, request: web.Request) -> web.Response:
        """To the provider, and afterwards to a path of ours."""
        self._counted(request)
        asked = _take(request, ("to",))
        to = asked.get("to", HOME)
        if not _TO.match(to):
            raise RequestInvalid("that is no path of this daemon", where="query to")
        began = await self._provider().begin(to)
        response = web.Response(status=302, headers={"Location": began.url, "Referrer-Policy": "no-referrer"})
        self._bind(request, response, began.binding)
        return response

    async def callback(self, request: web.Request) -> web.Response:
        """Back from the provider. Browsers send no strict cookie along a redirect that began elsewhere: the page that
        is answered goes on by itself."""
        self._counted(request)
        try:
            secret, to = await self._finished(request)
        except MoverError as error:
            if error.status >= 500:
                _log.warning("identity provider failed", code=error.code)
            return self._leaving(request, FAILED)
        await self._forget(request)
        response = self._leaving(request, to)
        self._admission.set_cookie(request, response, secret)
        return response

    async def _finished(self, request: web.Request) -> tuple[str, str]:
        binding = request.cookies.get(BINDING, "")
        said = {name: request.query.get(name, "") for name in ("state", "code")}
        if not all(_WORD.match(word) for word in (binding, *said.values())):
            raise Unauthenticated("this sign-in was not begun here, or was refused there")
        finished = await self._provider().finish(binding=binding, **said)
        secret = await self._access.sessions.vouched(
            finished.vouched, address=self._admission.address(request), request=request_id(request)
        )
        return secret, finished.to

    def _provider(self) -> Any:
        if self._access.provider is None:
            raise NotFound("no identity provider is set up here", hint="Sign in by a name and a password.")
        return self._access.provider

    def _counted(self, request: web.Request) -> None:
        """Each way in costs a place in its address's bucket, whoever it is."""
        self._gate.pass_one(f"address {self._admission.address(request)}")

    async def _forget(self, request: web.Request) -> None:
        """The session that this browser had before."""
        before = request.cookies.get(self._admission.cookie(request))
        if before:
            with suppress(Unauthenticated):
                identity = await self._access.sessions.identify(before)
                await self._access.sessions.end(identity, every=False, request=request_id(request))

    def _bind(self, request: web.Request, response: web.Response, binding: str) -> None:
        response.set_cookie(
            BINDING, binding, path=BEGIN, httponly=True, samesite="Lax", max_age=BINDING_LIVES_S,
            secure=self._admission.is_secure(request),
        )  # fmt: skip

    def _leaving(self, request: web.Request, to: str) -> web.Response:
        target = html.escape(to, quote=True)
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Signing in</title>'
            f'<meta http-equiv="refresh" content="0;url={target}"><p><a href="{target}">Go on</a></p></html>'
        )
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
        response = web.Response(text=page, content_type="text/html", headers=headers)
        response.del_cookie(BINDING, path=BEGIN, httponly=True, samesite="Lax")
        return response


def _take(request: web.Request, known: tuple[str, ...]) -> dict[str, str]:
    if set(request.query) - set(known) or len(request.query) != len(set(request.query)):
        raise RequestInvalid("this path does not take these parameters", where="query")
    return dict(request.query)


def _json(answer: Any, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")
