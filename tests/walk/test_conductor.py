"""The conductor with a tree and a ledger in memory: nothing lost at any kill, nothing unbounded."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence

import pytest

from mover.errors import TierUnavailable
from mover.walk import conductor as module
from mover.walk.conductor import Step, Totals, Walk
from mover.walk.reader import Found, Seen, Task

Tree = dict[bytes, list[bytes]]  # folder -> folders in it


class Kill(Exception):
    """The process ends here; what was not committed is gone."""


class Memory:
    """A ledger that keeps what a commit says, all or nothing, as the catalog does."""

    def __init__(self) -> None:
        self.frontier: dict[bytes, bool] = {b"": True}  # key -> spilled
        self.parked: dict[bytes, bytes] = {}  # key -> the folder it waits for
        self.staged: list[tuple[bytes, int]] = []
        self.totals = Totals()
        self.findings: list[Found] = []
        self.commits = 0
        self._parts: list[tuple[bytes, int]] = []

    def begin(self) -> int:
        self._parts = []
        self.frontier = dict.fromkeys(self.frontier, True)
        return len(self.frontier)

    def load(self, limit: int) -> list[bytes]:
        keys = [key for key, spilled in self.frontier.items() if spilled][:limit]
        self.frontier |= dict.fromkeys(keys, False)
        return keys

    def reopened(self) -> set[bytes]:
        return set(self.parked.values())

    def known(self, folders: Sequence[bytes]) -> Mapping[bytes, list[bytes]]:
        return {}

    def write(self, seen: Seen) -> None:
        self._parts.append((seen.folder, seen.part))

    def commit(self, step: Step) -> int:
        self.commits += 1
        assert not set(step.found) & set(self.frontier)
        assert set(step.done) <= set(self.frontier)
        for key in step.done:
            del self.frontier[key]
        self.frontier |= dict.fromkeys(step.found, False) | dict.fromkeys(step.spilled, True)
        self.parked |= {key: parent for parent, keys in step.parked.items() for key in keys}
        assert not set(self.parked) & set(self.frontier)
        released = [key for key, parent in self.parked.items() if parent in step.released]
        self.frontier |= dict.fromkeys(released, True)
        self.parked = {key: parent for key, parent in self.parked.items() if key not in self.frontier}
        self.staged += self._parts
        self._parts = []
        self.totals.add(step.totals)
        self.findings += step.findings
        return len(released)


class Tasks:
    """Lookers that answer from a tree, some tasks at a time and in an order of their own; each folder in two parts.
    `kill_after` answers, the process ends."""

    def __init__(self, tree: Tree, chance: random.Random, *, kill_after: int = 1 << 60) -> None:
        self._tree = tree
        self._chance = chance
        self._kill_after = kill_after
        self._lists: list[deque[Seen]] = []
        self.read: list[bytes] = []

    def room(self) -> int:
        return 4 - len(self._lists)

    def hand(self, tasks: list[Task]) -> None:
        parts: deque[Seen] = deque()
        for task in tasks:
            inside = self._tree[task.folder]
            half = len(inside) // 2
            found = [Found("denied", task.folder)] if task.folder.endswith(b"shut") else []
            parts.append(Seen(task.folder, 0, False, b"d", entries=3, folders=inside[:half]))
            parts.append(Seen(task.folder, 1, True, b"d", entries=2, folders=inside[half:], findings=found))
        self._lists.append(parts)

    def take(self) -> list[Seen]:
        came = []
        for _ in range(self._chance.randint(1, 5)):
            if not self._lists:
                break
            chosen = self._chance.choice(self._lists)
            came.append(chosen.popleft())
            self.read.append(came[-1].folder)
            if not chosen:
                self._lists.remove(chosen)
            self._kill_after -= 1
            if self._kill_after < 0:
                raise Kill
        return came

    def close(self) -> None:
        """Nothing to close."""


def grown(chance: random.Random, folders: int) -> Tree:
    tree: Tree = {b"": []}
    keys = [b""]
    for number in range(folders):
        parent = chance.choice(keys)
        key = parent + b"/%d%s" % (number, b"shut" if number % 17 == 0 else b"")
        tree[parent].append(key)
        tree[key] = []
        keys.append(key)
    return tree


@pytest.mark.parametrize("seed", range(25))
def test_a_walk_killed_again_and_again_sees_every_folder_whole(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the moment of the kill: every part is staged before its folder leaves the frontier, each folder counts
    once, and its findings with it."""
    chance = random.Random(seed)
    monkeypatch.setattr(module, "COMMIT_PARTS", chance.choice([3, 10, 50]))
    monkeypatch.setattr(module, "FRONTIER_MAX", chance.choice([4, 20, 1000]))
    tree = grown(chance, 150)
    ledger = Memory()
    kills = 0
    while True:
        lookers = Tasks(tree, chance, kill_after=chance.randint(5, 120))
        try:
            if Walk(ledger, lookers, left=ledger.begin()).run():
                break
        except Kill:
            kills += 1
    assert kills > 2
    assert set(ledger.staged) == {(folder, part) for folder in tree for part in (0, 1)}
    assert (ledger.totals.folders, ledger.totals.entries) == (len(tree), 5 * len(tree))
    shut = sorted(folder for folder in tree if folder.endswith(b"shut"))
    assert sorted(found.key for found in ledger.findings) == shut
    assert ledger.totals.findings == len(shut)
    assert (ledger.frontier, ledger.parked) == ({}, {})


def test_a_stopped_walk_goes_on_without_reading_a_finished_folder_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMIT_PARTS", 5)
    chance = random.Random(1)
    tree = grown(chance, 80)
    ledger = Memory()
    lookers = Tasks(tree, chance)
    steps = iter(range(20))
    assert not Walk(ledger, lookers, stopped=lambda: next(steps, None) is None, left=ledger.begin()).run()
    finished = {folder for folder, part in ledger.staged if part == 1} - set(ledger.frontier)
    again = Tasks(tree, chance)
    assert Walk(ledger, again, left=ledger.begin()).run()
    assert finished and not finished & set(again.read)
    assert ledger.totals.folders == len(tree)


def test_a_wide_tree_is_spilled_and_the_walk_holds_little_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million folders in one must not stand in memory (I10)."""
    monkeypatch.setattr(module, "FRONTIER_MAX", 100)
    tree: Tree = {b"": [b"/%d" % number for number in range(5000)]}
    tree |= {folder: [] for folder in tree[b""]}
    held = []

    class Watched(Memory):
        def commit(self, step: Step) -> int:
            released = super().commit(step)
            held.append(len(self.frontier) - sum(self.frontier.values()))
            return released

    ledger = Watched()
    assert Walk(ledger, Tasks(tree, random.Random(3)), left=ledger.begin()).run()
    assert ledger.totals.folders == 5001
    assert max(held) <= 100 + 4 * module.TASK_FOLDERS


def test_a_tier_that_goes_away_ends_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """ESTALE on one folder is not a finding about that folder: the next ones would all look the same."""

    class Away(Tasks):
        def take(self) -> list[Seen]:
            return [Seen(b"", 0, True, b"", findings=[Found("away", b"")])]

    ledger = Memory()
    with pytest.raises(TierUnavailable):
        Walk(ledger, Away({b"": []}, random.Random(0)), left=ledger.begin()).run()
    assert (ledger.staged, list(ledger.frontier)) == ([], [b""])


FLAT = """
import os, sys
from tests.support.memory import peak_bytes
from mover.walk import reader
from mover.walk.bench import _Forgetful
from mover.walk.conductor import Walk
from mover.walk.reader import Job, Reader, Task

count = int(sys.argv[1])

class Name:
    def __init__(self, number):
        self.name = b"slide-%012d.svs" % number

class Scandir:  # readdir of one folder with `count` names, which are never on any disk
    def __init__(self, path):
        self.names = map(Name, range(count))
    def __enter__(self):
        return self.names
    def __exit__(self, *_):
        pass

os.scandir = Scandir
one = Reader(Job(b"scan", os.open("/", os.O_RDONLY), True, False, True))
one._statx = lambda *_: 0
one._states["mode"] = 0o100644

class Lookers:
    def __init__(self): self.coming = iter(())
    def room(self): return 1
    def hand(self, tasks): self.coming = one.read(tasks)
    def take(self): return next(self.coming, [])
    def close(self): pass

walk = Walk(_Forgetful(b"", lambda seen: None), Lookers(), left=1)
walk.run()
print(walk.totals.entries, peak_bytes())
"""


@pytest.mark.slow
def test_memory_is_flat_from_ten_thousand_entries_to_a_million() -> None:
    """Everything but the disk is real: reading, packing, digesting, the conductor."""
    peaks = []
    for count in (10_000, 1_000_000):
        command = [sys.executable, "-c", FLAT, str(count)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.split()
        assert int(told[0]) == count
        peaks.append(int(told[1]))
    assert peaks[1] - peaks[0] < 8 << 20, peaks
