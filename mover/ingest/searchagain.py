"""Step 2, before anything is aligned: what the tables say of the patients is sought in their published slides.

A slide was proved against what its own file said. Here its stored bytes that no tile or pixel copy brought are read
again from the archive, by the ranges its sidecar keeps, and searched for the names, numbers and addresses that came
with the records. A hit withdraws the slide for all projects: no new selection, no staging; its pack is in quarantine.

What a crash leaves, slice by slice: nothing, or a slice's outcomes together with its withdrawals, in one transaction.
A killed search goes on with the slides that have no outcome yet. Other projects are told before the withdrawal
commits, so that a crash tells them twice rather than never.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from blake3 import blake3
from msgspec import Struct

from mover import audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.searchagain import Dictionary
from mover.deid.searchagain import OVERLAP, VERIFIER, Found, Pile, Task, search_piles
from mover.errors import (
    ConfigError,
    EntryMissing,
    IdentifierFoundLater,
    RedactionUnproven,
    ShortRead,
    StructureInvalid,
)
from mover.jobs import Shard, in_thread
from mover.jobs.shards import renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.sidecar import decode_sidecar, sidecar_key
from mover.sandbox import Sandbox
from mover.tiers.guard import guarded
from mover.tiers.port import ReadTier

SLIDES_PER_SLICE: Final = 64
READERS: Final = 8  # slides read at once: small ranges of an object tier are all waiting
CALL_BYTES: Final = 64 << 20  # in the memory file of one call of the child
WINDOW_BYTES: Final = 4 << 20  # of one read
WITHDRAWN_MAX: Final = 1000  # shown of one record set
EXPLANATION: Final = "a word that the patient's records brought stands in the published slide"

_Q = load(__file__)
log = get_logger("records")


# what is sought in each slide of a slice, by its number
Words = dict[str, tuple[str, ...]]


class Outcome(Struct, frozen=True):
    """Of one slide; `words` were found. `unsearched`: its sidecar or a file is not there as it was, or is older than
    the ranges."""

    number: str
    root: str
    outcome: str
    strings: int = 0
    forms: int = 0
    bytes: int = 0
    words: tuple[str, ...] = ()


class SearchAgain:
    """`keyed` makes of a word what nobody can make the word of again."""

    def __init__(
        self, database: Database, tiers: Mapping[str, ReadTier], sandbox: Sandbox, *, node: str,
        keyed: Callable[[str], bytes],
    ) -> None:  # fmt: skip
        self._keyed = keyed
        self._database = database
        self._tiers = tiers
        self._sandbox = sandbox
        self._node = node

    async def search(self, shard: Shard, dictionaries: Sequence[Dictionary]) -> None:
        """All slides of the record set that wait for it. Raises the archive's own errors: then what was searched
        stays searched, and the shard is tried again."""
        for words in _slices(await self._with_earlier(shard.project, dictionaries)):
            async with self._database.project(shard.project) as conn:
                slides = await _Q.many(conn, "waiting", numbers=list(words), record_set=shard.subject_id)
            if slides:
                sought = await self._unexcused(shard.project, words)
                outcomes = await in_thread(self._search, slides, sought)
                await self._write(shard, outcomes)

    async def _unexcused(self, project: str, words: Words) -> Words:
        """Without what two people called a false alarm in this very slide: every month's tables say it again."""
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "excused", numbers=list(words))
        excused: dict[str, set[bytes]] = {}
        for row in rows:
            excused.setdefault(row.number, set()).update(bytes(tag) for tag in row.sought or ())
        return {
            number: tuple(word for word in some if self._tag(word) not in excused[number])
            if number in excused else some
            for number, some in words.items()
        }  # fmt: skip

    def _tag(self, word: str) -> bytes:
        return self._keyed(f"sought|{word.casefold()}")

    async def _with_earlier(self, project: str, dictionaries: Sequence[Dictionary]) -> list[Dictionary]:
        """With the same patients' slides of earlier batches: what these tables say of them is news there, too."""
        wanted = sorted({patient for one in dictionaries for patient in one.patients})
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "of_subjects", subjects=wanted)
        own = {number for one in dictionaries for number in one.numbers}
        earlier: dict[str, list[str]] = {}
        for row in rows:
            if row.number not in own:
                earlier.setdefault(row.subject, []).append(row.number)
        return [
            Dictionary((*one.numbers, *(n for p in one.patients for n in earlier.get(p, ()))), one.words)
            for one in dictionaries
        ]

    async def prove(self, conn: Connection, project: str, record_set: str, dictionaries: Sequence[Dictionary]) -> str:
        """The proof row: how many strings were sought in how many bytes of how many slides."""
        totals = await _Q.one(conn, "totals", record_set=record_set)
        lines = await _Q.many(conn, "lines", record_set=record_set)
        text = "".join(f"{line.number} {line.root} {line.outcome}\n" for line in lines)
        return await proofs.add(
            conn, project=project, kind="deidentified", subject=record_set, count=totals.slides, bytes=totals.bytes,
            root=blake3(text.encode()).hexdigest(), verifier=VERIFIER,
            details={
                "method": "what the records say of the patients, sought in their published slides",
                "strings_sought": totals.strings, "forms_sought": totals.forms, "withdrawn": totals.withdrawn,
                "unsearched": totals.unsearched, "strings_left_out": sum(one.left_out for one in dictionaries),
            },
        )  # fmt: skip

    # --- one slice ------------------------------------------------------------------------------------------

    def _search(self, slides: Sequence[Any], words: Words) -> list[Outcome]:
        """Read and search one slice (blocking). A tier that is not here stops all: nothing may be called clean."""
        tiers = {slide.tier: self._tier(slide.tier) for slide in slides}
        return guarded(lambda _: self._search_open(slides, words, tiers), *tiers.values())

    def _tier(self, name: str) -> ReadTier:
        if name not in self._tiers:
            raise ConfigError(f"the tier {name} of a published slide is not configured on this node")
        return self._tiers[name]

    def _search_open(self, slides: Sequence[Any], words: Words, tiers: Mapping[str, ReadTier]) -> list[Outcome]:
        with ThreadPoolExecutor(READERS) as pool:
            windows = dict(zip((s.number for s in slides), pool.map(lambda s: _windows(tiers[s.tier], s), slides),
                               strict=True))  # fmt: skip
            read = {s.number: (tiers[s.tier], windows[s.number]) for s in slides if windows[s.number] is not None}
            found: dict[str, Found | None] = {}
            for call in _calls(read):
                for one in self._call(call, words, pool):
                    found[one.number] = _sum(found.get(one.number), one)
        return [_outcome(slide, found.get(slide.number)) for slide in slides]

    def _call(self, call: Sequence[_Window], words: Words, pool: ThreadPoolExecutor) -> list[Found]:
        """One call of the child; the bytes stand in memory only."""
        fd = os.memfd_create("search", os.MFD_CLOEXEC)
        try:
            ranges: dict[str, list[tuple[int, int]]] = {}
            at = 0
            gone: set[str] = set()
            for window, data in zip(call, pool.map(_read_window, call), strict=True):
                if data is None:
                    gone.add(window.number)
                    continue
                at = _put(fd, at, data, ranges.setdefault(window.number, []))
            piles = tuple(Pile(number, tuple(spans)) for number, spans in ranges.items() if number not in gone)
            missing = [Found(number, -1, 0, 0, False) for number in sorted(gone)]
            return missing + self._look(fd, words, piles)
        finally:
            os.close(fd)

    def _look(self, fd: int, words: Words, piles: tuple[Pile, ...]) -> list[Found]:
        """All at once; where one of them holds more packed bytes than can be looked into, one by one."""
        if not piles:
            return []
        tasks: dict[tuple[str, ...], list[Pile]] = {}
        for pile in piles:
            tasks.setdefault(words[pile.number], []).append(pile)
        try:
            return search_piles(self._sandbox, fd, [Task(sought, tuple(own)) for sought, own in tasks.items()])
        except RedactionUnproven:
            if len(piles) == 1:
                return [Found(piles[0].number, -1, 0, 0, False)]
            return [found for pile in piles for found in self._look(fd, words, (pile,))]

    # --- what was found ---------------------------------------------------------------------------------------

    async def _write(self, shard: Shard, outcomes: Sequence[Outcome]) -> None:
        hits = [one.number for one in outcomes if one.outcome == "found"]
        if hits:
            await self._tell_others(shard, hits)
        common = {"project": shard.project, "record_set": shard.subject_id}
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await conn.cursor().executemany(
                _Q["put_search"],
                [{**common, "number": one.number, "outcome": one.outcome, "strings": one.strings, "forms": one.forms,
                  "bytes": one.bytes, "root": one.root,
                  "sought": [self._tag(word) for word in one.words] if one.outcome == "found" else None}
                 for one in outcomes],
            )  # fmt: skip
            if hits:
                await self._withdraw(conn, shard, hits)
        for one in outcomes:
            metrics.SLIDES_SEARCHED.labels(one.outcome).inc()
        metrics.PACKS_QUARANTINED.labels(IdentifierFoundLater.code).inc(len(hits))

    async def _withdraw(self, conn: Connection, shard: Shard, numbers: list[str]) -> None:
        reason = IdentifierFoundLater.code
        values = {"numbers": numbers, "reason": reason, "record_set": shard.subject_id, "explanation": EXPLANATION}
        await conn.execute(_Q["lock_withdrawals"])
        await conn.execute(_Q["withdraw"], values)
        packs = await _Q.many(conn, "quarantine_packs", **values)
        holders = await _Q.many(conn, "holders", numbers=numbers)
        runs = sorted({row.run_id for row in holders if row.project_id == shard.project and row.run_id})
        log.error("slides withdrawn", record_set=shard.subject_id, count=len(numbers), code=reason)
        await audit.record(
            conn, project=shard.project, node=self._node, actor="daemon", action="slides withdrawn",
            subject=shard.subject_id, reason=reason,
            details={"numbers": numbers, "packs": [row.id for row in packs], "runs": runs},
        )  # fmt: skip

    async def _tell_others(self, shard: Shard, numbers: list[str]) -> None:
        """The same site's other projects have the slide by grants: their record says so, and names their runs."""
        async with self._database.project(shard.project) as conn:
            holders = await _Q.many(conn, "holders", numbers=numbers)
        for project in sorted({row.project_id for row in holders} - {shard.project}):
            own = [row for row in holders if row.project_id == project]
            details = {
                "numbers": sorted({row.number for row in own}), "runs": sorted({r.run_id for r in own if r.run_id})
            }  # fmt: skip
            async with self._database.project(project) as conn:
                await audit.record(
                    conn, project=project, node=self._node, actor="daemon", action="slides withdrawn", subject="site",
                    reason=IdentifierFoundLater.code, details=details,
                )  # fmt: skip


async def withdrawn_by(conn: Connection, record_set: str) -> list[wire.WithdrawnSlide]:
    """The slides it withdrew, each with the project's runs that hold it still: a person ends those."""
    rows = await _Q.many(conn, "withdrawn", record_set=record_set, limit=WITHDRAWN_MAX)
    return [wire.WithdrawnSlide(number=row.number, runs=row.runs or []) for row in rows]


# --- small tools --------------------------------------------------------------------------------------------


class _Window(Struct, frozen=True):
    """One read: a piece of one file of one slide."""

    number: str
    tier: Any
    key: str
    at: int
    length: int


def _slices(dictionaries: Sequence[Dictionary]) -> Iterator[Words]:
    """So many slides at once, of as many patients as they have."""
    piece: Words = {}
    for one in dictionaries:
        for number in one.numbers:
            piece[number] = one.words
            if len(piece) == SLIDES_PER_SLICE:
                yield piece
                piece = {}
    if piece:
        yield piece


def _windows(tier: ReadTier, slide: Any) -> list[tuple[str, int, int]] | None:
    """What of the slide is searched, as its sidecar says; None where it cannot say."""
    try:
        sidecar = decode_sidecar(tier.read(sidecar_key(slide.number)))
    except (EntryMissing, StructureInvalid):
        return None
    files = [(sidecar.key, sidecar.size_bytes, sidecar.literals)]
    files += [(file.key, file.size_bytes, file.literals) for file in sidecar.files]
    found: list[tuple[str, int, int]] = []
    for key, size_bytes, ranges in files:
        if ranges is None or any(at < 0 or length <= 0 or at + length > size_bytes for at, length in ranges):
            return None
        found += [(key, *window) for at, length in ranges for window in _cut(at, length)]
    return found if sidecar.root == slide.root else None


def _cut(at: int, length: int) -> Iterator[tuple[int, int]]:
    """A range in windows that share enough for the longest form."""
    end = at + length
    while end - at > WINDOW_BYTES:
        yield at, WINDOW_BYTES
        at += WINDOW_BYTES - OVERLAP
    yield at, end - at


def _calls(read: Mapping[str, tuple[ReadTier, Any]]) -> Iterator[list[_Window]]:
    """Windows of as many slides as one call's memory holds."""
    call: list[_Window] = []
    held = 0
    for number, (tier, windows) in read.items():
        for key, at, length in windows:
            if held + length > CALL_BYTES:
                yield call
                call, held = [], 0
            call.append(_Window(number, tier, key, at, length))
            held += length
    if call:
        yield call


def _read_window(window: _Window) -> bytes | None:
    try:
        data: bytes = window.tier.read(window.key, window.at, window.length)
    except (EntryMissing, ShortRead):
        return None
    return data


def _put(fd: int, at: int, data: bytes, spans: list[tuple[int, int]]) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    spans.append((at, len(data)))
    return at + len(data)


def _sum(known: Found | None, more: Found) -> Found:
    if known is None:
        return more
    strings = -1 if -1 in (known.strings, more.strings) else more.strings
    words = tuple(sorted({*known.words, *more.words}))
    return Found(more.number, strings, more.forms, known.bytes + more.bytes, known.found or more.found, words)


def _outcome(slide: Any, found: Found | None) -> Outcome:
    """A hit counts even where other bytes of the slide could not be searched."""
    if found is not None and found.found:
        strings = max(0, found.strings)
        return Outcome(slide.number, slide.root, "found", strings, found.forms, found.bytes, found.words)
    if found is None or found.strings < 0:
        return Outcome(slide.number, slide.root, "unsearched")
    return Outcome(slide.number, slide.root, "clean", found.strings, found.forms, found.bytes)

