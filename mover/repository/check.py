"""Is everything there, and is it what it says? Structure, and on demand every byte, or a random share of the packs.

With `snapshot_id` only that snapshot is looked at: each blob it refers to is read back *cold* from the
tier, opened and hashed. The proof of `protected` rests on that. Without it, the whole repository: all index
files, all packs' names, sizes and headers too.

Errors name repository objects only; `damage` says besides which files of which snapshots each takes with it.
Bounds: PACKS_IN_FLIGHT packs in memory, and those of `needs` and `damage`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from math import ceil

from mover.errors import EntryMissing, IntegrityError, RepositoryDamaged
from mover.repository.carrying import Shelf
from mover.repository.damage import name_damage
from mover.repository.facts import CheckResult, SnapshotFacts
from mover.repository.index import Index, read_index
from mover.repository.needs import BlobKey, trees_below
from mover.repository.packs import MAX_PACK_BYTES, PackedBlob, expected_size, read_header
from mover.repository.reader import BlobReader
from mover.repository.tree import Node

WORKERS = max(2, min(os.cpu_count() or 2, 8))
PACKS_IN_FLIGHT = WORKERS + 2

_Work = tuple[str, list[PackedBlob]]


class Check:
    """One check; collects errors instead of stopping at the first."""

    def __init__(self, shelf: Shelf, index: Index | None = None) -> None:
        """With the index that is known already, or `load_index` next."""
        self._files, self._key = shelf.files, shelf.key
        self.index = Index() if index is None else index
        self._blobs = BlobReader(shelf.files, key=shelf.key, index=self.index)
        self._named: dict[str, list[PackedBlob]] = {}
        self._guard = threading.Lock()
        self._errors: list[str] = []
        self._found: dict[str, str] = {}
        self._trees: set[bytes] = set()
        self._data: set[bytes] = set()
        self._bytes_read = 0
        self.bad: dict[BlobKey, str] = {}  # blobs that cannot be had, and the object at fault
        self.bad_packs: set[str] = set()
        self.bad_files: list[tuple[str, str]] = []  # (kind, id) of index and snapshot files that cannot be read

    def load_snapshots(self, ids: Iterable[str], load: Callable[[str], SnapshotFacts]) -> list[SnapshotFacts]:
        """Listed before the index is loaded: the other way round, one written in between would seem to lack blobs."""
        snapshots = []
        for snapshot_id in ids:
            try:
                snapshots.append(load(snapshot_id))
            except EntryMissing:
                continue  # forgotten since it was listed
            except IntegrityError as damage:
                self.bad_files.append(("snapshots", snapshot_id))
                self._wrong(f"snapshots/{snapshot_id}", damage.what)
        return snapshots

    def load_index(self) -> None:
        for found in sorted(self._files.ids("index"), key=lambda found: found.file_id):
            try:
                document = read_index(self._files, found.file_id, key=self._key)
            except (EntryMissing, IntegrityError) as damage:
                self.bad_files.append(("index", found.file_id))
                self._wrong(f"index/{found.file_id}", damage.what)
                continue
            self.index.add_document(found.file_id, document)
            for pack in document.packs:
                self._named.setdefault(pack.pack_id, pack.blobs)

    def run(
        self,
        snapshots: list[SnapshotFacts],
        *,
        whole: bool,
        read_data: bool,
        sample: float | None = None,
        seed: str = "",
    ) -> CheckResult:
        present = {found.file_id: found.size_bytes for found in self._files.ids("data")}
        self._check_trees(bytes.fromhex(snapshot.tree_id) for snapshot in snapshots)
        needed = self._needed_by_pack(present)
        work = self._check_all_packs(present) if whole else list(needed.items())
        if sample is not None:
            work = _sampled(work, sample, seed)
        if read_data or sample is not None:
            self._read(work, whole=whole)
        named = self._named.keys() | {mark for file in self.index.files.values() for mark, _ in file.marked}
        return CheckResult(
            snapshots=len(snapshots),
            trees=len(self._trees),
            blobs=len(self._trees) + len(self._data),
            packs=len(work),
            bytes_read=self._bytes_read,
            errors=self._errors,
            damage=name_damage(self._blobs.tree, snapshots, bad=self.bad, found=self._found),
            packs_there=len(present),
            strays=len(present.keys() - named) if whole else 0,
            seed=seed,
        )

    def stands(self, blob: BlobKey) -> bool:
        """After a check of every byte: some pack that is right from end to end has it."""
        places = self.index.find_all(*blob)
        return any(place.pack_id in self._named and place.pack_id not in self.bad_packs for place in places)

    def needed(self) -> Iterable[BlobKey]:
        yield from (("tree", blob_id) for blob_id in self._trees)
        yield from (("data", blob_id) for blob_id in self._data)

    def _wrong(self, where: str, what: str, *, blobs: Iterable[BlobKey] = ()) -> None:
        with self._guard:
            self._errors.append(f"{where}: {what}")
            self._found.setdefault(where, what)
            for blob in blobs:
                self.bad.setdefault(blob, where)

    def _wrong_pack(self, pack_id: str, what: str, *, blobs: Iterable[PackedBlob] = ()) -> None:
        self._wrong(f"pack {pack_id}", what, blobs=[(blob.type, blob.blob_id) for blob in blobs])
        with self._guard:
            self.bad_packs.add(pack_id)

    # - structure

    def _check_trees(self, roots: Iterable[bytes]) -> None:
        for tree_id, loaded in trees_below(self._blobs.tree, roots, seen=self._trees):
            if isinstance(loaded, list):
                for node in loaded:
                    self._check_node(node, tree_id)
            else:
                self._wrong(f"tree {tree_id.hex()}", loaded.what, blobs=[("tree", tree_id)])

    def _check_node(self, node: Node, tree_id: bytes) -> None:
        if node.type == "dir" and node.subtree is None:
            self._wrong(f"tree {tree_id.hex()}", "a folder without a tree")
        elif node.type == "file":
            self._check_content(node, tree_id)

    def _check_content(self, node: Node, tree_id: bytes) -> None:
        if node.content is None:
            self._wrong(f"tree {tree_id.hex()}", "a file without content")
            return
        self._data.update(node.content)
        places = [self.index.find("data", blob_id) for blob_id in node.content]
        known = [place.size_bytes for place in places if place is not None]
        if len(known) == len(places) and sum(known) != node.size:
            self._wrong(f"tree {tree_id.hex()}", "a file's size is not the sum of its blobs")

    def _needed_by_pack(self, present: dict[str, int]) -> dict[str, list[PackedBlob]]:
        """The blobs the snapshots refer to, by pack; what no index names or no pack holds is an error."""
        needed: dict[str, list[PackedBlob]] = {}
        for blob in self.needed():
            kind, blob_id = blob
            place = self.index.find(kind, blob_id)
            where = f"{kind} blob {blob_id.hex()}"
            if place is None:
                self._wrong(where, "no index file names it", blobs=[blob])
            elif place.pack_id not in present:
                self._wrong(where, f"its pack {place.pack_id} is gone", blobs=[blob])
            else:
                if not self.index.knows(kind, blob_id):
                    self._wrong(where, f"only pack {place.pack_id} has it, which is marked to go; prune takes it back")
                packed = PackedBlob(blob_id, kind, place.offset, place.length, place.plain_length)
                needed.setdefault(place.pack_id, []).append(packed)
        return needed

    def _check_all_packs(self, present: dict[str, int]) -> list[_Work]:
        """Every pack that an index file names. Those that none names are strays of a killed writer: no snapshot can
        refer to them, and a prune collects them."""
        work: dict[str, list[PackedBlob]] = {}
        for pack_id, blobs in self._named.items():
            size = present.get(pack_id)
            if size is None:
                self._wrong_pack(pack_id, "named by an index file and gone", blobs=blobs)
                continue
            if size != expected_size(blobs):
                self._wrong_pack(pack_id, f"{size} bytes instead of {expected_size(blobs)}")
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
        except (EntryMissing, IntegrityError) as damage:
            self._wrong_pack(pack_id, damage.what, blobs=blobs)
            return
        with self._guard:
            self._bytes_read += len(content)
        judge(pack_id, content, blobs)

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
            self._wrong_pack(pack_id, "does not hash to its name")
        try:
            if read_header(content, self._key) != blobs:
                self._wrong_pack(pack_id, "its header and the index differ")
        except RepositoryDamaged as damage:
            self._wrong_pack(pack_id, damage.what)
        self._judge_needed(pack_id, content, blobs)

    def _judge_needed(self, pack_id: str, content: bytearray, blobs: Iterable[PackedBlob]) -> None:
        view = memoryview(content)
        for blob in blobs:
            sealed = view[blob.offset : blob.offset + blob.length]
            try:
                self._blobs.open(blob.blob_id, sealed, plain_length=blob.plain_length, where=f"data/{pack_id}")
            except RepositoryDamaged as damage:
                self._wrong_pack(pack_id, damage.what, blobs=[blob])


def _sampled(work: list[_Work], share: float, seed: str) -> list[_Work]:
    """That share of the packs, at least one, chosen by the seed alone: whoever repeats it reads the same."""
    count = ceil(share * len(work))
    return sorted(work, key=lambda pack: hashlib.sha256(f"{seed}/{pack[0]}".encode()).digest())[:count]
