"""Text burned into pictures: found, blanked, looked for again (design: deidentification 2.4)."""

from __future__ import annotations

from mover.deid.pixels.words import PixelFacts, PixelVerdict
from mover.errors import RedactionUnproven
from mover.model.deid import PixelRules
from mover.model.source import ByteSource


def judge_pixels(source: ByteSource, facts: PixelFacts, rules: PixelRules) -> PixelVerdict:
    """What becomes of an object's pixels.

    Raises RedactionUnproven when text stays readable after masking or the picture cannot be read,
    TextReaderMissing where a picture that may carry text has nobody to read it.
    """
    raise RedactionUnproven("no picture can be judged yet")
