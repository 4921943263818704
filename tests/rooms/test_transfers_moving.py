"""Transfers on their way: paused, killed, cut off, changed under, tried again, and told of."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.errors import IllegalTransition, LeaseLost
from mover.model import wire
from mover.model.moving import Outcome
from mover.model.policy import MovePolicy, ReleaseRule
from mover.moving.journal import CatalogJournal
from mover.transfer import Transfer
from mover.transfer.carrier import Carrier
from mover.transfer.parts import Part
from tests.rooms.moving_rig import ANN, PROJECT, MovingRig
from tests.support.postgres import Dsns

DAY_S = 86_400.0
pytestmark = pytest.mark.slow
POLICY = MovePolicy(
    name="old-slides", source="nas", target="cold", prefix="in", to_prefix="kept", when="age > 90d and size > 1kB",
    release=ReleaseRule(), every_s=60,
)  # fmt: skip


class Stepping:
    """The real carrier, entry by entry: after each list of outcomes `between` is called, in the carrier's thread."""

    def __init__(self) -> None:
        self.inner = Carrier(Transfer(), processes=0)
        self.between: Any = lambda seen: None
        self.seen = 0

    def carry(self, items: Any, **more: Any) -> Iterator[list[Outcome]]:
        stopped = more["stopped"]
        for item in items:
            if stopped():
                return
            for found in self.inner.carry([item], **more):
                self.seen += len(found)
                yield found
            self.between(self.seen)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture
async def rig(tmp_path: Path, dsns: Dsns, database: Database) -> AsyncIterator[MovingRig]:
    made = MovingRig(tmp_path, dsns, database, (POLICY,), Stepping())
    yield made
    made.carrier.close()


def many(count: int, *, size: int = 100) -> dict[str, bytes]:
    return {f"in/{n:03}": bytes([n % 251]) * size for n in range(count)}


def from_thread(rig: MovingRig, do: Any) -> None:
    """What a person does meanwhile, from the carrier's thread."""
    asyncio.run_coroutine_threadsafe(do, rig.loop).result(20)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
async def _loop(rig: MovingRig) -> None:
    rig.loop = asyncio.get_running_loop()  # type: ignore[attr-defined]


# --- pause, resume, abort, canary ---------------------------------------------------------------------------


async def test_a_pause_keeps_what_is_done_and_a_resume_moves_the_rest(rig: MovingRig) -> None:
    rig.fill("nas", many(10))
    asked = await rig.ask(prefix="in")
    rig.carrier.between = lambda seen: seen == 4 and from_thread(rig, rig.transfers.pause(ANN, asked.id))
    await rig.work(patient=True)
    paused = await rig.view(asked.id)
    assert paused.state == "paused" and 4 <= paused.counts["moved"] < 10
    assert len(rig.files("cold")) == paused.counts["moved"]
    assert (await rig.transfers.pause(ANN, asked.id)).state == "paused"
    await rig.transfers.resume(ANN, asked.id)
    await rig.work(patient=True)
    seen = await rig.view(asked.id)
    assert (seen.state, seen.counts) == ("done", {"moved": 10})
    assert {"transfer paused", "transfer resumed"} <= set(rig.actions())


async def test_an_aborted_transfer_moves_nothing_more_and_says_what_it_moved(rig: MovingRig) -> None:
    rig.fill("nas", many(10))
    asked = await rig.ask(prefix="in")
    rig.carrier.between = lambda seen: seen == 3 and from_thread(rig, rig.transfers.abort(ANN, asked.id))
    await rig.work(patient=True)
    seen = await rig.view(asked.id)
    assert seen.state == "aborted" and seen.counts["moved"] < 10
    assert len(rig.files("cold")) == seen.counts["moved"]
    with pytest.raises(IllegalTransition):
        await rig.transfers.resume(ANN, asked.id)


async def test_a_canary_goes_first_and_the_rest_waits_for_a_word(rig: MovingRig) -> None:
    """Bulk loads fail at their first thousand entries or not at all; somebody looks before the millions follow."""
    rig.fill("nas", many(10))
    seen = await rig.moved(prefix="in", canary=3)
    assert (seen.state, seen.reason, seen.counts) == ("waiting", "canary", {"moved": 3, "waiting": 7})
    assert len(rig.files("cold")) == 3
    await rig.transfers.approve(ANN, seen.id)
    await rig.work(patient=True)
    assert (await rig.view(seen.id)).counts == {"moved": 10}


async def test_a_rerun_moves_only_the_rest(rig: MovingRig) -> None:
    rig.fill("nas", many(5))
    await rig.moved("one", prefix="in")
    rig.fill("nas", {"in/new": b"new"})
    seen = await rig.moved("two", prefix="in")
    assert (seen.state, seen.counts) == ("done", {"present": 5, "moved": 1})
    assert seen.moved_bytes == 3


# --- kills, cuts, changes -----------------------------------------------------------------------------------


async def test_a_worker_killed_on_its_way_loses_nothing_and_doubles_nothing(rig: MovingRig) -> None:
    """What stood without a row is met again, read, and counted once."""
    rig.fill("nas", many(8))
    asked = await rig.ask(prefix="in")
    await rig.work("transfer-plan")
    shard = await rig.claim("transfer-move")
    real, calls = rig.move._record, []

    async def dies(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 4:
            raise ConnectionResetError("the process is gone")
        return await real(*args)

    rig.move._record = dies  # type: ignore[method-assign]
    with pytest.raises(ConnectionResetError):
        await rig.move.move(shard)
    rig.move._record = real  # type: ignore[method-assign]
    assert len(rig.files("cold")) >= 4
    rig.lapse()
    await rig.work(patient=True)
    seen = await rig.view(asked.id)
    assert seen.state == "done" and seen.counts["moved"] + seen.counts["present"] == 8 and seen.counts["present"] >= 1
    assert rig.files("cold") == {key[3:]: data for key, data in many(8).items()}
    with pytest.raises(LeaseLost):
        await rig.move.move(shard)


async def test_a_worker_that_was_paused_for_too_long_records_nothing(rig: MovingRig) -> None:
    """D13: the lease's fence is in every transaction."""
    rig.fill("nas", many(3))
    await rig.ask(prefix="in")
    await rig.work("transfer-plan")
    shard = await rig.claim("transfer-move")
    rig.lapse()
    await rig.claim("transfer-move")
    with pytest.raises(LeaseLost):
        await rig.move.move(shard)
    assert rig.rows("select id from mover.transfer_entry where state <> 'waiting'") == []


async def test_a_source_that_vanishes_on_the_way_fails_no_entry_and_goes_on_when_it_is_back(rig: MovingRig) -> None:
    """Below an unmounted root every entry is missing: that is the tier's failure, not the entries'."""
    rig.fill("nas", many(6))
    asked = await rig.ask(prefix="in")
    root, away = rig.folder / "nas", rig.folder / "away"

    def unmount(seen: int) -> None:
        if seen == 2:
            root.rename(away)
            root.mkdir()

    rig.carrier.between = unmount
    await rig.work("transfer-plan")
    await rig.work("transfer-move", once=True)
    seen = await rig.view(asked.id)
    assert seen.state == "moving" and seen.counts == {"moved": 2, "waiting": 4}
    assert seen.explanation is not None and "tier-unavailable" in seen.explanation
    root.rmdir()
    away.rename(root)
    await rig.work(patient=True)
    assert (await rig.view(asked.id)).counts["moved"] == 6


async def test_failures_seen_while_the_tier_was_away_are_not_believed(rig: MovingRig) -> None:
    """A carrier may say `entry-missing` before anybody notices that the mount is gone."""
    rig.fill("nas", many(3))
    asked = await rig.ask(prefix="in")

    class Fooled:
        def carry(self, items: Any, **more: Any) -> Iterator[list[Outcome]]:
            (rig.folder / "nas").rename(rig.folder / "away")
            yield [Outcome(item.id, "failed", code="entry-missing", what="not there") for item in items]

    rig.move._carrier = Fooled()
    await rig.work("transfer-plan")
    await rig.work("transfer-move", once=True)
    assert (await rig.view(asked.id)).counts == {"waiting": 3}


async def test_an_entry_that_changed_since_the_plan_is_reported_by_its_name(rig: MovingRig) -> None:
    rig.fill("nas", many(3))
    asked = await rig.ask(prefix="in", tries=2)
    await rig.work("transfer-plan")
    (rig.folder / "nas/in/001").write_bytes(b"written again meanwhile")
    (rig.folder / "nas/in/002").unlink()
    await rig.work(patient=True)
    seen = await rig.view(asked.id)
    assert seen.state == "incomplete" and seen.counts == {"moved": 1, "failed": 2}
    assert rig.entries(asked.id) == {"in/000": "moved", "in/001": "failed", "in/002": "failed"}
    assert set(rig.files("cold")) == {"000"}


async def test_what_failed_for_a_passing_reason_is_tried_again_as_often_as_was_said(rig: MovingRig) -> None:
    rig.fill("nas", many(2))
    tries: dict[int, int] = {}

    class Flaky:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def carry(self, items: Any, **more: Any) -> Iterator[list[Outcome]]:
            for item in items:
                tries[item.id] = tries.get(item.id, 0) + 1
                if item.source == "in/000" or tries[item.id] < 3:
                    yield [Outcome(item.id, "failed", code="changed-while-reading", what="busy", retry=True)]
                else:
                    yield from self.inner.carry([item], **more)

    rig.move._carrier = Flaky(rig.carrier)
    seen = await rig.moved(prefix="in", tries=3)
    assert (seen.state, seen.counts, seen.rounds) == ("incomplete", {"moved": 1, "failed": 1}, 2)
    assert seen.codes == {"changed-while-reading": 1} and sorted(tries.values()) == [3, 3]
    rig.move._carrier = rig.carrier
    await rig.transfers.resume(ANN, seen.id)
    await rig.work(patient=True)
    again = await rig.view(seen.id)
    assert (again.state, again.counts) == ("done", {"moved": 2})


async def test_a_transfer_whose_shard_is_given_up_says_why_and_can_go_on(rig: MovingRig) -> None:
    rig.fill("nas", many(2))
    asked = await rig.ask(prefix="in")
    await rig.work("transfer-plan")
    shard = await rig.claim("transfer-move")
    from mover.errors import TierDenied

    async with rig.database.project(PROJECT) as conn:
        await rig.move.failed(conn, shard, TierDenied("the tier says no", where="nas"))
    seen = await rig.view(asked.id)
    assert (seen.state, seen.reason) == ("failed", "tier-denied")
    rig.rows("update mover.shard set state = 'failed' where id = %s", shard.id)
    await rig.transfers.resume(ANN, asked.id)
    await rig.work(patient=True)
    assert (await rig.view(asked.id)).state == "done"


async def test_limits_of_a_source_hold_its_pace(rig: MovingRig) -> None:
    """Many silos at once, each with its own limits: 3 entries at 10 a second take at least 0.2 s."""
    rig.fill("nas", many(3))
    limits = wire.TransferLimits(files_s=10)
    began = asyncio.get_running_loop().time()
    seen = await rig.moved(sources=[wire.TransferSource(tier="nas", prefix="in", limits=limits)])
    assert seen.state == "done" and asyncio.get_running_loop().time() - began >= 0.2


async def test_shards_of_one_source_stay_within_their_number(
    rig: MovingRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mover.moving.move.SHARD_ENTRIES", 2)
    rig.fill("nas", many(6))
    asked = await rig.ask(sources=[wire.TransferSource(tier="nas", limits=wire.TransferLimits(shards=1))])
    await rig.work("transfer-plan")
    assert len(rig.rows("select id from mover.shard where kind = 'transfer-move'")) == 3
    await rig.claim("transfer-move")
    await rig.work("transfer-move")
    assert (await rig.view(asked.id)).counts == {"waiting": 6}
    rig.lapse()
    await rig.work(patient=True)
    assert (await rig.view(asked.id)).counts == {"moved": 6}


# --- the journal of parts -----------------------------------------------------------------------------------


async def test_the_journal_of_parts_survives_its_writer_and_forgets_at_the_end(rig: MovingRig) -> None:
    """A killed move of 100 GB goes on from the parts that were durable."""
    rig.fill("nas", many(1))
    asked = await rig.ask(prefix="in")
    loop = asyncio.get_running_loop()
    parts = [Part(1, 0, 5, ("a" * 64,), "etag-1"), Part(2, 5, 5, ("b" * 64,))]

    def writes() -> None:
        journal = CatalogJournal(rig.database, PROJECT, asked.id, loop)
        assert journal.where("x") == "" and journal.parts("x") == []
        journal.begin("x", where="upload-7")
        for part in parts:
            journal.finished("x", part)
        journal.finished("x", parts[1])

    def reads() -> None:
        journal = CatalogJournal(rig.database, PROJECT, asked.id, loop)
        assert journal.where("x") == "upload-7" and journal.parts("x") == parts
        journal.begin("x", where="upload-8")
        assert journal.where("x") == "upload-8" and journal.parts("x") == []
        journal.end("x")
        assert journal.where("x") == ""

    await asyncio.to_thread(writes)
    await asyncio.to_thread(reads)


# --- reports ----------------------------------------------------------------------------------------------


async def test_reports_hold_every_entry_and_no_cell_is_a_formula(rig: MovingRig) -> None:
    names = ["=cmd|' /C calc'!A0", "+1", "-2", "@x", 'quo"te,comma', "\udcff", "new\nline"]
    rig.fill("nas", {f"in/{name}": b"1" for name in names})
    keys = [*names[:5], r"\xff", r"new\x0aline", "gone"]
    seen = await rig.moved(prefix="in", keys=keys, offenders="report")
    lines = [msgspec.json.decode(line) for line in (await rig.report(seen.id)).splitlines()]
    assert len(lines) == 8 and {line["state"] for line in lines} == {"moved", "failed"}
    assert {line["source"] for line in lines} >= {r"nas:in/\xff", r"nas:in/new\x0aline", "nas:in/gone"}
    assert all(line["digest"] == blake3(b"1").hexdigest() for line in lines if line["state"] == "moved")
    table = list(csv.DictReader(io.StringIO((await rig.report(seen.id, "csv")).decode())))
    assert len(table) == 8 and {row["source"] for row in table} == {line["source"] for line in lines}
    assert not any(cell[:1] in "=+-@" for row in table for cell in row.values() if cell)


async def test_a_report_comes_in_slices(rig: MovingRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million entries never stand in memory at once."""
    monkeypatch.setattr("mover.moving.transfers.REPORT_SLICE", 2)
    rig.fill("nas", many(5))
    seen = await rig.moved(prefix="in")
    pieces = [piece async for piece in rig.transfers.report(PROJECT, seen.id, "jsonl")]
    assert [piece.count(b"\n") for piece in pieces] == [2, 2, 1]


# --- policies ----------------------------------------------------------------------------------------------


async def test_a_policy_moves_what_is_due_and_begins_again_only_after_its_time(rig: MovingRig) -> None:
    rig.fill("nas", {"in/old": b"x" * 2000}, age_s=100 * DAY_S)
    rig.fill("nas", {"in/new": b"x" * 2000})
    assert await rig.transfers.begin_due(PROJECT) == 1
    assert await rig.transfers.begin_due(PROJECT) == 0
    await rig.work(patient=True)
    [seen] = (await rig.transfers.list(PROJECT)).transfers
    assert (seen.state, seen.policy, seen.created_by) == ("done", "old-slides", "policy:old-slides")
    assert set(rig.files("cold")) == {"kept/old"} and set(rig.files("nas")) == {"in/new"}
    assert await rig.transfers.begin_due(PROJECT) == 0
    rig.rows("update mover.transfer set created_at = now() - interval '61 s'")
    assert await rig.transfers.begin_due(PROJECT) == 1
    await rig.work(patient=True)
    nothing_due = (await rig.transfers.list(PROJECT)).transfers[0]
    assert (nothing_due.state, nothing_due.entries) == ("done", 0)
    assert nothing_due.explanation == "nothing is due among 1 entries"


async def test_two_daemons_follow_a_policy_once(rig: MovingRig) -> None:
    rig.fill("nas", {"in/old": b"x" * 2000}, age_s=100 * DAY_S)
    await asyncio.gather(*(rig.transfers.begin_due(PROJECT) for _ in range(3)))
    assert len((await rig.transfers.list(PROJECT)).transfers) == 1


async def test_another_project_sees_nothing_of_a_transfer(rig: MovingRig) -> None:
    rig.fill("nas", many(1))
    await rig.moved(prefix="in")
    assert (await rig.transfers.list("other")).transfers == []


