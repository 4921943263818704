"""Restores as jobs on a real catalog and repository: asked, planned, killed, given up, refused; versions and diffs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mover.catalog.database import Database
from mover.errors import Conflict, Denied, NotFound, RequestInvalid, Stopping, TierDenied
from mover.jobs import Worker
from mover.model import wire
from mover.model.access import Identity
from mover.protect import restoring
from mover.protect.restoring import Restoring
from mover.repository.repository import Repository
from tests.repository.conftest import listing
from tests.rooms.rig import PROJECT, Rig
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
ROOT = Identity(actor="root", role="admin", project=PROJECT, posix_uid=os.geteuid(), posix_gid=os.getegid())


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


async def finished(rig: Rig, key: str = "1", **files: bytes) -> tuple[str, Path]:
    """A protected run with these files in its out/."""
    run = await rig.request(rig.slides([1000]), key=key)
    await rig.work()
    out = rig.folder / "flash" / "runs" / run.id / "out"
    for name, content in files.items():
        (out / name.replace("__", ".")).write_bytes(content)
    await rig.runs.finish(ROOT, run.id, wire.FinishRequest())
    await rig.work()
    return run.id, out


async def newest(rig: Rig, run: str) -> str:
    return (await rig.protecting.snapshots.list(PROJECT, run=run)).snapshots[0].id


def asked(snapshot: str, to: Path, **more: Any) -> wire.RestoreRequest:
    return wire.RestoreRequest(snapshot=snapshot, to=str(to), path="/artifacts", **more)


async def restored(rig: Rig, body: wire.RestoreRequest, *, key: str = "k") -> wire.Restore:
    done = await rig.protecting.restores.request(ROOT, body, key=key)
    await rig.work("restore")
    return await rig.protecting.restores.view(PROJECT, done.id)


# --- a job -----------------------------------------------------------------------------------------------------


async def test_a_restore_is_answered_at_once_and_done_by_a_worker(rig: Rig) -> None:
    """Hours of restoring hang on no connection; the same key is the same restore, and another body is refused."""
    run, out = await finished(rig, model__pt=b"weights" * 1000, a__log=b"step\n")
    body = asked(await newest(rig, run), rig.folder / "back", first=["*.pt"])

    first = await rig.protecting.restores.request(ROOT, body, key="k")
    again = await rig.protecting.restores.request(ROOT, body, key="k")
    with pytest.raises(Conflict):
        await rig.protecting.restores.request(ROOT, msgspec.structs.replace(body, path="/"), key="k")
    assert first.state == "waiting" and again.id == first.id and not (rig.folder / "back").exists()
    await rig.work()

    done = await rig.protecting.restores.view(PROJECT, first.id)
    assert (done.state, done.files, done.bytes, done.of_files, done.of_bytes) == ("complete", 2, 7005, 2, 7005)
    assert done.first_at is not None and done.rate_bytes_s and done.seconds > 0 and done.finished_at is not None
    assert listing(rig.folder / "back") == listing(out)
    assert (await rig.protecting.restores.list(PROJECT, None, 10)).restores == [done]
    assert {"restore requested", "snapshot restored"} <= set(rig.actions())
    assert not list(rig.folder.glob(".restoring-*"))


async def test_a_restore_that_was_killed_goes_on_with_the_next_process(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon dies in the middle: what its staging holds is not fetched again, and the row ends as it would have."""
    run, out = await finished(rig, model__pt=os.urandom(3 << 20), a__log=b"step\n")
    real = Repository.restore

    def dies(self: Repository, *words: Any, **more: Any) -> Any:
        real(self, *words, **more)
        raise Stopping("the process is gone after the target was published, before the row knew")

    with monkeypatch.context() as patched:
        patched.setattr(Repository, "restore", dies)
        seen = await restored(rig, asked(await newest(rig, run), rig.folder / "back"))
    assert (seen.state, seen.reason) == ("restoring", "stopping")
    assert list(rig.folder.glob(".restoring-*"))
    rig.due()
    await rig.work()

    done = await rig.protecting.restores.view(PROJECT, seen.id)
    assert (done.state, done.files, done.left, done.damaged) == ("complete", 2, [], [])
    assert listing(rig.folder / "back") == listing(out) and not list(rig.folder.glob(".restoring-*"))


async def test_a_cancelled_restore_stops_and_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pieces, while it works; and before it has begun."""
    run, _ = await finished(rig, model__pt=os.urandom(20 << 20))
    snapshot = await newest(rig, run)
    waiting = await rig.protecting.restores.request(ROOT, asked(snapshot, rig.folder / "never"), key="1")
    await rig.protecting.restores.cancel(ROOT, waiting.id)
    await rig.work()
    working = await rig.protecting.restores.request(ROOT, asked(snapshot, rig.folder / "half"), key="2")
    real = restoring._Watch.__call__

    def cancelled_meanwhile(self: Any, files: int, bytes_: int) -> None:
        rig.rows("update mover.restore set cancel = true where id = %s", working.id)
        self.cancelled = bool(rig.rows("select cancel from mover.restore where id = %s", working.id)[0].cancel)
        real(self, files, bytes_)

    monkeypatch.setattr(restoring._Watch, "__call__", cancelled_meanwhile)
    await rig.work()

    for one in (waiting, working):
        assert (await rig.protecting.restores.view(PROJECT, one.id)).state == "cancelled"
        await rig.protecting.restores.cancel(ROOT, one.id)
    left = {path.name for path in rig.folder.iterdir()}
    assert not left & {"never", "half"} and not [name for name in left if name.startswith(".restoring")]
    assert rig.actions().count("restore cancelled") == 1


async def test_progress_and_the_wish_to_stop_travel_once_a_second(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that says nothing for an hour cannot be told from one that hangs."""
    run, _ = await finished(rig, model__pt=os.urandom(1 << 20))
    monkeypatch.setattr(restoring, "PROGRESS_S", 0.01)
    seen: list[wire.Restore] = []
    body = asked(await newest(rig, run), rig.folder / "back")
    working = await rig.protecting.restores.request(ROOT, body, key="k")
    loop = asyncio.get_running_loop()

    def slow(self: Any, files: int, bytes_: int) -> None:
        self.files, self.bytes = files, bytes_
        for _ in range(100):
            look = rig.protecting.restores.view(PROJECT, working.id)
            seen.append(asyncio.run_coroutine_threadsafe(look, loop).result(5))
            if seen[-1].bytes == bytes_:
                return

    monkeypatch.setattr(restoring._Watch, "__call__", slow)
    await rig.work()
    assert seen[-1].state == "restoring" and seen[-1].bytes == 1 << 20 and seen[-1].rate_bytes_s


async def test_a_restore_whose_worker_is_stopped_ends_between_two_pieces(rig: Rig) -> None:
    """The thread must be gone before the lease is: two of them would write to one staging folder."""
    watch = restoring._Watch()
    begun, ended = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def work() -> Any:
        loop.call_soon_threadsafe(begun.set)
        try:
            while True:
                watch(1, 1)
        finally:
            ended.append(True)

    task = asyncio.ensure_future(Restoring(rig.protecting.restores._site)._watched(None, watch, work))  # type: ignore[arg-type]
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True] and watch.stopped


async def test_a_restore_that_cannot_be_says_why_and_is_swept(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = await finished(rig, model__pt=b"weights")

    def refused(*_: object, **__: object) -> None:
        raise TierDenied("the restore may not write to its target (EROFS)")

    with monkeypatch.context() as patched:
        patched.setattr(Repository, "restore", refused)
        seen = await restored(rig, asked(await newest(rig, run), rig.folder / "back"))

    assert (seen.state, seen.reason) == ("failed", "tier-denied") and "EROFS" in (seen.explanation or "")
    shards = rig.rows("select state::text as state from mover.shard where kind = 'restore' order by created_at")
    assert [shard.state for shard in shards] == ["failed", "done"]


async def test_another_nodes_restore_is_left_to_it(rig: Rig) -> None:
    """A folder is a folder of the node that was asked."""
    run, _ = await finished(rig, model__pt=b"weights")
    seen = await rig.protecting.restores.request(ROOT, asked(await newest(rig, run), rig.folder / "back"), key="k")
    rig.rows("update mover.restore set node = 'n9' where id = %s", seen.id)
    await rig.work()
    assert (await rig.protecting.restores.view(PROJECT, seen.id)).state == "waiting"


# --- what is damaged -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("damaged_on_purpose")
async def test_damage_is_named_and_everything_else_comes_back(rig: Rig) -> None:
    """A flipped byte in a pack: one file is left out, by name, and the result says so (I7)."""
    run, out = await finished(rig, model__pt=os.urandom(3 << 20), a__log=b"step\n")
    pack = max((rig.folder / "protect" / "data").rglob("*"), key=lambda path: path.stat().st_size)
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.seek(1 << 20)
        byte = file.read(1)
        file.seek(1 << 20)
        file.write(bytes([byte[0] ^ 1]))

    seen = await restored(rig, asked(await newest(rig, run), rig.folder / "back"))

    assert (seen.state, seen.damaged_count, seen.damaged, seen.files) == ("incomplete", 1, ["model.pt"], 1)
    assert (rig.folder / "back" / "a.log").read_bytes() == b"step\n"
    assert not (rig.folder / "back" / "model.pt").exists()


async def test_a_file_that_is_not_what_the_catalog_wrote_down_is_damage(rig: Rig) -> None:
    run, _ = await finished(rig, model__pt=b"weights", a__log=b"step\n")
    rig.rows("update mover.artifact set digest = %s where path = 'out/model.pt'", "00" * 32)
    whole = await restored(rig, asked(await newest(rig, run), rig.folder / "back"))
    one = msgspec.structs.replace(asked(await newest(rig, run), rig.folder / "one"), path="/artifacts/model.pt")
    alone = await restored(rig, one, key="2")
    assert (whole.state, whole.damaged) == ("incomplete", ["model.pt"]) == (alone.state, alone.damaged)


# --- as of, plans, in place ------------------------------------------------------------------------------------


async def series(rig: Rig) -> tuple[str, list[str]]:
    """A run with three snapshots: the model changes, then goes; by the order of record."""
    run, _ = await finished(rig, model__pt=b"one", same__txt=b"same")
    [first] = rig.rows("select * from mover.snapshot where run_id = %s", run)
    ids = [first.id]
    for number, (model, at) in enumerate((("22" * 32, "+ interval '1 hour'"), (None, "+ interval '2 hours'"))):
        ids.append(f"snapshot-later{number}")
        rig.rows(
            "insert into mover.snapshot (id, project_id, run_id, tier, repository_id, policy, state, files, bytes,"
            f" added_bytes, recorded_at) values (%s, %s, %s, 'protect', %s, 'protect', 'checked', 1, 1, 1, now() {at})",
            ids[-1], PROJECT, run, f"{number}" * 64,
        )  # fmt: skip
        rig.rows("insert into mover.artifact select project_id, %s, path, size_bytes, digest from mover.artifact"
                 " where snapshot_id = %s and path = 'out/same.txt'", ids[-1], first.id)  # fmt: skip
        if model:
            rig.rows("insert into mover.artifact values (%s, %s, 'out/model.pt', 9, %s)", PROJECT, ids[-1], model)
    return run, ids


async def test_as_of_asks_for_what_was_on_record_whatever_clients_say(rig: Rig) -> None:
    """The newest checked snapshot of the run at that time; the JSON's time decides nothing (D12)."""
    run, ids = await series(rig)
    times = {row.id: row.recorded_at for row in rig.rows("select id, recorded_at from mover.snapshot")}

    async def found(**more: Any) -> str:
        body = wire.RestoreRequest(to=str(rig.folder / "x"), **more)
        return str((await rig.protecting.restores._snapshot(PROJECT, body)).id)

    assert await found(run=run) == ids[2]
    assert await found(run=run, as_of=times[ids[1]]) == ids[1]
    assert await found(run=run, as_of=times[ids[0]]) == ids[0]
    for refused in (
        {"run": run, "as_of": times[ids[0]].replace(year=2000)}, {"series": "folder:none"}, {"run": "run-none"},
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await found(**refused)
    many = {"run": run, "first": ["*"] * 17}
    for nonsense in ({}, {"run": run, "series": "s"}, {"snapshot": ids[0], "run": run}, many):
        with pytest.raises(RequestInvalid):
            await found(**nonsense)
    rig.rows("update mover.snapshot set state = 'trashed', trash_until = now() where id = %s", ids[2])
    assert await found(run=run) == ids[1] and await found(snapshot=ids[2]) == ids[2]
    rig.rows("update mover.snapshot set state = 'forgotten', forgotten_at = now() where id = %s", ids[2])
    with pytest.raises(Conflict):
        await found(snapshot=ids[2])


async def test_a_plan_says_how_much_how_long_and_whether_it_fits(rig: Rig) -> None:
    """The estimate is learnt from what restores of this tier took; before the first one nobody knows."""
    run, _ = await finished(rig, model__pt=b"weights" * 1000, a__log=b"step\n")
    body = asked(await newest(rig, run), rig.folder / "back", first=["*.pt"])

    before = await rig.protecting.restores.plan_request(ROOT, body)
    await restored(rig, body)
    after = await rig.protecting.restores.plan_request(ROOT, asked(await newest(rig, run), rig.folder / "again"))

    assert (before.bytes, before.counts["restore"], before.counts["packs"], before.counts["lost"]) == (7005, 2, 1, 0)
    assert [(step.subject, step.reason) for step in before.steps][0] == ("model.pt", "wanted first")
    assert before.seconds_low is None and before.free_bytes and before.needed_bytes == 7005
    assert after.seconds_low is not None and 0 < after.seconds_low <= (after.seconds_high or 0)
    with pytest.raises(Denied):
        await rig.protecting.restores.plan_request(ROOT, asked(await newest(rig, run), rig.folder / "intake" / "x"))


async def test_in_place_only_what_the_plan_showed_is_replaced(rig: Rig) -> None:
    """Without the digest of the plan nothing begins; with a stale one nothing is touched."""
    run, out = await finished(rig, model__pt=b"weights", a__log=b"step\n")
    (out / "model.pt").write_bytes(b"spoilt")
    (out / "notes").write_bytes(b"unknown")
    body = asked(await newest(rig, run), out, in_place=True)
    with pytest.raises(Conflict):
        await rig.protecting.restores.request(ROOT, body, key="0")

    plan = await rig.protecting.restores.plan_request(ROOT, body)
    (out / "a.log").write_bytes(b"changed meanwhile")
    stale = await restored(rig, msgspec.structs.replace(body, agreed=plan.digest), key="1")
    assert (stale.state, stale.reason) == ("failed", "conflict") and (out / "model.pt").read_bytes() == b"spoilt"
    plan = await rig.protecting.restores.plan_request(ROOT, body)
    done = await restored(rig, msgspec.structs.replace(body, agreed=plan.digest), key="2")

    assert {(step.action, step.subject) for step in plan.steps} == {
        ("move-aside", "model.pt"), ("move-aside", "a.log"), ("stay", "notes")
    }  # fmt: skip
    assert plan.counts["newer"] == 2 and plan.counts["unknown"] == 1
    assert done.state == "complete" and done.aside is not None and done.in_place
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        "model.pt": b"weights", "a.log": b"step\n", "notes": b"unknown"
    }  # fmt: skip
    assert (out.parent / done.aside / "model.pt").read_bytes() == b"spoilt"
    with pytest.raises(NotFound):
        await rig.protecting.restores.plan_request(ROOT, asked(await newest(rig, run), out / "none", in_place=True))


def test_who_may_replace_in_a_folder() -> None:
    """As the kernel would have it for the requester, not for the daemon."""
    from mover.protect.restores import Place
    from mover.repository.reading import Requester

    def facts(mode: int, uid: int) -> os.stat_result:
        return os.stat_result((0o40000 | mode, 1, 1, 2, uid, 50, 0, 0, 0, 0))

    someone = Place("/x", Requester(1000, 1000), False)
    assert someone.may_write(facts(0o700, 1000)) and not someone.may_write(facts(0o755, 0))
    assert someone.may_write(facts(0o777, 0)) and not someone.may_write(facts(0o1777, 0))
    assert Place("/x", Requester(0, 0), True).may_write(facts(0o500, 1000))
    assert Place("/x", None, False).may_write(facts(0o700, os.geteuid()))
    assert not Place("/x", None, False).may_write(facts(0o777, 4242))


# --- time series -----------------------------------------------------------------------------------------------


async def test_versions_of_a_path_name_its_changes_by_the_time_of_record(rig: Rig) -> None:
    """When did the good one go? Newest first; an unchanged file has one version."""
    run, ids = await series(rig)
    versions = rig.protecting.versions

    found = (await versions.versions(PROJECT, "/artifacts/model.pt", run=run)).versions
    assert [(v.snapshot, v.change, v.size_bytes) for v in found] == [
        (ids[2], "gone", None), (ids[1], "changed", 9), (ids[0], "new", 3)
    ]  # fmt: skip
    same = (await versions.versions(PROJECT, "artifacts/same.txt", run=run)).versions
    every = (await versions.versions(PROJECT, "/artifacts/same.txt", every=True)).versions
    assert [v.snapshot for v in same] == ids[:1] and [v.snapshot for v in every] == ids[::-1]
    assert [v.change for v in every] == ["same", "same", "new"]
    as_of = (await versions.versions(PROJECT, "/artifacts/model.pt", run=run, as_of=found[1].recorded_at)).versions
    assert [v.snapshot for v in as_of] == [ids[1], ids[0]]
    assert not (await versions.versions(PROJECT, "/artifacts/model.pt", series="folder:none")).versions

    page = await versions.versions(PROJECT, "/artifacts/model.pt", run=run, limit=2)
    rest = await versions.versions(PROJECT, "/artifacts/model.pt", run=run, limit=2, after=page.next)
    assert page.versions + rest.versions == found and rest.next is None


async def test_versions_are_found_in_bounded_time_among_ten_thousand_snapshots(rig: Rig) -> None:
    run, ids = await series(rig)
    rig.rows(
        "insert into mover.snapshot (id, project_id, run_id, tier, repository_id, policy, state, files, bytes,"
        " added_bytes) select 'snapshot-' || n, %s, %s, 'protect', md5(n::text) || md5(n::text), 'protect', 'checked',"
        " 1, 1, 1 from generate_series(1, 10000) n", PROJECT, run,
    )  # fmt: skip
    rig.rows("insert into mover.artifact select %s, 'snapshot-' || n, p, n, md5((n / 100)::text) || md5('') from"
             " generate_series(1, 10000) n, unnest(array['out/a', 'out/b', 'out/c']) p", PROJECT)  # fmt: skip
    rig.rows("analyze mover.snapshot")
    rig.rows("analyze mover.artifact")
    loop = asyncio.get_running_loop()
    began = loop.time()
    page = await rig.protecting.versions.versions(PROJECT, "/artifacts/b", run=run, limit=1000)
    took = loop.time() - began
    assert len(page.versions) == 101 and page.next is None
    assert took < 5, took


async def test_two_snapshots_are_compared_by_their_trees(rig: Rig) -> None:
    """What did the last night change? Added, removed, changed, and what only looks different; in pages."""
    run, out = await finished(rig, "a", model__pt=b"one", same__txt=b"same", mode__txt=b"m", gone__txt=b"g")
    before = await newest(rig, run)
    other, later = await finished(rig, "b", model__pt=b"other", same__txt=b"same", mode__txt=b"m", new__txt=b"new")
    after = await newest(rig, other)
    for name in ("same.txt", "mode.txt"):
        assert (out / name).exists() and (later / name).exists()

    page = await rig.protecting.versions.diff(PROJECT, before, after, path="/artifacts")
    changes = {change.path: change for change in page.changes if change.type == "file"}

    assert {path: change.change for path, change in changes.items()} == {
        "artifacts/gone.txt": "removed", "artifacts/model.pt": "changed", "artifacts/new.txt": "added",
        "artifacts/same.txt": "metadata", "artifacts/mode.txt": "metadata",
    }  # fmt: skip
    model = changes["artifacts/model.pt"]
    assert (model.size_bytes_before, model.size_bytes_after) == (3, 5)
    assert "time" in changes["artifacts/same.txt"].facts
    walked, beyond = [], None
    while True:
        part = await rig.protecting.versions.diff(PROJECT, before, after, path="/artifacts", beyond=beyond, limit=2)
        walked += part.changes
        if (beyond := part.next) is None:
            break
    assert walked == page.changes
    assert not (await rig.protecting.versions.diff(PROJECT, before, before)).changes


def test_the_worker_knows_the_shard(rig: Rig) -> None:
    """A kind without a handler would wait for ever."""
    assert {"restore"} <= set(rig.protecting.handlers()) & set(rig.protecting.failure_handlers())
    assert Worker is not None
