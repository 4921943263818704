"""A checkpoint of the audit: where every chain of a project ended, signed and kept elsewhere (docs/formats.md).

One form only: sorted keys, no spaces, one line. Each names the digest of the one before, so that a checkpoint taken
out of the row is missed.
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import UNSET, Struct, UnsetType

from mover.model.certificate import Signature

FORM: Final = "mover-audit-checkpoint/1"
# a site has some hundreds of nodes in its life at most, and a chain for each
HEADS_MAX: Final = 10_000
BYTES_MAX: Final = 4 << 20


class ChainEnd(Struct, frozen=True):
    node: str
    seq: int
    hash: str  # SHA-256 of the last record, in hexadecimals


class Lost(Struct, frozen=True):
    """Of one chain: the last record in which it and the copies agree, and the last that copies tell of."""

    node: str
    kept: int
    upto: int


class Restored(Struct, frozen=True, kw_only=True):
    """Two people said that the catalog was restored from an older dump, and that `after` is the last checkpoint it had:
    what the later ones say of records after `kept` can no longer be checked, and what all say of others still is."""

    id: str
    reason: str
    asked_by: str
    approved_by: str
    after: int
    lost: tuple[Lost, ...]


class RetiredChain(Struct, frozen=True):
    """The oldest records of one chain, those after `after` up to `upto`, whose hash is `hash`."""

    node: str
    after: int
    upto: int
    hash: str


class Retired(Struct, frozen=True, kw_only=True):
    """Two people said that these records, all from before `before`, leave the catalog for the pack with this digest,
    which stands on `tiers`. `carried` are earlier statements of restores and retirements whose own records are among
    them."""

    id: str
    reason: str
    asked_by: str
    approved_by: str
    before: str
    chains: tuple[RetiredChain, ...]
    pack: str
    tiers: tuple[str, ...]
    carried: tuple[str, ...] = ()


class Checkpoint(Struct, frozen=True, kw_only=True):
    form: Literal["mover-audit-checkpoint/1"] = FORM
    site: str
    project: str
    n: int  # 1, 2, 3 … without a gap
    at: str  # UTC, the signer's clock
    heads: tuple[ChainEnd, ...]
    previous: str  # BLAKE3 of the file of n - 1; empty for the first
    restored: Restored | UnsetType = UNSET  # only in the first one after a restore
    retired: Retired | UnsetType = UNSET  # only in the one that says it


class SignedCheckpoint(Struct, frozen=True):
    checkpoint: Checkpoint
    signature: Signature


def folder_of(project: str) -> str:
    """In the tier's own folder, which no walk takes for content."""
    return f".mover/audit/{project}"


def key_of(project: str, n: int) -> str:
    """Where checkpoint `n` stands on a tier."""
    return f"{folder_of(project)}/{n:012d}.json"


def pack_key_of(project: str, id: str) -> str:
    """Where the pack of a retirement stands on a tier: beside the checkpoints' folders, not in one."""
    return f".mover/audit-packs/{project}/{id}.audit"
