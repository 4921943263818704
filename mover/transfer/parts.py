"""Parts of a large move, and the journal that lets a killed one go on.

A part is a multiple of 16 MiB of the output. Once its bytes are durable at the target (and, on posix tiers, read
back), its segment digests are put into the journal. After a crash the journal is only a claim: on posix tiers the
parts' bytes are read cold from the target and must equal it; on object tiers, where parts of an unfinished upload
cannot be read, the store's own list of etags and the source's bytes must equal it, and the finished object is
read back whole. What does not equal is written again.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Part(Struct, frozen=True):
    """`number` counts from 1. `segments` are the BLAKE3 of each 16 MiB of what was written."""

    number: int
    offset: int
    length: int
    segments: tuple[str, ...]
    etag: str = ""


class PartJournal(Protocol):
    """Kept in the catalog by its owner. An attempt's id names one move of one source to one key."""

    def where(self, attempt_id: str) -> str:
        """The text given to `begin`, or "" when the attempt is new or was ended."""

    def parts(self, attempt_id: str) -> list[Part]:
        """The finished parts, by number; [] when new."""

    def begin(self, attempt_id: str, *, where: str) -> None:
        """Start, or start anew: earlier parts are forgotten. `where` (below 1,000 characters, no identifier in
        it) is the engine's: how to find what was written, and the source and recipe it was written from."""

    def finished(self, attempt_id: str, part: Part) -> None:
        """Durable before it returns. A number that is there already is replaced."""

    def end(self, attempt_id: str) -> None:
        """Forget the attempt: it was published or given up."""
