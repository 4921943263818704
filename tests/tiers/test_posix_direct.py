"""Large pieces go past the page cache; what arrives is the same bytes in every case that does not allow it."""

from __future__ import annotations

import errno
import mmap
import os
import random
from pathlib import Path

import pytest

from mover.errors import TierFull
from mover.tiers import beneath, identity, posix
from mover.tiers.posix import DIRECT_BYTES, PosixTier

NOISE = random.Random(5).randbytes(DIRECT_BYTES + 12_345)


@pytest.fixture
def tier(tmp_path: Path) -> PosixTier:
    root = tmp_path / "tier"
    root.mkdir()
    identity.establish(root, name="flash", zone="deidentified")
    return PosixTier("flash", "deidentified", root)


def aligned(content: bytes) -> memoryview:
    memory = mmap.mmap(-1, len(content))
    memory[:] = content
    return memoryview(memory)


@pytest.mark.parametrize(
    "chunks",
    [
        [aligned(NOISE)],
        [aligned(NOISE)[1:]],  # memory that is not aligned
        [b"head", aligned(NOISE)],  # a place in the file that is not
        [aligned(NOISE[:DIRECT_BYTES]), aligned(NOISE), b"tail"],
    ],
)
def test_large_pieces_arrive_whole_wherever_they_begin_and_end(tier: PosixTier, chunks: list[memoryview]) -> None:
    """Direct writing has rules of alignment; breaking one must cost speed, never bytes."""
    tier.put("packs/one", chunks)  # type: ignore[arg-type]  # any buffer will do

    assert tier.read("packs/one") == b"".join(chunks)


def test_a_file_system_that_refuses_direct_writing_is_written_the_usual_way(
    tier: PosixTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some take the flag and refuse the call, some refuse the flag."""
    refused = []

    def refuse(descriptor: int, data: memoryview, offset: int) -> int:
        refused.append(offset)
        raise OSError(errno.EINVAL, "not here")

    monkeypatch.setattr(posix.os, "pwrite", refuse)
    tier.put("one", [aligned(NOISE)])  # type: ignore[list-item]
    monkeypatch.setattr(beneath, "open_direct", lambda descriptor, flags: -1)
    tier.put("two", [aligned(NOISE)])  # type: ignore[list-item]

    assert refused
    assert tier.read("one") == tier.read("two") == NOISE


def test_a_disk_that_is_full_fails_a_direct_write_as_any_other(
    tier: PosixTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a refusal of the way is met with the other way; a failure of the disk is told and leaves nothing."""

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(posix.os, "pwrite", full)

    with pytest.raises(TierFull):
        tier.put("one", [aligned(NOISE)])  # type: ignore[list-item]
    assert list(tier.list()) == []
