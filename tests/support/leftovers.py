"""What a call left behind in this process: threads and descriptors that were not there before it.

Only what is new counts. Counting all would also count what earlier tests of the same process let go of meanwhile
(a collected event loop closes its descriptors), and fail on it.
"""

from __future__ import annotations

import gc
import os
import threading


class Leftovers:
    """Made before the calls; `now()` names what they left: nothing, where the law holds."""

    def __init__(self) -> None:
        gc.collect()
        self._threads = set(threading.enumerate())
        self._descriptors = _descriptors()

    def now(self) -> list[str]:
        gc.collect()
        threads = [thread.name for thread in threading.enumerate() if thread not in self._threads]
        return threads + [f"{number} -> {target}" for number, target in _descriptors() - self._descriptors]


def _descriptors() -> set[tuple[str, str]]:
    """Number and target of each; the one that lists them is gone before its target can be read."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))
        except FileNotFoundError:
            continue
    return found
