"""A restore that goes on from the second repository where the first is damaged: blob by blob, all of it verified."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mover.errors import NotFound, RepositoryDamaged, TierUnavailable
from mover.repository import packs
from mover.repository.facts import RestoreResult
from mover.repository.reader import BlobReader
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import Fault, FaultyTier
from tests.repository.conftest import PASSWORD, Restic, listing, make_tier, take

pytestmark = pytest.mark.slow


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Raw and packed blobs, a large file of several, folders."""
    out, chance = tmp_path / "out", random.Random(3)
    for number in range(12):
        (out / f"d{number % 4}").mkdir(parents=True, exist_ok=True)
        (out / f"d{number % 4}" / f"f{number}").write_bytes(chance.randbytes(300_000))
        (out / f"d{number % 4}" / f"t{number}.log").write_text(f"step {number}\n" * 3000)
    (out / "model.pt").write_bytes(chance.randbytes(5 << 20))
    return out


@pytest.fixture
def second(tmp_path: Path) -> Repository:
    """Other keys, another cut of packs."""
    return create_repository(make_tier(tmp_path / "second"), b"other", prefix="repo")


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "TARGET_PACK_BYTES", 700_000)


def packs_of(root: Path) -> list[Path]:
    return sorted(path for path in (root / "repo/data").rglob("*") if path.is_file())


def spoil(pack: Path, how: str) -> None:
    content = bytearray(pack.read_bytes())
    if how == "lost":
        pack.unlink()
        return
    content[len(content) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content if how == "rotten" else content[: len(content) // 3])


def restored(repository: Repository, second: Repository, snapshot: str, target: Path) -> RestoreResult:
    return repository.restore(snapshot, target, path="/artifacts", spare=second.reading)


@pytest.mark.usefixtures("damaged_on_purpose")
@pytest.mark.parametrize("seed", [0, 4, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2, 3, 5))])
def test_every_blob_comes_from_whichever_repository_still_has_it(
    seed: int, repository: Repository, second: Repository, tier: PosixTier, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """Half of the packs of the first are lost, rotten or cut, and a few of the second; what neither has is named, and
    nothing else is missing."""
    chance = random.Random(seed)
    snapshot = take(repository, out).snapshot_id
    repository.copy_to(second, snapshot)
    for root in (tmp_path / "tier", tmp_path / "second"):
        restic("check", "--read-data", RESTIC_REPOSITORY=str(root / "repo"),
               RESTIC_PASSWORD=PASSWORD.decode() if root.name == "tier" else "other")  # fmt: skip
    first = packs_of(tmp_path / "tier")
    for pack in chance.sample(first, len(first) // 2):
        spoil(pack, chance.choice(["lost", "rotten", "cut"]))
    if seed % 3 == 0:
        for index in (tmp_path / "tier/repo/index").iterdir():
            index.unlink()
    both_lack = set()
    if seed >= 4:
        # data, which a few files need; with the trees lost in both, nobody knows a name
        spoil(max(packs_of(tmp_path / "second"), key=lambda pack: pack.stat().st_size), "rotten")
        kept = {hit.paths for one in second.check(True).damage for hit in one.hits}
        both_lack = {path.removeprefix("/artifacts/") for paths in kept for path in paths}
    opened = open_repository(tier, PASSWORD, prefix="repo")

    done = restored(opened, second, snapshot, tmp_path / "back")

    assert done.spared > 0
    assert set(done.damaged) <= both_lack
    back, wanted = listing(tmp_path / "back"), listing(out)
    assert set(wanted) - set(back) == {name.encode() for name in done.damaged}
    assert all(back[name] == wanted[name] for name in back)
    assert not list((tmp_path / "second/repo/locks").iterdir()) and not list((tmp_path / "tier/repo/locks").iterdir())


def test_a_first_that_stops_answering_in_the_middle_is_not_waited_for_again(
    repository: Repository, second: Repository, tier: PosixTier, out: Path, tmp_path: Path
) -> None:
    """An unreachable tier costs its time-out once, not once a blob."""
    snapshot = take(repository, out).snapshot_id
    repository.copy_to(second, snapshot)
    faulty = FaultyTier(tier, [Fault("read", "fail", nth=nth) for nth in range(8, 500)])
    opened = open_repository(faulty, PASSWORD, prefix="repo")

    done = restored(opened, second, snapshot, tmp_path / "back")

    assert done.complete and done.spared > 0
    assert listing(tmp_path / "back") == listing(out)


def test_a_whole_first_never_opens_the_second(repository: Repository, out: Path, tmp_path: Path) -> None:
    """The second may be slow, far or asleep."""
    snapshot = take(repository, out).snapshot_id

    @contextmanager
    def never() -> Iterator[BlobReader]:
        raise AssertionError("it was opened")
        yield

    assert repository.restore(snapshot, tmp_path / "back", path="/artifacts", spare=never).spared == 0


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_second_that_cannot_be_opened_leaves_the_damage_named(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """As without one: the other files come."""
    snapshot = take(repository, out).snapshot_id
    spoil(max(packs_of(tmp_path / "tier"), key=lambda pack: pack.stat().st_size), "rotten")

    @contextmanager
    def away() -> Iterator[BlobReader]:
        raise TierUnavailable("the second repository does not answer")
        yield

    done = repository.restore(snapshot, tmp_path / "back", path="/artifacts", spare=away)

    assert done.damaged and done.spared == 0 and done.files == 25 - len(done.damaged)
    with pytest.raises(NotFound):
        repository.restore("0" * 64, tmp_path / "none", spare=away)


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_tree_that_both_have_lost_is_an_error_that_says_so(
    repository: Repository, second: Repository, tier: PosixTier, out: Path, tmp_path: Path
) -> None:
    snapshot = take(repository, out).snapshot_id
    repository.copy_to(second, snapshot)
    for root in (tmp_path / "tier", tmp_path / "second"):
        for pack in packs_of(root):
            pack.unlink()
    with pytest.raises(RepositoryDamaged, match="neither"):
        restored(open_repository(tier, PASSWORD, prefix="repo"), second, snapshot, tmp_path / "back")
