"""Prune takes away what nobody needs, later, and nothing else: judged by stock restic after every step."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest

from mover.errors import LeaseLost, RepositoryDamaged, RepositoryLocked, TierDenied, TierFull
from mover.repository import locks, prune
from mover.repository.facts import PruneResult
from mover.repository.index import read_index
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import Fault, FaultyTier
from tests.repository.conftest import PASSWORD, Restic, listing, make_tier, take
from tests.repository.kills import killed_at

pytestmark = pytest.mark.slow

GRACE = timedelta(days=2)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + GRACE + timedelta(seconds=1)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "TURN_PAUSE_S", 0.01)


def packs_of(tier_root: Path) -> set[str]:
    return {path.name for path in (tier_root / "repo" / "data").rglob("*") if path.is_file()}


def index_files(tier_root: Path) -> list[Path]:
    return sorted((tier_root / "repo" / "index").iterdir())


def fill(folder: Path, *, seed: int, files: int = 4, size: int = 1 << 20) -> Path:
    folder.mkdir(exist_ok=True)
    chance = random.Random(seed)
    for number in range(files):
        (folder / f"f{number}").write_bytes(chance.randbytes(size))
    return folder


def does(result: PruneResult, action: str) -> tuple[int, int]:
    """How many packs and bytes the plan gives one action."""
    steps = [step for step in result.steps if step.action == action]
    return sum(step.packs for step in steps), sum(step.size_bytes for step in steps)


def whole(repository: Repository, restic: Restic, tmp_path: Path, kept: dict[str, Path]) -> None:
    """Stock restic finds no error, and every kept snapshot comes back as it was, by restic's own hand."""
    assert "no errors were found" in restic("check", "--read-data").stdout
    assert repository.check(True).ok
    for snapshot_id, source in kept.items():
        target = tmp_path / f"back-{random.randbytes(4).hex()}"
        restic("restore", snapshot_id, "--target", str(target))
        assert listing(target / "artifacts") == listing(source)


def test_what_was_forgotten_is_marked_first_and_swept_only_after_the_grace(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """The whole way: plan, mark, too early, sweep. What stays is whole at each step; the bytes really go."""
    kept_source, lost_source = fill(tmp_path / "kept", seed=1), fill(tmp_path / "lost", seed=2)
    kept = {take(repository, kept_source).snapshot_id: kept_source}
    before = packs_of(tmp_path / "tier")
    repository.forget([take(repository, lost_source).snapshot_id])
    doomed = packs_of(tmp_path / "tier") - before

    planned = repository.prune(grace=GRACE, now=NOW, plan_only=True)
    assert does(planned, "mark")[0] == len(doomed) == 2
    assert does(planned, "mark")[1] > 4 << 20
    assert not planned.finished and packs_of(tmp_path / "tier") == before | doomed

    marked = repository.prune(grace=GRACE, now=NOW)
    assert (marked.marked, marked.swept, marked.finished) == (2, 0, True)
    assert packs_of(tmp_path / "tier") == before | doomed
    whole(repository, restic, tmp_path, kept)

    early = repository.prune(grace=GRACE, now=NOW + GRACE - timedelta(minutes=1))
    assert (early.marked, early.swept, does(early, "wait")[0]) == (0, 0, 2)
    back_in_time = repository.prune(grace=GRACE, now=NOW - timedelta(days=400))
    assert back_in_time.swept == 0

    swept = repository.prune(grace=GRACE, now=LATER)
    assert swept.swept == 2 and swept.freed_bytes == does(planned, "mark")[1]
    assert packs_of(tmp_path / "tier") == before
    whole(repository, restic, tmp_path, kept)
    assert does(repository.prune(grace=GRACE, now=LATER, plan_only=True), "wait") == (0, 0)


def test_nothing_is_marked_while_every_snapshot_stands(repository: Repository, restic: Restic, tmp_path: Path) -> None:
    """A prune of a repository without waste changes not one file."""
    kept = {take(repository, fill(tmp_path / "a", seed=1)).snapshot_id: tmp_path / "a"}
    before = sorted(path for path in (tmp_path / "tier" / "repo").rglob("*") if path.is_file())

    result = repository.prune(grace=timedelta(0), now=NOW)

    assert {step.action for step in result.steps} == {"keep"}
    assert sorted(path for path in (tmp_path / "tier" / "repo").rglob("*") if path.is_file()) == before
    whole(repository, restic, tmp_path, kept)


def test_a_snapshot_that_ended_after_the_mark_of_what_it_leans_on_takes_it_back(
    repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """The reason for two phases: it began before the mark, ends before the sweep, and must be whole. Its snapshot
    file here is the forgotten one, put back."""
    source = fill(tmp_path / "a", seed=1)
    first = take(repository, source).snapshot_id
    late = (tmp_path / "tier/repo/snapshots" / first).read_bytes()
    repository.forget([first])
    assert repository.prune(grace=GRACE, now=NOW).marked == 2
    tier.put(f"repo/snapshots/{first}", [late])
    assert repository.restore(first, tmp_path / "back").complete  # we read a marked pack
    assert "prune takes it back" in repository.check(False).errors[0]

    result = repository.prune(grace=GRACE, now=LATER)

    assert (result.unmarked, result.swept) == (2, 0)
    whole(repository, restic, tmp_path, {first: source})


def test_a_new_snapshot_does_not_lean_on_a_marked_pack(
    repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """What is to go may go at any moment after the grace; it is written again."""
    source = fill(tmp_path / "a", seed=1)
    repository.forget([take(repository, source).snapshot_id])
    repository.prune(grace=GRACE, now=NOW)

    again = take(open_repository(tier, PASSWORD, prefix="repo"), source)

    assert again.added_bytes > 4 << 20
    assert repository.prune(grace=GRACE, now=LATER).swept == 2
    whole(repository, restic, tmp_path, {again.snapshot_id: source})


def test_a_wasteful_pack_is_copied_marked_and_swept_and_what_is_left_is_whole(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """Three quarters of a pack forgotten: the rest moves, the old pack goes one grace later."""
    source = fill(tmp_path / "a", seed=1)
    first = take(repository, source).snapshot_id
    for name in ("f0", "f1", "f2"):
        (source / name).unlink()
    kept = {take(repository, source).snapshot_id: source}
    repository.forget([first])
    size = sum(path.stat().st_size for path in (tmp_path / "tier/repo/data").rglob("*") if path.is_file())

    result = repository.prune(grace=GRACE, now=NOW)
    assert result.repacked == 1 and result.copied_blobs >= 1 and result.finished
    assert 1 << 20 < result.added_bytes < 2 << 20
    whole(repository, restic, tmp_path, kept)

    repository.prune(grace=GRACE, now=LATER)
    left = sum(path.stat().st_size for path in (tmp_path / "tier/repo/data").rglob("*") if path.is_file())
    assert left < size - (2 << 20)
    again = repository.prune(grace=GRACE, now=LATER)
    assert (again.repacked, again.marked, again.swept) == (0, 0, 0)
    whole(repository, restic, tmp_path, kept)


def test_one_prune_copies_no_more_than_its_share_and_the_next_goes_on(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """Rewriting a large repository must not take a week in one piece."""
    kept = {}
    for seed in (1, 2):
        source = fill(tmp_path / f"s{seed}", seed=seed)
        first = take(repository, source).snapshot_id
        for name in ("f0", "f1"):
            (source / name).unlink()
        kept[take(repository, source).snapshot_id] = source
        repository.forget([first])

    one = repository.prune(grace=GRACE, now=NOW, repack_bytes=3 << 20)
    two = repository.prune(grace=GRACE, now=NOW, repack_bytes=3 << 20)
    three = repository.prune(grace=GRACE, now=NOW, repack_bytes=3 << 20)

    assert (one.repacked, two.repacked, three.repacked) == (1, 1, 0)
    whole(repository, restic, tmp_path, kept)


def test_packs_of_a_killed_writer_are_marked_by_a_prune_and_go_a_grace_later(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """No index file names them; the writer that put them may still be about to write one, so they wait too."""
    kept = {take(repository, fill(tmp_path / "a", seed=1)).snapshot_id: tmp_path / "a"}
    before, known = packs_of(tmp_path / "tier"), set(index_files(tmp_path / "tier"))
    take(repository, fill(tmp_path / "b", seed=2))
    for path in set(index_files(tmp_path / "tier")) - known:
        path.unlink()
    for path in (tmp_path / "tier/repo/snapshots").iterdir():
        if path.name not in kept:
            path.unlink()
    assert repository.check(True).strays == 2

    assert repository.prune(grace=GRACE, now=NOW).marked == 2
    assert repository.check(True).strays == 0
    assert repository.prune(grace=GRACE, now=LATER - timedelta(minutes=1)).swept == 0
    assert repository.prune(grace=GRACE, now=LATER).swept == 2

    assert packs_of(tmp_path / "tier") == before
    whole(repository, restic, tmp_path, kept)


def test_a_stray_pack_whose_writer_names_it_after_all_is_kept(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """A writer that was only slow: its index file comes after the mark, and the mark is void."""
    source = fill(tmp_path / "a", seed=1)
    snapshot_id = take(repository, source).snapshot_id
    named = {path: path.read_bytes() for path in index_files(tmp_path / "tier")}
    snapshot = tmp_path / "tier/repo/snapshots" / snapshot_id
    late = snapshot.read_bytes()
    snapshot.unlink()
    for path in named:
        path.unlink()
    assert repository.prune(grace=GRACE, now=NOW).marked == 2
    for path, content in named.items():
        path.write_bytes(content)
    snapshot.write_bytes(late)

    assert repository.prune(grace=GRACE, now=LATER).swept == 0

    whole(repository, restic, tmp_path, {snapshot_id: source})


@pytest.mark.usefixtures("damaged_on_purpose")
@pytest.mark.parametrize("lost", ["index", "pack", "snapshot"])
def test_a_prune_of_a_damaged_repository_removes_nothing_at_all(
    lost: str, repository: Repository, tmp_path: Path
) -> None:
    """What seems unneeded may be what is missing: with the index file lost, every pack looks like a stray."""
    folder = tmp_path / "tier/repo" / {"index": "index", "pack": "data", "snapshot": "snapshots"}[lost]
    take(repository, fill(tmp_path / "a", seed=1))
    needed = [path for path in folder.rglob("*") if path.is_file()]
    repository.forget([take(repository, fill(tmp_path / "b", seed=2)).snapshot_id])
    for path in needed:
        path.unlink()
        if lost == "snapshot":
            path.write_bytes(b"")
    before = packs_of(tmp_path / "tier")

    for now in (NOW, LATER):
        with pytest.raises(RepositoryDamaged):
            repository.prune(grace=GRACE, now=now)

    assert packs_of(tmp_path / "tier") == before


def test_the_marks_are_honoured_by_another_daemon_and_do_not_confuse_restic(
    repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """Stock restic backs up, forgets and prunes over our marks; what it needs it writes again. It may sweep marked
    packs itself: it holds them for unreferenced, which they are."""
    source = fill(tmp_path / "a", seed=1)
    kept = {take(repository, source).snapshot_id: source}
    repository.forget([take(repository, fill(tmp_path / "b", seed=2)).snapshot_id])
    repository.prune(grace=GRACE, now=NOW)

    other = open_repository(tier, PASSWORD, prefix="repo")
    assert does(other.prune(grace=GRACE, now=NOW + timedelta(hours=1), plan_only=True), "wait")[0] == 2
    restic("backup", str(tmp_path / "b"))
    whole(repository, restic, tmp_path, kept)
    assert other.prune(grace=GRACE, now=LATER).swept == 2
    whole(repository, restic, tmp_path, kept)
    restic("forget", "--prune", json.loads(restic("snapshots", "--json").stdout)[-1]["id"])
    repository.prune(grace=GRACE, now=LATER)
    whole(repository, restic, tmp_path, kept)


def test_restics_rebuilt_index_names_marked_packs_again_and_they_are_marked_anew(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """Another client may lose our marks; then the grace begins again, and nothing goes early."""
    source = fill(tmp_path / "a", seed=1)
    kept = {take(repository, source).snapshot_id: source}
    repository.forget([take(repository, fill(tmp_path / "b", seed=2)).snapshot_id])
    repository.prune(grace=GRACE, now=NOW)
    restic("rebuild-index")

    again = repository.prune(grace=GRACE, now=LATER)

    assert (again.marked, again.swept) == (2, 0)
    assert repository.prune(grace=GRACE, now=LATER + GRACE + timedelta(minutes=1)).swept == 2
    whole(repository, restic, tmp_path, kept)


def test_many_small_index_files_become_one(repository: Repository, restic: Restic, tmp_path: Path) -> None:
    """Each snapshot leaves one; every open reads them all."""
    kept = {}
    for seed in range(prune.MERGE_FROM_FILES + 1):
        source = fill(tmp_path / f"s{seed}", seed=seed, files=1, size=2000)
        kept[take(repository, source).snapshot_id] = source
    assert len(index_files(tmp_path / "tier")) == prune.MERGE_FROM_FILES + 1

    result = repository.prune(grace=GRACE, now=NOW)

    assert result.rewritten_index_files == prune.MERGE_FROM_FILES + 1
    assert len(index_files(tmp_path / "tier")) == 1
    whole(repository, restic, tmp_path, dict(list(kept.items())[-2:]))


# --- beside others -----------------------------------------------------------------------------------------


def test_a_prune_waits_for_locks_as_long_as_it_is_told_and_others_get_their_turn(
    repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot holds it up; then it does its work in many short turns, between which another takes a snapshot."""
    source = fill(tmp_path / "a", seed=1)
    kept = {take(repository, source).snapshot_id: source}
    for seed in range(2, 4):
        repository.forget([take(repository, fill(tmp_path / f"s{seed}", seed=seed, files=1)).snapshot_id])
    repository.prune(grace=GRACE, now=NOW)
    with locks.locked(repository._files, repository._key), pytest.raises(RepositoryLocked):
        repository.prune(grace=GRACE, now=LATER)
    monkeypatch.setattr(prune, "TURN_S", 0.0)
    monkeypatch.setattr(prune, "TURN_PAUSE_S", 0.3)
    monkeypatch.setattr(PosixTier, "remove", _slowly(PosixTier.remove))
    results: list[PruneResult] = []
    thread = threading.Thread(
        target=lambda: results.append(
            open_repository(tier, PASSWORD, prefix="repo").prune(grace=GRACE, now=LATER, patience_s=60)
        )
    )
    thread.start()
    taken = 0
    while thread.is_alive() and taken < 2:
        try:
            kept[take(repository, source).snapshot_id] = source
            taken += 1
        except RepositoryLocked:
            threading.Event().wait(0.02)
    thread.join()

    assert results[0].swept == 4 and results[0].finished
    assert taken == 2
    whole(repository, restic, tmp_path, dict(list(kept.items())[:1] + list(kept.items())[-1:]))


def _slowly(real: Callable[..., None]) -> Callable[..., None]:
    def remove(self: PosixTier, key: str) -> None:
        threading.Event().wait(0.02 if "/data/" in key else 0)
        real(self, key)

    return remove


def test_a_stock_backup_runs_while_we_snapshot_forget_and_prune_and_nothing_is_lost(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """Two clients that know nothing of each other but the locks."""
    sources = [fill(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]
    stop = threading.Event()
    theirs: list[subprocess.CompletedProcess[str]] = []

    def back_up() -> None:
        while not stop.is_set():
            theirs.append(restic("backup", "--tag", "theirs", str(tmp_path / "s0"), str(tmp_path / "s1"), ok=False))

    thread = threading.Thread(target=back_up)
    thread.start()
    kept: dict[str, Path] = {}
    try:
        for turn in range(6):
            source = sources[turn % 3]
            taken = _patiently(lambda source=source: take(repository, source).snapshot_id)
            if turn % 2:
                _patiently(lambda taken=taken: repository.forget([taken]))
            else:
                kept[taken] = source
            now = NOW + turn * (GRACE + timedelta(seconds=1))
            _patiently(lambda now=now: repository.prune(grace=GRACE, now=now, patience_s=5))
    finally:
        stop.set()
        thread.join()

    succeeded = [run for run in theirs if run.returncode == 0]
    assert succeeded and all("locked" in run.stderr for run in theirs if run.returncode)
    assert len(json.loads(restic("snapshots", "--json", "--tag", "theirs").stdout)) == len(succeeded)
    whole(repository, restic, tmp_path, kept)


def _patiently(call: Callable[[], object]) -> object:
    for _ in range(400):
        try:
            return call()
        except RepositoryLocked:
            threading.Event().wait(0.05)
    raise AssertionError("somebody else's lock stood in the way for ever")


def test_a_snapshot_whose_lock_was_ignored_commits_nothing_that_leans_on_a_pruned_pack(
    repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """A machine that slept: others took its lock for stale, and pruned. Awake again it must not put a snapshot file
    over packs that are gone."""
    source = fill(tmp_path / "a", seed=1)
    repository.forget([take(repository, source).snapshot_id])
    (source / "more").write_bytes(b"more")
    other = open_repository(tier, PASSWORD, prefix="repo")

    pruned: list[PruneResult] = []

    def prune_meanwhile(*_: int) -> None:
        if not pruned:
            for path in (tmp_path / "tier/repo/locks").iterdir():
                path.unlink()
            pruned.append(other.prune(grace=GRACE, now=NOW))

    with pytest.raises(LeaseLost):
        take(repository, source, progress=prune_meanwhile)
    assert pruned[0].marked == 2

    kept = {take(repository, source).snapshot_id: source}
    other.prune(grace=GRACE, now=LATER)
    whole(repository, restic, tmp_path, kept)


# --- faults ----------------------------------------------------------------------------------------------------


class _Denying(FaultyTier):
    """Object lock: what is below data/ cannot be removed."""

    def remove(self, key: str) -> None:
        if "/data/" in key:
            raise TierDenied("locked until later")
        super().remove(key)


def test_packs_that_their_tier_still_locks_stay_marked_and_are_told(
    repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """Immutability beats prune; when the lock has run out, the next prune takes them."""
    source = fill(tmp_path / "a", seed=1)
    kept = {take(repository, source).snapshot_id: source}
    repository.forget([take(repository, fill(tmp_path / "b", seed=2)).snapshot_id])
    repository.prune(grace=GRACE, now=NOW)

    result = open_repository(_Denying(tier, []), PASSWORD, prefix="repo").prune(grace=GRACE, now=LATER)

    assert result.swept == 0 and len(result.denied) == 2
    whole(repository, restic, tmp_path, kept)
    assert repository.prune(grace=GRACE, now=LATER).swept == 2
    whole(repository, restic, tmp_path, kept)


@pytest.mark.parametrize("nth", range(1, 9))
def test_a_full_tier_at_any_put_of_a_prune_loses_nothing_and_a_repeat_finishes(
    nth: int, repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """A prune is what people start when the disk is full."""
    kept, _ = _worn(repository, tmp_path)
    full = FaultyTier(tier, [Fault("put", "full", nth=nth)])

    try:
        result = open_repository(full, PASSWORD, prefix="repo").prune(grace=GRACE, now=NOW)
    except TierFull:
        result = None

    whole(repository, restic, tmp_path, kept)
    assert repository.prune(grace=GRACE, now=NOW).finished
    assert repository.prune(grace=GRACE, now=LATER + GRACE + timedelta(minutes=1)).finished
    assert result is None or nth > 6
    whole(repository, restic, tmp_path, kept)


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_blob_that_rotted_in_a_wasteful_pack_is_not_carried_on_and_its_pack_stays(
    repository: Repository, tmp_path: Path
) -> None:
    """A copy of rot under a new name would hide it from whoever compares with a second repository."""
    source = fill(tmp_path / "a", seed=1)
    first = take(repository, source).snapshot_id
    for name in ("f0", "f1"):
        (source / name).unlink()
    kept = take(repository, source).snapshot_id
    pack = max((tmp_path / "tier/repo/data").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    (place,) = [repository._index.find("data", blob) for blob in _first_blobs(repository, kept, "f3")]
    assert place is not None
    with open(pack, "r+b") as file:
        file.seek(place.offset + 100)
        byte = file.read(1)
        file.seek(place.offset + 100)
        file.write(bytes([byte[0] ^ 1]))
    repository.forget([first])

    result = repository.prune(grace=GRACE, now=NOW)
    repository.prune(grace=GRACE, now=LATER)

    assert len(result.damaged) == 1
    assert pack.exists()
    (damage,) = repository.check(True).damage
    assert damage.paths == ("/artifacts/f3",)


def _first_blobs(repository: Repository, snapshot_id: str, name: str) -> list[bytes]:
    from mover.repository.reader import find_node

    reader = repository._reader()
    root = bytes.fromhex(repository._require(snapshot_id).tree_id)
    node = find_node(reader, root, f"/artifacts/{name}")
    assert node is not None and node.content
    return [blob for blob in node.content[:1]]


# --- kill -9 at every call that changes the tier -----------------------------------------------------------


def _worn(repository: Repository, tmp_path: Path, size: int = 1 << 20) -> tuple[dict[str, Path], list[str]]:
    """A repository with everything to do: a pack to drop, one to repack, many small index files."""
    source = fill(tmp_path / "a", seed=1, size=size)
    first = take(repository, source).snapshot_id
    for name in ("f0", "f1"):
        (source / name).unlink()
    kept = {take(repository, source).snapshot_id: source}
    dropped = [first]
    for seed in range(10, 17):
        dropped.append(take(repository, fill(tmp_path / f"d{seed}", seed=seed, files=1, size=3000)).snapshot_id)
    repository.forget(dropped)
    return kept, dropped


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("phase", ["mark and repack", "sweep"])
def test_a_prune_killed_at_any_change_loses_nothing_and_a_repeat_finishes(
    phase: str, step: int, repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """Every put and remove of one and the same prune (each seventh, but for the soak), once with the call done and once
    not. A dead process's lock on this host is stale at once; what it left is taken up by the next."""
    kept, _ = _worn(repository, tmp_path, size=120_000)
    if phase == "sweep":
        repository.prune(grace=GRACE, now=NOW)
    now = NOW if phase != "sweep" else LATER
    repo = tmp_path / "tier/repo"
    shutil.copytree(repo, tmp_path / "worn")
    for place in range(2, 200, step):
        shutil.rmtree(repo)
        shutil.copytree(tmp_path / "worn", repo)
        work = partial(Repository.prune, grace=GRACE, now=now)
        if not killed_at(tier, place // 2, after=bool(place % 2), work=work):
            break
        assert repository.check(True).ok
        if place % 4 == 0:
            restic("unlock")  # restic refuses beside a dead process's lock until it is told to look
            whole(repository, restic, tmp_path, kept)
        for later in (now, LATER, LATER + GRACE, LATER + 2 * GRACE):
            assert repository.prune(grace=GRACE, now=later + timedelta(hours=1)).finished
        left = repository.prune(grace=GRACE, now=LATER + 3 * GRACE, plan_only=True)
        assert {step.action for step in left.steps} == {"keep"}

    assert 20 < place < 190, place
    whole(repository, restic, tmp_path, kept)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_a_forget_killed_at_any_change_leaves_each_snapshot_whole_or_gone(
    step: int, repository: Repository, tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """Of one and the same forget every put and remove, once with the call done and once not, while a stock restic backs
    up. A snapshot file goes in one step; what is kept is whole at each point, and a repeat takes the rest."""
    source = fill(tmp_path / "a", seed=1, files=1)
    kept = {take(repository, source).snapshot_id: source}
    doomed = [take(repository, source).snapshot_id for _ in range(3)]
    repo, deaths, left_behind = tmp_path / "tier/repo", 0, set()
    shutil.copytree(repo, tmp_path / "worn")
    for place in range(2, 40, step):
        shutil.rmtree(repo)
        shutil.copytree(tmp_path / "worn", repo)
        theirs = threading.Thread(target=restic, args=("backup", "--tag", "theirs", str(source)), kwargs={"ok": False})
        theirs.start()
        died = killed_at(tier, place // 2, after=bool(place % 2), work=lambda opened: _patient_forget(opened, doomed))
        theirs.join()
        deaths += died
        left = {facts.snapshot_id for facts in repository.snapshots() if "theirs" not in facts.tags}
        assert set(kept) <= left <= set(kept) | set(doomed)
        left_behind.add(len(left))
        assert all(repository.check(True, facts.snapshot_id).ok for facts in repository.snapshots())
        _patiently(lambda: repository.forget(doomed))
        assert {facts.snapshot_id for facts in repository.snapshots() if "theirs" not in facts.tags} == set(kept)
        if not died:
            break

    assert deaths >= 8 // step + 1 and len(left_behind) >= (4 if step == 1 else 2)
    restic("unlock")
    whole(repository, restic, tmp_path, kept)


def _patient_forget(opened: Repository, doomed: list[str]) -> None:
    """Beside somebody who backs up; each wait is a lock that was put and taken away again."""
    _patiently(lambda: opened.forget(doomed))


def test_marks_stand_where_rustic_keeps_its_own(repository: Repository, tmp_path: Path) -> None:
    """`packs_to_delete` with `time` beside `packs`: a second client of the format that knows them honours ours."""
    take(repository, fill(tmp_path / "a", seed=1, files=1))
    repository.forget([take(repository, fill(tmp_path / "b", seed=2, files=1)).snapshot_id])
    repository.prune(grace=GRACE, now=NOW)

    documents = [
        msgspec.json.decode(repository._files.load_document("index", path.name, key=repository._key))
        for path in index_files(tmp_path / "tier")
    ]

    marks = [mark for document in documents for mark in document.get("packs_to_delete", [])]
    assert len(marks) == 2 and all(mark["time"].startswith("2030-01-01T00:00:0") for mark in marks)
    assert all(mark["blobs"][0].keys() >= {"id", "type", "offset", "length"} for mark in marks)
    known = [read_index(repository._files, path.name, key=repository._key) for path in index_files(tmp_path / "tier")]
    assert sum(len(document.marked) for document in known) == 2


def test_an_empty_repository_is_pruned_without_complaint(tmp_path: Path) -> None:
    """Nothing to do is no error."""
    repository = create_repository(make_tier(tmp_path / "tier"), PASSWORD, prefix="repo")

    assert repository.prune(grace=GRACE).steps == ()
