"""A tier that is only read is told before anything is begun on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover.clock import pause
from mover.errors import TierDenied
from mover.tiers.port import prunable
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import RetryTier


def test_a_read_only_tier_is_refused_with_what_to_do_however_it_is_wrapped(tmp_path: Path) -> None:
    """An assert once ended a shard without a word; the settings' `read_only` is far below the wrappers."""
    bare = PosixTier("archive", "deidentified", tmp_path, role="archive", read_only=True)
    for tier in (bare, RetryTier(bare, sleep=pause), RetryTier(RetryTier(bare, sleep=pause), sleep=pause)):
        with pytest.raises(TierDenied, match="only be read") as denied:
            prunable(tier)
        assert denied.value.where == "archive" and "`read_only`" in denied.value.advice
    writable = RetryTier(PosixTier("archive", "deidentified", tmp_path, role="archive"), sleep=pause)
    assert prunable(writable) is writable
