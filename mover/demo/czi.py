"""A Zeiss CZI: a family nobody here has a recipe for, so it must be refused, not passed."""

from __future__ import annotations

import base64
import struct
from pathlib import Path

from mover.demo import art
from mover.demo.plan import Pack
from mover.demo.texture import CLASSIC, Pixels, cut_tiles

SUFFIX = ".czi"
_ALIGNED = 32


def write(path: Path, pack: Pack, *, overview: Pixels) -> None:
    """File header, metadata and one sub-block: the segments of ZISRAW 1.2, identifiers where a scanner puts them."""
    barcode = base64.b64encode(art.barcode_text(pack).encode()).decode()
    described = (
        '<?xml version="1.0"?><ImageDocument><Metadata><Information><Document>'
        f"<Title>{pack.stem}</Title><UserName>{pack.serial}</UserName>"
        f"<CreationDate>{pack.scanned:%Y-%m-%dT%H:%M:%SZ}</CreationDate></Document></Information>"
        f"<AttachmentInfos><Label><Barcode>{barcode}</Barcode></Label></AttachmentInfos></Metadata></ImageDocument>"
    ).encode()
    header = struct.pack("<iiii", 1, 0, 0, 0) + bytes(512 - 16)
    picture = b"".join(cut_tiles(overview, look=CLASSIC))
    with path.open("wb") as stream:
        stream.write(_segment(b"ZISRAWFILE", header))
        stream.write(_segment(b"ZISRAWMETADATA", struct.pack("<ii", len(described), 0) + bytes(248) + described))
        stream.write(_segment(b"ZISRAWSUBBLOCK", picture))


def _segment(name: bytes, body: bytes) -> bytes:
    room = -(-len(body) // _ALIGNED) * _ALIGNED
    return name.ljust(16, b"\0") + struct.pack("<qq", room, len(body)) + body.ljust(room, b"\0")
