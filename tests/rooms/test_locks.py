"""What kept snapshots need stays locked; what was hidden comes back; and a tier that does not keep is said so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from mover import metrics
from mover.catalog.database import Database
from mover.decide.keeping import HOUR_S
from mover.demo.seaweed import Seaweed
from mover.errors import EntryLocked, SettingsInvalid, TierUnavailable
from mover.model import wire
from mover.model.policy import ProtectPolicy
from mover.policy import Loaded, PolicyBook
from mover.protect.keeping import check_means, rules
from mover.tiers import immutable
from mover.tiers.locking import LockingTier, ObjectLocks, object_locks
from tests.repository import conftest as repositories
from tests.repository.conftest import Restic
from tests.rooms.dump_rig import records
from tests.rooms.rig import PROJECT, Rig, who
from tests.support.postgres import Dsns
from tests.support.seaweed import bucket_client, locked_bucket, object_tier, set_default_lock

restic = repositories.restic
pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]

DAY_S = 86_400
LOCKED = ProtectPolicy(name="protect", flash="flash", repository="protect", prefix="repo", lock_s=8 * DAY_S)


class Site:
    """The rig with its repository in a bucket under object lock, and a run that is protected there."""

    def __init__(self, rig: Rig, server: Seaweed) -> None:
        self.rig, self.server = rig, server
        self.bare = object_tier(server, name="protect", role="protect")
        rig.tiers["protect"] = self.bare
        self.use(LOCKED)
        locks = object_locks(self.bare)
        assert locks is not None
        self.locks: ObjectLocks = locks
        self.client = bucket_client(server)

    def use(self, policy: ProtectPolicy) -> None:
        book = self.rig.protecting.runs._site.policies
        book._by_name[policy.name] = Loaded(policy=policy, file="p.yaml", text="", digest="")

    async def protected(self, content: bytes = b"weights") -> str:
        run = await self.rig.request(self.rig.slides([1000]), key=str(len(content)))
        await self.rig.work()
        (self.rig.folder / "flash" / "runs" / run.id / "out" / "model.pt").write_bytes(content)
        await self.rig.runs.finish(who(), run.id, wire.FinishRequest())
        await self.rig.work()
        assert self.rig.run(run.id).state == "protected"
        return run.id

    async def renewed(self) -> Any:
        """One pass, whatever the time."""
        self.rig.rows("update mover.lock_renewal set started_at = started_at - interval '2 days'")
        assert await self.rig.protecting.locks.begin_due(PROJECT) >= 1
        await self.rig.work("lock-renew")
        return self.rig.rows("select * from mover.lock_renewal order by started_at desc limit 1")[0]

    async def probed(self) -> wire.TierLock:
        self.rig.rows("update mover.tier_lock set asked_at = asked_at - make_interval(secs => %s)", HOUR_S + 1)
        await self.rig.protecting.locks.begin_due(PROJECT)
        await self.rig.work("lock-probe")
        return (await self.rig.protecting.locks.told())["protect"]

    def keys(self, *kinds: str) -> list[str]:
        return sorted(e.key for kind in kinds for e in self.bare.list(f"repo/{kind}"))

    def hide(self, key: str) -> None:
        self.client.delete_object(Bucket=self.server.bucket, Key=self.locks.full_key(key))

    def cover(self, key: str) -> None:
        self.client.put_object(Bucket=self.server.bucket, Key=self.locks.full_key(key), Body=b"evil")

    def days_left(self, key: str) -> float:
        lock = self.locks.of(key)
        assert lock is not None
        return (lock.until - datetime.now(UTC)).total_seconds() / DAY_S


@pytest.fixture
def site(tmp_path: Path, dsns: Dsns, database: Database, weed: Seaweed) -> Site:
    return Site(Rig(tmp_path, dsns, database), locked_bucket(weed, mode="COMPLIANCE"))


EVERYTHING = ("data", "index", "snapshots", "keys", "config")


# --- renewal ----------------------------------------------------------------------------------------------


async def test_a_protected_run_is_locked_from_its_first_moment_and_a_pass_over_it_costs_a_listing(site: Site) -> None:
    await site.protected()
    keys = site.keys("data", "index", "snapshots", "keys") + ["repo/config"]
    assert len(keys) >= 6 and all(7.9 < site.days_left(key) < 8.1 for key in keys)
    first = await site.renewed()
    assert (first.state, first.needed, first.renewed, first.missing) == ("done", len(keys), len(keys), 0)
    second = await site.renewed()
    assert (second.state, second.needed, second.renewed) == ("done", len(keys), 0)


async def test_locks_are_extended_while_a_kept_snapshot_needs_the_object_and_run_out_when_none_does(site: Site) -> None:
    """Two runs; one snapshot is forgotten. What only that one needed is not locked on."""
    await site.protected(b"one" * 1000)
    before = set(site.keys("data"))
    await site.protected(b"another" * 1000)
    own = sorted(set(site.keys("data")) - before)
    site.rig.rows("update mover.snapshot set state = 'forgotten', forgotten_at = now() where sequence ="
                  " (select max(sequence) from mover.snapshot)")  # fmt: skip
    site.use(msgspec.structs.replace(LOCKED, lock_s=40 * DAY_S))
    done = await site.renewed()
    assert done.state == "done"
    assert all(site.days_left(key) > 39 for key in before) and all(site.days_left(key) < 9 for key in own)


async def test_a_killed_pass_goes_on_where_it_was(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tier goes away in the middle: what is locked is written down, and is not asked for again."""
    await site.protected()
    monkeypatch.setattr("mover.protect.locks.SLICE", 2)
    asked: list[str] = []
    real = LockingTier.keep

    def keep(self: LockingTier, key: str, until: datetime | None = None) -> datetime:
        asked.append(key)
        if len(asked) == 4:
            raise TierUnavailable("away")
        return real(self, key, until)

    monkeypatch.setattr(LockingTier, "keep", keep)
    await site.rig.protecting.locks.begin_due(PROJECT)
    await site.rig.work("lock-renew")
    written = {row.key for row in site.rig.rows("select key from mover.object_lock")}
    assert written and site.rig.rows("select state from mover.lock_renewal") == [("running",)]
    asked[:] = ["x"] * 10
    site.rig.due()
    await site.rig.work("lock-renew")
    assert site.rig.rows("select state from mover.lock_renewal") == [("done",)]
    assert not written & set(asked)


async def test_what_a_thief_hid_comes_back_and_restic_finds_everything_whole(site: Site, restic: Restic) -> None:
    """All that the stolen credential can do on such a bucket is to set delete markers: on every single object."""
    await site.protected()
    keys = site.keys("data", "index", "snapshots", "keys") + ["repo/config"]
    for key in keys:
        site.hide(key)
    assert [e for kind in EVERYTHING for e in site.bare.list(f"repo/{kind}")] == []
    site.rig.protecting.runs._site.repositories._opened.clear()  # the daemon was restarted meanwhile

    done = await site.renewed()

    assert (done.state, done.missing, done.brought_back) == ("done", 0, len(keys))
    told = list(records(site.rig, "hidden objects brought back"))
    assert sum(record["details"]["count"] for record in told) == len(keys)
    assert metrics.LOCKS_BROUGHT_BACK.labels("protect")._value.get() >= len(keys)
    await _restic_check(site, restic)


async def test_what_a_thief_put_other_bytes_upon_is_on_top_again_and_locked(site: Site, restic: Restic) -> None:
    """The good versions stood below, were extended no more, and ran out: on every single object, and hidden besides."""
    await site.protected()
    await site.renewed()
    keys = site.keys("data", "index", "snapshots", "keys") + ["repo/config"]
    for key in keys:
        site.cover(key)
    site.hide(site.keys("data")[0])
    site.rig.protecting.runs._site.repositories._opened.clear()  # the daemon was restarted meanwhile
    site.use(msgspec.structs.replace(LOCKED, lock_s=40 * DAY_S))
    before = metrics.LOCKS_BROUGHT_BACK.labels("protect")._value.get()

    done = await site.renewed()

    assert (done.state, done.missing, done.brought_back) == ("done", 0, len(keys))
    assert metrics.LOCKS_BROUGHT_BACK.labels("protect")._value.get() - before == len(keys)
    assert all(site.days_left(key) > 39 for key in keys)
    again = await site.renewed()
    assert (again.state, again.missing, again.brought_back) == ("done", 0, 0)
    await _restic_check(site, restic)


async def test_rows_that_say_more_than_the_store_keep_no_lock_from_being_renewed(site: Site) -> None:
    """The daemon's database role can write that everything is locked for a century: then all locks ran out."""
    await site.protected()
    keys = site.keys("data", "index", "snapshots", "keys") + ["repo/config"]
    site.rig.rows(
        "insert into mover.object_lock as l select 'protect', k, now() + interval '100 years' from unnest(%s::text[]) k"
        " on conflict (tier, key) do update set until = excluded.until", keys,
    )  # fmt: skip
    site.use(msgspec.structs.replace(LOCKED, lock_s=40 * DAY_S))
    done = await site.renewed()
    assert (done.state, done.renewed) == ("done", len(keys)) and all(site.days_left(key) > 39 for key in keys)
    [told] = records(site.rig, "locks not as written down")
    assert told["details"]["count"] == len(keys)
    assert (await site.renewed()).renewed == 0 and len(list(records(site.rig, "locks not as written down"))) == 1


@pytest.mark.parametrize("kind", ["snapshots", "index"])
async def test_a_file_that_a_thief_added_keeps_no_lock_from_being_renewed(site: Site, kind: str) -> None:
    """One unreadable snapshot file ended every pass: the locks of all others ran out."""
    await site.protected()
    keys = site.keys("data")
    site.bare.put(f"repo/{kind}/" + "ab" * 32, [b"x" * 100])
    site.use(msgspec.structs.replace(LOCKED, lock_s=40 * DAY_S))
    done = await site.renewed()
    assert done.state == "done" and "cannot be told" in done.explanation
    assert all(site.days_left(key) > 39 for key in keys)


async def test_a_hidden_repository_is_never_taken_for_none(site: Site) -> None:
    """A new one made in its place would look like an empty house, and nobody would miss anything."""
    await site.protected()
    before = (await site.rig.protecting.snapshots.check(PROJECT)).snapshots
    for key in site.keys("keys") + ["repo/config"]:
        site.hide(key)
    site.rig.protecting.runs._site.repositories._opened.clear()
    assert (await site.rig.protecting.snapshots.check(PROJECT)).snapshots == before == 1


async def test_what_another_client_forgot_of_its_own_stays_forgotten(site: Site) -> None:
    """Stock restic may work beside us: a snapshot that the catalog never kept is not ours to bring back."""
    await site.protected()
    site.bare.put("repo/snapshots/" + "ab" * 32, [b"somebody's"])
    site.hide("repo/snapshots/" + "ab" * 32)
    done = await site.renewed()
    assert done.brought_back == 0 and "repo/snapshots/" + "ab" * 32 not in site.keys("snapshots")


async def test_a_forgotten_snapshot_is_gone_for_every_client_and_stands_until_its_lock_runs_out(site: Site) -> None:
    """Whoever forgot wrongly, or was made to, has the time of the lock to bring it back; the packs stay as long."""
    await site.protected()
    repository = site.rig.protecting.runs._site.repositories.of(LOCKED)
    [snapshot] = repository.snapshots()
    assert repository.forget([snapshot.snapshot_id]) == [snapshot.snapshot_id] and repository.snapshots() == []
    assert site.locks.hidden("repo/snapshots/") == [f"repo/snapshots/{snapshot.snapshot_id}"]
    with pytest.raises(EntryLocked, match="locked until"):
        repository._files.remove("data", site.keys("data")[0].rpartition("/")[2])
    await site.renewed()  # the catalog keeps it: nobody had forgotten it there
    assert [s.snapshot_id for s in repository.snapshots()] == [snapshot.snapshot_id]


async def test_a_prune_of_what_is_locked_ends_and_leaves_a_whole_repository(site: Site, restic: Restic) -> None:
    """Packs that nothing needs are marked and wait for their locks; nothing loops, nothing is lost."""
    await site.protected(b"one" * 1000)
    before = set(site.keys("data"))
    await site.protected(b"another" * 1000)
    own = set(site.keys("data")) - before
    repository = site.rig.protecting.runs._site.repositories.of(LOCKED)
    site.rig.rows("update mover.snapshot set state = 'forgotten', forgotten_at = now() where sequence ="
                  " (select max(sequence) from mover.snapshot)")  # fmt: skip
    [gone] = site.rig.rows("select repository_id from mover.snapshot where state = 'forgotten'")
    repository.forget([gone.repository_id])
    for days in (0, 2):
        at = datetime.now(UTC) + timedelta(days=days)
        assert repository.prune(grace=timedelta(days=1), now=at).finished
    assert own and own <= set(site.keys("data"))
    done = await site.renewed()
    assert (done.state, done.missing, done.brought_back) == ("done", 0, 0)
    await _restic_check(site, restic)


def test_a_lock_that_was_written_down_is_never_shortened(rows: psycopg.Connection[Any]) -> None:
    """Not by us, not by a clock that went back: the database refuses."""
    rows.execute("insert into mover.object_lock values ('protect', 'k', now() + interval '9 days')")
    rows.execute("update mover.object_lock set until = until + interval '1 day'")
    with pytest.raises(psycopg.errors.CheckViolation):
        rows.execute("update mover.object_lock set until = until - interval '1 s'")


@pytest.fixture
def rows(dsns: Dsns) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsns.daemon) as conn:
        yield conn
        conn.rollback()


# --- the lock probe ---------------------------------------------------------------------------------------


async def test_an_hourly_probe_tells_and_alarms_when_the_lock_is_taken_away(site: Site) -> None:
    """An administrator (or a thief with his keys) takes the bucket's default retention away."""
    lock = await site.probed()
    assert (lock.state, lock.means, lock.succeeded) == ("immutable", "object lock", [])
    assert metrics.TIER_IMMUTABLE.labels("protect")._value.get() == 1
    assert [r["subject"] for r in records(site.rig, "tier found immutable")] == ["protect"]
    assert await site.rig.protecting.locks.begin_due(PROJECT) == 0  # not before its hour

    set_default_lock(site.client, site.server.bucket, None)
    lock = await site.probed()
    assert lock.state == "not immutable" and "does not lock new objects" in (lock.explanation or "")
    [record] = records(site.rig, "tier found not immutable")
    assert record["subject"] == "protect" and metrics.TIER_IMMUTABLE.labels("protect")._value.get() == 0
    await site.probed()
    assert len(list(records(site.rig, "tier found not immutable"))) == 1  # a state is recorded when it changes


async def test_a_store_that_does_not_answer_proves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither immutable nor not: what was known stays, with its time, and why it is old."""
    known = await site.probed()

    def away(*_: object, **__: object) -> None:
        raise TierUnavailable("away")

    monkeypatch.setattr("mover.protect.locks.probe_objects", away)
    lock = await site.probed()
    assert (lock.state, lock.probed_at) == ("immutable", known.probed_at) and "no answer" in (lock.explanation or "")


# --- rules and means --------------------------------------------------------------------------------------


def book(*policies: ProtectPolicy) -> PolicyBook:
    return PolicyBook([Loaded(policy=p, file="p.yaml", text="", digest="") for p in policies])


def test_of_two_policies_with_one_repository_the_longer_lock_and_the_stricter_mode_hold() -> None:
    """Equal blobs are stored once: nobody can say whose they are."""
    mild = msgspec.structs.replace(LOCKED, name="mild", lock_mode="governance", lock_s=99 * DAY_S, prefix="/repo/")
    other = msgspec.structs.replace(LOCKED, name="other", prefix="other")
    one, two = rules(book(LOCKED, mild, other))
    assert (one.prefix, one.retain_s, one.mode, one.policy) == ("other", 8 * DAY_S, "COMPLIANCE", "other")
    assert (two.prefix, two.retain_s, two.mode, two.policy) == ("repo", 99 * DAY_S, "COMPLIANCE", "mild")


async def test_means_that_are_not_at_hand_are_said_at_start(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first snapshot at night, and never quietly without."""
    check_means(book(LOCKED), site.rig.tiers, seal=None)
    mild = msgspec.structs.replace(LOCKED, lock_mode="governance")
    with pytest.raises(SettingsInvalid, match="locks new objects as COMPLIANCE"):
        check_means(book(mild), site.rig.tiers, seal=None)
    folder = ProtectPolicy(name="protect", flash="flash", repository="archive", append_only="chattr")
    with pytest.raises(SettingsInvalid, match="nothing here makes files immutable"):
        check_means(book(folder), site.rig.tiers, seal=None)
    monkeypatch.setattr("mover.protect.keeping.takes_attribute", lambda _: False)
    with pytest.raises(SettingsInvalid, match="no immutable attribute"):
        check_means(book(folder), site.rig.tiers, seal=lambda _: None)


# --- immutable files --------------------------------------------------------------------------------------


@pytest.mark.skipif(not immutable.has_capability(), reason="only who may set the immutable attribute can try it")
async def test_a_repository_of_immutable_files_works_and_a_pass_closes_what_a_kill_left_open(
    tmp_path: Path, dsns: Dsns, database: Database, restic: Restic
) -> None:
    """Written by us and read by stock restic as ever; only removing is refused."""
    rig = Rig(tmp_path, dsns, database)
    policy = ProtectPolicy(name="protect", flash="flash", repository="protect", append_only="chattr")
    site = rig.protecting.runs._site
    site.policies._by_name["protect"] = Loaded(policy=policy, file="p.yaml", text="", digest="")
    site.repositories._seal = immutable.set_immutable
    root = rig.folder / "protect"
    try:
        run = await rig.request(rig.slides([1000]), key="1")
        await rig.work()
        await rig.runs.finish(who(), run.id, wire.FinishRequest())
        await rig.work()
        assert rig.run(run.id).state == "protected"
        files = [p for p in root.rglob("*") if p.is_file() and not {".mover", "index"} & set(p.parts)]
        assert files and [p for p in files if not _is_immutable(p)] == []
        _set(files[0], on=False)
        await rig.protecting.locks.begin_due(PROJECT)
        await rig.work("lock-renew", "lock-probe")
        assert _is_immutable(files[0])
        with pytest.raises(EntryLocked, match="immutable"):
            site.repositories.of(policy).forget([site.repositories.of(policy).snapshots()[0].snapshot_id])
        lock = (await rig.protecting.locks.told())["protect"]
        assert lock.means == "immutable files" and lock.state == "not immutable"  # this process kept the capability
        where = {"RESTIC_REPOSITORY": str(root), "RESTIC_PASSWORD": "secret"}
        assert "no errors were found" in restic("check", "--read-data", "--no-lock", **where).stdout
    finally:
        for path in root.rglob("*"):
            if path.is_file():
                _set(path, on=False)


def _is_immutable(path: Path) -> bool:
    with open(path, "rb") as file:
        return immutable.is_immutable(file.fileno())


def _set(path: Path, *, on: bool) -> None:
    with open(path, "rb") as file:
        immutable.set_immutable(file.fileno(), on=on)


async def _restic_check(site: Site, restic: Restic) -> None:
    from mover.tiers.credentials import read_credentials

    keys = read_credentials(Path(site.server.credentials_file))
    where = {
        "RESTIC_REPOSITORY": f"s3:{site.server.endpoint}/{site.server.bucket}/{site.locks.full_key('repo')}",
        "RESTIC_PASSWORD": "secret", "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key, "AWS_DEFAULT_REGION": site.server.region,
    }  # fmt: skip
    assert "no errors were found" in restic("check", "--read-data", **where).stdout
    assert timedelta(0) < timedelta(days=site.days_left("repo/config"))
