"""The repository's files on a tier: names, the unpacked encoding, and write-once putting.

Every file but `config` is named by the SHA-256 of its own bytes, so a name that is already taken holds the
same bytes: a put whose answer was lost is found done when it is tried again (D13).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Literal

from msgspec import Struct

from mover.errors import EntryExists, EntryMissing, RepositoryDamaged
from mover.repository import compression
from mover.repository.crypto import Buffer, MasterKey
from mover.tiers.port import PruneTier

FileKind = Literal["data", "index", "keys", "snapshots", "locks"]

# Index files end near 8 MiB in restic; everything unpacked is far below these.
MAX_STORED_BYTES = 128 << 20
MAX_DOCUMENT_BYTES = 512 << 20
MAX_KEY_FILE_BYTES = 64 << 10

_ENCODING_ZSTD = 2
_HEX_ID = re.compile(r"[0-9a-f]{64}")


class StoredFile(Struct, frozen=True):
    file_id: str
    size_bytes: int


class RepositoryFiles:
    """Typed access to one repository below `prefix` of a tier."""

    def __init__(self, tier: PruneTier, prefix: str = "") -> None:
        self.tier = tier
        self.prefix = prefix.strip("/")

    def key(self, kind: FileKind, file_id: str) -> str:
        folder = f"data/{file_id[:2]}" if kind == "data" else kind
        return self._below(f"{folder}/{file_id}")

    @property
    def config_key(self) -> str:
        return self._below("config")

    def ids(self, kind: FileKind) -> Iterator[StoredFile]:
        """Every file of a kind. Names that are not storage ids (temporary files, foreign ones), and ids in folders
        that are not theirs, are passed over."""
        try:
            for entry in self.tier.list(self._below(kind)):
                name = entry.key.rsplit("/", 1)[-1]
                if entry.kind == "file" and _HEX_ID.fullmatch(name) and entry.key == self.key(kind, name):
                    yield StoredFile(name, entry.fingerprint.size_bytes)
        except EntryMissing:
            return  # a folder nobody has written to yet

    def put(self, kind: FileKind, file_id: str, parts: Sequence[Buffer], *, size_bytes: int) -> None:
        key = self.key(kind, file_id)
        try:
            self.tier.put(key, parts, size_bytes=size_bytes)  # type: ignore[arg-type]  # any buffer will do
        except EntryExists:
            if self.tier.stat(key).fingerprint.size_bytes != size_bytes:
                raise

    def save_document(self, kind: FileKind, document: bytes, *, key: MasterKey) -> str:
        """Compress, seal and put a JSON document (repository version 2); returns its storage id."""
        sealed = bytes(key.seal(bytes([_ENCODING_ZSTD]) + compression.squeeze_document(document)))
        file_id = hashlib.sha256(sealed).hexdigest()
        self.put(kind, file_id, [sealed], size_bytes=len(sealed))
        return file_id

    def load_document(self, kind: FileKind, file_id: str, *, key: MasterKey) -> bytes:
        """The JSON document of a file: its name, its MAC and its encoding are checked."""
        stored = self.read_whole(self.key(kind, file_id), max_bytes=MAX_STORED_BYTES)
        if hashlib.sha256(stored).hexdigest() != file_id:
            raise RepositoryDamaged(f"a file of {kind} does not hash to its name", where=f"{kind}/{file_id}")
        try:
            return _decode_document(key.open(stored))
        except RepositoryDamaged as damage:
            raise RepositoryDamaged(damage.what, where=f"{kind}/{file_id}") from damage

    def read_whole(self, key: str, *, max_bytes: int) -> bytes:
        size = self.tier.stat(key).fingerprint.size_bytes
        if size > max_bytes:
            raise RepositoryDamaged("a repository file is larger than such a file can be", where=key)
        return self.tier.read(key, 0, size)

    def read_range(self, pack_id: str, offset: int, length: int) -> bytes:
        return self.tier.read(self.key("data", pack_id), offset, length)

    def remove(self, kind: FileKind, file_id: str) -> bool:
        """True when it was there. Absent is fine: somebody, or we before a crash, removed it already. Only what holds
        people's bytes waits for deletion to be switched on: of an index the new one stands before the old one goes, a
        lock is its taker's, and a key goes only where another was proved to open."""
        prune = self.tier.remove if kind in ("snapshots", "data") else self.tier.tidy
        try:
            prune(self.key(kind, file_id))
        except EntryMissing:
            return False
        return True

    def replaced(self, kind: FileKind, file_id: str) -> None:
        """Remove what another file has taken the place of."""
        with suppress(EntryMissing):
            self.tier.tidy(self.key(kind, file_id))

    def exists(self, key: str) -> bool:
        try:
            self.tier.stat(key)
        except EntryMissing:
            return False
        return True

    def _below(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


def _decode_document(plain: bytes) -> bytes:
    """Version 2 puts an encoding byte first; '{' and '[' there mean plain JSON, as version 1 wrote it."""
    if plain[:1] in (b"{", b"["):
        return plain
    if plain[:1] != bytes([_ENCODING_ZSTD]):
        raise RepositoryDamaged("a document has an encoding that is not known")
    return compression.unsqueeze_document(memoryview(plain)[1:], max_bytes=MAX_DOCUMENT_BYTES)
