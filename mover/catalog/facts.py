"""What records say: a ledger's lines, one document of facts per slide, and the columns cohorts can ask about.

Every function works in the caller's transaction; the proof `aligned` comes after the ledger, in the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from mover.catalog import queries
from mover.catalog.database import Connection
from mover.decide.alignment import Document, Line
from mover.errors import Conflict, RequestInvalid
from mover.model import wire
from mover.model.facts import SLIDE_COLUMNS, FactColumn

Item = TypeVar("Item")

COLUMNS_LIMIT = 10_000
SLICE_LINES = 5_000
PAGE_LIMIT = 1_000

_Q = queries.load(__file__)


async def columns(conn: Connection) -> dict[str, FactColumn]:
    """The project's fact columns by name."""
    cursor = await conn.execute(_Q["fact_columns"], {"limit": COLUMNS_LIMIT})
    return {
        row.name: FactColumn(row.name, row.type, row.table_name, tuple(row.allowed) if row.allowed else None)
        for row in await cursor.fetchall()
    }


async def check_columns(conn: Connection, wanted: Iterable[FactColumn]) -> None:
    """Raises Conflict when a fact of that name already stands in the project with another type: a cohort's
    comparison cannot mean both."""
    known = await columns(conn)
    clashes = [c for c in wanted if c.name in known and known[c.name].type != c.type]
    if clashes:
        raise Conflict(
            f"the fact {clashes[0].name} is {known[clashes[0].name].type} in this project, not {clashes[0].type}",
            hint="Give the column another name with `as` in the records policy.",
            details=[{"fact": c.name, "is": known[c.name].type, "would_be": c.type} for c in clashes],
        )


async def put_columns(conn: Connection, project: str, wanted: Sequence[FactColumn]) -> None:
    await check_columns(conn, wanted)
    async with conn.cursor() as cursor:
        await cursor.executemany(
            _Q["put_fact_columns"],
            [{"project": project, "name": c.name, "type": c.type, "table": c.table,
              "allowed": list(c.allowed) if c.allowed is not None else None}
             for c in sorted(wanted, key=lambda c: c.name)],
        )  # fmt: skip


def described(known: Mapping[str, FactColumn]) -> list[wire.Column]:
    """All columns of an expression as a client sees them: facts of records, then those of every slide."""
    facts = [
        wire.Column(name=c.name, type=c.type, table=c.table, allowed=list(c.allowed) if c.allowed else None)
        for c in known.values()
    ]
    slides = [
        wire.Column(name=name if name not in known else f"slide.{name}", type=type_, table="slide")
        for name, type_ in SLIDE_COLUMNS.items()
    ]
    return facts + slides


async def put_ledger(conn: Connection, project: str, record_set: str, lines: Iterable[Line]) -> None:
    for part in _slices(lines):
        await conn.execute(
            _Q["put_ledger"],
            {
                "project": project,
                "record_set": record_set,
                "tables": [line.table for line in part],
                "lines": [line.line for line in part],
                "states": [line.state for line in part],
                "reasons": [line.reason for line in part],
                "numbers": [line.number for line in part],
                "facts": [_json(line.facts) for line in part],
            },
        )


async def put_aligned(
    conn: Connection, project: str, record_set: str, batch: str, version: int, documents: Sequence[Document]
) -> None:
    """Replaces what earlier versions said: in order of numbers, so that two record sets never wait for each
    other in a circle."""
    for part in _slices(sorted(documents, key=lambda document: document.number)):
        await conn.execute(
            _Q["put_aligned"],
            {
                "project": project,
                "record_set": record_set,
                "numbers": [document.number for document in part],
                "subjects": [document.subject for document in part],
                "blocks": [document.block for document in part],
                "facts": [_json(document.facts) for document in part],
            },
        )
    await conn.execute(_Q["empty_aligned"], {"record_set": record_set, "batch": batch, "version": version})


async def ledger_page(
    conn: Connection, record_set: str, *, table: str | None, state: str | None, after: str | None, limit: int
) -> wire.LedgerPage:
    """`after` is the `next` of the page before: `table:line`."""
    after_table, _, after_line = (after or ":-1").rpartition(":")
    if not after_line.lstrip("-").isdigit():
        raise RequestInvalid("`after` is not the `next` of an earlier page")
    if state is not None and state not in STATES:
        raise RequestInvalid(f"a ledger state is one of {', '.join(STATES)}")
    bound = max(1, min(limit, PAGE_LIMIT))
    cursor = await conn.execute(
        _Q["ledger_page"],
        {"record_set": record_set, "table": table, "state": state, "after_table": after_table,
         "after_line": int(after_line), "limit": bound + 1},
    )  # fmt: skip
    rows = [wire.LedgerLine(**row._asdict()) for row in await cursor.fetchall()]
    more = f"{rows[bound - 1].table}:{rows[bound - 1].line}" if len(rows) > bound else None
    return wire.LedgerPage(lines=rows[:bound], next=more)


STATES = ("matched", "image-without-row", "row-without-image", "duplicate", "conflict", "late")


def _json(facts: Mapping[str, object] | None) -> str | None:
    return msgspec.json.encode(facts, order="sorted").decode() if facts is not None else None


def _slices(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while part := list(islice(rest, SLICE_LINES)):
        yield part
