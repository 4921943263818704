"""Slides of several files: which files belong together, and a folder of stand-ins for readers that want one.

OpenSlide finds the parts of a 3DHISTECH or a Hamamatsu VMS slide by name in a real folder. The parsing child has no
folder and may make none, so its caller makes one before: `standin_folder` holds nothing but symbolic links with
neutral names to descriptors (`/proc/self/fd/N`) that mean something inside the child only. No byte of a slide is
ever in it, and what a crash leaves behind are links to nowhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from mover.errors import SandboxFailed

SUFFIXES: Final = (".mrxs", ".vms", ".vmu")
# Descriptors below this many above the slide's own are the child's: its standard streams, sockets and buffers.
_ROOM: Final = 64
SIDES: Final = ("before", "after")


class Standins(Struct, frozen=True):
    """A folder of links. Side `s` (0 the source, 1 the output), file `k` (0 the main one) is descriptor
    `first + s * count + k` of the child."""

    folder: str
    first: int
    count: int

    def slot(self, side: int, file: int) -> int:
        return self.first + side * self.count + file


def companions_of(main: str, names: Iterable[str]) -> tuple[str, ...]:
    """The files that may belong to a slide's main file, of all names beside it ("a/b.mrxs" among "a/b/Index.dat").

    A 3DHISTECH slide's are everything in the folder of its name; a Hamamatsu VMS slide's share the beginning of
    its name. What is not needed among them is dropped by the plan, and its name is sought in the output."""
    stem, suffix = os.path.splitext(main)
    if suffix.lower() == ".mrxs":
        return tuple(sorted(name for name in names if name.startswith(stem + "/")))
    if suffix.lower() in (".vms", ".vmu"):
        return _sharing_the_beginning(main, list(names))
    return ()


def _sharing_the_beginning(main: str, names: list[str]) -> tuple[str, ...]:
    """Of two slides S1 and S10 in one folder, a part belongs to the one whose name it repeats further."""
    mains = {name for name in (main, *names) if name.lower().endswith((".vms", ".vmu"))}
    stems = sorted((os.path.splitext(name)[0] for name in mains), key=len, reverse=True)
    stem = os.path.splitext(main)[0]
    own = [name for name in names if name not in mains and name.startswith(stem) and "/" not in name[len(stem) :]]
    return tuple(sorted(name for name in own if next(one for one in stems if name.startswith(one)) == stem))


def standin_names(suffix: str, number: str, count: int) -> tuple[str, ...]:
    """The names a slide of `count` files has on either side, the main file's first. They are the output's own."""
    suffix = suffix.lower()
    if suffix == ".mrxs":
        fixed = (f"slide{suffix}", "slide/Slidedat.ini", "slide/Index.dat")
        return (*fixed, *(f"slide/{data_name(index)}" for index in range(count - len(fixed))))[:count]
    return (f"slide{suffix}", *(part_name(number, index) for index in range(count - 1)))[:count]


def data_name(index: int) -> str:
    return f"Data{index:04d}.dat"


def part_name(number: str, index: int) -> str:
    """A part of a Hamamatsu slide, which lies beside its main file and must be told from another slide's parts."""
    return f"{number or 'slide'}_{index}.jpg"


@contextmanager
def standin_folder(suffix: str, number: str, count: int) -> Iterator[Standins]:
    """Links for a slide of at most `count` files, for one call of the parsing child. Raises SandboxFailed where the
    system has no room for a folder."""
    folder = ""
    try:
        try:
            folder = tempfile.mkdtemp(prefix="mover-standins-")
            standins = Standins(folder, _ROOM + count, count)
            for side, name in enumerate(SIDES):
                link_all(folder, name, standin_names(suffix, number, count), standins.slot(side, 0))
        except OSError as error:
            raise SandboxFailed("no folder of links could be made for the parsing child") from error
        yield standins
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def link_all(folder: str, side: str, names: Iterable[str], first: int) -> None:
    for index, name in enumerate(names):
        path = os.path.join(folder, side, name)
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.symlink(f"/proc/self/fd/{first + index}", path)
