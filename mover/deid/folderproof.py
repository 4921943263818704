"""The independent second pass over a slide of several files (design: deidentification 4, proof 1-5).

As for single files (`mover.deid.verify`), over sparse stand-ins in memory: every file of source and output has one,
and a folder of links lets OpenSlide find them by name. Four looks, none of which shares code with the writer:

1. The output's indexes are read by `mover.deid.folderlook`: allow-lists, every byte accounted for, in the data files
   too: a head, then pictures without gap or overlap.
2. All literals, decoded values and picture headers are searched for every harvested string in all its forms.
3. Every picture of the output, in the index's order, is the same picture of the source once the recipe is undone;
   where one is shorter, what is missing are whole comments and application segments, or follows its end. Every level
   shows what the next finer one shows (`mover.deid.pyramid`).
4. OpenSlide opens source and output: same vendor, levels, resolution, objective; equal pixels around sampled pictures
   of every level; no associated picture.
"""

from __future__ import annotations

import io
import struct
import zlib
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import openslide
from blake3 import blake3
from msgspec import Struct
from PIL import Image

from mover.deid import pyramid
from mover.deid.companions import Standins, data_name
from mover.deid.drawing import draw, encode_preview, read_region
from mover.deid.filepairs import (
    FilePair,
    jpeg_gap,
    literal_of,
    pair_files,
    pieces_of,
    png_gap,
    whole_gaps,
    words_before_pixels,
)
from mover.deid.folderlook import SeenMirax, look_at_mirax
from mover.deid.folders import blank_picture, key_text
from mover.deid.outcome import SlideEvidence, SlidePlan
from mover.deid.search import Seeker
from mover.deid.stage import Stage
from mover.errors import RedactionUnproven
from mover.model.folders import KeySection, MiraxLevel, MiraxScan
from mover.model.slides import Page, Pixels
from mover.model.source import ByteSource

VERIFIER: Final = "mover-folders/1"
SAMPLES: Final = 4
# At or below this all pictures of a level are filled in; above, those around the sampled ones.
WHOLE_BYTES: Final = 8 << 20
# All stand-ins of one side together.
SIDE_BYTES: Final = 400 << 20
HEADERS: Final = 128
DECODED: Final = 64  # of a level's shortened pictures
HEAD_BYTES: Final = 64 << 10
_AROUND: Final = 2
_REGION: Final = 48


def prove_mirax(
    main: ByteSource,
    files: Mapping[str, ByteSource],
    scan: MiraxScan,
    plan: SlidePlan,
    *,
    edge_px: int = 0,
    standins: Standins | None = None,
) -> tuple[SlideEvidence, bytes]:
    """Prove that the plan's output is clean and whole, or raise RedactionUnproven (why, never what); and, for a
    positive `edge_px`, a picture of the whole slide drawn from the output's pyramid."""
    pairs = pair_files(main, files, plan)
    seen = _look(pairs)
    tiles = _account(pairs, seen, scan, [files[name] for name in scan.data])
    searched, forms = _search(plan, pairs, seen, tiles)
    _check_levels(pairs, scan, tiles)
    with Stage(".mrxs", "", standins) as stage:
        folder = _Folder(scan, files, pairs, tiles, stage)
        decoded = folder.compare()
        picture = folder.draw(edge_px) if edge_px > 0 else b""
    evidence = SlideEvidence(
        verifier=VERIFIER,
        methods=("index-structure", "string-search", "level-likeness", "openslide-pixels", "tile-list"),
        strings_sought=len(plan.removed),
        forms_sought=forms,
        bytes_searched=searched,
        tags_checked=seen.keys,
        levels=len(seen.levels),
        tiles=sum(len(level) for level in seen.levels),
        tiles_decoded=decoded,
        tile_list_blake3=_tile_list_digest(tiles),
    )
    return evidence, picture


# --- look 1: structure ---------------------------------------------------------------------------------


def _look(pairs: Sequence[FilePair]) -> SeenMirax:
    if len(pairs) < 4 or literal_of(pairs[0]) != blank_picture():
        raise RedactionUnproven("the picture file is not the blank one")
    seen = look_at_mirax(literal_of(pairs[1]), literal_of(pairs[2]))
    if seen.data != tuple(data_name(number) for number in range(len(pairs) - 3)):
        raise RedactionUnproven("the index text names other data files than there are")
    return seen


class Tiles(Struct, frozen=True):
    """A level's pictures on both sides: file, offset and length in the source and in the output, in the index's own
    order, and its numbers in the grid."""

    index: np.ndarray
    source: np.ndarray
    output: np.ndarray


def _account(pairs: Sequence[FilePair], seen: SeenMirax, scan: MiraxScan, data: Sequence[ByteSource]) -> list[Tiles]:
    """Looks 1 and 3 over the data files: all bytes belong to a picture, each to its own."""
    _check_full(pairs, seen)
    if len(seen.levels) != len(scan.levels):
        raise RedactionUnproven("source and output differ in their number of levels")
    return [_same(pairs, level, after, data) for level, after in zip(scan.levels, seen.levels, strict=True)]


def _check_full(pairs: Sequence[FilePair], seen: SeenMirax) -> None:
    everything = np.unique(np.concatenate([level[:, 1:] for level in seen.levels]), axis=0)
    for number, pair in enumerate(pairs[3:]):
        own = everything[everything[:, 2] == number]
        ranges = sorted(map(tuple, own[:, :2].tolist()))
        if seen.positions is not None and seen.positions[2] == number:
            offset, length, _ = seen.positions
            ranges = sorted([*ranges, (offset, length)])
            _check_positions(literal_of(pair)[offset : offset + length])
        end = len(seen.head)
        if pair.output.literal_between(0, end) != seen.head:
            raise RedactionUnproven("a data file of the output does not start as it must")
        for at, length in ranges:
            if at != end:
                raise RedactionUnproven("bytes of a data file belong to no picture")
            end = at + length
        if end != pair.output.size_bytes:
            raise RedactionUnproven("bytes of a data file belong to no picture")
        if len(pair.output.literals) != 1:
            raise RedactionUnproven("a data file holds more written bytes than its head")


def _check_positions(data: bytes) -> None:
    """Nine bytes a place, the first of them a flag; as they are or as one zlib stream."""
    if data[:1] == b"\x78":
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(data, 1 << 28)
        except zlib.error as error:
            raise RedactionUnproven("the position buffer cannot be read") from error
        if not unpacker.eof or unpacker.unused_data:
            raise RedactionUnproven("the position buffer does not end where its stream ends")
    if len(data) % 9 or any(flag > 1 for flag in data[::9]):
        raise RedactionUnproven("the position buffer is not of its form")


def _same(pairs: Sequence[FilePair], level: MiraxLevel, after: np.ndarray, data: Sequence[ByteSource]) -> Tiles:
    """Undo the recipes for one level."""
    names = ("file", "offset", "length")
    before = np.stack([np.frombuffer(getattr(level.tiles, name), "i8") for name in names], axis=1)
    index = np.frombuffer(level.tiles.index, "i8")
    if not np.array_equal(index, after[:, 0]):
        raise RedactionUnproven("a level of the output lists other pictures than the source's")
    output = after[:, [3, 1, 2]]
    for file in np.unique(output[:, 0]).tolist():
        mine = np.flatnonzero(output[:, 0] == file)
        pair = pairs[3 + file]
        if any(data[one] is not pair.source for one in np.unique(before[mine, 0]).tolist()):
            raise RedactionUnproven("a picture of the output comes from another file")
        whole = mine[before[mine, 2] == output[mine, 2]]
        origin = pair.output.origin(output[whole, 1].astype("u8"), output[whole, 2].astype("u8"))
        if not np.array_equal(origin.astype("i8"), before[whole, 1]):
            raise RedactionUnproven("a picture of the output is another picture of the source")
        shortened = np.setdiff1d(mine, whole)
        stride = max(1, -(-len(shortened) // DECODED))
        for number, at in enumerate(shortened.tolist()):
            _check_shortened(pair, level, before[at].tolist(), output[at].tolist(), decode=number % stride == 0)
    return Tiles(index, before, output)


def _check_shortened(pair: FilePair, level: MiraxLevel, before: list[int], after: list[int], *, decode: bool) -> None:
    """What is missing of a picture are whole segments or chunks that say nothing to its decoder, or follows its end;
    sampled ones show the same as before."""
    _, offset, length = before
    pieces = [(at - offset, size) for at, size in pieces_of(pair.output, after[1], after[2])]
    if any(at < 0 or at + size > length for at, size in pieces):
        raise RedactionUnproven("a picture of the output is another picture of the source")
    if any(first + size > second for (first, size), (second, _) in pairwise(pieces)):
        raise RedactionUnproven("a picture's parts stand in another order")
    old = pair.source.read(offset, length)
    end = whole_gaps(old, pieces, jpeg_gap if level.coding == "JPEG" else png_gap)
    if level.coding == "BMP24":
        end = 0 < len(pieces) < 2 and sum(pieces[0]) < length
    if not end:
        raise RedactionUnproven("a picture lacks what its decoder needs")
    if decode:
        _check_shows_the_same(old[: sum(pieces[-1])], b"".join(old[at : at + size] for at, size in pieces))


def _check_shows_the_same(old: bytes, new: bytes) -> None:
    """Some of what is cut away may have hindered a decoder; the kept bytes are proved by their places then."""
    shown = _decode(new)
    try:
        before = _decode(old)
    except RedactionUnproven:
        return
    if not np.array_equal(before, shown):
        raise RedactionUnproven("a shortened picture shows something else")


def _decode(data: bytes) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "BMP")) as picture:
            return np.asarray(picture)
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise RedactionUnproven("a picture cannot be decoded") from error


# --- look 2: the search --------------------------------------------------------------------------------


def _search(plan: SlidePlan, pairs: Sequence[FilePair], seen: SeenMirax, tiles: Sequence[Tiles]) -> tuple[int, int]:
    seeker = Seeker(plan.removed, around=plan.around)
    haystacks = [data for pair in pairs for _, data in pair.output.literals]
    haystacks.append("\n".join(one.name for one in plan.parts).encode())
    haystacks.append(b"\n".join(_headers(pairs, tiles)))
    found = sum(seeker.find(haystack) for haystack in haystacks)
    if found:
        raise RedactionUnproven(f"{found} forms of removed strings are still in the output")
    return sum(map(len, haystacks)), seeker.forms


def _headers(pairs: Sequence[FilePair], tiles: Sequence[Tiles]) -> set[bytes]:
    """What precedes the pixels in an even sample of every level's pictures, without the tables: a decoder's numbers,
    some of which every JPEG has, read as letters."""
    headers: set[bytes] = set()
    for level in tiles:
        for file, at, length in level.output[:: max(1, len(level.output) // HEADERS)].tolist():
            pieces = pieces_of(pairs[3 + file].output, at, min(length, HEAD_BYTES))
            data = b"".join(pairs[3 + file].source.read(*piece) for piece in pieces)
            headers.add(words_before_pixels(data))
    return headers


# --- no other picture in a level's clothes -------------------------------------------------------------


def _check_levels(pairs: Sequence[FilePair], scan: MiraxScan, tiles: Sequence[Tiles]) -> None:
    """A picture of a level shows what the next finer level's pictures show that stand in its place of the grid."""
    grids = [_grid(pairs, scan, level, one) for level, one in zip(scan.levels, tiles, strict=True)]
    for (fine, one), (coarse, other) in pairwise(zip(grids, scan.levels, strict=True)):
        step = other.concat / one.concat
        times = step * one.image_width / other.image_width, step * one.image_height / other.image_height
        if not pyramid.shows_the_same(coarse, fine, times, each=False):
            raise RedactionUnproven("a level shows another picture than the finer levels")


def _grid(pairs: Sequence[FilePair], scan: MiraxScan, level: MiraxLevel, tiles: Tiles) -> pyramid.Grid:
    across, down = (-(-images // level.concat) for images in scan.grid)
    places = tiles.index // scan.grid[0] // level.concat * across + tiles.index % scan.grid[0] // level.concat
    counts = np.zeros(across * down, "i8")
    counts[places] = tiles.source[:, 2]
    order = np.argsort(places, kind="stable")

    def picture(number: int) -> np.ndarray:
        file, at, length = tiles.output[order[np.searchsorted(places, number, sorter=order)]].tolist()
        pair = pairs[3 + file]
        return _decode(b"".join(pair.source.read(*piece) for piece in pieces_of(pair.output, at, length)))

    size = across * level.image_width, down * level.image_height
    return pyramid.Grid(*size, level.image_width, level.image_height, counts, level.coding != "BMP24", picture)


# --- look 4: OpenSlide ---------------------------------------------------------------------------------


class _Folder:
    """Stand-ins of both sides, in a folder where OpenSlide finds them. The source's index text names its files there
    as ours are named, and none of the pictures beside the pyramid."""

    def __init__(
        self,
        scan: MiraxScan,
        files: Mapping[str, ByteSource],
        pairs: Sequence[FilePair],
        tiles: Sequence[Tiles],
        stage: Stage,
    ) -> None:
        self._scan, self._pairs, self._tiles, self._stage = scan, pairs, tiles, stage
        self._data = [files[name] for name in scan.data]
        self._filled: set[tuple[int, int]] = set()
        self._bytes = 0
        text, index = _plain_text(scan), files[scan.index]
        sizes = [len(text), index.size_bytes, *(source.size_bytes for source in self._data)]
        self._before = stage.side(0, [len(blank_picture()), *sizes])
        self._after = stage.side(1, [pair.output.size_bytes for pair in pairs])
        for slot, pair in enumerate(pairs):
            pair.output.fill_literals(self._after[slot])
        self._before[1].fill(0, text)
        self._before[2].fill(0, index.read(0, index.size_bytes))
        if scan.position_layer:
            offset, length, file = scan.position_record
            self._before[3 + file].fill(offset, self._data[file].read(offset, length))

    def fill(self, level: int, chosen: np.ndarray) -> None:
        """Put these pictures' bytes into both stand-ins."""
        tiles = self._tiles[level]
        for at in chosen.tolist():
            if (level, at) in self._filled:
                continue
            self._filled.add((level, at))
            file, offset, length = tiles.source[at].tolist()
            self._bytes += length
            if self._bytes > SIDE_BYTES:
                raise RedactionUnproven(f"the proof would need more than {SIDE_BYTES} bytes of pictures in memory")
            slot, place, size = tiles.output[at].tolist()
            data = self._data[file].read(offset, length)
            self._before[3 + file].fill(offset, data)
            if size == length:
                self._after[3 + slot].fill(place, data)
                continue
            for piece, run in pieces_of(self._pairs[3 + slot].output, place, size):
                self._after[3 + slot].fill(place, data[piece - offset : piece - offset + run])
                place += run

    def compare(self) -> int:
        """Properties, then pixels around sampled pictures of every level; how many regions showed something."""
        regions = []
        for number, tiles in enumerate(self._tiles):
            whole = int(tiles.source[:, 2].sum()) <= WHOLE_BYTES
            chosen = _spread(tiles, SAMPLES)
            self.fill(number, np.arange(len(tiles.index)) if whole else self._around(number, chosen))
            regions += [(number, self._place(number, at)) for at in chosen.tolist()]
        shown = 0
        with self._stage.open(0) as before, self._stage.open(1) as after:
            _compare_properties(before, after)
            if after.level_dimensions != tuple((level.width, level.height) for level in self._scan.levels):
                raise RedactionUnproven("OpenSlide sees other levels than the plan tells of")
            for number, place in regions:
                if place is None:
                    continue
                old, new = (read_region(slide, place, number, (_REGION, _REGION)) for slide in (before, after))
                pixels = np.asarray(new)
                if not np.array_equal(np.asarray(old), pixels):
                    raise RedactionUnproven("pixels differ from the source's")
                shown += bool(pixels[..., 3].any())
        if not shown:
            raise RedactionUnproven("no picture of the output could be shown")
        return shown

    def _around(self, number: int, chosen: np.ndarray) -> np.ndarray:
        """The pictures next to the chosen ones: the camera's places overlap."""
        level, index = self._scan.levels[number], self._tiles[number].index
        across = self._scan.grid[0]
        x, y = index % across // level.concat, index // across // level.concat
        near = np.zeros(len(index), bool)
        for at in chosen.tolist():
            near |= (np.abs(x - x[at]) <= _AROUND) & (np.abs(y - y[at]) <= _AROUND)
        return np.flatnonzero(near)

    def _place(self, number: int, at: int) -> tuple[int, int] | None:
        """A point inside a picture, in level-0 pixels. None where the camera's place is not known as shown."""
        level, first = self._scan.levels[number], self._scan.levels[0]
        across, down = self._scan.grid
        image = int(self._tiles[number].index[at])
        x, y = image % across, image // across
        divisions = int(self._scan.general.get("GENERAL", "CameraImageDivisionsPerSide") or "1")
        overlap = [float(self._scan.general.get(first.section, f"OVERLAP_{axis}") or "0") for axis in "XY"]
        wide = across // divisions
        camera = y // divisions * wide + x // divisions
        if self._scan.positions:
            if camera >= len(self._scan.positions) // 9:
                return None
            corner = struct.unpack_from("<2i", self._scan.positions, 9 * camera + 1)
        else:
            corner = (
                int(x // divisions * (first.image_width * divisions - overlap[0])) // first.concat,
                int(y // divisions * (first.image_height * divisions - overlap[1])) // first.concat,
            )
        inside = (x % divisions * first.image_width // first.concat, y % divisions * first.image_height // first.concat)
        margin = [max(0, (side - _REGION) // 8) * level.concat // first.concat
                  for side in (level.image_width, level.image_height)]  # fmt: skip
        left, top = (corner[axis] + inside[axis] + margin[axis] for axis in (0, 1))
        return max(0, min(left, first.width - 1)), max(0, min(top, first.height - 1))

    def draw(self, edge_px: int) -> bytes:
        """The whole slide in small, from the smallest level of the output."""
        last = len(self._tiles) - 1
        while last and min(self._scan.levels[last].width, self._scan.levels[last].height) < 1:
            last -= 1
        self.fill(last, np.arange(len(self._tiles[last].index)))
        level, none = self._scan.levels[last], array("Q")
        page = Page(last, "level", level.width, level.height, 0, 0, 0, Pixels(none, none), none)
        with self._stage.open(1) as slide:
            return encode_preview(draw(slide, page), edge_px)


def _spread(tiles: Tiles, samples: int) -> np.ndarray:
    """Spread over the level, jittered by a digest of its list: repeatable, not foreseeable."""
    count = len(tiles.index)
    if count <= samples:
        return np.arange(count)
    seed = int.from_bytes(blake3(tiles.output.tobytes()).digest()[:4], "little")
    step = count / samples
    return np.array([int(number * step + (seed >> number) % max(1, int(step))) for number in range(samples)])


def _plain_text(scan: MiraxScan) -> bytes:
    """The source's index text as far as OpenSlide needs it, with the stand-ins' names for its files. Without the
    names of other layers: their pictures are nobody's business here."""
    sections = {"GENERAL", "HIERARCHICAL", "DATAFILE", *(level.section for level in scan.levels)}
    files = {f"FILE_{number}": data_name(number) for number in range(len(scan.data))} | {"INDEXFILE": "Index.dat"}
    found: list[KeySection] = []
    for section in scan.general.sections:
        if section not in sections:
            continue
        lines = {}
        for line in scan.general.lines:
            value = files.get(line.key, line.value)
            plain = line.key.isidentifier() and line.key.isascii() and value.isascii() and value.isprintable()
            if line.section == section and plain:
                lines[line.key] = value
                if line.key.startswith("NONHIER_") and line.key.endswith("_NAME"):
                    lines[line.key] = line.value if line.value == scan.position_layer else "other"
        found.append(KeySection(section, tuple(lines.items())))
    return key_text(found)


def _compare_properties(before: openslide.OpenSlide, after: openslide.OpenSlide) -> None:
    names = (
        openslide.PROPERTY_NAME_VENDOR, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y,
        openslide.PROPERTY_NAME_OBJECTIVE_POWER, openslide.PROPERTY_NAME_BACKGROUND_COLOR,
    )  # fmt: skip
    if any(before.properties.get(name) != after.properties.get(name) for name in names):
        raise RedactionUnproven("vendor, resolution or objective differ from the source's")
    if before.level_dimensions != after.level_dimensions or before.level_downsamples != after.level_downsamples:
        raise RedactionUnproven("OpenSlide sees other levels than in the source")
    if set(after.associated_images):
        raise RedactionUnproven("OpenSlide finds an associated picture in the output")


def _tile_list_digest(tiles: Sequence[Tiles]) -> str:
    """BLAKE3 over the ordered (grid, file, offset, length) of all pictures in the source."""
    digest = blake3()
    for level in tiles:
        digest.update(np.column_stack([level.index, level.source]).astype("<i8").tobytes())
    return digest.hexdigest()
