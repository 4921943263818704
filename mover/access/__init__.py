"""Tokens, the local socket and roles; the judgement is `decide.access`."""

from mover.access.tokens import PREFIX, Access
from mover.model.access import Identity, Role

__all__ = ["PREFIX", "Access", "Identity", "Role"]
