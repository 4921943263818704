"""SQL lives in `.sql` files beside the Python of the same noun; this loads them.

A file is a row of blocks: a line `-- name: words_with_underscores`, at least one comment line that says in a
sentence what the statement is for, then one statement with psycopg's `%(name)s` parameters.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, LiteralString, cast

from msgspec import Struct

from mover.catalog.database import Connection
from mover.errors import CatalogError

_NAME = re.compile(r"^-- name: ([a-z][a-z0-9_]*)\s*$")


class Queries(Struct, frozen=True):
    """The statements of one noun by name; a misspelt name raises KeyError at the first use."""

    texts: dict[str, LiteralString]

    def __getitem__(self, name: str) -> LiteralString:
        return self.texts[name]

    async def one(self, conn: Connection, name: str, /, **parameters: object) -> Any:
        """The first row, or None."""
        return await (await conn.execute(self.texts[name], parameters)).fetchone()

    async def many(self, conn: Connection, name: str, /, **parameters: object) -> list[Any]:
        """All rows; the statement's own limit bounds them."""
        return await (await conn.execute(self.texts[name], parameters)).fetchall()

    async def planned(self, conn: Connection, name: str, /, **parameters: object) -> list[Any]:
        """The same, planned for these parameters each time. A plan made for any is for a list of ten, and reads a table
        once for each of a hundred thousand."""
        return await (await conn.execute(self.texts[name], parameters, prepare=False)).fetchall()


def load(python_file: str) -> Queries:
    """The queries of the `.sql` file that stands beside `python_file` (pass `__file__`)."""
    path = Path(python_file).with_suffix(".sql")
    return parse(path.read_text("utf-8"), where=path.name)


def parse(text: str, *, where: str) -> Queries:
    """Refuses what would be read differently than it was meant: a name twice, a statement without a name,
    a name without a sentence or without a statement."""
    blocks: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines():
        match = _NAME.match(line)
        if match:
            if match[1] in blocks:
                raise CatalogError(f"the query {match[1]} is defined twice", where=where)
            current = blocks[match[1]] = []
        elif current is not None:
            current.append(line)
        elif line.strip() and not line.startswith("--"):
            raise CatalogError("a statement stands before the first `-- name:` line", where=where)
    return Queries(texts={name: _statement(name, lines, where=where) for name, lines in blocks.items()})


def _statement(name: str, lines: list[str], *, where: str) -> LiteralString:
    body = [line for line in lines if line.strip() and not line.lstrip().startswith("--")]
    if not lines or not lines[0].startswith("-- "):
        raise CatalogError(f"the query {name} has no sentence that says what it is for", where=where)
    if not body:
        raise CatalogError(f"the query {name} has no statement", where=where)
    # the text is part of the installed package, never built from input
    return cast(LiteralString, "\n".join(lines).strip().removesuffix(";"))
