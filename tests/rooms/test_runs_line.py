"""The line before a flash tier, what is told of it, and the ways in which a run ends before its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mover.catalog.database import Database
from mover.clock import SYSTEM
from mover.decide.lifecycle import RUN
from mover.errors import Conflict, IllegalTransition, IntegrityError, NotFound, RequestInvalid, RunRefused
from mover.model import wire
from mover.model.policy import StagePolicy
from mover.policy import Loaded, PolicyBook
from mover.runs import admission, entries, look
from mover.runs.runs import Flash, Runs
from tests.rooms.rig import OTHER, PROJECT, Rig, Space, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
AT_ONCE, FIT = 200, 40
TWO = [("stage", "flash"), ("stage-second", "second")]


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


async def ask(rig: Rig, files: list[str], key: str, **more: Any) -> wire.Run:
    return await rig.runs.request(who(), wire.RunRequest(files=files, **more), key=key)


async def see(rig: Rig, run: str) -> wire.Run:
    return await rig.runs.view(PROJECT, run)


async def test_two_hundred_at_once_from_three_daemons_never_over_commit_and_stand_in_an_order_that_is_told(
    rig: Rig, dsns: Dsns
) -> None:
    """Every daemon judges; the tier's row keeps one from promising what another has promised."""
    [slide] = rig.slides([1000], projects=(PROJECT, OTHER))
    rig.roots.limit = Space(capacity=FIT * 1000 + 999, free=1 << 40)
    others = [await Database.open(dsns.daemon, name=f"n{n}", max_size=4) for n in (2, 3)]
    daemons = [rig.runs, *(Runs(one, rig.runs._site.flash, rig.book, node=one.name) for one in others)]

    async def one(number: int) -> wire.Run:
        body = wire.RunRequest(files=[slide], priority=number % 3 - 1)
        return await daemons[number % 3].request(who((PROJECT, OTHER)[number % 2]), body, key=str(number))

    await asyncio.gather(*(one(number) for number in range(AT_ONCE)))
    for daemon in daemons:
        await daemon.admit_waiting("flash")
    for other in others:
        await other.close()

    held = rig.rows("select count(*), sum(reserved_bytes) as bytes from mover.run where state = 'staging'")[0]
    assert (held.count, held.bytes) == (FIT, FIT * 1000)
    assert rig.actions().count("run admitted") == FIT and rig.actions().count("run requested") == AT_ONCE
    waiting = rig.rows(
        "select id, project_id, priority from mover.run where state = 'requested'"
        " order by priority desc, created_at, id"
    )
    seen = [await rig.runs.view(one.project_id, one.id) for one in (waiting[0], waiting[57], waiting[-1])]
    assert [run.queue.position for run in seen if run.queue] == [1, 58, AT_ONCE - FIT]
    last = seen[-1]
    assert last.priority == -1 and last.queue is not None and last.explanation is not None
    behind = (AT_ONCE - FIT) * 1000
    assert (last.queue.ahead_bytes, last.queue.missing_bytes) == (behind - 1000, behind - 999)
    assert "promised to other runs" in last.explanation and last.estimate is None


async def test_the_line_is_by_priority_then_deadline_then_arrival_and_a_passed_deadline_refuses_with_words(
    rig: Rig,
) -> None:
    slides = rig.slides([1000] * 6)
    rig.roots.limit = Space(capacity=1000, free=1 << 40)
    holding = await ask(rig, slides[:1], "0")
    now = SYSTEM.now()
    first = await ask(rig, slides[1:2], "1")
    sooner = await ask(rig, slides[2:3], "2", deadline=now + timedelta(hours=1))
    urgent = await ask(rig, slides[3:4], "3", priority=5, deadline=now + timedelta(hours=9))
    latest = await ask(rig, slides[4:5], "4")

    places = {run.id: (await see(rig, run.id)).queue.position for run in (first, sooner, urgent, latest)}  # type: ignore[union-attr]
    assert places == {urgent.id: 1, sooner.id: 2, first.id: 3, latest.id: 4}

    with pytest.raises(RunRefused) as refused:
        await ask(rig, slides[5:6], "5", deadline=now - timedelta(seconds=1))
    assert "deadline passed" in refused.value.what
    rig.rows("update mover.run set deadline = now() - interval '1 s' where id = %s", sooner.id)
    await rig.runs.cancel(who(), holding.id)
    await rig.work("run-clean")

    assert (await see(rig, urgent.id)).state == "staging"
    over = await see(rig, sooner.id)
    assert (over.state, over.reason) == ("refused", "deadline-passed")
    assert [e.state for e in await rig.runs._look.events(PROJECT, sooner.id, after=0)] == ["requested", "refused"]


async def test_a_small_run_passes_a_large_one_only_where_it_delays_nobody(rig: Rig) -> None:
    """Of 100 bytes 60 are held, and the large run needs them back: 20 beside it harm nobody, 20 more would."""
    held, large, small, other = rig.slides([60_000, 80_000, 20_000, 20_000])
    rig.roots.limit = Space(capacity=100_000, free=1 << 40)
    holding = await ask(rig, [held], "0")
    first, second, third = [await ask(rig, [s], str(n)) for n, s in enumerate((large, small, other), start=1)]

    assert (first.state, second.state, third.state) == ("requested", "staging", "requested")
    await rig.runs.cancel(who(), holding.id)
    await rig.work("run-clean")

    assert (await see(rig, first.id)).state == "staging"
    assert (await see(rig, third.id)).state == "requested"


async def test_a_promise_ends_when_the_root_is_gone_and_not_when_somebody_said_so(rig: Rig) -> None:
    """The bytes of a run that was cancelled stand on the flash until they are removed."""
    one, two = rig.slides([1000, 1000])
    rig.roots.limit = Space(capacity=1000, free=1 << 40)
    holding = await ask(rig, [one], "1")
    waiting = await ask(rig, [two], "2")
    await rig.runs.cancel(who(), holding.id)
    await rig.runs.admit_waiting("flash")
    assert (await see(rig, waiting.id)).state == "requested"
    await rig.work("run-clean")
    assert (await see(rig, waiting.id)).state == "staging"


async def test_two_tiers_on_one_file_system_are_promised_its_bytes_once(rig: Rig, database: Database) -> None:
    """Each of them measures the whole of it."""
    rig.rows(
        "insert into mover.tier (name, kind, zone, role, identity, traits) values"
        " ('second', 'posix', 'deidentified', 'flash', 'second', '{}')"
    )
    (rig.folder / "second").mkdir()
    beside = type(rig.roots)(rig.folder / "second", reflink=False, check_identity=lambda: None)
    rig.roots.limit = beside.limit = Space(capacity=2000, free=1 << 40)
    policies = [msgspec.structs.replace(rig.book.get("stage", StagePolicy), name=n, flash=f) for n, f in TWO]
    flash = {**rig.runs._site.flash, "second": Flash(beside, "/second", None)}
    book = PolicyBook([Loaded(policy=one, file="", text="", digest="") for one in policies])
    runs = Runs(database, flash, book, node="n1")

    [slide] = rig.slides([1000])
    for number in range(6):
        body = wire.RunRequest(files=[slide], policy=TWO[number % 2][0])
        await runs.request(who(), body, key=str(number))
    held = rig.rows("select tier, sum(reserved_bytes) as bytes from mover.run group by tier order by tier")
    assert [(row.tier, row.bytes) for row in held] == [("flash", 1000), ("second", 1000)]


async def test_runs_whose_policy_is_not_loaded_stand_beside_the_line(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """They came first, and more of them than are judged at one go."""
    slides = rig.slides([1000] * 3)
    rig.roots.limit = Space(capacity=1000, free=1 << 40)
    await ask(rig, slides[:1], "holding")
    for number in range(3):
        await ask(rig, slides[1:2], str(number))
    rig.rows("update mover.run set policy = 'gone' where state = 'requested'")
    monkeypatch.setattr(admission, "WAITING_MAX", 2)
    monkeypatch.setattr(look, "WAITING_MAX", 2)
    waiting = await ask(rig, slides[2:], "late")
    assert waiting.queue is not None and waiting.queue.position == 1
    rig.rows("update mover.run set reserved_bytes = 0")
    await rig.runs.admit_waiting("flash")
    assert (await see(rig, waiting.id)).state == "staging"
    found = rig.rows("select explanation from mover.run where policy = 'gone' and explanation is not null")
    assert {row.explanation for row in found} == {"the policy gone is not loaded"} and len(found) == 2


async def test_a_run_whose_admission_was_cut_off_is_begun_by_the_next_judgement(rig: Rig) -> None:
    """Let in, and then the daemon died before it cut the run into shards."""
    [slide] = rig.slides([1000])
    begin = rig.runs._admissions._begin_admitted

    async def killed(tier: str) -> None:
        raise ConnectionError

    rig.runs._admissions._begin_admitted = killed  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        await ask(rig, [slide], "1")
    [row] = rig.rows("select id, state::text from mover.run")
    assert row.state == "admitted"

    rig.runs._admissions._begin_admitted = begin  # type: ignore[method-assign]
    assert (await ask(rig, [slide], "1")).id == row.id
    await rig.runs.admit_waiting("flash")
    await rig.work()
    assert (await see(rig, row.id)).state == "ready"


async def test_estimates_come_from_what_this_tier_took_before(rig: Rig) -> None:
    slides = rig.slides([1000] * 3)
    rig.roots.limit = Space(capacity=1000, free=1 << 40)
    first = await ask(rig, slides[:1], "0")
    assert first.estimate is None
    await rig.work()
    await rig.runs.cancel(who(), first.id)
    await rig.work()
    assert (await see(rig, first.id)).state == "cleaned"
    rig.rows("update mover.run set ready_at = admitted_at + interval '10 s', cleaned_at = admitted_at + interval '1 h'")

    staging = await ask(rig, slides[1:2], "1")
    waiting = await ask(rig, slides[2:], "2")

    assert staging.estimate is not None and staging.estimate.based_on == 1
    assert staging.estimate.low_s < staging.estimate.likely_s == 10 < staging.estimate.high_s
    assert waiting.estimate is not None and 3500 < waiting.estimate.likely_s <= 3610


# --- what is refused ------------------------------------------------------------------------------------------


async def test_every_offender_of_a_long_list_is_named_to_who_sent_it_and_a_page_names_the_first(rig: Rig) -> None:
    """Four kinds in a list of thousands; only the requester's own words go back, only masked shapes are kept."""
    [slide, gone] = rig.slides([10, 10])
    rig.rows(
        "insert into mover.slide_withdrawal (number, reason, found_by) values (%s, 'identifier-found-later', 'search')",
        gone,
    )
    unknown = slide[:-2] + "ZZ"
    files = [slide, gone, unknown, slide, *(f"S26-{n:05d} SMITH" for n in range(3000))]

    with pytest.raises(RunRefused) as refused:
        await ask(rig, files, "1")

    details = refused.value.details
    assert len(details) == 3003 and details[0] == {
        "name": gone, "number": gone, "position": 2, "why": "quarantined"
    }  # fmt: skip
    assert details[-1]["name"] == "S26-02999 SMITH"
    assert refused.value.what.startswith("3003 of 3004 unusable: 1 duplicate, ")
    [listed] = (await rig.runs.list(PROJECT)).runs
    assert (len(listed.offenders), listed.offenders_count, listed.state) == (20, 3003, "refused")
    assert len((await see(rig, listed.id)).offenders) == 3003
    assert not rig.rows("select id from mover.run where offenders::text like '%%SMITH%%'")
    assert rig.rows("select count(*) from mover.shard") == [(0,)]
    with pytest.raises(RunRefused):
        await ask(rig, files, "1")


async def test_the_key_of_a_run_that_is_over_is_no_key_any_more(rig: Rig) -> None:
    """Scheduler ids wrap and survive a requeue: what looks like a repetition is another job."""
    [slide] = rig.slides([1000])
    run = await ask(rig, [slide], "cluster/4711/2026-01-01T00:00:00/0")
    await rig.work()
    assert (await ask(rig, [slide], "cluster/4711/2026-01-01T00:00:00/0")).id == run.id
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    for state in ("finishing", "protected", "cleaned"):
        assert (await see(rig, run.id)).state == state
        with pytest.raises(Conflict) as refused:
            await ask(rig, [slide], "cluster/4711/2026-01-01T00:00:00/0")
        assert state in refused.value.what and "restart" in refused.value.advice
        if state == "protected":
            await rig.runs.clean(who(), run.id)
        await rig.work()
    assert (await ask(rig, [slide], "cluster/4711/2026-01-01T00:00:00/1")).id != run.id


async def test_a_key_stands_for_what_was_said_and_for_whom(rig: Rig) -> None:
    """Keys are guessed from what a scheduler shows to everybody, and `out/` is one user's; a daemon that was updated
    meanwhile knows a field more."""
    [slide] = rig.slides([1000])
    body = wire.RunRequest(files=[slide], splits=None, priority=0)
    mine = msgspec.structs.replace(who(), posix_uid=4711, posix_gid=4711)
    run = await rig.runs.request(mine, body, key="4711/0")
    later = msgspec.defstruct("RunRequest", [("pause_s", int, 0)], bases=(wire.RunRequest,), frozen=True)
    assert (await rig.runs.request(mine, later(files=[slide]), key="4711/0")).id == run.id
    for other in (who(), msgspec.structs.replace(mine, posix_uid=4712), msgspec.structs.replace(mine, posix_gid=0)):
        with pytest.raises(Conflict, match="another request"):
            await rig.runs.request(other, body, key="4711/0")
    with pytest.raises(Conflict, match="another request"):
        await rig.runs.request(mine, later(files=[slide], pause_s=1), key="4711/0")


async def test_a_frozen_list_is_asked_for_by_its_id_and_whoever_withdraws_of_it_is_named_wherever_the_run_is(
    rig: Rig,
) -> None:
    """More than a thousand of them, too: a person has to take them out of the list."""
    slides = rig.slides([1000] * 3)
    rig.roots.limit = Space(capacity=3000, free=1 << 40)
    staging = await ask(rig, slides, "1")
    [frozen] = rig.rows("select selection_id as id from mover.run")
    again = await rig.runs.request(who(), wire.RunRequest(selection=frozen.id), key="2")
    assert (again.state, again.count, again.bytes) == ("requested", 3, 3000)
    planned = await rig.runs.plan_request(who(), wire.RunRequest(selection=frozen.id))
    assert planned.counts == {"link": 0, "copy": 3}
    for name in ("selection-1", staging.id):
        with pytest.raises(NotFound):
            await rig.runs.request(who(), wire.RunRequest(selection=name), key=name)

    withdraw = (
        "insert into mover.slide_withdrawal (number, reason, found_by) values (%s, 'identifier-found-later', 's')"
    )
    for slide in slides[:2]:
        rig.rows(withdraw, slide)
    named = [{"number": slide, "why": "quarantined"} for slide in slides[:2]]
    for body in (wire.RunRequest(selection=frozen.id), wire.RunRequest(like=staging.id)):
        with pytest.raises(RunRefused) as refused:
            await rig.runs.request(who(), body, key=str(body.like))
        assert refused.value.details == named and refused.value.what.startswith("2 of its slides")
    await rig.work("run-stage")
    failed = await see(rig, staging.id)
    assert failed.state == "failed" and failed.offenders == named
    await rig.work()
    waited = await see(rig, again.id)
    assert (waited.state, waited.reason, waited.offenders) == ("refused", "identifier-found-later", named)
    assert waited.explanation == "2 of its slides were withdrawn meanwhile"


async def test_a_long_list_is_answered_when_it_is_frozen_and_keeps_its_place_until_its_files_are_laid_out(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand files take seconds to write down, and their requester waits for one."""
    monkeypatch.setattr(entries, "AT_ONCE_MAX", 2)
    slides = rig.slides([1000] * 3)
    rig.roots.limit = Space(capacity=9000, free=1 << 40)
    run = await ask(rig, slides, "1", layout="shards")
    repeated = await rig.runs.request(who(), wire.RunRequest(like=run.id), key="2")
    given_up = await ask(rig, slides, "3")
    short = await ask(rig, slides[:1], "4")
    await rig.runs.cancel(who(), given_up.id)
    assert (run.state, run.count, run.bytes) == ("requested", 3, 3000) and run.queue is not None
    assert run.explanation == "its files are being laid out"
    assert short.state == "requested", "nobody passes those whose place is kept, unless it delays none of them"

    assert sorted(await rig.work("run-lay-out")) == ["run-lay-out"] * 2
    begun = await see(rig, run.id)
    assert (begun.state, begun.explanation) == ("staging", None)
    [row] = rig.rows("select wanted_files, wanted_bytes, reserved_bytes from mover.run where id = %s", run.id)
    assert row.wanted_files == 3 and row.reserved_bytes == row.wanted_bytes > 3000, (
        "tars are larger than what they hold"
    )
    assert (await see(rig, repeated.id)).state == "requested"
    await rig.work("run-stage", "run-seal")
    assert (await see(rig, run.id)).state == "ready"
    again = await rig.runs.request(who(), wire.RunRequest(like=run.id, layout="flat"), key="5")
    assert (await see(rig, given_up.id)).state == "cancelled"
    await rig.work()
    assert rig.rows("select count(*) from mover.run_entry where run_id = %s", given_up.id) == [(0,)]

    def broken(*_: object, **__: object) -> None:
        raise RequestInvalid("cannot be laid out")

    monkeypatch.setattr(entries, "_cut", broken)
    refused = await ask(rig, slides, "6")
    await rig.work("run-lay-out")
    assert (await see(rig, refused.id)).state == "refused" and again.count == 3


# --- giving up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["requested", "staging", "ready", "finishing", "protected"])
async def test_a_run_is_given_up_anywhere_and_what_its_job_wrote_is_protected_first(rig: Rig, at: str) -> None:
    one, two = rig.slides([1000, 1000])
    rig.roots.limit = Space(capacity=1000, free=1 << 40)
    if at == "requested":
        await ask(rig, [two], "holding")
    run = await ask(rig, [one], "1")
    if at not in ("requested", "staging"):
        await rig.work()
        (rig.folder / "flash" / "runs" / run.id / "out" / "model.pt").write_bytes(b"weights")
    if at in ("finishing", "protected"):
        await rig.runs.finish(who(), run.id, wire.FinishRequest())
    if at == "protected":
        await rig.work("run-protect")
    assert (await see(rig, run.id)).state == at

    await rig.runs.cancel(who(), run.id)
    await rig.work("run-stage", "run-seal", "run-protect", "run-clean")
    again = await rig.runs.cancel(who(), run.id)

    assert again.state == "cleaned"
    assert not (rig.folder / "flash" / "runs" / run.id).exists()
    assert bool(again.snapshots) == (at not in ("requested", "staging"))
    steps = [event.state for event in await rig.runs._look.events(PROJECT, run.id, after=0)]
    assert all(after in RUN[before] for before, after in zip(steps, steps[1:], strict=False))
    assert [a for a in rig.actions() if a == "run cancelled"] == ["run cancelled"]


async def test_a_refused_run_cannot_be_given_up(rig: Rig) -> None:
    with pytest.raises(RunRefused) as refused:
        await ask(rig, ["NOPE"], "1")
    with pytest.raises(IllegalTransition):
        await rig.runs.cancel(who(), refused.value.where)


@pytest.mark.parametrize("ready", [True, False])
async def test_a_cleanup_that_fails_for_good_ends_with_its_reason_and_may_be_asked_for_again(
    rig: Rig, ready: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for it must learn that it will not come."""
    run = await ask(rig, rig.slides([1000]), "1")
    if ready:
        await rig.work()
        await rig.runs.finish(who(), run.id, wire.FinishRequest())
        await rig.work("run-protect")
        await rig.runs.clean(who(), run.id)
    else:
        await rig.work("run-stage")
        await rig.runs.cancel(who(), run.id)
    with monkeypatch.context() as broken:
        broken.setattr(rig.roots, "is_gone", lambda run: False)
        await rig.work("run-clean")
        for _ in range(9):
            rig.due()
            await rig.work("run-clean")
    found = await see(rig, run.id)
    assert (found.state, found.reason) == ("protected" if ready else "failed", "cleanup-failed")
    assert found.explanation and IntegrityError.code in found.explanation

    await rig.runs.clean(who(), run.id)
    await rig.work("run-clean")
    assert (await see(rig, run.id)).state == "cleaned"


# --- watching -------------------------------------------------------------------------------------------------


async def test_who_watches_a_run_sees_every_state_at_once_and_goes_on_after_the_last_one_seen(rig: Rig) -> None:
    """Woken by the database, not by the clock: a look is due only every ten seconds once the bytes stand still."""
    run = await ask(rig, rig.slides([1000, 2000]), "1")
    listening = asyncio.create_task(rig.runs.watch.listen())
    seen: list[wire.RunEvent | wire.RunProgress] = []

    async def watch(events: AsyncIterator[wire.RunEvent | wire.RunProgress]) -> None:
        async for event in events:
            seen.append(event)

    watching = asyncio.create_task(watch(rig.runs.events(PROJECT, run.id, after=0)))
    await rig.work()
    await rig.runs.cancel(who(), run.id)
    await rig.work()
    async with asyncio.timeout(9):
        await watching
    listening.cancel()

    states = [event for event in seen if isinstance(event, wire.RunEvent)]
    assert [event.state for event in states] == [
        "requested", "admitted", "staging", "sealed", "ready",
        "finishing", "protecting", "protected", "cleaning", "cleaned",
    ]  # fmt: skip
    assert any(isinstance(event, wire.RunProgress) and event.count == 2 for event in seen)
    later = [event async for event in rig.runs.events(PROJECT, run.id, after=states[6].id)]
    assert later == states[7:]
    assert (await see(rig, run.id)).event == states[-1].id
    assert rig.runs.watch._watched == {}
    with pytest.raises(NotFound):
        await anext(rig.runs.events(OTHER, run.id, after=0))
