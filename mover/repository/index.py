"""The index: which blob lies where in which pack.

Index files are JSON documents; all are loaded, and a blob may be named by several. Packs are referred to by
number inside, so an entry costs some 60 bytes (`blobtable`).

A pack that is to go is *marked*: it stands under `packs_to_delete` with the time of the mark, no longer under
`packs`. That is where rustic, another client of the format, keeps its marks too; restic passes over words it does
not know. Whoever writes never leans on a marked pack; whoever reads may, until it is swept (see `prune`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct

from mover.errors import LimitExceeded, RepositoryDamaged
from mover.repository.blobtable import ID_BYTES, BlobTable
from mover.repository.crypto import MasterKey
from mover.repository.files import RepositoryFiles
from mover.repository.packs import BlobType, PackedBlob, expected_size
from mover.repository.tree import format_time, parse_time

# About 60 bytes each, and half as many more while the table grows: 2 GiB of memory, and some 20 TiB of protected
# data at a mean blob of 1 MiB.
MAX_BLOBS = 20_000_000
# What one index file holds at most; restic's limit, near 8 MiB of JSON.
MAX_FILE_BLOBS = 50_000

_U32 = (1 << 32) - 1
# What a pack holds besides its blobs, and for each of them.
PACK_FRAME_BYTES = expected_size([])
_PLAIN_ENTRY = expected_size([PackedBlob(b"", "data", 0, 0, 0)]) - PACK_FRAME_BYTES
_COMPRESSED_ENTRY = expected_size([PackedBlob(b"", "data", 0, 0, 1)]) - PACK_FRAME_BYTES


class Location(Struct, frozen=True):
    pack_id: str
    offset: int
    length: int
    plain_length: int  # 0: stored uncompressed

    @property
    def size_bytes(self) -> int:
        """Length of the blob's content once opened and unpacked."""
        return self.plain_length or self.length - 32

    @property
    def packed_bytes(self) -> int:
        """What it takes of its pack, with its entry in the header."""
        return self.length + (_COMPRESSED_ENTRY if self.plain_length else _PLAIN_ENTRY)


class _WireBlob(Struct, omit_defaults=True):
    id: str
    type: BlobType
    offset: int = -1
    length: int = 0
    uncompressed_length: int = 0


class _WirePack(Struct, omit_defaults=True):
    id: str
    blobs: list[_WireBlob]
    time: str = ""
    size: int = 0


class _WireIndex(Struct, omit_defaults=True):
    packs: list[_WirePack] | None
    packs_to_delete: list[_WirePack] = []
    supersedes: list[str] = []


class IndexedPack(Struct, frozen=True):
    """One pack as an index file names it. `time_ns` of a marked pack is when it was marked; a pack that no index
    file had named is marked with its size and without blobs."""

    pack_id: str
    blobs: list[PackedBlob]
    time_ns: int | None = None
    size_bytes: int = 0


class IndexDocument(Struct, frozen=True):
    packs: list[IndexedPack]
    marked: list[IndexedPack]


class IndexFile(Struct, frozen=True):
    """What is remembered of each loaded file: who decides which to rewrite needs no more."""

    blobs: int
    packs: tuple[str, ...]
    marked: tuple[tuple[str, int | None], ...]


class Index:
    """All blobs of a repository. Safe to ask and to grow from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packs: list[str] = []
        self._pack_numbers: dict[str, int] = {}
        self._blobs: dict[BlobType, BlobTable] = {"data": BlobTable(), "tree": BlobTable()}
        self._again: dict[tuple[BlobType, bytes], list[int]] = {}
        self._marked: dict[BlobType, BlobTable] = {"data": BlobTable(), "tree": BlobTable()}
        self._loaded: set[str] = set()
        self.files: dict[str, IndexFile] = {}

    def __len__(self) -> int:
        return len(self._blobs["data"]) + len(self._blobs["tree"])

    def find(self, kind: BlobType, blob_id: bytes) -> Location | None:
        """Where to read it; in a marked pack when no other has it."""
        packed = self._blobs[kind].get(blob_id)
        if packed is None:
            packed = self._marked[kind].get(blob_id)
        return None if packed is None else self._location(packed)

    def find_all(self, kind: BlobType, blob_id: bytes) -> list[Location]:
        """Every copy in packs that are not marked."""
        packed = self._blobs[kind].get(blob_id)
        if packed is None:
            return []
        return [self._location(each) for each in (packed, *self._again.get((kind, blob_id), ()))]

    def find_marked(self, kind: BlobType, blob_id: bytes) -> Location | None:
        packed = self._marked[kind].get(blob_id)
        return None if packed is None else self._location(packed)

    def used_by_pack(self, kind: BlobType, wanted: Iterable[bytes]) -> tuple[dict[str, int], list[bytes]]:
        """By pack, what the wanted blobs take of it that stand in no other; and those that stand in several, or in
        none that is not marked. In one go, since a repository has millions."""
        taken = [0] * len(self._packs)
        rest = []
        blobs, again = self._blobs[kind], self._again
        for blob_id in wanted:
            packed = blobs.get(blob_id)
            if packed is None or (kind, blob_id) in again:
                rest.append(blob_id)
            else:
                taken[packed >> 96] += (packed >> 32 & _U32) + (_COMPRESSED_ENTRY if packed & _U32 else _PLAIN_ENTRY)
        return {self._packs[number]: size for number, size in enumerate(taken) if size}, rest

    def knows(self, kind: BlobType, blob_id: bytes) -> bool:
        """True when a new snapshot may lean on it: a marked pack does not count."""
        return blob_id in self._blobs[kind]

    def names(self, pack_id: str) -> bool:
        """True when a loaded index file names this pack, marked or not."""
        return pack_id in self._pack_numbers

    def add(self, pack_id: str, blobs: Iterable[PackedBlob], *, marked: bool = False) -> None:
        with self._lock:
            number = self._number(pack_id)
            for blob in blobs:
                packed = number << 96 | blob.offset << 64 | blob.length << 32 | blob.plain_length
                known = (self._marked if marked else self._blobs)[blob.type]
                if known.setdefault(blob.blob_id, packed) >> 96 != number and not marked:
                    self._note_again(blob, packed)
            if len(self) > MAX_BLOBS:
                raise LimitExceeded(f"the repository holds more than {MAX_BLOBS} blobs")

    def _note_again(self, blob: PackedBlob, packed: int) -> None:
        copies = self._again.setdefault((blob.type, blob.blob_id), [])
        if packed not in copies:  # two files may name one pack
            copies.append(packed)

    def _location(self, packed: int) -> Location:
        return Location(self._packs[packed >> 96], packed >> 64 & _U32, packed >> 32 & _U32, packed & _U32)

    def lost(self, present: set[str]) -> bool:
        """True when index files we loaded are gone: somebody pruned or merged them, and packs we remember
        may be gone too. The caller starts from a new Index then."""
        return not self._loaded <= present

    def load_missing(self, present: set[str], *, files: RepositoryFiles, key: MasterKey) -> None:
        """Load what other writers added."""
        for file_id in sorted(present - self._loaded):
            self.load_file(file_id, files=files, key=key)

    def load_file(self, file_id: str, *, files: RepositoryFiles, key: MasterKey) -> None:
        self.add_document(file_id, read_index(files, file_id, key=key))

    def add_document(self, file_id: str, document: IndexDocument) -> None:
        for pack in document.packs:
            self.add(pack.pack_id, pack.blobs)
        for pack in document.marked:
            self.add(pack.pack_id, pack.blobs, marked=True)
        self.files[file_id] = IndexFile(
            sum(len(pack.blobs) for pack in document.packs),
            tuple(pack.pack_id for pack in document.packs),
            tuple((pack.pack_id, pack.time_ns) for pack in document.marked),
        )
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


def read_index(files: RepositoryFiles, file_id: str, *, key: MasterKey) -> IndexDocument:
    return decode_index(files.load_document("index", file_id, key=key), where=f"index/{file_id}")


def packs_of_all_files(files: RepositoryFiles, *, key: MasterKey) -> Iterator[tuple[str, list[PackedBlob]]]:
    """Every unmarked pack as the index files name it; a pack that two files name comes twice."""
    for found in list(files.ids("index")):
        for pack in read_index(files, found.file_id, key=key).packs:
            yield pack.pack_id, pack.blobs


def encode_index(packs: Iterable[tuple[str, Iterable[PackedBlob]]]) -> bytes:
    return encode_document(IndexDocument([IndexedPack(pack_id, list(blobs)) for pack_id, blobs in packs], []))


def encode_document(document: IndexDocument) -> bytes:
    wire = _WireIndex([_to_wire(pack) for pack in document.packs], [_to_wire(pack) for pack in document.marked])
    return msgspec.json.encode(wire)


def decode_index(document: bytes, *, where: str) -> IndexDocument:
    try:
        wire = msgspec.json.decode(document, type=_WireIndex)
        packs = [_from_wire(pack) for pack in wire.packs or []]
        return IndexDocument(packs, [_from_wire(pack) for pack in wire.packs_to_delete])
    except ValueError as cause:
        raise RepositoryDamaged("an index file cannot be decoded", where=where) from cause


def _to_wire(pack: IndexedPack) -> _WirePack:
    blobs = [
        _WireBlob(blob.blob_id.hex(), blob.type, blob.offset, blob.length, blob.plain_length) for blob in pack.blobs
    ]
    time = "" if pack.time_ns is None else format_time(pack.time_ns)
    return _WirePack(pack.pack_id, blobs, time, pack.size_bytes)


def _from_wire(wire: _WirePack) -> IndexedPack:
    blobs = [
        PackedBlob(bytes.fromhex(blob.id), blob.type, blob.offset, blob.length, blob.uncompressed_length)
        for blob in wire.blobs
    ]
    if not all(
        0 <= blob.offset <= _U32 and 0 <= blob.length <= _U32 and 0 <= blob.plain_length <= _U32
        and len(blob.blob_id) == ID_BYTES for blob in blobs
    ):  # fmt: skip
        raise ValueError("a blob at an impossible place, or with another kind of id")
    return IndexedPack(wire.id, blobs, parse_time(wire.time) if wire.time else None, wire.size)
