"""Hamamatsu NDPI as NanoZoomers write it, natively.

A TIFF in classic dress with 64-bit habits: the header's first-directory offset and every next pointer
take eight bytes, and behind each directory stands one 32-bit word per tag with the high half of its
value. Each level is one JPEG in one strip, cut by restart markers whose places tag 65426 lists; then
come the macro (SourceLens -1), which shows the label, and a map (-2). Every directory repeats the
vendor's strings, among them the property map (65449) with serial numbers, dates and barcodes.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from mover.demo import art
from mover.demo.layout import Layout
from mover.demo.plan import Case, Pack
from mover.demo.texture import NANOZOOMER, PIECES, Pixels, restart_jpeg, scan_start, shrink, split_at_restarts
from mover.demo.tiffs import LONG, SHORT, Tag, blob, numbers, text

LOOK = NANOZOOMER.name
LENSES = (20.0, 5.0, 1.25, 0.3125)
MPP = 0.4565
_PER_CENTIMETRE = round(1e4 / MPP)
_RATIONAL, _SLONG, _FLOAT = 5, 9, 11
_COMMENT = b"\xff\xfe\x00\x29Hamamatsu NanoZoomer Digital Pathology\0"


def write(path: Path, pack: Pack, *, case: Case, layout: Layout) -> None:
    overview = layout.overview()
    with path.open("wb", buffering=1 << 20) as stream:
        ndpi = _Ndpi(stream, pack, case)
        wide, high = layout.size
        ndpi.level(*_stitched(layout.fine_strips(), (wide, high), across=wide // layout.columns // 8), lens=0)
        ndpi.level(
            *_stitched(layout.coarse_strips(), (wide // PIECES, high // PIECES), across=wide // layout.columns // 32),
            lens=1,
        )
        ndpi.level(*_encoded(overview), lens=2)
        ndpi.level(*_encoded(shrink(overview, 4)), lens=3)
        ndpi.macro(art.as_pixels(art.draw_macro(pack, case, overview)))
        ndpi.map(overview)


# Parts of one JPEG, the starts of its restart intervals, its width and height.
_Level = tuple[list[bytes], list[int], tuple[int, int]]


def _stitched(pieces: list[bytes], size: tuple[int, int], *, across: int) -> _Level:
    """One JPEG from restart intervals of `across` blocks each."""
    head = _head(size, across=across)
    parts, starts, at = [head], [], len(head)
    for n, piece in enumerate(pieces):
        starts.append(at)
        tail = b"\xff" + bytes((0xD0 + n % 8,)) if n + 1 < len(pieces) else b"\xff\xd9"
        parts += (piece, tail)
        at += len(piece) + 2
    return parts, starts, size


def _encoded(pixels: Pixels) -> _Level:
    jpeg = _commented(restart_jpeg(pixels, look=NANOZOOMER))
    start = scan_start(jpeg)
    starts = [start + piece[0] for piece in split_at_restarts(jpeg[start:-2])]
    return [jpeg], starts, (pixels.shape[1], pixels.shape[0])


def _head(size: tuple[int, int], *, across: int) -> bytes:
    """SOI to SOS of a picture of `size`, borrowed from a small one with the same tables."""
    jpeg = bytearray(_commented(restart_jpeg(np.zeros((16, 8, 3), np.uint8), look=NANOZOOMER)))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", size[1], size[0])
    interval = jpeg.index(b"\xff\xdd")
    jpeg[interval + 4 : interval + 6] = struct.pack(">H", across)
    head = bytes(jpeg)
    return head[: scan_start(head)]


def _commented(jpeg: bytes) -> bytes:
    """The vendor's own comment stands behind JFIF in every level."""
    at = 4 + int.from_bytes(jpeg[4:6], "big")
    return jpeg[:at] + _COMMENT + jpeg[at:]


class _Ndpi:
    """The open file; `chain` is where the next directory's offset must be stored."""

    def __init__(self, stream: BinaryIO, pack: Pack, case: Case) -> None:
        self.stream, self.pack, self.case = stream, pack, case
        self.at, self.chain = 0, 4
        self.put(b"II\x2a\0" + bytes(8))
        self.shared = _Shared(self, pack, case)

    def put(self, data: bytes) -> int:
        start = self.at
        self.stream.write(data)
        self.at += len(data)
        return start

    def level(self, parts: list[bytes], starts: list[int], size: tuple[int, int], *, lens: int) -> None:
        strip = self.at
        self.stream.writelines(parts)
        self.at += sum(map(len, parts))
        tags = [
            numbers(277, SHORT, 3),
            numbers(530, SHORT, 1, 1),
            numbers(65426, LONG, *starts),
            *_geometry(strip, self.at - strip, size, lens=LENSES[lens], scale=4.0**lens),
        ]
        self.directory([*_colour(photometric=6, compression=7), *tags])

    def macro(self, pixels: Pixels) -> None:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=85, subsampling=0)
        strip = self.put(_commented(stream.getvalue()))
        size = (pixels.shape[1], pixels.shape[0])
        tags = _geometry(strip, self.at - strip, size, lens=-1.0, scale=140.0)
        self.directory([*_colour(photometric=6, compression=7), numbers(277, SHORT, 3), *tags])

    def map(self, overview: Pixels) -> None:
        grey = np.asarray(Image.fromarray(overview).convert("L").resize((594, 203)))
        strip = self.put(grey.tobytes())
        tags = _geometry(strip, grey.size, (594, 203), lens=-2.0, scale=280.0)
        self.directory([numbers(258, SHORT, 8), numbers(259, SHORT, 1), numbers(262, SHORT, 1), *tags])

    def directory(self, tags: list[Tag]) -> None:
        """Entries, eight-byte next pointer, high words; long values stand before the directory."""
        places = dict(self.shared.places)
        everything = sorted([*tags, *self.shared.tags], key=lambda tag: tag.code)
        for tag in everything:
            if len(tag.data) > 4 and tag.code not in places:
                places[tag.code] = self.put(tag.data)
        start = self.at
        entries, high = bytearray(struct.pack("<H", len(everything))), bytearray()
        for tag in everything:
            low, top = tag.data.ljust(4, b"\0"), 0
            if len(tag.data) > 4:
                place = places[tag.code]
                low, top = struct.pack("<I", place & 0xFFFFFFFF), place >> 32
            entries += struct.pack("<HHI", tag.code, tag.kind, tag.count) + low
            high += struct.pack("<I", top)
        self.put(bytes(entries))
        link = self.put(bytes(8))
        self.put(bytes(high))
        self.stream.seek(self.chain)
        self.stream.write(start.to_bytes(8, "little"))
        self.stream.seek(self.at)
        self.chain = link


class _Shared:
    """Strings written once behind the header and pointed to by every directory."""

    def __init__(self, ndpi: _Ndpi, pack: Pack, case: Case) -> None:
        self.tags = [
            text(271, "Hamamatsu"),
            text(272, "C13210"),
            text(305, "NDP.scan 3.2.15"),
            text(306, f"{pack.scanned:%Y:%m:%d %H:%M:%S}"),
            numbers(65420, SHORT, 1),
            _signed(65422, 12_538_720 + 100 * pack.index),
            _signed(65423, -96_063),
            _signed(65424, 0),
            text(65427, f"{pack.case}_{case.person.last}"),
            numbers(65441, LONG, 1),
            text(65442, pack.serial),
            text(65449, property_map(pack, case)),
            text(65468, art.barcode_text(pack)),
        ]
        self.places = {tag.code: ndpi.put(tag.data) for tag in self.tags if len(tag.data) > 4}


def property_map(pack: Pack, case: Case) -> str:
    """Lines end in CR LF, but in CR alone inside the shading block, as in real files."""
    day = f"{pack.scanned:%Y/%m/%d}"
    lines = [
        f"Created={day}",
        f"Updated={day}",
        "Product=C13210",
        "system.version=1.0",
        f"NDP.S/N={pack.serial}",
        f"Macro.S/N={pack.serial}",
        "roi.slide.macro=68,279,1256,685",
        "roi.barcode.macro=948,281,1253,682",
        "Objective.Lens.Magnificant=17.58",
        "ccd.width=4096",
        "target.white.intensity=235",
        "calibration.version=249",
        f"Operator={pack.operator}",
        f"PatientName={case.person.name}",
        f"PatientID={case.person.mrn}",
    ]
    shading = [
        ";NDP Shading Data",
        ";Version=0004",
        f";Date={day}",
        f";SerialNumber={pack.serial}",
        ";ShadingAveR_2048=200",
        f";BarcodeNo={art.barcode_text(pack)}",
    ]
    return "\r\n".join(lines) + "\r\n" + "\r".join(shading) + "\r"


def _colour(*, photometric: int, compression: int) -> list[Tag]:
    return [numbers(258, SHORT, 8, 8, 8), numbers(259, SHORT, compression), numbers(262, SHORT, photometric)]


def _geometry(strip: int, length: int, size: tuple[int, int], *, lens: float, scale: float) -> list[Tag]:
    resolution = blob(282, struct.pack("<II", round(_PER_CENTIMETRE / scale), 1), kind=_RATIONAL)
    return [
        numbers(256, LONG, size[0]),
        numbers(257, LONG, size[1]),
        numbers(273, LONG, strip),
        numbers(278, LONG, size[1]),
        numbers(279, LONG, length),
        resolution,
        Tag(code=283, kind=_RATIONAL, count=1, data=resolution.data),
        numbers(296, SHORT, 3),
        Tag(code=65421, kind=_FLOAT, count=1, data=struct.pack("<f", lens)),
    ]


def _signed(code: int, value: int) -> Tag:
    return Tag(code=code, kind=_SLONG, count=1, data=struct.pack("<i", value))
