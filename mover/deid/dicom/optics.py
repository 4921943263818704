"""What cohorts ask about a whole slide's instance: whether it is a level of the pyramid, and at what scale."""

from __future__ import annotations

import math
from typing import Any, Final

from mover.deid.dicom.gather import Look

_SHARED: Final = 0x52009229  # Shared Functional Groups Sequence
_MEASURES: Final = 0x00289110  # Pixel Measures Sequence
_SPACING: Final = 0x00280030  # Pixel Spacing: rows, then columns, in millimetres
_PATHS: Final = 0x00480105  # Optical Path Sequence
_POWER: Final = 0x00480112  # Objective Lens Power


def optics_of(look: Look) -> dict[str, Any]:
    """Those fields of `ObjectFacts` that say so. PS3.3 C.8.12.4.1.1: value 3 of Image Type is VOLUME for a level and
    THUMBNAIL for a picture beside the levels."""
    if look.family != "dicom-wsm" or look.image_type[2:3] != ("VOLUME",):
        return {}
    spacing = _numbers(_within(look, (_SHARED, _MEASURES, _SPACING)))
    power = _numbers(_within(look, (_PATHS, _POWER)))
    facts: dict[str, Any] = {"level": True}
    if len(spacing) == 2:
        facts |= {"mpp_y": spacing[0] * 1000, "mpp_x": spacing[1] * 1000}
    return facts | ({"objective": power[0]} if power else {})


def _within(look: Look, path: tuple[int, ...]) -> bytes:
    """The value at the end of a path through the first items of sequences."""
    element = look.element(path[0])
    for tag in path[1:]:
        items = look.items(element) if element is not None else []
        first = next(iter(items), ())
        element = next((one for one in first if one.tag == tag), None)
    return element.raw or b"" if element is not None else b""


def _numbers(raw: bytes) -> list[float]:
    """Decimal strings that are positive numbers; anything else is none at all."""
    found = []
    for text in raw.decode("latin-1").strip(" \0").split("\\"):
        try:
            number = float(text) if len(text) <= 16 else math.nan
        except ValueError:
            return []
        if not 0 < number < 1e6:
            return []
        found.append(number)
    return found
