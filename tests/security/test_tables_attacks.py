"""What could carry an identifier out of a table whose columns are all declared (deidentification.md, 3)."""

from __future__ import annotations

import msgspec
import pytest

from mover.decide.tables import Misfit, check_policy, reader_of
from mover.errors import PolicyInvalid
from mover.model.policy import ColumnRule, RecordsPolicy


def policy(column: dict[str, object]) -> RecordsPolicy:
    tables = [{"name": "images1", "columns": {"file": {"class": "image"}, "x": column}}]
    return msgspec.convert({"kind": "records", "name": "records", "from": "intake", "tables": tables}, RecordsPolicy)


@pytest.mark.parametrize("column", [
    {"class": "integer"}, {"class": "number"}, {"class": "integer", "minimum": 0}, {"class": "number", "maximum": 9},
    {"class": "date", "dates": "shift"}, {"class": "enum"}, {"class": "enum", "values": ["=1+1"]},
    {"class": "enum", "values": ["@x"]}, {"class": "enum", "values": ["\tx"]}, {"class": "enum", "values": ["a\nb"]},
    {"class": "enum", "values": ["x"], "map": {"Anna Kanaria": "Anna Kanaria"}},
    {"class": "enum", "values": [str(n) for n in range(501)]},
    {"class": "integer", "as": "number", "minimum": 0, "maximum": 9},
    {"class": "drop", "quasi": True},
])  # fmt: skip
def test_a_column_rule_that_could_let_identifiers_through_is_refused(column: dict[str, object]) -> None:
    """Found: a number without bounds passed every record number, phone number and undashed birth date."""
    with pytest.raises(PolicyInvalid):
        check_policy(policy(column))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ({"class": "integer", "minimum": 2, "maximum": 10}, "99845614"),
        ({"class": "integer", "minimum": 2, "maximum": 10}, "7 Kanaria"),
        ({"class": "number", "minimum": 0, "maximum": 10}, "1961-04-03"),
        ({"class": "number", "minimum": 0, "maximum": 10}, "=HYPERLINK(1)"),
        ({"class": "enum", "values": ["PRAD"]}, "PRAD Kanaria"),
        ({"class": "enum", "values": ["PRAD"]}, "PRAD\u200b Anna"),
        ({"class": "enum", "values": ["PRAD"]}, "=PRAD"),
        ({"class": "boolean"}, "yes, Kanaria"),
        ({"class": "age"}, "1961"),
        ({"class": "age"}, "45 (Anna)"),
        ({"class": "zip3"}, "97074 Kanaria"),
        ({"class": "zip3"}, "Kanaria"),
        ({"class": "date"}, "03.04.1961 Kanaria"),
        ({"class": "date"}, "Kanaria 1961"),
    ],
)  # fmt: skip
def test_a_cell_with_something_beside_its_value_is_a_misfit(column: dict[str, object], cell: str) -> None:
    with pytest.raises(Misfit):
        reader_of(msgspec.convert(column, ColumnRule))(cell)


@pytest.mark.parametrize(("cell", "value"), [("90", 90), ("104", 90), ("> 89", 90), ("89", 89)])
def test_ages_above_89_are_one_class(cell: str, value: int) -> None:
    """45 CFR 164.514(b)(2)(i)(C)."""
    assert reader_of(msgspec.convert({"class": "age"}, ColumnRule))(cell) == value
