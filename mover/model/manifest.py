"""Manifest, format versions 1 and 2 (docs/formats.md).

JSON lines in RFC 8785 form with LF: one header, then one line per file sorted by the bytes of its path.
The root is BLAKE3 over the file lines only, so that equal content has an equal root whatever the run.

Version 2 is that of a run in tars: its lines say in which tar a file stands and where, its header lists the tars.
Neither is part of the root, so that the same files have the same root however they are wrapped; the tars have one of
their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

import msgspec
from blake3 import blake3
from msgspec import UNSET, Struct, UnsetType

from mover.errors import StructureInvalid

FORMAT = "mover-manifest"
VERSION, SHARDS_VERSION = 1, 2


class ManifestEntry(Struct, frozen=True):
    path: str
    size_bytes: int
    blake3: str
    slide: str | None = None
    archive: str | None = None  # tier/key of the archive entry
    split: str | UnsetType = UNSET  # only where the run names splits: other lines, and their roots, stay as they were
    shard: str | UnsetType = UNSET  # the tar in which it stands, and there the place of its first byte
    offset: int | UnsetType = UNSET


class ManifestShard(Struct, frozen=True):
    """A tar of the root, with so many files of the manifest in it."""

    path: str
    size_bytes: int
    blake3: str
    count: int


class ManifestHeader(Struct, frozen=True):
    run: str
    cohort: str | None
    created: str
    count: int
    bytes: int
    root: str
    format: str = FORMAT
    version: int = VERSION
    shards: tuple[ManifestShard, ...] | UnsetType = UNSET
    shards_root: str | UnsetType = UNSET


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
        hasher.update(_line(_unwrapped(entry)))
    return hasher.hexdigest()


def _unwrapped(entry: ManifestEntry) -> ManifestEntry:
    return entry if entry.shard is UNSET else msgspec.structs.replace(entry, shard=UNSET, offset=UNSET)


def shards_root(shards: Iterable[ManifestShard]) -> str:
    return blake3(b"".join(map(_line, shards))).hexdigest()


def make_manifest(
    entries: Iterable[ManifestEntry], *, run: str, cohort: str | None, created: str,
    shards: Sequence[ManifestShard] = (),
) -> tuple[ManifestHeader, bytes]:  # fmt: skip
    """The header, and the whole file with it."""
    ordered = sort_entries(entries)
    lines = b"".join(map(_line, ordered))
    header = ManifestHeader(
        run=run,
        cohort=cohort,
        created=created,
        count=len(ordered),
        bytes=sum(e.size_bytes for e in ordered),
        root=manifest_root(ordered) if shards else blake3(lines).hexdigest(),
        version=SHARDS_VERSION if shards else VERSION,
        shards=tuple(shards) or UNSET,
        shards_root=shards_root(shards) if shards else UNSET,
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
    if header.format != FORMAT or header.version not in (VERSION, SHARDS_VERSION):
        raise StructureInvalid(f"manifest version {header.version} is not understood")
    shards = header.shards or ()
    whole = (
        header.count == len(entries)
        and header.bytes == sum(e.size_bytes for e in entries)
        and list(entries) == sort_entries(entries)
        and header.root == manifest_root(entries)
        and (header.version == SHARDS_VERSION) == bool(shards)
        and (header.shards_root or None) == (shards_root(shards) if shards else None)
        and not any(True for _ in misplaced(entries, shards))
    )
    if not whole:
        raise StructureInvalid("the manifest does not agree with its own header")
    return Manifest(header, entries)


def misplaced(entries: Iterable[ManifestEntry], shards: Iterable[ManifestShard]) -> Iterator[str]:
    """Paths of files that stand in no tar of the list, beyond its end or in one another; tars with other counts."""
    ends = {shard.path: shard.size_bytes for shard in shards}
    left = {shard.path: shard.count for shard in shards}
    reached: dict[str, int] = {}
    inside = [entry for entry in entries if entry.shard is not UNSET]
    for entry in sorted(inside, key=attrgetter("shard", "offset")):
        shard, offset = str(entry.shard), entry.offset or 0
        if offset < reached.get(shard, 1) or offset + entry.size_bytes > ends.get(shard, -1):
            yield entry.path
        reached[shard] = offset + entry.size_bytes
        left[shard] = left.get(shard, 0) - 1
    yield from (path for path, count in left.items() if count)
