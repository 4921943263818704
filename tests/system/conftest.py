"""Fixtures of the system tests, and the closing lines that say where processes were killed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mover.demo import generate, seaweed
from tests.system.ward import Ward, copy_hospital

SCALE = 0.02


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> generate.Hospital:
    """Two batches of small slides with every planted fault and identifier; about 40 MB."""
    return generate.build_hospital(tmp_path_factory.mktemp("hospital"), scale=SCALE, seed=11)


@pytest.fixture
def make_ward(
    tmp_path: Path, hospital: generate.Hospital, weed: seaweed.Seaweed
) -> Iterator[Callable[..., Ward]]:
    made: list[Ward] = []

    def make(source: Path | None = None) -> Ward:
        place = tmp_path / f"ward-{len(made)}"
        place.mkdir()
        chosen = source or copy_hospital(Path(hospital.source), place / "source")
        ward = Ward(place / "site", chosen, weed, bucket_prefix=secrets.token_hex(6))
        made.append(ward)
        return ward

    yield make
    for ward in made:
        ward.stop()


@pytest.fixture
def ward(make_ward: Callable[..., Ward]) -> Ward:
    return make_ward()


@pytest.fixture
def note_kills(record_property: Callable[[str, Any], None]) -> Callable[[Ward], None]:
    """Carry a ward's kill points to the closing summary."""

    def note(ward: Ward) -> None:
        for kill in ward.kills:
            record_property("kill", (kill["step"], kill["in_flight"]))

    return note
