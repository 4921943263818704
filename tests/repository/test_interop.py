"""Random trees through our hands and restic's, both ways; and what only restic's other commands make."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mover.clock import SYSTEM
from mover.errors import RepositoryLocked
from mover.repository import crypto, locks
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.posix import PosixTier
from tests.repository.conftest import PASSWORD, Restic, listing, make_tier, take

pytestmark = pytest.mark.slow

NAMES = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.text(min_size=1, max_size=12).map(lambda text: text.encode("utf-8", "surrogatepass")),
).filter(lambda name: name not in (b".", b"..") and b"/" not in name and b"\0" not in name)
# root reads and writes whatever a mode says; who is not must be let into his own tree
_OWN = 0 if os.geteuid() == 0 else 0o700
MODES = st.sampled_from([mode | _OWN for mode in (0o644, 0o600, 0o444, 0o755, 0o4755, 0o2755, 0o6711, 0o1777)])
TIMES = st.integers(-(10**9) * 10**9, 4 * 10**9 * 10**9)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.binary(min_size=1, max_size=8), st.integers(1, 40_000)).map(lambda pair: pair[0] * pair[1]),
)
# giving files away needs root; without it all are one's own
OWNERS = st.sampled_from([(0, 0), (1000, 1000), (64_001, 7)] if os.geteuid() == 0 else [(-1, -1)])
XATTRS = st.dictionaries(
    st.text("abcxyz._-019", min_size=1, max_size=8).map(lambda name: f"user.{name}"),
    st.binary(min_size=1, max_size=40),
    max_size=2,
)
FILES = st.fixed_dictionaries(
    {"kind": st.just("file"), "data": CONTENTS, "mode": MODES, "time": TIMES, "xattrs": XATTRS, "hole": st.booleans(),
     "owner": OWNERS}
)  # fmt: skip
# Targets that are not UTF-8 travel in a field that restic 0.14 does not know yet: it spoils them both ways.
TARGETS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
LINKS = st.fixed_dictionaries(
    {"kind": st.just("link"), "target": TARGETS.map(str.encode), "time": TIMES, "owner": OWNERS}
)
HARD = st.fixed_dictionaries({"kind": st.just("hard")})
FOLDERS = st.fixed_dictionaries(
    {"kind": st.just("folder"), "mode": MODES, "time": TIMES, "xattrs": XATTRS, "owner": OWNERS}
)
ENTRIES = st.dictionaries(NAMES, st.one_of(FILES, FILES, LINKS, HARD, FOLDERS), max_size=6)
TREES = st.lists(ENTRIES, min_size=1, max_size=4)  # one folder's entries; each next list goes into the last folder


def make(root: bytes, levels: list[dict[bytes, dict[str, object]]]) -> None:
    """The tree on disk. Facts of folders are set last, from the deepest up."""
    os.mkdir(root)
    first: bytes | None = None
    folders: list[tuple[bytes, dict[str, object]]] = []
    at = root
    for level in levels:
        inner = None
        for name, words in level.items():
            path = os.path.join(at, name)
            if words["kind"] == "folder":
                os.mkdir(path)
                folders.append((path, words))
                inner = path
            elif words["kind"] == "link":
                os.symlink(words["target"], path)  # type: ignore[arg-type]
                _facts(path, words)
            elif words["kind"] == "hard" and first is not None:
                os.link(first, path)
            else:
                _file(path, words)
                first = first or path
        if inner is None:
            break
        at = inner
    for path, words in reversed(folders):
        _facts(path, words)


def _file(path: bytes, words: dict[str, object]) -> None:
    data: bytes = words.get("data", b"")  # type: ignore[assignment]
    with open(path, "wb") as file:
        if words.get("hole"):
            file.seek(1 << 20)
        file.write(data)
    _facts(path, words)


def _facts(path: bytes, words: dict[str, object]) -> None:
    for name, value in words.get("xattrs", {}).items():  # type: ignore[attr-defined]
        os.setxattr(path, name, value)
    os.chown(path, *words.get("owner", (-1, -1)), follow_symlinks=False)  # type: ignore[misc]
    if words["kind"] != "link":
        os.chmod(path, words.get("mode", 0o644))  # type: ignore[arg-type]
    when: int = words.get("time", 10**18)  # type: ignore[assignment]
    os.utime(path, ns=(when, when), follow_symlinks=False)


def everything(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """`listing`, which names are one file, whose group's each is, and when a link was made."""
    found = listing(folder)
    groups: dict[int, set[bytes]] = {}
    for name in found:
        facts = os.lstat(os.path.join(os.fsencode(folder), name))
        found[name] += (facts.st_gid, facts.st_mtime_ns)
        if stat.S_ISREG(facts.st_mode) and facts.st_nlink > 1:
            groups.setdefault(facts.st_ino, set()).add(name)
    together = {name: tuple(sorted(group)) for group in groups.values() for name in group}
    return {name: (*words, together.get(name, ())) for name, words in found.items()}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, Path]:
    """One repository for all examples; each example is a snapshot more."""
    base = tmp_path_factory.mktemp("interop")
    patch = pytest.MonkeyPatch()
    patch.setattr(crypto, "SCRYPT_N", 1024)
    patch.setattr(crypto, "SCRYPT_P", 1)
    patch.setattr(locks, "SETTLE_S", 0.005)
    yield create_repository(make_tier(base / "tier"), PASSWORD, prefix="repo"), base  # type: ignore[misc]
    patch.undo()


def stock(base: Path, *words: str) -> str:
    if shutil.which("restic") is None:
        pytest.skip("needs Debian package: restic")
    (base / "cache").mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "RESTIC_PASSWORD": PASSWORD.decode(),
        "RESTIC_REPOSITORY": str(base / "tier" / "repo"),
        "RESTIC_CACHE_DIR": str(base / "cache"),
    }
    done = subprocess.run(["restic", *words], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


BOUNDED = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


@BOUNDED
@given(levels=TREES)
def test_any_tree_that_we_write_is_restored_by_restic_and_by_us_as_it_was(
    bench: tuple[Repository, Path], levels: list[dict[bytes, dict[str, object]]]
) -> None:
    """Byte and metadata: names that are not UTF-8, xattrs, hard links, holes, links, empty folders, nanoseconds, setuid
    and sticky bits."""
    repository, base = bench
    with tempfile.TemporaryDirectory(dir=base) as place:
        source = Path(place) / "source"
        make(os.fsencode(source), levels)
        before = everything(source)
        taken = take(repository, source)
        assert taken.complete and not taken.skipped

        stock(base, "restore", taken.snapshot_id, "--target", f"{place}/theirs")
        assert everything(Path(place) / "theirs" / "artifacts") == before
        repository.restore(taken.snapshot_id, Path(place) / "ours", path="/artifacts")
        assert everything(Path(place) / "ours") == before


@BOUNDED
@given(levels=TREES)
def test_any_tree_that_restic_writes_is_restored_by_us_as_it_was(
    bench: tuple[Repository, Path], levels: list[dict[bytes, dict[str, object]]]
) -> None:
    """The other way: its cut, its trees, its packs."""
    repository, base = bench
    with tempfile.TemporaryDirectory(dir=base) as place:
        source = Path(place) / "source"
        make(os.fsencode(source), levels)
        before = everything(source)
        told = stock(base, "backup", "--json", str(source)).strip().split("\n")  # U+0085 in a name ends no line
        summary = next(line for line in map(json.loads, told) if line["message_type"] == "summary")
        (snapshot_id,) = [
            facts.snapshot_id
            for facts in repository.snapshots()
            if facts.snapshot_id.startswith(summary["snapshot_id"])
        ]

        restored = repository.restore(snapshot_id, Path(place) / "ours", path=str(source))

        assert restored.complete and not restored.warnings
        assert everything(Path(place) / "ours") == before
        assert repository.check(True, snapshot_id).ok


def test_a_link_whose_target_is_not_utf_8_comes_back_by_our_own_hand(repository: Repository, tmp_path: Path) -> None:
    """Where the oldest restic about cannot judge."""
    (tmp_path / "out").mkdir()
    os.symlink(b"bad\xff\xfe/target", os.fsencode(tmp_path / "out" / "link"))
    taken = take(repository, tmp_path / "out")

    repository.restore(taken.snapshot_id, tmp_path / "back", path="/artifacts")

    assert listing(tmp_path / "back") == listing(tmp_path / "out")


def test_both_go_on_after_all_those_trees_and_a_prune(bench: tuple[Repository, Path]) -> None:
    """The snapshots of both writers, half of them forgotten and pruned away."""
    repository, base = bench
    snapshots = repository.snapshots()
    repository.forget([facts.snapshot_id for facts in snapshots[::2]])
    now = SYSTEM.now()

    repository.prune(grace=timedelta(0), now=now)
    repository.prune(grace=timedelta(0), now=now + timedelta(hours=1))

    assert "no errors were found" in stock(base, "check", "--read-data")
    assert repository.check(True).ok


# --- restic's other commands ------------------------------------------------------------------------------------


def test_tagged_and_rewritten_snapshots_and_those_left_by_a_stock_prune_are_read(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """`tag` and `rewrite` make a new snapshot file with an `original`; `forget --prune` rewrites packs and index."""
    for number in range(3):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "a").write_bytes(bytes([number]) * 70_000)
        last = take(repository, tmp_path / "out").snapshot_id
    restic("tag", "--add", "kept", last)
    restic("forget", "--keep-last", "1", "--prune", "--group-by", "")

    (facts,) = repository.snapshots()
    assert facts.tags == ("run=r1", "kept") and facts.original == last
    document = {**repository._document(facts.snapshot_id), "hostname": "elsewhere", "summary": {"files_new": 1}}
    rewritten = repository._put_copy(document, last)
    restic("migrate")

    (hostname,) = [each.hostname for each in repository.snapshots() if each.snapshot_id == rewritten]
    assert hostname == "elsewhere"
    repository.restore(rewritten, tmp_path / "back", path="/artifacts")
    assert listing(tmp_path / "back") == listing(tmp_path / "out")
    assert repository.check(True).ok
    assert "no errors were found" in restic("check", "--read-data").stdout


def test_a_repository_of_version_1_is_ours_once_restic_migrated_it(
    tier: PosixTier, restic: Restic, tmp_path: Path
) -> None:
    """Its packs stay as they are, uncompressed; new ones beside them are not."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log").write_text("step 1\n" * 20_000)
    restic("init", "--repository-version", "1")
    restic("backup", str(tmp_path / "out"))
    restic("migrate", "upgrade_repo_v2")

    repository = open_repository(tier, PASSWORD, prefix="repo")
    (facts,) = repository.snapshots()
    taken = take(repository, tmp_path / "out")

    repository.restore(facts.snapshot_id, tmp_path / "back", path=str(tmp_path / "out"))
    assert listing(tmp_path / "back") == listing(tmp_path / "out")
    repository.forget([facts.snapshot_id])
    repository.prune(grace=timedelta(0), now=SYSTEM.now())
    assert repository.check(True, taken.snapshot_id).ok
    assert "no errors were found" in restic("check", "--read-data").stdout


# --- locks both ways -----------------------------------------------------------------------------------------------


def test_a_running_restic_stops_our_forget_and_prune_and_a_killed_one_does_not(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """`restic backup --stdin` holds its lock until we let go of its input; killed, its lock is met as stale."""
    (tmp_path / "out").mkdir()
    kept = take(repository, tmp_path / "out").snapshot_id
    for end in ("done", "killed"):
        restic("snapshots")  # makes the cache folder, fails when restic is missing
        running = subprocess.Popen(
            ["restic", "backup", "--stdin", "--no-cache"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "RESTIC_PASSWORD": PASSWORD.decode(), "RESTIC_REPOSITORY": str(tmp_path / "tier/repo")},
        )
        assert running.stdin is not None
        _until_locked(tmp_path, running)
        for work in (lambda: repository.forget([]), lambda: repository.prune(grace=timedelta(0))):
            with pytest.raises(RepositoryLocked):
                work()
        assert take(repository, tmp_path / "out").complete  # two writers stand side by side
        if end == "killed":
            running.kill()
        running.stdin.close()
        running.wait()
        repository.prune(grace=timedelta(0))

    assert not list((tmp_path / "tier/repo/locks").iterdir())
    assert kept in {facts.snapshot_id for facts in repository.snapshots()}
    assert "no errors were found" in restic("check", "--read-data").stdout


def _until_locked(tmp_path: Path, running: subprocess.Popen[bytes]) -> None:
    folder = tmp_path / "tier/repo/locks"
    for _ in range(500):
        if any(path for path in folder.iterdir() if len(path.name) == 64):
            return
        assert running.poll() is None
        time.sleep(0.02)
    raise AssertionError("restic never locked")


def test_restic_waits_for_our_prune_and_unlocks_what_we_left_dead(
    repository: Repository, restic: Restic, tmp_path: Path
) -> None:
    """Its `unlock` knows our stale locks: of a process that is gone, or older than half an hour."""
    words = {"exclusive": True, "username": "u", "pid": 1 << 22, "uid": 0, "gid": 0}
    dead = {**words, "time": SYSTEM.now().isoformat(), "hostname": socket.gethostname()}
    old = {**words, "time": (SYSTEM.now() - timedelta(minutes=31)).isoformat(), "hostname": "elsewhere"}
    live = {**words, "time": SYSTEM.now().isoformat(), "hostname": "elsewhere"}
    for lock in (dead, old):
        repository._files.save_document("locks", msgspec.json.encode(lock), key=repository._key)
    assert restic("snapshots", ok=False).returncode != 0
    restic("unlock")
    assert restic("snapshots").returncode == 0

    standing = repository._files.save_document("locks", msgspec.json.encode(live), key=repository._key)
    restic("unlock")
    assert restic("snapshots", ok=False).returncode != 0
    repository._files.remove("locks", standing)
    assert "no errors were found" in restic("check", "--read-data").stdout
