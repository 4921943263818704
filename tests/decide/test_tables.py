"""What may leave a table: typed cells of listed columns, and nothing that could be somebody."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.alignment import Aligned, NamedImage, Subject, align, blocks, cases, patients, prepare, strangers
from mover.decide.tables import (
    Misfit,
    arrange,
    check_misfits,
    check_policy,
    fact_columns,
    neutralise,
    reader_of,
    release,
    tokens,
    type_rows,
)
from mover.errors import PlaceUnknown, PolicyInvalid, StructureInvalid
from mover.model.policy import ColumnRule, RecordsPolicy
from mover.model.source import MemorySource
from mover.policy import default_folder, load_policies
from scanners.tables import read

YEAR = 2026


def column(kind: str, **options: object) -> ColumnRule:
    return msgspec.convert({"class": kind, **options}, ColumnRule)


def policy(*tables: dict[str, object], **options: object) -> RecordsPolicy:
    return msgspec.convert(
        {"kind": "records", "name": "records", "from": "intake", "tables": list(tables), **options}, RecordsPolicy
    )


def table(name: str, per: str, columns: dict[str, object], **options: object) -> dict[str, object]:
    return {"name": name, "one_row_per": per, "columns": columns, **options}


IMAGERY = table(
    "imagery", "image",
    {
        "file": {"class": "image"},
        "case": {"class": "case"},
        "stain": {"class": "enum", "values": ["HE", "HER2"], "map": {"h&e": "HE", "n/a": ""}},
        "size": {"class": "integer", "minimum": 0, "maximum": 99_999_999},
        "remark": {"class": "drop"},
    },
)  # fmt: skip
CASES = table(
    "cases", "case",
    {
        "Case No": {"class": "case"},
        "MRN": {"class": "patient"},
        "name": {"class": "drop"},
        "age": {"class": "age", "quasi": True},
        "sex": {"class": "enum", "values": ["F", "M"], "quasi": True},
    },
)  # fmt: skip
HEADERS = {"imagery": ["file", "case", "stain", "size", "remark"], "cases": ["case no", "mrn", "name", "age", "sex"]}


def aligned(
    rules: RecordsPolicy, rows: dict[str, list[list[str]]], images: list[NamedImage], *, offset_days: int = 10
) -> Aligned:
    tables = {name: (HEADERS[name], list(enumerate(body, start=2))) for name, body in rows.items()}
    prepared = prepare(rules, tables, images)
    subjects = {patient: Subject(f"S{n}", offset_days) for n, patient in enumerate(patients(prepared))}
    named = {case: Subject(f"C{n}", 0) for n, case in enumerate(cases(prepared))}
    tissue = {block: f"B {block}" for block in blocks(prepared)}
    return align(prepared, subjects=subjects, case_subjects=named, blocks=tissue, this_year=YEAR)


@pytest.mark.parametrize(
    ("rule", "cells", "expected"),
    [
        ({"class": "block"}, ["A1", "a1 ", "A2", ""], ["B c-1 a1", "B c-1 a1", "B c-2 a2", None]),
        ({"class": "block", "pattern": "^[^;]*;([^;]+);"}, ["x;A1;7", "x;A1;8", "x;A1;9", "no"],
         ["B c-1 a1", "B c-1 a1", "B c-2 a1", None]),
        ({"class": "block", "pattern": "^(?P<case>[^;]+);(?P<block>[^;]+);(?P<slide>.+)"},
         ["d;A;1", "d;A;2", "d;B;1", "d"], ["B c-1 d a", "B c-1 d a", "B c-2 d b", None]),
    ],
)  # fmt: skip
def test_slides_of_one_block_are_known_to_be_and_the_text_of_the_block_stays(
    rule: dict[str, object], cells: list[str], expected: list[str | None]
) -> None:
    """Block A1 of another case is another block; what the column says never leaves as a fact."""
    slides = table("imagery", "image", {"file": {"class": "image"}, "case": {"class": "case"}, "tissue": rule,
                                        "stain": {"class": "enum", "values": ["HE"]}})  # fmt: skip
    of_case = ["C-1", "C-1", "C-2", "C-2"]
    rows = [[f"{n}.svs", case, cell, "HE"] for n, (case, cell) in enumerate(zip(of_case, cells, strict=True))]
    images = [NamedImage(n + 1, f"{n}.svs", f"{n:017d}") for n in range(4)]
    header = ["file", "case", "tissue", "stain"]
    found = prepare(policy(slides), {"imagery": (header, list(enumerate(rows, 2)))}, images)
    tissue = {block: f"B {block}" for block in blocks(found)}
    documents = align(found, subjects={}, case_subjects={}, blocks=tissue, this_year=YEAR).documents
    assert [document.block for document in documents] == expected
    assert all(document.facts == {"stain": "HE"} for document in documents)


@pytest.mark.parametrize(
    ("rule", "cell", "value"),
    [
        (column("enum", values=["PRAD"], map={"prostate  cancer": "PRAD"}), " Prostate Cancer ", "PRAD"),
        (column("enum", values=["PRAD"]), "prad", "PRAD"),
        (column("enum", map={"ja": "yes", "n/a": ""}), "N/A", None),
        (column("enum", map={"ja": "yes"}), "Yes", "yes"),
        (column("integer"), "7", 7),
        (column("integer"), "7.0", 7),
        (column("integer"), "-3", -3),
        (column("integer"), " ", None),
        (column("integer", map={"unknown": ""}), "unknown", None),
        (column("number"), "0.4990", 0.499),
        (column("number"), "1e-3", 0.001),
        (column("number", decimal=","), "18,7", 18.7),
        (column("boolean"), "YES", True),
        (column("boolean"), "0", False),
        (column("boolean", map={"ja": "true"}), "Ja", True),
        (column("age"), "52", 52),
        (column("age"), "89", 89),
        (column("age"), "90", 90),
        (column("age"), "104", 90),
        (column("age"), "90+", 90),
        (column("age"), "> 89", 90),
        (column("zip3"), "94107", "941"),
        (column("zip3"), "94107-1234", "941"),
        (column("zip3"), "03601", "000"),
        (column("date"), "2019-07-11", date(2019, 7, 11)),
        (column("date"), "2019-07-11 14:18:00", date(2019, 7, 11)),
        (column("date", format="%d.%m.%Y"), "11.07.2019", date(2019, 7, 11)),
        (column("date", format="%m/%d/%Y %H:%M"), "07/11/2019 14:18", date(2019, 7, 11)),
    ],
)
def test_a_cell_of_its_class_becomes_a_typed_value(rule: ColumnRule, cell: str, value: object) -> None:
    """Three departments write the same fact in three ways; cohorts see one."""
    read_back = reader_of(rule)(cell)

    assert read_back == value and type(read_back) is type(value)


@pytest.mark.parametrize(
    ("rule", "cell"),
    [
        (column("enum", values=["PRAD"]), "Katarzyna Kowalczyk"),
        (column("enum", values=["PRAD"]), "PRAD Kowalczyk"),
        (column("integer"), "7a"),
        (column("integer"), "7.5"),
        (column("integer"), "1_000"),
        (column("integer"), "٣"),
        (column("integer", minimum=0, maximum=10), "99845614"),
        (column("number"), "nan"),
        (column("number"), "inf"),
        (column("number"), "18,7"),
        (column("number", decimal=","), "1.234,5"),
        (column("boolean"), "2"),
        (column("age"), "131"),
        (column("age"), "-1"),
        (column("age"), "fifty"),
        (column("zip3"), "9410"),
        (column("zip3"), "SW1A 1AA"),
        (column("date"), "11.07.2019"),
        (column("date"), "2019-13-01"),
        (column("date"), "2019-W01-1"),
        (column("date", format="%d.%m.%Y"), "0011-07-19"),
        (column("date"), "1019-07-11"),
    ],
)
def test_a_cell_that_is_not_of_its_class_is_a_misfit_and_carries_nothing(rule: ColumnRule, cell: str) -> None:
    """It could be anybody's name; not even the exception may hold it."""
    with pytest.raises(Misfit) as refused:
        reader_of(rule)(cell)

    assert refused.value.args == () and refused.value.__suppress_context__ | (refused.value.__context__ is None)


@given(st.text(max_size=20), st.sampled_from(["enum", "integer", "number", "boolean", "age", "zip3", "date"]))
def test_no_text_outside_the_policys_words_ever_becomes_a_value(cell: str, kind: str) -> None:
    """Law: whatever stands in a cell, what comes out is a declared word, a number, three digits, a date or nothing."""
    rule = column(kind, values=["PRAD", "BRCA"]) if kind == "enum" else column(kind)
    try:
        value = reader_of(rule)(cell)
    except Misfit:
        return
    if isinstance(value, str):
        assert value in ("PRAD", "BRCA") or (kind == "zip3" and len(value) == 3 and value.isdecimal())


def test_a_column_that_no_rule_names_stops_the_file_without_naming_anybody() -> None:
    """A new column is where a name arrives first; a header can be a name, so only its shape is told."""
    rule = policy(IMAGERY).tables[0]

    with pytest.raises(PlaceUnknown) as refused:
        arrange(rule, ["file", "case", "stain", "size", "remark", "Kowalczyk 1964"])

    assert refused.value.details == [{"table": "imagery", "position": 6, "shape": "Aaaaaaaaa 9999"}]
    assert "Kowalczyk" not in str(refused.value)


def test_a_declared_column_that_is_missing_is_an_error() -> None:
    """A renamed column would silently lose its facts."""
    with pytest.raises(StructureInvalid) as refused:
        arrange(policy(IMAGERY).tables[0], ["file", "case", "stain", "remark"])

    assert refused.value.details == [{"table": "imagery", "missing": "size"}]


def test_headers_are_recognised_in_any_case_and_order() -> None:
    """`Case No` and ` case  no ` are one column to a person."""
    layout = arrange(policy(IMAGERY, CASES).tables[1], ["SEX", " case  no ", "Name", "mrn", "Age"])

    assert [(link, position) for link, position, _ in layout.keys] == [("case", 1), ("patient", 3)]
    assert [(name, position) for name, position, _ in layout.facts] == [("age", 4), ("sex", 0)]


def test_few_misfits_are_conflicts_and_many_stop_the_file() -> None:
    """One typing error must not hold back five thousand rows; a shifted column must."""
    rule = policy(IMAGERY).tables[0]
    layout = arrange(rule, HEADERS["imagery"])

    def typed(bad: int, good: int) -> list[object]:
        cells = [["a.svs", "x", "Kowalczyk", "1", ""]] * bad + [["a.svs", "x", "HE", "1", ""]] * good
        return type_rows(layout, list(enumerate(cells, start=2)), extensions=(".svs",))  # type: ignore[return-value]

    check_misfits(rule, typed(3, 2))  # type: ignore[arg-type]
    check_misfits(rule, typed(5, 95))  # type: ignore[arg-type]
    with pytest.raises(PlaceUnknown) as refused:
        check_misfits(rule, typed(6, 94))  # type: ignore[arg-type]

    assert refused.value.details == [{"table": "imagery", "reason": "misfit:stain", "rows": 6}]


@pytest.mark.parametrize(
    ("rule", "value", "offset", "released"),
    [
        (column("date"), "2019-07-11", 10, 2019),
        (column("date", birth=True), "1930-07-11", 10, 1936),
        (column("date", birth=True), "1951-07-11", 10, 1951),
        (column("date", dates="shift"), "2019-12-30", 10, "2020-01-09"),
        (column("date", dates="shift"), "2019-12-30", None, None),
        (column("date", dates="shift", birth=True), "1930-07-11", 10, None),
    ],
)
def test_dates_leave_as_years_or_shifted_or_not_at_all(
    rule: ColumnRule, value: str, offset: int | None, released: object
) -> None:
    """Safe Harbor keeps years, but not those that tell an age above 89; without an offset nothing is shifted."""
    raw = table("tab", "image", {"file": {"class": "image"}, "when": msgspec.to_builtins(rule)})
    layout = arrange(policy(raw).tables[0], ["file", "when"])
    [row] = type_rows(layout, [(2, ["a.svs", value])], extensions=())

    assert release(layout, row, offset_days=offset, this_year=YEAR) == {"when": released}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_outgoing_text_is_a_formula(text: str) -> None:
    """A spreadsheet that opens an export must not run what a hospital typed."""
    assert neutralise(text) == "'" + text and neutralise("HE") == "HE"


CONTRADICTIONS = [
    ("no table at all", [], {}),
    ("no name for a fact", [table("tab", "image", {"f": {"class": "image"}, "?": {"class": "integer"}})], {}),
    ("a fact twice", [table("tab", "image", {"f": {"class": "image"}, "x": {"class": "age"},
                                           "y": {"class": "age", "as": "x"}})], {}),
    ("a slide's own word", [table("tab", "image", {"f": {"class": "image"}, "number": {"class": "integer"}})], {}),
    ("an open enumeration", [table("tab", "image", {"f": {"class": "image"}, "x": {"class": "enum"}})], {}),
    ("a map that leads astray", [table("tab", "image", {"f": {"class": "image"}, "x": {
        "class": "enum", "values": ["a"], "map": {"b": "c"}}})], {}),
    ("a formula as a value", [table("tab", "image", {"f": {"class": "image"}, "x": {
        "class": "enum", "values": ["=1"]}})], {}),
    ("a list made from data", [table("tab", "image", {"f": {"class": "image"}, "x": {
        "class": "enum", "values": [f"v{n}" for n in range(501)]}})], {}),
    ("shifted dates as safe harbor", [table("tab", "image", {"f": {"class": "image"}, "x": {
        "class": "date", "dates": "shift"}})], {}),
    ("two image columns", [table("tab", "image", {"f": {"class": "image"}, "g": {"class": "image"}})], {}),
    ("no column for its rows", [table("tab", "image", {"f": {"class": "case"}})], {}),
    ("an image table per case", [table("tab", "case", {"f": {"class": "image"}, "c": {"class": "case"}})], {}),
    ("a table without a way", [IMAGERY, table("tab", "patient", {"p": {"class": "patient"}})], {}),
    ("a reserved name", [{**IMAGERY, "name": "images"}], {}),
    ("twin tables", [IMAGERY, IMAGERY], {}),
    ("twin columns", [table("tab", "image", {"f": {"class": "image"}, "F ": {"class": "drop"}})], {}),
    ("a pattern without a group", [table("tab", "image", {"f": {"class": "image", "pattern": "x"}})], {}),
    ("a pattern on a fact", [table("tab", "image", {"f": {"class": "image"}, "x": {
        "class": "age", "pattern": "(x)"}})], {}),
    ("a quasi that is dropped", [table("tab", "image", {"f": {"class": "image"}, "x": {
        "class": "drop", "quasi": True}})], {}),
    ("bounds upside down", [table("tab", "image", {"f": {"class": "image"}, "x": {
        "class": "number", "minimum": 2, "maximum": 1}})], {}),
    ("an extension without a dot", [IMAGERY], {"extensions": ["svs"]}),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "options"), [c[1:] for c in CONTRADICTIONS], ids=[c[0] for c in CONTRADICTIONS])
def test_a_policy_that_contradicts_itself_is_refused(
    tables: list[dict[str, object]], options: dict[str, object]
) -> None:
    """Found before a table is opened, all contradictions at once."""
    with pytest.raises(PolicyInvalid):
        check_policy(policy(*tables, **options))


def test_a_sound_policy_says_which_columns_cohorts_get() -> None:
    """The catalog of columns is made from the policy, not from what happens to stand in a file."""
    rules = policy(IMAGERY, CASES)

    check_policy(rules)

    assert [(c.name, c.type, c.table, c.allowed) for c in fact_columns(rules)] == [
        ("stain", "text", "imagery", ("HE", "HER2")),
        ("size", "integer", "imagery", None),
        ("age", "integer", "cases", None),
        ("sex", "text", "cases", ("F", "M")),
    ]


def test_the_shipped_policy_is_sound() -> None:
    """The one people copy first."""
    shipped = [one.policy for one in load_policies(default_folder()).all() if isinstance(one.policy, RecordsPolicy)]

    assert shipped
    for rules in shipped:
        check_policy(rules)


IMAGES = [NamedImage(1, "scans/A.svs", "NA"), NamedImage(2, "scans/B.svs", "NB"), NamedImage(3, "C.svs", None)]


def test_rows_of_all_tables_meet_in_one_document_per_slide() -> None:
    """The whole way: names in, numbers and pseudonyms out."""
    result = aligned(
        policy(IMAGERY, CASES),
        {
            "imagery": [["A.svs", "x", "h&e", "7", ""], ["B.SVS", "x", "", "8", ""], ["C.svs", "x", "HE", "9", ""]],
            "cases": [["X", "4711", "Kowalczyk", "95", "f"]],
        },
        IMAGES,
    )

    assert [(d.number, d.subject, d.facts) for d in result.documents] == [
        ("NA", "S0", {"age": 90, "sex": "F", "size": 7, "stain": "HE"}),
        ("NB", "S0", {"age": 90, "sex": "F", "size": 8}),
    ]
    assert [(line.table, line.line, line.state, line.number) for line in result.lines] == [
        ("images", 1, "matched", "NA"),
        ("images", 2, "matched", "NB"),
        ("images", 3, "late", None),
        ("imagery", 2, "matched", "NA"),
        ("imagery", 3, "matched", "NB"),
        ("imagery", 4, "late", None),
        ("cases", 2, "matched", None),
    ]
    assert result.k == 1


def test_a_conflicting_table_leaves_the_other_tables_facts() -> None:
    """The diagnosis is in doubt, the stain is not; the image is shown as a conflict until somebody decides."""
    result = aligned(
        policy(IMAGERY, CASES),
        {
            "imagery": [["A.svs", "x", "HE", "7", ""]],
            "cases": [["x", "4711", "Kowalczyk", "50", "F"], ["x", "4711", "Kowalczyk", "51", "F"]],
        },
        IMAGES[:1],
    )

    assert [(d.subject, d.facts) for d in result.documents] == [(None, {"size": 7, "stain": "HE"})]
    assert [(line.state, line.reason) for line in result.lines] == [
        ("conflict", "rows-in-conflict:cases"),
        ("matched", None),
        ("conflict", "rows-differ"),
        ("conflict", "rows-differ"),
    ]


def test_a_record_number_in_a_column_of_sizes_is_caught_by_the_last_net() -> None:
    """The cell is a perfect integer; only the same patient's key in another table tells what it is."""
    result = aligned(
        policy(IMAGERY, CASES),
        {
            "imagery": [["A.svs", "x", "HE", "99845614", ""], ["B.svs", "y", "HE", "99845614", ""]],
            "cases": [["x", "MRN 0099845614", "Kowalczyk", "50", "F"], ["y", "5", "", "50", "F"]],
        },
        IMAGES[:2],
    )

    rows = [(line.state, line.reason) for line in result.lines if line.table == "imagery"]
    assert rows == [("conflict", "identifier-suspected"), ("matched", None)]
    assert [d.number for d in result.documents] == ["NB"]


def test_a_phone_number_in_a_free_text_is_known_by_its_digits() -> None:
    """Notes punctuate numbers; the net compares what is left without punctuation."""
    assert set(tokens(["call (444) 726-8381, Frédéric O'Sample"])) >= {"4447268381", "frederic", "sample"}


def test_small_groups_lose_their_quasi_identifiers_everywhere() -> None:
    """Below the declared k the age and sex of the only such patient stand neither in a document nor in the ledger."""
    rules = msgspec.structs.replace(policy(IMAGERY, CASES), minimum_k=2)
    rows = [[f"{n}.svs", f"c{n}", "HE", "7", ""] for n in range(3)]
    people = [["c0", "p0", "", "50", "F"], ["c1", "p1", "", "50", "F"], ["c2", "p2", "", "88", "M"]]

    result = aligned(rules, {"imagery": rows, "cases": people}, [NamedImage(n, f"{n}.svs", f"N{n}") for n in range(3)])

    assert (result.k, result.suppressed) == (2, 1)
    assert [d.facts.get("age") for d in result.documents] == [50, 50, None]
    assert [line.facts["age"] for line in result.lines if line.table == "cases" and line.facts] == [50, 50, None]


def test_keys_with_a_fact_name_leave_as_pseudonyms() -> None:
    """A project may group by case or patient without learning either."""
    named = {**IMAGERY, "columns": {**IMAGERY["columns"], "case": {"class": "case", "as": "case_code"}}}  # type: ignore[dict-item]

    result = aligned(policy(named, CASES), {"imagery": [["A.svs", "D19", "", "", ""]], "cases": []}, IMAGES[:1])

    assert result.documents[0].facts == {"case_code": "C0"}


def test_unknown_image_names_are_asked_about_elsewhere() -> None:
    """Rows of cumulative exports name slides of earlier batches; the caller looks their keys up."""
    tables = {"imagery": (HEADERS["imagery"], [(2, ["Old.svs", "x", "", "", ""]), (3, ["A.svs", "y", "", "", ""])])}

    prepared = prepare(policy(IMAGERY), tables, IMAGES[:1])
    again = prepare(policy(IMAGERY), tables, IMAGES[:1], elsewhere=frozenset(strangers(prepared)))

    assert strangers(prepared) == ["old"]
    assert [o.state for o in again.matching.rows["imagery"]] == ["late", "matched"]


# --- the planted samples ---------------------------------------------------------------------------------

PLANTED = policy(
    table("slides", "image", {
        "slide_file": {"class": "image"},
        "barcode": {"class": "case", "pattern": "^([^;]+)"},
        "stain": {"class": "enum", "values": ["HE", "HER2", "Ki-67", "PD-L1"], "map": {"H&E": "HE"}},
        "AppMag": {"class": "integer", "as": "magnification", "minimum": 1, "maximum": 100},
        "mpp": {"class": "number", "minimum": 0.01, "maximum": 10},
        "scan_date": {"class": "date", "format": "%m/%d/%Y %H:%M", "as": "scan_year"},
        "scanned_by": {"class": "drop"},
        "file_kb": {"class": "integer", "minimum": 0, "maximum": 10_000_000},
    }),
    table("cases", "case", {
        "Accession No": {"class": "case"}, "MRN": {"class": "patient"}, "Patient Name": {"class": "drop"},
        "DOB": {"class": "date", "format": "%d.%m.%Y", "birth": True, "as": "birth_year"},
        "Age": {"class": "age"}, "Sex": {"class": "enum", "values": ["F", "M"]}, "Address": {"class": "drop"},
        "ZIP": {"class": "zip3", "as": "zip3"}, "Phone": {"class": "drop"}, "E-mail": {"class": "drop"},
        "SSN": {"class": "drop"}, "ICD10": {"class": "enum", "values": ["C34.1", "C50.9", "C61", "D05.1"]},
        "Grade": {"class": "integer", "minimum": 1, "maximum": 3},
        "TumourSize_mm": {"class": "number", "minimum": 0, "maximum": 1000},
    }),
    table("outcomes", "patient", {
        "mrn": {"class": "patient"}, "event_date": {"class": "date", "as": "event_year"},
        "status": {"class": "enum", "values": ["alive", "deceased"]},
        "days_from_scan": {"class": "integer", "minimum": 0, "maximum": 20_000},
        "clinical_note": {"class": "drop"}, "risk_score": {"class": "number", "minimum": 0, "maximum": 1},
    }),
)  # fmt: skip
FILES = {"slides": "csv1_slides.csv", "cases": "csv2_cases.csv", "outcomes": "csv3_outcomes.csv"}


def test_nothing_planted_in_the_samples_leaves_the_tables() -> None:
    """The planted pack is the yardstick: every atom of truth.json is searched in all that would be stored."""
    if "MOVER_SAMPLES" not in os.environ:
        pytest.skip("MOVER_SAMPLES is not set")
    root = Path(os.environ["MOVER_SAMPLES"]) / "planted_dev"
    truth = json.loads((root / "truth.json").read_text())
    check_policy(PLANTED)
    bodies = {name: (root / "originals" / "csv" / file).read_bytes() for name, file in FILES.items()}
    tables = {name: read(MemorySource(body)) for name, body in bodies.items()}
    images = [
        NamedImage(n, row.cells[0].strip().rsplit("\\", 1)[-1], f"{n:017d}")
        for n, row in enumerate(tables["slides"].rows, start=1)
    ]

    prepared = prepare(PLANTED, {n: (t.header, [(r.line, r.cells) for r in t.rows]) for n, t in tables.items()}, images)
    subjects = {patient: Subject(f"S{n:016d}", 30) for n, patient in enumerate(patients(prepared))}
    result = align(prepared, subjects=subjects, case_subjects={}, blocks={}, this_year=YEAR)

    assert {line.state for line in result.lines} == {"matched"}
    assert len(result.lines) == 16 + 16 + 12 + 12 and len(result.documents) == 16
    stored = msgspec.json.encode([result.lines, result.documents]).decode().casefold()
    atoms = [atom for name, file in truth["files"].items() if "csv" in name for atom in file["atoms"]]
    values = {str(atom["value"] if isinstance(atom, dict) else atom).casefold() for atom in atoms}
    assert len(values) > 100
    assert [value for value in sorted(values) if len(value) >= 4 and value in stored] == []
    assert max(d.facts["age"] for d in result.documents if d.facts["age"]) == 90  # type: ignore[type-var]


def test_optional_columns_may_be_absent_and_strange_ones_are_held_back_where_the_rule_says_so() -> None:
    """Exports grow and shrink; what nobody listed still counts for the net and never becomes a fact."""
    optional = table("more", "image", {
        "file": {"class": "image"}, "grade": {"class": "code", "code": "grade"},
        "size": {"class": "number", "minimum": 0, "maximum": 9, "optional": True},
        "note": {"class": "text"}, "label": {"class": "block", "optional": True},
    }, others="drop")  # fmt: skip
    rules = policy(optional)
    check_policy(rules)
    layout = arrange(rules.tables[0], ["remark", "grade", "file", "note"])
    assert [name for name, _, _ in layout.facts] == ["grade"] and layout.withheld == (3, 0)
    [row] = type_rows(layout, [(2, ["call Ann", "G2", "a.svs", "Pt Ann"])], extensions=rules.extensions)
    assert row.values == ("G2",) and row.withheld == ("Pt Ann", "call Ann")
    with pytest.raises(StructureInvalid, match="grade"):
        arrange(rules.tables[0], ["file", "note"])


def test_free_text_becomes_no_fact() -> None:
    noted = table("notes", "image", {"file": {"class": "image"}, "note": {"class": "text", "text": "scrub"}})
    with pytest.raises(PolicyInvalid, match="no fact"):
        check_policy(policy(noted))
