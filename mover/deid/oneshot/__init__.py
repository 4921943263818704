"""De-identify a folder without catalog or daemon: slides, DICOM objects and tables as one entity graph, with the same
recipes and the same proofs as a batch, and a crosswalk in a file.

Two passes. The first looks: tables and DICOM headers are surveyed in the sandbox, the names of slides are read, and all
of it becomes one graph of patients, cases, blocks and slides. The second makes: slides first, for tables show their
numbers; then DICOM objects by series; then tables.

Order matters, and a kill between any two steps leaves either the old state or the new:

1. a source's digest is taken, its plan made and proved in the sandbox: refused files stop here, nothing of them was
   ever written;
2. what stands for its identifiers goes to the journal beside the crosswalk, and is synced (`deid.crosswalk`);
3. the output is written without a name, synced, re-read cold and compared, then linked (`deid.durable`): a kill leaves
   no half output under any final name; of a slide with several files the main one comes last;
4. at the end certificate and map are written, and the crosswalk replaces its journal.

A repeated run reads crosswalk and journal, keeps every number, re-checks what is there and makes the rest.
"""

from __future__ import annotations

from mover.deid.crosswalk import CrosswalkEntry, CrosswalkFile
from mover.deid.oneshot.report import OneShotReport, PlannedFile
from mover.deid.oneshot.shot import Options, Signing, deidentify_folder

__all__ = [
    "CrosswalkEntry",
    "CrosswalkFile",
    "OneShotReport",
    "Options",
    "PlannedFile",
    "Signing",
    "deidentify_folder",
]
