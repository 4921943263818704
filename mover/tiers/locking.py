"""Tiers that keep what was put, also from us: object lock on buckets, the immutable attribute on file systems.

`LockingTier` stands around an object tier and `AppendOnlyTier` around a folder; whoever writes through them needs not
know. **A lock is extended and never shortened**: what is put is locked from its first moment by the bucket's default
retention, then until `retain_s` from now. A crash between the two leaves the shorter lock, which the next renewal
extends (`protect.locks`).

On a bucket with versions, a plain delete only hides an object, so a removal here removes its versions: refused with
EntryLocked until the store lets the last one go. What is replaced or given up in a repository's ordinary life (its own
lock files, index files, forgotten snapshots) is hidden at once, so that every client sees the same; the hidden versions
leave with `sweep` when their locks have run out, and until then can be brought back.

Whoever may write can also put other bytes on top of an object. Its good version stands below, and is put back on top by
a copy (`put_right`): known by its name where that is its SHA-256, and as the oldest where it is not, since a name is
written once.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from mover.clock import SYSTEM, Clock
from mover.errors import DigestMismatch, EntryExists, EntryLocked, EntryMissing, TierDenied
from mover.model.tiers import LockMode
from mover.tiers.immutable import is_immutable
from mover.tiers.object import ObjectTier
from mover.tiers.object_control import Control, Lock, Version
from mover.tiers.port import refuse_kept
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import _Wrapper

SWEPT_AT_ONCE = 100_000  # versions that one look for hidden ones takes in
OVERLAID_MAX = 100_000  # keys that one look names
VERSIONS_TRIED = 16  # of one object, the oldest
VERSION_BYTES_MAX = 1 << 30  # what is larger is no file of ours
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ObjectLocks:
    """The locks of one bucket's objects, by the tier's own keys. Blocking."""

    def __init__(self, tier: ObjectTier, control: Control) -> None:
        self.tier, self._where, self._control = tier, tier.where, control

    @property
    def control(self) -> Control:
        return self._control

    def full_key(self, key: str) -> str:
        return self._where.full_key(key)

    def default_mode(self) -> LockMode | None:
        """How the bucket locks every new object; None where it does not (any more), or keeps no versions."""
        try:
            return self._control.default_mode() if self._control.keeps_versions() else None
        except (EntryMissing, TierDenied):
            return None

    def of(self, key: str) -> Lock | None:
        """Of the current version. EntryMissing also when it is hidden."""
        return self._control.locked(self.full_key(key))[1]

    def extend(self, key: str, *, until: datetime, mode: LockMode) -> Lock:
        """The lock that holds now. One that holds longer already stays; of one that holds, the mode stays too."""
        return self._extend(self.full_key(key), "", until=until, mode=mode)

    def _extend(self, full: str, version: str, *, until: datetime, mode: LockMode) -> Lock:
        version, held = self._control.locked(full, version)
        if held is not None and held.until >= until.replace(microsecond=0):
            return held
        # stores keep whole seconds: rounded here, what is written down never says more than what holds
        lock = Lock(held.mode if held is not None else mode, until.replace(microsecond=0))
        self._control.retain(full, version, lock)
        return lock

    def free(self, key: str) -> None:
        """Every version goes, newest first; the store's clock decides. EntryLocked while it holds on to one."""
        full = self.full_key(key)
        found = [one for one in self._control.versions(full) if one.key == full]
        if not found:
            raise EntryMissing("no such object", where=self.tier.name)
        for one in sorted(found, key=lambda one: one.marker):
            try:
                self._control.delete_version(full, one.id)
            except TierDenied as denied:
                raise self._told(full, one.id, denied) from denied

    def _told(self, full: str, version: str, denied: TierDenied) -> TierDenied | EntryLocked:
        """Is it the lock that keeps it, or a missing right?"""
        held = self._control.locked(full, version)[1]
        return denied if held is None else locked_until(self.tier.name, held.until)

    def hidden(self, prefix: str) -> list[str]:
        """Keys that a delete marker hides although a version of them is there. Bounded by SWEPT_AT_ONCE."""
        marked: set[str] = set()
        kept: set[str] = set()
        for one, _ in zip(self._control.versions(self.full_key(prefix)), range(SWEPT_AT_ONCE), strict=False):
            if one.marker and one.latest:
                marked.add(one.key)
            elif not one.marker:
                kept.add(one.key)
        return sorted(full[len(self.full_key("")) :] for full in marked & kept)

    def unhide(self, key: str) -> bool:
        """Take away the markers on top, so that the newest version is seen again; whether there is one."""
        full = self.full_key(key)
        found = [one for one in self._control.versions(full) if one.key == full]
        if all(one.marker for one in found):
            return False
        for one in found:
            if one.marker:
                self._control.delete_version(full, one.id)
        return True

    def overlaid(self, prefix: str) -> list[str]:
        """Keys that are seen and have more than one version: other bytes may have been put on top. The next look finds
        what is beyond OVERLAID_MAX."""
        found: list[str] = []
        top: Version | None = None  # of the versions that are no markers, in order of keys, newest first
        for one in self._control.versions(self.full_key(prefix)):
            if one.marker:
                continue
            if top is None or one.key != top.key:
                top = one
            elif top.latest and (not found or found[-1] != one.key) and len(found) < OVERLAID_MAX:
                found.append(one.key)
        return [full[len(self.full_key("")) :] for full in found]

    def put_right(self, key: str, *, until: datetime, mode: LockMode) -> bool:
        """What was put there once is on top again, and locked; whether something else was. EntryMissing when no version
        is it: then all that were looked at are locked on, for a person to judge."""
        full = self.full_key(key)
        top, tried = self._standing(full)
        wanted = _SHA256.fullmatch(key.rsplit("/", 1)[-1])
        good = next((one for one in tried if wanted is None or self._sha256(one) == wanted[0]), None)
        if top is None or good is None:
            for one in tried:
                self._extend(full, one.id, until=until, mode=mode)
            raise EntryMissing("no version of the object is what was put there", where=self.tier.name)
        self._extend(full, good.id, until=until, mode=mode)
        if self._same(top, good):
            return False
        copy = self._control.copy_on_top(full, good.id)
        if self._control.version_sha256(full, copy) != self._sha256(good):
            raise DigestMismatch("the store's copy of a version is not that version", where=self.tier.name)
        self._extend(full, copy, until=until, mode=mode)
        return True

    def _standing(self, full: str) -> tuple[Version | None, list[Version]]:
        """The newest version, and those that are tried: the oldest first, since no thief was there before us."""
        top, oldest = None, deque[Version](maxlen=VERSIONS_TRIED)
        for one in self._control.versions(full):
            if one.key == full and not one.marker:
                top = top or one
                oldest.append(one)
        tried = list(reversed(oldest))
        return top, tried if top is None or top in tried else [*tried, top]

    def _same(self, one: Version, other: Version) -> bool:
        if one.id == other.id or (one.etag and (one.etag, one.size_bytes) == (other.etag, other.size_bytes)):
            return True
        return one.size_bytes == other.size_bytes and self._sha256(one) == self._sha256(other)

    def _sha256(self, one: Version) -> str:
        if one.size_bytes > VERSION_BYTES_MAX:
            return ""
        return self._control.version_sha256(one.key, one.id)

    def sweep(self, prefix: str) -> int:
        """Versions below a prefix that were hidden and that the store lets go, with their markers; how many."""
        gone = 0
        for key in self.hidden(prefix):
            with suppress(EntryLocked, EntryMissing):
                self.free(key)
                gone += 1
        return gone


class KeepingTier(_Wrapper):
    """What is put is kept from then on. `passing` are prefixes of what is not."""

    def __init__(self, inner: Any, *, passing: tuple[str, ...]) -> None:
        super().__init__(inner)
        self._passing = passing

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        try:
            self._inner.put(key, chunks, size_bytes=size_bytes)
        except EntryExists:
            self._keep(key)  # an earlier put of ours may have been cut off before it was kept
            raise
        self._keep(key)

    def remove(self, key: str) -> None:
        refuse_kept(self)
        self.tidy(key)

    def _keep(self, key: str) -> None:
        if not key.startswith(self._passing):
            self.keep(key)

    def keep(self, key: str, until: datetime | None = None) -> datetime | None:
        """Until then, or for as long as this tier keeps what is put; what holds now. EntryMissing."""
        raise NotImplementedError

    def bring_back(self, key: str) -> bool:
        """Whether it was only hidden, and is seen again. In a folder nothing ever is."""
        return False

    def put_right(self, key: str, until: datetime | None = None) -> bool:
        """Whether other bytes were on top of it, and are no more. In a folder nobody can put any. EntryMissing."""
        return False


class LockingTier(KeepingTier):
    """What is put stays for `retain_s`. `hidden` are prefixes of what is hidden when it is removed."""

    def __init__(
        self,
        inner: Any,
        locks: ObjectLocks,
        *,
        retain_s: int,
        mode: LockMode,
        passing: tuple[str, ...] = (),
        hidden: tuple[str, ...] = (),
        clock: Clock = SYSTEM,
    ) -> None:
        super().__init__(inner, passing=passing)
        self.locks, self.retain_s, self.mode = locks, retain_s, mode
        self._hidden, self._clock = hidden, clock

    def keep(self, key: str, until: datetime | None = None) -> datetime:
        """Locked until then, or longer where it was already. EntryMissing also when it is hidden."""
        return self.locks.extend(key, until=until or self._until(), mode=self.mode).until

    def bring_back(self, key: str) -> bool:
        if not self.locks.unhide(key):
            return False
        try:
            self.put_right(key)  # who hid it may have put other bytes upon it before
        except EntryMissing:
            return False
        return True

    def put_right(self, key: str, until: datetime | None = None) -> bool:
        return self.locks.put_right(key, until=until or self._until(), mode=self.mode)

    def _until(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self.retain_s)

    def tidy(self, key: str) -> None:
        if key.startswith((*self._passing, *self._hidden)):
            self._inner.tidy(key)
        else:
            self.locks.free(key)


class FreeingTier(_Wrapper):
    """For a bucket that keeps versions: what is removed leaves with all of them, or EntryLocked says until when not."""

    def __init__(self, inner: Any, locks: ObjectLocks) -> None:
        super().__init__(inner)
        self._locks = locks

    def remove(self, key: str) -> None:
        refuse_kept(self)
        self.tidy(key)

    def tidy(self, key: str) -> None:
        self._locks.free(key)


class AppendOnlyTier(KeepingTier):
    """Files become immutable once they are published. `seal` sets the attribute through somebody who may (another
    process: this one cannot take it off again, see `immutable`)."""

    def __init__(
        self, inner: Any, folder: PosixTier, seal: Callable[[int], None], *, passing: tuple[str, ...] = ()
    ) -> None:
        super().__init__(inner, passing=passing)
        self._folder, self._seal = folder, seal

    def keep(self, key: str, until: datetime | None = None) -> datetime | None:
        """Immutable, for as long as root leaves it so. EntryMissing."""
        with self._folder.open(key) as file:
            if not is_immutable(file.fileno()):
                self._seal(file.fileno())
        return until

    def tidy(self, key: str) -> None:
        with self._folder.open(key) as file:
            if is_immutable(file.fileno()):
                raise EntryLocked(
                    "the file is immutable; only another identity takes that off", where=self.name,
                    hint="Root takes the attribute off what a prune names (chattr -i); see docs/protection.md.",
                )  # fmt: skip
        self._inner.tidy(key)


def locked_until(tier: str, until: datetime) -> EntryLocked:
    text = until.strftime("%Y-%m-%d %H:%M:%SZ")
    return EntryLocked(f"locked until {text}", where=tier, details=[{"until": until.isoformat()}])


def innermost(tier: Any) -> Any:
    """The tier itself, without what stands around it."""
    while hasattr(tier, "inner"):
        tier = tier.inner
    return tier


def object_locks(tier: Any) -> ObjectLocks | None:
    """Of an object tier that can be asked for locks; None of any other."""
    bare = innermost(tier)
    if not isinstance(bare, ObjectTier) or bare.control is None:
        return None
    return ObjectLocks(bare, bare.control)


def freeing(tier: Any) -> Any:
    """The tier, with removals that free the space, also where the bucket keeps versions."""
    locks = object_locks(tier)
    return FreeingTier(tier, locks) if locks is not None and tier.traits.versioning else tier


def below(prefix: str, *names: str) -> tuple[str, ...]:
    """Keys below a repository's prefix."""
    head = prefix.strip("/")
    return tuple(f"{head}/{name}" if head else name for name in names)
