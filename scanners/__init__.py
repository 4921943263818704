"""Scanners look and never write. One module per file family; each answers: is it mine, what is in it, where
can identity hide in it? The front of the room is `identify` and `examine_tiles`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mover.errors import FormatUnknown, FormatUnsupported, StructureInvalid
from mover.model.slides import SlideScan
from mover.model.source import ByteSource
from scanners import aperio, dicom, families, generic, hamamatsu, leica, ome, philips, ventana
from scanners.tiff import Structure, looks_like_tiff, read_structure
from scanners.tiles import examine as examine_tiles
from scanners.tiles import find_comments

__all__ = ["examine_tiles", "find_comments", "identify"]

_Test = Callable[[ByteSource, Structure], bool]
_Scan = Callable[[ByteSource, Structure], SlideScan]

# Families whose content names them, in the order they are asked.
_TIFF_FAMILIES: Final[tuple[tuple[_Test, _Scan], ...]] = (
    (lambda _, structure: hamamatsu.is_mine(structure), hamamatsu.scan),
    (aperio.is_mine, aperio.scan),
    (leica.is_mine, leica.scan),
    (ventana.is_mine, ventana.scan),
    (philips.is_mine, philips.scan),
    (ome.is_mine, ome.scan),
)


def identify(source: ByteSource, suffix: str) -> SlideScan:
    """What the file is and where identity can hide in it. `suffix` is its name's, with the dot.

    Raises FormatUnsupported for a family we recognise and cannot rebuild, FormatUnknown for what nobody knows,
    StructureInvalid or PlaceUnknown for a file that contradicts itself. The caller quarantines all four.
    """
    suffix = suffix.lower()
    if source.size_bytes == 0:
        raise FormatUnknown("the file is empty")
    head = source.read(0, min(132, source.size_bytes))
    if dicom.is_mine(head) or not looks_like_tiff(head):
        family = dicom.family(source) if dicom.is_mine(head) else families.of_bytes(source, suffix)
        if not family:
            raise FormatUnknown("neither content nor name belong to a known family")
        raise FormatUnsupported(f"{family}: recognised, and no writer exists for it yet")
    return _scan_tiff(source, suffix)


def _scan_tiff(source: ByteSource, suffix: str) -> SlideScan:
    structure = read_structure(source)
    for is_mine, scan in _TIFF_FAMILIES:
        if is_mine(source, structure):
            if any(directory.repeats for directory in structure.directories):
                raise StructureInvalid("tag 270 stands twice in one directory")
            return scan(source, structure)
    family = families.of_tiff(source, structure, suffix)
    if family == families.GENERIC:
        return generic.scan(source, structure)
    raise FormatUnsupported(f"{family}: recognised, and no writer exists for it yet")
