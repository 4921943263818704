"""Is a file that claims to be de-identified already what it claims to be?

It is judged as if it were a source. Where our own de-identification of it would be, byte for byte, the file itself, it
is clean, and the second look has proved it. Where the container would be written otherwise, nothing may be dropped or
replaced, and the second look must pass on the file as it stands. Everything else is suspect, with the places that would
go; what is not understood at all is refused. Names are judged like contents, and so are what DICOM objects call their
patient and cases, and what hangs on a file from outside: one that could be an accession number is suspect, unless
somebody who knows the names answers for them. A slide of several files is clean when all of them are. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from mover.decide.filenames import EVERYBODYS, words_of_name
from mover.decide.packs import (
    INDEX_NAMES,
    TABLE_SUFFIXES,
    FoundPack,
    canonical_name,
    find_packs,
    members_of,
    split_suffix,
)
from mover.decide.survey import PlaceSeen, masked_key
from mover.model.ids import is_number
from mover.model.sidecar import slide_folder
from mover.model.tiers import Entry, TierRole, Zone

Verdict = Literal["clean", "suspect", "refused", "known"]
VERDICTS: Final[tuple[Verdict, ...]] = ("clean", "known", "suspect", "refused")
PLACES_MAX: Final = 50  # of one file; a suspect one needs no more
_RANDOM: Final = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|2[.]25[.][0-9]{25,39}",
    re.IGNORECASE,
)
# a subject of ours, or a number cut to the 16 characters that a DICOM SH holds: base32 in which letters and digits
# change, or letters follow each other, as chance has it and names with a year behind them do not
_DRAWN: Final = re.compile(r"(?=.*[0-9])S?[0-9A-HJKMNP-TV-Z]{16}")
_DIGITS_MAX: Final = 10  # chance draws more in one of 400; years, cases and blocks in a barcode are mostly digits
_CHANGES: Final = re.compile(r"(?<=[0-9])(?=[A-Z])|(?<=[A-Z])(?=[0-9])")
_CHANGES_MIN: Final = 4
_UNSPOKEN: Final = re.compile(r"[BCDFGHJKMNPQRSTVWXZ]{5}")
_WORDS: Final = re.compile(r"[\s^=_]+")
_RUNS: Final = re.compile(r"[^\W\d_]+|[0-9]+")
# what stands beside a number in the name of one file of several, or of a format
_COUNTED: Final = re.compile(r"[0-9]{1,4}|ome")
_SEAM: Final = re.compile(r"[-_.]")
# what is written anew without anything being lost: values of a type, from structure
_HARMLESS: Final = frozenset(
    {
        "written anew from structure", "listed elements and attributes with values of their types",
        "OME-XML written anew from its schema's numbers", "the XML written anew from listed attributes",
    }
)  # fmt: skip


class CleanLook(Struct, frozen=True):
    """What one look found in a file, or in a slide of several. `same`: our output of it is the file; `removed` counts
    texts that would go; `standing`: why the second look does not pass on the file as it stands, "" where it does.
    `called` are texts by which it calls its patient, cases and itself: they live in memory only. `vouched` are places
    that somebody who knows the names may answer for, as for these."""

    family: str
    code: str = ""
    what: str = ""
    same: bool = False
    removed: int = 0
    standing: str = ""
    places: tuple[PlaceSeen, ...] = ()
    called: tuple[str, ...] = ()
    vouched: tuple[PlaceSeen, ...] = ()
    extension: str = ""
    facts: dict[str, Any] = {}
    evidence: dict[str, Any] = {}
    # of each file that belongs to the slide: its place among those given, and its ranges that are no tile or pixel
    files: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = ()


class Judged(Struct, frozen=True):
    verdict: Verdict
    reasons: tuple[PlaceSeen, ...] = ()


def why_not_here(*, zone: Zone, role: TierRole) -> tuple[str, str]:
    """Why nothing on this tier can be adopted, and a hint; empty where it can."""
    if zone != "deidentified":
        return (
            "only what stands on a deidentified tier can be adopted",
            "Declare identified data as a batch: mover batch ready FOLDER.",
        )
    if role != "archive":
        return (f"a tier of role {role} holds copies, and no slide stands there",
                "Adopt what stands on a tier of role archive.")  # fmt: skip
    return "", ""


def adoptable(entries: Iterable[Entry], *, folder: str) -> tuple[tuple[FoundPack, ...], tuple[tuple[str, str], ...]]:
    """The slides that these entries are, and the entries that are none, each with the reason why."""
    files, left = [], []
    for entry in entries:
        name = canonical_name(entry.key)
        if entry.kind != "file":
            left.append((entry.key, "a link, a pipe or a device"))
        elif not _speakable(entry.key):
            left.append((entry.key, "a name that is no text"))
        elif split_suffix(name)[1] in TABLE_SUFFIXES and not _of_a_slide(entry.key) or name in INDEX_NAMES:
            left.append((entry.key, "a table or a note: tables are declared as records"))
        else:
            files.append(entry)
    slides = []
    for room in _rooms(files):
        for pack in find_packs(room, require_thumbnail=False, folder=folder, dicom_names="any").packs:
            taken = members_of(pack.keys).files if pack.reason is None else ()
            slides += [pack] if taken else []
            left += [(key, pack.explanation or "a picture beside a slide, which nobody proved")
                     for key in pack.keys if key not in taken]  # fmt: skip
    return tuple(slides), tuple(left)


def _rooms(files: Sequence[Entry]) -> Iterable[list[Entry]]:
    """Folder by folder, a 3DHISTECH slide's with the one its main file lies in: slides of two folders may well be
    called the same."""
    stems = {e.key[: -len(".mrxs")].casefold() for e in files if e.key.casefold().endswith(".mrxs")}
    rooms: dict[str, list[Entry]] = {}
    for entry in files:
        folder = entry.key.rpartition("/")[0]
        room = folder.rpartition("/")[0] if folder.casefold() in stems else folder
        rooms.setdefault(room, []).append(entry)
    return rooms.values()


def _of_a_slide(key: str) -> bool:
    return canonical_name(key) == "slidedat.ini"


def _speakable(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def stands_for(key: str) -> str:
    """The number of the slide in whose own folder of an archive a key lies, or ""."""
    parts = key.split("/")
    return parts[1] if len(parts) > 2 and is_number(parts[1]) and key.startswith(slide_folder(parts[1])) else ""


def judge_clean(look: CleanLook, keys: Iterable[str], *, trust_names: bool) -> Judged:
    """`keys` are the names of the files below the adopted prefix."""
    names = () if trust_names else (*dict.fromkeys(one for key in keys for one in _telling(key)), *_called(look))
    if look.code:
        refused = PlaceSeen("file", "unknown", f"{look.code}: {look.what}")
        return Judged("refused", (refused, *names)[:PLACES_MAX])
    places = () if look.same else tuple(one for one in look.places if not _harmless(one))
    if look.removed and not look.same and not places:
        places = (PlaceSeen("texts", "dropped", "texts that would not stay", "", look.removed),)
    if look.standing and not look.same:
        places = (*places, PlaceSeen("file", "unknown", f"the second look at it as it stands: {look.standing}"))
    reasons = (*names, *places)[:PLACES_MAX]
    return Judged("suspect" if reasons else "clean", reasons)


def _called(look: CleanLook) -> Iterable[PlaceSeen]:
    for text in dict.fromkeys(look.called):
        words = (*words_of_name(f"{text}.x"), *filter(_is_short_name, _WORDS.split(text)))
        if any(not _says_nothing(word) and not _inside(word, text) for word in words):
            yield PlaceSeen("identifier", "unknown", "a name or number that may be somebody's", masked_key(text))
    yield from look.vouched


def _is_short_name(word: str) -> bool:
    """What is too short to be sought in a file, or a day, may be a patient's number or name all the same: 4711,
    19551231, Wang."""
    runs = _RUNS.findall(word.casefold())
    return any(len(run.lstrip("0")) > 3 if run.isdigit() else len(run) > 2 and run not in EVERYBODYS for run in runs)


def together(judged: Sequence[Judged], *, needed: Container[int], strange: str = "") -> tuple[Judged, ...]:
    """Files of one slide: with one of them that stays out, all do; and all do for what is `strange` about the whole.
    What the slide does not need was not looked at, and is not taken with it."""
    beside = Judged("refused", (PlaceSeen("file", "unknown", "the slide does not need it, and nobody looked at it"),))
    own = [one if at in needed else beside for at, one in enumerate(judged)]
    dirty = any(one.verdict != "clean" for at, one in enumerate(own) if at in needed)
    if not dirty and not strange:
        return tuple(own)
    other = PlaceSeen("slide", "unknown", strange or "another file of the slide is not clean")
    return tuple(replace(one, verdict="suspect", reasons=(other,)) if one.verdict == "clean" else one for one in own)


def _harmless(place: PlaceSeen) -> bool:
    return place.fate == "kept" or (place.fate == "rewritten" and place.reason in _HARMLESS)


def _telling(key: str) -> Iterable[PlaceSeen]:
    """Words of the name that may be somebody's: neither a number of ours nor random by its form."""
    for word in words_of_name(key):
        if not _says_nothing(word) and not _inside(word, key):
            yield PlaceSeen("name", "unknown", "a name that may be somebody's", masked_key(word))


def _says_nothing(word: str) -> bool:
    """A number of ours, random by its form, or such a one with its place in a series."""
    if is_number(word.upper()) or _RANDOM.fullmatch(word) is not None or _drawn(word):
        return True
    first, *rest = _SEAM.split(word)
    return bool(rest) and _says_nothing(first) and all(_COUNTED.fullmatch(one) for one in rest)


def _drawn(word: str) -> bool:
    body = word.removeprefix("S")
    if is_number(body):
        return True
    if sum(map(str.isdigit, body)) > _DIGITS_MAX:
        return False
    changing = len(_CHANGES.findall(body)) >= _CHANGES_MIN or _UNSPOKEN.search(body) is not None
    return changing and _DRAWN.fullmatch(word) is not None


def _inside(word: str, key: str) -> bool:
    """A piece of a number or of a random name, which words are cut from as well."""
    parts = [part for piece in key.split("/") for part in (piece, piece.split(".")[0])]
    random = [part for part in parts if _says_nothing(part)]
    return any(word.casefold() in part.casefold() for part in random)


def summary(reasons: Sequence[PlaceSeen]) -> list[dict[str, str]]:
    """For the catalog and the report: places by masked shape."""
    return [{"place": one.place, "fate": one.fate, "reason": one.reason, "shape": one.shape} for one in reasons]
