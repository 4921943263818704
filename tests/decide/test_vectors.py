"""Columns of facts say of every slide what its document says, whatever it holds, and asking them is asking it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mover.decide.cohort import All, Any_, Between, Column, Compare, IsNull, Like, Node, Not, OneOf, Sampled, parse
from mover.decide.cohortwords import clauses
from mover.decide.spread import BINS, DISTINCT_MAX, Spread
from mover.decide.vectors import DRAW, Vector, draw, judge, key_of, keys_of, pack, unpack
from mover.model.facts import FactColumn
from mover.model.ids import make_number
from tests.support.reading import means

TYPES = {
    "diagnosis": "text", "gleason": "integer", "size_mm": "number", "alive": "boolean", "seen": "date", "year": "year",
}  # fmt: skip
COLUMNS = {name: Column(name, type_, "record") for name, type_ in TYPES.items()}
WORDS = ("PRAD", "BRCA", "LU_D", "it's", "%", "")
DAYS = ("2019-12-31", "2024-02-29", "2024-03-01")
NUMBERS: Any = st.integers(5, 10) | st.sampled_from([0.5, 7.5, -1, 2**53 + 1, -(2**40)])
VALUES: dict[str, Any] = {
    "text": st.sampled_from(WORDS), "integer": NUMBERS, "number": NUMBERS, "year": NUMBERS, "boolean": st.booleans(),
    "date": st.sampled_from(DAYS),
}  # fmt: skip
ODD: Any = st.none() | st.booleans() | st.text(max_size=2) | st.integers() | st.just({"a": 1}) | st.just([7])


def fits(type_: str, value: object) -> bool:
    kinds: dict[str, tuple[type, ...]] = {"text": (str,), "date": (str,), "boolean": (bool,)}
    return type(value) in kinds.get(type_, (int, float))


def rows_of(vector: Vector, rows: int) -> list[Any]:
    if vector.codes is None:
        return vector.values.tolist()
    return [vector.values[code - 1] if code else None for code in vector.codes.tolist()[:rows]]


@given(st.sampled_from(sorted(VALUES)).flatmap(lambda t: st.tuples(st.just(t), st.lists(VALUES[t] | ODD))))
def test_a_column_holds_what_fits_its_type_and_nothing_else(given_: tuple[str, list[Any]]) -> None:
    """A document in which gleason is a text says nothing of gleason, and stops no cohort."""
    type_, rows = given_

    vector = unpack(pack(type_, rows))

    expected = [value if fits(type_, value) else None for value in rows]
    exact = all(abs(value) < 2**53 for value in expected if isinstance(value, int | float))
    found = rows_of(vector, len(rows))
    assert found == expected if exact else [one is None for one in found] == [one is None for one in expected]


@pytest.mark.parametrize("distinct", [1, 255, 256, 30_000])
def test_a_full_block_of_many_or_few_values_comes_back(distinct: int) -> None:
    """Codes of one byte end at 255 values; a number that is nearly always another needs none."""
    numbers = [n % distinct for n in range(32_768)]

    assert rows_of(unpack(pack("integer", numbers)), 32_768) == numbers
    assert rows_of(unpack(pack("text", list(map(str, numbers)))), 32_768) == list(map(str, numbers))
    assert (unpack(pack("integer", numbers)).codes is None) == (distinct == 30_000)


def leaves() -> Any:
    def of(column: Column) -> Any:
        value = VALUES[column.type]
        operators = ("=", "<>") if column.type in ("text", "boolean") else ("=", "<>", "<", "<=", ">", ">=")
        kinds = [
            st.builds(Compare, st.just(column), st.sampled_from(operators), value),
            st.builds(OneOf, st.just(column), st.lists(value, min_size=1, max_size=3).map(tuple)),
            st.just(IsNull(column)),
        ]
        if column.type not in ("text", "boolean"):
            kinds.append(st.builds(Between, st.just(column), value, value))
        if column.type == "text":
            kinds.append(
                st.builds(Like, st.just(column), st.sampled_from(["P%", "_R%", "%", "", "it_s"]), st.booleans())
            )
        if column.type in ("integer", "number", "year"):
            other = st.sampled_from([COLUMNS["gleason"], COLUMNS["size_mm"], COLUMNS["year"]])
            kinds.append(st.builds(Compare, st.just(column), st.sampled_from(operators), other))
        return st.one_of(kinds)

    sample = st.builds(Sampled, st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 3))
    return st.sampled_from(sorted(COLUMNS)).map(COLUMNS.__getitem__).flatmap(of) | sample


TREES: Any = st.recursive(
    leaves(),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(All, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(Any_, st.lists(inner, min_size=1, max_size=3).map(tuple))
    ),
    max_leaves=8,
)
DOCUMENTS: Any = st.lists(
    st.fixed_dictionaries({}, optional={name: VALUES[type_] for name, type_ in TYPES.items()}), min_size=1, max_size=12
)


@pytest.mark.slow
@given(TREES, DOCUMENTS)
@settings(max_examples=120)
def test_asking_columns_is_asking_every_document(tree: Node, documents: list[dict[str, Any]]) -> None:
    """Law: yes, no and unknown as in SQL, for every tree the language has; the oracle reads slide by slide."""
    numbers = [make_number(n.to_bytes(10, "big")) for n in range(len(documents))]
    columns = {
        f"record:{name}": unpack(pack(type_, [one.get(name) for one in documents]))
        for name, type_ in TYPES.items()
        if any(name in one for one in documents)
    }
    columns[DRAW] = unpack(pack("integer", [draw(number) for number in numbers]))

    truth = judge(tree, {name: columns[name] for name in keys_of(tree) if name in columns}, len(documents))

    found = [True if yes else False if no else None for yes, no in zip(truth.yes, truth.no, strict=True)]
    assert found == [means(tree, number, facts) for number, facts in zip(numbers, documents, strict=True)]


def test_a_sample_is_a_fair_share_and_another_seed_is_another_sample() -> None:
    """A tenth is a tenth; two tenths have a hundredth in common, not all and not nothing."""
    draws = {DRAW: unpack(pack("integer", [draw(str(n)) for n in range(30_000)]))}

    one, two = (judge(Sampled(0.1, seed), draws, 30_000).yes for seed in (7, 8))

    assert abs(one.sum() - 3000) < 200 and abs((one & two).sum() - 300) < 80
    assert not (one & ~judge(Sampled(0.2, 7), draws, 30_000).yes).any()


def test_an_expression_is_told_in_words_clause_by_clause() -> None:
    """What a scientist reads before three days of training."""
    known = {name: FactColumn(name, type_, "outcomes") for name, type_ in TYPES.items()}
    text = (
        "diagnosis in ('PRAD','BRCA') and not (gleason >= 7 or size_mm is null) and diagnosis not like 'P%'"
        " and seen between '2020-01-01' and '2021-01-01' and alive and sampled(0.1, seed=7) and slide.mpp < 0.3"
    )

    told = [(one.depth, one.words) for one in clauses(parse(text, known))]

    assert told == [
        (0, "all of"),
        (1, "diagnosis is one of 'PRAD', 'BRCA'"),
        (1, "not"), (2, "any of"), (3, "gleason is at least 7"), (3, "size_mm is not known"),
        (1, "not: diagnosis is like 'P%'"),
        (1, "seen is from '2020-01-01' to '2021-01-01'"),
        (1, "alive is true"),
        (1, "a sample of 10 % of all slides, seed 7"),
        (1, "slide.mpp is less than 0.3"),
    ]  # fmt: skip


NUMBERS: Any = st.none() | st.integers(-50, 5000) | st.floats(0, 1e6) | st.floats(-1e300, 1e300)


@given(st.lists(st.lists(NUMBERS, max_size=30), max_size=4))
@example([[None, 0.3, 0.1 + 0.2]])  # the first of three is not chosen
@example([[None, 0, 3e-179]])
@example([[None, 0, 5e-324]])
@example([[None, 1e17, 1e17 + 16]])
def test_a_spread_counts_every_chosen_row_once(blocks: list[list[Any]]) -> None:
    """Known and missing make the whole, in values as in steps."""
    spread, chosen_rows = Spread("number"), []
    for rows in blocks:
        chosen = np.array([at % 3 != 0 for at in range(len(rows))], bool)
        spread.add(unpack(pack("number", rows)), chosen)
        chosen_rows += [value for value, one in zip(rows, chosen, strict=True) if one]
    known = [value for value in chosen_rows if value is not None]

    steps = spread.histogram()

    assert spread.missing == len(chosen_rows) - len(known)
    assert sum(count for _, count in spread.values(10**6)) == len(known) == sum(one.count for one in steps)
    assert len(steps) <= BINS + 2
    assert all(one.count == sum(one.low <= value < one.high for value in known) for one in steps)


def test_numbers_of_very_many_values_are_counted_in_steps_at_a_second_look() -> None:
    """Sizes of slides are all different: their values would fill the memory, their steps do not."""
    values = [7 * n for n in range(DISTINCT_MAX + 5)]
    vector, chosen = unpack(pack("integer", values)), np.ones(len(values), bool)
    spread = Spread("integer")
    spread.add(vector, chosen)
    assert spread.again and spread.values(5) == [] and (spread.low, spread.high) == (0, values[-1])

    spread.add_again(vector, chosen)
    spread.add_again(unpack(pack("integer", [10**9])), np.ones(1, bool))

    steps = spread.histogram()
    assert steps[-1].count == sum(value >= steps[-1].low for value in values) + 1
    assert sum(one.count for one in steps) == len(values) + 1


def test_keys_name_columns_by_their_home() -> None:
    """A fact of a record may have the name of what a slide says of itself."""
    own = Column("mpp", "number", "slide")
    assert keys_of(All((Compare(own, "<", 0.3), Sampled(0.1, 0)))) == {key_of(own), DRAW} == {"slide:mpp", "slide:draw"}
