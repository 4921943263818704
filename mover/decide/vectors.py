"""Facts as columns: packed a block of places at a time, and asked all at once.

A column of a block is its distinct values and a code for every place (0: nothing is known), or, where nearly every
value is another, the values themselves. An expression is judged on the distinct values and spread over the places by
their codes, so that asking ten million slides costs about as much as reading their codes.

What an expression means for a slide is one of three things, as in SQL: yes, no, or unknown where a fact is missing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from mover.decide.cohort import (
    All,
    Any_,
    Between,
    Column,
    Compare,
    IsNull,
    Like,
    Node,
    Not,
    OneOf,
    Sampled,
    Scalar,
    Tagged,
    is_like,
)

BLOCK = 32768  # places; a selection's offsets are smallints because of it
DRAW = "slide:draw"  # 64 bits of every slide, for `sampled`
TAGS = "tag:"  # before a tag; alone, for any. Of a block: for every row whether it has it
NUMERIC = ("integer", "number", "year")

Mask = NDArray[np.bool_]


class Vector(Struct, frozen=True):
    """`values`: int64, float64, bool, or objects (text). `codes` are places in it, from 1; 0 is missing. Without
    codes the values are the rows."""

    values: NDArray[Any]
    codes: NDArray[Any] | None = None


class Truth(Struct, frozen=True):
    """Where it holds, and where it does not; neither where it is unknown."""

    yes: Mask
    no: Mask


# --- packing ---------------------------------------------------------------------------------------------


class _Body(Struct, frozen=True, array_like=True):
    kind: str  # of numpy's arrays, or `text`
    rows: int
    texts: list[str]
    values: memoryview
    codes: memoryview


_decode = msgspec.msgpack.Decoder(_Body).decode
_INT64 = range(-(2**63), 2**63)


def pack(type_: str, rows: Sequence[object]) -> bytes:
    """One column of a block. What is not of the column's type is missing: one odd document stops no cohort."""
    fitted = _fitted(type_, rows)
    seen: dict[Any, int] = {}
    codes = np.fromiter(
        (0 if value is None else seen.setdefault(value, len(seen) + 1) for value in fitted), np.uint16, len(rows)
    )
    distinct: list[Any] = list(seen)
    if type_ not in NUMERIC and type_ != "boolean":
        return _packed("text", len(rows), codes=_narrow(codes, len(seen)), texts=distinct)
    kind = "?" if type_ == "boolean" else "<i8" if all(type(v) is int and v in _INT64 for v in distinct) else "<f8"
    if kind != "?" and 2 * len(seen) > len(rows) and None not in fitted:
        return _packed(kind, len(rows), values=np.array(fitted, kind).tobytes())
    return _packed(kind, len(rows), codes=_narrow(codes, len(seen)), values=np.array(distinct, kind).tobytes())


def _fitted(type_: str, rows: Sequence[object]) -> list[Any]:
    if type_ == "boolean":
        return [value if type(value) is bool else None for value in rows]
    if type_ in NUMERIC:
        return [value if type(value) is int or type(value) is float else None for value in rows]
    return [value if type(value) is str else None for value in rows]


def _narrow(codes: NDArray[Any], distinct: int) -> bytes:
    return (codes.astype(np.uint8) if distinct < 256 else codes).tobytes()


def _packed(kind: str, rows: int, *, texts: Sequence[str] = (), values: bytes = b"", codes: bytes = b"") -> bytes:
    return msgspec.msgpack.encode((kind, rows, texts, values, codes))


def unpack(body: bytes) -> Vector:
    """Without copying: the arrays look into `body`."""
    one = _decode(body)
    values = np.array(one.texts, object) if one.kind == "text" else np.frombuffer(one.values, one.kind)
    if not len(one.codes):
        return Vector(values)
    return Vector(values, np.frombuffer(one.codes, np.uint8 if len(one.codes) == one.rows else "<u2"))


def draw(number: str) -> int:
    """The slide's own 64 random bits, as a signed number."""
    return int.from_bytes(sha256(number.encode()).digest()[:8], "big", signed=True)


# --- judging ---------------------------------------------------------------------------------------------

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "<>": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def key_of(column: Column) -> str:
    return f"{column.home}:{column.name}"


def keys_of(node: Node) -> set[str]:
    """The columns that judging this needs."""
    match node:
        case Compare():
            return {key_of(c) for c in (node.left, node.right) if isinstance(c, Column)}
        case OneOf() | Between() | IsNull() | Like():
            return {key_of(node.column)}
        case Not():
            return keys_of(node.inner)
        case All() | Any_():
            return set().union(*(keys_of(part) for part in node.parts))
        case Tagged():
            return {f"{TAGS}{node.tag or ''}"}
        case Sampled():
            return {DRAW}


def judge(node: Node, columns: Mapping[str, Vector], rows: int) -> Truth:
    """For every row of a block. A column that the block does not have is missing in all of it."""
    match node:
        case All(parts):
            return _together((judge(part, columns, rows) for part in parts), rows)
        case Any_(parts):  # some hold: not all fail
            return _swapped(_together((_swapped(judge(part, columns, rows)) for part in parts), rows))
        case Not(inner):
            return _swapped(judge(inner, columns, rows))
        case Sampled(fraction, seed):
            yes = _mixed(columns[DRAW].values, seed) < np.uint64(int(fraction * 2**32))
            return Truth(yes, ~yes)
        case Tagged(tag):
            has = columns[f"{TAGS}{tag or ''}"].values
            return Truth(has, ~has)
        case IsNull(column):
            known = _known(columns.get(key_of(column)), rows)
            return Truth(~known, known)
        case Compare(left, op, Column() as right):
            return _compared(columns.get(key_of(left)), columns.get(key_of(right)), _OPERATORS[op], rows)
        case _:
            vector = columns.get(key_of(node.left if isinstance(node, Compare) else node.column))
            return _spread(vector, _test(node), rows)


def _swapped(truth: Truth) -> Truth:
    return Truth(truth.no, truth.yes)


def _together(truths: Iterable[Truth], rows: int) -> Truth:
    yes, no = np.ones(rows, bool), np.zeros(rows, bool)
    for truth in truths:
        yes, no = yes & truth.yes, no | truth.no
    return Truth(yes, no)


def _known(vector: Vector | None, rows: int) -> Mask:
    if vector is None:
        return np.zeros(rows, bool)
    return np.ones(rows, bool) if vector.codes is None else vector.codes > 0


def _spread(vector: Vector | None, test: Callable[[NDArray[Any]], Mask], rows: int) -> Truth:
    if vector is None:
        return Truth(np.zeros(rows, bool), np.zeros(rows, bool))
    holds = test(vector.values)
    if vector.codes is None:
        return Truth(holds, ~holds)
    return Truth(np.append(False, holds)[vector.codes], np.append(False, ~holds)[vector.codes])


def _compared(left: Vector | None, right: Vector | None, compare: Callable[[Any, Any], Any], rows: int) -> Truth:
    known = _known(left, rows) & _known(right, rows)
    yes = np.zeros(rows, bool)
    if left is not None and right is not None and known.any():
        yes[known] = compare(_rows(left, known), _rows(right, known)).astype(bool)
    return Truth(yes, known & ~yes)


def _rows(vector: Vector, where: Mask) -> NDArray[Any]:
    """The values at these rows, all of which are known."""
    return vector.values[where] if vector.codes is None else vector.values[vector.codes[where].astype(np.intp) - 1]


def _test(node: Node) -> Callable[[NDArray[Any]], Mask]:
    match node:
        case Compare(_, op, right):
            return lambda values: _each(values, lambda value: _OPERATORS[op](value, right))
        case OneOf(_, wanted):
            return lambda values: _any(values, wanted)
        case Between(_, low, high):
            return lambda values: _each(values, lambda v: v >= low) & _each(values, lambda v: v <= high)
        case Like(_, pattern, any_case):
            fold: Callable[[str], str] = str.casefold if any_case else str
            folded = fold(pattern)
            return lambda values: _each(values, lambda value: is_like(fold(value), folded))
    raise AssertionError(node)


def _each(values: NDArray[Any], test: Callable[[Any], Any]) -> Mask:
    """Numbers at once, texts one by one."""
    if values.dtype == object:
        return np.fromiter((test(value) for value in values), bool, len(values))
    found: Mask = test(values)
    return found


def _any(values: NDArray[Any], wanted: Sequence[Scalar]) -> Mask:
    if values.dtype == object:
        among = frozenset(wanted)
        return _each(values, lambda value: value in among)
    found = np.zeros(len(values), bool)
    for one in wanted:
        found |= values == one
    return found


def _mixed(draws: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """32 bits of every slide's draw under a seed: the finishing steps of SplitMix64, which leave no trace of one seed
    in another. The same for ever: what a cohort samples must not change with a version."""
    with np.errstate(over="ignore"):
        x = draws.view(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return (x ^ (x >> np.uint64(31))) >> np.uint64(32)
