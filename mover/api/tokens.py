"""Tokens: made, listed without their secrets, revoked."""

from __future__ import annotations

from mover.api.operation import Call, Operations, Query
from mover.model import wire

OPERATIONS = Operations()


@OPERATIONS.add("POST", "/v1/tokens", "tokens.make", wire.Token, body=wire.TokenRequest, status=201)
async def make(call: Call[wire.TokenRequest, Query]) -> wire.Token:
    """Make a token of the caller's project; this answer alone holds its secret."""
    return await call.access.make_token(call.identity, call.body, request=call.request)


@OPERATIONS.add("GET", "/v1/tokens", "tokens.read", wire.Tokens)
async def list_tokens(call: Call[None, Query]) -> wire.Tokens:
    """The tokens of the project, live and ended."""
    return await call.access.list_tokens(call.project)


@OPERATIONS.add("DELETE", "/v1/tokens/{id}", "tokens.revoke", wire.Token)
async def revoke(call: Call[None, Query]) -> wire.Token:
    """End a token for good."""
    return await call.access.revoke(call.identity, call.id, request=call.request)
