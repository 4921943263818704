"""Tokens, accounts, sessions, the local socket and roles; the judgement is `decide.access`."""

from mover.access.sessions import Lives
from mover.access.tokens import ADMIN_TOKEN_FILE, PREFIX, Access
from mover.model.access import Identity, Role

__all__ = ["ADMIN_TOKEN_FILE", "PREFIX", "Access", "Identity", "Lives", "Role"]
