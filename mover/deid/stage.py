"""Stand-ins of a slide of several files, in a folder where a reader that wants names finds them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import openslide

from mover.deid.companions import SIDES, Standins, link_all, standin_names
from mover.deid.skeleton import Skeleton
from mover.errors import RedactionUnproven


class Stage:
    """Both sides' stand-ins under the names of `standin_names`. In the parsing child the links were made by its
    caller and point at fixed descriptors; elsewhere they are made here, and go with it."""

    def __init__(self, suffix: str, number: str, standins: Standins | None) -> None:
        self._suffix = suffix
        self._number = number
        self._standins = standins
        self._own = "" if standins else tempfile.mkdtemp(prefix="mover-standins-")
        self._open: list[Skeleton] = []
        self._slots: list[int] = []
        self._bytes = 0

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def folder(self) -> str:
        return self._standins.folder if self._standins else self._own

    def side(self, side: int, sizes: Sequence[int]) -> list[Skeleton]:
        """One stand-in per file, empty and of its size."""
        if self._standins and len(sizes) > self._standins.count:
            raise RedactionUnproven("more files than were prepared for")
        made = []
        for file, size in enumerate(sizes):
            skeleton = Skeleton(size)
            self._open.append(skeleton)
            made.append(skeleton)
            self._link(side, file, skeleton)
        return made

    def _link(self, side: int, file: int, skeleton: Skeleton) -> None:
        if self._standins:
            slot = self._standins.slot(side, file)
            try:
                skeleton.move_to(slot)
            except OSError as error:
                raise RedactionUnproven("more files than one process may have open") from error
        else:
            slot = skeleton.duplicate()
            self._slots.append(slot)
            name = standin_names(self._suffix, self._number, file + 1)[file]
            link_all(self.folder, SIDES[side], [name], slot)

    @contextmanager
    def open(self, side: int) -> Iterator[openslide.OpenSlide]:
        path = os.path.join(self.folder, SIDES[side], standin_names(self._suffix, self._number, 1)[0])
        try:
            slide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            raise RedactionUnproven("OpenSlide cannot open it") from error
        with slide:
            yield slide

    def close(self) -> None:
        for skeleton in self._open:
            skeleton.__exit__(None, None, None)
        for slot in self._slots:
            os.close(slot)
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)
