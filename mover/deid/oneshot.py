"""De-identify a folder without catalog or daemon: the same recipes, the same proofs, a crosswalk in a file.

Order matters, and a kill between any two steps leaves either the old state or the new:

1. a source's digest is taken, its plan made and proved in the sandbox: refused files stop here, nothing of
   them was ever written;
2. its number goes to the journal beside the crosswalk, and is synced: from now on the number is its own;
3. the output is written without a name (O_TMPFILE; a hidden name where a file system has none), synced, re-read
   cold and compared, then linked under its number: a kill leaves no half output under any final name;
4. at the end crosswalk and map replace the journal.

A repeated run reads crosswalk and journal, keeps every number, re-checks what is there and makes the rest.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover.clock import monotonic_s
from mover.deid.child import FdSource
from mover.deid.deidentify import prepare_slide, slide_sandbox
from mover.deid.outcome import Prepared
from mover.errors import (
    ChangedWhileReading,
    DigestMismatch,
    EntryExists,
    IdentityError,
    IntegrityError,
    LimitExceeded,
    MoverError,
    RequestInvalid,
    TierDenied,
    TierError,
    TierFull,
)
from mover.model.ids import is_number
from mover.model.recipe import Literal as Bytes
from mover.model.recipe import Recipe
from mover.model.slides import Decision
from mover.randomness import new_number, random_bytes
from mover.sandbox import Sandbox

FILES: Final = 1_000_000
WORKERS: Final = 4
MTIME_S: Final = 315_532_800  # 1980-01-01: the time of scanning is not to be read from a file
STEP_BYTES: Final = 8 << 20
THUMBNAIL_PX: Final = 1024


class CrosswalkEntry(Struct, frozen=True, kw_only=True):
    """One input file. `source` is an identifier: this file is the crosswalk's second home (D10)."""

    source: str
    output: str | None = None
    number: str | None = None
    status: Literal["deidentified", "quarantined"]
    reason: str | None = None
    detail: str | None = None
    source_blake3: str | None = None
    output_blake3: str | None = None


class Crosswalk(Struct, frozen=True):
    files: tuple[CrosswalkEntry, ...]


class PlannedFile(Struct, frozen=True):
    """What `--plan` may show of one file: its place in the listing, never its name."""

    position: int
    status: str
    reason: str | None
    family: str | None
    size_bytes: int
    decisions: tuple[Decision, ...]


class OneShotReport(Struct, frozen=True):
    """Counts for the terminal; names stand in the crosswalk only."""

    files: int
    deidentified: int
    quarantined: int
    reasons: dict[str, int]
    source_bytes: int
    output_bytes: int
    seconds: float
    planned: tuple[PlannedFile, ...] = ()


class _Found(Struct, frozen=True):
    position: int
    relative: str
    path: Path
    kind: Literal["file", "symlink", "other"]


class _Outcome(Struct, frozen=True):
    entry: CrosswalkEntry
    source_bytes: int
    output_bytes: int
    family: str | None = None
    decisions: tuple[Decision, ...] = ()


class _JournalLine(Struct, frozen=True):
    source_blake3: str
    number: str


def deidentify_folder(
    source_dir: Path,
    out_dir: Path,
    crosswalk_path: Path,
    *,
    map_path: Path | None = None,
    plan_only: bool = False,
    thumbnails: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> OneShotReport:
    """De-identify every slide below `source_dir` into `out_dir`; list every file in the crosswalk.

    `progress` is called with (files done, files in all) from worker threads. One file's refusal is an entry of
    the crosswalk; the run's own failure (a full disk, a foreign output folder) is raised.
    """
    started = monotonic_s()
    _check_places(source_dir, out_dir, [path for path in (crosswalk_path, map_path) if path is not None])
    found = list(_walk(source_dir))
    ledger = _Ledger(crosswalk_path, out_dir, plan_only=plan_only)
    with slide_sandbox(max_children=_workers()) as sandbox, ledger:
        shot = _Shot(sandbox, ledger, out_dir, plan_only=plan_only, thumbnails=thumbnails)
        outcomes = list(_each(shot, found, progress))
        if not plan_only:
            crosswalk = Crosswalk(tuple(outcome.entry for outcome in outcomes))
            _write_private(crosswalk_path, msgspec.json.format(msgspec.json.encode(crosswalk), indent=1) + b"\n")
            if map_path is not None:
                _write_private(map_path, _as_map(crosswalk))
            ledger.close_journal()
    return _report(outcomes, seconds=monotonic_s() - started, plan_only=plan_only)


def _workers() -> int:
    return min(WORKERS, os.cpu_count() or 1)


def _each(shot: _Shot, found: list[_Found], progress: Callable[[int, int], None] | None) -> Iterator[_Outcome]:
    """Outcomes in the order of the listing. The first failure of the run itself stops what has not begun."""
    done = 0
    with ThreadPoolExecutor(_workers()) as pool:
        futures = [pool.submit(shot.handle, one) for one in found]
        try:
            for future in futures:
                outcome = future.result()
                done += 1
                if progress is not None:
                    progress(done, len(found))
                yield outcome
        finally:
            for future in futures:
                future.cancel()


def _report(outcomes: list[_Outcome], *, seconds: float, plan_only: bool) -> OneShotReport:
    reasons: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.entry.status == "quarantined":
            reason = outcome.entry.reason or "error"
            reasons[reason] = reasons.get(reason, 0) + 1
    planned = tuple(
        PlannedFile(
            position,
            outcome.entry.status,
            outcome.entry.reason,
            outcome.family,
            outcome.source_bytes,
            outcome.decisions,
        )
        for position, outcome in enumerate(outcomes, 1)
    )
    return OneShotReport(
        files=len(outcomes),
        deidentified=len(outcomes) - sum(reasons.values()),
        quarantined=sum(reasons.values()),
        reasons=reasons,
        source_bytes=sum(outcome.source_bytes for outcome in outcomes),
        output_bytes=sum(outcome.output_bytes for outcome in outcomes),
        seconds=seconds,
        planned=planned if plan_only else (),
    )


# --- before the first byte -----------------------------------------------------------------------------


def _check_places(source_dir: Path, out_dir: Path, private: list[Path]) -> None:
    """Names that tie patients to numbers never lie where the clean files lie, nor is the source written to."""
    if not source_dir.is_dir():
        raise RequestInvalid("the source folder is no folder")
    source, out = source_dir.resolve(), out_dir.resolve()
    if source == out or out in source.parents or source in out.parents:
        raise RequestInvalid("source and output folder must lie apart")
    resolved = [path.parent.resolve() / path.name for path in private]
    if len(set(resolved)) != len(resolved):
        raise RequestInvalid("crosswalk and map need two names")
    for path in resolved:
        if out in path.parents or path == out:
            raise RequestInvalid("the crosswalk and the map may not lie inside the output folder")
        if source in path.parents:
            raise RequestInvalid("the crosswalk and the map may not lie inside the source folder")
        if not path.parent.is_dir():
            raise RequestInvalid("the folder of the crosswalk or the map does not exist")


def _walk(root: Path) -> Iterator[_Found]:
    """Every file below `root` in a fixed order. Symlinks are listed, never followed."""
    position = 0
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            # A folder that cannot be listed is no empty folder (I7).
            name = errno.errorcode.get(error.errno or 0, "unknown")
            raise TierDenied(f"a folder of the source cannot be listed ({name})") from error
        for entry in entries:
            path = Path(entry.path)
            if entry.is_symlink():
                kind: Literal["file", "symlink", "other"] = "symlink"
            elif entry.is_dir(follow_symlinks=False):
                folders.append(path)
                continue
            else:
                kind = "file" if entry.is_file(follow_symlinks=False) else "other"
            position += 1
            if position > FILES:
                raise LimitExceeded(f"more than {FILES} files in one run")
            yield _Found(position, str(path.relative_to(root)), path, kind)


# --- numbers: crosswalk and journal --------------------------------------------------------------------


class _Ledger:
    """Which source digest has which number. The journal is synced before an output gets its name."""

    def __init__(self, crosswalk_path: Path, out_dir: Path, *, plan_only: bool) -> None:
        self._journal_path = crosswalk_path.with_name(crosswalk_path.name + ".journal")
        self._plan_only = plan_only
        self._lock = threading.Lock()
        self._journal = -1
        self.numbers: dict[str, str] = {}
        self.outputs: dict[str, str] = {}
        self._read_crosswalk(crosswalk_path)
        self._read_journal()
        self._check_out_dir(out_dir)
        self.making: dict[str, threading.Lock] = {}

    def _read_crosswalk(self, path: Path) -> None:
        if not path.exists():
            return
        try:
            crosswalk = msgspec.json.decode(path.read_bytes(), type=Crosswalk)
        except msgspec.DecodeError as error:
            raise RequestInvalid("the crosswalk file exists and is no crosswalk") from error
        for entry in crosswalk.files:
            if entry.number and entry.source_blake3 and is_number(entry.number):
                self.numbers[entry.source_blake3] = entry.number
                if entry.output_blake3:
                    self.outputs[entry.number] = entry.output_blake3

    def _read_journal(self) -> None:
        if not self._journal_path.exists():
            return
        for line in self._journal_path.read_bytes().splitlines():
            try:
                written = msgspec.json.decode(line, type=_JournalLine)
            except msgspec.DecodeError:
                continue  # the line a kill cut short: its number was never used
            self.numbers[written.source_blake3] = written.number

    def _check_out_dir(self, out_dir: Path) -> None:
        """Whatever lies there must be ours by this very crosswalk; leftovers of a kill are removed."""
        if not out_dir.is_dir():
            return
        ours = set(self.numbers.values())
        for folder in out_dir.iterdir():
            if folder.name not in ours or folder.is_symlink() or not folder.is_dir():
                raise EntryExists("the output folder holds what this crosswalk does not know")
            for leftover in folder.glob(".*.part"):
                if not self._plan_only:
                    leftover.unlink()

    def number_of(self, digest: str) -> str:
        """The number of a source; a new one is on the disk before this returns."""
        with self._lock:
            if digest not in self.numbers:
                number = new_number()
                if not self._plan_only:
                    self._append(msgspec.json.encode(_JournalLine(digest, number)) + b"\n")
                self.numbers[digest] = number
            return self.numbers[digest]

    def lock_of(self, digest: str) -> threading.Lock:
        with self._lock:
            return self.making.setdefault(digest, threading.Lock())

    def _append(self, line: bytes) -> None:
        try:
            if self._journal < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self._journal = os.open(self._journal_path, flags, 0o600)
                _sync_folder(self._journal_path.parent)
                if os.fstat(self._journal).st_size:
                    # a line that was cut short ends here, or it would swallow ours and the number with it
                    line = b"\n" + line
            _write_all(self._journal, line)
            os.fsync(self._journal)
        except OSError as error:
            raise _tier_error(error) from error

    def close_journal(self) -> None:
        """Only after the crosswalk is durable."""
        self._journal_path.unlink(missing_ok=True)

    def __enter__(self) -> _Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal >= 0:
            os.close(self._journal)


# --- one file ------------------------------------------------------------------------------------------


class _Shot:
    def __init__(self, sandbox: Sandbox, ledger: _Ledger, out_dir: Path, *, plan_only: bool, thumbnails: bool) -> None:
        self._sandbox = sandbox
        self._ledger = ledger
        self._out_dir = out_dir
        self._plan_only = plan_only
        self._thumbnail_px = THUMBNAIL_PX if thumbnails else 0

    def handle(self, found: _Found) -> _Outcome:
        """One file's whole way. Its refusal is a value; only the run's own failure is raised."""
        if found.kind != "file":
            return _refused(found, found.kind, "neither a symlink nor a special file is ever followed", 0)
        try:
            fd = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            return _refused(found, TierDenied.code, f"cannot be opened ({errno.errorcode.get(error.errno or 0)})", 0)
        try:
            return self._handle_open(found, fd)
        finally:
            os.close(fd)

    def _handle_open(self, found: _Found, fd: int) -> _Outcome:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            return _refused(found, "other", "no ordinary file", 0)
        try:
            digest = _digest_of(fd)
            prepared = prepare_slide(
                self._sandbox,
                fd,
                suffix=found.path.suffix,
                known=_names_in(found.relative),
                thumbnail_px=self._thumbnail_px,
            )
            _check_unchanged(fd, before)
            return self._publish(found, fd, before, digest, prepared)
        except (IdentityError, IntegrityError) as error:
            return _refused(found, error.code, error.what, before.st_size)

    def _publish(self, found: _Found, fd: int, before: os.stat_result, digest: str, prepared: Prepared) -> _Outcome:
        number = None
        written = None
        output = None
        if not self._plan_only:
            with self._ledger.lock_of(digest):
                number = self._ledger.number_of(digest)
                output = f"{number}/{number}.{prepared.plan.extension}"
                target = self._out_dir / output
                written = self._write(target, fd, before, number, prepared)
        entry = CrosswalkEntry(
            source=_written(found.relative),
            output=output,
            number=number,
            status="deidentified",
            source_blake3=digest,
            output_blake3=written,
        )
        plan = prepared.plan
        return _Outcome(entry, before.st_size, plan.recipe.size_bytes, plan.family, plan.decisions)

    def _write(self, target: Path, fd: int, before: os.stat_result, number: str, prepared: Prepared) -> str:
        _make_folder(target.parent)
        if target.exists():
            return self._recheck(target, number, prepared)
        expected = _write_output(target, fd, prepared.plan.recipe, before)
        if prepared.thumbnail:
            picture = target.with_suffix(".jpg")
            if not picture.exists():
                recipe = Recipe(0, (Bytes(prepared.thumbnail),))
                _write_output(picture, fd, recipe, before)
        return expected

    def _recheck(self, target: Path, number: str, prepared: Prepared) -> str:
        """A repeated run: what lies there must be the very output this source gives."""
        fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            found = _digest_of(fd)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if size != prepared.plan.recipe.size_bytes or self._ledger.outputs.get(number, found) != found:
            raise DigestMismatch("the output from an earlier run is not what this source gives")
        return found


def _refused(found: _Found, reason: str, detail: str, size_bytes: int) -> _Outcome:
    entry = CrosswalkEntry(source=_written(found.relative), status="quarantined", reason=reason, detail=detail)
    return _Outcome(entry, size_bytes, 0)


def _written(relative: str) -> str:
    """A name as JSON can hold it: bytes that are no UTF-8 stand as \\xNN."""
    return os.fsencode(relative).decode("utf-8", "backslashreplace")


def _names_in(relative: str) -> tuple[str, ...]:
    """A file's own name and its folders' are identifiers too; they may not be found in its output."""
    path = Path(relative)
    return (path.stem, *path.parts[:-1])


def _digest_of(fd: int) -> str:
    digest = blake3(max_threads=blake3.AUTO)
    at = 0
    while chunk := os.pread(fd, STEP_BYTES, at):
        digest.update(chunk)
        at += len(chunk)
    return digest.hexdigest()


def _check_unchanged(fd: int, before: os.stat_result) -> None:
    now = os.fstat(fd)
    if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (before.st_size, before.st_mtime_ns, before.st_ctime_ns):
        raise ChangedWhileReading("the source changed while it was read")


# --- durable writing -----------------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise _tier_error(error) from error
    _sync_folder(folder.parent)


def _write_output(target: Path, source_fd: int, recipe: Recipe, before: os.stat_result) -> str:
    """Write, sync, re-read cold, compare, then give it its name. Nothing is ever replaced."""
    hidden = target.with_name(f".{target.name}.{random_bytes(4).hex()}.part")
    try:
        fd, named = _open_nameless(target.parent, hidden)
    except OSError as error:
        raise _tier_error(error) from error
    try:
        expected = _pour(fd, source_fd, recipe)
        _check_unchanged(source_fd, before)
        os.fchmod(fd, 0o640)
        os.utime(fd, (MTIME_S, MTIME_S))
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if _digest_of(fd) != expected:
            raise DigestMismatch("the output reads back differently from what was written")
        _give_name(fd, hidden if named else None, target)
        _sync_folder(target.parent)
        return expected
    except OSError as error:
        raise _tier_error(error) from error
    finally:
        os.close(fd)
        if named:
            hidden.unlink(missing_ok=True)


def _open_nameless(folder: Path, hidden: Path) -> tuple[int, bool]:
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600), False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
    return os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), True


def _give_name(fd: int, hidden: Path | None, target: Path) -> None:
    """link(2) refuses a taken name, so nothing is overwritten."""
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if hidden is None:
            # With a folder's descriptor Python calls linkat(2), which follows this link to the nameless file.
            os.link(f"/proc/self/fd/{fd}", target.name, dst_dir_fd=folder, follow_symlinks=True)
        else:
            os.link(hidden, target.name, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError as error:
        raise EntryExists("an output of that number is already there") from error
    finally:
        os.close(folder)


def _pour(fd: int, source_fd: int, recipe: Recipe) -> str:
    source = FdSource(source_fd)
    digest = blake3(max_threads=blake3.AUTO)
    for segment in recipe.segments:
        for at in range(0, segment.length, STEP_BYTES):
            length = min(STEP_BYTES, segment.length - at)
            if isinstance(segment, Bytes):
                data = segment.data[at : at + length]
            else:
                data = source.read(segment.offset + at, length)
            digest.update(data)
            _write_all(fd, data)
    return digest.hexdigest()


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write_private(path: Path, data: bytes) -> None:
    """0600 from the first byte on, replaced in one step."""
    hidden = path.with_name(f".{path.name}.{random_bytes(4).hex()}.part")
    try:
        fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(hidden, path)
        _sync_folder(path.parent)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise _tier_error(error) from error


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _as_map(crosswalk: Crosswalk) -> bytes:
    """source,output of what was de-identified, as `score_deid.py` reads it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "output"])
    writer.writerows([entry.source, entry.output] for entry in crosswalk.files if entry.output)
    return text.getvalue().encode()


def _tier_error(error: OSError) -> MoverError:
    """The message names the error, never the path."""
    name = errno.errorcode.get(error.errno or 0, "unknown")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TierFull(f"the output's file system is full ({name})")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return TierDenied(f"the output cannot be written ({name})")
    return TierError(f"writing the output failed ({name})")
