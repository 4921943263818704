"""The second look refuses what the first one would have let through: each test plays a writer that errs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from mover.decide.dicom.desk import Desk, Out, Verdict
from mover.deid.dicom import plan as planning
from mover.deid.dicom.plan import Engine
from mover.deid.pixels import Box, PixelVerdict
from mover.errors import RedactionUnproven
from mover.model.deid import DicomRules
from mover.model.dicom import Element
from mover.model.recipe import Copy, Literal
from mover.model.source import MemorySource
from tests.deid.dicom.raw import Pen, ct, part10
from tests.deid.dicom.support import TRUSTING, aliases_of, prepare, survey

PEN = Pen()
Change = Callable[[bytes], bytes]


def erring(monkeypatch: pytest.MonkeyPatch, tag: int, out: Out) -> None:
    """A desk that lets one element pass as `out`."""
    honest = Desk.element

    def element(self: Desk, one: Element, **words: object) -> Verdict:
        return Verdict(out, "kept") if one.tag == tag else honest(self, one, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(Desk, "element", element)


@pytest.mark.parametrize(
    "out",
    [
        Out(0x00100010, "PN", b"Quarrington^Euphemia"), Out(0x00081030, "LO", b"something"),
        Out(0x00080090, "PN", b"Somebody^Else "), Out(0x00080020, "DA", b"20190304"), Out(0x00080030, "TM", b"101112"),
        Out(0x00081010, "SH", b"CT01"), Out(0x00190010, "LO", b"ACME"), Out(0x00104000, "LT", b"text"),
        Out(0x00280301, "CS", b"QUARRINGTON "), Out(0x00200052, "UI", b"1.2.3.4.9\0"),
        Out(0x00200013, "IS", b"88413377"),
        Out(0x60003000, "OW", bytes(8)), Out(0x00420011, "OB", b"%PDF"), Out(0x00181000, "LO", b"SERIAL"),
        Out(0x00180050, "LO", b"2.5 "), Out(0x0018602C, "FD", b"Euphemia"),
        Out(0x00281201, "OW", b"q\0u\0a\0r\0r\0i\0n\0g\0t\0o\0n\0"),
        Out(0x00080070, "LO", b"Euphemia's"), Out(0x00082218, "SQ", ((Out(0x00080104, "LO", b"x" * 80),),)),
        Out(0x00400275, "SQ", ((Out(0x00400007, "LO", b"CT for Quarrington"),),)),
    ],
    ids=lambda out: f"{out.tag:08X}",
)  # fmt: skip
def test_a_value_that_should_not_have_passed_is_found(monkeypatch: pytest.MonkeyPatch, out: Out) -> None:
    """Names, dates of the source, hours, foreign UIDs, private and unlisted elements, at any depth."""
    source = 0x00180060
    erring(monkeypatch, source, out)
    with pytest.raises(RedactionUnproven):
        prepare(part10(ct(PEN)))


def tampered(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """A writer whose first literal comes out changed."""
    honest = planning.compact

    def compact(size: int, segments: list[object]) -> object:
        recipe = honest(size, segments)  # type: ignore[arg-type]
        first = recipe.segments[0]
        assert isinstance(first, Literal)
        return replace(recipe, segments=(Literal(change(first.data)), *recipe.segments[1:]))

    monkeypatch.setattr(planning, "compact", compact)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"Quarrington^Euphemia".ljust(128, b"\0") + data[128:],
        lambda data: data.replace(b"MOVER", b"OTHER"),
        lambda data: data.replace(b"YES ", b"NO  "),
        lambda data: data.replace(b"MODIFIED", b"REMOVED "),
        lambda data: data[:-12] + PEN.element(0x7FDF0010, "LO", "ACME") + data[-12:],
        lambda data: data[:-12] + PEN.element(0x00100010, "PN", "late") + data[-12:],
        lambda data: data[:-1],
        lambda data: data + b"\0\0",
    ],
)  # fmt: skip
def test_a_dataset_that_came_out_otherwise_is_found(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    tampered(monkeypatch, change)
    with pytest.raises(RedactionUnproven):
        prepare(part10(ct(PEN)))


def test_pixels_of_another_place_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that begins a few bytes early would bring the element before it."""
    honest = planning.compact

    def compact(size: int, segments: list[object]) -> object:
        recipe = honest(size, segments)  # type: ignore[arg-type]
        moved = tuple(Copy(one.offset - 8, one.length) if isinstance(one, Copy) else one for one in recipe.segments)
        return replace(recipe, segments=moved)

    monkeypatch.setattr(planning, "compact", compact)
    with pytest.raises(RedactionUnproven, match="pixels"):
        prepare(part10(ct(PEN)))


def test_what_was_proved_for_one_patient_is_not_believed_for_the_next() -> None:
    """The same bytes may be harmless in one patient's file and the name in another's."""

    def data(name: str) -> bytes:
        return part10(ct(PEN, name=name) | {0x00181210: PEN.element(0x00181210, "SH", "SHARPEDGE")})

    first, second = data("Quarrington^Euphemia"), data("Sharpedge^Ignatius")
    engine = Engine(aliases=aliases_of(survey(first), survey(second)), rules=DicomRules(), pixels=TRUSTING)
    kept = engine.prepare(MemorySource(first)).plan.recipe
    cleaned = engine.prepare(MemorySource(second)).plan.recipe
    assert b"SHARPEDGE" in kept.segments[0].data  # type: ignore[union-attr]
    assert b"SHARPEDGE" not in cleaned.segments[0].data  # type: ignore[union-attr]


def test_evidence_counts_and_quotes_nothing() -> None:
    prepared, _ = prepare(part10(ct(PEN)))
    told = repr(prepared.evidence) + repr(prepared.plan.decisions) + repr(prepared.plan.facts)
    assert prepared.evidence.strings_sought > 2 and prepared.evidence.elements_checked > 20
    assert not [word for word in ("Quarrington", "Euphemia", "88413377", "A17-553201", "1.2.3.4") if word in told]


@pytest.mark.parametrize(
    ("box", "passes"), [(Box(0, 0, 8, 2), True), (Box(0, 1, 8, 2), False), (Box(0, 0, 4, 2), False)]
)
def test_a_mask_changes_nothing_outside_its_boxes(monkeypatch: pytest.MonkeyPatch, box: Box, passes: bool) -> None:
    """Two rows of eight pixels of two bytes are blanked; only a box that holds them all explains that."""
    data = part10(ct(PEN))
    at = data.index(bytes(range(128)))
    segments = (Literal(bytes(32)), Copy(at + 32, 96))
    verdict = PixelVerdict("text was blanked", segments=segments, length=128, boxes=(box,))
    monkeypatch.setattr(planning, "judge_pixels", lambda source, facts, rules: verdict)
    if passes:
        assert prepare(data)[1].endswith(bytes(32) + bytes(range(32, 128)))
    else:
        with pytest.raises(RedactionUnproven, match="outside"):
            prepare(data)
