"""What of a Hamamatsu VMS slide may pass: an index text of the numbers its pictures need, and the pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mover.decide.redaction.ledger import FolderRedaction, Ledger, Rule
from mover.model.folders import KeySection, VmsScan

SECTION: Final = "Virtual Microscope Specimen"
_COUNT: Final = re.compile(r"[0-9]{1,3}")
_NANOMETRES: Final = re.compile(r"-?[0-9]{1,9}")
_KEYS: Final[dict[str, Rule]] = {
    "NoLayers": _COUNT,
    "NoJpegColumns": _COUNT,
    "NoJpegRows": _COUNT,
    "SourceLens": re.compile(r"[0-9]{1,3}(\.[0-9]{1,6})?"),
    "PhysicalWidth": _NANOMETRES,
    "PhysicalHeight": _NANOMETRES,
    "LayerSpacing": _NANOMETRES,
    "LayerOffset": _NANOMETRES,
    "XOffsetFromSlideCentre": _NANOMETRES,
    "YOffsetFromSlideCentre": _NANOMETRES,
}
_LISTED: Final = frozenset({
    "Reference", "MacroImage", "MapFile", "ImageFile", "OptimisationFile", "AuthCode", "PhysicalMacroWidth",
    "PhysicalMacroHeight", "DateTime", "Created", *_KEYS,
})  # fmt: skip


def judge_vms(scan: VmsScan, *, names: tuple[str, ...], known: Iterable[str] = ()) -> FolderRedaction:
    """The index text to write, with `names` for the scan's parts in their order, and the harvest."""
    ledger = Ledger(known)
    lines = ledger.keep(scan.text, SECTION, _KEYS, "index text", ("NoJpegColumns", "NoJpegRows"))
    kept = {SECTION: [key for key, _ in lines]}
    for part, name in zip(scan.parts, names, strict=True):
        lines.append((part.key, name))
    ledger.drop_others(scan.text, kept, "index text", _LISTED | {SECTION})
    for name in (*(part.name for part in scan.parts), *scan.strays):
        ledger.remove(name.rpartition(".")[0] or name)
    for text in scan.texts:
        ledger.remove_some(text)
    for _ in scan.strays:
        ledger.note("file beside the slide", "drop", "X", "overview, restart positions or a stray: not copied")
    cut = sum(len(part.cut.ranges) > 1 for part in scan.parts)
    if cut:
        ledger.note("pictures", "drop", "C", "comments and application segments of no known writer", times=cut)
    return ledger.close((KeySection(SECTION, tuple(lines)),))
