"""Small files between two posix tiers, a group at a time: written, synced once, re-read cold, published, synced.

What stands on the device if everything stops after a step:

    written     temporary names, perhaps not durable
    synced      temporary names, durable, not yet believed
    re-read     temporary names whose bytes on the device equal what was read from the source
    published   final names, whole; perhaps the names are not durable
    reported    final names, durable: only now an outcome exists

A folder that the target does not have yet is built under one temporary name beside its place and published whole by
one rename (measured: a third less kernel time than a rename for each file; a file's name costs as much as its data).
If another worker made the folder meanwhile, what is inside is moved over name by name. Into a folder that stands
already every file goes under a temporary name of its own. No rename ever replaces anything.

One `syncfs` makes the whole group durable where the file system can be believed (`Traits.syncfs`): it writes back
everybody's dirty data of that file system, so small groups and other systems sync file by file. A failed sync says
nothing about which file it was and is never repeated: the group is written again from the source, each file synced
by itself. The failure of one entry is an outcome; a tier that is full, gone or another one ends the group with what
is durable by then.

This module runs in worker processes and imports little. Nothing here looks at a clock to decide anything.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import lru_cache
from typing import Any, Protocol

from blake3 import blake3
from msgspec import Struct, structs

from mover.clock import monotonic_s
from mover.errors import (
    DigestMismatch,
    EntryExists,
    EntryRefused,
    MetadataUnsupported,
    MoverError,
    RequestInvalid,
    TierError,
    TierFull,
    TierUnavailable,
)
from mover.model.moving import Item, Options, Outcome, OutcomeState
from mover.model.tiers import TierRole, Zone
from mover.randomness import random_bytes
from mover.tiers import beneath
from mover.tiers.posix import TEMPORARY, PosixTier, cold_blocks, fingerprint_of
from mover.transfer import metadata
from mover.transfer.layout import Folders, Layout, parts_of, rename_into, split_target
from mover.transfer.reading import READ, ColdReader, Reader, Seen

# below so many files each is synced by itself: a syncfs would write back what others have dirty
FEW_FILES = 16
REREAD_THREADS = 4
SYNC_THREADS = 16
NETWORK_THREADS = 16  # a round trip for every call: only many at once fill the time
STOP_EVERY = 32
SAMPLE_EVERY = 16

_LIBC = ctypes.CDLL(None, use_errno=True)
_CREATE = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_TIER_ENDS = (TierFull, TierUnavailable)


class Place(Struct, frozen=True):
    """A posix tier as a worker process makes it again."""

    name: str
    zone: Zone
    root: str
    role: TierRole
    read_only: bool
    identity: str | None
    syncfs: bool
    rename_noreplace: bool
    network: bool


class Job(Struct, frozen=True):
    source: Place
    target: Place
    options: Options
    items: tuple[Item, ...]


class Deferred(Struct, frozen=True, array_like=True):
    """A file of several names that are to stay together: the carrier knows the other ones."""

    id: int
    device: int
    inode: int
    names: int


class Report(Struct, frozen=True):
    """`outcomes` are durable, also when an error (`code`, `what`, `where`) ended the group. What is in neither list
    was not touched: the group was stopped, or ended. `read_s` and `write_s` are times of one file, sampled."""

    outcomes: list[Outcome]
    deferred: list[Deferred] = []
    code: str = ""
    what: str = ""
    where: str = ""
    read_s: float = 0.0
    write_s: float = 0.0


@lru_cache(maxsize=64)
def tier_of(place: Place) -> PosixTier:
    return PosixTier(
        place.name, place.zone, place.root, role=place.role, read_only=place.read_only, identity=place.identity
    )


def never() -> bool:
    return False


def run_group(job: Job, *, stopped: Callable[[], bool] = never, fetch: Fetch | None = None) -> Report:
    """Carry the items of a job, in order. A failed sync of all is answered by syncing each. With `fetch` the bytes
    come from elsewhere than a folder, many at once."""
    careful = len(job.items) <= FEW_FILES or not job.target.syncfs
    report = _run(job, careful=careful, stopped=stopped, fetch=fetch)
    if report.code != _SYNC_FAILED:
        return report
    return _run(job, careful=True, stopped=stopped, fetch=fetch)


def _run(job: Job, *, careful: bool, stopped: Callable[[], bool], fetch: Fetch | None) -> Report:
    source = tier_of(job.source) if fetch is None else None
    target = tier_of(job.target)
    try:
        with ExitStack() as roots:
            from_root = roots.enter_context(source.opened()) if source is not None else -1
            to_root = roots.enter_context(target.opened())
            group = _Group(job, from_root, to_root, careful=careful, stopped=stopped, fetch=fetch)
            try:
                report = group.run()
            finally:
                group.clean_up()
        return _still_there(report, source or fetch, target)
    except MoverError as error:
        return Report([], code=error.code, what=error.what, where=error.where)


class Fetch(Protocol):
    """A source of small files that is no folder; called in threads. What it raises are errors of ours."""

    def look(self, item: Item) -> Seen:
        """As `Reader.look`; without a question where `read` is bound to the planned version anyway."""

    def read(self, item: Item, looked: Seen) -> tuple[Any, os.stat_result, str, int]: ...

    def read_link(self, item: Item) -> tuple[bytes, os.stat_result]: ...

    def check_identity(self) -> None: ...


class _Proved(Protocol):
    def check_identity(self) -> None: ...


def _still_there(report: Report, source: _Proved | None, target: PosixTier) -> Report:
    """A tier that was unmounted on the way shows an empty folder: then nothing is 'missing', and what was written
    is not where it will be looked for."""
    target.check_identity()
    try:
        if source is not None:
            source.check_identity()
    except MoverError as error:
        durable = [one for one in report.outcomes if one.state in ("moved", "present")]
        return Report(durable, code=error.code, what=error.what, where=error.where)
    return report


_SYNC_FAILED = "sync-failed"


class _SyncFailed(Exception):
    """The one sync of all failed; nobody knows whose bytes are lost."""


# one file on its way: its item, its folder on the target, its name there, its temporary name ("" in a staged
# folder), the digest of what was read, its status under the temporary name, and its descriptor (-1 when closed)
_Written = tuple[Item, bytes, bytes, bytes, str, os.stat_result, int]


class _Group:
    def __init__(
        self,
        job: Job,
        from_root: int,
        to_root: int,
        *,
        careful: bool,
        stopped: Callable[[], bool],
        fetch: Fetch | None,
    ) -> None:
        self._fetch = fetch
        self._job, self._keep, self._careful, self._stopped = job, job.options.keep, careful, stopped
        self._from_root, self._to_root = from_root, to_root
        self._threads = NETWORK_THREADS if fetch or job.source.network or job.target.network else 1
        self._layout = Layout(to_root, staging=not careful and job.target.rename_noreplace)
        self._written: list[_Written] = []
        self._taken: list[tuple[Item, str]] = []
        self._outcomes: list[Outcome] = []
        self._deferred: list[Deferred] = []
        self._ended: MoverError | None = None
        self._mark = TEMPORARY + random_bytes(8).hex().encode()
        self._numbers = itertools.count()
        self._leftover: list[tuple[bytes, bytes]] = []
        self._device = os.fstat(to_root).st_dev
        self._elsewhere: set[bytes] = set()  # folders on other file systems mounted below the root
        self._read_s: list[float] = []
        self._write_s: list[float] = []

    def run(self) -> Report:
        try:
            self._spread(self._write_some, self._job.items)
            self._sync_data()
            if self._job.options.readback:
                self._reread()
            self._publish()
            self._settle_taken()
            self._sync_names()
        except _SyncFailed:
            return Report([], code=_SYNC_FAILED)
        except OSError as error:
            raise beneath.translated(error, "a group failed", tier=self._job.target.name) from error
        report = Report(self._outcomes, self._deferred, read_s=_mean(self._read_s), write_s=_mean(self._write_s))
        if self._ended is None:
            return report
        ended = self._ended
        return Report(report.outcomes, report.deferred, code=ended.code, what=ended.what, where=ended.where)

    def clean_up(self) -> None:
        """Remove what is not under a final name, as far as possible; the sweep finds the rest."""
        for _, folder, _, temporary, _, _, descriptor in self._written:
            if descriptor >= 0:
                with suppress(OSError):  # thrown away: its close decides nothing
                    os.close(descriptor)
            if temporary:
                self._leftover.append((folder, temporary))
        with Folders(self._to_root) as folders:
            for folder, temporary in self._leftover:
                with suppress(OSError, MoverError):
                    os.unlink(temporary, dir_fd=folders.open(folder))
        self._layout.remove_staged()

    # --- writing ----------------------------------------------------------------------------------------

    def _spread(self, do: Callable[[Sequence[Any]], None], work: Sequence[Any]) -> None:
        """In this thread, or in several where calls wait for a network."""
        threads = min(self._threads, len(work))
        if threads <= 1:
            do(work)
            return
        step = -(-len(work) // threads)
        with ThreadPoolExecutor(threads, thread_name_prefix="group") as pool:
            for done in [pool.submit(do, work[at : at + step]) for at in range(0, len(work), step)]:
                done.result()

    def _write_some(self, items: Sequence[Item]) -> None:
        with Folders(self._from_root) as sources, Folders(self._to_root) as targets:
            reader = self._fetch or Reader(self._job.source.name, self._job.options, sources)
            for number, item in enumerate(items):
                if self._ended is not None or (number % STOP_EVERY == 0 and self._stopped()):
                    return
                self._write_one(item, reader, targets, sampled=number % SAMPLE_EVERY == 0)

    def _write_one(self, item: Item, reader: Reader | Fetch, targets: Folders, *, sampled: bool) -> None:
        began_s = monotonic_s() if sampled else 0.0
        descriptor = -1
        try:
            if item.kind == "symlink":
                self._write_link(item, reader, targets)
                return
            looked = reader.look(item)
            seen = looked[2]
            if seen.st_nlink > 1 and self._keep.hard_links == "link":
                self._deferred.append(Deferred(item.id, seen.st_dev, seen.st_ino, seen.st_nlink))
                return
            data, seen, digest, descriptor = reader.read(item, looked)
            read_s = monotonic_s() if sampled else 0.0
            self._write_file(item, data, seen, digest, targets, source=descriptor)
            if sampled:
                self._read_s.append(read_s - began_s)
                self._write_s.append(monotonic_s() - read_s)
        except _TIER_ENDS as error:
            if self._is_of_the_entry(error):
                self._fail(item, error)
            else:
                self._ended = error
        except MoverError as error:
            self._fail(item, error)
        finally:
            if descriptor >= 0:
                os.close(descriptor)  # read only: its close says nothing

    def _is_of_the_entry(self, error: MoverError) -> bool:
        """A store that answered for one object with an error does not end the others, while it is there."""
        if self._fetch is None or not isinstance(error, TierUnavailable):
            return False
        try:
            self._fetch.check_identity()
            tier_of(self._job.target).check_identity()
        except MoverError:
            return False
        return True

    def _write_file(
        self, item: Item, data: Any, seen: os.stat_result, digest: str, targets: Folders, *, source: int
    ) -> None:
        keep = self._keep
        folder, name = split_target(item.target)
        temporary = b""
        target, made = -1, False
        try:
            actual, staged = self._layout.place(folder)
            at = targets.open(actual)
            if not staged:
                if os.access(name, os.F_OK, dir_fd=at, follow_symlinks=False):
                    self._taken.append((item, digest))
                    return
                temporary = self._temporary()
            mode = metadata.mode_of(seen, keep)
            target = os.open(temporary or name, _CREATE, mode & 0o777, dir_fd=at)
            made = True
            if data and (source >= 0 or os.write(target, data) != len(data)):
                _write_all(target, data, seen, sparse=keep.sparse, source=source)
            status = self._dress(source, target, seen, mode)
            if targets.device != self._device:
                self._elsewhere.add(actual)
            elif not self._careful:
                done, target = target, -1
                os.close(done)
            self._written.append((item, actual, name, temporary, digest, status, target))
        except FileExistsError:
            self._taken.append((item, digest))  # twice in one group: what stands there in the end decides
        except (OSError, MoverError) as error:
            if target >= 0:
                with suppress(OSError):
                    os.close(target)
            if made:
                self._discard(temporary or name, targets.open(actual), staged=staged)
            if isinstance(error, OSError):
                raise beneath.translated(error, "writing failed", tier=self._job.target.name) from error
            raise

    def _discard(self, name: bytes, at: int, *, staged: bool) -> None:
        """What failed half-way. A staged folder is published with all that is in it: one that keeps what failed ends
        the group before that (OSError); a temporary name is left for the sweep."""
        try:
            os.unlink(name, dir_fd=at)
        except FileNotFoundError:
            return
        except OSError:
            if staged:
                raise

    def _temporary(self) -> bytes:
        return self._mark + b"-%x" % next(self._numbers)

    def _dress(self, source: int, target: int, seen: os.stat_result, mode: int) -> os.stat_result:
        """The common case in as few calls as it takes: the mode came with the name, the time by descriptor."""
        keep = self._keep
        if keep.owner or keep.xattrs or keep.acls:
            return metadata.dress(source, target, seen, keep)
        if keep.mtime:
            os.utime(target, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        status = os.fstat(target)
        if status.st_mode & 0o7777 != mode:  # our umask, or a default ACL of the folder
            os.fchmod(target, mode)
            status = os.fstat(target)
        metadata.refuse_other(status, seen, keep, mode=mode)
        return status

    def _write_link(self, item: Item, reader: Reader | Fetch, targets: Folders) -> None:
        if self._keep.symlinks != "copy":
            if self._keep.symlinks == "skip":
                self._outcomes.append(Outcome(item.id, "skipped", code="symlinks", what="links are left out"))
                return
            raise EntryRefused("the entry is a symlink", where=self._job.source.name)
        text, seen = reader.read_link(item)
        digest = blake3(text).hexdigest()
        folder, name = split_target(item.target)
        made = False
        try:
            actual, staged = self._layout.place(folder)
            at = targets.open(actual)
            if not staged and os.access(name, os.F_OK, dir_fd=at, follow_symlinks=False):
                self._taken.append((item, digest))
                return
            temporary = b"" if staged else self._temporary()
            os.symlink(text, temporary or name, dir_fd=at)
            made = True
            metadata.dress_link(temporary or name, seen, self._keep, folder=at)
            status = os.stat(temporary or name, dir_fd=at, follow_symlinks=False)
            self._written.append((item, actual, name, temporary, digest, status, -1))
        except FileExistsError:
            self._taken.append((item, digest))
        except (OSError, MoverError) as error:
            if made:
                self._discard(temporary or name, targets.open(actual), staged=staged)
            if isinstance(error, OSError):
                raise beneath.translated(error, "writing failed", tier=self._job.target.name) from error
            raise

    # --- durable, and believed --------------------------------------------------------------------------

    def _sync_data(self) -> None:
        if any(one[6] >= 0 for one in self._written):
            self._sync_each()
        if self._written and not self._careful:
            self._sync_all()

    def _sync_all(self) -> None:
        """Errors since the root was opened, before the first write, are told here (syncfs(2), Linux 5.8)."""
        if _LIBC.syncfs(self._to_root) != 0:
            number = ctypes.get_errno()
            if number in (errno.ENOSPC, errno.EDQUOT):
                raise TierFull("syncing failed", where=self._job.target.name)
            raise _SyncFailed

    def _sync_each(self) -> None:
        """Many at once: their waits are joined in the journal."""
        held = [one for one in self._written if one[6] >= 0]
        with ThreadPoolExecutor(min(SYNC_THREADS, len(held)), thread_name_prefix="sync") as pool:
            failures = list(pool.map(_sync_and_close, [one[6] for one in held]))
        failed = {one[0].id: error for one, error in zip(held, failures, strict=True) if error is not None}
        self._keep_only(failed, "syncing failed")

    def _reread(self) -> None:
        threads = min(max(REREAD_THREADS, self._threads), len(self._written))
        if not threads:
            return
        step = -(-len(self._written) // threads)
        parts = [self._written[at : at + step] for at in range(0, len(self._written), step)]
        with ThreadPoolExecutor(threads, thread_name_prefix="reread") as pool:
            failed = {id_: error for part in pool.map(self._reread_some, parts) for id_, error in part}
        self._keep_only(failed, "re-reading failed")

    def _reread_some(self, part: Sequence[_Written]) -> list[tuple[int, Exception]]:
        failed: list[tuple[int, Exception]] = []
        with Folders(self._to_root) as folders, ColdReader() as cold:
            for item, actual, name, temporary, digest, status, _ in part:
                try:
                    at = folders.open(actual)
                    if item.kind == "symlink":
                        found = blake3(os.readlink(temporary or name, dir_fd=at)).hexdigest()
                    else:
                        found = cold.digest(temporary or name, status.st_size, folder=at)
                    if found != digest:
                        raise DigestMismatch("the bytes read back are not the bytes of the source")
                except (OSError, MoverError) as error:
                    failed.append((item.id, error))
        return failed

    def _keep_only(self, failed: Mapping[int, Exception], what: str) -> None:
        """Take the failed ones out of the group, and their bytes off the tier before anything gets a name."""
        kept = []
        for one in self._written:
            item, actual, name, temporary, digest, status, _ = one
            error = failed.get(item.id)
            if error is None:
                kept.append((item, actual, name, temporary, digest, status, -1))
                continue
            with Folders(self._to_root) as folders:
                os.unlink(temporary or name, dir_fd=folders.open(actual))
            if isinstance(error, OSError):
                error = beneath.translated(error, what, tier=self._job.target.name)
            if isinstance(error, _TIER_ENDS):
                self._ended = error
            elif isinstance(error, MoverError):
                self._fail(item, error)
        self._written = kept

    # --- final names ------------------------------------------------------------------------------------

    def _publish(self) -> None:
        whole = self._layout.publish()
        written, self._written = self._written, []
        rest = []
        for one in written:
            if whole(one[1]):
                self._moved(one[0], one[4], one[5])
            else:
                rest.append(one)
        self._spread(self._publish_some, rest)

    def _publish_some(self, part: Sequence[_Written]) -> None:
        with Folders(self._to_root) as sources, Folders(self._to_root) as targets:
            for item, actual, name, temporary, digest, _, _ in part:
                try:
                    at = targets.open(self._layout.final(actual))
                    if temporary:
                        beneath.rename_noreplace(at, temporary, name)
                    else:
                        rename_into(sources.open(actual), at, name)
                    status = os.stat(name, dir_fd=at, follow_symlinks=False)
                    self._moved(item, digest, status)
                except FileExistsError:
                    if temporary:
                        self._leftover.append((actual, temporary))
                    self._taken.append((item, digest))
                except (OSError, TierError) as error:
                    if temporary:
                        self._leftover.append((actual, temporary))
                    if isinstance(error, OSError):
                        error = beneath.translated(error, "publishing failed", tier=self._job.target.name)
                    self._fail(item, error)

    def _settle_taken(self) -> None:
        """Equal bytes under the final name are an earlier attempt's, or another's who moved the same: read cold."""
        for item, digest in self._taken:
            folder, name = split_target(item.target)
            try:
                with Folders(self._to_root) as folders:
                    at = folders.open(folder)
                    elsewhere = folders.device != self._device  # a sync of all does not reach there
                    status, found = _digest_taken(name, at, sync=self._careful or elsewhere)
            except OSError as error:
                self._fail(item, beneath.translated(error, "comparing failed", tier=self._job.target.name))
                continue
            except MoverError as error:
                self._fail(item, error)
                continue
            if found != digest:
                self._fail(item, EntryExists("other bytes stand under the name"))
                continue
            self._layout.touched(folder)
            if elsewhere:
                self._elsewhere.add(folder)
            self._outcomes.append(
                Outcome(item.id, "present", status.st_size, digest, verified=True, written=fingerprint_of(status))
            )

    def _sync_names(self) -> None:
        if not any(one.state in ("moved", "present") for one in self._outcomes):
            return
        if not self._careful:
            self._sync_all()
        target = tier_of(self._job.target)
        each = self._layout.folders() if self._careful else {self._layout.final(one) for one in self._elsewhere}
        for folder in sorted(each):
            parts = parts_of(folder)
            at = beneath.open_folder(self._to_root, parts)
            try:
                os.fsync(at)
            finally:
                os.close(at)
            target.sync_names(self._to_root, parts)

    def _moved(self, item: Item, digest: str, status: os.stat_result) -> None:
        verified = self._job.options.readback
        self._outcomes.append(
            Outcome(item.id, "moved", status.st_size, digest, verified=verified, written=fingerprint_of(status))
        )

    def _fail(self, item: Item, error: MoverError) -> None:
        self._outcomes.append(failed(item, error))


def failed(item: Item, error: MoverError) -> Outcome:
    return Outcome(item.id, "failed", code=error.code, what=error.what, retry=error.retry == "later")


def _write_all(target: int, data: Any, seen: os.stat_result, *, sparse: bool, source: int) -> None:
    """From the beginning, also after a write that took only a part."""
    if sparse and seen.st_blocks * 512 < seen.st_size and source >= 0 and _write_extents(target, data, source):
        return
    done = 0
    while done < len(data):
        done += os.pwrite(target, memoryview(data)[done:], done)


def _write_extents(target: int, data: Any, source: int) -> bool:
    """Holes stay holes. False where the file system cannot say where they are."""
    size, at, view = len(data), 0, memoryview(data)
    try:
        while at < size:
            try:
                begin = os.lseek(source, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                return False
            at = min(size, os.lseek(source, begin, os.SEEK_HOLE))
            while begin < at:
                begin += os.pwrite(target, view[begin:at], begin)
        os.ftruncate(target, size)
    finally:
        view.release()
    return True


def _sync_and_close(descriptor: int) -> OSError | None:
    """The sync's error comes first; a failing close is as bad (NFS tells of a full disk there)."""
    failure: OSError | None = None
    try:
        os.fsync(descriptor)
    except OSError as error:
        failure = error
    try:
        os.close(descriptor)
    except OSError as error:
        failure = failure or error
    return failure


def _digest_taken(name: bytes, folder: int, *, sync: bool) -> tuple[os.stat_result, str]:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if stat.S_ISLNK(status.st_mode):
        return status, blake3(os.readlink(name, dir_fd=folder)).hexdigest()
    if not stat.S_ISREG(status.st_mode):
        raise EntryExists("something else than a file stands under the name")
    descriptor = os.open(name, READ, dir_fd=folder)
    try:
        if sync:
            os.fsync(descriptor)
        hasher = blake3()
        for block in cold_blocks(descriptor):
            hasher.update(block)
        return os.fstat(descriptor), hasher.hexdigest()
    finally:
        os.close(descriptor)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


# --- folders and links -----------------------------------------------------------------------------------------


def run_folders(job: Job) -> Report:
    """Make the folders that are missing and put their metadata on, in the order given, each synced. `present`: it
    stood there with the mode, owner and time that were wanted."""
    source, target = tier_of(job.source), tier_of(job.target)
    outcomes: list[Outcome] = []
    try:
        with source.opened() as from_root, target.opened() as to_root:
            for item in job.items:
                try:
                    outcomes.append(_run_folder(item, job, target, from_root, to_root))
                except OSError as error:
                    outcomes.append(failed(item, beneath.translated(error, "a folder failed", tier=target.name)))
                except _TIER_ENDS:
                    raise
                except MoverError as error:
                    outcomes.append(failed(item, error))
        return _still_there(Report(outcomes), source, target)
    except MoverError as error:
        return Report(outcomes, code=error.code, what=error.what, where=error.where)


def _run_folder(item: Item, job: Job, target: PosixTier, from_root: int, to_root: int) -> Outcome:
    here, there = beneath.key_parts(item.source), beneath.key_parts(item.target)
    if there[-1].startswith(TEMPORARY):
        raise RequestInvalid("a key with the name of a temporary file", where=target.name)
    source = made = -1
    try:
        source = beneath.open_folder(from_root, here)
        seen = os.fstat(source)
        made = beneath.make_folders(to_root, there)
        before = os.fstat(made)
        keep = job.options.keep
        plain = not (keep.xattrs or keep.acls)
        if plain and metadata.is_dressed(before, seen, keep):
            after = before
        else:
            after = metadata.dress(source, made, seen, keep)
        os.fsync(made)
        target.sync_names(to_root, there)
    finally:
        for descriptor in (source, made):
            if descriptor >= 0:
                os.close(descriptor)
    state: OutcomeState = "present" if after is before else "moved"
    return Outcome(item.id, state, written=fingerprint_of(after))


def link_to(place: Place, item: Item, first: str, outcome: Outcome) -> Outcome:
    """A further name of a file that was moved as `first`: a link is made or refused as a whole, so there is nothing
    to write, to re-read or to rename."""
    target = tier_of(place)
    folder, name = split_target(item.target)
    from_folder, from_name = split_target(first)
    with target.opened() as root, Folders(root) as folders:
        try:
            os.close(beneath.make_folders(root, parts_of(folder)))
            known = os.stat(from_name, dir_fd=folders.open(from_folder), follow_symlinks=False)
            at, source = folders.open(folder), folders.open(from_folder)
            try:
                os.link(from_name, name, src_dir_fd=source, dst_dir_fd=at, follow_symlinks=False)
                state: OutcomeState = "moved"
            except FileExistsError:
                found = os.stat(name, dir_fd=at, follow_symlinks=False)
                if (found.st_dev, found.st_ino) != (known.st_dev, known.st_ino):
                    raise EntryExists("another file stands under the name", where=place.name) from None
                state = "present"
            os.fsync(at)
            target.sync_names(root, parts_of(folder))
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
                raise MetadataUnsupported("the target cannot hold the names together", where=place.name) from error
            raise beneath.translated(error, "linking failed", tier=place.name) from error
    return structs.replace(
        outcome, id=item.id, state=state, shared=True, written=fingerprint_of(status), size_bytes=status.st_size
    )
