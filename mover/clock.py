"""The only door to time. Tests move it instead of waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Server time, UTC."""

    def monotonic_s(self) -> float: ...

    async def sleep(self, duration_s: float) -> None: ...


class ThreadClock(Protocol):
    """Time for threads that wait on each other under a lock."""

    def now(self) -> datetime: ...

    def monotonic_s(self) -> float: ...

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        """Until notified or for the time; the caller holds the condition and asks again what it waited for."""


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)

    def wait(self, condition: threading.Condition, timeout_s: float) -> None:
        condition.wait(timeout_s)


SYSTEM = SystemClock()


def now_ms(clock: Clock = SYSTEM) -> int:
    return int(clock.now().timestamp() * 1000)


def monotonic_s() -> float:
    """Elapsed-time measure for code that runs in threads and reports seconds."""
    return SYSTEM.monotonic_s()


def pause(duration_s: float) -> None:
    """Wait in a worker thread; never on the event loop."""
    time.sleep(duration_s)


def end_if_cancelled() -> None:
    """Raise CancelledError when the running task was asked to end and something below it lost the request.

    Every endless loop calls it once a turn: in Python 3.11 `asyncio.wait_for`, on which database pools stand,
    drops a cancellation that arrives as its work is done, and the loop would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
