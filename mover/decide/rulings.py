"""What two people may decide about a slide that was withdrawn. Pure.

A withdrawal is a finding of a machine, and may be a false alarm: a surname that is a word of the trade, a number that
is a measure. Who asks says why, and who grants is somebody else and a custodian, who may look at the names. What was
erased for a patient never comes back; only its bytes may go for good. Who decides where the words came with another
project's records would decide about what they may not see, so they cannot.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Action = Literal["reinstate", "remove"]
FOUND_LATER = "identifier-found-later"


class Withdrawn(Struct, frozen=True):
    """`reason` is its code, "" where the slide is not withdrawn; `own`: the words came with this project's records."""

    reason: str = ""
    own: bool = False
    removed: bool = False


def why_not_ask(action: Action, slide: Withdrawn) -> str:
    """Why nobody can be asked for this; empty where somebody can."""
    if not slide.reason:
        return "the slide is not withdrawn"
    if slide.removed:
        return "the slide's bytes were removed"
    if action == "reinstate" and slide.reason != FOUND_LATER:
        return "what was erased never comes back"
    if action == "reinstate" and not slide.own:
        return "the words came with another project's records, which decides"
    return ""


def why_not_decide(action: Action, *, same_person: bool, runs: int, manifests: int = 0, told: int = 0) -> str:
    """Why this person cannot decide it now; empty where they can. `runs` hold the slide, as far as that matters;
    `manifests` that are kept name it, and `told` of them the person knows of. They keep nobody's name in the archive,
    and nobody breaks them without knowing."""
    if same_person:
        return "who asked cannot decide; a second person does, and the tokens that one person made are one person"
    if action == "remove" and runs:
        return f"{runs} runs hold the slide; end them first"
    if action == "remove" and manifests != told:
        return f"{manifests} kept manifests name the slide and could not be staged again exactly"
    return ""
