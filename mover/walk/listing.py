"""A bucket's listing in parallel: ranges of keys, each listed flat by a thread of its own.

Flat listings give a thousand keys a request; listing level by level would pay a request for each folder of two
objects. So the levels are asked only from the top, until there are enough names to cut the keys into ranges, and
each range is then one task of the walk: everything after its lower bound up to its upper bound, in the store's order.

That a listing really begins where it was told to is checked for each range by a name that is known to follow: one
store was found to skip whole folders (SeaweedFS 4.48 does, where the bound is a folder's own name).

A range that was being listed when the walk was killed is listed again from its beginning: a listing costs a
thousandth of what its entries cost elsewhere.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Protocol

from blake3 import blake3

from mover.errors import LimitExceeded, MoverError, TierError
from mover.model.names import name_bytes, name_text
from mover.model.tiers import Entry
from mover.walk import packing
from mover.walk.reader import PART, Seen, Task

THREADS = 4
DEPTH = 2  # task lists that wait
HELD_PARTS = 8  # parts that were listed and not yet taken
RANGES = 64
ENOUGH = 8  # names of one level that are worth cutting into ranges
LEVELS = 4
LOOK_S = 0.5


class Level(Protocol):
    @property
    def prefixes(self) -> tuple[str, ...]: ...


class Lister(Protocol):
    """What a listing needs of an object tier."""

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]: ...

    def level(self, prefix: str = "") -> Level: ...


class Parts:
    """Makes parts of entries that come in some order: rows for COPY, or what the vault must see first."""

    def __init__(self, scan: bytes, *, sealed: bool, key: bytes) -> None:
        self._scan = scan
        self._sealed = sealed
        self._key = key

    def cut(self, task: Task, entries: Iterable[Entry]) -> Iterator[Seen]:
        coming = iter(entries)
        number = 0
        while True:
            some = list(islice(coming, PART))
            last = len(some) < PART
            yield self._part(task, number, some, last=last)
            number += 1
            if last:
                return

    def _part(self, task: Task, number: int, entries: list[Entry], *, last: bool) -> Seen:
        names = [name_bytes(entry.key) for entry in entries]
        prints = [entry.fingerprint for entry in entries]
        sizes = [one.size_bytes for one in prints]
        tail = packing.object_tail(sizes, [one.mtime_ns for one in prints], [one.mark for one in prints])
        listing = b"\0".join((*names, b"", tail))
        digest = (blake3(listing, key=self._key) if self._key else blake3(listing)).digest()
        same = number < len(task.known) and task.known[number] == digest
        head = packing.Part(number, digest, len(names))
        row = b""
        if not self._sealed:
            row = packing.same_row(self._scan, task.folder, head) if same else packing.row(
                self._scan, task.folder, head, whole=True, names=packing.bytea_array(names), tail=tail
            )  # fmt: skip
        return Seen(
            task.folder, number, last, digest, entries=len(names), size_bytes=sum(sizes), same=same, row=row,
            names=names if self._sealed and not same else [], tail=tail if self._sealed and not same else b"",
            whole=True,
        )  # fmt: skip


class Threads(ABC):
    """`Lookers` that work in threads of this process: they wait for a store, not for a processor. A task that fails
    ends the walk; its range is listed again when the walk goes on."""

    def __init__(self, *, threads: int = THREADS) -> None:
        self._tasks: queue.SimpleQueue[list[Task] | None] = queue.SimpleQueue()
        self._came: queue.Queue[Seen | MoverError | None] = queue.Queue(HELD_PARTS)
        self._waiting = 0
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, name=f"listing {number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def look(self, task: Task) -> Iterator[Seen]:
        """All parts of a task, the last of them marked."""

    def room(self) -> int:
        return len(self._threads) * DEPTH - self._waiting

    def hand(self, tasks: list[Task]) -> None:
        self._waiting += 1
        self._tasks.put(tasks)

    def take(self) -> Sequence[Seen]:
        try:
            came = self._came.get(timeout=LOOK_S)
        except queue.Empty:
            return []
        if isinstance(came, MoverError):
            raise came
        if came is None:
            self._waiting -= 1
            return []
        return [came]

    def close(self) -> None:
        self._closing.set()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            while thread.is_alive():
                with suppress(queue.Empty):
                    self._came.get_nowait()
                thread.join(timeout=0.01)

    def _serve(self) -> None:
        while (tasks := self._tasks.get()) is not None:
            if self._closing.is_set():
                return
            try:
                for task in tasks:
                    for seen in self.look(task):
                        self._came.put(seen)
                        if self._closing.is_set():
                            return
            except MoverError as error:
                self._came.put(error)
                return
            self._came.put(None)


class Listing(Threads):
    """The lookers of one scan of a bucket. The first task is the prefix itself: it is cut into ranges."""

    def __init__(self, tier: Lister, parts: Parts, *, prefix: bytes, threads: int = THREADS) -> None:
        self._tier = tier
        self._parts = parts
        self._prefix = prefix
        super().__init__(threads=threads)

    def look(self, task: Task) -> Iterator[Seen]:
        if task.folder == self._prefix:
            yield Seen(task.folder, 0, True, b"", folders=self._ranges())
            return
        low, high, follows = bounds(task.folder)
        entries = self._tier.list(name_text(self._prefix), after=low)
        yield from self._parts.cut(task, _upto(self._begun(entries, follows), high))

    def _begun(self, entries: Iterator[Entry], follows: str) -> Iterator[Entry]:
        """Raises TierError when the listing began later than it was told to, and so lacks keys."""
        first = next(entries, None)
        late = first is None or first.key >= follows + chr(ord("/") + 1)
        if follows and late and next(self._tier.list(follows), None) is not None:
            raise TierError("the store's listing begins later than it was told to, so it cannot be listed in ranges")
        if first is not None:
            yield first
            yield from entries

    def _ranges(self) -> list[bytes]:
        """Every key below the prefix is in exactly one: after the lower bound, up to the upper one."""
        names = [name_bytes(name) for name in self._names()]
        step = max(1, -(-len(names) // RANGES))
        cuts = [(b"", b"")] + [(names[at - 1] + b"/~", names[at]) for at in range(step, len(names), step)]
        lows = [low for low, _ in cuts]
        return [
            b"\0".join((self._prefix + b"/", low, high, follows))
            for (low, follows), high in zip(cuts, [*lows[1:], b""], strict=True)
        ]

    def _names(self) -> list[str]:
        """Names of the first level that has enough of them, on the way down where there is only one way."""
        prefix = name_text(self._prefix)
        for _ in range(LEVELS):
            try:
                found = self._tier.level(prefix).prefixes
            except LimitExceeded:
                return []
            if len(found) != 1:
                return list(found) if len(found) >= ENOUGH else []
            prefix = found[0]
        return []


def bounds(folder: bytes) -> tuple[str, str, str]:
    """After what it begins, up to what it goes, and a name that is known to follow its beginning."""
    _, low, high, follows = folder.split(b"\0")
    return name_text(low), name_text(high), name_text(follows)


def _upto(entries: Iterator[Entry], high: str) -> Iterator[Entry]:
    """Keys come in the order of their bytes, which for text is the order of its characters. Ranges of a store that
    lists otherwise would lose keys without a word, so that ends the walk."""
    before = ""
    for entry in entries:
        if entry.key < before:
            raise TierError("the store does not list keys in their order, so they cannot be listed in ranges")
        if high and entry.key > high:
            return
        before = entry.key
        yield entry
