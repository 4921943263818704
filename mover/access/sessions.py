"""People in a browser: from a name and a password, a token, or an identity provider's word to a session, and back.

A session's secret is 256 random bits in a cookie; the catalog has its SHA-256. What a person may is asked of the
catalog with each request, so that a role that was taken away, or an account that was disabled, is so at once. A wrong
name, a wrong password and an account that is over get one answer after the same work.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs
from psycopg.types.json import Jsonb

from mover import audit, metrics
from mover.access import passwords as argon
from mover.access.passwords import SALT_BYTES, Cost, Passwords
from mover.access.throttle import Throttle
from mover.catalog.database import Connection, Database, refusals, turn_to
from mover.catalog.queries import load
from mover.clock import Clock
from mover.decide.access import actions_of
from mover.decide.signin import worth_a_record
from mover.errors import NotFound, RequestInvalid, Unauthenticated
from mover.model import wire
from mover.model.access import Identity
from mover.randomness import new_id, new_secret

SECRET_LENGTH = 43  # what `new_secret` makes
REFUSED = "the name or the password is not right"
_NO_SALT = bytes(SALT_BYTES)

_Q = load(__file__)


class Lives(Struct, frozen=True):
    """How long a session lives: unused, and at most."""

    idle_s: int = 1800
    life_s: int = 43_200


class Vouched(Struct, frozen=True):
    """What an identity provider says of somebody: its id of them, a name, and their roles by project."""

    issuer: str
    subject: str
    name: str
    roles: dict[str, str]


class Sessions:
    def __init__(
        self, database: Database, passwords: Passwords, *, project: str, node: str, lives: Lives, clock: Clock
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._home = project
        self._node = node
        self._lives = lives
        self._throttle = Throttle(clock)

    # --- in ---------------------------------------------------------------------------------------------------------

    async def sign_in(self, body: wire.SessionRequest, *, address: str, request: str) -> str:
        """The secret of a new session, for the cookie. Raises Unauthenticated, and LimitExceeded for who must wait."""
        if body.token is not None and body.name is None and body.password is None:
            return await self._by_token(body.token, address=address, request=request)
        if body.token is not None or body.name is None or body.password is None:
            raise RequestInvalid("either a name and a password, or a token", where="body")
        return await self._by_password(body.name, body.password, address=address, request=request)

    async def _by_password(self, name: str, password: str, *, address: str, request: str) -> str:
        known_as = name.lower()
        self._throttle.begin(known_as, address)
        async with self._database.instance() as conn:
            asked = await _Q.one(conn, "account_ask", name=name, address=address)
        async with self._throttle.slowed(known_as, address, known_place=asked is not None and asked.known_origin):
            salt, cost = (asked.salt, Cost(*asked.cost)) if asked else (_NO_SALT, argon.COST)
            key = await self._passwords.key(password, salt=salt, cost=cost)
        secret = new_secret()
        async with self._database.instance() as conn:
            row = await _Q.one(conn, "open", name=name, key=key, **self._new(secret, address))
            if row.account is not None:
                before = self._throttle.succeeded(known_as, address)
                await self._record_in(conn, row.account, "password", before=before, request=request)
        if row.account is None:
            await self._refused(known_as, asked.id if asked else "", request=request)
        metrics.SIGN_INS.labels("password", "opened").inc()
        return secret

    async def _refused(self, known_as: str, account: str, *, request: str) -> None:
        """Counted; the record names the account, or nobody: what was typed for a name may be a password."""
        metrics.SIGN_INS.labels("password", "refused").inc()
        count = self._throttle.failed(known_as)
        if worth_a_record(count):
            async with self._database.project(self._home) as conn:
                await audit.record(
                    conn, project=self._home, node=self._node, actor="", action="sign-ins refused", subject=account,
                    request=request, details={"count": count},
                )  # fmt: skip
        raise Unauthenticated(REFUSED, hint="Try again, or ask an admin for a new password.")

    async def _by_token(self, token: str, *, address: str, request: str) -> str:
        """Nobody guesses 256 bits, so nobody waits for having tried."""
        secret = new_secret()
        async with self._database.instance() as conn:
            row = await _Q.one(conn, "open_token", token=digest(token), **self._new(secret, address))
        if row.token is None:
            metrics.SIGN_INS.labels("token", "refused").inc()
            raise Unauthenticated("the token is unknown, expired or revoked")
        identity = await self.identify(secret)
        async with self._database.project(identity.project) as conn:
            await audit.record(
                conn, project=identity.project, node=self._node, actor=identity.actor, action="signed in",
                subject=row.token, request=request, details={"by": "token"},
            )  # fmt: skip
        metrics.SIGN_INS.labels("token", "opened").inc()
        return secret

    async def vouched(self, said: Vouched, *, address: str, request: str) -> str:
        """A session of whom the identity provider vouches for. The account is made at the first time; the roles that
        the provider gave before become those that it gives now."""
        secret = new_secret()
        async with self._database.instance() as conn:
            rows = await _Q.many(
                conn, "open_provider", issuer=said.issuer, subject=said.subject, account=new_id("account"),
                name=said.name, roles=Jsonb(said.roles), **self._new(secret, address),
            )  # fmt: skip
            opened = any(row.project is None for row in rows)
            if rows:
                changed = [row for row in rows if row.project is not None]
                await self._record_in(
                    conn, rows[0].account, "provider" if opened else "", before=0, request=request, changed=changed
                )
        metrics.SIGN_INS.labels("provider", "opened" if opened else "refused").inc()
        if not opened:
            raise Unauthenticated("the identity provider's word gives no role here", hint="Ask for one of its groups.")
        return secret

    def _new(self, secret: str, address: str) -> dict[str, Any]:
        lives = self._lives
        return {
            "id": new_id("session"), "hash": digest(secret), "address": address, "idle_s": lives.idle_s,
            "life_s": lives.life_s,
        }  # fmt: skip

    # --- who --------------------------------------------------------------------------------------------------------

    async def identify(self, secret: str, *, project: str | None = None, attended: bool = True) -> Identity:
        """Whose session, and in which project: the one asked for, else the one they look at. What is asked while nobody
        attends keeps no session from being idle. NotFound where they have no role in the project; Unauthenticated for
        what is no live session, whatever it was."""
        if len(secret) != SECRET_LENGTH:
            raise Unauthenticated("this is no session", hint="Sign in.")
        async with self._database.instance() as conn:
            name = "by_hash" if attended else "of_hash"
            row = await _Q.one(conn, name, hash=digest(secret), project=project, home=self._home)
        if row is None or (row.project_id is None and project is None):
            raise Unauthenticated("the session is unknown or over", hint="Sign in again.")
        if row.project_id is None:
            raise NotFound("no such project", hint="GET /v1/session tells in which projects you have a role.")
        return Identity(
            actor=row.actor, role=row.role, project=row.project_id, token_id=row.id, posix_uid=row.posix_uid,
            posix_gid=row.posix_gid, proof=digest(secret), session=row.kind, account=row.account_id or "",
            scopes=None if row.scopes is None else frozenset(row.scopes), began_at=row.created_at,
            ends_at=row.ends_at, csrf=csrf_of(secret),
        )  # fmt: skip

    async def view(self, identity: Identity) -> wire.Session:
        projects = [wire.ProjectRole(project=identity.project, role=identity.role)]
        if identity.account:
            async with self._database.instance() as conn:
                rows = await _Q.many(conn, "projects", account=identity.account)
            projects = [wire.ProjectRole(project=row.project, role=row.role) for row in rows]
        return wire.Session(
            actor=identity.actor, kind=identity.kind, project=identity.project, role=identity.role,
            projects=projects, actions=actions_of(identity.role, identity.scopes),
            proven=identity.kind not in ("machine", "provider"), csrf=identity.csrf, began_at=identity.began_at,
            ends_at=identity.ends_at,
        )  # fmt: skip

    async def choose(self, identity: Identity, project: str) -> wire.Session:
        """The session looks at this project from now on, where nothing else is said."""
        async with self._database.instance() as conn:
            row = await _Q.one(conn, "choose", hash=identity.proof, project=project)
            roles = {one.project: one.role for one in await _Q.many(conn, "projects", account=identity.account)}
        if not row.chosen:
            raise NotFound("no such project", hint="GET /v1/session tells in which projects you have a role.")
        return await self.view(structs.replace(identity, project=project, role=roles.get(project, identity.role)))

    # --- out --------------------------------------------------------------------------------------------------------

    async def end(self, identity: Identity, *, every: bool, request: str) -> wire.SessionsEnded:
        """This session, or all of the account's."""
        async with self._database.project(identity.project) as conn:
            row = await _Q.one(conn, "end", hash=identity.proof, every=every)
            await self._record_out(conn, identity, row.ended, request=request)
        return wire.SessionsEnded(ended=row.ended)

    async def repass(self, identity: Identity, body: wire.PasswordChange, *, request: str) -> wire.SessionsEnded:
        """A new password for the one before. Tries count as those of signing in."""
        known_as = identity.actor.lower()
        self._throttle.begin(known_as, identity.token_id)
        async with self._database.instance() as conn:
            asked = await _Q.one(conn, "account_ask", name=identity.actor, address="")
        if asked is None or not identity.account:
            raise RequestInvalid("who signed in has no password here")
        old = await self._passwords.key(body.old, salt=asked.salt, cost=Cost(*asked.cost))
        salt, cost, key = await self._passwords.made(body.new)
        async with self._database.project(identity.project) as conn:
            with refusals():
                row = await _Q.one(
                    conn, "repass", old=old, salt=salt, cost=cost.told(), verifier=digest_of(key),
                    proof=identity.proof, node=self._node, request=request,
                )  # fmt: skip
        if row.ended is None:
            raise RequestInvalid("the password before is another", where="body.old")
        self._throttle.succeeded(known_as, identity.token_id)
        return wire.SessionsEnded(ended=row.ended)

    # --- records ----------------------------------------------------------------------------------------------------

    async def _record_in(
        self, conn: Connection, account: str, by: str, *, before: int, request: str, changed: Sequence[Any] = ()
    ) -> None:
        """In every project where the account has a role: each answers for who came in, and for what became of the role.
        By the projects' names: two of these lock the chains' heads in one order."""
        roles = await _Q.many(conn, "projects", account=account)
        told: list[tuple[str, str, str, dict[str, Any]]] = []
        for row in changed:
            action = "role revoked" if row.role is None else "role granted"
            told.append((row.project, "provider", action, {"role": row.role, "was": row.was, "for": row.name}))
        told += [(row.project, row.name, "signed in", {"by": by, "refused before": before}) for row in roles if by]
        for project, actor, action, details in sorted(told, key=lambda one: one[0]):
            await turn_to(conn, project)
            await audit.record(
                conn, project=project, node=self._node, actor=actor, action=action, subject=account, request=request,
                details=details,
            )  # fmt: skip

    async def _record_out(self, conn: Connection, identity: Identity, ended: int, *, request: str) -> None:
        await audit.record(
            conn, project=identity.project, node=self._node, actor=identity.actor, action="signed out",
            subject=identity.account or identity.token_id, request=request, details={"sessions ended": ended},
        )  # fmt: skip


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def digest_of(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def csrf_of(secret: str) -> str:
    """What a page of ours repeats with each change: bound to the session, and no way back to its secret."""
    made = hmac.digest(secret.encode(), b"mover csrf", "sha256")
    return base64.urlsafe_b64encode(made).decode().rstrip("=")
