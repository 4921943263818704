"""Two snapshots side by side, folder by folder. Equal folders are one tree of one name and are never opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from mover.errors import RepositoryDamaged
from mover.repository.reader import MAX_DEPTH, BlobReader
from mover.repository.tree import Node

Change = Literal["added", "removed", "changed", "metadata"]
Both = tuple[bytes, Node | None, Node | None]


class Side(Struct, frozen=True):
    blobs: BlobReader
    tree: bytes | None


class Difference(Struct, frozen=True):
    """`metadata`: the same content with another mode, owner, time or attribute."""

    path: bytes
    change: Change
    before: Node | None
    after: Node | None


def differences(before: Side, after: Side, *, below: bytes = b"", beyond: bytes = b"") -> Iterator[Difference]:
    """In the order of a walk: a folder before its members; of one path and what lies below it. `beyond` goes on after
    the path that came last; folders that cannot hold what is asked for are not opened."""
    base, last = _order(below), _order(beyond)
    stack = [_pairs(before, after, b"")]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        path, one, other = found
        place = _order(path)
        if place[: len(base)] == base and (change := _change(one, other)) is not None and place > last:
            yield Difference(path, change, one, other)
        sides = Side(before.blobs, _subtree(one)), Side(after.blobs, _subtree(other))
        is_on_the_way = base[: len(place)] == place[: len(base)] and (place > last or last[: len(place)] == place)
        if sides[0].tree != sides[1].tree and is_on_the_way:
            if len(stack) > MAX_DEPTH:
                raise RepositoryDamaged("the folders of a snapshot are impossibly deep")
            stack.append(_pairs(*sides, path + b"/"))


def _pairs(before: Side, after: Side, prefix: bytes) -> Iterator[Both]:
    """Names of both folders in order, each once."""
    one = {node.name: node for node in _nodes(before)}
    other = {node.name: node for node in _nodes(after)}
    for name in sorted(one.keys() | other.keys()):
        yield prefix + name, one.get(name), other.get(name)


def _nodes(side: Side) -> list[Node]:
    return [] if side.tree is None else side.blobs.tree(side.tree)


def _change(one: Node | None, other: Node | None) -> Change | None:
    if one is None:
        return "added"
    if other is None:
        return "removed"
    if (one.type, one.content, one.target) != (other.type, other.content, other.target):
        return "changed"
    return "metadata" if _facts(one) != _facts(other) else None


def _facts(node: Node) -> tuple[object, ...]:
    """A folder's time changes with its members, which speak for themselves."""
    return node.mode, node.uid, node.gid, node.xattrs, 0 if node.type == "dir" else node.mtime_ns


def _subtree(node: Node | None) -> bytes | None:
    return node.subtree if node is not None and node.type == "dir" else None


def _order(path: bytes) -> list[bytes]:
    return path.split(b"/") if path else []
