"""Values to facts, and the last net: what of them repeats a word that identifies somebody."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta

from mover.decide.folding import plain
from mover.decide.tables.cells import AGE_EDGE, Value, allowed_values, neutralise
from mover.decide.tables.rows import Layout, TypedRow
from mover.model.policy import ColumnRule, RecordsPolicy


def release(
    layout: Layout, row: TypedRow, *, offset_days: int | None, this_year: int
) -> dict[str, str | int | float | bool | None]:
    """The facts of one matched row as they may stand in the ordinary schema. Without the patient's offset a
    date that must be shifted does not leave at all."""
    return {
        name: _released(value, rule, offset_days, this_year)
        for (name, _, rule), value in zip(layout.facts, row.values, strict=True)
    }


def _released(
    value: Value, rule: ColumnRule, offset_days: int | None, this_year: int
) -> str | int | float | bool | None:
    if isinstance(value, date):
        return _released_date(value, rule, offset_days, this_year)
    return neutralise(value) if isinstance(value, str) else value


def _released_date(value: date, rule: ColumnRule, offset_days: int | None, this_year: int) -> str | int | None:
    edge = this_year - AGE_EDGE
    if rule.dates == "year":
        # a year of birth that tells an age above 89 joins the class of the oldest
        return max(value.year, edge) if rule.birth else value.year
    if rule.dates == "drop" or offset_days is None or (rule.birth and value.year <= edge):
        return None
    return (value + timedelta(days=offset_days)).isoformat()


_WORD = re.compile(r"[^\W_]{5,}")
_DIGITS = re.compile(r"[0-9](?:[\s().\-/]{0,2}[0-9]){4,}")


def tokens(cells: Iterable[str]) -> Iterator[str]:
    """What could identify: words and numbers of at least five characters, accents and case folded, numbers
    also without their punctuation and leading zeros."""
    for cell in cells:
        folded = plain(cell)
        for word in _WORD.findall(folded):
            yield word.lstrip("0") if word.isdigit() else word
        for run in _DIGITS.findall(folded):
            yield re.sub(r"[^0-9]", "", run).lstrip("0")


def vocabulary(policy: RecordsPolicy) -> frozenset[str]:
    """The words that people declared as values: these may leave even where a note repeats them."""
    return frozenset(
        tokens(v for table in policy.tables for rule in table.columns.values() for v in allowed_values(rule))
    )


def outgoing_tokens(values: Iterable[Value]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield from tokens((value,))
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 10_000:
            yield str(abs(int(value)))


def suspects(
    rows: Mapping[str, Sequence[TypedRow]],
    subjects_of: Callable[[str, int], Sequence[object]],
    *,
    declared: frozenset[str],
) -> dict[str, list[int]]:
    """Rows (by table and index) in which a value that would leave equals a token of the same patient's keys or
    withheld cells, in any of the tables: a record number in a column of sizes, a name in a neighbouring cell.

    `subjects_of` says whom a row speaks of. Two passes over sets of (subject, token), so linear.
    """
    leaving: set[tuple[object, str]] = set()
    for name, table in rows.items():
        for index, row in enumerate(table):
            words = [word for word in outgoing_tokens(row.values) if word not in declared]
            if words:
                leaving.update((subject, word) for subject in subjects_of(name, index) for word in words)
    if not leaving:
        return {}
    caught = {
        (subject, word)
        for name, table in rows.items()
        for index, row in enumerate(table)
        for subject in subjects_of(name, index)
        for word in tokens((*row.key_cells, *row.withheld))
        if (subject, word) in leaving
    }
    hits = {
        name: [
            index for index, row in enumerate(table)
            if caught and any((subject, word) in caught for subject in subjects_of(name, index)
                              for word in outgoing_tokens(row.values))
        ]
        for name, table in rows.items()
    }  # fmt: skip
    return {name: indexes for name, indexes in hits.items() if indexes}
