"""The UID and patient maps of a crosswalk file, as CSV of two columns, in the form MIDI-B takes them.

A map is as secret as the crosswalk. It is guarded as the vault's export is, as far as a file can: a purpose is asked
for and stands in the crosswalk, durable before the map has its name; the map is 0600, overwrites nothing, and lies
neither among the clean files nor anywhere in a deidentified zone. Two key files cannot be asked for: whoever reads the
crosswalk has all of it already.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from mover.clock import SYSTEM
from mover.deid.crosswalk import Export, FileCrosswalk
from mover.deid.durable import write_private
from mover.deid.oneshot.publish import refuse_clean_zone
from mover.errors import EntryExists, NotFound, RequestInvalid

What = Literal["uids", "patients"]
PURPOSE_CHARS: Final = 500
OUTPUTS_LOOKED_FOR: Final = 100


def export_maps(crosswalk_path: Path, wanted: Mapping[What, Path], *, purpose: str) -> dict[str, int]:
    """Write the wanted maps; how many rows each has. Raises before anything is written when a place is not allowed."""
    if not 0 < len(purpose.strip()) <= PURPOSE_CHARS or not purpose.isprintable():
        raise RequestInvalid(f"an export needs a purpose of at most {PURPOSE_CHARS} characters")
    if not wanted or len({path.resolve() for path in wanted.values()}) < len(wanted):
        raise RequestInvalid("name a file of its own for each map")
    if not (crosswalk_path.is_file() or crosswalk_path.with_name(crosswalk_path.name + ".journal").is_file()):
        raise NotFound("there is no crosswalk of that name", hint="Name the file that --crosswalk named.")
    with FileCrosswalk(crosswalk_path) as crosswalk:
        for path in wanted.values():
            _check_place(path, crosswalk)
        rows = {what: crosswalk.pairs(what) for what in wanted}
        now = SYSTEM.now().strftime("%Y-%m-%dT%H:%M:%SZ")
        counts: dict[str, int] = {what: len(found) for what, found in rows.items()}
        crosswalk.note_export(Export(at=now, purpose=purpose.strip(), rows=counts))
        for what, path in wanted.items():
            try:
                write_private(path, _csv(rows[what]), replace=False)
            except EntryExists as error:
                raise EntryExists(error.what, where=f"--{what}", hint=error.advice) from error
    return counts


def _csv(rows: list[tuple[str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("id_old", "id_new"), *rows])
    return text.getvalue().encode("utf-8", "surrogateescape")


def _check_place(path: Path, crosswalk: FileCrosswalk) -> None:
    if not (os.path.isdir(path.parent) and os.access(path.parent, os.W_OK | os.X_OK)):
        words = "the folder of a map does not exist, or is not yours to write"
        raise RequestInvalid(words, hint="Make it first, or name another; nothing was written yet.")
    refuse_clean_zone(path)
    outputs = list(crosswalk.outputs)[:OUTPUTS_LOOKED_FOR]
    for folder in path.resolve().parents:
        if any(os.path.exists(folder / name) for name in outputs):
            words = "a map may not lie inside the folder of the clean files"
            raise RequestInvalid(words, hint="Keep it beside the crosswalk.")
