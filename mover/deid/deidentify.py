"""De-identify one slide through the sandbox: the front that workflows and the transfer engine use."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mover.deid.companions import SUFFIXES, standin_folder
from mover.deid.outcome import Prepared, SlidePlan
from mover.errors import ChangedWhileReading, FormatUnsupported, RedactionUnproven
from mover.model.recipe import Recipe
from mover.model.source import ByteSource
from mover.model.tiers import Fingerprint
from mover.sandbox import Limits, Sandbox, read_answer

# A sparse stand-in has the slide's full size, so the limit on file sizes must admit the largest slide.
# A slide of several files needs three descriptors for each: the file and its two stand-ins.
SLIDE_LIMITS = Limits(file_bytes=1 << 40, open_files=4096)
MAX_FILES = 1000
PRELOAD = (
    "mover.deid.child", "mover.deid.dicom.child", "mover.deid.dicom.warm", "mover.deid.tables_child",
    "mover.align.child",
)  # fmt: skip
TIMEOUT_S = 600.0


def slide_sandbox(*, max_children: int | None = None) -> Sandbox:
    return Sandbox(PRELOAD, limits=SLIDE_LIMITS, max_children=max_children)


def prepare_slide(
    sandbox: Sandbox,
    fd: int,
    *,
    suffix: str,
    known: tuple[str, ...] = (),
    thumbnail_px: int = 0,
    companions: Sequence[tuple[str, int]] = (),
    number: str = "",
    drop_keys: tuple[str, ...] = (),
) -> Prepared:
    """Plan, prove and render one open slide in a confined child. Raises the refusals of plan and proof, and
    SandboxFailed when the child crashed or went over its limits; the caller quarantines on all of them.

    `companions` are the files of a slide that has several (`mover.deid.companions.companions_of` finds them): each
    name relative to the main file's folder, with an open descriptor. `plan.parts[i].source` counts from 1 in their
    order, 0 is the main file. `number` is the slide's, for formats that carry an id of their own; without one the
    plan is as provable but must not be carried out. `drop_keys` are vendor keys that may stay and that the profile
    does not want (`SlideRules`); slides of several files keep none but structure.
    """
    names = [_speakable(name) for name in known]
    if not companions or suffix.lower() not in SUFFIXES:
        args: tuple[object, ...] = (suffix, names, thumbnail_px, list(drop_keys))
        answer = sandbox.run("mover.deid.child:prepare", args, (fd,), timeout_s=TIMEOUT_S)
        return read_answer(answer, Prepared)
    if len(companions) >= MAX_FILES:
        raise FormatUnsupported(f"a slide of more than {MAX_FILES} files")
    given = [_speakable(name) for name, _ in companions]
    fds = (fd, *(one for _, one in companions))
    # one more than the source has: a position buffer gets a file of its own
    with standin_folder(suffix, number, len(fds) + 1) as standins:
        args = (given, suffix, names, thumbnail_px, number, msgspec.to_builtins(standins))
        answer = sandbox.run("mover.deid.child:prepare_folder", args, fds, timeout_s=TIMEOUT_S)
    return read_answer(answer, Prepared)


def _speakable(name: str) -> str:
    """A file name of undecodable bytes, as the text those bytes would be in latin-1."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


class SlideVerifier:
    """The transfer engine's Verifier for one file of a slide: it lets pass the proved recipe and no other.

    `file` counts in the order of `plan.files()`: 0 the main file, then the parts, each against its own source.
    With `proved`, the proof was made by `prepare_slide`; give it the fingerprint that file's source had *before*
    that call as `seen`, so that a source exchanged between proof and clearance is noticed. Without `proved` the
    proof is made here, on the engine's own view of the source; a slide of several files cannot be proved so.
    """

    def __init__(self, plan: SlidePlan, *, proved: bool, seen: Fingerprint | None = None, file: int = 0) -> None:
        self._plan = plan
        self._recipe = plan.recipe if file == 0 else plan.parts[file - 1].recipe
        self._proved = proved
        self._seen = seen

    def verify(self, source: ByteSource, recipe: Recipe) -> None:
        if recipe != self._recipe or source.size_bytes != recipe.source_bytes:
            raise RedactionUnproven("the recipe to run is not the one that was proved")
        if self._seen is not None:
            fingerprint = getattr(source, "fingerprint", None)
            if fingerprint is None or fingerprint() != self._seen:
                raise ChangedWhileReading("the source is not the one that was proved")
        if not self._proved:
            if self._plan.parts:
                raise RedactionUnproven("a slide of several files is proved as a whole or not at all")
            # the parsers are loaded only by who proves here: the daemon has the proof from its child
            from mover.deid.verify import verify_slide

            verify_slide(source, self._plan)
            self._proved = True


__all__ = ["Prepared", "SlideVerifier", "prepare_slide", "slide_sandbox"]
