"""Splits are laws before they are an algorithm: nobody torn, nobody lost, the same for the same seed, close to what
was asked for where groups are small."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.decide.splits import Member, check_fractions, split
from mover.errors import LimitExceeded, RequestInvalid

THREE = {"train": 0.7, "val": 0.15, "test": 0.15}


@st.composite
def cohorts(draw: st.DrawFn) -> list[Member]:
    """Slides of few patients, blocks and contents, so that chains of what they share are long."""
    rows = draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 90), st.sampled_from("abc")), min_size=40))
    return [
        Member(f"N{at:04}", (f"patient|{patient}", f"block|{block}") if block % 7 else (f"patient|{patient}",), stratum)
        for at, (patient, block, stratum) in enumerate(rows)
    ]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(cohorts(), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_no_key_is_in_two_splits_nobody_is_lost_and_order_changes_nothing(
    members: list[Member], seed: int, shuffler: random.Random
) -> None:
    """A patient on both sides is the leak that this exists to prevent; a lost slide would be a silent one."""
    try:
        dealt = split(members, THREE, seed=seed)
    except RequestInvalid as error:
        assert "too few" in error.what  # everything hangs together
        return
    home = {number: name for name, numbers in dealt.numbers.items() for number in numbers}
    assert sorted(home) == [member.number for member in members] and len(home) == sum(map(len, dealt.numbers.values()))
    keys: dict[str, set[str]] = {}
    for member in members:
        for key in member.keys:
            keys.setdefault(key, set()).add(home[member.number])
    assert all(len(names) == 1 for names in keys.values())
    shuffled = list(members)
    shuffler.shuffle(shuffled)
    assert split(shuffled, dict(reversed(THREE.items())), seed=seed).numbers == dealt.numbers
    assert sum(share.count for share in dealt.shares) == len(members)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from("ab")), min_size=40, max_size=200), st.integers(0, 99))
def test_what_a_stratum_misses_is_no_more_than_its_largest_groups(groups: list[tuple[int, str]], seed: int) -> None:
    """Of patients with one diagnosis each: no split has too much by more than one group, nor too little by more than
    one group for each of the others."""
    members = [
        Member(f"N{at:03}-{one}", (f"patient|{at}",), stratum)
        for at, (size, stratum) in enumerate(groups) for one in range(size)
    ]  # fmt: skip
    try:
        dealt = split(members, THREE, seed=seed)
    except RequestInvalid:
        return
    for share in dealt.shares:
        largest = max((size for size, stratum in groups if stratum == share.stratum), default=0)
        assert -2 * largest <= share.count - share.wanted <= largest


def test_another_seed_deals_otherwise_and_the_rare_are_shared_as_the_frequent() -> None:
    """Five slides of a rare diagnosis all in train would make its sensitivity unmeasurable."""
    members = [Member(f"N{at:04}", (f"patient|{at}",), "rare" if at % 50 == 0 else "usual") for at in range(1000)]
    first, second = split(members, THREE, seed=7), split(members, THREE, seed=8)
    assert first.numbers != second.numbers
    assert {(s.split, s.count) for s in first.shares if s.stratum == "rare"} == {("train", 14), ("val", 3), ("test", 3)}
    assert {name: len(numbers) for name, numbers in first.numbers.items()} == {"train": 700, "val": 150, "test": 150}


MANY = {str(at): 1 / 17 for at in range(17)}


@pytest.mark.parametrize("fractions", [{"train": 1.0}, {"train": 0.5, "test": 0.4}, {"train": 1.0, "test": 0.0}, MANY])
def test_fractions_that_are_not_the_whole_are_refused(fractions: dict[str, float]) -> None:
    """What is left over would be slides that nobody asked to leave out."""
    with pytest.raises(RequestInvalid):
        check_fractions(fractions)


def test_too_few_groups_too_many_strata_and_a_slide_named_twice_are_refused() -> None:
    """An empty test set, a stratum for every slide, and one slide as two are mistakes and not results."""
    family = [Member(f"N{at}", (f"patient|{at // 50}",)) for at in range(100)]
    with pytest.raises(RequestInvalid, match="2 groups are too few"):
        split(family, THREE, seed=1)
    with pytest.raises(LimitExceeded):
        split([Member(f"N{at}", stratum=str(at)) for at in range(1001)], THREE, seed=1)
    with pytest.raises(RequestInvalid, match="twice"):
        split([*family, family[0]], THREE, seed=1)
