"""Blocking work of a handler, in a thread that the handler never leaves behind.

`asyncio.to_thread` lets a cancelled caller go while its thread still writes. A handler that lost its lease must
not be gone as long as it changes anything: its transaction, and with it the locks that fence others out, would
end before its file work does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    call: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Run the call in a thread. A cancellation takes effect when the thread has ended, whatever it ended with."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _until_done(work)
        raise


async def in_stoppable_thread(
    stop: threading.Event, call: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """The same, for a call that ends when it sees `stop`: a cancellation asks it to."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await _until_done(work)
        raise


async def _until_done(work: asyncio.Future[Result]) -> None:
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            continue  # asked twice; the thread cannot be stopped any sooner
    if not work.cancelled():
        work.exception()  # looked at, so that nobody complains that nobody did
