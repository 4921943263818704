"""Several threads over one ordered stream of pieces: reading, writing and sending overlap, digesting stays in order.

A lane claims the next piece, does its slow work beside the others, and takes a *turn* for what must happen in
order. Turns are a chain of locks, each waking exactly one lane; a piece has several turns where several things are
ordered, so that two lanes may digest at once, one the source and one the result. The first failure stops all lanes
and is raised in the caller's thread; lanes that wait for a turn that will never come are woken by the chain itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


class LanesStopped(Exception):
    """Another lane failed; its error is the one that is raised."""


class Turn:
    """A place in the order. `with turn:` waits until all earlier pieces had theirs; to be entered once."""

    def __init__(self, before: threading.Lock, stop: threading.Event) -> None:
        self._before, self._stop = before, stop
        self.after = threading.Lock()
        self.after.acquire()
        self._came = self._ended = False

    def __enter__(self) -> Turn:
        self._wait()
        if self._stop.is_set():
            raise LanesStopped
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Let the next one go, also when this one never came to its turn."""
        self._wait()
        if not self._ended:
            self._ended = True
            self.after.release()

    def _wait(self) -> None:
        if not self._came:
            self._before.acquire()
            self._came = True


Work = Callable[[Piece, list[Turn]], None]


class Lanes(Generic[Piece]):
    """`begin` is called once in each lane's thread and gives its work: a place for buffers of its own."""

    def __init__(
        self, pieces: Iterable[Piece], begin: Callable[[], Work[Piece]], *, count: int, name: str, turns: int = 1
    ) -> None:
        self._pieces, self._begin, self._count, self._name = iter(pieces), begin, count, name
        self._lock = threading.Lock()
        self._last = [threading.Lock() for _ in range(turns)]  # free: the first turns come at once
        self._stop = threading.Event()
        self._failures: list[BaseException] = []

    def run(self) -> None:
        """Until all pieces are worked, or one failed: then its error is raised and no lane runs any more."""
        names = [f"{self._name}-{number}" for number in range(self._count)]
        threads = [threading.Thread(target=self._lane, name=name, daemon=True) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._failures:
            raise self._failures[0]
        if self._stop.is_set():
            raise LanesStopped

    def stop(self, error: BaseException) -> None:
        """End from outside or inside: what is not claimed is not begun. The first error is the one raised."""
        with self._lock:
            if not isinstance(error, LanesStopped):
                self._failures.append(error)
            self._stop.set()

    def _lane(self) -> None:
        try:
            work = self._begin()
            while (claimed := self._claim()) is not None:
                piece, turns = claimed
                try:
                    work(piece, turns)
                except BaseException as error:  # noqa: BLE001 - raised again by `run`
                    self.stop(error)
                    return
                finally:
                    for turn in turns:
                        turn.end()
        except BaseException as error:  # noqa: BLE001 - raised again by `run`
            self.stop(error)

    def _claim(self) -> tuple[Piece, list[Turn]] | None:
        with self._lock:
            if self._stop.is_set():
                return None
            try:
                piece = next(self._pieces)
            except StopIteration:
                return None
            turns = [Turn(before, self._stop) for before in self._last]
            self._last = [turn.after for turn in turns]
            return piece, turns
