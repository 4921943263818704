"""What a scan looks at: a folder tree, a bucket's listing, an inventory somebody else made.

Each is a context that gives `Lookers` for the conductor, and is checked before and after where that is possible.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mover.errors import EntryMissing, TierUnavailable
from mover.tiers import beneath
from mover.tiers.port import ReadTier
from mover.walk.inventory import Inventory, Manifest, read_manifest
from mover.walk.ledger import Place
from mover.walk.listing import Listing, Parts
from mover.walk.reader import Job
from mover.walk.readers import InThread, Lookers, Readers


@contextmanager
def posix(
    tier: ReadTier, place: Place, *, cross_mounts: bool, secret: bytes, processes: int
) -> Iterator[Lookers]:
    """Every reader works on one descriptor of the root: what is mounted over it meanwhile does not mislead them,
    and is noticed at the end. No `processes` at all: this thread reads."""
    found = innermost(tier)
    root_path = str(Path(found.root))
    root = _open_root(root_path, tier.name)
    try:
        _refuse_missing(root, place, tier.name)
        # on a read-only tier of the identified zone nothing is ours, so nothing is hidden
        hide = not (tier.zone == "identified" and found.read_only)
        job = Job(
            scan=place.scan.encode(), root=root, hide=hide, sealed=tier.zone == "identified",
            cross_mounts=cross_mounts, key=secret,
        )  # fmt: skip
        readers: Lookers = Readers(job, tier=tier.name, processes=processes) if processes else InThread(job)
        try:
            yield readers
        finally:
            readers.close()
        _refuse_replaced(root, root_path, tier.name)
    finally:
        os.close(root)


@contextmanager
def listing(tier: ReadTier, place: Place, *, secret: bytes) -> Iterator[Lookers]:
    """Of a bucket, or of what is below a prefix of it."""
    lookers = Listing(innermost(tier), _parts(tier, place, secret), prefix=place.prefix)
    try:
        yield lookers
    finally:
        lookers.close()


@contextmanager
def inventory(tier: ReadTier, place: Place, *, manifest: Manifest, secret: bytes) -> Iterator[Lookers]:
    """Files that say what stood in the bucket when they were written."""
    lookers = Inventory(tier, _parts(tier, place, secret), manifest, prefix=_prefix(tier))
    try:
        yield lookers
    finally:
        lookers.close()


def manifest_of(tier: ReadTier, key: str) -> Manifest:
    return read_manifest(tier, key, bucket=innermost(tier).where.bucket)


def _prefix(tier: ReadTier) -> str:
    """What the tier's own keys lack of the bucket's."""
    prefix = str(innermost(tier).where.prefix).strip("/")
    return f"{prefix}/" if prefix else ""


def _parts(tier: ReadTier, place: Place, secret: bytes) -> Parts:
    return Parts(place.scan.encode(), sealed=tier.zone == "identified", key=secret)


def innermost(tier: ReadTier) -> Any:
    """The posix or object tier inside the wrappers of retry and guard: readers are processes of their own, and
    listings resume by themselves."""
    while hasattr(tier, "inner"):
        tier = tier.inner
    return tier


def _open_root(path: str, tier: str) -> int:
    try:
        return beneath.open_root(path)
    except OSError as error:
        raise TierUnavailable("the root cannot be opened", where=tier) from error


def _refuse_missing(root: int, place: Place, tier: str) -> None:
    if not place.prefix:
        return
    try:
        os.close(beneath.open_folder(root, place.prefix.split(b"/")))
    except FileNotFoundError:
        raise EntryMissing("the folder to scan does not exist", where=tier) from None
    except OSError as error:
        raise beneath.translated(error, "the folder to scan cannot be opened", tier=tier) from None


def _refuse_replaced(root: int, path: str, tier: str) -> None:
    again = _open_root(path, tier)
    try:
        if not os.path.sameopenfile(root, again):
            raise TierUnavailable("another root stands there than at the beginning of the walk", where=tier)
    finally:
        os.close(again)
