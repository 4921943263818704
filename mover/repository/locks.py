"""Locks as the format has them, so that a stock restic working beside us is safe.

A lock is a file below locks/. Shared locks stand side by side; an exclusive one stands alone. Who wants one
looks, writes its own, waits a moment and looks again: of two that raced, at least one sees the other and
withdraws. A lock is rewritten every few minutes; one that is older than half an hour, or whose process on
this very host is gone, is stale and is removed when it is met.
"""

from __future__ import annotations

import os
import pwd
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from mover.clock import SYSTEM, Clock, monotonic_s, pause
from mover.errors import LeaseLost, MoverError, RepositoryDamaged, RepositoryLocked, TierError
from mover.repository.crypto import MasterKey
from mover.repository.files import RepositoryFiles
from mover.repository.tree import format_time, parse_time

STALE_AFTER = timedelta(minutes=30)
REFRESH_EVERY_S = 300.0
TRY_AGAIN_S = 0.25
# restic's own wait between writing its lock and looking again.
SETTLE_S = 0.2
# Above this age our own lock may already count as stale elsewhere: nothing may be committed under it.
TRUST_FOR = timedelta(minutes=25)


class _WireLock(Struct, omit_defaults=True):
    time: str
    exclusive: bool
    hostname: str
    username: str
    pid: int
    uid: int = 0
    gid: int = 0


class Lock:
    """One held lock. `assert_held` before anything that must not happen without it."""

    def __init__(self, files: RepositoryFiles, key: MasterKey, *, exclusive: bool, clock: Clock) -> None:
        self._files, self._key, self._clock = files, key, clock
        self.exclusive = exclusive
        self.lock_id = ""
        self.written_at = clock.now()
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._settling = threading.Lock()
        self._settles_at_s: float | None = None

    def acquire(self, *, early: bool = False) -> None:
        """RepositoryLocked when a live lock stands against ours; nothing of ours is left then. With `early` it may
        still turn out to stand: the caller reads meanwhile, and calls `settle` before anything is written."""
        self._refuse_conflict()
        self._write()
        self._settles_at_s = monotonic_s() + SETTLE_S
        if not early:
            try:
                self.settle()
            except MoverError:
                self._files.remove("locks", self.lock_id)
                raise
        self._thread = threading.Thread(target=self._keep_fresh, name="repository-lock", daemon=True)
        self._thread.start()

    def settle(self) -> None:
        """Wait out the moment in which two who lock do not see each other, and look again, once; in any thread."""
        with self._settling:
            if self._settles_at_s is not None:
                self._stop.wait(max(0.0, self._settles_at_s - monotonic_s()))
                self._refuse_conflict()
                self._settles_at_s = None

    def release(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(TierError):  # the work is done and stays done; the file lapses by itself
            self._files.remove("locks", self.lock_id)

    def assert_held(self) -> None:
        """LeaseLost when the lock could not be refreshed for so long that others may ignore it."""
        with self._guard:
            age = self._clock.now() - self.written_at
        if age > TRUST_FOR:
            raise LeaseLost("the repository lock could not be refreshed in time")

    def _write(self) -> None:
        now = self._clock.now()
        lock_id = self._files.save_document("locks", _document(now, exclusive=self.exclusive), key=self._key)
        with self._guard:
            self.lock_id, self.written_at = lock_id, now

    def _keep_fresh(self) -> None:
        """New file first, old one after: at no moment is there none of ours. A refresh that fails is tried
        again at the next turn; `assert_held` stops the work when that goes on for too long."""
        while not self._stop.wait(REFRESH_EVERY_S):
            old = self.lock_id
            try:
                self._write()
                self._files.remove("locks", old)
            except TierError:
                continue

    def _refuse_conflict(self) -> None:
        for lock_id, other in _live_locks(self._files, self._key, self._clock.now()):
            if lock_id != self.lock_id and (self.exclusive or other.exclusive):
                kind = "exclusively " if other.exclusive else ""
                raise RepositoryLocked(f"the repository is {kind}locked by another process")


@contextmanager
def locked(
    files: RepositoryFiles,
    key: MasterKey,
    *,
    exclusive: bool = False,
    clock: Clock = SYSTEM,
    patience_s: float = 0.0,
    early: bool = False,
) -> Iterator[Lock]:
    """RepositoryLocked when somebody else's lock stood against this one for all of `patience_s`. `early`: see
    `Lock.acquire`."""
    lock = Lock(files, key, exclusive=exclusive, clock=clock)
    deadline_s = monotonic_s() + patience_s
    while True:
        try:
            lock.acquire(early=early)
            break
        except RepositoryLocked:
            if monotonic_s() >= deadline_s:
                raise
            pause(TRY_AGAIN_S)
    try:
        yield lock
    finally:
        lock.release()


def _live_locks(files: RepositoryFiles, key: MasterKey, now: datetime) -> Iterator[tuple[str, _WireLock]]:
    """Locks that count. Stale ones are removed on the way, as `restic unlock` does."""
    for found in list(files.ids("locks")):
        if found.size_bytes == 0:
            continue  # an upload that never finished, on a tier without atomic puts
        try:
            document = files.load_document("locks", found.file_id, key=key)
        except TierError:
            if files.exists(files.key("locks", found.file_id)):
                raise  # unreadable, not gone: we cannot know whether it stands against us
            continue
        lock = _decode(document, found.file_id)
        if _stale(lock, now):
            files.remove("locks", found.file_id)
        else:
            yield found.file_id, lock


def _decode(document: bytes, lock_id: str) -> _WireLock:
    try:
        lock = msgspec.json.decode(document, type=_WireLock)
        parse_time(lock.time)
    except ValueError as cause:
        raise RepositoryDamaged("a lock file cannot be decoded", where=f"locks/{lock_id}") from cause
    return lock


def _stale(lock: _WireLock, now: datetime) -> bool:
    age_ns = int(now.timestamp() * 1e9) - parse_time(lock.time)
    if age_ns > STALE_AFTER.total_seconds() * 1e9:
        return True
    return lock.hostname == socket.gethostname() and not _process_exists(lock.pid)


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _document(now: datetime, *, exclusive: bool) -> bytes:
    return msgspec.json.encode(
        _WireLock(
            time=format_time(int(now.timestamp() * 1_000_000) * 1000),
            exclusive=exclusive,
            hostname=socket.gethostname(),
            username=user_name(os.getuid()),
            pid=os.getpid(),
            uid=os.getuid(),
            gid=os.getgid(),
        )
    )


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
