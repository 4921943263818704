"""What fills a tier, as scans saw it: by folder where names may be told, by size and age, and what stands twice."""

from __future__ import annotations

from typing import Any

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.errors import NotFound, RequestInvalid
from mover.model import wire
from mover.model.names import key_text, name_bytes, name_text, text_key

SQL = load(__file__)
MIB, DAY_S = 1 << 20, 86_400
SIZES = [MIB // 16, MIB, 16 * MIB, 256 * MIB, 1024 * MIB, 4096 * MIB]
AGES_S = [DAY_S, 7 * DAY_S, 30 * DAY_S, 90 * DAY_S, 365 * DAY_S, 3 * 365 * DAY_S]
CELLS = (len(SIZES) + 1) * (len(AGES_S) + 1)
# how many entries one look counts, and how many folders and places it names
ENTRIES_MAX = 1_000_000
FOLDERS_MAX = 200
KEYS_MAX = 5


async def usage(conn: Connection, tier: str, *, folder: str, entries_max: int = ENTRIES_MAX) -> wire.Usage:
    names = await may_name(conn, tier)
    if folder and not names:
        raise RequestInvalid("folders of an identified tier are names of people", where=tier)
    below = name_bytes(_key(folder.strip("/"))) + b"/" if folder.strip("/") else b""
    rows = await SQL.planned(
        conn, "usage", tier=tier, folder=below, end=below[:-1] + b"0" if below else None, names=names, sizes=SIZES,
        ages=[float(age) for age in AGES_S], bound=entries_max, most=CELLS + FOLDERS_MAX,
    )  # fmt: skip
    cells = [row for row in rows if row.is_cell]
    count = sum(row.count for row in cells)
    return wire.Usage(
        tier=tier, folder=key_text(name_text(below)), count=count, bytes=sum(row.bytes for row in cells),
        whole=count < entries_max, sizes=SIZES, ages_s=AGES_S,
        folders=[_folder(row) for row in rows if not row.is_cell][:FOLDERS_MAX] if names else None,
        cells=[wire.UsageCell(size=row.size, age=row.age, count=row.count, bytes=row.bytes) for row in cells],
    )  # fmt: skip


async def duplicates(conn: Connection, tier: str, *, after: str | None, limit: int) -> wire.DuplicatePage:
    spare, digest = _place(after)
    names = await may_name(conn, tier)
    rows = await SQL.planned(
        conn, "duplicates", tier=tier, spare=spare, digest=digest, names=names, keys=KEYS_MAX, limit=limit
    )
    found = [
        wire.Duplicate(
            digest=row.digest, count=row.count, bytes=row.bytes, spare_bytes=row.spare_bytes,
            keys=[key_text(name_text(bytes(key))) for key in row.keys] if names else None,
        )
        for row in rows
    ]  # fmt: skip
    last = found[-1] if len(found) == limit else None
    return wire.DuplicatePage(duplicates=found, next=f"{last.spare_bytes}-{last.digest}" if last else None)


async def may_name(conn: Connection, tier: str) -> bool:
    row = await SQL.one(conn, "zone", tier=tier)
    if row is None:
        raise NotFound("there is no such tier", where=tier)
    return bool(row.zone == "deidentified")


def _folder(row: Any) -> wire.UsageFolder:
    name = key_text(name_text(bytes(row.child))) if row.child is not None else None
    return wire.UsageFolder(name=name, count=row.count, bytes=row.bytes, age_s=row.age_s)


def _key(folder: str) -> str:
    try:
        return text_key(folder)
    except ValueError as error:
        raise RequestInvalid(str(error)) from error


def _place(after: str | None) -> tuple[int | None, str | None]:
    if after is None:
        return None, None
    spare, _, digest = after.partition("-")
    if not (spare.isascii() and spare.isdecimal() and len(spare) < 19 and len(digest) == 64):
        raise RequestInvalid("`after` is not the `next` of an earlier page")
    return int(spare), digest
