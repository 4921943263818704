"""The second pass is tried on plans made wrong on purpose: each error of a writer must be seen."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from PIL import Image, ImageDraw

from mover.deid import drawing
from mover.deid.child import FdSource
from mover.deid.deidentify import SlideVerifier, prepare_slide, slide_sandbox
from mover.deid.likeness import area_average, check_likeness, check_stream
from mover.deid.outcome import SlidePlan
from mover.deid.slides import plan_slide
from mover.deid.verify import verify_slide
from mover.errors import ChangedWhileReading, FormatUnsupported, RedactionUnproven
from mover.model.recipe import Copy, Literal, Recipe, Segment, plain_copy
from mover.model.source import MemorySource
from mover.model.tiers import Fingerprint
from tests.support import slides


def planned(data: bytes, suffix: str = ".svs") -> tuple[MemorySource, SlidePlan]:
    source = MemorySource(data)
    return source, plan_slide(source, suffix=suffix)


def with_segments(plan: SlidePlan, *segments: Segment) -> SlidePlan:
    return msgspec.structs.replace(plan, recipe=Recipe(plan.recipe.source_bytes, segments))


def refused(source: MemorySource, plan: SlidePlan) -> None:
    with pytest.raises(RedactionUnproven):
        verify_slide(source, plan)


def head_and_tail(plan: SlidePlan) -> tuple[bytes, tuple[Segment, ...]]:
    head = plan.recipe.segments[0]
    assert isinstance(head, Literal)
    return head.data, plan.recipe.segments[1:]


def test_a_plain_copy_is_never_proved() -> None:
    """The one recipe that would publish everything."""
    data = slides.svs()
    source, plan = planned(data)
    refused(source, msgspec.structs.replace(plan, recipe=plain_copy(len(data))))


def test_a_recipe_for_another_source_is_refused() -> None:
    _, plan = planned(slides.svs())
    refused(MemorySource(slides.svs(keys="AppMag = 40")), plan)


HEADS: dict[str, Callable[[bytes], bytes]] = {
    "an identifier in a literal": lambda head: head.replace(b"USM Filter", b"S24-771001"),
    "an unlisted key": lambda head: head.replace(b"StripeWidth", b"PatientName"),
    "a text where numbers belong": lambda head: head.replace(b"Filtered = 5", b"Filtered = Q"),
    "a tag's number changed": lambda head: head.replace(b"\x0e\x01\x02\0", b"\x0d\x01\x02\0", 1),
    "another resolution": lambda head: head.replace(b"MPP = 0.4990", b"MPP = 0.2500"),
    "another objective": lambda head: head.replace(b"AppMag = 20", b"AppMag = 40"),
    "no vendor": lambda head: head.replace(b"Aperio Image", b"Nobody Image"),
    "a key at the thumbnail": lambda head: head.replace(b" - |AppMag", b" - |Barcod"),
    "words at the thumbnail": lambda head: head.replace(b" - |AppMag = 20", b" - Quincy, Ada "),
    "a thumbnail of another size": lambda head: head.replace(b"-> 80x64 -", b"-> 64x80 -"),
    "a thumbnail of another slide": lambda head: head.replace(b"320x256 -> 80x64 -", b"256x320 -> 80x64 -"),
    "a thumbnail that calls itself a label": lambda head: swapped_subfile(head),
}


def swapped_subfile(head: bytes) -> bytes:
    """NewSubfileType of the second directory, 0 to 1: tag 254, LONG, one value."""
    entry = b"\xfe\0\4\0\1\0\0\0"
    at = head.index(entry, head.index(entry) + 1) + len(entry)
    return head[:at] + b"\1" + head[at + 1 :]


@pytest.mark.parametrize("error", HEADS)
def test_a_wrong_literal_is_seen(error: str) -> None:
    source, plan = planned(slides.svs())
    head, rest = head_and_tail(plan)
    changed = HEADS[error](head)
    assert changed != head and len(changed) == len(head)
    refused(source, with_segments(plan, Literal(changed), *rest))


def test_a_byte_between_the_structures_is_seen() -> None:
    """Padding is zero or it is a place."""
    source, plan = planned(slides.svs())
    head, rest = head_and_tail(plan)
    spot = next(at for at in range(len(head) - 1, 0, -1) if padded(plan, source, head, at))
    refused(source, with_segments(plan, Literal(head[:spot] + b"Q" + head[spot + 1 :]), *rest))


def padded(plan: SlidePlan, source: MemorySource, head: bytes, at: int) -> bool:
    """True where a byte may be changed without changing any value: found by asking the structure itself."""
    from scanners.tiff import read_structure

    structure = read_structure(MemorySource(slides.run_recipe(source.read(0, source.size_bytes), plan.recipe.segments)))
    ranges = [(0, 8)]
    for directory in structure.directories:
        ranges.append((directory.offset, directory.size_bytes))
        ranges += [(tag.at, tag.size_bytes) for tag in directory.tags.values() if tag.inline is None]
    return head[at] == 0 and not any(start <= at < start + length for start, length in ranges)


def test_bytes_behind_the_last_tile_are_seen() -> None:
    source, plan = planned(slides.svs())
    refused(source, with_segments(plan, *plan.recipe.segments, Literal(bytes(64))))
    refused(source, with_segments(plan, *plan.recipe.segments, Copy(0, 64)))


def test_two_tiles_exchanged_are_seen() -> None:
    """Every byte would be there, and the picture would be wrong."""
    source, plan = planned(slides.svs(encode=same))
    head, (first, *rest) = head_and_tail(plan)
    assert isinstance(first, Copy)
    half = first.length // 20
    swapped = (Copy(first.offset + half, half), Copy(first.offset, half), Copy(first.offset + 2 * half, 18 * half))
    refused(source, with_segments(plan, Literal(head), *swapped, *rest))


def same(pixels: object) -> bytes:
    """Every tile of one length, so that exchanging two changes no offset."""
    return slides.jpeg(slides.tissue(64, 64))


def test_a_tile_taken_from_the_label_is_seen() -> None:
    source, plan = planned(slides.svs())
    head, (first, *rest) = head_and_tail(plan)
    assert isinstance(first, Copy)
    moved = (Copy(first.offset + 64, 64), Copy(first.offset + 64, first.length - 64))
    refused(source, with_segments(plan, Literal(head), *moved, *rest))


def test_a_damaged_tile_is_seen_when_it_is_decoded() -> None:
    data = bytearray(slides.svs())
    at = data.index(b"\xff\xda", 400) + 20
    data[at : at + 200] = bytes(200)
    refused(*planned(bytes(data)))


LABEL = slides.label_picture("S24-771001 Quincy", 80, 64)


def test_the_sources_own_thumbnail_in_the_outputs_place_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it shows the same tissue: what it carries besides nobody has looked at."""
    data = slides.svs()
    own = slides.jpeg(slides.tissue(80, 64))
    assert own in data
    with monkeypatch.context() as writer:
        writer.setattr(drawing, "encode_thumbnail", lambda drawn, size: own)
        source, plan = planned(data)
    refused(source, plan)


def test_a_thumbnail_copied_from_the_source_is_seen() -> None:
    source, plan = planned(slides.svs())
    *front, last = plan.recipe.segments
    assert isinstance(last, Literal)
    refused(source, with_segments(plan, *front, Copy(400, len(last.data))))


@pytest.mark.parametrize("picture", [LABEL, np.full((64, 80, 3), 230, np.uint8), slides.tissue(80, 64, seed=2)])
def test_another_picture_is_seen_even_when_the_drawing_itself_is_wrong(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writer and second look share the drawing; the comparison by area does not."""
    monkeypatch.setattr(drawing, "encode_thumbnail", lambda drawn, size: slides.jpeg(picture))
    refused(*planned(slides.svs()))


def test_a_small_writing_on_the_right_picture_is_seen() -> None:
    """It changes the mean of the whole by next to nothing."""
    drawn = Image.fromarray(slides.tissue(800, 640))
    shown = drawn.resize((400, 320))
    check_likeness(shown, drawn)
    ImageDraw.Draw(shown).text((300, 200), "771001", fill=(0, 0, 0))
    with pytest.raises(RedactionUnproven):
        check_likeness(shown, drawn)


@pytest.mark.parametrize("size", [(33, 27), (100, 80), (1, 1), (130, 81)])
def test_the_area_average_keeps_the_mean_and_a_flat_colour(size: tuple[int, int]) -> None:
    """Whatever the ratio, fractional edges included."""
    pixels = slides.tissue(100, 80)
    small = area_average(pixels, size)
    assert small.shape == (size[1], size[0], 3)
    assert np.allclose(small.mean((0, 1)), pixels.mean((0, 1)), atol=0.01)
    assert np.allclose(area_average(np.full_like(pixels, 77), size), 77, atol=0.01)


PLAIN = slides.jpeg(slides.tissue(32, 32))
POCKETS = {
    "a comment": PLAIN[:20] + b"\xff\xfe\0\x08Quincy" + PLAIN[20:],
    "a comment of a known writer": PLAIN[:20] + b"\xff\xfe\0\x29Hamamatsu NanoZoomer Digital Pathology\0" + PLAIN[20:],
    "EXIF": PLAIN[:20] + b"\xff\xe1\0\x0aExif\0\0Q!" + PLAIN[20:],
    "bytes behind the end": PLAIN + b"Quincy",
    "a second picture behind the first": PLAIN + PLAIN,
    "a longer JFIF": PLAIN.replace(b"\xff\xe0\0\x10JFIF", b"\xff\xe0\0\x16JFIF").replace(
        PLAIN[18:20], PLAIN[18:20] + b"Quincy", 1
    ),
    "no end": PLAIN[:-2],
    "a header cut short": PLAIN[:30] + b"\xff\xd9",
    "nothing": b"",
}


def test_a_plain_picture_has_no_pocket() -> None:
    check_stream(PLAIN)


@pytest.mark.parametrize("pocket", POCKETS)
def test_a_thumbnails_stream_holds_a_picture_and_nothing_else(pocket: str) -> None:
    with pytest.raises(RedactionUnproven):
        check_stream(POCKETS[pocket])


def test_the_evidence_counts_and_holds_no_value() -> None:
    source, plan = planned(slides.svs())
    evidence = verify_slide(source, plan)
    assert evidence.strings_sought == len(plan.removed) > 0
    assert evidence.tiles == plan.tile_count == 22
    assert evidence.bytes_searched > 1000
    assert all(removed not in repr(evidence) for removed in plan.removed)


def test_tile_lists_of_equal_slides_have_equal_digests() -> None:
    first, second = planned(slides.svs()), planned(slides.svs())
    assert verify_slide(*first).tile_list_blake3 == verify_slide(*second).tile_list_blake3


def test_a_hamamatsu_level_is_proved_with_only_some_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a slide of gigabytes: header, sampled restart intervals, nothing else in memory."""
    monkeypatch.setattr("mover.deid.sampling.WHOLE_BYTES", 0)
    data = slides.ndpi(size=(512, 1024))
    source, plan = planned(data, ".ndpi")
    evidence = verify_slide(source, plan, samples=3)
    assert evidence.tiles_decoded == 6


def test_other_focal_planes_are_kept_and_proved_by_their_tile_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide shows the first plane only; the others must be there all the same."""
    monkeypatch.setattr("mover.deid.sampling.WHOLE_BYTES", 0)
    source, plan = planned(slides.ndpi(planes=3), ".ndpi")
    evidence = verify_slide(source, plan, samples=2)
    assert (evidence.levels, evidence.tiles_decoded) == (6, 4)


def test_a_hamamatsu_slide_without_restart_positions_is_proved_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide then seeks them itself, through every byte."""
    monkeypatch.setattr("mover.deid.sampling.WHOLE_BYTES", 0)
    source, plan = planned(slides.ndpi(positions=False), ".ndpi")
    assert verify_slide(source, plan).tiles_decoded == 2


def test_an_aperio_slide_is_proved_with_only_some_of_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mover.deid.sampling.WHOLE_BYTES", 0)
    source, plan = planned(slides.svs(size=(640, 512), empty=frozenset({5, 40})))
    # three of the first level, two of the deeper one
    assert verify_slide(source, plan, samples=3).tiles_decoded == 5


def test_the_engines_verifier_lets_only_the_proved_recipe_pass() -> None:
    """The engine asks for every recipe that crosses zones."""
    source, plan = planned(slides.svs())
    verifier = SlideVerifier(plan, proved=False)
    verifier.verify(source, plan.recipe)
    with pytest.raises(RedactionUnproven):
        verifier.verify(source, plain_copy(source.size_bytes))


def test_a_source_exchanged_between_proof_and_clearance_is_noticed() -> None:
    """Proof and copy are two openings of one name at worst."""

    class Entry(MemorySource):
        mark = "first"

        def fingerprint(self) -> Fingerprint:
            return Fingerprint(self.size_bytes, 0, self.mark)

    entry = Entry(slides.svs())
    plan = plan_slide(entry, suffix=".svs")
    verifier = SlideVerifier(plan, proved=True, seen=entry.fingerprint())
    verifier.verify(entry, plan.recipe)
    entry.mark = "second"
    with pytest.raises(ChangedWhileReading):
        verifier.verify(entry, plan.recipe)


@pytest.mark.slow
def test_a_slide_is_prepared_in_the_sandbox(tmp_path: object) -> None:
    """Plan, proof and thumbnail in a child without files; a refusal crosses back as itself."""
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "a.svs").write_bytes(slides.svs())
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with (
        slide_sandbox(max_children=1) as sandbox,
        (folder / "a.svs").open("rb") as good,
        (folder / "b.png").open("rb") as bad,
    ):
        prepared = prepare_slide(sandbox, good.fileno(), suffix=".svs", thumbnail_px=64)
        assert prepared.plan == plan_slide(FdSource(good.fileno()), suffix=".svs")
        assert prepared.evidence.levels == 2
        assert prepared.thumbnail[:2] == b"\xff\xd8"
        with pytest.raises(FormatUnsupported, match="PNG"):
            prepare_slide(sandbox, bad.fileno(), suffix=".png")
