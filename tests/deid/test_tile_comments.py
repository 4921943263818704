"""Comments inside compressed tiles: zeros take their place, the pictures' bytes stay, and the proof knows why."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.deid.blanked import Blanked, blank_out, joined
from mover.deid.outcome import SlidePlan
from mover.deid.search import Seeker
from mover.deid.slides import plan_slide
from mover.deid.verify import verify_slide
from mover.errors import IdentityError, PlaceUnknown, RedactionUnproven
from mover.model.recipe import Copy, Literal, Recipe, Segment, compact
from mover.model.source import MemorySource
from tests.support import slides, tiffs

NAME, NUMBER = "Quincy-Øster", "MRN60338241"
WORDS = f"{NAME} {NUMBER}".encode()


def with_segment(marker: int, payload: bytes) -> Callable[[np.ndarray], bytes]:
    def encode(pixels: np.ndarray) -> bytes:
        data = slides.jpeg(pixels)
        return data[:20] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[20:]

    return encode


def clean(data: bytes, suffix: str = ".tif") -> tuple[bytes, SlidePlan]:
    source = MemorySource(data)
    plan = plan_slide(source, suffix=suffix)
    verify_slide(source, plan)
    return slides.run_recipe(data, plan.recipe.segments), plan


MAKERS: dict[str, Callable[..., bytes]] = {
    "no vendor": tiffs.pyramid, "OME": tiffs.ome, "Aperio": lambda encode: slides.svs(encode=encode)
}  # fmt: skip
SEGMENTS = {
    "a comment": (0xFE, WORDS), "EXIF": (0xE1, b"Exif\0\0" + WORDS), "IPTC": (0xED, b"Photoshop 3.0\0" + WORDS),
    "an ICC profile": (0xE2, b"ICC_PROFILE\0\1\1" + WORDS), "UTF-16": (0xFE, WORDS.decode().encode("utf-16-le")),
    "an application's own": (0xEF, WORDS),
}  # fmt: skip


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("maker", MAKERS)
def test_what_a_tile_says_beside_its_picture_is_gone_and_every_pixel_stays(maker: str, segment: str) -> None:
    """Lengths and offsets stay as well: nothing of a level moves."""
    data = MAKERS[maker](encode=with_segment(*SEGMENTS[segment]))
    output, plan = clean(data, ".svs" if maker == "Aperio" else ".tif")
    assert Seeker((NAME, NUMBER)).find(output) == 0
    assert any(one.place == "tiles" and one.times >= plan.tile_count - 1 for one in plan.decisions)
    assert any(NUMBER in text for text in plan.removed)
    with tifffile.TiffFile(io.BytesIO(data)) as before, tifffile.TiffFile(io.BytesIO(output)) as after:
        old, new = before.pages[0], after.pages[0]
        assert old.databytecounts == new.databytecounts
        assert (old.asarray() == new.asarray()).all()


def test_a_jpeg2000_tiles_own_words_are_gone_too() -> None:
    def encode(pixels: np.ndarray) -> bytes:
        data = slides.jp2k(pixels)
        at = data.index(b"\xff\x52")
        return data[:at] + b"\xff\x64" + struct.pack(">HH", 4 + len(WORDS), 1) + WORDS + data[at:]

    data = tiffs.pyramid(encode=encode, compression=33005, size=(128, 64))
    output, plan = clean(data)
    assert Seeker((NAME, NUMBER)).find(output) == 0
    assert [one.times for one in plan.decisions if one.place == "tiles"] == [3]


def test_a_known_writers_comment_stays_and_the_recipe_stays_short() -> None:
    """One copy for neighbours, as before."""
    output, plan = clean(tiffs.pyramid(encode=with_segment(0xFE, b"LEAD Technologies Inc. V1.01\0")))
    assert b"LEAD Technologies" in output
    assert len(plan.recipe.segments) < 6


@pytest.mark.parametrize("payload", [b"JFIF\0" + WORDS, b"Adobe" + WORDS])
def test_a_segment_that_says_how_colours_are_stored_is_never_blanked(payload: bytes) -> None:
    """With a pocket in it the slide is refused: zeros there would change the picture."""
    with pytest.raises(PlaceUnknown):
        clean(tiffs.pyramid(encode=with_segment(0xE0 if payload[:1] == b"J" else 0xEE, payload)))


@pytest.mark.parametrize("tail", [WORDS, b"\xff\xd9" + WORDS + b"\xff\xd9"])
def test_text_behind_a_tiles_end_is_refused_as_before(tail: bytes) -> None:
    encode = with_segment(0xFE, WORDS)
    with pytest.raises(IdentityError):
        clean(tiffs.pyramid(encode=lambda pixels: encode(pixels) + tail))


@pytest.mark.parametrize("inside", [300, 700])
def test_zeros_in_a_tiles_pixels_are_seen(inside: int) -> None:
    """A picture with a hole would otherwise pass as one with a comment."""
    source = MemorySource(tiffs.pyramid())
    plan = plan_slide(source, suffix=".tif")
    first = next(one for one in plan.recipe.segments if isinstance(one, Copy))
    segments = blank_out(list(plan.recipe.segments), [(first.offset + inside, 16)])
    wrong = msgspec.structs.replace(plan, recipe=compact(source.size_bytes, segments))
    with pytest.raises(RedactionUnproven):
        verify_slide(source, wrong)


def test_a_comment_that_was_forgotten_is_seen() -> None:
    """The writer's list of comments is one too short."""
    source = MemorySource(tiffs.pyramid(encode=with_segment(0xFE, WORDS)))
    plan = plan_slide(source, suffix=".tif")
    segments: list[Segment] = list(plan.recipe.segments)
    at = next(number for number, one in enumerate(segments) if isinstance(one, Literal) and not any(one.data))
    before, after = segments[at - 1], segments[at + 1]
    assert isinstance(before, Copy) and isinstance(after, Copy)
    segments[at] = Copy(before.offset + before.length, after.offset - before.offset - before.length)
    wrong = msgspec.structs.replace(plan, recipe=Recipe(source.size_bytes, tuple(segments)))
    with pytest.raises(IdentityError):
        verify_slide(source, wrong)


@settings(max_examples=80, deadline=None)
@given(cuts=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=5), copies=st.booleans())
def test_blanking_is_what_a_blanked_source_reads_and_can_be_undone(cuts: list[tuple[int, int]], copies: bool) -> None:
    """Writer and proof see the same bytes, whatever is blanked wherever."""
    data = bytes(range(1, 101))
    ranges, end = [], 1
    for gap, length in cuts:
        start = end + gap % 20
        if start + length < 99:
            ranges.append((start, length))
            end = start + length + 1
    whole: list[Segment] = [Literal(b"head"), Copy(0, 50), Copy(50, 50)] if copies else [Literal(b"head"), Copy(0, 100)]
    recipe = compact(100, blank_out(whole, ranges))
    blanked = Blanked(MemorySource(data), ranges)
    assert slides.run_recipe(data, recipe.segments) == b"head" + blanked.read(0, 100)
    assert all(blanked.read(at, 7) == blanked.read(0, 100)[at : at + 7] for at in range(90))
    found, back = joined([(one.at, one.segment) for one in recipe.placed()])
    assert (found, back) == ([(4, Copy(0, 100))], ranges)
