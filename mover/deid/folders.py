"""Compile a slide of several files to recipes, one per file (design: deidentification 1.1, MRXS and VMS).

Index texts and binary indexes are written anew as literals; the pictures of the pyramid are copies, in the order
they have in their source; a picture that carries comments is copied around them. Files of the source that no index
names, and those that hold nothing of the pyramid, have no counterpart in the output. Nothing here judges.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from blake3 import blake3
from msgspec import Struct
from PIL import Image

from mover.decide.redaction.ledger import FolderRedaction
from mover.decide.redaction.mirax import judge_mirax, judge_positions
from mover.decide.redaction.vms import judge_vms
from mover.deid.companions import Standins, data_name, part_name
from mover.deid.outcome import OutFile, Prepared, SlidePlan
from mover.errors import FormatUnsupported, StructureInvalid
from mover.model.folders import Cut, KeySection, MiraxScan, VmsPart, VmsScan
from mover.model.recipe import Copy, Literal, Recipe, Segment, compact
from mover.model.slides import SlideFacts
from mover.model.source import ByteSource
from scanners import families, mirax, vms

_CODINGS: Final = {"JPEG": "jpeg", "PNG": "png", "BMP24": "bmp"}
_LIMIT_31: Final = 0x7FFFFFFF
_STEM: Final = "{number}"
ID_DIGITS: Final = 32
_ATTEMPTS: Final = 16


def prepare_files(
    main: ByteSource,
    files: Mapping[str, ByteSource],
    *,
    suffix: str,
    known: tuple[str, ...] = (),
    edge_px: int = 0,
    number: str = "",
    standins: Standins | None = None,
) -> Prepared:
    """Plan, prove and (for a positive `edge_px`) render one slide of several files. The order of `files` is what
    the parts' `source` counts in, from 1."""
    from mover.deid.folderproof import prove_mirax
    from mover.deid.vmsproof import prove_vms

    options = {"edge_px": edge_px, "standins": standins}
    if vms.is_mine(main):
        slide = vms.scan(main, files)
        plan = plan_vms(main, files, slide, known=known, number=number)
        return prove_vms(main, files, slide, plan, number=number, **options)  # type: ignore[arg-type]
    if not mirax.is_mine(suffix.lower(), files):
        raise FormatUnsupported(_named(families.of_bytes(main, suffix.lower())))
    scan = mirax.scan(main, files)
    plan = plan_mirax(main, files, scan, known=known, number=number)
    evidence, picture = prove_mirax(main, files, scan, plan, **options)  # type: ignore[arg-type]
    return Prepared(plan, evidence, picture)


def _named(family: str) -> str:
    if family == families.MIRAX:
        return f"{family}: the folder that belongs to it did not come with it"
    return f"{family or 'a slide of several files'}: recognised, and no writer exists for it yet"


# --- 3DHISTECH MIRAX -----------------------------------------------------------------------------------


class _Moved(Struct, frozen=True):
    """A data file of the output: which source file it is made of, its distinct pictures there (offset, length in
    order), and where each lies in the output and how long it is."""

    file: int
    ranges: np.ndarray
    at: np.ndarray
    length: np.ndarray


def plan_mirax(
    main: ByteSource,
    files: Mapping[str, ByteSource],
    scan: MiraxScan,
    *,
    known: tuple[str, ...],
    number: str,
    standing_id: str = "",
) -> SlidePlan:
    """The plan of a scanned slide; proves nothing yet. With `standing_id` the slide gets that id and no other."""
    moved = _move(scan, len(mirax.VERSION) + ID_DIGITS)
    count = len(moved) + bool(scan.position_layer)
    names = tuple(data_name(index) for index in range(count))
    for attempt in range(_ATTEMPTS):
        slide_id = standing_id or slide_id_of(number, attempt)
        redaction = judge_mirax(scan, slide_id=slide_id, index_name="Index.dat", data_names=names, known=known)
        # by chance an id may hold the five digits of somebody's number
        if standing_id or not any(text.casefold() in slide_id.casefold() for text in redaction.removed):
            break
    head = mirax.VERSION + slide_id.encode()
    positions = _packed(scan, judge_positions(scan))
    order = {name: index + 1 for index, name in enumerate(files)}

    def part(name: str, source: str, segments: Sequence[Segment]) -> OutFile:
        recipe = compact(files[source].size_bytes, list(segments))
        return OutFile(f"{_STEM}/{name}", order[source], recipe)

    parts = [
        part("Slidedat.ini", scan.ini, [Literal(key_text(redaction.sections))]),
        part("Index.dat", scan.index, [Literal(_index(scan, head, moved, len(positions)))]),
        *(part(names[slot], scan.data[one.file], _data(scan, head, one)) for slot, one in enumerate(moved)),
    ]
    if scan.position_layer:
        parts.append(part(names[-1], scan.index, [Literal(head + positions)]))
    return SlidePlan(
        family="mirax",
        extension="mrxs",
        recipe=Recipe(main.size_bytes, (Literal(blank_picture()),)),
        facts=_facts(scan, redaction),
        decisions=redaction.decisions,
        removed=redaction.removed,
        around=redaction.around,
        tile_count=scan.tile_count,
        parts=tuple(parts),
    )


def slide_id_of(number: str, attempt: int = 0) -> str:
    """An id in the format's own form. The number is random, so what is made of it says no more than the number."""
    return blake3(f"mirax slide id {attempt} of {number}".encode()).hexdigest()[:ID_DIGITS].upper()


def blank_picture() -> bytes:
    """A small grey JPEG without metadata and with Huffman tables of its own: the usual ones hold runs of letters
    and digits that a search would take for text."""
    target = io.BytesIO()
    Image.new("L", (64, 64), 200).save(target, "JPEG", quality=75, optimize=True)
    return target.getvalue()


def key_text(sections: Sequence[KeySection]) -> bytes:
    lines = []
    for section in sections:
        lines += [f"[{section.name}]", *(f"{key} = {value}" for key, value in section.lines)]
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _facts(scan: MiraxScan, redaction: FolderRedaction) -> SlideFacts:
    first = scan.levels[0]
    values = {(section.name, key): value for section in redaction.sections for key, value in section.lines}
    return SlideFacts(
        vendor="mirax",
        family="mirax",
        width=first.width,
        height=first.height,
        levels=tuple((level.width, level.height) for level in scan.levels),
        tile_width=first.image_width,
        tile_height=first.image_height,
        compression=_CODINGS[first.coding],
        mpp_x=float(values["LAYER_0_LEVEL_0_SECTION", "MICROMETER_PER_PIXEL_X"]),
        mpp_y=float(values["LAYER_0_LEVEL_0_SECTION", "MICROMETER_PER_PIXEL_Y"]),
        objective=float(values["GENERAL", "OBJECTIVE_MAGNIFICATION"]),
    )


def _move(scan: MiraxScan, head_bytes: int) -> list[_Moved]:
    """Every distinct picture of every data file, in the source's order, one behind the other after the head."""
    whole = [
        np.stack([np.frombuffer(part, "i8") for part in (level.tiles.file, level.tiles.offset, level.tiles.length)], 1)
        for level in scan.levels
    ]
    ranges = np.unique(np.concatenate(whole), axis=0)
    if not len(ranges):
        raise StructureInvalid("a slide without any picture")
    moved = []
    for file in np.unique(ranges[:, 0]).tolist():
        own = ranges[ranges[:, 0] == file][:, 1:]
        length = own[:, 1].copy()
        for cut in (key for key in scan.cuts if key[0] == file):
            length[np.searchsorted(own[:, 0], cut[1])] = sum(size for _, size in scan.cuts[cut].ranges)
        at = head_bytes + np.concatenate([[0], np.cumsum(length)[:-1]])
        if int(at[-1] + length[-1]) > _LIMIT_31:
            raise StructureInvalid("a data file beyond what the index can name")
        moved.append(_Moved(file, own, at, length))
    return moved


def _data(scan: MiraxScan, head: bytes, moved: _Moved) -> list[Segment]:
    cuts: dict[tuple[int, int], Cut] = {key[1:]: cut for key, cut in scan.cuts.items() if key[0] == moved.file}
    segments: list[Segment] = [Literal(head)]
    for offset, length in moved.ranges.tolist():
        cut = cuts.get((offset, length))
        segments += [Copy(offset, length)] if cut is None else [Copy(*one) for one in cut.ranges]
    return segments


def _packed(scan: MiraxScan, positions: bytes) -> bytes:
    """As the layer's name promises: plain, or as a stream of our own making."""
    import zlib

    return zlib.compress(positions, 6) if scan.position_layer == "StitchingIntensityLayer" else positions


def _index(scan: MiraxScan, head: bytes, moved: Sequence[_Moved], position_bytes: int) -> bytes:
    """Head, two pointers, the pyramid's table, the other table, then the records with one page each."""
    slots = {one.file: slot for slot, one in enumerate(moved)}
    table = len(head) + 8
    others = table + 4 * len(scan.levels)
    at = others + 4 * bool(scan.position_layer)
    pointers, pages = [], []
    for level in scan.levels:
        page = _page(level.tiles, moved, slots)
        pointers.append(at)
        pages.append(struct.pack("<4i", 0, at + 8, len(level.tiles), 0) + page)
        at += len(pages[-1])
    if scan.position_layer:
        pointers.append(at)
        place = (len(head), position_bytes, len(moved))
        pages.append(struct.pack("<9i", 0, at + 8, 1, 0, 0, 0, *place))
    roots = struct.pack("<2i", table, others)
    return b"".join([head, roots, struct.pack(f"<{len(pointers)}i", *pointers), *pages])


def _page(tiles: mirax.Tiles, moved: Sequence[_Moved], slots: Mapping[int, int]) -> bytes:
    index, offset, file = (np.frombuffer(part, "i8") for part in (tiles.index, tiles.offset, tiles.file))
    page = np.zeros((len(index), 4), "<i4")
    page[:, 0] = index
    for one in moved:
        mine = np.flatnonzero(file == one.file)
        found = np.searchsorted(one.ranges[:, 0], offset[mine])
        page[mine, 1], page[mine, 2], page[mine, 3] = one.at[found], one.length[found], slots[one.file]
    return page.tobytes()


# --- Hamamatsu VMS -------------------------------------------------------------------------------------


def plan_vms(
    main: ByteSource, files: Mapping[str, ByteSource], scan: VmsScan, *, known: tuple[str, ...], number: str
) -> SlidePlan:
    """The plan of a scanned slide; proves nothing yet. Its parts lie beside the main file and carry its number."""
    names = tuple(part_name(number, index) for index in range(len(scan.parts)))
    redaction = judge_vms(scan, names=names, known=known)
    order = {name: index + 1 for index, name in enumerate(files)}
    parts = tuple(
        OutFile(
            part_name(_STEM, index),
            order[part.name],
            compact(files[part.name].size_bytes, [Copy(*one) for one in part.cut.ranges]),
        )
        for index, part in enumerate(scan.parts)
    )
    return SlidePlan(
        family="hamamatsu-vms",
        extension="vms",
        recipe=Recipe(main.size_bytes, (Literal(key_text(redaction.sections)),)),
        facts=_vms_facts(scan, redaction),
        decisions=redaction.decisions,
        removed=redaction.removed,
        around=redaction.around,
        tile_count=len(parts),
        parts=parts,
    )


def _vms_facts(scan: VmsScan, redaction: FolderRedaction) -> SlideFacts:
    values = dict(redaction.sections[0].lines)
    first, small = scan.parts[0], scan.parts[-1]
    width = sum(part.width for part in scan.parts if part.layer == part.row == 0)
    height = sum(part.height for part in scan.parts if part.layer == part.column == 0)
    micrometres = [int(values.get(key, "0")) / 1000 for key in ("PhysicalWidth", "PhysicalHeight")]
    return SlideFacts(
        vendor="hamamatsu",
        family="hamamatsu-vms",
        width=width,
        height=height,
        levels=_scaled((width, height), first.tile_width, first.tile_height, small),
        tile_width=first.tile_width,
        tile_height=first.tile_height,
        compression="jpeg",
        mpp_x=micrometres[0] / width if micrometres[0] > 0 else None,
        mpp_y=micrometres[1] / height if micrometres[1] > 0 else None,
        objective=float(values["SourceLens"]) if "SourceLens" in values else None,
    )


def _scaled(size: tuple[int, int], wide: int, high: int, small: VmsPart) -> tuple[tuple[int, int], ...]:
    """The levels readers make of a picture: itself, and halves of it as far as a JPEG decoder scales its tiles. The
    map's replace those of the same width."""
    levels: dict[int, tuple[int, int]] = {}
    for (width, height), tile in ((size, (wide, high)), ((small.width, small.height), (small.tile_width,
                                                                                      small.tile_height))):  # fmt: skip
        levels[width] = (width, height)
        for down in (2, 4, 8):
            if tile[0] % down == 0 and tile[1] % down == 0:
                levels[width // down] = (width // down, height // down)
    return tuple(levels[width] for width in sorted(levels, reverse=True))
