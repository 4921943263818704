"""Which row belongs to which slide: by the original image file name, directly or through a case or a patient.

Nothing is guessed (I6: a row tied to the wrong slide is worse than a row tied to none). Each row of each table
and each image of the batch ends in exactly one state of the ledger:

  matched            used for at least one slide
  image-without-row  (images) no table speaks of it
  row-without-image  (rows) no image of the batch has this name; a misspelt extension stays a misspelt name
  duplicate          the same row again, word for word; or (images) the same scan again
  conflict           two rows for the same thing that differ, a name that two images share, a cell that is not
                     of its class, or tables that tie one slide to two patients: none of them is used
  late               the row and its image miss each other in time: the image waits in quarantine, it belongs
                     to a batch whose tables were aligned before, or a newer version of the tables was first.
                     A late row is not used; the tables of the image's own batch, declared again, are

A *scan* is what a number stands for: images with the same number are one scan, an image without a number is a
scan of its own. A *link* is the key by which a table reaches scans. All of it is linear in rows and images
(and in the pairs that links make, which are bounded by name).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

from mover.decide.folding import canonical_name, fold
from mover.errors import StructureInvalid

# in the order in which a table prefers to reach its images
LINKS = ("image", "case", "patient")

# pairs of (case or patient, slide) that tables may make; beyond it a key is not what the policy says it is
MAX_PAIRS = 20_000_000

_GAPS = re.compile(r"[\s_]+")
_LOOKS_LIKE_EXTENSION = re.compile(r"\.(?=[0-9]*[a-z])[a-z0-9]{1,8}$")


# --- keys ------------------------------------------------------------------------------------------------


def canonical_image(name: str, extensions: Sequence[str]) -> str:
    """The key of an image file name: last part of a path of either slash, NFC, trimmed, case-folded, spaces
    and underscores as one, known extensions taken off repeatedly (`.ome.tif`)."""
    text = fold(canonical_name(name))
    known = _folded(tuple(extensions))
    while text.endswith(known):
        fits = next((e for e in known if text.endswith(e) and len(text) > len(e)), None)
        if fits is None:
            break
        text = text[: -len(fits)].rstrip()
    return _GAPS.sub("_", text).strip("_")


@lru_cache(maxsize=16)
def _folded(extensions: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(extension.casefold() for extension in extensions)


def looks_misspelt(key: str) -> bool:
    """What is left after the known extensions still ends like one (`.svss`): told to people, never acted on."""
    return _LOOKS_LIKE_EXTENSION.search(key) is not None


def order_tables(links: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Rings of tables from the images outwards: the first ring names images, each later one shares a case or a
    patient with an earlier ring. A table that appears in no ring reaches no image."""
    rings = [[name for name, classes in links.items() if "image" in classes]]
    placed = set(rings[0])
    reached = {link for name in placed for link in links[name]}
    while True:
        ring = [name for name, classes in links.items() if name not in placed and reached.intersection(classes)]
        if not ring or not rings[0]:
            return [r for r in rings if r]
        rings.append(ring)
        placed.update(ring)
        reached.update(link for name in ring for link in links[name])


# --- what goes in and what comes out -----------------------------------------------------------------------


class Image(Struct, frozen=True, gc=False):
    """One image of the batch; `line` is its place in the ledger. No number: it waits in quarantine."""

    line: int
    key: str
    number: str | None


class Keyed(Protocol):
    """What matching needs to know of a row."""

    @property
    def line(self) -> int: ...
    @property
    def image(self) -> str | None: ...
    @property
    def case(self) -> str | None: ...
    @property
    def patient(self) -> str | None: ...
    @property
    def misfit(self) -> str | None: ...
    def content(self) -> tuple[object, ...]: ...


class Linked(Struct, frozen=True):
    """A table to match: which keys its columns hold, and the key of which it has one row each."""

    name: str
    links: tuple[str, ...]
    grain: str
    rows: Sequence[Keyed]


class Outcome(Struct, frozen=True, gc=False):
    """`scans` are indexes into `Matching.numbers`, empty when the row reaches nothing."""

    state: str
    reason: str | None = None
    scans: tuple[int, ...] = ()


class Matching(Struct, frozen=True):
    """`rows` by table in the order of its rows; `numbers` and `patients` by scan."""

    rows: dict[str, list[Outcome]]
    images: list[Outcome]
    numbers: list[str | None]
    patients: list[str | None]


def match(
    tables: Sequence[Linked],
    images: Sequence[Image],
    *,
    elsewhere: frozenset[str] = frozenset(),
    max_pairs: int = MAX_PAIRS,
) -> Matching:
    """The ledger's states of all rows and images. `elsewhere` are keys of images in batches that were aligned
    before. Tables that reach no image leave all their rows without."""
    scans = _Scans(images, elsewhere)
    reach = _Reach(max_pairs)
    by_name = {table.name: table for table in tables}
    placed: dict[str, _Placed] = {}
    for ring in order_tables({table.name: table.links for table in tables}):
        ready = {name: _place(by_name[name], scans, reach) for name in ring}
        for found in ready.values():
            reach.extend(found)
        placed.update(ready)
    for table in tables:
        placed.setdefault(table.name, _Placed(table, "image", [_UNREACHED] * len(table.rows)))
    ordered = [placed[table.name] for table in tables]
    _refuse_torn_scans(ordered, "patient", len(scans.numbers))
    _refuse_torn_scans([t for t in ordered if t.via == "image"], "case", len(scans.numbers), also=ordered)
    _refuse_mixed_links(ordered, len(scans.numbers))
    return Matching(
        rows={table.name: placed[table.name].outcomes for table in tables},
        images=_image_outcomes(images, scans, ordered),
        numbers=scans.numbers,
        patients=[next(iter(found), None) for found in _keys_of_scans(ordered, "patient", len(scans.numbers))],
    )


_UNREACHED = Outcome("row-without-image", "table-without-link")
ELSEWHERE = Outcome("late", "image-of-earlier-batch")


def in_use(outcome: Outcome) -> bool:
    """The row ties something to scans of this batch; a late one does so as soon as its image may leave."""
    return outcome.state in ("matched", "late") and bool(outcome.scans)


class _Scans:
    """The scans behind the images, and which names lead to which."""

    def __init__(self, images: Sequence[Image], elsewhere: frozenset[str]) -> None:
        self.elsewhere = elsewhere
        self.numbers: list[str | None] = []
        self.of_image: list[int] = []
        by_number: dict[str, int] = {}
        self.by_key: dict[str, set[int]] = {}
        for image in images:
            scan = by_number.get(image.number) if image.number else None
            if scan is None:
                scan = len(self.numbers)
                self.numbers.append(image.number)
                if image.number:
                    by_number[image.number] = scan
            self.of_image.append(scan)
            self.by_key.setdefault(image.key, set()).add(scan)


class _Placed:
    """A table with the outcomes of its rows; `via` is the link by which it reaches scans."""

    def __init__(self, table: Linked, via: str, outcomes: list[Outcome]) -> None:
        self.table = table
        self.via = via
        self.outcomes = outcomes

    def refuse(self, indexes: Iterable[int], reason: str) -> None:
        for index in indexes:
            self.outcomes[index] = Outcome("conflict", reason, self.outcomes[index].scans)


class _Reach:
    """Which scans a case or a patient leads to, learnt ring by ring from rows that are not in doubt."""

    def __init__(self, max_pairs: int) -> None:
        self.scans: dict[str, dict[str, dict[int, None]]] = {"case": {}, "patient": {}}
        self.elsewhere: dict[str, set[str]] = {"case": set(), "patient": set()}
        self.known: set[str] = set()
        self._left = max_pairs

    def extend(self, placed: _Placed) -> None:
        for link in placed.table.links:
            if link not in ("image", placed.via):
                self.known.add(link)
                self._learn(link, placed)

    def _learn(self, link: str, placed: _Placed) -> None:
        leads = self.scans[link]
        for row, outcome in zip(placed.table.rows, placed.outcomes, strict=True):
            key = getattr(row, link)
            if key is None or outcome.state in ("conflict", "duplicate"):
                continue
            scans = leads.setdefault(key, {})
            if outcome.reason == ELSEWHERE.reason:
                self.elsewhere[link].add(key)
            self._left -= len(outcome.scans)
            if self._left < 0:
                raise StructureInvalid(
                    "a case or a patient leads to more slides than a table may tie together",
                    where=f"table {placed.table.name}",
                )
            scans.update(dict.fromkeys(outcome.scans))


# --- placing one table -----------------------------------------------------------------------------------


def _place(table: Linked, scans: _Scans, reach: _Reach) -> _Placed:
    via = next(link for link in table.links if link == "image" or link in reach.known)
    if via == "image":
        found = [_by_name(row, scans) for row in table.rows]
    else:
        leads = {key: tuple(ids) for key, ids in reach.scans[via].items()}
        found = [_by_link(row, via, leads, reach.elsewhere[via], scans) for row in table.rows]
    placed = _Placed(table, via, _settle(table, found))
    _refuse_second_rows(placed)
    return placed


def _by_name(row: Keyed, scans: _Scans) -> Outcome:
    if row.image is None:
        return Outcome("row-without-image", "key-missing")
    ids = tuple(scans.by_key.get(row.image, ()))
    if len(ids) > 1:
        return Outcome("conflict", "image-name-ambiguous", ids)
    if not ids and row.image in scans.elsewhere:
        return ELSEWHERE
    if not ids:
        return Outcome("row-without-image", "extension-unknown" if looks_misspelt(row.image) else "image-unknown")
    return _reached(ids, scans)


def _by_link(row: Keyed, via: str, leads: dict[str, tuple[int, ...]], elsewhere: set[str], scans: _Scans) -> Outcome:
    key = getattr(row, via)
    if key is None:
        return Outcome("row-without-image", "key-missing")
    if key not in leads:
        return Outcome("row-without-image", f"{via}-unknown")
    if not leads[key] and key in elsewhere:
        return ELSEWHERE
    if not leads[key]:
        return Outcome("row-without-image", f"{via}-without-image")
    return _reached(leads[key], scans)


def _reached(ids: tuple[int, ...], scans: _Scans) -> Outcome:
    if any(scans.numbers[scan] is not None for scan in ids):
        return Outcome("matched", None, ids)
    return Outcome("late", "image-quarantined", ids)


def _settle(table: Linked, found: list[Outcome]) -> list[Outcome]:
    """Misfits, duplicates and differing rows of one key. The first of identical rows is the one that counts."""
    first: dict[object, int] = {}
    contents: dict[object, set[tuple[object, ...]]] = {}
    differing: set[object] = set()
    keys = [_grain_key(table, row, outcome) for row, outcome in zip(table.rows, found, strict=True)]
    settled = list(found)
    for index, (row, key) in enumerate(zip(table.rows, keys, strict=True)):
        if row.misfit:
            settled[index] = Outcome("conflict", row.misfit, found[index].scans)
            differing.add(key)
        elif key is None:
            continue
        elif key not in first:
            first[key] = index
        else:
            known = contents.setdefault(key, {table.rows[first[key]].content()})
            if row.content() in known:
                settled[index] = Outcome("duplicate", "same-row", found[index].scans)
            else:
                known.add(row.content())
                differing.add(key)
    for index, key in enumerate(keys):
        if key in differing and key is not None and in_use(found[index]) and not table.rows[index].misfit:
            settled[index] = Outcome("conflict", "rows-differ", found[index].scans)
    return settled


def _grain_key(table: Linked, row: Keyed, outcome: Outcome) -> object:
    """Two names of one scan are one key, so that a scan delivered twice does not get two rows."""
    if table.grain == "image" and len(outcome.scans) == 1:
        return outcome.scans[0]
    return getattr(row, table.grain)


# --- what several tables say of one slide --------------------------------------------------------------------


def _by_link_key(placed: _Placed) -> dict[object, list[int]]:
    """Indexes of the rows in use by the link they share: all of one list reach the same scans."""
    groups: dict[object, list[int]] = {}
    for index, outcome in enumerate(placed.outcomes):
        if in_use(outcome):
            key = outcome.scans[0] if placed.via == "image" else getattr(placed.table.rows[index], placed.via)
            groups.setdefault(key, []).append(index)
    return groups


def _refuse_second_rows(placed: _Placed) -> None:
    """A slide takes at most one row of a table; two cases of a patient who links them would be two. Before
    anything further is learnt from these rows."""
    for indexes in _by_link_key(placed).values():
        if len(indexes) > 1:
            placed.refuse(indexes, "rows-differ")


def _keys_of_scans(tables: Sequence[_Placed], link: str, count: int) -> list[set[str]]:
    """Per scan the keys that rows in use name; two are enough to know that they differ."""
    keys: list[set[str]] = [set() for _ in range(count)]
    for placed in tables:
        for indexes in _by_link_key(placed).values():
            named = {getattr(placed.table.rows[index], link) for index in indexes} - {None}
            for scan in placed.outcomes[indexes[0]].scans if named else ():
                if len(keys[scan]) < 2:
                    keys[scan] |= named
    return keys


def _refuse_torn_scans(
    tables: Sequence[_Placed], link: str, count: int, *, also: Sequence[_Placed] | None = None
) -> None:
    """Tables that tie one slide to two patients (or cases): whatever touches that slide is in conflict."""
    torn = {scan for scan, keys in enumerate(_keys_of_scans(tables, link, count)) if len(keys) > 1}
    for placed in (also or tables) if torn else ():
        for indexes in _by_link_key(placed).values():
            if not torn.isdisjoint(placed.outcomes[indexes[0]].scans):
                placed.refuse(indexes, f"{link}s-differ")


def _refuse_mixed_links(tables: Sequence[_Placed], count: int) -> None:
    """A case that holds slides of two patients: the case's own row could be meant for either."""
    patients = _keys_of_scans(tables, "patient", count)
    for placed in tables:
        for indexes in _by_link_key(placed).values():
            named = {patient for scan in placed.outcomes[indexes[0]].scans for patient in patients[scan]}
            if len(named) > 1:
                placed.refuse(indexes, "patients-differ")


# --- images ----------------------------------------------------------------------------------------------


def _image_outcomes(images: Sequence[Image], scans: _Scans, tables: Sequence[_Placed]) -> list[Outcome]:
    touched = {placed.table.name: _touched(placed) for placed in tables}
    seen: set[int] = set()
    outcomes = []
    for image, scan in zip(images, scans.of_image, strict=True):
        if len(scans.by_key[image.key]) > 1:
            outcome = Outcome("conflict", "image-name-ambiguous", (scan,))
        elif scan in seen:
            outcome = Outcome("duplicate", "same-scan", (scan,))
        else:
            outcome = _image_outcome(scan, scans.numbers[scan], touched)
        seen.add(scan)
        outcomes.append(outcome)
    return outcomes


def _touched(placed: _Placed) -> dict[str, set[int]]:
    """The scans this table's rows reach, by state. Rows that share a link share one tuple of scans, which is
    walked once per state."""
    walked: set[tuple[str, int]] = set()
    touched: dict[str, set[int]] = {"matched": set(), "late": set(), "conflict": set()}
    for outcome in placed.outcomes:
        if outcome.state in touched and (outcome.state, id(outcome.scans)) not in walked:
            walked.add((outcome.state, id(outcome.scans)))
            touched[outcome.state].update(outcome.scans)
    return touched


def _image_outcome(scan: int, number: str | None, touched: dict[str, dict[str, set[int]]]) -> Outcome:
    """A conflict in any table is what a person must see first; the facts of the other tables still count."""

    def tables(state: str) -> list[str]:
        return [name for name, by_state in touched.items() if scan in by_state[state]]

    if number is None:
        spoken = tables("late") or tables("matched") or tables("conflict")
        return Outcome("late" if spoken else "image-without-row", "image-quarantined", (scan,))
    if disputed := tables("conflict"):
        return Outcome("conflict", f"rows-in-conflict:{','.join(disputed)}", (scan,))
    if not (spoken := tables("matched")):
        return Outcome("image-without-row", None, (scan,))
    absent = [name for name in touched if name not in spoken]
    return Outcome("matched", f"no-row-in:{','.join(absent)}" if absent else None, (scan,))
