"""The TIFF reader meets files made to hurt it. Every one is refused, quickly and in little memory."""

from __future__ import annotations

import struct
from typing import Any

import pytest

import scanners
from mover.errors import FormatUnknown, FormatUnsupported, IdentityError, PlaceUnknown, StructureInvalid
from mover.model.source import MemorySource
from scanners.tiff import DIRECTORIES, TAGS_PER_DIRECTORY, read_structure
from tests.support import slides


class CountingSource(MemorySource):
    """A source that adds up what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.read_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return super().read(offset, length)


class HugeSource:
    """A sparse file: real bytes at the front and at chosen places, zeros elsewhere."""

    def __init__(self, size_bytes: int, pieces: dict[int, bytes]) -> None:
        self.size_bytes = size_bytes
        self._pieces = pieces

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0 and offset + length <= self.size_bytes
        assert length < 1 << 20, "nobody may read a huge file in large pieces just to know what it is"
        data = bytearray(length)
        for at, piece in self._pieces.items():
            start, end = max(at, offset), min(at + len(piece), offset + length)
            if start < end:
                data[start - offset : end - offset] = piece[start - at : end - at]
        return bytes(data)


def one_directory(*entries: tuple[int, int, int, int], after: int = 0) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + struct.pack("<I", after)


def refused(data: bytes, error: type[IdentityError] = StructureInvalid, suffix: str = ".svs") -> None:
    with pytest.raises(error):
        scanners.identify(MemorySource(data), suffix)


def test_a_directory_that_leads_back_to_itself_is_refused() -> None:
    """A loop would keep a reader busy for ever."""
    refused(one_directory((256, 4, 1, 5), after=8))


def test_a_longer_loop_is_refused_too() -> None:
    first = one_directory((256, 4, 1, 5), after=40)
    second = struct.pack("<HHHIII", 1, 256, 4, 1, 5, 8)
    refused(first.ljust(40, b"\0") + second)


def test_more_directories_than_any_slide_has_are_refused() -> None:
    data = bytearray(b"II*\0\x08\0\0\0")
    for number in range(DIRECTORIES + 1):
        data += struct.pack("<HHHIII", 1, 256, 4, 1, 5, 8 + 18 * (number + 1))
    refused(bytes(data))


def test_more_tags_than_any_directory_has_are_refused() -> None:
    refused(one_directory(*[(300 + number, 4, 1, 0) for number in range(TAGS_PER_DIRECTORY + 1)]))


def test_a_tag_that_stands_twice_is_refused() -> None:
    """Readers disagree on which of two counts; what one of them skips could hold anything."""
    refused(one_directory((256, 4, 1, 5), (256, 4, 1, 6)))


def test_an_unknown_type_is_refused() -> None:
    refused(one_directory((256, 99, 1, 5)))


@pytest.mark.parametrize("count", [5000, 0xFFFFFFFF])
def test_a_value_that_leaves_the_file_is_refused_before_it_is_read(count: int) -> None:
    source = CountingSource(one_directory((270, 2, count, 8)))
    with pytest.raises(StructureInvalid):
        read_structure(source)
    assert source.read_bytes < 200


@pytest.mark.parametrize("length", [3, 4, 7, 9, 11])
def test_a_header_cut_short_is_refused(length: int) -> None:
    refused(b"II*\0\x08\0\0\0\x01\0\0\0"[:length], IdentityError)


def test_a_bigtiff_of_other_than_8_byte_offsets_is_refused() -> None:
    refused(b"II+\0\x04\0\0\0" + bytes(16))


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.5, 0.8, 0.97, 0.999])
@pytest.mark.parametrize("make", [slides.svs, slides.ndpi])
def test_a_slide_cut_short_anywhere_is_refused(make: Any, keep: float) -> None:
    """A scanner that lost its network mid-way leaves such files; half a slide must never pass."""
    data = make()
    refused(data[: int(len(data) * keep)], IdentityError)


def patch(data: bytes, code: int, kind: int, count: int, value: int, *, page: int = 0) -> bytes:
    """The same classic TIFF with one entry's type, count and field replaced."""
    structure = read_structure(MemorySource(data))
    directory = structure.directories[page]
    changed = bytearray(data)
    at = directory.offset + 2 + 12 * list(directory.tags).index(code)
    struct.pack_into("<HHII", changed, at, code, kind, count, value)
    return bytes(changed)


def tiles_of(data: bytes, page: int) -> int:
    return read_structure(MemorySource(data)).directories[page].tags[324].at


def test_a_tile_outside_the_file_is_refused() -> None:
    data = bytearray(slides.svs())
    struct.pack_into("<I", data, tiles_of(bytes(data), 0), len(data) - 2)
    refused(bytes(data))


def test_two_tiles_that_share_some_bytes_are_refused() -> None:
    data = bytearray(slides.svs())
    at = tiles_of(bytes(data), 0)
    (first,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at + 4, first + 10)
    refused(bytes(data))


def test_a_tile_that_points_at_the_labels_bytes_is_refused() -> None:
    """Otherwise the label would pass as tissue, byte for byte."""
    data = bytearray(slides.svs())
    label = read_structure(MemorySource(bytes(data))).directories[3].tags
    (strip,) = struct.unpack("<I", label[273].inline or b"")
    struct.pack_into("<I", data, tiles_of(bytes(data), 0), strip + 2)
    refused(bytes(data))


def test_one_blank_tile_named_many_times_is_allowed_and_copied_once() -> None:
    """Sparse slides do this; the output must not grow by it."""
    data = bytearray(slides.svs())
    structure = read_structure(MemorySource(bytes(data)))
    tags = structure.directories[0].tags
    for where in (tags[324].at, tags[325].at):
        struct.pack_into("<I", data, where + 4, struct.unpack_from("<I", data, where)[0])
    scan = scanners.identify(MemorySource(bytes(data)), ".svs")
    assert scan.pages[0].pixels.offsets[0] == scan.pages[0].pixels.offsets[1]


def test_a_tile_list_of_another_length_than_the_grid_is_refused() -> None:
    data = slides.svs()
    refused(patch(data, 257, 4, 1, 100_000))


def test_a_million_by_million_pixel_claim_costs_no_memory() -> None:
    data = slides.svs()
    source = CountingSource(patch(patch(data, 256, 4, 1, 1 << 30), 257, 4, 1, 1 << 30))
    with pytest.raises(StructureInvalid):
        scanners.identify(source, ".svs")
    assert source.read_bytes < 2 * len(data)


def test_a_list_longer_than_any_slides_is_refused_unread() -> None:
    """Eight gigabytes of offsets, in a file large enough to hold them."""
    entries = [(256, 4, 1, 64), (257, 4, 1, 64), (259, 3, 1, 7), (270, 2, 7, 400), (322, 4, 1, 64), (323, 4, 1, 64)]
    entries += [(324, 4, 500_000_000, 1000), (325, 4, 500_000_000, 1000)]
    head = one_directory(*entries).ljust(400, b"\0") + b"Aperio\0"
    with pytest.raises(StructureInvalid):
        scanners.identify(HugeSource(100 << 30, {0: head}), ".svs")


def test_a_hundred_gigabyte_slide_is_known_by_its_structure_alone() -> None:
    """Nothing but header, directories and values is read, wherever they lie."""
    data = slides.svs(layout=slides.Layout(big=True))
    scan = scanners.identify(HugeSource(100 << 30, {0: data}), ".svs")
    assert scan.family == "aperio-svs"
    assert scan.slack[-1][1] > 99 << 30


def test_a_tiled_page_of_other_proportions_is_no_level() -> None:
    """A label stored as tiles would otherwise be a level."""
    pictures = [
        slides.level((320, 256), description="Aperio Image Library v12\r\nx|AppMag = 20"),
        slides.level((100, 120), description="Aperio Image Library v12\r\nlabel 100x120"),
    ]
    refused(slides.assemble(pictures), PlaceUnknown)


def test_a_codec_without_a_rule_is_refused_by_name() -> None:
    with pytest.raises(FormatUnsupported, match="compression 5"):
        scanners.identify(MemorySource(patch(slides.svs(), 259, 3, 1, 5)), ".svs")


def test_a_compressed_tile_with_a_comment_is_refused() -> None:
    """The comment would travel inside the copied tile."""

    def encode(pixels: Any) -> bytes:
        data = slides.jpeg(pixels)
        return data[:2] + b"\xff\xfe\x00\x10Quincy 771001" + b"\0" + data[2:]

    data = slides.svs(encode=encode)
    source = MemorySource(data)
    scan = scanners.identify(source, ".svs")
    with pytest.raises(PlaceUnknown):
        scanners.examine_tiles(source, scan)


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xEF])
def test_application_data_in_a_tile_is_refused(marker: int) -> None:
    def encode(pixels: Any) -> bytes:
        data = slides.jpeg(pixels)
        return data[:2] + bytes([0xFF, marker, 0, 10]) + b"Exif\0\0MM" + data[2:]

    source = MemorySource(slides.svs(encode=encode))
    with pytest.raises(PlaceUnknown):
        scanners.examine_tiles(source, scanners.identify(source, ".svs"))


@pytest.mark.parametrize("tail", [b"Quincy", b"\xff\xd9", b"Quincy\xff\xd9", b"\0\0\0"])
def test_bytes_behind_a_tiles_end_are_refused(tail: bytes) -> None:
    """They would be part of the tile's byte count, and so of the copy."""
    source = MemorySource(slides.svs(encode=lambda pixels: slides.jpeg(pixels) + tail))
    with pytest.raises(PlaceUnknown):
        scanners.examine_tiles(source, scanners.identify(source, ".svs"))


def test_a_huffman_table_with_a_pocket_is_refused() -> None:
    """A segment longer than the table it holds has room for a name."""

    def encode(pixels: Any) -> bytes:
        data = slides.jpeg(pixels)
        at = data.index(b"\xff\xc4")
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + 2 + length
        return data[: at + 2] + struct.pack(">H", length + 6) + data[at + 4 : end] + b"Quincy" + data[end:]

    source = MemorySource(slides.svs(encode=encode))
    with pytest.raises(PlaceUnknown):
        scanners.examine_tiles(source, scanners.identify(source, ".svs"))


def test_a_jpeg2000_comment_of_no_known_encoder_is_refused() -> None:
    def encode(pixels: Any) -> bytes:
        data = slides.jp2k(pixels)
        at = data.index(b"\xff\x52")
        words = b"Quincy 771001"
        return data[:at] + b"\xff\x64" + struct.pack(">HH", 4 + len(words), 1) + words + data[at:]

    source = MemorySource(slides.svs(encode=encode, compression=33005))
    with pytest.raises(PlaceUnknown):
        scanners.examine_tiles(source, scanners.identify(source, ".svs"))


def test_bytes_behind_a_jpeg2000_codestream_are_refused() -> None:
    source = MemorySource(slides.svs(encode=lambda pixels: slides.jp2k(pixels) + b"Quincy", compression=33005))
    with pytest.raises(PlaceUnknown):
        scanners.examine_tiles(source, scanners.identify(source, ".svs"))


def test_a_comment_in_a_hamamatsu_level_is_refused_unless_the_scanners_own() -> None:
    good = MemorySource(slides.ndpi())
    assert scanners.examine_tiles(good, scanners.identify(good, ".ndpi")) == 2
    bad = MemorySource(slides.ndpi(comment=b"Quincy, MRN 771001\0"))
    with pytest.raises(PlaceUnknown):
        scanners.examine_tiles(bad, scanners.identify(bad, ".ndpi"))


def test_restart_positions_that_fall_are_refused() -> None:
    data = bytearray(slides.ndpi())
    tag = read_structure(MemorySource(bytes(data))).directories[0].tags[65426]
    struct.pack_into("<I", data, tag.at + 8, 1)
    refused(bytes(data), suffix=".ndpi")


def test_nothing_is_never_something() -> None:
    refused(b"", FormatUnknown)
    refused(b"\0" * 4096, FormatUnknown)


def test_the_second_directory_is_a_thumbnail_unless_it_says_it_is_not() -> None:
    """Slides an earlier tool took the thumbnail from have their label there."""
    roles = [page.role for page in scanners.identify(MemorySource(slides.svs()), ".svs").pages]
    assert roles == ["level", "thumbnail", "level", "label", "overview"]
    for gt450 in (False, True):
        without = slides.svs(leave_out=frozenset({1, 2}), gt450=gt450)
        assert [page.role for page in scanners.identify(MemorySource(without), ".svs").pages] == [
            "level",
            "label",
            "overview",
        ]
