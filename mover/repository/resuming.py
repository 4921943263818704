"""What a killed snapshot had finished: packs that no index file names yet, found by their own headers.

Index files are written every so often, so a kill leaves at most a minute's packs unnamed. Whoever knows that an
attempt was cut off names them, and the repeat puts nothing a second time. It costs a listing of all packs, which is
why a snapshot that repeats nothing does not look.
"""

from __future__ import annotations

from collections.abc import Iterator

from mover.errors import EntryMissing, RepositoryDamaged
from mover.repository.crypto import MasterKey
from mover.repository.files import RepositoryFiles, StoredFile
from mover.repository.index import Index
from mover.repository.packs import MAX_HEADER_BYTES, PackedBlob, read_header

# Enough for the header of a pack of large blobs; a pack of very many small ones is read a second time.
TAIL_BYTES = 64 << 10
# More were not left by one killed snapshot; prune takes care of the rest.
UNNAMED_MAX = 10_000


def unnamed_packs(
    files: RepositoryFiles, *, key: MasterKey, index: Index
) -> Iterator[tuple[str, tuple[PackedBlob, ...]]]:
    """Packs to which a new index file may give a name. Marked ones are none (`Index.names`): they are to go. What has
    no sound header is passed over: a pack is put whole or not at all, so this one is damaged."""
    found = (stored for stored in files.ids("data") if not index.names(stored.file_id))
    for _, stored in zip(range(UNNAMED_MAX), found, strict=False):
        try:
            yield stored.file_id, tuple(_header_of(stored, files, key))
        except (RepositoryDamaged, EntryMissing):
            continue


def _header_of(stored: StoredFile, files: RepositoryFiles, key: MasterKey) -> list[PackedBlob]:
    for length in (TAIL_BYTES, MAX_HEADER_BYTES):
        length = min(length, stored.size_bytes)
        tail = files.read_range(stored.file_id, stored.size_bytes - length, length)
        if len(tail) == stored.size_bytes or int.from_bytes(tail[-4:], "little") + 4 <= len(tail):
            break
    return read_header(tail, key, size_bytes=stored.size_bytes)
