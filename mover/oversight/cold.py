"""What nobody used for long: by folder, slide, run or cohort, oldest first; and how old what stands on each tier is.

Used is what we know of: a slide was staged for a run or looked at, a run gave a sign, a file was written or brought
here. A file's own time of access says nothing: most file systems keep it by the day, or not at all. Nothing is moved or
removed from here; a selection of cold slides can be tagged, and what to do with a tag is a policy's word.
"""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.errors import LimitExceeded, RequestInvalid
from mover.model import wire
from mover.model.names import key_text, name_bytes, name_text, text_key
from mover.oversight.usage import may_name

SQL = load(__file__)
DAY_S = 86_400
AGES_S = [30 * DAY_S, 90 * DAY_S, 180 * DAY_S, 365 * DAY_S, 2 * 365 * DAY_S, 5 * 365 * DAY_S]
# how many files one look counts
ENTRIES_MAX = 1_000_000
# as many lists of slides as mover.slide_used looks at
LISTS_MAX = 1000


async def cold(
    conn: Connection, tier: str, *, by: str, older_s: int, folder: str, after: str | None, limit: int
) -> wire.ColdPage:
    """Of a deidentified tier only: whose bytes lie cold in the identified zone is told by no name."""
    if not await may_name(conn, tier):
        raise RequestInvalid("what is cold is told of deidentified tiers only: here it would name people", where=tier)
    at, name = _read_cursor(after) if after else (None, "")
    of: dict[str, object] = {"tier": tier, "older": float(older_s), "at": at, "name": name, "limit": limit + 1}
    below = folder_of(folder)
    if by == "folder":
        end = below[:-1] + b"0" if below else None
        of |= {"name": name_bytes(_key(name)), "folder": below, "end": end, "bound": ENTRIES_MAX}
    elif by == "slide":
        of |= {"folder": name_text(below)}
    rows, whole = await SQL.planned(conn, f"{by}s", **of), True
    if by == "folder":  # always a row: how far it looked is known where nothing is cold, too
        rows, whole = [row for row in rows if row.at is not None], rows[0].whole
    elif by == "slide":
        whole = (await SQL.one(conn, "lists", older=float(older_s), bound=LISTS_MAX + 1)).count <= LISTS_MAX
    items = [_item(row) for row in rows[:limit]]
    return wire.ColdPage(
        tier=tier, by=by, folder=key_text(name_text(below)), older_s=older_s, items=items,  # type: ignore[arg-type]
        next=_write_cursor(items[-1]) if len(rows) > limit else None, whole=whole,
    )  # fmt: skip


async def cold_slides(conn: Connection, tier: str, *, older_s: int, folder: str, most: int) -> list[str]:
    """The numbers of all of them, for a change of tags; `most` and one more where there are more."""
    if not await may_name(conn, tier):
        raise RequestInvalid("an identified tier holds no slides", where=tier)
    used = await SQL.one(conn, "lists", older=float(older_s), bound=LISTS_MAX + 1)
    if used.count > LISTS_MAX:  # what another one staged would count as never staged, and policies act on tags
        raise LimitExceeded(
            f"more than {LISTS_MAX} lists of slides were used since: which slides are cold is not known for sure",
            hint="Ask for a shorter time, or tag by an expression.",
        )
    rows = await SQL.planned(
        conn, "slides", tier=tier, folder=name_text(folder_of(folder)), older=float(older_s), at=None, name="",
        limit=most + 1,
    )  # fmt: skip
    return sorted(row.name for row in rows)


async def ages(conn: Connection) -> wire.TierAges:
    found: dict[str, wire.TierAge] = {}
    buckets: dict[str, list[wire.AgeBytes]] = {}
    for row in await SQL.planned(conn, "ages", bound=ENTRIES_MAX, ages=[float(age) for age in AGES_S]):
        if not row.whole:
            buckets.setdefault(row.tier, []).append(wire.AgeBytes(age=row.bucket, count=row.count, bytes=row.bytes))
            continue
        found[row.tier] = wire.TierAge(
            tier=row.tier, count=row.count, bytes=row.bytes, oldest_s=row.oldest_s, median_s=row.median_s,
            by_age=buckets.get(row.tier, []), whole=row.count < ENTRIES_MAX or not row.scanned,
        )  # fmt: skip
    return wire.TierAges(ages_s=AGES_S, tiers=list(found.values()))


async def looked_at(conn: Connection, project: str, number: str) -> None:
    """Somebody saw the slide itself: that is a use of it."""
    await conn.execute(SQL["looked_at"], {"project": project, "number": number})


def folder_of(text: str) -> bytes:
    """The beginning of the keys below a folder as answers write it; nothing for the whole tier."""
    return name_bytes(_key(text.strip("/"))) + b"/" if text.strip("/") else b""


def _key(text: str) -> str:
    try:
        return text_key(text)
    except ValueError as error:
        raise RequestInvalid(str(error)) from error


def _item(row: Any) -> wire.ColdItem:
    name = key_text(name_text(bytes(row.name))) if isinstance(row.name, bytes) else row.name
    return wire.ColdItem(name=name or None, count=row.count, bytes=row.bytes, used_at=row.at, how=row.how)


def _write_cursor(last: wire.ColdItem) -> str:
    return base64.urlsafe_b64encode(f"{last.used_at.isoformat()}|{last.name or ''}".encode()).decode()


def _read_cursor(text: str) -> tuple[datetime, str]:
    try:
        at, _, name = base64.urlsafe_b64decode(text.encode()).decode().partition("|")
        return datetime.fromisoformat(at), name
    except ValueError as error:
        raise RequestInvalid("`after` is not the `next` of an earlier page") from error
