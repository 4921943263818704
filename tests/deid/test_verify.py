"""The second pass is tried on plans made wrong on purpose: each error of a writer must be seen."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from mover.deid.child import FdSource
from mover.deid.deidentify import SlideVerifier, prepare_slide, slide_sandbox
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
}


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
    monkeypatch.setattr("mover.deid.verify.WHOLE_BYTES", 0)
    data = slides.ndpi(size=(512, 1024))
    source, plan = planned(data, ".ndpi")
    evidence = verify_slide(source, plan, samples=3)
    assert evidence.tiles_decoded == 6


def test_other_focal_planes_are_kept_and_proved_by_their_tile_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide shows the first plane only; the others must be there all the same."""
    monkeypatch.setattr("mover.deid.verify.WHOLE_BYTES", 0)
    source, plan = planned(slides.ndpi(planes=3), ".ndpi")
    evidence = verify_slide(source, plan, samples=2)
    assert (evidence.levels, evidence.tiles_decoded) == (6, 4)


def test_a_hamamatsu_slide_without_restart_positions_is_proved_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide then seeks them itself, through every byte."""
    monkeypatch.setattr("mover.deid.verify.WHOLE_BYTES", 0)
    source, plan = planned(slides.ndpi(positions=False), ".ndpi")
    assert verify_slide(source, plan).tiles_decoded == 2


def test_an_aperio_slide_is_proved_with_only_some_of_its_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mover.deid.verify.WHOLE_BYTES", 0)
    source, plan = planned(slides.svs(size=(640, 512), empty=frozenset({5, 40})))
    assert verify_slide(source, plan, samples=3).tiles_decoded == 6


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
