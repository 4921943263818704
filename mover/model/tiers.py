"""Words about tiers and the entries on them."""

from __future__ import annotations

from typing import Literal, get_args

from msgspec import Struct

Zone = Literal["identified", "deidentified"]
TierKind = Literal["posix", "object"]
TierRole = Literal["source", "archive", "flash", "protect"]
# S3's words: a lock that a special right may lift, and one that nobody lifts before its time
LockMode = Literal["GOVERNANCE", "COMPLIANCE"]
LOCK_MODES: tuple[LockMode, ...] = get_args(LockMode)


class Fingerprint(Struct, frozen=True):
    """A cheap change test, never called verification (D6). `mark` is inode+ctime or an etag."""

    size_bytes: int
    mtime_ns: int
    mark: str


class Entry(Struct, frozen=True):
    """One file or object as a walk saw it. `key` is relative to the tier's root, '/'-separated;
    bytes that are not UTF-8 travel as surrogate escapes."""

    key: str
    kind: Literal["file", "folder", "symlink", "other"]
    fingerprint: Fingerprint


class Traits(Struct, frozen=True):
    """What a probe found a tier able to do; a policy that needs a missing trait is refused."""

    conditional_put: bool = False
    range_read: bool = True
    reflink: bool = False
    hard_link: bool = False
    object_lock: bool = False
    rename_noreplace: bool = False
    o_direct: bool = False
    xattrs: bool = False
    # the file system's own name; of object tiers none
    filesystem: str = ""
    # its answers come from another machine (or a FUSE process): calls may hang, other clients' changes show late
    network: bool = False
    # one syncfs makes all that was written durable and says so when it did not; elsewhere each file is synced
    syncfs: bool = False
    # of object stores: a multipart upload, also one that refuses a name that is taken; a wrong checksum refused;
    # versions kept by the bucket
    multipart: bool = False
    conditional_complete: bool = False
    checksum_rejection: bool = False
    versioning: bool = False


# those a policy can ask of a tier by name
TraitName = Literal[
    "conditional_put",
    "conditional_complete",
    "checksum_rejection",
    "range_read",
    "multipart",
    "versioning",
    "object_lock",
]


class Digest(Struct, frozen=True):
    """BLAKE3-256 of the whole content in hex, as `b3sum` prints it, and the digests of its 16 MiB
    segments, which stand beside it, never for it."""

    blake3: str
    size_bytes: int
    segments: tuple[str, ...] = ()
