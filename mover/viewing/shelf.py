"""Slides held open for who looks at them: descriptors of a posix tier's own files, or of a copy brought from an object
tier to nameless files in the state directory.

A copy counts when its digest is the catalog's; of a posix tier's file the size is compared, because a slide of
gigabytes is not read to show a tile. Everything is bounded: slides, files, bytes brought here. The one unseen for
longest goes first, what nobody uses goes after a while, and a slide in use is never closed under its user.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from blake3 import blake3
from msgspec import Struct

from mover.clock import monotonic_s
from mover.deid.companions import link_all
from mover.errors import (
    DigestMismatch,
    EntryMissing,
    LimitExceeded,
    StillWorking,
    Stopping,
    StructureInvalid,
    TierFull,
    TierUnavailable,
)  # fmt: skip
from mover.jobs import in_thread
from mover.tiers.guard import guarded
from mover.tiers.port import ReadTier
from mover.tiers.staging import FileEntry
from mover.viewing.child import Place
from mover.viewing.pyramid import Pyramid

# of all slides that are held; a process of few files has 1,024
OPEN_SLIDES: Final = 16
OPEN_FILES: Final = 400
# left free where slides are brought to
SPARE_BYTES: Final = 2 << 30
# how long one question waits for a slide that is on its way, and how long a slide stays that nobody looks at
WAIT_S: Final = 20.0
# and how many questions wait for one; whoever comes then is told at once how far it is
WAITERS: Final = 100
IDLE_S: Final = 300.0
_ROOM: Final = 64  # a child's own descriptors are below this many above the slide's


class File(Struct, frozen=True):
    """One file of a slide: its name as readers expect it, its key on every tier that has it."""

    name: str
    key: str
    size_bytes: int
    digest: str


class Wanted(Struct, frozen=True):
    number: str
    files: tuple[File, ...]
    tiers: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return sum(one.size_bytes for one in self.files)


class Held:
    """An open slide. `stack` closes it."""

    def __init__(self, stack: ExitStack, fds: Sequence[int], folder: str, place: Place, brought_bytes: int) -> None:
        self._stack = stack
        self.fds, self.folder, self.place, self.brought_bytes = tuple(fds), folder, place, brought_bytes
        self.pyramid: Pyramid | None = None

    def close(self) -> None:
        self._stack.close()


class _Coming(Struct):
    """A slide on its way, or there: who brings it, how far it is, how many wait for it or look at it."""

    wanted: Wanted
    task: asyncio.Task[Held]
    brought: bool
    done_bytes: int = 0
    users: int = 0
    used_s: float = 0.0

    @property
    def held(self) -> Held | None:
        arrived = self.task.done() and not self.task.cancelled() and self.task.exception() is None
        return self.task.result() if arrived else None


class Shelf:
    def __init__(
        self, tiers: Mapping[str, ReadTier], *, spool: Path, spool_bytes: int, look: Callable[[Held], Pyramid],
        wait_s: float = WAIT_S, idle_s: float = IDLE_S,
    ) -> None:  # fmt: skip
        """`look` asks the child about a slide that was just opened, and blocks."""
        self._tiers, self._spool, self._spool_bytes = tiers, spool, spool_bytes
        self._look, self._wait_s, self._idle_s = look, wait_s, idle_s
        self._slides: dict[str, _Coming] = {}
        self._stopped = False
        self._sweeping: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def use(self, wanted: Wanted) -> AsyncIterator[Held]:
        """The slide, open until the block ends. StillWorking while it is on its way: ask again."""
        coming = self._slides.get(wanted.number) or self._begin(wanted)
        coming.users += 1
        try:
            yield await self._arrived(coming)
        finally:
            coming.users -= 1
            coming.used_s = monotonic_s()
            self._sweep_later()

    def drop(self, number: str) -> None:
        """Nobody may look at it any more."""
        coming = self._slides.get(number)
        if coming is not None and coming.task.done() and not coming.users:
            self._forget(number)

    async def close(self) -> None:
        self._stopped = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for number, coming in list(self._slides.items()):
            await asyncio.wait([coming.task])
            self._forget(number)

    async def _arrived(self, coming: _Coming) -> Held:
        wanted, wait_s = coming.wanted, self._wait_s if coming.users <= WAITERS else 0.0
        try:
            return await asyncio.wait_for(asyncio.shield(coming.task), wait_s)
        except TimeoutError:
            percent = 100 * coming.done_bytes // max(1, wanted.size_bytes)
            raise StillWorking(
                f"the slide is being brought from its object tier, {percent} % of {wanted.size_bytes} bytes"
                if coming.brought else "the slide is being opened, and its tier has not answered yet",
                where=wanted.number, details=[{"done_bytes": coming.done_bytes, "size_bytes": wanted.size_bytes}],
            ) from None  # fmt: skip
        except BaseException:  # of the slide's own task, or of who waits for it
            if coming.task.done() and coming.held is None and self._slides.get(wanted.number) is coming:
                del self._slides[wanted.number]  # the next question tries again
            raise

    def _begin(self, wanted: Wanted) -> _Coming:
        tier = self._tier(wanted)
        brought = 0 if tier.kind == "posix" else wanted.size_bytes
        self._make_room(files=len(wanted.files), brought=brought)

        async def bring() -> Held:
            held = await in_thread(guarded, lambda _: self._open(tier, coming), tier)
            held.pyramid = await in_thread(_or_close, held, self._look)
            return held

        coming = _Coming(wanted, asyncio.get_running_loop().create_task(bring(), name="slide brought"), brought > 0)
        self._slides[wanted.number] = coming
        self._sweep_later()
        return coming

    def _tier(self, wanted: Wanted) -> ReadTier:
        """A folder before a bucket. An identified tier is none, whatever a row may say (D4)."""
        known = [self._tiers[name] for name in wanted.tiers if name in self._tiers]
        clean = [one for one in known if one.zone == "deidentified"]
        if not clean:
            raise EntryMissing("no tier that holds the slide is configured on this node", where=wanted.number)
        return min(clean, key=lambda one: one.kind != "posix")

    # --- room -----------------------------------------------------------------------------------------------

    def _make_room(self, *, files: int, brought: int) -> None:
        if files > OPEN_FILES or brought > self._spool_bytes:
            raise LimitExceeded(
                "the slide is larger than what may be brought here to show it" if brought else
                f"a slide of more than {OPEN_FILES} files", where="workers.viewing_bytes",
            )  # fmt: skip
        while self._over(files, brought):
            idle = [(one.used_s, number) for number, one in self._slides.items() if one.task.done() and not one.users]
            if not idle:
                raise LimitExceeded("as many slides as may be open are being looked at", hint="Ask again soon.")
            self._forget(min(idle)[1])

    def _over(self, files: int, brought: int) -> bool:
        held = [one.wanted for one in self._slides.values()]
        spooled = sum(one.held.brought_bytes if one.held else one.wanted.size_bytes for one in self._slides.values())
        return (
            len(held) + 1 > OPEN_SLIDES
            or sum(len(one.files) for one in held) + files > OPEN_FILES
            or (brought > 0 and spooled + brought > self._spool_bytes)
        )

    def _forget(self, number: str) -> None:
        held = self._slides.pop(number).held
        if held is not None:
            held.close()

    def _sweep_later(self) -> None:
        if self._sweeping is None and not self._stopped:
            self._sweeping = asyncio.get_running_loop().call_later(self._idle_s, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        old_s = monotonic_s() - self._idle_s
        for number, coming in list(self._slides.items()):
            if coming.task.done() and not coming.users and coming.used_s <= old_s:
                self._forget(number)
        if self._slides:
            self._sweep_later()

    # --- opening, in a thread ---------------------------------------------------------------------------------

    def _open(self, tier: ReadTier, coming: _Coming) -> Held:
        try:
            return self._opened(tier, coming)
        except OSError as error:  # what tiers cannot do is theirs to say: this is our own disk, or our descriptors
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise (TierFull if full else TierUnavailable)(
                f"this machine could not open the slide: {os.strerror(error.errno or errno.EIO)}",
                where=coming.wanted.number,
                hint="Look at the daemon's state directory and its folder for temporary files.",
            ) from error

    def _opened(self, tier: ReadTier, coming: _Coming) -> Held:
        wanted = coming.wanted
        with ExitStack() as stack:
            fds, brought = [], 0
            for file in wanted.files:
                fd, came = self._file(tier, file, coming)
                stack.callback(os.close, fd)
                fds.append(fd)
                brought += came
            folder = stack.enter_context(_links([file.name for file in wanted.files], first=_ROOM + len(fds)))
            place = Place(os.path.join(folder, "slide", wanted.files[0].name), _ROOM + len(fds))
            return Held(stack.pop_all(), fds, os.path.join(folder, "slide"), place, brought)

    def _file(self, tier: ReadTier, file: File, coming: _Coming) -> tuple[int, int]:
        """An open descriptor, and how many bytes were brought here for it."""
        with tier.open(file.key) as opened:
            if opened.size_bytes != file.size_bytes:
                raise DigestMismatch("the slide is not of the size that was published", where=coming.wanted.number)
            if isinstance(opened, FileEntry):
                return os.dup(opened.fileno()), 0
        return self._poured(tier, file, coming), file.size_bytes

    def _poured(self, tier: ReadTier, file: File, coming: _Coming) -> int:
        """A file without a name, so that nothing of it is left whatever ends us; read once, for bytes and digest."""
        room = os.statvfs(self._spool)
        if room.f_bavail * room.f_frsize < file.size_bytes + SPARE_BYTES:
            raise TierFull("no room on this machine to bring the slide to", where=self._spool.name,
                           hint="Free space below the state directory of the daemon.")  # fmt: skip
        fd = os.open(self._spool, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        try:
            hasher = blake3()
            for piece in tier.stream(file.key):
                if self._stopped:
                    raise Stopping("the daemon stops")
                hasher.update(piece)
                view = memoryview(piece)
                while view:
                    view = view[os.write(fd, view) :]
                coming.done_bytes += len(piece)
            if hasher.hexdigest() != file.digest:
                raise DigestMismatch("the slide is not what was published", where=coming.wanted.number)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _or_close(held: Held, look: Callable[[Held], Pyramid]) -> Pyramid:
    try:
        return look(held)
    except BaseException:
        held.close()
        raise


@contextmanager
def _links(names: Sequence[str], *, first: int) -> Iterator[str]:
    """A folder of links that mean something in the child only; `slide` below it is what readers see."""
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise StructureInvalid("a file of the slide has a name that leaves its folder")
    folder = tempfile.mkdtemp(prefix="mover-standins-")
    try:
        link_all(folder, "slide", names, first)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
