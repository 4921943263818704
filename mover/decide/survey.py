"""What a look at a folder that nobody has declared yet adds up to, before anything moves.

A survey never quotes: a vendor's own keys stand by their names where they are on our lists, and masked where they are
not; values stand as shapes. Files say the same thing thousands of times, so what is kept is a count for each different
thing, within named bounds, however large the folder is. No IO.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from mover.decide.drafts import ColumnDraft
from mover.decide.tables import mask
from mover.errors import InstanceDropped

PLACES_MAX: Final = 2000  # different places kept of one family
KINDS_MAX: Final = 1000  # different refusals, classes, tables and creators kept of a folder
_PAGE: Final = re.compile(r"page [0-9]+ \(([a-z]+)\)")
_PAGE_NUMBER: Final = re.compile(r"^page [0-9]+ (?=tag)")
_RUNS: Final = re.compile(r"(?<=([aA9]))\1+")

# kept: as it is. rewritten: something else stands there. dropped: a rule says so. unknown: no rule lists it, so it is
# dropped; what a person who writes a profile wants to see first.
_K = TypeVar("_K")

Fate = Literal["kept", "rewritten", "dropped", "unknown"]
FATES: Final[tuple[Fate, ...]] = ("unknown", "dropped", "rewritten", "kept")
LEFT_OUT: Final = "label or overview of a whole slide"
UNLISTED: Final = "not on the allow-list"


class PlaceSeen(Struct, frozen=True):
    """One kind of place. `place` holds no word of a file but those on our lists."""

    place: str
    fate: Fate
    reason: str
    shape: str = ""
    times: int = 1


class FileLook(Struct, frozen=True):
    """What one look says of one file. `code` and `what` are its refusal; `creators` are words of the file, for the
    draft alone."""

    family: str
    group: str = ""
    code: str = ""
    what: str = ""
    places: tuple[PlaceSeen, ...] = ()
    creators: tuple[str, ...] = ()


class FamilySeen(Struct, frozen=True):
    """`files` that the look understood; `refused` of them would wait in quarantine for the profile or their content.
    `more` places were beyond the bound."""

    family: str
    files: int
    bytes: int
    accepted: bool
    places: tuple[PlaceSeen, ...]
    more: int = 0


class RefusedSeen(Struct, frozen=True):
    """Files that would wait in quarantine, by reason. `family` is the format's name, "" where nobody knows it."""

    family: str
    code: str
    what: str
    files: int
    bytes: int


class GroupSeen(Struct, frozen=True):
    """Objects of one class, modality and role."""

    group: str
    files: int
    bytes: int


class ColumnSeen(Struct, frozen=True):
    """A column by its masked name, and the rule a draft proposes for it."""

    position: int
    shape: str
    rule: str
    why: str
    filled: int
    distinct: int


class TableSeen(Struct, frozen=True):
    """Tables of one header. `rule` is the profile's that fits, "" where none does; `name` is the draft's entry."""

    name: str
    rule: str
    why: str
    files: int
    bytes: int
    rows: int
    encoding: str
    delimiter: str
    columns: tuple[ColumnSeen, ...]


class FolderSurvey(Struct, frozen=True, kw_only=True):
    """The whole look, safe to show. `aside` counts files that no way leads from, by reason."""

    profile: str
    files: int
    bytes: int
    families: tuple[FamilySeen, ...]
    groups: tuple[GroupSeen, ...]
    refused: tuple[RefusedSeen, ...]
    tables: tuple[TableSeen, ...]
    aside: dict[str, int]
    unlisted_folders: int = 0
    beyond_bounds: int = 0
    seconds: float = 0.0


class _Family(Struct):
    files: int
    bytes: int
    # by place, fate, reason and outline of the shape, the first of which is shown
    places: dict[tuple[str, Fate, str, str], PlaceSeen]
    more: int


class _Table(Struct):
    name: str
    rule: str
    why: str
    files: int
    bytes: int
    rows: int
    encoding: str
    delimiter: str
    columns: Sequence[ColumnDraft]


class Tally:
    """Adds looks up. `names_of_tables` and `creators` hold words of the files: they go into the draft and nowhere
    else."""

    def __init__(self, accept: Sequence[str] = ()) -> None:
        self._accept = frozenset(accept)
        self._families: dict[str, _Family] = {}
        self._groups: dict[str, list[int]] = {}
        self._refused: dict[tuple[str, str, str], list[int]] = {}
        self._tables: dict[str, _Table] = {}
        self.creators: Counter[str] = Counter()
        self.aside: Counter[str] = Counter()
        self.files = 0
        self.bytes = 0
        self.beyond = 0

    def add(self, look: FileLook, size_bytes: int) -> None:
        self._count(size_bytes)
        for creator in look.creators:
            if creator in self.creators or len(self.creators) < KINDS_MAX:
                self.creators[creator] += 1
        if look.group:
            self._more(self._groups, look.group, size_bytes)
        if look.code == InstanceDropped.code:
            self.aside[LEFT_OUT] += 1  # by rule, so nobody waits for anything
            return
        if look.code:
            self._more(self._refused, (look.family, look.code, look.what), size_bytes)
        if look.code and not look.places:
            return
        family = self._families.setdefault(look.family, _Family(0, 0, {}, 0))
        family.files += 1
        family.bytes += size_bytes
        for one in look.places:
            place = _PAGE_NUMBER.sub("", _PAGE.sub(r"\1 page", one.place))
            alike = (place, one.fate, one.reason, outline(one.shape))
            if alike not in family.places and len(family.places) >= PLACES_MAX:
                family.more += one.times
                continue
            seen = family.places.setdefault(alike, PlaceSeen(place, one.fate, one.reason, one.shape, 0))
            family.places[alike] = replace(seen, times=seen.times + one.times)

    def add_table(
        self, signature: str, columns: Sequence[ColumnDraft], *, rule: str, why: str, rows: int, size_bytes: int,
        encoding: str, delimiter: str,
    ) -> None:  # fmt: skip
        self._count(size_bytes)
        seen = self._tables.get(signature)
        if seen is None:
            if len(self._tables) >= KINDS_MAX:
                self.beyond += 1
                return
            name = rule or f"table-{len(self._tables) + 1}"
            seen = self._tables[signature] = _Table(name, rule, why, 0, 0, 0, encoding, delimiter, columns)
        seen.files += 1
        seen.bytes += size_bytes
        seen.rows += rows

    def set_aside(self, reason: str, size_bytes: int = 0) -> None:
        """What is no file of its own, or is left out by rule: nobody waits for it."""
        self._count(size_bytes)
        self.aside[reason] += 1

    def close(self, *, profile: str, seconds: float, unlisted_folders: int) -> FolderSurvey:
        return FolderSurvey(
            profile=profile, files=self.files, bytes=self.bytes, seconds=round(seconds, 1),
            families=tuple(self._family(name, self._families[name]) for name in sorted(self._families)),
            groups=tuple(GroupSeen(name, *self._groups[name]) for name in sorted(self._groups)),
            refused=tuple(
                RefusedSeen(*key, *counts)
                for key, counts in sorted(self._refused.items(), key=lambda item: (-item[1][0], item[0]))
            ),
            tables=tuple(_seen(one) for one in self._tables.values()),
            aside=dict(sorted(self.aside.items())), unlisted_folders=unlisted_folders, beyond_bounds=self.beyond,
        )  # fmt: skip

    def undeclared(self) -> list[tuple[str, str, int, Sequence[ColumnDraft]]]:
        """(name, why, files, columns) of each header that no rule of the profile fits."""
        return [(one.name, one.why, one.files, one.columns) for one in self._tables.values() if not one.rule]

    def _family(self, name: str, found: _Family) -> FamilySeen:
        def order(one: PlaceSeen) -> tuple[int, int, str]:
            return (FATES.index(one.fate), -one.times, one.place)

        places = tuple(sorted(found.places.values(), key=order))
        accepted = not self._accept or name in self._accept
        return FamilySeen(name, found.files, found.bytes, accepted, places, found.more)

    def _count(self, size_bytes: int) -> None:
        self.files += 1
        self.bytes += size_bytes

    def _more(self, counts: dict[_K, list[int]], key: _K, size_bytes: int) -> None:
        if key not in counts and len(counts) >= KINDS_MAX:
            self.beyond += 1
            return
        seen = counts.setdefault(key, [0, 0])
        seen[0] += 1
        seen[1] += size_bytes


def _seen(one: _Table) -> TableSeen:
    columns = tuple(
        ColumnSeen(column.position, column.shape, column.rule, column.why, column.filled, column.distinct)
        for column in one.columns
    )
    return TableSeen(
        one.name, one.rule, one.why, one.files, one.bytes, one.rows, one.encoding, one.delimiter, columns
    )


def outline(shape: str) -> str:
    """A shape without the lengths of its words and numbers: ten thousand patients' names are one outline."""
    return _RUNS.sub("", re.sub(r"[0-9]", "9", shape))


def masked_key(key: str) -> str:
    """A vendor's key that is on no list: a site may have called a field by a person's name."""
    return f"“{mask(key)}”"


def draft_profile(entries: Iterable[str], creators: Counter[str], *, refused: Sequence[str] = ()) -> str:
    """A profile to edit. `entries` are entries of `tables` (`drafts.draft_yaml`); `refused` those that the loader would
    not take, with its reason, which stay as comments. The draft holds headers and private creators in clear."""
    tables = "".join(entries)
    lines = [
        "# A draft, made by `mover deid survey`: read every line before you use it. It names the columns of your",
        "# tables (and private creators of your DICOM objects) as they stand in the files, so keep it beside them.",
        "# Whatever is not listed does not leave. docs/deid-profiles.md explains each class of column.",
        "kind: deid",
        "name: draft",
        'version: "1"',
        "basis: none",
    ]
    if creators:
        lines += [
            "# Private DICOM elements are dropped. Those of a creator that you trust may be named under",
            "# dicom.safe_private (creator, elements), with an approval. Seen, with the number of objects:",
        ]
        lines += [f"#   {json.dumps(name)}: {times}" for name, times in creators.most_common()]
    lines += ["tables:" if tables else "tables: []"]
    text = "\n".join(lines) + "\n" + tables
    return text + "".join(f"# {line}\n" for one in refused for line in one.splitlines())
