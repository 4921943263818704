"""The sidecar of a slide, archive layout version 2 (docs/formats.md).

`slides/<number>/sidecar.json` vouches for exactly the objects it names: the main file, the files that belong to it
and the thumbnail. It is put conditionally after the cold re-read of all of them, so a slide exists when and only when
its sidecar does, and the catalog can be rebuilt from the sidecars alone (D15). It holds no identifier.

Version 1 knew slides of one file only, all with a thumbnail; it still opens.
"""

from __future__ import annotations

from typing import Any

import msgspec
from blake3 import blake3
from msgspec import Struct

from mover.errors import StructureInvalid

FORMAT = "mover-sidecar"
VERSION = 2


class Thumbnail(Struct, frozen=True):
    key: str
    size_bytes: int
    blake3: str


class SidecarFile(Struct, frozen=True):
    """One file beside the main one. `name` is where it lies below the folder that a run root gives the slide.

    `literals` are the ranges (offset, length) that no copied tile or pixel brought: what is searched again when the
    patient's records arrive. None: written before these were kept."""

    name: str
    key: str
    size_bytes: int
    blake3: str
    segments: tuple[str, ...] = ()
    literals: tuple[tuple[int, int], ...] | None = None


class Profile(Struct, frozen=True):
    """Under what the slide was de-identified: the profile's name, version and digest, and the digest of those of its
    rules that this family obeys. Slides of equal rules may stand for each other, whatever else changed in a profile."""

    name: str
    version: str
    blake3: str
    rules: str


class Sidecar(Struct, frozen=True, kw_only=True):
    number: str
    site: str
    family: str
    extension: str
    key: str
    size_bytes: int
    blake3: str
    segments: tuple[str, ...]
    thumbnail: Thumbnail | None = None
    facts: dict[str, Any]
    evidence: dict[str, Any]
    created_at: str
    software: str
    files: tuple[SidecarFile, ...] = ()
    profile: Profile | None = None
    literals: tuple[tuple[int, int], ...] | None = None
    format: str = FORMAT
    version: int = VERSION

    @property
    def main_name(self) -> str:
        return f"{self.number}.{self.extension}"

    @property
    def total_bytes(self) -> int:
        """All files of the slide, without the thumbnail."""
        return self.size_bytes + sum(file.size_bytes for file in self.files)

    @property
    def root(self) -> str:
        """What all files of the slide are: the digest of its only file, or BLAKE3 over a line `digest size name` of
        each, in the order of their names."""
        if not self.files:
            return self.blake3
        lines = [f"{self.blake3} {self.size_bytes} {self.main_name}\n"]
        lines += [f"{file.blake3} {file.size_bytes} {file.name}\n" for file in self.files]
        lines.sort(key=lambda line: line.split(" ", 2)[2].encode())
        return blake3("".join(lines).encode()).hexdigest()

    @property
    def keys(self) -> frozenset[str]:
        """Every object that the sidecar vouches for, and its own."""
        named = {self.key, sidecar_key(self.number), *(file.key for file in self.files)}
        return frozenset(named | {self.thumbnail.key} if self.thumbnail else named)


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
    if sidecar.format != FORMAT or sidecar.version not in (1, VERSION):
        raise StructureInvalid(f"sidecar version {sidecar.version} is not understood")
    if sidecar.version == 1 and (sidecar.thumbnail is None or sidecar.files):
        raise StructureInvalid("not a sidecar of version 1: that has a thumbnail and no files")
    return sidecar
