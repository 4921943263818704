"""Tables that all tiles of a page share may not carry words between them."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import openslide
import pytest
from PIL import Image

from mover.decide.redaction.jpegtables import clean_tables
from mover.deid.slides import plan_slide
from mover.deid.verify import verify_slide
from mover.errors import PlaceUnknown
from mover.model.source import MemorySource
from tests.support import slides

SECRET = b"Quincy, Ottilie MRN60338241"


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def tables_of(stream: bytes) -> bytes:
    """The quantisation and Huffman tables of a JPEG, as JPEGTables."""
    out, at = b"\xff\xd8", 2
    while stream[at + 1] != 0xDA:
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        out += stream[at : at + 2 + length] if stream[at + 1] in (0xDB, 0xC4) else b""
        at += 2 + length
    return out + b"\xff\xd9"


def picture() -> bytes:
    stream = BytesIO()
    Image.new("RGB", (64, 64), (200, 100, 150)).save(stream, "JPEG", quality=80, subsampling=0)
    return stream.getvalue()


def test_comments_and_what_follows_the_end_are_taken_out_and_tables_stay() -> None:
    tables = tables_of(picture())
    planted = tables[:2] + segment(0xFE, SECRET) + tables[2:-2] + segment(0xE1, SECRET) + tables[-2:] + SECRET
    cleaned, dropped = clean_tables(planted)
    assert cleaned == tables
    assert dropped == (SECRET, SECRET, SECRET)
    assert clean_tables(tables) == (tables, ())


@pytest.mark.parametrize(
    "spoil", [lambda one: one[:-2], lambda one: b"x" + one, lambda one: one[:4] + b"\0\0" + one[6:]]
)
def test_tables_that_are_none_are_refused(spoil) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PlaceUnknown):
        clean_tables(spoil(tables_of(picture())))


def test_a_table_longer_than_what_it_holds_is_refused() -> None:
    with pytest.raises(PlaceUnknown):
        clean_tables(b"\xff\xd8" + segment(0xDB, bytes(65) + SECRET) + b"\xff\xd9")


def test_a_slide_whose_tables_carry_a_comment_comes_out_clean_with_its_tiles_untouched(tmp_path: Path) -> None:
    """The tiles are copied; only the tables they share are written anew."""
    tables = tables_of(picture())
    planted = tables[:2] + segment(0xFE, SECRET) + tables[2:]
    data = slides.svs(extra=[slides.raw(347, planted)])
    source = MemorySource(data)
    plan = plan_slide(source, suffix=".svs")
    verify_slide(source, plan)
    output = slides.run_recipe(data, plan.recipe.segments)
    assert SECRET not in output and tables in output
    for name, content in (("before.svs", data), ("after.svs", output)):
        (tmp_path / name).write_bytes(content)
    with openslide.OpenSlide(tmp_path / "before.svs") as old, openslide.OpenSlide(tmp_path / "after.svs") as new:
        assert new.read_region((0, 0), 0, (320, 256)) == old.read_region((0, 0), 0, (320, 256))
