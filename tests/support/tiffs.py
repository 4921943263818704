"""Small pyramids of no vendor, OME-TIFFs and Philips TIFFs, with anything planted anywhere: the tests' own writer."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import imagecodecs
import numpy as np
from msgspec import Struct

from tests.support import slides
from tests.support.slides import Entry, Layout, Picture, entry, jpeg, label_picture, text, tissue

OME_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


class Sheet(Struct, frozen=True):
    """A directory to be, with those that stand in its SubIFDs."""

    picture: Picture
    children: tuple[Sheet, ...] = ()


ENCODERS: dict[int, Callable[[np.ndarray], bytes]] = {
    1: lambda pixels: pixels.tobytes(),
    5: lambda pixels: bytes(imagecodecs.lzw_encode(pixels.tobytes())),
    7: jpeg,
    8: lambda pixels: zlib.compress(pixels.tobytes()),
    33005: slides.jp2k,
    50000: lambda pixels: bytes(imagecodecs.zstd_encode(pixels.tobytes())),
    50001: lambda pixels: bytes(imagecodecs.webp_encode(pixels, lossless=True)),
}


def tiles(
    size: tuple[int, int],
    *,
    compression: int = 7,
    kind: int | None = 0,
    tile: int = 64,
    order: str = "<",
    seed: int = 1,
    extra: Sequence[Entry] = (),
    description: str | None = None,
    encode: Callable[[np.ndarray], bytes] | None = None,
    pixels: np.ndarray | None = None,
    empty: frozenset[int] = frozenset(),
    samples: int = 3,
    bits: int = 8,
) -> Picture:
    """A tiled directory; `kind` is its NewSubfileType, None for none."""
    width, height = size
    drawn = tissue(width, height, seed, tile) if pixels is None else pixels
    if samples == 1:
        drawn = drawn[..., 0]
    drawn = drawn.astype("<u2" if order == "<" else ">u2") * 200 if bits == 16 else drawn
    pack = encode or ENCODERS[compression]
    cut = [drawn[y : y + tile, x : x + tile] for y in range(0, height, tile) for x in range(0, width, tile)]
    segments = tuple(b"" if number in empty else pack(one) for number, one in enumerate(cut))
    entries = [
        *([entry(254, 4, kind, order=order)] if kind is not None else []),
        entry(256, 4, width, order=order),
        entry(257, 4, height, order=order),
        entry(258, 3, *[bits] * samples, order=order),
        entry(259, 3, compression, order=order),
        entry(262, 3, 6 if compression == 7 and samples == 3 else 2 if samples == 3 else 1, order=order),
        *([text(270, description)] if description is not None else []),
        entry(277, 3, samples, order=order),
        entry(282, 5, 40_000, 1, order=order),
        entry(283, 5, 40_000, 1, order=order),
        entry(284, 3, 1, order=order),
        entry(296, 3, 3, order=order),
        entry(322, 4, tile, order=order),
        entry(323, 4, tile, order=order),
        *([entry(530, 3, 1, 1, order=order)] if compression == 7 and samples == 3 else []),
        *extra,
    ]
    return Picture(tuple(entries), segments, True)


def assemble(sheets: Sequence[Sheet], layout: Layout = Layout()) -> bytes:  # noqa: B008 - a frozen value
    """Segments and SubIFDs first, then the directory that names them; the gap behind every segment."""
    order, big = layout.order, layout.big
    out = bytearray(b"II" if order == "<" else b"MM")
    out += struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, 0) if big else (42, 0)))
    chain = 8 if big else 4
    for sheet in sheets:
        chain = _write(out, sheet, layout, chain)
    return bytes(out + layout.tail)


def _write(out: bytearray, sheet: Sheet, layout: Layout, chain: int) -> int:
    order, big = layout.order, layout.big
    word, wide = ("Q", 16) if big else ("I", 4)
    below: list[int] = []
    for child in sheet.children:
        out += bytes(-len(out) % 8)
        pointer = len(out)
        out += bytes(8)
        _write(out, child, layout, pointer)
        below += struct.unpack_from(order + word, out, pointer)
        out[pointer : pointer + 8] = bytes(8)
    offsets, counts = [], []
    for segment in sheet.picture.segments:
        offsets.append(len(out) if segment else 0)
        counts.append(len(segment))
        out += segment + layout.gap
    where, how_long = (324, 325) if sheet.picture.tiled else (273, 279)
    entries = [*sheet.picture.entries, entry(where, wide, *offsets, order=order)]
    entries.append(entry(how_long, 4, *counts, order=order))
    if below:
        entries.append(entry(330, wide, *below, order=order))
    return slides._directory(out, entries, layout, chain)


def pyramid(
    *,
    size: tuple[int, int] = (256, 192),
    layout: Layout = Layout(),  # noqa: B008 - a frozen value
    compression: int = 7,
    below: bool = False,
    extra: Sequence[Entry] = (),
    others: Sequence[Sheet] = (),
    **options: Any,
) -> bytes:
    """Two levels; the second in the main chain, or `below` in a SubIFD."""
    common: dict[str, Any] = {"compression": compression, "order": layout.order, **options}
    small = Sheet(tiles((size[0] // 2, size[1] // 2), kind=1, **common))
    whole = Sheet(tiles(size, extra=extra, **common), (small,) if below else ())
    return assemble([whole, *([] if below else [small]), *others], layout)


def label(words: str = "S24-771001 Quincy", *, tiled: bool = False, order: str = "<", **options: Any) -> Sheet:
    pixels = label_picture(words, 128, 192)
    if tiled:
        return Sheet(tiles((128, 192), pixels=pixels, order=order, **options))
    return Sheet(slides.strips(pixels, order=order))


# --- OME -----------------------------------------------------------------------------------------------


def ome_image(
    number: int,
    size: tuple[int, int],
    *,
    name: str = "",
    data: str = '<TiffData IFD="0" PlaneCount="1"/>',
    spacing: str = 'PhysicalSizeX="0.25" PhysicalSizeY="0.25"',
    channels: str = '<Channel ID="Channel:0:0" SamplesPerPixel="3"/>',
    planes: int = 3,
    kind: str = "uint8",
    inside: str = "",
) -> str:
    return (
        f'<Image ID="Image:{number}" Name="{name}">{inside}<Pixels ID="Pixels:{number}" DimensionOrder="XYCZT" '
        f'Type="{kind}" SizeX="{size[0]}" SizeY="{size[1]}" SizeC="{planes}" SizeZ="1" SizeT="1" {spacing}>'
        f"{channels}{data}</Pixels></Image>"
    )


def ome_xml(*images: str, head: str = "", tail: str = "", attributes: str = "") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{OME_NAMESPACE}"{attributes}>{head}{"".join(images)}'
        f"{tail}</OME>"
    )


def ome(
    *,
    xml: str | None = None,
    size: tuple[int, int] = (256, 192),
    layout: Layout = Layout(big=True),  # noqa: B008 - a frozen value
    others: Sequence[Sheet] = (),
    first: Sequence[Sheet] = (),
    extra: Sequence[Entry] = (),
    **options: Any,
) -> bytes:
    """One image with a pyramid in SubIFDs; `first` and `others` are directories before and behind it."""
    told = ome_xml(ome_image(0, size)) if xml is None else xml
    small = Sheet(tiles((size[0] // 2, size[1] // 2), kind=1, order=layout.order, **options))
    here = None if first else told
    whole = Sheet(
        tiles(size, order=layout.order, description=here, extra=extra, **options),
        (small,),
    )
    leading = [_described(sheet, told) for sheet in first[:1]]
    return assemble([*leading, *first[1:], whole, *others], layout)


def _described(sheet: Sheet, words: str) -> Sheet:
    picture = Picture((*sheet.picture.entries, text(270, words)), sheet.picture.segments, sheet.picture.tiled)
    return Sheet(picture, sheet.children)


# --- Philips -------------------------------------------------------------------------------------------


def attribute(name: str, value: str, *, kind: str = "IString", group: str = "0x301D") -> str:
    return f'<Attribute Name="{name}" Group="{group}" Element="0x1001" PMSVR="{kind}">{value}</Attribute>'


def philips_image(kind: str, *inside: str) -> str:
    return (
        f'<DataObject ObjectType="DPScannedImage">{attribute("PIM_DP_IMAGE_TYPE", kind)}{"".join(inside)}</DataObject>'
    )


def philips_levels(count: int = 2, spacing: float = 0.00025) -> str:
    levels = "".join(
        '<DataObject ObjectType="PixelDataRepresentation">'
        + attribute("DICOM_PIXEL_SPACING", f"&quot;{spacing * 2**n:.9f}&quot; &quot;{spacing * 2**n:.9f}&quot;")
        + attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", f"{n}", kind="IUInt16")
        + "</DataObject>"
        for n in range(count)
    )
    name = "PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"
    return attribute(name, f"<Array>{levels}</Array>", kind="IDataObjectArray")


def philips_xml(*root: str, slide: Sequence[str] = (), pictures: Sequence[str] = ()) -> str:
    spacing = attribute("DICOM_PIXEL_SPACING", "&quot;0.000250000&quot; &quot;0.000250000&quot;")
    images = philips_image("WSI", spacing, philips_levels(), *slide) + "".join(pictures)
    held = attribute("PIM_DP_SCANNED_IMAGES", f"<Array>{images}</Array>", kind="IDataObjectArray")
    head = '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
    return f"{head}{attribute('DICOM_MANUFACTURER', 'PHILIPS')}{''.join(root)}{held}</DataObject>"


def philips_picture(kind: str, words: str) -> str:
    packed = base64.b64encode(jpeg(label_picture(words))).decode()
    return philips_image(kind, attribute("PIM_DP_IMAGE_DATA", packed))


def philips(
    *,
    xml: str | None = None,
    software: str = "Philips DP v1.0",
    layout: Layout = Layout(),  # noqa: B008 - a frozen value
    extra: Sequence[Entry] = (),
    others: Sequence[Sheet] = (),
    empty: frozenset[int] = frozenset(),
    words: str = "level=1 mag=20 quality=80",
) -> bytes:
    told = philips_xml() if xml is None else xml
    order = layout.order
    whole = tiles(
        (256, 192), description=told, extra=[text(305, software), *extra], order=order, kind=None, empty=empty
    )
    small = tiles((128, 128), description=words, extra=[text(305, software)], order=order, kind=1)
    return assemble([Sheet(whole), Sheet(small), *others], layout)
