"""Reading a repository back: blobs, trees and listings, each blob verified before anybody sees it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

from mover.errors import NotFound, RepositoryDamaged
from mover.repository import compression
from mover.repository.crypto import Buffer, MasterKey
from mover.repository.facts import SnapshotEntry
from mover.repository.files import RepositoryFiles
from mover.repository.index import Index, Location
from mover.repository.packs import BlobType
from mover.repository.tree import Node, decode_tree

# The longest tree document: some million names in one folder.
MAX_TREE_BYTES = 2 << 30
MAX_DEPTH = 4096

_KINDS = {"file": "file", "dir": "folder", "symlink": "symlink"}


class BlobReader:
    """Blobs by id, verified. Safe for many threads."""

    def __init__(self, files: RepositoryFiles, *, key: MasterKey, index: Index) -> None:
        self._files, self._key, self._index = files, key, index

    def load(self, kind: BlobType, blob_id: bytes) -> bytes:
        place = self.locate(kind, blob_id)
        sealed = self._files.read_range(place.pack_id, place.offset, place.length)
        return self.open(blob_id, sealed, plain_length=place.plain_length, where=f"data/{place.pack_id}")

    def find(self, kind: BlobType, blob_id: bytes) -> Location | None:
        return self._index.find(kind, blob_id)

    def locate(self, kind: BlobType, blob_id: bytes) -> Location:
        place = self.find(kind, blob_id)
        if place is None:
            raise RepositoryDamaged(f"no index file names {kind} blob {blob_id.hex()}")
        if place.size_bytes > MAX_TREE_BYTES:
            raise RepositoryDamaged(f"{kind} blob {blob_id.hex()} is impossibly large")
        return place

    def open(self, blob_id: bytes, sealed: Buffer, *, plain_length: int, where: str) -> bytes:
        """The blob's content: authenticated, unpacked, and hashing to its id."""
        try:
            plain = self._key.open(sealed)
            if plain_length:
                plain = compression.unsqueeze(plain, plain_length=plain_length)
        except RepositoryDamaged as damage:
            raise RepositoryDamaged(f"blob {blob_id.hex()}: {damage.what}", where=where) from damage
        if hashlib.sha256(plain).digest() != blob_id:
            raise RepositoryDamaged(f"blob {blob_id.hex()} does not hash to its id", where=where)
        return plain

    def open_into(self, blob_id: bytes, sealed: Buffer, room: memoryview, *, where: str) -> None:
        """The same of a blob that is stored as it is, into a buffer of its size: no copy of it is made."""
        try:
            self._key.open_into(sealed, room)
        except RepositoryDamaged as damage:
            raise RepositoryDamaged(f"blob {blob_id.hex()}: {damage.what}", where=where) from damage
        if hashlib.sha256(room).digest() != blob_id:
            raise RepositoryDamaged(f"blob {blob_id.hex()} does not hash to its id", where=where)

    def read_run(self, pack_id: str, offset: int, length: int) -> bytes:
        return self._files.read_range(pack_id, offset, length)

    def tree(self, tree_id: bytes) -> list[Node]:
        return decode_tree(self.load("tree", tree_id))


# --- finding and listing ---------------------------------------------------------------------------------


def find_node(blobs: BlobReader, root: bytes, path: str) -> Node | None:
    """The node at `path`; None for the root itself, which has no node. NotFound when there is none."""
    node: Node | None = None
    for part in [part for part in os.fsencode(path).split(b"/") if part]:
        subtree = root if node is None else node.subtree
        found = [] if subtree is None else [each for each in blobs.tree(subtree) if each.name == part]
        if not found:
            raise NotFound("the snapshot holds nothing at this path")
        node = found[0]
    return node


def list_entries(blobs: BlobReader, root: bytes, path: str, *, recursive: bool) -> Iterator[SnapshotEntry]:
    node = find_node(blobs, root, path)
    base = b"/" + b"/".join(part for part in os.fsencode(path).split(b"/") if part)
    if node is not None and node.subtree is None:
        yield _entry(node, base)
        return
    subtree = root if node is None or node.subtree is None else node.subtree
    for where, found in walk(blobs, subtree, recursive=recursive):
        yield _entry(found, base.rstrip(b"/") + b"/" + where)


def walk(blobs: BlobReader, tree_id: bytes, *, recursive: bool = True) -> Iterator[tuple[bytes, Node]]:
    """(path relative to the tree, node), a folder before its members, in the order of names."""
    stack = [(b"", iter(blobs.tree(tree_id)))]
    while stack:
        above, nodes = stack[-1]
        node = next(nodes, None)
        if node is None:
            stack.pop()
            continue
        path = above + node.name
        yield path, node
        if recursive and node.type == "dir" and node.subtree is not None:
            if len(stack) > MAX_DEPTH:
                raise RepositoryDamaged("the folders of a snapshot are impossibly deep")
            stack.append((path + b"/", iter(blobs.tree(node.subtree))))


def _entry(node: Node, path: bytes) -> SnapshotEntry:
    return SnapshotEntry(
        path=os.fsdecode(path),
        kind=_KINDS.get(node.type, "other"),  # type: ignore[arg-type]
        size_bytes=node.size,
        mode=node.mode,
        mtime_ns=node.mtime_ns,
        uid=node.uid,
        gid=node.gid,
        target=os.fsdecode(node.target),
    )
