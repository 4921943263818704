"""Manifest, format version 1 (docs/formats.md).

JSON lines in RFC 8785 form with LF: one header, then one line per file sorted by the bytes of its path.
The root is BLAKE3 over the file lines only, so that equal content has an equal root whatever the run.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from blake3 import blake3
from msgspec import UNSET, Struct, UnsetType

from mover.errors import StructureInvalid

FORMAT = "mover-manifest"
VERSION = 1


class ManifestEntry(Struct, frozen=True):
    path: str
    size_bytes: int
    blake3: str
    slide: str | None = None
    archive: str | None = None  # tier/key of the archive entry
    split: str | UnsetType = UNSET  # only where the run names splits: other lines, and their roots, stay as they were


class ManifestHeader(Struct, frozen=True):
    run: str
    cohort: str | None
    created: str
    count: int
    bytes: int
    root: str
    format: str = FORMAT
    version: int = VERSION


class Manifest(Struct, frozen=True):
    header: ManifestHeader
    entries: tuple[ManifestEntry, ...]


def _line(value: Struct) -> bytes:
    # RFC 8785: keys sorted by code unit, no spaces; our values are text, null and integers below 2^53
    return msgspec.json.encode(value, order="sorted") + b"\n"


def sort_entries(entries: Iterable[ManifestEntry]) -> list[ManifestEntry]:
    return sorted(entries, key=lambda e: e.path.encode("utf-8", "surrogateescape"))


def manifest_root(entries: Iterable[ManifestEntry]) -> str:
    hasher = blake3()
    for entry in sort_entries(entries):
        hasher.update(_line(entry))
    return hasher.hexdigest()


def make_manifest(
    entries: Iterable[ManifestEntry], *, run: str, cohort: str | None, created: str
) -> tuple[ManifestHeader, bytes]:
    """The header, and the whole file with it."""
    ordered = sort_entries(entries)
    lines = b"".join(map(_line, ordered))
    header = ManifestHeader(
        run=run,
        cohort=cohort,
        created=created,
        count=len(ordered),
        bytes=sum(e.size_bytes for e in ordered),
        root=blake3(lines).hexdigest(),
    )
    return header, _line(header) + lines


def encode_manifest(entries: Iterable[ManifestEntry], *, run: str, cohort: str | None, created: str) -> bytes:
    return make_manifest(entries, run=run, cohort=cohort, created=created)[1]


def parse_manifest(data: bytes) -> Manifest:
    """Parse and check: format, version, count, bytes, order and root. Raises StructureInvalid."""
    head, *lines = data.splitlines()
    try:
        header = msgspec.json.decode(head, type=ManifestHeader)
        entries = tuple(msgspec.json.decode(line, type=ManifestEntry) for line in lines)
    except msgspec.MsgspecError as error:
        raise StructureInvalid("not a manifest: a line does not parse") from error
    if header.format != FORMAT or header.version != VERSION:
        raise StructureInvalid(f"manifest version {header.version} is not understood")
    whole = (
        header.count == len(entries)
        and header.bytes == sum(e.size_bytes for e in entries)
        and list(entries) == sort_entries(entries)
        and header.root == manifest_root(entries)
    )
    if not whole:
        raise StructureInvalid("the manifest does not agree with its own header")
    return Manifest(header, entries)
