"""What runs in the parsing child for tables of a release (D16): a descriptor and an order in, msgpack out.

`survey` looks, `prepare` writes and proves. The proof reads the output with a reader of its own, by grammars of its own
(`_Proof`), and looks in everything that is not a pseudonym for what was withheld.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec
from blake3 import blake3

from mover.decide import drafts, freetext, released
from mover.decide.folding import fold, plain
from mover.decide.released import Column, Emptied, Named, Placement, Writing
from mover.decide.tables import allowed_values, mask, neutralise, no_values, tokens
from mover.deid.child import FdSource
from mover.deid.identity import Identity, entity_key
from mover.deid.tables import (
    REVIEW_LINES,
    Anonymity,
    ColumnOutcome,
    Order,
    PreparedTable,
    ReviewLine,
    TableDraft,
    TableEvidence,
    TableSurvey,
)
from mover.errors import LimitExceeded, MoverError, PlaceUnknown, RedactionUnproven, StructureInvalid
from mover.model.policy import ColumnRule, TableRule
from mover.model.recipe import Literal, Recipe
from mover.model.source import ByteSource
from scanners import tables as scanner

OUTPUT_BYTES: Final = 256 << 20
# measured: forty times a table's bytes at the peak of rewriting and proving it, which the child's 4 GiB must hold
BOUNDS: Final = scanner.Bounds(table_bytes=64 << 20, rows=1_000_000)
VERIFIER: Final = "tables 1"
# what a person may want to mend; a date without a patient is no fault of the cell
TO_REVIEW: Final = ("misfit", "leftover", "known-elsewhere")


# --- survey ----------------------------------------------------------------------------------------------


def survey(fd: int, order: bytes) -> bytes:
    return msgspec.msgpack.encode(survey_source(FdSource(fd), msgspec.msgpack.decode(order, type=Order)))


def survey_source(source: ByteSource, order: Order) -> TableSurvey:
    table, placement = _open(source, order)
    read_names = released.named(placement, extensions=order.extensions)
    links: dict[tuple[str, ...], None] = {}
    words: dict[str, dict[str, None]] = {}
    for row in table.rows:
        keys = _entities(read_names(row.cells))
        links[keys] = None
        owner = words.setdefault(keys[0] if keys else "", {})
        owner.update(dict.fromkeys(released.names_of(placement, row.cells)))
    entities = dict.fromkeys(key for keys in links for key in keys)
    sought = dict.fromkeys(word for found in words.values() for word in found if released.is_sought(word))
    links.pop((), None)
    return TableSurvey(
        rule=placement.table.name,
        identity=Identity(entities=tuple(entities), words=tuple(sought)),
        links=tuple(links),
        words={owner: tuple(found) for owner, found in words.items() if found},
        rows=len(table.rows),
        encoding=table.encoding,
        delimiter=table.delimiter,
    )


def _entities(names: Named) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entity_key(kind, text) for kind, text in names.all()))  # type: ignore[arg-type]


def _open(source: ByteSource, order: Order) -> tuple[scanner.Table, Placement]:
    """The table read by the dialect of the rule that fits. Rules may declare different dialects: each is tried, and
    the header decides. Where no rule fits, the refusal of the one that came nearest is what a person needs to see."""
    dialects: dict[tuple[str, str, str], list[TableRule]] = {}
    for rule in order.rules:
        dialects.setdefault((rule.encoding, rule.delimiter, rule.comment), []).append(rule)
    if not dialects:
        raise PlaceUnknown(
            "the profile declares no table", hint="Declare the table's columns under `tables` of the profile."
        )
    refusals: list[MoverError] = []
    for (encoding, delimiter, comment), rules in dialects.items():
        try:
            table = scanner.read(source, encoding=encoding, delimiter=delimiter, comment=comment, bounds=BOUNDS)
            placement = released.fit(table.header, rules)
        except (StructureInvalid, PlaceUnknown) as error:
            refusals.append(error)
            continue
        released.refuse_empty(placement)
        return table, placement
    raise max(refusals, key=lambda error: (isinstance(error, PlaceUnknown), bool(error.details)))


# --- draft -------------------------------------------------------------------------------------------------


def draft(fd: int) -> bytes:
    return msgspec.msgpack.encode(draft_source(FdSource(fd)))


def draft_source(source: ByteSource) -> TableDraft:
    table = scanner.read(source, bounds=BOUNDS)
    sample = [row.cells for row in table.rows[: drafts.SAMPLE_ROWS]]
    columns = tuple(
        drafts.draft_column(place + 1, name, [cells[place] for cells in sample])
        for place, name in enumerate(table.header)
    )
    signature = blake3("\0".join(fold(name) for name in table.header).encode()).hexdigest()
    return TableDraft(columns, len(table.rows), table.encoding, table.delimiter, signature)


# --- prepare ---------------------------------------------------------------------------------------------


def prepare(fd: int, order: bytes) -> bytes:
    return msgspec.msgpack.encode(prepare_source(FdSource(fd), msgspec.msgpack.decode(order, type=Order)))


def prepare_source(source: ByteSource, order: Order) -> PreparedTable:
    table, placement = _open(source, order)
    people = _People(order, placement, table.rows)
    rows = zip((row.cells for row in table.rows), people.names, people.writings(), strict=True)
    written, emptied = released.rewrite(placement, rows, this_year=order.this_year)
    released.check_share(placement, emptied, len(table.rows))
    caught = released.net(placement, written, people.withheld)
    for one in caught:
        written[one.row][one.column] = ""
    groups = released.suppress(placement, written, people.subjects, minimum_k=order.minimum_k)
    for index in groups.rows:
        for place, column in enumerate(placement.kept):
            if column.rule.quasi:
                written[index][place] = ""
    data = _encoded(placement, written)
    evidence = _Proof(placement, people, order).of(data, written)
    emptied += caught
    review = [_review(placement, table, one) for one in emptied if one.reason in TO_REVIEW]
    return PreparedTable(
        rule=placement.table.name,
        recipe=Recipe(source.size_bytes, (Literal(data),)),
        rows=len(table.rows),
        skipped=table.skipped,
        columns=tuple(_outcomes(placement, len(table.rows), emptied)),
        review=tuple(review[:REVIEW_LINES]),
        review_more=max(0, len(review) - REVIEW_LINES),
        anonymity=Anonymity(groups.columns, groups.k, groups.groups, len(groups.rows)),
        evidence=evidence,
    )


class _People:
    """Whom each row speaks of, and what is known of them."""

    def __init__(self, order: Order, placement: Placement, rows: Sequence[scanner.Row]) -> None:
        self._order = order
        self._placement = placement
        self._rows = rows
        read_names = released.named(placement, extensions=order.extensions)
        self.names = [read_names(row.cells) for row in rows]
        self.subjects = [self._subject(index, names) for index, names in enumerate(self.names)]
        self._dictionaries: dict[str, freetext.Dictionary] = {}
        self._own: dict[str, dict[str, None]] = {}
        for subject, row in zip(self.subjects, rows, strict=True):
            self._own.setdefault(subject, {}).update(dict.fromkeys(released.names_of(placement, row.cells)))

    def _subject(self, index: int, names: Named) -> str:
        """The key of the row's patient; of the case or slide where no source says whose it is; else the row itself."""
        keys = _entities(names)
        links = self._order.aliases.links
        patients = {key if key.startswith("patient|") else links.get(key, "") for key in keys} - {""}
        if len(patients) == 1:
            return patients.pop()
        return keys[0] if keys else f"row|{index}"

    def withheld(self, index: int) -> Iterable[str]:
        """All that is known of the row's patient: from the other tables and images, and from this one."""
        subject = self.subjects[index]
        return (*self._order.words.get(subject, ()), *self._own.get(subject, ()))

    def everybody(self) -> Iterator[str]:
        for found in self._own.values():
            yield from found
        for words in self._order.words.values():
            yield from words

    def writings(self) -> Iterator[Writing]:
        pseudonym = _pseudonyms(self._order)
        texts = {place.name: place.rule for place in self._placement.kept if place.rule.rule == "text"}
        allowed = frozenset(plain(word) for rule in texts.values() for value in rule.values for word in value.split())
        for index, subject in enumerate(self.subjects):
            found = self._order.aliases.subjects.get(subject)
            yield Writing(
                pseudonym=pseudonym,
                scrub=self._scrubber(index, allowed) if texts else _no_text,
                offset_days=found.offset_days if found is not None else None,
            )

    def _scrubber(self, index: int, allowed: frozenset[str]) -> Callable[[str], str | None]:
        subject = self.subjects[index]
        if subject not in self._dictionaries:
            # one patient's rows mostly stand together: a bounded memory of dictionaries is enough
            if len(self._dictionaries) >= 256:
                self._dictionaries.clear()
            everyone = self._order.words.get("", ())
            self._dictionaries[subject] = freetext.dictionary((*everyone, *self.withheld(index)))
        known = self._dictionaries[subject]

        def scrub(cell: str) -> str | None:
            text = freetext.scrub(cell, known, allowed=allowed).text
            return neutralise(text) if text is not None else None

        return scrub


def _no_text(cell: str) -> str | None:
    return None


def _pseudonyms(order: Order) -> Callable[[tuple[str, str]], str]:
    """Of a patient the subject's, of all else the key's."""
    names = order.aliases.keys | {key: subject.pseudonym for key, subject in order.aliases.subjects.items()}
    return released.pseudonyms(names, entity_key)  # type: ignore[arg-type]


def _encoded(placement: Placement, written: Sequence[Sequence[str]]) -> bytes:
    """UTF-8 without a mark, RFC 4180: CRLF, quotes only where they must be. A table of one column whose cell is empty
    would be a blank line, which readers skip: there it is quoted."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n", quoting=csv.QUOTE_MINIMAL)
    writer.writerow([column.name for column in placement.kept])
    writer.writerows(written)
    data = out.getvalue().encode("utf-8")
    if len(data) > OUTPUT_BYTES:
        raise LimitExceeded(f"the rewritten table has more than {OUTPUT_BYTES} bytes")
    return data


def _review(placement: Placement, table: scanner.Table, one: Emptied) -> ReviewLine:
    column = placement.kept[one.column]
    row = table.rows[one.row]
    return ReviewLine(row.line, column.name, one.reason, mask(row.cells[column.position]))


def _outcomes(placement: Placement, rows: int, emptied: Sequence[Emptied]) -> Iterator[ColumnOutcome]:
    counts: dict[int, Counter[str]] = {}
    for one in emptied:
        counts.setdefault(one.column, Counter())[one.reason] += 1
    found = [
        ColumnOutcome(column.position + 1, column.name, column.rule.rule, True, rows, dict(counts.get(place, {})))
        for place, column in enumerate(placement.kept)
    ]
    found += [ColumnOutcome(c.position + 1, c.name, c.rule.rule, False, rows) for c in placement.withheld]
    found += [ColumnOutcome(position + 1, "", "unlisted", False, rows) for position in placement.unlisted]
    yield from sorted(found, key=lambda outcome: outcome.position)


# --- proof -----------------------------------------------------------------------------------------------


_FIELD = re.compile(r'(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n|\Z)')
_NUMBER = re.compile(r"[+-]?[0-9][0-9.,'’\u00a0\u2009\u202f ]{0,40}(?:[eE][+-]?[0-9]{1,2})?")
_GRAMMARS: Final = {
    "integer": _NUMBER,
    "number": _NUMBER,
    "age": re.compile(r"[0-8]?[0-9]|90"),
    "zip3": re.compile(r"[0-9]{3}"),
    "boolean": re.compile(r"true|false|t|f|yes|no|y|n|1|0", re.IGNORECASE),
    # a closed alphabet and a length: the grammars themselves were the first pass
    "code": re.compile(r"[A-Za-z0-9.,;:/|+*!()=\- ]{1,80}"),
    "date": re.compile(r"[0-9]{4}(?:-[0-9]{2}-[0-9]{2}|-[0-9]{3})?"),
}
_FORMULA = re.compile(r"[=+\-@\t\r]")
_PLAIN_NUMBER = re.compile(r"[+-]?[0-9][0-9., ]*(?:[eE][+-]?[0-9]+)?\Z")


class _Proof:
    """The second look. Everything it finds is RedactionUnproven: the table stays in quarantine."""

    def __init__(self, placement: Placement, people: _People, order: Order) -> None:
        self._placement = placement
        self._people = people
        self._order = order
        subjects = order.aliases.subjects.values()
        self._pseudonyms = frozenset(order.aliases.keys.values()) | {subject.pseudonym for subject in subjects}

    def of(self, data: bytes, written: Sequence[Sequence[str]]) -> TableEvidence:
        records = list(_records(data))
        header = [column.name for column in self._placement.kept]
        if not records or records[0] != header or records[1:] != [list(row) for row in written]:
            raise RedactionUnproven("the rewritten table does not read back as it was written")
        for place, column in enumerate(self._placement.kept):
            self._check_column(column, (row[place] for row in records[1:]))
        sought = self._search(records[1:])
        return TableEvidence(
            verifier=VERIFIER,
            methods=("read-back", "cell-grammars", "pseudonyms", "formulas", "withheld-words"),
            cells_checked=sum(len(row) for row in records),
            strings_sought=sought,
        )

    def _check_column(self, column: Column, cells: Iterator[str]) -> None:
        fits = self._judge_of(column.rule)
        units = tuple(unit.casefold() for unit in column.rule.units)
        for cell in dict.fromkeys(cells):
            if cell and not fits(cell, units):
                raise RedactionUnproven(f"a cell of column {column.name} is not of class {column.rule.rule}")
            if _FORMULA.match(cell) and not _PLAIN_NUMBER.match(cell) and column.rule.rule != "number":
                raise RedactionUnproven(f"a cell of column {column.name} would start a formula")

    def _judge_of(self, rule: ColumnRule) -> Callable[[str, tuple[str, ...]], bool]:
        if rule.rule in released.KEYED:
            return lambda cell, units: all(part in self._pseudonyms for part in cell.split(";"))
        if rule.rule == "text":
            return lambda cell, units: True  # searched below
        words = {_squeezed(value) for value in (*allowed_values(rule), *no_values(rule), *rule.map.values())}
        if rule.rule == "enum":
            return lambda cell, units: _squeezed(cell) in words
        grammar = _GRAMMARS[rule.rule]

        def fits(cell: str, units: tuple[str, ...]) -> bool:
            bare = cell.strip(" ")
            for unit in units:
                if bare.casefold().endswith(unit):
                    bare = bare[: len(bare) - len(unit)].rstrip()
                    break
            return grammar.fullmatch(bare) is not None or _squeezed(cell) in words

        return fits

    def _search(self, records: Sequence[Sequence[str]]) -> int:
        """Words of anybody in what leaves as text; the numbers of a row's own patient in its numbers. The answer is how
        many texts were sought."""
        texts = [place for place, column in enumerate(self._placement.kept) if column.rule.rule == "text"]
        everybody = dict.fromkeys(self._people.everybody())
        known = {word for word in tokens(everybody) if not word.isdigit()} if texts else frozenset()
        declared = set(tokens(value for place in texts for value in self._placement.kept[place].rule.values))
        for place in texts:
            for row in records:
                for word in tokens((row[place],)):
                    if word in known and word not in declared and word not in freetext.WORDS:
                        raise RedactionUnproven("a word that is withheld elsewhere stands in a scrubbed text")
        if released.net(self._placement, records, self._people.withheld):
            raise RedactionUnproven("a value that is withheld of a patient stands in the patient's own row")
        return len(everybody)


def _squeezed(text: str) -> str:
    return " ".join(text.split()).casefold()


def _records(data: bytes) -> Iterator[list[str]]:
    """RFC 4180 read by its grammar, not by the library that wrote it."""
    if data.startswith(b"\xef\xbb\xbf"):
        raise RedactionUnproven("the rewritten table begins with a byte order mark")
    text = data.decode("utf-8")
    position, row = 0, []
    while position < len(text):
        match = _FIELD.match(text, position)
        if match is None:
            raise RedactionUnproven("the rewritten table is not well formed")
        row.append(match[1].replace('""', '"') if match[1] is not None else match[2])
        position = match.end()
        if match[3] != ",":
            yield row
            row = []
    if row or not text.endswith("\r\n"):
        raise RedactionUnproven("the rewritten table ends in the middle of a row")
