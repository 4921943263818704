"""Imported by a zygote before it forks: the reader's models stand in memory once, for all its children.

Without the extra `ocr` this loads nothing.
"""

from mover.deid.pixels import barcodes, reader

__all__ = ["barcodes"]

reader.preload()
