"""What a cohort expression means for one slide, read slide by slide: the oracle of everything that is faster."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

from mover.decide.cohort import All, Any_, Between, Column, Compare, IsNull, Like, Node, Not, OneOf, Sampled

# what every slide of these tests says of itself
OWN = {"mpp": 0.25, "width": 1000, "vendor": "aperio", "family": "aperio"}


def sampled_share(number: str, seed: int) -> int:
    """SplitMix64's finishing steps over the number's digest, as docs/cohorts.md says, without numpy."""
    x = (int.from_bytes(sha256(number.encode()).digest()[:8], "big") + seed * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return (x ^ (x >> 31)) >> 32


def means(node: Node, number: str, facts: dict[str, Any]) -> bool | None:
    """SQL's three-valued logic in Python: the oracle. None is unknown."""

    def value(operand: Any) -> Any:
        if not isinstance(operand, Column):
            return operand
        return facts.get(operand.name) if operand.home == "record" else {**OWN, "number": number}[operand.name]

    match node:
        case All(parts):
            found = [means(part, number, facts) for part in parts]
            return False if False in found else None if None in found else True
        case Any_(parts):
            found = [means(part, number, facts) for part in parts]
            return True if True in found else None if None in found else False
        case Not(inner):
            held = means(inner, number, facts)
            return None if held is None else not held
        case IsNull(column):
            return value(column) is None
        case Sampled(fraction, seed):
            return sampled_share(number, seed) < int(fraction * 2**32)
        case Compare(left, operator, right):
            a, b = value(left), value(right)
            if a is None or b is None:
                return None
            return {"=": a == b, "<>": a != b, "<": a < b if operator == "<" else False,
                    "<=": a <= b if operator == "<=" else False, ">": a > b if operator == ">" else False,
                    ">=": a >= b if operator == ">=" else False}[operator]  # fmt: skip
        case OneOf(column, values):
            return None if value(column) is None else value(column) in values
        case Between(column, low, high):
            return None if value(column) is None else low <= value(column) <= high
        case Like(column, pattern, any_case):
            text = value(column)
            if text is None:
                return None
            regular = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
            return re.fullmatch(regular, text, re.DOTALL | (re.IGNORECASE if any_case else 0)) is not None
    raise AssertionError(node)
