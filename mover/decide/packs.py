"""Which entries of a batch folder make which pack, and whether the batch is what was declared.

A pack is a slide image and its thumbnail; the barcode is their common name. Nothing is guessed: an entry
that fits no pack is a pack of its own that waits in quarantine.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from msgspec import Struct

from mover.model.tiers import Entry

SLIDE_SUFFIXES = (
    ".svs",
    ".ndpi",
    ".ndpis",
    ".vms",
    ".vmu",
    ".mrxs",
    ".scn",
    ".bif",
    ".tif",
    ".tiff",
    ".czi",
    ".vsi",
    ".isyntax",
    ".svslide",
    ".kfb",
    ".sdpc",
    ".tmap",
    ".dcm",
)
THUMBNAIL_SUFFIXES = (".jpg", ".jpeg", ".png")
# exports lie beside the images at many sites; they belong to the record workflow
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".json", ".xml", ".ini", ".md5", ".sha256")


class FoundPack(Struct, frozen=True):
    """`barcode` is the canonical common name, an identifier: it stays in the vault. The first key is the
    slide image."""

    barcode: str
    keys: tuple[str, ...]
    suffix: str
    size_bytes: int
    reason: str | None = None
    explanation: str | None = None


class Tally(Struct, frozen=True):
    packs: tuple[FoundPack, ...]
    tables: int
    missing: int
    undeclared: int


def canonical_name(key: str) -> str:
    """Last path part of either slash, NFC, trimmed, case-folded: equal for what a person calls equal."""
    last = key.replace("\\", "/").rsplit("/", 1)[-1]
    return unicodedata.normalize("NFC", last).strip().casefold()


def split_suffix(name: str) -> tuple[str, str]:
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix) if dot and stem else (name, "")


def find_packs(
    entries: Iterable[Entry],
    *,
    require_thumbnail: bool,
    expected_count: int | None = None,
    expected: frozenset[str] | None = None,
    ignore: frozenset[str] = frozenset(),
) -> Tally:
    """Group entries into packs and compare with what was declared.

    `expected` holds canonical names with or without suffix. Packs beyond an expected list are quarantined
    as `not-declared`; names without a pack count as missing.
    """
    slides: dict[str, list[Entry]] = defaultdict(list)
    thumbnails: dict[str, list[Entry]] = defaultdict(list)
    companions: dict[str, list[Entry]] = defaultdict(list)
    others: list[Entry] = []
    tables = 0
    listed = [e for e in entries if canonical_name(e.key) not in ignore]
    folders_of_mirax = {
        e.key[: -len(".mrxs")].casefold() for e in listed if e.key.casefold().endswith(".mrxs")
    }
    for entry in listed:
        folder = entry.key.rpartition("/")[0]
        if folder.casefold() in folders_of_mirax:
            companions[canonical_name(folder)].append(entry)
            continue
        stem, suffix = split_suffix(canonical_name(entry.key))
        if entry.kind != "file":
            others.append(entry)
        elif suffix in SLIDE_SUFFIXES:
            slides[stem].append(entry)
        elif suffix in THUMBNAIL_SUFFIXES:
            thumbnails[stem].append(entry)
        elif suffix in TABLE_SUFFIXES:
            tables += 1
        else:
            others.append(entry)
    packs = [
        _judge_slide(stem, found, thumbnails.pop(stem, []), companions.get(stem, []), require_thumbnail)
        for stem, found in sorted(slides.items())
    ]
    packs += [
        _lone(stem, found, "pack-incomplete", "a thumbnail without a slide image")
        for stem, found in sorted(thumbnails.items())
    ]
    packs += [
        _lone(
            canonical_name(e.key), [e], "entry-unknown", "neither a slide image nor a thumbnail nor a table"
        )
        for e in sorted(others, key=lambda e: e.key)
    ]
    return _compare(packs, tables, expected_count, expected)


def _judge_slide(
    stem: str, found: list[Entry], thumbnails: list[Entry], companions: list[Entry], require_thumbnail: bool
) -> FoundPack:
    entries = found + thumbnails + companions
    if len(found) > 1:
        return _lone(stem, entries, "pack-ambiguous", f"{len(found)} slide images share one barcode")
    if len(thumbnails) > 1:
        return _lone(stem, entries, "pack-ambiguous", f"{len(thumbnails)} thumbnails share one barcode")
    if require_thumbnail and not thumbnails:
        return _lone(stem, entries, "pack-incomplete", "the thumbnail is missing")
    if found[0].fingerprint.size_bytes == 0:
        return _lone(stem, entries, "structure-invalid", "the slide image is empty")
    return _lone(stem, entries, None, None)


def _lone(barcode: str, entries: list[Entry], reason: str | None, explanation: str | None) -> FoundPack:
    keys = tuple(e.key for e in entries)
    size = sum(e.fingerprint.size_bytes for e in entries)
    suffix = split_suffix(canonical_name(keys[0]))[1]
    return FoundPack(barcode, keys, suffix, size, reason, explanation)


def _compare(
    packs: list[FoundPack], tables: int, expected_count: int | None, expected: frozenset[str] | None
) -> Tally:
    missing = undeclared = 0
    if expected is not None:
        wanted = {
            split_suffix(name)[0] if split_suffix(name)[1] in SLIDE_SUFFIXES else name for name in expected
        }
        present = {p.barcode for p in packs}
        missing = len(wanted - present)
        packs = [
            p
            if p.barcode in wanted
            else FoundPack(
                p.barcode,
                p.keys,
                p.suffix,
                p.size_bytes,
                "not-declared",
                "found, but not in the declared list",
            )
            for p in packs
        ]
        undeclared = len(present - wanted)
    elif expected_count is not None:
        missing = max(0, expected_count - len(packs))
        undeclared = max(0, len(packs) - expected_count)
    return Tally(tuple(packs), tables, missing, undeclared)
