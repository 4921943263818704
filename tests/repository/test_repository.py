"""What the snapshot repository promises on its own: nothing twice, nothing silently lost, nothing pretended."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from mover.clock import SYSTEM
from mover.errors import (
    Conflict,
    Denied,
    LeaseLost,
    NotFound,
    RepositoryDamaged,
    RepositoryLocked,
    RequestInvalid,
    TierFull,
)
from mover.repository import locks
from mover.repository.cutting import CUT_MAX_BYTES, CUT_MIN_BYTES, WINDOW_BYTES
from mover.repository.facts import Disk, Folder, MemoryFile
from mover.repository.reading import Requester
from mover.repository.repository import INCOMPLETE_TAG, Repository, create_repository, open_repository
from mover.repository.writer import SMALL_BYTES
from mover.tiers.posix import PosixTier
from tests.repository.conftest import PASSWORD, listing, take
from tests.support.leftovers import Leftovers


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Some artifacts: one of several blobs, one small, one in a folder."""
    folder = tmp_path / "out"
    (folder / "logs").mkdir(parents=True)
    (folder / "model.pt").write_bytes(random.Random(3).randbytes(3 << 20))
    (folder / "logs" / "a.log").write_text("step\n" * 500)
    (folder / "small").write_bytes(b"s")
    return folder


def later() -> datetime:
    """A time of snapshot safely after every file's own time, so that fingerprints are trusted."""
    return datetime.now(UTC) + timedelta(seconds=10)


def the_packs(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "tier/repo/data").rglob("*") if path.is_file())


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


# --- what goes in ----------------------------------------------------------------------------------------


def test_every_file_comes_back_with_its_path_size_time_and_blake3(repository: Repository, out: Path) -> None:
    """The catalog stores these digests; cleanup compares the run's files against them."""
    result = take(repository, out)

    assert [(e.path, e.size_bytes, e.blake3, e.mtime_ns) for e in result.entries] == [
        (f"/artifacts/{name}", len(data), blake3(data).hexdigest(), (out / name).stat().st_mtime_ns)
        for name in ("logs/a.log", "model.pt", "small")
        for data in [(out / name).read_bytes()]
    ]
    assert (result.files, result.bytes) == (3, sum(entry.size_bytes for entry in result.entries))


def test_a_second_snapshot_of_the_same_files_adds_almost_nothing(repository: Repository, out: Path) -> None:
    """Unlimited versions are affordable only so."""
    take(repository, out)

    again = take(repository, out)

    assert again.added_bytes < 8 << 10


@pytest.mark.slow
def test_an_insertion_in_the_middle_of_a_large_file_adds_only_the_blobs_around_it(
    repository: Repository, tmp_path: Path, out: Path
) -> None:
    """Content-defined cutting: what follows the insertion is found again. The file spans several windows."""
    data = random.Random(4).randbytes(40 << 20)
    (out / "large").write_bytes(data)
    take(repository, out)
    (out / "large").write_bytes(data[: 20 << 20] + b"inserted" + data[20 << 20 :])

    result = take(repository, out)

    assert 0 < result.added_bytes < 10 << 20
    repository.restore(result.snapshot_id, tmp_path / "back", path="/artifacts/large")
    assert (tmp_path / "back/large").read_bytes() == (out / "large").read_bytes()


@pytest.mark.slow
def test_files_around_every_limit_of_the_cutting_come_back_equal(repository: Repository, tmp_path: Path) -> None:
    """Sizes at which a file changes its way: empty, small, one chunk, one window, several; noise and zeros."""
    data = random.Random(6).randbytes(2 * WINDOW_BYTES + 5)
    (tmp_path / "sizes").mkdir()
    limits = (0, 1, SMALL_BYTES, CUT_MIN_BYTES, CUT_MAX_BYTES, WINDOW_BYTES, 2 * WINDOW_BYTES)
    for size in {max(0, limit + step) for limit in limits for step in (-1, 0, 1)}:
        (tmp_path / "sizes" / f"noise{size}").write_bytes(data[:size])
        (tmp_path / "sizes" / f"zeros{size}").write_bytes(bytes(size))

    result = take(repository, tmp_path / "sizes")

    repository.restore(result.snapshot_id, tmp_path / "back", path="/artifacts")
    assert listing(tmp_path / "back") == listing(tmp_path / "sizes")
    assert result.added_bytes < 3 * len(data)
    assert {entry.path: entry.blake3 for entry in result.entries} == {
        f"/artifacts/{path.name}": blake3(path.read_bytes()).hexdigest() for path in (tmp_path / "sizes").iterdir()
    }


def test_an_unchanged_file_with_a_known_digest_is_not_read(repository: Repository, out: Path) -> None:
    """One stat per unchanged file: the digest that comes back is the one given, so nothing was hashed."""
    first = take(repository, out, time=later())
    known = {entry.path: entry.blake3 for entry in first.entries} | {"/artifacts/small": "f" * 64}

    second = take(repository, out, parent=first.snapshot_id, parent_digests=known)

    assert {entry.path: entry.blake3 for entry in second.entries} == known
    assert second.tree_id == first.tree_id


@pytest.mark.parametrize("case", ["no digest", "changed", "just written", "parent forgotten"])
def test_a_file_is_read_again_when_its_fingerprint_or_digest_proves_nothing(
    case: str, repository: Repository, out: Path
) -> None:
    """A wrong shortcut here would protect yesterday's bytes under today's name."""
    time = datetime.now(UTC) - timedelta(seconds=1) if case == "just written" else later()
    first = take(repository, out, time=time)
    known = {} if case == "no digest" else {"/artifacts/small": "f" * 64}
    if case == "changed":
        facts = (out / "small").stat()
        (out / "small").write_bytes(b"t")
        os.utime(out / "small", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    if case == "parent forgotten":
        repository.forget([first.snapshot_id])

    second = take(repository, out, parent=first.snapshot_id, parent_digests=known)

    digests = {entry.path: entry.blake3 for entry in second.entries}
    assert digests["/artifacts/small"] == blake3((out / "small").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_file_that_never_stops_changing_is_named_torn_and_the_snapshot_incomplete(
    repository: Repository, out: Path
) -> None:
    """`protected` must not be proved for a file that was caught between two states."""
    stop = threading.Event()

    def append() -> None:
        with open(out / "model.pt", "ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"x")

    # large, so that the writer comes by while it is read
    (out / "model.pt").write_bytes(bytes(range(256)) * (256 << 10))
    writer = threading.Thread(target=append)
    writer.start()
    try:
        result = take(repository, out)
    finally:
        stop.set()
        writer.join()

    assert result.torn == ["/artifacts/model.pt"] and not result.complete
    assert INCOMPLETE_TAG in repository.snapshots()[0].tags
    assert repository.check(True).errors == []


def test_pipes_sockets_and_outward_links_are_neither_opened_nor_followed(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """A FIFO would hang the daemon; a link to /etc/shadow would protect what nobody asked for."""
    (tmp_path / "secret").write_bytes(b"secret of another project")
    os.mkfifo(out / "pipe")
    os.symlink(tmp_path / "secret", out / "link")
    os.symlink(tmp_path, out / "folder-link")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(out / "sock"))
        result = take(repository, out)

    entries = {entry.path: entry for entry in repository.ls(result.snapshot_id, recursive=True)}
    assert result.skipped == ["/artifacts/pipe", "/artifacts/sock"] and result.complete
    assert entries["/artifacts/link"].target == str(tmp_path / "secret")
    assert not any(path.startswith("/artifacts/folder-link/") for path in entries)
    assert result.files == 3


@pytest.mark.parametrize("relative", ["absent", "small/below", "link", "logs/../logs"])
def test_a_part_that_cannot_be_opened_is_named_and_the_rest_is_protected(
    relative: str, repository: Repository, out: Path
) -> None:
    """A missing part is named, not skipped; a link on the way or a climb is as good as missing."""
    os.symlink("logs", out / "link")
    source = Folder({"artifacts": Disk(out), "code": Disk(out, relative), "RUN.json": MemoryFile(b"{}")})

    result = take(repository, source)

    assert result.unreadable == ["/code"] and not result.complete
    assert result.files == 4


@pytest.mark.slow
def test_thousands_of_small_files_in_many_folders_arrive(repository: Repository, tmp_path: Path) -> None:
    """More folders and files than any of the walk's bounds hold at once."""
    for folder in range(40):
        (tmp_path / "many" / f"{folder:03}").mkdir(parents=True)
        for number in range(60):
            (tmp_path / "many" / f"{folder:03}" / f"{number}").write_bytes(b"%d" % (folder * number))

    result = take(repository, tmp_path / "many")

    repository.restore(result.snapshot_id, tmp_path / "back", path="/artifacts")
    assert result.files == 2400
    assert listing(tmp_path / "back") == listing(tmp_path / "many")


def test_progress_counts_up_to_the_totals_of_the_result(repository: Repository, out: Path) -> None:
    """The bar a person looks at ends where the result does."""
    seen: list[tuple[int, int]] = []

    result = take(repository, out, progress=lambda files, size: seen.append((files, size)))

    assert seen[-1] == (result.files, result.bytes)
    assert seen == sorted(seen)


# --- passwords and creation ----------------------------------------------------------------------------


def test_a_wrong_password_is_denied_and_two_right_ones_open(repository: Repository, tier: PosixTier) -> None:
    """The error says what a person can mend; it is no damage."""
    repository.add_key(b"second")

    with pytest.raises(Denied):
        open_repository(tier, b"wrong", prefix="repo")

    for password in (PASSWORD, b"second"):
        assert open_repository(tier, password, prefix="repo").repository_id == repository.repository_id


def test_creating_twice_is_a_conflict_and_opening_nothing_is_not_found(repository: Repository, tier: PosixTier) -> None:
    """A second `create` must never replace the key of existing data."""
    with pytest.raises(Conflict):
        create_repository(tier, PASSWORD, prefix="repo")
    with pytest.raises(NotFound):
        open_repository(tier, PASSWORD, prefix="elsewhere")


def test_a_creation_killed_before_its_config_is_repeated(tier: PosixTier, out: Path) -> None:
    """The left-over key opens nothing; stock restic would try it and fail, so it is cleared away."""
    repository = create_repository(tier, PASSWORD, prefix="repo")
    tier.remove("repo/config")

    repository = create_repository(tier, PASSWORD, prefix="repo")

    assert len(list(tier.list("repo/keys"))) == 1
    assert take(repository, out).complete


def test_keys_of_a_repository_whose_config_was_lost_are_never_cleared_away(
    repository: Repository, tier: PosixTier, out: Path
) -> None:
    """With packs there, those keys are the only way back to the data."""
    take(repository, out)
    tier.remove("repo/config")

    with pytest.raises(RepositoryDamaged):
        create_repository(tier, PASSWORD, prefix="repo")

    assert len(list(tier.list("repo/keys"))) == 1


def test_a_repository_of_version_1_is_refused_with_the_way_to_upgrade(tier: PosixTier) -> None:
    """Compressed blobs in a version 1 repository would be unreadable to old clients."""
    repository = create_repository(tier, PASSWORD, prefix="repo")
    config = msgspec.json.decode(repository._key.open(tier.read("repo/config")))
    sealed = bytes(repository._key.seal(msgspec.json.encode({**config, "version": 1})))
    tier.remove("repo/config")
    tier.put("repo/config", [sealed])

    with pytest.raises(RequestInvalid, match="upgrade_repo_v2"):
        open_repository(tier, PASSWORD, prefix="repo")


# --- damage ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_flipped_bit_anywhere_in_any_pack_is_found_by_the_full_check(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """Blob, header or header length: every byte of a pack is covered."""
    take(repository, out)

    for pack in the_packs(tmp_path):
        for offset in (0, 20, pack.stat().st_size // 2, pack.stat().st_size - 40, pack.stat().st_size - 1):
            flip(pack, offset)
            errors = repository.check(True).errors
            flip(pack, offset)
            assert any(pack.name in error for error in errors), offset

    assert repository.check(True).errors == []


@pytest.mark.usefixtures("damaged_on_purpose")
def test_the_proof_of_one_snapshot_reads_all_it_needs_and_nothing_else(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """`protected` rests on this: damage in its own blobs fails it, damage in other packs does not."""
    first = take(repository, out)
    mine = the_packs(tmp_path)
    (out / "model.pt").unlink()
    (out / "other").write_bytes(random.Random(9).randbytes(1 << 20))
    take(repository, out)
    (other,) = [pack for pack in the_packs(tmp_path) if pack not in mine and pack.stat().st_size > 1 << 20]

    flip(other, 1000)
    clean = repository.check(True, first.snapshot_id)
    flip(max(mine, key=lambda pack: pack.stat().st_size), 1000)
    broken = repository.check(True, first.snapshot_id)

    assert clean.ok and clean.bytes_read > 3 << 20
    assert not broken.ok


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_lost_pack_is_found_without_reading_data(repository: Repository, out: Path, tmp_path: Path) -> None:
    """Structure alone tells: the cheap check runs daily."""
    result = take(repository, out)
    max(the_packs(tmp_path), key=lambda pack: pack.stat().st_size).unlink()

    assert not repository.check(False).ok
    assert not repository.check(False, result.snapshot_id).ok


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_restore_leaves_out_exactly_the_damaged_file_and_names_it(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """One rotten block must neither pass as good bytes nor cost the other files."""
    result = take(repository, out)
    flip(max(the_packs(tmp_path), key=lambda pack: pack.stat().st_size), 2 << 20)

    restored = repository.restore(result.snapshot_id, tmp_path / "back", path="/artifacts")

    assert restored.damaged == ["model.pt"] and not restored.complete
    assert sorted(path.name for path in (tmp_path / "back").rglob("*")) == ["a.log", "logs", "small"]


@pytest.mark.usefixtures("damaged_on_purpose")
def test_a_snapshot_file_under_another_name_is_damage(repository: Repository, out: Path, tmp_path: Path) -> None:
    """Names are hashes: a swapped file would show somebody an older state as the newest."""
    result = take(repository, out)
    folder = tmp_path / "tier/repo/snapshots"
    (folder / result.snapshot_id).rename(folder / hashlib.sha256(b"").hexdigest())

    with pytest.raises(RepositoryDamaged):
        repository.snapshots()


def test_a_tier_that_fails_in_the_middle_fails_the_snapshot_and_leaves_no_snapshot_file(
    repository: Repository, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot file comes last: it exists only when everything it needs does."""

    def full(*_: object, **__: object) -> None:
        raise TierFull("no space")

    monkeypatch.setattr(PosixTier, "put", _only_below(PosixTier.put, "repo/data/", full))

    with pytest.raises(TierFull):
        take(repository, out)
    monkeypatch.undo()

    assert repository.snapshots() == []
    assert not list(repository._files.ids("locks"))


@pytest.mark.parametrize("files", [1, 3])
def test_what_the_progress_raises_stops_the_snapshot_and_closes_everything(
    files: int, repository: Repository, out: Path
) -> None:
    """A cancelled job, a stopping daemon: no snapshot file, no lock, no descriptor is left."""

    class Stop(Exception):
        pass

    def stop(done: int, _: int) -> None:
        if done == files:
            raise Stop

    before = Leftovers()
    with pytest.raises(Stop):
        take(repository, out, progress=stop)

    assert repository.snapshots() == [] and not list(repository._files.ids("locks"))
    assert before.now() == []
    assert take(repository, out).complete


def _only_below(real, prefix, instead):  # type: ignore[no-untyped-def]
    def put(self, key, chunks, **more):  # type: ignore[no-untyped-def]
        return (instead if key.startswith(prefix) else real)(self, key, chunks, **more)

    return put


# --- restoring -----------------------------------------------------------------------------------------------


def test_a_restore_never_touches_what_stands_at_its_target(repository: Repository, out: Path, tmp_path: Path) -> None:
    """To a new place: an occupied folder, a file or a link there refuses it."""
    result = take(repository, out)
    (tmp_path / "file").write_bytes(b"mine")
    os.symlink(tmp_path / "nowhere", tmp_path / "link")

    for target in (out, tmp_path / "file", tmp_path / "link"):
        with pytest.raises(Conflict):
            repository.restore(result.snapshot_id, target)

    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_restore_that_fails_half_way_leaves_neither_target_nor_staging(
    repository: Repository, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is absent or whole; a full disk is said in our words."""
    result = take(repository, out)
    before = sorted(tmp_path.iterdir())

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(TierFull):
        repository.restore(result.snapshot_id, tmp_path / "back")

    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_one_file_is_restored_alone_and_an_unknown_path_leaves_nothing(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """What most people want back is one file."""
    result = take(repository, out)

    repository.restore(result.snapshot_id, tmp_path / "one", path="/artifacts/logs/a.log")
    with pytest.raises(NotFound):
        repository.restore(result.snapshot_id, tmp_path / "none", path="/artifacts/absent")

    assert [path.name for path in (tmp_path / "one").iterdir()] == ["a.log"]
    assert (tmp_path / "one/a.log").read_bytes() == (out / "logs/a.log").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out", "tier"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files away needs root")
def test_a_restore_for_somebody_belongs_to_that_person_and_has_no_setuid(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """The scientist who deleted something must be able to read and remove what comes back."""
    (out / "small").chmod(0o4755)
    result = take(repository, out)

    repository.restore(result.snapshot_id, tmp_path / "back", owner=Requester(4711, 4712))

    owners = {(path.stat().st_uid, path.stat().st_gid) for path in [tmp_path / "back", *(tmp_path / "back").rglob("*")]}
    assert owners == {(4711, 4712)}
    assert (tmp_path / "back/artifacts/small").stat().st_mode & 0o7777 == 0o755


def test_ls_lists_one_folder_or_everything_below_it(repository: Repository, out: Path) -> None:
    """The web page opens folders one by one; a script wants all."""
    snapshot_id = take(repository, out).snapshot_id

    one = [entry.path for entry in repository.ls(snapshot_id, "/artifacts")]
    every = [entry.path for entry in repository.ls(snapshot_id, "/", recursive=True)]

    assert one == ["/artifacts/logs", "/artifacts/model.pt", "/artifacts/small"]
    assert every == ["/artifacts", "/artifacts/logs", "/artifacts/logs/a.log", *one[1:]]


# --- locks and forgetting --------------------------------------------------------------------------------


def test_snapshots_stand_beside_each_other_but_not_beside_an_exclusive_lock(repository: Repository, out: Path) -> None:
    """Forgetting while somebody snapshots could take a parent away; the format asks for the exclusive lock."""
    with locks.locked(repository._files, repository._key):
        assert take(repository, out).complete
        with pytest.raises(RepositoryLocked):
            repository.forget([])
    with locks.locked(repository._files, repository._key, exclusive=True), pytest.raises(RepositoryLocked):
        take(repository, out)

    assert not list(repository._files.ids("locks"))


@pytest.mark.parametrize("case", ["too old", "its process is gone", "alive elsewhere"])
def test_stale_locks_are_cleared_away_and_live_ones_are_not(
    case: str, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill -9 must not lock the repository for ever; another host's running process must stop us."""
    old = SYSTEM.now() - timedelta(minutes=31 if case == "too old" else 1)
    lock = {
        "time": old.isoformat(),
        "exclusive": True,
        "hostname": "another-host" if case != "its process is gone" else socket.gethostname(),
        "username": "u",
        "pid": 1 << 22,  # above the kernel's largest process id
    }
    repository._files.save_document("locks", msgspec.json.encode(lock), key=repository._key)

    if case == "alive elsewhere":
        with pytest.raises(RepositoryLocked):
            repository.forget([])
    else:
        assert repository.forget([]) == []
        assert not list(repository._files.ids("locks"))


def test_a_lock_is_rewritten_while_held_and_distrusted_when_it_could_not_be(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After half an hour without a refresh others ignore it: nothing may be committed under it then."""
    monkeypatch.setattr(locks, "REFRESH_EVERY_S", 0.01)
    with locks.locked(repository._files, repository._key) as lock:
        first = lock.lock_id
        while lock.lock_id == first:
            threading.Event().wait(0.005)
        lock.assert_held()
        lock._stop.set()
        assert lock._thread is not None
        lock._thread.join()
        assert [found.file_id for found in repository._files.ids("locks")] == [lock.lock_id]
        lock.written_at -= timedelta(minutes=26)
        with pytest.raises(LeaseLost):
            lock.assert_held()


@pytest.mark.slow
def test_forgetting_keeps_all_packs_and_can_be_repeated(
    repository: Repository, out: Path, tmp_path: Path
) -> None:
    """Forget is not prune: what is forgotten by mistake is still in the packs."""
    taken = []
    for number in range(3):
        (out / "small").write_bytes(b"%d" % number)
        taken.append(take(repository, out).snapshot_id)
    packs = the_packs(tmp_path)

    assert sorted(repository.forget(taken[:2])) == sorted(taken[:2])
    assert repository.forget(taken[:2]) == []
    assert [facts.snapshot_id for facts in repository.snapshots()] == taken[2:]
    assert the_packs(tmp_path) == packs


@pytest.mark.slow
def test_two_processes_snapshotting_at_once_both_end_whole(repository: Repository, tier: PosixTier, out: Path) -> None:
    """Blobs of one are known to the other only when their index is durable; both snapshots stand alone."""
    second = open_repository(tier, PASSWORD, prefix="repo")
    results = []
    threads = [
        threading.Thread(target=lambda each=each: results.append(take(each, out)))
        for each in (repository, second, repository)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({result.snapshot_id for result in results}) == 3
    assert all(repository.check(True, result.snapshot_id).ok for result in results)
