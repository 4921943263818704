"""Write, read, check and export audit records."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Collection, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from mover.catalog import queries
from mover.catalog.database import Connection, Database
from mover.decide.audit import Chain, Head, Link
from mover.decide.fhir import audit_event
from mover.errors import RequestInvalid
from mover.model import wire
from mover.model.checkpoint import pack_key_of

PAGE_LIMIT = 1000
SLICE_LIMIT = 5000

_Q = queries.load(__file__)


async def record(
    conn: Connection,
    *,
    project: str,
    node: str,
    actor: str,
    action: str,
    subject: str,
    reason: str = "",
    request: str = "",
    details: dict[str, Any] | None = None,
) -> int:
    """Extends the chain of this project and node; returns the record's place in it.

    The caller makes this its transaction's last statement: the head stays locked until the commit. `reason`
    and `details` hold ids, numbers, counts and masked decisions, never a name.
    """
    body = {"actor": actor, "action": action, "subject": subject, "reason": reason, "request": request}
    text = msgspec.json.encode(body | ({"details": details} if details else {}), order="sorted").decode()
    cursor = await conn.execute(_Q["append"], {"project": project, "node": node, "body": text})
    [row] = await cursor.fetchall()
    return int(row.seq)


async def heads(conn: Connection, project: str) -> list[Head]:
    """Where each chain ends. A copy kept outside the database's reach is what makes rewriting it visible."""
    cursor = await conn.execute(_Q["heads_of_project"], {"project": project})
    return [_head(row) for row in await cursor.fetchall()]


async def verify(
    conn: Connection,
    project: str,
    *,
    anchors: list[Head] | None = None,
    copies: list[wire.CheckpointCopies] | None = None,
    restored: list[wire.AuditRestore] | None = None,
    retired: RetiredRecords | None = None,
) -> wire.AuditVerdict:
    """Recomputes every chain of the project, over a connection that sees it as it stood (`Database.still`): records
    that are added meanwhile would look like a head that was put back. `anchors` are heads that were written down
    elsewhere earlier, `copies` what is to say of the places where, `restored` what those leave out, `retired` which of
    the oldest records may stand in packs there."""
    left = retired or RetiredRecords({}, [])
    ends = {head.node: head for head in await heads(conn, project)}
    kept = anchors or []
    counts: dict[str, int] = {}
    uncovered = 0
    broken: list[dict[str, Any]] = []
    for node in sorted({*await _nodes(conn, project), *(anchor.node for anchor in kept), *left.ends}):
        known = [anchor for anchor in kept if anchor.node == node]
        chain = Chain(anchors=known, retired=left.ends.get(node))
        async for piece in _slices(conn, project, node):
            await asyncio.to_thread(chain.extend, piece)
        broken += [msgspec.to_builtins(link) | {"node": node} for link in chain.finish(ends.get(node))]
        counts[node] = chain.records
        uncovered += max(0, chain.last_seq - max((anchor.seq for anchor in known), default=0))
    told = copies or []
    return wire.AuditVerdict(
        whole=not broken and not any(one.problems for one in told),
        records=sum(counts.values()), chains=counts, broken=broken, checkpoints=told, restored=restored or [],
        retired=left.told, uncovered=uncovered,
    )  # fmt: skip


class RetiredRecords(Struct, frozen=True):
    """Which of the oldest records stand in packs on tiers: of each chain the last one, and who said so."""

    ends: dict[str, Head]
    told: list[wire.AuditRetirement]


class Wanted(Struct, frozen=True):
    """Which records; what is None or empty excludes nothing. `action` is its first words, times are half open."""

    subject: str | None = None
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def page(
    conn: Connection, project: str, wanted: Wanted | None = None, *, after: str | None = None, limit: int = 100
) -> wire.AuditPage:
    """Newest first. `after` is the `next` of the page before."""
    at, node, seq = _read_cursor(after) if after else (None, None, None)
    limit = max(1, min(limit, PAGE_LIMIT))
    rows = await _Q.many(
        conn, "page_newest_first", project=project, at=at, node=node, seq=seq, limit=limit + 1,
        **msgspec.structs.asdict(wanted or Wanted()),
    )  # fmt: skip
    records = [
        wire.AuditRecord(
            node=row.node, seq=row.seq, at=row.at, body=msgspec.json.decode(row.body), hash=bytes(row.hash).hex()
        )
        for row in rows[:limit]
    ]
    if len(rows) > limit:
        return wire.AuditPage(records=records, next=_write_cursor(records[-1]))
    packs = await _Q.many(conn, "packs_of_project", project=project)
    return wire.AuditPage(records=records, earlier=[pack_key_of(project, row.id) for row in packs])


async def export(database: Database, project: str) -> AsyncIterator[bytes]:
    """Every chain as JSON lines, each record as it was hashed, so that an outsider can recompute it. Where the oldest
    records stand in packs, a line for each of those says so first."""
    async with database.project(project) as conn:
        packs = await _Q.many(conn, "packs_of_project", project=project)
    if packs:
        yield msgspec.json.Encoder().encode_lines(
            [{"project": project, "retired": row.chains, "pack": row.digest, "key": pack_key_of(project, row.id)}
             for row in packs]
        )  # fmt: skip
    async for piece in slices(database, project):
        yield await asyncio.to_thread(_exported, piece)


async def events(database: Database, project: str, wanted: Wanted, *, site: str) -> AsyncIterator[bytes]:
    """The wanted records as FHIR AuditEvents, one to a line, in the order of their times; in pieces, and between two of
    them no transaction waits for who reads slowly."""
    at: dict[str, Any] = {"after": wanted.since or "-infinity", "node": "", "seq": 0}
    asked = {name: value for name, value in msgspec.structs.asdict(wanted).items() if name != "since"}
    while True:
        async with database.project(project) as conn:
            rows = await _Q.many(conn, "matching_in_order", project=project, limit=SLICE_LIMIT, **at, **asked)
        yield await asyncio.to_thread(_as_events, rows, site)
        if len(rows) < SLICE_LIMIT:
            return
        at = {"after": rows[-1].at, "node": rows[-1].node, "seq": rows[-1].seq}


def _as_events(rows: list[Any], site: str) -> bytes:
    return msgspec.json.Encoder(order="sorted").encode_lines([audit_event(_link(row), site=site) for row in rows])


def _exported(links: list[Link]) -> bytes:
    lines = [
        {
            "project": link.project, "node": link.node, "seq": link.seq, "at": link.at,
            "body": link.body, "prev": link.prev.hex(), "hash": link.hash.hex(),
        }
        for link in links
    ]  # fmt: skip
    return msgspec.json.Encoder().encode_lines(lines)


async def _nodes(conn: Connection, project: str) -> list[str]:
    cursor = await conn.execute(_Q["nodes_of_project"], {"project": project})
    return [row.node for row in await cursor.fetchall()]


async def slices(
    database: Database, project: str, *, ends: Mapping[str, int] | None = None, only: Collection[str] | None = None
) -> AsyncIterator[list[Link]]:
    """Every chain (or `only` those of these nodes), one after the other, as far as it went at the first question or as
    `ends` says. In pieces: millions of records never stand in memory at once; each is a transaction of its own, so
    that who reads slowly holds none."""
    async with database.still(project) as conn:
        nodes = await _nodes(conn, project)
        ends = {one.node: one.seq for one in await heads(conn, project)} if ends is None else ends
    for node in nodes if only is None else sorted(only):
        after = -1
        while True:
            async with database.project(project) as conn:
                found = await _slice(conn, project, node, after)
            # a chain without a head was tampered with: it goes along whole
            piece = [link for link in found if link.seq <= ends.get(node, link.seq)]
            if not piece:
                break
            yield piece
            after = piece[-1].seq


async def _slices(conn: Connection, project: str, node: str) -> AsyncIterator[list[Link]]:
    after = -1
    while piece := await _slice(conn, project, node, after):
        yield piece
        after = piece[-1].seq


async def _slice(conn: Connection, project: str, node: str, after: int) -> list[Link]:
    rows = await _Q.many(conn, "chain_after", project=project, node=node, after=after, limit=SLICE_LIMIT)
    return [_link(row) for row in rows]


def _link(row: Any) -> Link:
    return Link(
        project=row.project, node=row.node, seq=row.seq, at=row.at, body=row.body, prev=bytes(row.prev),
        hash=bytes(row.hash),
    )  # fmt: skip


def _head(row: Any) -> Head:
    return Head(project=row.project, node=row.node, seq=row.seq, hash=bytes(row.hash))


def _write_cursor(last: wire.AuditRecord) -> str:
    return base64.urlsafe_b64encode(f"{last.at.isoformat()}|{last.node}|{last.seq}".encode()).decode()


def _read_cursor(text: str) -> tuple[datetime, str, int]:
    try:
        at, node, seq = base64.urlsafe_b64decode(text.encode()).decode().split("|")
        return datetime.fromisoformat(at), node, int(seq)
    except ValueError as error:
        raise RequestInvalid("`after` is not the `next` of an earlier page") from error
