"""Damage is found, named by snapshot and path, and mended from what is left and from a second repository."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from mover.errors import RepositoryDamaged, RequestInvalid
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.posix import PosixTier
from tests.repository.conftest import PASSWORD, Restic, listing, make_tier, take

pytestmark = pytest.mark.slow


def fill(folder: Path, *, seed: int = 1) -> Path:
    """Two large files, small ones in folders: data blobs of two packs' worth, several trees."""
    chance = random.Random(seed)
    (folder / "logs" / "deep").mkdir(parents=True, exist_ok=True)
    for name in ("model.pt", "last.pt"):
        (folder / name).write_bytes(chance.randbytes(10 << 20))
    (folder / "logs" / "a.log").write_text(f"step {seed}\n" * 900)
    (folder / "logs" / "deep" / "b.log").write_text(f"deep {seed}\n" * 900)
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return fill(tmp_path / "out")


@pytest.fixture
def second(tmp_path: Path) -> Repository:
    """Another tier, another master key, another password, another seed of the cut."""
    return create_repository(make_tier(tmp_path / "second"), b"other", prefix="copies")


def packs_of(root: Path) -> list[Path]:
    return sorted(
        (path for path in (root / "data").rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size
    )


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def green(repository: Repository, restic: Restic, tmp_path: Path, kept: dict[str, Path]) -> None:
    assert repository.check(True).errors == []
    assert "no errors were found" in restic("check", "--read-data").stdout
    for snapshot_id, source in kept.items():
        target = tmp_path / f"back-{random.randbytes(4).hex()}"
        restic("restore", snapshot_id, "--target", str(target))
        assert listing(target / "artifacts") == listing(source)


# --- naming ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("damaged_on_purpose")
def test_damage_is_named_by_the_snapshots_and_paths_it_hits(repository: Repository, out: Path, tmp_path: Path) -> None:
    """A person asks which of the files are gone, not which blob. The second snapshot shares one of the two."""
    first = take(repository, out).snapshot_id
    (out / "last.pt").unlink()
    second = take(repository, out).snapshot_id
    reader = repository._reader()
    from mover.repository.reader import find_node

    root = bytes.fromhex(repository._require(first).tree_id)
    for name in ("model.pt", "last.pt"):
        node = find_node(reader, root, f"/artifacts/{name}")
        assert node is not None and node.content
        place = repository._index.find("data", node.content[0])
        assert place is not None
        flip(tmp_path / "tier/repo/data" / place.pack_id[:2] / place.pack_id, place.offset + 40)

    result = repository.check(True)

    hits = {(hit.snapshot_id, path) for damage in result.damage for hit in damage.hits for path in hit.paths}
    assert hits == {(first, "/artifacts/model.pt"), (first, "/artifacts/last.pt"), (second, "/artifacts/model.pt")}
    assert all(damage.object.startswith("pack ") and damage.all_named for damage in result.damage)
    assert not any("artifacts" in error for error in result.errors)


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_lost_tree_is_named_by_its_folder(repository: Repository, out: Path, tmp_path: Path) -> None:
    """Everything below it is gone; what stands beside it is not named."""
    from mover.repository.reader import find_node

    snapshot_id = take(repository, out).snapshot_id
    node = find_node(repository._reader(), bytes.fromhex(repository._require(snapshot_id).tree_id), "/artifacts/logs")
    assert node is not None and node.subtree is not None
    place = repository._index.find("tree", node.subtree)
    assert place is not None
    flip(tmp_path / "tier/repo/data" / place.pack_id[:2] / place.pack_id, place.offset + 20)

    damage = repository.check(False).damage

    assert {path for each in damage for path in each.paths} == {"/artifacts/logs"}
    assert {one for each in damage for one in each.snapshots} == {snapshot_id}


@pytest.mark.usefixtures("damaged_on_purpose")
@pytest.mark.parametrize("what", ["snapshot", "index", "pack cut short", "pack empty"])
def test_every_kind_of_broken_file_is_an_error_of_the_check_and_not_its_end(
    what: str, repository: Repository, out: Path, tmp_path: Path
) -> None:
    """A check that stops at the first broken file hides the others."""
    take(repository, out)
    repo = tmp_path / "tier/repo"
    folder = {"snapshot": repo / "snapshots", "index": repo / "index"}.get(what)
    victim = next(folder.iterdir()) if folder else packs_of(repo)[0]
    victim.write_bytes(b"" if what != "pack cut short" else victim.read_bytes()[:-1000])

    result = repository.check(False)

    assert not result.ok and any(victim.name in damage.object for damage in result.damage)


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_sampled_check_reads_its_share_and_the_same_seed_reads_the_same(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """Daily checks must be cheap, and one that found something must be repeatable; over the days all are read."""
    take(repository, out)
    take(repository, fill(tmp_path / "more", seed=2))
    there = packs_of(tmp_path / "tier/repo")
    flip(there[0], 1000)

    results = [repository.check(False, sample=0.3, seed=f"day {day}") for day in range(12)]

    assert {result.packs for result in results} == {-(-3 * len(there) // 10)}
    assert 0 < sum(not result.ok for result in results) < 12
    found = next(result for result in results if not result.ok)
    assert repository.check(False, sample=0.3, seed=found.seed).errors == found.errors
    drawn = repository.check(False, sample=0.3)
    assert repository.check(False, sample=0.3, seed=drawn.seed).bytes_read == drawn.bytes_read > 0
    for share in (0.0, 1.1):
        with pytest.raises(RequestInvalid):
            repository.check(False, sample=share)


def test_foreign_files_in_the_repository_disturb_nothing_and_are_left_alone(
    repository: Repository, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """Somebody's notes, an upload of another client that was cut, an id in a folder that is not its own."""
    from datetime import timedelta

    kept = {take(repository, out).snapshot_id: out}
    repo = tmp_path / "tier/repo"
    foreign = [
        repo / "README",
        repo / "data" / "notes.txt",
        repo / "data" / "00" / ("f" * 64),
        repo / "index" / "x.tmp",
        repo / "keys" / ("a" * 64 + "-tmp-1"),
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"foreign")

    assert repository.check(True).ok
    assert repository.prune(grace=timedelta(0)).finished
    assert all(path.read_bytes() == b"foreign" for path in foreign)
    for path in foreign:
        path.unlink()
    green(repository, restic, tmp_path, kept)


def test_a_key_file_that_was_cut_does_not_keep_out_the_others(repository: Repository, tier: PosixTier) -> None:
    """An upload that never ended lies beside the good keys."""
    tier.put(f"repo/keys/{'0' * 64}", [b""])

    assert open_repository(tier, PASSWORD, prefix="repo").repository_id == repository.repository_id
    assert len(repository.keys()) == 1


# --- the index ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["lost", "empty", "rotten"])
def test_a_lost_or_broken_index_is_made_anew_from_the_packs(
    what: str, repository: Repository, tier: PosixTier, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """All it says stands in the packs' own headers too."""
    kept = {take(repository, out).snapshot_id: out}
    kept[take(repository, fill(tmp_path / "more", seed=2)).snapshot_id] = tmp_path / "more"
    for path in (tmp_path / "tier/repo/index").iterdir():
        if what == "lost":
            path.unlink()
        elif what == "empty":
            path.write_bytes(b"")
        else:
            flip(path, 50)
    opened = open_repository(tier, PASSWORD, prefix="repo")
    assert not opened.check(False).ok

    result = opened.rebuild_index()

    assert result.named == len(packs_of(tmp_path / "tier/repo")) and result.damaged == []
    assert result.unreadable == (0 if what == "lost" else 2)
    green(opened, restic, tmp_path, kept)
    again = opened.rebuild_index()
    assert (again.named, again.dropped, again.unreadable) == (0, 0, 0)


def test_after_a_pack_is_lost_the_next_snapshot_writes_what_it_still_finds(
    repository: Repository, tier: PosixTier, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """While the index names a pack that is gone, new snapshots would lean on it and be born damaged."""
    first = take(repository, out).snapshot_id
    packs_of(tmp_path / "tier/repo")[0].unlink()

    assert repository.rebuild_index().dropped == 1
    second = take(repository, out)

    assert second.added_bytes > 5 << 20
    green(repository, restic, tmp_path, {first: out, second.snapshot_id: out})


# --- the second repository -----------------------------------------------------------------------------------


def test_a_copy_is_whole_under_other_keys_and_a_repeat_adds_nothing(
    repository: Repository, second: Repository, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """Policies with two repositories; restic itself reads the copy, and knows what it was made of."""
    first = take(repository, out, tags=["run=r1"]).snapshot_id
    (out / "logs" / "a.log").write_text("changed\n")
    later = take(repository, out).snapshot_id

    copies = [repository.copy_to(second, each) for each in (first, later)]
    again = repository.copy_to(second, first)

    assert copies[0].added_bytes > 20 << 20 and copies[1].added_bytes < 1 << 20
    assert again.already and again.snapshot_id == copies[0].snapshot_id and again.added_bytes == 0
    assert second.check(True).ok
    where = {"RESTIC_REPOSITORY": str(tmp_path / "second/copies"), "RESTIC_PASSWORD": "other"}
    assert "no errors were found" in restic("check", "--read-data", **where).stdout
    restic("restore", copies[1].snapshot_id, "--target", str(tmp_path / "back"), **where)
    assert listing(tmp_path / "back/artifacts") == listing(out)
    (facts,) = second.copies_of(first)
    assert (facts.original, facts.parent) == (first, None)
    mine = next(each for each in repository.snapshots() if each.snapshot_id == first)
    assert (facts.time, facts.tags, facts.tree_id, facts.hostname) == (mine.time, mine.tags, mine.tree_id, "node1")


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_damaged_snapshot_is_not_copied_as_if_it_were_whole(
    repository: Repository, second: Repository, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """Half a copy with a snapshot file over it would be a lie."""
    snapshot_id = take(repository, out).snapshot_id
    flip(packs_of(tmp_path / "tier/repo")[0], 5000)

    with pytest.raises(RepositoryDamaged):
        repository.copy_to(second, snapshot_id)

    assert second.snapshots() == [] and second.check(True).ok
    where = {"RESTIC_REPOSITORY": str(tmp_path / "second/copies"), "RESTIC_PASSWORD": "other"}
    assert "no errors were found" in restic("check", "--read-data", **where).stdout


@pytest.mark.parametrize("what", ["flipped byte", "lost pack", "cut pack", "lost trees", "everything", "empty index"])
def test_what_is_lost_or_rotten_comes_back_from_the_second_repository(
    what: str, repository: Repository, second: Repository, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """Other keys, other packs, same blob ids. After it the check is green and the wrong pack named by nobody."""
    kept = {take(repository, out).snapshot_id: out}
    for snapshot_id in kept:
        repository.copy_to(second, snapshot_id)
    repo = tmp_path / "tier/repo"
    large, small = packs_of(repo)[0], packs_of(repo)[-1]
    if what == "flipped byte":
        flip(large, 3_000_000)
    elif what == "lost pack":
        large.unlink()
    elif what == "cut pack":
        large.write_bytes(large.read_bytes()[: 4 << 20])
    elif what == "lost trees":
        small.unlink()
    elif what == "empty index":
        next((repo / "index").iterdir()).write_bytes(b"")
    else:
        for pack in packs_of(repo):
            pack.unlink()
    opened = open_repository(repository._files.tier, PASSWORD, prefix="repo")
    assert not opened.check(True).ok

    result = opened.repair_from(second)

    assert result.complete and result.left == []
    assert (result.fetched > 0) == (what != "empty index")
    if what == "flipped byte":
        assert result.fetched == 1 and result.salvaged > 1  # only the one blob is fetched, the pack's others are whole
    green(opened, restic, tmp_path, kept)
    assert second.check(True).ok


def test_what_neither_repository_has_is_named_and_the_rest_comes_back(
    repository: Repository, second: Repository, out: Path, tmp_path: Path
) -> None:
    """The copy is older: what came since is lost with its pack, and a person is told which file of which snapshot."""
    first = take(repository, out).snapshot_id
    repository.copy_to(second, first)
    (out / "new.pt").write_bytes(random.Random(9).randbytes(1 << 20))
    later = take(repository, out).snapshot_id
    for pack in packs_of(tmp_path / "tier/repo"):
        if pack.stat().st_size > 1 << 20:
            pack.unlink()

    result = repository.repair_from(second)

    assert {path for damage in result.left for path in damage.paths} == {"/artifacts/new.pt"}
    assert {each for damage in result.left for each in damage.snapshots} == {later}
    again = repository.check(True)
    assert {path for damage in again.damage for path in damage.paths} == {"/artifacts/new.pt"}
    assert repository.check(True, first).ok
    # the source still has it: the next snapshot heals even that
    take(repository, out)
    assert repository.check(True).ok


def test_a_lost_snapshot_file_comes_back_from_its_copy(
    repository: Repository, second: Repository, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """Under a new id, since the file is sealed anew; it names the old one as its original."""
    lost = take(repository, out).snapshot_id
    gone = take(repository, fill(tmp_path / "more", seed=2)).snapshot_id
    repository.copy_to(second, lost)
    for snapshot_id in (lost, gone):
        (tmp_path / "tier/repo/snapshots" / snapshot_id).write_bytes(b"")

    result = repository.repair_from(second)

    (new,) = repository.copies_of(lost) if not result.left else [None]
    assert new is None and [damage.object for damage in result.left] == [f"snapshots/{gone}"]
    (tmp_path / "tier/repo/snapshots" / gone).unlink()
    (facts,) = repository.snapshots()
    assert result.snapshots == {lost: facts.snapshot_id} and facts.original == lost
    green(repository, restic, tmp_path, {facts.snapshot_id: out})


def test_a_snapshot_file_that_was_only_read_wrongly_stays(
    repository: Repository, second: Repository, out: Path, restic: Restic, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A bit that flipped on the way would cost a whole snapshot the name by which the catalog knows it."""
    snapshot = take(repository, out).snapshot_id
    repository.copy_to(second, snapshot)
    read, wrong = repository._files.load_document, iter([b"{"])

    def once_wrong(kind: Any, file_id: str, **given: Any) -> bytes:
        flipped = next(wrong, None) if kind == "snapshots" else None
        return flipped or read(kind, file_id, **given)

    monkeypatch.setattr(repository._files, "load_document", once_wrong)
    result = repository.repair_from(second)

    assert next(wrong, None) is None and result.complete and result.snapshots == {}
    assert repository.snapshot_ids() == [snapshot]
    green(repository, restic, tmp_path, {snapshot: out})


def test_a_mirror_by_plain_copying_serves_as_second_repository_too(
    repository: Repository, out: Path, restic: Restic, tmp_path: Path
) -> None:
    """The same keys: blobs are carried over sealed as they are."""
    kept = {take(repository, out).snapshot_id: out}
    make_tier(tmp_path / "mirror")
    shutil.copytree(tmp_path / "tier/repo", tmp_path / "mirror/repo")
    flip(packs_of(tmp_path / "tier/repo")[0], 999)
    tier = PosixTier("protect", "deidentified", tmp_path / "mirror", role="protect")

    assert repository.repair_from(open_repository(tier, PASSWORD, prefix="repo")).complete

    green(repository, restic, tmp_path, kept)
