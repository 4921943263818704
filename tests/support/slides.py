"""Small slides made in memory, with anything planted anywhere: the tests' own writer, sharing no code with ours."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence

import imagecodecs
import numpy as np
from msgspec import Struct
from PIL import Image, ImageCms, ImageDraw

_CODES = {1: "B", 3: "H", 4: "I", 5: "I", 9: "i", 11: "f", 16: "Q"}

APERIO_KEYS = (
    "AppMag = 20|StripeWidth = 2040|ScanScope ID = SS7719|Filename = S24-771001|Date = 03/04/24|Time = 11:22:33"
    "|User = b414003d-95c6-48b0-9369-8010ed517ba7|Parmset = USM Filter|MPP = 0.4990|Left = 25.691574"
    "|Top = 23.449873|LineCameraSkew = -0.000424|Exposure Time = 109|Filtered = 5|OriginalWidth = 46000"
)


class Entry(Struct, frozen=True):
    code: int
    kind: int
    data: bytes
    count: int


class Picture(Struct, frozen=True):
    """One directory to be: its tags without locations, and its encoded segments."""

    entries: tuple[Entry, ...]
    segments: tuple[bytes, ...]
    tiled: bool


class Layout(Struct, frozen=True):
    """How the file is put together; `gap` stands between any two segments, `tail` after everything."""

    big: bool = False
    order: str = "<"
    gap: bytes = b""
    tail: bytes = b""


def entry(code: int, kind: int, *values: float, order: str = "<") -> Entry:
    count = len(values) // 2 if kind == 5 else len(values)
    return Entry(code, kind, struct.pack(f"{order}{len(values)}{_CODES[kind]}", *values), count)


def text(code: int, value: str | bytes) -> Entry:
    data = (value if isinstance(value, bytes) else value.encode()) + b"\0"
    return Entry(code, 2, data, len(data))


def raw(code: int, data: bytes, kind: int = 7) -> Entry:
    return Entry(code, kind, data, len(data))


def tissue(width: int, height: int, seed: int = 1, tile: int = 1) -> np.ndarray:
    """Smooth pink and purple noise that compresses like tissue: the same picture in every size, as levels are. Filled
    up to whole tiles."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(90, 250, (12, 16, 3), np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))
    return np.pad(pixels, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")


def label_picture(words: str, width: int = 200, height: int = 240) -> np.ndarray:
    picture = Image.new("RGB", (width, height), (250, 250, 240))
    ImageDraw.Draw(picture).text((10, 100), words, fill=(0, 0, 0))
    return np.asarray(picture)


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=80, subsampling=0)
    return stream.getvalue()


def icc(description: str = "sRGB built-in") -> bytes:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    if description != "sRGB built-in":
        at = profile.index("sRGB built-in".encode("utf-16-be"))
        wide = description.encode("utf-16-be")[:26].ljust(26, b"\0")
        profile[at : at + 26] = wide
    return bytes(profile)


# --- Aperio --------------------------------------------------------------------------------------------


def level(
    size: tuple[int, int],
    *,
    description: str | bytes = "",
    tile: int = 64,
    order: str = "<",
    extra: Sequence[Entry] = (),
    encode: Callable[[np.ndarray], bytes] = jpeg,
    compression: int = 7,
    empty: frozenset[int] = frozenset(),
) -> Picture:
    width, height = size
    pixels = tissue(width, height, tile=tile)
    tiles = [encode(pixels[y : y + tile, x : x + tile]) for y in range(0, height, tile) for x in range(0, width, tile)]
    tiles = [b"" if number in empty else data for number, data in enumerate(tiles)]
    entries = [
        entry(254, 4, 0, order=order),
        entry(256, 4, width, order=order),
        entry(257, 4, height, order=order),
        entry(258, 3, 8, 8, 8, order=order),
        entry(259, 3, compression, order=order),
        entry(262, 3, 6 if compression == 7 else 2, order=order),
        text(270, description),
        entry(277, 3, 3, order=order),
        entry(284, 3, 1, order=order),
        entry(322, 4, tile, order=order),
        entry(323, 4, tile, order=order),
        entry(530, 3, 1, 1, order=order),
        *extra,
    ]
    return Picture(tuple(entries), tuple(tiles), True)


def strips(
    pixels: np.ndarray, *, kind: int = 0, description: str | None = None, order: str = "<", extra: Sequence[Entry] = ()
) -> Picture:
    height, width = pixels.shape[:2]
    entries = [
        entry(254, 4, kind, order=order),
        entry(256, 4, width, order=order),
        entry(257, 4, height, order=order),
        entry(258, 3, 8, 8, 8, order=order),
        entry(259, 3, 7, order=order),
        entry(262, 3, 6, order=order),
        *([text(270, description)] if description is not None else []),
        entry(277, 3, 3, order=order),
        entry(278, 4, height, order=order),
        entry(284, 3, 1, order=order),
        entry(530, 3, 1, 1, order=order),
        *extra,
    ]
    return Picture(tuple(entries), (jpeg(pixels),), False)


def svs(
    *,
    keys: str | bytes = APERIO_KEYS,
    extra: Sequence[Entry] = (),
    layout: Layout = Layout(),  # noqa: B008 - a frozen value
    gt450: bool = False,
    label: str = "S24-771001 Quincy",
    size: tuple[int, int] = (320, 256),
    encode: Callable[[np.ndarray], bytes] = jpeg,
    compression: int = 7,
    empty: frozenset[int] = frozenset(),
    thumbnail: np.ndarray | None = None,
    leave_out: frozenset[int] = frozenset(),
) -> bytes:
    """A whole slide: baseline, thumbnail, one deeper level, label and overview; `leave_out` names directories."""
    order = layout.order
    wide, high = size
    head = f"Aperio Image Library v12.0.15\r\n{wide}x{high} [0,0 {wide}x{high}] (64x64) JPEG/RGB Q=80"
    told = head.encode() + b"|" + (keys if isinstance(keys, bytes) else keys.encode())
    codec = {"encode": encode, "compression": compression, "order": order}
    below = (wide // 4, high // 4)
    pictures = [
        level(size, description=told, extra=extra, empty=empty, **codec),  # type: ignore[arg-type]
        strips(tissue(*below) if thumbnail is None else thumbnail, description=told.decode("latin-1"), order=order),
        level(below, description=f"{head} -> {below[0]}x{below[1]} JPEG/RGB Q=80", **codec),  # type: ignore[arg-type]
        strips(
            label_picture(label),
            kind=1,
            description=None if gt450 else "Aperio Image Library v12.0.15\r\nlabel 200x240",
            order=order,
        ),
        strips(
            label_picture(label, 300, 100),
            kind=9,
            description=None if gt450 else "Aperio Image Library v12.0.15\r\nmacro 300x100",
            order=order,
        ),
    ]
    return assemble([one for number, one in enumerate(pictures) if number not in leave_out], layout)


def jp2k(pixels: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=80, codecformat="J2K"))


def assemble(pictures: Sequence[Picture], layout: Layout = Layout()) -> bytes:  # noqa: B008 - a frozen value
    """Segments first, each followed by the gap, then directories chained in order, then the tail."""
    order, big = layout.order, layout.big
    out = bytearray(b"II" if order == "<" else b"MM")
    out += struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 0) if big else (42, 0)))
    chain = 8 if big else 4
    for picture in pictures:
        offsets, counts = [], []
        for segment in picture.segments:
            offsets.append(len(out) if segment else 0)
            counts.append(len(segment))
            out += segment + layout.gap
        where, how_long = (324, 325) if picture.tiled else (273, 279)
        located = [entry(where, 16 if big else 4, *offsets, order=order), entry(how_long, 4, *counts, order=order)]
        chain = _directory(out, [*picture.entries, *located], layout, chain)
    return bytes(out + layout.tail)


def _directory(out: bytearray, entries: list[Entry], layout: Layout, chain: int) -> int:
    order, big = layout.order, layout.big
    word, room = ("Q", 8) if big else ("I", 4)
    fields = []
    for one in sorted(entries, key=lambda one: one.code):
        data = one.data
        if len(data) > room:
            out += bytes(-len(out) % 8)
            data = struct.pack(order + word, len(out))
            out += one.data
        fields.append(struct.pack(order + "HH" + word, one.code, one.kind, one.count) + data.ljust(room, b"\0"))
    out += bytes(-len(out) % 8)
    struct.pack_into(order + word, out, chain, len(out))
    out += struct.pack(order + ("Q" if big else "H"), len(fields)) + b"".join(fields)
    out += bytes(room)
    return len(out) - room


# --- Hamamatsu -----------------------------------------------------------------------------------------

PROPERTIES = "Created=2024/03/04\r\nProduct=C13210\r\nNDP.S/N=770011\r\nObjective.Lens.Magnificant=17.58\r\n"


def ndpi(
    *,
    reference: str = "S24-771001_Quincy",
    properties: str = PROPERTIES,
    extra: Sequence[Entry] = (),
    comment: bytes = b"Hamamatsu NanoZoomer Digital Pathology\0",
    size: tuple[int, int] = (256, 192),
    tail: bytes = b"",
    planes: int = 1,
    positions: bool = True,
    overview: np.ndarray | None = None,
) -> bytes:
    """A native NDPI: two levels with restart markers, an overview that shows the label, a map."""
    out = bytearray(b"II" + struct.pack("<HQ", 42, 0))
    chain = 4
    shared = [
        text(271, "Hamamatsu"), text(272, "C13210"), text(305, "NDP.scan 3.2.15"), text(306, "2024:03:04 11:22:33"),
        entry(65420, 3, 1), entry(65422, 9, 12_538_720), entry(65423, 9, -96_063), entry(65424, 9, 0),
        text(65427, reference), entry(65441, 4, 1), text(65442, "770011"), text(65449, properties),
        text(65468, "S24-771001;A1"), *extra,
    ]  # fmt: skip
    for plane, scale in ((plane, scale) for plane in range(planes) for scale in (1, 4)):
        wide, high = size[0] // scale, size[1] // scale
        data, starts = restart_jpeg(tissue(wide, high, plane + 1), comment)
        tags = [one for one in shared if one.code != 65424] + [entry(65424, 9, 1000 * plane)]
        tags += [entry(65426, 4, *starts)] if positions else []
        chain = _ndpi_page(out, chain, data, (wide, high), 20.0 / scale, tags)
    seen = label_picture(reference, 300, 100) if overview is None else overview
    chain = _ndpi_page(out, chain, _with_comment(jpeg(seen), comment), (seen.shape[1], seen.shape[0]), -1.0, shared)
    _ndpi_page(out, chain, bytes(40 * 20), (40, 20), -2.0, shared, grey=True)
    return bytes(out + tail)


def restart_jpeg(pixels: np.ndarray, comment: bytes = b"") -> tuple[bytes, list[int]]:
    """A JPEG with one restart interval per row of blocks, and where each interval starts."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=80, subsampling=0, restart_marker_rows=1)
    data = _with_comment(stream.getvalue(), comment)
    scan = data.index(b"\xff\xda")
    at = scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")
    starts = [at]
    while at < len(data) - 2:
        if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7:
            starts.append(at + 2)
        at += 1
    return data, starts


def _with_comment(data: bytes, comment: bytes) -> bytes:
    at = 4 + int.from_bytes(data[4:6], "big")
    segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment if comment else b""
    return data[:at] + segment + data[at:]


def _ndpi_page(
    out: bytearray,
    chain: int,
    data: bytes,
    size: tuple[int, int],
    lens: float,
    shared: Sequence[Entry],
    *,
    grey: bool = False,
) -> int:
    strip = len(out)
    out += data
    entries = [
        entry(256, 4, size[0]), entry(257, 4, size[1]), entry(273, 4, strip), entry(278, 4, size[1]),
        entry(279, 4, len(data)), entry(282, 5, 21906, 1), entry(283, 5, 21906, 1), entry(296, 3, 3),
        entry(65421, 11, lens), *shared,
    ]  # fmt: skip
    entries += (
        [entry(258, 3, 8), entry(259, 3, 1), entry(262, 3, 1)]
        if grey
        else [entry(258, 3, 8, 8, 8), entry(259, 3, 7), entry(262, 3, 6), entry(277, 3, 3), entry(530, 3, 1, 1)]
    )
    fields = []
    for one in sorted(entries, key=lambda one: one.code):
        field = one.data
        if len(field) > 4:
            field = struct.pack("<I", len(out))
            out += one.data
        fields.append(struct.pack("<HHI", one.code, one.kind, one.count) + field.ljust(4, b"\0"))
    struct.pack_into("<Q", out, chain, len(out))
    out += struct.pack("<H", len(fields)) + b"".join(fields)
    following = len(out)
    out += bytes(8 + 4 * len(fields))
    return following


def run_recipe(source: bytes, segments: Sequence[object]) -> bytes:
    """What a recipe says, carried out in memory."""
    from mover.model.recipe import Copy, Literal

    parts = []
    for segment in segments:
        if isinstance(segment, Copy):
            parts.append(source[segment.offset : segment.offset + segment.length])
        else:
            assert isinstance(segment, Literal)
            parts.append(segment.data)
    return b"".join(parts)
