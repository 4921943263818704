"""The front: what a slide's levels are, one tile, one region.

Rights and the slide's state are asked of the catalog for every picture, so that a slide that is withdrawn is shown to
nobody from then on, whatever is held open. Drawing is done in the parsing child (D16), a few at a time, each with a
limit of time; a child that crashed or hung costs its own picture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from mover.catalog.database import Database
from mover.catalog.queries import load
from mover.errors import Conflict, FormatUnsupported, LimitExceeded, NotFound, SandboxFailed
from mover.jobs import in_thread
from mover.model import wire
from mover.model.pictures import Picture
from mover.sandbox import Limits, Sandbox, read_answer
from mover.tiers.port import ReadTier
from mover.viewing.pyramid import TILE_PX, Area, Pyramid
from mover.viewing.shelf import WAIT_S, File, Held, Shelf, Wanted

SQL = load(__file__)
DRAWN: Final = 1  # how pictures are made: another number, and browsers ask anew
# pictures drawn at once, and waiting for their turn
CHILDREN: Final = 2
WAITING: Final = 200
DRAW_S: Final = 20.0
LOOK_S: Final = 60.0
# of other families than these the catalog knows what size the slide has, as OpenSlide sees it
_OWN_GEOMETRY: Final = frozenset({"leica-scn", "ventana-bif"})
_MEMORY: Final = 2 << 30
_WHOLE: Final = "It is not shown now. `mover verify` reads its bytes again; runs get it like any other."
_PART: Final = "This part of the slide is not shown; others may be. `mover verify` reads its bytes again."


def viewing_sandbox(*, max_children: int = CHILDREN) -> Sandbox:
    """Of its own: whoever looks at a slide does not wait for parsers of a batch, nor they for them."""
    return Sandbox(
        ("mover.viewing.child",), allowed=("mover.viewing.child",), max_children=max_children,
        limits=Limits(memory_bytes=_MEMORY, file_bytes=1 << 20, open_files=1024),
    )  # fmt: skip


class Viewing:
    def __init__(
        self, database: Database, tiers: Mapping[str, ReadTier], sandbox: Sandbox, *, spool: Path, spool_bytes: int,
        draw_s: float = DRAW_S, wait_s: float = WAIT_S,
    ) -> None:  # fmt: skip
        self._database, self._sandbox, self._draw_s = database, sandbox, draw_s
        self._shelf = Shelf(tiers, spool=spool, spool_bytes=spool_bytes, look=self._look, wait_s=wait_s)
        self._turns = asyncio.Semaphore(CHILDREN)
        self._waiting = 0

    async def view(self, project: str, number: str) -> wire.SlideView:
        row, wanted = await self._find(project, number)
        async with self._shelf.use(wanted) as held:
            seen = _pyramid(held, row)
        facts = row.facts
        return wire.SlideView(
            number=number, width=seen.width, height=seen.height, tile_px=TILE_PX, levels=seen.levels,
            first_level=seen.first_level, mpp_x=facts.get("mpp_x"), mpp_y=facts.get("mpp_y"),
            objective=facts.get("objective"), digest=row.root,
        )  # fmt: skip

    async def tile(self, project: str, number: str, level: str, place: str, /, *, known: str) -> Picture:
        """`known` is what a browser has already, by its ETag: then nothing is drawn."""
        row, wanted = await self._find(project, number)
        etag = f'"{row.root[:32]}-{DRAWN}-{level}-{place}"'
        if etag in known:
            return Picture(None, etag)
        return Picture(await self._drawn(row, wanted, lambda seen: seen.tile(level, place)), etag)

    async def region(
        self, project: str, number: str, /, *, x: int, y: int, width: int | None, height: int | None, edge_px: int
    ) -> Picture:
        row, wanted = await self._find(project, number)
        cut = lambda seen: seen.region(x, y, width, height, edge_px=edge_px)  # noqa: E731
        return Picture(await self._drawn(row, wanted, cut))

    async def close(self) -> None:
        await self._shelf.close()

    async def _find(self, project: str, number: str) -> tuple[Any, Wanted]:
        async with self._database.project(project) as conn:
            row = await SQL.one(conn, "slide", number=number)
            files = await SQL.many(conn, "files", number=number)
        if row is None or row.removed_at is not None:
            self._shelf.drop(number)
            raise NotFound("no such slide, or its bytes are gone", where=number)
        if row.withdrawn:
            self._shelf.drop(number)
            raise Conflict(
                "the slide is withdrawn", where=number, hint="It is shown again when two people took it back."
            )
        main = File(f"{number}.{row.extension}", row.key, row.size_bytes, row.digest)
        others = (File(one.name, one.key, one.size_bytes, one.digest) for one in files)
        return row, Wanted(number, (main, *others), (row.tier, *row.copies))

    async def _drawn(self, row: Any, wanted: Wanted, cut: Callable[[Pyramid], Area]) -> bytes:
        async with self._shelf.use(wanted) as held:
            seen = _pyramid(held, row)
            area = cut(seen)
            if self._waiting >= WAITING:
                raise LimitExceeded(f"more than {WAITING} pictures are waiting to be drawn", hint="Ask again soon.")
            self._waiting += 1
            try:
                async with self._turns:
                    return await in_thread(self._draw, held, seen, area, wanted.number)
            finally:
                self._waiting -= 1

    # --- in threads, through the child --------------------------------------------------------------------------

    def _look(self, held: Held) -> Pyramid:
        args = (msgspec.to_builtins(held.place),)
        try:
            found = self._sandbox.run("mover.viewing.child:look", args, held.fds, timeout_s=LOOK_S, folder=held.folder)
        except SandboxFailed as failure:
            raise SandboxFailed(failure.what, hint=_WHOLE) from failure
        return read_answer(found, Pyramid)

    def _draw(self, held: Held, seen: Pyramid, area: Area, number: str) -> bytes:
        args = tuple(msgspec.to_builtins(one) for one in (held.place, seen, area))
        try:
            return self._sandbox.run(
                "mover.viewing.child:draw", args, held.fds, timeout_s=self._draw_s, folder=held.folder
            )
        except SandboxFailed as failure:
            raise SandboxFailed(failure.what, where=number, hint=_PART) from failure


def _pyramid(held: Held, row: Any) -> Pyramid:
    """What the child saw, where that is the slide: of a file whose first picture is another one, nothing is shown."""
    seen = held.pyramid
    assert seen is not None
    told = row.facts.get("width"), row.facts.get("height")
    if None not in told and row.family not in _OWN_GEOMETRY and told != (seen.width, seen.height):
        raise FormatUnsupported("what reads this file takes another picture for the slide", where=row.number)
    return seen
