"""What a transfer will move, found and judged before the first byte, in one transaction.

Entries are streamed from the tier's listing (or from the catalog) into a temporary table by COPY, judged there by
joins, and frozen into `mover.transfer_entry` by one statement. A kill leaves nothing; `--plan` does the same and
keeps nothing. Memory is bounded by one slice of the listing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from msgspec import Struct

from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock
from mover.decide.cohort import Node
from mover.decide.moving import (
    End,
    Facts,
    Pace,
    Refusal,
    clean_prefix,
    estimate_s,
    judge_space,
    matches,
    name_problem,
    parse_when,
    target_key,
    target_overwrites,
    target_owned,
)
from mover.decide.vectors import TAGS, keys_of
from mover.errors import ChangedWhileReading, EntryMissing, RequestInvalid, TierDenied
from mover.jobs import in_thread
from mover.model import wire
from mover.model.moving import Keep
from mover.model.names import key_text, name_bytes, name_text, text_key
from mover.model.tiers import Entry
from mover.moving.places import Ends
from mover.tiers.port import ReadTier

SQL = load(__file__)
SLICE_ENTRIES = 5_000
SLICE_TAGGED = 20_000
TAGGED_MAX = 1_000_000  # slides whose tags one condition asks for
# of fewer entries each target name is asked for; of more the target is listed once
ASKED_ENTRIES = 2_000
OFFENDERS_SHOWN = 1_000
HISTORY = 10

_KINDS = ("file", "symlink", "folder", "other")


class Found(Struct, frozen=True):
    """What a plan says. `reasons` are about the whole, `offenders` about single entries (the first of them)."""

    entries: int
    bytes: int
    present: int
    skipped: int
    refused: int
    looked_at: int
    estimate_s: float | None
    reasons: tuple[Refusal, ...]
    offenders: tuple[dict[str, Any], ...]
    by_code: dict[str, int]


class Planner:
    def __init__(self, ends: Ends, *, clock: Clock = SYSTEM) -> None:
        self._ends = ends
        self._clock = clock

    async def find(self, conn: Connection, body: wire.TransferRequest) -> Found:
        """Fill and judge the plan's tables in the caller's transaction. Raises what listing raises: a listing that
        fails half-way plans nothing (I7)."""
        assert body.to is not None
        target = self._ends.tier(body.to)
        await in_thread(target.check_identity)
        await conn.execute(SQL["entries_table"])
        await conn.execute(SQL["targets_table"])
        traits = await in_thread(lambda: target.traits)
        reasons = [] if traits.conditional_put else [target_overwrites(body.to)]
        looked_at = 0
        for at, source in enumerate(body.sources):
            seen, reason = await self._source(conn, body, at, source)
            looked_at += seen
            reasons += [reason] if reason else []
        await self._judge(conn, body, target)
        return await self._said(conn, body, looked_at, reasons)

    async def freeze(self, conn: Connection, project: str, transfer: str, *, refused: str) -> None:
        """The judged entries as rows of the transfer; those with an offence in the state `refused` names."""
        await conn.execute(SQL["freeze"], {"project": project, "transfer": transfer, "refused": refused})

    # --- the sources ------------------------------------------------------------------------------------------

    async def _source(
        self, conn: Connection, body: wire.TransferRequest, at: int, source: wire.TransferSource
    ) -> tuple[int, Refusal | None]:
        """How many entries were looked at, and why the source as a whole will not do."""
        tier = self._ends.tier(source.tier)
        await in_thread(tier.check_identity)
        prefix = folder_of(source.prefix) or ""
        label = f"{source.tier}:{key_text(prefix)}"
        assert body.to is not None
        to = self._ends.end(body.to, "")
        when = parse_when(source.where) if source.where is not None else None
        tags = await _tags(conn, when)
        if len(tags) > TAGGED_MAX:
            return 0, Refusal("too-many-tagged", f"the condition asks for tags of over {TAGGED_MAX} slides", label)
        way = _Way(at, prefix, body, source, to, self._clock.now().timestamp(), when, tags)
        try:
            if source.catalog:
                seen = await self._from_catalog(conn, way)
            else:
                seen = await self._copy(conn, way, _listed(tier, prefix, source))
        except EntryMissing:
            if way.seen:
                raise ChangedWhileReading("a folder vanished while it was listed", where=source.tier) from None
            return 0, Refusal("source-missing", "there is no such folder or entry", label)
        if seen == 0:
            return 0, Refusal("source-empty", "nothing is there, which is never taken for done", label)
        if way.selected == 0 and body.policy is None:
            return seen, Refusal("nothing-selected", f"the condition selects none of {seen} entries", label)
        return seen, None

    async def _copy(self, conn: Connection, way: _Way, entries: Iterator[_Seen]) -> int:
        await _copy_lines(conn, "copy_entries", lambda: way.lines(entries))
        return way.seen

    async def _from_catalog(self, conn: Connection, way: _Way) -> int:
        """From the rows of walks and transfers. What changed since is found when it is read, and reported."""
        after = b""
        while True:
            rows = await SQL.many(
                conn, "known", tier=way.source.tier, prefix=name_bytes(way.prefix), after=after, limit=SLICE_ENTRIES
            )
            known = (
                _Seen(name_text(bytes(r.key)), r.kind, r.size_bytes, r.mtime_ns, r.mark, r.digest, r.verified_s)
                for r in rows
            )
            await self._copy(conn, way, known)
            if len(rows) < SLICE_ENTRIES:
                return way.seen
            after = bytes(rows[-1].key)

    # --- the judgement that needs all entries --------------------------------------------------------------------

    async def _judge(self, conn: Connection, body: wire.TransferRequest, target: ReadTier) -> None:
        await conn.execute(SQL["index_entries"])
        await conn.execute(SQL["refuse_twice"])
        for at, source in enumerate(body.sources):
            await conn.execute(SQL["recognise"], {"at": at, "tier": source.tier})
        await self._taken(conn, body, target)
        await conn.execute(SQL["refuse_taken"], {"tier": body.to})
        await conn.execute(SQL["mark_present"])

    async def _taken(self, conn: Connection, body: wire.TransferRequest, target: ReadTier) -> None:
        """Which target names are taken, and by what. Asked one by one for few entries, by a listing for many."""
        counted = await SQL.one(conn, "count_waiting")
        if counted.entries <= ASKED_ENTRIES:
            rows = await SQL.many(conn, "targets")
            found = await in_thread(_stat_each, target, [name_text(bytes(row.target)) for row in rows])
            await self._copy_targets(conn, iter(found))
            return
        for prefix in _outermost(_join(folder_of(body.prefix), folder_of(s.to)) for s in body.sources):
            try:
                await self._copy_targets(conn, target.list(prefix))
            except EntryMissing:
                continue    # a folder that is not there yet holds nothing; the tier's identity was checked before

    async def _copy_targets(self, conn: Connection, entries: Iterator[Entry]) -> None:
        await _copy_lines(conn, "copy_targets", lambda: _target_lines(entries))

    async def _said(
        self, conn: Connection, body: wire.TransferRequest, looked_at: int, reasons: list[Refusal]
    ) -> Found:
        sums = await SQL.one(conn, "sums")
        assert body.to is not None
        space = judge_space(int(sums.to_write), await in_thread(self._ends.free_bytes, body.to), tier=body.to)
        codes = {row.code: row.count for row in await SQL.many(conn, "codes")}
        shown = await SQL.many(conn, "offenders", limit=OFFENDERS_SHOWN)
        return Found(
            entries=sums.entries, bytes=int(sums.bytes), present=sums.present, skipped=sums.skipped,
            refused=sums.refused, looked_at=looked_at,
            estimate_s=estimate_s(sums.entries - sums.present, int(sums.to_write), await paces(conn, body)),
            reasons=(*reasons, *([space] if space else [])),
            offenders=tuple(
                {"code": row.code, "entry": f"{body.sources[row.at].tier}:{key_text(name_text(bytes(row.source)))}",
                 "what": row.what} for row in shown
            ),
            by_code=codes,
        )  # fmt: skip


async def _copy_lines(conn: Connection, statement: str, more: Callable[[], bytes]) -> None:
    """Slices into a table, until an empty one. The first is asked for before COPY begins: a folder that is not there
    is an answer, and must not end the transaction."""
    lines = await in_thread(more)
    if not lines:
        return
    async with conn.cursor().copy(SQL[statement]) as copy:
        while lines:
            await copy.write(lines)
            lines = await in_thread(more)


async def _tags(conn: Connection, when: Node | None) -> dict[str, frozenset[str]]:
    """By slide, the tags that a condition asks for; all, where it asks for any. A slide is some hundred bytes here. In
    slices, between which others have their turn; what goes beyond the bound is for the caller to refuse."""
    wanted = {key.removeprefix(TAGS) for key in keys_of(when) if key.startswith(TAGS)} if when is not None else set()
    if not wanted:
        return {}
    asked = {"tags": sorted(wanted), "any": "" in wanted, "limit": SLICE_TAGGED}
    found: dict[str, frozenset[str]] = {}
    after = ""
    while len(found) <= TAGGED_MAX and (rows := await SQL.planned(conn, "tagged", after=after, **asked)):
        found |= {row.number: frozenset(row.tags) for row in rows}
        after = rows[-1].number
    return found


async def paces(conn: Connection, body: wire.TransferRequest) -> list[Pace]:
    """What the newest transfers between the same tiers moved, and how fast."""
    sources = sorted({source.tier for source in body.sources})
    rows = await SQL.many(conn, "paces", sources=sources, target=body.to, limit=HISTORY)
    return [Pace(row.entries, int(row.bytes), row.seconds) for row in rows]


# --- one source, in a thread ----------------------------------------------------------------------------------


class _Seen(Struct, frozen=True):
    """An entry, or a name of a list that is not there (kind `missing`)."""

    key: str
    kind: str
    size_bytes: int = 0
    mtime_ns: int = 0
    mark: str = ""
    digest: str | None = None
    verified_s: float | None = None


class _Way:
    """From what was seen of one source to lines of the plan's table."""

    def __init__(
        self,
        at: int,
        prefix: str,
        body: wire.TransferRequest,
        source: wire.TransferSource,
        target: End,
        now_s: float,
        when: Node | None,
        tags: Mapping[str, frozenset[str]],
    ) -> None:
        self.at, self.prefix, self.source = at, prefix, source
        self.seen = self.selected = 0
        self._to = _join(folder_of(body.prefix), folder_of(source.to))
        self._same_tier = source.tier == body.to
        self._keep, self._kind, self._role, self._now_s = body.keep, target.kind, target.role, now_s
        self._when, self._tags = when, tags

    def lines(self, entries: Iterator[_Seen]) -> bytes:
        """Of the next slice that holds a selected entry, in COPY's text format; empty at the end."""
        while slice_ := list(islice(entries, SLICE_ENTRIES)):
            self.seen += len(slice_)
            lines = [self._line(seen) for seen in slice_ if self._selects(seen)]
            self.selected += len(lines)
            if lines:
                return "".join(lines).encode()
        return b""

    def _selects(self, seen: _Seen) -> bool:
        if self._when is None or seen.kind == "missing":
            return True
        facts = Facts(
            seen.key, seen.kind, seen.size_bytes, seen.mtime_ns / 1e9, seen.digest, seen.verified_s,
            tags=self._tags_of(seen.key) if self._tags else frozenset(),
        )  # fmt: skip
        return matches(self._when, facts, now_s=self._now_s)

    def _tags_of(self, key: str) -> frozenset[str]:
        """Of the slide whose number is a folder of the key, or its file's name."""
        numbers = (part.partition(".")[0] for part in key.split("/"))
        return next((self._tags[number] for number in numbers if number in self._tags), frozenset())

    def _line(self, seen: _Seen) -> str:
        key = target_key(seen.key, prefix=self.prefix, to=self._to)
        refusal = self._refusal(seen, key)
        code, what = (refusal.code, refusal.what) if refusal else ("\\N", "\\N")
        kind = seen.kind if seen.kind in _KINDS else "other"
        return (
            f"{self.at}\t\\\\x{name_bytes(seen.key).hex()}\t\\\\x{name_bytes(key).hex()}\t{kind}\t{seen.size_bytes}"
            f"\t{seen.mtime_ns}\t{_escaped(seen.mark)}\t{code}\t{what}\n"
        )

    def _refusal(self, seen: _Seen, key: str) -> Refusal | None:
        if seen.kind == "missing":
            return Refusal("entry-missing", "the list names it and it is not there")
        if seen.kind == "symlink" and self._keep.symlinks != "copy":
            return _about_symlink(self._keep)
        if seen.kind in ("other", "folder"):
            return Refusal("not-a-file", "pipes, sockets and devices are not moved")
        if seen.kind == "symlink" and self._kind == "object":
            return Refusal("metadata-unsupported", "an object tier holds no symlinks")
        if self._same_tier and seen.key == key:
            return Refusal("target-is-source", "the entry would be copied onto itself")
        return name_problem(key, kind=self._kind) or target_owned(key, role=self._role)


LEFT_OUT = "left-out"


def _about_symlink(keep: Keep) -> Refusal:
    if keep.symlinks == "skip":
        return Refusal(LEFT_OUT, "symlinks are skipped")
    return Refusal("symlink-refused", "a symlink; say keep.symlinks: copy or skip")


def _listed(tier: ReadTier, prefix: str, source: wire.TransferSource) -> Iterator[_Seen]:
    if source.keys is None:
        return _tree(tier, prefix)
    return _named(tier, prefix, source.keys)


def _tree(tier: ReadTier, prefix: str) -> Iterator[_Seen]:
    """Everything below the folder, or the one entry that the prefix is."""
    if prefix and (alone := _file_at(tier, prefix)) is not None:
        yield _of(alone)
        return
    for entry in tier.list(prefix):
        yield _of(entry)


def _file_at(tier: ReadTier, key: str) -> Entry | None:
    try:
        found = tier.stat(key)
    except (EntryMissing, RequestInvalid):
        return None
    return None if found.kind == "folder" else found


def _named(tier: ReadTier, prefix: str, keys: Iterable[str]) -> Iterator[_Seen]:
    for text in dict.fromkeys(keys):
        key = _join(prefix, text_key(text))
        try:
            found = tier.stat(key)
        except (EntryMissing, RequestInvalid, TierDenied):
            yield _Seen(key, "missing")
            continue
        yield _of(found) if found.kind != "folder" else _Seen(key, "missing")


def _of(entry: Entry) -> _Seen:
    mark = entry.fingerprint
    return _Seen(entry.key, entry.kind, mark.size_bytes, mark.mtime_ns, mark.mark)


def _stat_each(target: ReadTier, keys: list[str]) -> list[Entry]:
    found = []
    for key in keys:
        try:
            found.append(target.stat(key))
        except (EntryMissing, RequestInvalid):
            continue
    return found


def _target_lines(entries: Iterator[Entry]) -> bytes:
    return "".join(
        f"\\\\x{name_bytes(e.key).hex()}\t{e.kind}\t{e.fingerprint.size_bytes}\t{_escaped(e.fingerprint.mark)}\n"
        for e in islice(entries, SLICE_ENTRIES)
    ).encode()


def _escaped(text: str) -> str:
    """COPY's text format; marks are inode numbers and etags."""
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _join(prefix: str | None, rest: str | None) -> str:
    return "/".join(part for part in (prefix, rest) if part)


def _outermost(prefixes: Iterable[str]) -> list[str]:
    """Without those that lie inside another."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not any(not one or prefix == one or prefix.startswith(one + "/") for one in kept):
            kept.append(prefix)
    return kept


def folder_of(text: str) -> str | None:
    """A prefix as a request writes it (`names.key_text`), in one spelling; None when it is none."""
    try:
        return clean_prefix(text_key(text))
    except ValueError:
        return None


def valid_sources(body: wire.TransferRequest) -> Iterator[str]:
    """What is wrong with the words of a request, before any tier is asked."""
    for source in body.sources:
        for prefix in (source.prefix, source.to, body.prefix):
            if folder_of(prefix) is None:
                yield f"{prefix[:200]} is no folder below its tier's root"
        if source.keys is not None and (source.where is not None or source.catalog):
            yield "a source is a list of keys or a condition, not both"
        yield from (f"{text} is no key: {why}" for text, why in _bad_keys(source.keys or ()))


def _bad_keys(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in keys:
        try:
            key = text_key(text)
        except ValueError as error:
            yield text[:200], str(error)
            continue
        if clean_prefix(key) != key:
            yield text[:200], "it is relative to the prefix, without '.', '..' or empty parts"

