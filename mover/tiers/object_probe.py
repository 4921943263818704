"""What a store really does, tried on scratch objects when a tier is registered: "S3-compatible" promises nothing.

The answers are the tier's traits, which policies are checked against. A store that cannot be reached raises and is
tried again later; only a store that answers otherwise than it should lacks a trait.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import msgspec

from mover.errors import EntryExists, EntryMissing, IntegrityError, TierDenied, TierError
from mover.model.tiers import Traits
from mover.randomness import random_bytes
from mover.tiers.object_control import Control
from mover.tiers.object_place import Place
from mover.tiers.object_wire import crc32_text

CONTENT = b"0123456789"


class Scratch(Protocol):
    """The few plain calls of a tier that a probe makes."""

    def put_small(self, key: str, data: bytes) -> str:
        """The version's id, or ""."""

    def get_range(self, key: str, offset: int, length: int) -> bytes: ...

    def delete(self, key: str) -> None: ...


def probe(scratch: Scratch, where: Place, control: Control | None, *, folder: str) -> Traits:
    """`control` is there for S3 only; what obstore does for the others is told by trying as well."""
    key = f"{folder}probe-{random_bytes(8).hex()}"
    version = scratch.put_small(key, CONTENT)
    try:
        plain = Traits(
            conditional_put=_refuses_second(lambda: scratch.put_small(key, b"again")),
            range_read=_reads_range(scratch, key),
        )
        more = _s3_traits(control, where.full_key(key), version) if control is not None else {}
        return msgspec.structs.replace(plain, **more)
    finally:
        with suppress(TierError):  # a bucket under object lock keeps the ten bytes
            scratch.delete(key)


def _refuses_second(again: Callable[[], object]) -> bool:
    try:
        again()
    except EntryExists:
        return True
    return False


def _reads_range(scratch: Scratch, key: str) -> bool:
    try:
        return scratch.get_range(key, 2, 3) == CONTENT[2:5]
    except (TierError, IntegrityError):
        return False


def _s3_traits(control: Control, key: str, version: str) -> dict[str, bool]:
    versioning = _does(control.keeps_versions)
    return {
        "versioning": versioning,
        "object_lock": versioning and bool(version) and _does(lambda: _keeps(control, key, version)),
        **_upload_traits(control, key),
    }


def _does(ask: Callable[[], bool]) -> bool:
    """A store that does not know the question, or keeps the answer from us, promises nothing."""
    try:
        return ask()
    except (EntryMissing, TierDenied):
        return False


def _keeps(control: Control, key: str, version: str) -> bool:
    """A bucket may carry the flag and protect nothing: so a version is really asked to go."""
    if not control.locks_objects():
        return False
    try:
        control.delete_version(key, version)
    except TierDenied:
        return True
    return False


def _upload_traits(control: Control, key: str) -> dict[str, bool]:
    """An upload over a name that is taken: its wrong part, its right part, its completion."""
    try:
        upload = control.create(key)
    except (EntryMissing, TierDenied):
        return {"multipart": False}
    try:
        rejects = _rejects_spoiled(control, key, upload)
        parts = [(1, control.put_part(key, upload, CONTENT, crc32=crc32_text(CONTENT)))]
        refuses = _refuses_second(lambda: control.complete(key, upload, parts, if_none_match=True))
        return {"multipart": True, "conditional_complete": refuses, "checksum_rejection": rejects}
    except (EntryMissing, TierDenied):
        return {"multipart": False}
    finally:
        with suppress(TierError):
            control.abort(key, upload)


def _rejects_spoiled(control: Control, key: str, upload: str) -> bool:
    try:
        control.put_part(key, upload, b"spoiled", crc32=crc32_text(CONTENT))
    except (IntegrityError, TierDenied):
        return True
    return False
