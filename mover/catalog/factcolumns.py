"""The facts of a project's slides as columns: built in blocks, read in parts, exact at any time.

Row level security lets no index on a document of facts be used: none of jsonb's operators is leakproof. So facts are
packed into blocks whose key is the project, the column and a number, and those are read through their primary key as
the project's own role. What an expression says never becomes SQL: it is judged in `decide.vectors`.

A slide that was written since its block was built has a mark. Readers take marked slides row by row and skip their
places, so an answer counts every slide once, as it is. They read the marks first, in one moment with the number of
places; what gets a place or a block later cannot be counted twice. The builder takes marks before it reads rows.

Tags are in no block: people change those of a hundred thousand slides at once, and ask for the result the next moment.
Which slides have one is read from its rows and laid over the parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from mover.catalog import facts, queries
from mover.catalog.database import Connection
from mover.decide.vectors import BLOCK, DRAW, TAGS, Mask, Vector, draw, pack, unpack
from mover.errors import CatalogUnavailable
from mover.model.facts import SLIDE_COLUMNS, FactColumn

MARKS_MAX = 1_000_000  # read row by row at most; beyond it the builder has to catch up first
READ_BLOCKS = 16  # of one question to the database
READ_ROWS = 5_000  # of one question: psycopg makes rows of them in the event loop
BUILD_BLOCKS = 4  # of one transaction
PLACES_SLICE = 50_000
SIZE = "slide:size_bytes"  # of every slide: how many rows a block has, and how many bytes they are

_Q = queries.load(__file__)


class Part(Struct, frozen=True):
    """Some slides: those of a block, from place `first` on, or marked ones by their numbers. Only rows that are
    `here` count."""

    rows: int
    columns: dict[str, Vector]
    here: Mask
    first: int | None = None
    numbers: Sequence[str] = ()


Places = NDArray[np.int64]


class _Standing(Struct, frozen=True):
    places: int
    marked: list[str]
    skipped: Places  # ascending


async def parts(
    conn: Connection, wanted: Iterable[str], *, newest: int | None = None
) -> AsyncGenerator[list[Part], None]:
    """Every slide of the project exactly once, a few blocks at a time, with these columns and its size; with
    `newest`, only what the last blocks hold. Raises CatalogUnavailable while too much waits to be built."""
    names = sorted({name for name in (*wanted, SIZE) if not name.startswith(TAGS)})
    tagged = await _tagged(conn, sorted({name for name in wanted if name.startswith(TAGS)}))
    standing = await _standing(conn)
    last = (standing.places - 1) // BLOCK
    begin = max(0, last + 1 - newest) if newest is not None else 0
    ahead: asyncio.Task[list[Any]] | None = None
    try:
        for start in range(begin, last + 1, READ_BLOCKS):
            rows = await ahead if ahead is not None else await _blocks(conn, names, start, last)
            following = start + READ_BLOCKS
            # the database sends the next blocks while these are judged
            ahead = asyncio.create_task(_blocks(conn, names, following, last)) if following <= last else None
            yield await asyncio.to_thread(_parts, rows, standing, tagged)
    finally:
        if ahead is not None:
            await asyncio.wait([ahead])
    typed = await _typed(conn)
    for start in range(0, len(standing.marked) if newest is None else min(len(standing.marked), READ_ROWS), READ_ROWS):
        numbers = standing.marked[start : start + READ_ROWS]
        found = await _Q.many(conn, "rows_by_number", numbers=numbers)
        if found:  # not all of them withheld
            types = {name: typed[name] for name in names if name in typed}
            tags = await _tagged_of(conn, tagged, [row.number for row in found])
            yield [await asyncio.to_thread(_marked, found, types, tags)]


async def _standing(conn: Connection) -> _Standing:
    row = await _Q.one(conn, "standing", limit=MARKS_MAX + 1)
    if row.marks > MARKS_MAX:
        raise CatalogUnavailable(
            f"more than {MARKS_MAX} slides were written and wait for their columns to be made",
            hint="The daemon makes them, some ten thousand slides a second; ask again.",
        )
    skipped = np.unique(np.array((row.marked_places or []) + (row.withheld or []), np.int64))
    return _Standing(row.places, row.marked or [], skipped)


async def _tagged(conn: Connection, keys: Sequence[str]) -> dict[str, Places]:
    """The places of the slides with each of these tags, or with any, ascending."""
    found = {}
    for key in keys:
        async with conn.cursor(binary=True) as cursor:
            await cursor.execute(_Q["tagged"], {"tag": key.removeprefix(TAGS) or None}, prepare=False)
            [row] = await cursor.fetchall()
        found[key] = np.array(row.places or [], np.int64)
    return found


async def _tagged_of(conn: Connection, keys: Iterable[str], numbers: Sequence[str]) -> dict[str, Vector]:
    """The same of these rows, in their order."""
    found = {}
    for key in keys:
        rows = await _Q.planned(conn, "tagged_of", numbers=numbers, tag=key.removeprefix(TAGS) or None)
        has = {row.number for row in rows}
        found[key] = Vector(np.fromiter((number in has for number in numbers), bool, len(numbers)))
    return found


async def _blocks(conn: Connection, names: list[str], first: int, last: int) -> list[Any]:
    async with conn.cursor(binary=True) as cursor:
        end = min(first + READ_BLOCKS - 1, last)
        await cursor.execute(_Q["blocks"], {"names": names, "first": first, "last": end})
        return await cursor.fetchall()


async def plans(conn: Connection, wanted: Iterable[str]) -> list[str]:
    """How PostgreSQL reads these columns: one line for every table it looks at, by its own estimate."""
    names = sorted({*wanted, SIZE})
    found = []
    asked: list[tuple[str, dict[str, Any]]] = [
        ("standing", {"limit": MARKS_MAX + 1}),
        ("blocks", {"names": names, "first": 0, "last": READ_BLOCKS - 1}),
    ]
    for query, values in asked:
        [row] = await (await conn.execute("explain (format json) " + _Q[query], values)).fetchall()
        found += _scans(row[0][0]["Plan"])
    return found


def _scans(plan: dict[str, Any]) -> list[str]:
    inner = [line for one in plan.get("Plans", ()) for line in _scans(one)]
    if "Relation Name" not in plan:
        return inner
    index = f" by {plan['Index Name']}" if "Index Name" in plan else ""
    return [f"{plan['Node Type']} of {plan['Relation Name']}{index}, about {plan['Plan Rows']} rows", *inner]


def _parts(rows: Sequence[Any], standing: _Standing, tagged: Mapping[str, Places]) -> list[Part]:
    blocks: dict[int, dict[str, Vector]] = {}
    for row in rows:
        blocks.setdefault(row.block, {})[row.name] = unpack(row.body)
    return [_part(block * BLOCK, columns, standing, tagged) for block, columns in blocks.items()]


def _part(first: int, columns: dict[str, Vector], standing: _Standing, tagged: Mapping[str, Places]) -> Part:
    size = columns[SIZE]
    rows = len(size.values if size.codes is None else size.codes)
    here = np.arange(first, first + rows) < standing.places
    low, high = np.searchsorted(standing.skipped, (first, first + rows))
    here[standing.skipped[low:high] - first] = False
    for key, places in tagged.items():
        begin, end = np.searchsorted(places, (first, first + rows))
        has = np.zeros(rows, bool)
        has[places[begin:end] - first] = True
        columns[key] = Vector(has)
    return Part(rows, columns, here, first)


def _marked(found: Sequence[Any], types: Mapping[str, str], tags: Mapping[str, Vector]) -> Part:
    columns = {name: unpack(body) for name, body in _packed(found, types).items()} | dict(tags)
    return Part(len(found), columns, np.ones(len(found), bool), numbers=[row.number for row in found])


# --- rows as columns ---------------------------------------------------------------------------------------

FACT_KEYS = {"mpp": "mpp_x"}  # columns of slides that their documents call otherwise
_decode = msgspec.json.Decoder(dict[str, Any]).decode


async def _typed(conn: Connection) -> dict[str, str]:
    return types_of(await facts.columns(conn))


def types_of(known: Mapping[str, FactColumn]) -> dict[str, str]:
    """The type of every column that is built, by its key."""
    return {
        DRAW: "integer",
        **{f"slide:{name}": type_ for name, type_ in SLIDE_COLUMNS.items()},
        **{f"record:{name}": column.type for name, column in known.items()},
    }


def _packed(rows: Sequence[Any], types: Mapping[str, str]) -> dict[str, bytes]:
    """The columns of these rows; one that knows nothing of any of them is left out."""
    own = [_decode(row.own) for row in rows]
    aligned = [_decode(row.facts) if row.facts is not None else {} for row in rows]
    packed = {}
    for name, type_ in types.items():
        values = _values(name, rows, own, aligned)
        if name == SIZE or any(value is not None for value in values):
            packed[name] = pack(type_, values)
    return packed


def _values(name: str, rows: Sequence[Any], own: list[dict[str, Any]], aligned: list[dict[str, Any]]) -> list[Any]:
    home, _, column = name.partition(":")
    if home == "record":
        return [document.get(column) for document in aligned]
    if name == DRAW:
        return [draw(row.number) for row in rows]
    if column == "subject":  # DICOM objects name their patient themselves, by the same pseudonym
        return [row.subject or document.get("subject") for row, document in zip(rows, own, strict=True)]
    if column in ("number", "family", "extension", "size_bytes"):
        return [getattr(row, column) for row in rows]
    return [document.get(FACT_KEYS.get(column, column)) for document in own]


# --- places and building -----------------------------------------------------------------------------------


async def place(conn: Connection, project: str, numbers: Sequence[str]) -> None:
    """Gives those of these slides a place that have none, until the end of the transaction nobody else does."""
    await conn.execute(_Q["lock_places"], {"project": project})
    for start in range(0, len(numbers), PLACES_SLICE):
        await conn.execute(_Q["place"], {"numbers": numbers[start : start + PLACES_SLICE]})


async def place_marked(conn: Connection, project: str) -> bool:
    """Some of the marked slides that have no place; whether there may be more."""
    numbers = [row.number for row in await _Q.many(conn, "unplaced", limit=PLACES_SLICE)]
    if numbers:
        await conn.execute(_Q["drop_strangers"], {"numbers": numbers})
        await place(conn, project, numbers)
    return len(numbers) == PLACES_SLICE


async def build(conn: Connection, project: str) -> int:
    """Makes a few blocks anew of which something was written; how many. It is none while somebody else builds."""
    if not (await _Q.one(conn, "may_build", project=project)).mine:
        return 0
    blocks = await _Q.many(conn, "marked_blocks", size=BLOCK, marks=PLACES_SLICE, limit=BUILD_BLOCKS)
    types = await _typed(conn)
    for one in blocks:
        first, end = one.block * BLOCK, (one.block + 1) * BLOCK
        await conn.execute(_Q["take_marks"], {"first": first, "last": end - 1})
        rows = [
            row
            for at in range(first, end, READ_ROWS)
            for row in await _Q.many(conn, "rows_by_place", first=at, last=min(at + READ_ROWS, end) - 1)
        ]
        packed = await asyncio.to_thread(_packed, rows, types)
        await conn.execute(_Q["drop_columns"], {"block": one.block, "names": list(packed)})
        async with conn.cursor() as cursor:
            await cursor.executemany(
                _Q["put_block"],
                [{"project": project, "name": name, "block": one.block, "body": body} for name, body in packed.items()],
            )
    return len(blocks)


async def projects_marked(conn: Connection) -> list[str]:
    """Where something was written since the columns were built, whatever the project."""
    return [row.project_id for row in await _Q.many(conn, "projects_marked")]
