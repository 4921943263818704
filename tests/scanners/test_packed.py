"""Tiles that are no JPEG are copied whole as well: nothing but pixels may stand in their bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

import scanners
from mover.errors import FormatUnsupported, IdentityError, PlaceUnknown
from mover.model.source import MemorySource
from scanners import packed
from tests.support import slides, tiffs

WORDS = b"Quincy, Ada MRN60338241"


def examined(compression: int, encode: Callable[[np.ndarray], bytes]) -> int:
    source = MemorySource(tiffs.pyramid(compression=compression, encode=encode, size=(128, 64)))
    return scanners.examine_tiles(source, scanners.identify(source, ".tif"))


@pytest.mark.parametrize("compression", tiffs.ENCODERS)
def test_tiles_as_their_encoders_write_them_pass(compression: int) -> None:
    assert examined(compression, tiffs.ENCODERS[compression]) == 3


@pytest.mark.parametrize("tail", [WORDS, b"Quincy", b"\0" * 9])
@pytest.mark.parametrize("compression", tiffs.ENCODERS)
def test_bytes_behind_a_tiles_end_are_refused_in_every_codec(compression: int, tail: bytes) -> None:
    """They are part of the tile's byte count, and readers never show them."""
    with pytest.raises(IdentityError):
        examined(compression, lambda pixels: tiffs.ENCODERS[compression](pixels) + tail)


@pytest.mark.parametrize("compression", [8, 50000, 50001])
def test_a_tile_cut_short_is_refused(compression: int) -> None:
    with pytest.raises(IdentityError):
        examined(compression, lambda pixels: tiffs.ENCODERS[compression](pixels)[:-9])


def test_a_second_frame_behind_the_first_is_refused() -> None:
    """A skippable frame of zstd is made to carry anything."""
    frame = struct.pack("<II", 0x184D2A50, len(WORDS)) + WORDS
    with pytest.raises(IdentityError):
        examined(50000, lambda pixels: tiffs.ENCODERS[50000](pixels) + frame)
    with pytest.raises(IdentityError):
        examined(50000, lambda pixels: frame + tiffs.ENCODERS[50000](pixels))


def test_a_webp_chunk_that_is_no_picture_is_refused() -> None:
    def encode(pixels: np.ndarray) -> bytes:
        data = tiffs.ENCODERS[50001](pixels)
        chunk = b"EXIF" + struct.pack("<I", 24) + WORDS.ljust(24)
        return b"RIFF" + struct.pack("<I", len(data) + len(chunk) - 8) + data[8:] + chunk

    with pytest.raises(PlaceUnknown):
        examined(50001, encode)


def test_a_deflated_tile_of_more_pixels_than_belong_is_refused_before_it_fills_memory() -> None:
    """A bomb unpacks to gigabytes; no more than the tile's own pixels are unpacked."""
    with pytest.raises(IdentityError):
        examined(8, lambda pixels: tiffs.ENCODERS[8](np.zeros((1000, 1000, 3), np.uint8)))


@pytest.mark.parametrize("padding", range(8))
@pytest.mark.parametrize("width", range(9, 13))
def test_the_last_code_of_lzw_is_found_in_every_width(width: int, padding: int) -> None:
    """Codes grow from nine to twelve bits, and the last byte is filled with zeros."""
    value = (0b1011 << width | 257) << padding
    packed.check_lzw_end(value.to_bytes(3, "big"))


def test_a_codec_without_a_rule_is_refused_by_number() -> None:
    source = MemorySource(tiffs.pyramid(compression=52546, encode=slides.jpeg))
    with pytest.raises(FormatUnsupported, match="52546"):
        scanners.identify(source, ".tif")
