"""Hamamatsu VMS: an index text, large JPEGs with restart markers side by side, a small one of the whole (the map), an
overview, and a list of restart positions that readers take as a hint at most.

Pictures of focal planes are named `ImageFile(layer,column,row)`; older texts leave out what is zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from mover.errors import StructureInvalid
from mover.model.folders import KeyText, VmsPart, VmsScan
from mover.model.source import ByteSource
from scanners import keyfile, streams
from scanners.codestream import read_jpeg_header

SECTION: Final = "Virtual Microscope Specimen"
# OpenSlide reads no larger one.
TEXT_BYTES: Final = 64 << 10
PARTS: Final = 900
STRAY_BYTES: Final = 1 << 20
STRAYS: Final = 64
_IMAGE: Final = re.compile(r"ImageFile(?:\(([0-9]{1,4})(?:,([0-9]{1,4}))?(?:,([0-9]{1,4}))?\))?")


def is_mine(main: ByteSource) -> bool:
    if main.size_bytes > TEXT_BYTES:
        return False
    head = main.read(0, main.size_bytes).replace(b"\0", b"")
    return f"[{SECTION}]".encode() in head


def scan(main: ByteSource, files: Mapping[str, ByteSource]) -> VmsScan:
    """`files` by name relative to the main file. Raises StructureInvalid where the slide contradicts itself,
    PlaceUnknown where a picture holds what no decoder needs and nobody knows."""
    text = keyfile.parse(main.read(0, main.size_bytes))
    columns = keyfile.number(text, SECTION, "NoJpegColumns", 1, 100)
    rows = keyfile.number(text, SECTION, "NoJpegRows", 1, 100)
    layers = keyfile.number(text, SECTION, "NoLayers", 1, 100, 1)
    named = _images(text, columns, rows, layers)
    named[(-1, 0, 0)] = text.get(SECTION, "MapFile") or ""
    if len(named) > PARTS or len(set(named.values())) != len(named):
        raise StructureInvalid("a slide of too many pictures, or of one picture twice")
    parts, texts = [], []
    for place in sorted(named, key=lambda place: (place[0] < 0, place)):
        part, words = _part(files, named[place], place)
        parts.append(part)
        texts += words
    strays = tuple(sorted(set(files) - {part.name for part in parts}))
    for name in strays[:STRAYS]:
        texts += streams.jpeg_texts(files[name].read(0, min(STRAY_BYTES, files[name].size_bytes)))
    return VmsScan(text, columns, rows, layers, tuple(parts), tuple(texts), strays)


def _images(text: KeyText, columns: int, rows: int, layers: int) -> dict[tuple[int, int, int], str]:
    """(layer, column, row) of every picture. The first focal plane must be whole; others are if they are there."""
    found: dict[tuple[int, int, int], str] = {}
    for line in text.lines:
        match = _IMAGE.fullmatch(line.key)
        if line.section != SECTION or match is None:
            continue
        numbers = [int(one) for one in match.groups() if one is not None]
        place = {0: (0, 0, 0), 1: (*numbers, 0, 0), 2: (0, *numbers), 3: tuple(numbers)}[len(numbers)]
        layer, column, row = place
        if column >= columns or row >= rows or layer >= layers or (layer, column, row) in found:
            raise StructureInvalid("the index text names a picture where none can lie, or twice")
        found[(layer, column, row)] = line.value
    if any((0, column, row) not in found for column in range(columns) for row in range(rows)):
        raise StructureInvalid("the index text does not name every picture")
    return found


def _part(files: Mapping[str, ByteSource], name: str, place: tuple[int, int, int]) -> tuple[VmsPart, list[bytes]]:
    """One JPEG, looked at from its first marker to its last, and the words of what is cut away."""
    if not name or "/" in name or "\\" in name:
        raise StructureInvalid("the index text names a part in no usable way")
    found = [name] if name in files else [one for one in files if one.casefold() == name.casefold()]
    if len(found) != 1:
        raise StructureInvalid("a part that the index text names is not there")
    source = files[found[0]]
    head = source.read(0, min(streams.HEADER_BYTES, source.size_bytes))
    size, width, height, dropped = streams.jpeg_header(head)
    clean = b"".join(head[at : at + length] for at, length in streams.without(0, size, dropped).ranges)
    header = read_jpeg_header(clean)
    if not header.restart_interval:
        raise StructureInvalid("a picture of a VMS slide without restart markers")
    cut = streams.without(0, streams.scan_end(source, size), dropped)
    part = VmsPart(
        name=found[0],
        layer=place[0],
        column=place[1],
        row=place[2],
        width=width,
        height=height,
        tile_width=header.restart_interval * header.mcu_width,
        tile_height=header.mcu_height,
        header_bytes=size,
        cut=cut,
    )
    return part, streams.jpeg_texts(head)
