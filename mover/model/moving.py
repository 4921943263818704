"""Words of moving many entries between tiers: what is asked for one entry, and what became of it.

An `Item` travels from a plan to the engine and into worker processes; an `Outcome` comes back. Outcomes are
values: one entry that cannot be moved never ends the others, and nothing about it is lost in a log.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mover.model.tiers import Fingerprint

ItemKind = Literal["file", "symlink", "folder"]
OutcomeState = Literal[
    "moved",    # under its final name, durable; `verified` says whether it was read back cold
    "present",  # the same bytes stood there already and were read cold (or linked from the same inode)
    "skipped",  # left out by the policy (`code` says which word of it)
    "failed",   # nothing new stands under the final name
]


class Keep(Struct, frozen=True, forbid_unknown_fields=True):
    """What of an entry's metadata travels. What a tier cannot hold (`xattrs` on an object tier) is dropped when
    its word here is False, and fails the entry with `metadata-unsupported` when it is True."""

    mode: bool = True
    mtime: bool = True
    owner: bool = False
    xattrs: bool = False
    acls: bool = False
    symlinks: Literal["copy", "skip", "refuse"] = "refuse"
    # files of several names: each copied, kept as links among the moved, or refused
    hard_links: Literal["copy", "link", "refuse"] = "copy"
    sparse: bool = True


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """How items are moved. Without `readback` an outcome is durable but not verified, and says so."""

    keep: Keep = Keep()
    readback: bool = True
    # a file that changes while it is read is read again this often before it is reported
    retries_changed: int = 2


class Item(Struct, frozen=True, array_like=True):
    """One entry to move. `id` is the caller's and comes back in the outcome. Keys are relative to the tiers'
    roots; bytes that are not UTF-8 travel as surrogate escapes. `fingerprint` is what the plan saw: an entry that
    differs is reported as changed. `blake3` is the digest known beforehand, or ""; with `trusted_since` (ISO 8601)
    it was verified then under this very fingerprint and may be inherited where bytes are shared, never copied."""

    id: int
    source: str
    target: str
    kind: ItemKind
    fingerprint: Fingerprint
    blake3: str = ""
    trusted_since: str = ""


class Outcome(Struct, frozen=True, array_like=True):
    """What became of an item. `code`, `what`, `retry` are an error's fields; no path stands in them.
    `written` is the target's fingerprint, for the catalog. `shared`: the bytes were reflinked or linked."""

    id: int
    state: OutcomeState
    size_bytes: int = 0
    blake3: str = ""
    verified: bool = False
    written: Fingerprint | None = None
    shared: bool = False
    trusted_since: str = ""
    code: str = ""
    what: str = ""
    retry: bool = False
