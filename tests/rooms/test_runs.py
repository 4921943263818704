"""Runs requested, admitted, staged, sealed, protected and cleaned, with everything that may come in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.clock import SystemClock
from mover.errors import ChangedWhileReading, Conflict, LeaseLost, NotFound, RunRefused, TierUnavailable
from mover.jobs import Shard
from mover.model import wire
from mover.repository import writer
from mover.repository.cutting import FileReader
from mover.runs import stage as stage_module
from mover.runs.fetch import Fetched
from mover.runs.roots import FlashRoots, content_key
from mover.runs.runs import Flash
from mover.runs.stage import Stage
from mover.sdk import check
from tests.rooms.rig import OTHER, PROJECT, Rig, Space, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
MIB = 1 << 20


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


async def ready(rig: Rig, files: list[str], *, key: str = "k") -> wire.Run:
    run = await rig.request(files, key=key)
    await rig.work()
    found = await rig.runs.view(PROJECT, run.id)
    assert found.state == "ready", found.explanation
    assert check(root(rig, run.id), read=True, expected_root=found.manifest_root).whole
    return found


def root(rig: Rig, run: str) -> Path:
    return rig.folder / "flash" / "runs" / run


# --- admission -----------------------------------------------------------------------------------------------


async def test_space_that_another_project_frees_lets_waiting_runs_in_oldest_first(rig: Rig) -> None:
    """A flash tier is shared: a run must not wait for ever because the space was another project's."""
    big, other, small = rig.slides([3000, 2900, 1500], projects=(PROJECT, OTHER))
    rig.roots.limit = Space(capacity=4499, free=4000 << 20)
    holding = await rig.request([big], key="1")
    waiting = await rig.request([other], key="2", project=OTHER)
    behind = await rig.request([small], key="3")
    assert (holding.state, waiting.state, behind.state) == ("staging", "requested", "requested")
    assert waiting.explanation and "promised to other runs" in waiting.explanation

    await rig.runs.cancel(who(), holding.id)
    await rig.work("run-stage", "run-clean")

    states = {r.id: r.state for r in rig.rows("select id, state from mover.run")}
    assert states == {holding.id: "cleaned", waiting.id: "staging", behind.id: "staging"}
    assert rig.actions().count("run admitted") == 3


async def test_two_projects_at_once_never_over_commit(rig: Rig) -> None:
    [slide] = rig.slides([1000], projects=(PROJECT, OTHER))
    rig.roots.limit = Space(capacity=2500, free=2500 << 20)

    runs = await asyncio.gather(
        *(rig.request([slide], key=str(n), project=(PROJECT, OTHER)[n % 2]) for n in range(6))
    )

    found = rig.rows("select state::text, reserved_bytes from mover.run")
    assert sorted(r.state for r in found) == ["requested"] * 4 + ["staging"] * 2
    assert sum(r.reserved_bytes for r in found) == 2000
    assert len({run.id for run in runs}) == 6


async def test_a_run_that_can_never_fit_is_refused_with_numbers_and_on_record(rig: Rig) -> None:
    [slide] = rig.slides([1000])
    rig.roots.limit = Space(capacity=500, free=500)

    with pytest.raises(RunRefused) as refused:
        await rig.request([slide], key="1")

    assert "never fit" in refused.value.what
    assert rig.actions() == ["run requested", "run refused"]


async def test_runs_that_wait_do_not_keep_each_others_content_on_flash(rig: Rig) -> None:
    """Two waiting runs that each find a part of their slides on flash would otherwise wait for ever."""
    first, second, third = rig.slides([MIB, MIB, MIB])
    for key, files in (("1", [first]), ("2", [second])):
        run = await ready(rig, files, key=key)
        await rig.runs.finish(who(), run.id, wire.FinishRequest())
        await rig.work()
        await rig.runs.clean(who(), run.id)
        await rig.work()
    rig.roots.limit = Space(capacity=10 * MIB, free=0)

    one = await rig.request([first, third], key="3")
    two = await rig.request([second, third], key="4")

    assert (one.state, two.state) == ("staging", "requested")


async def test_a_tier_that_is_away_admits_nobody_and_breaks_nothing(rig: Rig) -> None:
    """Below an unmounted tier is a folder with a size of its own, on which no promise may stand."""
    [slide] = rig.slides([1000])
    flash = rig.folder / "flash"
    flash.rename(rig.folder / "away")
    flash.mkdir()

    run = await rig.request([slide], key="1")
    assert run.state == "requested"
    flash.rmdir()
    (rig.folder / "away").rename(flash)
    await rig.runs.admit_waiting("flash")

    assert rig.run(run.id).state == "staging"


async def test_a_run_of_another_project_cannot_be_repeated_or_seen(rig: Rig) -> None:
    run = await ready(rig, rig.slides([10]))
    with pytest.raises(NotFound):
        await rig.runs.request(who(OTHER), wire.RunRequest(like=run.id), key="x")
    with pytest.raises(RunRefused):
        await rig.request([], key="empty")


# --- staging -------------------------------------------------------------------------------------------------


async def test_a_run_cancelled_while_a_slide_was_copied_leaves_no_root_behind(rig: Rig) -> None:
    """The copy takes seconds; the cancellation and the whole cleanup fit into them."""
    run = await rig.request(rig.slides([1000]), key="1")
    shard = await rig.claim("run-stage")
    fetch = rig.stage._fetch.fetch

    async def slow(shard: Shard, tier: str, entries: Sequence[Any]) -> AsyncGenerator[Fetched, None]:
        async for fetched in fetch(shard, tier, entries):
            await rig.runs.cancel(who(), run.id)
            await rig.work("run-clean")
            yield fetched

    rig.stage._fetch.fetch = slow  # type: ignore[method-assign]
    await rig.stage.stage(shard)
    rig.due()
    await rig.work()

    assert rig.run(run.id).state == "cleaned"
    assert not root(rig, run.id).exists()


async def test_cleanup_waits_for_whoever_still_works_on_the_run(rig: Rig) -> None:
    """A seal that is under way writes into the root; removing it below would race, and the root come back."""
    run = await rig.request(rig.slides([1000]), key="1")
    await rig.work("run-stage")
    sealing = await rig.claim("run-seal")
    await rig.runs.cancel(who(), run.id)

    assert await rig.work("run-clean") == ["run-clean"]
    assert (rig.run(run.id).state, root(rig, run.id).exists()) == ("cancelled", True)
    await rig.stage.seal(sealing)
    rig.due()
    await rig.work("run-clean")

    assert (rig.run(run.id).state, root(rig, run.id).exists()) == ("cleaned", False)


async def test_nothing_brings_a_removed_root_back(rig: Rig) -> None:
    """A worker that hung in a system call beyond its lease wakes up when the run is long gone."""
    [slide] = rig.slides([1000])
    run = await ready(rig, [slide])
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    await rig.runs.clean(who(), run.id)
    await rig.work()
    entry = rig.rows("select * from mover.run_entry where number is not null")[0]

    from mover.runs.roots import Requester

    with pytest.raises(ChangedWhileReading):
        rig.roots.share(run.id, [(entry.digest, entry.path)], Requester(None, None))
    with pytest.raises(ChangedWhileReading):
        rig.roots.write(run.id, "manifest.jsonl", b"")

    assert not root(rig, run.id).exists()


@pytest.mark.parametrize("kind", ["run-stage", "run-seal"])
async def test_a_stager_that_wakes_up_late_changes_nothing(rig: Rig, kind: str) -> None:
    run = await rig.request(rig.slides([1000]), key="1")
    if kind == "run-seal":
        await rig.work("run-stage")
    paused = await rig.claim(kind)
    rig.lapse()
    await rig.claim(kind)

    with pytest.raises(LeaseLost):
        await rig.handlers[kind](paused)
    assert rig.run(run.id).state == "staging"
    rig.lapse()
    rig.rows("update mover.shard set state = 'waiting' where state = 'running'")
    await rig.work()

    assert rig.run(run.id).state == "ready"
    assert rig.actions().count("run ready") == 1


async def test_links_lost_to_a_power_cut_are_staged_again_before_the_seal(rig: Rig) -> None:
    """Rows are durable at once, links only with the seal's one sync: the difference is work, not a failed run."""
    one, two = rig.slides([1000, 2000])
    run = await rig.request([one, two], key="1")
    await rig.work("run-stage")
    path = rig.rows("select path from mover.run_entry where number = %s", one)[0].path
    (root(rig, run.id) / path).unlink()

    await rig.work()

    found = rig.run(run.id)
    assert found.state == "ready", found.explanation
    assert (root(rig, run.id) / path).stat().st_size == 1000


async def test_a_seal_waits_out_what_a_network_client_may_still_believe(rig: Rig) -> None:
    """Other nodes place entries too: what stands there is compared, not what this node remembers. Waited once, after
    the last entry and before the first look."""
    looked: list[str] = []

    class Clock(SystemClock):
        async def sleep(self, duration_s: float) -> None:
            looked.append(f"waited {duration_s:g} s")

    class Watched(FlashRoots):
        def unseal(self, run: str) -> dict[str, int]:
            looked.append("looked")
            return super().unseal(run)

    roots = Watched(rig.roots.root, reflink=rig.roots._reflink, check_identity=rig.roots.check_identity)
    flash = {"flash": Flash(roots, "/flash", None, settle_s=60)}
    stage = Stage(rig.database, rig.tiers, flash, rig.carrier, node="n1", clock=Clock())
    rig.handlers |= {"run-stage": stage.stage, "run-seal": stage.seal}
    await ready(rig, rig.slides([10]))
    assert looked[:2] == ["waited 60 s", "looked"] and looked.count("waited 60 s") == 1


async def test_what_a_killed_seal_left_half_written_is_no_stranger(rig: Rig) -> None:
    run = await rig.request(rig.slides([1000]), key="1")
    await rig.work("run-stage")
    (root(rig, run.id) / ".manifest.jsonl.partial").write_bytes(b"half")
    (root(rig, run.id) / ".RUN.json.partial").write_bytes(b"half")

    await rig.work()

    assert rig.run(run.id).state == "ready"
    assert {p.name for p in root(rig, run.id).iterdir()} == {"RUN.json", "data", "manifest.jsonl", "out",
                                                             "records.parquet"}  # fmt: skip


async def test_content_that_was_evicted_under_our_hands_is_fetched_again(rig: Rig) -> None:
    """Eviction takes a digest's lock too; whoever took it in between finds no file and comes again."""
    [slide] = rig.slides([1000])
    run = await rig.request([slide], key="1")
    digest = rig.rows("select digest from mover.slide")[0].digest
    fetch, evictions = rig.stage._fetch.fetch, []

    async def evicted(shard: Shard, tier: str, entries: Sequence[Any]) -> AsyncGenerator[Fetched, None]:
        async for fetched in fetch(shard, tier, entries):
            if not evictions:
                evictions.append(digest)
                rig.roots.evict([digest])
            yield fetched

    rig.stage._fetch.fetch = evicted  # type: ignore[method-assign]
    await rig.work()
    assert rig.run(run.id).state == "staging"
    rig.due()
    await rig.work()

    assert rig.run(run.id).state == "ready"


async def test_content_that_a_run_took_meanwhile_is_not_evicted(rig: Rig) -> None:
    """The row goes first and the file later: in between a run may have written the row again."""
    run = await rig.request(rig.slides([1000]), key="1")
    await rig.work()
    [content] = rig.rows("select digest from mover.content")

    await rig.stage._content.evict(PROJECT, "flash", [content.digest])

    assert rig.run(run.id).state == "ready"
    assert (rig.folder / "flash" / content_key(content.digest)).exists()
    assert len(rig.rows("select digest from mover.content")) == 1


async def test_only_the_group_whose_links_were_killed_is_read_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links move the inodes' marks; their rows come with the commit. What a kill between leaves is read before it is
    shared, and nothing else: with terabytes on flash a restage must not become a read of all of it."""
    monkeypatch.setattr(stage_module, "LINKED_AT_ONCE", 2)
    slides = rig.slides([1000, 2000, 3000, 4000, 5000])
    await ready(rig, slides, key="1")
    digests = {row.number: row.digest for row in rig.rows("select number, digest from mover.slide")}
    for number in slides[:2]:
        path = rig.roots.root / content_key(digests[number])
        os.link(path, rig.folder / f"{number}.killed")
    (rig.roots.root / content_key(digests[slides[2]])).unlink()
    read: list[str] = []
    check_content = rig.roots.check_content
    monkeypatch.setattr(rig.roots, "check_content", lambda digest: (check_content(digest), read.append(digest)))

    again = await ready(rig, slides, key="2")

    assert sorted(read) == sorted(digests[number] for number in slides[:2])
    assert again.linked_count == 4
    marks = rig.roots.marks(digests.values())
    assert {row.digest: row.mark for row in rig.rows("select digest, mark from mover.content")} == marks


async def test_slides_with_the_same_bytes_are_fetched_once_and_linked_each(rig: Rig) -> None:
    """Two numbers may have one digest; one content file, one lock, two names in the root."""
    one, two = rig.slides([1000, 2000])
    again = f"slides/{two}/2/{two}.svs"
    rig.tiers["archive"].put(again, [bytes([1]) * 1000], size_bytes=1000)  # type: ignore[attr-defined]
    rig.rows("update mover.slide set digest = o.digest, size_bytes = 1000, key = %s from mover.slide o"
             " where o.number = %s and slide.number = %s", again, one, two)  # fmt: skip
    run = await ready(rig, [one, two])
    places = [root(rig, run.id) / row.path for row in rig.rows("select path from mover.run_entry where number <> ''")]
    assert len(places) == 2 and {place.stat().st_size for place in places} == {1000}
    assert len(rig.rows("select digest from mover.content")) == 1


async def test_damaged_content_without_a_row_is_set_aside_and_fetched(rig: Rig) -> None:
    """A kill between file and row leaves content that rot may reach; it must not fail every later run."""
    [slide] = rig.slides([1000])
    digest = rig.rows("select digest from mover.slide")[0].digest
    rig.tiers["flash"].put(content_key(digest), [b"rot"], size_bytes=3)  # type: ignore[attr-defined]
    run = await rig.request([slide], key="1")

    await rig.work()
    rig.due()
    await rig.work()

    assert rig.run(run.id).state == "ready"
    assert (rig.folder / "flash" / ".mover" / "damaged" / digest).read_bytes() == b"rot"


async def test_content_linked_twice_is_not_read_again_for_the_mode_we_set_ourselves(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our own links move nothing that the next run would have to read gigabytes for."""
    [slide] = rig.slides([1000])
    await ready(rig, [slide], key="1")
    monkeypatch.setattr(rig.roots, "check_content", lambda digest: pytest.fail("read again"))

    second = await ready(rig, [slide], key="2")

    assert second.linked_count == 1


# --- the end -------------------------------------------------------------------------------------------------


async def test_another_finish_of_the_same_run_is_refused_and_the_same_one_is_not(rig: Rig) -> None:
    """What the second one names would not be protected, and a 202 would say it is (I7)."""
    run = await ready(rig, rig.slides([1000]))
    body = wire.FinishRequest(exit=0, environment={"job": "1"})
    await rig.runs.finish(who(), run.id, body)

    assert (await rig.runs.finish(who(), run.id, body)).state == "finishing"
    with pytest.raises(Conflict):
        await rig.runs.finish(who(), run.id, wire.FinishRequest(exit=0, code="/home/ann/code"))


async def test_a_lease_lapses_by_the_servers_clock_alone(rig: Rig) -> None:
    """A node whose clock runs ahead ends nobody's training; a heartbeat that came first wins."""
    run = await ready(rig, rig.slides([1000]))
    assert await rig.runs.expire() == 0
    rig.rows("update mover.run set lease_until = now() - interval '1 s'")
    await rig.runs.heartbeat(PROJECT, run.id)
    assert await rig.runs.expire() == 0
    assert rig.run(run.id).state == "ready"

    rig.rows("update mover.run set lease_until = now() - interval '1 s'")
    assert await rig.runs.expire() == 1
    await rig.work()

    found = rig.run(run.id)
    assert (found.state, found.reason) == ("cleaned", "lease-expired")
    assert found.protected_proof is not None


async def test_a_cleaner_that_wakes_up_late_changes_nothing(rig: Rig) -> None:
    run = await ready(rig, rig.slides([1000]))
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    await rig.runs.clean(who(), run.id)
    paused = await rig.claim("run-clean")
    rig.lapse()
    taken = await rig.claim("run-clean")

    with pytest.raises(LeaseLost):
        await rig.clean.clean(paused)
    assert root(rig, run.id).exists()
    await rig.clean.clean(taken)

    assert rig.run(run.id).state == "cleaned"
    assert rig.actions().count("run cleaned") == 1


async def test_a_protector_that_wakes_up_late_changes_nothing(rig: Rig) -> None:
    run = await ready(rig, rig.slides([1000]))
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    paused = await rig.claim("run-protect")
    rig.lapse()
    await rig.claim("run-protect")

    with pytest.raises(LeaseLost):
        await rig.protecting.runs.protect(paused)

    assert rig.run(run.id).protected_proof is None
    assert rig.rows("select id from mover.snapshot") == []


async def test_a_run_that_is_protected_again_reads_only_what_changed_since(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Terabytes of checkpoints are not read anew because one file could not be read the first time."""
    monkeypatch.setattr(writer, "RACY_NS", 0)
    run = await ready(rig, rig.slides([1000]))
    out = root(rig, run.id) / "out"
    for name in ("same.pt", "changed.pt"):
        (out / name).write_bytes(name.encode() * 100_000)
    too_deep = out.joinpath(*["d"] * writer.MAX_DEPTH)
    too_deep.mkdir(parents=True)
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    assert rig.run(run.id).reason == "protection-incomplete"
    too_deep.rmdir()
    (out / "changed.pt").write_bytes(b"other")
    read: list[int] = []
    once = FileReader._read_once

    def counted(self: FileReader, fd: int, size: int) -> Any:
        read.append(size)
        return once(self, fd, size)

    monkeypatch.setattr(FileReader, "_read_once", counted)

    await rig.runs.finish(who(), run.id, wire.FinishRequest(exit=0))
    await rig.work()

    assert rig.run(run.id).state == "protected"
    assert read == [5]
    digests = [row.digest for row in rig.rows("select digest from mover.artifact where path = 'out/same.pt'")]
    assert digests == [blake3(b"same.pt" * 100_000).hexdigest()] * 2


async def test_a_cleanup_that_failed_may_be_asked_for_again_for_a_cancelled_run_too(rig: Rig) -> None:
    run = await rig.request(rig.slides([1000]), key="1")
    await rig.work("run-stage")
    await rig.runs.cancel(who(), run.id)
    rig.rows("update mover.shard set state = 'failed' where kind = 'run-clean'")

    await rig.runs.clean(who(), run.id)
    await rig.work()

    assert (rig.run(run.id).state, root(rig, run.id).exists()) == ("cleaned", False)


async def test_an_archive_that_is_away_fails_no_run(rig: Rig) -> None:
    """It waits, and says what for."""
    run = await rig.request(rig.slides([1000]), key="1")
    rig.rows("update mover.run_entry set archive_key = archive_key")
    archive = rig.folder / "archive"
    archive.rename(rig.folder / "away")
    for _ in range(7):
        await rig.work("run-stage")
        rig.due()
    waiting = await rig.runs.view(PROJECT, run.id)
    (rig.folder / "away").rename(archive)
    await rig.work()

    assert waiting.state == "staging"
    assert waiting.explanation and waiting.explanation.startswith(f"tried again after {TierUnavailable.code}")
    assert rig.run(run.id).state == "ready"


async def test_many_runs_and_workers_at_once_end_without_a_deadlock(rig: Rig) -> None:
    """Two projects, one small tier, the same slides, cancellations in between: every run ends, the tier is never
    over-committed, and no two transactions wait for each other."""
    slides = rig.slides([MIB] * 4, projects=(PROJECT, OTHER))
    rig.roots.limit = Space(capacity=6 * MIB, free=6 << 30)
    runs = [
        (project, await rig.request(slides[n % 3 : n % 3 + 2], key=str(n), project=project))
        for n, project in enumerate([PROJECT, OTHER] * 4)
    ]

    async def disturb() -> None:
        for project, run in runs[::3]:
            await asyncio.sleep(0.05)
            with contextlib.suppress(Conflict):
                await rig.runs.cancel(who(project), run.id)

    async def end() -> None:
        for _ in range(200):
            await rig.runs.admit_waiting("flash")
            for row in rig.rows("select id, project_id from mover.run where state = 'ready'"):
                await rig.runs.finish(who(row.project_id), row.id, wire.FinishRequest())
            for row in rig.rows("select id, project_id from mover.run where state = 'protected'"):
                await rig.runs.clean(who(row.project_id), row.id)
            await rig.crowd(3)
            if not rig.rows("select id from mover.run where state <> 'cleaned'"):
                return

    async with asyncio.TaskGroup() as group:
        group.create_task(disturb())
        group.create_task(end())

    assert {r.state for r in rig.rows("select state::text from mover.run")} == {"cleaned"}
    assert list((rig.folder / "flash" / "runs").iterdir()) == []
    deadlocks = rig.rows("select deadlocks from pg_stat_database where datname = current_database()")
    assert deadlocks == [(0,)]
