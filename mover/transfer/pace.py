"""What every step of a move asks first: may it go on, and does the tier's budget allow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from mover import metrics
from mover.clock import monotonic_s
from mover.errors import Stopping
from mover.transfer.budgets import UNLIMITED, Budgets, Direction


def never() -> bool:
    return False


class Pace:
    """The budgets of a move's two tiers and the word that ends it between two steps."""

    def __init__(
        self, source: str, target: str, *, budgets: Budgets = UNLIMITED, stopped: Callable[[], bool] = never
    ) -> None:
        self.source, self.target = source, target
        self._budgets, self._stopped = budgets, stopped

    def check(self) -> None:
        """Stopping when somebody wants this move to end; what was journalled is found again."""
        if self._stopped():
            raise Stopping("the move was stopped between two steps; it goes on where it was")

    def entry(self, files: int = 1) -> None:
        """One file begins, made of so many: what counts files rather than bytes is asked here."""
        self._budgets.take(self.source, direction="read", bytes_=0, files=files, stopped=self._stopped)
        self._budgets.take(self.target, direction="write", bytes_=0, files=1, stopped=self._stopped)
        self.check()

    @contextmanager
    def memory(self, bytes_: int) -> Iterator[None]:
        """Room for the buffers of a move; asked for after its open files, by everybody, or two would wait in a
        circle."""
        with self._budgets.memory(self.source, self.target, bytes_=bytes_):
            yield

    @contextmanager
    def step(self, tier: str, direction: Direction, bytes_: int) -> Iterator[None]:
        """Around each read or write of a tier (32 MiB at most): waits for the budget, then watches the time."""
        self.check()
        self._budgets.take(tier, direction=direction, bytes_=bytes_, stopped=self._stopped)
        self.check()
        began_s = monotonic_s()
        yield
        self._budgets.observe(tier, direction=direction, seconds=monotonic_s() - began_s, bytes_=bytes_)
        if direction == "write":
            metrics.BYTES_MOVED.labels(self.source, self.target).inc(bytes_)


PAID_BYTES = 8 << 20


class Paid:
    """Chunks on their way to `take`, paid for after every 8 MiB: for readers that go through a whole source by
    themselves. Without a tier nothing is asked."""

    def __init__(self, take: Callable[[bytes | memoryview], object], tier: str, budgets: Budgets) -> None:
        self._take, self._tier, self._budgets = take, tier, budgets
        self._owed, self._since_s = 0, monotonic_s()

    def __enter__(self) -> Callable[[bytes | memoryview], None]:
        if not self._tier:
            return self._pass
        self._budgets.take(self._tier, direction="read", bytes_=0, files=1)
        self._since_s = monotonic_s()
        return self._count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tier and self._owed and error is None:
            self._pay()

    def _pass(self, chunk: bytes | memoryview) -> None:
        self._take(chunk)

    def _count(self, chunk: bytes | memoryview) -> None:
        self._take(chunk)
        self._owed += len(chunk)
        if self._owed >= PAID_BYTES:
            self._pay()

    def _pay(self) -> None:
        seconds = monotonic_s() - self._since_s
        self._budgets.observe(self._tier, direction="read", seconds=seconds, bytes_=self._owed)
        self._budgets.take(self._tier, direction="read", bytes_=self._owed)
        self._owed, self._since_s = 0, monotonic_s()
