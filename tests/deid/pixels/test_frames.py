"""Compressed frames: what hides beside the picture goes, the picture stays bit for bit."""

from __future__ import annotations

import random
import struct

import imagecodecs
import numpy as np
import pytest

from mover.deid.pixels import Span, strip_frame
from mover.errors import IdentityError, LimitExceeded, PlaceUnknown, StructureInvalid
from mover.model.recipe import Copy
from mover.model.source import MemorySource
from tests.support.dicoms import anatomy, annotated, jpeg, rle

JPEG, JPEG_LS, JP2K, RLE = (
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)
PICTURE = (anatomy(64, 96, seed=4) * 255).astype(np.uint8)
SECRET = b"Quarrington 48213377"


def stripped(frame: bytes, syntax: str, *, cuts: tuple[int, ...] = (), pixels: int = 0) -> bytes:
    """The frame's new bytes; `cuts` tell where it is broken into fragments, which then lie apart in the source."""
    edges = [0, *cuts, len(frame)]
    parts = [frame[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    whole, spans = b"", []
    for part in parts:
        whole += b"item"
        spans.append(Span(len(whole), len(part)))
        whole += part
    segments = strip_frame(MemorySource(whole), spans, transfer_syntax=syntax, pixels=pixels)
    return b"".join(whole[s.offset : s.offset + s.length] if isinstance(s, Copy) else s.data for s in segments)


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(payload)) + payload


def test_a_clean_jpeg_frame_is_copied_whole() -> None:
    """Tiles of a slide pass byte for byte: their digest in and out is the proof that tissue was not touched."""
    frame = jpeg(PICTURE)
    assert stripped(frame, JPEG) == frame
    assert stripped(frame + b"\0", JPEG) == frame


def test_comments_application_data_and_tails_of_a_jpeg_go_and_its_pixels_stay() -> None:
    frame = jpeg(PICTURE)
    dirty = annotated(frame, SECRET, SECRET, SECRET)
    for cuts in ((), (5, 40), (len(dirty) - 7,)):
        assert stripped(dirty, JPEG, cuts=cuts) == frame


def test_a_comment_between_the_scans_of_a_progressive_jpeg_goes() -> None:
    """Segments may stand between scans; a walk that stops at the first scan would carry them over."""
    frame = progressive(PICTURE)
    second = frame.index(b"\xff\xda", frame.index(b"\xff\xda") + 2)
    dirty = frame[:second] + segment(0xFE, SECRET) + frame[second:]
    assert stripped(dirty, JPEG) == frame


def progressive(picture: np.ndarray) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", progressive=True)
    return buffer.getvalue()


def test_jfif_loses_its_thumbnail_and_adobe_its_tail_but_colours_stay() -> None:
    """Both segments change how colours are decoded, so they stay, as long as the standard makes them."""
    frame = jpeg(PICTURE)
    assert frame[2:4] == b"\xff\xe0"
    bare = frame[:2] + frame[20:]
    thumbnail = b"JFIF\0\1\1\0\0\1\0\1\2\2" + SECRET[:12]
    adobe = b"Adobe\0\x64\0\0\0\0\1" + SECRET
    dirty = bare[:2] + segment(0xE0, thumbnail) + segment(0xEE, adobe) + bare[2:]
    clean = stripped(dirty, JPEG)
    assert SECRET[:6] not in clean
    assert segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0") in clean and segment(0xEE, adobe[:12]) in clean


def test_a_table_longer_than_its_tables_is_refused() -> None:
    """A decoder reads what it needs and skips the rest: a pocket that no copy may carry over."""
    frame = jpeg(PICTURE)
    at = frame.index(b"\xff\xdb")
    (length,) = struct.unpack_from(">H", frame, at + 2)
    body = frame[at + 4 : at + 2 + length]
    with pytest.raises(PlaceUnknown):
        stripped(frame[:at] + segment(0xDB, body + SECRET) + frame[at + 2 + length :], JPEG)


def test_a_comment_of_a_jpeg_ls_frame_goes() -> None:
    frame = imagecodecs.jpegls_encode(PICTURE)
    dirty = frame[:2] + segment(0xFE, SECRET) + frame[2:] + SECRET
    clean = stripped(dirty, JPEG_LS)
    assert SECRET not in clean and np.array_equal(imagecodecs.jpegls_decode(clean), PICTURE)


def test_a_comment_of_a_jpeg_2000_frame_goes_from_main_and_tile_headers() -> None:
    """The tile-part's own length counted the comment, so it is written anew; known encoders' comments stay."""
    frame = imagecodecs.jpeg2k_encode(PICTURE, level=0, codecformat="j2k")
    assert stripped(frame, JP2K) == frame
    comment = struct.pack(">HHH", 0xFF64, 4 + len(SECRET), 1) + SECRET
    tile = frame.index(b"\xff\x90")
    data = frame.index(b"\xff\x93", tile)
    (psot,) = struct.unpack_from(">I", frame, tile + 6)
    longer = frame[:tile] + comment + frame[tile : tile + 6] + struct.pack(">I", psot + len(comment))
    dirty = longer + frame[tile + 10 : data] + comment + frame[data:] + SECRET
    assert stripped(dirty, JP2K) == frame


def test_a_jp2_file_keeps_the_boxes_that_a_decoder_needs() -> None:
    frame = imagecodecs.jpeg2k_encode(PICTURE, level=0, codecformat="jp2")
    start = frame.index(b"jp2c") - 4
    note = struct.pack(">I4s", 8 + len(SECRET), b"xml ") + SECRET
    clean = stripped(frame[:start] + note + frame[start:], JP2K)
    assert SECRET not in clean and np.array_equal(imagecodecs.jpeg2k_decode(clean), PICTURE)


def test_bytes_behind_the_pixels_of_an_rle_segment_go() -> None:
    frame = rle(PICTURE)
    assert stripped(frame, RLE, pixels=PICTURE.size) == frame
    assert SECRET not in stripped(frame + SECRET, RLE, pixels=PICTURE.size)
    header = bytearray(frame[:64])
    header[40:60] = SECRET
    assert stripped(bytes(header) + frame[64:], RLE, pixels=PICTURE.size) == frame


def test_a_transfer_syntax_without_a_walk_is_refused() -> None:
    with pytest.raises(PlaceUnknown):
        stripped(b"\0\0\0\1", "1.2.840.10008.1.2.4.102")


@pytest.mark.parametrize("syntax", [JPEG, JPEG_LS, JP2K, RLE])
def test_broken_frames_end_in_a_refusal_or_a_clean_frame(syntax: str) -> None:
    """Truncated, flipped and spliced frames never end in another exception, and never carry the secret over."""
    rng = random.Random(syntax)
    made = {
        JPEG: annotated(jpeg(PICTURE), SECRET, SECRET, SECRET),
        JPEG_LS: imagecodecs.jpegls_encode(PICTURE) + SECRET,
        JP2K: imagecodecs.jpeg2k_encode(PICTURE, level=0, codecformat="j2k") + SECRET,
        RLE: rle(PICTURE) + SECRET,
    }[syntax]
    passed = 0
    for _ in range(300):
        frame = bytearray(made[: rng.randrange(2, len(made) + 1)] if rng.random() < 0.5 else made)
        for _ in range(rng.randrange(4)):
            frame[rng.randrange(min(len(frame), 700))] = rng.randrange(256)
        try:
            clean = stripped(bytes(frame), syntax, pixels=PICTURE.size)
        except (IdentityError, LimitExceeded):
            continue
        passed += 1
        assert len(clean) <= len(frame) + 2
    assert passed


def test_a_jpeg_without_a_scan_or_a_frame_is_refused() -> None:
    for broken in (b"\xff\xd8\xff\xd9", b"\xff\xd8" + segment(0xDA, b"\1\1\0\0\x3f\0") + b"\0\xff\xd9", b"GIF89a"):
        with pytest.raises(StructureInvalid):
            stripped(broken, JPEG)
