"""Selections: what an expression selects now, frozen lists of slides, and lists that people bring.

Slides are those granted to the project and not withheld (withdrawn, or in quarantine); facts stand beside them where
records were aligned, so an expression on facts selects aligned slides only, and one on the slides' own columns selects
them all. Expressions are judged over columns (`catalog.factcolumns`, `decide.vectors`); none becomes SQL.

A frozen list is kept once for all selections of its root, as places: two bytes a slide, and no copy of anything.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import numpy as np
from blake3 import blake3
from msgspec import Struct

from mover.catalog import factcolumns, facts, queries
from mover.catalog.database import Connection
from mover.catalog.factcolumns import SIZE, Part
from mover.decide.cohort import Node, parse
from mover.decide.cohortwords import Clause, clauses
from mover.decide.spread import Spread
from mover.decide.tables import mask
from mover.decide.vectors import BLOCK, Mask, judge, keys_of
from mover.errors import LimitExceeded, RequestInvalid, RunRefused
from mover.model.ids import is_number
from mover.randomness import new_id

Item = TypeVar("Item")

SLIDES_LIMIT = 1_000_000  # of one selection
NUMBERS_SLICE = 20_000  # of one question: its plan reads the project's grants, and its rows are made in the event loop
CLAUSES_LIMIT = 100  # of an expression that is explained

_Q = queries.load(__file__)


class Frozen(Struct, frozen=True):
    """A selection as it stands: `root` is the digest over the sorted numbers and the slides' digests."""

    selection_id: str
    count: int
    bytes: int
    root: str


async def count(conn: Connection, expression: str) -> tuple[int, int]:
    """How many slides an expression selects now, and their bytes."""
    return (await counts(conn, [expression]))[0]


async def counts(conn: Connection, expressions: Sequence[str]) -> list[tuple[int, int]]:
    """Of several expressions, in one look at the columns."""
    known = await facts.columns(conn)
    nodes = [parse(expression, known) for expression in expressions]
    sums = [0] * (2 * len(nodes))

    def look(part: Part) -> list[int]:
        return [figure for node in nodes for figure in _weighed(_chosen(node, part), part)]

    async for found in _over(conn, set().union(*map(keys_of, nodes)), look):
        sums = [sum(one) for one in zip(sums, *found, strict=True)]
    return list(zip(sums[::2], sums[1::2], strict=True))


class Explained(Struct, frozen=True):
    """What the whole selects, what each clause would select alone, and how that was found."""

    count: int
    bytes: int
    clauses: list[tuple[Clause, int]]
    columns: list[str]
    slides: int
    row_by_row: int  # of these slides: written since their columns were made


async def explain(conn: Connection, expression: str) -> Explained:
    """Judges every clause apart, over all slides."""
    node = await _read(conn, expression)
    told = list(clauses(node))
    if len(told) > CLAUSES_LIMIT:
        raise LimitExceeded(f"the expression has {len(told)} clauses; {CLAUSES_LIMIT} are explained at most")

    def apart(part: Part) -> list[int]:
        selected, size_bytes = _weighed(_chosen(node, part), part)
        alone = [int((judge(one.node, part.columns, part.rows).yes & part.here).sum()) for one in told]
        slides = int(part.here.sum())
        return [selected, size_bytes, slides, 0 if part.first is not None else slides, *alone]

    sums = [0] * (4 + len(told))
    async for found in _over(conn, keys_of(node), apart):
        sums = [sum(one) for one in zip(sums, *found, strict=True)]
    return Explained(
        sums[0],
        sums[1],
        list(zip(told, sums[4:], strict=True)),
        sorted(keys_of(node)),
        slides=sums[2],
        row_by_row=sums[3],
    )


async def spreads(
    conn: Connection, expression: str | None, types: dict[str, str], *, newest: int | None = None
) -> tuple[int, int, dict[str, Spread]]:
    """How the values of these columns (by their keys) are spread over what an expression selects, or over all
    slides; with the count and the bytes. Numbers with very many values are looked at twice."""
    node = await _read(conn, expression) if expression is not None else None
    found = {name: Spread(type_) for name, type_ in types.items()}
    sums = [0, 0]

    def look(part: Part) -> tuple[int, int]:
        chosen = _chosen(node, part)
        for name, spread in found.items():
            spread.add(part.columns.get(name), chosen)
        return _weighed(chosen, part)

    def look_again(part: Part) -> None:
        chosen = _chosen(node, part)
        for name in wide:
            found[name].add_again(part.columns.get(name), chosen)

    asked = keys_of(node) if node is not None else set()
    async for weights in _over(conn, asked | set(types), look, newest=newest):
        sums = [sum(one) for one in zip(sums, *weights, strict=True)]
    wide = [name for name, spread in found.items() if spread.again]
    if wide:
        async for _ in _over(conn, asked | set(wide), look_again, newest=newest):
            pass
    return sums[0], sums[1], found


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
        rows = await _named(conn, project, numbers or ())
    return await _write(conn, project, rows, cohort=cohort_id, expression=expression)


async def freeze_rows(conn: Connection, project: str, rows: list[Any]) -> Frozen:
    """The same of slides that were `resolve`d in this transaction."""
    without = [row.number for row in rows if row.place is None]
    if without:
        placed = {row.number: row for row in await _placed(conn, project, without)}
        rows = [placed.get(row.number, row) for row in rows]
    return await _write(conn, project, rows, cohort=None, expression=None)


async def numbers_of(conn: Connection, project: str, expression: str) -> list[str]:
    """The slides that an expression selects now, in order; nothing is frozen."""
    return sorted(row.number for row in await _selected(conn, project, expression))


class Resolved(Struct, frozen=True):
    """Rows of the usable slides in the order in which they were named, and every offender with its position (from 1)
    and why: malformed, duplicate, unknown (or not this project's), quarantined. What is malformed is told back as it
    came; keep it only as `storable` gives it."""

    rows: list[Any]
    offenders: list[dict[str, Any]]


async def resolve(conn: Connection, numbers: Sequence[str]) -> Resolved:
    """What a list of numbers names."""
    if len(numbers) > SLIDES_LIMIT:
        raise LimitExceeded(f"more than {SLIDES_LIMIT} slides in one list")
    formed = await asyncio.to_thread(lambda: sorted({number for number in numbers if is_number(number)}))
    known: dict[str, Any] = {}
    withdrawn: set[str] = set()
    for start in range(0, len(formed), NUMBERS_SLICE):
        part = formed[start : start + NUMBERS_SLICE]
        known |= {row.number: row for row in await _Q.planned(conn, "slides_placed", numbers=part)}
        withdrawn |= {row.number for row in await _Q.planned(conn, "withheld", numbers=part)}
    return await asyncio.to_thread(_resolved, numbers, set(formed), known, withdrawn)


async def resolve_numbers(
    conn: Connection, project: str, numbers: Sequence[str]
) -> tuple[list[str], list[dict[str, Any]]]:
    """The usable numbers in order, and every offender."""
    found = await resolve(conn, numbers)
    return [row.number for row in found.rows], found.offenders


def _resolved(numbers: Sequence[str], formed: set[str], known: dict[str, Any], withdrawn: set[str]) -> Resolved:
    usable: dict[str, Any] = {}
    offenders: list[dict[str, Any]] = []
    for position, number in enumerate(numbers, start=1):
        if number not in formed:
            why = "malformed"
        elif number in usable:
            why = "duplicate"
        elif number not in known:
            why = "unknown"
        elif number in withdrawn:
            why = "quarantined"
        else:
            usable[number] = known[number]
            continue
        offenders.append({"number": number, "position": position, "why": why})
    return Resolved(list(usable.values()), offenders)


async def frozen(conn: Connection, selection: str) -> Frozen | None:
    """A list that was frozen before; None where the project has no such list."""
    rows = await _rows(conn, "selection", selection=selection)
    return Frozen(**rows[0]._asdict()) if rows else None


async def withdrawn_since(conn: Connection, selection: str) -> list[str]:
    """Slides of a frozen list that no run may take any more."""
    rows = await _rows(conn, "withheld_of_selection", selection=selection, size=BLOCK)
    return [row.number for row in rows]


def storable(offenders: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same without what could be an original name: a malformed entry becomes its masked shape (I2)."""
    return [{**one, "number": mask(str(one["number"]))} if one.get("why") == "malformed" else one for one in offenders]


# --- looking -----------------------------------------------------------------------------------------------


async def _read(conn: Connection, expression: str) -> Node:
    return parse(expression, await facts.columns(conn))


async def _over(
    conn: Connection, wanted: set[str], look: Callable[[Part], Item], *, newest: int | None = None
) -> AsyncIterator[list[Item]]:
    """What `look` says of every part of the project, in a thread."""
    async with aclosing(factcolumns.parts(conn, wanted, newest=newest)) as every:
        async for some in every:
            yield await asyncio.to_thread(_looked, look, some)


def _looked(look: Callable[[Part], Item], some: Sequence[Part]) -> list[Item]:
    return [look(part) for part in some]


def _chosen(node: Node | None, part: Part) -> Mask:
    return part.here if node is None else judge(node, part.columns, part.rows).yes & part.here


def _weighed(chosen: Mask, part: Part) -> tuple[int, int]:
    size = part.columns[SIZE]
    if size.codes is None:
        return int(chosen.sum()), int(size.values[chosen].sum())
    counts = np.bincount(size.codes[chosen], minlength=len(size.values) + 1)[1:]
    return int(chosen.sum()), int((counts * size.values).sum())


# --- freezing ----------------------------------------------------------------------------------------------


async def _selected(conn: Connection, project: str, expression: str) -> list[Any]:
    places: list[int] = []
    numbers: list[str] = []
    node = await _read(conn, expression)
    async for found in _over(conn, keys_of(node), lambda part: _picked(node, part)):
        for at, named in found:
            places += at
            numbers += named
        if len(places) + len(numbers) > SLIDES_LIMIT:
            raise LimitExceeded(f"the expression selects more than {SLIDES_LIMIT} slides", hint="Narrow it, or sample.")
    return await _at(conn, places) + await _placed(conn, project, numbers)


def _picked(node: Node, part: Part) -> tuple[list[int], list[str]]:
    """The places of what is chosen; of marked slides the numbers."""
    chosen: list[int] = np.flatnonzero(_chosen(node, part)).tolist()
    if part.first is not None:
        return [part.first + at for at in chosen], []
    return [], [part.numbers[at] for at in chosen]


async def _at(conn: Connection, places: Sequence[int]) -> list[Any]:
    return [
        row
        for start in range(0, len(places), NUMBERS_SLICE)
        for row in await _Q.planned(conn, "slides_at", places=places[start : start + NUMBERS_SLICE])
    ]


async def _placed(conn: Connection, project: str, numbers: Sequence[str]) -> list[Any]:
    """The slides of these numbers that the project may see, each with its place."""
    wanted = sorted(set(numbers))
    rows = [
        row
        for start in range(0, len(wanted), NUMBERS_SLICE)
        for row in await _Q.planned(conn, "slides_placed", numbers=wanted[start : start + NUMBERS_SLICE])
    ]
    without = [row.number for row in rows if row.place is None]
    if not without:
        return rows
    await factcolumns.place(conn, project, without)
    return await _placed(conn, project, numbers)


async def _named(conn: Connection, project: str, numbers: Sequence[str]) -> list[Any]:
    rows = await _placed(conn, project, numbers)
    if len(rows) != len(numbers):
        raise RunRefused(f"{len(numbers) - len(rows)} of {len(numbers)} numbers are unknown or named twice")
    return rows


async def _write(
    conn: Connection, project: str, rows: list[Any], *, cohort: str | None, expression: str | None
) -> Frozen:
    frozen, blocks = await asyncio.to_thread(_sealed, rows)
    await conn.execute(
        _Q["add_selection"],
        {"id": frozen.selection_id, "project": project, "cohort": cohort, "expression": expression,
         "count": frozen.count, "bytes": frozen.bytes, "root": frozen.root},
    )  # fmt: skip
    listed = {"project": project, "root": frozen.root}
    async with conn.cursor() as cursor:
        await cursor.executemany(_Q["add_list"], [{**listed, "block": block, "offsets": at} for block, at in blocks])
    return frozen


def _sealed(rows: list[Any]) -> tuple[Frozen, list[tuple[int, list[int]]]]:
    """In the order of the numbers, with the digest over them; and as places."""
    lines = "".join(sorted(f"{row.number} {row.digest}\n" for row in rows))
    frozen = Frozen(
        selection_id=new_id("selection"),
        count=len(rows),
        bytes=sum(row.size_bytes for row in rows),
        root=blake3(lines.encode()).hexdigest(),
    )
    return frozen, list(_by_block(row.place for row in rows))


def _by_block(places: Iterable[int]) -> Iterator[tuple[int, list[int]]]:
    blocks: dict[int, list[int]] = defaultdict(list)
    for place in sorted(places):
        blocks[place // BLOCK].append(place % BLOCK)
    yield from blocks.items()


async def _rows(conn: Connection, name: str, **values: object) -> list[Any]:
    return await (await conn.execute(_Q[name], values)).fetchall()
