"""kill -9 at every change that a snapshot, a copy, a repair, a rebuilt index or a new password makes to its tier."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mover.errors import Denied
from mover.repository import carrying, packs
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.posix import PosixTier
from tests.repository.conftest import PASSWORD, Restic, listing, make_tier, take
from tests.repository.kills import killed_at

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many packs and index files of little data: more points to die at."""
    monkeypatch.setattr(packs, "TARGET_PACK_BYTES", 200_000)
    monkeypatch.setattr(carrying, "INDEX_EVERY_PACKS", 2)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "logs").mkdir(parents=True)
    for number in range(6):
        (folder / f"f{number}").write_bytes(random.Random(number).randbytes(150_000))
        (folder / "logs" / f"{number}.log").write_text(f"step {number}\n" * 50)
    return folder


def kill_through(tier: PosixTier, work: Callable[[Repository], object], after_each: Callable[[], object]) -> int:
    """`work` killed at its first change, begun anew and killed at its second, until it comes through; how often."""
    for nth in range(1, 100):
        if not killed_at(tier, nth // 2 + 1, after=bool(nth % 2), work=work):
            return nth - 1
        after_each()
    raise AssertionError("it never came through")


def _hit(repository: Repository) -> set[str]:
    """What is lost; a folder that cannot be read stands for all that is below it."""
    paths = {path for damage in repository.check(True).damage for path in damage.paths}
    return {path for path in paths if not any(path.startswith(f"{above}/") for above in paths)}


def whole(restic: Restic, tmp_path: Path, kept: dict[str, Path]) -> None:
    restic("unlock")
    assert "no errors were found" in restic("check", "--read-data").stdout
    for snapshot_id, source in kept.items():
        target = tmp_path / f"back-{random.randbytes(4).hex()}"
        restic("restore", snapshot_id, "--target", str(target))
        assert listing(target / "artifacts") == listing(source)


def test_a_snapshot_killed_at_any_change_is_absent_or_whole(
    repository: Repository, tier: PosixTier, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """Its file comes last: whenever it is there, all it needs is there."""
    kept = {take(repository, out).snapshot_id: out}
    other = tmp_path / "other"
    other.mkdir()
    for number in range(4):
        (other / f"n{number}").write_bytes(random.Random(100 + number).randbytes(150_000))

    def all_whole() -> None:
        assert all(repository.check(True, facts.snapshot_id).ok for facts in repository.snapshots())

    deaths = kill_through(tier, lambda opened: take(opened, other, time=datetime.now(UTC)), all_whole)

    assert deaths >= 8
    assert repository.check(True).ok
    taken = {facts.snapshot_id: other for facts in repository.snapshots() if facts.snapshot_id not in kept}
    assert taken
    whole(restic, tmp_path, kept | taken)


def test_a_copy_killed_at_any_change_is_absent_or_whole_and_a_repeat_ends_it(
    repository: Repository, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """The second repository is what one falls back on: nothing half may stand in it."""
    snapshot_id = take(repository, out).snapshot_id
    target = make_tier(tmp_path / "second")
    second = create_repository(target, PASSWORD, prefix="repo")

    def all_whole() -> None:
        assert all(second.check(True, facts.snapshot_id).ok for facts in second.snapshots())

    deaths = kill_through(target, lambda opened: repository.copy_to(opened, snapshot_id), all_whole)

    assert deaths >= 8
    (copy,) = second.copies_of(snapshot_id)
    where = {"RESTIC_REPOSITORY": str(tmp_path / "second/repo")}
    restic("unlock", **where)
    restic("unlock")
    assert "no errors were found" in restic("check", "--read-data", **where).stdout
    restic("restore", copy.snapshot_id, "--target", str(tmp_path / "back"), **where)
    assert listing(tmp_path / "back/artifacts") == listing(out)


@pytest.mark.parametrize("what", ["index lost", "pack rotten"])
def test_a_repair_killed_at_any_change_makes_nothing_worse_and_a_repeat_ends_it(
    what: str, repository: Repository, tier: PosixTier, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """Of a repository that is damaged already, nothing more may be lost on the way."""
    kept = {take(repository, out).snapshot_id: out}
    second = create_repository(make_tier(tmp_path / "second"), b"other", prefix="repo")
    for snapshot_id in kept:
        repository.copy_to(second, snapshot_id)
    repo = tmp_path / "tier/repo"
    if what == "index lost":
        for path in (repo / "index").iterdir():
            path.unlink()
    else:
        for pack in sorted(path for path in (repo / "data").rglob("*") if path.is_file())[:3]:
            content = bytearray(pack.read_bytes())
            content[60] ^= 1
            pack.write_bytes(content)
    before = len(_hit(repository))

    def no_worse() -> None:
        assert len(_hit(open_repository(tier, PASSWORD, prefix="repo"))) <= before

    deaths = kill_through(tier, lambda opened: opened.repair_from(second), no_worse)

    assert deaths >= 8
    whole(restic, tmp_path, kept)


def test_a_change_of_password_killed_at_any_change_always_leaves_a_way_in(
    repository: Repository, tier: PosixTier, restic: Restic
) -> None:
    """Locked out of the protection is as bad as none. A repeat takes up the key that the killed one had put."""
    deaths = 0
    for nth in range(1, 30):
        deaths += killed_at(tier, nth // 2 + 1, after=bool(nth % 2), work=lambda opened: opened.change_password(b"new"))
        if not _opens(tier, PASSWORD):
            break
        assert len(repository.keys()) <= 2

    assert deaths >= 5
    assert _opens(tier, b"new") and len(repository.keys()) == 1
    restic("unlock", RESTIC_PASSWORD="new")
    assert "no errors were found" in restic("check", "--read-data", RESTIC_PASSWORD="new").stdout


def _opens(tier: PosixTier, password: bytes) -> bool:
    try:
        open_repository(tier, password, prefix="repo")
    except Denied:
        return False
    return True
