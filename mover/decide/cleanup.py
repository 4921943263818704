"""What of a run root may go, and what must not (design runs.md, Cleanup).

Removed: what stands in the manifest unchanged, and what the run wrote that is protected byte for byte.
Everything else is a stray: moved aside and reported, never deleted. A plan that was made without reading says which
files will be read first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct


class Standing(Struct, frozen=True):
    """One file below the run root as it stands. `digest` is read from its bytes where that matters
    (everything outside `data/`); None where the fingerprint decides."""

    path: str
    size_bytes: int
    digest: str | None
    kind: Literal["file", "symlink", "other"] = "file"
    unchanged: bool = False  # data/: the fingerprint it had when its bytes were known, or read and the same
    mark: str = ""  # what moves when the file is written or exchanged
    unread: bool = False  # its bytes were not read, and nothing else says what they are


class CleanStep(Struct, frozen=True):
    action: Literal["remove", "stray", "read"]
    path: str
    size_bytes: int
    reason: str
    mark: str = ""  # of the file that was judged; another one at its name is another judgement


# written by the seal itself, reproducible from the catalog
OWN_FILES = frozenset({"manifest.jsonl", "RUN.json"})


def plan_cleanup(
    standing: list[Standing], *, manifest: Mapping[str, int], artifacts: Mapping[str, str]
) -> list[CleanStep]:
    """`manifest`: path -> size. `artifacts`: path below the root -> BLAKE3 as protected ('link:<target>' for
    symlinks). A run that never was ready passes what it staged as `manifest` and no artifacts."""
    return [_judge(entry, manifest, artifacts) for entry in sorted(standing, key=lambda s: s.path)]


def _judge(entry: Standing, manifest: Mapping[str, int], artifacts: Mapping[str, str]) -> CleanStep:
    def step(action: Literal["remove", "stray", "read"], reason: str) -> CleanStep:
        return CleanStep(action, entry.path, entry.size_bytes, reason, entry.mark)

    if entry.unread and (entry.path in manifest or entry.path in OWN_FILES or entry.path in artifacts):
        return step("read", "read first: it goes when it is what the catalog says, and is moved aside when it is not")
    if entry.path in manifest:
        if entry.kind == "file" and entry.unchanged and entry.size_bytes == manifest[entry.path]:
            return step("remove", "in the manifest and unchanged")
        return step("stray", "changed")
    if entry.path in OWN_FILES and entry.unchanged:
        return step("remove", "written by the seal")
    if entry.path in artifacts:
        if entry.digest is not None and entry.digest == artifacts[entry.path]:
            return step("remove", "protected by a checked snapshot")
        return step("stray", "changed")
    return step("stray", "stranger")
