"""What is put stays, also when the daemon's own credential is in a thief's hands; and what a probe says of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
from botocore.exceptions import ClientError

from mover.clock import pause
from mover.demo.seaweed import Seaweed
from mover.errors import EntryExists, EntryLocked, EntryMissing
from mover.model.tiers import LockMode
from mover.tiers import identity as identities
from mover.tiers.immutable import has_capability, set_immutable
from mover.tiers.locking import AppendOnlyTier, LockingTier, ObjectLocks, object_locks
from mover.tiers.lockprobe import PROBES_MAX, probe_files, probe_objects
from mover.tiers.object_control import Lock
from mover.tiers.posix import PosixTier
from tests.support.seaweed import bucket_client, locked_bucket, object_tier, set_default_lock

pytestmark = pytest.mark.slow

DAY_S = 86_400


class Bucket(msgspec.Struct):
    server: Seaweed
    tier: LockingTier
    locks: ObjectLocks

    @property
    def client(self):  # type: ignore[no-untyped-def]  # botocore makes its clients at run time
        return bucket_client(self.server)

    def full(self, key: str) -> str:
        return self.locks.full_key(key)


def locking(weed: Seaweed, mode: LockMode = "COMPLIANCE", *, retain_s: int = 3 * DAY_S) -> Bucket:
    server = locked_bucket(weed, mode=mode)
    bare = object_tier(server, role="protect")
    locks = object_locks(bare)
    assert locks is not None
    tier = LockingTier(bare, locks, retain_s=retain_s, mode=mode, passing=("locks/",))
    return Bucket(server, tier, locks)


def now() -> datetime:
    return datetime.now(UTC)


def days(until: datetime) -> float:
    return (until - now()).total_seconds() / DAY_S


# --- buckets ----------------------------------------------------------------------------------------------


def test_what_is_put_is_locked_for_as_long_as_the_policy_says(weed: Seaweed) -> None:
    """The bucket's default is one day; the policy says three."""
    made = locking(weed)
    made.tier.put("data/aa", [b"pack"])
    lock = made.locks.of("data/aa")
    assert lock is not None and lock.mode == "COMPLIANCE" and 2.9 < days(lock.until) < 3.1


def test_the_stolen_credential_can_neither_delete_nor_shorten(weed: Seaweed) -> None:
    """An insider with the daemon's keys and the store's own client (R12): nothing is lost."""
    made = locking(weed)
    made.tier.put("data/aa", [b"pack"])
    version = made.client.head_object(Bucket=made.server.bucket, Key=made.full("data/aa"))["VersionId"]
    of = {"Bucket": made.server.bucket, "Key": made.full("data/aa"), "VersionId": version}
    soon = {"Mode": "COMPLIANCE", "RetainUntilDate": now() + timedelta(minutes=1)}
    for attempt in (
        lambda: made.client.delete_object(**of),
        lambda: made.client.delete_object(**of, BypassGovernanceRetention=True),
        lambda: made.client.put_object_retention(**of, Retention=soon),
        lambda: made.client.put_object_retention(**of, Retention=soon, BypassGovernanceRetention=True),
    ):
        with pytest.raises(ClientError):
            attempt()
    assert made.tier.read("data/aa") == b"pack"


def test_a_lock_is_extended_and_never_shortened(weed: Seaweed) -> None:
    made = locking(weed)
    made.tier.put("data/aa", [b"pack"])
    longer = made.tier.keep("data/aa", now() + timedelta(days=9))
    assert 8.9 < days(longer) < 9.1
    assert made.tier.keep("data/aa", now() + timedelta(days=2)) == longer


def test_removing_says_until_when_it_is_locked_and_removes_nothing(weed: Seaweed) -> None:
    """A plain delete on such a bucket would hide the object and answer with success (I7)."""
    made = locking(weed)
    made.tier.put("data/aa", [b"pack"])
    with pytest.raises(EntryLocked, match=r"^locked until 20\d\d-") as refused:
        made.tier.remove("data/aa")
    assert refused.value.retry == "never" and refused.value.details[0]["until"] > now().isoformat()
    assert made.tier.read("data/aa") == b"pack"


def test_what_has_run_out_leaves_with_all_its_versions(weed: Seaweed) -> None:
    """Otherwise the space of every pruned pack would be paid for ever."""
    made = locking(weed)
    made.locks.control.put_locked(made.full("data/aa"), b"pack", _ended_soon())
    _wait_until_over()
    made.tier.remove("data/aa")
    assert list(made.locks.control.versions(made.full("data/aa"))) == []
    with pytest.raises(EntryMissing):
        made.tier.remove("data/aa")


def test_passing_files_are_removed_at_once_and_their_hidden_versions_later(weed: Seaweed) -> None:
    """A repository's lock files live for minutes; a lock of days on them would lock the repository."""
    made = locking(weed)
    made.tier.put("locks/x", [b"mine"])
    made.tier.remove("locks/x")
    assert [e.key for e in made.tier.list("locks")] == []
    assert made.locks.hidden("locks/") == ["locks/x"] and made.locks.sweep("locks/") == 0  # the default holds it a day
    made.locks.control.put_locked(made.full("locks/y"), b"mine", _ended_soon())
    made.tier.remove("locks/y")
    _wait_until_over()
    assert made.locks.sweep("locks/") == 1 and made.locks.hidden("locks/") == ["locks/x"]


def test_what_was_hidden_can_be_brought_back(weed: Seaweed) -> None:
    """A delete marker is all that a thief can set; taking it off shows that nothing was lost."""
    made = locking(weed)
    made.tier.put("snapshots/s", [b"snapshot"])
    made.client.delete_object(Bucket=made.server.bucket, Key=made.full("snapshots/s"))
    with pytest.raises(EntryMissing):
        made.tier.stat("snapshots/s")
    assert made.tier.bring_back("snapshots/s") and made.tier.read("snapshots/s") == b"snapshot"
    assert not made.tier.bring_back("snapshots/never-was")


def test_what_a_thief_put_on_top_goes_below_again(weed: Seaweed) -> None:
    """A lock keeps a version, not a name: whoever may write can cover it, however often, and hide that, too."""
    made = locking(weed)
    key = "data/" + sha256(b"pack").hexdigest()
    made.tier.put(key, [b"pack"])
    made.tier.put("config", [b"config"])
    assert made.locks.overlaid("") == []
    for content in (b"evil", b"worse", b"pack and more"):
        for name in (key, "config"):
            made.client.put_object(Bucket=made.server.bucket, Key=made.full(name), Body=content)
    assert made.locks.overlaid("") == ["config", key]
    assert made.tier.put_right(key, now() + timedelta(days=9)) and made.tier.put_right("config")
    assert made.tier.read(key) == b"pack" and made.tier.read("config") == b"config"
    assert not made.tier.put_right(key)
    made.client.put_object(Bucket=made.server.bucket, Key=made.full(key), Body=b"evil again")
    made.client.delete_object(Bucket=made.server.bucket, Key=made.full(key))
    assert made.tier.bring_back(key) and made.tier.read(key) == b"pack"
    good = [one for one in made.locks.control.versions(made.full(key)) if made.locks._sha256(one) == key[5:]]
    locks = [made.locks.control.locked(one.key, one.id)[1] for one in good]
    assert len(locks) == 3 and all(lock is not None and days(lock.until) > 2.9 for lock in locks)


def test_where_no_version_is_what_its_name_says_all_are_locked_on_and_it_is_missing(weed: Seaweed) -> None:
    made = locking(weed)
    key = "data/" + sha256(b"pack").hexdigest()
    for content in (b"evil", b"worse"):
        made.client.put_object(Bucket=made.server.bucket, Key=made.full(key), Body=content)
    with pytest.raises(EntryMissing, match="no version"):
        made.tier.put_right(key)
    locks = [made.locks.control.locked(one.key, one.id)[1] for one in made.locks.control.versions(made.full(key))]
    assert len(locks) == 2 and all(lock is not None and days(lock.until) > 2.9 for lock in locks)


def test_a_put_that_was_cut_off_before_it_was_locked_for_long_is_locked_by_the_next(weed: Seaweed) -> None:
    made = locking(weed)
    made.tier.inner.put("data/aa", [b"pack"])  # and then the daemon was killed
    with pytest.raises(EntryExists):
        made.tier.put("data/aa", [b"pack"])
    lock = made.locks.of("data/aa")
    assert lock is not None and days(lock.until) > 2.9


# --- the lock probe ---------------------------------------------------------------------------------------


def test_a_bucket_that_really_locks_is_called_immutable(weed: Seaweed) -> None:
    made = locking(weed)
    found = probe_objects(made.locks, now=now(), mode="COMPLIANCE")
    assert found.immutable and found.succeeded == () and found.why == ""
    assert {"deleted", "shortened", "overwritten"} <= set(found.tried)


def test_a_credential_that_may_lift_governance_locks_makes_the_tier_not_immutable(weed: Seaweed) -> None:
    """GOVERNANCE keeps from accidents; whether it keeps from us depends on a right that only a trial shows."""
    made = locking(weed, "GOVERNANCE")
    found = probe_objects(made.locks, now=now(), mode="GOVERNANCE")
    assert not found.immutable and "deleted with a special right" in found.succeeded
    assert found.why.startswith("a probe object was ")


@pytest.mark.parametrize(("default", "why"), [(None, "does not lock new objects"), ("GOVERNANCE", "as GOVERNANCE")])
def test_a_default_that_was_taken_away_or_weakened_is_seen(weed: Seaweed, default: LockMode | None, why: str) -> None:
    """Trait drift: the bucket was right at registration, and somebody changed it since."""
    made = locking(weed)
    set_default_lock(made.client, made.server.bucket, default)
    found = probe_objects(made.locks, now=now(), mode="COMPLIANCE")
    assert not found.immutable and why in found.why and found.tried == ()


def test_probe_objects_are_few_and_run_out(weed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hourly for years: what a probe leaves must leave again (I10)."""
    made = locking(weed)
    monkeypatch.setattr("mover.tiers.lockprobe.PROBE_LOCK", timedelta(seconds=5))
    monkeypatch.setattr("mover.tiers.lockprobe.SHORTENED_TO", timedelta(seconds=1))
    for _ in range(3):
        assert probe_objects(made.locks, now=now(), mode="COMPLIANCE").immutable
        _wait_until_over()
    assert len(list(made.locks.control.versions(made.full(".mover/lock-probe/")))) <= 3
    monkeypatch.undo()
    for _ in range(PROBES_MAX // 2):
        probe_objects(made.locks, now=now(), mode="COMPLIANCE")
    found = probe_objects(made.locks, now=now(), mode="COMPLIANCE")
    assert not found.immutable and "have not run out" in found.why
    standing = list(made.locks.control.versions(made.full(".mover/lock-probe/")))
    assert len(standing) <= PROBES_MAX + 1


def _ended_soon() -> Lock:
    return Lock("COMPLIANCE", now() + timedelta(seconds=2))


def _wait_until_over() -> None:
    """The store's clock decides, so this waits for real."""
    pause(5.2)


# --- folders ----------------------------------------------------------------------------------------------

ONLY_ROOT = pytest.mark.skipif(
    not has_capability(), reason="only who may set the immutable attribute (CAP_LINUX_IMMUTABLE) can try it"
)
SCRIPT = """
import sys
from pathlib import Path
from mover.tiers import identity
from mover.tiers.immutable import Sealer, give_up
from mover.tiers.locking import AppendOnlyTier
from mover.tiers.lockprobe import probe_files
from mover.tiers.posix import PosixTier
root = Path(sys.argv[1])
sealer = Sealer.start()
give_up()
made = identity.establish(root, name="protect", zone="deidentified")
folder = PosixTier("protect", "deidentified", root, role="protect", identity=made)
tier = AppendOnlyTier(folder, folder, sealer, passing=("locks/",))
tier.put("data/pack", [b"pack"])
tier.put("locks/x", [b"mine"]); tier.remove("locks/x")
for attempt in sys.argv[2:]:
    try:
        exec(attempt)
    except Exception as error:
        print(type(error).__name__)
    else:
        print("done")
sealer.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A root whose files may be immutable afterwards: freed again, or the session could not be cleared away."""
    root = tmp_path / "protect"
    root.mkdir()
    yield root
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                set_immutable(file.fileno(), on=False)


def in_daemon(root: Path, *attempts: str) -> list[str]:
    """What a process says that started the sealer and gave the capability up, as the daemon does."""
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root), *attempts], capture_output=True, text=True, check=True, timeout=60,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    return told.stdout.split()


@ONLY_ROOT
def test_a_published_file_can_be_destroyed_by_nothing_that_the_daemon_can_do(folder: Path) -> None:
    """Whoever takes over the daemon's process has its rights, and no more: EPERM for each, also for a program that it
    starts."""
    path = str(folder / "data" / "pack")
    assert in_daemon(
        folder,
        "tier.remove('data/pack')",
        f"import os; os.unlink({path!r})",
        f"import os; os.rename({path!r}, {path + '2'!r})",
        f"open({path!r}, 'ab')",
        f"import mover.tiers.immutable as i; f = open({path!r}, 'rb'); i.set_immutable(f.fileno(), on=False)",
        f"import subprocess; subprocess.run(['chattr', '-i', {path!r}], check=True, capture_output=True)",
    ) == ["EntryLocked", *["PermissionError"] * 4, "CalledProcessError"]
    assert Path(path).read_bytes() == b"pack"


@ONLY_ROOT
def test_a_folder_that_keeps_is_called_immutable_with_one_probe_file_for_ever(folder: Path) -> None:
    assert in_daemon(folder, "assert probe_files(folder, tier).immutable", "assert probe_files(folder, tier).immutable")
    assert [p.name for p in (folder / ".mover" / "lock-probe").iterdir()] == ["file"]


@ONLY_ROOT
def test_a_daemon_that_kept_the_capability_is_called_not_immutable(folder: Path) -> None:
    """The probe is of our own credential: one that could take the attribute off is no protection, and says so."""
    made = identities.establish(folder, name="protect", zone="deidentified")
    bare = PosixTier("protect", "deidentified", folder, role="protect", identity=made)
    found = probe_files(bare, AppendOnlyTier(bare, bare, set_immutable))
    assert not found.immutable and "its attribute taken off" in found.succeeded
    assert os.listdir(folder / ".mover" / "lock-probe") == []  # and then it was deleted, too
