"""A cohort expression in words, one clause a line."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

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
)

SHOWN_VALUES = 12

_OPERATORS = {
    "=": "is",
    "<>": "is not",
    "<": "is less than",
    "<=": "is at most",
    ">": "is more than",
    ">=": "is at least",
}


class Clause(Struct, frozen=True):
    """`depth` 0 is the whole expression; what stands below a clause is one deeper."""

    depth: int
    words: str
    node: Node


def clauses(node: Node, depth: int = 0) -> Iterator[Clause]:
    """In reading order."""
    match node:
        case All(parts) | Any_(parts):
            yield Clause(depth, "all of" if isinstance(node, All) else "any of", node)
            for part in parts:
                yield from clauses(part, depth + 1)
        case Not(All() | Any_() | Not() as inner):
            yield Clause(depth, "not", node)
            yield from clauses(inner, depth + 1)
        case Not(inner):
            yield Clause(depth, f"not: {_leaf(inner)}", node)
        case _:
            yield Clause(depth, _leaf(node), node)


def _leaf(node: Node) -> str:
    match node:
        case Compare(left, operator, right):
            return f"{_name(left)} {_OPERATORS[operator]} {_name(right) if isinstance(right, Column) else _said(right)}"
        case OneOf(column, values):
            more = f" and {len(values) - SHOWN_VALUES} more" if len(values) > SHOWN_VALUES else ""
            return f"{_name(column)} is one of {', '.join(map(_said, values[:SHOWN_VALUES]))}{more}"
        case Between(column, low, high):
            return f"{_name(column)} is from {_said(low)} to {_said(high)}"
        case IsNull(column):
            return f"{_name(column)} is not known"
        case Like(column, pattern, any_case):
            return f"{_name(column)} is like {_said(pattern)}{' in any case' if any_case else ''}"
        case Tagged(tag):
            return f"is tagged {_said(tag)}" if tag is not None else "has a tag"
        case Sampled(fraction, seed):
            return f"a sample of {fraction * 100:g} % of all slides, seed {seed}"
    raise AssertionError(node)


def _name(column: Column) -> str:
    return column.name if column.home == "record" else f"slide.{column.name}"


def _said(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
