"""What every step of a move asks first: may it go on, and does the tier's budget allow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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

    def entry(self) -> None:
        """One file begins: what counts files rather than bytes is asked here."""
        self._budgets.take(self.source, direction="read", bytes_=0, files=1, stopped=self._stopped)
        self._budgets.take(self.target, direction="write", bytes_=0, files=1, stopped=self._stopped)
        self.check()

    @contextmanager
    def step(self, tier: str, direction: Direction, bytes_: int) -> Iterator[None]:
        """Around each read or write of a tier (32 MiB at most): waits for the budget, then watches the time."""
        self.check()
        self._budgets.take(tier, direction=direction, bytes_=bytes_, stopped=self._stopped)
        self.check()
        began_s = monotonic_s()
        yield
        self._budgets.observe(tier, direction=direction, seconds=monotonic_s() - began_s, bytes_=bytes_)
