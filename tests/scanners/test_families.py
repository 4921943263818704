"""Families without a writer are named in their refusal, so that a person knows what waits in quarantine."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

import scanners
from mover.errors import FormatUnknown, FormatUnsupported, StructureInvalid
from mover.model.source import MemorySource
from tests.support import slides


def generic(description: str = "", **tags: str) -> bytes:
    codes = {"software": 305, "make": 271}
    extra = [slides.text(codes[name], value) for name, value in tags.items()]
    return slides.assemble([slides.level((128, 128), description=description, extra=extra)])


CASES = [
    ("Trestle", generic("", software="MedScan 5"), ".tif"),
    ("Huron", generic("", make="Huron"), ".tif"),
    ("PerkinElmer QPTIFF", generic("<PerkinElmer-QPI-ImageDescription>"), ".qptiff"),
    ("Olympus VSI", generic(""), ".vsi"),
    ("generic TIFF without tiles", slides.assemble([slides.strips(slides.tissue(64, 64))]), ".tif"),
    (
        "Ventana BIF",
        slides.assemble(
            [slides.level((128, 128)), slides.level((64, 64), extra=[slides.raw(700, b"<iScan/>", kind=1)])]
        ),
        ".bif",
    ),
    ("DICOM", bytes(128) + b"DICM" + bytes(20), ".dcm"),
    ("DICOM", (b"II*\0" + bytes(124)) + b"DICM" + bytes(20), ".tif"),
    ("Zeiss CZI", b"ZISRAWFILE" + bytes(40), ".czi"),
    ("Olympus ETS", b"SIS\0" + bytes(40), ".ets"),
    ("Hamamatsu VMS", b"[Virtual Microscope Specimen]\nNoLayers=1\n", ".vms"),
    ("Hamamatsu VMU", b"[Uncompressed Virtual Microscope Specimen]\n", ".vmu"),
    ("Philips iSyntax", b'<DataObject ObjectType="DPUfsImport">', ".isyntax"),
    ("3DHISTECH MIRAX", b"\xff\xd8\xff\xe0" + bytes(40), ".mrxs"),
    ("3DHISTECH MIRAX", b"\xef\xbb\xbf[GENERAL]\r\nSLIDE_ID = 1\r\n", ".ini"),
    ("Olympus VSI", generic("", make="Olympus Soft Imaging Solutions"), ".tif"),
    ("Hamamatsu NDPIS", b"[NanoZoomer Digital Pathology Image Set]\r\nNoImages=3\r\n", ".ndpis"),
    ("Philips iSyntax", b'\xef\xbb\xbf<?xml version="1.0"?>\r\n<DataObject ObjectType="DPUfsImport">', ".xyz"),
    ("Hamamatsu VMS", "\ufeff[Virtual Microscope Specimen]\nNoLayers=1\n".encode("utf-16-le"), ".txt"),
    ("KFBIO", b"KFB\0" + bytes(40), ".kfb"),
    ("SDPC", b"SQ" + bytes(40), ".sdpc"),
    ("TMAP", b"TMAP" + bytes(40), ".tmap"),
    ("JPEG picture", b"\xff\xd8\xff\xe0" + bytes(40), ".jpg"),
    ("PNG picture", b"\x89PNG\r\n\x1a\n" + bytes(40), ".png"),
    ("table", b"name,number\n", ".csv"),
]


@pytest.mark.parametrize(("family", "data", "suffix"), CASES, ids=[f"{c[0]}{c[2]}" for c in CASES])
def test_a_family_without_a_writer_is_refused_by_its_name(family: str, data: bytes, suffix: str) -> None:
    with pytest.raises(FormatUnsupported, match=family):
        scanners.identify(MemorySource(data), suffix)


BROKEN = {
    "Leica": generic('<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'),
    "Ventana": slides.assemble([slides.level((128, 128), extra=[slides.raw(700, b"<EncodeInfo><iScan/>", kind=1)])]),
}


@pytest.mark.parametrize("family", BROKEN)
def test_a_vendors_document_that_cannot_be_read_makes_no_generic_slide(family: str) -> None:
    """What the document would have said of the first directory (the overview, with its label) is not known."""
    with pytest.raises(StructureInvalid):
        scanners.identify(MemorySource(BROKEN[family]), ".tif")


LOOKALIKES = {
    "a program's name": generic("<DataObject>", software="Philips DP v1.0"),
    "a vendor's attribute": generic('<Attribute Name="PIM_DP_IMAGE_TYPE">LABELIMAGE</Attribute>'),
    "an end of OME": generic("exported for </OME>"),
    "OME that is no XML": generic('<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><a></OME>'),
    "OME of another house": generic('<OME xmlns="http://example.org/OME"></OME>'),
    "OME with an entity": generic(
        '<!DOCTYPE OME [<!ENTITY a "Quincy">]><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">&a;</OME>'
    ),
}


@pytest.mark.parametrize("lookalike", LOOKALIKES)
def test_words_that_look_like_a_familys_make_no_family(lookalike: str) -> None:
    """Readers take such a file for a plain pyramid, and so do we: not one word of it passes."""
    assert scanners.identify(MemorySource(LOOKALIKES[lookalike]), ".tif").family == "generic-tiff"


def test_a_sakura_slide_is_known_by_its_database(tmp_path: Path) -> None:
    path = tmp_path / "slide.svslide"
    with sqlite3.connect(path) as database:
        database.execute("create table SVHRScanDataXPO (id integer)")
    with pytest.raises(FormatUnsupported, match="Sakura"):
        scanners.identify(MemorySource(path.read_bytes()), ".db")


@pytest.mark.parametrize("suffix", [".svs", ".mrxs", ".tif", ".dcm", ".ndpi", ".czi", ""])
@pytest.mark.parametrize(("family", "data"), [
    ("Zeiss CZI", b"ZISRAWFILE" + bytes(40)), ("Olympus ETS", b"SIS\0" + bytes(40)),
    ("Philips iSyntax", b'<DataObject ObjectType="DPUfsImport">'), ("KFBIO", b"KFB\0" + bytes(40)),
    ("TMAP", b"TMAP" + bytes(40)), ("Trestle", generic("", software="MedScan 5")),
])  # fmt: skip
def test_a_foreign_slide_under_another_name_is_still_what_it_is(family: str, data: bytes, suffix: str) -> None:
    """A CZI named .svs must wait as a CZI: the reason is what a person acts on."""
    with pytest.raises(FormatUnsupported, match=family):
        scanners.identify(MemorySource(data), suffix)


def test_content_decides_and_not_the_name() -> None:
    """A slide under a wrong suffix is still what it is; a wrong suffix makes nothing a slide."""
    assert scanners.identify(MemorySource(slides.svs()), ".ndpi").family == "aperio-svs"
    assert scanners.identify(MemorySource(slides.ndpi()), ".svs").family == "hamamatsu-ndpi"
    with pytest.raises(FormatUnsupported, match="JPEG"):
        scanners.identify(MemorySource(b"\xff\xd8\xff\xe0" + bytes(40)), ".svs")


def test_what_nobody_knows_is_unknown() -> None:
    with pytest.raises(FormatUnknown):
        scanners.identify(MemorySource(b"hello, this is nothing"), ".xyz")
