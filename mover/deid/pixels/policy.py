"""Which pictures are looked at, and which parts go unread: the judgement before any pixel is decoded.

Classes that hold no picture (segments, doses, maps of numbers) cannot show text. Tiles of a slide's pyramid are
tissue: its label and overview are other instances, which a rule drops. Everything else is read, whatever its class:
burned-in text has been seen in CT and MR as well as in captures of screens.
"""

from __future__ import annotations

from typing import Final

from mover.deid.pixels.words import Box, PixelFacts
from mover.errors import RedactionUnproven
from mover.model.deid import PixelRules

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
# PS3.4 Annex B.5: Segmentation, Label Map Segmentation, Parametric Map, RT Dose
NUMBERS: Final = frozenset(_STORAGE + last for last in ("66.4", "66.7", "30", "481.2"))
WHOLE_SLIDE: Final = _STORAGE + "77.1.6"
# Ultrasound and its multi-frame and enhanced kin, the retired ones included
ULTRASOUND: Final = frozenset(_STORAGE + last for last in ("6", "6.1", "6.2", "3", "3.1"))


def passes_unread(facts: PixelFacts, rules: PixelRules) -> str:
    """The reason why nobody needs to look, "" where somebody must. Raises RedactionUnproven where the profile
    refuses the picture."""
    if facts.kind != "pixels" or facts.sop_class in NUMBERS:
        return "numbers, not a picture"
    if facts.sop_class == WHOLE_SLIDE and facts.image_type[2:3] == ("VOLUME",):
        return "tiles of a whole slide"
    if rules.burned_in == "trust" and facts.burned_in == "NO":
        return "the object says that nothing is burned in, and the profile trusts it"
    if rules.burned_in == "refuse":
        raise RedactionUnproven("the profile refuses every picture that may carry text")
    if is_ultrasound(facts) and rules.ultrasound == "refuse":
        raise RedactionUnproven("the profile refuses ultrasound")
    return ""


def is_ultrasound(facts: PixelFacts) -> bool:
    return facts.sop_class in ULTRASOUND or facts.modality in ("US", "IVUS")


def unread_parts(facts: PixelFacts, rules: PixelRules) -> tuple[Box, ...]:
    """What is blanked without looking: of ultrasound, all that lies outside the regions it declares."""
    if not is_ultrasound(facts) or rules.ultrasound != "regions":
        return ()
    regions = [_within(region, facts) for region in facts.regions]
    regions = [region for region in regions if region.area]
    return outside(regions, facts.rows, facts.columns) if regions else ()


def _within(region: Box, facts: PixelFacts) -> Box:
    """C.8.5.5: the largest coordinates belong to the region; a box's do not."""
    return Box(
        max(0, region.left),
        max(0, region.top),
        min(facts.columns, region.right + 1),
        min(facts.rows, region.bottom + 1),
    )


def outside(regions: list[Box], rows: int, columns: int) -> tuple[Box, ...]:
    """The picture without the regions, as boxes that do not overlap: bands between the regions' edges."""
    cuts = sorted({0, rows, *(y for region in regions for y in (region.top, region.bottom))})
    found = []
    for top, bottom in zip(cuts, cuts[1:], strict=False):
        at = 0
        for region in sorted(r for r in ((r.left, r.right) for r in regions if r.top <= top and bottom <= r.bottom)):
            if region[0] > at:
                found.append(Box(at, top, region[0], bottom))
            at = max(at, region[1])
        if at < columns:
            found.append(Box(at, top, columns, bottom))
    return tuple(found)
