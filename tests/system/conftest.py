"""Fixtures of the system tests: hospitals, wards, and kill points told to the closing summary."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mover.demo import generate, seaweed
from mover.model import wire
from tests.demo.conftest import small_hospital
from tests.system.ward import WAIT_S, Ward, copy_hospital, ending


@pytest.fixture(scope="session")
def hospital(shared: Callable[[str, Callable[[Path], None]], Path]) -> generate.Hospital:
    """Two batches of small slides with every planted fault and identifier; those of the demo's tests too."""
    return small_hospital(shared)


@pytest.fixture
def make_ward(tmp_path: Path, weed: seaweed.Seaweed) -> Iterator[Callable[[Path], Ward]]:
    """Wards over a source of one's own; all of them end with the test."""
    made: list[Ward] = []

    def make(source: Path) -> Ward:
        ward = Ward.build(tmp_path / f"ward-{len(made)}", source, weed, bucket_prefix=secrets.token_hex(6))
        made.append(ward)
        return ward

    with ending(made):
        yield make


@pytest.fixture
def ward(make_ward: Callable[[Path], Ward], hospital: generate.Hospital, tmp_path: Path) -> Ward:
    """A fresh site over a copy of the hospital: nothing is declared yet."""
    return make_ward(copy_hospital(Path(hospital.source), tmp_path / "source"))


@pytest.fixture(scope="session")
def worked(
    shared: Callable[[str, Callable[[Path], None]], Path], hospital: generate.Hospital, weed: seaweed.Seaweed
) -> Ward:
    """A stopped site whose images are published and records aligned, made once and copied by `settled`."""

    def fill(folder: Path) -> None:
        source = copy_hospital(Path(hospital.source), folder / "source")
        (folder / "prefix").write_text(secrets.token_hex(6))
        work(Ward.build(folder / "site", source, weed, bucket_prefix=(folder / "prefix").read_text()), hospital)

    folder = shared("worked", fill)
    return Ward(folder / "site", folder / "source", weed, bucket_prefix=(folder / "prefix").read_text())


def work(ward: Ward, hospital: generate.Hospital) -> None:
    with ending([ward]), ward.start() as client:
        for folder, count in hospital.declared.items():
            batch = client.batches.declare(wire.BatchRequest(folder=folder, expected_count=count))
            records = client.records.declare(wire.RecordsRequest(batch=batch.id, files=ward.tables(folder)))
            assert client.batches.wait(batch.id, timeout_s=WAIT_S).state == "complete"
            assert client.records.wait(records.id, timeout_s=WAIT_S).state == "aligned"


@pytest.fixture
def settled(worked: Ward, tmp_path: Path) -> Iterator[Ward]:
    """A site of one's own with published slides and aligned records; the bucket and the source are shared."""
    ward = Ward.copy(tmp_path / "site", worked)
    with ending([ward]):
        yield ward


@pytest.fixture
def note_kills(record_property: Callable[[str, Any], None]) -> Callable[[Ward], None]:
    """Carry a ward's kill points to the closing summary as they happen, also from a test that fails later."""

    def note(ward: Ward) -> None:
        ward.on_kill = lambda kill: record_property("kill", f"{kill.step}: {', '.join(kill.shards)} - {kill.phase}")

    return note
