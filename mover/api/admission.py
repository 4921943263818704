"""Who asks: a token in the header, the local socket's peer, or the cookie of a session; in this order, never two.

A cookie is sent by the browser whoever made it ask, so a change that comes with one must also carry what only our own
pages know (`Mover-CSRF`), and must not come from another site. Tokens and the socket need neither.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from aiohttp import web

from mover.api.limits import Gate
from mover.api.parsing import ACTS_FOR, read_acts_for, read_project
from mover.api.peers import peer_credentials
from mover.api.rooms import AccessRoom
from mover.decide.access import ACTIONS, judge, needs_somebody, why_not_here
from mover.errors import CrossSite, Denied, NotFound, Unauthenticated
from mover.model.access import Identity

CSRF = "Mover-CSRF"
# said by a page that asks by itself, with nobody before it: its session may become idle
UNATTENDED = "Mover-Unattended"
# the prefix makes browsers refuse it unless it is Secure, without a Domain and for all paths (RFC 6265bis, 4.1.3.2)
SECURE_COOKIE = "__Host-mover"
LOOPBACK_COOKIE = "mover"
SAFE = frozenset({"GET", "HEAD"})
FORWARDED_FOR = "X-Forwarded-For"
# secrets that were right the last time, by their digests: who asked longest ago is forgotten first
KNOWN = 10_000


@dataclass(frozen=True)
class Face:
    """How browsers see this daemon: under which URL, where that is not its own address, and through which proxies."""

    public_url: str | None = None
    proxies: frozenset[str] = frozenset()


class Admission:
    def __init__(self, access: AccessRoom, gate: Gate, face: Face) -> None:
        self._access = access
        self._gate = gate
        self._face = face
        self._known: OrderedDict[bytes, None] = OrderedDict()

    async def admit(self, request: web.Request) -> Identity:
        """Raises Unauthenticated, CrossSite, and NotFound for a project in which the caller has no role."""
        header = request.headers.get("Authorization", "")
        scheme, _, secret = header.partition(" ")
        if header and (scheme.lower() != "bearer" or not secret.strip()):
            raise Unauthenticated("only bearer tokens are known here")
        project = read_project(request)
        credentials = None if header else peer_credentials(request)
        if header:
            identity = await self._counted(request, secret.strip(), self._access.authenticate)
        elif credentials is not None:
            identity = self._access.peer(uid=credentials.uid, gid=credentials.gid)
        else:
            identity = await self._by_cookie(request, project)
        self._gate.pass_one(identity.token_id or identity.actor)
        if project is not None and project != identity.project:
            identity = await self._access.at(identity, project)
        uid = read_acts_for(request)
        return identity if uid is None else await self._access.acting(identity, uid)

    async def _by_cookie(self, request: web.Request, project: str | None) -> Identity:
        secret = request.cookies.get(self.cookie(request))
        if not secret:
            raise Unauthenticated("a token is needed, or a session", hint="Sign in, or send a bearer token.")
        attended = UNATTENDED not in request.headers
        identity = await self._counted(
            request, secret, partial(self._access.sessions.identify, project=project, attended=attended)
        )
        if request.method not in SAFE:
            self.refuse_elsewhere(request)
            if not hmac.compare_digest(request.headers.get(CSRF, "").encode(), identity.csrf.encode()):
                raise CrossSite("the session's token for changes is missing or another")
        return identity

    async def _counted(self, request: web.Request, secret: str, ask: Callable[[str], Awaitable[Identity]]) -> Identity:
        """Wrong secrets count against the address; a cluster behind one address is not held back by its size, nor is
        somebody known by what others try from there."""
        address, known = f"address {self.address(request)}", hashlib.sha256(secret.encode()).digest()
        if known not in self._known:
            self._gate.refuse_if_empty(address)
        try:
            identity = await ask(secret)
        except Unauthenticated:
            self._known.pop(known, None)
            self._gate.pass_one(address)
            raise
        self._known[known] = None
        self._known.move_to_end(known)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return identity

    def refuse_elsewhere(self, request: web.Request) -> None:
        """Raises CrossSite where the browser says that another site's page asks."""
        hosts = {request.host}
        if self._face.public_url:
            hosts.add(urlsplit(self._face.public_url).netloc)
        sent = request.headers.get("Origin", ""), request.headers.get("Sec-Fetch-Site", "")
        why = [why_not_here(sent_origin=sent[0], sent_site=sent[1], host=host) for host in sorted(hosts)]
        if all(why):
            raise CrossSite(why[0])

    def address(self, request: web.Request) -> str:
        """Whose tries are counted. A proxy's word is taken of the one before it, where the settings name the proxy."""
        remote = request.remote or ""
        if remote not in self._face.proxies:
            return remote
        return request.headers.get(FORWARDED_FOR, "").rpartition(",")[2].strip()[:64] or remote

    def is_passed_on(self, request: web.Request) -> bool:
        """By a proxy: then the machine that asks is not the one at the other end of the connection."""
        named = (request.remote or "") in self._face.proxies
        return named or any(header in request.headers for header in (FORWARDED_FOR, "Forwarded", "Via"))

    # --- the cookie ---------------------------------------------------------------------------------------------

    def cookie(self, request: web.Request) -> str:
        return SECURE_COOKIE if self.is_secure(request) else LOOPBACK_COOKIE

    def is_secure(self, request: web.Request) -> bool:
        return request.secure or (self._face.public_url or "").startswith("https:")

    def set_cookie(self, request: web.Request, response: web.Response, secret: str) -> None:
        """No page reads it, and no other site makes the browser send it. It lives as long as the browser; how long the
        session does, the catalog says."""
        response.set_cookie(
            self.cookie(request), secret, path="/", httponly=True, samesite="Strict", secure=self.is_secure(request)
        )

    def clear_cookie(self, request: web.Request, response: web.Response) -> None:
        response.del_cookie(
            self.cookie(request), path="/", httponly=True, samesite="Strict", secure=self.is_secure(request)
        )


def allow(identity: Identity, action: str) -> None:
    """Raises NotFound for what this caller may not even know of, Denied for what it may not do."""
    verdict = judge(identity.role, action, identity.scopes)
    if verdict == "hidden":
        raise NotFound("no such thing for this token", hint="Check the id, and the role and project of your token.")
    if verdict == "denied":
        hint = f"Use a token of another role: {', '.join(sorted(ACTIONS[action]))}."
        raise Denied(f"the role {identity.role} may not do this", where=action, hint=hint)
    if needs_somebody(identity.role, action) and identity.posix_uid is None:
        raise Denied("a scheduler asks for somebody", where=action, hint=f"Send the job's uid as {ACTS_FOR}.")
