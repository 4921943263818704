"""Kill the daemon's whole process group and its PostgreSQL at seeded points of each step.

A point counts only when the recovered database says that a shard of the step was claimed; otherwise another is
drawn. After the kills everything is started again and the step must end by itself as if nothing had happened:
nothing lost, nothing doubled, no state without its proof, no root that differs from its manifest, no gap in the
audit. What was in flight at each point is printed at the end of the test run.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mover.demo import artifacts, generate
from mover.demo.trees import differences
from mover.errors import StillWorking
from mover.model import wire
from mover.sdk import SyncClient
from tests.support import objects
from tests.support.mirax import Shape, mirax
from tests.system import invariants
from tests.system.ward import WAIT_S, Ward

pytestmark = pytest.mark.slow

GLANCE_S = 3.0
PER_PIECE = 3           # one piece of work is killed at most so often in a row
STRANGER = b"left by nobody the manifest knows"


@pytest.fixture(params=[pytest.param(3, id="3-points"), pytest.param(25, id="25-points", marks=pytest.mark.soak)])
def points(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class Pace:
    """How long a piece of work takes on this machine today, learnt from what was hit and missed."""

    def __init__(self, seed: str, guess_s: float) -> None:
        self._seed = random.Random(seed)
        self._whole_s = guess_s

    def draw_s(self) -> float:
        return self._seed.random() * self._whole_s

    def learn(self, *, hit: bool) -> None:
        self._whole_s = min(3.0, max(0.01, self._whole_s * (1.25 if hit else 0.6)))


def chase(ward: Ward, step: str, pace: Pace, *, left: int) -> int:
    """Kill one piece of work again and again, at seeded moments; how often something was in flight."""
    hits = 0
    while hits < min(left, PER_PIECE):
        hit = ward.kill(step, after_s=pace.draw_s()) is not None
        pace.learn(hit=hit)
        if not hit:
            break
        hits += 1
    return hits


# --- step 1 -----------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("kills-images-records")
def test_images_survive_kills(ward: Ward, hospital: generate.Hospital, note_kills: Callable, points: int) -> None:
    """Kills spread over the whole of two batches: walking, planning, writing, vouching, recording."""
    note_kills(ward)
    client = ward.start()
    batches = declare(hospital, client)
    client.close()
    kill_images(ward, points, sum(hospital.declared.values()))
    client = ward.start()
    found = [client.batches.wait(batch.id, timeout_s=WAIT_S) for batch in batches]
    assert [batch.state for batch in found] == ["complete"] * len(found)
    for state, count in expected_counts(hospital).items():
        assert sum(batch.packs.get(state, 0) for batch in found) == count, state
    assert len(ward.kills) == points
    invariants.check_archive(ward)
    invariants.check_numbers(ward)
    invariants.check_proofs(ward)
    invariants.check_rest(ward, client)


@pytest.mark.soak
@pytest.mark.xdist_group("kills-images-records")
def test_slides_of_several_files_survive_kills(ward: Ward, note_kills: Callable) -> None:
    """Between two of forty objects, between the last object and the sidecar, between the sidecar and the row: a slide
    stands with all of its files, or not at all."""
    note_kills(ward)
    packs = put_several(ward.source / "several")
    client = ward.start()
    batch = client.batches.declare(wire.BatchRequest(folder="several", expected_count=packs))
    client.close()
    kill_images(ward, 1, packs)
    seed = random.Random("several")
    while len(ward.kills) < 5:
        killed = ward.kill("images", after_s=seed.random() * 0.2, until=lambda: unvouched(ward))
        assert killed is not None or len(ward.kills) > 2, "the packs ended before they were killed"
        if killed is None:
            break
    client = ward.start()
    found = client.batches.wait(batch.id, timeout_s=WAIT_S)
    assert (found.state, found.packs) == ("complete", {"published": packs}), found.reasons
    for check in (invariants.check_archive, invariants.check_numbers, invariants.check_proofs):
        check(ward)
    invariants.check_rest(ward, client)


def unvouched(ward: Ward) -> bool:
    """Files of a slide stand in the archive, and no sidecar says so yet."""
    found = ward.objects()
    vouched = {key.split("/")[1] for key in found if key.endswith("sidecar.json")}
    return any(key.split("/")[1] not in vouched for key in found)


def put_several(folder: Path) -> int:
    """Studies of forty slices and slides with a folder; how many packs they are."""
    for study in (1, 2, 3):
        (folder / f"study {study}").mkdir(parents=True)
        for instance in range(1, 41):
            data = objects.ct(instance, study=f"{objects.ROOT}.{study}", patient=f"MRN-{study}")
            (folder / f"study {study}" / f"im{instance}.dcm").write_bytes(data)
    for stem in ("S26-1", "S26-2"):
        main, files = mirax(Shape(levels=2 if stem == "S26-1" else 1), stem=stem)
        for name, data in {f"{stem}.mrxs": main, **files}.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    return 5


def declare(hospital: generate.Hospital, client: SyncClient) -> list[wire.Batch]:
    return [
        client.batches.declare(wire.BatchRequest(folder=folder, expected_count=count))
        for folder, count in hospital.declared.items()
    ]


def kill_images(ward: Ward, points: int, packs: int) -> None:
    """The first point falls into the walk; the others wait until so many packs have their final state."""
    seed = random.Random("images")
    for point in range(points):
        wanted = (packs - 2) * point // points

        def reached(wanted: int = wanted) -> bool:
            [row] = ward.look("select count(*) as n from mover.pack where state <> 'found'")
            return bool(row.n >= wanted)

        longest_s = 0.05 if point == 0 else 0.2
        while ward.kill("images", after_s=seed.random() * longest_s, until=reached) is None:
            longest_s /= 2
            if not ward.look("select id from mover.shard where state in ('waiting', 'running')"):
                return      # the batches ended before all points were drawn: the caller sees too few


def expected_counts(hospital: generate.Hospital) -> dict[str, int]:
    """The generator's own truth: good packs, faulty ones, and second names of a scan."""
    batches = msgspec.json.decode(Path(hospital.expected).read_bytes())["batches"].values()
    duplicates = sum(len(batch["same_scan"]) for batch in batches)
    return {
        "published": sum(len(batch["good"]) for batch in batches),
        "duplicate": duplicates,
        "quarantined": sum(len(batch["faulty"]) for batch in batches) - duplicates,
    }


# --- step 2 -----------------------------------------------------------------------------------------------


@pytest.mark.xdist_group("kills-images-records")
def test_records_survive_kills(settled: Ward, hospital: generate.Hospital, note_kills: Callable, points: int) -> None:
    """Each corrected export is a new version, killed while it is matched."""
    ward, pace = settled, Pace("records", 0.4)
    note_kills(ward)
    folder = next(iter(hospital.declared))
    table = ward.source / "records" / folder / "outcomes.csv"
    batch = ward.batch_of(folder)
    for version in range(2, 2 + 4 * points):
        if len(ward.kills) == points:
            break
        correct(table)
        with ward.start() as client:
            declared = client.records.declare(wire.RecordsRequest(batch=batch, files=ward.tables(folder)))
        chase(ward, "records", pace, left=points - len(ward.kills))
        with ward.start() as client:
            found = client.records.wait(declared.id, timeout_s=WAIT_S)
        assert (found.state, found.version) == ("aligned", version)
        assert all(sum(states.values()) == found.totals[name] for name, states in found.ledger.items())
    assert len(ward.kills) == points
    assert not ward.look("select number from mover.aligned group by project_id, number having count(*) > 1")
    invariants.check_ledgers(ward)
    invariants.check_proofs(ward)
    invariants.check_rest(ward, ward.start())


def correct(table: Path) -> None:
    """The export comes again with one more line; a new file, as a person would put it there."""
    text = table.read_bytes()
    table.unlink()
    table.write_bytes(text + text.splitlines(keepends=True)[-1])


# --- steps 3 to 5 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("stage", marks=pytest.mark.xdist_group("kills-stage")),
        pytest.param("protect", marks=pytest.mark.xdist_group("kills-protect")),
        pytest.param("clean", marks=pytest.mark.xdist_group("kills-clean")),
    ],
)
def test_a_run_survives_kills(settled: Ward, note_kills: Callable, points: int, part: str) -> None:
    """One run after another, each killed in one part of its life; every run ends clean, nothing leaks over."""
    note_kills(settled)
    ward, pace = settled, Pace(f"run {part}", {"stage": 0.6, "protect": 0.8, "clean": 0.15}[part])

    def killed(at: str) -> None:
        if at == part:
            chase(ward, part, pace, left=points - len(ward.kills))

    for turn in range(4 * points):
        if len(ward.kills) == points:
            break
        live_through(ward, turn, killed, ward.site.restored / str(turn))
    assert len(ward.kills) == points
    # an undisturbed run last: what a kill left to be forgotten later is forgotten now
    live_through(ward, 4 * points, lambda part: None, ward.site.restored / "last")
    assert not list((ward.flash / "runs").iterdir())
    invariants.check_snapshots(ward)
    invariants.check_cleaned(ward)
    invariants.check_archive(ward)
    invariants.check_proofs(ward)
    invariants.check_rest(ward, ward.start())


def live_through(ward: Ward, turn: int, killed: Callable[[str], None], restored: Path) -> None:
    """Request, train, finish, restore, clean: one whole run; `killed` is told where it is."""
    if turn % 2 == 0:
        shutil.rmtree(ward.flash / ".mover" / "content", ignore_errors=True)    # so that bytes are copied, not linked
    with ward.start() as client:
        slides = client.slides.list(limit=1000).slides
        run = client.runs.request(wire.RunRequest(expression="size_bytes > 0"), key=f"turn/{turn}")
    killed("stage")
    with ward.start() as client:
        run = reach(ward, client, run, "ready")
        assert (run.state, run.count) == ("ready", len(slides) + 1), run.explanation
        invariants.check_root(client, run)
        artifacts.write_artifacts(Path(run.out), seed=turn, scale=0.01)
        client.runs.finish(run.id)
    killed("protect")
    with ward.start() as client:
        run = reach(ward, client, run, "protected", "ready")
        assert run.state == "protected", (run.state, run.explanation)
        ward.restore(client, run.snapshots[-1], restored, "/artifacts")
        assert not differences(Path(run.out), restored)
        plant_stranger(Path(run.root))
        client.runs.clean(run.id)
    killed("clean")
    with ward.start() as client:
        run = reach(ward, client, run, "cleaned")
    assert run.state == "cleaned"
    assert not (ward.flash / "runs" / run.id).exists()
    # everything else of the root was in the manifest or in the snapshot that was just restored
    assert [stray["path"] for stray in run.strays] == ["data/stranger.txt"]
    assert (ward.flash / run.strays[0]["moved_to"]).read_bytes() == STRANGER


def reach(ward: Ward, client: SyncClient, run: wire.Run, *states: str) -> wire.Run:
    """Wait for a state; a shard that failed is told at once instead of waited for."""
    for _ in range(int(WAIT_S / GLANCE_S)):
        try:
            return client.runs.wait(run.id, until=frozenset(states), timeout_s=GLANCE_S)
        except StillWorking:
            failed = ward.look("select kind, error_code, error from mover.shard where state = 'failed'")
            assert not failed, failed
    raise AssertionError(f"{run.id} is not {states} after {WAIT_S} s")


def plant_stranger(root: Path) -> None:
    folder = root / "data"
    mode = folder.stat().st_mode
    folder.chmod(0o750)
    (folder / "stranger.txt").write_bytes(STRANGER)
    folder.chmod(mode & 0o777)
