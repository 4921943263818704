"""Is a run root what was sealed? Asked at the job, of the files in the root alone: no daemon, no catalog.

`check` compares every name, size and time with the sealed manifest, and the manifest with the root that `RUN.json`
promises (and the catalog's, where it is known). It takes seconds for 100,000 files and believes the file system's
times: only `read=True` reads every byte. Whatever was written after the seal has a later time than `sealed_at`, which
is by the tier's own clock; a folder whose names were changed has one, too.

Of files in tars (layout `shards`) the tars stand in the root, each read once: its own digest and those of its files.
Where a file stands in one is compared with the index alone, unless bytes are read.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec
from blake3 import blake3
from msgspec import UNSET, Struct

from mover.errors import NotFound, StructureInvalid
from mover.model.manifest import ManifestEntry, ManifestHeader, ManifestShard, manifest_root, misplaced, shards_root
from mover.model.proving import Prover

MANIFEST, IDENTITY, RECORDS, OUT = "manifest.jsonl", "RUN.json", "records.parquet", "out"
BESIDE = frozenset({MANIFEST, IDENTITY, OUT})
FINDINGS_MAX = 10_000
READ_BYTES = 8 << 20
READERS = 4
_EPOCH, _MICROSECOND = datetime.fromtimestamp(0, UTC), timedelta(microseconds=1)

Why = Literal["missing", "stranger", "changed", "damaged"]


class Finding(Struct, frozen=True):
    path: str
    why: Why
    what: str


class Sealed(Struct, frozen=True):
    """What `RUN.json` promises of the root it stands in."""

    run: str
    manifest_root: str
    count: int
    bytes: int
    # roots of the first landed states do not say when: they wrote this file last, so its own time is that of the seal
    sealed_at: datetime | None = None
    shards_root: str | None = None


class Checked(Struct, frozen=True):
    """`found` counts all findings; `findings` are the first of them. `read`: every byte was read."""

    run: str
    root: str
    count: int
    bytes: int
    manifest_root: str
    read: bool
    found: int
    findings: list[Finding]

    @property
    def whole(self) -> bool:
        return not self.found


def check(root: str | Path, *, read: bool = False, expected_root: str | None = None) -> Checked:
    """Everything that is not as it was sealed. `expected_root` is what the catalog says of the run, where it was
    asked. NotFound where no sealed root stands; StructureInvalid where what should describe it cannot be read."""
    folder = str(root)
    sealed = _sealed(folder)
    header, entries, root_of = _manifest(folder)
    findings = list(_about_the_manifest(sealed, header, entries, root_of, expected_root))
    shards = header.shards or ()
    findings += _about_the_shards(sealed, entries, shards)
    alone = [entry for entry in entries if entry.shard is UNSET]
    expected = {entry.path: entry.size_bytes for entry in alone} | {tar.path: tar.size_bytes for tar in shards}
    findings += _compare(folder, expected, _sealed_ns(folder, sealed))
    if read:
        bad = {finding.path for finding in findings}
        findings += _read(folder, [entry for entry in alone if entry.path not in bad])
        findings += _read_shards(folder, [shard for shard in shards if shard.path not in bad], entries)
    return Checked(
        run=sealed.run, root=folder, count=len(entries), bytes=sum(entry.size_bytes for entry in entries),
        manifest_root=root_of, read=read, found=len(findings), findings=findings[:FINDINGS_MAX],
    )  # fmt: skip


def run_of(root: str | Path) -> str:
    """Whose root this is."""
    return _sealed(str(root)).run


def _sealed(folder: str) -> Sealed:
    try:
        return msgspec.json.decode(_content(folder, IDENTITY), type=Sealed)
    except msgspec.MsgspecError as error:
        raise StructureInvalid(f"{IDENTITY} does not say what was sealed", where=folder) from error


def _manifest(folder: str) -> tuple[ManifestHeader, list[ManifestEntry], str]:
    head, _, lines = _content(folder, MANIFEST).partition(b"\n")
    try:
        header = msgspec.json.decode(head, type=ManifestHeader)
        entries = msgspec.json.Decoder(ManifestEntry).decode_lines(lines)
    except msgspec.MsgspecError as error:
        raise StructureInvalid(f"{MANIFEST} does not parse", where=folder) from error
    return header, entries, manifest_root(entries) if header.shards else blake3(lines).hexdigest()


def _content(folder: str, name: str) -> bytes:
    try:
        with open(f"{folder}/{name}", "rb") as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"no sealed run root stands here: {name} is missing", where=folder) from error


def _about_the_manifest(
    sealed: Sealed, header: ManifestHeader, entries: list[ManifestEntry], root: str, expected_root: str | None
) -> Iterator[Finding]:
    """Its lines give the root that its header, `RUN.json` and the catalog say, and it is this run's."""
    if root != header.root or header.count != len(entries):
        yield Finding(MANIFEST, "changed", "its lines are not those of its header")
    if (root, header.run) != (sealed.manifest_root, sealed.run):
        yield Finding(MANIFEST, "changed", f"it is not the manifest that {IDENTITY} names")
    if expected_root is not None and root != expected_root:
        yield Finding(MANIFEST, "changed", "it is not the manifest that the catalog keeps")


def _about_the_shards(
    sealed: Sealed, entries: Sequence[ManifestEntry], shards: Sequence[ManifestShard]
) -> Iterator[Finding]:
    """The index of the tars is the one that `RUN.json` names, and every file has its place in one of them."""
    if (sealed.shards_root or "") != (shards_root(shards) if shards else ""):
        yield Finding(MANIFEST, "changed", f"its list of tars is not the one that {IDENTITY} names")
    for path in misplaced(entries, shards):
        yield Finding(path, "changed", "it has no place of its own in a tar of the list")


def _compare(folder: str, expected: dict[str, int], sealed_ns: int) -> Iterator[Finding]:
    missing = dict(expected)
    for path, facts in _standing(folder):
        size = missing.pop(path, None)
        if stat.S_ISDIR(facts.st_mode):
            if facts.st_mtime_ns > sealed_ns:
                yield Finding(f"{path}/", "changed", "names in it were changed after the seal")
        elif size is None:
            yield Finding(path, "stranger", "it is not in the manifest")
        elif not stat.S_ISREG(facts.st_mode):
            yield Finding(path, "changed", "it is no plain file")
        elif facts.st_size != size:
            yield Finding(path, "changed", f"it has {facts.st_size} bytes and not {size}")
        elif facts.st_mtime_ns > sealed_ns:
            yield Finding(path, "changed", "it was written after the seal")
    for path in missing:
        yield Finding(path, "missing", "it is in the manifest")


def _standing(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Everything but what the job writes, and the two files that describe the rest."""
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with os.scandir(f"{folder}/{above}") as entries:
            for entry in entries:
                path = f"{above}{entry.name}"
                if path in BESIDE:
                    continue
                yield path, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{path}/")


def _read(folder: str, entries: list[ManifestEntry]) -> Iterator[Finding]:
    """Largest first, so that the last reader does not begin with a slide."""
    ordered = sorted(entries, key=lambda entry: -entry.size_bytes)
    with ThreadPoolExecutor(READERS, thread_name_prefix="check") as pool:
        digests = pool.map(lambda entry: _digest(f"{folder}/{entry.path}"), ordered)
        for entry, digest in zip(ordered, digests, strict=True):
            if digest != entry.blake3:
                yield Finding(entry.path, "damaged", "its bytes are not those of the manifest")


def _read_shards(folder: str, shards: Sequence[ManifestShard], entries: Sequence[ManifestEntry]) -> Iterator[Finding]:
    members: dict[str, list[ManifestEntry]] = {shard.path: [] for shard in shards}
    for entry in entries:
        if entry.shard in members:
            members[str(entry.shard)].append(entry)
    with ThreadPoolExecutor(READERS, thread_name_prefix="check") as pool:
        for found in pool.map(lambda shard: _read_shard(folder, shard, members[shard.path]), shards):
            yield from found


def _read_shard(folder: str, shard: ManifestShard, members: list[ManifestEntry]) -> list[Finding]:
    """One reading: of the whole, and of every file in it."""
    prover = Prover((str(one.path), one.offset or 0, one.size_bytes, one.blake3) for one in members)
    digest = _digest(f"{folder}/{shard.path}", prover)
    wrong = prover.wrong()
    found = [Finding(path, "damaged", f"its bytes in {shard.path} are not those of the manifest") for path in wrong]
    if digest != shard.blake3:
        found.append(Finding(shard.path, "damaged", "its bytes are not those of the list of tars"))
    return found


def _digest(path: str, prover: Prover | None = None) -> str:
    """Of what the device holds: what the page cache has of it is dropped first. "" where it cannot be read."""
    hasher, view = blake3(), memoryview(bytearray(READ_BYTES))
    try:
        with open(path, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while count := file.readinto(view):
                hasher.update(view[:count])
                if prover is not None:
                    prover.update(view[:count])
    except OSError:
        return ""
    return hasher.hexdigest()


def _sealed_ns(folder: str, sealed: Sealed) -> int:
    """Exactly: a float of seconds has no room for microseconds and this century."""
    if sealed.sealed_at is None:
        return os.stat(f"{folder}/{IDENTITY}").st_mtime_ns
    return (sealed.sealed_at - _EPOCH) // _MICROSECOND * 1000
