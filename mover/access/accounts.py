"""Accounts of people: made, given roles and passwords, disabled. The database judges who may, and writes the record.

An admin answers for the accounts of one project; what concerns an account of several, or brings one into another
project, is for the owner of the machine at its local socket. Whoever gives an account its password is one person with
it, so only the machine makes people who can be the second beside each other.
"""

from __future__ import annotations

from typing import Any

from mover.access.passwords import Passwords
from mover.access.sessions import digest_of
from mover.catalog.database import Connection, Database, refusals
from mover.catalog.queries import load
from mover.clock import Clock
from mover.decide.access import why_not_name
from mover.decide.signin import why_not_password
from mover.errors import NotFound, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.randomness import new_id, new_secret

MAX_LISTED = 1000

_Q = load(__file__)


class Accounts:
    def __init__(self, database: Database, passwords: Passwords, *, node: str, clock: Clock) -> None:
        self._database = database
        self._passwords = passwords
        self._node = node
        self._clock = clock

    async def make(self, identity: Identity, body: wire.AccountRequest, *, request: str = "") -> wire.Account:
        """With a role in the caller's project. The answer holds the password where one was made up."""
        why = why_not_name(body.name)
        if why:
            raise RequestInvalid(why, where="$.name")
        end = body.expires_at
        if end is not None and (end.tzinfo is None or end <= self._clock.now()):
            raise RequestInvalid("expires_at lies in the past, or has no offset such as Z", where="$.expires_at")
        password, made_up = self._chosen(body.name, body.password)
        salt, cost, key = await self._passwords.made(password)
        values = {
            "id": new_id("account"), "role": body.role, "salt": salt, "cost": cost.told(), "verifier": digest_of(key),
            "expires_at": end, "posix_uid": body.posix_uid, "posix_gid": body.posix_gid,
        }  # fmt: skip
        return await self._change(identity, "add", body.name, request, secret=made_up, **values)

    async def list(self, project: str) -> wire.Accounts:
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "of_project", name=None, limit=MAX_LISTED)
        return wire.Accounts(accounts=[_account(row) for row in rows])

    async def grant(self, identity: Identity, name: str, role: str, *, request: str = "") -> wire.Account:
        return await self._change(identity, "role", name, request, role=role)

    async def revoke(self, identity: Identity, name: str, *, request: str = "") -> wire.Account:
        """It has no role in the caller's project from the commit on; asked again, the same answer."""
        return await self._change(identity, "role", name, request, role=None)

    async def password(
        self, identity: Identity, name: str, body: wire.PasswordRequest, *, request: str = ""
    ) -> wire.Account:
        password, made_up = self._chosen(name, body.password)
        salt, cost, key = await self._passwords.made(password)
        return await self._change(
            identity, "password", name, request, secret=made_up, salt=salt, cost=cost.told(), verifier=digest_of(key)
        )

    async def disable(self, identity: Identity, name: str, *, disabled: bool, request: str = "") -> wire.Account:
        return await self._change(identity, "disable", name, request, disabled=disabled)

    async def end_sessions(self, identity: Identity, name: str, *, request: str = "") -> wire.SessionsEnded:
        async with self._database.project(identity.project) as conn:
            with refusals():
                row = await _Q.one(conn, "signed_out", name=name, **self._by(identity, request))
        return wire.SessionsEnded(ended=row.ended)

    async def knows_project(self, project: str) -> bool:
        async with self._database.instance() as conn:
            return bool((await _Q.one(conn, "project_is_known", project=project)).known)

    def _chosen(self, name: str, password: str | None) -> tuple[str, str | None]:
        if password is None:
            made_up = new_secret()
            return made_up, made_up
        why = why_not_password(name, password)
        if why:
            raise RequestInvalid(why, where="$.password", hint="Four random words are good, and easy to keep.")
        return password, None

    async def _change(
        self, identity: Identity, verb: str, name: str, request: str, *, secret: str | None = None, **values: Any
    ) -> wire.Account:
        async with self._database.project(identity.project) as conn:
            with refusals():
                await _Q.one(conn, verb, name=name, **values, **self._by(identity, request))
            return await self._view(conn, name, secret)

    async def _view(self, conn: Connection, name: str, secret: str | None) -> wire.Account:
        row = await _Q.one(conn, "of_project", name=name, limit=1)
        if row is None:
            raise NotFound("the account never had a role in this project", hint="Name one in which it has: --project.")
        return _account(row, secret=secret)

    def _by(self, identity: Identity, request: str) -> dict[str, Any]:
        return {"proof": identity.proven, "actor": identity.actor, "node": self._node, "request": request}


def _account(row: Any, *, secret: str | None = None) -> wire.Account:
    return wire.Account(
        name=row.name, role=row.role, password=row.password, provider=row.provider, created_at=row.created_at,
        expires_at=row.expires_at, disabled_at=row.disabled_at, last_seen_at=row.last_seen_at, sessions=row.sessions,
        secret=secret,
    )  # fmt: skip
