from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.warm import warm_runs


@pytest.fixture(scope="session", autouse=True)
def _warm() -> Iterator[None]:
    with warm_runs():
        yield
