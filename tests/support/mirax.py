"""Small 3DHISTECH slides made in memory, with anything planted anywhere; shares no code with ours."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from PIL import Image

from tests.support import slides

SLIDE_ID = "03FB44B273BA93C438ADA19DF2842449"
GENERAL = (
    ("SLIDE_NAME", "S24-771001 Quincy"), ("PROJECT_NAME", "General Hospital"),
    ("SLIDE_CREATIONDATETIME", "20/09/2019 10:21:56"), ("SLIDE_UTC_CREATIONDATETIME", "20/09/2019 15:21:56"),
)  # fmt: skip


class Extra(Struct, frozen=True):
    """A record outside the pyramid: its layer, its name there, and what it holds."""

    layer: str
    name: str
    data: bytes
    keys: tuple[tuple[str, str], ...] = ()


class Shape(Struct, frozen=True):
    grid: tuple[int, int] = (4, 4)
    image: tuple[int, int] = (64, 64)
    levels: int = 2
    divisions: int = 1
    overlap: tuple[float, float] = (0, 0)
    positions: str = ""
    coding: str = "JPEG"
    first_concat: int = 0
    files: int = 2
    missing: frozenset[int] = frozenset()
    strange: frozenset[int] = frozenset()  # levels of another slide


def picture(words: str, size: tuple[int, int] = (200, 240)) -> bytes:
    return slides.jpeg(slides.label_picture(words, *size))


def label_records(words: str) -> tuple[Extra, ...]:
    scan = "Scan data layer"
    profile = f'<?xml version="1.0"?><Profile><User>{words}</User><Scanner>P250</Scanner></Profile>'.encode()
    return (
        Extra(scan, "ScanDataLayer_SlideThumbnail", picture(words, (300, 100)), (("THUMBNAIL_IMAGE_TYPE", "JPEG"),
                                                                              ("SCANNER_HARDWARE_ID", "P250-771001"))),
        Extra(scan, "ScanDataLayer_SlideBarcode", picture(words), (("BARCODE_IMAGE_TYPE", "JPEG"),)),
        Extra(scan, "ScanDataLayer_SlidePreview", picture(words, (100, 100)), (("PREVIEW_IMAGE_TYPE", "JPEG"),)),
        Extra(scan, "ScanDataLayer_ProfileXml", profile),
        Extra(scan, "ScanDataLayer_ProfileXmlPacked", zlib.compress(profile)),
    )  # fmt: skip


def encode(coding: str, pixels: np.ndarray) -> bytes:
    if coding == "JPEG":
        return slides.jpeg(pixels)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG" if coding == "PNG" else "BMP")
    return target.getvalue()


def mirax(
    shape: Shape = Shape(),  # noqa: B008 - a frozen value
    *,
    stem: str = "S24-771001",
    general: Sequence[tuple[str, str]] = GENERAL,
    level_keys: Sequence[tuple[str, str]] = (),
    lines: Sequence[str] = (),
    extras: Sequence[Extra] = label_records("Quincy"),
    slide_id: str = SLIDE_ID,
    gap: bytes = b"",
    tail: bytes = b"",
    dress: Callable[[bytes], bytes] = lambda data: data,
    coding: str = "utf-8-sig",
    newline: str = "\r\n",
    index_name: str = "Index.dat",
    data_name: str = "Data{:04d}.dat",
    main: bytes = b"",
    strays: dict[str, bytes] | None = None,
) -> tuple[bytes, dict[str, bytes]]:
    """(the .mrxs file, everything beside it by name). `dress` changes every encoded picture; `gap` stands between
    any two things in a data file, `tail` at the end of all."""
    head = b"01.02" + slide_id.encode()
    data = [bytearray(head + gap) for _ in range(shape.files)]

    def put(what: bytes, number: int) -> tuple[int, int, int]:
        file = number % len(data)
        at = len(data[file])
        data[file] += what + gap
        return at, len(what), file

    records, concat = [], 1 << shape.first_concat
    for level in range(shape.levels):
        concat *= 2 if level else 1
        entries = []
        for y in range(0, shape.grid[1], concat):
            for x in range(0, shape.grid[0], concat):
                number = y * shape.grid[0] + x
                if number in shape.missing:
                    continue
                pixels = _cut(shape, number, concat, strange=level in shape.strange)
                entries.append((number, *put(dress(encode(shape.coding, pixels)), number)))
        records.append(entries)
    placed = [(extra, put(extra.data, number)) for number, extra in enumerate(extras)]
    if shape.positions:
        packed = _positions(shape)
        if shape.positions == "StitchingIntensityLayer":
            packed = zlib.compress(packed)
        placed.insert(0, (Extra(shape.positions, "default", b""), put(packed, 0)))
    files = {f"{stem}/Slidedat.ini": _text(shape, general, level_keys, lines, [one for one, _ in placed], slide_id,
                                           index_name, data_name, newline).encode(coding)}  # fmt: skip
    files[f"{stem}/{index_name}"] = _index(head, records, [place for _, place in placed])
    files |= {f"{stem}/{data_name.format(number)}": bytes(one) + tail for number, one in enumerate(data)}
    files |= {f"{stem}/{name}": what for name, what in (strays or {}).items()}
    return main or picture("Quincy"), files


@functools.cache
def _whole(width: int, height: int, seed: int) -> np.ndarray:
    return slides.tissue(width, height, seed)


def _cut(shape: Shape, number: int, concat: int, *, strange: bool) -> np.ndarray:
    """A picture of a level: its part of the whole slide."""
    (across, down), (wide, high) = shape.grid, shape.image
    whole = _whole(across * wide // concat, down * high // concat, seed=9 if strange else 1)
    x, y = number % across // concat * wide, number // across // concat * high
    part = whole[y : y + high, x : x + wide]
    return np.pad(part, ((0, high - len(part)), (0, wide - part.shape[1]), (0, 0)), mode="edge")


def _positions(shape: Shape) -> bytes:
    """Where the camera stood: the even grid, each place moved by a few pixels."""
    across, down = (images // shape.divisions for images in shape.grid)
    rng, out = np.random.default_rng(5), b""
    for y in range(down):
        for x in range(across):
            left = int(x * (shape.image[0] * shape.divisions - shape.overlap[0])) + int(rng.integers(0, 4))
            top = int(y * (shape.image[1] * shape.divisions - shape.overlap[1])) + int(rng.integers(0, 4))
            out += struct.pack("<Bii", 1, left if x or y else 0, top if x or y else 0)
    return out


def _text(shape, general, level_keys, lines, extras, slide_id, index_name, data_name, newline):  # type: ignore[no-untyped-def]
    layers: dict[str, list[Extra]] = {}
    for extra in extras:
        layers.setdefault(extra.layer, []).append(extra)
    out = ["[GENERAL]", "SLIDE_VERSION = 01.02", f"SLIDE_ID = {slide_id}", *(f"{k} = {v}" for k, v in general)]
    out += [f"IMAGENUMBER_X = {shape.grid[0]}", f"IMAGENUMBER_Y = {shape.grid[1]}", "OBJECTIVE_MAGNIFICATION = 20",
            f"CameraImageDivisionsPerSide = {shape.divisions}", "[HIERARCHICAL]", "HIER_COUNT = 2"]  # fmt: skip
    out += [f"NONHIER_COUNT = {len(layers)}", f"INDEXFILE = {index_name}", "HIER_0_NAME = Slide zoom level"]
    out += [f"HIER_0_COUNT = {shape.levels}", "HIER_1_NAME = Slide filter level", "HIER_1_COUNT = 1",
            "HIER_1_VAL_0 = FilterLevel_0", "HIER_1_VAL_0_SECTION = LAYER_1_LEVEL_0_SECTION"]  # fmt: skip
    for level in range(shape.levels):
        out += [
            f"HIER_0_VAL_{level} = ZoomLevel_{level}",
            f"HIER_0_VAL_{level}_SECTION = LAYER_0_LEVEL_{level}_SECTION",
        ]
    sections: list[tuple[str, Extra]] = []
    for number, (layer, members) in enumerate(layers.items()):
        out += [f"NONHIER_{number}_NAME = {layer}", f"NONHIER_{number}_COUNT = {len(members)}"]
        for value, member in enumerate(members):
            section = f"NONHIERLAYER_{number}_LEVEL_{value}_SECTION"
            out += [f"NONHIER_{number}_VAL_{value} = {member.name}",
                    f"NONHIER_{number}_VAL_{value}_SECTION = {section}"]  # fmt: skip
            sections.append((section, member))
    out += ["[DATAFILE]", f"FILE_COUNT = {shape.files}"]
    out += [f"FILE_{number} = {data_name.format(number)}" for number in range(shape.files)]
    for level in range(shape.levels):
        factor = shape.first_concat if level == 0 else 1
        out += [f"[LAYER_0_LEVEL_{level}_SECTION]", f"OVERLAP_X = {shape.overlap[0] / (1 << level)}",
                f"OVERLAP_Y = {shape.overlap[1] / (1 << level)}", f"MICROMETER_PER_PIXEL_X = {0.25 * (1 << level)}",
                f"MICROMETER_PER_PIXEL_Y = {0.25 * (1 << level)}", f"IMAGE_FORMAT = {shape.coding}",
                "IMAGE_FILL_COLOR_BGR = 16777215", f"DIGITIZER_WIDTH = {shape.image[0]}",
                f"DIGITIZER_HEIGHT = {shape.image[1]}", f"IMAGE_CONCAT_FACTOR = {factor}",
                *(f"{k} = {v}" for k, v in level_keys)]  # fmt: skip
    for section, member in sections:
        out += [f"[{section}]", *(f"{k} = {v}" for k, v in member.keys), "LEVEL_VERSION = 01.00"]
    return newline.join([*out, *lines, ""])


def _index(head: bytes, levels: list[list[tuple[int, int, int, int]]], others: list[tuple[int, int, int]]) -> bytes:
    """As the slides in the wild: an empty first page, then pages of at most a few entries each."""
    table = len(head) + 8
    rest = table + 4 * len(levels)
    at = rest + 4 * len(others)
    pointers, body = [], b""

    def record(pages: list[bytes]) -> None:
        nonlocal at, body
        pointers.append(at)
        body += struct.pack("<2i", 0, at + 8 if pages else 0)
        at += 8
        for number, page in enumerate(pages):
            following = at + 8 + len(page) if number + 1 < len(pages) else 0
            count = len(page) // 16 if len(page) % 20 or len(page) != 20 else 1
            body += struct.pack("<2i", count, following) + page
            at += 8 + len(page)

    for entries in levels:
        packed = [struct.pack("<4i", *entry) for entry in entries]
        record([b"".join(packed[start : start + 7]) for start in range(0, len(packed), 7)] or [b""])
    for offset, length, file in others:
        record([struct.pack("<5i", 0, 0, offset, length, file)])
    return head + struct.pack("<2i", table, rest) + struct.pack(f"<{len(pointers)}i", *pointers) + body
