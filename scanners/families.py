"""Recognise every other family by content first, then by name, so that a refusal can say what it refuses.

Nothing here reads more than a few kilobytes. Recognising is not supporting: these files go to quarantine with
`format-unsupported` and the family's name, until a writer for them exists.
"""

from __future__ import annotations

from typing import Final

from mover.model.source import ByteSource
from scanners import pages
from scanners.tiff import Structure, read_value

HEAD_BYTES: Final = 4096
GENERIC: Final = "generic TIFF"
MIRAX: Final = "3DHISTECH MIRAX"

# (where, bytes, family) for containers that are no TIFF; the first hit wins.
_SIGNATURES: Final = (
    (0, b"ZISRAWFILE", "Zeiss CZI"),
    (0, b"SIS\0", "Olympus ETS"),
    (0, b"GN\0\0", "Hamamatsu NGR"),
    (0, b"KFBIO", "KFBIO"),
    (0, b"KFB", "KFBIO"),
    (0, b"SQ", "SDPC"),
    (0, b"TMAP", "TMAP"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG picture"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000 picture"),
    (0, b"GIF8", "GIF picture"),
    (0, b"PK\x03\x04", "zip archive"),
    (0, b"%PDF", "PDF document"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE container (Zeiss ZVI)"),
)  # fmt: skip

# What a text says near its beginning, whatever mark or white space stands before it.
_WORDS: Final = (
    (b"[Virtual Microscope Specimen]", "Hamamatsu VMS"),
    (b"[Uncompressed Virtual Microscope Specimen]", "Hamamatsu VMU"),
    (b"[NanoZoomer Digital Pathology Image Set]", "Hamamatsu NDPIS"),
    (b"[HIERARCHICAL]", MIRAX),
    (b"SLIDE_ID", MIRAX),
    (b'ObjectType="DPUfsImport"', "Philips iSyntax"),
    (b"<DataObject", "Philips iSyntax"),
)
# Tables of a Sakura slide's database, named in the first pages of its schema.
_SAKURA: Final = (b"SVSlideDataXPO", b"SVHRScanDataXPO", b"DataManagerSQLiteConfigXPO", b"SVScannedImageDataXPO")
_SCHEMA_BYTES: Final = 64 << 10

_SUFFIXES: Final = {
    ".mrxs": MIRAX, ".vms": "Hamamatsu VMS", ".vmu": "Hamamatsu VMU", ".scn": "Leica SCN",
    ".bif": "Ventana BIF", ".isyntax": "Philips iSyntax", ".czi": "Zeiss CZI", ".vsi": "Olympus VSI",
    ".ets": "Olympus ETS", ".svslide": "Sakura svslide", ".kfb": "KFBIO", ".kfbf": "KFBIO", ".sdpc": "SDPC",
    ".tmap": "TMAP", ".tron": "InteMedic TRON", ".dcm": "DICOM", ".dicom": "DICOM", ".jpg": "JPEG picture",
    ".jpeg": "JPEG picture", ".png": "PNG picture", ".jp2": "JPEG 2000 picture", ".csv": "table",
    ".tsv": "table", ".xlsx": "table", ".xls": "table", ".txt": "text", ".xml": "text", ".json": "text",
    ".nii": "NIfTI", ".zip": "zip archive", ".pdf": "PDF document", ".avs": "Argos AVS", ".lif": "Leica LIF",
}  # fmt: skip


def of_bytes(source: ByteSource, suffix: str) -> str:
    """The family of a file that is no TIFF, "" when neither its content nor its name says."""
    head = source.read(0, min(HEAD_BYTES, source.size_bytes))
    if head[:16] == b"SQLite format 3\0":
        schema = source.read(0, min(_SCHEMA_BYTES, source.size_bytes))
        return "Sakura svslide" if any(name in schema for name in _SAKURA) else "SQLite database"
    for at, signature, family in _SIGNATURES:
        if head[at : at + len(signature)] == signature:
            return family
    plain = head.replace(b"\0", b"")  # of texts in UTF-16 too
    if plain.lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")[:1] in (b"[", b"<"):
        for words, family in _WORDS:
            if words in plain:
                return family
    if suffix == ".dat" and head[:3] in (b"01.", b"04."):
        return MIRAX
    if head[:3] == b"\xff\xd8\xff":
        return _SUFFIXES[suffix] if suffix == ".mrxs" else "JPEG picture"
    return _SUFFIXES.get(suffix, "")


def of_tiff(source: ByteSource, structure: Structure, suffix: str) -> str:
    """The family of a TIFF that is neither Aperio's nor Hamamatsu's NDPI; GENERIC when nothing says."""
    first = structure.directories[0]
    texts = {code: pages.text_tag(source, structure, first, code) for code in (270, 271, 305)}
    description, software = texts[270], texts[305]
    if suffix in (".vsi", ".svslide", ".isyntax"):
        return _SUFFIXES[suffix]
    if "leica-microsystems.com/scn" in description:
        return "Leica SCN"
    if _has_iscan(source, structure):
        return "Ventana BIF"
    if software.startswith("MedScan"):
        return "Trestle"
    if texts[271].casefold().startswith(("olympus", "evident")) or "cellSens" in software:
        return "Olympus VSI"
    if "PerkinElmer-QPI" in description:
        return "PerkinElmer QPTIFF"
    if texts[271].startswith("Huron"):
        return "Huron"
    if texts[271].startswith("Hamamatsu"):
        return "Hamamatsu NDPI without its 64-bit layout"
    if description.startswith("Aperio"):
        return "Aperio TIFF without tiles"
    return _SUFFIXES.get(suffix, GENERIC)


def _has_iscan(source: ByteSource, structure: Structure) -> bool:
    for directory in structure.directories:
        tag = directory.tags.get(700)
        if tag is None or tag.size_bytes > pages.HARVEST_BYTES or tag.kind not in (1, 7):
            continue
        if b"iScan" in bytes(read_value(source, structure.byte_order, tag)):  # type: ignore[arg-type]
            return True
    return False
