"""The sidecar of a slide, archive layout version 1 (docs/formats.md).

`slides/<number>/sidecar.json` vouches for exactly the objects it names. It is put conditionally after the cold
re-read, so a slide exists when and only when its sidecar does, and the catalog can be rebuilt from the
sidecars alone (D15). It holds no identifier.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mover.errors import StructureInvalid

FORMAT = "mover-sidecar"
VERSION = 1


class Thumbnail(Struct, frozen=True):
    key: str
    size_bytes: int
    blake3: str


class Sidecar(Struct, frozen=True, kw_only=True):
    number: str
    site: str
    family: str
    extension: str
    key: str
    size_bytes: int
    blake3: str
    segments: tuple[str, ...]
    thumbnail: Thumbnail
    facts: dict[str, Any]
    evidence: dict[str, Any]
    created_at: str
    software: str
    format: str = FORMAT
    version: int = VERSION


def slide_folder(number: str) -> str:
    return f"slides/{number}"


def sidecar_key(number: str) -> str:
    return f"{slide_folder(number)}/sidecar.json"


def encode_sidecar(sidecar: Sidecar) -> bytes:
    return msgspec.json.encode(sidecar, order="sorted") + b"\n"


def decode_sidecar(data: bytes) -> Sidecar:
    """Raises StructureInvalid for anything but a sidecar of a version we know."""
    try:
        sidecar = msgspec.json.decode(data, type=Sidecar)
    except msgspec.MsgspecError as error:
        raise StructureInvalid("not a sidecar") from error
    if sidecar.format != FORMAT or sidecar.version != VERSION:
        raise StructureInvalid(f"sidecar version {sidecar.version} is not understood")
    return sidecar
