"""A walk without a daemon: for the benchmark, and for whoever wants the engine alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from mover.tiers import beneath
from mover.walk.conductor import Step, Totals, Walk
from mover.walk.reader import Job, Seen
from mover.walk.readers import PROCESSES, Readers


class _Forgetful:
    """A ledger that keeps the frontier in memory and hands every part to `sink`."""

    def __init__(self, prefix: bytes, sink: Callable[[Seen], None]) -> None:
        self._left = [prefix]
        self._spilled: list[bytes] = []
        self._sink = sink

    def load(self, limit: int) -> list[bytes]:
        left, self._left = self._left[:limit], self._left[limit:]
        return left

    def known(self, folders: Sequence[bytes]) -> Mapping[bytes, list[bytes]]:
        return {}

    def write(self, seen: Seen) -> None:
        self._sink(seen)

    def commit(self, step: Step) -> None:
        self._left += step.spilled


def walk_posix(
    root: str | os.PathLike[str],
    sink: Callable[[Seen], None] = lambda seen: None,
    *,
    prefix: str = "",
    processes: int = PROCESSES,
    cross_mounts: bool = False,
) -> Totals:
    """Names and states of everything below `root`, part by part into `sink`; nothing is kept."""
    folder = beneath.open_root(os.fspath(root))
    try:
        job = Job(scan=b"-", root=folder, hide=True, sealed=False, cross_mounts=cross_mounts)
        readers = Readers(job, processes=processes)
        try:
            walk = Walk(_Forgetful(os.fsencode(prefix), sink), readers, left=1)
            walk.run()
            return walk.totals
        finally:
            readers.close()
    finally:
        os.close(folder)
