"""What cohorts may ask about a folder of DICOM objects. A fact that does not hold for the whole is left out: no width
is invented for a CT, and no modality for a folder that has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mover.deid.dicom import ObjectFacts

SUBJECT = "subject"
# transfer syntaxes of PS3.5 A.4 by the words slides use
_COMPRESSIONS = {
    "1.2.840.10008.1.2.4.50": "jpeg", "1.2.840.10008.1.2.4.51": "jpeg", "1.2.840.10008.1.2.4.57": "jpeg-lossless",
    "1.2.840.10008.1.2.4.70": "jpeg-lossless", "1.2.840.10008.1.2.4.80": "jpeg-ls",
    "1.2.840.10008.1.2.4.81": "jpeg-ls", "1.2.840.10008.1.2.4.90": "jpeg2000", "1.2.840.10008.1.2.4.91": "jpeg2000",
    "1.2.840.10008.1.2.4.201": "htj2k", "1.2.840.10008.1.2.4.202": "htj2k", "1.2.840.10008.1.2.4.203": "htj2k",
    "1.2.840.10008.1.2.5": "rle", "1.2.840.10008.1.2": "none", "1.2.840.10008.1.2.1": "none",
    "1.2.840.10008.1.2.1.99": "none", "1.2.840.10008.1.2.2": "none",
}  # fmt: skip

# PS3.3 C.7.3.1.1.1, defined and retired terms: a word of the file's own choice does not get into the catalog
_MODALITIES = frozenset(
    """
    AR AS ASMT AU BDUS BI BMD CD CF CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG EEG EMG EOG EPS ES FA FID
    FS GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS MA MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT PA
    PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR
    SRF ST STAIN TEXTUREMAP TG US VA VF VIDD XA XAPROTOCOL XC
    """.split()
)


def object_facts(objects: Sequence[ObjectFacts], *, family: str) -> dict[str, Any]:
    """The common facts, and of a whole slide its pyramid besides."""
    pictures = [one for one in objects if one.rows and one.columns]
    facts: dict[str, Any] = {
        "objects": len(objects),
        "modality": _modality([one.modality for one in pictures] or [one.modality for one in objects]),
        "frames": sum(one.frames for one in pictures) or None,
        SUBJECT: _same(one.patient for one in objects) or None,
        "compression": _same(_COMPRESSIONS.get(one.transfer_syntax) for one in pictures),
    }
    facts |= _pyramid([one for one in pictures if one.level]) if family == "dicom-wsm" else _picture(pictures)
    return {name: value for name, value in facts.items() if value is not None}


def _modality(named: Sequence[str]) -> str | None:
    """Of the pictures; several as DICOM writes them (PS3.5 6.2). `OT`, other, says nothing beside one that does."""
    found = {name for name in named if name in _MODALITIES}
    return "\\".join(sorted(found - {"OT"} or found)) or None


def _picture(pictures: Sequence[ObjectFacts]) -> dict[str, Any]:
    return {"rows": _same(one.rows for one in pictures), "columns": _same(one.columns for one in pictures)}


def _pyramid(levels: Sequence[ObjectFacts]) -> dict[str, Any]:
    sizes = sorted({(one.matrix_columns, one.matrix_rows) for one in levels}, reverse=True)
    if not sizes:
        return {}
    # of the largest level, as OpenSlide has it
    first = next(one for one in levels if (one.matrix_columns, one.matrix_rows) == sizes[0])
    return {
        "vendor": "dicom", "width": sizes[0][0], "height": sizes[0][1], "levels": len(sizes),
        "level_sizes": [list(size) for size in sizes], "tile_width": first.columns, "tile_height": first.rows,
        "mpp_x": first.mpp_x, "mpp_y": first.mpp_y, "objective": first.objective,
    }  # fmt: skip


def _same(values: Any) -> Any:
    """The value that all have, or None."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
