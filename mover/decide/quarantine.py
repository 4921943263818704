"""Why packs wait in quarantine, and which ways lead out of it.

A thousand packs refused for one thing are one decision. What makes them alike is the *cause*: the error's code, the
kind of image, and the refusal's words without their numbers; nothing of it is a value of a file. Which decisions are
sound for a cause is a table here and nowhere else, and none of them lets a file pass that was not proved: what is
released is walked, judged and proved again from the start. What is excluded stays in the identified zone and is counted
in the batch's proof. Pure.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, get_args

from msgspec import Struct

from mover.decide.folding import canonical_name
from mover.decide.packs import (
    DICOM_SUFFIXES,
    SLIDE_SUFFIXES,
    THUMBNAIL_SUFFIXES,
    members_of,
    split_suffix,
)
from mover.errors import Conflict, all_errors

Action = Literal["retry", "exclude", "accept-without-thumbnail", "declare"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
Waiver = Literal["thumbnail", "declared"]
WAIVERS: Final[dict[str, Waiver]] = {"accept-without-thumbnail": "thumbnail", "declare": "declared"}

RECORDS: Final = "records"  # the kind of a set of tables
WORDS_MAX: Final = 300
NO_THUMBNAIL: Final = "the thumbnail is missing"
_UNLISTED: Final = re.compile(r"\(shape (.+)\) is not listed in the (policy|profile) \[table ([\w.-]+)\]")
_NUMBERS: Final = re.compile(r"[0-9]+")


class Cause(Struct, frozen=True):
    """`id` is equal for what is held back for the same thing, in every project and version."""

    id: str
    code: str
    kind: str
    words: str


class Offer(Struct, frozen=True):
    """One sound decision. `standing`: it may hold for packs of the cause that come later; `changed`: only for packs
    that were judged by other software or another profile than would judge them now; `later`: what a standing one does
    besides."""

    action: Action
    why: str
    standing: bool = False
    changed: bool = False
    later: str = ""

    def says(self, *, standing: bool) -> str:
        return f"{self.why}; {self.later}" if standing else self.why


class Reviewing(Struct, frozen=True):
    """What a policy says of how many persons decide: of all, and of single codes."""

    persons: int | None = None
    of: Mapping[str, int] = {}


def cause_of(code: str, explanation: str | None, kind: str) -> Cause:
    words = _NUMBERS.sub("#", explanation or "")[:WORDS_MAX]
    said = "\0".join((code, kind, words))
    return Cause(hashlib.sha256(said.encode()).hexdigest()[:16], code, kind, words)


def kind_of(keys: Sequence[str]) -> str:
    """What sort of pack its names say it is: a word of ours, because a suffix can be anything."""
    suffix = split_suffix(canonical_name(keys[0]))[1]
    if suffix in THUMBNAIL_SUFFIXES:
        return "picture"
    if suffix in DICOM_SUFFIXES:
        return "dicom"
    if suffix in SLIDE_SUFFIXES:
        kind = members_of(keys).kind
        return suffix[1:] if kind == "file" else kind
    return "other"


def suffixes_of(kind: str) -> frozenset[str]:
    """The suffixes of names of this kind of pack."""
    return frozenset(suffix for suffix in SLIDE_SUFFIXES if kind_of((f"x{suffix}",)) == kind)


# --- the table -------------------------------------------------------------------------------------------

_AGAIN: Final = Offer("retry", "the batch is walked again, and the packs are judged and proved anew")
_AFTER_CHANGE: Final = Offer(
    "retry", "only after an update of this software or of the profile: the same look would find the same", changed=True
)
_OUT: Final = Offer("exclude", "the packs stay in the identified zone and are counted as excluded")
_OUT_FOR_GOOD: Final = Offer("exclude", _OUT.why, standing=True, later="so are later packs of this cause")
_BARE: Final = Offer(
    "accept-without-thumbnail", "the slide gets a thumbnail of its own in any case", standing=True,
    later="so do later packs of this cause",
)  # fmt: skip
_DECLARE: Final = Offer("declare", "these packs belong to the batch although nobody had listed them")

_USUAL: Final = (_AGAIN, _OUT)
# A decision that also holds for packs nobody has seen is offered only where what is refused is a kind of file, not a
# fault of one file: else scans would go missing in silence.
_BY_CODE: Final[dict[str, tuple[Offer, ...]]] = {
    "format-unsupported": (_AGAIN, _OUT_FOR_GOOD),
    "format-unknown": (_AGAIN, _OUT_FOR_GOOD),
    "entry-unknown": (_AGAIN, _OUT_FOR_GOOD),
    "redaction-unproven": (_AFTER_CHANGE, _OUT),
    "not-declared": (_DECLARE, _OUT, _AGAIN),
}
_BY_WORDS: Final[dict[tuple[str, str], tuple[Offer, ...]]] = {
    ("pack-incomplete", NO_THUMBNAIL): (_BARE, _AGAIN, _OUT),
    ("pack-incomplete", "a thumbnail without a slide image"): (_AGAIN, _OUT_FOR_GOOD),
}
_OF_TABLES: Final = (
    Offer("retry", "the same tables are matched again; tables or policies that changed are declared again instead"),
)

# What a person may do besides, by code: a rule for a policy, or somebody to ask.
_ADVICE: Final[dict[str, str]] = {
    "format-unsupported": "No writer exists for this format, or a policy or profile does not `accept` it. Export the"
    " slides as one of docs/deidentification.md, or exclude them.",
    "format-unknown": "Nobody knows this format: see whether the files belong here at all.",
    "redaction-unproven": "The second look found something, or could not look. Keep the files and report the words.",
    "place-unknown": "Look with `mover deid survey`: a table's column needs a rule in the profile's `tables`, a file's"
    " place a release that knows it.",
    "structure-invalid": "Ask the scanner for the files again, put them in place and retry.",
    "sandbox-failed": "A parser crashed or went over its limits. Retry once; then report the cause's words.",
    "pack-ambiguous": "Nobody guesses which file is meant: give each scan a name or folder of its own, then retry.",
    "pack-incomplete": "Bring what is missing and retry; or say `require_thumbnail: false` in the images policy.",
    "not-declared": "Compare with whoever declared the batch before you declare more.",
    "entry-unknown": "Neither image nor table: take it out of the folder, or exclude it.",
    "text-reader-missing": "Install the extra `ocr` (pathology-mover[ocr]), then retry.",
    "rules-differ": "The scan was published under another profile: let both projects use one, then retry.",
    "identifier-found-later": "End the runs that hold the slide (mover records show names them) and report the place"
    " it was found in: its family keeps something that it must not.",
    "pack-too-large": "Split the folder, then retry.",
}


def reason_codes() -> frozenset[str]:
    """Everything that a pack or a table can wait for."""
    return frozenset(_ADVICE) | {one.code for one in all_errors()}


def offers(cause: Cause) -> tuple[Offer, ...]:
    """The decisions that are sound for this cause, the likeliest first."""
    if cause.kind == RECORDS:
        return _OF_TABLES
    return _BY_WORDS.get((cause.code, cause.words)) or _BY_CODE.get(cause.code, _USUAL)


def advice(cause: Cause) -> str:
    return _ADVICE.get(cause.code, "Look at one of the packs (mover batch reveal), mend what is wrong, then retry.")


def unlisted(explanation: str | None) -> str:
    """The table of a records policy that does not list a column, by this refusal; empty where it says another thing."""
    found = _UNLISTED.search(explanation or "")
    return found[3] if found and found[2] == "policy" else ""


def proposal(cause: Cause) -> str:
    """Lines for a policy by which it would pass while nothing of the unknown column leaves; empty where none are
    sound. The column's name is not known here, only the shape of it."""
    found = _UNLISTED.search(cause.words) if cause.code == "place-unknown" else None
    if found is None:
        return ""
    shape, where, table = found.groups()
    return (
        f"# in the {where} that lists the table; the name is the column's in the file, which has this shape\n"
        f"tables:\n  - name: {table}\n    columns:\n      {json.dumps(shape)}: {{class: drop}}\n"
    )


# A proof found somebody's name, or could not say that there is none. What is released is proved again; that another
# look finds nothing is only worth as much as what changed, and two persons look at that (I9).
_FOUND: Final = frozenset({"redaction-unproven", "identifier-found-later"})


def reviewers(cause: Cause, action: str, said: Iterable[Reviewing] = ()) -> int:
    """How many persons this decision needs: where the policies of what waits differ, as many as the strictest says.
    What stays in the identified zone is one person's to keep there, unless a policy says otherwise."""
    default = 2 if cause.code in _FOUND and action != "exclude" else 1
    return max((one.of.get(cause.code) or one.persons or default for one in said), default=default)


def check_decision(cause: Cause, action: str) -> Offer:
    """The offer this action is; Conflict, naming the sound ones, when it is none."""
    for offer in offers(cause):
        if offer.action == action:
            return offer
    sound = ", ".join(offer.action for offer in offers(cause))
    raise Conflict(f"{action} is no way out of {cause.code}", where=cause.id, hint=f"Sound decisions are: {sound}.")
