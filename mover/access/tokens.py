"""Tokens and the local socket: from a secret or a peer to an Identity. Of people: `sessions` and `accounts`.

A secret is 256 random bits, shown once and stored as its SHA-256; no slow hash is needed for what cannot be
guessed. Every making and every end of a token is an audit record in the same transaction.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import pwd
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiofiles
from msgspec import structs

from mover import audit
from mover.access.accounts import Accounts
from mover.access.oidc import Provider
from mover.access.passwords import Passwords
from mover.access.sessions import Lives, Sessions
from mover.catalog.database import Connection, Database, refusals
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide.access import may_use_socket, why_not_act_for, why_not_scopes
from mover.errors import Denied, NotFound, RequestInvalid, SettingsInvalid, Unauthenticated
from mover.model import wire
from mover.model.access import Identity, Role
from mover.randomness import new_id, new_secret

PREFIX = "mvr_"  # so that secret scanners and people know one when they see one
ADMIN_TOKEN_FILE = "admin-token"  # in the state directory, written by `mover init`
MAX_SECRET_LENGTH = 128
MAX_LISTED = 1000
OWN_LIVES_AT_MOST = timedelta(days=400)

_QUERIES = load(__file__)


class Access:
    """Who asks? `own_uid` is the daemon's; root and that user, on the local socket, are admins of
    `project`."""

    def __init__(
        self, database: Database, *, project: str, node: str, own_uid: int, clock: Clock = SYSTEM,
        lives: Lives = Lives(), provider: Provider | None = None,  # noqa: B008 - frozen
    ) -> None:  # fmt: skip
        self.provider = provider
        passwords = Passwords()
        self.accounts = Accounts(database, passwords, node=node, clock=clock)
        self.sessions = Sessions(database, passwords, project=project, node=node, lives=lives, clock=clock)
        self._database = database
        self._project = project
        self._node = node
        self._own_uid = own_uid
        self._clock = clock

    async def authenticate(self, secret: str) -> Identity:
        """The owner of a live secret, or Unauthenticated: unknown, expired and revoked look the same."""
        if not secret.startswith(PREFIX) or len(secret) > MAX_SECRET_LENGTH:
            raise Unauthenticated("this is not a token of this service")
        async with self._database.instance() as conn:
            cursor = await conn.execute(_QUERIES["find_by_hash"], {"hash": _hash(secret)})
            row = await cursor.fetchone()
        if row is None:
            raise Unauthenticated("the token is unknown, expired or revoked")
        return Identity(
            actor=row.actor, role=row.role, project=row.project_id, token_id=row.id,
            posix_uid=row.posix_uid, posix_gid=row.posix_gid, proof=_hash(secret),
            scopes=None if row.scopes is None else frozenset(row.scopes), ends_at=row.expires_at,
        )  # fmt: skip

    def peer(self, *, uid: int, gid: int) -> Identity:
        """The process at the other end of the local socket, as the kernel names it (SO_PEERCRED)."""
        if not may_use_socket(uid, own_uid=self._own_uid):
            raise Unauthenticated("this user of the local socket needs a token")
        return Identity(actor=f"uid:{uid}", role="admin", project=self._project, posix_uid=uid, posix_gid=gid)

    async def at(self, identity: Identity, project: str) -> Identity:
        """The machine is admin of every project; a token is of one."""
        if identity.project == project:
            return identity
        if identity.kind != "machine" or not await self.accounts.knows_project(project):
            raise NotFound("no such project", hint="A token is of one project; the local socket is of all there are.")
        return structs.replace(identity, project=project)

    async def acting(self, identity: Identity, uid: int) -> Identity:
        """A scheduler in the name of a user of its machines: of the group that its token stands for, as this
        machine knows its users, asked anew each time. The audit names both."""
        member = identity.posix_gid in await asyncio.to_thread(_groups_of, uid)
        why = why_not_act_for(identity.role, uid, member=member, own_uid=self._own_uid)
        if why:
            raise Denied(why, where=f"uid {uid}", hint="Add the user to the project's group, or ask another project.")
        return structs.replace(identity, actor=f"{identity.actor} for uid:{uid}", posix_uid=uid)

    async def standing(self, held: Sequence[Identity]) -> list[bool]:
        """Of whom we knew a while ago: are they still who they were, in the same role? Nobody is seen by it."""
        asked = [one for one in held if one.proven]
        async with self._database.instance() as conn:
            rows = await _QUERIES.many(
                conn, "still_in", proofs=[one.proof for one in asked], projects=[one.project for one in asked]
            )
        roles = {(bytes(row.proof), row.project_id): row.role for row in rows}
        return [not one.proven or roles.get((one.proof, one.project)) == one.role for one in held]

    async def make_token(self, identity: Identity, body: wire.TokenRequest, *, request: str = "") -> wire.Token:
        """The only answer that ever holds the secret."""
        self._check_end(body.expires_at)
        _check_scopes(body.role, body.scopes)
        if body.role == "scheduler" and (body.posix_uid is not None or not body.posix_gid):
            raise RequestInvalid(
                "a scheduler has no uid of its own and one group, the project's", where="$.posix_gid",
                hint="Give the group whose members' jobs it may run: --gid.",
            )  # fmt: skip
        return await self._made(identity, body, request=request)

    async def make_own(self, identity: Identity, body: wire.OwnTokenRequest, *, request: str = "") -> wire.Token:
        """One that ends with the account, with its role, and in any case within a year or so."""
        self._check_end(body.expires_at)
        if body.expires_at > self._clock.now() + OWN_LIVES_AT_MOST:
            raise RequestInvalid("a token of one's own lives at most 400 days", where="$.expires_at")
        _check_scopes(identity.role, body.scopes)
        asked = wire.TokenRequest(
            actor=f"{identity.actor}/{body.label}", role=identity.role, expires_at=body.expires_at, scopes=body.scopes
        )
        return await self._made(identity, asked, own=True, request=request)

    async def _made(
        self, identity: Identity, body: wire.TokenRequest, *, own: bool = False, request: str
    ) -> wire.Token:
        secret = PREFIX + new_secret()
        token_id = await self._add(
            identity.project, secret, body, maker=identity.actor, proof=identity.proven, own=own, request=request
        )
        return wire.Token(
            id=token_id, actor=body.actor, role=body.role, secret=secret, expires_at=body.expires_at,
            created_at=self._clock.now(), scopes=body.scopes, account=identity.actor if own else None,
        )  # fmt: skip

    def _check_end(self, expires_at: datetime | None) -> None:
        if expires_at is None:
            return
        if expires_at.tzinfo is None:
            raise RequestInvalid("expires_at needs an offset, such as Z", where="$.expires_at")
        if expires_at <= self._clock.now():
            raise RequestInvalid("expires_at lies in the past", where="$.expires_at")

    async def adopt(self, secret: str, body: wire.TokenRequest) -> None:
        """Make a secret that `mover init` wrote to a file known; the second time it changes nothing."""
        if not secret.startswith(PREFIX) or not 40 <= len(secret) <= MAX_SECRET_LENGTH:
            raise RequestInvalid("a token is `mvr_` and at least 36 random characters")
        await self._add(self._project, secret, body, maker="mover init", proof=None, request="")

    async def adopt_file(self, path: Path) -> None:
        """The admin token of `mover init`; absent after somebody took it away, which is as it should be."""
        secret = await read_secret(path)
        if secret is None:
            return
        await self.adopt(secret, wire.TokenRequest(actor="admin", role="admin"))

    async def list_tokens(self, project: str, *, account: str | None = None) -> wire.Tokens:
        """Of the project, or those of one account in it."""
        asked = {"project": project, "account": account, "limit": MAX_LISTED}
        async with self._database.project(project) as conn:
            return wire.Tokens(tokens=[_token(row) for row in await _QUERIES.many(conn, "of_project", **asked)])

    async def revoke(
        self, identity: Identity, token_id: str, *, account: str | None = None, request: str = ""
    ) -> wire.Token:
        """Ended for good; asked again, the same answer."""
        key = {"id": token_id, "project": identity.project, "account": account}
        async with self._database.project(identity.project) as conn:
            row = await _QUERIES.one(conn, "revoke", **key)
            if row is None:
                return _token(await self._known(conn, key))
            seen = _token(await self._known(conn, key))
            await audit.record(
                conn, project=identity.project, node=self._node, actor=identity.actor,
                action="token revoked", subject=token_id, request=request, details={"role": row.role},
            )  # fmt: skip
        return seen

    async def _known(self, conn: Connection, key: dict[str, str | None]) -> Any:
        row = await _QUERIES.one(conn, "of_id", **key)
        if row is None:
            raise NotFound("no such token")
        return row

    async def _add(
        self, project: str, secret: str, body: wire.TokenRequest, *, maker: str, proof: bytes | None, request: str,
        own: bool = False,
    ) -> str:  # fmt: skip
        """The database writes the row and its audit record together, and whose tokens are one person's, by the maker's
        proof; of a known secret it writes nothing."""
        token_id = new_id("token")
        values = {
            "id": token_id, "hash": _hash(secret), "actor": body.actor, "role": body.role, "maker": proof,
            "posix_uid": body.posix_uid, "posix_gid": body.posix_gid, "expires_at": body.expires_at,
            "by": maker, "node": self._node, "request": request, "scopes": body.scopes, "own": own,
        }  # fmt: skip
        async with self._database.project(project) as conn:
            await conn.execute(_QUERIES["ensure_project"], {"project": project})
            with refusals():
                await _QUERIES.one(conn, "add", **values)
        return token_id


def _groups_of(uid: int) -> frozenset[int]:
    """Of a user this machine does not know: none. A directory service may take its time, so call it in a thread."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))


async def read_secret(path: Path) -> str | None:
    """What a file for its owner alone holds; None where there is no file."""
    try:
        async with aiofiles.open(path, encoding="ascii") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise SettingsInvalid("the token file can be read by others", where=path.name, hint="chmod 600 it.")
            return (await file.read(MAX_SECRET_LENGTH + 1)).strip()
    except FileNotFoundError:
        return None


def _check_scopes(role: Role, scopes: list[str] | None) -> None:
    why = why_not_scopes(role, scopes or ())
    if why:
        raise RequestInvalid(why, where="$.scopes", hint="GET /v1/session tells what a role may: `actions`.")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _token(row: Any) -> wire.Token:
    return wire.Token(
        id=row.id, actor=row.actor, role=row.role, created_at=row.created_at,
        expires_at=row.expires_at, revoked_at=row.revoked_at, last_used_at=row.last_used_at, scopes=row.scopes,
        account=row.account,
    )  # fmt: skip
