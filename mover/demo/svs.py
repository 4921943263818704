"""Aperio SVS as the scanners write it, with every place where identity hides filled in.

Order of directories: baseline, thumbnail (strips), deeper levels (tiles), label (LZW), macro (JPEG
strips). A classic ScanScope keeps RGB inside its JPEG and describes label and macro in words; a
GT 450 writes YCbCr, an ICC profile, and no description for label and macro.

Planted beyond the vendor's keys: tags 269, 306, 315, 316, 33432, XMP, a private tag, bytes between
tiles, bytes after the last directory.
"""

from __future__ import annotations

import base64
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import ImageCms

from mover.demo import art
from mover.demo.layout import Layout
from mover.demo.plan import Case, Pack
from mover.demo.texture import GT450, Look, Pixels, cut_tiles, encode_tile, jpeg_tables, shrink
from mover.demo.tiffs import BYTE, LONG, RATIONAL, SHORT, Tag, TiffFile, blob, numbers, text

_JPEG, _LZW = 7, 5
_STRIP_ROWS = 16
_SLACK_EVERY = 97  # tiles between two planted pieces of slack


def write(path: Path, pack: Pack, *, case: Case, layout: Layout) -> None:
    """BigTIFF for the big slide, classic TIFF otherwise; the caller sees to the folder."""
    overview = layout.overview()
    pictures = _Pictures(pack, case, layout, overview)
    with path.open("wb", buffering=1 << 20) as stream:
        tiff = TiffFile(stream, big=pack.big)
        pictures.baseline(tiff)
        pictures.thumbnail(tiff)
        pictures.deeper_levels(tiff)
        pictures.label(tiff)
        pictures.macro(tiff)
        tiff.put(f"\0trailing note: {case.person.name}, MRN {case.person.mrn}\0".encode())


class _Pictures:
    """The directories of one slide; state is the slide's facts, nothing changes."""

    def __init__(self, pack: Pack, case: Case, layout: Layout, overview: Pixels) -> None:
        self.pack, self.case, self.layout, self.overview = pack, case, layout, overview
        self.look = layout.look
        self.gt450 = self.look.name == GT450.name
        self.tables = blob(347, jpeg_tables(self.look))
        self.geometry = _geometry(layout, gt450=self.gt450)

    def baseline(self, tiff: TiffFile) -> None:
        tiles = self.layout.fine_tiles()
        note = f"PatientID={self.case.person.mrn};Operator={self.pack.operator};".encode().ljust(64, b"\0")
        slack = {n: note for n in range(_SLACK_EVERY, len(tiles), _SLACK_EVERY)}
        columns = self.layout.columns * 4
        kept = _inside(columns, self.layout.rows * 4, size=self.layout.size, tile=self.look.tile)
        offsets = tiff.put_pieces([tiles[n] for n in kept], slack=slack)
        counts = [len(tiles[n]) for n in kept]
        described = f"{_software(self.gt450)}\r\n{self.geometry}{self._keys()}"
        tags = self._tiled(tiff, self.layout.size, offsets, counts, described)
        tiff.directory([*tags, *_planted_tags(self.pack, self.case)])

    def thumbnail(self, tiff: TiffFile) -> None:
        pixels = art.as_pixels(art.draw_thumbnail(self.overview))
        wide, high = self.layout.size
        line = f"{wide}x{high} -> {pixels.shape[1]}x{pixels.shape[0]} - "
        described = f"{_software(self.gt450)}\r\n{line}{self._keys()}"
        self._jpeg_strips(tiff, pixels, kind=0, described=described)

    def deeper_levels(self, tiff: TiffFile) -> None:
        wide, high = self.layout.size
        tiles = self.layout.coarse_tiles()
        size = (wide // 4, high // 4)
        kept = _inside(self.layout.columns, self.layout.rows, size=size, tile=self.look.tile)
        self._level(tiff, [tiles[n] for n in kept], size)
        pixels = self.overview
        self._level(tiff, cut_tiles(pixels, look=self.look), (wide // 16, high // 16))
        if self.pack.big:
            pixels = shrink(pixels[: high // 32 * 2, : wide // 32 * 2], 2)
            self._level(tiff, cut_tiles(pixels, look=self.look), (wide // 32, high // 32))

    def label(self, tiff: TiffFile) -> None:
        pixels = art.as_pixels(art.draw_label(self.pack, self.case))
        rows = 7
        strips = [_lzw(pixels[y : y + rows]) for y in range(0, len(pixels), rows)]
        described = None if self.gt450 else f"{_software(False)}\r\nlabel {pixels.shape[1]}x{pixels.shape[0]}"
        offsets = tiff.put_pieces(strips)
        tags = _strips(tiff, pixels, offsets, strips, rows=rows, kind=1, compression=_LZW, photometric=2)
        tiff.directory([*tags, numbers(317, SHORT, 2), *([text(270, described)] if described else [])])

    def macro(self, tiff: TiffFile) -> None:
        pixels = art.as_pixels(art.draw_macro(self.pack, self.case, self.overview))
        described = None if self.gt450 else f"{_software(False)}\r\nmacro {pixels.shape[1]}x{pixels.shape[0]}"
        self._jpeg_strips(tiff, pixels, kind=9, described=described)

    # --- the parts they share ---

    def _level(self, tiff: TiffFile, tiles: list[bytes], size: tuple[int, int]) -> None:
        offsets = tiff.put_pieces(tiles)
        described = f"{_software(self.gt450)}\r\n{self.geometry} -> {size[0]}x{size[1]} {_codec(self.look)}"
        tiff.directory(self._tiled(tiff, size, offsets, [len(tile) for tile in tiles], described))

    def _tiled(
        self, tiff: TiffFile, size: tuple[int, int], offsets: list[int], counts: list[int], described: str
    ) -> list[Tag]:
        return [
            numbers(254, LONG, 0),
            numbers(256, LONG, size[0]),
            numbers(257, LONG, size[1]),
            *_pixel_tags(self.look),
            text(270, described),
            numbers(322, SHORT, self.look.tile),
            numbers(323, SHORT, self.look.tile),
            numbers(324, tiff.offset_kind, *offsets),
            numbers(325, LONG, *counts),
            self.tables,
            numbers(32997, LONG, 1),
            *([blob(34675, icc_profile())] if self.gt450 else []),
        ]

    def _jpeg_strips(self, tiff: TiffFile, pixels: Pixels, *, kind: int, described: str | None) -> None:
        strips = [encode_tile(pixels[y : y + _STRIP_ROWS], look=self.look) for y in range(0, len(pixels), _STRIP_ROWS)]
        offsets = tiff.put_pieces(strips)
        photometric = 2 if self.look.coding == "rgb" else 6
        tags = _strips(
            tiff, pixels, offsets, strips, rows=_STRIP_ROWS, kind=kind, compression=_JPEG, photometric=photometric
        )
        subsampling = [numbers(530, SHORT, 2, 2)] if photometric == 6 else []
        tiff.directory([*tags, *subsampling, self.tables, *([text(270, described)] if described else [])])

    def _keys(self) -> str:
        return "".join(f"|{key} = {value}" for key, value in _description_keys(self.pack, self.case, self.layout))


def _description_keys(pack: Pack, case: Case, layout: Layout) -> list[tuple[str, str]]:
    gt450 = layout.look.name == GT450.name
    who = case.person
    stripe = "4096" if gt450 else "2040"
    optics = [("AppMag", "40" if gt450 else "20"), ("MPP", mpp(layout.look)), ("StripeWidth", stripe)]
    if gt450:
        optics += [("Exposure Time", "8"), ("Exposure Scale", "0.000001"), ("Gamma", "2.2"), ("Filtered", "3")]
    else:
        optics += [("Parmset", "USM Filter"), ("LineCameraSkew", "-0.000424"), ("Filtered", "5")]
    return [
        *optics,
        ("Left", f"{20 + pack.index / 7:.6f}"),
        ("Top", f"{18 + pack.index / 9:.6f}"),
        ("OriginalWidth", str(layout.size[0])),
        ("OriginalHeight", str(layout.size[1])),
        ("ScanScope ID", pack.serial),
        ("Filename", pack.stem),
        ("Title", f"{who.name} {who.mrn}"),
        ("Date", f"{pack.scanned:%m/%d/%y}"),
        ("Time", f"{pack.scanned:%H:%M:%S}"),
        ("Time Zone", "GMT+01:00"),
        ("User", pack.operator),
        ("Barcode", art.barcode_text(pack)),
        ("ImageID", f"{who.mrn}{pack.index:02d}"),
        ("Patient Name", who.name),
        ("CustomField.1", f"DOB {who.born:%Y-%m-%d}"),
        ("CustomField.2", case.pathologist),
    ]


def _planted_tags(pack: Pack, case: Case) -> list[Tag]:
    who = case.person
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{pack.case} {who.name}</dc:title>'
        f"<dc:creator>{pack.operator}</dc:creator></rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    private = base64.b64encode(f"{who.last}^{who.first}|{who.mrn}|{who.born:%Y-%m-%d}".encode())
    return [
        text(269, pack.stem),
        text(306, f"{pack.scanned:%Y:%m:%d %H:%M:%S}"),
        text(315, pack.operator),
        text(316, f"ws-{pack.serial}"),
        text(33432, f"(c) {case.pathologist}"),
        blob(700, packet.encode("utf-8"), kind=BYTE),
        blob(65000, private + b"\0" + f"{who.name}".encode("utf-16-le")),
    ]


# --- small tools --------------------------------------------------------------------------------------


def mpp(look: Look) -> str:
    return "0.2631" if look.name == GT450.name else "0.4990"


def _software(gt450: bool) -> str:
    return "Aperio Leica Biosystems GT450 v1.0.1" if gt450 else "Aperio Image Library v11.2.1 "


def _codec(look: Look) -> str:
    return f"JPEG/{'RGB' if look.coding == 'rgb' else 'YCC'} Q={look.quality}"


def _geometry(layout: Layout, *, gt450: bool) -> str:
    wide, high = layout.size
    return f"{wide}x{high} [0,0 {wide}x{high}] ({layout.look.tile}x{layout.look.tile}) {_codec(layout.look)}"


def _pixel_tags(look: Look) -> list[Tag]:
    photometric = 2 if look.coding == "rgb" else 6
    resolution = int(round(1e4 / float(mpp(look))))
    return [
        numbers(258, SHORT, 8, 8, 8),
        numbers(259, SHORT, _JPEG),
        numbers(262, SHORT, photometric),
        numbers(277, SHORT, 3),
        numbers(284, SHORT, 1),
        *(
            [
                numbers(530, SHORT, 2, 2),
                blob(282, resolution.to_bytes(4, "little") + b"\1\0\0\0", kind=RATIONAL),
                blob(283, resolution.to_bytes(4, "little") + b"\1\0\0\0", kind=RATIONAL),
                numbers(296, SHORT, 3),
            ]
            if photometric == 6
            else []
        ),
    ]


def _strips(
    tiff: TiffFile,
    pixels: Pixels,
    offsets: list[int],
    strips: list[bytes],
    *,
    rows: int,
    kind: int,
    compression: int,
    photometric: int,
) -> list[Tag]:
    return [
        numbers(254, LONG, kind),
        numbers(256, LONG, pixels.shape[1]),
        numbers(257, LONG, pixels.shape[0]),
        numbers(258, SHORT, 8, 8, 8),
        numbers(259, SHORT, compression),
        numbers(262, SHORT, photometric),
        numbers(273, tiff.offset_kind, *offsets),
        numbers(277, SHORT, 3),
        numbers(278, LONG, rows),
        numbers(279, LONG, *(len(strip) for strip in strips)),
        numbers(284, SHORT, 1),
        numbers(32997, LONG, 1),
    ]


def _inside(columns: int, rows: int, *, size: tuple[int, int], tile: int) -> list[int]:
    """Which tiles of the whole grid a picture of `size` still needs after trimming."""
    across, down = -(-size[0] // tile), -(-size[1] // tile)
    assert across <= columns and down <= rows, "trim only cuts"
    return [y * columns + x for y in range(down) for x in range(across)]


def _lzw(pixels: Pixels) -> bytes:
    """LZW after the horizontal predictor (TIFF 6.0 section 14)."""
    delta = pixels.copy()
    delta[:, 1:] -= pixels[:, :-1]
    return bytes(imagecodecs.lzw_encode(np.ascontiguousarray(delta).tobytes()))


def icc_profile() -> bytes:
    """sRGB with the time of creation fixed: the same plan must give the same bytes."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07e800010001000000000000")
    return bytes(profile)
