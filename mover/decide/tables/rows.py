"""A header against its rule, and rows to values."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from msgspec import Struct, structs

from mover.decide.folding import fold
from mover.decide.matching import LINKS, canonical_image
from mover.decide.patients import says_no_id
from mover.decide.tables.cells import Misfit, Value, key_text, mask, reader_of
from mover.decide.tables.columns import fact_name, is_fact
from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.policy import ColumnRule, TableRule

# below this many misfit rows a share says nothing
FEW_MISFITS = 3


class Layout(Struct, frozen=True):
    """Where each declared column stands in this file. `facts` are the columns that may leave, in the order
    in which `TypedRow.values` holds them."""

    table: str
    keys: tuple[tuple[str, int, ColumnRule], ...]
    facts: tuple[tuple[str, int, ColumnRule], ...]
    withheld: tuple[int, ...]
    block: tuple[int, ColumnRule] | None = None  # withheld too: it only says which slides are of one block


def arrange(table: TableRule, header: Sequence[str]) -> Layout:
    """Raises PlaceUnknown for a column that no rule names: its position and its masked shape, because a
    header can hold a name too. A declared column that is missing is StructureInvalid."""
    declared = {fold(column): (column, rule) for column, rule in table.columns.items()}
    found: dict[str, int] = {}
    strange: list[int] = []
    for position, name in enumerate(header):
        if fold(name) in declared and fold(name) not in found:
            found[fold(name)] = position
        else:
            strange.append(position)
    missing = [name for key, (name, rule) in declared.items() if key not in found and not rule.optional]
    absent: list[dict[str, object]] = [{"table": table.name, "missing": name} for name in missing]
    if strange and table.others == "refuse":
        unknown = [{"table": table.name, "position": at + 1, "shape": mask(header[at])} for at in strange]
        raise PlaceUnknown(
            f"column {unknown[0]['position']} (shape {unknown[0]['shape']}) is not listed in the policy",
            where=f"table {table.name}",
            hint="List the column with its class (`drop` if it must not leave), or take it out of the export.",
            details=[*unknown, *absent],
        )
    if missing:
        raise StructureInvalid(
            f"the column {missing[0]} that the policy lists is not in the file",
            where=f"table {table.name}",
            details=absent,
        )
    placed = [(column, found[key], rule) for key, (column, rule) in declared.items() if key in found]
    kept_back = [position for _, position, rule in placed if not is_fact(rule) and rule.rule not in LINKS]
    return Layout(
        table=table.name,
        keys=tuple((rule.rule, position, rule) for _, position, rule in placed if rule.rule in LINKS),
        facts=tuple((fact_name(column, rule), position, rule) for column, position, rule in placed
                    if is_fact(rule) and rule.rule not in LINKS),
        withheld=(*kept_back, *strange),
        block=next(((position, rule) for _, position, rule in placed if rule.rule == "block"), None),
    )  # fmt: skip


class TypedRow(Struct, frozen=True, gc=False):
    """One row after typing. Keys are canonical; `withheld` and `key_cells` never leave and serve only to tell
    identical rows from conflicting ones and to feed the last net."""

    line: int
    image: str | None
    case: str | None
    patient: str | None
    values: tuple[Value, ...]
    withheld: tuple[str, ...]
    key_cells: tuple[str, ...]
    misfit: str | None = None
    block: str | None = None

    def content(self) -> tuple[object, ...]:
        """Rows with the same key are the same row exactly when this is equal."""
        return (self.case, self.patient, self.values, self.withheld)


def type_rows(
    layout: Layout, rows: Sequence[tuple[int, Sequence[str]]], *, extensions: Sequence[str]
) -> list[TypedRow]:
    """Every row, typed; cells that are not of their class make the row a misfit, named by the first fact."""
    keys = [(link, position, _key_reader(link, rule, extensions)) for link, position, rule in layout.keys]
    facts = [(name, position, _remembering(reader_of(rule))) for name, position, rule in layout.facts]
    typed = [_type_row(line, cells, keys, facts, layout.withheld) for line, cells in rows]
    if layout.block is None:
        return typed
    position, read_block = layout.block[0], _block_reader(layout.block[1])
    pairs = zip(typed, rows, strict=True)
    return [structs.replace(row, block=read_block(cells[position], row)) for row, (_, cells) in pairs]


def _type_row(
    line: int,
    cells: Sequence[str],
    keys: list[tuple[str, int, Callable[[str], str | None]]],
    facts: list[tuple[str, int, Callable[[str], Value]]],
    withheld: tuple[int, ...],
) -> TypedRow:
    misfit: str | None = None
    found: dict[str, str | None] = {}
    for link, position, read_key in keys:
        try:
            found[link] = read_key(cells[position])
        except Misfit:
            misfit = misfit or f"misfit:{link}"
    values: list[Value] = []
    for name, position, read_value in facts:
        try:
            values.append(read_value(cells[position]))
        except Misfit:
            misfit = misfit or f"misfit:{name}"
            values.append(None)
    return TypedRow(
        line=line,
        image=found.get("image"),
        case=found.get("case"),
        patient=None if says_no_id(found.get("patient") or "") else found.get("patient"),
        values=tuple(values),
        withheld=tuple(cells[position].strip() for position in withheld),
        key_cells=tuple(cells[position] for _, position, _ in keys),
        misfit=misfit,
    )


def check_misfits(table: TableRule, rows: Sequence[TypedRow]) -> None:
    """Raises PlaceUnknown when so many rows misfit that the column cannot be what the policy says."""
    by_fact: dict[str, int] = {}
    for row in rows:
        if row.misfit:
            by_fact[row.misfit] = by_fact.get(row.misfit, 0) + 1
    count = sum(by_fact.values())
    if count <= max(FEW_MISFITS, len(rows) * table.misfits_percent / 100):
        return
    raise PlaceUnknown(
        f"{count} of {len(rows)} rows hold a cell that is not of its declared class",
        where=f"table {table.name}",
        hint="Look whether the named columns hold what the policy says; nothing of the file was used.",
        details=[{"table": table.name, "reason": reason, "rows": n} for reason, n in sorted(by_fact.items())],
    )


def _remembering(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """Columns repeat themselves; a bounded memory makes typing a million rows a matter of look-ups."""
    memory: dict[str, Value] = {}

    def remember(cell: str) -> Value:
        if cell in memory:
            return memory[cell]
        value = read(cell)
        if len(memory) < 10_000:
            memory[cell] = value
        return value

    return remember


def _key_reader(link: str, rule: ColumnRule, extensions: Sequence[str]) -> Callable[[str], str | None]:
    pattern = re.compile(rule.pattern) if rule.pattern else None

    def read_key(cell: str) -> str | None:
        text = key_text(cell, pattern)
        key = canonical_image(text, extensions) if link == "image" else fold(text)
        return key or None

    return read_key


def _block_reader(rule: ColumnRule) -> Callable[[str, TypedRow], str | None]:
    """Block A1 of one case is not block A1 of another; without a case, of one patient. What a pattern does not find is
    no block."""
    pattern = re.compile(rule.pattern) if rule.pattern else None

    def read_block(cell: str, row: TypedRow) -> str | None:
        found = pattern.search(cell) if pattern else None
        if pattern is not None:
            named = found.groupdict() if found else {}
            parts = [named.get("case"), named.get("block")] if named else [found.group(1)] if found else []
        else:
            parts = [cell]
        text = fold(" ".join(part for part in parts if part))
        return f"{row.case or row.patient or ''} {text}".strip() if text else None

    return read_block
