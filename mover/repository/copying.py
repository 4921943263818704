"""A snapshot copied into another repository, blob by blob: what the other has it is not given again.

The two may have other keys, other cuts and other packs; blob ids are the same, so what is the same is found. The
copy names the snapshot it was made of as its `original`, as `restic copy` does: a repeat finds it and adds nothing.

Order of durable writes: packs, index files that name them, the snapshot file last.
"""

from __future__ import annotations

from collections.abc import Iterator

from mover.errors import RepositoryDamaged
from mover.repository.carrying import PackWriter, Shelf, Wanted, carry
from mover.repository.index import Index
from mover.repository.needs import BlobKey, Needs
from mover.repository.reader import BlobReader


def copy_blobs(source: Shelf, source_index: Index, target: Shelf, target_index: Index, *, root: bytes) -> PackWriter:
    """Everything below `root` that the target lacks; durable and named there when this returns. RepositoryDamaged when
    the source cannot give all of it: half a snapshot is no copy."""
    needs = Needs()
    needs.add(BlobReader(source.files, key=source.key, index=source_index).tree, [root])
    lacking = [blob for blob in needs if not target_index.knows(*blob)]
    writer, damaged = carry(source, target, _placed(source_index, lacking))
    if damaged:
        kind, blob_id = damaged[0]
        raise RepositoryDamaged(
            f"{len(damaged)} blobs of the snapshot cannot be read, the first is {kind} blob {blob_id.hex()}",
            hint="Check the repository that was copied from, and repair it.",
        )
    return writer


def _placed(index: Index, blobs: list[BlobKey]) -> Iterator[Wanted]:
    for blob in blobs:
        place = index.find(*blob)
        if place is None:
            raise RepositoryDamaged(f"no index file names {blob[0]} blob {blob[1].hex()}, which the snapshot needs")
        yield blob, place
