"""A tier whose plain calls keep to budgets: whatever moves bulk bytes without the engine goes through here.

The engine and its workers ask budgets themselves, before each step, because they work on descriptors and attempts;
those (`open`, `attempt`) pass through unmetered. What is left is `read`, `stream` and `put`: repositories, checks,
tables, and every digest of what stands on a tier. It stands inside the retrying wrapper, so that a second try is
asked for again, and outside of whatever watches for hangs, so that waiting for a budget never looks like one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mover.clock import monotonic_s
from mover.tiers.staging import StagingTier
from mover.tiers.wrappers import _Wrapper
from mover.transfer.budgets import Budgets

STEP_BYTES = 8 << 20


class PacedTier(_Wrapper):
    def __init__(self, inner: StagingTier, budgets: Budgets) -> None:
        super().__init__(inner)
        self._budgets = budgets

    def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """What is read whole, of a length only the tier knows, is paid for afterwards: it is a small file's way."""
        if length is not None:
            self._budgets.take(self.name, direction="read", bytes_=length, files=1)
        with self._budgets.open_files(self.name):
            began_s = monotonic_s()
            data = self._inner.read(key, offset, length)
        seconds = monotonic_s() - began_s
        if length is None:
            self._budgets.take(self.name, direction="read", bytes_=len(data), files=1)
        self._budgets.observe(self.name, direction="read", seconds=seconds, bytes_=len(data))
        return data

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = STEP_BYTES) -> Iterator[bytes]:
        """Each piece is paid for before the next one is read: its size is known only then, so a stream is one
        piece ahead of its budget at most."""
        self._budgets.take(self.name, direction="read", bytes_=0, files=1)
        with self._budgets.open_files(self.name):
            pieces = self._inner.stream(key, cold=cold, step_bytes=step_bytes)
            while True:
                began_s = monotonic_s()
                piece = next(pieces, None)
                if piece is None:
                    return
                seconds = monotonic_s() - began_s
                self._budgets.observe(self.name, direction="read", seconds=seconds, bytes_=len(piece))
                self._budgets.take(self.name, direction="read", bytes_=len(piece))
                yield piece

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        self._budgets.take(self.name, direction="write", bytes_=0, files=1)
        with self._budgets.open_files(self.name):
            began_s = monotonic_s()
            written = _Asking(chunks, self.name, self._budgets)
            self._inner.put(key, written, size_bytes=size_bytes)
        seconds = monotonic_s() - began_s - written.waited_s
        self._budgets.observe(self.name, direction="write", seconds=max(0.0, seconds), bytes_=written.bytes)


class _Asking:
    """Chunks on their way into a put: each is asked for as it is taken."""

    def __init__(self, chunks: Iterable[bytes], tier: str, budgets: Budgets) -> None:
        self._chunks, self._tier, self._budgets = chunks, tier, budgets
        self.bytes, self.waited_s = 0, 0.0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            began_s = monotonic_s()
            self._budgets.take(self._tier, direction="write", bytes_=len(chunk))
            self.waited_s += monotonic_s() - began_s
            self.bytes += len(chunk)
            yield chunk
