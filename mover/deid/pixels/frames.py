"""Compressed frames without the places where text can hide, and without encoding them anew."""

from __future__ import annotations

from collections.abc import Sequence

from mover.deid.pixels.words import Span
from mover.errors import StructureInvalid
from mover.model.recipe import Segment
from mover.model.source import ByteSource


def strip_frame(source: ByteSource, spans: Sequence[Span], *, transfer_syntax: str) -> tuple[Segment, ...]:
    """The segments that make one frame's new bytes out of its fragments `spans`, not yet padded to even length.

    Comments, application segments that no decoder needs and bytes after the end are left out; everything else is
    copied. Raises StructureInvalid for a codestream that cannot be walked, PlaceUnknown where one holds a segment
    that no rule knows.
    """
    raise StructureInvalid("no frame can be walked yet")
