"""The independent second pass over a Hamamatsu VMS slide: as `mover.deid.folderproof`, for an index text and JPEGs.

1. `configparser` reads the output's index text; its keys and values are held against forms written down once more.
2. Every other file is one JPEG of the source, from its first byte to its EOI, without whole comments and application
   segments; nothing of it is written anew.
3. Index text, names and headers are searched for every harvested string in all its forms.
4. OpenSlide opens both sides: same vendor, levels, resolution, objective; equal pixels in every level. Of a slide too
   large for memory the beginning of each JPEG is decoded: the rest follows from 2.
"""

from __future__ import annotations

import configparser
import re
from array import array
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import openslide
from blake3 import blake3

from mover.deid.companions import Standins, part_name
from mover.deid.drawing import draw, encode_preview, read_region
from mover.deid.filepairs import FilePair, jpeg_gap, literal_of, pair_files, whole_gaps, words_before_pixels
from mover.deid.folders import key_text
from mover.deid.outcome import Prepared, SlideEvidence, SlidePlan
from mover.deid.search import Seeker
from mover.deid.skeleton import Skeleton
from mover.deid.stage import Stage
from mover.errors import RedactionUnproven
from mover.model.folders import KeySection, VmsPart, VmsScan
from mover.model.recipe import Copy
from mover.model.slides import Page, Pixels
from mover.model.source import ByteSource

VERIFIER: Final = "mover-vms/1"
# All pictures of one side, at or below which they are decoded wherever a sample falls.
WHOLE_BYTES: Final = 160 << 20
# Of a larger slide, this much of each picture's beginning; its map is decoded whole.
BEGINNING_BYTES: Final = 4 << 20
MAP_BYTES: Final = 128 << 20
HEADER_BYTES: Final = 1 << 20
_SAMPLES: Final = 5
_REGION: Final = 48
_TRIES: Final = 3
_SECTION: Final = "Virtual Microscope Specimen"
_FORMS: Final = {
    r"No(Layers|JpegColumns|JpegRows)": r"[0-9]{1,3}",
    r"SourceLens": r"[0-9]{1,3}(\.[0-9]{1,6})?",
    r"Physical(Width|Height)|Layer(Spacing|Offset)|[XY]OffsetFromSlideCentre": r"-?[0-9]{1,9}",
}


def prove_vms(
    main: ByteSource,
    files: Mapping[str, ByteSource],
    scan: VmsScan,
    plan: SlidePlan,
    *,
    number: str,
    edge_px: int = 0,
    standins: Standins | None = None,
) -> Prepared:
    """Prove that the plan's output is clean and whole, or raise RedactionUnproven (why, never what)."""
    pairs = pair_files(main, files, plan)
    text = literal_of(pairs[0])
    keys = _check_text(text, scan, number)
    headers = [_check_jpeg(pair) for pair in pairs[1:]]
    seeker = Seeker(plan.removed, around=plan.around)
    haystacks = [text, "\n".join(one.name for one in plan.parts).encode(), *headers]
    found = sum(seeker.find(haystack) for haystack in haystacks)
    if found:
        raise RedactionUnproven(f"{found} forms of removed strings are still in the output")
    decoded, picture = _compare(scan, pairs, plan, number=number, edge_px=edge_px, standins=standins)
    evidence = SlideEvidence(
        verifier=VERIFIER,
        methods=("index-structure", "string-search", "openslide-pixels", "tile-list"),
        strings_sought=len(plan.removed),
        forms_sought=seeker.forms,
        bytes_searched=sum(map(len, haystacks)),
        tags_checked=keys,
        levels=len(plan.facts.levels),
        tiles=len(scan.parts),
        tiles_decoded=decoded,
        tile_list_blake3=_list_digest(pairs),
    )
    return Prepared(plan, evidence, picture)


def _check_text(text: bytes, scan: VmsScan, number: str) -> int:
    parser = configparser.RawConfigParser(
        delimiters=("=",), comment_prefixes=(), inline_comment_prefixes=None, strict=True, empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment]
    try:
        parser.read_string(text.decode("ascii"))
    except (UnicodeDecodeError, configparser.Error) as error:
        raise RedactionUnproven("the output's index text is none") from error
    if parser.sections() != [_SECTION] or parser.defaults():
        raise RedactionUnproven("a section may not stand in the output's index text")
    written = f"[{_SECTION}]" + "".join(f"{key} = {value}" for key, value in parser.items(_SECTION))
    if written != text.decode("ascii").replace("\r\n", ""):
        raise RedactionUnproven("the output's index text holds more than its keys")
    named = {}
    for key, value in parser.items(_SECTION):
        if key == "MapFile" or re.fullmatch(r"ImageFile\([0-9]{1,4},[0-9]{1,4},[0-9]{1,4}\)", key):
            named[key] = value
        elif not any(re.fullmatch(form, key) and re.fullmatch(rule, value) for form, rule in _FORMS.items()):
            raise RedactionUnproven("a key or its value may not stand in the output's index text")
    if named != {part.key: part_name(number, index) for index, part in enumerate(scan.parts)}:
        raise RedactionUnproven("the index text names other pictures than there are")
    return len(parser.items(_SECTION))


def _check_jpeg(pair: FilePair) -> bytes:
    """The file is its source's picture without foreign segments; the words of its header."""
    pieces = [(one.offset, one.length) for one in pair.recipe.segments if isinstance(one, Copy)]
    if len(pieces) != len(pair.recipe.segments) or not pieces:
        raise RedactionUnproven("a picture of the output is not copied from the source")
    end = sum(pieces[-1])
    if pieces[-1][0] > HEADER_BYTES or any(b < a + n for (a, n), (b, _) in zip(pieces, pieces[1:], strict=False)):
        raise RedactionUnproven("a picture's parts stand in another order")
    head = pair.source.read(0, min(end, HEADER_BYTES + 4))
    inner = [*pieces[:-1], (pieces[-1][0], max(0, len(head) - pieces[-1][0]))]
    if not whole_gaps(head + b"\xff\xd9", [*inner[:-1], (inner[-1][0], inner[-1][1] + 2)], jpeg_gap):
        raise RedactionUnproven("a picture lacks what its decoder needs")
    if pair.source.read(end - 2, 2) != b"\xff\xd9":
        raise RedactionUnproven("a picture's end is missing")
    return words_before_pixels(b"".join(head[at : at + length] for at, length in inner))


def _list_digest(pairs: Sequence[FilePair]) -> str:
    digest = blake3()
    for pair in pairs[1:]:
        for segment in pair.recipe.segments:
            digest.update(np.array([segment.offset, segment.length], "<u8").tobytes())  # type: ignore[union-attr]
    return digest.hexdigest()


# --- OpenSlide -----------------------------------------------------------------------------------------


def _compare(
    scan: VmsScan, pairs: Sequence[FilePair], plan: SlidePlan, *, number: str, edge_px: int, standins: Standins | None
) -> tuple[int, bytes]:
    total = sum(pair.source.size_bytes for pair in pairs[1:])
    whole = total <= WHOLE_BYTES
    text = _plain_text(scan, number)
    with Stage(".vms", number, standins) as stage:
        before = stage.side(0, [len(text), *(pair.source.size_bytes for pair in pairs[1:])])
        after = stage.side(1, [pair.output.size_bytes for pair in pairs])
        before[0].fill(0, text)
        pairs[0].output.fill_literals(after[0])
        for index, pair in enumerate(pairs[1:], 1):
            limit = MAP_BYTES if index == len(pairs) - 1 else BEGINNING_BYTES
            _fill(pair, before[index], after[index], None if whole else limit)
        shown = _shown(stage, scan, plan, whole=whole)
        return shown, _draw(stage, scan.parts[-1], edge_px) if edge_px > 0 else b""


def _shown(stage: Stage, scan: VmsScan, plan: SlidePlan, *, whole: bool, tries: int = _TRIES) -> int:
    """OpenSlide looks for restart positions behind our back, a second after its last picture, and fails where a
    large slide is not filled: then once more."""
    try:
        return _compare_pixels(stage, scan, plan, whole=whole)
    except RedactionUnproven:
        if whole or tries <= 1:
            raise
    return _shown(stage, scan, plan, whole=whole, tries=tries - 1)


def _fill(pair: FilePair, before: Skeleton, after: Skeleton, limit: int | None) -> None:
    """The same bytes on both sides, all of them or so many."""
    left = limit if limit is not None else pair.source.size_bytes
    before.fill(0, pair.source.read(0, min(left, HEADER_BYTES, pair.source.size_bytes)))
    at = 0
    for segment in pair.recipe.segments:
        assert isinstance(segment, Copy)
        length = min(segment.length, left)
        for done in range(0, length, 8 << 20):
            data = pair.source.read(segment.offset + done, min(8 << 20, length - done))
            before.fill(segment.offset + done, data)
            after.fill(at + done, data)
        at += segment.length
        left -= length


def _compare_pixels(stage: Stage, scan: VmsScan, plan: SlidePlan, *, whole: bool) -> int:
    shown = 0
    with stage.open(0) as before, stage.open(1) as after:
        _compare_properties(before, after, plan)
        first = after.level_dimensions[0]
        for level, (width, height) in enumerate(after.level_dimensions):
            for x, y in _samples(first, scan.parts[-1], (width, height), whole=whole):
                size = (min(_REGION, width), min(_REGION, height)) if whole else (min(_REGION, width), min(8, height))
                old, new = (np.asarray(read_region(slide, (x, y), level, size)) for slide in (before, after))
                if not np.array_equal(old, new):
                    raise RedactionUnproven("pixels differ from the source's")
                shown += bool(new[..., 3].any())
    if not shown:
        raise RedactionUnproven("no picture of the output could be shown")
    return shown


def _samples(first: tuple[int, int], small: VmsPart, size: tuple[int, int], *, whole: bool) -> list[tuple[int, int]]:
    """Where to look in a level: everywhere alike; of a slide that is not filled, at its beginning, but anywhere in
    what is made of its map."""
    if not whole and size[0] > small.width:
        return [(0, 0)]
    steps = range(1, 2 * _SAMPLES, 2)
    return [(first[0] * step // (2 * _SAMPLES), first[1] * step // (2 * _SAMPLES)) for step in steps] + [(0, 0)]


def _compare_properties(before: openslide.OpenSlide, after: openslide.OpenSlide, plan: SlidePlan) -> None:
    names = (
        openslide.PROPERTY_NAME_VENDOR, openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y,
        openslide.PROPERTY_NAME_OBJECTIVE_POWER,
    )  # fmt: skip
    if any(before.properties.get(name) != after.properties.get(name) for name in names):
        raise RedactionUnproven("vendor, resolution or objective differ from the source's")
    if not before.level_dimensions == after.level_dimensions == plan.facts.levels:
        raise RedactionUnproven("OpenSlide sees other levels than in the source")
    if set(after.associated_images):
        raise RedactionUnproven("OpenSlide finds an associated picture in the output")


def _draw(stage: Stage, small: VmsPart, edge_px: int) -> bytes:
    """From the smallest level that is large enough, of those made of the map: it is always filled."""
    none = array("Q")
    with stage.open(1) as slide:
        made = [size for size in slide.level_dimensions if size[0] <= small.width]
        width, height = min(made, key=lambda size: (max(size) < edge_px, size))
        page = Page(0, "level", width, height, 0, 0, 0, Pixels(none, none), none)
        return encode_preview(draw(slide, page), edge_px)


def _plain_text(scan: VmsScan, number: str) -> bytes:
    """The source's index text as far as OpenSlide needs it, with the stand-ins' names, without its overview."""
    lines = {}
    for line in scan.text.lines:
        usable = line.key.isascii() and line.key.isidentifier() and line.value.isascii() and line.value.isprintable()
        if line.section == _SECTION and usable and line.key not in ("MacroImage", "OptimisationFile", "ImageFile"):
            lines[line.key] = line.value
    lines |= {part.key: part_name(number, index) for index, part in enumerate(scan.parts)}
    return key_text([KeySection(_SECTION, tuple(lines.items()))])
