"""3DHISTECH MIRAX: a picture file, and beside it a folder of an index text, a binary index and data files.

What is where (openslide.org/formats/mirax, and the planted and public slides): `Slidedat.ini` names everything.
`Index.dat` starts with a version and the SLIDE_ID, then two pointers: to a table of the pyramid's records and to one
of all other records. A record is a chain of pages; the first is empty. A page of the pyramid lists pictures as (number
in the grid, offset, length, data file). `Data*.dat` start with the same version and SLIDE_ID, and hold pyramid
pictures, label, overview, preview, texts and positions side by side. All numbers are 32-bit little-endian, unaligned.

Only what the index reaches through the names `Slide zoom level` and the two position layers is understood; all else is
reported as dropped.
"""

from __future__ import annotations

import posixpath
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, get_args

import numpy as np
from msgspec import Struct

from mover.errors import FormatUnsupported, StructureInvalid
from mover.model.folders import Coding, Cut, KeyText, MiraxLevel, MiraxScan, Tiles
from mover.model.source import ByteSource
from scanners import keyfile, streams

INDEX_BYTES: Final = 1 << 30
RECORDS: Final = 1 << 14  # of pointers in one table
PAGES: Final = 1 << 20
PICTURES: Final = 20_000_000
LEVELS: Final = 32
DATA_FILES: Final = 1000
TEXT_BYTES: Final = 4 << 20  # of one dropped record that is read, to know its words
TEXT_RECORDS: Final = 64
THOROUGH_BYTES: Final = 64 << 20  # of pictures walked to their end; of all others head and tail
VERSION: Final = b"01.02"
POSITION_BYTES: Final = 9
POSITIONS: Final = 16_000_000
_ZOOM: Final = "Slide zoom level"
_LAYERS: Final = ("VIMSLIDE_POSITION_BUFFER", "StitchingIntensityLayer")
_HEAD: Final = re.compile(rb"[\x20-\x7e]*")
HEAD_BYTES: Final = 512
_TAIL: Final = 2
_END: Final = b"\xff\xd9"
_FIRST_GUESS: Final = 1024
_HEADS: Final = 64


class _Record(Struct, frozen=True):
    """Where one record outside the pyramid points."""

    offset: int
    length: int
    file: int


def scan(main: ByteSource, files: Mapping[str, ByteSource]) -> MiraxScan:
    """`files` by name relative to the main file. Raises StructureInvalid where the slide contradicts itself,
    PlaceUnknown where a picture holds what no decoder needs and nobody knows."""
    ini = _one_named(files, "slidedat.ini")
    folder = posixpath.dirname(ini)
    text = keyfile.parse(_whole(files[ini], keyfile.TEXT_BYTES))
    index = _beside(files, folder, text.get("HIERARCHICAL", "INDEXFILE"))
    count = keyfile.number(text, "DATAFILE", "FILE_COUNT", 1, DATA_FILES)
    data = tuple(_beside(files, folder, text.get("DATAFILE", f"FILE_{number}")) for number in range(count))
    if len({ini, index, *data}) != count + 2:
        raise StructureInvalid("two parts of the slide are one file")
    slide = _Slide(text, files[index], [files[name] for name in data])
    levels = tuple(slide.levels())
    layer, positions, used = slide.positions()
    cuts = slide.cuts(levels, used)
    texts = [*slide.dropped_texts(used), *streams.jpeg_texts(main.read(0, min(main.size_bytes, TEXT_BYTES)))]
    return MiraxScan(
        general=text,
        ini=ini,
        index=index,
        data=data,
        slide_id=slide.slide_id,
        grid=slide.grid,
        levels=levels,
        cuts=cuts,
        position_layer=layer,
        positions=positions,
        position_record=(used.offset, used.length, used.file) if used else (0, 0, 0),
        texts=tuple(texts),
        strays=tuple(sorted(set(files) - {ini, index, *data})),
        dropped_records=len(slide.others) - (used is not None),
        tile_count=sum(len(level.tiles) for level in levels),
    )


def _one_named(files: Mapping[str, ByteSource], wanted: str) -> str:
    found = [name for name in files if posixpath.basename(name).casefold() == wanted]
    if not found:
        raise StructureInvalid("a 3DHISTECH MIRAX slide came without its folder")
    shallow = min(name.count("/") for name in found)
    found = [name for name in found if name.count("/") == shallow]
    if len(found) != 1:
        raise StructureInvalid("a MIRAX slide with more than one index text")
    return found[0]


def _beside(files: Mapping[str, ByteSource], folder: str, name: str | None) -> str:
    """The file of this name in the slide's folder; Windows did not care about case, and nothing leaves the folder."""
    if not name or "/" in name or "\\" in name:
        raise StructureInvalid("the index text names a part in no usable way")
    path = posixpath.join(folder, name)
    if path in files:
        return path
    found = [one for one in files if one.casefold() == path.casefold()]
    if len(found) != 1:
        raise StructureInvalid("a part that the index text names is not there")
    return found[0]


def _whole(source: ByteSource, limit: int) -> bytes:
    if source.size_bytes > limit:
        raise StructureInvalid(f"an index above {limit} bytes")
    return source.read(0, source.size_bytes)


class _Slide:
    """The index taken apart; everything is read once."""

    def __init__(self, text: KeyText, index: ByteSource, data: list[ByteSource]) -> None:
        self.text = text
        self.data = data
        self.index = _whole(index, INDEX_BYTES)
        self.slide_id = text.get("GENERAL", "SLIDE_ID") or ""
        identity = self.slide_id.encode("utf-8", "replace")
        self.root = len(VERSION) + len(identity)
        if not identity or self.index[: self.root] != VERSION + identity:
            raise StructureInvalid("the binary index does not start as its slide's must")
        self.grid = (
            keyfile.number(text, "GENERAL", "IMAGENUMBER_X", 1, 1 << 20),
            keyfile.number(text, "GENERAL", "IMAGENUMBER_Y", 1, 1 << 20),
        )
        self.divisions = keyfile.number(text, "GENERAL", "CameraImageDivisionsPerSide", 1, 256, 1)
        self.others = list(self._other_records())

    # -- the binary index

    def _number(self, at: int) -> int:
        if not 0 <= at <= len(self.index) - 4:
            raise StructureInvalid("a pointer leaves the binary index")
        return int.from_bytes(self.index[at : at + 4], "little", signed=True)

    def _pages(self, record: int, width: int) -> Iterator[tuple[int, int]]:
        """(position, entries) of a record's pages, the empty first one checked and left out."""
        at, seen = self._number(record), set[int]()
        count, following = self._number(at), self._number(at + 4)
        if count != 0:
            raise StructureInvalid("a record of the index starts with a page that is not empty")
        while following:
            at = following
            if at in seen or len(seen) > PAGES:
                raise StructureInvalid("the pages of a record loop")
            seen.add(at)
            count, following = self._number(at), self._number(at + 4)
            if count < 0 or at + 8 + count * width > len(self.index):
                raise StructureInvalid("a page leaves the binary index")
            yield at + 8, count

    # -- the pyramid

    def levels(self) -> Iterator[MiraxLevel]:
        text = self.text
        if text.get("HIERARCHICAL", "HIER_0_NAME") != _ZOOM:
            raise FormatUnsupported("3DHISTECH MIRAX whose first hierarchy is not the zoom level")
        count = keyfile.number(text, "HIERARCHICAL", "HIER_0_COUNT", 1, LEVELS)
        table, exponent = self._number(self.root), 0
        base = (0, 0)
        for number in range(count):
            section = text.get("HIERARCHICAL", f"HIER_0_VAL_{number}_SECTION") or ""
            if section not in text.sections:
                raise StructureInvalid("a level has no section of its own")
            exponent += keyfile.number(text, section, "IMAGE_CONCAT_FACTOR", 0 if number == 0 else 1, 30)
            wide = keyfile.number(text, section, "DIGITIZER_WIDTH", 1, 65500)
            high = keyfile.number(text, section, "DIGITIZER_HEIGHT", 1, 65500)
            if number == 0:
                base = tuple(self._base(*pair) for pair in zip(self.grid, (wide, high), "XY", strict=True))  # type: ignore[assignment]
            if exponent > 30:
                raise StructureInvalid("a level spans more than a slide can hold")
            yield MiraxLevel(
                section=section,
                width=base[0] >> exponent,
                height=base[1] >> exponent,
                image_width=wide,
                image_height=high,
                concat=1 << exponent,
                coding=self._coding(section),
                tiles=self._tiles(table + 4 * number, 1 << exponent),
            )

    def _coding(self, section: str) -> Coding:
        value = self.text.get(section, "IMAGE_FORMAT")
        for known in get_args(Coding):
            if value == known:
                return known
        raise StructureInvalid("a level's pictures are of no known coding")

    def _base(self, images: int, size: int, axis: str) -> int:
        """The level's whole width or height: images edge to edge, overlapping where the camera moved."""
        section = self.text.get("HIERARCHICAL", "HIER_0_VAL_0_SECTION") or ""
        try:
            overlap = float(self.text.get(section, f"OVERLAP_{axis}") or "")
        except ValueError:
            raise StructureInvalid("a level's overlap is no number") from None
        if not 0 <= overlap <= size * self.divisions:
            raise StructureInvalid("a level's overlap is out of its range")
        moves = (images - 1) // self.divisions
        return int(images * size - moves * overlap)

    def _tiles(self, record: int, concat: int) -> Tiles:
        pages = [
            np.frombuffer(self.index, "<i4", count * 4, at).reshape(-1, 4) for at, count in self._pages(record, 16)
        ]
        entries = np.concatenate(pages) if pages else np.zeros((0, 4), "<i4")
        if len(entries) > PICTURES:
            raise StructureInvalid(f"a level of more than {PICTURES} pictures")
        index, offset, length, file = (entries[:, column].astype("i8") for column in range(4))
        across, down = self.grid
        x, y = index % across, index // across
        bad = (index < 0) | (y >= down) | (x % concat != 0) | (y % concat != 0)
        bad |= (offset < 0) | (length <= 0) | (file < 0) | (file >= len(self.data))
        if bad.any():
            raise StructureInvalid("a picture of the pyramid lies where none can lie")
        sizes = np.array([source.size_bytes for source in self.data])
        if (offset + length > sizes[file]).any():
            raise StructureInvalid("a picture of the pyramid leaves its data file")
        return Tiles(*(array("q", column.tobytes()) for column in (index, offset, length, file)))

    # -- everything else

    def _other_records(self) -> Iterator[tuple[str, _Record | None]]:
        """(layer, where it points) of every record outside the pyramid, in the index text's order; None for a
        record nobody can follow, which is dropped as it is."""
        count = keyfile.number(self.text, "HIERARCHICAL", "NONHIER_COUNT", 0, RECORDS, 0)
        table, at = self._number(self.root + 4) if count else 0, 0
        for number in range(count):
            layer = self.text.get("HIERARCHICAL", f"NONHIER_{number}_NAME") or ""
            values = keyfile.number(self.text, "HIERARCHICAL", f"NONHIER_{number}_COUNT", 0, RECORDS, 0)
            if at + values > RECORDS:
                raise StructureInvalid(f"more than {RECORDS} records outside the pyramid")
            for value in range(values):
                yield layer, self._other(table + 4 * (at + value)) if value == 0 or at < TEXT_RECORDS else None
            at += values

    def _other(self, record: int) -> _Record | None:
        """What cannot be followed here is not needed: a position buffer must be found by its layer's first record."""
        try:
            for at, count in self._pages(record, 20):
                if count == 1:
                    offset, length, file = (self._number(at + 8 + 4 * step) for step in range(3))
                    inside = 0 <= file < len(self.data) and offset >= 0 and length >= 0
                    if inside and offset + length <= self.data[file].size_bytes:
                        return _Record(offset, length, file)
                return None
        except StructureInvalid:
            return None
        return None

    def positions(self) -> tuple[str, bytes, _Record | None]:
        """Where the camera stood, unpacked; readers take the first layer of the two that exists."""
        for layer in _LAYERS:
            found = next((one for name, one in self.others if name == layer), "absent")
            if found == "absent":
                continue
            if found is None or isinstance(found, str):
                raise StructureInvalid("the position buffer cannot be found")
            across, down = (images // self.divisions for images in self.grid)
            size = POSITION_BYTES * across * down
            if across * down > POSITIONS or found.length > size + 4096:
                raise StructureInvalid("the position buffer is larger than its slide")
            packed = self.data[found.file].read(found.offset, found.length)
            data = _inflate(packed, size) if layer == _LAYERS[1] else packed
            if len(data) != size:
                raise StructureInvalid("the position buffer is not of its slide's size")
            return layer, data, found
        return "", b"", None

    def dropped_texts(self, used: _Record | None) -> Iterator[bytes]:
        """The words of dropped records: what a picture says beside its pixels, and texts, unpacked if need be. The
        head of a data file repeats the SLIDE_ID, and is dropped too."""
        for source in self.data:
            yield _HEAD.match(source.read(0, min(HEAD_BYTES, source.size_bytes)))[0]  # type: ignore[index]
        seen = 0
        for _, record in self.others:
            if record is None or record == used or seen >= TEXT_RECORDS:
                continue
            seen += 1
            data = self.data[record.file].read(record.offset, min(record.length, TEXT_BYTES))
            if data[:2] == b"\xff\xd8":
                yield from streams.jpeg_texts(data)
            elif data[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
                yield _as_text(_inflate(data, TEXT_BYTES, partial=True))
            else:
                yield _as_text(data)

    # -- the pictures themselves

    def cuts(self, levels: tuple[MiraxLevel, ...], used: _Record | None) -> dict[tuple[int, int, int], Cut]:
        """Look at every picture of the pyramid; those that hold more than pixels, and what of them is copied."""
        cuts: dict[tuple[int, int, int], Cut] = {}
        self._check_apart(levels, used)
        total = sum(sum(level.tiles.length) for level in levels)
        stride = max(1, -(-total // THOROUGH_BYTES))
        for level in levels:
            whole = np.stack([np.frombuffer(part, "i8") for part in (level.tiles.file, level.tiles.offset,
                                                                   level.tiles.length)], axis=1)  # fmt: skip
            ranges = np.unique(whole, axis=0)
            for file in np.unique(ranges[:, 0]).tolist():
                own = ranges[ranges[:, 0] == file][:, 1:].tolist()
                for offset, length, cut in _Examiner(level, self.data[file]).all(own, stride):
                    if cut.ranges != ((offset, length),):
                        cuts[(file, offset, length)] = cut
        return cuts

    def _check_apart(self, levels: tuple[MiraxLevel, ...], used: _Record | None) -> None:
        """Two pictures may be the same one, but not overlap: so is a label smuggled into a level. A label that the
        pyramid names as a picture of its own is refused as well."""
        columns = [
            np.concatenate([np.frombuffer(getattr(level.tiles, name), "i8") for level in levels])
            for name in ("file", "offset", "length")
        ]
        ranges = np.unique(np.stack(columns, axis=1), axis=0)
        file, start, end = ranges[:, 0], ranges[:, 1], ranges[:, 1] + ranges[:, 2]
        if ((file[1:] == file[:-1]) & (start[1:] < end[:-1])).any():
            raise StructureInvalid("two pictures of the pyramid share bytes")
        keys = file << 40 | start  # a file ends below 2 GiB
        for _, record in self.others:
            if record is None or not record.length:
                continue
            at = int(np.searchsorted(keys, record.file << 40 | record.offset + record.length)) - 1
            if at >= 0 and file[at] == record.file and end[at] > record.offset:
                raise StructureInvalid("a record outside the pyramid shares bytes with it")


def _inflate(data: bytes, size: int, *, partial: bool = False) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, size + (not partial))
    except zlib.error:
        if partial:
            return b""
        raise StructureInvalid("the position buffer is damaged") from None
    if not partial and (not unpacker.eof or unpacker.unused_data):
        raise StructureInvalid("the position buffer does not end where its stream ends")
    return found


def _as_text(data: bytes) -> bytes:
    """Words of a text, b"" for numbers and pictures: of those there is nothing to seek."""
    head = data[:4096].replace(b"\0", b"")
    printable = sum(byte in b"\r\n\t" or byte >= 32 for byte in head)
    return data if head and printable >= 0.95 * len(head) else b""


class _Examiner:
    """One level's pictures in one data file."""

    def __init__(self, level: MiraxLevel, source: ByteSource) -> None:
        self._coding = level.coding
        self._size = (level.image_width, level.image_height)
        self._source = source
        self._heads: tuple[bytes, ...] = ()
        self._longest = _FIRST_GUESS

    def all(self, ranges: list[list[int]], stride: int) -> Iterator[tuple[int, int, Cut]]:
        """(offset, length, what is copied) of pictures that were looked at as a whole or have more than pixels."""
        if any(length > streams.PICTURE_BYTES for _, length in ranges):
            raise StructureInvalid(f"a picture above {streams.PICTURE_BYTES} bytes")
        if self._coding == "JPEG":
            yield from self._jpegs(ranges, stride)
            return
        for number, (offset, length) in enumerate(ranges):
            yield offset, length, self._other(offset, self._source.read(offset, length), whole=number % stride == 0)

    def _other(self, offset: int, data: bytes, *, whole: bool) -> Cut:
        if self._coding == "BMP24":
            return streams.bmp_cut(offset, data, width=self._size[0], height=self._size[1])
        if streams.png_size(data) != self._size:
            raise StructureInvalid("a picture has another size than its level says")
        return streams.png_cut(offset, data, inflate=whole)

    def _jpegs(self, ranges: list[list[int]], stride: int) -> Iterator[tuple[int, int, Cut]]:
        """Of neighbours the tail of one and the head of the next come with one read, and a known head is not parsed
        again: a slide has a million pictures."""
        read, previous = self._source.read, (0, 0)
        for number, (offset, length) in enumerate(ranges):
            joined = _TAIL if previous[1] and sum(previous) == offset else 0
            data = read(offset - joined, joined + min(length, self._longest))
            if previous[1]:
                tail = data[:joined] if joined else read(sum(previous) - _TAIL, _TAIL)
                if not tail.endswith(_END):
                    yield (*previous, self._jpeg(*previous, whole=True))
            previous = (0, 0)
            if number % stride and length >= _TAIL and data.startswith(self._heads or b"\0", joined):
                previous = (offset, length)
            else:
                yield offset, length, self._jpeg(offset, length, whole=number % stride == 0)
        if previous[1] and not read(sum(previous) - _TAIL, _TAIL).endswith(_END):
            yield (*previous, self._jpeg(*previous, whole=True))

    def _jpeg(self, offset: int, length: int, *, whole: bool) -> Cut:
        data = self._source.read(offset, length if whole else min(length, streams.HEADER_BYTES))
        size, wide, high, dropped = streams.jpeg_header(data)
        if (wide, high) != self._size:
            raise StructureInvalid("a picture has another size than its level says")
        if not dropped and len(self._heads) < _HEADS and data[:size] not in self._heads:
            self._heads = (*self._heads, data[:size])
            self._longest = max(self._longest, size)
        if whole or dropped or len(data) < length:
            return streams.jpeg_cut(offset, data if len(data) == length else self._source.read(offset, length))
        return streams.jpeg_cut(offset, data)


def is_mine(suffix: str, names: Iterable[str]) -> bool:
    """The main file is a picture that no reader looks at: its name and the folder beside it say what it is."""
    return suffix == ".mrxs" and any(posixpath.basename(name).casefold() == "slidedat.ini" for name in names)
