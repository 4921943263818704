"""Which words of records are sought in published slides, and which hits say anything."""

from __future__ import annotations

import pytest

from mover.decide.searchagain import sought, tells
from mover.deid.search import Seeker
from mover.model.recipe import Copy, Literal, Recipe, literal_ranges


def test_names_count_in_part_and_the_words_of_the_trade_do_not_count() -> None:
    """`Kowalczyk` alone names the patient; `Aperio` or `carcinoma` in a withheld cell names nobody."""
    words = set(sought(["Katarzyna Kowalczyk", "C:\\scans\\D19-293983_Brown.svs", "Aperio", "carcinoma", "2019-03-04"]))
    assert {"Katarzyna Kowalczyk", "Kowalczyk", "Katarzyna", "D19-293983", "Brown"} <= words
    assert words.isdisjoint({"Aperio", "carcinoma", "2019-03-04", "scans"})


@pytest.mark.parametrize(
    ("form", "haystack", "says"),
    [
        (b"kowalczyk", b"drkowalczykx", True),
        (b"998456", b"id=998456;", True),
        (b"998456", b"id=000998456;", True),
        (b"998456", b"width=199845600", False),
        (b"499012", b"mpp=0.499012", False),
        (b"99845614", b"code 9984561401", True),
        (b"99845614", b"2.25.3377712399845614227731", False),
        (b"998456141234", b"2.25.33777123998456141234227731", True),
    ],
)
def test_digits_count_where_no_chance_explains_them(form: bytes, haystack: bytes, says: bool) -> None:
    """A record number of six digits stands by chance in every other random UID."""
    assert tells(form, haystack) is says


def test_every_form_found_comes_with_the_layer_it_was_found_in() -> None:
    [found] = {layer for _, layer in Seeker(["Kowalczyk"]).forms_in(b"xx 4b6f77616c637a796b yy")}
    assert found == b"xx 4b6f77616c637a796b yy"


def test_ranges_are_what_no_copy_brought_without_zeros_and_seams() -> None:
    recipe = Recipe(100, (Literal(b"ab"), Literal(b"cd"), Copy(0, 10), Literal(b"\0\0"), Literal(b"e"), Copy(10, 5)))
    assert literal_ranges(recipe) == ((0, 4), (16, 1))
