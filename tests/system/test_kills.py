"""Kill the daemon's whole process group and its PostgreSQL at seeded points of each step.

After each kill everything is started again and the step must end by itself as if nothing had happened: nothing
lost, nothing doubled, no state without its proof, no root that differs from its manifest, no gap in the audit.
What was in flight at each point is printed at the end of the test run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mover.demo import artifacts, generate
from mover.demo.trees import differences
from mover.model import wire
from tests.system.ward import WAIT_S, Ward

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kills")]

POINTS = 8


def declare(ward: Ward, hospital: generate.Hospital, client) -> list[wire.Batch]:
    return [
        client.batches.declare(wire.BatchRequest(folder=folder, expected_count=count))
        for folder, count in hospital.declared.items()
    ]


def tables(ward: Ward, folder: str) -> dict[str, str]:
    files = sorted((ward.source / "records" / folder).glob("*.csv"))
    return {path.stem: f"records/{folder}/{path.name}" for path in files}


def let_run(seconds: float) -> None:
    """The seeded point: real time, because what is killed are real processes."""
    time.sleep(seconds)


def work_through_images(ward: Ward, hospital: generate.Hospital):
    client = ward.start()
    for batch in declare(ward, hospital, client):
        assert client.batches.wait(batch.id, timeout_s=WAIT_S).state == "complete"
    return client


def test_images_survive_kills(ward: Ward, hospital: generate.Hospital, note_kills: Callable, points: int):
    seed = random.Random(21)
    client = ward.start()
    batches = declare(ward, hospital, client)
    before = expected_counts(hospital)
    for _ in range(points):
        let_run(seed.uniform(0.05, 0.6))
        ward.crash("images")
        client.close()
        client = ward.restart()
    found = [client.batches.wait(batch.id, timeout_s=WAIT_S) for batch in batches]
    assert [b.state for b in found] == ["complete"] * len(found)
    for state, count in before.items():
        assert sum(b.packs.get(state, 0) for b in found) == count, state
    ward.check_archive()
    ward.check_audit(client)
    note_kills(ward)


def expected_counts(hospital: generate.Hospital) -> dict[str, int]:
    """The generator's own truth: good packs, faulty ones, and second names of a scan."""
    batches = msgspec.json.decode(Path(hospital.expected).read_bytes())["batches"].values()
    duplicates = sum(len(batch["same_scan"]) for batch in batches)
    return {
        "published": sum(len(batch["good"]) for batch in batches),
        "duplicate": duplicates,
        "quarantined": sum(len(batch["faulty"]) for batch in batches) - duplicates,
    }


def test_records_survive_kills(ward: Ward, hospital: generate.Hospital, note_kills: Callable, points: int):
    """Each corrected export is a new version; each is killed while it is matched."""
    seed = random.Random(22)
    client = work_through_images(ward, hospital)
    folder = next(iter(hospital.declared))
    cases = ward.source / "records" / folder / "outcomes.csv"
    for point in range(points):
        text = cases.read_bytes()
        cases.unlink()
        cases.write_bytes(text + text.splitlines(keepends=True)[-1])
        body = wire.RecordsRequest(batch=first_batch(client), files=tables(ward, folder))
        declared = client.records.declare(body)
        let_run(seed.uniform(0.0, 0.4))
        ward.crash("records")
        client.close()
        client = ward.restart()
        found = client.records.wait(declared.id, timeout_s=WAIT_S)
        assert found.state == "aligned" and found.version == point + 1
        assert all(sum(states.values()) == found.totals[table] for table, states in found.ledger.items())
    doubled = ward.sql("select number from mover.aligned group by project_id, number having count(*) > 1")
    assert not doubled
    ward.check_audit(client)
    note_kills(ward)


def first_batch(client) -> str:
    return min(b.id for b in client.batches.list())


@pytest.mark.parametrize("part", ["stage", "protect", "clean"])
def test_a_run_survives_kills(
    ward: Ward, hospital: generate.Hospital, note_kills: Callable, points: int, part: str
):
    """One run after another, each killed in one part of its life; every run ends clean and nothing leaks over."""
    seed = random.Random(f"run {part}")
    client = work_through_images(ward, hospital)
    slides = client.slides.list(limit=1000).slides
    for point in range(points):
        run = client.runs.request(wire.RunRequest(expression="size_bytes > 0"), key=f"{part}/{point}")
        if part == "stage":
            client = killed(ward, client, part, seed.uniform(0.0, 0.8))
        run = client.runs.wait(run.id, timeout_s=WAIT_S)
        assert (run.state, run.count) == ("ready", len(slides) + 1)
        ward.check_root(client, run)
        artifacts.write_artifacts(Path(run.out), seed=point, scale=0.01)
        client.runs.finish(run.id)
        if part == "protect":
            client = killed(ward, client, part, seed.uniform(0.0, 1.0))
        run = client.runs.wait(run.id, until=frozenset({"protected"}), timeout_s=WAIT_S)
        assert run.state == "protected", (run.state, run.explanation)
        restored = ward.site.restored / f"{part}-{point}"
        client.snapshots.restore(run.snapshots[-1], to=str(restored), path="/artifacts")
        assert not differences(Path(run.out), restored)
        client.runs.clean(run.id)
        if part == "clean":
            client = killed(ward, client, part, seed.uniform(0.0, 0.3))
        run = client.runs.wait(run.id, until=frozenset({"cleaned"}), timeout_s=WAIT_S)
        assert (run.state, run.strays) == ("cleaned", [])
        assert not Path(run.root or ward.flash / "runs" / run.id).exists()
    assert not list((ward.flash / "runs").iterdir())
    ward.check_archive()
    ward.check_audit(client)
    note_kills(ward)


def killed(ward: Ward, client, part: str, after_s: float):
    let_run(after_s)
    ward.crash(part)
    client.close()
    return ward.restart()


@pytest.fixture(params=[POINTS, pytest.param(25, marks=pytest.mark.soak)])
def points(request: pytest.FixtureRequest) -> int:
    return request.param


