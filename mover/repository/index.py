"""The index: which blob lies where in which pack.

Index files are JSON documents; all are loaded, and a blob may be named by several. Packs are referred to by
number inside, so an entry costs one dictionary slot and one integer.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from mover.errors import LimitExceeded, RepositoryDamaged
from mover.repository.crypto import MasterKey
from mover.repository.files import RepositoryFiles
from mover.repository.packs import BlobType, PackedBlob

# About 220 bytes each: 4 GiB of memory, and some 20 TiB of protected data at a mean blob of 1 MiB.
MAX_BLOBS = 20_000_000
# What one index file holds at most; restic's limit, near 8 MiB of JSON.
MAX_FILE_BLOBS = 50_000

_U32 = (1 << 32) - 1


class Location(Struct, frozen=True):
    pack_id: str
    offset: int
    length: int
    plain_length: int  # 0: stored uncompressed

    @property
    def size_bytes(self) -> int:
        """Length of the blob's content once opened and unpacked."""
        return self.plain_length or self.length - 32


class _WireBlob(Struct, omit_defaults=True):
    id: str
    type: BlobType
    offset: int = -1
    length: int = 0
    uncompressed_length: int = 0


class _WirePack(Struct):
    id: str
    blobs: list[_WireBlob]


class _WireIndex(Struct, omit_defaults=True):
    packs: list[_WirePack] | None
    supersedes: list[str] = []


class Index:
    """All blobs of a repository. Safe to ask and to grow from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packs: list[str] = []
        self._pack_numbers: dict[str, int] = {}
        self._blobs: dict[BlobType, dict[bytes, int]] = {"data": {}, "tree": {}}
        self._loaded: set[str] = set()

    def __len__(self) -> int:
        return len(self._blobs["data"]) + len(self._blobs["tree"])

    def find(self, kind: BlobType, blob_id: bytes) -> Location | None:
        packed = self._blobs[kind].get(blob_id)
        if packed is None:
            return None
        return Location(self._packs[packed >> 96], packed >> 64 & _U32, packed >> 32 & _U32, packed & _U32)

    def knows(self, kind: BlobType, blob_id: bytes) -> bool:
        return blob_id in self._blobs[kind]

    def add(self, pack_id: str, blobs: Iterable[PackedBlob]) -> None:
        with self._lock:
            number = self._number(pack_id)
            for blob in blobs:
                packed = number << 96 | blob.offset << 64 | blob.length << 32 | blob.plain_length
                self._blobs[blob.type].setdefault(blob.blob_id, packed)
            if len(self) > MAX_BLOBS:
                raise LimitExceeded(f"the repository holds more than {MAX_BLOBS} blobs")

    def lost(self, present: set[str]) -> bool:
        """True when index files we loaded are gone: somebody pruned or merged them, and packs we remember
        may be gone too. The caller starts from a new Index then."""
        return not self._loaded <= present

    def load_missing(self, present: set[str], *, files: RepositoryFiles, key: MasterKey) -> None:
        """Load what other writers added."""
        for file_id in sorted(present - self._loaded):
            self._load(files.load_document("index", file_id, key=key), where=f"index/{file_id}")
            self._loaded.add(file_id)

    def mark_loaded(self, file_id: str) -> None:
        """We wrote this file ourselves and its packs were added one by one."""
        self._loaded.add(file_id)

    def _number(self, pack_id: str) -> int:
        number = self._pack_numbers.get(pack_id)
        if number is None:
            number = self._pack_numbers[pack_id] = len(self._packs)
            self._packs.append(pack_id)
        return number

    def _load(self, document: bytes, *, where: str) -> None:
        for pack in decode_index(document, where=where):
            self.add(pack[0], pack[1])


def packs_of_all_files(files: RepositoryFiles, *, key: MasterKey) -> Iterator[tuple[str, list[PackedBlob]]]:
    """Every pack as the index files name it, for whoever checks the index itself; a pack that two files
    name comes twice."""
    for found in list(files.ids("index")):
        yield from decode_index(files.load_document("index", found.file_id, key=key), where=f"index/{found.file_id}")


def encode_index(packs: Iterable[tuple[str, Iterable[PackedBlob]]]) -> bytes:
    wire = [
        _WirePack(
            pack_id,
            [_WireBlob(blob.blob_id.hex(), blob.type, blob.offset, blob.length, blob.plain_length) for blob in blobs],
        )
        for pack_id, blobs in packs
    ]
    return msgspec.json.encode(_WireIndex(wire))


def decode_index(document: bytes, *, where: str) -> Iterator[tuple[str, list[PackedBlob]]]:
    try:
        wire = msgspec.json.decode(document, type=_WireIndex)
        for pack in wire.packs or []:
            yield (
                pack.id,
                [
                    PackedBlob(bytes.fromhex(blob.id), blob.type, blob.offset, blob.length, blob.uncompressed_length)
                    for blob in pack.blobs
                ],
            )
    except ValueError as cause:
        raise RepositoryDamaged("an index file cannot be decoded", where=where) from cause
