"""The journal of parts, on the catalog: what a killed move of a large entry goes on from.

The engine asks from worker threads, the catalog is asked on the event loop, so each call hands over and waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from mover.catalog.database import Database
from mover.catalog.queries import load
from mover.transfer.parts import Part

SQL = load(__file__)
# a catalog that does not answer fails the move, which is tried again; it never blocks a thread for ever
ANSWER_S = 120.0


class CatalogJournal:
    """`mover.transfer.parts.PartJournal` for the attempts of one transfer."""

    def __init__(self, database: Database, project: str, transfer: str, loop: asyncio.AbstractEventLoop) -> None:
        self._database, self._project, self._transfer, self._loop = database, project, transfer, loop

    def where(self, attempt_id: str) -> str:
        return str(self._wait(self._where(attempt_id)))

    def parts(self, attempt_id: str) -> list[Part]:
        found: list[Part] = self._wait(self._parts(attempt_id))
        return found

    def begin(self, attempt_id: str, *, where: str) -> None:
        self._wait(self._begin(attempt_id, where))

    def finished(self, attempt_id: str, part: Part) -> None:
        self._wait(self._finished(attempt_id, part))

    def end(self, attempt_id: str) -> None:
        self._wait(self._end(attempt_id))

    def _wait(self, asked: Awaitable[Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(_as_coroutine(asked), self._loop)
        return future.result(ANSWER_S)

    async def _where(self, attempt_id: str) -> str:
        async with self._database.project(self._project) as conn:
            row = await SQL.one(conn, "place", transfer=self._transfer, attempt=attempt_id)
        return row.place if row else ""

    async def _parts(self, attempt_id: str) -> list[Part]:
        async with self._database.project(self._project) as conn:
            rows = await SQL.many(conn, "parts", transfer=self._transfer, attempt=attempt_id)
        return [Part(row.number, row.begins, row.length, tuple(row.segments), row.etag) for row in rows]

    async def _begin(self, attempt_id: str, where: str) -> None:
        async with self._database.project(self._project) as conn:
            await conn.execute(SQL["forget"], {"transfer": self._transfer, "attempt": attempt_id})
            await conn.execute(
                SQL["begin"],
                {"project": self._project, "transfer": self._transfer, "attempt": attempt_id, "place": where},
            )

    async def _finished(self, attempt_id: str, part: Part) -> None:
        row = {
            "project": self._project, "transfer": self._transfer, "attempt": attempt_id, "number": part.number,
            "begins": part.offset, "length": part.length, "segments": list(part.segments), "etag": part.etag,
        }  # fmt: skip
        async with self._database.project(self._project) as conn:
            await conn.execute(SQL["finished"], row)

    async def _end(self, attempt_id: str) -> None:
        async with self._database.project(self._project) as conn:
            await conn.execute(SQL["forget"], {"transfer": self._transfer, "attempt": attempt_id})


async def _as_coroutine(asked: Awaitable[Any]) -> Any:
    return await asked
