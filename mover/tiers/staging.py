"""What the engine needs of a tier beyond the port: an open entry it can question, and an attempt.

An attempt is one try at writing one key. Until `publish` nothing stands under the final name, or, on object
tiers, nothing that a sidecar vouches for (design D14). The order is the caller's duty:
write -> seal -> stream_cold and compare -> publish, or abandon at any point. A crash between any two leaves a
temporary name (posix) or an object without a sidecar (object), which a sweep may remove.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from mover.tiers.port import OpenEntry, PruneTier

__all__ = ["Attempt", "FileEntry", "OpenEntry", "StagingTier"]


@runtime_checkable
class FileEntry(OpenEntry, Protocol):
    """An entry with a descriptor, for the kernel's copy and for a parsing child."""

    def fileno(self) -> int: ...


class Attempt(Protocol):
    def write(self, chunks: Iterable[bytes]) -> None:
        """The whole content, in order, once."""

    def seal(self) -> None:
        """Durable under the attempt's own name when this returns; a failed sync is never tried again."""

    def stream_cold(self) -> Iterator[bytes | memoryview]:
        """What the device holds. A view is valid until the next one is asked for."""

    def publish(self) -> None:
        """Give it its final name without replacing, durably. EntryExists when the name is taken."""

    def abandon(self) -> None:
        """Remove what was written, as far as possible; may be called at any point, also twice."""


@runtime_checkable
class StagingTier(PruneTier, Protocol):
    def attempt(self, key: str, *, size_bytes: int) -> Attempt: ...

    def sweep_temporaries(self, prefix: str = "", *, older_than_s: float, now_s: float) -> int:
        """Remove what killed attempts left, by age; how many. Objects without a sidecar are their writer's."""
