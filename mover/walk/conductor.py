"""How a walk goes: folders are handed out, parts of folders come back, both are written down together.

The frontier (folders that are known and not yet read to their end) is depth first, so it stays short in deep
trees; in wide ones what is over FRONTIER_MAX is left in the ledger and taken up again later. A commit of the
ledger holds the parts that came and the frontier after them, so a walk that is killed goes on where its last
commit was, and reads no finished folder twice.

A folder counts when its last part came. What is counted and found before that is thrown away with the folder when
the walk is killed, because the folder is then read again from its beginning.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from mover.clock import monotonic_s
from mover.errors import TierUnavailable
from mover.walk.reader import Found, Seen, Task
from mover.walk.readers import Lookers

FRONTIER_MAX = 20_000
TASK_FOLDERS = 64
TASK_BYTES = 64 << 10
COMMIT_ENTRIES = 200_000
COMMIT_PARTS = 20_000
COMMIT_S = 3.0


Look = Callable[[Seen], Seen]  # what a part says, as this walk takes it


class Totals(Struct):
    """What was seen, as the scan's row counts it."""

    folders: int = 0
    entries: int = 0
    size_bytes: int = 0
    listings: int = 0
    listings_same: int = 0
    vanished: int = 0
    findings: int = 0

    def add(self, other: Totals) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Step(Struct, frozen=True):
    """What changed since the last commit, beside the parts themselves."""

    done: Sequence[bytes]  # finished folders that stand in the ledger's frontier
    found: Sequence[bytes]  # folders to add to it
    spilled: Sequence[bytes]  # folders of it that the walk forgets for now
    parked: Mapping[bytes, Sequence[bytes]]  # by a folder that is not finished: folders in it, which wait for it
    released: Sequence[bytes]  # folders that are finished now: what waited for them may be walked
    totals: Totals
    findings: Sequence[Found]
    seconds: float


class Ledger(Protocol):
    """Where a walk writes down what it saw."""

    def load(self, limit: int) -> list[bytes]:
        """Folders of the frontier that the walk does not hold."""

    def reopened(self) -> set[bytes]:
        """Folders that others wait for since an earlier walk: they are read again, and find the same again."""

    def known(self, folders: Sequence[bytes]) -> Mapping[bytes, list[bytes]]:
        """The digests of their parts, in order."""

    def write(self, seen: Seen) -> None:
        """Keep the part for the next commit."""

    def commit(self, step: Step) -> int:
        """All of it is durable when this returns, or none. How many folders were released; `load` gives them."""


class _Open(Struct):
    """A folder that was handed out, and what came of it. Folders in it are not walked before its last part came: a
    killed walk reads it again, and would find them a second time."""

    totals: Totals
    findings: list[Found]
    folders: list[bytes]
    parked: bool = False


class Walk:
    """One walk from where its ledger stands to the end of its frontier, or until `stopped`. `pace` is called with
    the number of parts that came, before more is handed out; it may wait. `look` may leave out folders to walk."""

    def __init__(
        self,
        ledger: Ledger,
        lookers: Lookers,
        *,
        stopped: Callable[[], bool] = lambda: False,
        pace: Callable[[int], None] = lambda parts: None,
        look: Look = lambda seen: seen,
        left: int = 0,
    ) -> None:
        self._ledger = ledger
        self._lookers = lookers
        self._stopped = stopped
        self._pace = pace
        self._look = look
        self._frontier: deque[bytes] = deque()
        self._open: dict[bytes, _Open] = {}
        self._written: set[bytes] = set()  # held folders that stand in the ledger's frontier
        self._done: list[bytes] = []
        self._released: list[bytes] = []
        self._reopened: set[bytes] = set()
        self._rest: dict[bytes, list[bytes]] = {}  # by a finished folder others waited for: the last ones in it
        self._waiting = 0  # folders that were found in open ones
        self._spilled = left
        self._gathered = Totals()
        self._findings: list[Found] = []
        self._uncommitted = 0
        self._parts = 0
        self._committed_s = monotonic_s()
        self.totals = Totals()

    def run(self) -> bool:
        """False when it was stopped before the end; then the last commit is where it goes on."""
        self._reopened = self._ledger.reopened()
        self._refill()
        while self._frontier or self._open:
            if self._stopped():
                self._commit()
                return False
            self._hand_out()
            came = self._lookers.take()
            for seen in came:
                self._note(self._look(seen))
            if came:
                self._pace(len(came))
            if self._is_due():
                self._commit()
            if not self._frontier and not self._open:
                self._commit()
            if not self._frontier and self._spilled:
                self._refill()
        self._commit()
        return True

    def _refill(self) -> None:
        if not self._spilled:
            return
        folders = self._ledger.load(FRONTIER_MAX // 2)
        self._frontier.extendleft(folders)
        self._written.update(folders)
        self._spilled = self._spilled - len(folders) if folders else 0

    def _hand_out(self) -> None:
        """Small lists while there is little to hand out, so that all readers have work from the beginning."""
        for _ in range(self._lookers.room()):
            if not self._frontier:
                return
            folders = self._next_folders(max(1, min(TASK_FOLDERS, len(self._frontier) // 4)))
            known = self._ledger.known(folders)
            self._lookers.hand([Task(folder, known.get(folder, [])) for folder in folders])
            for folder in folders:
                self._open[folder] = _Open(Totals(), [], [], parked=folder in self._reopened)

    def _next_folders(self, count: int) -> list[bytes]:
        folders: list[bytes] = []
        size = 0
        while self._frontier and len(folders) < count and size < TASK_BYTES:
            folders.append(self._frontier.pop())
            size += len(folders[-1])
        return folders

    def _note(self, seen: Seen) -> None:
        if any(found.code == "away" for found in seen.findings):
            raise TierUnavailable("the tier went away in the middle of the walk")
        opened = self._open[seen.folder]
        counts = opened.totals
        counts.entries += seen.entries
        counts.size_bytes += seen.size_bytes
        counts.listings += bool(seen.digest)
        counts.listings_same += seen.same
        counts.vanished += seen.vanished
        opened.findings += seen.findings
        opened.folders += seen.folders
        self._waiting += len(seen.folders)
        self._parts += 1
        # an unchanged part costs one row, whatever it holds
        self._uncommitted += 1 if seen.same else seen.entries
        self._ledger.write(seen)
        if seen.last:
            self._finish(seen.folder, self._open.pop(seen.folder))

    def _finish(self, folder: bytes, opened: _Open) -> None:
        counts = opened.totals
        counts.folders, counts.findings = 1, len(opened.findings)
        self._gathered.add(counts)
        self._findings += opened.findings
        if opened.parked:
            # the ledger knows which of them wait already
            self._rest[folder] = opened.folders
            self._released.append(folder)
        else:
            self._frontier.extend(opened.folders)
            self._waiting -= len(opened.folders)
        if folder in self._written:
            self._written.discard(folder)
            self._done.append(folder)

    def _is_due(self) -> bool:
        return (
            self._uncommitted >= COMMIT_ENTRIES
            or self._parts >= COMMIT_PARTS
            or len(self._frontier) + self._waiting > FRONTIER_MAX
            or monotonic_s() - self._committed_s > COMMIT_S
        )

    def _commit(self) -> None:
        """The order inside is the ledger's; here, what it forgets of the frontier it must have written first."""
        now_s = monotonic_s()
        spilled = [self._frontier.popleft() for _ in range(self._over())]
        held = [folder for folder in (*self._frontier, *self._open, *spilled) if folder not in self._written]
        step = Step(
            done=self._done, found=held, spilled=spilled, parked=self._park(), released=self._released,
            totals=self._gathered, findings=self._findings, seconds=now_s - self._committed_s,
        )  # fmt: skip
        released = self._ledger.commit(step)
        self.totals.add(self._gathered)
        self._written.update(held)
        self._written.difference_update(spilled)
        self._spilled += len(spilled) + released
        self._done, self._released, self._findings, self._gathered = [], [], [], Totals()
        self._uncommitted = self._parts = 0
        self._committed_s = now_s

    def _park(self) -> dict[bytes, list[bytes]]:
        parked, self._rest = self._rest, {}
        for folder, opened in self._open.items():
            if opened.folders:
                parked[folder], opened.folders, opened.parked = opened.folders, [], True
        self._waiting = 0
        return parked

    def _over(self) -> int:
        return len(self._frontier) - FRONTIER_MAX // 2 if len(self._frontier) > FRONTIER_MAX else 0
