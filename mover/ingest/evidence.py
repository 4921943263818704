"""Before and after of one slide: what stood where, masked, and what became of it; what was sought and found clean.

All of it was written when the slide was published. Nothing of the source is opened for it, and no value is in it:
`shape` is the masked form of what stood there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from blake3 import blake3

from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.deid.certificate import removed_counts
from mover.errors import DigestMismatch, EntryMissing, LimitExceeded, NotFound
from mover.ingest.certificates import LOOKED, PROVED
from mover.jobs import in_thread
from mover.model import wire
from mover.model.slides import Decision
from mover.tiers.guard import guarded
from mover.tiers.port import ReadTier

JUDGEMENTS_MAX: Final = 2000
SEARCHES_MAX: Final = 100
THUMBNAIL_MAX: Final = 4 << 20
_FIRST: Final = {"drop": 0, "rebuild": 1, "keep": 2}

_Q = load(__file__)


async def of_slide(conn: Connection, number: str) -> wire.SlideEvidence:
    """NotFound for a slide that was not granted to the project of `conn`."""
    slide = await _Q.one(conn, "slide", number=number)
    if slide is None:
        raise NotFound("no such slide", where=number)
    made = await _Q.one(conn, "made", number=number)
    subjects = [number, *([made.pack] if made else [])]
    proven = await proofs.of_subjects(conn, subjects)
    searched = await _Q.many(conn, "searches", number=number, limit=SEARCHES_MAX)
    return wire.SlideEvidence(
        number=number,
        family=slide.family,
        tier=slide.tier,
        published_at=slide.created_at,
        thumbnail=slide.thumbnail,
        proofs=sorted((one for subject in subjects for one in proven[subject]), key=lambda one: (one.at, one.id)),
        searches=[wire.SlideSearch(**row._asdict()) for row in searched],
        **(_made(made) if made else {}),
    )


async def thumbnail(
    database: Database, project: str, tiers: Mapping[str, ReadTier], number: str
) -> wire.SlideThumbnail:
    """The picture that was made anew of what is left, as it was when it was published."""
    async with database.project(project) as conn:
        row = await _Q.one(conn, "thumbnail", number=number)
    if row is None:
        raise NotFound("no such slide, or it has no thumbnail", where=number)
    tier = tiers.get(row.tier)
    if tier is None:
        raise EntryMissing("the slide's tier is not configured on this node", where=row.tier)
    if row.bytes > THUMBNAIL_MAX:
        raise LimitExceeded(f"the thumbnail has more than {THUMBNAIL_MAX} bytes", where=number)
    data = await in_thread(guarded, lambda _: tier.read(row.key, 0, row.bytes), tier)
    if blake3(data).hexdigest() != row.digest:
        raise DigestMismatch("the thumbnail is not what was published", where=number)
    return wire.SlideThumbnail(number=number, media_type="image/jpeg", digest=row.digest, data=data)


def _made(row: Any) -> dict[str, Any]:
    judged = msgspec.convert(row.decisions or [], list[Decision])
    judged.sort(key=lambda one: (_FIRST[one.action], one.place))
    removed, kept = removed_counts(judged)
    details: Mapping[str, Any] = row.details
    return {
        "batch": row.batch,
        "pack": row.pack,
        "seconds": row.seconds,
        "judgements": [wire.SlideJudgement(**msgspec.structs.asdict(one)) for one in judged[:JUDGEMENTS_MAX]],
        "truncated": len(judged) > JUDGEMENTS_MAX,
        "removed": removed,
        "kept": kept,
        "looked": {word: details[name] for name, word in LOOKED.items() if details.get(name)},
        "same": {name: details[name] for name in PROVED if name in details},
        "methods": list(details.get("methods", ())),
        "profile": dict(details.get("profile") or {}),
    }
