"""De-identify one slide through the sandbox: the front that workflows and the transfer engine use."""

from __future__ import annotations

import msgspec

from mover.deid.outcome import Prepared, SlidePlan
from mover.errors import ChangedWhileReading, RedactionUnproven
from mover.model.recipe import Recipe
from mover.model.source import ByteSource
from mover.model.tiers import Fingerprint
from mover.sandbox import Limits, Sandbox

# A sparse stand-in has the slide's full size, so the limit on file sizes must admit the largest slide.
SLIDE_LIMITS = Limits(file_bytes=1 << 40)
PRELOAD = ("mover.deid.child", "mover.align.child")
TIMEOUT_S = 600.0


def slide_sandbox(*, max_children: int | None = None) -> Sandbox:
    return Sandbox(PRELOAD, limits=SLIDE_LIMITS, max_children=max_children)


def prepare_slide(
    sandbox: Sandbox, fd: int, *, suffix: str, known: tuple[str, ...] = (), thumbnail_px: int = 0
) -> Prepared:
    """Plan, prove and render one open slide in a confined child. Raises the refusals of plan and proof, and
    SandboxFailed when the child crashed or went over its limits; the caller quarantines on all of them."""
    names = [_speakable(name) for name in known]
    answer = sandbox.run("mover.deid.child:prepare", (suffix, names, thumbnail_px), (fd,), timeout_s=TIMEOUT_S)
    return msgspec.msgpack.decode(answer, type=Prepared)


def _speakable(name: str) -> str:
    """A file name of undecodable bytes, as the text those bytes would be in latin-1."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


class SlideVerifier:
    """The transfer engine's Verifier for one slide: it lets pass the proved recipe and no other.

    With `proved`, the proof was made by `prepare_slide`; give it the entry's fingerprint from *before* that
    call as `seen`, so that a source exchanged between proof and clearance is noticed. Without `proved` the
    proof is made here, on the engine's own view of the source.
    """

    def __init__(self, plan: SlidePlan, *, proved: bool, seen: Fingerprint | None = None) -> None:
        self._plan = plan
        self._proved = proved
        self._seen = seen

    def verify(self, source: ByteSource, recipe: Recipe) -> None:
        if recipe != self._plan.recipe or source.size_bytes != recipe.source_bytes:
            raise RedactionUnproven("the recipe to run is not the one that was proved")
        if self._seen is not None:
            fingerprint = getattr(source, "fingerprint", None)
            if fingerprint is None or fingerprint() != self._seen:
                raise ChangedWhileReading("the source is not the one that was proved")
        if not self._proved:
            # the parsers are loaded only by who proves here: the daemon has the proof from its child
            from mover.deid.verify import verify_slide

            verify_slide(source, self._plan)
            self._proved = True


__all__ = ["Prepared", "SlideVerifier", "prepare_slide", "slide_sandbox"]
