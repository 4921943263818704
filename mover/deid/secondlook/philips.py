"""What may stand in a Philips TIFF output, written a second time.

The XML of an output holds text only where a number, a version or a word of a short list stands, and no picture.
"""

from __future__ import annotations

import re
from typing import Final

from mover.deid.secondlook import generic
from mover.deid.secondlook.rules import Family, Pages, tiled
from mover.errors import RedactionUnproven

_NAMES: Final = "|".join((
    "DICOM_MANUFACTURER", "DICOM_MANUFACTURERS_MODEL_NAME", "PIM_DP_SCANNED_IMAGES", "PIM_DP_UFS_INTERFACE_VERSION",
    r"DICOM_BITS_(?:ALLOCATED|STORED)", "DICOM_HIGH_BIT", r"DICOM_LOSSY_IMAGE_COMPRESSION(?:_METHOD|_RATIO)?",
    "DICOM_PHOTOMETRIC_INTERPRETATION", "DICOM_PIXEL_REPRESENTATION", "DICOM_PIXEL_SPACING",
    "DICOM_PLANAR_CONFIGURATION", "DICOM_SAMPLES_PER_PIXEL", r"PIM_DP_IMAGE_(?:COLUMNS|ROWS|TYPE)",
    r"PIIM_PIXEL_DATA_REPRESENTATION_(?:SEQUENCE|COLUMNS|ROWS|NUMBER)", "PIIM_DP_PIXEL_DATA_REPRESENTATION_POSITION",
))  # fmt: skip
_OPEN: Final = (
    rf'<Attribute Name="(?:{_NAMES})"(?: Group="0x[0-9A-Fa-f]{{4}}")?(?: Element="0x[0-9A-Fa-f]{{4}}")?'
    r'(?: PMSVR="I[A-Za-z0-9]{3,20}")?/?>'
)
_VALUE: Final = (
    r'(?:"?-?[0-9]{1,6}(?:\.[0-9]{1,12})?(?:[eE]-?[0-9]{1,2})?"? ?){0,16}'
    r"|WSI|RGB|YBR_FULL(?:_422)?|MONOCHROME2|PHILIPS|Philips|UFS Scanner|Philips UFS|IntelliSite Ultra Fast Scanner"
    r'|"?PHILIPS_(?:DP|TIFF)_1_0"?(?: "?PHILIPS_(?:DP|TIFF)_1_0"?)?'
)
_XML: Final = re.compile(
    r'<\?xml version="1\.0" encoding="UTF-8" \?>'
    rf'(?:<DataObject ObjectType="(?:DPUfsImport|DPScannedImage|PixelDataRepresentation)"/?>|</DataObject>|</?Array/?>'
    rf"|{_OPEN}(?:(?:{_VALUE})</Attribute>)?|</Attribute>)+",
    re.ASCII,
)
_TEXT: Final = re.compile(rf"{_XML.pattern}|level=[0-9]{{1,2}} mag=[0-9.]{{1,10}} quality=[0-9]{{1,3}}", re.ASCII)
_IMAGE: Final = '<DataObject ObjectType="DPScannedImage">'


def _whole(pages: Pages) -> None:
    """The first page speaks of one slide, the others of their level at most."""
    if not _XML.fullmatch(pages[0].description) or pages[0].description.count(_IMAGE) != 1:
        raise RedactionUnproven("the XML does not speak of exactly one slide")
    if any(_XML.fullmatch(page.description) for page in pages[1:]):
        raise RedactionUnproven("a level of the output repeats the XML")


RULES: Final = Family(
    tags=generic.TAGS - {330} | {270, 305},
    texts={270: _TEXT, 305: re.compile(r"Philips DP v[0-9]{1,2}\.[0-9]{1,2}")},
    levels=tiled,
    whole=_whole,
)
