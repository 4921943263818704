"""A dump's bytes on tiers: written sealed, copied, read back cold, found again without the catalog.

    <prefix>/<dump>/<attempt>.sealed     the sealed stream; its name is used once
    <prefix>/<dump>.json                 the sidecar, put last: which file, its digest, what must be in it

A copy counts when its sidecar stands. The sidecar is signed with a key of the vault, so that a restore takes no dump
that somebody else sealed for the same pair: sealing needs only the public part. No identifier stands in either.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover.catalog.dumping import TableFacts
from mover.deid.sealedstream import Examined, examine
from mover.deid.vaultkeys import VaultKey
from mover.errors import DigestMismatch, EntryLocked, EntryMissing, IntegrityError, NotFound, StructureInvalid
from mover.model.ids import is_id
from mover.tiers.port import PruneTier, ReadTier
from mover.tiers.wrappers import put_same

SIDECAR_BYTES = 1 << 20
LISTED_MAX = 100_000
SEALED = ".sealed"


class Told(Struct, frozen=True, kw_only=True):
    """What a sidecar says of a dump."""

    dump: str
    site: str
    file: str  # below the dump's folder
    digest: str
    size_bytes: int
    taken_at: str
    software: str
    schema: str
    pair: str
    tables: dict[str, TableFacts]


class Sidecar(Struct, frozen=True, kw_only=True):
    told: Told
    mac: bytes


def sign(told: Told, key: VaultKey) -> Sidecar:
    return Sidecar(told=told, mac=_mac(told, key))


def check_signed(sidecar: Sidecar, key: VaultKey) -> None:
    """Raises IntegrityError when it was not written by a process that holds this vault's key."""
    if not is_signed(sidecar, key):
        raise IntegrityError(
            "the dump's sidecar was not signed with this vault's key", where=sidecar.told.dump,
            hint="Is it this site's dump, and the vault key that was backed up apart from it?",
        )  # fmt: skip


def is_signed(sidecar: Sidecar, key: VaultKey) -> bool:
    return hmac.compare_digest(sidecar.mac, _mac(sidecar.told, key))


def _mac(told: Told, key: VaultKey) -> bytes:
    """`keyed` stays the same whatever was re-keyed: an old dump is still ours."""
    return hmac.digest(key.keyed("mover vault dump sidecar"), msgspec.json.encode(told, order="sorted"), sha256)


# --- writing ----------------------------------------------------------------------------------------------


class Written(Struct, frozen=True):
    digest: str
    size_bytes: int


def write(tier: PruneTier, key: str, sealed: Iterable[bytes]) -> Written:
    """Blocking. Whole and durable, or an exception and nothing under the name."""
    passing = _Digesting(sealed)
    tier.put(key, passing)
    return Written(passing.hexdigest(), passing.size_bytes)


def read_back(tier: ReadTier, key: str, wanted: Written) -> Examined:
    """Blocking, cold. DigestMismatch when it is not what was written; IntegrityError when it has no whole structure."""
    found = examine(tier.stream(key, cold=True))
    if (found.digest, found.size_bytes) != (wanted.digest, wanted.size_bytes):
        raise DigestMismatch("a copy of the dump is not what was written", where=tier.name)
    return found


def copy(source: ReadTier, source_key: str, target: PruneTier, target_key: str, wanted: Written) -> None:
    """Blocking. The source is read cold and compared on the way: what differs is published nowhere."""

    def checked() -> Iterator[bytes]:
        passing = _Digesting(source.stream(source_key, cold=True))
        yield from passing
        if passing.hexdigest() != wanted.digest:
            raise DigestMismatch("a copy of the dump is not what was written", where=source.name)

    target.put(target_key, checked(), size_bytes=wanted.size_bytes)


def vouch(tier: Any, prefix: str, sidecar: Sidecar) -> None:
    """Last: now the copy counts."""
    put_same(tier, sidecar_key(prefix, sidecar.told.dump), msgspec.json.encode(sidecar) + b"\n")


def sidecar_key(prefix: str, dump: str) -> str:
    return f"{prefix}/{dump}.json"


def file_key(prefix: str, dump: str, file: str) -> str:
    return f"{prefix}/{dump}/{file}"


def remove(tier: PruneTier, prefix: str, dump: str, *, unfinished: bool = False) -> None:
    """Blocking. The sidecar last: what was cut off is still known as ours, and ended by the next. EntryLocked where the
    tier holds on to a file; of an `unfinished` one it stays, and is nobody's: no sidecar names it. IntegrityError
    for what is no dump's id: rows can be forged, and what stands below the id goes."""
    if not is_id(dump, "dump"):
        raise IntegrityError("this is not the id of a dump: nothing is removed by it", where=tier.name)
    prune = tier.tidy if unfinished else tier.remove
    for key in (*_files(tier, f"{prefix}/{dump}"), sidecar_key(prefix, dump)):
        with suppress(EntryMissing, *((EntryLocked,) if unfinished else ())):  # removed by us before a crash
            prune(key)


def _files(tier: ReadTier, folder: str) -> list[str]:
    try:
        return [entry.key for entry in tier.list(folder) if entry.kind == "file"]
    except EntryMissing:
        return []  # nothing was ever written there


# --- finding ----------------------------------------------------------------------------------------------


def find(tier: ReadTier, prefix: str, dump: str | None = None) -> Sidecar:
    """Blocking. The named dump on this tier, or the one of the latest moment. NotFound."""
    found = list(listed(tier, prefix, dump))
    if not found:
        what = "no dump stands there" if dump is None else "this dump does not stand there"
        raise NotFound(what, where=tier.name, hint="Look on the other tier of the dump policy.")
    return max(found, key=lambda one: one.told.taken_at)


def listed(tier: ReadTier, prefix: str, dump: str | None = None) -> Iterator[Sidecar]:
    """Blocking. Sidecars that can be read; one that cannot vouches for nothing."""
    keys = [sidecar_key(prefix, dump)] if dump is not None else _sidecars(tier, prefix)
    return (sidecar for _, sidecar in _readable(tier, keys))


def vouched(tier: ReadTier, prefix: str, *, key: VaultKey, site: str) -> dict[str, Told]:
    """Blocking. What this vault signed and put under its id, by id. Whoever writes rows, or files, cannot add to it."""
    return {
        one.told.dump: one.told for where, one in _readable(tier, _sidecars(tier, prefix))
        if is_signed(one, key) and one.told.site == site and where == sidecar_key(prefix, one.told.dump)
    }  # fmt: skip


def _readable(tier: ReadTier, keys: Iterable[str]) -> Iterator[tuple[str, Sidecar]]:
    for key in keys:
        try:
            yield key, read_sidecar(tier, key)
        except (EntryMissing, StructureInvalid):
            continue


def _sidecars(tier: ReadTier, prefix: str) -> list[str]:
    try:
        found = [e.key for e in tier.list(prefix) if e.key.endswith(".json") and "/" not in e.key[len(prefix) + 1 :]]
    except EntryMissing:
        return []
    return found[:LISTED_MAX]


def read_sidecar(tier: ReadTier, key: str) -> Sidecar:
    if tier.stat(key).fingerprint.size_bytes > SIDECAR_BYTES:
        raise StructureInvalid("a sidecar of a dump is larger than such a file can be", where=tier.name)
    try:
        return msgspec.json.decode(tier.read(key), type=Sidecar)
    except (msgspec.DecodeError, ValueError) as error:
        raise StructureInvalid("a sidecar of a dump cannot be decoded", where=tier.name) from error


class _Digesting:
    """Chunks on their way, digested and counted. What they raise goes on to whoever writes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._hasher = chunks, blake3()
        self.size_bytes = 0

    def hexdigest(self) -> str:
        return str(self._hasher.hexdigest())

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self._hasher.update(chunk)
            self.size_bytes += len(chunk)
            yield chunk
