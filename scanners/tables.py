"""Delimited tables from outside, read strictly: what is not certain is refused, never guessed away.

Strict means: one encoding for the whole file and no replacement characters, every row exactly as wide as the
header, quotes that close, no NUL, and a named bound on everything. Errors name lines and counts, never a
value. The caller runs this in the parsing child: a table can be a bomb like any other file.

Read `read` first; the encodings follow in the order in which they are tried.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator

from msgspec import Struct

from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.source import ByteSource

ENCODINGS = ("utf-8", "utf-16", "cp1252", "cp1250", "latin-1", "latin-2")
DELIMITERS = (",", ";", "\t", "|")

_BYTE_ORDER_MARKS = (
    # UTF-32 little-endian begins like UTF-16's mark, so it is looked for first; nobody exports it on purpose
    (b"\xff\xfe\x00\x00", "utf-32", 4),
    (b"\x00\x00\xfe\xff", "utf-32", 4),
    (b"\xef\xbb\xbf", "utf-8", 3),
    (b"\xff\xfe", "utf-16-le", 2),
    (b"\xfe\xff", "utf-16-be", 2),
)


class Bounds(Struct, frozen=True):
    """What one table may be. A yearly export has some hundred thousand rows and some dozen columns."""

    table_bytes: int = 256 << 20
    rows: int = 2_000_000
    columns: int = 512
    cell_chars: int = 65_536
    cells: int = 40_000_000


class Row(Struct, frozen=True):
    """`line` is where the record begins, counted from 1 as an editor does."""

    line: int
    cells: list[str]


class Table(Struct, frozen=True):
    """A table as it was written. `skipped` counts the lines that are no rows: comments, blank lines and
    repetitions of the header (exports that were concatenated)."""

    encoding: str
    delimiter: str
    header: list[str]
    rows: list[Row]
    skipped: dict[str, int]


def read(
    source: ByteSource,
    *,
    encoding: str = "auto",
    delimiter: str = "auto",
    comment: str = "#",
    bounds: Bounds | None = None,
) -> Table:
    """The whole table, or StructureInvalid / PlaceUnknown with the line. Nothing of the file is left out
    but what `skipped` counts."""
    bounds = bounds or Bounds()
    if source.size_bytes > bounds.table_bytes:
        raise StructureInvalid(f"the table has {source.size_bytes} bytes, more than {bounds.table_bytes}")
    text, name = decode(source.read(0, source.size_bytes), encoding=encoding)
    _refuse_nul(text)
    said = _separator_line(text)
    if said and delimiter not in ("auto", said):
        raise StructureInvalid("the table's first line names another delimiter than the declared one", where="line 1")
    lines = _Lines(text, comment=comment, said=bool(said))
    separator = delimiter if delimiter != "auto" else said or sniff(_first_record(text, comment))
    records = _records(lines, separator, bounds)
    header = _header(records, bounds)
    rows, skipped = _rows(records, header, bounds)
    skipped["comments"] = lines.comments
    return Table(encoding=name, delimiter=separator, header=header, rows=rows, skipped=skipped)


# --- bytes to text -------------------------------------------------------------------------------------


def decode(data: bytes, *, encoding: str = "auto") -> tuple[str, str]:
    """The text and the encoding's name. `auto` believes a byte order mark, then tries UTF-8, which text in
    another encoding practically never satisfies by chance, then Windows-1252, which has five undefined
    bytes. A declared encoding is never overruled: a mark that says otherwise is a contradiction."""
    marked, skip = _mark(data)
    if marked == "utf-32":
        raise StructureInvalid("the table is in UTF-32, which is not read")
    if encoding == "auto":
        candidates = (marked or _unmarked(data),) if marked or _unmarked(data) else ("utf-8", "cp1252")
    elif marked and not marked.startswith(encoding):
        raise StructureInvalid(f"the table is declared {encoding}, but begins with the mark of {marked}")
    elif encoding == "utf-16" and not marked:
        raise StructureInvalid(
            "the table is declared utf-16, but has no byte order mark", hint="Export it again with the mark."
        )
    else:
        candidates = (marked or encoding,)
    return _decode_strictly(data[skip:], candidates)


def _mark(data: bytes) -> tuple[str, int]:
    for mark, name, length in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return name, length
    return "", 0


def _unmarked(data: bytes) -> str:
    """UTF-16 without its mark, told by NULs that stand in every second place of the first characters and nowhere else
    among them. Fewer than 32 characters are no certainty; anything else with a NUL is no text and is refused later."""
    head = data[:64]
    if len(data) % 2 or len(head) < 64:
        return ""
    if all(head[1::2]) != all(head[0::2]) and (not any(head[1::2]) or not any(head[0::2])):
        return "utf-16-be" if not any(head[0::2]) else "utf-16-le"
    return ""


def _decode_strictly(body: bytes, candidates: tuple[str, ...]) -> tuple[str, str]:
    line = 1
    for name in candidates:
        try:
            return body.decode(name), name
        except UnicodeDecodeError as error:
            line = body.count(b"\n", 0, error.start) + 1
    # the decoder's own error quotes the bytes, so it is not kept as the cause
    tried = " nor ".join(candidates)
    raise StructureInvalid(
        f"the table is not valid {tried} at line {line}", where=f"line {line}",
        hint="Declare the table's encoding in the policy, or export it as UTF-8.",
    ) from None  # fmt: skip


def _refuse_nul(text: str) -> None:
    position = text.find("\x00")
    if position >= 0:
        line = text.count("\n", 0, position) + 1
        raise StructureInvalid(
            f"a NUL character stands in line {line}", where=f"line {line}",
            hint="A table in UTF-16 needs its byte order mark; anything else with NULs is no text.",
        )  # fmt: skip


# --- text to records -----------------------------------------------------------------------------------


def _separator_line(text: str) -> str:
    """The delimiter that a first line `sep=;` names: spreadsheets write it for themselves, it is no record."""
    match = re.match(r"sep=([,;\t|])(?:\r\n|\r|\n|\Z)", text, re.IGNORECASE)
    return match[1] if match else ""


class _Lines:
    """Feeds the reader line by line, leaving out comment lines, but only where a record may begin: inside a
    quoted cell a line that looks like a comment is part of the cell. `said`: the first line named the delimiter."""

    def __init__(self, text: str, *, comment: str, said: bool = False) -> None:
        # newline="" keeps the ends, so that line breaks inside quoted cells stay what they were
        self._lines = iter(io.StringIO(text, newline=""))
        self._comment = comment
        self.comments = 0
        self.line = 1 if said else 0
        self.record_line = 0
        if said:
            next(self._lines)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while True:
            text = next(self._lines)
            self.line += 1
            if self.record_line:
                return text
            if self._comment and text.startswith(self._comment):
                self.comments += 1
                continue
            self.record_line = self.line
            return text

    def begin_record(self) -> None:
        self.record_line = 0


def _first_record(text: str, comment: str) -> str:
    for line in io.StringIO(text, newline=""):
        if line.strip() and not (comment and line.startswith(comment)):
            return line
    raise StructureInvalid("the table has no header")


def sniff(header: str) -> str:
    """The delimiter by the header alone: rows hold other people's punctuation. A tie is refused."""
    bare = "".join(part for index, part in enumerate(header.split('"')) if index % 2 == 0)
    counts = sorted(((bare.count(mark), mark) for mark in DELIMITERS), reverse=True)
    if counts[0][0] == 0:
        return ","
    if counts[0][0] == counts[1][0]:
        raise StructureInvalid(
            "two delimiters are equally frequent in the header", where="line 1",
            hint="Declare the table's delimiter in the policy.",
        )  # fmt: skip
    return counts[0][1]


def _records(lines: _Lines, delimiter: str, bounds: Bounds) -> Iterator[Row]:
    before = csv.field_size_limit(bounds.cell_chars)
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            lines.begin_record()
            try:
                cells = next(reader)
            except StopIteration:
                return
            yield Row(line=lines.record_line, cells=cells)
    except csv.Error:
        # its words differ between versions and may come to quote; where it happened is enough
        raise StructureInvalid(
            f"the record that begins in line {lines.record_line} is not well formed: a quote that does not"
            f" close, text after a closing quote, or a cell over {bounds.cell_chars} characters",
            where=f"line {lines.record_line}",
        ) from None
    finally:
        csv.field_size_limit(before)


def _header(records: Iterator[Row], bounds: Bounds) -> list[str]:
    for record in records:
        names = [unicodedata.normalize("NFC", cell).strip() for cell in record.cells]
        if not any(names):
            continue
        if len(names) > bounds.columns:
            raise StructureInvalid(f"the header has {len(names)} columns, more than {bounds.columns}")
        _refuse_twins(names, record.line)
        return names
    raise StructureInvalid("the table has no header")


def _refuse_twins(names: list[str], line: int) -> None:
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if name in seen:
            raise PlaceUnknown(
                f"columns {seen[name]} and {position} have the same name, so no rule can tell them apart",
                where=f"line {line}",
            )
        seen[name] = position


def _rows(records: Iterator[Row], header: list[str], bounds: Bounds) -> tuple[list[Row], dict[str, int]]:
    rows: list[Row] = []
    skipped = {"blank": 0, "headers": 0}
    most = min(bounds.rows, bounds.cells // len(header))
    for record in records:
        if not any(record.cells) or not any(cell.strip() for cell in record.cells):
            skipped["blank"] += 1
        elif len(record.cells) != len(header):
            raise StructureInvalid(
                f"the row in line {record.line} has {len(record.cells)} cells, the header has {len(header)}",
                where=f"line {record.line}",
                hint="A shifted row would put a name under another column's rule; mend the export.",
            )
        elif [cell.strip() for cell in record.cells] == header:
            skipped["headers"] += 1
        elif len(rows) >= most:
            raise StructureInvalid(f"the table has more than {most} rows", where=f"line {record.line}")
        else:
            rows.append(record)
    return rows, skipped
