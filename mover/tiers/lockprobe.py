"""Can what is kept be destroyed with our own credential? Tried on small objects of our own, and told plainly.

On a bucket: a locked version is shortened, overwritten and deleted, each also with the word that asks for the special
right over GOVERNANCE locks. On a folder: an immutable file is changed, renamed, removed, and its attribute taken off.
Whatever succeeds makes the tier *not immutable*. Probe objects lock for minutes, so that each probe removes those of
earlier ones; there are never more than PROBES_MAX. A folder has one probe file, for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from msgspec import Struct

from mover.errors import EntryExists, EntryLocked, EntryMissing, TierDenied
from mover.model.tiers import LockMode
from mover.randomness import random_bytes
from mover.tiers.immutable import is_immutable, set_immutable
from mover.tiers.locking import AppendOnlyTier, ObjectLocks
from mover.tiers.object_control import Lock, Version
from mover.tiers.posix import PosixTier

FOLDER = ".mover/lock-probe"
PROBES_MAX = 16
PROBE_LOCK = timedelta(minutes=15)
SHORTENED_TO = timedelta(minutes=1)
CONTENT, OTHER = b"is this kept?", b"another content"

Attempt = Callable[[], object]


class Probe(Struct, frozen=True):
    """What was tried and what succeeded although nothing may; `why` says it for people. `tried` is empty when the
    probe could not even begin: then `why` says what is missing."""

    immutable: bool
    tried: tuple[str, ...]
    succeeded: tuple[str, ...]
    why: str
    standing: int = 0


def probe_objects(locks: ObjectLocks, *, now: datetime, mode: LockMode) -> Probe:
    """`now` is the database's. TierUnavailable when the store cannot be asked: then nothing is known."""
    standing = _tidied(locks, now)
    wrong = _unfit(locks.default_mode(), mode, len(standing))
    if wrong:
        return Probe(False, (), (), wrong, len(standing))
    key = locks.full_key(f"{FOLDER}/{random_bytes(6).hex()}")
    lock = Lock(mode, now + PROBE_LOCK)
    version = locks.control.put_locked(key, CONTENT, lock)
    tried = _object_attempts(locks, key, version, lock, now)
    succeeded = tuple(word for word, attempt in tried if _succeeds(attempt))
    return _judged(tuple(word for word, _ in tried), succeeded, len(standing) + 2)


def _unfit(default: LockMode | None, mode: LockMode, standing: int) -> str:
    if default is None:
        return "the bucket does not lock new objects (any more), or keeps no versions"
    if default != mode:
        return f"the bucket locks new objects as {default}, the policy says {mode}"
    if standing >= PROBES_MAX:
        return f"{standing} probe objects have not run out: the store's clock and ours differ"
    return ""


def _object_attempts(
    locks: ObjectLocks, key: str, version: str, lock: Lock, now: datetime
) -> list[tuple[str, Attempt]]:
    """In an order in which one that succeeds spoils none that follows, as far as that can be had."""
    shorter = Lock(lock.mode, now + SHORTENED_TO)
    control = locks.control

    def overwrite() -> None:
        """Another version may come; ours must stay what it was."""
        control.put_locked(key, OTHER, lock)
        with suppress(EntryMissing):
            if control.read_version(key, version) == CONTENT:
                raise EntryLocked("the version that was there still is")

    return [
        ("shortened", lambda: control.retain(key, version, shorter)),
        ("shortened with a special right", lambda: control.retain(key, version, shorter, bypass=True)),
        ("overwritten", overwrite),
        ("deleted", lambda: control.delete_version(key, version)),
        ("deleted with a special right", lambda: control.delete_version(key, version, bypass=True)),
    ]


def _tidied(locks: ObjectLocks, now: datetime) -> list[Version]:
    """Versions of earlier probes that still stand, once those that have run out are gone."""
    standing = []
    for one in list(locks.control.versions(locks.full_key(FOLDER) + "/"))[: 4 * PROBES_MAX]:
        lock = None if one.marker else locks.control.locked(one.key, one.id)[1]
        if lock is not None and lock.until > now:
            standing.append(one)
            continue
        with suppress(TierDenied, EntryMissing):
            locks.control.delete_version(one.key, one.id)
    return standing


def probe_files(folder: PosixTier, tier: AppendOnlyTier) -> Probe:
    """One file, made immutable once and attacked again at every probe."""
    key = f"{FOLDER}/file"
    with suppress(EntryExists):
        tier.put(key, [CONTENT], size_bytes=len(CONTENT))
    path = folder.root / key
    with folder.open(key) as file:
        if not is_immutable(file.fileno()):
            return Probe(False, (), (), "the probe file is not immutable", 1)
    tried: list[tuple[str, Attempt]] = [
        ("overwritten", lambda: os.close(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW))),
        ("renamed", lambda: os.rename(path, path.with_name("renamed"))),
        ("its attribute taken off", lambda: _freed(folder, key)),
        ("deleted", lambda: os.unlink(path)),
    ]
    succeeded = tuple(word for word, attempt in tried if _succeeds(attempt))
    return _judged(tuple(word for word, _ in tried), succeeded, 1)


def _freed(folder: PosixTier, key: str) -> None:
    with folder.open(key) as file:
        set_immutable(file.fileno(), on=False)


def _succeeds(attempt: Attempt) -> bool:
    """A refusal, in whatever word, is what is wanted; a store that cannot be asked raises."""
    try:
        attempt()
    except (TierDenied, EntryLocked, EntryMissing, OSError):
        return False
    return True


def _judged(tried: tuple[str, ...], succeeded: tuple[str, ...], standing: int) -> Probe:
    why = f"a probe object was {', '.join(succeeded)} with the daemon's own credential" if succeeded else ""
    return Probe(not succeeded, tried, succeeded, why, standing)
