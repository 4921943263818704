"""Text and barcodes in pictures: found, blanked, looked for again (design: deidentification 2.4).

No reader of text is the sole defence. What a class of objects is known to carry outside its picture goes unread
(ultrasound outside its regions); the rest is looked at in several views and sizes; every line found is blanked with
a margin on every frame; then the blanked picture is looked at again with other enlargements, until a look finds
nothing. What three rounds do not clear waits in quarantine.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from mover.deid.pixels import barcodes, reader
from mover.deid.pixels.barcodes import find_barcodes
from mover.deid.pixels.blanking import Blanked, blank, blank_decoded, blank_native, ground_of
from mover.deid.pixels.films import shown
from mover.deid.pixels.look import find_text
from mover.deid.pixels.policy import passes_unread, unread_parts
from mover.deid.pixels.samples import Frame, check, is_native
from mover.deid.pixels.views import views
from mover.deid.pixels.words import Box, PixelFacts, PixelVerdict
from mover.errors import RedactionUnproven, TextReaderMissing
from mover.model.deid import PixelRules
from mover.model.source import ByteSource

EYES: Final = f"{reader.NAME} {barcodes.NAME}"
ROUNDS: Final = 3
AGAIN: Final = (3.0, 1.5)  # enlargements of the second look
AGAIN_LARGE: Final = (1.5,)  # and of large pictures
LARGE_PIXELS: Final = 512 * 512
# A page of writing is no picture with writing on it; blanking it line by line leaves what was not found.
LARGE_LINE_PX: Final = 24
MOSTLY_TEXT: Final = 0.60


def judge_pixels(source: ByteSource, facts: PixelFacts, rules: PixelRules) -> PixelVerdict:
    """What becomes of an object's pixels.

    Raises RedactionUnproven when text stays readable after masking or the picture cannot be read,
    TextReaderMissing where a picture that may carry text has nobody to read it, LimitExceeded where one is too large.
    """
    reason = passes_unread(facts, rules)
    if reason:
        return PixelVerdict(reason)
    if not reader.available():
        raise TextReaderMissing("a picture that may carry text has nobody to read it")
    check(facts)
    return _looked_at(source, facts, rules)


def _looked_at(source: ByteSource, facts: PixelFacts, rules: PixelRules) -> PixelVerdict:
    frames = list(shown(source, facts, rules))
    parts = unread_parts(facts, rules)
    ground = ground_of(frames[0], facts, parts)
    frames = [_with(frame, blank(frame.samples, parts, ground)) for frame in frames] if parts else frames
    boxes, passes, findings = _cleared(frames, facts, rules, ground)
    if not boxes and not parts:
        if facts.burned_in == "YES":
            raise RedactionUnproven("the object says that text is burned in, and none was found")
        return PixelVerdict("looked at, no text", frames_read=len(frames), passes=passes, detector=EYES)
    everything = (*parts, *boxes)
    made = _blanked(source, facts, everything, ground)
    return PixelVerdict(
        "outside its regions blanked" if parts and not boxes else "text blanked",
        segments=made.segments,
        length=made.length,
        written=made.written,
        boxes=everything,
        frames_read=len(frames),
        passes=passes,
        findings=findings,
        detector=EYES,
    )


def _cleared(
    frames: list[Frame], facts: PixelFacts, rules: PixelRules, ground: np.ndarray
) -> tuple[tuple[Box, ...], int, int]:
    """The boxes after which no look finds text any more, how many looks that took, and how many lines were found."""
    boxes: tuple[Box, ...] = ()
    passes = findings = 0
    for round_number in range(ROUNDS + 1):
        found: list[Box] = []
        for frame in frames:
            seen = find(_with(frame, blank(frame.samples, boxes, ground)), facts, again=round_number > 0)
            passes += seen[1]
            found += seen[0]
        findings += len(found)
        if not found:
            return boxes, passes, findings
        boxes = (*boxes, *dict.fromkeys(_margined(box, rules.mask_margin_px, facts) for box in found))
        if _share(boxes, facts) > MOSTLY_TEXT:
            raise RedactionUnproven("most of the picture is text")
    raise RedactionUnproven(f"text stays readable after {ROUNDS} rounds of masking")


def find(frame: Frame, facts: PixelFacts, *, again: bool = False) -> tuple[list[Box], int]:
    """Lines of text and barcodes in one frame, over all its views, and how often the detector was asked."""
    scales: tuple[float, ...] = ()
    if again:
        scales = AGAIN_LARGE if facts.rows * facts.columns > LARGE_PIXELS else AGAIN
    found: dict[Box, None] = {}
    passes = 0
    for view in views(frame.samples, frame.photometric, facts):
        seen = find_text(view, scales=scales)
        passes += seen.passes
        found.update(dict.fromkeys(seen.boxes))
        if seen.passes:  # bars are edges: where the cheap look met none, there is no code either
            found.update(dict.fromkeys(find_barcodes(view)))
    return list(found), passes


def _with(frame: Frame, samples: np.ndarray) -> Frame:
    return Frame(samples, frame.photometric)


def _margined(box: Box, margin: int, facts: PixelFacts) -> Box:
    """A tenth of a line's height around its ink, at most the profile's margin, and more where the line is large:
    small writing keeps small pictures whole."""
    height = min(box.bottom - box.top, box.right - box.left)
    by = min(margin, max(1, round(height / 10))) if height < LARGE_LINE_PX else max(margin, height // 12)
    return Box(
        max(0, box.left - by),
        max(0, box.top - by),
        min(facts.columns, box.right + by),
        min(facts.rows, box.bottom + by),
    )


def _share(boxes: tuple[Box, ...], facts: PixelFacts) -> float:
    covered = np.zeros((facts.rows, facts.columns), bool)
    for box in boxes:
        covered[box.top : box.bottom, box.left : box.right] = True
    return float(covered.mean())


def _blanked(source: ByteSource, facts: PixelFacts, boxes: tuple[Box, ...], ground: np.ndarray) -> Blanked:
    if is_native(facts):
        if facts.bits_allocated == 1:
            raise RedactionUnproven("a picture of one bit shows text, and no rule blanks it")
        return blank_native(source, facts, boxes, ground)
    return blank_decoded(source, facts, boxes, ground)
