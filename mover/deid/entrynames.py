"""Names of entries on one identified tier: what walks and moves know by tags (D10).

A tag is the vault's own keyed lookup of the name, so a tag is enough to find the sealed row, and nobody without the
vault's key can try names against tags. The vault is asked on the event loop; these calls block and come from the
threads that walk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from mover.deid.vault import UNSEAL_LIMIT, Vault
from mover.errors import NotFound
from mover.model.names import name_text

KIND = "entry"
Result = TypeVar("Result")


class EntryNames:
    """Make it on the event loop; use it from threads. `actor` and `purpose` stand in the record of every opening."""

    def __init__(self, vault: Vault, project: str, tier: str, *, actor: str, purpose: str) -> None:
        self._vault = vault
        self._project = project
        self._tier = tier
        self._actor = actor
        self._purpose = purpose
        self._loop = asyncio.get_running_loop()

    def tags(self, keys: Sequence[bytes]) -> list[bytes]:
        return [self._vault.tag(self._project, KIND, self._text(key)) for key in keys]

    def seal(self, keys: Sequence[bytes]) -> None:
        """Committed on return, so the catalog may hold the tags."""
        items = [(self._text(key), key) for key in keys]
        self._ask(self._vault.seal_many(self._project, KIND, items))

    def open(self, tags: Sequence[bytes]) -> list[bytes]:
        """In their order. Raises NotFound when a tag is not this project's."""
        names: dict[bytes, bytes] = {}
        for start in range(0, len(tags), UNSEAL_LIMIT):
            names |= self._ask(self._open(tags[start : start + UNSEAL_LIMIT]))
        return [names[tag] for tag in tags]

    def secret(self) -> bytes:
        """Keys the digests of this tier's listings: 32 bytes that nobody can make without the vault's key."""
        return self._vault.tag(self._project, "listing", self._tier)

    async def _open(self, tags: Sequence[bytes]) -> dict[bytes, bytes]:
        ids = await self._vault.find_tags(self._project, KIND, tags)
        if len(ids) != len(set(tags)):
            raise NotFound(f"{len(set(tags)) - len(ids)} of {len(set(tags))} tags are not known in this project")
        bodies = await self._vault.unseal(
            self._project, list(ids.values()), purpose=self._purpose, actor=self._actor
        )
        return {tag: bodies[id] for tag, id in ids.items()}

    def _text(self, key: bytes) -> str:
        return f"{self._tier}\0{name_text(key)}"

    def _ask(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
