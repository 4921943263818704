"""Look at a folder before anything moves: what is in it, what the rules would make of it, and a profile to begin with.

One bad file never stops a survey; a folder that cannot be listed is counted and said. Memory is bounded by the listing
(`oneshot.walk.FILES`) and by the bounds of `decide.survey`, not by what lies in the files. Files are opened read-only
and parsed in the sandbox; nothing is written but the draft, where one is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from mover.clock import monotonic_s
from mover.decide.drafts import ColumnDraft, draft_yaml
from mover.decide.survey import FileLook, FolderSurvey, Tally, draft_profile
from mover.deid.deidentify import MAX_FILES, SLIDE_LIMITS
from mover.deid.dicom import OBJECTS_PER_CALL
from mover.deid.durable import write_private
from mover.deid.oneshot.shot import MODULES
from mover.deid.oneshot.slides import CannotOpen, Opened, opened
from mover.deid.oneshot.walk import Found, SlideFiles, Sorted, read_head, sort_out, walk
from mover.deid.tables import TableDraft, draft_table, survey_table
from mover.errors import (
    IdentityError,
    IntegrityError,
    LimitExceeded,
    MoverError,
    PlaceUnknown,
    PolicyInvalid,
    RequestInvalid,
)
from mover.model.policy import DeidPolicy
from mover.policy import load_profile
from mover.sandbox import Sandbox

WORKERS: Final = 4
WINDOW: Final = 64  # looks that are under way or wait to be added up
TIMEOUT_S: Final = 300.0
_CHILD: Final = "mover.deid.survey_child"
_REFUSALS: Final = (IdentityError, IntegrityError, LimitExceeded, CannotOpen)

_T = TypeVar("_T")
_R = TypeVar("_R")
Progress = Callable[[int, int], None]


class Surveyor:
    """One survey; `run` once, then `draft`."""

    def __init__(self, profile: DeidPolicy | None = None) -> None:
        self._profile = profile or DeidPolicy()
        self._tally = Tally(self._profile.slides.accept)
        self._rules = msgspec.msgpack.encode(self._profile.dicom)

    def run(self, source_dir: Path, *, progress: Progress | None = None) -> FolderSurvey:
        started = monotonic_s()
        unlisted: list[Path] = []
        found = list(walk(source_dir, unlisted=unlisted))
        sorted_ = sort_out(found, read_head)
        for aside in sorted_.aside:
            if aside.status == "quarantined":  # a link or a pipe: a run holds it back, so a survey says so
                self._tally.add(FileLook("", code=aside.reason, what=aside.detail), _size(aside.found))
            else:
                self._tally.set_aside(aside.reason, _size(aside.found))
        modules = (*MODULES, _CHILD)
        with Sandbox(modules, limits=SLIDE_LIMITS, max_children=_workers()) as sandbox, ThreadPoolExecutor(
            _workers()
        ) as pool:
            for add in _each(pool, lambda work: work(sandbox), self._works(sorted_)):
                add()
                if progress is not None:
                    progress(self._tally.files, len(found))
        return self._tally.close(
            profile=self._profile.name, seconds=monotonic_s() - started, unlisted_folders=len(unlisted)
        )

    def draft(self, target: Path) -> list[str]:
        """Write the draft (0600) and return which entries had to stay comments. What is written loads: each entry was
        taken by the loader before. A file that stands there is left: somebody may have edited it."""
        if target.exists():
            raise RequestInvalid("a file stands where the draft was to go", hint="Name another file, or remove it.")
        entries: list[str] = []
        refused: list[str] = []
        problems: list[str] = []
        for name, why, files, columns in self._tally.undeclared():
            entry = f"  # {files} files; {why}\n" + draft_yaml(name, columns)
            problem = _problem(entry, target)
            if problem:
                problems.append(name)
                refused.append(f"{problem}\n{entry}")
            else:
                entries.append(entry)
        write_private(target, draft_profile(entries, self._tally.creators, refused=refused).encode())
        load_profile(target)
        return problems

    # -- the looks: each is a function of the sandbox, and answers with what adds it up

    def _works(self, sorted_: Sorted) -> Iterator[Callable[[Sandbox], Callable[[], None]]]:
        for slide in sorted_.slides:
            yield lambda sandbox, slide=slide: self._slide(sandbox, slide)  # type: ignore[misc]
        for at in range(0, len(sorted_.objects), OBJECTS_PER_CALL):
            chunk = sorted_.objects[at : at + OBJECTS_PER_CALL]
            yield lambda sandbox, chunk=chunk: self._objects(sandbox, chunk)  # type: ignore[misc]
        for table in sorted_.tables:
            yield lambda sandbox, table=table: self._table(sandbox, table)  # type: ignore[misc]

    def _slide(self, sandbox: Sandbox, slide: SlideFiles) -> Callable[[], None]:
        wanted = [slide.main, *(part for _, part in slide.companions)]
        try:
            if len(wanted) > MAX_FILES:
                raise LimitExceeded(f"a slide of more than {MAX_FILES} files")
            with opened(wanted, digests=False) as files:
                look = self._look(sandbox, slide, files)
        except _REFUSALS as refusal:
            look = _refused(refusal)

        def add() -> None:
            self._tally.add(look, sum(map(_size, wanted)))
            for _ in slide.companions:
                self._tally.set_aside("part of a slide")

        return add

    def _look(self, sandbox: Sandbox, slide: SlideFiles, files: Sequence[Opened]) -> FileLook:
        fds = tuple(one.fd for one in files)
        args: tuple[object, ...] = (slide.main.suffix, list(self._profile.slides.drop_keys))
        function = f"{_CHILD}:slide"
        if slide.companions:
            names = [os.fsencode(name).decode("utf-8", "replace") for name, _ in slide.companions]
            args, function = (names, slide.main.suffix), f"{_CHILD}:folder"
        answer = sandbox.run(function, args, fds, timeout_s=TIMEOUT_S)
        return msgspec.msgpack.decode(answer, type=FileLook)

    def _objects(self, sandbox: Sandbox, chunk: Sequence[Found]) -> Callable[[], None]:
        """One call for many; what kills the child is looked for one by one (D16)."""
        try:
            with opened(list(chunk), digests=False) as files:
                fds = tuple(one.fd for one in files)
                answer = sandbox.run(f"{_CHILD}:objects", (self._rules,), fds, timeout_s=TIMEOUT_S)
            looks = msgspec.msgpack.decode(answer, type=list[FileLook])
        except _REFUSALS as refusal:
            if len(chunk) > 1:
                each = [self._objects(sandbox, [one]) for one in chunk]
                return lambda: _all(each)
            looks = [_refused(refusal, family="DICOM")]

        def add() -> None:
            for found, look in zip(chunk, looks, strict=True):
                self._tally.add(look, _size(found))

        return add

    def _table(self, sandbox: Sandbox, table: Found) -> Callable[[], None]:
        try:
            with opened([table], digests=False) as [file]:
                draft = draft_table(sandbox, file.fd)
                rule, why = self._rule(sandbox, file.fd)
        except _REFUSALS as refusal:
            look = _refused(refusal, family="table")
            return lambda: self._tally.add(look, _size(table))
        return lambda: self._add_table(draft, rule, why, _size(table))

    def _rule(self, sandbox: Sandbox, fd: int) -> tuple[str, str]:
        """The profile's rule that fits, or why none does, in words that hold no name of a column."""
        try:
            return survey_table(sandbox, fd, self._profile).rule, ""
        except PlaceUnknown as refusal:
            return "", refusal.what

    def _add_table(self, draft: TableDraft, rule: str, why: str, size_bytes: int) -> None:
        columns: Sequence[ColumnDraft] = draft.columns
        self._tally.add_table(
            draft.signature, columns, rule=rule, why=why, rows=draft.rows, size_bytes=size_bytes,
            encoding=draft.encoding, delimiter=draft.delimiter,
        )  # fmt: skip


def survey_source(
    source_dir: Path, *, profile: DeidPolicy | None = None, draft: Path | None = None, progress: Progress | None = None
) -> tuple[FolderSurvey, list[str]]:
    """The survey of everything below `source_dir`, and what of the draft had to stay a comment."""
    surveyor = Surveyor(profile)
    survey = surveyor.run(source_dir, progress=progress)
    return survey, surveyor.draft(draft) if draft is not None else []


def _workers() -> int:
    return min(WORKERS, os.cpu_count() or 1)


def _each(pool: ThreadPoolExecutor, call: Callable[[_T], _R], items: Iterable[_T]) -> Iterator[_R]:
    """In order, with at most WINDOW under way: a million files are not a million futures."""
    source = iter(items)
    while window := list(islice(source, WINDOW)):
        yield from pool.map(call, window)


def _all(adds: Iterable[Callable[[], None]]) -> None:
    for add in adds:
        add()


def _refused(refusal: MoverError, *, family: str = "") -> FileLook:
    return FileLook(family, code=refusal.code, what=refusal.what)


def _size(found: Found) -> int:
    try:
        return found.path.lstat().st_size
    except OSError:
        return 0


def _problem(entry: str, beside: Path) -> str:
    """Why the loader would not take a profile of this entry alone; "" when it would."""
    trial = beside.with_name(f".{beside.name}.trial")
    try:
        write_private(trial, draft_profile([entry], Tally().creators).encode())
        load_profile(trial)
    except PolicyInvalid as error:
        return error.what
    finally:
        trial.unlink(missing_ok=True)
    return ""
