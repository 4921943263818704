"""Tables from outside are read strictly: whole and certain, or refused with the line and never a value."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.errors import MoverError, PlaceUnknown, StructureInvalid
from mover.model.source import MemorySource
from scanners.tables import DELIMITERS, Bounds, Table, read, sniff


def table(data: bytes | str, **options: object) -> Table:
    body = data.encode() if isinstance(data, str) else data
    return read(MemorySource(body), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("encoding", "declared", "found"),
    [
        ("utf-8-sig", "auto", "utf-8"),
        ("utf-8", "auto", "utf-8"),
        ("utf-8-sig", "utf-8", "utf-8"),
        ("utf-16", "auto", "utf-16-le"),
        ("utf-16", "utf-16", "utf-16-le"),
        ("cp1252", "auto", "cp1252"),
        ("cp1252", "cp1252", "cp1252"),
        ("latin-1", "latin-1", "latin-1"),
    ],
)
def test_every_declared_dialect_yields_the_same_cells(encoding: str, declared: str, found: str) -> None:
    """Three departments export in three encodings; a wrong guess would break every join on a name."""
    text = "file;größe\r\nGrünwald_1.svs;7\r\n"

    read_back = table(text.encode(encoding), encoding=declared)

    assert (read_back.encoding, read_back.delimiter) == (found, ";")
    assert read_back.header == ["file", "größe"]
    assert [row.cells for row in read_back.rows] == [["Grünwald_1.svs", "7"]]


def test_big_endian_utf16_is_believed_by_its_mark() -> None:
    """Exports from large-endian systems exist; their mark says so."""
    body = b"\xfe\xff" + "a\tb\n1\t2\n".encode("utf-16-be")

    assert table(body).rows[0].cells == ["1", "2"]


@pytest.mark.parametrize(
    ("data", "options", "line"),
    [
        (b"a,b\n1,2\n1,\x81\n", {}, "line 3"),
        (b"a,b\n1,2\n\xff,3\n", {"encoding": "utf-8"}, "line 3"),
        (b"\xef\xbb\xbfa,b\n", {"encoding": "cp1252"}, ""),
        ("a,b\n".encode("utf-16-le"), {"encoding": "utf-16"}, ""),
        ("a,b\n".encode("utf-16-le"), {}, "line 1"),
        (b"a,b\n1,2\x00\n", {}, "line 2"),
        ("\ufeffa,b\n".encode("utf-32-le"), {}, ""),
        (b'a,b\n1,"2\n', {}, "line 2"),
        (b'a,b\n1,"2"x\n', {}, "line 2"),
        (b"a,b\n1,2\n1,2,3\n", {}, "line 3"),
        (b"a,b\n1\n", {}, "line 2"),
        (b"", {}, ""),
        (b"# only a comment\n\n", {}, ""),
        (b"a;b,c\n", {}, "line 1"),
    ],
)
def test_what_is_not_certain_is_refused_by_line(data: bytes, options: dict[str, str], line: str) -> None:
    """Silent replacement or a shifted cell puts an identifier under the wrong rule."""
    with pytest.raises(StructureInvalid) as refused:
        table(data, **options)

    assert refused.value.where == line


def test_two_columns_of_one_name_cannot_be_told_apart() -> None:
    """A rule names a column; two of the same name would share it by accident."""
    with pytest.raises(PlaceUnknown):
        table("name,stain,name\n1,2,3\n")


@pytest.mark.parametrize(
    ("bounds", "data"),
    [
        (Bounds(table_bytes=8), "a,b\n1,2\n3,4\n"),
        (Bounds(rows=1), "a,b\n1,2\n3,4\n"),
        (Bounds(columns=1), "a,b\n1,2\n"),
        (Bounds(cell_chars=4), "a,b\n12345,2\n"),
        (Bounds(cells=3), "a,b\n1,2\n3,4\n"),
    ],
)
def test_every_bound_stops_the_file(bounds: Bounds, data: str) -> None:
    """A table can be a bomb; each way of growing has a named limit."""
    with pytest.raises(StructureInvalid):
        table(data, bounds=bounds)


def test_lines_that_are_no_rows_are_counted_not_lost() -> None:
    """Totals must add up to what stands in the file, so nothing is skipped without a count."""
    text = "# exported 2024\n\na,b\n# note\n1,2\n\n a ,b\n3,4\n , \n"

    read_back = table(text)

    assert [(row.line, row.cells) for row in read_back.rows] == [(5, ["1", "2"]), (8, ["3", "4"])]
    assert read_back.skipped == {"comments": 2, "blank": 2, "headers": 1}


def test_a_line_break_inside_quotes_belongs_to_the_cell_and_lines_stay_true() -> None:
    """Notes span lines; a comment sign inside them is text, and the next row's line is the editor's."""
    text = 'a,b\r\n1,"first\r\n# second"\r\n3,4\r\n'

    rows = table(text).rows

    assert [(row.line, row.cells) for row in rows] == [(2, ["1", "first\r\n# second"]), (4, ["3", "4"])]


def test_a_policy_without_comments_keeps_rows_that_begin_with_the_sign() -> None:
    """A file name may begin with #; losing that row silently would be a missing slide."""
    assert [row.cells[0] for row in table("a,b\n#1.svs,2\n", comment="").rows] == ["#1.svs"]


def test_quoted_header_cells_do_not_mislead_the_sniffer() -> None:
    """Headers such as "Name, first" quote the delimiter of another dialect."""
    assert sniff('"name, first, last";age;sex\n') == ";"
    assert sniff("single\n") == ","


secret = "Kowalczyk"


@pytest.mark.parametrize(
    "data",
    [
        f'a,b\n1,"{secret}\n',
        f'a,b\n"{secret}"{secret},1\n',
        f"a,b\n{secret},1,2\n",
        f"{secret},{secret}\n1,2\n",
        f"a,b\n{secret}\x00,1\n",
        f"a,{secret}\n".encode("utf-16-le"),
        f"a,b\n{secret}".encode() + b"\x81,1\n",
    ],
)
def test_no_error_repeats_what_stood_in_the_file(data: bytes | str) -> None:
    """Errors reach logs and pages of roles that may not see names (I2)."""
    with pytest.raises(MoverError) as refused:
        table(data)

    error = refused.value
    assert secret not in f"{error} {error.details} {error.__cause__!r}"
    assert error.__suppress_context__ or error.__context__ is None


cell = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=12)


@given(
    rows=st.lists(st.lists(cell, min_size=3, max_size=3), max_size=12),
    delimiter=st.sampled_from(DELIMITERS),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_was_written_is_read_or_counted(rows: list[list[str]], delimiter: str, encoding: str) -> None:
    """Law: every written record comes back as it was, or as a counted line that is no row."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([["one", "two", "three"], *rows])

    read_back = table(out.getvalue().encode(encoding), delimiter=delimiter)

    bare = [[c.strip() for c in row] for row in rows]
    kept = [
        row for row, cells in zip(rows, bare, strict=True) if any(cells) and cells != ["one", "two", "three"]
    ]
    assert [row.cells for row in read_back.rows] == kept
    assert len(kept) + read_back.skipped["blank"] + read_back.skipped["headers"] == len(rows)


@given(st.binary(max_size=400))
def test_any_bytes_end_in_a_table_or_a_refusal(data: bytes) -> None:
    """No input makes the reader fail in another way than by its own errors."""
    try:
        read_back = table(data)
    except (StructureInvalid, PlaceUnknown):
        return
    assert all(len(row.cells) == len(read_back.header) for row in read_back.rows)


def test_the_three_dialects_of_the_samples_are_read() -> None:
    """The planted pack's tables look like real exports: BOM and commas, semicolons, UTF-16 and tabs."""
    if "MOVER_SAMPLES" not in os.environ:
        pytest.skip("MOVER_SAMPLES is not set")
    folder = Path(os.environ["MOVER_SAMPLES"]) / "planted_dev" / "originals" / "csv"

    found = {p.name: table(p.read_bytes()) for p in sorted(folder.glob("*.csv"))}

    assert {name: (t.encoding, t.delimiter, len(t.rows)) for name, t in found.items()} == {
        "csv1_slides.csv": ("utf-8", ",", 16),
        "csv2_cases.csv": ("utf-8", ";", 12),
        "csv3_outcomes.csv": ("utf-16-le", "\t", 12),
    }
