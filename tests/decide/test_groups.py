"""Cutting a stream of items: every item once, groups within their bounds, nothing read further than needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.groups import Bounds, Group, cut, depth
from mover.model.moving import Item
from mover.model.tiers import Fingerprint

KINDS = st.sampled_from(["file", "symlink", "folder"])
ITEMS = st.lists(
    st.tuples(KINDS, st.integers(0, 3000), st.sampled_from(["", "2026-01-01T00:00:00Z"])), max_size=60
).map(lambda made: [item(n, size, kind=kind, since=since) for n, (kind, size, since) in enumerate(made)])
BOUNDS = st.builds(
    Bounds, files=st.integers(1, 9), bytes_=st.integers(1, 5000), large_bytes=st.integers(1, 2500)
)


def item(number: int, size: int, *, kind: str = "file", since: str = "") -> Item:
    return Item(number, f"a/{number}", f"b/{number}", kind, Fingerprint(size, 0, ""), trusted_since=since)  # type: ignore[arg-type]


def flat(cuts: list[Group | Item]) -> list[Item]:
    return [one for piece in cuts for one in (piece.items if isinstance(piece, Group) else (piece,))]


@given(items=ITEMS, bounds=BOUNDS, grouping=st.booleans())
def test_every_item_comes_once_and_groups_keep_their_bounds(
    items: list[Item], bounds: Bounds, grouping: bool
) -> None:
    """An item that is lost or doubled here is lost or moved twice; one beyond the bounds takes unbounded memory."""
    cuts = list(cut(items, bounds=bounds, grouping=grouping))
    assert sorted(one.id for one in flat(cuts)) == list(range(len(items)))
    for piece in cuts:
        if isinstance(piece, Group):
            assert grouping and 0 < len(piece.items) <= bounds.files
            assert len(piece.items) == 1 or piece.size_bytes <= bounds.bytes_
            assert all(one.kind != "folder" and not one.trusted_since for one in piece.items)
            assert all(
                one.kind == "symlink" or one.fingerprint.size_bytes < bounds.large_bytes for one in piece.items
            )
            assert piece.size_bytes == sum(o.fingerprint.size_bytes for o in piece.items if o.kind == "file")


def test_groups_keep_the_order_of_the_stream() -> None:
    """A walk's order is a disk's order: neighbours stay neighbours."""
    cuts = list(cut([item(n, 10) for n in range(25)], bounds=Bounds(files=4)))
    assert [one.id for one in flat(cuts)] == list(range(25))


def test_a_large_item_overtakes_the_group_that_is_being_filled() -> None:
    """So that both kinds of work begin at once."""
    stream = [item(0, 1), item(1, 100), item(2, 1)]
    first, second = cut(stream, bounds=Bounds(large_bytes=100))
    assert isinstance(first, Item) and first.id == 1
    assert isinstance(second, Group) and [one.id for one in second.items] == [0, 2]


def test_the_stream_is_read_no_further_than_the_group_that_is_asked_for() -> None:
    """Ten million items stay where they are until there is room for them."""
    read = 0

    def endless() -> Iterator[Item]:
        nonlocal read
        while True:
            read += 1
            yield item(read, 1)

    group = next(cut(endless(), bounds=Bounds(files=7)))
    assert isinstance(group, Group) and len(group.items) == read == 7


def test_a_bound_below_one_is_refused() -> None:
    """It would cut nothing for ever."""
    with pytest.raises(ValueError, match="below one"):
        Bounds(files=0)


def test_depth_counts_the_folders_on_the_way() -> None:
    """The deepest folders get their modes first."""
    deep = Item(1, "s", "a/b/c", "folder", Fingerprint(0, 0, ""))
    assert depth(deep) == 2 and depth(item(1, 0)) == 1
