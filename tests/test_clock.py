"""The one door to time, and how its endless loops end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from mover.clock import end_if_cancelled


async def test_a_loop_whose_cancellation_was_lost_below_ends_at_its_next_turn() -> None:
    """Before: a daemon told to stop just after its start went on for ever, until systemd killed it."""
    inside = asyncio.Event()

    async def loses_it() -> None:
        inside.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def loop() -> None:
        while True:
            end_if_cancelled()
            await loses_it()

    task = asyncio.create_task(loop())
    await inside.wait()
    task.cancel()
    await asyncio.wait({task}, timeout=50)
    assert task.cancelled()


async def test_a_task_that_nobody_cancelled_goes_on() -> None:
    """Also one that caught its cancellation on purpose and said so."""
    end_if_cancelled()
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    task.uncancel()
    end_if_cancelled()
