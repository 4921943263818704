"""Which audit records may leave: the beginning of each chain, and never more than is old, covered and fits a pack."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.retiring import FLOOR_YEARS, Kept, Oldest, Piece, retiring, why_not, years_before

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)

# the node; how many records left already; how many older ones stand, and how many are covered from the beginning on
CHAINS = st.lists(
    st.tuples(st.text("abcdefgh", min_size=1, max_size=3), *[st.integers(0, 30)] * 3), unique_by=lambda one: one[0]
)


@given(CHAINS, st.integers(1, 60))
def test_what_leaves_is_the_beginning_of_each_chain_and_no_more_than_may(
    seen: list[tuple[str, int, int, int]], limit: int
) -> None:
    chains = [Oldest(node, gone + 1, gone + older, covered) for node, gone, older, covered in seen]
    found = retiring(chains, limit=limit)
    assert found == retiring(chains[::-1], limit=limit), "the order of asking decides nothing"
    assert found.records <= limit
    by_node = {one.node: one for one in chains}
    assert len({one.node for one in found.pieces}) == len(found.pieces)
    for piece in found.pieces:
        chain = by_node.pop(piece.node)
        assert piece.after == chain.first - 1 < piece.upto <= min(chain.older, chain.covered)
        by_node[piece.node] = Oldest(chain.node, piece.upto + 1, chain.older, chain.covered)
    told = {one.node for one in found.kept}
    # what stays although it is old is named, with the true reason; and where nothing is named there is nothing
    for chain in by_node.values():
        assert (chain.first <= chain.older) == (chain.node in told)
        if chain.first <= min(chain.older, chain.covered):
            assert found.records == limit, "old, covered, and left behind without need"
    assert retiring([], limit=limit).pieces == ()


@given(CHAINS)
def test_asking_again_comes_to_an_end(seen: list[tuple[str, int, int, int]]) -> None:
    """Pack by pack, each going on where the one before ended."""
    chains = {node: Oldest(node, gone + 1, gone + older, covered) for node, gone, older, covered in seen}
    for _ in range(200):
        found = retiring(list(chains.values()), limit=7)
        if not found.pieces:
            break
        for one in found.pieces:
            chain = chains[one.node]
            assert one.after == chain.first - 1
            chains[one.node] = Oldest(one.node, one.upto + 1, chain.older, chain.covered)
    assert all(one.first > min(one.older, one.covered) for one in chains.values())


def test_what_stays_says_why() -> None:
    chains = [Oldest("a", 1, 5, 3), Oldest("b", 11, 20, 30), Oldest("c", 1, 0, 9)]
    found = retiring(chains, limit=9)
    assert found.pieces == (Piece("a", 0, 3), Piece("b", 10, 16))
    assert found.kept == (
        Kept("a", "not covered by a checkpoint on every tier"), Kept("b", "more than one pack holds")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("years", "before", "why"),
    [
        (None, NOW - timedelta(days=9999), "for ever"),
        (6, datetime(2020, 11, 22, 12, tzinfo=UTC), None),
        (6, datetime(2020, 11, 22, 12, 0, 1, tzinfo=UTC), "6 years"),
        (1, datetime(2020, 11, 22, 12, 0, 1, tzinfo=UTC), "6 years"),
        (10, datetime(2018, 1, 1, tzinfo=UTC), "10 years"),
        (10, datetime(2016, 11, 22, tzinfo=UTC), None),
    ],
)
def test_six_years_are_the_least(years: int | None, before: datetime, why: str | None) -> None:
    said = why_not(before, now=NOW, years=years)
    assert (said is None) == (why is None) and (why or "") in (said or "")
    assert FLOOR_YEARS == 6


def test_a_leap_day_is_counted_as_the_database_counts_it() -> None:
    assert years_before(datetime(2028, 2, 29, tzinfo=UTC), 6) == datetime(2022, 2, 28, tzinfo=UTC)
