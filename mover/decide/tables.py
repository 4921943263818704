"""What may leave a table: a typed allow-list of columns (design/deidentification.md, section 3).

Every column has a class, and a cell that is not of its class never leaves: the row is a conflict with the
reason `misfit:<fact>`, is used for nothing, and more than a declared share of such rows stops the whole file,
because then the column is not what the policy says it is. A column that no rule names stops the file at once.
There is no class that lets text through: words come from the policy's own lists, the rest is numbers.

In order: `check_policy` (once, before anything is read), `arrange` (a header against its rule), `type_rows`
(cells to values), `release` (values to facts), `suspects` (the last net, across all tables of a patient).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta

from msgspec import Struct

from mover.decide.folding import fold, plain, without_marks
from mover.decide.matching import LINKS, canonical_image, order_tables
from mover.errors import PlaceUnknown, PolicyInvalid, StructureInvalid
from mover.model.facts import SLIDE_KEYS, FactColumn
from mover.model.policy import ColumnRule, RecordsPolicy, TableRule

Value = str | int | float | bool | date | None

MAX_VALUES = 500  # of one enumeration; a list made from the data itself is longer, and full of names
MAX_FACTS = 500  # of one policy
# below this many misfit rows a share says nothing
FEW_MISFITS = 3
EARLIEST_YEAR, LATEST_YEAR = 1800, 2200
AGE_EDGE = 90  # 45 CFR 164.514(b)(2)(i)(C): ages over 89 become one class

# areas of at most 20,000 people in the census of 2000, from the HHS guidance on 164.514(b)(2)(i)(B)
SMALL_ZIP3 = frozenset(
    "036 059 063 102 203 556 692 790 821 823 830 831 878 879 884 890 893".split()
)  # fmt: skip

FACT_TYPES = {
    "age": "integer", "zip3": "text", "integer": "integer", "number": "number", "boolean": "boolean",
    "enum": "text", "code": "text",
}  # fmt: skip

_FACT = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


# --- the policy itself -----------------------------------------------------------------------------------


def check_policy(policy: RecordsPolicy) -> None:
    """Raise PolicyInvalid naming every contradiction at once; call it before any table is opened."""
    problems = [f"table {table.name}: {text}" for table in policy.tables for text in _table_problems(policy, table)]
    problems += _set_problems(policy)
    if problems:
        raise PolicyInvalid(
            f"the records policy contradicts itself: {problems[0]}",
            where=policy.name,
            details=[{"problem": text} for text in problems],
        )


def fact_columns(policy: RecordsPolicy) -> list[FactColumn]:
    """The columns that cohorts can ask about once tables of this policy are aligned."""
    return [
        FactColumn(
            name=fact_name(column, rule),
            type=fact_type(rule),
            table=table.name,
            allowed=allowed_values(rule) if rule.rule == "enum" else None,
        )
        for table in policy.tables
        for column, rule in table.columns.items()
        if is_fact(rule)
    ]


def is_fact(rule: ColumnRule) -> bool:
    """Keys become facts (as pseudonyms) only when the policy gives them a name of their own."""
    if rule.rule in ("case", "patient"):
        return rule.rename is not None
    return rule.rule in FACT_TYPES or (rule.rule == "date" and rule.dates != "drop")


def fact_type(rule: ColumnRule) -> str:
    if rule.rule == "date":
        return "year" if rule.dates == "year" else "date"
    return FACT_TYPES.get(rule.rule, "text")


def fact_name(column: str, rule: ColumnRule) -> str:
    if rule.rename is not None:
        return rule.rename
    return re.sub(r"[^a-z0-9]+", "_", without_marks(column.casefold())).strip("_")


def allowed_values(rule: ColumnRule) -> tuple[str, ...]:
    """The words an enumeration may hold: its values, or what its map leads to when it lists none."""
    return tuple(dict.fromkeys(rule.values or tuple(target for target in rule.map.values() if target)))


def _set_problems(policy: RecordsPolicy) -> Iterator[str]:
    names = [table.name for table in policy.tables]
    facts = [column.name for column in fact_columns(policy)]
    if not policy.tables:
        yield "no table is declared"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"the table {name} is declared twice"
    if "images" in names:
        yield "a table may not be called images: the ledger uses the word for the batch's slides"
    for name in sorted({name for name in facts if facts.count(name) > 1}):
        yield f"two columns give the fact {name}; rename one with `as`"
    if len(facts) > MAX_FACTS:
        yield f"more than {MAX_FACTS} facts"
    for extension in policy.extensions:
        if not extension.startswith(".") or len(extension) < 2:
            yield f"the extension {extension!r} does not begin with a dot"
    links = {table.name: link_columns(table) for table in policy.tables}
    stranded = set(links) - {name for ring in order_tables(links) for name in ring}
    for name in sorted(stranded):
        yield f"table {name}: reaches no image, neither directly nor through a case or a patient of another table"


def _table_problems(policy: RecordsPolicy, table: TableRule) -> Iterator[str]:
    classes: list[str] = [rule.rule for rule in table.columns.values()]
    for link in LINKS:
        if classes.count(link) > 1:
            yield f"more than one column of class {link}"
    if table.one_row_per not in classes:
        yield f"one row per {table.one_row_per}, but no column of that class"
    elif "image" in classes and table.one_row_per != "image":
        yield f"a table with an image column has one row per image, not per {table.one_row_per}"
    folded = [fold(column) for column in table.columns]
    if len(set(folded)) < len(folded):
        yield "two columns differ only in case or spaces"
    for column, rule in table.columns.items():
        for text in _fact_problems(column, rule):
            yield f"column {column}: {text}"
        for text in column_problems(rule, basis=policy.basis):
            yield f"column {column}: {text}"


def _fact_problems(column: str, rule: ColumnRule) -> Iterator[str]:
    if rule.text == "scrub":
        yield "free text becomes no fact; scrubbed text is for released tables (a policy of kind deid)"
    if is_fact(rule):
        name = fact_name(column, rule)
        if not _FACT.match(name):
            yield f"{name!r} is no name for a fact; give one with `as` (lower case, digits, underscores)"
        if name in SLIDE_KEYS:
            yield f"{name} is a slide's own word; give the fact another with `as`"
    elif rule.quasi:
        yield "only a column that becomes a fact counts as a quasi-identifier"


def column_problems(rule: ColumnRule, *, basis: str) -> Iterator[str]:
    """What contradicts itself in one column, whether it becomes a fact or stays in a released table."""
    if rule.rule == "date" and rule.dates == "shift" and basis == "safe-harbor":
        yield "shifted dates are not Safe Harbor (45 CFR 164.514(b)(2)); claim expert-determination or use years"
    yield from _word_problems(rule)
    if rule.rule in ("integer", "number") and (rule.minimum is None or rule.maximum is None):
        # a record number, a phone and a date without dashes are numbers too
        yield "a number needs a minimum and a maximum, or any record number would pass as one"
    if rule.minimum is not None and rule.maximum is not None and rule.minimum > rule.maximum:
        yield "the minimum is above the maximum"
    if rule.round is not None and rule.rule not in ("age", "integer", "number"):
        yield "only ages and numbers are rounded"
    elif rule.round is not None and rule.rule != "number" and rule.round != int(rule.round):
        yield "ages and integers are rounded in whole steps"
    if (rule.rule == "code") != (rule.code is not None):
        yield "`code` names the system of a column of class code, and every such column needs it"
    if rule.text == "scrub" and rule.rule != "text":
        yield "only free text (class text) is scrubbed"
    if rule.pattern is not None:
        yield from _pattern_problems(rule)


def _word_problems(rule: ColumnRule) -> Iterator[str]:
    values = allowed_values(rule)
    if rule.rule == "enum" and not values:
        yield "an enumeration lists its values; nothing unlisted leaves a table"
    if len(rule.values) + len(rule.map) > MAX_VALUES:
        yield f"more than {MAX_VALUES} values and synonyms"
    for value in values:
        if value != neutralise(value) or not value.strip() or not value.isprintable():
            yield f"the value {value!r} is blank, unprintable or would start a formula in a spreadsheet"
    targets = {target for target in rule.map.values() if target and target not in values}
    for target in sorted(targets) if rule.rule == "enum" else ():
        yield f"map leads to {target!r}, which is not among the values"


def _pattern_problems(rule: ColumnRule) -> Iterator[str]:
    if rule.rule not in (*LINKS, "block", "slide"):
        yield "a pattern picks a key out of a cell: only image, case, patient, block and slide have one"
    try:
        compiled = re.compile(rule.pattern or "")
    except re.error:
        yield "the pattern is no regular expression"
        return
    if rule.rule == "block" and compiled.groupindex:
        if not set(compiled.groupindex) <= {"case", "block", "slide"} or compiled.groups > len(compiled.groupindex):
            yield "the groups of a block's pattern are called case, block and slide"
        elif list(compiled.groupindex) != ["case", "block", "slide"][: compiled.groups]:
            yield "a block's pattern has the case first, then the block, then the slide"
    elif compiled.groups != 1:
        yield "the pattern needs exactly one group"


# --- a header against its rule ---------------------------------------------------------------------------


class Layout(Struct, frozen=True):
    """Where each declared column stands in this file. `facts` are the columns that may leave, in the order
    in which `TypedRow.values` holds them."""

    table: str
    keys: tuple[tuple[str, int, ColumnRule], ...]
    facts: tuple[tuple[str, int, ColumnRule], ...]
    withheld: tuple[int, ...]


def link_columns(table: TableRule) -> tuple[str, ...]:
    present = {rule.rule for rule in table.columns.values()}
    return tuple(link for link in LINKS if link in present)


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
    )  # fmt: skip


def mask(text: str, *, length: int = 40) -> str:
    """The shape of a text: letters become A or a, digits 9; what is left is no identifier."""
    shape = "".join("9" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in text[:length])
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in shape)


# --- cells to values -------------------------------------------------------------------------------------


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

    def content(self) -> tuple[object, ...]:
        """Rows with the same key are the same row exactly when this is equal."""
        return (self.case, self.patient, self.values, self.withheld)


class Misfit(Exception):
    """A cell is not of its class. Carries nothing: the cell may hold a name."""


def type_rows(
    layout: Layout, rows: Iterable[tuple[int, Sequence[str]]], *, extensions: Sequence[str]
) -> list[TypedRow]:
    """Every row, typed; cells that are not of their class make the row a misfit, named by the first fact."""
    keys = [(link, position, _key_reader(link, rule, extensions)) for link, position, rule in layout.keys]
    facts = [(name, position, _remembering(reader_of(rule))) for name, position, rule in layout.facts]
    return [_type_row(line, cells, keys, facts, layout.withheld) for line, cells in rows]


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
        patient=found.get("patient"),
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
        text = unicodedata.normalize("NFC", cell).strip()
        if text and pattern:
            match = pattern.search(text)
            if match is None or not match[1]:
                raise Misfit
            text = match[1]
        key = canonical_image(text, extensions) if link == "image" else fold(text)
        return key or None

    return read_key


def reader_of(rule: ColumnRule) -> Callable[[str], Value]:
    """The function that types a cell of this column: a value, None for an empty cell, or Misfit."""
    synonyms = {fold(said): meant for said, meant in rule.map.items()}
    typed = {
        "enum": _enum_reader, "integer": _integer_reader, "number": _number_reader, "boolean": _boolean_reader,
        "age": _age_reader, "zip3": _zip3_reader, "date": _date_reader, "code": _code_reader,
    }[rule.rule](rule)  # fmt: skip
    absent = no_values(rule)

    def read_value(cell: str) -> Value:
        folded = fold(cell)
        if folded in absent:
            return None
        text = synonyms.get(folded, unicodedata.normalize("NFC", cell).strip())
        return _coarse(typed(text), rule.round) if text else None

    return read_value


def _coarse(value: Value, step: float | None) -> Value:
    """Down to the next multiple of the step, where the rule has one; whole numbers of whole steps stay whole."""
    if step is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    rounded = math.floor(value / step) * step
    return int(rounded) if isinstance(value, int) and step == int(step) else rounded


def no_values(rule: ColumnRule) -> frozenset[str]:
    """The words, folded, that stand for no value (`n/a`): the `values` of a class that is no enumeration."""
    return frozenset(fold(value) for value in rule.values) if rule.rule not in ("enum", "text") else frozenset()


def _enum_reader(rule: ColumnRule) -> Callable[[str], Value]:
    allowed = {fold(value): value for value in allowed_values(rule)}

    def read(text: str) -> Value:
        value = allowed.get(fold(text))
        if value is None:
            raise Misfit
        return value

    return read


_INTEGER = re.compile(r"[+-]?[0-9]{1,15}(\.0{1,6})?")
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?")
_EITHER_MARK = re.compile(r"[+-]?[0-9]{1,15}(?:[.,][0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?")
_GROUPED = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]{1,3}(?P<mark>[., '\u2019\u00a0\u2009\u202f])[0-9]{3}(?:(?P=mark)[0-9]{3}){0,3})"
    r"(?:(?!(?P=mark))[.,](?P<rest>[0-9]{1,15}))?"
)
_AGE = re.compile(r">\s*89|(?:>=|≥|>)\s*9[0-9]|9[0-9]\s*\+")
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ]|$)")
_ZIP = re.compile(r"([0-9]{3})[0-9]{2}(?:-?[0-9]{4})?")
MAX_CODE_CHARS = 80
_ICD10 = r"[A-Z][0-9][0-9A-B](?:\.[0-9A-Z]{1,4}|[0-9]{1,2})?[+*!]?(?: ?[GVAZ])?(?: ?[RLB])?"
_TNM_PART = (
    r"[cpyramu]{0,3}(?:T(?:[0-4X]|is)[a-d]?[1-3]?(?:\([0-9a-zA-Z]{1,4}\))?|N[0-3X][a-c]?(?:\([a-z]{1,3}[+-]?\))?"
    r"|M[01X][a-c]?|[LVR][0-2X]|Pn[01X]|G[1-4X])"
)
# Grammars of public code systems: short, closed, and with no room for a name or a number of a person.
GRAMMARS = {
    # WHO's and the national modifications, with dagger, certainty and side; several in one cell
    "icd10": re.compile(rf"{_ICD10}(?:[,;/| ] ?{_ICD10}){{0,9}}", re.IGNORECASE),
    # morphology with behaviour and grade, topography
    "icdo3": re.compile(r"(?:M-?)?[89][0-9]{3}/[0-9][0-9]?|C[0-9]{2}(?:\.[0-9])?", re.IGNORECASE),
    "tnm": re.compile(rf"{_TNM_PART}(?:[,; ]{{0,2}}{_TNM_PART}){{0,9}}"),
    "stage": re.compile(
        r"(?:(?:stage|stadium|ajcc|uicc|figo|pathologic|clinical)[ :]?){0,3}"
        r"(?:0|i{1,3}|iv|[1-4]|x|is|occult)(?:[a-d][1-3]?|is)?", re.IGNORECASE
    ),
    "grade": re.compile(
        r"(?:(?:grade|grad|who|isup|nottingham|fuhrman|group|g)[ :]?){0,3}(?:[0-5]|i{1,3}|iv|x)[ab]?"
        r"|(?:low|intermediate|moderate|high)(?:[ -]grade)?"
        r"|(?:well|moderately|poorly|un)[ -]?differentiated|anaplastic", re.IGNORECASE
    ),
    "gleason": re.compile(
        r"(?:gleason ?)?(?:[1-5] ?\+ ?[1-5](?: ?= ?(?:10|[2-9]))?|10|[2-9])"
        r"(?: ?\(?(?:gg|isup|grade group) ?[1-5]\)?)?", re.IGNORECASE
    ),
}  # fmt: skip
_TRUE, _FALSE = frozenset("true t yes y 1".split()), frozenset("false f no n 0".split())


def _within(rule: ColumnRule, value: float) -> bool:
    low = rule.minimum is None or value >= rule.minimum
    return low and (rule.maximum is None or value <= rule.maximum)


def _integer_reader(rule: ColumnRule) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        # spreadsheets write whole numbers of a column with gaps as 7.0
        bare = _without_unit(text, rule.units)
        value = int(bare.partition(".")[0]) if _INTEGER.fullmatch(bare) else _one_reading(rule, bare)
        if value != int(value) or not _within(rule, value):
            raise Misfit
        return int(value)

    return read


def _number_reader(rule: ColumnRule) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        text = _without_unit(text, rule.units)
        if rule.decimal == "any":
            return _one_reading(rule, text)
        if rule.decimal == ",":
            # with a decimal comma a point would be a separator of thousands: ambiguous, so not read
            text = text.replace(",", ".", 1) if "." not in text else ""
        if not _NUMBER.fullmatch(text):
            raise Misfit
        value = float(text)
        if not _within(rule, value):
            raise Misfit
        return value

    return read


def _without_unit(text: str, units: Sequence[str]) -> str:
    folded = text.casefold()
    for unit in units:
        if len(folded) == len(text) and folded.endswith(unit.casefold()):
            return text[: len(text) - len(unit)].rstrip()
    return text


def _one_reading(rule: ColumnRule, text: str) -> float:
    """The number this text can only be, in its range; `1,234` may be two, and then is none."""
    found = readings(text) if rule.decimal == "any" else ()
    fitting = {value for value in found if _within(rule, value)}
    if len(fitting) != 1:
        raise Misfit
    return fitting.pop()


def readings(text: str) -> tuple[float, ...]:
    """The numbers a text may mean where nobody said how they are written: a decimal point or comma, and groups of
    three digits set apart by whatever is not that mark."""
    found = {float(text.replace(",", "."))} if _EITHER_MARK.fullmatch(text) else set()
    if match := _GROUPED.fullmatch(text):
        bare = match["whole"].replace(match["mark"], "")
        found.add(float(f"{match['sign']}{bare}.{match['rest'] or 0}"))
    return tuple(sorted(found))


def _boolean_reader(rule: ColumnRule) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        word = fold(text)
        if word not in _TRUE and word not in _FALSE:
            raise Misfit
        return word in _TRUE

    return read


def _age_reader(rule: ColumnRule) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        text = _without_unit(text, rule.units)
        if _AGE.fullmatch(text):
            return AGE_EDGE
        if not _INTEGER.fullmatch(text):
            raise Misfit
        value = int(text.partition(".")[0])
        if not 0 <= value <= 130 or not _within(rule, value):
            raise Misfit
        return min(value, AGE_EDGE)

    return read


def _code_reader(rule: ColumnRule) -> Callable[[str], Value]:
    grammar = GRAMMARS[rule.code or "icd10"]

    def read(text: str) -> Value:
        if len(text) > MAX_CODE_CHARS or not grammar.fullmatch(text):
            raise Misfit
        return text

    return read


def _zip3_reader(rule: ColumnRule) -> Callable[[str], Value]:
    def read(text: str) -> Value:
        match = _ZIP.fullmatch(text)
        if match is None:
            raise Misfit
        return "000" if match[1] in SMALL_ZIP3 else match[1]

    return read


def _date_reader(rule: ColumnRule) -> Callable[[str], Value]:
    formats = (rule.format,) if isinstance(rule.format, str) else rule.format or ()

    def read(text: str) -> Value:
        value = _date_of(text, formats)
        if value is None or not EARLIEST_YEAR <= value.year <= LATEST_YEAR:
            raise Misfit
        return value

    return read


def _date_of(text: str, formats: tuple[str, ...]) -> date | None:
    """By the first format that reads the whole cell. The library's errors quote the cell, so none is kept."""
    if not text.isascii():
        return None  # strptime reads any script's digits
    if not formats:
        try:
            return datetime.fromisoformat(text).date() if _ISO.match(text) else None
        except ValueError:
            return None
    for format in formats:
        try:
            return datetime.strptime(text, format).date()
        except ValueError:
            continue
    return None


# --- values to facts -------------------------------------------------------------------------------------


def release(
    layout: Layout, row: TypedRow, *, offset_days: int | None, this_year: int
) -> dict[str, str | int | float | bool | None]:
    """The facts of one matched row as they may stand in the ordinary schema. Without the patient's offset a
    date that must be shifted does not leave at all."""
    return {
        name: _released(value, rule, offset_days, this_year)
        for (name, _, rule), value in zip(layout.facts, row.values, strict=True)
    }


def _released(
    value: Value, rule: ColumnRule, offset_days: int | None, this_year: int
) -> str | int | float | bool | None:
    if isinstance(value, date):
        return _released_date(value, rule, offset_days, this_year)
    return neutralise(value) if isinstance(value, str) else value


def _released_date(value: date, rule: ColumnRule, offset_days: int | None, this_year: int) -> str | int | None:
    edge = this_year - AGE_EDGE
    if rule.dates == "year":
        # a year of birth that tells an age above 89 joins the class of the oldest
        return max(value.year, edge) if rule.birth else value.year
    if rule.dates == "drop" or offset_days is None or (rule.birth and value.year <= edge):
        return None
    return (value + timedelta(days=offset_days)).isoformat()


def neutralise(text: str) -> str:
    """A text that no spreadsheet takes for a formula (leading = + - @, tab, line break). A receptor's `+` alone is no
    formula."""
    return "'" + text if text.startswith(_FORMULA) and text.strip("+-") else text


# --- the last net ----------------------------------------------------------------------------------------

_WORD = re.compile(r"[^\W_]{5,}")
_DIGITS = re.compile(r"[0-9](?:[\s().\-/]{0,2}[0-9]){4,}")


def tokens(cells: Iterable[str]) -> Iterator[str]:
    """What could identify: words and numbers of at least five characters, accents and case folded, numbers
    also without their punctuation and leading zeros."""
    for cell in cells:
        folded = plain(cell)
        for word in _WORD.findall(folded):
            yield word.lstrip("0") if word.isdigit() else word
        for run in _DIGITS.findall(folded):
            yield re.sub(r"[^0-9]", "", run).lstrip("0")


def vocabulary(policy: RecordsPolicy) -> frozenset[str]:
    """The words that people declared as values: these may leave even where a note repeats them."""
    return frozenset(
        tokens(v for table in policy.tables for rule in table.columns.values() for v in allowed_values(rule))
    )


def outgoing_tokens(values: Iterable[Value]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield from tokens((value,))
        elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) >= 10_000:
            yield str(abs(int(value)))


def suspects(
    rows: Mapping[str, Sequence[TypedRow]],
    subjects_of: Callable[[str, int], Sequence[object]],
    *,
    declared: frozenset[str],
) -> dict[str, list[int]]:
    """Rows (by table and index) in which a value that would leave equals a token of the same patient's keys or
    withheld cells, in any of the tables: a record number in a column of sizes, a name in a neighbouring cell.

    `subjects_of` says whom a row speaks of. Two passes over sets of (subject, token), so linear.
    """
    leaving: set[tuple[object, str]] = set()
    for name, table in rows.items():
        for index, row in enumerate(table):
            words = [word for word in outgoing_tokens(row.values) if word not in declared]
            if words:
                leaving.update((subject, word) for subject in subjects_of(name, index) for word in words)
    if not leaving:
        return {}
    caught = {
        (subject, word)
        for name, table in rows.items()
        for index, row in enumerate(table)
        for subject in subjects_of(name, index)
        for word in tokens((*row.key_cells, *row.withheld))
        if (subject, word) in leaving
    }
    hits = {
        name: [
            index for index, row in enumerate(table)
            if caught and any((subject, word) in caught for subject in subjects_of(name, index)
                              for word in outgoing_tokens(row.values))
        ]
        for name, table in rows.items()
    }  # fmt: skip
    return {name: indexes for name, indexes in hits.items() if indexes}
