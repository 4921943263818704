"""The watcher: hears of every change on the file systems of deidentified tiers, and hands over which folders changed.

A process of its own, because a mark on a whole file system takes CAP_SYS_ADMIN and opening a folder by its handle
takes CAP_DAC_READ_SEARCH, which the daemon must not have. Identified tiers are left out: names of folders are
identifiers there, and the catalog may not hold them (D10).

A handle becomes a path only when the event is looked at, and the folder may have moved since. That is no loss: every
move is an event of its own, whose two names count with all that is below them; of all names on the way to a folder
that moved, the topmost one's parent did not, so its path is the right one.

The root is held open: as long as it is, the file system cannot go away unnoticed, and nothing changes unheard. It
also cannot be unmounted; stop the watcher first.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mover.catalog.dsn import Source
from mover.clock import monotonic_s
from mover.errors import ConfigError, MoverError, TierUnavailable
from mover.log import get_logger
from mover.tiers import beneath, mounts
from mover.walk import fanotify
from mover.walk.fanotify import Event, Marks
from mover.walk.hints import Book, Heard

TURN_S = 1.0  # between two hand-overs
GATHER_S = 0.1  # between two looks at the kernel's queue
READS_MAX = 256  # of one tier in one turn; if there is more, the next turn goes on

log = get_logger("watch")


class TierWatch:
    """One tier's mark, and what came since the last hand-over. Raises TierUnavailable where it cannot be watched."""

    def __init__(self, tier: str, root: str | os.PathLike[str]) -> None:
        self.tier = tier
        self._path = os.fspath(root)
        if mounts.mount_of(self._path).network:
            raise TierUnavailable("other machines' changes on a network mount are not heard of", where=tier)
        try:
            self._root = beneath.open_root(self._path)
        except OSError as error:
            raise TierUnavailable("the root cannot be opened", where=tier) from error
        self._marks: Marks | None = None
        try:
            self._marks = Marks(self._root)
            self._try_handle()
        except OSError as error:
            self.close()
            raise TierUnavailable(
                f"the file system cannot be watched ({os.strerror(error.errno or 0)})", where=tier,
                hint="Watching takes CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH on ext4, xfs or btrfs; scans walk as ever.",
            ) from error  # fmt: skip
        self.heard = Heard({}, "started")

    def _try_handle(self) -> None:
        os.close(fanotify.open_handle(self._root, fanotify.handle_of(self._root)))

    def drain(self) -> bool:
        """Read what has come; False when there is more than one turn may take."""
        marks, top = self._marks, os.readlink(b"/proc/self/fd/%d" % self._root)
        assert marks is not None
        places: dict[bytes, bytes | None] = {}
        emptied = False
        for _ in range(READS_MAX):
            try:
                events = marks.read()
            except (fanotify.BadEvents, OSError):
                self.heard.lose("unreadable")
                break
            if not events:
                emptied = True
                break
            for event in events:
                self._note(event, top, places)
        self._check_root(top)
        return emptied

    def _check_root(self, top: bytes) -> None:
        """Paths were made against a root that stood where it stands: here and for whoever scans."""
        with suppress(OSError):
            if os.readlink(b"/proc/self/fd/%d" % self._root) == top:
                there, held = os.stat(self._path), os.fstat(self._root)
                if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
                    return
        self.heard.lose("root-moved")

    def _note(self, event: Event, top: bytes, places: dict[bytes, bytes | None]) -> None:
        if event.mask & fanotify.OVERFLOW:
            self.heard.lose("overflow")
            return
        if event.child and not event.mask & fanotify.ON_DIR:
            self._note_links(event, top)
        if not event.folder:
            return
        if event.folder not in places:
            places[event.folder] = self._place(event.folder, top)
        folder = places[event.folder]
        if folder is None or is_hidden(folder):
            return
        self.heard.add(folder, deep=False)
        if event.mask & fanotify.ON_DIR and event.mask & fanotify.APPEARED:
            below = folder + b"/" + event.name if folder else event.name
            if not is_hidden(below):
                self.heard.add(below, deep=True)

    def _note_links(self, event: Event, top: bytes) -> None:
        """A file of several names changes in several folders, and only one of them, or none, is named."""
        try:
            opened = fanotify.open_handle(self._root, event.child)
        except OSError:
            return  # it is gone, and with its last name went an event that names the folder
        try:
            links = os.fstat(opened).st_nlink
            if links > 1:
                self.heard.lose("hard-links")
            elif links == 1 and not event.folder:
                path = _path_of(opened)
                folder = None if path is None else _below(os.path.dirname(path), top)
                if path is None:
                    self.heard.lose("unplaced")
                elif folder is not None and not is_hidden(folder):
                    self.heard.add(folder, deep=False)
        finally:
            os.close(opened)

    def _place(self, handle: bytes, top: bytes) -> bytes | None:
        """The folder's path below the root; None when it is elsewhere, or gone or moved, which is an event as well."""
        try:
            opened = fanotify.open_handle(self._root, handle)
        except OSError:
            return None
        try:
            path = _path_of(opened)
        finally:
            os.close(opened)
        return None if path is None else _below(path, top)

    def close(self) -> None:
        if self._marks is not None:
            self._marks.close()
        os.close(self._root)


def _path_of(opened: int) -> bytes | None:
    """Where it stands now; None when the name the kernel gives leads elsewhere."""
    try:
        path = os.readlink(b"/proc/self/fd/%d" % opened)
        there, held = os.stat(path, follow_symlinks=False), os.fstat(opened)
    except OSError:
        return None
    return path if (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino) else None


def _below(path: bytes, top: bytes) -> bytes | None:
    if path == top:
        return b""
    head = top if top.endswith(b"/") else top + b"/"
    return path[len(head) :] if path.startswith(head) else None


def is_hidden(folder: bytes) -> bool:
    """Below our own and NFS's passing names, which no walk shows."""
    parts = folder.split(b"/")
    return parts[0] == b".mover" or any(part.startswith(b".mover-tmp-") or beneath.is_passing(part) for part in parts)


class Watcher:
    """Tiers that can be watched, by name and root. Those that cannot are said so and left to full scans."""

    def __init__(self, source: Source, roots: Mapping[str, Path]) -> None:
        self._book = Book(source)
        self._watches = self._opened(roots)
        if not self._watches:
            raise ConfigError("no tier of this configuration can be watched", hint="See the lines above for each tier.")

    @property
    def tiers(self) -> list[str]:
        return [watch.tier for watch in self._watches]

    def _opened(self, roots: Mapping[str, Path]) -> Sequence[TierWatch]:
        watches = []
        for tier, root in roots.items():
            try:
                watch = TierWatch(tier, root)
            except TierUnavailable as error:
                log.warning("tier not watched", tier=tier, what=error.what)
                continue
            watches.append(watch)
        return watches

    def run(self, *, stopped: Callable[[], bool], alive: Callable[[], None] = lambda: None) -> None:
        """Until stopped. The kernel's queue is emptied as it fills; the catalog is told once a turn, or when a scan
        asks."""
        told_s = monotonic_s() - TURN_S
        while not stopped():
            left_s = told_s + TURN_S - monotonic_s()
            if left_s > 0 and not self._is_asked(min(left_s, GATHER_S)):
                for watch in self._watches:
                    watch.drain()
                continue
            told_s = monotonic_s()
            self.turn()
            alive()

    def _is_asked(self, wait_s: float) -> bool:
        """Waits a moment, in which what comes together is read together."""
        asked = self._book.descriptor()
        select.select([] if asked is None else [asked], [], [], wait_s)
        with suppress(MoverError):  # the next turn says so
            return self._book.is_asked()
        return False

    def turn(self) -> None:
        """Empty the queues and hand over. While the catalog is away what came waits here, bounded."""
        try:
            until = self._book.now()
            for watch in self._watches:
                if watch.drain():
                    if watch.heard.gap is not None:
                        log.warning("watch begins", tier=watch.tier, reason=watch.heard.gap)
                    self._book.hand_over(watch.tier, watch.heard, until=until)
                    watch.heard = Heard({})
        except MoverError as error:
            log.warning("hints wait", code=error.code)

    def close(self) -> None:
        for watch in self._watches:
            watch.close()
        self._book.close()
