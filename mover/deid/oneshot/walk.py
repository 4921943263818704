"""What lies in the source folder, and what belongs together. Nothing is judged here but the way a file takes."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

from msgspec import Struct

from mover.deid.companions import SUFFIXES, companions_of
from mover.errors import LimitExceeded, TierDenied

FILES: Final = 1_000_000
HEAD_BYTES: Final = 132

_TABLES: Final = frozenset({".csv", ".tsv", ".tab", ".psv", ".txt"})
_OBJECTS: Final = frozenset({".dcm", ".dicom", ".ima"})
_SLIDES: Final = frozenset(
    {".svs", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".tif", ".tiff", ".btf", ".isyntax", ".czi", ".vsi",
     ".svslide"}
)  # fmt: skip
# what stands beside a slide under its name: its thumbnail, its barcode as text, what another program noted down
_SIDECARS: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".txt", ".xml", ".json", ".md5", ".sha256"})
_SYSTEMS: Final = frozenset({"thumbs.db", ".ds_store", "desktop.ini", "ehthumbs.db", ".localized"})


class Found(Struct, frozen=True):
    position: int
    relative: str
    path: Path
    kind: Literal["file", "symlink", "other"]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()


class SlideFiles(Struct, frozen=True):
    """One slide: its main file and what may belong to it, each with its name relative to the main file's folder."""

    main: Found
    companions: tuple[tuple[str, Found], ...] = ()


class Aside(Struct, frozen=True):
    """A file that no way leads from, and why."""

    found: Found
    status: Literal["quarantined", "dropped"]
    reason: str
    detail: str


class Sorted(Struct, frozen=True):
    slides: tuple[SlideFiles, ...]
    objects: tuple[Found, ...]
    tables: tuple[Found, ...]
    aside: tuple[Aside, ...]


def walk(root: Path, *, unlisted: list[Path] | None = None) -> Iterator[Found]:
    """Every file below `root` in a fixed order. Symlinks are listed, never followed. A folder that cannot be listed is
    raised, or where the caller gives a list for them, added to it."""
    position = 0
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            listing = _listing(folder)
        except TierDenied:
            if unlisted is None:
                raise
            unlisted.append(folder)
            continue
        for entry in listing:
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
            yield Found(position, str(path.relative_to(root)), path, kind)


def _listing(folder: Path) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            return sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        # A folder that cannot be listed is no empty folder (I7).
        name = errno.errorcode.get(error.errno or 0, "unknown")
        raise TierDenied(f"a folder of the source cannot be listed ({name})") from error


def sort_out(found: Sequence[Found], head_of: Callable[[Found], bytes]) -> Sorted:
    """Which way each file takes. By content where that is sure (DICOM), by name where the name is what a person or a
    vendor's program goes by (parts of a slide, tables); all that is left goes the slides' way, whose scanners say
    what it is."""
    files = [one for one in found if one.kind == "file"]
    aside = [
        Aside(one, "quarantined", one.kind, "neither a symlink nor a special file is ever followed")
        for one in found if one.kind != "file"
    ]  # fmt: skip
    taken, multi = _companions(files)
    stems = _slide_stems(files)
    slides, objects, tables = [], [], []
    for one in files:
        if one.position in taken:
            continue
        if one.name.casefold() in _SYSTEMS:
            aside.append(Aside(one, "dropped", "system-file", "an operating system's own note about the folder"))
        elif one.position in multi:
            slides.append(SlideFiles(one, multi[one.position]))
        elif one.suffix in _OBJECTS or head_of(one)[128:132] == b"DICM":
            objects.append(one)
        elif one.suffix in _SIDECARS and _is_sidecar(one, stems):
            aside.append(Aside(one, "dropped", "sidecar", "stands beside a slide under its name; made anew if wanted"))
        elif one.suffix in _TABLES:
            tables.append(one)
        else:
            slides.append(SlideFiles(one))
    return Sorted(tuple(slides), tuple(objects), tuple(tables), tuple(aside))


def _companions(files: Iterable[Found]) -> tuple[set[int], dict[int, tuple[tuple[str, Found], ...]]]:
    """Files that are part of a slide of several files, and the slides they are part of. The first slide to claim a
    file has it."""
    by_name = {one.relative: one for one in files}
    taken: set[int] = set()
    multi: dict[int, tuple[tuple[str, Found], ...]] = {}
    for name, main in by_name.items():
        if main.suffix not in SUFFIXES or main.position in taken:
            continue
        folder = name.rpartition("/")[0]
        parts = [by_name[part] for part in companions_of(name, _beside(name, by_name)) if part in by_name]
        parts = [part for part in parts if part.position not in taken]
        multi[main.position] = tuple((part.relative[len(folder) + bool(folder) :], part) for part in parts)
        taken.update(part.position for part in parts)
    return taken, multi


def _beside(main: str, names: Iterable[str]) -> list[str]:
    """Names in the main file's folder and below. One pass a slide of several files: such slides are few."""
    folder = main.rpartition("/")[0]
    return [name for name in names if not folder or name.startswith(folder + "/")]


def _slide_stems(files: Iterable[Found]) -> dict[Path, list[str]]:
    stems: dict[Path, list[str]] = {}
    for one in files:
        if one.suffix in _SLIDES:
            stem = one.path.stem.casefold()
            stems.setdefault(one.path.parent, []).append(stem.removesuffix(".ome"))
    return stems


def _is_sidecar(one: Found, stems: dict[Path, list[str]]) -> bool:
    """Its stem is a slide's, or begins with one and goes on as names do (`D14-1_thumb.jpg`, `D14-1.svs.md5`)."""
    stem = one.path.stem.casefold()
    return any(
        stem == slide or (stem.startswith(slide) and stem[len(slide)] in "_-. (")
        for slide in stems.get(one.path.parent, ())
    )


def read_head(found: Found) -> bytes:
    """The first bytes of a file; none where it cannot be opened, which its own way will find out."""
    try:
        fd = os.open(found.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.pread(fd, HEAD_BYTES, 0)
    except OSError:
        return b""
    finally:
        os.close(fd)


def written(relative: str) -> str:
    """A name as JSON can hold it: bytes that are no UTF-8 stand as \\xNN."""
    return os.fsencode(relative).decode("utf-8", "backslashreplace")
