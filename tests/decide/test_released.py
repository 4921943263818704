"""Released tables: what each class lets through, whose row it is, and what never leaves."""

from __future__ import annotations

import re
from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.decide.kinship import kinship, words_by_patient
from mover.decide.released import (
    Misfit,
    Writing,
    check_share,
    fit,
    is_sought,
    named,
    names_of,
    net,
    pseudonyms,
    rewrite,
    suppress,
    writer_of,
)
from mover.decide.tables import GRAMMARS, readings
from mover.errors import ChangedWhileReading, PlaceUnknown
from mover.model.policy import EXTENSIONS, ColumnRule, TableRule

YEAR = 2026
RANGE = {"minimum": -100, "maximum": 1_000_000}


def column(kind: str, **options: object) -> ColumnRule:
    return msgspec.convert({"class": kind, **options}, ColumnRule)


def table(called: str, /, **columns: object) -> TableRule:
    return msgspec.convert({"name": called, "columns": columns}, TableRule)


def written(rule: ColumnRule, cell: str, *, offset_days: int | None = 10) -> str | None:
    writing = Writing(pseudonym=lambda key: f"<{key[0]}>", scrub=lambda text: None, offset_days=offset_days)
    return writer_of(rule, this_year=YEAR)(cell, (), writing)


@pytest.mark.parametrize(
    ("rule", "cell", "out"),
    [
        (column("number", **RANGE), "0.4990", "0.4990"),
        (column("number", **RANGE), " 20", " 20"),
        (column("number", **RANGE), "-3", "-3"),
        (column("number", **RANGE), "+1.5", "+1.5"),
        (column("number", **RANGE), "", ""),
        (column("number", decimal=",", **RANGE), "18,7", "18,7"),
        (column("number", decimal="any", **RANGE), "761,108", "761,108"),
        (column("number", decimal="any", **RANGE), "1.234,5", "1.234,5"),
        (column("number", decimal="any", **RANGE), "1 234,5", "1 234,5"),
        (column("number", decimal="any", **RANGE), "1\u202f234", "1\u202f234"),
        (column("number", units=["x"], **RANGE), "20X", "20X"),
        (column("number", values=["n/a", "-"], **RANGE), "N/A", "N/A"),
        (column("number", values=["n/a", "-"], **RANGE), "-", "-"),
        (column("number", map={"unbekannt": ""}, **RANGE), "unbekannt", ""),
        (column("integer", **RANGE), "7.0", "7.0"),
        (column("integer", decimal="any", **RANGE), "7.421", "7.421"),
        (column("boolean"), "Yes", "Yes"),
        (column("enum", values=["HER2"]), "her2", "her2"),
        (column("enum", values=["H & E"]), "H&E", None),
        (column("enum", values=["HER2"], map={"her-2": "HER2"}), "HER-2", "HER2"),
        (column("enum", values=["HER2"]), "HER2\n", "HER2"),
        (column("code", code="icd10"), "C50.9", "C50.9"),
        (column("age"), "91", "90"),
        (column("age", units=["y"]), "52 y", "52"),
        (column("age", round=10), "57", "50"),
        (column("age", round=5), "104", "90"),
        (column("number", round=0.1, **RANGE), "0.37", "0.3"),
        (column("integer", round=50, **RANGE), "-10", "-50"),
        (column("zip3"), "76945", "769"),
        (column("zip3"), "03601", "000"),
        (column("date", dates="year", format="%d.%m.%Y"), "02.10.1951", "1951"),
        (column("date", dates="year", birth=True, format="%d.%m.%Y"), "02.10.1910", "1936"),
        (column("date", dates="shift"), "2019-07-11", "2019-07-21"),
        (column("date", dates="shift", write="ordinal"), "2019-07-11", "2019-202"),
        (column("date", dates="shift", format=["%m/%d/%Y %H:%M", "%d.%m.%Y"]), "02/18/2017 14:18", "2017-02-28"),
        (column("date", dates="shift", format=["%m/%d/%Y %H:%M", "%d.%m.%Y"]), "18.02.2017", "2017-02-28"),
        (column("date", dates="shift", birth=True), "1930-01-01", ""),
        (column("date", dates="shift", values=["unknown"]), "unknown", "unknown"),
    ],
)
def test_a_cell_of_its_class_leaves_as_it_was_written(rule: ColumnRule, cell: str, out: str | None) -> None:
    """A reformatted number is a loss that nobody notices until two exports differ."""
    if out is None:
        with pytest.raises(Misfit):
            written(rule, cell)
    else:
        assert written(rule, cell) == out


@pytest.mark.parametrize(
    ("rule", "cell"),
    [
        (column("number", **RANGE), "99845614"),
        (column("number", decimal="any", **RANGE), "99,845,614"),
        (column("number", decimal="any", **RANGE), "444 726 8381"),
        (column("number", **RANGE), "=1+1"),
        (column("number", **RANGE), "12٣"),
        (column("number", units=["x"], **RANGE), "x"),
        (column("integer", **RANGE), "20 Maria"),
        (column("enum", values=["HER2"]), "Kowalczyk"),
        (column("enum", values=["HER2"]), "HER2 Kowalczyk"),
        (column("code", code="icd10"), "D19-293983"),
        (column("code", code="icd10"), "Kowalczyk"),
        (column("code", code="grade"), "Maria"),
        (column("code", code="stage"), "2019"),
        (column("code", code="tnm"), "Tom"),
        (column("age"), "1951"),
        (column("zip3"), "Kowalczyk"),
        (column("date", format="%d.%m.%Y"), "born 02.10.1951"),
        (column("date"), "20190711"),
        (column("boolean"), "Maria"),
    ],
)
def test_a_cell_that_is_not_of_its_class_never_leaves(rule: ColumnRule, cell: str) -> None:
    with pytest.raises(Misfit):
        written(rule, cell)


@pytest.mark.parametrize("system", sorted(GRAMMARS))
def test_codes_of_public_systems_hold_no_record_number(system: str) -> None:
    """An accession or a name in a column of codes must not pass for a code."""
    for text in ("99845614", "D19-293983", "Kowalczyk", "S2019123456", "254-14-9076", "Houseman G", "x" * 5000):
        assert GRAMMARS[system].fullmatch(text) is None


def test_a_number_that_can_be_read_in_two_ways_is_no_fact_but_may_stay() -> None:
    assert readings("1,234") == (1.234, 1234.0)
    assert written(column("number", decimal="any", minimum=0, maximum=5000), "1,234") == "1,234"


BARCODE = "(?P<case>[^;]+)(?:;(?P<block>[^;]+)(?:;(?P<slide>.+))?)?"
SLIDES = table("slides", file={"class": "image"}, barcode={"class": "block", "pattern": BARCODE})
CASES = table(
    "cases", accession={"class": "case"}, mrn={"class": "patient"}, name={"class": "drop"},
    sex={"class": "enum", "values": ["F", "M"], "quasi": True}, size={"class": "number", **RANGE},
)  # fmt: skip


def test_a_barcode_names_its_case_its_block_and_its_slide() -> None:
    """`B6` alone is a block of every case; tables join on the case."""
    placement = fit(["FILE ", "Barcode"], [CASES, SLIDES])
    keys = named(placement, extensions=EXTENSIONS)([r"C:\Scans\D19-1_Name_2.SVS", "D19-1;B6;24"])
    assert keys.all() == (
        ("case", "d19-1"), ("block", "d19-1;b6"), ("slide", "d19-1_name_2"), ("slide", "d19-1;b6;24"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", ["D19-1_Name_2.svs", " D19-1_Name_2.SVS", r"C:\Scans\2019\D19-1_NAME_2.svs", "a/b/D19-1 Name 2"]
)
def test_spellings_of_one_file_name_are_one_slide(name: str) -> None:
    placement = fit(["file", "barcode"], [SLIDES])
    assert named(placement, extensions=EXTENSIONS)([name, ""]).all() == (("slide", "d19-1_name_2"),)


def test_a_table_is_known_by_its_columns_not_by_its_file() -> None:
    assert fit(["mrn", "name", "accession", "sex", "size"], [SLIDES, CASES]).table.name == "cases"


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (["accession", "mrn", "name", "sex", "size", "Kowalczyk 7"], "column 6 (shape Aaaaaaaaa 9)"),
        (["accession", "mrn", "name", "size"], "the column sex"),
        (["a", "b"], "no table of the profile"),
    ],
)
def test_a_header_that_no_rule_knows_stops_the_file_and_is_never_quoted(header: list[str], what: str) -> None:
    with pytest.raises(PlaceUnknown, match=re.escape(what)) as refused:
        fit(header, [SLIDES, CASES])
    assert "Kowalczyk" not in str(refused.value.details) + refused.value.what


def test_a_column_nobody_listed_is_left_out_only_where_the_profile_says_so() -> None:
    generous = msgspec.structs.replace(CASES, others="drop")
    placement = fit(["accession", "mrn", "name", "sex", "size", "remark"], [generous])
    assert placement.unlisted == (5,) and [column.name for column in placement.kept] == [
        "accession",
        "mrn",
        "sex",
        "size",
    ]
    assert list(names_of(placement, ["D1", "12345", "Ann Lee", "F", "3.5", "call Bob"])) == [
        "12345",
        "Ann Lee",
        "call Bob",
    ]


def test_rows_stay_in_order_and_a_misfit_is_a_hole_with_a_reason() -> None:
    placement = fit(["accession", "mrn", "name", "sex", "size"], [CASES])
    read = named(placement, extensions=EXTENSIONS)
    rows = [["D1", "1", "Ann", "F", "3.5"], ["D2", "2", "Bob", "Bob", "99845614"], ["D1", "1", "Ann", "F", "3.5"]]
    find = pseudonyms(
        {"case|d1": "C1", "case|d2": "C2", "patient|1": "P1", "patient|2": "P2"}, lambda kind, text: f"{kind}|{text}"
    )
    writing = Writing(pseudonym=find, scrub=lambda text: None, offset_days=1)
    out, emptied = rewrite(placement, [(cells, read(cells), writing) for cells in rows], this_year=YEAR)
    assert out == [["C1", "P1", "F", "3.5"], ["C2", "P2", "", ""], ["C1", "P1", "F", "3.5"]]
    assert [(one.row, one.column, one.reason) for one in emptied] == [(1, 2, "misfit"), (1, 3, "misfit")]
    with pytest.raises(ChangedWhileReading):
        find(("patient", "3"))


@pytest.mark.parametrize("mrn", ["UNKNOWN", "0000", "N/A"])
def test_a_placeholder_in_a_column_of_numbers_is_no_patient(mrn: str) -> None:
    """Or everybody without a number were one patient, with one pseudonym and one offset."""
    placement = fit(["accession", "mrn", "name", "sex", "size"], [CASES])
    cells = ["D1", mrn, "Ann", "F", "3.5"]
    keys = named(placement, extensions=EXTENSIONS)(cells)
    assert keys.all() == (("case", "d1"),)
    writing = Writing(pseudonym=lambda key: f"<{key[0]}>", scrub=lambda text: None, offset_days=1)
    assert rewrite(placement, [(cells, keys, writing)], this_year=YEAR)[0] == [["<case>", "", "F", "3.5"]]


def test_too_many_misfits_stop_the_file() -> None:
    """Then the column is not what the profile says, and what fits may be chance."""
    placement = fit(["accession", "mrn", "name", "sex", "size"], [CASES])
    read = named(placement, extensions=EXTENSIONS)
    writing = Writing(pseudonym=lambda key: "P", scrub=lambda text: None, offset_days=1)
    rows = [["D1", "1", "Ann", "Kowalczyk", "3"]] * 4 + [["D1", "1", "Ann", "F", "3"]] * 6
    _, emptied = rewrite(placement, [(cells, read(cells), writing) for cells in rows], this_year=YEAR)
    with pytest.raises(PlaceUnknown, match="4 of 10") as refused:
        check_share(placement, emptied, len(rows))
    assert refused.value.details == [{"table": "cases", "column": "sex", "cells": 4}]
    check_share(
        msgspec.structs.replace(placement, table=msgspec.structs.replace(CASES, misfits_percent=50.0)), emptied, 10
    )


def test_a_record_number_in_a_column_of_sizes_is_caught_by_the_patients_own_rows() -> None:
    """It is a number in range; only what is withheld of the same patient tells what it is."""
    placement = fit(["accession", "mrn", "name", "sex", "size"], [CASES])
    out = [["C1", "P1", "F", "84561"], ["C2", "P2", "F", "84561"]]
    caught = net(placement, out, lambda row: ["84561", "Ann Lee"] if row == 0 else ["77777"])
    assert [(one.row, one.column, one.reason) for one in caught] == [(0, 3, "known-elsewhere")]


@given(
    rows=st.lists(st.tuples(st.sampled_from("FM"), st.sampled_from(["1950", "1960", "1970", ""])), max_size=25),
    least=st.integers(0, 6),
)
@settings(max_examples=60, deadline=None)
def test_no_group_smaller_than_k_keeps_its_quasi_identifiers(rows: list[tuple[str, str]], least: int) -> None:
    sex = {"class": "enum", "values": ["F", "M"], "quasi": True}
    rule = table("people", sex=sex, dob={"class": "date", "quasi": True})
    placement = fit(["sex", "dob"], [rule])
    written = [list(row) for row in rows]
    groups = suppress(placement, written, [f"P{n}" for n in range(len(rows))], minimum_k=least)
    for index in groups.rows:
        written[index] = ["", ""]
    counts = [written.count(row) for row in written]
    kept = [count for row, count in zip(written, counts, strict=True) if row != ["", ""]]
    assert all(count >= least for count in kept)
    assert groups.k == min(kept, default=None)
    if groups.rows and kept:
        assert sum(row == ["", ""] for row in written) >= least


def test_one_patient_with_many_rows_is_one_subject() -> None:
    """Ten rows of one woman of 1950 are no crowd to hide in."""
    rule = table("people", sex={"class": "enum", "values": ["F", "M"], "quasi": True}, x={"class": "drop"})
    groups = suppress(fit(["sex", "x"], [rule]), [["F"]] * 10, ["P1"] * 10, minimum_k=2)
    assert len(groups.rows) == 10 and groups.k is None


# --- whose row it is ---------------------------------------------------------------------------------------


def test_a_slide_belongs_to_the_patient_of_its_case() -> None:
    """Dates of a table without a patient column move with the patient that another table names."""
    kin = kinship([("case|d1", "block|d1;b6", "slide|a"), ("patient|1", "case|d1"), ("case|d2", "slide|b")])
    assert kin.patient_of == {"case|d1": "patient|1", "block|d1;b6": "patient|1", "slide|a": "patient|1"}


def test_what_two_patients_claim_belongs_to_nobody() -> None:
    """A wrong offset would make two patients' dates comparable; none is the safe answer."""
    kin = kinship(
        [("patient|1", "case|d1"), ("patient|2", "case|d1"), ("case|d1", "slide|a"), ("patient|2", "case|d2")]
    )
    assert kin.patient_of == {"case|d2": "patient|2"} and kin.torn == ("case|d1", "slide|a")


def test_words_gather_by_patient_and_staff_count_for_all() -> None:
    words = words_by_patient(
        [{"case|d1": ("D1",), "": ("Dr. Houseman",)}, {"patient|1": ("Ann Lee", "D1")}], {"case|d1": "patient|1"}
    )
    assert words == {"patient|1": ("D1", "Ann Lee"), "": ("Dr. Houseman",)}


@pytest.mark.parametrize(
    ("text", "sought"),
    [
        ("Ann Lee", True), ("76945", False), ("123456", True), ("Lee", False), ("02.10.1951", True), ("1234 5", False),
        ("A1-B2", False),
    ],
)  # fmt: skip
def test_what_would_turn_up_by_chance_is_not_sought_everywhere(text: str, sought: bool) -> None:
    """A ZIP of five digits stands in every third slide's table of offsets: each would be quarantined."""
    assert is_sought(text) == sought


@given(
    when=st.dates(date(1900, 1, 1), date(2100, 12, 31)),
    days=st.integers(-5000, 5000),
    write=st.sampled_from(["date", "ordinal"]),
)
@settings(max_examples=40, deadline=None)
def test_intervals_survive_a_shift(when: date, days: int, write: str) -> None:
    rule = column("date", dates="shift", write=write)
    out = [written(rule, (when + timedelta(days=gap)).isoformat(), offset_days=days) for gap in (0, 30)]
    read = [
        date.fromisoformat(text) if write == "date" else date(int(text[:4]), 1, 1) + timedelta(days=int(text[5:]) - 1)
        for text in out if text
    ]  # fmt: skip
    assert (read[1] - read[0]).days == 30
