"""kill -9 at a chosen change of the tier, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from mover.repository.repository import Repository, open_repository
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import FaultyTier
from tests.repository.conftest import PASSWORD


class Deadly(FaultyTier):
    """Dies at the nth call that changes anything: before it, or after it but before the answer."""

    def __init__(self, inner: PosixTier, nth: int, *, after: bool) -> None:
        super().__init__(inner, [])
        self._left, self._after = nth, after

    def put(self, key: str, chunks: Iterable[bytes], *, size_bytes: int | None = None) -> None:
        self._die(lambda: self._inner.put(key, chunks, size_bytes=size_bytes))

    def remove(self, key: str) -> None:
        self._die(lambda: self._inner.remove(key))

    def tidy(self, key: str) -> None:
        self._die(lambda: self._inner.tidy(key))

    def _die(self, call: Callable[[], None]) -> None:
        self._left -= 1
        if self._left == 0:
            if self._after:
                call()
            os._exit(9)
        call()


def killed_at(tier: PosixTier, nth: int, *, after: bool, work: Callable[[Repository], object]) -> bool:
    """Do `work` in a process of its own that is gone at the nth changing call; False when it came through."""
    child = os.fork()
    if child == 0:
        try:
            work(open_repository(Deadly(tier, nth, after=after), PASSWORD, prefix="repo"))
        except BaseException:  # noqa: BLE001 - the parent sees the status
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 9)
    return code == 9
