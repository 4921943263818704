"""One small hospital for all tests of the demo: every kind of pack and every planted mess, some 40 MB."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mover.demo.generate import Hospital, build_hospital
from mover.demo.plan import Plan, make_plan
from mover.demo.planted import Planted, load

SCALE = 0.01


def build(folder: Path) -> None:
    build_hospital(folder, scale=SCALE, seed=7)


def small_hospital(shared: Callable[[str, Callable[[Path], None]], Path]) -> Hospital:
    """Made by the first who asks; found whole, it is used as it is."""
    return build_hospital(shared("hospital", build), scale=SCALE, seed=7)


@pytest.fixture(scope="session")
def hospital(shared: Callable[[str, Callable[[Path], None]], Path]) -> Hospital:
    return small_hospital(shared)


@pytest.fixture(scope="session")
def plan() -> Plan:
    return make_plan(seed=7, scale=SCALE)


@pytest.fixture(scope="session")
def source(hospital: Hospital) -> Path:
    return Path(hospital.source)


@pytest.fixture(scope="session")
def expected(hospital: Hospital) -> dict[str, Any]:
    return msgspec.json.decode(Path(hospital.expected).read_bytes())


@pytest.fixture(scope="session")
def planted(hospital: Hospital) -> list[Planted]:
    return load(Path(hospital.planted))
