"""What a run's root will hold, written down as entries: in the request where it is short, in a shard where it is long.

A list of a hundred thousand names is answered when it is frozen; its entries follow (shard `run-lay-out`), on whichever
node comes first. A run without entries keeps its place in the line and is let in when they stand, all in one
transaction. A kill before that leaves the shard to be run again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide.layout import slide_path
from mover.decide.tars import File, Tar, cut
from mover.decide.vectors import BLOCK
from mover.errors import MoverError
from mover.jobs import Shard, finish_shard
from mover.jobs.shards import renew_shard
from mover.jobs.worker import LEASE_S
from mover.runs.site import RunSite, get, lock, step

SQL = load(__file__)
# entries written by one statement, and slides asked for by one
SLICE = 10_000
# slides whose entries are written while the requester waits
AT_ONCE_MAX = 5_000


class Layout(Struct, frozen=True):
    name: str
    label: str | None
    shard_bytes: int | None = None


class Wanted(Struct, frozen=True):
    """Every file the run root will hold, and the tars they stand in, if they do."""

    entries: list[dict[str, Any]]
    tars: list[dict[str, Any]] = []


class LayOut:
    """Handler of the shard that writes a run's entries. `admit`: who waits before a tier is judged again."""

    def __init__(self, site: RunSite, admit: Callable[[str], Awaitable[None]]) -> None:
        self._site, self._admit = site, admit

    async def lay_out(self, shard: Shard) -> None:
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            run = await lock(conn, shard.subject_id)
            if run.state == "requested" and not await stand(conn, run.id):
                await write(conn, run)
            await finish_shard(conn, shard)
        await self._admit(run.tier)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """A run whose root cannot be laid out is refused, with what is in the way."""
        run = await lock(conn, shard.subject_id)
        if run.state == "requested":
            await step(conn, run.id, "requested", "refused", reason=error.code, why=error.what)
            await self._site.record_own(conn, shard.project, "run refused", run.id, reason=error.code)


async def stand(conn: Connection, run: str) -> bool:
    """Whether a run has its entries yet."""
    return bool((await SQL.one(conn, "stand", run=run)).stand)


def layout_of(run: Any) -> Layout:
    return Layout(run.layout, run.layout_label, run.shard_bytes)


async def write(conn: Connection, run: Any, split_of: Mapping[str, str] | None = None) -> None:
    """The entries of a run, and what it wants by them. A repeated run has those of the earlier one, under its names,
    whatever policies and facts say by now."""
    like = await get(conn, run.like_id) if run.like_id else None
    if like is not None and layout_of(run) == layout_of(like) and await stand(conn, like.id):
        await conn.execute(SQL["repeat_entries"], {"run": run.id, "like": like.id})
        await conn.execute(SQL["repeat_tars"], {"run": run.id, "like": like.id})
    else:
        if like is not None:
            split_of = {row.number: row.split for row in await SQL.many(conn, "splits", run=like.id)}
        wanted = await laid_out(conn, run.selection_id, layout_of(run), split_of or {})
        for name, rows in (("insert_entries", wanted.entries), ("insert_tars", wanted.tars)):
            for start in range(0, len(rows), SLICE):
                part = await asyncio.to_thread(msgspec.json.encode, rows[start : start + SLICE])
                await conn.execute(SQL[name], {"run": run.id, "rows": part.decode()})
    await conn.execute(SQL["wanted"], {"run": run.id})


async def laid_out(conn: Connection, selection: str, layout: Layout, split_of: Mapping[str, str]) -> Wanted:
    """Every file of a selection, where it lies in the archive and where it will lie below the root."""
    entries: list[dict[str, Any]] = []
    async for rows in files_of(conn, selection, label=layout.label):
        entries += await asyncio.to_thread(_entries_of, rows, layout, split_of)
    return await asyncio.to_thread(_cut, entries, layout)


async def files_of(conn: Connection, selection: str, *, label: str | None = None) -> AsyncGenerator[list[Any], None]:
    """Every file of every slide, a slice of slides at a time in the order of their places."""
    for block in await SQL.many(conn, "places", selection=selection):
        for start in range(0, len(block.offsets), SLICE):
            places = [block.block * BLOCK + at for at in block.offsets[start : start + SLICE]]
            yield await SQL.planned(conn, "selected", places=places, label=label)


def _entries_of(rows: list[Any], layout: Layout, split_of: Mapping[str, str]) -> list[dict[str, Any]]:
    return [_entry_of(row, layout, split_of.get(row.number)) for row in rows]


def _cut(entries: list[dict[str, Any]], layout: Layout) -> Wanted:
    if layout.shard_bytes is None:
        return Wanted(entries)
    files = [File(e["path"], e["number"], e["size_bytes"], e["digest"], e["split"]) for e in entries]
    tars = cut(files, shard_bytes=layout.shard_bytes)
    places = {member.file.path: (tar.path, member.offset) for tar in tars for member in tar.members}
    for entry in entries:
        entry["shard"], entry["shard_offset"] = places[entry["path"]]
    return Wanted(entries, [_tar_row(tar) for tar in tars])


def _tar_row(tar: Tar) -> dict[str, Any]:
    return {"path": tar.path, "made_of": tar.made_of, "count": len(tar.members), "size_bytes": tar.size_bytes}


def _entry_of(row: Any, layout: Layout, split: str | None) -> dict[str, Any]:
    return {
        "path": slide_path(
            row.number, row.extension, layout=layout.name, facts={layout.label or "": row.value}, label=layout.label,
            name=row.name, several=row.several, split=split,
        ),
        "number": row.number,
        "split": split,
        "size_bytes": row.size_bytes,
        "digest": row.digest,
        "archive_tier": row.tier,
        "archive_key": row.key,
    }  # fmt: skip
