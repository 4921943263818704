"""Which files of a repository the kept snapshots need, for whoever keeps them from being deleted.

Of packs those that hold a needed blob; of index files, keys and the config all. Blobs that two packs hold count for
the pack that the index names first, which is also the one that is read.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from mover.errors import RepositoryDamaged
from mover.repository.needs import Needs
from mover.repository.repository import Repository


class Kept(Struct, frozen=True):
    """Keys on the tier, in order of their names. `snapshots` counts the kept ones."""

    keys: tuple[str, ...]
    snapshots: int
    unnamed: int                            # needed blobs that no index file names: damage, for `check` to tell


def kept_keys(repository: Repository, *, forgotten: Collection[str]) -> Kept:
    """Every snapshot of the repository counts, also those that other clients made, but the forgotten. RepositoryDamaged
    when a tree cannot be loaded: then nobody can say what is needed, and everything should be kept."""
    files = repository._files
    snapshots = [one for one in repository.snapshots() if one.snapshot_id not in forgotten]
    index = repository._fresh_index()
    needs = Needs()
    needs.add(repository._reader().tree, [bytes.fromhex(one.tree_id) for one in snapshots])
    packs: set[str] = set()
    unnamed = 0
    for kind, blob_id in needs:
        place = index.find(kind, blob_id)
        if place is None:
            unnamed += 1
        else:
            packs.add(place.pack_id)
    keys = {files.key("data", pack) for pack in packs}
    keys |= {files.key("snapshots", one.snapshot_id) for one in snapshots}
    keys |= {files.key(kind, found.file_id) for kind in ("index", "keys") for found in files.ids(kind)}
    return Kept((*sorted(keys), files.config_key), len(snapshots), unnamed)


def all_keys(repository: Repository) -> Kept:
    """Every file of the repository but its passing locks: what is kept while nobody can say what is needed."""
    files = repository._files
    kinds = ("data", "index", "keys", "snapshots")
    keys = [files.key(kind, found.file_id) for kind in kinds for found in files.ids(kind)]  # type: ignore[arg-type]
    return Kept((*sorted(keys), files.config_key), 0, 0)


def keys_to_keep(repository: Repository, *, forgotten: Collection[str]) -> Kept:
    """What the kept snapshots need; everything where that cannot be told."""
    try:
        return kept_keys(repository, forgotten=forgotten)
    except RepositoryDamaged:
        return all_keys(repository)
