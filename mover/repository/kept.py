"""Which files of a repository the kept snapshots need, for whoever keeps them from being deleted.

Of packs those that hold a needed blob; of index files, keys and the config all. Blobs that two packs hold count for
the pack that the index names first, which is also the one that is read.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from msgspec import Struct

from mover.errors import RepositoryDamaged
from mover.repository.facts import SnapshotFacts
from mover.repository.files import FileKind
from mover.repository.needs import Needs
from mover.repository.repository import Repository


class Kept(Struct, frozen=True):
    """Keys on the tier, in order of their names; not `whole` when a blob that is needed is in no index, or a tree
    cannot be read: damage, for `check` to tell."""

    keys: tuple[str, ...]
    snapshots: int  # that are kept
    whole: bool = True


def keys_to_keep(repository: Repository, *, forgotten: Collection[str]) -> Kept:
    """Every snapshot of the repository counts, also those that other clients made, but the forgotten. Where nobody can
    say what is needed, everything that is there is kept."""
    files = repository._files
    snapshots: list[SnapshotFacts] = []
    packs = None
    with suppress(RepositoryDamaged):  # also of a file that somebody put there: it must not let the locks run out
        snapshots = [one for one in repository.snapshots() if one.snapshot_id not in forgotten]
        packs = _packs(repository, [bytes.fromhex(one.tree_id) for one in snapshots])
    if packs is None:
        kinds: tuple[FileKind, ...] = ("data", "index", "keys", "snapshots")
        keys = {files.key(kind, found.file_id) for kind in kinds for found in files.ids(kind)}
        return Kept((*sorted(keys), files.config_key), len(snapshots), whole=False)
    doors: tuple[FileKind, ...] = ("index", "keys")
    keys = {files.key(kind, found.file_id) for kind in doors for found in files.ids(kind)}
    keys |= {files.key("data", pack) for pack in packs}
    keys |= {files.key("snapshots", one.snapshot_id) for one in snapshots}
    return Kept((*sorted(keys), files.config_key), len(snapshots))


def _packs(repository: Repository, roots: list[bytes]) -> set[str] | None:
    """Of every blob that is needed; None when one is in no index. RepositoryDamaged."""
    index = repository._fresh_index()
    needs = Needs()
    needs.add(repository._reader().tree, roots)
    places = [index.find(kind, blob_id) for kind, blob_id in needs]
    return None if None in places else {place.pack_id for place in places if place is not None}
