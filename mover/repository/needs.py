"""What snapshots need: their trees, each loaded once, and the blobs of their files.

Whoever judges damage, copies or prunes asks here. A tree that cannot be loaded is a value, not an end: a check
goes on and names it, a prune stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from mover.errors import EntryMissing, IntegrityError, RepositoryDamaged
from mover.repository.packs import BlobType
from mover.repository.tree import Node

# Trees asked for at the same moment: on object tiers most of the time is waiting.
TREE_READERS = 8
TREES_AHEAD = 256

LoadTree = Callable[[bytes], list[Node]]
Loaded = list[Node] | EntryMissing | IntegrityError
BlobKey = tuple[BlobType, bytes]


def trees_below(load: LoadTree, roots: Iterable[bytes], *, seen: set[bytes]) -> Iterator[tuple[bytes, Loaded]]:
    """Every tree at and below `roots` that is not in `seen` yet, in no order that counts; it is in `seen` then."""

    def look(tree_id: bytes) -> tuple[bytes, Loaded]:
        try:
            return tree_id, load(tree_id)
        except (EntryMissing, IntegrityError) as damage:
            return tree_id, damage

    with ThreadPoolExecutor(TREE_READERS, thread_name_prefix="trees") as pool:
        waiting = [root for root in dict.fromkeys(roots) if root not in seen]
        seen.update(waiting)
        while waiting:
            batch = waiting[-TREES_AHEAD:]
            del waiting[-TREES_AHEAD:]
            for tree_id, loaded in pool.map(look, batch):
                yield tree_id, loaded
                if isinstance(loaded, list):
                    below = {node.subtree for node in loaded if node.subtree is not None and node.subtree not in seen}
                    seen.update(below)
                    waiting.extend(below)


class Needs:
    """The blobs that snapshots need. `add` more of them; nothing is ever taken away, so that what counts as needed
    can only be too much."""

    def __init__(self) -> None:
        self.trees: set[bytes] = set()
        self.data: set[bytes] = set()

    def add(self, load: LoadTree, roots: Iterable[bytes]) -> None:
        """RepositoryDamaged when a tree cannot be loaded: what lies below it is needed, and nobody can say what."""
        for tree_id, loaded in trees_below(load, roots, seen=self.trees):
            if not isinstance(loaded, list):
                raise RepositoryDamaged(
                    f"tree {tree_id.hex()} of a snapshot cannot be loaded: {loaded.what}",
                    hint="Check the repository, repair it, then do this again; nothing was removed.",
                ) from loaded
            for node in loaded:
                self.data.update(node.content or ())

    def __iter__(self) -> Iterator[BlobKey]:
        yield from (("tree", blob_id) for blob_id in self.trees)
        yield from (("data", blob_id) for blob_id in self.data)
