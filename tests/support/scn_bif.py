"""Small Leica and Ventana slides with anything planted anywhere; built on the tests' own TIFF writer."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from tests.support.slides import Entry, Layout, Picture, assemble, entry, label_picture, raw, strips, text, tissue

SCN_SPACE = "http://www.leica-microsystems.com/scn/2010/10/01"
TILE = 64


def jpeg_thinned(pixels: np.ndarray) -> bytes:
    """4:2:0, as most scanners write."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=80, subsampling=2)
    return stream.getvalue()


def tiled(
    pixels: np.ndarray,
    *,
    extra: Sequence[Entry] = (),
    thinned: tuple[int, int] = (2, 2),
    encode: Callable[[np.ndarray], bytes] = jpeg_thinned,
) -> Picture:
    high, wide = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -high % TILE), (0, -wide % TILE), (0, 0)), mode="edge")
    tiles = [
        encode(padded[y : y + TILE, x : x + TILE]) for y in range(0, high, TILE) for x in range(0, wide, TILE)
    ]  # fmt: skip
    entries = [
        entry(254, 4, 0), entry(256, 4, wide), entry(257, 4, high), entry(258, 3, 8, 8, 8), entry(259, 3, 7),
        entry(262, 3, 6), entry(277, 3, 3), entry(284, 3, 1), entry(322, 4, TILE), entry(323, 4, TILE),
        entry(282, 5, 40000, 1), entry(283, 5, 40000, 1), entry(296, 3, 3), entry(530, 3, *thinned), *extra,
    ]  # fmt: skip
    return Picture(tuple(entries), tuple(tiles), True)


# --- Leica ---------------------------------------------------------------------------------------------


def scn_image(
    view: tuple[int, int, int, int],
    sizes: Sequence[tuple[int, int]],
    first: int,
    *,
    objective: str = "20",
    light: str = "brightfield",
    name: str = "main",
    more: str = "",
) -> str:
    """One image of a collection; `view` is width, height, left and top, `first` its first directory."""
    dimensions = "".join(
        f'<dimension sizeX="{wide}" sizeY="{high}" r="{number}" ifd="{first + number}"/>'
        for number, (wide, high) in enumerate(sizes)
    )
    return (
        f'<image name="{name}" uuid="urn:uuid:77100155-{name}"><creationDate>2014-02-12T18:02:10.49Z</creationDate>'
        f'<device model="Leica SCN400;SS1923821" version="1.5.0.10864"/>{more}'
        f'<pixels sizeX="{sizes[0][0]}" sizeY="{sizes[0][1]}">{dimensions}</pixels>'
        f'<view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{view[2]}" offsetY="{view[3]}" spacingZ="0"/>'
        f"<scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>"
        f"<illuminationSettings><numericalAperture>0.4</numericalAperture>"
        f"<illuminationSource>{light}</illuminationSource></illuminationSettings></scanSettings></image>"
    )


def scn_text(images: str, *, name: str = "S24-771001", attributes: str = "", more: str = "") -> str:
    return (
        f'<?xml version="1.0"?><scn xmlns="{SCN_SPACE}" uuid="urn:uuid:7710015501" {attributes}>'
        f'<collection name="{name}" uuid="urn:uuid:7710015502" sizeX="25000000" sizeY="75000000">'
        f"<barcode>UzI0LTc3MTAwMTtBMTsx</barcode>{more}{images}</collection></scn>"
    )


def scn(
    *,
    description: str | None = None,
    label: str = "S24-771001 Quincy",
    extra: Sequence[Entry] = (),
    layout: Layout = Layout(big=True),  # noqa: B008 - a frozen value
    encode: Callable[[np.ndarray], bytes] = jpeg_thinned,
    thinned: tuple[int, int] = (2, 2),
    second: bool = False,
    attributes: str = "",
    more: str = "",
) -> bytes:
    """The overview in directory 0, one image of two resolutions, and with `second` one more of the same kind."""
    sizes = [(192, 128), (48, 32)]
    images = scn_image((25000000, 75000000, 0, 0), [(64, 192)], 0, objective="0.6", name=label, more=more)
    images += scn_image((96000, 64000, 4000000, 30000000), sizes, 1, name=label, more=more)
    if second:
        images += scn_image((96000, 64000, 9000000, 40000000), sizes, 3, name=label, more=more)
    told = scn_text(images, attributes=attributes, more=more) if description is None else description
    codec = {"encode": encode, "thinned": thinned}
    pictures = [tiled(label_picture(label, 64, 192), extra=[text(270, told), *extra], **codec)]  # type: ignore[arg-type]
    for seed in (1, 2) if second else (1,):
        pictures += [
            tiled(tissue(wide, high, seed), extra=extra, **codec)  # type: ignore[arg-type]
            for wide, high in sizes
        ]
    return assemble(pictures, layout)


# --- Ventana -------------------------------------------------------------------------------------------

ISCAN = (
    "Mode='Brightfield' ScanRes='0.25' Magnification='40' Z-layers='1' ScanWhitePoint='235' UnitNumber='BI-SS771001'"
    " UserName='technician77' BuildDate='Dec 12 2016' BuildVersion='3.3.1.1' BaseName='C:\\scans\\Quincy\\S24-771001'"
    " Barcode1D='77100155' Barcode2D='UzI0LTc3MTAwMTtBMTsx' JP2FileName='S24-771001_20x.jp2'"
)


def joints(across: int, down: int, overlap: int) -> str:
    """Every joint of an area, its tiles counted as the scanner does: from the bottom, every other row backwards."""

    def number(column: int, row: int) -> int:
        from_below = down - row - 1
        return from_below * across + (across - column if from_below % 2 else column + 1)

    told = '<TileJointInfo FlagJoined="1" Confidence="90" Direction="{}" Tile1="{}" Tile2="{}"'
    told += ' OverlapX="{}" OverlapY="{}"/>'
    right = [
        told.format("RIGHT", number(column, row), number(column + 1, row), overlap, 0)
        for row in range(down) for column in range(across - 1)
    ]  # fmt: skip
    up = [
        told.format("UP", number(column, row + 1), number(column, row), 0, overlap)
        for row in range(down - 1) for column in range(across)
    ]  # fmt: skip
    return "".join([*right, *up])


def encode_info(across: int, down: int, *, overlap: int = 4, more: str = "", attributes: str = "") -> str:
    return (
        f'<?xml version="1.0"?><EncodeInfo Ver="2" {attributes}><SlideInfo Rack="1" Slot="2" Operator="technician77.x">'
        f"<ServerDirectory>\\\\PATHSCAN-HIST771\\slides\\S24-771001</ServerDirectory>{more}</SlideInfo><SlideStitchInfo>"
        f'<ImageInfo AOIScanned="1" AOIIndex="0" NumRows="{down}" NumCols="{across}" Width="{TILE}" Height="{TILE}" '
        f'Pos-X="0" Pos-Y="0">{joints(across, down, overlap)}</ImageInfo></SlideStitchInfo>'
        f'<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin>{more}</EncodeInfo>'
    )


def bif(
    *,
    iscan: str = ISCAN,
    wrapped: bool = True,
    stitched: bool = True,
    label: str = "S24-771001 Quincy",
    extra: Sequence[Entry] = (),
    layout: Layout = Layout(big=True),  # noqa: B008 - a frozen value
    overlap: int = 4,
    more: str = "",
    attributes: str = "",
    label_tag: str = "Label_Image",
) -> bytes:
    """Label, thumbnail, two levels; without `stitched` the scanner's TIFF, which has no EncodeInfo."""
    element = f"<iScan {iscan}>{more}</iScan>"
    told = f'<?xml version="1.0" encoding="utf-8"?>{f"<Metadata>{element}</Metadata>" if wrapped else element}'
    info = [raw(700, encode_info(4, 4, overlap=overlap, more=more, attributes=attributes).encode(), 1)]
    pictures = [
        strips(label_picture(label), description=label_tag, extra=[raw(700, told.encode(), 1), *extra]),
        strips(label_picture(label, 64, 64), description="Thumbnail", extra=extra),
        tiled(tissue(256, 256), extra=[text(270, "level=0 mag=40 quality=90"), *(info if stitched else []), *extra]),
        tiled(tissue(128, 128), extra=[text(270, "level=1 mag=20 quality=90"), *extra]),
    ]
    return assemble(pictures, layout)
