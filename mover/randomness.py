"""The only door to randomness: the operating system's cryptographic source."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import TypeVar

from mover.clock import now_ms
from mover.model.ids import make_id, make_number

Item = TypeVar("Item")


def random_bytes(count: int) -> bytes:
    return secrets.token_bytes(count)


def some_of(items: Sequence[Item], count: int) -> list[Item]:
    """So many of them, that nobody can foresee."""
    return secrets.SystemRandom().sample(items, count)


def new_id(kind: str) -> str:
    return make_id(kind, now_ms=now_ms(), entropy=random_bytes(10))


def new_number() -> str:
    return make_number(random_bytes(10))


def new_secret() -> str:
    """256 random bits as text, for tokens and passwords."""
    return secrets.token_urlsafe(32)


def new_uid() -> str:
    """A DICOM UID that says nothing: 2.25 and 128 random bits as one decimal (PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(random_bytes(16), 'big')}"


def new_offset_days(reach: int = 365) -> int:
    """By how many days all dates of one subject move: never zero, up to a year earlier or later. 64 bits make the
    modulo's bias invisible."""
    drawn = int.from_bytes(random_bytes(8), "big") % (2 * reach)
    return drawn - reach if drawn < reach else drawn - reach + 1
