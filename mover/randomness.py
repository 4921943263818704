"""The only door to randomness: the operating system's cryptographic source."""

from __future__ import annotations

import secrets

from mover.clock import now_ms
from mover.model.ids import make_id, make_number


def random_bytes(count: int) -> bytes:
    return secrets.token_bytes(count)


def new_id(kind: str) -> str:
    return make_id(kind, now_ms=now_ms(), entropy=random_bytes(10))


def new_number() -> str:
    return make_number(random_bytes(10))


def new_secret() -> str:
    """256 random bits as text, for tokens and passwords."""
    return secrets.token_urlsafe(32)
