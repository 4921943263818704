"""Is this root the tier it claims to be (design D11)?

A writable tier carries `.mover/tier.json`; an absent or different one means "not mounted": stop, delete
nothing. A read-only source is never written to, so it is known by a pin taken at registration (mount source,
file system, its id, the root's inode) or by a named sentinel file. An identity is one text:

    id:<hex>            the id in .mover/tier.json
    pin:<text>          what `pin(root)` returned at registration
    sentinel:<key>      a plain file of that key stands below the root
"""

from __future__ import annotations

import os

import msgspec

from mover.errors import Conflict, TierUnavailable
from mover.model.tiers import Zone
from mover.randomness import random_bytes
from mover.tiers import beneath, mounts

IDENTITY_KEY = ".mover/tier.json"
MAX_IDENTITY_BYTES = 64 * 1024


class TierIdentity(msgspec.Struct, frozen=True):
    id: str
    name: str
    zone: Zone


def new_identity(name: str, zone: Zone) -> TierIdentity:
    return TierIdentity(id=random_bytes(16).hex(), name=name, zone=zone)


def encode(identity: TierIdentity) -> bytes:
    return msgspec.json.format(msgspec.json.encode(identity), indent=1) + b"\n"


def decode(data: bytes, *, tier: str) -> TierIdentity:
    try:
        return msgspec.json.decode(data, type=TierIdentity)
    except msgspec.DecodeError:
        raise TierUnavailable("the tier's identity file cannot be read", where=tier) from None


def compare(found: TierIdentity, *, name: str, zone: Zone, identity: str | None) -> None:
    """TierUnavailable unless what the root says of itself is what the configuration says."""
    wanted = (identity or "").removeprefix("id:")
    if (found.name, found.zone) != (name, zone) or (wanted and wanted != found.id):
        raise TierUnavailable("another tier's identity stands at this root", where=name)


def same_or_conflict(found: TierIdentity, *, name: str, zone: Zone) -> str:
    """For registration: the identity that is there already, unless it is somebody else's."""
    if (found.name, found.zone) != (name, zone):
        raise Conflict(
            f"the root already belongs to tier {found.name} ({found.zone})",
            where=name,
            hint="Choose another root, or remove the old tier's identity by hand.",
        )
    return f"id:{found.id}"


def establish(root: str | os.PathLike[str], *, name: str, zone: Zone) -> str:
    """Write the identity of a writable posix tier, or accept the same one; its identity text."""
    from mover.tiers.posix import put_file

    folder = beneath.open_root(os.fspath(root))
    try:
        found = read_identity(folder, tier=name)
        if found is None:
            made = new_identity(name, zone)
            put_file(folder, IDENTITY_KEY, encode(made), tier=name)
            return f"id:{made.id}"
        return same_or_conflict(found, name=name, zone=zone)
    finally:
        os.close(folder)


def read_identity(root: int, *, tier: str) -> TierIdentity | None:
    try:
        descriptor = beneath.open_file(root, beneath.key_parts(IDENTITY_KEY))
    except FileNotFoundError:
        return None
    try:
        return decode(os.pread(descriptor, MAX_IDENTITY_BYTES, 0), tier=tier)
    finally:
        os.close(descriptor)


def pin(root: str | os.PathLike[str]) -> str:
    """What a read-only root is known by; nothing is written. Take it while the source is surely mounted."""
    descriptor = beneath.open_root(os.fspath(root))
    try:
        return pin_of(descriptor)
    finally:
        os.close(descriptor)


def pin_of(root: int) -> str:
    status, system = os.fstat(root), os.fstatvfs(root)
    mount = mounts.mount_of_device(status.st_dev)
    return f"pin:{mount.filesystem} {mount.source} fsid={system.f_fsid:x} inode={status.st_ino:x}"
