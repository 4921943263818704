"""What callers write is kept, logged or shown to others: expressions, ids, keys, labels. None of it may carry an
original name into the ordinary schema, the log or a manifest (D10, I2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.api.request_id import _HARMLESS
from mover.decide.cohort import is_like, parse
from mover.errors import ExpressionInvalid
from mover.model.facts import FactColumn

COLUMNS = {
    "diagnosis": FactColumn("diagnosis", "text", "outcomes", ("PRAD", "BRCA")),
    "case_id": FactColumn("case_id", "text", "cases"),
    "zip": FactColumn("zip", "text", "cases"),
}


@pytest.mark.parametrize("expression", [
    "diagnosis = 'PRAD' /* Anna Kanaria */",
    "diagnosis = 'PRAD' -- S19-77777",
    "/* Anna */ diagnosis = 'PRAD'",
    "diagnosis /* Anna */ = 'PRAD'",
    "diagnosis in ('PRAD' /* Anna */, 'BRCA')",
    "diagnosis like '%Kanaria%'",
    "diagnosis not ilike 'anna%'",
    "diagnosis <> 'Anna Kanaria'",
    "number <> 'S19-77777'",
    "number like '%S19-77777%'",
    "slide.number in ('S19-77777.svs')",
    "subject <> 'MRN0012345'",
    "subject like 'Kanaria, Anna%'",
    "case_id <> 'S19-77777'",
    "case_id like 'S19-%'",
    "vendor <> 'Anna Kanaria 1961-04-03'",
    "slide.family = 'S19-77777'",
    "zip <> '97074'",
    "subject <> 'Kanaria'",
])  # fmt: skip
def test_an_expression_holds_no_original_name(expression: str) -> None:
    """Found: comments and texts were stored, shown to every viewer and written into the run's manifest."""
    with pytest.raises(ExpressionInvalid):
        parse(expression, COLUMNS)


@pytest.mark.parametrize("expression", [
    "diagnosis = 'PRAD' and number <> '0123456789ABCDEFG'", "number like '0123%'", "diagnosis like 'P%'",
    "diagnosis ilike '%rad'", "subject = 'S0123456789ABCDEF'", "case_id in ('S0123456789ABCDEF')", "zip = '970'",
    "vendor = 'hamamatsu'", "family = 'aperio'", "extension = 'svs'", "compression <> 'jpeg'",
])  # fmt: skip
def test_what_columns_really_hold_may_be_asked(expression: str) -> None:
    parse(expression, COLUMNS)


@pytest.mark.parametrize(
    ("value", "pattern", "expected"),
    [("PRAD", "P%", True), ("PRAD", "%", True), ("PRAD", "_RA_", True), ("PRAD", "PRA", False), ("PRAD", "", False),
     ("", "%%", True), ("a%b", "a\\%b", True), ("axb", "a\\%b", False), ("abcabd", "%ab_", True),
     ("ab", "ab\\", False)],
)  # fmt: skip
def test_a_pattern_means_what_postgresql_says(value: str, pattern: str, expected: bool) -> None:
    assert is_like(value, pattern) is expected


@given(st.text("ab", max_size=60), st.text("ab%_", max_size=60))
def test_a_hostile_pattern_takes_no_exponential_time(value: str, pattern: str) -> None:
    """A regular expression of many `.*` would."""
    is_like(value + "b", pattern + "%a" * 50)


@pytest.mark.parametrize("given_id", ["S19-77777", "Kanaria-Anna", "job-4711.3", "4711", "0" * 15, "0" * 65,
                                      "0123456789abcdef\n"])  # fmt: skip
def test_a_request_id_that_may_mean_something_is_not_taken_on(given_id: str) -> None:
    """Found: a case number in X-Request-Id stood in the log and in audit records."""
    assert _HARMLESS.fullmatch(given_id) is None
