"""What a restore would have to fetch and to write, told by the trees and the index alone."""

from __future__ import annotations

from msgspec import Struct

from mover.repository.reader import BlobReader, find_node, walk
from mover.repository.tree import Node

# What shrinks to less than this part is taken for zeros, which take no room.
ZEROS_SHRINK = 256


class Weight(Struct, frozen=True):
    """`dense_bytes` leaves out zeros and a file's equal blobs: about what a sparse file takes on a disk. `stored_bytes`
    are read from `packs` packs. `lost` files have a blob that no index file names."""

    files: int
    folders: int
    symlinks: int
    bytes: int
    dense_bytes: int
    packs: int
    stored_bytes: int
    lost: int


def weigh(blobs: BlobReader, root: bytes, path: str) -> Weight:
    node = find_node(blobs, root, path)
    scale = _Scale(blobs)
    if node is not None and node.subtree is None:
        scale.add(node)
    else:
        for _, found in walk(blobs, root if node is None or node.subtree is None else node.subtree):
            scale.add(found)
    return scale.weight()


class _Scale:
    def __init__(self, blobs: BlobReader) -> None:
        self._blobs = blobs
        self._files = self._folders = self._symlinks = self._bytes = self._dense = self._stored = self._lost = 0
        self._packs: set[str] = set()
        self._blobs_seen: set[bytes] = set()
        self._inodes: set[tuple[int, int]] = set()

    def add(self, node: Node) -> None:
        self._folders += node.type == "dir"
        self._symlinks += node.type == "symlink"
        if node.type != "file":
            return
        self._files += 1
        if node.links > 1:
            if (node.device_id, node.inode) in self._inodes:
                return
            self._inodes.add((node.device_id, node.inode))
        self._bytes += node.size
        self._lost += not self._add_blobs(node)

    def _add_blobs(self, node: Node) -> bool:
        for blob_id in dict.fromkeys(node.content or ()):
            place = self._blobs.find("data", blob_id)
            if place is None:
                return False
            self._dense += place.length if place.length * ZEROS_SHRINK < place.plain_length else place.size_bytes
            if blob_id not in self._blobs_seen:
                self._blobs_seen.add(blob_id)
                self._packs.add(place.pack_id)
                self._stored += place.length
        return True

    def weight(self) -> Weight:
        return Weight(
            self._files, self._folders, self._symlinks, self._bytes, self._dense, len(self._packs), self._stored,
            self._lost,
        )  # fmt: skip
