"""How a stream of items is cut: small files into groups that one worker process takes as a whole, everything else
one by one, folders last.

A group is what is made durable at once. It is bounded twice: by files, because each costs a name, and by bytes,
because all of them wait for the slowest sync. What is cut first comes first; a large item overtakes the group that
is being filled, so that the two kinds of work run beside each other from the start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from mover.model.moving import Item, Keep

Way = Literal["group", "single", "folder"]

LARGE_BYTES = 8 << 20


class Bounds(Struct, frozen=True):
    """A group ends at the first bound it reaches. A file of `large_bytes` or more is never in one."""

    files: int = 4096
    bytes_: int = 256 << 20
    large_bytes: int = LARGE_BYTES

    def __post_init__(self) -> None:
        if self.files < 1 or self.bytes_ < 1 or self.large_bytes < 1:
            raise ValueError("a bound below one would cut no group at all")


DEFAULT = Bounds()
# where nothing but the sync of each file makes it durable, a group only spares hand-overs
SINGLE_SYNCS = Bounds(files=256, bytes_=32 << 20)
# a limit in bytes or files a second is kept by waiting before each group: small ones spread the load evenly
BUDGETED = Bounds(files=256, bytes_=16 << 20)
# small objects that become files: in memory whole, sixteen at once
FETCHED = Bounds(files=1024, bytes_=64 << 20, large_bytes=(1 << 20) + 1)


class Group(Struct, frozen=True):
    items: tuple[Item, ...]
    size_bytes: int


def cut(items: Iterable[Item], *, bounds: Bounds = DEFAULT, grouping: bool = True) -> Iterator[Group | Item]:
    """Every item once: in a group, or alone. Without `grouping` (a tier that is no folder) all files are alone.
    Items of folders come alone too; `way` says what to do with them."""
    held: list[Item] = []
    size = 0
    for item in items:
        if way(item, bounds=bounds, grouping=grouping) != "group":
            yield item
            continue
        bytes_ = item.fingerprint.size_bytes if item.kind == "file" else 0
        if held and size + bytes_ > bounds.bytes_:
            yield Group(tuple(held), size)
            held, size = [], 0
        held.append(item)
        size += bytes_
        if len(held) >= bounds.files:
            yield Group(tuple(held), size)
            held, size = [], 0
    if held:
        yield Group(tuple(held), size)


def way(item: Item, *, bounds: Bounds, grouping: bool) -> Way:
    """A digest that may be inherited is worth most where blocks are shared, which groups never do."""
    if item.kind == "folder":
        return "folder"
    if not grouping or (item.kind == "file" and item.fingerprint.size_bytes >= bounds.large_bytes):
        return "single"
    return "single" if item.trusted_since else "group"


def depth(item: Item) -> int:
    """Folders get their own metadata deepest first: a parent that may no longer be entered hides its children."""
    return item.target.count("/")


def needs_source_open(keep: Keep) -> bool:
    """Whether the open source is asked for more than its bytes and its status."""
    return keep.xattrs or keep.acls
