"""Compressed and masked frames are looked at a second time: each test plays a writer that errs."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from mover.deid.dicom import plan as planning
from mover.deid.dicom import write
from mover.deid.dicom.codestreams import check_frame
from mover.deid.dicom.write import Writer
from mover.deid.pixels import Box, PixelFacts, PixelVerdict
from mover.deid.pixels.blanking import blank_decoded
from mover.deid.pixels.frames import strip_frame
from mover.errors import RedactionUnproven
from mover.model.recipe import Copy, Literal, Segment
from mover.model.source import ByteSource, MemorySource
from tests.deid.dicom.support import prepare, read
from tests.support.dicoms import SYNTAXES, Order, plant

JPEG, LOSSLESS, LS, J2K, RLE = (
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.5",
)  # fmt: skip
SIDE = 48
NAME = b"Quarrington^Euphemia"


def picture(*, colours: int = 1) -> np.ndarray:
    noise = np.random.default_rng(4).integers(0, 255, (SIDE, SIDE, colours), np.uint8)
    return noise if colours > 1 else noise[:, :, 0]


def segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def rle(samples: np.ndarray) -> bytes:
    raw = samples.tobytes()
    body = b"".join(bytes([127]) + raw[at : at + 128] for at in range(0, len(raw), 128))
    return struct.pack("<16I", 1, 64, *[0] * 14) + body + b"\0" * (len(body) % 2)


FRAMES: dict[str, bytes] = {
    JPEG: imagecodecs.jpeg8_encode(picture(colours=3), level=80),
    LOSSLESS: imagecodecs.ljpeg_encode(picture()),
    LS: imagecodecs.jpegls_encode(picture()),
    J2K: imagecodecs.jpeg2k_encode(picture(), codecformat="j2k", reversible=True),
    RLE: rle(picture()),
}  # fmt: skip


def with_remarks(syntax: str) -> bytes:
    """The frame as a talkative writer would have made it."""
    data = FRAMES[syntax]
    if syntax == RLE:
        return data + NAME
    if syntax == J2K:
        at = data.index(b"\xff\x52")
        return data[:at] + segment(0x64, b"\0\1" + NAME) + data[at:]
    return data[:2] + segment(0xFE, NAME) + segment(0xE1, b"Exif\0\0" + NAME) + data[2:]


def stripped(syntax: str) -> bytes:
    data = with_remarks(syntax)
    parts = strip_frame(MemorySource(data), [planning.Span(0, len(data))], transfer_syntax=syntax, pixels=SIDE * SIDE)
    return b"".join(data[one.offset : one.offset + one.length] if isinstance(one, Copy) else one.data for one in parts)


@pytest.mark.parametrize("syntax", FRAMES, ids=lambda uid: uid[-4:])
def test_what_the_writer_makes_is_proved(syntax: str) -> None:
    """With remarks left out, and untouched, odd lengths padded."""
    for made, before in ((stripped(syntax), with_remarks(syntax)), (stripped(syntax), stripped(syntax))):
        check_frame(made + b"\0" * (len(made) % 2), before, syntax=syntax, pixels=SIDE * SIDE)


def cut(data: bytes, mark: bytes) -> bytes:
    at = data.index(mark)
    return data[:at] + data[at + 2 + struct.unpack_from(">H", data, at + 2)[0] :]


def flipped(data: bytes) -> bytes:
    at = 2 * len(data) // 3
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


ERRORS: dict[str, Callable[[str], bytes]] = {
    "nothing was left out": with_remarks,
    "something was added behind": lambda syntax: stripped(syntax) + NAME,
    "one byte of the scan is another": lambda syntax: flipped(stripped(syntax)),
    "the end is missing": lambda syntax: stripped(syntax)[:-200],
    "it is another frame": lambda syntax: FRAMES[RLE if syntax == JPEG else JPEG],
    "it is empty": lambda syntax: b"",
}


@pytest.mark.parametrize("syntax", FRAMES, ids=lambda uid: uid[-4:])
@pytest.mark.parametrize("error", ERRORS)
def test_a_frame_that_came_out_otherwise_is_found(syntax: str, error: str) -> None:
    with pytest.raises(RedactionUnproven):
        check_frame(ERRORS[error](syntax), with_remarks(syntax), syntax=syntax, pixels=SIDE * SIDE)


@pytest.mark.parametrize(
    ("syntax", "mark"), [(JPEG, b"\xff\xdb"), (JPEG, b"\xff\xc4"), (LOSSLESS, b"\xff\xc4"), (J2K, b"\xff\x5c")]
)
def test_a_table_that_a_decoder_needs_is_missed(syntax: str, mark: bytes) -> None:
    """The copy list is in order and inside its frame, and still no picture."""
    with pytest.raises(RedactionUnproven):
        check_frame(cut(stripped(syntax), mark), with_remarks(syntax), syntax=syntax, pixels=SIDE * SIDE)


def test_no_damage_to_a_frame_ends_otherwise_than_refused_or_equal() -> None:
    """Cut and changed at every place: refused, or nothing of the essence was touched."""
    for syntax in FRAMES:
        good = stripped(syntax)
        for at in range(0, len(good), max(1, len(good) // 60)):
            for bad in (good[:at], good[:at] + b"\xff" + good[at + 1 :]):
                try:
                    check_frame(bad, good, syntax=syntax, pixels=SIDE * SIDE)
                except RedactionUnproven:
                    continue
                if syntax != RLE:  # whose decoders read no more than they need
                    assert bad.rstrip(b"\0") == good.rstrip(b"\0") or len(bad) == len(good)


def test_an_object_whose_frames_were_not_stripped_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """From end to end: the names in the comment would have gone out with the pixels."""

    def lazy(source: ByteSource, spans: Sequence[Any], **words: object) -> tuple[Segment, ...]:
        return tuple(Copy(span.offset, span.length) for span in spans)

    data = plant(Order("SC", syntax="jpeg", rows=64, columns=64)).data
    assert prepare(data)[0].evidence.frames == 1
    monkeypatch.setattr(write, "strip_frame", lazy)
    with pytest.raises(RedactionUnproven, match="says more"):
        prepare(data)


# --- where frames lie ------------------------------------------------------------------------------------


def of_four_frames(tables: dict[str, bytes]) -> bytes:
    """A talkative whole slide whose source says where its frames lie."""
    made = read(plant(Order("VOLUME", syntax="jpeg", rows=64, columns=64, frames=4, trailing=False)).data)
    for keyword, value in tables.items():
        setattr(made, keyword, value)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made, enforce_file_format=True)
    return stream.getvalue()


def places_in(made: Dataset) -> list[tuple[int, int]]:
    """Offset and length of each fragment, counted from the first."""
    at = base = 8 + int.from_bytes(made.PixelData[4:8], "little")
    found = []
    while made.PixelData[at : at + 4] == b"\xfe\xff\x00\xe0":
        length = int.from_bytes(made.PixelData[at + 4 : at + 8], "little")
        found.append((at - base, length))
        at += 8 + length
    return found


STALE = {
    "ExtendedOffsetTable": struct.pack("<4Q", 0, 9000, 18_000, 27_000),
    "ExtendedOffsetTableLengths": struct.pack("<4Q", *[8992] * 4),
}


def test_tables_of_the_sources_frames_do_not_survive_the_frames_remarks() -> None:
    """They were copied: whoever believed them read other bytes than a frame's, or half of two."""
    made = read(prepare(of_four_frames(STALE))[1])
    assert "ExtendedOffsetTable" not in made and "ExtendedOffsetTableLengths" not in made
    assert len(places_in(made)) == 4


def test_where_offsets_outgrow_32_bits_the_extended_table_is_the_writers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_LIMIT_32", 4000)
    made = read(prepare(of_four_frames(STALE))[1])
    starts, lengths = (struct.unpack("<4Q", made[tag].value) for tag in (0x7FE00001, 0x7FE00002))
    assert list(zip(starts, lengths, strict=True)) == places_in(made)
    assert starts[-1] > 4000


@pytest.mark.parametrize("wrong", ["offsets", "lengths", "both tables"])
def test_an_extended_table_pointing_beside_the_frames_is_refused(monkeypatch: pytest.MonkeyPatch, wrong: str) -> None:
    if wrong != "both tables":
        monkeypatch.setattr(write, "_LIMIT_32", 4000)
    real = Writer.frames

    def erring(self: Writer, *args: Any, **words: Any) -> list[Segment]:
        made = real(self, *args, **words)
        if wrong == "both tables":
            tables = [self._long(0x7FE0, n, b"OV", 0, 32) + struct.pack("<4Q", 0, 1, 2, 3) for n in (1, 2)]
            return [*map(Literal, tables), *made]
        at = 0 if wrong == "offsets" else 1
        assert isinstance(made[at], Literal)
        made[at] = Literal(made[at].data[:-8] + struct.pack("<Q", 77))
        return made

    monkeypatch.setattr(Writer, "frames", erring)
    with pytest.raises(RedactionUnproven, match="extended"):
        prepare(of_four_frames({}))


# --- masks -----------------------------------------------------------------------------------------------

BOX = Box(8, 10, 40, 30)
Change = Callable[[np.ndarray], None]


def masked(monkeypatch: pytest.MonkeyPatch, change: Change, *, syntax: str = "jpeg2000", frames: int = 1) -> None:
    """An object with one box blanked by the real writer, and `change` done to its samples on the way."""
    order = Order("SC" if syntax == "jpeg" else "CT", syntax=syntax, rows=64, columns=64, frames=frames)  # type: ignore[arg-type]

    def judge(source: ByteSource, facts: PixelFacts, rules: object) -> PixelVerdict:
        made = blank_decoded(source, facts, (BOX,), np.zeros(facts.samples, np.uint8)[0])
        segments = []
        for one in made.segments:
            assert isinstance(one, Literal) and made.written is not None
            kind = np.uint16 if made.written.bits_allocated == 16 else np.uint8
            samples = np.frombuffer(one.data, kind).reshape(64, 64, -1).copy()
            change(samples)
            segments.append(Literal(samples.tobytes()))
        return PixelVerdict("text blanked", tuple(segments), made.length, made.written, (BOX,))

    monkeypatch.setattr(planning, "judge_pixels", judge)
    made, _ = prepare(plant(order).data)
    assert made.plan.facts.masked_boxes == 1 and made.plan.facts.transfer_syntax == SYNTAXES["explicit"]


@pytest.mark.parametrize("syntax", ["jpeg", "jpeg2000", "rle"])
def test_a_blanked_picture_equals_its_source_elsewhere(monkeypatch: pytest.MonkeyPatch, syntax: str) -> None:
    masked(monkeypatch, lambda samples: None, syntax=syntax)


@pytest.mark.parametrize("syntax", ["jpeg", "jpeg2000", "rle"])
@pytest.mark.parametrize(("row", "column"), [(0, 0), (9, 20), (63, 63), (20, 40)])
def test_one_changed_pixel_outside_a_box_is_found(
    monkeypatch: pytest.MonkeyPatch, syntax: str, row: int, column: int
) -> None:
    """Decoded pixels share no byte with their source: only decoding again tells."""

    def change(samples: np.ndarray) -> None:
        samples[row, column, 0] ^= 1

    with pytest.raises(RedactionUnproven, match="outside"):
        masked(monkeypatch, change, syntax=syntax)


def test_a_box_that_was_not_blanked_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in it is what was to be hidden."""

    def change(samples: np.ndarray) -> None:
        samples[BOX.top + 3, BOX.left + 5] = 77

    with pytest.raises(RedactionUnproven, match="box"):
        masked(monkeypatch, change)
