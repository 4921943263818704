"""Pictures of nothing: the stand-ins for pages that must be there and may not show what they showed.

A label or an overview can be a page that readers count on: its number stands in a vendor's XML, or its tags hold
that XML. Such a page stays in its place, and each of its tiles or strips is one and the same white picture, written
once and pointed to by all. It must be valid for the page: a JPEG with other subsampling than the page's
YCbCrSubSampling says makes OpenSlide refuse the whole slide. `check` is what the second look asks of such a picture.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping, Sequence
from typing import Final

import imagecodecs
import numpy as np
from PIL import Image

from mover.decide.redaction import OutTag
from mover.deid import likeness
from mover.errors import RedactionUnproven, StructureInvalid

BLANK_PIXELS: Final = 64 << 20
_JPEG_EDGE: Final = 65500
_WHITE: Final = 255
_QUALITY: Final = 50
_DEFLATE: Final = frozenset({8, 32946})
_COLOURS: Final = {0: "GRAY", 1: "GRAY", 2: "RGB", 6: "YCBCR"}


def segment(tags: Sequence[OutTag], width: int, height: int) -> bytes:
    """One white tile or strip of this size, encoded as the page's own tags say.

    Raises StructureInvalid for a layout no blank is made for: the desk that asked chooses the page's tags."""
    values = {tag.code: tag.value for tag in tags}
    samples, compression = _one(values, 277, 1), _one(values, 259, 1)
    bits = {int(item) for item in values.get(258, (1,)) if isinstance(item, int | float)}
    if bits != {8} or not 0 < width * height <= BLANK_PIXELS:
        raise StructureInvalid("no blank picture is made for such a page")
    white = np.full((height, width, samples), _WHITE, np.uint8)
    if compression in _DEFLATE:
        return zlib.compress(white.tobytes(), 9)
    if compression != 7 or max(width, height) > _JPEG_EDGE:
        raise StructureInvalid("no blank picture is made for such a page")
    return _jpeg(white, _COLOURS[_one(values, 262, 6)], (_one(values, 530, 2, 0), _one(values, 530, 2, 1)))


def _one(values: Mapping[int, object], code: int, default: int, at: int = 0) -> int:
    value = values.get(code)
    return int(value[at]) if isinstance(value, tuple) and len(value) > at else default


def _jpeg(white: np.ndarray, colours: str, subsampling: tuple[int, int]) -> bytes:
    plain = white[:, :, 0] if colours == "GRAY" else white
    wanted = subsampling if colours == "YCBCR" else (1, 1)
    return bytes(
        imagecodecs.jpeg8_encode(
            plain, level=_QUALITY, colorspace=None if colours == "GRAY" else "RGB", outcolorspace=colours,
            subsampling=wanted,
        )
    )  # fmt: skip


def check(data: bytes, *, compression: int, size: tuple[int, int], samples: int) -> None:
    """That these bytes are a white picture of this size and nothing besides; read by other code than wrote them.

    Raises RedactionUnproven."""
    if not 0 < size[0] * size[1] <= BLANK_PIXELS:
        raise RedactionUnproven("a blank picture of impossible size")
    if compression in _DEFLATE:
        _check_deflated(data, size[0] * size[1] * samples)
        return
    if compression != 7:
        raise RedactionUnproven("a blank picture in an unexpected encoding")
    likeness.check_stream(data)
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            shown = picture.size
            flat = picture.getextrema()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RedactionUnproven("a blank picture cannot be decoded") from error
    bands = flat if flat and isinstance(flat[0], tuple) else (flat,)
    if shown != size or any(low != high for low, high in bands):
        raise RedactionUnproven("a page that must be blank shows something")


def _check_deflated(data: bytes, size_bytes: int) -> None:
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(data, size_bytes + 1)
    except zlib.error as error:
        raise RedactionUnproven("a blank picture cannot be decoded") from error
    if len(pixels) != size_bytes or not stream.eof or stream.unused_data:
        raise RedactionUnproven("a blank picture of another size than its page")
    if pixels.count(_WHITE) != size_bytes:
        raise RedactionUnproven("a page that must be blank shows something")
