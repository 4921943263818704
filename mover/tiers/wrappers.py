"""Wrappers around a tier: retrying (only here), refusing writes, and faults for tests.

A wrapper is a tier itself, so they stack: RetryTier(ObjectTier(...)) in the daemon, FaultyTier(PosixTier(...))
in a test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import Any, Literal, TypeVar

from msgspec import Struct

from mover import metrics
from mover.errors import EntryExists, ShortRead, Stopping, TierDenied, TierFull, TierHung, TierUnavailable
from mover.model.tiers import Entry, Fingerprint, TierKind, Traits, Zone
from mover.tiers.guard import Guard, Stopped, guard_of
from mover.tiers.staging import Attempt, OpenEntry, StagingTier

Result = TypeVar("Result")

LISTED_AT_ONCE = 1000  # entries handed over by a lane; one by one the hand-over would cost more than the listing


class _Wrapper:
    """Everything handed on to the tier inside."""

    def __init__(self, inner: StagingTier) -> None:
        self._inner = inner
        self.name: str = inner.name
        self.zone: Zone = inner.zone
        self.kind: TierKind = inner.kind

    @property
    def traits(self) -> Traits:
        return self._inner.traits

    @property
    def guard(self) -> Guard | None:
        """Of the tier inside, where its calls may hang (`tiers.guard`)."""
        return guard_of(self._inner)

    @property
    def inner(self) -> StagingTier:
        """What it stands around: for work that goes to the folder itself, in another process."""
        return self._inner

    def check_identity(self) -> None:
        self._inner.check_identity()

    def stat(self, key: str) -> Entry:
        return self._inner.stat(key)

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._inner.read(key, offset, length)

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 8 << 20) -> Iterator[bytes]:
        return self._inner.stream(key, cold=cold, step_bytes=step_bytes)

    def open(self, key: str) -> AbstractContextManager[OpenEntry]:
        return self._inner.open(key)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._inner.list(prefix)

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        self._inner.put(key, chunks, size_bytes=size_bytes)

    def remove(self, key: str) -> None:
        self._inner.remove(key)

    def tidy(self, key: str) -> None:
        self._inner.tidy(key)

    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> Attempt:
        return self._inner.attempt(key, size_bytes=size_bytes, resume=resume)

    def sweep_temporaries(self, prefix: str = "", *, older_than_s: float, now_s: float) -> int:
        return self._inner.sweep_temporaries(prefix, older_than_s=older_than_s, now_s=now_s)


class GuardedTier(_Wrapper):
    """For file systems that may hang (see `tiers.guard`): every call runs in a lane, and whoever waits is let go.

    Who works on a descriptor of an open entry or attempt works beside the lanes, and goes through
    `tiers.guard.guarded` as a whole.
    """

    def __init__(self, inner: StagingTier, guard: Guard) -> None:
        super().__init__(inner)
        self._own_guard = guard

    @property
    def guard(self) -> Guard:
        return self._own_guard

    @property
    def traits(self) -> Traits:
        return self.guard.call(lambda: self._inner.traits)

    def check_identity(self) -> None:
        self.guard.call(self._inner.check_identity)

    def stat(self, key: str) -> Entry:
        return self.guard.call(lambda: self._inner.stat(key))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self.guard.call(lambda: self._inner.read(key, offset, length))

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 8 << 20) -> Iterator[bytes]:
        return in_lanes(self.guard, lambda: self._inner.stream(key, cold=cold, step_bytes=step_bytes))

    @contextmanager
    def open(self, key: str) -> Iterator[OpenEntry]:
        def close(_: object = None) -> None:
            opening.__exit__(None, None, None)

        opening = self._inner.open(key)
        entry = self.guard.call(opening.__enter__, late=close)
        try:
            yield _GuardedEntry(self.guard, entry)
        finally:
            self.guard.tidy(close)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return in_lanes(self.guard, lambda: self._inner.list(prefix), at_once=LISTED_AT_ONCE)

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        self.guard.hold(lambda stopped: self._put(key, chunks, size_bytes, stopped))

    def _put(self, key: str, chunks: Iterable[bytes], size_bytes: int | None, stopped: Stopped) -> None:
        """In the steps of the tier's own put: one that was given up meanwhile publishes nothing."""
        attempt = self._inner.attempt(key, size_bytes=size_bytes)  # type: ignore[arg-type]  # posix takes None
        try:
            attempt.write(chunks)
            attempt.seal()
            if stopped():
                raise Stopping("nobody waits for this any more", where=self.name)
            attempt.publish()
        except BaseException:
            attempt.abandon()
            raise

    def remove(self, key: str) -> None:
        self.guard.call(lambda: self._inner.remove(key))

    def tidy(self, key: str) -> None:
        self.guard.call(lambda: self._inner.tidy(key))

    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> Attempt:
        attempt = self.guard.call(
            lambda: self._inner.attempt(key, size_bytes=size_bytes, resume=resume), late=lambda made: made.abandon()
        )
        return _GuardedAttempt(self.guard, attempt)

    def sweep_temporaries(self, prefix: str = "", *, older_than_s: float, now_s: float) -> int:
        return self.guard.call(
            lambda: self._inner.sweep_temporaries(prefix, older_than_s=older_than_s, now_s=now_s)
        )


def in_lanes(guard: Guard, begin: Callable[[], Iterator[Result]], *, at_once: int = 1) -> Iterator[Result]:
    """An iterator whose every step is a call; a thread that is left behind in one keeps the iterator until then."""
    pieces, ended = guard.call(begin), False
    try:
        while taken := guard.call(lambda: list(islice(pieces, at_once))):
            yield from taken
        ended = True
    finally:
        if not ended:
            guard.tidy(getattr(pieces, "close", _nothing))


def _nothing() -> None:
    """An iterator that holds nothing has nothing to close."""


class _GuardedEntry:
    def __init__(self, guard: Guard, inner: OpenEntry) -> None:
        self._guard, self._inner = guard, inner
        self.zone: Zone = inner.zone

    def __getattr__(self, name: str) -> Any:
        """What only this kind of entry has, such as its descriptor."""
        return getattr(self._inner, name)

    @property
    def size_bytes(self) -> int:
        return self._inner.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        return self._guard.call(lambda: self._inner.read(offset, length))

    def fingerprint(self) -> Fingerprint:
        return self._guard.call(self._inner.fingerprint)


class _GuardedAttempt:
    def __init__(self, guard: Guard, inner: Attempt) -> None:
        self._guard, self._inner = guard, inner

    def __getattr__(self, name: str) -> Any:
        """What only this kind of attempt has, such as its descriptor and its temporary name."""
        return getattr(self._inner, name)

    def write(self, chunks: Iterable[bytes]) -> None:
        self._guard.call(lambda: self._inner.write(chunks))

    def seal(self) -> None:
        self._guard.call(self._inner.seal)

    def stream_cold(self) -> Iterator[bytes | memoryview]:
        return in_lanes(self._guard, self._inner.stream_cold)

    def publish(self) -> None:
        self._guard.call(self._inner.publish)

    def abandon(self) -> None:
        self._guard.tidy(self._inner.abandon)


class ReadOnlyTier(_Wrapper):
    """For roles that may look and never touch."""

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        raise self._refusal()

    def remove(self, key: str) -> None:
        raise self._refusal()

    def tidy(self, key: str) -> None:
        raise self._refusal()

    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> Attempt:
        raise self._refusal()

    def sweep_temporaries(self, prefix: str = "", *, older_than_s: float, now_s: float) -> int:
        raise self._refusal()

    def _refusal(self) -> TierDenied:
        return TierDenied("the tier may only be read here", where=self.name, hint="Use a role that may write.")


class Backoff(Struct, frozen=True):
    attempts: int = 4
    first_s: float = 0.2
    longest_s: float = 5.0

    def pause_s(self, failures: int) -> float:
        return min(self.longest_s, self.first_s * 2 ** (failures - 1))


class RetryTier(_Wrapper):
    """The one place that tries again: a tier that was away, an answer that was cut.

    A stream or listing is tried again only before its first piece, and a put only when its chunks can be read
    anew (a list, not an iterator). When a repeated put finds the name taken, the bytes there decide: the
    earlier try may have landed although its answer was lost. A recipe is never repeated here: it is run again
    from its source by its shard.
    """

    def __init__(self, inner: StagingTier, *, sleep: Callable[[float], None], backoff: Backoff | None = None) -> None:
        super().__init__(inner)
        self._sleep = sleep
        self._backoff = backoff or Backoff()

    def check_identity(self) -> None:
        self._again(self._inner.check_identity)

    def stat(self, key: str) -> Entry:
        return self._again(lambda: self._inner.stat(key))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._again(lambda: self._inner.read(key, offset, length))

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 8 << 20) -> Iterator[bytes]:
        return self._again_until_first(lambda: self._inner.stream(key, cold=cold, step_bytes=step_bytes))

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return self._again_until_first(lambda: self._inner.list(prefix))

    def remove(self, key: str) -> None:
        self._again(lambda: self._inner.remove(key))

    def tidy(self, key: str) -> None:
        self._again(lambda: self._inner.tidy(key))

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        if iter(chunks) is chunks:
            return self._counted(lambda: self._inner.put(key, chunks, size_bytes=size_bytes))
        tries = 0

        def once() -> None:
            nonlocal tries
            tries += 1
            try:
                self._inner.put(key, chunks, size_bytes=size_bytes)
            except EntryExists:
                if tries == 1 or not _same(self._inner.stream(key, cold=True), chunks):
                    raise

        return self._again(once)

    def _again(self, call: Callable[[], Result]) -> Result:
        for failures in range(1, self._backoff.attempts):
            try:
                return self._counted(call)
            except TierHung:
                raise  # its patience is used up; until it answers every call is refused at once
            except (TierUnavailable, ShortRead):
                self._sleep(self._backoff.pause_s(failures))
        return self._counted(call)

    def _counted(self, call: Callable[[], Result]) -> Result:
        """Every failed try is seen, also one that the next try mends. A missing or a taken name is an answer."""
        try:
            return call()
        except (TierUnavailable, ShortRead, TierFull, TierDenied) as error:
            metrics.TIER_ERRORS.labels(self.name, error.code).inc()
            raise

    def _again_until_first(self, begin: Callable[[], Iterator[Result]]) -> Iterator[Result]:
        def first() -> tuple[Iterator[Result], list[Result]]:
            pieces = begin()
            return pieces, list(islice(pieces, 1))

        pieces, head = self._again(first)
        yield from head
        yield from pieces


def put_same(tier: StagingTier, key: str, data: bytes) -> None:
    """Put, or accept equal bytes that stand there already: for writers that may be run twice (D13)."""
    try:
        tier.put(key, [data], size_bytes=len(data))
    except EntryExists:
        if not _same(tier.stream(key, cold=True), [data]):
            raise


def _same(found: Iterable[bytes], wanted: Iterable[bytes]) -> bool:
    """Equal content, however it is cut. Bounded by the callers: small objects and lists in memory."""
    return b"".join(found) == b"".join(wanted)


# --- faults ------------------------------------------------------------------------------------------

Call = Literal["stat", "read", "stream", "list", "put", "remove", "write", "seal", "stream_cold", "publish"]


class Fault(Struct, frozen=True):
    """What goes wrong at the `nth` call of its kind.

    fail: TierUnavailable before anything happened. lost: it happened, but the answer was lost. full: the tier
    is full after `at` bytes. flip: the byte at `at` is stored or read wrongly and nobody says so. cut: content
    ends at `at`, likewise silently.
    """

    call: Call
    kind: Literal["fail", "lost", "full", "flip", "cut"]
    nth: int = 1
    at: int = 0


class FaultyTier(_Wrapper):
    """A tier with scripted faults. Its attempts offer no descriptor, so that every byte passes the script."""

    def __init__(self, inner: StagingTier, faults: Iterable[Fault]) -> None:
        super().__init__(inner)
        self._faults = tuple(faults)
        self._calls: Counter[str] = Counter()

    def stat(self, key: str) -> Entry:
        return self.around("stat", lambda: self._inner.stat(key))

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        fault = self.due("read")
        data = self._inner.read(key, offset, length)
        return b"".join(spoiled([data], fault, self.name))

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 8 << 20) -> Iterator[bytes]:
        fault = self.due("stream")
        yield from spoiled(self._inner.stream(key, cold=cold, step_bytes=step_bytes), fault, self.name)

    def list(self, prefix: str = "") -> Iterator[Entry]:
        fault = self.due("list")
        for count, entry in enumerate(self._inner.list(prefix)):
            if fault and count == fault.at:
                raise TierUnavailable("scripted: the listing broke off", where=self.name)
            yield entry

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        fault = self.due("put")
        if fault and fault.kind == "lost":
            self._inner.put(key, chunks, size_bytes=size_bytes)
            raise TierUnavailable("scripted: the answer was lost", where=self.name)
        self._inner.put(key, spoiled(chunks, fault, self.name), size_bytes=size_bytes)

    def remove(self, key: str) -> None:
        self.around("remove", lambda: self._inner.remove(key))

    def tidy(self, key: str) -> None:
        self.around("remove", lambda: self._inner.tidy(key))

    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> Attempt:
        return _FaultyAttempt(self, self._inner.attempt(key, size_bytes=size_bytes, resume=resume))

    def due(self, call: Call) -> Fault | None:
        """The fault of this very call; `fail` is raised at once."""
        self._calls[call] += 1
        for fault in self._faults:
            if (fault.call, fault.nth) == (call, self._calls[call]):
                if fault.kind == "fail" and call != "list":
                    raise TierUnavailable("scripted: the tier is away", where=self.name)
                return fault
        return None

    def around(self, call: Call, do: Callable[[], Result]) -> Result:
        fault = self.due(call)
        result = do()
        if fault and fault.kind == "lost":
            raise TierUnavailable("scripted: the answer was lost", where=self.name)
        if fault and fault.kind == "full":
            raise TierFull("scripted: no space", where=self.name)
        return result


class _FaultyAttempt:
    def __init__(self, tier: FaultyTier, inner: Attempt) -> None:
        self._tier, self._inner = tier, inner

    def write(self, chunks: Iterable[bytes]) -> None:
        fault = self._tier.due("write")
        self._inner.write(spoiled(chunks, fault, self._tier.name))

    def seal(self) -> None:
        self._tier.around("seal", self._inner.seal)

    def stream_cold(self) -> Iterator[bytes | memoryview]:
        fault = self._tier.due("stream_cold")
        yield from spoiled((bytes(block) for block in self._inner.stream_cold()), fault, self._tier.name)

    def publish(self) -> None:
        self._tier.around("publish", self._inner.publish)

    def abandon(self) -> None:
        self._inner.abandon()


def spoiled(chunks: Iterable[bytes], fault: Fault | None, tier: str) -> Iterator[bytes]:
    if fault is None:
        yield from chunks
        return
    at = 0
    for chunk in chunks:
        here = fault.at - at
        at += len(chunk)
        if not 0 <= here < len(chunk):
            yield chunk
        elif fault.kind == "flip":
            yield chunk[:here] + bytes([chunk[here] ^ 1]) + chunk[here + 1 :]
        else:
            yield chunk[:here]
            if fault.kind == "full":
                raise TierFull("scripted: no space", where=tier)
            return
