"""Clocks that tests move. A simulated second passes when every thread of the test waits for time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

BEGIN = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
# real seconds; only a test that hangs ever sees it
PATIENCE_S = 300.0


class SimulatedClock:
    """For threads that wait on one condition: time stands still while any of them works, and jumps to the
    nearest deadline when all wait. So what is measured does not depend on the machine."""

    def __init__(self, *, threads: int = 1, begin: datetime = BEGIN) -> None:
        self._begin, self._now_s, self._threads = begin, 0.0, threads
        self._deadlines: dict[int, float] = {}

    def now(self) -> datetime:
        return self._begin + timedelta(seconds=self._now_s)

    def monotonic_s(self) -> float:
        return self._now_s

    def advance(self, duration_s: float) -> None:
        """By hand, for a test of one thread."""
        self._now_s += duration_s

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        me, deadline = threading.get_ident(), self._now_s + timeout_s
        self._deadlines[me] = deadline
        self._jump(condition)
        while self._now_s < deadline:
            if not condition.wait(PATIENCE_S):
                raise AssertionError("a thread of this test neither waits nor ends")
        self._deadlines.pop(me, None)

    def leave(self, condition: threading.Condition) -> None:
        """A thread has ended: the others no longer wait for it."""
        with condition:
            self._threads -= 1
            self._jump(condition)

    def _jump(self, condition: threading.Condition) -> None:
        if self._deadlines and len(self._deadlines) == self._threads:
            self._now_s = min(self._deadlines.values())
            # who is woken takes itself off the list; until then it must not count as waiting
            self._deadlines = {who: at for who, at in self._deadlines.items() if at > self._now_s}
            condition.notify_all()


def run_threads(clock: SimulatedClock, condition: threading.Condition, bodies: list[Callable[[], None]]) -> None:
    """All bodies at once, each leaving the clock at its end; the first failure is raised here."""
    failures: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)
        finally:
            clock.leave(condition)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]
