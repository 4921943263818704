"""Scanners look and never write. One module per file family; each answers: is it mine, what is in it, where
can identity hide in it? The front of the room is `identify` and `examine_tiles`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mover.errors import FormatUnknown, FormatUnsupported
from mover.model.slides import SlideScan
from mover.model.source import ByteSource
from scanners import aperio, dicom, families, generic, hamamatsu, leica, ome, philips, ventana
from scanners.tiff import Structure, looks_like_tiff, read_structure
from scanners.tiles import examine as examine_tiles

__all__ = ["examine_tiles", "identify"]

# Families that a TIFF's content tells, by the name `families.of_tiff` gives them, and who scans them.
_TIFF_SCANNERS: Final[dict[str, Callable[[ByteSource, Structure], SlideScan]]] = {
    families.GENERIC: generic.scan,
}


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
    structure = read_structure(source)
    if hamamatsu.is_mine(structure):
        return hamamatsu.scan(source, structure)
    if aperio.is_mine(source, structure):
        return aperio.scan(source, structure)
    if leica.is_mine(source, structure):
        return leica.scan(source, structure)
    if ventana.is_mine(source, structure):
        return ventana.scan(source, structure)
    if philips.is_mine(source, structure):
        return philips.scan(source, structure)
    if ome.is_mine(source, structure):
        return ome.scan(source, structure)
    family = families.of_tiff(source, structure, suffix)
    if family in _TIFF_SCANNERS:
        return _TIFF_SCANNERS[family](source, structure)
    raise FormatUnsupported(f"{family}: recognised, and no writer exists for it yet")
