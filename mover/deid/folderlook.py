"""Read the indexes of a de-identified slide of several files a second time, with other code and other lists.

`configparser` takes the index text apart; every section, key and value is held against forms that are written down
here once more, on purpose. The binary index is walked over its literal bytes, and every byte of it is accounted for.
"""

from __future__ import annotations

import configparser
import re
import struct
from typing import Final

import numpy as np
from msgspec import Struct

from mover.errors import RedactionUnproven

_ID: Final = "[0-9A-F]{32}"
_DECIMAL: Final = r"-?[0-9]{1,7}(\.[0-9]{1,20})?([eE][-+]?[0-9]{1,3})?"
_TEXT: Final = {
    r"GENERAL": {
        r"SLIDE_ID": _ID,
        r"SLIDE_VERSION|CURRENT_SLIDE_VERSION": r"[0-9]{1,2}\.[0-9]{1,2}",
        r"SLIDE_TYPE": r"SLIDE_TYPE_[A-Z]{5,12}(_BF)?",
        r"IMAGENUMBER_[XY]|OBJECTIVE_MAGNIFICATION|CameraImageDivisionsPerSide|COMPRESSION_FACTOR": r"[0-9]{1,7}",
        r"SLIDE_BITDEPTH": r"[0-9]{1,2}",
        r"OUTPUT_RESOLUTION|ADAPTER_SIZE": r"[0-9]{1,4}(\.[0-9]{1,8})?",
        r"OBJECTIVE_NAME": r"[A-Za-z]{1,9}([- ][A-Za-z]{4,12}){0,2} [0-9]{1,3}[xX](/[0-9]\.[0-9]{1,2})?",
        r"COMPRESSION": r"JPEG|PNG|BMP24",
        r"SLIDE_IS_DOUBLE_WIDE|SLIDE_CREATION_FINISHED": r"(?i:true|false)",
    },
    r"HIERARCHICAL": {
        r"HIER_COUNT": r"1",
        r"NONHIER_COUNT": r"[01]",
        r"INDEXFILE": r"Index\.dat",
        r"HIER_0_NAME": r"Slide zoom level",
        r"(NON)?HIER_0_COUNT": r"[0-9]{1,2}",
        r"HIER_0_VAL_[0-9]{1,2}": r"ZoomLevel_[0-9]{1,2}",
        r"HIER_0_VAL_[0-9]{1,2}_SECTION": r"LAYER_0_LEVEL_[0-9]{1,2}_SECTION",
        r"NONHIER_0_NAME": r"VIMSLIDE_POSITION_BUFFER|StitchingIntensityLayer",
        r"NONHIER_0_VAL_0": r"default",
        r"NONHIER_0_VAL_0_SECTION": r"NONHIERLAYER_0_LEVEL_0_SECTION",
    },
    r"DATAFILE": {r"FILE_COUNT": r"[0-9]{1,4}", r"FILE_[0-9]{1,4}": r"Data[0-9]{4}\.dat"},
    r"LAYER_0_LEVEL_[0-9]{1,2}_SECTION": {
        r"OVERLAP_[XY]|MICROMETER_PER_PIXEL_[XY]": _DECIMAL,
        r"IMAGE_FORMAT": r"JPEG|PNG|BMP24",
        r"IMAGE_FILL_COLOR_BGR": r"[0-9]{1,8}",
        r"DIGITIZER_(WIDTH|HEIGHT)": r"[0-9]{1,5}",
        r"IMAGE_CONCAT_FACTOR|IMAGE_COMPRESSION_FACTOR": r"[0-9]{1,3}",
    },
    r"NONHIERLAYER_0_LEVEL_0_SECTION": {r"VIMSLIDE_POSITION_DATA_FORMAT_VERSION": r"257"},
}


class SeenMirax(Struct, frozen=True):
    """What the indexes of an output say: data files by name, each level's pictures (number in the grid, offset,
    length, file), and where the positions lie, `None` without any."""

    data: tuple[str, ...]
    levels: tuple[np.ndarray, ...]
    positions: tuple[int, int, int] | None
    head: bytes
    keys: int
    text: str


def look_at_mirax(ini: bytes, index: bytes) -> SeenMirax:
    parsed = _parse(ini)
    keys = 0
    for section in parsed.sections():
        rules = next((rules for form, rules in _TEXT.items() if re.fullmatch(form, section)), None)
        if rules is None:
            raise RedactionUnproven("a section may not stand in the output's index text")
        for key, value in parsed.items(section):
            if not any(re.fullmatch(form, key) and re.fullmatch(rule, value) for form, rule in rules.items()):
                raise RedactionUnproven("a key or its value may not stand in the output's index text")
            keys += 1
    try:
        general, tree, files = parsed["GENERAL"], parsed["HIERARCHICAL"], parsed["DATAFILE"]
        head = b"01.02" + general["SLIDE_ID"].encode()
        data = tuple(files[f"FILE_{number}"] for number in range(int(files["FILE_COUNT"])))
        levels, others = int(tree["HIER_0_COUNT"]), int(tree["NONHIER_COUNT"])
    except (KeyError, ValueError) as error:
        raise RedactionUnproven("the output's index text lacks a key") from error
    walk = _Walk(index, head)
    pictures, positions = walk.all(levels, others)
    return SeenMirax(data, pictures, positions, head, keys, ini.decode("ascii", "replace"))


def _parse(ini: bytes) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=(), inline_comment_prefixes=None, strict=True, empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment]
    try:
        parser.read_string(ini.decode("ascii"))
    except (UnicodeDecodeError, configparser.Error) as error:
        raise RedactionUnproven("the output's index text is none") from error
    written = "".join(f"[{one}]" + "".join(f"{k} = {v}" for k, v in parser.items(one)) for one in parser.sections())
    if parser.defaults() or written != ini.decode("ascii").replace("\r\n", ""):
        raise RedactionUnproven("the output's index text holds more than its keys")
    return parser


class _Walk:
    """Follow every pointer of a binary index and remember what was read: in the end, that is all there is."""

    def __init__(self, data: bytes, head: bytes) -> None:
        self._data = data
        self._read = [(0, len(head))]
        self._head = head

    def all(self, levels: int, others: int) -> tuple[tuple[np.ndarray, ...], tuple[int, int, int] | None]:
        if self._data[: len(self._head)] != self._head or others > 1:
            raise RedactionUnproven("the output's binary index does not start as it must")
        tree, rest = self._take("<2i", len(self._head))
        pictures = tuple(self._pictures(at) for at in self._take(f"<{levels}i", tree))
        positions = None
        if others:
            (record,) = self._take("<i", rest)
            zero, page = self._take("<2i", record)
            count, after, first, second, *place = self._take("<7i", page)
            if (zero, count, after, first, second) != (0, 1, 0, 0, 0):
                raise RedactionUnproven("a record of the output's binary index is not of its form")
            positions = (place[0], place[1], place[2])
        self._read.sort()
        end = 0
        for at, length in self._read:
            if at != end:
                raise RedactionUnproven("bytes of the output's binary index belong to no record")
            end = at + length
        if end != len(self._data):
            raise RedactionUnproven("bytes of the output's binary index belong to no record")
        return pictures, positions

    def _pictures(self, record: int) -> np.ndarray:
        zero, page = self._take("<2i", record)
        count, after = self._take("<2i", page)
        if zero or after or count < 0:
            raise RedactionUnproven("a record of the output's binary index is not of its form")
        self._take(f"<{count * 16}x", page + 8)
        return np.frombuffer(self._data, "<i4", count * 4, page + 8).reshape(-1, 4).astype("i8")

    def _take(self, form: str, at: int) -> tuple[int, ...]:
        length = struct.calcsize(form)
        if at < 0 or at + length > len(self._data):
            raise RedactionUnproven("a pointer leaves the output's binary index")
        if length:
            self._read.append((at, length))
        return struct.unpack_from(form, self._data, at)
