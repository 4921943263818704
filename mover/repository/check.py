"""Is everything there, and is it what it says? Structure, and on demand every byte.

With `snapshot_id` only that snapshot is looked at: each blob it refers to is read back *cold* from the
tier, opened and hashed. The proof of `protected` rests on that. Without it, the whole repository: all index
files, all packs' names, sizes and headers too.

Errors name repository objects only. Bounds: PACKS_IN_FLIGHT packs in memory.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from mover.errors import EntryMissing, IntegrityError, RepositoryDamaged
from mover.repository.crypto import MasterKey
from mover.repository.facts import CheckResult, SnapshotFacts
from mover.repository.files import RepositoryFiles
from mover.repository.index import Index, packs_of_all_files
from mover.repository.packs import MAX_PACK_BYTES, BlobType, PackedBlob, expected_size, read_header
from mover.repository.reader import BlobReader
from mover.repository.tree import Node

WORKERS = max(2, min(os.cpu_count() or 2, 8))
PACKS_IN_FLIGHT = WORKERS + 2

_Work = tuple[str, list[PackedBlob]]


class Check:
    """One check; collects errors instead of stopping at the first."""

    def __init__(self, files: RepositoryFiles, *, key: MasterKey, index: Index) -> None:
        self._files, self._key, self._index = files, key, index
        self._blobs = BlobReader(files, key=key, index=index)
        self._guard = threading.Lock()
        self._errors: list[str] = []
        self._trees: set[bytes] = set()
        self._data: set[bytes] = set()
        self._packs = self._bytes_read = 0

    def run(self, snapshots: list[SnapshotFacts], *, whole: bool, read_data: bool) -> CheckResult:
        present = {found.file_id: found.size_bytes for found in self._files.ids("data")}
        for snapshot in snapshots:
            self._check_trees(bytes.fromhex(snapshot.tree_id))
        needed = self._needed_by_pack(present)
        if whole:
            work = self._check_all_packs(present)
        else:
            work = list(needed.items())
        self._packs = len(work)
        if read_data:
            self._read(work, whole=whole)
        return CheckResult(
            snapshots=len(snapshots),
            trees=len(self._trees),
            blobs=len(self._trees) + len(self._data),
            packs=self._packs,
            bytes_read=self._bytes_read,
            errors=self._errors,
        )

    def _wrong(self, what: str) -> None:
        with self._guard:
            self._errors.append(what)

    # - structure

    def _check_trees(self, root: bytes) -> None:
        stack = [root]
        while stack:
            tree_id = stack.pop()
            if tree_id in self._trees:
                continue
            self._trees.add(tree_id)
            try:
                nodes = self._blobs.tree(tree_id)
            except (EntryMissing, IntegrityError) as damage:
                self._wrong(f"tree {tree_id.hex()}: {damage.what}")
                continue
            for node in nodes:
                self._check_node(node, tree_id, stack)

    def _check_node(self, node: Node, tree_id: bytes, stack: list[bytes]) -> None:
        if node.type == "dir":
            if node.subtree is None:
                self._wrong(f"tree {tree_id.hex()}: a folder without a tree")
            else:
                stack.append(node.subtree)
        elif node.type == "file":
            self._check_content(node, tree_id)

    def _check_content(self, node: Node, tree_id: bytes) -> None:
        if node.content is None:
            self._wrong(f"tree {tree_id.hex()}: a file without content")
            return
        self._data.update(node.content)
        places = [self._index.find("data", blob_id) for blob_id in node.content]
        known = [place.size_bytes for place in places if place is not None]
        if len(known) == len(places) and sum(known) != node.size:
            self._wrong(f"tree {tree_id.hex()}: a file's size is not the sum of its blobs")

    def _needed_by_pack(self, present: dict[str, int]) -> dict[str, list[PackedBlob]]:
        """The blobs the snapshots refer to, by pack; what no index names or no pack holds is an error."""
        needed: dict[str, list[PackedBlob]] = {}
        kinds: tuple[tuple[BlobType, set[bytes]], ...] = (("tree", self._trees), ("data", self._data))
        for kind, wanted in kinds:
            for blob_id in wanted:
                place = self._index.find(kind, blob_id)
                if place is None:
                    self._wrong(f"{kind} blob {blob_id.hex()}: no index file names it")
                    continue
                if place.pack_id not in present:
                    self._wrong(f"{kind} blob {blob_id.hex()}: its pack {place.pack_id} is gone")
                    continue
                blob = PackedBlob(blob_id, kind, place.offset, place.length, place.plain_length)
                needed.setdefault(place.pack_id, []).append(blob)
        return needed

    def _check_all_packs(self, present: dict[str, int]) -> list[_Work]:
        """Every pack that an index file names. Packs that none names are orphans of a killed writer: no
        snapshot can refer to them, `restic prune` collects them."""
        work: dict[str, list[PackedBlob]] = {}
        for pack_id, blobs in packs_of_all_files(self._files, key=self._key):
            if pack_id in work:
                continue
            size = present.get(pack_id)
            if size is None:
                self._wrong(f"pack {pack_id}: named by an index file and gone")
            elif size != expected_size(blobs):
                self._wrong(f"pack {pack_id}: {size} bytes instead of {expected_size(blobs)}")
            if size is not None:
                work[pack_id] = sorted(blobs, key=lambda blob: blob.offset)
        return list(work.items())

    # - every byte

    def _read(self, work: list[_Work], *, whole: bool) -> None:
        judge = self._judge_whole if whole else self._judge_needed
        places = threading.Semaphore(PACKS_IN_FLIGHT)
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="check") as pool:
            futures = []
            for pack_id, blobs in work:
                places.acquire()
                future = pool.submit(self._read_pack, pack_id, blobs, judge)
                future.add_done_callback(lambda _: places.release())
                futures.append(future)
            for future in futures:
                future.result()

    def _read_pack(
        self, pack_id: str, blobs: list[PackedBlob], judge: Callable[[str, bytearray, list[PackedBlob]], None]
    ) -> None:
        try:
            content = self._read_cold(pack_id)
            with self._guard:
                self._bytes_read += len(content)
            judge(pack_id, content, blobs)
        except (EntryMissing, IntegrityError) as damage:
            self._wrong(f"pack {pack_id}: {damage.what}")

    def _read_cold(self, pack_id: str) -> bytearray:
        """A warm read-back would prove the page cache, not the device (D14)."""
        content = bytearray()
        for chunk in self._files.tier.stream(self._files.key("data", pack_id), cold=True):
            content += chunk
            if len(content) > MAX_PACK_BYTES:
                raise RepositoryDamaged("larger than a pack can be")
        return content

    def _judge_whole(self, pack_id: str, content: bytearray, blobs: list[PackedBlob]) -> None:
        if hashlib.sha256(content).hexdigest() != pack_id:
            self._wrong(f"pack {pack_id}: does not hash to its name")
        try:
            if read_header(content, self._key) != blobs:
                self._wrong(f"pack {pack_id}: its header and the index differ")
        except RepositoryDamaged as damage:
            self._wrong(f"pack {pack_id}: {damage.what}")
        self._judge_needed(pack_id, content, blobs)

    def _judge_needed(self, pack_id: str, content: bytearray, blobs: Iterable[PackedBlob]) -> None:
        view = memoryview(content)
        for blob in blobs:
            sealed = view[blob.offset : blob.offset + blob.length]
            try:
                self._blobs.open(blob.blob_id, sealed, plain_length=blob.plain_length, where=f"data/{pack_id}")
            except RepositoryDamaged as damage:
                self._wrong(f"pack {pack_id}: {damage.what}")
