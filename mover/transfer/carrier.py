"""Carries a stream of items from one tier to another: small files in groups in worker processes, everything else
one by one in threads, folders last; each item exactly once, or the error that ended it all.

The stream is read only as far as there is room for work, so ten million items take no more memory than a few
thousand. Outcomes come in the order of their ends. A tier that fails as a whole (away, another one, full) ends the
carry: what is in hand is let finish, what became durable is yielded, then the error is raised. Items that are
neither yielded nor covered by a raised error were not touched: the carry was stopped, and running it again finds
what stands already (`present`).
"""

from __future__ import annotations

import os
import pickle
import queue
import stat
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, Any, cast

from blake3 import blake3
from msgspec import structs

from mover import metrics
from mover.decide import groups as decide
from mover.decide.groups import Group
from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    EntryRefused,
    MetadataUnsupported,
    MoverError,
    Stopping,
    TierFull,
    TierHung,
    TierUnavailable,
    WorkerLost,
    ZoneCrossing,
    by_code,
)
from mover.model.moving import Item, Keep, Options, Outcome
from mover.model.recipe import plain_copy
from mover.model.tiers import Fingerprint
from mover.tiers import beneath
from mover.tiers.guard import guard_of, guarded
from mover.tiers.port import OpenEntry, ReadTier
from mover.tiers.posix import OpenFile, PosixTier
from mover.tiers.staging import Attempt, StagingTier
from mover.tiers.wrappers import GuardedTier, RetryTier
from mover.transfer import digest as digests
from mover.transfer import metadata
from mover.transfer.budgets import UNLIMITED, Budgets
from mover.transfer.engine import Transfer, abandon
from mover.transfer.group import (
    Deferred,
    Job,
    Place,
    Report,
    failed,
    link_to,
    run_folders,
    run_group,
)
from mover.transfer.pace import Pace, never
from mover.transfer.paced import PacedTier
from mover.transfer.parts import PartJournal
from mover.transfer.reading import Seen, refuse_other
from mover.transfer.workers import Workers

GROUPS_AHEAD = 2  # for each worker process, so that it never waits for its next group
SINGLES_AHEAD = 256
LARGE_THREADS = 2
OBJECT_THREADS = 32  # small objects are round trips
SMALL_BYTES = 1 << 20  # of objects that are moved whole, in memory
SMALL_BYTES_HELD = 64 << 20  # of all of those in memory at once
FOLDERS_IN_MEMORY_BYTES = 1 << 20  # for each depth; more go to an unnamed file
DEEPEST = 64  # folders below that share the last file, latest first
HARD_LINKS_HELD = 100_000  # inodes with names still to come
FOLDERS_AT_ONCE = 1024
DEFAULT_OPTIONS = Options()


class Carrier:
    """Moves a stream of items between two tiers: small ones in groups in worker processes with group commit, large
    ones one by one by the kernel, in parts where that pays; everything bounded.

    One serves all threads of a daemon. `close` ends its processes; what they had in hand stays under temporary names.
    """

    def __init__(self, transfer: Transfer, *, processes: int = 2, budgets: Budgets = UNLIMITED) -> None:
        """Without `processes` groups are carried by threads of this process."""
        self.transfer, self.budgets, self.processes = transfer, budgets, processes
        self.workers = Workers(processes) if processes else None
        self.groups = ThreadPoolExecutor(max(1, processes), thread_name_prefix="groups")
        self.large = ThreadPoolExecutor(LARGE_THREADS, thread_name_prefix="large")
        self.objects = ThreadPoolExecutor(OBJECT_THREADS, thread_name_prefix="objects")
        self.room = _Room(SMALL_BYTES_HELD)

    def carry(
        self,
        items: Iterable[Item],
        *,
        source: ReadTier,
        target: StagingTier,
        options: Options = DEFAULT_OPTIONS,
        journal: PartJournal | None = None,
        stopped: Callable[[], bool] = never,
    ) -> Iterator[list[Outcome]]:
        """Lists of outcomes as they become durable; each item exactly once. Tier-level failures (unmounted, denied
        listing, full) are raised after the outcomes already durable were yielded. identified -> deidentified is
        refused (ZoneCrossing). Whoever leaves the iterator early stops the carry."""
        if source.zone != "deidentified" and target.zone == "deidentified":
            raise ZoneCrossing("plain items never cross from an identified to a deidentified tier", where=target.name)
        source.check_identity()
        target.check_identity()
        return _Carry(self, source, target, options, journal, stopped).run(items)

    def close(self) -> None:
        for pool in (self.groups, self.large, self.objects):
            pool.shutdown(wait=False, cancel_futures=True)
        if self.workers is not None:
            self.workers.close()


_Result = Report | Outcome | Deferred | None
_Work = Group | Item


class _Carry:
    """One stream on its way. Its state belongs to the thread that asks for outcomes; work is done in others."""

    def __init__(
        self,
        carrier: Carrier,
        source: ReadTier,
        target: StagingTier,
        options: Options,
        journal: PartJournal | None,
        stopped: Callable[[], bool],
    ) -> None:
        self._carrier, self._options, self._keep = carrier, options, options.keep
        self._stopped = stopped
        self._left = threading.Event()
        self._places = _places(source, target)
        self._fetch = _Fetched(source, options) if self._places is None and _fetches(source, target) else None
        self._grouping = self._places is not None or self._fetch is not None
        self._one = _Singles(carrier, source, target, options, journal, self._ends)
        self._tiers = (source, target)
        self._finished: queue.SimpleQueue[tuple[_Work, Future[_Result]]] = queue.SimpleQueue()
        self._groups = self._singles = 0
        self._held: dict[int, Item] = {}  # what is in hand and may be deferred, by id
        self._links = _HardLinks()
        self._later = _Later()
        self._error: BaseException | None = None

    def run(self, items: Iterable[Item]) -> Iterator[list[Outcome]]:
        try:
            for work in decide.cut(items, bounds=self._bounds(), grouping=self._grouping):
                self._submit(work)
                yield from self._ready(most_groups=self._most_groups() - 1, most_singles=SINGLES_AHEAD - 1)
                if self._ending():
                    break
            yield from self._ready(most_groups=0, most_singles=0)
            for folders in self._later.take():
                if self._ending():
                    break
                yield self._folders(folders)
        finally:
            self._left.set()
            while self._groups + self._singles:
                self._take(*self._finished.get())
            self._later.close()
        if self._error is not None:
            raise self._error

    def _bounds(self) -> decide.Bounds:
        if self._carrier.budgets.governs(*(tier.name for tier in self._tiers)):
            large = decide.BUDGETED.large_bytes if self._fetch is None else decide.FETCHED.large_bytes
            return structs.replace(decide.BUDGETED, large_bytes=large)
        if self._fetch is not None:
            return decide.FETCHED
        return decide.DEFAULT if self._places is None or self._places[1].syncfs else decide.SINGLE_SYNCS

    def _most_groups(self) -> int:
        return max(1, self._carrier.processes) * GROUPS_AHEAD

    def _ending(self) -> bool:
        return self._error is not None or self._stopped()

    def _ends(self) -> bool:
        """What work in hand asks between two steps."""
        return self._left.is_set() or self._stopped()

    # --- the thread that asks for outcomes --------------------------------------------------------------

    def _submit(self, work: _Work) -> None:
        if isinstance(work, Item) and work.kind == "folder":
            self._later.add(work)
            return
        try:
            future = self._begin(work)
        except RuntimeError:  # the word of a pool that was shut down
            raise Stopping("the carrier was closed") from None
        if isinstance(work, Group):
            self._groups += 1
        else:
            self._singles += 1
        if self._keep.hard_links == "link":
            self._held.update((item.id, item) for item in _items(work))
        future.add_done_callback(lambda ended: self._finished.put((work, ended)))

    def _begin(self, work: _Work) -> Future[_Result]:
        if isinstance(work, Group):
            return self._carrier.groups.submit(self._run_group, work.items, self._options)
        pool = self._carrier.large if self._places is not None else self._carrier.objects
        return pool.submit(self._one.run, work)

    def _ready(self, *, most_groups: int, most_singles: int) -> Iterator[list[Outcome]]:
        """What has ended; waits while more than so much is in hand."""
        while True:
            waits = self._groups > most_groups or self._singles > most_singles
            outcomes = self._take(*self._finished.get()) if waits else []
            while not self._finished.empty():
                outcomes += self._take(*self._finished.get())
            if outcomes:
                yield outcomes
            if not waits:
                return

    def _take(self, work: _Work, ended: Future[_Result]) -> list[Outcome]:
        """The outcomes of what ended; an error of a whole tier is kept for the end, the first one only."""
        if isinstance(work, Group):
            self._groups -= 1
        else:
            self._singles -= 1
        outcomes: list[Outcome] = []
        try:
            outcomes = self._outcomes(ended.result())
        except CancelledError:
            self._error = self._error or Stopping("the carrier was closed")
        except BaseException as error:  # noqa: BLE001 - raised by `run` when everything in hand has ended
            self._error = self._error or error
        for item in _items(work) if self._held else ():
            self._held.pop(item.id, None)
        return outcomes

    def _outcomes(self, result: _Result) -> list[Outcome]:
        if result is None:
            return []
        if isinstance(result, Outcome):
            return [result]
        if isinstance(result, Deferred):
            return self._linked([result])
        if result.code and self._error is None:
            self._error = by_code(result.code)(result.what, where=result.where)
        return result.outcomes + (self._linked(result.deferred) if result.deferred else [])

    # --- groups -----------------------------------------------------------------------------------------

    def _run_group(self, items: Sequence[Item], options: Options) -> Report:
        """In a worker process. One that dies takes nobody with it: its group is run again in halves, down to the
        entry that cannot be carried."""
        source, target = (tier.name for tier in self._tiers)
        bytes_, budgets = sum(item.fingerprint.size_bytes for item in items), self._carrier.budgets
        budgets.take(source, direction="read", bytes_=bytes_, files=len(items), stopped=self._ends)
        budgets.take(target, direction="write", bytes_=bytes_, files=len(items), stopped=self._ends)
        if options.readback:
            budgets.take(target, direction="read", bytes_=bytes_, stopped=self._ends)
        try:
            with budgets.open_files(source, target):
                report = self._in_worker(items, options)
        except WorkerLost as error:
            return self._in_halves(items, options, error)
        self._count(report, items)
        return report

    def _in_halves(self, items: Sequence[Item], options: Options, error: WorkerLost) -> Report:
        if self._ends():
            return Report([])
        if len(items) == 1:
            return Report([failed(items[0], error)])
        middle = len(items) // 2
        return _joined(self._run_group(items[:middle], options), self._run_group(items[middle:], options))

    def _in_worker(self, items: Sequence[Item], options: Options) -> Report:
        if self._fetch is not None:
            return guarded(lambda left: self._fetched(items, options, left), *self._tiers)
        assert self._places is not None
        source, target = self._places
        job = Job(source, target, options, tuple(items))
        if self._carrier.workers is None:
            return run_group(job, stopped=self._ends)
        guards = [guard for guard in map(guard_of, self._tiers) if guard is not None]
        answers = (lambda: all(guard.answers() for guard in guards)) if guards else None
        return self._carrier.workers.run(job, stopped=self._ends, answers=answers)

    def _fetched(self, items: Sequence[Item], options: Options, left: Callable[[], bool]) -> Report:
        """In threads of this process, which has the connections: they wait for the store, not for Python."""
        place = _place(cast(PosixTier, plain_posix(self._tiers[1])))
        job = Job(structs.replace(place, name=self._tiers[0].name), place, options, tuple(items))
        return run_group(job, stopped=lambda: left() or self._ends(), fetch=self._fetch)

    def _count(self, report: Report, items: Sequence[Item]) -> None:
        source, target = (tier.name for tier in self._tiers)
        moved = sum(one.size_bytes for one in report.outcomes if one.state == "moved")
        metrics.BYTES_READ.labels(source).inc(moved)
        metrics.BYTES_WRITTEN.labels(target).inc(moved)
        if self._fetch is None:  # what is fetched is counted at each step
            metrics.BYTES_MOVED.labels(source, target).inc(moved)
        if self._options.readback:
            metrics.BYTES_VERIFIED.labels(target).inc(moved)
        mean = moved // max(1, len(items))
        if report.read_s:
            self._carrier.budgets.observe(source, direction="read", seconds=report.read_s, bytes_=mean)
        if report.write_s:
            self._carrier.budgets.observe(target, direction="write", seconds=report.write_s, bytes_=mean)

    def _folders(self, folders: Sequence[Item]) -> list[Outcome]:
        """After everything that is in them, because every name in a folder changes its time."""
        if self._places is None:
            word = "an object tier has no folders"
            return [Outcome(item.id, "skipped", code="folders", what=word) for item in folders]
        report = run_folders(Job(*self._places, self._options, tuple(folders)))
        return self._outcomes(report)

    # --- hard links -------------------------------------------------------------------------------------

    def _linked(self, deferred: Sequence[Deferred]) -> list[Outcome]:
        """Of a file of several names the first is moved, the others become links to it."""
        outcomes: list[Outcome] = []
        for one in deferred:
            item, key = self._held[one.id], (one.device, one.inode)
            first = self._links.next(key)
            if first is not None:
                outcomes.append(self._link(item, first))
            elif not self._links.room():
                word = "more files of several names than are kept in mind"
                outcomes.append(failed(item, MetadataUnsupported(word)))
            else:
                came = self._first(item)
                outcomes += came
                if came and came[0].state in ("moved", "present"):
                    self._links.add(key, item.target, came[0], others=one.names - 1)
        return outcomes

    def _first(self, item: Item) -> list[Outcome]:
        options = structs.replace(self._options, keep=structs.replace(self._keep, hard_links="copy"))
        if decide.way(item, bounds=self._bounds(), grouping=True) == "group":
            return self._outcomes(self._run_group((item,), options))
        return self._outcomes(self._one.run(item, options=options))

    def _link(self, item: Item, first: tuple[str, Outcome]) -> Outcome:
        assert self._places is not None
        try:
            return link_to(self._places[1], item, *first)
        except MoverError as error:
            if isinstance(error, TierFull | TierUnavailable):
                raise
            return failed(item, error)


def _items(work: _Work) -> Sequence[Item]:
    return work.items if isinstance(work, Group) else (work,)


def _joined(one: Report, other: Report) -> Report:
    ended = one if one.code else other
    return Report(
        one.outcomes + other.outcomes, one.deferred + other.deferred, ended.code, ended.what, ended.where,
        max(one.read_s, other.read_s), max(one.write_s, other.write_s),
    )  # fmt: skip


# --- one by one ----------------------------------------------------------------------------------------------


class _Singles:
    """Large files, and everything to and from object tiers: by the engine, or whole in memory when it is small.
    Called in threads."""

    def __init__(
        self,
        carrier: Carrier,
        source: ReadTier,
        target: StagingTier,
        options: Options,
        journal: PartJournal | None,
        stopped: Callable[[], bool],
    ) -> None:
        self._carrier, self._source, self._target = carrier, source, target
        self._options, self._journal, self._stopped = options, journal, stopped

    def run(self, item: Item, *, options: Options | None = None) -> Outcome | Deferred | None:
        """None when it was stopped before anything stood under the final name."""
        wanted = options or self._options
        try:
            if item.kind == "symlink":
                return self._link(item)
            return guarded(lambda left: self._move(item, wanted, left), self._source, self._target)
        except Stopping:
            return None
        except (TierFull, TierHung, ZoneCrossing):
            raise
        except TierUnavailable as error:
            self._source.check_identity()
            self._target.check_identity()
            return failed(item, error)  # the tiers are there: it was this one entry's answer
        except MoverError as error:
            return failed(item, error)

    def _link(self, item: Item) -> Outcome:
        if self._options.keep.symlinks == "skip":
            return Outcome(item.id, "skipped", code="symlinks", what="links are left out")
        if self._options.keep.symlinks == "refuse":
            raise EntryRefused("the entry is a symlink", where=self._source.name)
        raise MetadataUnsupported("an object tier holds no links", where=self._target.name)

    def _move(self, item: Item, options: Options, left: Callable[[], bool]) -> Outcome | Deferred:
        """A file that changes while it is read is read again, as it is then."""
        for tries in range(options.retries_changed + 1):
            with self._open(item, options) as source:
                seen = source.fingerprint()
                if tries == 0:
                    refuse_other(item.fingerprint, seen, where=self._source.name)
                deferred = _names_of(item, source, options.keep)
                if deferred is not None:
                    return deferred
                try:
                    return self._move_open(item, source, seen, options, lambda: left() or self._stopped())
                except ChangedWhileReading as error:
                    changed = error
                except EntryExists:
                    return self._settle(item, source)
        raise changed

    def _open(self, item: Item, options: Options) -> AbstractContextManager[OpenEntry]:
        """A source tier opens files of one name only; here the policy says what happens to others."""
        plain = plain_posix(self._source)
        if plain is None or plain.role != "source" or options.keep.hard_links == "refuse":
            return self._source.open(item.source)
        return _opened(plain, item.source)

    def _move_open(
        self, item: Item, source: OpenEntry, seen: Fingerprint, options: Options, stopped: Callable[[], bool]
    ) -> Outcome:
        dressed = _Dressed(self._target, source, seen, options.keep)
        if seen.size_bytes <= SMALL_BYTES and not item.trusted_since:
            return self._in_memory(item, source, seen, dressed, options, stopped)
        with self._carrier.budgets.open_files(self._source.name, self._target.name):
            moved = self._carrier.transfer.run_recipe(
                plain_copy(seen.size_bytes),
                source=source,
                source_tier=self._source,
                target=dressed,
                key=item.target,
                expected=item.blake3,
                readback=options.readback,
                journal=self._journal,
                attempt_id=str(item.id) if self._journal is not None else "",
                budgets=self._carrier.budgets,
                trusted_since=item.trusted_since,
                seen=seen,
                sparse=options.keep.sparse,
                stopped=stopped,
            )
        return Outcome(
            item.id,
            "moved",
            moved.digest.size_bytes,
            moved.digest.blake3,
            verified=moved.verified,
            written=self._target.stat(item.target).fingerprint,
            shared=moved.shared,
            trusted_since=moved.trusted_since,
        )

    def _in_memory(
        self,
        item: Item,
        source: OpenEntry,
        seen: Fingerprint,
        target: _Dressed,
        options: Options,
        stopped: Callable[[], bool],
    ) -> Outcome:
        """Small and whole: no thread and no queue for what is one request. The order is the protocol's."""
        size, budgets = seen.size_bytes, self._carrier.budgets
        pace = Pace(self._source.name, target.name, budgets=budgets, stopped=stopped)
        slots = budgets.open_files(self._source.name, target.name)
        with self._carrier.room.taken(size), slots, pace.memory(size):
            with pace.step(self._source.name, "read", size):
                data = source.read(0, size)
            digest = blake3(data).hexdigest()
            if item.blake3 and item.blake3 != digest:
                raise DigestMismatch("the source does not hold the bytes that were announced", where=self._source.name)
            if source.fingerprint() != seen:
                raise ChangedWhileReading("the source changed while it was read", where=self._source.name)
            attempt = target.attempt(item.target, size_bytes=size)
            try:
                with pace.step(target.name, "write", size):
                    attempt.write([data])
                    attempt.seal()
                if options.readback:
                    with pace.step(target.name, "read", size):
                        found = digests.digest_stream(attempt.stream_cold(), segments=False).blake3
                    if found != digest:
                        raise DigestMismatch("the bytes read back are not the bytes of the source", where=target.name)
                attempt.publish()
            except BaseException as error:
                abandon(attempt, error)
                raise
        metrics.BYTES_READ.labels(self._source.name).inc(size)
        metrics.BYTES_WRITTEN.labels(target.name).inc(size)
        if options.readback:
            metrics.BYTES_VERIFIED.labels(target.name).inc(size)
        written = self._target.stat(item.target).fingerprint if plain_posix(self._target) is not None else None
        return Outcome(item.id, "moved", size, digest, verified=options.readback, written=written)

    def _settle(self, item: Item, source: OpenEntry) -> Outcome:
        """The name is taken: equal bytes, read cold, are what was wanted."""
        wanted = digests.digest_source(source).blake3
        entry = self._target.stat(item.target)
        if entry.kind != "file" or entry.fingerprint.size_bytes != source.size_bytes:
            raise EntryExists("other bytes stand under the name", where=self._target.name)
        found = digests.digest_stream(self._target.stream(item.target, cold=True), segments=False).blake3
        if found != wanted:
            raise EntryExists("other bytes stand under the name", where=self._target.name)
        plain = plain_posix(self._target)
        if plain is not None:
            _sync_name(plain, item.target)
        written = self._target.stat(item.target).fingerprint
        return Outcome(item.id, "present", source.size_bytes, found, verified=True, written=written)


def _sync_name(tier: PosixTier, key: str) -> None:
    """Of a file that stood there already: whoever gave it its name may have been killed before that was durable.
    Its data was synced by the cold read."""
    try:
        with tier.opened() as root:
            parts = beneath.key_parts(key)[:-1]
            folder = beneath.open_folder(root, parts)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            tier.sync_names(root, parts)
    except OSError as error:
        raise beneath.translated(error, "syncing failed", tier=tier.name) from error


@contextmanager
def _opened(tier: PosixTier, key: str) -> Iterator[OpenFile]:
    with tier.opened() as root:
        try:
            descriptor = beneath.open_file(root, beneath.key_parts(key))
        except OSError as error:
            raise beneath.translated(error, "opening failed", tier=tier.name) from error
    try:
        yield OpenFile(descriptor, tier=tier.name, zone=tier.zone)
    finally:
        os.close(descriptor)


def _names_of(item: Item, source: OpenEntry, keep: Keep) -> Deferred | None:
    """What becomes of a file of several names, where that can be known."""
    descriptor = digests.descriptor_of(source)
    if descriptor is None or keep.hard_links == "copy":
        return None
    status = os.fstat(descriptor)
    if status.st_nlink == 1:
        return None
    if keep.hard_links == "refuse":
        raise EntryRefused("the entry has further names")
    return Deferred(item.id, status.st_dev, status.st_ino, status.st_nlink)


class _Dressed:
    """The target, with attempts that put on the metadata before their sync: no entry ever stands under its final
    name without it. An object has neither mode nor time of its own; what else is to be kept it refuses."""

    def __init__(self, tier: StagingTier, source: OpenEntry, seen: Fingerprint, keep: Keep) -> None:
        self._tier, self._source, self._seen, self._keep = tier, source, seen, keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tier, name)

    def attempt(self, key: str, *, size_bytes: int, resume: str = "") -> Attempt:
        keep = self._keep
        if self._tier.kind == "object" and (keep.owner or keep.xattrs or keep.acls):
            raise MetadataUnsupported("an object tier holds no owner, attributes or ACLs", where=self._tier.name)
        made = self._tier.attempt(key, size_bytes=size_bytes, resume=resume)
        into = getattr(made, "fileno", None)
        if into is not None and digests.descriptor_of(self._source) is not None:
            # gigabytes take minutes: nobody reads under a temporary name what the final mode keeps from him
            with suppress(OSError):  # `dress` says what cannot be set
                os.fchmod(into(), 0o600)
        return made if into is None else _DressedAttempt(made, into, self._source, self._seen, keep)


class _DressedAttempt:
    def __init__(
        self, inner: Attempt, into: Callable[[], int], source: OpenEntry, seen: Fingerprint, keep: Keep
    ) -> None:
        self._inner, self._into, self._source, self._seen, self._keep = inner, into, source, seen, keep

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def seal(self) -> None:
        descriptor = digests.descriptor_of(self._source)
        if descriptor is not None:
            metadata.dress(descriptor, self._into(), os.fstat(descriptor), self._keep)
        elif self._keep.owner or self._keep.xattrs or self._keep.acls:
            raise MetadataUnsupported("the source holds no owner, attributes or ACLs")
        elif self._keep.mtime:
            metadata.dress_time(self._into(), self._seen.mtime_ns)
        self._inner.seal()


# --- what is kept in mind --------------------------------------------------------------------------------------


class _Room:
    """So many bytes in memory at once, whoever asks; one that is larger than all of it goes alone."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, bytes_: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + bytes_ <= self._most)
            self._held += bytes_
        try:
            yield
        finally:
            with self._changed:
                self._held -= bytes_
                self._changed.notify_all()


class _HardLinks:
    """First names of files with further names still to come; one that has been seen whole is forgotten."""

    def __init__(self) -> None:
        self._firsts: dict[tuple[int, int], tuple[str, Outcome]] = {}
        self._others: dict[tuple[int, int], int] = {}

    def room(self) -> bool:
        return len(self._firsts) < HARD_LINKS_HELD

    def add(self, key: tuple[int, int], target: str, outcome: Outcome, *, others: int) -> None:
        self._firsts[key], self._others[key] = (target, outcome), others

    def next(self, key: tuple[int, int]) -> tuple[str, Outcome] | None:
        first = self._firsts.get(key)
        if first is not None:
            self._others[key] -= 1
            if not self._others[key]:
                del self._firsts[key], self._others[key]
        return first


class _Later:
    """Folders, until everything in them has moved: by depth, so that the deepest come first. A few in memory, more
    in unnamed files."""

    def __init__(self) -> None:
        self._files: dict[int, IO[bytes]] = {}

    def add(self, item: Item) -> None:
        deep = min(decide.depth(item), DEEPEST)
        if deep not in self._files:
            self._files[deep] = tempfile.SpooledTemporaryFile(FOLDERS_IN_MEMORY_BYTES)  # noqa: SIM115
        pickle.dump(item, self._files[deep])

    def take(self) -> Iterator[list[Item]]:
        for deep in sorted(self._files, reverse=True):
            held: list[Item] = []
            for item in _read_items(self._files[deep]):
                held.append(item)
                if len(held) == FOLDERS_AT_ONCE:
                    yield held
                    held = []
            if held:
                yield held

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()


def _read_items(file: IO[bytes]) -> Iterator[Item]:
    """Pickled, because names of any bytes (surrogate escapes) have no other short form; the file is our own."""
    end = file.tell()
    file.seek(0)
    while file.tell() < end:
        yield pickle.load(file)


# --- which way ---------------------------------------------------------------------------------------------------


def _places(source: ReadTier, target: StagingTier) -> tuple[Place, Place] | None:
    """How worker processes make the two tiers again; None where that is not the same thing."""
    one, other = plain_posix(source), plain_posix(target)
    if one is None or other is None:
        return None
    return _place(one), _place(other)


def _fetches(source: ReadTier, target: StagingTier) -> bool:
    """Small objects become files in groups too: the sync of each would cost more than its request."""
    return source.kind == "object" and plain_posix(target) is not None


class _Fetched:
    """Small objects as the source of a group. A read is bound to the version that was planned, so nothing is asked
    before it; an object has a size and a time, and no mode, owner or attributes to keep."""

    def __init__(self, tier: ReadTier, options: Options) -> None:
        self._tier, self._keep = tier, options.keep

    def look(self, item: Item) -> Seen:
        keep = self._keep
        if keep.owner or keep.xattrs or keep.acls:
            raise MetadataUnsupported("an object has no owner, attributes or ACLs", where=self._tier.name)
        planned = item.fingerprint
        times = {"st_mtime_ns": planned.mtime_ns, "st_atime_ns": planned.mtime_ns, "st_blocks": planned.size_bytes}
        mode = stat.S_IFREG | metadata.FILE_MODE
        return -1, b"", os.stat_result((mode, 0, 0, 1, 0, 0, planned.size_bytes, 0, 0, 0), times)

    def read(self, item: Item, looked: Seen) -> tuple[Any, os.stat_result, str, int]:
        with self._tier.open(item.source) as source:
            refuse_other(item.fingerprint, source.fingerprint(), where=self._tier.name)
            data = source.read(0, source.size_bytes)
        digest = blake3(data).hexdigest()
        if item.blake3 and item.blake3 != digest:
            raise DigestMismatch("the source does not hold the bytes that were announced", where=self._tier.name)
        return data, looked[2], digest, -1

    def read_link(self, item: Item) -> tuple[bytes, os.stat_result]:
        raise MetadataUnsupported("an object tier holds no links", where=self._tier.name)

    def check_identity(self) -> None:
        self._tier.check_identity()


def plain_posix(tier: object) -> PosixTier | None:
    """The folder behind wrappers that only wait or try again (budgets are asked by the carrier itself). Every other
    wrapper changes what happens and stays in the way."""
    while type(tier) in (RetryTier, GuardedTier, PacedTier):
        tier = tier.inner  # type: ignore[attr-defined]
    return tier if type(tier) is PosixTier else None


def _place(tier: PosixTier) -> Place:
    traits = tier.traits
    return Place(
        tier.name, tier.zone, str(tier.root.absolute()), tier.role, tier.read_only, tier.identity,
        syncfs=traits.syncfs, rename_noreplace=traits.rename_noreplace, network=traits.network,
    )  # fmt: skip
