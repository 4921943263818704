"""One cell to a value of its column's class; what is not of it is a misfit. There is no class that lets text through:
words come from the policy's own lists, the rest is numbers."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date, datetime

from mover.decide.folding import fold
from mover.model.policy import ColumnRule

Value = str | int | float | bool | date | None
EARLIEST_YEAR, LATEST_YEAR = 1800, 2200
AGE_EDGE = 90  # 45 CFR 164.514(b)(2)(i)(C): ages over 89 become one class
# areas of at most 20,000 people in the census of 2000, from the HHS guidance on 164.514(b)(2)(i)(B)
SMALL_ZIP3 = frozenset(
    "036 059 063 102 203 556 692 790 821 823 830 831 878 879 884 890 893".split()
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def allowed_values(rule: ColumnRule) -> tuple[str, ...]:
    """The words an enumeration may hold: its values, or what its map leads to when it lists none."""
    return tuple(dict.fromkeys(rule.values or tuple(target for target in rule.map.values() if target)))


def mask(text: str, *, length: int = 40) -> str:
    """The shape of a text: letters become A or a, digits 9; what is left is no identifier."""
    shape = "".join("9" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in text[:length])
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in shape)


class Misfit(Exception):
    """A cell is not of its class. Carries nothing: the cell may hold a name."""


def key_text(cell: str, pattern: re.Pattern[str] | None) -> str:
    """The part of a cell that names somebody or something: what the rule's pattern takes out of it. Raises Misfit where
    it takes nothing; an empty cell names nobody."""
    text = unicodedata.normalize("NFC", cell).strip()
    if not text or pattern is None:
        return text
    match = pattern.search(text)
    if match is None or not match[1]:
        raise Misfit
    return str(match[1])


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


def neutralise(text: str) -> str:
    """A text that no spreadsheet takes for a formula (leading = + - @, tab, line break). A receptor's `+` alone is no
    formula."""
    return "'" + text if text.startswith(_FORMULA) and text.strip("+-") else text
