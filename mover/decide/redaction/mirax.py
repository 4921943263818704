"""What of a 3DHISTECH MIRAX slide may pass.

The index text is written anew: structure and numbers the pyramid needs, a SLIDE_ID of our own, neutral file names.
Of the binary index the pyramid's pictures pass and one position buffer, both as numbers. Everything else (label,
overview, preview, profiles, focus maps, site keys) is dropped.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Final

import numpy as np

from mover.decide.redaction.ledger import DECIMAL, WHOLE, FolderRedaction, Ledger, Rule
from mover.errors import PlaceUnknown
from mover.model.folders import KeySection, MiraxScan

_TRUTH: Final = re.compile(r"(?i:true|false)")
_GENERAL: Final[dict[str, Rule]] = {
    "SLIDE_VERSION": re.compile(r"[0-9]{1,2}\.[0-9]{1,2}"),
    "CURRENT_SLIDE_VERSION": re.compile(r"[0-9]{1,2}\.[0-9]{1,2}"),
    "SLIDE_TYPE": re.compile(r"SLIDE_TYPE_(BRIGHTFIELD|FLUORESCENCE|FLUORESCENCE_BF|MIRAX)"),
    "IMAGENUMBER_X": WHOLE,
    "IMAGENUMBER_Y": WHOLE,
    "OBJECTIVE_NAME": re.compile(
        r"((EC |LD |C-)?(Plan|Epiplan)-(Apochromat|Neofluar|Achromat)|(C-)?Apochromat|Fluar|UPLSAPO|Achroplan)"
        r" [0-9]{1,3}[xX](/[0-9]\.[0-9]{1,2})?"
    ),
    "OBJECTIVE_MAGNIFICATION": re.compile(r"[0-9]{1,3}"),
    "CameraImageDivisionsPerSide": re.compile(r"[0-9]{1,3}"),
    "OUTPUT_RESOLUTION": re.compile(r"[0-9]{1,4}(\.[0-9]{1,8})?"),
    "ADAPTER_SIZE": re.compile(r"[0-9]{1,2}(\.[0-9]{1,8})?"),
    "COMPRESSION": re.compile(r"JPEG|PNG|BMP24"),
    "COMPRESSION_FACTOR": re.compile(r"[0-9]{1,3}"),
    "SLIDE_BITDEPTH": re.compile(r"[0-9]{1,2}"),
    "SLIDE_IS_DOUBLE_WIDE": _TRUTH,
    "SLIDE_CREATION_FINISHED": _TRUTH,
}
_VITAL_GENERAL: Final = frozenset({"SLIDE_VERSION", "IMAGENUMBER_X", "IMAGENUMBER_Y", "OBJECTIVE_MAGNIFICATION"})
_LEVEL: Final[dict[str, Rule]] = {
    "OVERLAP_X": DECIMAL,
    "OVERLAP_Y": DECIMAL,
    "MICROMETER_PER_PIXEL_X": DECIMAL,
    "MICROMETER_PER_PIXEL_Y": DECIMAL,
    "IMAGE_FORMAT": re.compile(r"JPEG|PNG|BMP24"),
    "IMAGE_FILL_COLOR_BGR": re.compile(r"[0-9]{1,8}"),
    "DIGITIZER_WIDTH": re.compile(r"[0-9]{1,5}"),
    "DIGITIZER_HEIGHT": re.compile(r"[0-9]{1,5}"),
    "IMAGE_CONCAT_FACTOR": re.compile(r"[0-9]{1,2}"),
    "IMAGE_COMPRESSION_FACTOR": re.compile(r"[0-9]{1,3}"),
}
_VITAL_LEVEL: Final = frozenset(_LEVEL) - {"IMAGE_COMPRESSION_FACTOR"}
# Keys whose names say nothing about anybody, for decisions that people read.
_LISTED: Final = frozenset({
    "SLIDE_ID", "SLIDE_NAME", "PROJECT_NAME", "SLIDE_CREATIONDATETIME", "SLIDE_UTC_CREATIONDATETIME", "INDEXFILE",
    "SCANNER_HARDWARE_ID", "HIER_COUNT", "NONHIER_COUNT", "FILE_COUNT", "CAMERA_TYPE", "LEVEL_VERSION",
    "BARCODE_IMAGE_TYPE", "PREVIEW_IMAGE_TYPE", "THUMBNAIL_IMAGE_TYPE", *_GENERAL, *_LEVEL,
})  # fmt: skip
_STRUCTURE: Final = re.compile(
    r"(NON)?HIER_[0-9]{1,3}(_NAME|_COUNT|_SECTION|_VAL_[0-9]{1,3}(_SECTION|_IMAGENUMBER_[XY])?)|FILE_[0-9]{1,4}"
)
_SECTIONS: Final = re.compile(r"GENERAL|HIERARCHICAL|DATAFILE|(NONHIER)?LAYER_[0-9]{1,3}(_LEVEL_[0-9]{1,3})?_SECTION")
_STRUCTURE_VALUES: Final = re.compile(
    r"[0-9]{1,4}|ZoomLevel_[0-9]{1,3}|(NONHIER)?LAYER_[0-9]{1,3}(_LEVEL_[0-9]{1,3})?_SECTION|Slide zoom level"
    r"|Slide filter level|Microscope focus level|Scan data layer|VIMSLIDE_POSITION_BUFFER|StitchingIntensityLayer"
    r"|StitchingLayer|StitchingIntensityLevel|default|Index\.dat|Data[0-9]{4}\.dat|FilterLevel_[0-9]{1,3}"
    r"|ScanDataLayer_[A-Za-z]{1,40}"
)
_SPARE: Final = 4  # positions may lie a few slides beside the slide, never as far as a date or a number of a person


def judge_mirax(
    scan: MiraxScan, *, slide_id: str, index_name: str, data_names: tuple[str, ...], known: Iterable[str] = ()
) -> FolderRedaction:
    """The index text to write and the harvest. Raises PlaceUnknown or StructureInvalid where the picture needs what
    is not of its type."""
    ledger = Ledger(known)
    text = scan.general
    general = ledger.keep(text, "GENERAL", _GENERAL, "index text", _VITAL_GENERAL)
    general.insert(1, ("SLIDE_ID", slide_id))
    ledger.note("index text key SLIDE_ID", "rebuild", "D", "an id of the slide's number, in all of its places")
    kept: dict[str, set[str]] = {"GENERAL": {key for key, _ in general} - {"SLIDE_ID"}}
    levels = []
    for number, level in enumerate(scan.levels):
        name = f"LAYER_0_LEVEL_{number}_SECTION"
        lines = ledger.keep(text, level.section, _LEVEL, "index text", _VITAL_LEVEL, written=name)
        levels.append(KeySection(name, tuple(lines)))
        kept.setdefault(level.section, set()).update(key for key, _ in lines)
    sections = (
        KeySection("GENERAL", tuple(general)),
        KeySection("HIERARCHICAL", _hierarchy(scan, index_name)),
        KeySection("DATAFILE", (("FILE_COUNT", f"{len(data_names)}"),
                                *((f"FILE_{number}", name) for number, name in enumerate(data_names)))),
        *levels,
        *_position_section(scan),
    )  # fmt: skip
    _drop_text(ledger, scan, kept)
    _drop_rest(ledger, scan)
    return ledger.close(sections, names=("Slidedat.ini", index_name, *data_names), made=("SLIDE_ID",))


def _hierarchy(scan: MiraxScan, index_name: str) -> tuple[tuple[str, str], ...]:
    lines = [
        ("HIER_COUNT", "1"),
        ("NONHIER_COUNT", "1" if scan.position_layer else "0"),
        ("INDEXFILE", index_name),
        ("HIER_0_NAME", "Slide zoom level"),
        ("HIER_0_COUNT", f"{len(scan.levels)}"),
    ]
    for number in range(len(scan.levels)):
        lines.append((f"HIER_0_VAL_{number}", f"ZoomLevel_{number}"))
        lines.append((f"HIER_0_VAL_{number}_SECTION", f"LAYER_0_LEVEL_{number}_SECTION"))
    if scan.position_layer:
        lines += [
            ("NONHIER_0_NAME", scan.position_layer),
            ("NONHIER_0_COUNT", "1"),
            ("NONHIER_0_VAL_0", "default"),
            ("NONHIER_0_VAL_0_SECTION", "NONHIERLAYER_0_LEVEL_0_SECTION"),
        ]
    return tuple(lines)


def _position_section(scan: MiraxScan) -> tuple[KeySection, ...]:
    if not scan.position_layer:
        return ()
    return (KeySection("NONHIERLAYER_0_LEVEL_0_SECTION", (("VIMSLIDE_POSITION_DATA_FORMAT_VERSION", "257"),)),)


def _drop_text(ledger: Ledger, scan: MiraxScan, kept: dict[str, set[str]]) -> None:
    """Names of structure say nothing; their values do unless they are the format's own words."""
    for line in scan.general.lines:
        if line.key in kept.get(line.section, ()) and scan.general.get(line.section, line.key) == line.value:
            continue
        structural = _STRUCTURE.fullmatch(line.key) is not None
        named = line.key if structural or line.key in _LISTED else "(unlisted)"
        if (structural or line.key in _LISTED) and _STRUCTURE_VALUES.fullmatch(line.value):
            ledger.note("index text structure", "rebuild", "D", "structure is written anew")
            continue
        ledger.drop(f"index text key {named}", "not on the allow-list", line.value)
        if named == "(unlisted)":
            ledger.remove(line.key)
    for section in scan.general.sections:
        if not _SECTIONS.fullmatch(section):
            ledger.drop("index text section", "not on the allow-list", section)
    for text in scan.general.rest:
        ledger.drop("index text line", "no key and value", text)


def _drop_rest(ledger: Ledger, scan: MiraxScan) -> None:
    ledger.note("picture file", "rebuild", "D", "a blank picture: readers only ask whether it exists")
    if scan.dropped_records:
        ledger.note("records outside the pyramid", "drop", "X", "labels, overviews, previews and profiles are not"
                    " copied", times=scan.dropped_records)  # fmt: skip
    ledger.remove(scan.slide_id)
    for text in scan.texts:
        ledger.remove_some(text)
    if scan.cuts:
        ledger.note("pictures of the pyramid", "drop", "C", "comments and application segments of no known writer,"
                    " and bytes behind the picture's end", times=len(scan.cuts))  # fmt: skip
    for _ in scan.strays:
        ledger.note("file beside the slide", "drop", "X", "the index text does not name it")
    for name in (scan.ini, scan.index, *scan.data, *scan.strays):
        for part in name.split("/"):
            if part.casefold() != "slidedat.ini" and not _STRUCTURE_VALUES.fullmatch(part):
                ledger.remove(part.rpartition(".")[0] or part)


def judge_positions(scan: MiraxScan) -> bytes:
    """The position buffer as it will be written: a flag and two numbers for each place of the camera. Places the
    pyramid does not use are written as zeros.

    Raises PlaceUnknown for a place in use that lies nowhere near the slide: such numbers are something else."""
    if not scan.position_layer:
        return b""
    size = struct.calcsize("<Bii")
    records = np.frombuffer(scan.positions, np.dtype([("flag", "u1"), ("x", "<i4"), ("y", "<i4")])).copy()
    if records.dtype.itemsize != size or (records["flag"] > 1).any():
        raise PlaceUnknown("the position buffer holds flags of no known kind")
    used = _used_places(scan, len(records))
    for axis, extent in (("x", scan.levels[0].width), ("y", scan.levels[0].height)):
        limit = _SPARE * (extent + (1 << 16))
        far = np.abs(records[axis].astype("i8")) > limit
        if (far & used).any():
            raise PlaceUnknown("the camera stood where no slide is")
    records[~used] = 0
    return records.tobytes()


def _used_places(scan: MiraxScan, count: int) -> np.ndarray:
    """Places of the camera that some picture of the first level shows; a picture may show several."""
    text = scan.general.get("GENERAL", "CameraImageDivisionsPerSide") or "1"
    divisions, (across, down) = int(text), scan.grid
    wide = across // divisions
    used = np.zeros(count, bool)
    index = np.unique(np.frombuffer(scan.levels[0].tiles.index, "i8"))
    concat = scan.levels[0].concat
    for step_y in range(0, concat, divisions):
        for step_x in range(0, concat, divisions):
            x, y = index % across + step_x, index // across + step_y
            inside = (x // divisions < wide) & (y // divisions < down // divisions)
            used[(y // divisions * wide + x // divisions)[inside]] = True
    return used
