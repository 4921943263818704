"""SubIFDs hold the pyramids of OME-TIFFs: read with bounds, refused where they lead astray."""

from __future__ import annotations

import struct

import pytest

import scanners
from mover.errors import IdentityError, StructureInvalid
from mover.model.source import MemorySource
from scanners.tiff import CHILDREN, DEPTH, read_structure, with_children
from tests.support import slides, tiffs
from tests.support.tiffs import Sheet


def children_of(data: bytes) -> list[tuple[int, int]]:
    """(parent, width) of every directory."""
    structure = with_children(MemorySource(data), read_structure(MemorySource(data)))
    source = MemorySource(data)
    return [
        (one.parent, scanners.pages.number(source, structure, one, 256)) for one in structure.directories
    ]  # fmt: skip


def small(width: int, *below: Sheet) -> Sheet:
    return Sheet(tiffs.tiles((width, 32), kind=1, tile=32), below)


@pytest.mark.parametrize("big", [False, True])
def test_each_child_stands_behind_the_directory_that_names_it(big: bool) -> None:
    """In this order other parsers see them too, so the lists can be compared."""
    sheets = [small(256, small(128), small(64)), small(200), small(192, small(96))]
    data = tiffs.assemble(sheets, slides.Layout(big=big))
    assert children_of(data) == [(-1, 256), (0, 128), (0, 64), (-1, 200), (-1, 192), (4, 96)]


def test_only_the_main_chain_is_read_unless_children_are_asked_for() -> None:
    """A vendor's family that knows no SubIFDs must not meet them as pages."""
    data = tiffs.assemble([small(256, small(128))])
    assert len(read_structure(MemorySource(data)).directories) == 1


def test_children_deeper_than_any_reader_follows_are_refused() -> None:
    deep = small(8)
    for width in range(DEPTH + 1):
        deep = small(16 + width, deep)
    with pytest.raises(StructureInvalid):
        children_of(tiffs.assemble([deep]))


def patched(offset: int | None = None, *, count: int = 1, kind: int = 4) -> bytes:
    """A slide of one child whose list of SubIFDs says something else; None for the parent itself."""
    data = bytearray(tiffs.assemble([small(256, small(128))]))
    directory = read_structure(MemorySource(bytes(data))).directories[0]
    at = directory.offset + 2 + 12 * list(directory.tags).index(330)
    value = directory.offset if offset is None else offset
    struct.pack_into("<HHII", data, at, 330, kind, count, value)
    return bytes(data)


@pytest.mark.parametrize(
    "data", [patched(), patched(0), patched(7), patched(1 << 30), patched(8, count=CHILDREN + 1), patched(8, kind=2)]
)
def test_a_list_of_children_that_leads_astray_is_refused(data: bytes) -> None:
    """Loops, offsets outside, lists of another type or without end."""
    with pytest.raises(StructureInvalid):
        children_of(data)


def test_two_parents_of_one_child_are_refused() -> None:
    """A directory that is two pages at once could be level and label."""
    sheets = [small(256, small(128)), small(192, small(96))]
    data = bytearray(tiffs.assemble(sheets))
    first, second = read_structure(MemorySource(bytes(data))).directories
    fields = [one.offset + 2 + 12 * list(one.tags).index(330) + 8 for one in (first, second)]
    data[fields[1] : fields[1] + 4] = data[fields[0] : fields[0] + 4]
    with pytest.raises(StructureInvalid):
        children_of(bytes(data))


def test_a_second_description_is_read_where_no_family_goes_by_it() -> None:
    """tifffile writes one beside the caller's; elsewhere two descriptions are a contradiction."""
    twice = [slides.text(270, "one"), slides.text(270, "Quincy 771001")]
    scan = scanners.identify(MemorySource(tiffs.pyramid(extra=twice)), ".tif")
    assert {b"one\0", b"Quincy 771001\0"} <= {place.value for place in scan.places if place.tag == 270}
    both = [slides.text(270, "Quincy 771001")]
    with pytest.raises(IdentityError):
        scanners.identify(MemorySource(slides.svs(extra=both)), ".svs")
