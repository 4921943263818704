"""Accounts of people: made, given roles in the caller's project, disabled, signed out."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query
from mover.model import wire

OPERATIONS = Operations()


@OPERATIONS.add("POST", "/v1/accounts", "accounts.make", wire.Account, body=wire.AccountRequest, status=201)
async def make(call: Call[wire.AccountRequest, Query]) -> wire.Account:
    """Make an account with a role in this project; a password that was made up stands in this answer alone."""
    return await call.access.accounts.make(call.identity, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/accounts", "accounts.read", wire.Accounts)
async def list_accounts(call: Call[None, Query]) -> wire.Accounts:
    """The accounts that have, or had, a role in this project."""
    return await call.access.accounts.list(call.project)


@OPERATIONS.add("POST", "/v1/accounts/{name}/password", "accounts.make", wire.Account, body=wire.PasswordRequest)
async def password(call: Call[wire.PasswordRequest, Query]) -> wire.Account:
    """Give an account another password; its sessions end, and whoever gives it is one person with it."""
    return await call.access.accounts.password(call.identity, call.id, call.body, request=call.request)


@OPERATIONS.add("POST", "/v1/accounts/{name}/grant", "accounts.grant", wire.Account, body=wire.GrantRequest)
async def grant(call: Call[wire.GrantRequest, Query]) -> wire.Account:
    """Give an account a role in this project, in place of the one it has."""
    return await call.access.accounts.grant(call.identity, call.id, call.body.role, request=call.request)


@OPERATIONS.add("POST", "/v1/accounts/{name}/revoke", "accounts.grant", wire.Account)
async def revoke(call: Call[None, Query]) -> wire.Account:
    """Take an account's role in this project away; its sessions and tokens see nothing of it any more."""
    return await call.access.accounts.revoke(call.identity, call.id, request=call.request)


@OPERATIONS.add("POST", "/v1/accounts/{name}/disable", "accounts.disable", wire.Account)
async def disable(call: Call[None, Query]) -> wire.Account:
    """Sign an account out everywhere and in nowhere; its tokens open nothing."""
    return await call.access.accounts.disable(call.identity, call.id, disabled=True, request=call.request)


@OPERATIONS.add("POST", "/v1/accounts/{name}/enable", "accounts.disable", wire.Account)
async def enable(call: Call[None, Query]) -> wire.Account:
    """Let a disabled account sign in again."""
    return await call.access.accounts.disable(call.identity, call.id, disabled=False, request=call.request)


@OPERATIONS.add("DELETE", "/v1/accounts/{name}/sessions", "accounts.disable", wire.SessionsEnded)
async def end_sessions(call: Call[None, Query]) -> wire.SessionsEnded:
    """Sign an account out everywhere; it may sign in again."""
    return await call.access.accounts.end_sessions(call.identity, call.id, request=call.request)
