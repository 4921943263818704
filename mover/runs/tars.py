"""Layout `shards`: a run's small files in a few tars (what stands where is decided in `decide.tars`).

A tar is one entry of the content store like any other: it is linked, read back, evicted and cleaned as files are, and
is shared by every run that has the same files in the same range of numbers. Until it stands somewhere its digest is
not known; what it is made of is.

It is written once, straight from where its files stand: the engine reads a source that is all of them, with their
headers between them, and what it reads back cold proves every file's own digest before the tar has a name. What
stands on the flash already, as a file or in another tar, is read there and not in the archive; nothing is believed of
it but its digest.

A kill leaves a temporary folder, which the sweep of temporaries removes, or a tar under its digest without a row.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

from msgspec import Struct

from mover import metrics
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.tars import File, Member, Tar, arrange
from mover.errors import (
    DigestMismatch,
    EntryMissing,
    IntegrityError,
    MoverError,
    ShortRead,
    TierDenied,
    TierUnavailable,
)
from mover.jobs import Shard, in_thread
from mover.jobs.threads import in_stoppable_thread
from mover.log import get_logger
from mover.model.proving import Prover
from mover.model.recipe import plain_copy
from mover.model.tar import header
from mover.model.tiers import Fingerprint, Zone
from mover.runs.fetch import Fetch, Fetched
from mover.runs.roots import CONTENT, FlashRoots, content_key, told
from mover.runs.site import Flash
from mover.tiers.port import ReadTier, WriteTier
from mover.tiers.posix import TEMPORARY
from mover.transfer import Carrier

SQL = load(__file__)

log = get_logger("runs")


class Made(Struct, frozen=True):
    """A tar that stands in the content store."""

    path: str
    digest: str
    made_of: str
    size_bytes: int


class Place(Struct, frozen=True):
    """Where the bytes of a file may be had."""

    tier: str
    key: str
    offset: int = 0


async def to_stage(conn: Connection, run: Any, paths: Sequence[str]) -> list[Any]:
    """Tars of a run that are not staged yet, as entries are: under the digest of a tar that is made of the same, where
    one stands, else under what they are made of."""
    return await SQL.many(conn, "to_stage", run=run.id, tier=run.tier, paths=list(paths))


async def linked(conn: Connection, run: Any, tars: Sequence[Any], how: str) -> None:
    """They stand in the root, and so does everything in them."""
    values = {
        "run": run.id, "tier": run.tier, "how": how, "paths": [tar.path for tar in tars],
        "digests": [tar.digest for tar in tars], "made_of": [tar.made_of for tar in tars],
    }  # fmt: skip
    for name in ("mark_made_of", "mark_tars", "mark_members"):
        await conn.execute(SQL[name], values)


class Tars:
    """What stage does with tars that do not stand on the flash."""

    def __init__(
        self,
        database: Database,
        tiers: Mapping[str, ReadTier],
        flash: Mapping[str, Flash],
        carrier: Carrier,
        fetch: Fetch,
    ) -> None:
        self._database, self._tiers, self._flash = database, tiers, flash
        self._carrier, self._fetch = carrier, fetch

    async def fetch(self, shard: Shard, tier: str, tars: Sequence[Any]) -> AsyncGenerator[Fetched, None]:
        """Each tar once, as it comes; or those files of it of which no copy is whole. While a copy cannot be looked at
        and none is whole, its tier's error is raised, and staging waits."""
        for tar in tars:
            yield await self._fetch_tar(shard, tier, tar)

    async def _fetch_tar(self, shard: Shard, tier: str, tar: Any) -> Fetched:
        async with self._database.project(shard.project) as conn:
            rows = await SQL.many(conn, "members", run=shard.subject_id, tar=tar.path)
            standing = await SQL.many(conn, "standing", tier=tier, digests=[row.digest for row in rows])
            copies = await SQL.many(conn, "copies", numbers=list({row.number for row in rows}))
        stop = threading.Event()
        making = _Making(self._carrier, self._tiers, tier, tar, stop)
        await in_thread(making.prepare, rows, standing, copies)
        key = f"{CONTENT}/{TEMPORARY.decode()}tar-{shard.id}-{shard.epoch}/{tar.made_of}"
        roots, digest = self._flash[tier].roots, None
        try:
            digest = await in_stoppable_thread(stop, making.make, key)
        finally:
            for row, place, error in making.doubts:
                await self._fetch.doubt(shard, place.tier, row, error)
            if digest is None:
                with suppress(MoverError):  # left for the sweep
                    await in_thread(roots.within, lambda _: _drop_folder(roots, key))
        if digest is None:
            return Fetched([], [row for row in rows if row.path in making.lost])
        if not await in_thread(roots.within, lambda _: _name(roots, key, digest)):
            await self._fetch.judge(shard, tier, digest)
        return Fetched([Made(tar.path, digest, tar.made_of, tar.size_bytes)], [])


def _drop_folder(roots: FlashRoots, key: str) -> None:
    with suppress(OSError):
        (roots.root / key).parent.rmdir()


def _name(roots: FlashRoots, key: str, digest: str) -> bool:
    """From its passing name to that of its digest; durable with the sync of the seal, or made again. False when
    something stands there already, of an attempt that was killed or of another run: whoever believes that reads it
    first."""
    made, named = roots.root / key, roots.root / content_key(digest)
    with told("a tar could not be named"):
        named.parent.mkdir(exist_ok=True)
        try:
            os.link(made, named)
        except FileExistsError:
            return False
        finally:
            made.unlink()
            made.parent.rmdir()
    return True


class _Making:
    """One tar on its way. A file that is not whole where it was read is read elsewhere, and the tar is made again."""

    def __init__(
        self, carrier: Carrier, tiers: Mapping[str, ReadTier], flash: str, tar: Any, stop: threading.Event
    ) -> None:
        self._carrier, self._tiers, self._flash, self._tar, self._stop = carrier, tiers, flash, tar, stop
        self.lost: set[str] = set()
        self.doubts: list[tuple[Any, Place, MoverError]] = []
        self._away: MoverError | None = None
        # wrong once: the flash that was read back, or the way, as well as the file. Only twice is it the file's place
        self._suspected: set[tuple[str, Place]] = set()

    def prepare(self, rows: Sequence[Any], standing: Sequence[Any], copies: Sequence[Any]) -> None:
        """The plan that was decided when the run was asked for, and every place where a file of it may be had."""
        self._rows = {row.path: row for row in rows}
        files = [File(row.path, row.number, row.size_bytes, row.digest, row.split) for row in rows]
        self._plan = arrange(self._tar.path, files)
        if self._plan.made_of != self._tar.made_of:
            raise IntegrityError("the tar would not be the one that was decided", where=self._tar.path)
        near = {one.digest: Place(self._flash, content_key(one.holder), one.offset) for one in standing}
        copied: dict[str, list[str]] = {}
        for one in copies:
            copied.setdefault(one.number, []).append(one.tier)
        self._places = {
            row.path: [
                *([near[row.digest]] if row.digest in near else []),
                *(Place(tier, row.archive_key) for tier in (row.archive_tier, *copied.get(row.number, []))),
            ]
            for row in rows
        }

    def make(self, key: str) -> str | None:
        """The tar's digest; None when files of it are `lost`, all that are."""
        while True:
            places = {path: some[0] for path, some in self._places.items() if some}
            source = TarSource(self._plan, places, self._tiers)
            prover = Prover((m.file.path, m.offset, m.file.size_bytes, m.file.digest) for m in self._plan.members)
            try:
                moved = self._carrier.transfer.run_recipe(
                    plain_copy(self._plan.size_bytes), source=source, source_tier=self._source_tier(places),
                    target=cast(WriteTier, self._tiers[self._flash]), key=key, proving=prover, sparse=False,
                    stopped=self._stop.is_set, files=len(self._plan.members),
                )  # fmt: skip
                self._tell(places)
                return moved.digest.blake3
            except (TierUnavailable, TierDenied) as error:
                if not source.away:
                    raise
                self._leave_away(source.away, error)
            except DigestMismatch:
                # what the tar holds elsewhere was made here: other bytes there are the flash's fault, and no file's
                wrong = [path for path in prover.wrong() if path not in self.lost]
                if wrong:
                    self._leave_wrong(self._wrong_again(wrong, source.missing), source.missing)
                elif self.lost:
                    return None
                else:
                    raise

    def _wrong_again(self, wrong: Sequence[str], missing: set[str]) -> list[str]:
        """Of these, what is not there at all, or was wrong from the same place before."""
        seen = {(path, self._places[path][0]) for path in wrong}
        again = [path for path, place in seen if path in missing or (path, place) in self._suspected]
        self._suspected |= seen
        return sorted(again)

    def _tell(self, places: Mapping[str, Place]) -> None:
        for path, place in places.items():
            if place.tier not in (self._flash, self._rows[path].archive_tier):
                metrics.STAGED_FROM_COPY.labels(place.tier).inc()

    def _source_tier(self, places: Mapping[str, Place]) -> ReadTier:
        """Whose budget the reading is: that of where most of it comes from."""
        from_where = [place.tier for place in places.values()] or [self._flash]
        return self._tiers[max(sorted(set(from_where)), key=from_where.count)]

    def _leave_wrong(self, wrong: Sequence[str], missing: set[str]) -> None:
        """These are tried at their next place; those without one are lost."""
        for path in wrong:
            place, *rest = self._places[path]
            kind = EntryMissing if path in missing else DigestMismatch
            if place.tier == self._flash:
                log.warning("content not whole", tier=place.tier, digest=place.key.rpartition("/")[2])
            else:
                self.doubts.append((self._rows[path], place, kind("a copy of an archived file is not whole")))
            self._leave(path, rest)

    def _leave_away(self, away: str, error: MoverError) -> None:
        self._away = error
        for path, places in self._places.items():
            if places and places[0].tier == away:
                self._leave(path, [place for place in places if place.tier != away])

    def _leave(self, path: str, rest: list[Place]) -> None:
        self._places[path] = rest
        if rest:
            return
        if self._away is not None:
            raise self._away
        self.lost.add(path)


class TarSource:
    """A tar that is not there yet, as the engine reads a source: headers, files from where they stand, and zeros
    between them. Any range, from any thread; what a file does not hold any more is zeros, too, and will not be
    proved."""

    def __init__(self, plan: Tar, places: Mapping[str, Place], tiers: Mapping[str, ReadTier]) -> None:
        """`places`: of the files, by path. A file without one is zeros."""
        self.size_bytes = plan.size_bytes
        self._plan, self._places, self._tiers = plan, places, tiers
        self._starts = [member.header_at for member in plan.members]
        # paths of files that were not there, or too short; and the tier that could not be asked
        self.missing: set[str] = set()
        self.away = ""

    @property
    def zone(self) -> Zone:
        """Deidentified only when every place is: the engine lets nothing else cross."""
        zones = {self._tiers[place.tier].zone for place in self._places.values() if place.tier in self._tiers}
        return "deidentified" if zones <= {"deidentified"} else "identified"

    def fingerprint(self) -> Fingerprint:
        """Whether a file changed, its digest tells."""
        return Fingerprint(self.size_bytes, 0, self._plan.made_of)

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(length)
        self.read_into(offset, memoryview(data))
        return bytes(data)

    def read_into(self, offset: int, view: memoryview) -> None:
        view[:] = bytes(len(view))
        end = offset + len(view)
        for member in self._plan.members[max(0, bisect.bisect_right(self._starts, offset) - 1) :]:
            if member.header_at >= end:
                return
            _lay(view, offset, member.header_at, header(member.name, member.file.size_bytes))
            start, stop = max(offset, member.offset), min(end, member.offset + member.file.size_bytes)
            if start < stop:
                self._fill(member, start - member.offset, view[start - offset : stop - offset])

    def _fill(self, member: Member, inner: int, part: memoryview) -> None:
        place = self._places.get(member.file.path)
        if place is None:
            return
        tier = self._tiers.get(place.tier)
        try:
            if tier is None:
                raise TierUnavailable("this node does not reach the tier", where=place.tier)
            part[:] = tier.read(place.key, place.offset + inner, len(part))
        except (EntryMissing, ShortRead):
            self.missing.add(member.file.path)
        except (TierUnavailable, TierDenied):
            self.away = place.tier
            raise


def _lay(view: memoryview, offset: int, at: int, data: bytes) -> None:
    """The part of `data`, which begins at `at`, that falls into the range at `offset`."""
    start, stop = max(offset, at), min(offset + len(view), at + len(data))
    if start < stop:
        view[start - offset : stop - offset] = data[start - at : stop - at]
