"""Slides as they are seldom written, each of a kind that some scanner or converter does write, with plants in them.

Planes apart and strips, several areas and channels, the label in front, pyramids below pictures that are dropped, the
colour transforms of JPEG 2000, and a word in every coding of `encodings.ways`.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from bench.planted import slides as usual
from bench.planted.encodings import ways
from bench.planted.people import Person
from bench.planted.slides import LAYOUTS, Planted, hostile_tags, label_of, layout, xml_noise
from tests.support import scn_bif, slides, tiffs
from tests.support.slides import Entry, Picture, entry, raw, text


def coded_tags(who: Person, rng: random.Random, *, base: int = 64000) -> list[Entry]:
    """A private tag for every way a name can be written; a few of them again in a tag that readers know."""
    every = [data for word in (who.full, who.accession) for data in ways(word).values()]
    found = [raw(base + number, data, rng.choice([1, 2, 7])) for number, data in enumerate(every)]
    return [*found, raw(700, rng.choice(every), 1), raw(269, rng.choice(every) + b"\0", 2), raw(34665 - 1, every[0], 7)]


def hostile(who: Person, rng: random.Random, order: str = "<", *, without: tuple[int, ...] = ()) -> list[Entry]:
    usual_ones = {one.code: one for one in hostile_tags(who, rng, order)}
    return [
        one
        for one in (usual_ones | {one.code: one for one in coded_tags(who, rng)}).values()
        if one.code not in (*without, 530)
    ]


# --- of no vendor --------------------------------------------------------------------------------------


def planar(size: tuple[int, int], *, order: str, tile: int = 64, extra: Any = (), kind: int = 0) -> Picture:
    """Red, green and blue in tiles of their own (PlanarConfiguration 2)."""
    width, height = size
    drawn = slides.tissue(width, height, tile=tile)
    tiles = [
        zlib.compress(drawn[y : y + tile, x : x + tile, sample].tobytes())
        for sample in range(3)
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]
    entries = [
        entry(254, 4, kind, order=order), entry(256, 4, width, order=order), entry(257, 4, height, order=order),
        entry(258, 3, 8, 8, 8, order=order), entry(259, 3, 8, order=order), entry(262, 3, 2, order=order),
        entry(277, 3, 3, order=order), entry(284, 3, 2, order=order), entry(322, 4, tile, order=order),
        entry(323, 4, tile, order=order), *extra,
    ]  # fmt: skip
    return Picture(tuple(entries), tuple(tiles), True)


def planes_apart(who: Person, rng: random.Random) -> Planted:
    at = layout(who, rng, rng.choice(list(LAYOUTS)))
    extra = hostile(who, rng, at.order) + [text(270, who.full)]
    pictures = [planar((256, 192), order=at.order, extra=extra), planar((128, 96), order=at.order, kind=1)]
    return Planted({".tif": tiffs.assemble([tiffs.Sheet(one) for one in pictures], at)}, ".tif")


def strip(size: tuple[int, int], *, order: str, extra: Any = (), kind: int = 0, rows: int = 16) -> Picture:
    width, height = size
    drawn = slides.tissue(width, height)
    pieces = tuple(zlib.compress(drawn[y : y + rows].tobytes()) for y in range(0, height, rows))
    entries = [
        entry(254, 4, kind, order=order), entry(256, 4, width, order=order), entry(257, 4, height, order=order),
        entry(258, 3, 8, 8, 8, order=order), entry(259, 3, 8, order=order), entry(262, 3, 2, order=order),
        entry(277, 3, 3, order=order), entry(278, 4, rows, order=order), entry(284, 3, 1, order=order), *extra,
    ]  # fmt: skip
    return Picture(tuple(entries), pieces, False)


def in_strips(who: Person, rng: random.Random) -> Planted:
    """What OpenSlide does not open either: recognised and refused, or whole."""
    at = layout(who, rng, rng.choice(list(LAYOUTS)))
    extra = hostile(who, rng, at.order) + [text(270, f"{who.full}\n{who.mrn}")]
    pictures = [strip((256, 192), order=at.order, extra=extra), strip((128, 96), order=at.order, kind=1)]
    data = tiffs.assemble([tiffs.Sheet(one) for one in pictures], at)
    return Planted({".tif": data}, ".tif", may_refuse=True)


def below_the_dropped(who: Person, rng: random.Random) -> Planted:
    """A label that is dropped has SubIFDs, with its own pyramid and its own words."""
    at = layout(who, rng, rng.choice(list(LAYOUTS)))
    label = label_of(who)
    told = hostile(who, rng, at.order)
    under = tiffs.Sheet(
        tiffs.tiles((210, 240), kind=1, order=at.order, pixels=_padded(label[::2, ::2]), extra=told),
        (tiffs.Sheet(slides.strips(label[::4, ::4], order=at.order, description=who.full)),),
    )
    others = [tiffs.Sheet(slides.strips(label, kind=rng.choice([0, 1, 9]), order=at.order, extra=told), (under,))]
    data = tiffs.pyramid(layout=at, below=rng.random() < 0.5, extra=told, others=others, compression=8)
    return Planted({".tif": data}, ".tif", [("label", label)])


def _padded(pixels: np.ndarray, tile: int = 64) -> np.ndarray:
    high, wide = pixels.shape[:2]
    return np.pad(pixels, ((0, -high % tile), (0, -wide % tile), (0, 0)), mode="edge")


# --- of vendors ----------------------------------------------------------------------------------------


def leica_fluorescence(who: Person, rng: random.Random) -> Planted:
    """Channels side by side, each with its own directories and a name that a person typed."""
    sizes, channels = [(192, 128), (48, 32)], rng.choice([2, 3])
    dimensions = "".join(
        f'<dimension sizeX="{wide}" sizeY="{high}" r="{level}" c="{channel}" ifd="{1 + 2 * channel + level}"/>'
        for channel in range(channels)
        for level, (wide, high) in enumerate(sizes)
    )
    names = "".join(
        f"<channel index='{one}' name={quoteattr(f'DAPI {who.family}')} rgb='#0000ff'/>" for one in range(channels)
    )
    settings = f"<channelSettings>{names}</channelSettings>"
    image = scn_bif.scn_image((96000, 64000, 4000000, 30000000), sizes, 1, light="fluorescence", name=who.accession)
    first = image.index("<dimension ")
    image = image[:first] + dimensions + image[image.index("</pixels>") :]
    image = image.replace("<illuminationSettings>", settings + "<illuminationSettings>")
    overview = scn_bif.scn_image(
        (25000000, 75000000, 0, 0), [(64, 192)], 0, objective="0.6", name=who.full.replace("'", "")
    )
    told = scn_bif.scn_text(
        overview + image, name=escape(who.accession), more=xml_noise(who, rng), attributes=f"u={quoteattr(who.login)}"
    )
    extra = hostile(who, rng, without=(254, 256, 257, 258, 259, 262, 270, 277, 282, 283, 284, 296, 322, 323))
    pictures = [scn_bif.tiled(slides.label_picture(who.accession, 64, 192), extra=[text(270, told), *extra])]
    for channel in range(channels):
        pictures += [scn_bif.tiled(slides.tissue(wide, high, channel + 1), extra=extra) for wide, high in sizes]
    data = slides.assemble(pictures, layout(who, rng, "big"))
    label = slides.label_picture(who.accession, 64, 192)
    return Planted({".scn": data}, ".scn", [("macro", label)], macro_pages=(0,))


def ventana_areas(who: Person, rng: random.Random) -> Planted:
    """Two areas beside each other, each with its joints."""
    areas = "".join(
        f'<ImageInfo AOIScanned="1" AOIIndex="{one}" NumRows="4" NumCols="2" Width="64" Height="64" '
        f'Pos-X="{128 * one}" Pos-Y="0" Operator={quoteattr(who.login)}>{scn_bif.joints(2, 4, 0)}</ImageInfo>'
        for one in range(2)
    )
    origins = "".join(f'<AOI{one} OriginX="{128 * one}" OriginY="0"/>' for one in range(2))
    told = (
        f'<?xml version="1.0"?><EncodeInfo Ver="2" site={quoteattr(who.hospital)}><SlideInfo Rack="1" Slot="2"/>'
        f"<SlideStitchInfo>{areas}</SlideStitchInfo><AoiOrigin>{origins}</AoiOrigin>{xml_noise(who, rng)}</EncodeInfo>"
    )
    boxes = "".join(
        f'<AOI{one} Left="{100 * one}" Top="10" Right="{100 * one + 90}" Bottom="90" AOIScanned="1" '
        f"Name={quoteattr(who.full)}/>"
        for one in range(2)
    )
    values = f"Mode='Brightfield' ScanRes='0.25' Magnification='40' UserName='{who.login}' Barcode1D='{who.mrn}'"
    iscan = f'<?xml version="1.0"?><iScan {values}>{boxes}</iScan>'
    words = f"{who.accession} {who.mrn}"
    extra = hostile(who, rng, without=(254, 256, 257, 258, 259, 262, 270, 277, 278, 282, 283, 284, 296, 322, 323, 700))
    pictures = [
        slides.strips(
            slides.label_picture(words), description="Label_Image", extra=[raw(700, iscan.encode(), 1), *extra]
        ),
        slides.strips(slides.label_picture(words, 64, 64), description="Thumbnail", extra=extra),
        scn_bif.tiled(
            slides.tissue(256, 256), extra=[text(270, "level=0 mag=40 quality=90"), raw(700, told.encode(), 1), *extra]
        ),
        scn_bif.tiled(slides.tissue(128, 128), extra=[text(270, "level=1 mag=20 quality=90"), *extra]),
    ]
    data = slides.assemble(pictures, layout(who, rng, "big"))
    return Planted({".bif": data}, ".bif", [("label", slides.label_picture(words))])


def ome_label_first(who: Person, rng: random.Random) -> Planted:
    label = label_of(who)
    spaced = 'PhysicalSizeX="30" PhysicalSizeY="30"'
    images = [
        tiffs.ome_image(0, (420, 480), name=escape(who.accession), spacing=spaced),
        tiffs.ome_image(1, (256, 192), name=escape(who.full), data='<TiffData IFD="1" PlaneCount="1"/>'),
    ]
    told = tiffs.ome_xml(*images, head=f"<!-- {who.mrn} -->", attributes=f" Creator={quoteattr(who.full)}")
    front = tiffs.Sheet(
        tiffs.tiles((420, 480), pixels=_padded(label), extra=hostile(who, rng))
        if rng.random() < 0.5
        else slides.strips(label)
    )
    at = layout(who, rng, rng.choice(["big", "classic"]))
    data = tiffs.ome(xml=told, layout=at, first=[front], extra=hostile(who, rng, without=(305,)), compression=8)
    return Planted({".ome.tif": data}, ".ome.tif", [("label", label)])


def ome_channels(who: Person, rng: random.Random) -> Planted:
    """Sixteen bits, a channel a directory, one of them named after a person."""
    stains = ["DAPI", "Cy5", escape(who.full)]
    channels = "".join(
        f'<Channel ID="Channel:0:{n}" SamplesPerPixel="1" Name="{one}" Fluor="{one}"/>' for n, one in enumerate(stains)
    )
    planes = "".join(f'<TiffData FirstC="{n}" IFD="{n}" PlaneCount="1"/>' for n in range(3))
    image = tiffs.ome_image(0, (256, 192), channels=channels, data=planes, kind="uint16", name=escape(who.accession))
    deep: dict[str, Any] = {"samples": 1, "bits": 16, "compression": 8}

    def plane(seed: int) -> tiffs.Sheet:
        small = tiffs.Sheet(tiffs.tiles((128, 96), seed=seed, kind=1, extra=hostile(who, rng), **deep))
        return tiffs.Sheet(tiffs.tiles((256, 192), seed=seed, extra=hostile(who, rng), **deep), (small,))

    at = layout(who, rng, "big")
    data = tiffs.ome(xml=tiffs.ome_xml(image), layout=at, others=[plane(2), plane(3)], **deep)
    return Planted({".ome.tif": data}, ".ome.tif")


def generic_channels(who: Person, rng: random.Random) -> Planted:
    """One sample a pixel, compressed with a predictor."""
    at = layout(who, rng, rng.choice(list(LAYOUTS)))
    options: dict[str, Any] = {"samples": 1, "compression": rng.choice([5, 8, 7])}
    data = tiffs.pyramid(layout=at, extra=hostile(who, rng, at.order), **options)
    return Planted({".tiff": data}, ".tiff")


SHAPES: dict[str, Callable[[Person, random.Random], Planted]] = {
    "svs jpeg 2000 ycbcr": lambda who, rng: usual.svs(who, rng, codec=33003),
    "generic planar": planes_apart,
    "generic strips": in_strips,
    "generic grey": generic_channels,
    "generic below a dropped label": below_the_dropped,
    "scn fluorescence": leica_fluorescence,
    "bif of two areas": ventana_areas,
    "ome label first": ome_label_first,
    "ome channels": ome_channels,
}
