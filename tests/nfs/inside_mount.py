"""Tiers on a real NFSv4.2 mount: run in the guest by `test_soak.py`, never by themselves.

The server is the kernel's own, on ext4 file systems of the guest; each client is a mount with a memory of its own.
"""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from blake3 import blake3

from mover import metrics
from mover.errors import (
    ChangedWhileReading,
    EntryExists,
    EntryMissing,
    TierDenied,
    TierError,
    TierFull,
    TierHung,
    TierUnavailable,
)
from mover.model.recipe import plain_copy
from mover.runs import roots as roots_module
from mover.runs.roots import FlashRoots, Requester
from mover.tiers import identity, mounts
from mover.tiers.guard import Guard
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import GuardedTier
from mover.transfer import Transfer
from tests.nfs.inside_server import SERVER, Server, mounted

pytestmark = pytest.mark.skipif("MOVER_NFS_GUEST" not in os.environ, reason="runs in the guest of test_soak.py")
MIB = 1 << 20


@pytest.fixture(scope="module")
def server() -> Server:
    return Server.running()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Path]:
    with mounted("big", "one") as point:
        yield point


@pytest.fixture(scope="module")
def other(server: Server) -> Iterator[Path]:
    """Another machine, as far as the server can tell what it knows."""
    with mounted("big", "two") as point:
        yield point


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name


def tier_at(folder: Path, **kinds: object) -> PosixTier:
    folder.mkdir(exist_ok=True)
    identity.establish(folder, name="flash", zone="deidentified")
    return PosixTier("flash", "deidentified", folder, **kinds)  # type: ignore[arg-type]


@pytest.fixture
def tier(client: Path, name: str) -> PosixTier:
    return tier_at(client / name)


@pytest.fixture
def local(tmp_path: Path) -> PosixTier:
    identity.establish(tmp_path, name="archive", zone="deidentified")
    return PosixTier("archive", "deidentified", tmp_path)


def behind(name: str, *below: str) -> Path:
    """The same folder as the server sees it."""
    return SERVER.joinpath("big", name, *below)


def files(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {".mover"}


def eventually(condition: Callable[[], bool], *, within_s: float = 30) -> None:
    """Writes in flight keep a removed file under a passing name for a moment."""
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert condition()


# --- what it is ---------------------------------------------------------------------------------------------


def test_traits_are_what_the_probe_found(tier: PosixTier) -> None:
    """Nothing assumed: NFS has hard links and no rename without replacing; the rest is printed for the record."""
    print("traits:", tier.traits)
    assert (tier.traits.filesystem, tier.traits.network) == ("nfs4", True)
    assert tier.traits.hard_link and tier.traits.conditional_put
    assert not tier.traits.rename_noreplace and not tier.traits.syncfs


def test_the_cache_time_is_the_mounts_own(server: Server) -> None:
    """Waited out before a seal: 60 s by default, what the administrator said otherwise."""
    for options, seconds in (("", 60), ("acregmax=3,acdirmax=7", 7), ("noac", 0)):
        with mounted("big", "timed", options=options) as point:
            assert mounts.stands_on(point).attribute_cache_s == seconds
            assert mounts.stands_on(point).nfs and not mounts.stands_on(point).soft


def test_a_pinned_source_is_known_again(server: Server, client: Path) -> None:
    """By server, export and root: mounted again it is the same, another export is not."""
    with mounted("big", "pinned", options="ro") as point:
        pin = identity.pin(point)
        PosixTier("intake", "identified", point, read_only=True, identity=pin).check_identity()
    with mounted("big", "pinned", options="ro") as point:
        PosixTier("intake", "identified", point, read_only=True, identity=pin).check_identity()
    with mounted("small", "pinned", options="ro") as point, pytest.raises(TierUnavailable):
        PosixTier("intake", "identified", point, read_only=True, identity=pin).check_identity()


# --- publishing -----------------------------------------------------------------------------------------------


def test_a_file_is_published_once_and_read_back(tier: PosixTier, name: str) -> None:
    """Link, unlink, nothing left over; a second writer is refused."""
    tier.put("a/b/slide", [os.urandom(MIB)])
    assert files(behind(name, "a/b")) == {"slide"} and behind(name, "a/b/slide").stat().st_nlink == 1
    with pytest.raises(EntryExists):
        tier.put("a/b/slide", [b"other"])
    assert len(b"".join(tier.stream("a/b/slide", cold=True))) == MIB


def test_two_clients_publish_one_name_and_one_of_them_wins(tier: PosixTier, other: Path, name: str) -> None:
    """R8 across machines, neither of which knows what the other is about to do."""
    second = PosixTier("flash", "deidentified", other / name)
    attempts = [tier.attempt("slide", size_bytes=4), second.attempt("slide", size_bytes=4)]
    for number, attempt in enumerate(attempts):
        attempt.write([b"%04d" % number])
        attempt.seal()
    attempts[1].publish()
    with pytest.raises(EntryExists):
        attempts[0].publish()
    attempts[0].abandon()
    assert behind(name, "slide").read_bytes() == b"0001" and files(behind(name)) == {"slide"}


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EIO])
def test_a_link_whose_answer_was_lost(
    tier: PosixTier, client: Path, name: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What the server says of the names afterwards decides, not what this client remembers."""
    honest = os.link

    def lost(*args: object, **kept: object) -> None:
        honest(*args, **kept)  # type: ignore[arg-type]
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", lost)
    tier.put("slide", [b"mine"])
    assert behind(name, "slide").read_bytes() == b"mine" and files(behind(name)) == {"slide"}


# --- errors that come late --------------------------------------------------------------------------------------


def test_a_full_server_is_told_at_the_sync_and_nothing_is_published(server: Server) -> None:
    """Measured on NFSv4.2: the writes were accepted, and the close after the sync said yes."""
    with mounted("small", "small") as point:
        tier = tier_at(point / "tier")
        tier.put("before", [bytes(MIB)])
        attempt = tier.attempt("big", size_bytes=40 * MIB)
        with pytest.raises(TierFull):
            attempt.write(bytes(MIB) for _ in range(40))
            attempt.seal()
        attempt.abandon()
        eventually(lambda: files(SERVER / "small/tier") == {"before"})
        tier.put("after", [bytes(MIB)])
        assert tier.stat("after").fingerprint.size_bytes == MIB


def test_the_engine_reports_a_full_server_and_leaves_nothing(server: Server, local: PosixTier) -> None:
    """The same through the engine's own copying."""
    local.put("slide", (os.urandom(MIB) for _ in range(40)))
    with mounted("small", "small") as point:
        tier = tier_at(point / "tier")
        left = files(SERVER / "small/tier")
        with local.open("slide") as source, pytest.raises(TierFull):
            Transfer().run_recipe(plain_copy(40 * MIB), source=source, source_tier=local, target=tier, key="slide")
        eventually(lambda: files(SERVER / "small/tier") == left)


# --- stale handles ------------------------------------------------------------------------------------------------


def test_a_folder_that_was_remade_on_the_server_is_found_again(tier: PosixTier, name: str) -> None:
    """This client still holds the old folder in its memory."""
    tier.put("folder/slide", [b"old"])
    assert [e.key for e in tier.list()] == ["folder/slide"]
    behind(name, "folder").rename(behind(name, "old"))
    behind(name, "folder").mkdir()
    behind(name, "folder/slide").write_bytes(b"newer")
    (behind(name, "old/slide")).unlink()
    behind(name, "old").rmdir()
    assert tier.read("folder/slide") == b"newer"
    assert [e.key for e in tier.list()] == ["folder/slide"]
    tier.put("folder/second", [b"x"])
    assert files(behind(name, "folder")) == {"slide", "second"}


def test_an_export_that_is_taken_back_is_unavailable_and_comes_back(
    server: Server, tier: PosixTier, client: Path
) -> None:
    """ESTALE at every handle: never an empty tier, never a missing entry."""
    tier.put("slide", [b"x" * 100])
    server.unexport("big")
    try:
        with pytest.raises((TierUnavailable, TierDenied)):
            tier.read("slide")
        with pytest.raises((TierUnavailable, TierDenied)):
            list(tier.list())
    finally:
        server.export("big")
    assert tier.read("slide") == b"x" * 100


def test_a_slide_replaced_on_the_server_while_it_is_read(server: Server, tier: PosixTier, name: str) -> None:
    """After a restart the server does not know the old file any more. Half of one and half of another would be a
    slide that nobody scanned: the read fails, by name."""
    tier.put("slide", [os.urandom(MIB) for _ in range(24)])
    with tier.open("slide") as source:
        source.read(0, MIB)
        behind(name, "slide").unlink()
        behind(name, "slide").write_bytes(os.urandom(24 * MIB))
        with server.away():
            pass
        server.wait_for_clients()
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with pytest.raises((ChangedWhileReading, TierError)) as raised:
            source.read(12 * MIB, 8 * MIB)
        print("replaced:", type(raised.value).__name__, raised.value.what)


def test_a_restarted_server_is_read_on_from(server: Server, tier: PosixTier) -> None:
    """A reboot of the server in mid-read: the same file, the same bytes."""
    data = os.urandom(8 * MIB)
    tier.put("slide", [data])
    with tier.open("slide") as source:
        first = source.read(0, MIB)
        with server.away():
            pass
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert first + source.read(MIB, 7 * MIB) == data


# --- passing names ------------------------------------------------------------------------------------------------


def test_a_file_removed_while_open_leaves_a_name_that_is_no_entry(tier: PosixTier, client: Path, name: str) -> None:
    """Silly rename: gone for us, there for the folder, until its last holder closes it."""
    tier.put("folder/slide", [b"x"])
    tier.put("folder/other", [b"y"])
    held = os.open(client / name / "folder/slide", os.O_RDONLY)
    try:
        tier.remove("folder/slide")
        passing = files(client / name / "folder") - {"other"}
        assert len(passing) == 1 and passing.pop().startswith(".nfs")
        assert [e.key for e in tier.list()] == ["folder/other"]
        with pytest.raises(EntryMissing):
            tier.stat("folder/slide")
        assert os.read(held, 1) == b"x"
    finally:
        os.close(held)


@pytest.fixture
def roots(tier: PosixTier, client: Path, name: str) -> FlashRoots:
    made = FlashRoots(client / name, reflink=False, check_identity=tier.check_identity, nfs=True)
    made.begin("run-x", Requester(None, None))
    made.write("run-x", "records.parquet", b"rows")
    (made.run_root("run-x") / "data").mkdir()
    made.seal("run-x", Requester(None, None))
    return made


def judged(roots: FlashRoots) -> dict[str, str]:
    return {one.path: one.mark for one in roots.standing("run-x", manifest={}, own={})}


def test_a_run_root_is_removed_when_its_last_holder_lets_go(roots: FlashRoots) -> None:
    """A job that ends a second late must not leave its root for ever."""
    held = os.open(roots.run_root("run-x") / "records.parquet", os.O_RDONLY)
    threading.Timer(2, os.close, (held,)).start()
    marks = judged(roots)
    roots.unseal("run-x")
    roots.remove("run-x", marks)
    assert roots.is_gone("run-x")


def test_a_run_root_that_stays_in_use_is_left_for_later(roots: FlashRoots, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a bound, by name; the passing file is neither an artifact nor a stray meanwhile."""
    monkeypatch.setattr(roots_module, "PASSING_WAIT_S", 0.2)
    held = os.open(roots.run_root("run-x") / "records.parquet", os.O_RDONLY)
    try:
        marks = judged(roots)
        roots.unseal("run-x")
        with pytest.raises(ChangedWhileReading, match="files open"):
            roots.remove("run-x", marks)
        assert roots.listing("run-x") == {} and judged(roots) == {}
    finally:
        os.close(held)
    roots.remove("run-x", judged(roots))
    assert roots.is_gone("run-x")


# --- what other clients do ------------------------------------------------------------------------------------------


def test_a_folder_opened_anew_shows_what_another_client_did(tier: PosixTier, other: Path, name: str) -> None:
    """Close-to-open: why every listing opens its folders anew. What is only looked up may be remembered."""
    tier.put("folder/one", [b"1"])
    assert [e.key for e in tier.list()] == ["folder/one"]
    (other / name / "folder/two").write_bytes(b"2")
    assert sorted(e.key for e in tier.list()) == ["folder/one", "folder/two"]
    (other / name / "folder/one").unlink()
    assert [e.key for e in tier.list()] == ["folder/two"]


def test_a_size_is_remembered_no_longer_than_the_cache_time(server: Server, other: Path, name: str) -> None:
    """Why a seal waits: before that a stat may answer from memory."""
    with mounted("big", "remembering", options="acregmin=3,acregmax=3,acdirmin=3,acdirmax=3") as point:
        tier = tier_at(point / name)
        tier.put("slide", [b"x" * 10])
        assert tier.stat("slide").fingerprint.size_bytes == 10
        with open(other / name / "slide", "ab") as file:
            file.write(b"y" * 10)
        at_once = tier.stat("slide").fingerprint.size_bytes
        time.sleep(mounts.stands_on(point).attribute_cache_s + 0.5)
        print("size seen at once:", at_once)
        assert tier.stat("slide").fingerprint.size_bytes == 20


# --- who may ------------------------------------------------------------------------------------------------------


def test_where_root_is_nobody_denied_is_denied_and_owners_are_kept(server: Server, name: str) -> None:
    """root_squash: we are uid 64001 there, whatever we are here. A root is that user's, and is made for nobody else."""
    with mounted("squashed", "squashed") as point:
        tier = tier_at(point / name)
        tier.put("slide", [b"x"])
        assert (SERVER / "squashed" / name / "slide").stat().st_uid == 64_001
        foreign = SERVER / "squashed" / name / "foreign"
        foreign.write_bytes(b"secret")
        foreign.chmod(0o600)
        tier.check_identity()
        assert sorted(e.key for e in tier.list()) == ["foreign", "slide"]
        with pytest.raises(TierDenied):
            tier.read("foreign")
        closed = SERVER / "squashed" / name / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(TierDenied):
            list(tier.list())
        closed.rmdir()
        roots = FlashRoots(point / name, reflink=False, check_identity=tier.check_identity, nfs=True)
        with pytest.raises(TierDenied, match="CAP_CHOWN"):
            roots.begin("run-y", Requester(1000, 1000))
        requester = Requester(64_001, 64_001)
        roots.begin("run-x", requester)
        roots.write("run-x", "records.parquet", b"rows")
        (roots.run_root("run-x") / "data").mkdir()
        roots.seal("run-x", requester)
        assert roots.run_root("run-x").stat().st_uid == 64_001
        roots.unseal("run-x")
        roots.withdraw("run-x")
        roots.remove("run-x", judged(roots))
        assert roots.is_gone("run-x")


# --- a server that is gone --------------------------------------------------------------------------------------------


def stuck() -> float:
    return metrics.REGISTRY.get_sample_value("mover_tier_stuck_calls", {"tier": "flash"}) or 0


def recovered(guard: Guard) -> bool:
    deadline = time.monotonic() + 120
    while guard.hung and time.monotonic() < deadline:
        time.sleep(0.2)
    return not guard.hung


def test_a_server_that_is_gone_hangs_nobody_and_loses_nothing(
    server: Server, tier: PosixTier, local: PosixTier, name: str
) -> None:
    """Calls, a write in progress and an engine run at once: all let go by name, few threads, one alarm; everything
    goes on when the server is back."""
    guard = Guard("flash", probe=lambda: os.statvfs(tier.root), unanswered_s=4, calls_max=4)
    kept = GuardedTier(tier, guard)
    local.put("slide", [os.urandom(MIB) for _ in range(8)])
    attempt = kept.attempt("half", size_bytes=2 * MIB)
    threads = threading.active_count()
    hung: dict[str, TierHung] = {}

    def tried(word: str, work: Callable[[], object]) -> None:
        try:
            work()
        except TierHung as error:
            hung[word] = error

    def engine() -> None:
        with local.open("slide") as source:
            Transfer().run_recipe(plain_copy(8 * MIB), source=source, source_tier=local, target=kept, key="slide")

    with server.away():
        began = time.monotonic()
        works: dict[str, Callable[[], object]] = {
            "seal": lambda: (attempt.write([bytes(2 * MIB)]), attempt.seal()),
            "stat": lambda: kept.stat("slide"),
            "list": lambda: list(kept.list()),
            "identity": kept.check_identity,
            "put": lambda: kept.put("x", [b"x"]),
            "engine": engine,
        }
        callers = [threading.Thread(target=tried, args=work) for work in works.items()]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(60)
            assert not caller.is_alive()
        waited = time.monotonic() - began
        # what this client remembers it answers itself, such as the identity file
        assert hung.keys() >= {"seal", "put", "engine"} and {error.where for error in hung.values()} == {"flash"}
        assert guard.hung and 1 <= stuck() <= 2 * 4 + 1
        assert threading.active_count() <= threads + 4 * 2 + 1 + 2 * len(callers)
        local.put("meanwhile", [b"x"])
        began = time.monotonic()
        tried("again", lambda: kept.stat("slide"))
        assert "again" in hung and time.monotonic() - began < 1
        print(f"let go after {waited:.1f} s: {sorted(hung)}; stuck {stuck():g}, "
              f"threads {threads} -> {threading.active_count()}")  # fmt: skip
        with suppress(TierHung):
            attempt.abandon()
        time.sleep(max(0.0, 8 - waited))
    assert recovered(guard) and stuck() == 0
    engine()
    assert blake3(b"".join(kept.stream("slide", cold=True))).digest() == blake3(local.read("slide")).digest()
    deadline = time.monotonic() + 30
    while tier.sweep_temporaries(older_than_s=0, now_s=2**40) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert files(behind(name)) <= {"slide", "x"}


def test_starting_a_process_does_not_stop_all_threads(server: Server, tier: PosixTier) -> None:
    """Found here: a child closes what we hold, closing writes back, and vfork made the whole interpreter wait."""
    Guard("flash", probe=lambda: os.statvfs(tier.root))
    attempt = tier.attempt("open", size_bytes=MIB)
    started = threading.Thread(target=lambda: subprocess.run(["/bin/true"], check=True))
    with server.away():
        attempt.write([bytes(MIB)])
        started.start()
        turns, slowest = 0, 0.0
        for _ in range(30):
            began = time.monotonic()
            time.sleep(0.1)
            turns, slowest = turns + 1, max(slowest, time.monotonic() - began)
        print(f"the child {'waits' if started.is_alive() else 'did not wait'}; slowest turn of others {slowest:.2f} s")
        assert slowest < 2
    started.join(60)
    assert not started.is_alive()
    attempt.abandon()


# --- the engine -------------------------------------------------------------------------------------------------------


def test_slides_travel_both_ways_and_between_folders_of_one_server(tier: PosixTier, local: PosixTier) -> None:
    """Digested on the way, read back from the server, same bytes: local to NFS, NFS to NFS, NFS to local."""
    data = os.urandom(20 * MIB)
    local.put("slide", [data])
    places = [(local, "slide"), (tier, "there/slide"), (tier, "copy/slide"), (local, "back")]
    for (source_tier, source_key), (target, key) in zip(places, places[1:], strict=False):
        with source_tier.open(source_key) as source:
            moved = Transfer().run_recipe(
                plain_copy(len(data)), source=source, source_tier=source_tier, target=target, key=key
            )
        assert moved.digest.blake3 == blake3(data).hexdigest()
    assert local.read("back") == data


def test_a_tree_of_odd_names_is_listed_whole(tier: PosixTier, name: str) -> None:
    """The same names as on the server's own file system, bytes and all."""
    names = [b"-dash", b"new\nline", b"\xff\xfe", b"x" * 200, b".nfs-notes", b" space "]
    for one in names:
        tier.put("odd/" + os.fsdecode(one), [one])
    for number in range(300):
        behind(name, "many").mkdir(exist_ok=True)
        behind(name, "many", f"{number:03}").write_bytes(b"x")
    listed = {os.fsencode(e.key) for e in tier.list()}
    assert listed == {b"odd/" + one for one in names} | {b"many/%03d" % n for n in range(300)}
