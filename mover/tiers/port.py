"""The port of tiers: a ladder of three small interfaces.

All calls block and are meant for worker threads; the event loop never calls them. Keys are '/'-separated
and relative; '..', empty parts, NUL and absolute keys are refused with RequestInvalid. Retrying happens in
one wrapper (`tiers.wrappers`), nowhere else. Failures are TierErrors; a listing that fails half-way raises
and never ends early (I7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast, runtime_checkable

from mover.errors import EntryLocked, TierDenied
from mover.model.source import ByteSource
from mover.model.tiers import Entry, Fingerprint, TierKind, Traits, Zone


@runtime_checkable
class OpenEntry(ByteSource, Protocol):
    """An entry opened once; `fingerprint` asks the tier again, so that a change under us is seen. It carries
    its tier's zone, so that no caller can claim another. On posix tiers it also has `fileno()`."""

    @property
    def zone(self) -> Zone: ...

    def fingerprint(self) -> Fingerprint: ...


@runtime_checkable
class ReadTier(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def zone(self) -> Zone: ...

    @property
    def kind(self) -> TierKind: ...

    @property
    def traits(self) -> Traits:
        """Found by trying; the first question may cost some calls."""

    def check_identity(self) -> None:
        """Raise TierUnavailable unless the root is mounted and is the tier it claims to be (D11)."""

    def stat(self, key: str) -> Entry:
        """The entry, or EntryMissing."""

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Exactly the asked bytes (all of them when `length` is None), or ShortRead."""

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 8 << 20) -> Iterator[bytes]:
        """The content in order. `cold` bypasses or first drops the page cache, so that what comes is what
        the device holds: a warm re-read proves nothing."""

    def open(self, key: str) -> AbstractContextManager[OpenEntry]:
        """A ByteSource over the entry; the entry is opened once and never again by name."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every file below `prefix` (a folder path or ''), depth first, unsorted between folders.
        Symlinks and other kinds are listed, never followed."""


@runtime_checkable
class WriteTier(ReadTier, Protocol):
    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        """Write once: durable under its final name when this returns (data synced, folder synced; or a
        conditional put). EntryExists when the name is taken; then nothing was changed."""


@runtime_checkable
class PruneTier(WriteTier, Protocol):
    def remove(self, key: str) -> None:
        """Remove one file by exact key; EntryMissing when it is not there, EntryLocked where deletion on this tier is
        not switched on. Every deletion of what somebody was promised goes this way."""

    def tidy(self, key: str) -> None:
        """As `remove`, whatever is switched on: for what we made ourselves and nobody was promised, such as a lock, or
        an attempt that no sidecar names; and for what a newer file of ours has taken the place of."""


def deletion_off(tier: Any) -> str | None:
    """Why nothing may be deleted on a tier, or of what works on its folders; None where deletion is switched on."""
    while (beneath := getattr(tier, "_inner", None)) is not None:
        tier = beneath
    return None if getattr(tier, "deletes", True) else f"deletion on tier {tier.name} is not switched on"


def refuse_kept(tier: Any) -> None:
    """The one question before anything is deleted. EntryLocked; then nothing was removed."""
    why = deletion_off(tier)
    if why is not None:
        raise EntryLocked(
            f"{why}: nothing was removed", where=tier.name,
            hint="When it shall be: `deletes: true` for this tier in mover.yaml, and a restart of the daemon.",
        )  # fmt: skip


def prunable(tier: ReadTier) -> PruneTier:
    """The tier as one to write on and to remove from; TierDenied, before anything is begun, where it is only read."""
    innermost: Any = tier
    while (beneath := getattr(innermost, "_inner", None)) is not None:
        innermost = beneath
    # not isinstance: that would ask a tier for its traits, which may be away
    if not hasattr(innermost, "remove") or getattr(innermost, "read_only", False):
        raise TierDenied(
            "the settings let this tier only be read", where=tier.name,
            hint="Take `read_only` out of the tier's settings, or let the policy name another tier.",
        )  # fmt: skip
    return cast(PruneTier, tier)
