"""SQL stands in files, each statement named and explained."""

from __future__ import annotations

import pytest

from mover.catalog import proofs, queries
from mover.errors import CatalogError


def test_statements_are_found_by_name() -> None:
    found = queries.parse(
        "-- file\n\n-- name: one\n-- Says one.\nselect 1;\n\n-- name: two\n-- Two.\nselect\n 2;\n", where="f"
    )
    assert set(found.texts) == {"one", "two"}
    assert found["two"] == "-- Two.\nselect\n 2"
    with pytest.raises(KeyError):
        found["three"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("-- name: a\nselect 1;", "no sentence"),
        ("-- name: a\n-- Sentence.\n", "no statement"),
        ("-- name: a\n-- S.\nselect 1;\n-- name: a\n-- S.\nselect 2;", "twice"),
        ("select 1;\n-- name: a\n-- S.\nselect 1;", "before the first"),
    ],
)
def test_what_would_be_read_differently_than_meant_is_refused(text: str, what: str) -> None:
    with pytest.raises(CatalogError, match=what):
        queries.parse(text, where="f.sql")


def test_the_file_beside_a_module_is_its_own() -> None:
    assert "add_proof" in queries.load(proofs.__file__).texts
