"""Repair: an index made anew from the packs' own headers, and lost or rotten blobs fetched from a second repository.

A pack that is wrong in one byte is never mended in place. What is whole in it, and what the other repository has of
the rest, is put into new packs; then the wrong pack is marked without its blobs, so that nobody leans on it, and a
prune sweeps it after its grace. What neither repository has is named by snapshot and path.

Order of durable writes: packs, index files that name them, then the index files without the wrong packs, then the
old ones go. Killed at any point, nothing that could be read before cannot be read after; a repeat finishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from mover.errors import EntryMissing, IntegrityError, RepositoryDamaged
from mover.repository.carrying import Shelf, Wanted, carry
from mover.repository.check import Check
from mover.repository.crypto import SEAL_OVERHEAD_BYTES
from mover.repository.facts import RebuildResult
from mover.repository.index import (
    MAX_FILE_BLOBS,
    Index,
    IndexDocument,
    IndexedPack,
    Location,
    encode_document,
    encode_index,
    read_index,
)
from mover.repository.locks import Lock
from mover.repository.needs import BlobKey, LoadTree, Needs, trees_below
from mover.repository.packs import MAX_HEADER_BYTES, PackedBlob, decode_header, expected_size
from mover.repository.reader import BlobReader
from mover.repository.tree import Node

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LENGTH_BYTES = 4


# --- the index from the packs ------------------------------------------------------------------------------------


def rebuild_index(shelf: Shelf, lock: Lock) -> RebuildResult:
    """Under the exclusive lock. Every pack whose header can be read is named, none that is gone or cut short; index
    files that cannot be read go, once what they named is named by others."""
    documents, unreadable = _read_all(shelf)
    sizes = {found.file_id: found.size_bytes for found in shelf.files.ids("data")}
    named = {pack.pack_id: pack for document in documents.values() for pack in document.packs}
    wrong = {pack_id for pack_id, pack in named.items() if sizes.get(pack_id) != expected_size(pack.blobs)}
    marked = {pack.pack_id for document in documents.values() for pack in document.marked}
    found, damaged = _read_headers(shelf, {key: sizes[key] for key in sizes.keys() - (named.keys() - wrong) - marked})
    for batch in _batches(found):
        lock.assert_held()
        shelf.files.save_document("index", encode_index(batch), key=shelf.key)
    rewrite_index(shelf, lock, lambda document: _without(document, wrong))
    for file_id in unreadable:
        lock.assert_held()
        shelf.files.remove("index", file_id)
    return RebuildResult(len(found), len(wrong), len(unreadable), damaged)


def rewrite_index(shelf: Shelf, lock: Lock, change: Callable[[IndexDocument], IndexDocument]) -> None:
    """Each readable index file as `change` makes it, the new one before the old one goes."""
    documents, _ = _read_all(shelf)
    for file_id, document in documents.items():
        new = change(document)
        if new == document:
            continue
        lock.assert_held()
        if new.packs or new.marked:
            shelf.files.save_document("index", encode_document(new), key=shelf.key)
        shelf.files.remove("index", file_id)


def _read_all(shelf: Shelf) -> tuple[dict[str, IndexDocument], list[str]]:
    documents, unreadable = {}, []
    for found in list(shelf.files.ids("index")):
        try:
            documents[found.file_id] = read_index(shelf.files, found.file_id, key=shelf.key)
        except IntegrityError:
            unreadable.append(found.file_id)
        except EntryMissing:
            continue
    return documents, unreadable


def _read_headers(shelf: Shelf, sizes: dict[str, int]) -> tuple[list[tuple[str, list[PackedBlob]]], list[str]]:
    found, damaged = [], []
    for pack_id in sorted(sizes):
        try:
            found.append((pack_id, _read_header(shelf, pack_id, sizes[pack_id])))
        except (EntryMissing, IntegrityError):
            damaged.append(pack_id)
    return found, damaged


def _read_header(shelf: Shelf, pack_id: str, size: int) -> list[PackedBlob]:
    """Only the end of the pack is read; the header is authenticated, the blobs are not looked at."""
    if size < _LENGTH_BYTES + SEAL_OVERHEAD_BYTES:
        raise RepositoryDamaged("a pack is shorter than its own header")
    length = int.from_bytes(shelf.files.read_range(pack_id, size - _LENGTH_BYTES, _LENGTH_BYTES), "little")
    if not SEAL_OVERHEAD_BYTES <= length <= min(size - _LENGTH_BYTES, MAX_HEADER_BYTES):
        raise RepositoryDamaged("the header length of a pack is impossible")
    sealed = shelf.files.read_range(pack_id, size - _LENGTH_BYTES - length, length)
    blobs = decode_header(shelf.key.open(sealed))
    if expected_size(blobs) != size:
        raise RepositoryDamaged("the header of a pack does not cover its blobs")
    return blobs


def _batches(packs: list[tuple[str, list[PackedBlob]]]) -> Iterator[list[tuple[str, list[PackedBlob]]]]:
    batch: list[tuple[str, list[PackedBlob]]] = []
    for pack in packs:
        if batch and sum(len(blobs) for _, blobs in batch) + len(pack[1]) > MAX_FILE_BLOBS:
            yield batch
            batch = []
        batch.append(pack)
    if batch:
        yield batch


def _without(document: IndexDocument, packs: set[str]) -> IndexDocument:
    return IndexDocument([pack for pack in document.packs if pack.pack_id not in packs], document.marked)


# --- blobs from a second repository --------------------------------------------------------------------------------


class Fetched(Struct, frozen=True):
    """What came of bringing needed blobs back: `left` is what neither repository has."""

    salvaged: int
    fetched: int
    left: list[BlobKey]
    load: LoadTree


def bring_back(shelf: Shelf, other: Shelf, check: Check, other_index: Index, *, roots: Iterable[bytes]) -> Fetched:
    """Every blob below `roots` that stands in no whole pack here, from where it still is: a wrong pack, a marked one,
    the other repository. Durable and named when this returns."""
    load = either(
        BlobReader(shelf.files, key=shelf.key, index=check.index).tree,
        BlobReader(other.files, key=other.key, index=other_index).tree,
    )
    lacking = [blob for blob in _needed(load, roots) if not check.stands(blob)]
    whole, lost = _carry_found(shelf, shelf, lacking, check.index.find)
    aside, lost = _carry_found(shelf, shelf, lost, check.index.find_marked)
    fetched, left = _carry_found(other, shelf, lost, other_index.find)
    return Fetched(whole + aside, fetched, left, load)


def _carry_found(
    source: Shelf, target: Shelf, blobs: list[BlobKey], find: Callable[..., Location | None]
) -> tuple[int, list[BlobKey]]:
    """How many could be carried, and which could not."""
    placed: list[Wanted] = [(blob, place) for blob in blobs if (place := find(*blob)) is not None]
    written, damaged = carry(source, target, placed)
    return written.blobs, [*damaged, *(blob for blob in blobs if find(*blob) is None)]


def retire(shelf: Shelf, lock: Lock, packs: set[str], *, now: datetime) -> None:
    """Mark these packs without their blobs: nobody leans on them or reads them any more."""
    sizes = {found.file_id: found.size_bytes for found in shelf.files.ids("data")}
    now_ns = (now - _EPOCH) // timedelta(microseconds=1) * 1000

    def change(document: IndexDocument) -> IndexDocument:
        gone = [pack.pack_id for pack in document.packs if pack.pack_id in packs]
        marks = [IndexedPack(pack_id, [], now_ns, sizes[pack_id]) for pack_id in gone if pack_id in sizes]
        return IndexDocument(_without(document, packs).packs, document.marked + marks)

    rewrite_index(shelf, lock, change)


def either(first: LoadTree, second: LoadTree) -> LoadTree:
    def load(tree_id: bytes) -> list[Node]:
        try:
            return first(tree_id)
        except (EntryMissing, IntegrityError):
            return second(tree_id)

    return load


def _needed(load: LoadTree, roots: Iterable[bytes]) -> Needs:
    """With trees that neither repository has: what is below them nobody knows, they themselves are lacking."""
    needs = Needs()
    for _, nodes in trees_below(load, roots, seen=needs.trees):
        for node in nodes if isinstance(nodes, list) else ():
            needs.data.update(node.content or ())
    return needs
