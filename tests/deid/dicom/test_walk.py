"""The walk finds every element of every encoding, and never more than a refusal in a damaged file."""

from __future__ import annotations

import random
import zlib

import pytest

from mover.errors import MoverError, StructureInvalid
from mover.model.source import MemorySource
from scanners.dicom.walk import DEPTH, open_items, read_object, syntax_of
from tests.deid.dicom.raw import BIG, EXPLICIT, IMPLICIT, Pen, ct, part10
from tests.deid.dicom.support import prepare
from tests.scanners.test_structure import CountingSource

DEFLATED = "1.2.840.10008.1.2.1.99"


def scan(data: bytes):  # type: ignore[no-untyped-def]
    return read_object(MemorySource(data))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_every_encoding_gives_the_same_elements(syntax: str) -> None:
    """A rule that holds for one encoding must hold for all."""
    elements = ct(Pen(syntax))
    found = scan(part10(elements, syntax=syntax))
    assert [one.tag for one in found.elements] == sorted(elements)[:-1]
    assert found.pixels is not None and found.pixels.length == 128
    assert next(one.raw for one in found.elements if one.tag == 0x00100020) == b"88413377"


def test_a_deflated_dataset_is_walked_inflated() -> None:
    elements = ct(Pen())
    packer = zlib.compressobj(wbits=-15)
    body = packer.compress(b"".join(elements[tag] for tag in sorted(elements))) + packer.flush()
    found = scan(part10({}, syntax=DEFLATED, tail=body))
    assert found.inflated is not None and len(found.elements) == len(elements) - 1


@pytest.mark.slow
def test_a_deflated_bomb_is_refused_before_it_fills_the_memory() -> None:
    """257 MiB of zeros fit into 256 KiB."""
    packer = zlib.compressobj(wbits=-15)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(257)) + packer.flush()
    with pytest.raises(StructureInvalid, match="inflated"):
        scan(part10({}, syntax=DEFLATED, tail=bomb))


@pytest.mark.parametrize("open_end", [False, True])
def test_sequences_open_whatever_way_they_end(open_end: bool) -> None:
    pen = Pen()
    inner = pen.sequence(0x00081140, [pen.element(0x00081155, "UI", "1.2.3")], open_end=open_end)
    elements = ct(pen) | {0x00400275: pen.sequence(0x00400275, [inner, b""], open_end=open_end)}
    source = MemorySource(part10(elements))
    found = read_object(source)
    element = next(one for one in found.elements if one.tag == 0x00400275)
    first, second = open_items(source, element, syntax_of(found))
    assert first[0].tag == 0x00081140 and second == ()


def test_a_sequence_inside_un_is_implicit() -> None:
    """CP-246; a walk that read it as explicit would miss what stands inside."""
    item = Pen(IMPLICIT).element(0x00100010, "PN", "Quarrington^Euphemia")
    pen = Pen()
    nested = pen.head(0x00101002, "UN", 0xFFFFFFFF) + Pen(IMPLICIT).sequence(0, [item], open_end=True)[8:]
    found = scan(part10(ct(pen) | {0x00101002: nested}))
    element = next(one for one in found.elements if one.tag == 0x00101002)
    assert element.items is not None and element.items[0][0].raw == b"Quarrington^Euphemia"


@pytest.mark.parametrize("tail", [b"Quarrington was here", b"\0" * 4096, b"PK\3\4" + bytes(64), b"8841"])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_what_stands_behind_the_dataset_is_counted_and_not_read(tail: bytes, syntax: str) -> None:
    """A report without pixels has no element that must be the last."""
    elements = {tag: one for tag, one in ct(Pen(syntax)).items() if tag >> 16 not in (0x28, 0x7FE0)}
    found = scan(part10(elements, syntax=syntax, tail=tail))
    assert [one.tag for one in found.elements][: len(elements)] == sorted(elements)
    assert found.trailing_bytes == len(tail) or tail[:2] == b"PK"  # whose head reads like an empty element


def test_a_file_that_ends_in_the_middle_is_refused() -> None:
    """Half an object would be published as a whole one."""
    data = part10(ct(Pen()))
    rows = data.index(b"\x28\0\x10\0US")
    for end in range(rows + 10, len(data), 3):
        with pytest.raises(StructureInvalid):
            prepare(data[:end])


def test_pixels_are_not_read() -> None:
    """They are copied by the kernel; a walk that reads them is as slow as the disk."""
    pen = Pen()
    elements = ct(pen)
    elements[0x7FE00010] = pen.head(0x7FE00010, "OW", 8 << 20) + bytes(8 << 20)
    source = CountingSource(part10(elements))
    assert read_object(source).pixels is not None
    assert source.read_bytes < 64 << 10


def test_nesting_has_a_bound() -> None:
    pen = Pen()
    inner = b""
    for _ in range(DEPTH + 8):
        inner = pen.sequence(0x0040A730, [inner], open_end=True)
    with pytest.raises(StructureInvalid, match="deep"):
        scan(part10(ct(pen) | {0x0040A730: inner}))


def test_no_damage_gets_more_than_a_refusal() -> None:
    """Flipped, cut, doubled: a value or a MoverError, whatever stands there, and never a long wait."""
    seed = random.Random(11)
    pens = [Pen(syntax) for syntax in (EXPLICIT, IMPLICIT, BIG)]
    made = [
        part10(ct(pen) | {0x0040A730: pen.sequence(0x0040A730, [b""], open_end=True)}, syntax=pen.syntax)
        for pen in pens
    ]
    for _ in range(600):
        data = bytearray(seed.choice(made))
        for _ in range(seed.randrange(1, 10)):
            data[seed.randrange(132, len(data))] = seed.choice((0, 0xFF, 0xFE, seed.randrange(256)))
        if seed.random() < 0.4:
            del data[seed.randrange(133, len(data)) :]
        try:
            found = scan(bytes(data))
            for element in found.elements:
                if element.vr == "SQ" and element.items is None:
                    open_items(MemorySource(bytes(data)), element, syntax_of(found))
        except MoverError:
            continue
