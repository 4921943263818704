"""Pixels of DICOM objects: burned-in text, and compressed frames without comments.

`judge_pixels` says what becomes of a picture; `strip_frame` makes a compressed frame's segments where it stays.
"""

from mover.deid.pixels.frames import strip_frame
from mover.deid.pixels.judge import judge_pixels
from mover.deid.pixels.words import Box, Palette, PixelFacts, PixelVerdict, Span, Written

__all__ = ["Box", "Palette", "PixelFacts", "PixelVerdict", "Span", "Written", "judge_pixels", "strip_frame"]
