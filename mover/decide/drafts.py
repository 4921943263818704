"""A first rule for each column of a table nobody has declared yet: what a person edits before anything moves.

A draft may look at words of headers and shapes of cells, because it decides nothing: it is a file that somebody reads,
and what it gets wrong on the narrow side stays in. So it proposes to keep only what typed classes can hold; words, and
numbers that may be somebody's, are proposed to be dropped, with what was seen of them. No cell is quoted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from mover.decide.folding import fold
from mover.decide.tables import GRAMMARS, mask, readings
from mover.model.policy import CodeSystem

SAMPLE_ROWS = 5000
MOST = 0.95  # of the cells that are not empty
FEW_WORDS = 40
LONG_CHARS = 40
MANY_DIGITS = 5

# words of a header, folded, and the class a column of that name usually is; the first that fits
_BY_NAME: tuple[tuple[re.Pattern[str], str, str], ...] = tuple(
    (re.compile(pattern), rule, why)
    for pattern, rule, why in (
        (r"\bmrn\b|patient.?(id|no|nr|number)|record.?(no|number)|\bpid\b", "{class: patient}", "a patient's number"),
        (r"accession|case.?(no|nr|id|number)|\bcase\b|fall.?n", "{class: case}", "a case's number"),
        (r"bar.?code|block", "{class: block}", "a block's or a label's text"),
        (r"(slide|image|scan|file).*(file|name)|^file$|filename", "{class: image}", "an image's file name"),
        (r"birth|\bdob\b|geburt", "", "birth"),
        (r"\bage\b|\balter\b", "{class: age, quasi: true}", "an age"),
        (r"\bzip\b|\bplz\b|post.?code|postal", "{class: zip3, quasi: true}", "an area"),
        (
            r"name|address|street|phone|\btel|mail|\bssn\b|insur|doctor|pathologist|physician|operator|user|technician"
            r"|scanned.by|serial|city|town|contact|relative",
            "{class: drop}", "its name says that it names somebody or something",
        ),
        (r"note|comment|remark|text|history|description|bemerkung", "{class: text}", "free text by its name"),
    )
)  # fmt: skip
_FORMATS = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%m/%d/%Y",
    "%m/%d/%Y %H:%M", "%d/%m/%Y", "%d/%m/%Y %H:%M", "%d-%b-%Y", "%Y/%m/%d", "%Y%m%d",
)  # fmt: skip
_CODES: tuple[CodeSystem, ...] = ("icd10", "icdo3", "tnm")


class ColumnDraft(Struct, frozen=True):
    """`name` stands in the file and may itself name somebody: it belongs into the draft and nowhere else; `shape` is
    what lists may show. `rule` is YAML."""

    position: int
    name: str
    shape: str
    rule: str
    why: str
    filled: int
    distinct: int


def draft_column(position: int, name: str, cells: Sequence[str]) -> ColumnDraft:
    """`cells` are a sample of at most SAMPLE_ROWS; `position` counts from 1."""
    filled = [cell.strip() for cell in cells[:SAMPLE_ROWS] if cell.strip()]
    rule, why = _proposed(fold(name), filled)
    return ColumnDraft(position, name, mask(name), rule, why, len(filled), len(set(filled)))


def _proposed(name: str, filled: Sequence[str]) -> tuple[str, str]:
    if not filled:
        return "{class: drop}", "empty in the sample"
    for pattern, rule, why in _BY_NAME:
        if pattern.search(name.replace("_", " ")):
            return (rule, why) if rule else _as_date(filled, birth=True)
    dated, why = _as_date(filled, birth=False)
    if why != "no date":
        return dated, why
    return _by_cells(filled)


def _as_date(filled: Sequence[str], *, birth: bool) -> tuple[str, str]:
    fitting = [fmt for fmt in _FORMATS if _most(_reads(cell, fmt) for cell in filled)]
    more = ", birth: true, quasi: true" if birth else ""
    if not fitting:
        return "{class: drop}", "a date of birth that no usual format reads" if birth else "no date"
    either = "; day and month may be the other way round" if len(fitting) > 1 else ""
    return f'{{class: date, dates: year, format: "{fitting[0]}"{more}}}', f"dates{either}"


def _reads(cell: str, fmt: str) -> bool:
    try:
        return cell.isascii() and bool(datetime.strptime(cell, fmt))
    except ValueError:
        return False


def _by_cells(filled: Sequence[str]) -> tuple[str, str]:
    for code in _CODES:
        if _most(GRAMMARS[code].fullmatch(cell) is not None for cell in filled):
            return f"{{class: code, code: {code}}}", f"codes by the grammar of {code}"
    numbers = [readings(cell) for cell in filled]
    distinct = len(set(filled))
    if _most(bool(found) for found in numbers):
        digits = max(len(re.sub(r"[^0-9]", "", cell)) for cell in filled)
        whole = all(found[-1] == int(found[-1]) for found in numbers if found)
        if whole and digits >= MANY_DIGITS and distinct > len(filled) / 2:
            return "{class: drop}", f"whole numbers of up to {digits} digits, mostly different: they may be somebody's"
        return _range(numbers), "numbers; the range is a guess from their size"
    if max(map(len, filled)) > LONG_CHARS:
        return "{class: text}", "long texts"
    if distinct <= FEW_WORDS and distinct * 3 <= len(filled):
        return "{class: drop}", f"{distinct} different words: if none names somebody, list them (enum, values)"
    return "{class: drop}", f"{distinct} different texts of shapes such as {mask(filled[0])}"


def _range(numbers: Sequence[tuple[float, ...]]) -> str:
    """Powers of ten: a draft does not repeat the largest value there is."""
    largest = max((abs(value) for found in numbers for value in found[-1:]), default=1.0)
    edge = 10 ** math.ceil(math.log10(largest + 1)) if largest >= 1 else 1
    low = -edge if any(found and found[0] < 0 for found in numbers) else 0
    return f"{{class: number, decimal: any, minimum: {low}, maximum: {edge}}}"


def _most(fits: Iterable[bool]) -> bool:
    found = list(fits)
    return bool(found) and sum(found) >= MOST * len(found)


def draft_yaml(name: str, columns: Sequence[ColumnDraft]) -> str:
    """One entry of a profile's `tables`, with what was seen of each column beside it."""
    lines = [f"  - name: {name}", "    columns:"]
    for column in columns:
        seen = f"{column.filled} cells, {column.distinct} different; {column.why}"
        # JSON's strings are YAML's; a header of any characters stays one word
        lines += [f"      # {seen}", f"      {json.dumps(column.name, ensure_ascii=False)}: {column.rule}"]
    return "\n".join(lines) + "\n"
