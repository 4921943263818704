"""De-identify one slide through the sandbox: the front that workflows and the transfer engine use."""

from __future__ import annotations

import msgspec

from mover.deid.child import FdSource, Prepared
from mover.deid.slides import SlidePlan
from mover.deid.verify import verify_slide
from mover.errors import RedactionUnproven
from mover.model.recipe import Recipe
from mover.model.source import ByteSource
from mover.sandbox import Limits, Sandbox

# A sparse stand-in has the slide's full size, so the limit on file sizes must admit the largest slide.
SLIDE_LIMITS = Limits(file_bytes=1 << 40)
PRELOAD = ("mover.deid.child",)
TIMEOUT_S = 600.0


def slide_sandbox(*, max_children: int | None = None) -> Sandbox:
    return Sandbox(PRELOAD, limits=SLIDE_LIMITS, max_children=max_children)


def prepare_slide(
    sandbox: Sandbox, fd: int, *, suffix: str, known: tuple[str, ...] = (), thumbnail_px: int = 0
) -> Prepared:
    """Plan, prove and render one open slide in a confined child. Raises the refusals of plan and proof, and
    SandboxFailed when the child crashed or went over its limits; the caller quarantines on all of them."""
    answer = sandbox.run("mover.deid.child:prepare", (suffix, list(known), thumbnail_px), (fd,), timeout_s=TIMEOUT_S)
    return msgspec.msgpack.decode(answer, type=Prepared)


class SlideVerifier:
    """The transfer engine's Verifier for one slide: it lets pass the proved recipe and no other.

    Made from a plan; when that plan was not proved by `prepare_slide`, the proof is made here, on the engine's
    own view of the source.
    """

    def __init__(self, plan: SlidePlan, *, proved: bool) -> None:
        self._plan = plan
        self._proved = proved

    def verify(self, source: ByteSource, recipe: Recipe) -> None:
        if recipe != self._plan.recipe or source.size_bytes != recipe.source_bytes:
            raise RedactionUnproven("the recipe to run is not the one that was proved")
        if not self._proved:
            verify_slide(source, self._plan)
            self._proved = True


__all__ = ["FdSource", "Prepared", "SlideVerifier", "prepare_slide", "slide_sandbox"]
