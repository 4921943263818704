"""The settled site of the system tests, in a place where other users may go."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.conftest import hospital, worked
from tests.system.ward import Ward, ending

__all__ = ["hospital", "site", "standing", "worked"]


@pytest.fixture(scope="module")
def site(worked: Ward) -> Iterator[Ward]:
    """A site of a module's own, not started."""
    with _copy(worked) as ward:
        yield ward


@pytest.fixture(scope="module")
def standing(worked: Ward) -> Iterator[Ward]:
    """A site whose daemon runs, for all tests of a module."""
    with _copy(worked) as ward:
        ward.start().close()
        yield ward


@contextmanager
def _copy(worked: Ward) -> Iterator[Ward]:
    """Published slides and aligned records, and a flash tier that jobs of other users can reach: pytest's own folders
    are closed to everybody."""
    folder = Path(tempfile.mkdtemp(prefix="mover-site-"))
    folder.chmod(0o711)
    ward = Ward.copy(folder / "site", worked)
    for one in (ward.root, ward.flash):
        one.chmod(0o711)
    try:
        with ending([ward]):
            yield ward
    finally:
        shutil.rmtree(folder, ignore_errors=True)
