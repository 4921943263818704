"""The file of tombstones: what was erased, kept where no restore of the database reaches.

A line is written and synced before the rows go, and every start brings the vault back to the file: a backup from
before an erasure is erased again before anything is asked of it. A line names what had been given (a pseudonym, a
number, a UID, a sealed id) and the keyed lookup, and nothing of the patient; it is signed with a key of the vault, so
that nobody without it can erase by writing lines.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from mover.deid.vaultkeys import VaultKey
from mover.errors import SettingsInvalid
from mover.wholefile import sync_folder

STONES: Final = 50_000_000  # lines of one file
LINE_BYTES: Final = 4096
Kind = Literal["subject", "number", "entity", "uid", "sealed"]


class Stone(Struct, frozen=True, kw_only=True, omit_defaults=True):
    site: str
    kind: Kind
    lookup: bytes
    generation: int
    stood_for: str
    project: str = ""


class _Line(Struct, frozen=True, kw_only=True):
    stone: Stone
    mac: bytes


def write_stones(path: Path, key: VaultKey, stones: Iterable[Stone]) -> None:
    """Durable on return. A line that a kill cut short is ended first, or it would swallow ours."""
    text = b"".join(msgspec.json.encode(_Line(stone=one, mac=_mac(key, one))) + b"\n" for one in stones)
    try:
        fresh = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "rb+", buffering=0) as file:
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
            rest = memoryview((b"\n" if torn else b"") + text)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(handle)
        if fresh:
            sync_folder(path.parent)
    except OSError as error:
        raise SettingsInvalid("the file of tombstones cannot be written", where=str(path)) from error


def read_stones(path: Path, key: VaultKey) -> Iterator[Stone]:
    """Every whole line. Raises SettingsInvalid for one that was not written with this vault's key: a file that was
    edited is no memory of erasures."""
    try:
        file = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsInvalid("the file of tombstones cannot be read", where=str(path)) from error
    with file:
        for count, raw in enumerate(iter(lambda: file.readline(LINE_BYTES), b""), start=1):
            try:
                line = msgspec.json.decode(raw, type=_Line)
            except msgspec.DecodeError:
                continue  # what a kill cut short: its rows were not erased yet, and the command said no success
            if count > STONES or not hmac.compare_digest(line.mac, _mac(key, line.stone)):
                raise SettingsInvalid(
                    "the file of tombstones holds a line that this vault did not write", where=f"{path}:{count}",
                    hint="Put its own file back; what was erased since a backup is erased again only with it.",
                )  # fmt: skip
            yield line.stone


def _mac(key: VaultKey, stone: Stone) -> bytes:
    return hmac.digest(key.keyed("tombstones"), msgspec.json.encode(stone), sha256)
