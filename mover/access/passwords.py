"""From a password to the key that the database compares: argon2id (RFC 9106), in threads, few at a time.

One key costs a third of a second of a processor and 64 MiB by design, so at most `AT_ONCE` are made and `WAITING`
wait; whoever comes beyond them is asked to come again. A password is never written, logged or sent on.
"""

from __future__ import annotations

import asyncio
import unicodedata

from argon2.low_level import Type, hash_secret_raw
from msgspec import Struct

from mover.errors import LimitExceeded
from mover.randomness import random_bytes

AT_ONCE = 2
WAITING = 64
KEY_BYTES = 32
SALT_BYTES = 16


class Cost(Struct, frozen=True):
    """RFC 9106, 4: the second recommended option. It stands with each account, so that a dearer one later changes
    nothing for those that are."""

    passes: int = 3
    kib: int = 64 << 10
    lanes: int = 4

    def told(self) -> list[int]:
        return [self.passes, self.kib, self.lanes]


COST = Cost()


class Passwords:
    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def key(self, password: str, *, salt: bytes, cost: Cost) -> bytes:
        """The same letters on every keyboard: NFC, as RFC 8265 asks. Raises LimitExceeded where too many wait."""
        if self._waiting >= WAITING:
            raise LimitExceeded("too many people sign in at this moment")
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(_key, password, salt, cost)
        finally:
            self._waiting -= 1

    async def made(self, password: str) -> tuple[bytes, Cost, bytes]:
        """Salt, cost and key of a new password."""
        salt = random_bytes(SALT_BYTES)
        return salt, COST, await self.key(password, salt=salt, cost=COST)


def _key(password: str, salt: bytes, cost: Cost) -> bytes:
    secret = unicodedata.normalize("NFC", password).encode()
    return hash_secret_raw(secret, salt, cost.passes, cost.kib, cost.lanes, KEY_BYTES, Type.ID)
