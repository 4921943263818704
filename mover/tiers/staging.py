"""What the engine needs of a tier beyond the port: an open entry it can question, and an attempt.

An attempt is one try at writing one key. Until `publish` nothing stands under the final name, or, on object
tiers, nothing that a sidecar vouches for (design D14). The order is the caller's duty:
write -> seal -> stream_cold and compare -> publish, or abandon at any point. A crash between any two leaves a
temporary name (posix) or an object without a sidecar (object), which a sweep may remove.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from mover.tiers.port import OpenEntry, PruneTier

__all__ = ["Attempt", "FileEntry", "MultipartAttempt", "OpenEntry", "StagingTier"]


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


class MultipartAttempt(Attempt, Protocol):
    """An attempt on an object tier that takes its bytes in parts, from threads, in any order.

    Known by having `put_part`; what is too small for parts comes without it and is written by `write`. The
    order is begin -> put_part of every number from 1 -> complete -> stream_cold and compare -> publish.
    `write` and `complete` exclude each other. What was put survives the process: the upload id that `begin`
    returned, given back as `attempt(..., resume=id)`, finds the parts again.
    """

    @property
    def part_bytes(self) -> int:
        """The smallest and largest length of every part but the last: a multiple of 16 MiB that keeps the
        whole below the store's number of parts."""

    @property
    def unproved(self) -> bool:
        """After `complete`: an answer was lost and what stands under the key may be somebody else's. The object
        is then re-read whatever the caller asked for."""

    def begin(self) -> str:
        """Open the upload, or find the one to resume; its id. Another id than the one given to `resume`
        means that the old upload is gone and nothing of it counts."""

    def put_part(self, number: int, data: bytes | memoryview) -> str:
        """One part, from any thread; its etag. Putting a number again replaces it, so a lost answer is
        answered by sending once more."""

    def parts(self) -> dict[int, tuple[str, int]]:
        """What the store holds of this upload: number -> (etag, size)."""

    def complete(self, parts: Sequence[tuple[int, str]], *, if_none_match: bool = True) -> None:
        """Make the parts one object under the key. EntryExists when the name is taken. A lost answer is
        settled by asking for the object's size before this returns; its bytes are re-read by the caller."""


@runtime_checkable
class StagingTier(PruneTier, Protocol):
    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> Attempt:
        """`resume` names what an earlier attempt at this key left: the temporary name of a file, the id of a
        multipart upload. EntryMissing (posix) when it is gone."""

    def sweep_temporaries(self, prefix: str = "", *, older_than_s: float, now_s: float) -> int:
        """Remove what killed attempts left, by age; how many. Objects without a sidecar are their writer's."""
