"""What became of each file: values the crosswalk, the report and the certificate are made of."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mover.deid.crosswalk import CrosswalkEntry, Status
from mover.deid.oneshot.walk import Found, written
from mover.model.certificate import Anonymity, FileRecord
from mover.model.slides import Decision

Kind = Literal["slide", "dicom", "table", "other"]


class Outcome(Struct, frozen=True, kw_only=True):
    """One file of the source. `main` is False for the parts of a slide of several files, whose entry and decisions
    stand with their main file. `record` is what a certificate may say; it holds nothing of the source."""

    position: int
    entry: CrosswalkEntry
    kind: Kind
    source_bytes: int = 0
    output_bytes: int = 0
    family: str = ""
    decisions: tuple[Decision, ...] = ()
    record: FileRecord | None = None
    main: bool = True
    anonymity: Anonymity | None = None
    # cells of a table that a person may want to see
    review: int = 0


def set_aside(
    found: Found,
    status: Status,
    reason: str,
    detail: str,
    *,
    kind: Kind = "other",
    size_bytes: int = 0,
    digest: str | None = None,
) -> Outcome:
    entry = CrosswalkEntry(
        source=written(found.relative), status=status, reason=reason, detail=detail, source_blake3=digest
    )
    return Outcome(position=found.position, entry=entry, kind=kind, source_bytes=size_bytes)
