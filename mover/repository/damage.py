"""Damage named by snapshot and path: which files of which snapshots a lost or wrong blob takes with it.

A person does not know blob ids. Each tree is loaded once, however many snapshots share it; only the ways down to
what is damaged are walked again for each snapshot. Bounds: PATHS_PER_SNAPSHOT, PATHS_AT_MOST.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from mover.repository.facts import Damage, Hit, SnapshotFacts
from mover.repository.needs import BlobKey, LoadTree, trees_below

PATHS_PER_SNAPSHOT = 1000
PATHS_AT_MOST = 100_000

_Found = tuple[str, bytes]  # the object at fault, the path it takes away


class WaysDown:
    """The folders that lead to damage."""

    def __init__(self, load: LoadTree, roots: Iterable[bytes], bad: Mapping[BlobKey, str]) -> None:
        self._bad = bad
        self._hit: dict[bytes, list[tuple[bytes, str]]] = defaultdict(list)
        self._below: dict[bytes, list[tuple[bytes, bytes]]] = defaultdict(list)
        above: dict[bytes, set[bytes]] = defaultdict(set)
        for tree_id, nodes in trees_below(load, roots, seen=set()):
            for node in nodes if isinstance(nodes, list) else ():
                keys: list[BlobKey] = [("data", blob_id) for blob_id in node.content or ()]
                if node.subtree is not None:
                    keys.append(("tree", node.subtree))
                    self._below[tree_id].append((node.name, node.subtree))
                    above[node.subtree].add(tree_id)
                for at_fault in dict.fromkeys(bad[key] for key in keys if key in bad):
                    self._hit[tree_id].append((node.name, at_fault))
        self._leading = _upwards(self._hit, above)

    def from_root(self, root: bytes) -> Iterator[_Found]:
        if ("tree", root) in self._bad:
            yield self._bad[("tree", root)], b"/"
        stack = [(root, b"/")] if root in self._leading else []
        while stack:
            tree_id, path = stack.pop()
            for name, at_fault in self._hit.get(tree_id, ()):
                yield at_fault, path + name
            for name, below in self._below.get(tree_id, ()):
                if below in self._leading:
                    stack.append((below, path + name + b"/"))


def name_damage(
    load: LoadTree, snapshots: Iterable[SnapshotFacts], *, bad: Mapping[BlobKey, str], found: Mapping[str, str]
) -> list[Damage]:
    """`found` says of each object what is wrong with it, `bad` which blobs cannot be had because of which object."""
    snapshots = list(snapshots)
    ways = WaysDown(load, [bytes.fromhex(each.tree_id) for each in snapshots], bad) if bad else None
    hits: dict[str, list[Hit]] = defaultdict(list)
    cut: set[str] = set()
    left = PATHS_AT_MOST
    for snapshot in snapshots if ways else ():
        assert ways is not None
        room = min(left, PATHS_PER_SNAPSHOT)
        named: dict[str, list[str]] = defaultdict(list)
        for place, (at_fault, path) in enumerate(islice(ways.from_root(bytes.fromhex(snapshot.tree_id)), room + 1)):
            if place < room:
                named[at_fault].append(os.fsdecode(path))
            else:
                cut.add(at_fault)
        for at_fault, paths in named.items():
            hits[at_fault].append(Hit(snapshot.snapshot_id, tuple(sorted(paths))))
        left -= min(room, sum(map(len, named.values())))
    return [Damage(name, what, tuple(hits.get(name, ())), not cut) for name, what in found.items()]


def _upwards(hit: Iterable[bytes], above: Mapping[bytes, set[bytes]]) -> set[bytes]:
    leading: set[bytes] = set()
    waiting = list(hit)
    while waiting:
        tree_id = waiting.pop()
        if tree_id not in leading:
            leading.add(tree_id)
            waiting.extend(above.get(tree_id, ()))
    return leading
