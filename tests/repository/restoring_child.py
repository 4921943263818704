"""A restore in a process of its own, which dies by SIGKILL at a point that it is told.

Called with TIER SNAPSHOT TARGET NAME POINT PATTERNS...; POINT is `bytes:N` (as soon as N bytes stand) or `rename:N`
(before the N-th rename).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from mover.repository.repository import open_repository
from mover.repository.restore import Order
from mover.tiers.posix import PosixTier


def main(tier: str, snapshot: str, target: str, name: str, point: str, *first: str) -> None:
    kind, _, number = point.partition(":")
    repository = open_repository(
        PosixTier("protect", "deidentified", Path(tier), role="protect"), b"correct horse", prefix="repo"
    )

    def progress(files: int, size_bytes: int) -> None:
        if kind == "bytes" and size_bytes >= int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    if kind == "rename":
        die_before_a_rename(int(number))
    order = Order(name=name, first=first)
    repository.restore(snapshot, Path(target), path="/artifacts", order=order, progress=progress)


def die_before_a_rename(number: int) -> None:
    real, seen = os.rename, []

    def rename(*words: Any, **more: Any) -> None:
        seen.append(words)
        if len(seen) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*words, **more)

    os.rename = rename


if __name__ == "__main__":
    main(*sys.argv[1:])
