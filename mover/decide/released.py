"""How a table is rewritten for a release: which rule it is of, whom each row names, and what each cell becomes.

A released table keeps its rows in their order and the declared columns that may leave, under the names the profile
gives them. Pseudonyms stand for patients, cases, blocks and slides, dates move with their patient; all other classes
let a cell through as it was written, after it proved to be of its class (`decide.tables`). A cell that is not is
emptied and listed by its shape; more of them than the rule admits stop the file, because then a column is not what the
profile says.

In order: `fit` (which rule), `named` (whom a row names), `rewrite` (cells out), then `net` (nothing that leaves equals
what is withheld of the same patient) and `suppress` (k-anonymity).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, timedelta

from msgspec import Struct

from mover.decide.folding import fold
from mover.decide.matching import canonical_image
from mover.decide.patients import says_no_id
from mover.decide.tables import (
    AGE_EDGE,
    FEW_MISFITS,
    Misfit,
    Value,
    allowed_values,
    key_text,
    mask,
    no_values,
    reader_of,
    readings,
    tokens,
)
from mover.errors import ChangedWhileReading, PlaceUnknown, StructureInvalid
from mover.model.policy import ColumnRule, TableRule

KEYED = ("patient", "case", "block", "slide", "image")
VERBATIM = ("integer", "number", "boolean", "enum", "code")
MAX_WORD_CHARS = 120  # a longer cell is a text, not somebody's name or address
SOUGHT_CHARS = 5
# three letters, or six digits: a shorter number turns up by chance in any file, and is sought within the patient's own
# rows only
_SOUGHT = re.compile(r"(?:[^\W\d_][\W\d_]*){3}|(?:[0-9][^0-9]*){6}")

Key = tuple[str, str]  # kind (patient, case, block, slide) and the text it is known by


# --- which rule ------------------------------------------------------------------------------------------


class Column(Struct, frozen=True):
    """A declared column where it stands in this file."""

    name: str
    rule: ColumnRule
    position: int


class Placement(Struct, frozen=True):
    """`kept` in the file's order; `withheld` are declared and do not leave; `unlisted` are positions no rule names."""

    table: TableRule
    kept: tuple[Column, ...]
    withheld: tuple[Column, ...]
    unlisted: tuple[int, ...]

    def columns(self) -> Iterator[Column]:
        yield from self.kept
        yield from self.withheld


def leaves(rule: ColumnRule) -> bool:
    """Whether cells of this column stand in a released table at all."""
    if rule.rule == "date":
        return rule.dates != "drop"
    if rule.rule == "text":
        return rule.text == "scrub"
    return rule.rule != "drop"


def fit(header: Sequence[str], rules: Sequence[TableRule]) -> Placement:
    """The rule whose columns this header has. PlaceUnknown when there is none, or when columns are not listed and the
    rule does not drop them: with position, masked shape and a proposed rule, because a header can hold a name too."""
    placed = [_place(header, table) for table in rules]
    whole = [one for one in placed if not _missing(one) and (not one.unlisted or one.table.others == "drop")]
    whole.sort(key=lambda one: (len(one.unlisted), -_count(one)))
    if not whole:
        raise _unfit(header, placed)
    if len(whole) > 1 and len(whole[0].unlisted) == len(whole[1].unlisted) and _count(whole[0]) == _count(whole[1]):
        raise PlaceUnknown(
            f"the tables {whole[0].table.name} and {whole[1].table.name} of the profile both fit this header",
            hint="Give each table of the profile a column of its own that is not optional.",
        )
    return whole[0]


def _place(header: Sequence[str], table: TableRule) -> Placement:
    declared = {fold(name): (name, rule) for name, rule in table.columns.items()}
    kept: list[Column] = []
    withheld: list[Column] = []
    unlisted: list[int] = []
    for position, text in enumerate(header):
        known = declared.pop(fold(text), None)
        if known is None:
            unlisted.append(position)
        else:
            (kept if leaves(known[1]) else withheld).append(Column(known[0], known[1], position))
    return Placement(table=table, kept=tuple(kept), withheld=tuple(withheld), unlisted=tuple(unlisted))


def _count(placement: Placement) -> int:
    return len(placement.kept) + len(placement.withheld)


def _missing(placement: Placement) -> list[str]:
    present = {column.name for column in placement.columns()}
    return [name for name, rule in placement.table.columns.items() if name not in present and not rule.optional]


def _unfit(header: Sequence[str], placed: Sequence[Placement]) -> PlaceUnknown:
    nearest = max(placed, key=lambda one: (_count(one), -len(_missing(one))), default=None)
    if nearest is None or not _count(nearest):
        return PlaceUnknown(
            f"no table of the profile has any of this file's {len(header)} columns",
            hint="Declare the table in the profile, or name the profile that has it.",
        )
    missing = _missing(nearest)
    unknown = [
        {"table": nearest.table.name, "position": p + 1, "shape": mask(header[p]), "proposed": "{class: drop}"}
        for p in nearest.unlisted
    ]
    absent = [{"table": nearest.table.name, "missing": name} for name in missing]
    if unknown and nearest.table.others == "refuse":
        what = f"column {unknown[0]['position']} (shape {unknown[0]['shape']}) is not listed in the profile"
    else:
        what = f"the column {missing[0]} that the profile lists is not in the file"
    return PlaceUnknown(
        what,
        where=f"table {nearest.table.name}",
        hint="List each column with its class (`drop` if it must not leave; `optional` if it may be absent).",
        details=[*unknown, *absent],
    )


# --- whom a row names --------------------------------------------------------------------------------------


class Named(Struct, frozen=True):
    """What reading a row's keys gave: by column position the keys its cell names (none for an empty cell), and the
    positions whose cells are no keys."""

    keys: dict[int, tuple[Key, ...]]
    misfits: frozenset[int]

    def all(self) -> tuple[Key, ...]:
        """Each once, the patient first, then the case: the row's first key says whose row it is."""
        found = dict.fromkeys(key for keys in self.keys.values() for key in keys)
        return tuple(sorted(found, key=lambda key: ("patient", "case", "block", "slide").index(key[0])))


def named(placement: Placement, *, extensions: Sequence[str]) -> Callable[[Sequence[str]], Named]:
    """The function that reads the keys of a row of this table."""
    readers = [
        (column.position, _key_reader(column.rule, extensions))
        for column in placement.columns()
        if column.rule.rule in KEYED
    ]

    def read(cells: Sequence[str]) -> Named:
        keys: dict[int, tuple[Key, ...]] = {}
        misfits = set()
        for position, read_key in readers:
            try:
                keys[position] = read_key(cells[position])
            except Misfit:
                misfits.add(position)
        return Named(keys, frozenset(misfits))

    return read


def _key_reader(rule: ColumnRule, extensions: Sequence[str]) -> Callable[[str], tuple[Key, ...]]:
    pattern = re.compile(rule.pattern) if rule.pattern else None
    if rule.rule == "block" and pattern is not None and pattern.groupindex:
        return lambda cell: _barcode(pattern, cell)

    def read(cell: str) -> tuple[Key, ...]:
        text = key_text(cell, pattern)
        if not text or (rule.rule == "patient" and says_no_id(text)):
            return ()
        key = canonical_image(text, extensions) if rule.rule == "image" else fold(text)
        if not key:
            raise Misfit
        return (("slide" if rule.rule == "image" else rule.rule, key),)

    return read


def _barcode(pattern: re.Pattern[str], cell: str) -> tuple[Key, ...]:
    """The case, the block and the slide that a barcode names, each known by all that is above it: `B6` alone is a block
    of every case."""
    text = unicodedata.normalize("NFC", cell).strip()
    if not text:
        return ()
    match = pattern.fullmatch(text)
    if match is None:
        raise Misfit
    found: list[Key] = []
    above = ""
    for kind in pattern.groupindex:
        part = fold(match[kind] or "")
        if not part:
            break
        above = f"{above};{part}" if above else part
        found.append((kind, above))
    if not found:
        raise Misfit
    return tuple(found)


def names_of(placement: Placement, cells: Sequence[str]) -> Iterator[str]:
    """The cells of a row that name somebody and do not leave as they are: keys, dropped cells, dates, addresses. Long
    cells are texts; their words are not names."""
    for column in placement.columns():
        if column.rule.rule in VERBATIM or column.rule.rule in ("age", "text"):
            continue
        text = " ".join(cells[column.position].split())
        if _may_be_a_name(text):
            yield text
    for position in placement.unlisted:
        text = " ".join(cells[position].split())
        if _may_be_a_name(text):
            yield text


def _may_be_a_name(text: str) -> bool:
    """Two letters are a surname (Ng, Do), a letter and a digit are none."""
    return 3 <= len(text) <= MAX_WORD_CHARS or (len(text) == 2 and text.isalpha())


def is_sought(text: str) -> bool:
    """Long enough to be sought in any file of the release without false alarms."""
    return len(text) >= SOUGHT_CHARS and _SOUGHT.search(text) is not None


# --- what each cell becomes ----------------------------------------------------------------------------------


class Writing(Struct, frozen=True):
    """What a row's cells may need from outside: the pseudonym of a key, and what becomes of a free text."""

    pseudonym: Callable[[Key], str]
    scrub: Callable[[str], str | None]
    offset_days: int | None


class Emptied(Struct, frozen=True):
    """A cell that did not leave: `row` counts from 0, `column` is the place among the kept."""

    row: int
    column: int
    reason: str


CellWriter = Callable[[str, "tuple[Key, ...]", Writing], "str | None"]


def writer_of(rule: ColumnRule, *, this_year: int) -> CellWriter:
    """The function that rewrites a cell of this column: its text, None when it must be looked at, or Misfit."""
    if rule.rule in KEYED:
        return _write_key
    if rule.rule == "text":
        return lambda cell, keys, writing: writing.scrub(cell)
    if rule.rule == "date":
        return _date_writer(rule, this_year=this_year)
    as_written = rule.rule in VERBATIM and rule.round is None
    write = _remembering(_verbatim_writer(rule) if as_written else _plain_writer(rule))
    return lambda cell, keys, writing: write(cell)


def _write_key(cell: str, keys: tuple[Key, ...], writing: Writing) -> str:
    """A barcode becomes the pseudonyms of its case, block and slide in that order, so that joins on each survive."""
    return ";".join(writing.pseudonym(key) for key in keys)


def _date_writer(rule: ColumnRule, *, this_year: int) -> CellWriter:
    read = reader_of(rule)
    edge = this_year - AGE_EDGE
    absent = no_values(rule)

    def write(cell: str, keys: tuple[Key, ...], writing: Writing) -> str | None:
        value = read(cell)
        if not isinstance(value, date):
            return _printed(cell) if fold(cell) in absent else ""
        if rule.dates == "year":
            # a year of birth that tells an age above 89 joins the class of the oldest
            return str(max(value.year, edge) if rule.birth else value.year)
        if writing.offset_days is None or (rule.birth and value.year <= edge):
            return ""
        return write_date(value + timedelta(days=writing.offset_days), rule)

    return write


def write_date(value: date, rule: ColumnRule) -> str:
    """ISO 8601, as a calendar date or an ordinal one. A year below 1000 would lose its zeros in strftime."""
    return f"{value.year:04d}-{value.timetuple().tm_yday:03d}" if rule.write == "ordinal" else value.isoformat()


def _plain_writer(rule: ColumnRule) -> Callable[[str], str]:
    """Ages, areas and what is rounded, which may change: written anew."""
    read = reader_of(rule)
    absent = no_values(rule)

    def write(cell: str) -> str:
        value = read(cell)
        return (_printed(cell) if fold(cell) in absent else "") if value is None else _spelt(value)

    return write


def _spelt(value: Value) -> str:
    """Without the digits that floating point adds: 0.3, not 0.30000000000000004."""
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _verbatim_writer(rule: ColumnRule) -> Callable[[str], str]:
    """The cell as it was written, once it proved to be of its class; a synonym becomes what it means."""
    read = _verbatim_reader(rule)
    synonyms = {fold(said): meant for said, meant in rule.map.items()}
    listed = {fold(value): value for value in (allowed_values(rule) if rule.rule == "enum" else rule.values)}

    def write(cell: str) -> str:
        folded = fold(cell)
        if not folded:
            return ""
        if folded in listed:
            return _printed(cell) or listed[folded]
        read(cell)
        return synonyms[folded] if folded in synonyms else _printed(cell)

    return write


def _verbatim_reader(rule: ColumnRule) -> Callable[[str], Value]:
    """Where a number may be read in two ways, one in range is enough: it stays as it is written."""
    read = reader_of(rule)
    if rule.rule not in ("integer", "number") or rule.decimal != "any":
        return read

    def either(cell: str) -> Value:
        try:
            return read(cell)
        except Misfit:
            low, high = rule.minimum, rule.maximum
            for value in readings(cell.strip()):
                if (low is None or value >= low) and (high is None or value <= high):
                    return value
            raise

    return either


def _printed(cell: str) -> str:
    """The cell itself where it is plain text of one line; otherwise without what surrounds it."""
    if cell.isprintable():
        return cell
    bare = cell.strip()
    if not all(character.isprintable() or character in "\u00a0\u2009\u202f" for character in bare):
        raise Misfit
    return bare


def _remembering(write: Callable[[str], str]) -> Callable[[str], str]:
    memory: dict[str, str] = {}

    def remember(cell: str) -> str:
        found = memory.get(cell)
        if found is None:
            found = write(cell)
            if len(memory) < 10_000:
                memory[cell] = found
        return found

    return remember


def rewrite(
    placement: Placement,
    rows: Iterable[tuple[Sequence[str], Named, Writing]],
    *,
    this_year: int,
) -> tuple[list[list[str]], list[Emptied]]:
    """The rows of the release and what did not leave. The caller calls `check_share` with both before anything else."""
    writers = [writer_of(column.rule, this_year=this_year) for column in placement.kept]
    written: list[list[str]] = []
    emptied: list[Emptied] = []
    for index, (cells, keys, writing) in enumerate(rows):
        out: list[str] = []
        for place, (column, write) in enumerate(zip(placement.kept, writers, strict=True)):
            text, reason = _write_cell(write, column, cells[column.position], keys, writing)
            out.append(text)
            if reason:
                emptied.append(Emptied(index, place, reason))
        written.append(out)
    return written, emptied


def _write_cell(write: CellWriter, column: Column, cell: str, keys: Named, writing: Writing) -> tuple[str, str]:
    if column.position in keys.misfits:
        return "", "misfit"
    try:
        text = write(cell, keys.keys.get(column.position, ()), writing)
    except Misfit:
        return "", "misfit"
    if text is None:
        return "", "leftover"
    if column.rule.rule == "date" and not text and cell.strip() and fold(cell) not in no_values(column.rule):
        return "", "no-patient" if writing.offset_days is None else "age-above-89"
    return text, ""


def check_share(placement: Placement, emptied: Sequence[Emptied], rows: int) -> None:
    """Raises PlaceUnknown when so many rows misfit that a column cannot be what the profile says."""
    misfits = [one for one in emptied if one.reason == "misfit"]
    count = len({one.row for one in misfits})
    if count <= max(FEW_MISFITS, rows * placement.table.misfits_percent / 100):
        return
    by_column = Counter(placement.kept[one.column].name for one in misfits)
    raise PlaceUnknown(
        f"{count} of {rows} rows hold a cell that is not of its declared class",
        where=f"table {placement.table.name}",
        hint="Look whether the named columns hold what the profile says; nothing of the file was used.",
        details=[
            {"table": placement.table.name, "column": name, "cells": cells} for name, cells in sorted(by_column.items())
        ],
    )


def pseudonyms(keys: Mapping[str, str], key_of: Callable[[str, str], str]) -> Callable[[Key], str]:
    """A look-up that never answers with nothing: a key nobody asked the crosswalk for means that the file changed."""

    def find(key: Key) -> str:
        found = keys.get(key_of(*key))
        if not found:
            raise ChangedWhileReading(f"the table names a {key[0]} that was not there when it was surveyed")
        return found

    return find


# --- the last net ----------------------------------------------------------------------------------------------


def net(
    placement: Placement, written: Sequence[Sequence[str]], withheld: Callable[[int], Iterable[str]]
) -> list[Emptied]:
    """Cells that leave as written and equal a token of what is withheld of the row's own patient: a record number in a
    column of sizes. `withheld` gives the texts of a row's patient. Words that the profile itself lists may leave."""
    declared = frozenset(tokens(value for column in placement.kept for value in allowed_values(column.rule)))
    classes = ("integer", "number", "code", "text")
    places = [place for place, column in enumerate(placement.kept) if column.rule.rule in classes]
    caught: list[Emptied] = []
    for index, row in enumerate(written):
        leaving = [(place, [word for word in tokens((row[place],)) if word not in declared]) for place in places]
        leaving = [(place, words) for place, words in leaving if words]
        if leaving:
            own = frozenset(tokens(withheld(index)))
            caught += [Emptied(index, p, "known-elsewhere") for p, words in leaving if not own.isdisjoint(words)]
    return caught


# --- k-anonymity ---------------------------------------------------------------------------------------------


class Groups(Struct, frozen=True):
    """`cells` lose their quasi-identifiers, by row. `k` and `groups` hold for the rows that keep theirs."""

    columns: tuple[str, ...]
    k: int | None
    groups: int
    rows: tuple[int, ...]


def suppress(
    placement: Placement, written: Sequence[Sequence[str]], subjects: Sequence[str], *, minimum_k: int
) -> Groups:
    """Groups of subjects that share all quasi-identifiers, and the rows whose group is smaller than `minimum_k`.

    Rows are suppressed, the file is not refused: a rare combination is what outcomes research has, and one of it must
    not stop the rest. What is suppressed forms a group of its own, which grows by the next smallest until it has k."""
    places = [place for place, column in enumerate(placement.kept) if column.rule.quasi]
    columns = tuple(placement.kept[place].name for place in places)
    if not places:
        return Groups((), None, 0, ())
    members: dict[tuple[str, ...], set[str]] = {}
    for row, subject in zip(written, subjects, strict=True):
        members.setdefault(tuple(fold(row[place]) for place in places), set()).add(subject)
    empty = ("",) * len(places)
    ordered = sorted((len(found), values) for values, found in members.items() if values != empty)
    gone: set[tuple[str, ...]] = set()
    hidden = set(members.get(empty, set()))
    for size, values in ordered:
        if size >= minimum_k and (not gone or len(hidden) >= minimum_k):
            break
        gone.add(values)
        hidden |= members[values]
    rows = tuple(
        index for index, row in enumerate(written) if gone and tuple(fold(row[place]) for place in places) in gone
    )
    left = [size for size, values in ordered if values not in gone]
    return Groups(columns, min(left, default=None), len(left), rows)


def refuse_empty(placement: Placement) -> None:
    """A table of which nothing may leave is no table; a rule that says so is a mistake a person should see."""
    if not placement.kept:
        raise StructureInvalid(
            "no column of the table may leave", where=f"table {placement.table.name}",
            hint="Drop the whole file, or give one of its columns another class.",
        )  # fmt: skip
