"""Selections: cohort expressions as SQL, frozen lists of slides, and lists that people bring.

The tree that `decide.cohort` read is compiled with psycopg's composition: every word of it is ours, every value a
parameter. Slides are those granted to the project; facts stand beside them where records were aligned, so an
expression on facts selects aligned slides only, and one on the slides' own columns selects them all.

Facts are compared row by row, on purpose: the planner may not use an index on `facts` ahead of row level
security, because none of jsonb's operators is leakproof.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, LiteralString

from blake3 import blake3
from msgspec import Struct
from psycopg import sql

from mover.catalog import facts, queries
from mover.catalog.database import Connection
from mover.decide.cohort import (
    All,
    Any_,
    Between,
    Column,
    Compare,
    IsNull,
    Like,
    Node,
    Not,
    OneOf,
    Sampled,
    Scalar,
    parse,
)
from mover.decide.tables import mask
from mover.errors import LimitExceeded, RequestInvalid, RunRefused
from mover.model.ids import is_number
from mover.randomness import new_id

SLIDES_LIMIT = 1_000_000  # of one selection
NUMBERS_SLICE = 10_000
OFFENDERS_LIMIT = 1000

_Q = queries.load(__file__)


class Frozen(Struct, frozen=True):
    """A selection as it stands: `root` is the digest over the sorted numbers and the slides' digests."""

    selection_id: str
    count: int
    bytes: int
    root: str


async def count(conn: Connection, project: str, expression: str) -> tuple[int, int]:
    """How many slides an expression selects now, and their bytes."""
    where, values = compile_node(parse(expression, await facts.columns(conn)))
    [row] = await (await conn.execute(_COUNT.format(where=where), {**values, "project": project})).fetchall()
    return int(row.count), int(row.bytes)


async def freeze(
    conn: Connection,
    project: str,
    *,
    expression: str | None = None,
    numbers: Sequence[str] | None = None,
    cohort_id: str | None = None,
) -> Frozen:
    """Writes the list down in the caller's transaction; it never changes afterwards. An expression may select
    nothing: whether that is an error is the caller's to say. Numbers must all be known (`resolve_numbers`)."""
    if (expression is None) == (numbers is None):
        raise RequestInvalid("a selection is made from an expression or from numbers")
    if expression is not None:
        rows = await _selected(conn, project, expression)
    else:
        rows = await _named(conn, numbers or ())
    return await _write(conn, project, rows, cohort=cohort_id, expression=expression)


async def resolve_numbers(
    conn: Connection, project: str, numbers: Sequence[str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """The usable numbers in order, and every offender with its position (from 1) and why: malformed, duplicate,
    unknown (or not this project's), quarantined. What is malformed is told back as it came; keep it only as
    `storable` gives it."""
    if len(numbers) > SLIDES_LIMIT:
        raise LimitExceeded(f"more than {SLIDES_LIMIT} slides in one list")
    formed = sorted({number for number in numbers if is_number(number)})
    known, withdrawn = set(), set()
    for start in range(0, len(formed), NUMBERS_SLICE):
        part = formed[start : start + NUMBERS_SLICE]
        known |= {row.number for row in await _rows(conn, "slides_by_number", numbers=part)}
        withdrawn |= {row.number for row in await _rows(conn, "withdrawn", numbers=part)}
    usable: dict[str, None] = {}
    offenders: list[dict[str, Any]] = []
    for position, number in enumerate(numbers, start=1):
        why = _why_not(number, known=known, withdrawn=withdrawn, usable=usable)
        if why:
            offenders.append({"number": number, "position": position, "why": why})
        else:
            usable[number] = None
    return list(usable), offenders


async def withdrawn_since(conn: Connection, selection: str) -> list[str]:
    """Slides of a frozen list that no run may take any more, the first of them."""
    rows = await _rows(conn, "withdrawn_of_selection", selection=selection, limit=OFFENDERS_LIMIT)
    return [row.number for row in rows]


def storable(offenders: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same without what could be an original name: a malformed entry becomes its masked shape (I2)."""
    return [{**one, "number": mask(str(one["number"]))} if one.get("why") == "malformed" else one for one in offenders]


def _why_not(number: str, *, known: set[str], withdrawn: set[str], usable: dict[str, None]) -> str | None:
    if not is_number(number):
        return "malformed"
    if number in usable:
        return "duplicate"
    if number not in known:
        return "unknown"
    return "quarantined" if number in withdrawn else None


# --- freezing --------------------------------------------------------------------------------------------


async def _selected(conn: Connection, project: str, expression: str) -> list[Any]:
    where, values = compile_node(parse(expression, await facts.columns(conn)))
    query = _SELECT.format(where=where)
    cursor = await conn.execute(query, {**values, "project": project, "limit": SLIDES_LIMIT + 1})
    rows = await cursor.fetchall()
    if len(rows) > SLIDES_LIMIT:
        raise LimitExceeded(f"the expression selects more than {SLIDES_LIMIT} slides", hint="Narrow it, or sample.")
    return rows


async def _named(conn: Connection, numbers: Sequence[str]) -> list[Any]:
    wanted = sorted(set(numbers))
    rows = [
        row
        for start in range(0, len(wanted), NUMBERS_SLICE)
        for row in await _rows(conn, "slides_by_number", numbers=wanted[start : start + NUMBERS_SLICE])
    ]
    if len(rows) != len(numbers):
        raise RunRefused(f"{len(numbers) - len(rows)} of {len(numbers)} numbers are unknown or named twice")
    return rows


async def _write(
    conn: Connection, project: str, rows: list[Any], *, cohort: str | None, expression: str | None
) -> Frozen:
    lines = "".join(f"{row.number} {row.digest}\n" for row in rows)
    frozen = Frozen(
        selection_id=new_id("selection"),
        count=len(rows),
        bytes=sum(row.size_bytes for row in rows),
        root=blake3(lines.encode()).hexdigest(),
    )
    await conn.execute(
        _Q["add_selection"],
        {"id": frozen.selection_id, "project": project, "cohort": cohort, "expression": expression,
         "count": frozen.count, "bytes": frozen.bytes, "root": frozen.root},
    )  # fmt: skip
    for start in range(0, len(rows), NUMBERS_SLICE):
        part = [row.number for row in rows[start : start + NUMBERS_SLICE]]
        values = {"project": project, "selection": frozen.selection_id, "numbers": part}
        await conn.execute(_Q["add_selection_slides"], values)
    return frozen


async def _rows(conn: Connection, name: str, **values: object) -> list[Any]:
    return await (await conn.execute(_Q[name], values)).fetchall()


# --- expressions as SQL ------------------------------------------------------------------------------------

_FROM: LiteralString = """
  from mover.slide_grant g
  join mover.slide s on s.number = g.number
  left join mover.aligned a on a.project_id = g.project_id and a.number = g.number
 where g.project_id = %(project)s
   and not exists (select from mover.slide_withdrawal w where w.number = g.number) and """
# a slide is all of its files
_BYTES: LiteralString = "(s.size_bytes + s.files_bytes)"
_WHAT: LiteralString = "select s.number, " + _BYTES + " as size_bytes, coalesce(s.root, s.digest) as digest"
_SELECT = sql.SQL(_WHAT + _FROM + "({where}) order by s.number limit %(limit)s")
_COUNT = sql.SQL("select count(*), coalesce(sum(" + _BYTES + "), 0) as bytes" + _FROM + "({where})")

_OPERATORS: dict[str, LiteralString] = {"=": "=", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
# the slide's columns that are not in its document of facts
_OWN: dict[str, LiteralString] = {
    "number": "s.number",
    # DICOM objects name their patient themselves, by the same pseudonym
    "subject": "coalesce(a.subject, s.facts ->> 'subject')",
    "family": "s.family",
    "extension": "s.extension",
    "size_bytes": _BYTES,
}
_FACT_KEYS = {"mpp": "mpp_x"}


def compile_node(node: Node) -> tuple[sql.Composable, dict[str, Any]]:
    """A condition over `s` (slide) and `a` (aligned) with its parameters."""
    compiler = _Compiler()
    return compiler.condition(node), compiler.values


class _Compiler:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def condition(self, node: Node) -> sql.Composable:
        match node:
            case All(parts):
                return self._joined(" and ", parts)
            case Any_(parts):
                return self._joined(" or ", parts)
            case Not(inner):
                return sql.SQL("(not {})").format(self.condition(inner))
            case Compare(left, operator, right):
                other = self._column(right) if isinstance(right, Column) else self._value(right)
                return sql.SQL("({} {} {})").format(self._column(left), sql.SQL(_OPERATORS[operator]), other)
            case OneOf(column, values):
                items = sql.SQL(", ").join(self._value(value) for value in values)
                return sql.SQL("({} in ({}))").format(self._column(column), items)
            case Between(column, low, high):
                bounds = (self._column(column), self._value(low), self._value(high))
                return sql.SQL("({} between {} and {})").format(*bounds)
            case IsNull(column):
                return sql.SQL("({} is null)").format(self._column(column))
            case Like(column, pattern, any_case):
                # an empty escape: a backslash in a pattern is a backslash
                word = sql.SQL("ilike") if any_case else sql.SQL("like")
                return sql.SQL("({} {} {} escape '')").format(self._column(column), word, self._value(pattern))
            case Sampled(fraction, seed):
                return self._sampled(fraction, seed)

    def _joined(self, word: LiteralString, parts: Iterable[Node]) -> sql.Composable:
        return sql.SQL("({})").format(sql.SQL(word).join(self.condition(part) for part in parts))

    def _column(self, column: Column) -> sql.Composable:
        if column.home == "slide" and column.name in _OWN:
            return sql.SQL(_OWN[column.name])
        document = sql.SQL("a.facts" if column.home == "record" else "s.facts")
        key = self._value(_FACT_KEYS.get(column.name, column.name) if column.home == "slide" else column.name)
        text = sql.SQL("({}->>{}::text)").format(document, key)
        if column.type in ("text", "date"):
            # dates stand in ISO 8601, whose order is that of its letters
            return sql.SQL('{} collate "C"').format(text) if column.type == "date" else text
        kind, cast = ("boolean", sql.SQL("boolean")) if column.type == "boolean" else ("number", sql.SQL("numeric"))
        # the type is asked for first: an error would otherwise stop a cohort over one odd document
        guard = sql.SQL("jsonb_typeof({}->{}::text) = {}").format(document, key, self._value(kind))
        return sql.SQL("(case when {} then {}::{} end)").format(guard, text, cast)

    def _value(self, value: Scalar) -> sql.Composable:
        name = f"v{len(self.values)}"
        self.values[name] = Decimal(repr(value)) if isinstance(value, float) else value
        return sql.Placeholder(name)

    def _sampled(self, fraction: float, seed: int) -> sql.Composable:
        """SHA-256 of seed and number as a 32-bit number: the same in every database, for ever."""
        text = self._value(f"{seed}:")
        share = self._value(int(fraction * 2**32))
        digest = sql.SQL("encode(substr(sha256(convert_to({}::text || s.number, 'UTF8')), 1, 4), 'hex')").format(text)
        return sql.SQL("(('x' || {})::bit(32)::bigint < {})").format(digest, share)
