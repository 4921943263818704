"""Run roots and the content store on a flash tier: blocking file work, for threads.

`.mover/content/<aa>/<blake3>` holds bytes once per tier; `runs/<run id>/data/…` shares them by reflink, or by
hard link where reflinks do not exist. Roots are private to one run, made new and never reused, so nothing of
another run can ever stand in them. Everything below `out/` belongs to a job and is not trusted, not even while
we look: it is walked, moved and removed by directory descriptor, and no link in it is followed.

Who may see what (D18): a run root is its requester's group's from its first file on. The content store and the
strays hold what belongs to many projects, so their folders are the daemon's alone; a run's strays may be read
by the group that could read the run.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from blake3 import blake3
from msgspec import Struct

from mover.clock import SYSTEM, pause
from mover.decide.cleanup import Standing
from mover.errors import ChangedWhileReading, DigestMismatch, EntryMissing, IntegrityError, TierDenied
from mover.log import get_logger
from mover.model.names import path_text
from mover.tiers import beneath
from mover.tiers.guard import Guard, Stopped, wanted
from mover.tiers.port import refuse_kept

FICLONE = 0x40049409
READ_BYTES = 8 << 20
LISTING_MAX = 10_000_000
# folders below each other that are looked into; a deeper one is one stray, moved as it is (each level is an open
# descriptor, and a hostile job could make any number of them)
DEPTH_MAX = 200
# of a file that belongs to one root, and of one whose inode other roots have too
OWN_MODE, SHARED_MODE = 0o440, 0o444
CONTENT, STRAYS, DAMAGED = ".mover/content", ".mover/strays", ".mover/damaged"
_DIGEST = re.compile(r"[0-9a-f]{64}")
# NFS: a file that was removed while open stands under a passing name until its last holder closes it; a folder is
# not empty before. So long a removal waits, and so long a holder may take before we think that its machine died.
PASSING_WAIT_S, PASSING_TRIES = 1.0, 5
PASSING_LONGEST_S = 3600.0

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO swapped in for a file must not hold us
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)

log = get_logger("runs")

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


# what the seal writes beside `data/` and `out/`
SEALED = ("records.parquet", "manifest.jsonl", "RUN.json")


class Requester(Struct, frozen=True):
    uid: int | None
    gid: int | None


class ContentFile(Struct, frozen=True):
    """A file of the content store, or one that was set aside from it, by its key below the tier's root."""

    digest: str
    key: str
    size_bytes: int
    since_s: float


class Shared(Struct, frozen=True):
    """A name in a run root that shares content, and the mark under which it was judged."""

    path: str
    digest: str
    size_bytes: int
    mark: str


class Sealed(Struct, frozen=True):
    """What stands in a sealed root beside `out/`: path -> size; and of files whose inode is the root's own, path -> how
    it looks as long as nobody touches it."""

    sizes: dict[str, int]
    marks: dict[str, str]


class Seen(Struct, frozen=True):
    """One name that is no folder, by the open folder it stands in; good until the walk goes on."""

    path: str
    name: str
    folder_fd: int
    facts: os.stat_result


def content_key(digest: str) -> str:
    return f"{CONTENT}/{digest[:2]}/{digest}"


def run_key(run: str) -> str:
    return f"runs/{run}"


def _answered(
    method: Callable[Concatenate[FlashRoots, Parameters], Result],
) -> Callable[Concatenate[FlashRoots, Parameters], Result]:
    """Work on the tier's folders, let go with TierHung when the tier stops answering."""

    @wraps(method)
    def call(self: FlashRoots, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return self.within(lambda _: method(self, *args, **kwargs))

    return call


class FlashRoots:
    """The run roots of one flash tier; `name` is the tier's, for errors.

    `check_identity` raises TierUnavailable when the tier is not mounted: an empty mount point must never look
    like a cleaned root or an empty store (D11). Every handler calls it before it looks or removes.
    """

    def __init__(
        self,
        root: Path,
        *,
        reflink: bool,
        check_identity: Callable[[], None],
        nfs: bool = False,
        guard: Guard | None = None,
        name: str = "",
        deletes: bool = True,
    ) -> None:
        self.root = root
        self.name = name
        self.deletes = deletes
        self._reflink = reflink
        self.check_identity = check_identity
        self._nfs = nfs
        self._lanes = guard

    @property
    def reflink(self) -> bool:
        """Do roots share content's bytes by inodes of their own?"""
        return self._reflink

    def _told(self, what: str) -> AbstractContextManager[None]:
        return told(what, tier=self.name)

    def within(self, work: Callable[[Stopped], Result]) -> Result:
        """Any work on this tier's folders; on a network file system nobody waits for it longer than for an answer."""
        if self._lanes is None:
            return work(lambda: False)
        return self._lanes.hold(work)

    @_answered
    def begin(self, run: str, requester: Requester) -> None:
        """Make the run's root. Nothing else makes it: a worker that was paused beyond the run's end finds no
        place to write to, so a root that was removed stays removed."""
        with self._told("the run root could not be made"):
            self.prepare()
            root = self.run_root(run)
            try:
                root.mkdir(mode=0o750)
                root.chmod(0o750)  # whatever the service's umask took
            except FileExistsError:
                pass  # another shard of the same run was faster, or we were, before a crash or a refusal
            give(root, None, requester.gid)
            check_usable(root, requester)

    @_answered
    def prepare(self) -> None:
        """The daemon's own folders, closed to others before anything stands in them."""
        for key, mode in ((".mover", 0o711), (CONTENT, 0o700), (DAMAGED, 0o700), (STRAYS, 0o711), ("runs", 0o711)):
            folder = self.root / key
            folder.mkdir(mode=mode, exist_ok=True)
            if stat.S_IMODE(folder.lstat().st_mode) != mode:
                folder.chmod(mode)

    def run_root(self, run: str) -> Path:
        return self.root / run_key(run)

    @_answered
    def space(self) -> tuple[int, int]:
        """(capacity, free) in bytes, as the file system says now."""
        with self._told("the tier's space could not be asked"):
            facts = os.statvfs(self.root)
        return facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize

    @_answered
    def device(self) -> int:
        """The file system it lies on, as long as that is mounted."""
        with self._told("the tier could not be asked"):
            return self.root.stat().st_dev

    # --- the content store ------------------------------------------------------------------------------

    @_answered
    def marks(self, digests: Iterable[str]) -> dict[str, str]:
        """The content files' fingerprints, of those that stand; one moves when anybody touches the inode."""
        found = {}
        with self._told("the content store could not be asked"):
            for digest in digests:
                with suppress(FileNotFoundError):
                    found[digest] = content_mark(os.lstat(f"{self.root}/{content_key(digest)}"))
        return found

    @_answered
    def check_content(self, digest: str) -> None:
        """Re-hash a content file whose fingerprint moved without us; DigestMismatch when it differs."""
        with self._told("content could not be read"):
            found = hash_file(self.root / content_key(digest))
        if found != digest:
            raise DigestMismatch("the content store holds other bytes than its name says", where=digest)

    @_answered
    def evict(self, digests: Iterable[str]) -> None:
        """Give content files' space back. The caller has made sure that no live run holds the digests."""
        refuse_kept(self)
        with self._told("content could not be evicted"):
            for digest in digests:
                (self.root / content_key(digest)).unlink(missing_ok=True)

    @_answered
    def set_aside(self, digest: str) -> ContentFile:
        """Damaged content keeps its bytes as evidence and loses its name; what it is now. The caller holds the
        digest's lock, and has read these bytes under it: what was fetched since is not this."""
        path = self.root / content_key(digest)
        with self._told("damaged content could not be set aside"):
            self.prepare()
            with self._opened(DAMAGED) as aside:
                name = _free_name(digest, aside)
                facts = path.lstat()
                os.rename(path, name, dst_dir_fd=aside)
                os.fsync(aside)
        return ContentFile(digest, f"{DAMAGED}/{name}", facts.st_size, facts.st_ctime)

    @_answered
    def damaged(self) -> list[ContentFile]:
        """What was set aside."""
        with self._told("what was set aside could not be listed"):
            return self._files(DAMAGED, lambda name: name.partition(".")[0])

    @_answered
    def content_folders(self) -> list[str]:
        with self._told("the content store could not be listed"), suppress(FileNotFoundError):
            return sorted(name for name in os.listdir(self.root / CONTENT) if len(name) == 2)
        return []

    @_answered
    def content_files(self, folder: str) -> list[ContentFile]:
        """What stands in one folder of the store; what is no content, such as files on their way, is not named."""
        with self._told("the content store could not be listed"):
            found = self._files(f"{CONTENT}/{folder}", lambda name: name)
        return [one for one in found if _DIGEST.fullmatch(one.digest)]

    @_answered
    def content_standing(self, digests: Iterable[str]) -> list[ContentFile]:
        """Those of these digests that stand in the store, as they are."""
        found = []
        with self._told("the content store could not be asked"):
            for digest in digests:
                with suppress(FileNotFoundError):
                    facts = os.lstat(f"{self.root}/{content_key(digest)}")
                    found.append(ContentFile(digest, content_key(digest), facts.st_size, facts.st_ctime))
        return found

    def _files(self, key: str, digest_of: Callable[[str], str]) -> list[ContentFile]:
        found = []
        try:
            with os.scandir(self.root / key) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):
                        if entry.is_file(follow_symlinks=False):
                            facts = entry.stat(follow_symlinks=False)
                            found.append(
                                ContentFile(digest_of(entry.name), f"{key}/{entry.name}", facts.st_size, facts.st_ctime)
                            )
        except FileNotFoundError:
            return []
        return found

    @_answered
    def purge(self, key: str) -> None:
        """What was set aside and held long enough goes: `.mover/strays/<run>` with all that is in it, or one damaged
        file. Gone already is as good."""
        refuse_kept(self)
        folder, _, name = key.rpartition("/")
        if folder not in (STRAYS, DAMAGED) or name in ("", ".", ".."):
            raise ValueError("only what was set aside is purged")
        gone = suppress(FileNotFoundError)
        with self._told("what was set aside could not be purged"), gone, self._opened(folder) as above:
            if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
                beneath.remove_tree(above, os.fsencode(name))
            else:
                os.unlink(name, dir_fd=above)

    def share(self, run: str, entries: Sequence[tuple[str, str]], requester: Requester) -> dict[str, str]:
        """Share content into a run root: (digest, path) each; the marks that the content has afterwards. A digest that
        is not in the store is left out of both. Run again after a crash, it leaves the same result. Entries may be
        read as they come, by the requester's group and by nobody else."""
        return self.within(lambda stopped: self._share_all(run, entries, requester, stopped))

    def _share_all(
        self, run: str, entries: Sequence[tuple[str, str]], requester: Requester, stopped: Stopped
    ) -> dict[str, str]:
        root, made = str(self.run_root(run)), {""}
        shared = []
        with self._told("content could not be shared into the run root"):
            for digest, path in wanted(entries, stopped):
                source = f"{self.root}/{content_key(digest)}"
                try:
                    facts = os.lstat(source)
                except FileNotFoundError:
                    continue
                self._make_folders(root, path.rpartition("/")[0], made, requester)
                self._share(source, facts, f"{root}/{path}", requester, digest)
                shared.append(digest)
            return {digest: content_mark(os.lstat(f"{self.root}/{content_key(digest)}")) for digest in shared}

    def _share(self, source: str, facts: os.stat_result, target: str, requester: Requester, digest: str) -> None:
        if self._reflink:
            with suppress(FileNotFoundError):
                os.unlink(target)
            clone(source, target)
            give(target, None, requester.gid)
            return
        if stat.S_IMODE(facts.st_mode) != SHARED_MODE:
            os.chmod(source, SHARED_MODE)
        try:
            _link(source, target, facts)
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            # ext4 gives an inode 65,000 names: this entry gets an inode of its own
            duplicate(source, target, digest)
            give(target, None, requester.gid)

    def _make_folders(self, root: str, folder: str, made: set[str], requester: Requester) -> None:
        """What leads from the root to `folder`, closed to others from the start."""
        if folder in made:
            return
        self._make_folders(root, folder.rpartition("/")[0], made, requester)
        try:
            os.mkdir(f"{root}/{folder}", mode=0o750)
        except FileExistsError:
            pass  # another shard's, or ours from before a crash
        else:
            os.chmod(f"{root}/{folder}", 0o750)
            give(f"{root}/{folder}", None, requester.gid)
        made.add(folder)

    @_answered
    def time_of(self, run: str, path: str) -> datetime:
        """When a file of a root was written, by the tier's own clock; rounded up, so that nothing older is later."""
        with self._told("a sealed file could not be asked"):
            return _rounded_up((self.run_root(run) / path).lstat().st_mtime_ns)

    @_answered
    def newest(self, run: str, below: str) -> datetime:
        """The same, of the newest file in a part of a root, or of a folder of one: older content that was linked again
        changed only that."""
        times_ns = (
            max(seen.facts.st_mtime_ns, os.fstat(seen.folder_fd).st_mtime_ns) for seen in self._walk(run, below)
        )
        return _rounded_up(max(times_ns, default=0))

    # --- the root -----------------------------------------------------------------------------------------

    def write(self, run: str, path: str, data: bytes, *, epoch: int = 0, not_after: datetime | None = None) -> str:
        """A file that the seal itself writes: temporary name, synced, renamed, re-read; its BLAKE3. The temporary name
        is the attempt's own (`epoch`), and an attempt that was given up renames nothing: its tier may have hung, and
        another node have sealed the root since. `not_after`: the time that an earlier attempt promised for it."""
        target = self.run_root(run) / path
        return self.within(lambda stopped: self._write(target, data, epoch, not_after, stopped))

    def _write(self, target: Path, data: bytes, epoch: int, not_after: datetime | None, stopped: Stopped) -> str:
        temporary = _partial(target, epoch)
        with self._told("the seal could not be written"):
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    if not_after is not None:
                        os.utime(file.fileno(), ns=(_ns(not_after),) * 2)
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                if stopped():
                    raise ChangedWhileReading("the seal was given up", where=self.name)
                os.replace(temporary, target)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
            digest = hash_file(target)
        if digest != blake3(data).hexdigest():
            raise DigestMismatch("a sealed file reads back differently", where=target.name)
        return digest

    @_answered
    def seal(self, run: str, requester: Requester) -> Sealed:
        """Modes, owners, `out/`, and everything on stable storage; all that was sealed. `data/` is
        read-only for the requester's group; with hard links the files' modes are shared by all runs, so the folders
        guard them."""
        with self._told("the run root could not be sealed"):
            out = self.run_root(run) / "out"
            out.mkdir(exist_ok=True)
            if stat.S_IMODE(out.lstat().st_mode) != 0o770:
                out.chmod(0o770)  # while it is ours
            give(out, requester.uid, requester.gid)
            check_usable(out, requester)
            guarding = _Guarding(requester)
            found = self._below(run, guarding)
            sync_filesystem(self.run_root(run))
        return Sealed(found, guarding.marks)

    @_answered
    def shortcoming(self, run: str, requester: Requester) -> str | None:
        """What a job will miss in a root that is usable; None when nothing."""
        with self._told("the run root could not be asked"):
            owner = (self.run_root(run) / "out").lstat().st_uid
        if requester.uid in (None, owner):
            return None
        return (
            f"out/ belongs to user {owner}, and the job's user {requester.uid} writes there as a member of its group "
            "only; with CAP_CHOWN (systemd/mover.service) the daemon could give it away"
        )

    @_answered
    def unseal(self, run: str) -> dict[str, int]:
        """Make a root writable for us again, so that staging may resume or cleanup may begin; path -> size of what
        stands there beside `out/`. What a seal that was killed left half-written goes."""
        if not self.run_root(run).exists():
            return {}
        with self._told("the run root could not be opened for us"):
            self.run_root(run).chmod(0o750)
            for name in filter(_is_partial, os.listdir(self.run_root(run))):
                (self.run_root(run) / name).unlink(missing_ok=True)
            return self._below(run, _Opening())

    def _below(self, run: str, handling: _Handling) -> dict[str, int]:
        """One pass over everything of a root but `out/`, which is the job's."""
        found: dict[str, int] = {}
        with self._opened(run_key(run)) as root:
            self._pass(root, "", handling, found)
        return found

    def _pass(self, folder_fd: int, relative: str, handling: _Handling, found: dict[str, int]) -> None:
        handling.folder_begins(folder_fd)
        with os.scandir(folder_fd) as entries:
            for entry in entries:
                path = f"{relative}{entry.name}"
                if entry.is_dir(follow_symlinks=False) and path.count("/") < DEPTH_MAX:
                    if path != "out":
                        with _inner(entry.name, folder_fd) as inner:
                            self._pass(inner, f"{path}/", handling, found)
                elif not (self._nfs and beneath.is_passing(os.fsencode(entry.name))):
                    facts = entry.stat(follow_symlinks=False)
                    found[path] = facts.st_size
                    handling.file(folder_fd, entry.name, path, facts)
        handling.folder_ends(folder_fd)

    @_answered
    def listing(self, run: str, *, below: str = "") -> dict[str, int]:
        """Path -> size of everything below a part of the root that is not a folder."""
        return {seen.path: seen.facts.st_size for seen in self._walk(run, below) if not self._passing(seen)}

    def _passing(self, seen: Seen) -> bool:
        return self._nfs and beneath.is_passing(os.fsencode(seen.name))

    def _about_to_go(self, seen: Seen) -> bool:
        """A machine that died never removes its passing names: an old one is a stray like any other."""
        return self._passing(seen) and SYSTEM.now().timestamp() - seen.facts.st_ctime < PASSING_LONGEST_S

    def standing(
        self, run: str, *, manifest: dict[str, str], own: dict[str, str], marks: Mapping[str, str] | None = None
    ) -> list[Standing]:
        """Everything in the root, with what cleanup needs to judge it; what `look` cannot tell is read."""
        looked = self.look(run, manifest=manifest, marks=marks or {})
        return [self.read(run, one, manifest.get(one.path) or own.get(one.path)) for one in looked]

    @_answered
    def look(self, run: str, *, manifest: Mapping[str, str], marks: Mapping[str, str]) -> list[Standing]:
        """Everything in the root, and no byte of it read.

        `manifest`: path -> digest of content; `marks`: path -> how its inode looks as long as nobody touched it. Only
        the system sets an inode's change time: one that looks as it did when its bytes were known still has them.
        Whatever else is a file is `unread`, of which nothing is known yet.
        """
        found = []
        for seen in self._walk(run, ""):
            if self._about_to_go(seen):
                continue
            path, mark, size = seen.path, mark_of(seen.facts), seen.facts.st_size
            if stat.S_ISLNK(seen.facts.st_mode):
                target = os.readlink(seen.name, dir_fd=seen.folder_fd)
                found.append(Standing(path, 0, path_text(f"link:{target}"), "symlink", mark=mark))
            elif not stat.S_ISREG(seen.facts.st_mode):
                found.append(Standing(path, 0, None, "other", mark=mark))
            else:
                known = path in manifest and marks.get(path) == content_mark(seen.facts)
                found.append(Standing(path, size, None, "file", unchanged=known, mark=mark, unread=not known))
        return found

    @_answered
    def entry_marks(self, run: str, paths: Iterable[str]) -> dict[str, str]:
        """How inodes below `data/` look now; what does not stand is left out."""
        found, root = {}, self.run_root(run)
        with self._told("the run root could not be asked"):
            for path in paths:
                with suppress(FileNotFoundError):
                    found[path] = content_mark(os.lstat(root / path))
        return found

    @_answered
    def read(self, run: str, looked: Standing, expected: str | None) -> Standing:
        """What was looked at and is unread, with its digest: an artifact is removed only when it is byte for byte the
        protected one, and still has the mark it had when it was looked at."""
        if not looked.unread:
            return looked
        folder, _, name = looked.path.rpartition("/")
        reading = self._told("a file of the run root could not be read")
        with reading, self._opened(f"{run_key(run)}/{folder}") as folder_fd:
            digest = hash_descriptor(_open_looked(name, folder_fd, looked.mark))
        return Standing(looked.path, looked.size_bytes, digest, "file", digest == expected, looked.mark)

    def _walk(self, run: str, below: str) -> Iterator[Seen]:
        """Depth first, each folder by its descriptor. What vanishes under our hands is an OSError: look again."""
        try:
            start = self._open_folder(f"{run_key(run)}/{below}")
        except FileNotFoundError:
            return
        stack = [(start, below, iter(sorted(os.listdir(start))))]
        count = 0
        try:
            while stack:
                folder_fd, relative, names = stack[-1]
                name = next(names, None)
                if name is None:
                    os.close(stack.pop()[0])
                    continue
                path = f"{relative}/{name}" if relative else name
                facts = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                count += 1
                if count > LISTING_MAX:
                    raise IntegrityError(f"more than {LISTING_MAX} files in one run root", where=run)
                if not stat.S_ISDIR(facts.st_mode) or len(stack) >= DEPTH_MAX:
                    yield Seen(path, name, folder_fd, facts)
                    continue
                inner = os.open(name, FOLDER_FLAGS, dir_fd=folder_fd)
                stack.append((inner, path, iter(sorted(os.listdir(inner)))))
        finally:
            for folder_fd, _, _ in stack:
                os.close(folder_fd)

    def _open_folder(self, key: str) -> int:
        """Below the tier's root, one component after the other; a link among them is an OSError."""
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for part in key.split("/"):
            if not part:
                continue
            try:
                inner = os.open(part, FOLDER_FLAGS, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = inner
        return descriptor

    # --- cleanup --------------------------------------------------------------------------------------------

    @_answered
    def withdraw(self, run: str) -> None:
        """Nobody reaches the run by its path any more; a process that stands inside it still may write, so
        what it writes is looked for until the end."""
        for key in (run_key(run), f"{run_key(run)}/out"):
            try:
                with self._opened(key) as folder:
                    with suppress(PermissionError):  # root_squash: it is whose it was; the mode says the rest
                        os.fchown(folder, os.geteuid(), -1)
                    os.fchmod(folder, 0o700)
            except FileNotFoundError:
                return  # never staged, never sealed, or removed by an attempt that was killed

    @_answered
    def move_stray(self, run: str, path: str) -> str:
        """Move aside to `.mover/strays/<run>/<path>`; the key it has there. Safe to run again: one that was
        moved already is found there, and nothing that stands there is written over."""
        folder, _, name = path.rpartition("/")
        with self._strays_folder(run, folder) as target:
            moved = _free_name(name, target)
            try:
                with self._opened(f"{run_key(run)}/{folder}") as source:
                    os.rename(name, moved, src_dir_fd=source, dst_dir_fd=target)
            except (FileNotFoundError, NotADirectoryError) as error:
                if moved == name:
                    raise EntryMissing("a stray vanished while it was moved aside", where=run) from error
                moved = name
        return "/".join(part for part in (STRAYS, run, folder, moved) if part)

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        descriptor = self._open_folder(key)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _strays_folder(self, run: str, folder: str) -> Iterator[int]:
        """`.mover/strays/<run>/<folder>`, for us and the group of the run root."""
        self.prepare()
        group = os.lstat(self.run_root(run)).st_gid if os.path.lexists(self.run_root(run)) else None
        key = STRAYS
        for part in (run, *folder.split("/")):
            if not part:
                continue
            with self._opened(key) as above:
                try:
                    os.mkdir(part, 0o750, dir_fd=above)
                except FileExistsError:
                    pass  # of an earlier stray
                else:
                    os.chmod(part, 0o750, dir_fd=above)
            key = f"{key}/{part}"
            give(self.root / key, None, group)
        with self._opened(key) as opened:
            yield opened

    @_answered
    def unlink_shared(self, run: str, names: Iterable[Shared], known: Mapping[str, str]) -> dict[str, str]:
        """Remove names that share content's inodes, each as it was judged; the marks that this gave the content, of
        that whose mark was `known` at the very moment. The caller holds the digests' locks.

        Of an inode that looked otherwise before, or that anything but our unlink changed meanwhile, nothing is said: it
        is read before it is shared again. What writes needs the daemon's own user, and moves the time of change."""
        marks = dict(known)
        with self._told("the run root could not be emptied"):
            for one in names:
                folder, _, name = one.path.rpartition("/")
                with self._opened(f"{run_key(run)}/{folder}") as folder_fd:
                    try:
                        before = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue  # an attempt that was killed came so far
                    if not still_is(one.mark, before):
                        raise ChangedWhileReading("a file changed while the root was cleaned", where=run)
                    os.unlink(name, dir_fd=folder_fd)
                if content_mark(before) == marks.get(one.digest):
                    with suppress(FileNotFoundError):
                        after = os.lstat(f"{self.root}/{content_key(one.digest)}")
                        if _one_name_less(before, after):
                            marks[one.digest] = content_mark(after)
        return {digest: mark for digest, mark in marks.items() if mark != known[digest]}

    def remove(self, run: str, marks: Mapping[str, str], *, promised: bool = True) -> None:
        """Remove exactly what was judged, as it was judged, then the emptied folders; make that durable.

        `marks`: path -> the mark of the file when it was judged. ChangedWhileReading when anything else stands
        there: a process inside the root still writes. What is left is then planned again, later. `promised`: somebody
        was told that it is ready; a root that never was is our own unfinished work.
        """
        if promised:
            refuse_kept(self)
        self.within(lambda stopped: self._remove(run, marks, stopped))

    def _remove(self, run: str, marks: Mapping[str, str], stopped: Stopped) -> None:
        if self.is_gone(run):
            return
        with self._opened("runs") as runs:
            root = os.open(run, FOLDER_FLAGS, dir_fd=runs)
            _Removal(run, marks, nfs=self._nfs, stopped=stopped).empty(root, "")
            _remove_folder(run, runs, run=run, tries=PASSING_TRIES if self._nfs else 1)
            os.fsync(runs)

    @_answered
    def is_gone(self, run: str) -> bool:
        return not os.path.lexists(self.run_root(run))


@contextmanager
def told(what: str, *, tier: str = "") -> Iterator[None]:
    """The system's errors in our words. A name that is missing was removed by somebody meanwhile: whoever may
    still work on the run looks again, and whoever may not has lost the shard."""
    try:
        yield
    except FileNotFoundError as error:
        raise ChangedWhileReading(f"{what}: it went away meanwhile", where=tier) from error
    except OSError as error:
        raise beneath.translated(error, what, tier=tier) from error


class _Handling(Protocol):
    """What is done to each name in one pass over a root."""

    def folder_begins(self, folder_fd: int) -> None: ...

    def file(self, folder_fd: int, name: str, path: str, facts: os.stat_result) -> None: ...

    def folder_ends(self, folder_fd: int) -> None: ...


class _Opening:
    def folder_begins(self, folder_fd: int) -> None:
        if stat.S_IMODE(os.fstat(folder_fd).st_mode) != 0o750:
            os.fchmod(folder_fd, 0o750)

    def file(self, folder_fd: int, name: str, path: str, facts: os.stat_result) -> None:
        pass

    def folder_ends(self, folder_fd: int) -> None:
        pass


class _Guarding:
    """Read-only for the requester's group. Of a file of several names only the mode is touched, and only if it has to
    be: that moves the content's fingerprint, and what has moved is read whole before it is shared again."""

    def __init__(self, requester: Requester) -> None:
        self._gid = requester.gid
        self.marks: dict[str, str] = {}

    def folder_begins(self, folder_fd: int) -> None:
        pass

    def file(self, folder_fd: int, name: str, path: str, facts: os.stat_result) -> None:
        if not stat.S_ISREG(facts.st_mode):
            return  # a stranger: whoever compares the listing finds it
        alone = facts.st_nlink == 1
        if alone and facts.st_gid != self._gid:
            give(name, None, self._gid, folder_fd=folder_fd)
        mode = OWN_MODE if alone else SHARED_MODE
        if stat.S_IMODE(facts.st_mode) != mode:
            os.chmod(name, mode, dir_fd=folder_fd)
        if alone:
            self.marks[path] = content_mark(os.stat(name, dir_fd=folder_fd, follow_symlinks=False))

    def folder_ends(self, folder_fd: int) -> None:
        give(".", None, self._gid, folder_fd=folder_fd)
        os.fchmod(folder_fd, 0o550)


@contextmanager
def _inner(name: str, folder_fd: int) -> Iterator[int]:
    descriptor = os.open(name, FOLDER_FLAGS, dir_fd=folder_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


_ORIGIN = datetime.fromtimestamp(0, UTC)


def _rounded_up(time_ns: int) -> datetime:
    return _ORIGIN + timedelta(microseconds=-(-time_ns // 1000))


def _ns(time: datetime) -> int:
    return (time - _ORIGIN) // timedelta(microseconds=1) * 1000


def _partial(target: Path, epoch: int) -> Path:
    return target.with_name(f".{target.name}.{epoch}.partial")


def _is_partial(name: str) -> bool:
    return any(name.startswith(f".{one}.") and name.endswith("partial") for one in SEALED)


def _link(source: str, target: str, facts: os.stat_result) -> None:
    """A name that stands there already is left alone: a worker that wakes up late takes nothing from a sealed root."""
    try:
        os.link(source, target)
    except FileExistsError:
        if not os.path.samestat(os.lstat(target), facts):
            os.unlink(target)
            os.link(source, target)


def hash_file(path: Path) -> str:
    return hash_descriptor(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))


def hash_descriptor(descriptor: int) -> str:
    """BLAKE3 of a whole file, and close it. The page cache is dropped first: a warm read proves nothing."""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        hasher, buffer = blake3(), bytearray(READ_BYTES)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            hasher.update(view[:count])
        return hasher.hexdigest()


def clone(source: str, target: str) -> None:
    """Reflink: a new inode that shares the source's extents until one of them is written."""
    with _made_of(source, target) as (source_fd, target_fd):
        fcntl.ioctl(target_fd, FICLONE, source_fd)


def duplicate(source: str, target: str, digest: str) -> None:
    """A copy, read back cold: DigestMismatch when it is not what it is to be."""
    with suppress(FileNotFoundError):
        os.unlink(target)
    with _made_of(source, target) as (source_fd, target_fd):
        while os.copy_file_range(source_fd, target_fd, READ_BYTES):
            pass
        os.fsync(target_fd)
        if hash_descriptor(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)) != digest:
            raise DigestMismatch("a copy of content reads back differently", where=digest)


@contextmanager
def _made_of(source: str, target: str) -> Iterator[tuple[int, int]]:
    """Both open, the target new, of the source's time, and gone again when it does not become what it is to be."""
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target_fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OWN_MODE)
        try:
            os.fchmod(target_fd, OWN_MODE)
            yield source_fd, target_fd
            facts = os.fstat(source_fd)
            os.utime(target_fd, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        except BaseException:
            os.unlink(target)
            raise
        finally:
            os.close(target_fd)
    finally:
        os.close(source_fd)


def give(path: Path | str, uid: int | None, gid: int | None, *, folder_fd: int | None = None) -> None:
    """Hand a file to the requester as far as we may. Who holds CAP_CHOWN gives it away; an unprivileged daemon gives it
    to a group of its own; where a server takes root for nobody (root_squash) it stays whose it was. Whether that is
    enough is `check_usable`'s to say, of the folders that stand before everything else."""
    for owner in (uid, None) if uid is not None else (None,):
        if owner is None and gid is None:
            return
        with suppress(PermissionError):
            os.chown(path, -1 if owner is None else owner, -1 if gid is None else gid, dir_fd=folder_fd,
                     follow_symlinks=False)  # fmt: skip
            return


def check_usable(folder: Path, requester: Requester) -> None:
    """TierDenied when the requester could not come in: before a byte is staged for nobody, and never after `ready`."""
    if requester.uid is None or requester.uid == 0:
        return
    facts = folder.lstat()
    if requester.uid == facts.st_uid or facts.st_gid in {requester.gid, *_groups_of(requester.uid)}:
        return
    raise TierDenied(
        f"the run root belongs to user {facts.st_uid} and group {facts.st_gid} and cannot be given to the job's user "
        f"{requester.uid} and group {requester.gid}: give the daemon CAP_CHOWN (systemd/mover.service), or make its "
        "user a member of that group",
    )


def _groups_of(uid: int) -> frozenset[int]:
    """As this machine knows the user; it may know none."""
    try:
        user = pwd.getpwuid(uid)
    except KeyError:
        return frozenset()
    return frozenset(os.getgrouplist(user.pw_name, user.pw_gid))


def sync_filesystem(path: Path) -> None:
    """One syncfs for a whole root instead of one fsync per file (group commit)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


def content_mark(facts: os.stat_result) -> str:
    """What moves when anybody touches a file of the content store, by whichever of its names."""
    return f"{facts.st_ino}:{facts.st_size}:{facts.st_mtime_ns}:{facts.st_ctime_ns}"


def _one_name_less(before: os.stat_result, after: os.stat_result) -> bool:
    same = (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)
    return same and after.st_nlink == before.st_nlink - 1


def mark_of(facts: os.stat_result) -> str:
    """What moves when a file is written or exchanged. The change time of a shared inode moves with every other
    run's link, so it counts only where the file has one name."""
    changed = facts.st_ctime_ns if facts.st_nlink == 1 else 0
    return f"{facts.st_dev}:{facts.st_ino}:{facts.st_mode}:{facts.st_size}:{facts.st_mtime_ns}:{changed}"


def still_is(judged: str | None, facts: os.stat_result) -> bool:
    """Is this the file that was judged? Of a file judged with several names the change time says nothing: it
    moved when we removed its other names."""
    now = mark_of(facts)
    if judged is None or not judged.endswith(":0"):
        return judged == now
    return judged.rpartition(":")[0] == now.rpartition(":")[0]


def _open_looked(name: str, folder_fd: int, mark: str) -> int:
    """The very file that was looked at, or IntegrityError: another one may stand at its name by now."""
    descriptor = os.open(name, FILE_FLAGS, dir_fd=folder_fd)
    facts = os.fstat(descriptor)
    if not mark.startswith(f"{facts.st_dev}:{facts.st_ino}:"):
        os.close(descriptor)
        raise IntegrityError("a file of the run root was exchanged while it was looked at")
    return descriptor


def _free_name(name: str, folder_fd: int) -> str:
    """The name itself, or with a number behind it where an earlier stray has it."""
    taken = set(os.listdir(folder_fd))
    return next(one for one in (name, *(f"{name}.{n}" for n in range(2, len(taken) + 3))) if one not in taken)


class _Removal:
    """Removing a root's files exactly as they were judged. Recursion ends at DEPTH_MAX: deeper folders were moved
    aside as strays."""

    def __init__(self, run: str, marks: Mapping[str, str], *, nfs: bool, stopped: Stopped) -> None:
        self._run, self._marks, self._nfs, self._stopped = run, marks, nfs, stopped

    def empty(self, folder_fd: int, relative: str) -> None:
        """Closes the descriptor."""
        try:
            for name in sorted(os.listdir(folder_fd)):
                if self._stopped():
                    raise ChangedWhileReading("the removal was given up", where=self._run)
                self._drop(folder_fd, name, f"{relative}/{name}" if relative else name)
        finally:
            os.close(folder_fd)

    def _drop(self, folder_fd: int, name: str, path: str) -> None:
        if self._nfs and beneath.is_passing(os.fsencode(name)) and path not in self._marks:
            return  # not ours to remove: it goes with its last holder, and the folder waits for that
        facts = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        if stat.S_ISDIR(facts.st_mode) and path.count("/") < DEPTH_MAX:
            self.empty(os.open(name, FOLDER_FLAGS, dir_fd=folder_fd), path)
            _remove_folder(name, folder_fd, run=self._run, tries=PASSING_TRIES if self._nfs else 1)
        elif still_is(self._marks.get(path), facts):
            os.unlink(name, dir_fd=folder_fd)
        else:
            raise ChangedWhileReading("a file appeared or changed while the root was cleaned", where=self._run)


def _remove_folder(name: str, folder_fd: int, *, run: str, tries: int) -> None:
    for left in reversed(range(tries)):
        try:
            os.rmdir(name, dir_fd=folder_fd)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if left:
            pause(PASSING_WAIT_S)
    raise ChangedWhileReading("a folder of the root does not get empty: a process still has files open", where=run)
