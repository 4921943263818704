"""Restores: to a new place, or, where somebody has seen what would be replaced, in place.

A restore writes into a private staging folder beside the target (`staging`) and renames it when everything is on the
device: the target is either absent or whole. What is wanted first is restored first and becomes the target as soon as
it stands, under its final names and with a marker that says that the rest is still to come; the rest is then moved in,
name by name, replacing nothing. Nobody else can reach into the staging folder (0700), symlinks are made last, so no
path of the restore ever goes through one; into a target that others may write to, every path is resolved beneath it
and without links.

Each blob is verified before it is written; a file with a damaged blob is left out and named, the others are restored
all the same. Killed at any point, a restore with a name goes on: what stands in its staging folder is read, and only
what is not right is fetched again; what has landed is its owner's and stays as it is.

In place, what differs is moved aside, never deleted, and only what the preview named and what still is as it was then;
what somebody changed or put there meanwhile stays, and is named.
"""

from __future__ import annotations

import errno
import os
import stat as stat_bits
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from mover.decide.restoring import Loss, rank
from mover.errors import Conflict, MoverError, TierDenied, TierError, TierFull
from mover.repository import filling
from mover.repository.facts import Progress, RestoreResult
from mover.repository.filling import (
    BATCH_BYTES,
    BATCH_FILES,
    BATCHES_AT_ONCE,
    DIRECT_BYTES,
    WORKERS,
    Digest,
    Filler,
    OpenFile,
)
from mover.repository.inplace import Preview, mark_of
from mover.repository.reader import BlobReader
from mover.repository.reading import Requester
from mover.repository.staging import FOLDER_FLAGS, NAME_BYTES_MAX, Staging, move
from mover.repository.tree import Node
from mover.tiers import beneath

MARKER = ".mover-restoring-"
MARKER_TEXT = b"A restore is still working here: what you see is whole, the rest is on its way.\n"
NAMED_MAX = 1000
# So many short files wait for long ones: these keep the device busy while names are made.
SHORT_WAITING = 4096

Members = Callable[[], Iterator[tuple[bytes, Node]]]


def _nothing() -> None:
    """Nobody waits for what is wanted first."""


class Order(Struct, frozen=True, kw_only=True):
    """How a restore goes about it. With `owner` everything will belong to that person and setuid bits are dropped.
    A restore with a `name` is gone on with when it is asked for again; its staging stays until `clear`. `digest_of`
    knows what the catalog knows of a path below what is restored. `replace` is the preview that somebody agreed to,
    `may_write` says of a folder that stands whether that person may change it."""

    owner: Requester | None = None
    first: tuple[str, ...] = ()
    name: str = ""
    digest_of: Callable[[bytes], str | None] = lambda path: None
    replace: Preview | None = None
    may_write: Callable[[os.stat_result], bool] = lambda facts: True
    first_landed: Callable[[], None] = _nothing


class Restore:
    """One restore; `run` does it and tells what was done."""

    def __init__(
        self,
        blobs: BlobReader,
        target: Path,
        order: Order,
        *,
        progress: Progress | None,
        settle: Callable[[], None] = _nothing,
    ) -> None:
        """`settle` returns when the repository's lock is sure, or raises: nothing has become visible before. It is
        waited for while the first files are filled."""
        self._blobs, self._target, self._order, self._progress = blobs, target, order, progress
        self._settle = settle
        self._losses = {loss.path: loss for loss in order.replace.losses} if order.replace is not None else {}
        self._places = threading.Semaphore(filling.PENDING_BYTES >> 20)
        self._guard = threading.Lock()
        self._files = self._bytes = self._symlinks = 0
        self._warnings: list[str] = []
        self._damaged: list[str] = []
        self._left: list[str] = []
        self._folders: dict[bytes, Node] = {}
        self._links: list[tuple[bytes, Node]] = []
        self._long: list[tuple[bytes, Node]] = []
        self._short: list[tuple[bytes, Node]] = []
        self._fills: deque[Future[None]] = deque()
        self._places_to_fill = threading.Semaphore(BATCHES_AT_ONCE)
        self._hard: dict[tuple[int, int], bytes] = {}
        self._hard_links: list[tuple[bytes, bytes, Node]] = []

    def run(self, members: Members, *, top: Node | None) -> RestoreResult:
        """`top` is the folder whose members these are, when the snapshot knows it; the target takes on its facts.
        Otherwise the target stays private to its owner."""
        try:
            self._staging = Staging(self._target, self._order.name, in_place=self._order.replace is not None)
            try:
                if self._staging.landed is None:
                    refuse_occupied(self._target)
                self._restore(members, top)
                aside = self._deliver_aside()
            except BaseException:
                if not self._order.name:
                    self._staging.remove()
                raise
            else:
                if not self._order.name:
                    self._staging.remove()
            finally:
                self._staging.close()
        except OSError as failure:
            raise _translated(failure) from failure
        return self._result(aside)

    def _restore(self, members: Members, top: Node | None) -> None:
        last = len(self._order.first)
        with (
            ThreadPoolExecutor(WORKERS, thread_name_prefix="restore") as pool,
            ThreadPoolExecutor(BATCHES_AT_ONCE + 1, thread_name_prefix="restore-batch") as self._batches,
        ):
            self._settled = self._batches.submit(self._settle)
            filler = Filler(self._blobs, pool, self._count)
            for group in range(last + 1):
                try:
                    found = self._fill_group(members, group, filler)
                except BaseException as failure:
                    filler.fail(failure)
                    raise
                if group == last:
                    self._land(top, whole=True)
                elif found:
                    self._land(top, whole=False)
                    self._order.first_landed()
        self._remove_marker()

    def _deliver_aside(self) -> str:
        owner = self._order.owner
        return self._staging.deliver_aside((owner.uid, owner.gid) if owner else None, self._losses)

    def _result(self, aside: str) -> RestoreResult:
        return RestoreResult(
            target=self._target, files=self._files, folders=len(self._folders), symlinks=self._symlinks,
            bytes=self._bytes, warnings=self._warnings, damaged=self._damaged, left=self._left, aside=aside,
        )  # fmt: skip

    # --- filling ---------------------------------------------------------------------------------------------------

    def _fill_group(self, members: Members, group: int, filler: Filler) -> bool:
        """The files of one pattern, or with the last group everything that is left. True when there was any."""
        last = group == len(self._order.first)
        above: list[tuple[bytes, Node]] = []
        found = 0
        for path, node in members():
            if node.type == "dir":
                above = [one for one in above if path.startswith(one[0] + b"/")] + [(path, node)]
            if node.type == "file" and rank(os.fsdecode(path), self._order.first) == group:
                found += 1
                self._make_folders([one for one in above if path.startswith(one[0] + b"/")])
                if not self._is_done(path, node):
                    (self._long if node.size >= DIRECT_BYTES else self._short).append((path, node))
            elif last:
                self._make_other(path, node)
            if len(self._short) >= SHORT_WAITING or len(self._long) >= BATCH_FILES:
                self._fill_waiting(filler)
        self._fill_waiting(filler)
        while self._fills:
            self._fills.popleft().result()
        self._make_links()
        return found > 0

    def _make_other(self, path: bytes, node: Node) -> None:
        if node.type == "dir":
            self._make_folders([(path, node)])
        elif node.type == "symlink":
            self._links.append((path, node))
        elif node.type != "file":
            self._warn(f"{os.fsdecode(path)}: a {node.type or 'nameless thing'} is not restored")

    def _make_folders(self, folders: list[tuple[bytes, Node]]) -> None:
        for path, node in folders:
            if path in self._folders:
                with suppress(FileExistsError):  # made for an earlier group, or landed with it
                    self._make_folder(path)
                continue
            self._folders[path] = node
            with suppress(FileExistsError):
                self._make_folder(path)
                continue
            os.chmod(path, 0o700, dir_fd=self._staging.rest)  # a mode that was set before the kill

    def _make_folder(self, path: bytes) -> None:
        os.mkdir(path, 0o700, dir_fd=self._staging.rest)

    def _is_done(self, path: bytes, node: Node) -> bool:
        """Links wait until the file they are links of is written; what has landed is its owner's already."""
        if node.links > 1 and (first := self._hard.setdefault((node.device_id, node.inode), path)) != path:
            self._hard_links.append((first, path, node))
            return True
        if not self._has_landed(path, node):
            return False
        self._count(node.size)
        self._count_file()
        return True

    def _has_landed(self, path: bytes, node: Node) -> bool:
        """In place, what the preview does not name is what it must be already, unless nothing stands there; what it
        names has landed when the old one lies aside."""
        facts = self._stat_landed(path)
        if facts is None:
            return False
        if path in self._losses:  # killed just before the exchange, the old thing stands there and aside
            return self._staging.aside(path) not in (None, facts.st_ino)
        if node.type == "symlink":
            return stat_bits.S_ISLNK(facts.st_mode)
        return stat_bits.S_ISREG(facts.st_mode) and facts.st_size == node.size

    def _stat_landed(self, path: bytes) -> os.stat_result | None:
        if self._staging.landed is None:
            return None
        try:
            return beneath.stat_beneath(self._staging.landed, path.split(b"/"))
        except OSError as failure:
            if failure.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV):
                return None
            raise

    def _fill_waiting(self, filler: Filler) -> None:
        """Long files first, and none waits until short ones are made."""
        kinds, self._long, self._short = (self._long, self._short), [], []
        for files in kinds:
            batch: list[tuple[bytes, Node]] = []
            size = 0
            for path, node in files:
                batch.append((path, node))
                size += node.size
                if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
                    self._fill(batch, filler)
                    batch, size = [], 0
            if batch:
                self._fill(batch, filler)

    def _fill(self, batch: list[tuple[bytes, Node]], filler: Filler) -> None:
        """To make files is the work of one thread and no small part of it: the next are made while these are filled."""
        with ExitStack() as opened:
            files = []
            for path, node in batch:
                known = self._order.digest_of(path)
                digest = Digest(known, self._places) if known else None
                files.append(OpenFile(path, node, self._staging.rest, digest=digest))
                opened.callback(files[-1].close)
            if self._settled.done():
                self._settled.result()
            self._places_to_fill.acquire()
            while self._fills and self._fills[0].done():
                self._fills.popleft().result()
            self._fills.append(self._batches.submit(self._fill_opened, files, filler, opened.pop_all()))

    def _fill_opened(self, files: list[OpenFile], filler: Filler, opened: ExitStack) -> None:
        try:
            with opened:
                filler.fill(files)
                for file in files:
                    self._finish(file)
        finally:
            self._places_to_fill.release()

    def _finish(self, file: OpenFile) -> None:
        if file.damaged:
            os.unlink(file.path, dir_fd=self._staging.rest)
            self._damaged.append(os.fsdecode(file.path))
            return
        self._apply_facts(file.path, file.node, file.fd)
        file.close()
        self._count_file()

    def _make_links(self) -> None:
        for first, path, node in self._hard_links:
            if not self._has_landed(path, node) and not self._link(first, path):
                self._damaged.append(os.fsdecode(path))
                continue
            self._count_file()
        for path, node in self._links:
            if self._has_landed(path, node):
                continue
            with suppress(FileNotFoundError):  # made before a kill, perhaps without its facts
                os.unlink(path, dir_fd=self._staging.rest)
            os.symlink(node.target, path, dir_fd=self._staging.rest)
            self._apply_facts(path, node, None)
        self._symlinks += len(self._links)
        self._hard_links, self._links = [], []

    def _link(self, first: bytes, path: bytes) -> bool:
        """False when the file itself could not be restored. Its content may have landed already."""
        rest = self._staging.rest
        with suppress(FileNotFoundError):
            os.unlink(path, dir_fd=rest)
        try:
            os.link(first, path, src_dir_fd=rest, dst_dir_fd=rest, follow_symlinks=False)
        except FileNotFoundError:
            if self._staging.landed is None or self._stat_landed(first) is None:
                return False
            here = beneath.open_beneath(self._staging.landed, first.split(b"/"), os.O_PATH | os.O_NOFOLLOW)
            try:
                os.link(f"/proc/self/fd/{here}", path, dst_dir_fd=rest, follow_symlinks=True)
            finally:
                os.close(here)
        return True

    # --- landing -------------------------------------------------------------------------------------------------

    def _land(self, top: Node | None, *, whole: bool) -> None:
        """What `rest` holds gets its place in the target: by one rename when nothing is there yet, else by name."""
        self._settled.result()
        for path, node in reversed(self._folders.items()):
            with suppress(FileNotFoundError):  # it has landed with an earlier group
                self._apply_facts(path, node, None)
        if self._staging.landed is None:
            self._own_top(top)
            if not whole:
                self._put_marker()
            self._staging.land()
            return
        self._staging.sync()
        for path in (b"", *self._folders):
            self._merge(path)
        if whole and self._order.replace is None:
            self._apply_shared(top)
        self._staging.sync()

    def _own_top(self, top: Node | None) -> None:
        if top is not None:
            self._apply_facts(b".", top, None)
        elif self._order.owner is not None:
            os.fchown(self._staging.rest, self._order.owner.uid, self._order.owner.gid)

    def _put_marker(self) -> None:
        name = MARKER + self._staging.name
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o644, dir_fd=self._staging.rest), "wb") as marker:
            marker.write(MARKER_TEXT)

    def _remove_marker(self) -> None:
        if self._staging.landed is not None and self._order.replace is None:
            with suppress(FileNotFoundError):
                os.unlink(MARKER + self._staging.name, dir_fd=self._staging.landed)
                os.fsync(self._staging.landed)

    def _merge(self, path: bytes) -> None:
        """The members of one folder move into the same folder of the target. A folder that was not there moved
        whole with its own folder, and is not found here any more."""
        assert self._staging.landed is not None
        parts = path.split(b"/") if path else []
        try:
            source = beneath.open_beneath(self._staging.rest, parts, FOLDER_FLAGS)
        except FileNotFoundError:
            return
        try:
            os.fchmod(source, 0o700)  # it stays behind, empty
            try:
                target = beneath.open_beneath(self._staging.landed, parts, FOLDER_FLAGS)
            except OSError:
                self._leave([path + b"/" + os.fsencode(name) for name in os.listdir(source)])
                return
            try:
                self._merge_members(source, target, path + b"/" if path else b"")
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _merge_members(self, source: int, target: int, prefix: bytes) -> None:
        facts = os.fstat(target)
        names = [os.fsencode(name) for name in os.listdir(source)]
        if self._order.replace is not None:
            if not self._order.may_write(facts):
                self._leave([prefix + name for name in names if not self._is_shared(source, target, name)])
                return
        elif facts.st_uid == os.geteuid():
            os.fchmod(target, stat_bits.S_IMODE(facts.st_mode) | 0o700)  # its own mode comes back at the end
        for name in names:
            if not self._is_shared(source, target, name):
                self._merge_one(source, target, name, prefix + name)

    def _is_shared(self, source: int, target: int, name: bytes) -> bool:
        """A folder here and there: its members come one by one, in their turn."""
        try:
            both = os.lstat(name, dir_fd=source).st_mode, os.lstat(name, dir_fd=target).st_mode
        except FileNotFoundError:
            return False
        return all(stat_bits.S_ISDIR(mode) for mode in both)

    def _merge_one(self, source: int, target: int, name: bytes, path: bytes) -> None:
        """The new thing takes the name of the old one in one step, and the old one has its name aside before. Where
        there is no such step (a folder stands there, or the file system has none), what stands there goes aside first:
        a crash between the two leaves the name free, the old thing whole in `aside` and the new one in `rest`, and the
        restore goes on from there."""
        loss = self._losses.get(path)
        inode = self._agreed_inode(loss, target, name, path) if loss is not None else None
        if loss is not None and inode is not None:
            if self._staging.exchange(source, target, path, inode=inode):
                return
            with suppress(FileNotFoundError):
                if mark_of(os.lstat(name, dir_fd=target)) == loss.standing.mark:
                    self._staging.put_aside(target, path)
        if loss is not None and self._staging.aside(path) == os.lstat(name, dir_fd=source).st_ino:
            os.unlink(name, dir_fd=source)  # killed just after the exchange: this is the old thing
            return
        try:
            move(source, name, target, name)
        except FileExistsError:
            self._leave([path])
            if self._staging.aside(path) is not None:  # after a kill and a change at once: which is ours, nobody knows
                self._staging.put_aside(source, path, to=path[: -len(name)] + name[:NAME_BYTES_MAX] + b".other")

    def _agreed_inode(self, loss: Loss, target: int, name: bytes, path: bytes) -> int | None:
        """Of what stands there, if it is what somebody agreed to see replaced. After a kill it may have its name aside
        already."""
        try:
            facts = os.lstat(name, dir_fd=target)
        except FileNotFoundError:
            return None
        agreed = mark_of(facts) == loss.standing.mark or facts.st_ino == self._staging.aside(path)
        return facts.st_ino if agreed else None

    def _leave(self, paths: list[bytes]) -> None:
        """Somebody put something there meanwhile: it stays, and what was to come there is not restored."""
        for path in paths:
            self._left.append(os.fsdecode(path))

    def _apply_shared(self, top: Node | None) -> None:
        """Folders that landed early have changed since, by what was moved into them."""
        assert self._staging.landed is not None
        folders = [*reversed(self._folders.items()), *([] if top is None else [(b"", top)])]
        for path, node in folders:
            try:
                fd = beneath.open_beneath(self._staging.landed, path.split(b"/") if path else [], FOLDER_FLAGS)
            except OSError:
                continue  # its owner has moved it
            try:
                os.fchmod(fd, node.mode & 0o777 if self._order.owner else node.mode)
                os.utime(fd, ns=_times(node))
            finally:
                os.close(fd)

    # --- facts and counts ----------------------------------------------------------------------------------------

    def _count(self, size_bytes: int) -> None:
        with self._guard:
            self._bytes += size_bytes
            if self._progress is not None:
                self._progress(self._files, self._bytes)

    def _count_file(self) -> None:
        with self._guard:
            self._files += 1
            if self._progress is not None:
                self._progress(self._files, self._bytes)

    def _warn(self, words: str) -> None:
        self._warnings.append(words)

    def _apply_facts(self, path: bytes, node: Node, fd: int | None) -> None:
        """Owner first (it clears setuid), mode after, times last. What the daemon's rights do not allow is
        a warning; the content is what was promised."""
        at = {"dir_fd": self._staging.rest, "follow_symlinks": False}
        owner = self._order.owner
        uid, gid = (owner.uid, owner.gid) if owner else (node.uid, node.gid)
        try:
            os.chown(path, uid, gid, **at)  # type: ignore[arg-type]
        except PermissionError:
            if os.geteuid() == 0:
                self._warn(f"{os.fsdecode(path)}: the owner could not be set")
        if node.type != "symlink":
            os.chmod(path, node.mode & 0o777 if owner else node.mode, dir_fd=self._staging.rest)
            self._apply_xattrs(path, node, fd)
        os.utime(path, ns=_times(node), **at)  # type: ignore[arg-type]

    def _apply_xattrs(self, path: bytes, node: Node, fd: int | None) -> None:
        if not node.xattrs:
            return
        own = -1 if fd is not None else os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._staging.rest)
        try:
            for xattr in node.xattrs:
                try:
                    os.setxattr(own if fd is None else fd, xattr.name, xattr.value)
                except OSError:
                    self._warn(f"{os.fsdecode(path)}: xattr {xattr.name} could not be set")
        finally:
            if own >= 0:
                os.close(own)


def keep_preview(target: Path, name: str, preview: Preview) -> None:
    """What somebody agreed to, durable before anything moves: after a kill the folder looks otherwise."""
    with _staging(target, name) as staging:
        staging.write_down(b"preview", msgspec.msgpack.encode(preview))


def kept_preview(target: Path, name: str) -> Preview | None:
    with _staging(target, name) as staging:
        note = staging.note(b"preview")
    return msgspec.msgpack.decode(note, type=Preview) if note else None


def clear(target: Path, name: str, *, owner: Requester | None = None) -> None:
    """The staging of a restore that has ended, or that nobody wants any more, goes; what it had replaced is given a
    name beside the target first, and to its owner. Twice is once."""
    with _staging(target, name) as staging:
        note = staging.note(b"preview")
        losses = msgspec.msgpack.decode(note, type=Preview).losses if note else ()
        staging.deliver_aside((owner.uid, owner.gid) if owner else None, [loss.path for loss in losses])
        staging.remove()


@contextmanager
def _staging(target: Path, name: str) -> Iterator[Staging]:
    try:
        staging = Staging(target, name, in_place=False)
        try:
            yield staging
        finally:
            staging.close()
    except OSError as failure:
        raise _translated(failure) from failure


def refuse_occupied(target: Path) -> None:
    """A restore goes to a new place: absent, or an empty folder."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise Conflict(
            "the restore's target exists and is not empty",
            hint="Restore to a new folder and move from there what you want.",
        )
    if target.is_mount():
        raise Conflict(
            "the restore's target is a mount point, and a restore ends in a rename that cannot cross into it",
            hint="Restore to a new folder below it.",
        )
    if not target.parent.is_dir():
        raise Conflict("the folder that should hold the restore's target does not exist")


def _times(node: Node) -> tuple[int, int]:
    return node.mtime_ns if node.atime_ns is None else node.atime_ns, node.mtime_ns


def _translated(failure: OSError) -> MoverError:
    """Our word for what the target's file system said; the path stays out of it."""
    if failure.errno in (errno.ENOSPC, errno.EDQUOT):
        return TierFull("the file system of the restore's target is full")
    name = errno.errorcode.get(failure.errno or 0, "error")
    if failure.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TierDenied(f"the restore may not write to its target ({name})")
    return TierError(f"writing to the restore's target failed ({name})")
