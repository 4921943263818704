"""The folder is followed while we run: what two persons agreed on is written into it, and what stands in it holds.

Whoever edits a file and whoever uses the API do the same thing. A folder with a mistake in it changes nothing: what was
followed goes on, and the mistake is told. A change that was agreed on is a row first, then a file, then done: killed
between, the next turn finds the file as it was or as it should be, and goes on from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from mover.catalog import instance
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide import policies as decide
from mover.errors import ConfigError, Conflict, RequestInvalid
from mover.log import get_logger
from mover.policies.folder import Folder, Look
from mover.policy import Loaded, PolicyBook, digest_of

SQL = load(__file__)
AT_ONCE = 50

log = get_logger("policies")


class Means(Struct, frozen=True):
    """What the daemon does with a book. `judge` raises ConfigError where it could not be followed; `in_force` is the
    book as it holds, whatever less it says; `took` is told what is held outside of the book."""

    judge: Callable[[PolicyBook], Awaitable[None]]
    in_force: Callable[[PolicyBook], Awaitable[PolicyBook]]
    took: Callable[[PolicyBook], None]


class Following:
    """`book` is what rooms hold, `declared` the same as the files say it."""

    def __init__(
        self, database: Database, folder: Path, *, book: PolicyBook, declared: PolicyBook, means: Means,
        project: str, node: str,
    ) -> None:  # fmt: skip
        self.database, self.folder, self.project, self.node = database, Folder(folder), project, node
        self.book, self.declared, self._means = book, declared, means
        self.trouble = ""  # what keeps the folder, as it is now, from being followed
        self._seen: Look | None = None
        self._turning = asyncio.Lock()

    async def turn(self) -> None:
        """Write what is agreed on, then take up what stands there."""
        async with self._turning:
            await self._take_up()
            async with self.database.project(self.project) as conn:
                due = await SQL.many(conn, "agreed", node=self.node, limit=AT_ONCE)
            for row in due:
                await self._carry(row)
            if due:
                await self._take_up()

    def stands(self, name: str) -> Loaded | None:
        return next((one for one in self.declared.all() if one.name == name), None)

    def place(self, name: str, kind: str) -> Path:
        known = self.stands(name)
        return self.folder.place(name, kind, known.file if known else None)

    async def candidate(self, place: Path, text: str | None) -> PolicyBook:
        """The whole folder with this file as it is to be; ConfigError where that could not be followed."""
        book = await asyncio.to_thread(self.folder.load, instead=(place, text))
        await self._means.judge(book)
        return book

    async def _take_up(self) -> None:
        look: Look | None = None
        try:
            look = await asyncio.to_thread(self.folder.look)
            if look == self._seen and not self.trouble:  # what was missing may be there now, such as keys
                return
            declared = await asyncio.to_thread(self.folder.load)
            await self._means.judge(declared)
            await self._stand(declared)
            held = await self._means.in_force(declared)
        except ConfigError as error:
            trouble = f"{error.what} ({error.where})"
            if trouble != self.trouble:
                log.warning("changed policies refused", code=error.code, what=error.what)
            self.trouble = trouble
        except OSError as error:
            self.trouble = f"the folder of policies cannot be read ({type(error).__name__})"
        else:
            self.trouble = ""
            self.declared.use(declared)
            self.book.use(held)
            self._means.took(held)
        self._seen = look

    async def _stand(self, book: PolicyBook) -> None:
        async with self.database.instance() as conn:
            for one in book.all():
                await instance.put_policy(conn, name=one.name, digest=one.digest, kind=one.kind, text=one.text)
            now = {one.name: one.digest for one in book.all()}
            before = {row.name: row.digest for row in await SQL.many(conn, "standing", node=self.node)}
            for name in now.keys() | before.keys():
                await conn.execute(SQL["stand"], {"node": self.node, "name": name, "digest": now.get(name)})

    async def _carry(self, row: Any) -> None:
        async with self.database.project(self.project) as conn:
            if not (await SQL.one(conn, "still", id=row.id, node=self.node)).open:
                return
            refused = await self._written(row)
            await self._settle(conn, row, refused)

    async def _written(self, row: Any) -> str | None:
        """Why it could not be written; None: it stands there."""
        place = self.place(row.name, row.kind)
        stands = await asyncio.to_thread(self.folder.digest, place)
        if stands == row.digest:  # before the daemon was killed
            return None
        try:
            self._agreed(row, await self.candidate(place, row.text))
            await asyncio.to_thread(self.folder.replace, place, row.text, base=row.base)
        except (ConfigError, Conflict, RequestInvalid) as error:
            return f"{error.what} {error.where}".strip()
        except OSError as error:
            return f"the file cannot be written ({type(error).__name__})"
        return None

    def _agreed(self, row: Any, book: PolicyBook) -> None:
        """A row says that nobody else had to agree; whether that is so is judged again, by its text."""
        before, after = self.stands(row.name), next((one for one in book.all() if one.name == row.name), None)
        if (row.text is None) != (after is None) or (after is not None and after.digest != digest_of(row.text)):
            raise Conflict("its text is of another policy", where=row.name)
        risks = decide.risks(before.policy if before else None, after.policy if after else None)
        if risks and row.approved_person is None:
            raise Conflict(f"a second person agrees first: {risks[0].words}", where=row.name)

    async def _settle(self, conn: Connection, row: Any, refused: str | None) -> None:
        if refused is not None:
            log.warning("policy not changed", subject=row.id, policy=row.name, reason=refused)
        await conn.execute(SQL["carried"], {"id": row.id, "node": self.node, "refused": refused})
