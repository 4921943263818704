"""Slides of several files, from plan to proof (design: deidentification 1.1, MRXS and VMS)."""

from __future__ import annotations

from collections.abc import Mapping

from mover.deid.companions import Standins
from mover.deid.outcome import Prepared
from mover.errors import FormatUnsupported
from mover.model.source import ByteSource


def prepare_files(
    main: ByteSource,
    files: Mapping[str, ByteSource],
    *,
    suffix: str,
    known: tuple[str, ...] = (),
    edge_px: int = 0,
    number: str = "",
    standins: Standins | None = None,
) -> Prepared:
    """Plan, prove and (for a positive `edge_px`) render one slide of several files. The order of `files` is what
    the parts' `source` counts in, from 1."""
    raise FormatUnsupported(f"{suffix}: recognised, and no writer exists for it yet")
