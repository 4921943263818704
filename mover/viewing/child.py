"""What runs in the parsing child for a picture of a slide: its descriptors under the names that OpenSlide looks for, in
a folder of links that the caller made. Levels are read, and nothing else: label, overview and thumbnail have no way in.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import msgspec
import openslide
from PIL import Image

from mover.deid.drawing import on_white
from mover.errors import FormatUnsupported, StructureInvalid
from mover.viewing.pyramid import Area, Pyramid

QUALITY: Final = 85
_PART: Final = "Other parts of it may be shown. `mover verify` reads its bytes again."
_WHOLE: Final = "Nothing is lost: its bytes are what was published, and runs get it like any other."


class Place(msgspec.Struct, frozen=True):
    """Where the main file's link is, and the descriptor that the first link points at; the others follow."""

    path: str
    first: int


def look(*given: object) -> bytes:
    """Descriptors, then the place: what the slide's levels are."""
    with _opened(*given) as slide:
        wide, high = slide.dimensions
        return msgspec.msgpack.encode(Pyramid(wide, high, tuple(slide.level_downsamples)))


def draw(*given: object) -> bytes:
    """Descriptors, the place, the pyramid as `look` told it, and the area: a JPEG without metadata."""
    *rest, pyramid, area = given
    seen, wanted = msgspec.convert(pyramid, Pyramid), msgspec.convert(area, Area)
    with _opened(*rest) as slide:
        try:
            piece = slide.read_region((wanted.x, wanted.y), seen.stored(wanted), seen.read_size(wanted))
        except openslide.OpenSlideError as error:
            raise StructureInvalid("this part of the slide cannot be decoded", hint=_PART) from error
    size = (wanted.out_width, wanted.out_height)
    picture = on_white(piece)
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.HAMMING)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


@contextmanager
def _opened(*given: object) -> Iterator[openslide.OpenSlide]:
    *descriptors, told = given
    place = msgspec.convert(told, Place)
    for at, descriptor in enumerate(descriptors):
        assert isinstance(descriptor, int)
        os.dup2(descriptor, place.first + at, inheritable=False)
    try:
        slide = openslide.OpenSlide(place.path)
    except (openslide.OpenSlideError, OSError) as error:
        raise FormatUnsupported("no reader here shows slides of this kind", hint=_WHOLE) from error
    with slide:
        yield slide
