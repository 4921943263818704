"""Signing in and out, who one is, and what is one's own: a session, a password, tokens.

Signing in itself and the two steps of an identity provider are plain routes (`signin`): they are asked by nobody yet.
"""

from __future__ import annotations

from typing import Any

from mover.api.operation import Call, Leaving, Operations, Query
from mover.errors import Conflict
from mover.model import wire

OPERATIONS = Operations()


class Every(Query, frozen=True):
    """`all`: not this session only, but every one of the account's."""

    all: bool = False


@OPERATIONS.add("GET", "/v1/session", "session.read", wire.Session)
async def view(call: Call[None, Query]) -> wire.Session:
    """Who asks, in which project, and what they may there."""
    return await call.access.sessions.view(call.identity)


@OPERATIONS.add("DELETE", "/v1/session", "session.use", wire.SessionsEnded, query=Every)
async def end(call: Call[None, Every]) -> Leaving:
    """Sign out."""
    _of_session(call)
    return Leaving(await call.access.sessions.end(call.identity, every=call.query.all, request=call.request))


@OPERATIONS.add("POST", "/v1/session/project", "session.use", wire.Session, body=wire.ProjectChoice)
async def choose(call: Call[wire.ProjectChoice, Query]) -> wire.Session:
    """Look at another project from now on, in every page of this session."""
    _of_session(call)
    return await call.access.sessions.choose(call.identity, call.body.project)


@OPERATIONS.add("POST", "/v1/session/password", "session.use", wire.SessionsEnded, body=wire.PasswordChange)
async def repass(call: Call[wire.PasswordChange, Query]) -> wire.SessionsEnded:
    """Change one's own password; every other session of the account ends."""
    _of_account(call)
    return await call.access.sessions.repass(call.identity, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/session/tokens", "session.use", wire.Tokens)
async def tokens(call: Call[None, Query]) -> wire.Tokens:
    """The tokens of one's own account in this project, live and ended."""
    return await call.access.list_tokens(call.project, account=_of_account(call))


@OPERATIONS.add("POST", "/v1/session/tokens", "session.use", wire.Token, body=wire.OwnTokenRequest, status=201)
async def make_token(call: Call[wire.OwnTokenRequest, Query]) -> wire.Token:
    """Make a token of one's own account in one's own role; this answer alone holds its secret."""
    _of_account(call)
    return await call.access.make_own(call.identity, call.body, request=call.request)


@OPERATIONS.add("DELETE", "/v1/session/tokens/{id}", "session.use", wire.Token)
async def revoke_token(call: Call[None, Query]) -> wire.Token:
    """End a token of one's own for good."""
    return await call.access.revoke(call.identity, call.id, account=_of_account(call), request=call.request)


def _of_session(call: Call[Any, Any]) -> None:
    if call.identity.session is None:
        raise Conflict("this is no session", hint="A token is ended by DELETE /v1/tokens/{id}; sign in for a session.")


def _of_account(call: Call[Any, Any]) -> str:
    if not call.identity.account:
        raise Conflict("nobody's account asks", hint="Sign in by name and password, or by the identity provider.")
    return call.identity.account
