"""From typed rows to what the ordinary schema may hold: the ledger, one document of facts per slide, and k.

The order is the safety: match, look for identifiers in what would leave (`tables.suspects`), match again without
the rows that were caught, and only then release facts, of rows in use and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from mover.decide.matching import LINKS, Image, Linked, Matching, canonical_image, match
from mover.decide.tables import (
    Layout,
    TypedRow,
    arrange,
    check_misfits,
    fact_name,
    link_columns,
    release,
    suspects,
    type_rows,
    vocabulary,
)
from mover.errors import StructureInvalid
from mover.model.policy import RecordsPolicy, TableRule

Fact = str | int | float | bool | None
IMAGES = "images"


class Subject(Struct, frozen=True):
    """What the vault minted for a patient (or a case): a random pseudonym and a date offset."""

    pseudonym: str
    offset_days: int


class NamedImage(Struct, frozen=True):
    """One image of the batch by its original name, which stays where this is computed."""

    line: int
    name: str
    number: str | None


class Line(Struct, frozen=True, array_like=True, gc=False):
    """One line of the ledger, without identifiers."""

    table: str
    line: int
    state: str
    reason: str | None
    number: str | None
    facts: dict[str, Fact] | None


class Document(Struct, frozen=True, array_like=True, gc=False):
    """What is known of one slide: the facts of all tables' rows in use together."""

    number: str
    subject: str | None
    facts: dict[str, Fact]
    block: str | None = None  # pseudonym


class Aligned(Struct, frozen=True):
    """`k`: the smallest group of subjects that share their quasi-identifiers, among those not suppressed;
    None when no column is declared one. `suppressed`: slides whose group was smaller than the policy's."""

    lines: list[Line]
    documents: list[Document]
    k: int | None
    suppressed: int


class Prepared(Struct, frozen=True):
    """Typed tables, matched; what is needed from the vault before anything can be released."""

    policy: RecordsPolicy
    layouts: dict[str, Layout]
    rows: dict[str, list[TypedRow]]
    images: list[Image]
    matching: Matching


def prepare(
    policy: RecordsPolicy,
    tables: Mapping[str, tuple[Sequence[str], Sequence[tuple[int, Sequence[str]]]]],
    images: Sequence[NamedImage],
    *,
    elsewhere: frozenset[str] = frozenset(),
) -> Prepared:
    """Type and match the tables (header and numbered rows by table name). `elsewhere`: canonical names of
    images of batches that were aligned before. Raises PlaceUnknown or StructureInvalid when a file must stop."""
    layouts, rows = {}, {}
    for table in policy.tables:
        header, body = tables[table.name]
        layouts[table.name] = arrange(table, header)
        rows[table.name] = type_rows(layouts[table.name], body, extensions=policy.extensions)
        check_misfits(table, rows[table.name])
    keyed = [Image(i.line, canonical_image(i.name, policy.extensions), i.number) for i in images]
    matching = _match(policy, rows, keyed, elsewhere)
    caught = suspects(rows, _speaker(rows, matching), declared=vocabulary(policy))
    if caught:
        rows = {name: _set_aside(table, caught.get(name, [])) for name, table in rows.items()}
        matching = _match(policy, rows, keyed, elsewhere)
    return Prepared(policy=policy, layouts=layouts, rows=rows, images=keyed, matching=matching)


def patients(prepared: Prepared) -> list[str]:
    """The patients a pseudonym is needed for: those of slides that rows in use speak of."""
    matching = prepared.matching
    known = zip(matching.patients, matching.numbers, strict=True)
    return sorted({patient for patient, number in known if patient is not None and number is not None})


def strangers(prepared: Prepared) -> list[str]:
    """Image names of the tables that are no image of this batch: are they of an earlier one?"""
    return sorted({
        row.image
        for table, rows in prepared.rows.items()
        for row, outcome in zip(rows, prepared.matching.rows[table], strict=True)
        if row.image is not None and outcome.reason in ("image-unknown", "extension-unknown")
    })  # fmt: skip


def cases(prepared: Prepared) -> list[str]:
    """The cases a pseudonym is needed for: none unless the policy gives a case column a fact's name."""
    named = [table for table in prepared.policy.tables if _named_key(table, "case")]
    return sorted({
        row.case
        for table in named
        for row, outcome in zip(prepared.rows[table.name], prepared.matching.rows[table.name], strict=True)
        if outcome.state == "matched" and row.case is not None
    })  # fmt: skip


def blocks(prepared: Prepared) -> dict[str, str | None]:
    """The blocks a pseudonym is needed for, each with its patient where slides that have it have one."""
    patients = prepared.matching.patients
    return {block: patients[scan] for scan, block in sorted(_block_of_scans(prepared).items())}


def align(
    prepared: Prepared,
    *,
    subjects: Mapping[str, Subject],
    case_subjects: Mapping[str, Subject],
    blocks: Mapping[str, str],
    this_year: int,
) -> Aligned:
    """The ledger and the documents. Every line is in exactly one state; facts stand only on matched rows."""
    matching = prepared.matching
    by_scan: dict[int, dict[str, Fact]] = {}
    released: dict[str, dict[int, dict[str, Fact]]] = {}
    for table in prepared.policy.tables:
        released[table.name] = _release_table(prepared, table, subjects, case_subjects, this_year)
        for index, facts in released[table.name].items():
            for scan in matching.rows[table.name][index].scans:
                if matching.numbers[scan] is not None:
                    _merge(by_scan.setdefault(scan, {}), facts)
    k, small = _small_groups(prepared, by_scan)
    quasi = _quasi(prepared.policy)
    for scan in small:
        by_scan[scan].update({name: None for name in quasi if name in by_scan[scan]})
    tissue = _block_of_scans(prepared)
    documents = [
        _document(prepared, scan, by_scan[scan], subjects, blocks[tissue[scan]] if scan in tissue else None)
        for scan in sorted(by_scan)
    ]
    lines = _image_lines(prepared)
    for table in prepared.policy.tables:
        lines += _lines(prepared, table.name, released[table.name], small, quasi)
    return Aligned(lines=lines, documents=documents, k=k, suppressed=len(small))


# --- steps -----------------------------------------------------------------------------------------------


def _match(
    policy: RecordsPolicy, rows: Mapping[str, Sequence[TypedRow]], images: list[Image], elsewhere: frozenset[str]
) -> Matching:
    linked = [Linked(t.name, link_columns(t), t.one_row_per, rows[t.name]) for t in policy.tables]
    return match(linked, images, elsewhere=elsewhere)


class _speaker:
    """Whom a row speaks of: its patient when any table tells, else its own patient, else its scans."""

    def __init__(self, rows: Mapping[str, Sequence[TypedRow]], matching: Matching) -> None:
        self._rows, self._matching = rows, matching

    def __call__(self, table: str, index: int) -> Sequence[object]:
        scans = self._matching.rows[table][index].scans
        named = {patient for scan in scans if (patient := self._matching.patients[scan]) is not None}
        own = self._rows[table][index].patient
        if named or own is not None:
            return sorted(named | {own} - {None}) if own is not None else sorted(named)
        return scans


def _set_aside(rows: list[TypedRow], caught: Sequence[int]) -> list[TypedRow]:
    changed = list(rows)
    for index in caught:
        changed[index] = msgspec.structs.replace(rows[index], misfit="identifier-suspected")
    return changed


def _named_key(table: TableRule, link: str) -> str | None:
    """The fact's name of a key column that the policy wants to keep as a pseudonym."""
    for column, rule in table.columns.items():
        if rule.rule == link and rule.rename is not None and link in LINKS[1:]:
            return fact_name(column, rule)
    return None


def _release_table(
    prepared: Prepared,
    table: TableRule,
    subjects: Mapping[str, Subject],
    case_subjects: Mapping[str, Subject],
    this_year: int,
) -> dict[int, dict[str, Fact]]:
    """Facts of the matched rows of one table, by row index."""
    matching, layout = prepared.matching, prepared.layouts[table.name]
    case_fact, patient_fact = _named_key(table, "case"), _named_key(table, "patient")
    found: dict[int, dict[str, Fact]] = {}
    for index, outcome in enumerate(matching.rows[table.name]):
        if outcome.state != "matched":
            continue
        row = prepared.rows[table.name][index]
        patient = _patient_of(outcome.scans, matching)
        subject = subjects[patient] if patient is not None else None
        facts: dict[str, Fact] = release(
            layout, row, offset_days=subject.offset_days if subject else None, this_year=this_year
        )
        if case_fact and row.case is not None:
            facts[case_fact] = case_subjects[row.case].pseudonym
        if patient_fact:
            facts[patient_fact] = subject.pseudonym if subject else None
        found[index] = facts
    return found


def _patient_of(scans: Sequence[int], matching: Matching) -> str | None:
    """The one patient of a row in use: matching has refused rows that reach slides of two."""
    published = (scan for scan in scans if matching.numbers[scan] is not None)
    return next((p for scan in published if (p := matching.patients[scan]) is not None), None)


def _merge(document: dict[str, Fact], facts: Mapping[str, Fact]) -> None:
    """A fact comes from one column of one table and a slide takes one row of it, so nothing is overwritten."""
    if not document.keys().isdisjoint(facts):
        raise StructureInvalid("two rows in use give the same fact of one slide")
    document.update(facts)


def _block_of_scans(prepared: Prepared) -> dict[int, str]:
    """The one block that rows in use name for a published scan; of two it is nobody's."""
    named: dict[int, set[str]] = {}
    for table, outcomes in prepared.matching.rows.items():
        for row, outcome in zip(prepared.rows[table], outcomes, strict=True):
            if outcome.state == "matched" and row.block is not None:
                for scan in outcome.scans:
                    if prepared.matching.numbers[scan] is not None:
                        named.setdefault(scan, set()).add(row.block)
    return {scan: next(iter(found)) for scan, found in named.items() if len(found) == 1}


def _document(
    prepared: Prepared, scan: int, facts: dict[str, Fact], subjects: Mapping[str, Subject], block: str | None
) -> Document:
    patient = prepared.matching.patients[scan]
    number = prepared.matching.numbers[scan]
    assert number is not None  # only published scans have facts
    known: dict[str, Fact] = {name: value for name, value in sorted(facts.items()) if value is not None}
    return Document(number, subjects[patient].pseudonym if patient is not None else None, known, block)


def _quasi(policy: RecordsPolicy) -> list[str]:
    return sorted(
        fact_name(column, rule) for table in policy.tables for column, rule in table.columns.items() if rule.quasi
    )


def _small_groups(prepared: Prepared, by_scan: Mapping[int, Mapping[str, Fact]]) -> tuple[int | None, set[int]]:
    """k-anonymity over the declared columns, counted in subjects (a scan without a patient counts as one).
    Scans of groups below the policy's minimum are returned for suppression; k is that of the others."""
    quasi = _quasi(prepared.policy)
    if not quasi:
        return None, set()
    groups: dict[tuple[Fact, ...], dict[object, list[int]]] = {}
    for scan, facts in by_scan.items():
        member = prepared.matching.patients[scan] or scan
        groups.setdefault(tuple(facts.get(name) for name in quasi), {}).setdefault(member, []).append(scan)
    minimum = prepared.policy.minimum_k
    kept = [len(members) for members in groups.values() if len(members) >= minimum]
    small = {
        scan for members in groups.values() if len(members) < minimum for scans in members.values() for scan in scans
    }
    return min(kept, default=None), small


def _image_lines(prepared: Prepared) -> list[Line]:
    matching = prepared.matching
    return [
        Line(IMAGES, image.line, outcome.state, outcome.reason, image.number, None)
        for image, outcome in zip(prepared.images, matching.images, strict=True)
    ]


def _lines(
    prepared: Prepared, table: str, released: Mapping[int, dict[str, Fact]], small: set[int], quasi: Sequence[str]
) -> list[Line]:
    """A row that speaks of one slide names its number; a case's row speaks of several and names none."""
    lines = []
    for index, (row, outcome) in enumerate(zip(prepared.rows[table], prepared.matching.rows[table], strict=True)):
        facts = released.get(index)
        if facts is not None and small and not small.isdisjoint(outcome.scans):
            facts = {name: None if name in quasi else value for name, value in facts.items()}
        number = prepared.matching.numbers[outcome.scans[0]] if len(outcome.scans) == 1 else None
        lines.append(Line(table, row.line, outcome.state, outcome.reason, number, facts))
    return lines
