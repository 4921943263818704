"""Look at every compressed tile's beginning and end, and inside as many as a budget allows.

A tile is copied byte for byte, so this is where a comment in a codestream or text behind its end would get
through. Heads and tails are looked at for all tiles; the bytes between are walked for markers in all tiles of a
small slide and in an even sample of a large one (what the walk skips is entropy-coded data whose equality with
the source is proved by digest).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from mover.errors import PlaceUnknown, StructureInvalid
from mover.model.slides import Page, SlideScan
from mover.model.source import ByteSource
from scanners import codestream, packed
from scanners.pages import distinct

THOROUGH_BYTES: Final = 16 << 20
TILE_BYTES: Final = 128 << 20
COMMENTS: Final = 200_000
_TAIL: Final = 3
_FIRST_GUESS: Final = 1024
_JPEG_2000: Final = frozenset({33003, 33004, 33005, 34712})
_DEFLATE: Final = frozenset({8, 32946})
_HEADS: Final = 64  # different beginnings kept in mind; a tile of any other is read on its own


def examine(source: ByteSource, scan: SlideScan) -> int:
    """Check all compressed tiles of all levels; returns how many. Raises PlaceUnknown or StructureInvalid."""
    seen = 0
    for page in scan.levels:
        stride, ranges = _stride(page), _distinct(page)
        if page.restarts or scan.flavour == "ndpi":
            for offset, count in ranges:
                _examine_strip(source, page, offset, count)
        elif page.compression == 7:
            _examine_jpegs(source, ranges, stride)
        else:
            for index, (offset, count) in enumerate(ranges):
                _examine_other(source, page, offset, count, whole=index % stride == 0)
        seen += len(ranges)
    return seen


def _examine_other(source: ByteSource, page: Page, offset: int, count: int, *, whole: bool) -> None:
    """Streams whose end cannot be found but by walking them are walked in the even sample only."""
    _bounded(count)
    if page.compression in _JPEG_2000:
        _examine_jp2k(source, offset, count, whole=whole)
    elif page.compression == 1:
        packed.check_none(count, pixel_bytes=page.segment_bytes, strip=not page.tile_width)
    elif page.compression == 5:
        packed.check_lzw_end(source.read(offset + max(0, count - _TAIL), min(count, _TAIL)))
    elif page.compression in _DEFLATE:
        if whole:
            data = source.read(offset, count)
            packed.check_deflate(data, pixel_bytes=page.segment_bytes, strip=not page.tile_width)
    elif page.compression == 50000:
        packed.check_zstd(source.read(offset, count))
    elif page.compression == 50001:
        packed.check_webp(source.read(offset, count))
    else:
        raise StructureInvalid(f"a level with TIFF compression {page.compression}")


def find_comments(source: ByteSource, scan: SlideScan) -> list[tuple[int, int]]:
    """Every range inside a tile's header that holds a comment or application data of no known writer. Slow: each tile's
    header is read. Only for slides that `examine` refuses. A Hamamatsu level is one such tile."""
    found: list[tuple[int, int]] = []
    for page in scan.levels:
        if page.compression != 7 and page.compression not in _JPEG_2000:
            continue
        look = codestream.foreign_segments if page.compression == 7 else codestream.foreign_jp2k_comments
        for offset, count in page.pixels.ranges():
            head = source.read(offset, min(count, codestream.HEADER_BYTES)) if count else b""
            found += [(offset + at, length) for at, length in (look(head) if head else ())]
            if len(found) > COMMENTS:
                raise PlaceUnknown(f"more than {COMMENTS} comments inside compressed tiles")
    return sorted(set(found))


def _stride(page: Page) -> int:
    total = sum(page.pixels.counts)
    return max(1, -(-total // THOROUGH_BYTES))


def _distinct(page: Page) -> list[tuple[int, int]]:
    """Every tile once, as (offset, length) in the file's order."""
    offsets, counts = np.frombuffer(page.pixels.offsets, "u8"), np.frombuffer(page.pixels.counts, "u8")
    return list(zip(*(part.tolist() for part in distinct(offsets, counts)), strict=True))


def _examine_jpegs(source: ByteSource, ranges: list[tuple[int, int]], stride: int) -> None:
    """Of neighbours the tail of one and the head of the next come with one read: a slide has a million tiles. A tile
    that holds a known header whole is longer than a tail, so no tail reaches into another tile."""
    heads: tuple[bytes, ...] = ()
    longest, end, tail_due = _FIRST_GUESS, 0, False
    for index, (offset, count) in enumerate(ranges):
        if count > TILE_BYTES:
            _bounded(count)
        joined = _TAIL if tail_due and end == offset else 0
        if tail_due and not joined:
            codestream.check_jpeg_end(source.read(end - _TAIL, _TAIL))
        whole = index % stride == 0
        data = source.read(offset - joined, joined + (count if whole or count < longest else longest))
        if joined and not data.startswith(codestream.JPEG_END, 1) and not data.startswith(codestream.JPEG_END_PADDED):
            codestream.check_jpeg_end(data[:_TAIL])
        known = data.startswith(heads, joined)
        if whole:
            _examine_jpeg(data[joined:], next((head for head in heads if known and data.startswith(head, joined)), b""))
        if not known:
            start = data[joined:] if whole else source.read(offset, min(count, codestream.HEADER_BYTES))
            heads = _with(heads, start[: codestream.read_jpeg_header(start).size_bytes])
            longest = max(map(len, heads))
        end, tail_due = offset + count, not whole
    if tail_due:
        codestream.check_jpeg_end(source.read(end - _TAIL, _TAIL))


def _with(heads: tuple[bytes, ...], head: bytes) -> tuple[bytes, ...]:
    return heads if head in heads or len(heads) >= _HEADS else (*heads, head)


def _examine_jpeg(data: bytes, head: bytes) -> None:
    """A whole tile; `head` is its header where that is a known one."""
    size = len(head) or codestream.read_jpeg_header(data).size_bytes
    codestream.check_jpeg_scan(data[size:])
    codestream.check_jpeg_end(data[-_TAIL:])


def _examine_jp2k(source: ByteSource, offset: int, count: int, *, whole: bool) -> None:
    _bounded(count)
    head = source.read(offset, count if whole else min(count, _FIRST_GUESS))
    if not codestream.check_jp2k(head, total=count):
        codestream.check_jp2k(source.read(offset, count), total=count)
    codestream.check_jp2k_end(source.read(offset + max(0, count - _TAIL), min(count, _TAIL)))


def _examine_strip(source: ByteSource, page: Page, offset: int, count: int) -> None:
    """A Hamamatsu level: one JPEG, its header, its end, and its entropy-coded bytes in even samples."""
    head = source.read(offset, min(count, codestream.HEADER_BYTES))
    header = codestream.read_jpeg_header(head)
    if header.size_bytes > count or (page.restarts and page.restarts[0] != header.size_bytes):
        raise StructureInvalid("the first restart position is not where the scan starts")
    if header.width not in (0, page.width) and page.width <= 65500 and page.height <= 65500:
        raise StructureInvalid("a level's JPEG has another size than its page")
    for begin, length in _windows(header.size_bytes, count):
        data = source.read(offset + begin, length)
        if begin + length == count:
            codestream.check_jpeg_scan(data)
        elif b"\xff\xfe" in data or b"\xff\xd9" in data:
            raise PlaceUnknown("a comment or an end marker stands inside a level's JPEG")
    codestream.check_jpeg_end(source.read(offset + count - _TAIL, _TAIL))


def _windows(begin: int, end: int, *, step: int = 4 << 20) -> Iterator[tuple[int, int]]:
    """The whole range in steps when small; else evenly spread steps worth THOROUGH_BYTES, the last included."""
    steps = -(-(end - begin) // step)
    stride = max(1, -(-steps * step // THOROUGH_BYTES))
    for index in range(steps):
        if index % stride == 0 or index == steps - 1:
            at = begin + index * step
            yield at, min(step, end - at)


def _bounded(count: int) -> None:
    if count > TILE_BYTES:
        raise StructureInvalid(f"a compressed tile above {TILE_BYTES} bytes")
