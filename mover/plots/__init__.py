"""Figures for reports, as SVG or PNG: the numbers of the pages, drawn without a browser.

Read first: `canvas.py` (what a drawing is, and its two forms), then `axes.py`, then `figures.py`, one function for each
figure. Everything is pure: answers of the API go in, bytes come out, and equal answers give equal bytes.
"""

from mover.plots.canvas import FORMATS, MEDIA_TYPES, Canvas, Theme, render
from mover.plots.figures import ages, calendar, distribution, fill, ledger, pace, run, treemap

__all__ = [
    "FORMATS", "MEDIA_TYPES", "Canvas", "Theme", "ages", "calendar", "distribution", "fill", "ledger", "pace", "render",
    "run", "treemap",
]  # fmt: skip
