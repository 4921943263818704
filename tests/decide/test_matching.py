"""Rows find their slides by name and by nothing else; every row and every image ends in exactly one state."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from mover.decide.folding import fold
from mover.decide.matching import (
    Image,
    Linked,
    Matching,
    canonical_image,
    looks_misspelt,
    match,
    order_tables,
)
from mover.errors import StructureInvalid

EXTENSIONS = (".svs", ".ndpi", ".tif", ".tiff", ".ome")


class Row(Struct, frozen=True):
    line: int
    image: str | None = None
    case: str | None = None
    patient: str | None = None
    misfit: str | None = None
    cells: tuple[str, ...] = ()

    def content(self) -> tuple[object, ...]:
        return (self.case, self.patient, self.cells)


def states(matching: Matching, table: str) -> list[tuple[str, str | None]]:
    return [(outcome.state, outcome.reason) for outcome in matching.rows[table]]


def image_states(matching: Matching) -> list[tuple[str, str | None]]:
    return [(outcome.state, outcome.reason) for outcome in matching.images]


def slides(*rows: Row) -> Linked:
    return Linked("slides", ("image", "case"), "image", rows)


def cases(*rows: Row, patient: bool = True) -> Linked:
    return Linked("cases", ("case", "patient") if patient else ("case",), "case", rows)


def outcomes(*rows: Row) -> Linked:
    return Linked("outcomes", ("patient",), "patient", rows)


A, B, C = Image(1, "a", "NUMBERA"), Image(2, "b", "NUMBERB"), Image(3, "c", None)


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("D19-293983_1.svs", "d19-293983_1"),
        ("C:\\Scans\\2019\\D19-293983_1.svs", "d19-293983_1"),
        ("/mnt/scans/D19-293983_1.SVS", "d19-293983_1"),
        (" D19-293983 1.svs ", "d19-293983_1"),
        ("D19-293983__ 1.svs", "d19-293983_1"),
        ("D19-293983_1", "d19-293983_1"),
        ("D19-293983_1.ome.tif", "d19-293983_1"),
        ("D19-293983_1.svs.svs", "d19-293983_1"),
        ("Gru\u0308nwald.svs", "grünwald"),
        ("GRÜNWALD.svs", "grünwald"),
        ("slide.v2.svs", "slide.v2"),
        ("D19-293983_1.svss", "d19-293983_1.svss"),
        ("D19-293983_1.sv", "d19-293983_1.sv"),
        (".svs", ".svs"),
        ("", ""),
        ("folder/", ""),
    ],
)
def test_a_file_name_has_one_key_however_a_department_writes_it(written: str, key: str) -> None:
    """Paths of either slash, case, accents, gaps and known extensions differ between systems; nothing else may."""
    assert canonical_image(written, EXTENSIONS) == key


@given(st.text(max_size=30))
def test_a_key_of_a_key_is_the_key(text: str) -> None:
    """Law: canonical forms are stable, so a key may be stored and compared later."""
    assert fold(fold(text)) == fold(text)
    once = canonical_image(text, EXTENSIONS)
    assert canonical_image(once + ".svs", EXTENSIONS) == once or not once or once.startswith(".")


@pytest.mark.parametrize(
    ("key", "misspelt"),
    [("d19_1.svss", True), ("d19_1.sv", True), ("d22.909549", False), ("plain", False), ("a.ndp1", True)],
)
def test_a_misspelt_extension_is_recognised_but_never_acted_on(key: str, misspelt: bool) -> None:
    """A person mends the export; a guess could tie a slide to another patient's row."""
    assert looks_misspelt(key) is misspelt


def test_tables_are_placed_from_the_images_outwards() -> None:
    """Outcomes know patients only, cases tie patients to slides; a table without any tie is never placed."""
    links = {"outcomes": ["patient"], "cases": ["case", "patient"], "slides": ["image", "case"], "island": ["x"]}

    assert order_tables(links) == [["slides"], ["cases"], ["outcomes"]]
    assert order_tables({"cases": ["case"]}) == []


def test_case_and_patient_carry_rows_to_every_slide_of_theirs() -> None:
    """One case has many slides and one patient many cases: all of them get the outcome."""
    matching = match(
        [
            outcomes(Row(2, patient="p")),
            slides(Row(2, image="a", case="x"), Row(3, image="b", case="y")),
            cases(Row(2, case="x", patient="p"), Row(3, case="y", patient="p")),
        ],
        [A, B],
    )

    assert matching.rows["outcomes"][0].scans == (0, 1)
    assert matching.patients == ["p", "p"]
    assert all(outcome.state == "matched" for table in matching.rows.values() for outcome in table)
    assert image_states(matching) == [("matched", None), ("matched", None)]


TABLE_OF_CASES = [
    ("a row without its image", [Row(2, image="z")], [("row-without-image", "image-unknown")]),
    ("a misspelt extension", [Row(2, image="a.svss")], [("row-without-image", "extension-unknown")]),
    ("no name at all", [Row(2)], [("row-without-image", "key-missing")]),
    ("the same row again", [Row(2, image="a"), Row(3, image="a")], [("matched", None), ("duplicate", "same-row")]),
    (
        "the same unknown row again",
        [Row(2, image="z"), Row(3, image="z")],
        [("row-without-image", "image-unknown"), ("duplicate", "same-row")],
    ),
    (
        "a conflicting diagnosis",
        [Row(2, image="a", cells=("PRAD",)), Row(3, image="a", cells=("BRCA",))],
        [("conflict", "rows-differ")] * 2,
    ),
    (
        "a conflict, and one of its rows again",
        [Row(2, image="a", cells=("1",)), Row(3, image="a", cells=("2",)), Row(4, image="a", cells=("1",))],
        [("conflict", "rows-differ"), ("conflict", "rows-differ"), ("conflict", "rows-differ")],
    ),
    ("an image in quarantine", [Row(2, image="c")], [("late", "image-quarantined")]),
    ("a cell that is not of its class", [Row(2, image="a", misfit="misfit:x")], [("conflict", "misfit:x")]),
    (
        "a good row beside a misfit of the same image",
        [Row(2, image="a"), Row(3, image="a", misfit="misfit:x")],
        [("conflict", "rows-differ"), ("conflict", "misfit:x")],
    ),
]


@pytest.mark.parametrize(("rows", "expected"), [c[1:] for c in TABLE_OF_CASES], ids=[c[0] for c in TABLE_OF_CASES])
def test_each_row_has_the_state_a_data_manager_expects(rows: list[Row], expected: list[tuple[str, str | None]]) -> None:
    """The ledger is what people mend exports by: state and reason name the mistake, and nothing doubtful is used."""
    assert states(match([slides(*rows)], [A, B, C]), "slides") == expected


def test_images_say_what_happened_to_them() -> None:
    """An image without a row is as important as a row without an image: four slides silently missing."""
    images = [A, B, C, Image(4, "d", "NUMBERD"), Image(5, "a2", "NUMBERA"), Image(6, "e", "E1"), Image(7, "e", "E2")]
    rows = [Row(2, image="a", case="x"), Row(3, image="d", cells=("1",)), Row(4, image="d", cells=("2",))]

    matching = match([slides(*rows, Row(5, image="c"), Row(6, image="e")), cases(Row(2, case="q"))], images)

    assert image_states(matching) == [
        ("matched", "no-row-in:cases"),
        ("image-without-row", None),
        ("late", "image-quarantined"),
        ("conflict", "rows-in-conflict:slides"),
        ("duplicate", "same-scan"),
        ("conflict", "image-name-ambiguous"),
        ("conflict", "image-name-ambiguous"),
    ]
    assert states(matching, "slides")[-1] == ("conflict", "image-name-ambiguous")


def test_rows_for_images_of_earlier_batches_are_late_with_all_that_hangs_on_them() -> None:
    """A cumulative export names last month's slides too; they are neither lost nor silently realigned."""
    matching = match(
        [
            slides(Row(2, image="old", case="x"), Row(3, image="older.sv", case="y"), Row(4, image="a", case="z")),
            cases(Row(2, case="x", patient="p"), Row(3, case="y", patient="q"), Row(4, case="z", patient="p")),
            outcomes(Row(2, patient="p"), Row(3, patient="q")),
        ],
        [A],
        elsewhere=frozenset({"old"}),
    )

    late, lost = ("late", "image-of-earlier-batch"), "row-without-image"
    assert states(matching, "slides") == [late, (lost, "extension-unknown"), ("matched", None)]
    assert states(matching, "cases") == [late, (lost, "case-without-image"), ("matched", None)]
    assert states(matching, "outcomes") == [("matched", None), (lost, "patient-without-image")]


def test_one_scan_under_two_names_takes_one_row() -> None:
    """A scan delivered twice under two names is one number; two rows that differ would both claim it."""
    images = [Image(1, "a", "N"), Image(2, "copy", "N")]

    same = match([slides(Row(2, image="a"), Row(3, image="copy"))], images)
    differing = match([slides(Row(2, image="a", cells=("1",)), Row(3, image="copy", cells=("2",)))], images)

    assert states(same, "slides") == [("matched", None), ("duplicate", "same-row")]
    assert states(differing, "slides") == [("conflict", "rows-differ")] * 2


def test_tables_that_name_two_patients_for_a_slide_are_not_used_for_it() -> None:
    """Slide A must never get patient B's diagnosis; which table is wrong is for a person to say."""
    matching = match(
        [
            Linked("slides", ("image", "case", "patient"), "image", [Row(2, image="a", case="x", patient="p"),
                                                                     Row(3, image="b", case="y", patient="q")]),
            cases(Row(2, case="x", patient="someone else"), Row(3, case="y", patient="q")),
        ],
        [A, B],
    )  # fmt: skip

    assert states(matching, "slides") == [("conflict", "patients-differ"), ("matched", None)]
    assert states(matching, "cases") == [("conflict", "patients-differ"), ("matched", None)]
    assert matching.patients == [None, "q"]
    assert image_states(matching)[0] == ("conflict", "rows-in-conflict:slides,cases")


def test_a_case_with_slides_of_two_patients_gives_its_row_to_neither() -> None:
    """The case's own row names no patient, so it could be meant for either; the slides keep their own rows."""
    rows = [Row(2, image="a", case="x", patient="p"), Row(3, image="b", case="x", patient="q")]
    both = Linked("slides", ("image", "case", "patient"), "image", rows)

    matching = match([both, cases(Row(2, case="x"), patient=False)], [A, B])

    assert states(matching, "slides") == [("matched", None)] * 2
    assert states(matching, "cases") == [("conflict", "patients-differ")]


def test_two_cases_of_a_patient_who_is_the_only_link_are_in_conflict() -> None:
    """Without a case on the slide nobody knows which case's diagnosis is its own."""
    matching = match(
        [
            Linked("slides", ("image", "patient"), "image", [Row(2, image="a", patient="p")]),
            cases(Row(2, case="x", patient="p"), Row(3, case="y", patient="p")),
            Linked("grades", ("case",), "case", [Row(2, case="x"), Row(3, case="y")]),
        ],
        [A],
    )

    assert states(matching, "cases") == [("conflict", "rows-differ")] * 2
    assert states(matching, "grades") == [("row-without-image", "case-unknown")] * 2


def test_a_conflicting_row_links_nothing() -> None:
    """If two rows disagree on a slide's case, neither case may bring its diagnosis."""
    matching = match([slides(Row(2, image="a", case="x"), Row(3, image="a", case="y")), cases(Row(2, case="x"))], [A])

    assert states(matching, "cases") == [("row-without-image", "case-unknown")]


def test_pairs_made_by_links_are_bounded() -> None:
    """A case column full of one placeholder ties everything to everything; that stops before memory does."""
    images = [Image(n, f"i{n}", f"N{n}") for n in range(100)]
    rows = [Row(n + 2, image=f"i{n}", case="unknown") for n in range(100)]

    with pytest.raises(StructureInvalid):
        match([slides(*rows), cases(Row(2, case="unknown"))], images, max_pairs=99)


names = st.sampled_from(["a", "b", "c", "d", None])
keys = st.sampled_from(["x", "y", "z", None])
people = st.sampled_from(["p", "q", None])
cells = st.sampled_from([("1",), ("2",)])
misfits = st.sampled_from([None, None, None, None, "misfit:f"])


def drawn(**columns: st.SearchStrategy[object]) -> st.SearchStrategy[list[Row]]:
    one = st.fixed_dictionaries({**columns, "cells": cells, "misfit": misfits})
    return st.lists(one, max_size=7).map(lambda rows: [Row(line=n, **row) for n, row in enumerate(rows, start=2)])


drawn_images = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["N1", "N2", "N3", None])), max_size=5).map(
    lambda pairs: [Image(n, *pair) for n, pair in enumerate(pairs, start=1)]
)
drawn_tables = st.tuples(
    drawn(image=names, case=keys, patient=people), drawn(case=keys, patient=people), drawn(patient=people)
).map(
    lambda rows: [
        Linked("slides", ("image", "case", "patient"), "image", rows[0]),
        Linked("cases", ("case", "patient"), "case", rows[1]),
        Linked("outcomes", ("patient",), "patient", rows[2]),
    ]
)
LEDGER = {"matched", "row-without-image", "image-without-row", "duplicate", "conflict", "late"}


@given(tables=drawn_tables, images=drawn_images)
@settings(max_examples=300)
def test_laws_of_the_ledger(tables: list[Linked], images: list[Image]) -> None:
    """Totals add up; nothing doubtful is used; a slide takes at most one row of a table and one patient."""
    matching = match(tables, images)

    assert {t.name: len(t.rows) for t in tables} == {name: len(found) for name, found in matching.rows.items()}
    assert len(matching.images) == len(images)
    assert all(o.state in LEDGER - {"image-without-row"} for found in matching.rows.values() for o in found)
    assert all(o.state in LEDGER - {"row-without-image"} for o in matching.images)
    for table in tables:
        used = Counter(s for o in matching.rows[table.name] if o.state == "matched" for s in o.scans)
        assert max(used.values(), default=0) <= 1
        for row, outcome in zip(table.rows, matching.rows[table.name], strict=True):
            assert not (row.misfit and outcome.state != "conflict")
            if outcome.state == "matched":
                assert any(matching.numbers[scan] for scan in outcome.scans)
                assert {matching.patients[scan] for scan in outcome.scans} <= {row.patient, None} or not row.patient
    for image, outcome in zip(images, matching.images, strict=True):
        reached = [o.state for found in matching.rows.values() for o in found if outcome.scans[0] in o.scans]
        assert outcome.state != "matched" or (image.number and "matched" in reached and "conflict" not in reached)
        assert outcome.state != "image-without-row" or not {"matched", "conflict"} & set(reached) or not image.number


@given(tables=drawn_tables, images=drawn_images, seed=st.randoms(use_true_random=False))
@settings(max_examples=100)
def test_the_order_of_rows_never_decides(tables: list[Linked], images: list[Image], seed: object) -> None:
    """Exports are sorted differently every month; which of two identical rows counts is all that may change."""
    shuffled = []
    for table in tables:
        rows = list(table.rows)
        seed.shuffle(rows)  # type: ignore[attr-defined]
        shuffled.append(Linked(table.name, table.links, table.grain, rows))

    before, after = match(tables, images), match(shuffled, images)

    assert image_states(before) == image_states(after)
    for table in tables:
        assert Counter(states(before, table.name)) == Counter(states(after, table.name))


@given(rows=drawn(image=names), images=drawn_images)
@settings(max_examples=200)
def test_direct_matching_equals_the_obvious_slow_way(rows: list[Row], images: list[Image]) -> None:
    """An oracle that compares every row with every row and every image: slow and plain."""
    table = Linked("slides", ("image",), "image", rows)
    scan_of = {i.line: i.number or f"line {i.line}" for i in images}

    def scans(row: Row) -> set[str]:
        return {scan_of[i.line] for i in images if i.key == row.image}

    def same_thing(one: Row, other: Row) -> bool:
        mine, others = scans(one), scans(other)
        return mine == others if len(mine) == len(others) == 1 else one.image == other.image

    expected = []
    for index, row in enumerate(rows):
        peers = [r for r in rows if row.image is not None and r.image is not None and same_thing(row, r)]
        earlier = [r for r in rows[:index] if r in peers and not r.misfit]
        repeated = any(r.content() == row.content() for r in earlier)
        numbers = {i.number for i in images if i.key == row.image}
        differs = any(r.misfit or r.content() != row.content() for r in peers)
        if row.misfit or len(scans(row)) > 1:
            expected.append("duplicate" if not row.misfit and repeated else "conflict")
        elif row.image is None or not numbers:
            expected.append("duplicate" if repeated else "row-without-image")
        elif differs:
            expected.append("conflict")
        elif repeated:
            expected.append("duplicate")
        else:
            expected.append("late" if numbers == {None} else "matched")

    assert [outcome.state for outcome in match([table], images).rows["slides"]] == expected


@pytest.mark.slow
def test_ten_times_the_rows_cost_about_ten_times_the_steps() -> None:
    """Growth is linear even where one case holds a thousand slides and every row comes twice. Lines run are
    counted, not seconds: the same on every machine."""

    def steps(count: int) -> int:
        images = [Image(n, f"i{n}", f"N{n}") for n in range(count)]
        direct = [Row(n, image=f"i{n % count}", case=f"c{n % count // 1000}") for n in range(2 * count)]
        linked = [Row(n, case=f"c{n % (count // 1000)}", patient=f"p{n}", cells=(str(n),)) for n in range(count)]
        counted = 0

        def trace(*_: object) -> object:
            nonlocal counted
            counted += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            match([slides(*direct), cases(*linked), outcomes(*linked)], images)
        finally:
            sys.settrace(before)
        return counted

    assert steps(10_000) < 12 * steps(1_000)
