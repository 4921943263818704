"""Retention on the real database and a real repository: who may let go of what, and when it is gone."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg.rows import namedtuple_row

from mover import metrics
from mover.catalog.database import Database
from mover.decide import retention
from mover.decide.retention import SnapshotRecord, Terms
from mover.errors import Conflict, Denied, NotFound, RequestInvalid, TierUnavailable
from mover.model import wire
from mover.model.policy import KeepRules, ProtectPolicy, SecondRule
from mover.protect.retention import policies_in_force
from mover.protect.room import Protecting
from mover.protect.snapshots import SQL as SNAPSHOTS
from mover.repository.facts import Folder
from mover.repository.repository import Repository
from tests.rooms.keeping_rig import DAY, KEEP_ONE, MACHINE, Keeping
from tests.rooms.rig import OTHER, PROJECT
from tests.support.postgres import Dsns

pytestmark = pytest.mark.usefixtures("tier_rows")
HOUR = timedelta(hours=1)
REASON = wire.HoldRequest(reason="for the paper")


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Keeping:
    return Keeping(tmp_path, dsns, database)


def rules(chance: random.Random) -> KeepRules:
    def count() -> int:
        return chance.choice([0, 0, 1, 2, 5])

    return KeepRules(
        last=count(), hourly=count(), daily=count(), weekly=count(), monthly=count(), yearly=count(),
        within_s=chance.choice([None, None, 0, 86_400, 10**7]), tags=tuple(chance.sample("abc", chance.randrange(3))),
        at_least_s=chance.choice([3600, 7 * 86_400, 10**7]),
    )  # fmt: skip


# --- the database judges as decide does -----------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_database_keeps_exactly_what_the_rules_keep(rig: Keeping) -> None:
    """The module gives the reasons and SQL gives the right: were they two opinions, one of them would be wrong."""
    chance = random.Random(7)
    at = 0
    with psycopg.connect(rig.dsns.superuser, row_factory=namedtuple_row) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        now = conn.execute("select now()").fetchone()
        assert now is not None
        for round_ in range(60):
            records = []
            for _ in range(chance.randrange(1, 25)):
                at += 1
                recorded = now.now - timedelta(hours=chance.randrange(40_000), minutes=chance.randrange(60))
                doubt = chance.choice([None, None, None, "flood", "collapsed", "missing"])
                tags = tuple(chance.sample("abc", chance.randrange(3)))
                records.append(SnapshotRecord(f"s{at}", at, recorded.astimezone(UTC), tags, doubt=doubt))
            conn.cursor().executemany(
                "insert into mover.snapshot (id, project_id, series, sequence, tier, repository_id, policy, state,"
                " files, bytes, added_bytes, recorded_at, tags, doubt, missing_at) overriding system value"
                " values (%s, 'demo', %s, %s, 'protect', %s, 'protect', 'checked', 1, 1, 1, %s, %s, %s, %s)",
                [
                    (r.id, f"run:{round_}", r.sequence, r.id, r.recorded_at, list(r.tags),
                     None if r.doubt == "missing" else r.doubt, now.now if r.doubt == "missing" else None)
                    for r in records
                ],
            )  # fmt: skip
            keep = rules(chance)
            terms = msgspec.json.encode(Terms(keep)).decode()
            conn.execute("delete from mover.protect_terms")
            conn.execute("insert into mover.protect_terms values ('demo', 'protect', %s, %s)", [terms, terms])
            kept = conn.execute(
                "select snapshot from mover.snapshots_kept('protect', %s)", [f"run:{round_}"]
            ).fetchall()
            plan = retention.plan(records, keep, now=now.now.astimezone(UTC))
            assert {row.snapshot for row in kept} == {v.id for v in plan if v.keep}, (round_, keep)


@pytest.mark.slow
async def test_the_database_calls_the_same_terms_shorter(rig: Keeping) -> None:
    """What one person may change at once is decided where nobody can argue."""
    chance = random.Random(3)

    def terms() -> Terms:
        return Terms(
            rules(chance), chance.randrange(3), chance.randrange(3), chance.randrange(3),
            copy=chance.choice(["", "a/b", "c/"]), copy_every_s=chance.choice([0, 0, 60, 3600]),
        )  # fmt: skip

    pairs = [(terms(), terms()) for _ in range(400)] + [(one, one) for one in [terms()]]
    pairs += [(Terms(KeepRules(), 1, 1, 1), terms()), (terms(), Terms(KeepRules(), 9, 9, 0))]
    said = [[msgspec.json.encode(one).decode() for one in pair] for pair in pairs]
    found = rig.rows(
        "select mover.terms_shorter(a::jsonb, b::jsonb) as words"
        " from unnest(%s::text[], %s::text[]) with ordinality t (a, b, n) order by n",
        [one for one, _ in said], [other for _, other in said],
    )  # fmt: skip
    assert [tuple(row.words) for row in found] == [retention.shorter(*pair) for pair in pairs]


@pytest.mark.parametrize("word", ["lock_s", "whatever"])
def test_a_word_the_database_does_not_know_counts_by_its_number(rig: Keeping, word: str) -> None:
    """A later term is guarded from its first day: less of it, or none, is shorter."""

    def shorter(before: str, after: str) -> list[str]:
        return list(rig.rows("select mover.terms_shorter(%s::jsonb, %s::jsonb) as w", before, after)[0].w)

    assert shorter(f'{{"{word}": 5}}', "{}") == [word] and shorter(f'{{"{word}": 5}}', f'{{"{word}": 4}}') == [word]
    assert shorter("{}", f'{{"{word}": 5}}') == [] and shorter('{"mode": "compliance"}', '{"mode": "off"}') == ["mode"]


# --- doubts ---------------------------------------------------------------------------------------------------------


async def written(rig: Keeping, count: int, series: str = "run:r1", **facts: int) -> list[str | None]:
    """Rows as the daemon writes them, checked at once; the doubt of each."""
    doubts = []
    given = {"files": 10, "bytes": 1000, **facts}
    async with rig.database.project(PROJECT) as conn:
        for at in range(count):
            await conn.execute(
                "insert into mover.snapshot (id, project_id, series, tier, repository_id, policy, files, bytes,"
                " added_bytes, recorded_at, state) values (%s, 'demo', %s, 'protect', gen_random_uuid(), 'protect',"
                " %s, %s, 1, '2001-01-01Z', 'checked')",
                [f"{series}-{given['bytes']}-{at}", series, given["files"], given["bytes"]],
            )
            cursor = await conn.execute(
                "select mover.snapshot_checked(%s) as doubt", [f"{series}-{given['bytes']}-{at}"]
            )
            doubts.append((await cursor.fetchone()).doubt)
    return doubts


async def test_the_time_and_state_of_a_row_are_the_databases(rig: Keeping) -> None:
    """Whatever the daemon's role says, a row begins as written, now."""
    async with rig.database.project(PROJECT) as conn:
        await conn.execute(
            "insert into mover.snapshot (id, project_id, series, sequence, tier, repository_id, policy, files, bytes,"
            " added_bytes, recorded_at, state, trash_until, forgotten_at) overriding system value values ('s', 'demo',"
            " 'run:r', -5, 'protect', 'x', 'protect', 1, 1, 1, '2001-01-01Z', 'forgotten', '2001-01-01Z',"
            " '2001-01-01Z')"
        )
    [row] = rig.rows("select *, now() - recorded_at as age from mover.snapshot")
    assert (row.state, row.trash_until, row.forgotten_at) == ("written", None, None)
    assert row.sequence > 0 and row.age < timedelta(minutes=1)


async def test_a_flood_counts_for_nothing_from_its_first_to_its_last(rig: Keeping) -> None:
    """When it is known as one, those that came before it was count no more; others' series are not touched."""
    assert await written(rig, 5, "run:other") == [None] * 5
    assert await written(rig, 60) == [None] * 23 + ["flood"] * 37

    doubts = rig.rows("select distinct doubt from mover.snapshot where series = 'run:r1'")
    assert [row.doubt for row in doubts] == ["flood"]


async def test_one_that_collapsed_counts_for_nothing_and_neither_does_a_slow_shrinking(rig: Keeping) -> None:
    """Measured against the largest since two persons agreed, not against its neighbour."""
    assert await written(rig, 1, bytes=1000) == [None]
    assert await written(rig, 1, bytes=600) == [None]
    assert await written(rig, 1, bytes=499) == ["collapsed"]
    assert await written(rig, 1, bytes=360) == ["collapsed"]
    assert await written(rig, 1, bytes=1001, files=4) == ["collapsed"]
    assert await written(rig, 1, bytes=1002, files=5) == [None]


async def test_two_persons_agree_to_a_smaller_size_and_it_is_the_measure_from_then_on(rig: Keeping) -> None:
    """Somebody did tidy up: otherwise nothing of this series would be forgotten any more."""
    await written(rig, 1, bytes=1000)
    await written(rig, 1, bytes=100)
    await rig.agree("agree", "run:r1-100-0", by=(await rig.person("ann"), MACHINE))

    assert rig.rows("select doubt from mover.snapshot where id = 'run:r1-100-0'")[0].doubt is None
    assert await written(rig, 1, bytes=60) == [None]
    assert await written(rig, 1, bytes=49) == ["collapsed"]


async def test_an_attempt_that_was_cut_off_goes_and_one_that_is_not_whole_stays(rig: Keeping) -> None:
    """The second may hold the only copy of what was deleted since."""
    cut, torn = rig.row(state="written"), rig.row(state="written")
    async with rig.database.project(PROJECT) as conn:
        await conn.execute("select mover.snapshot_incomplete(%s)", [torn])
        await conn.execute("select mover.snapshots_cut_off('run:r1')")
        assert rig.states() == {cut: "written", torn: "written"}
    later = rig.row()
    async with rig.database.project(PROJECT) as conn:
        await conn.execute("select mover.snapshots_cut_off('run:r1')")
    assert rig.states() == {cut: "trashed", torn: "written", later: "checked"}


# --- trash, forgetting, prune: with a repository and stock restic ----------------------------------------------------


@pytest.mark.slow
async def test_what_no_rule_keeps_waits_in_the_trash_and_then_its_file_goes(rig: Keeping) -> None:
    """In the trash it is whole and can be looked into; afterwards restic knows it no more and finds no fault."""
    rig.policy(keep=KEEP_ONE)
    old, middle, new = (rig.snapshot(age=age * DAY) for age in (30, 20, 10))
    young = rig.snapshot()

    first = await rig.turn()
    assert rig.states() == {old: "trashed", middle: "trashed", new: "checked", young: "checked"}
    assert first.counts["trashed"] == 2 and len(rig.repository.snapshot_ids()) == 4
    assert (await rig.protecting.snapshots.files(PROJECT, old)).files

    rig.rows("update mover.snapshot set trash_until = now() where id = %s", old)
    assert (await rig.turn()).counts["forgotten"] == 1
    assert rig.states()[old] == "forgotten" and len(rig.repository.snapshot_ids()) == 3
    assert rig.rows("select purged_at from mover.snapshot where id = %s", old)[0].purged_at is not None
    assert (await rig.turn()).counts["forgotten"] == 0
    rig.restic("check", "--read-data")
    assert "snapshots trashed" in rig.actions() and "snapshots forgotten" in rig.actions()


@pytest.mark.slow
async def test_a_hold_beats_rules_trash_and_agreements(rig: Keeping) -> None:
    rig.policy(keep=KEEP_ONE)
    held, gone, new = (rig.snapshot(age=age * DAY) for age in (30, 20, 10))
    seen = await rig.holds.hold(MACHINE, held, REASON)
    again = await rig.holds.hold(MACHINE, held, REASON)
    assert [h.reason for h in seen.holds] == ["for the paper"] and again.holds == seen.holds
    await rig.turn()
    assert rig.states() == {held: "checked", gone: "trashed", new: "checked"}

    back = await rig.holds.untrash(MACHINE, gone, wire.HoldRequest(reason="we need it"))
    assert back.state == "checked" and back.holds[0].until is not None
    await rig.agree("forget", held, new, by=(await rig.person("ann"), MACHINE))
    assert rig.states() == {held: "checked", gone: "checked", new: "trashed"}
    rig.rows("update mover.snapshot set state = 'trashed', trash_until = now() where id = %s", held)
    await rig.turn()
    assert rig.states()[held] == "checked"
    with pytest.raises(Conflict, match="only what is in the trash"):
        await rig.holds.untrash(MACHINE, held, REASON)


@pytest.mark.slow
async def test_a_hold_ends_by_itself_or_by_two_persons(rig: Keeping) -> None:
    rig.policy(keep=KEEP_ONE)
    one, other, _ = (rig.snapshot(age=age * DAY) for age in (30, 20, 10))
    await rig.holds.hold(MACHINE, one, wire.HoldRequest("for a while", datetime(2100, 1, 1, tzinfo=UTC)))
    seen = await rig.holds.hold(MACHINE, other, REASON)
    rig.rows("update mover.hold set until = now() where snapshot_id = %s", one)
    await rig.turn()
    assert (rig.states()[one], rig.states()[other]) == ("trashed", "checked")
    done = await rig.agree("release-hold", seen.holds[0].id, by=(await rig.person("ann"), MACHINE))
    assert done.state == "applied" and (await rig.turn()).counts["trashed"] == 1
    with pytest.raises(Conflict, match="ends in the future"):
        await rig.holds.hold(MACHINE, one, wire.HoldRequest("too late", datetime(2001, 1, 1, tzinfo=UTC)))
    with pytest.raises(RequestInvalid, match="offset"):
        await rig.holds.hold(MACHINE, one, wire.HoldRequest("when?", datetime(2100, 1, 1)))


@pytest.mark.slow
async def test_a_file_that_vanished_without_us_is_an_alarm_and_stops_the_prune(rig: Keeping) -> None:
    """Somebody with the keys and stock restic: what is left of a snapshot are its packs, so they stay."""
    rig.policy(keep=KEEP_ONE, prune_grace_s=0)
    old, lost, new = (rig.snapshot(age=age * DAY) for age in (30, 20, 10))
    name = rig.rows("select repository_id from mover.snapshot where id = %s", lost)[0].repository_id
    rig.restic("forget", name)

    turn = await rig.turn()
    assert turn.counts["missing"] == 1
    assert rig.states() == {old: "trashed", lost: "checked", new: "checked"}
    seen = await rig.upkeep.view(PROJECT)
    assert seen.policies[0].missing == 1 and (await rig.protecting.snapshots.view(PROJECT, lost)).missing_at
    packs = sorted((rig.folder / "protect" / "data").rglob("*"))
    waits = await rig.turn("prune")
    assert waits.state == "waiting" and "missing" in waits.explanation
    assert sorted((rig.folder / "protect" / "data").rglob("*")) == packs
    assert "snapshots missing" in rig.actions()


@pytest.mark.slow
async def test_a_prune_waits_for_what_another_project_misses_on_the_same_tier(rig: Keeping) -> None:
    """Two projects may keep one repository, and each prunes it: packs that are left of one's snapshots are not garbage
    of the other."""
    rig.policy(prune_grace_s=0)
    rig.snapshot()
    await rig.in_force()
    rig.row("run:theirs", project_id=OTHER, policy="theirs", missing_at=datetime.now(UTC))
    waits = await rig.turn("prune")
    assert waits.state == "waiting" and "another project" in waits.explanation
    rig.rows("update mover.snapshot set missing_at = null where project_id = %s", OTHER)
    assert (await rig.turn("prune")).state == "done"


@pytest.mark.slow
async def test_a_snapshot_that_is_there_again_is_missing_no_more(rig: Keeping) -> None:
    """A tier that came back from a backup with everything on it."""
    one = rig.snapshot(age=30 * DAY)
    [file] = (rig.folder / "protect" / "snapshots").iterdir()
    content = file.read_bytes()
    file.unlink()
    assert (await rig.turn()).counts["missing"] == 1
    file.write_bytes(content)
    assert (await rig.turn()).counts["missing"] == 0 and rig.states() == {one: "checked"}


@pytest.mark.slow
async def test_packs_go_when_nothing_needs_them_and_not_too_many_at_once(
    rig: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan comes first; beyond the breaker two persons agree, once."""
    monkeypatch.setattr(retention, "FREE_PACKS", 0)
    rig.policy(keep=KEEP_ONE, prune_grace_s=0)
    gone, new = rig.snapshot(age=30 * DAY), rig.snapshot(age=20 * DAY)
    await rig.turn()
    rig.rows("update mover.snapshot set trash_until = now() where id = %s", gone)
    await rig.turn()
    assert (await rig.turn("prune")).counts["marked"] > 0  # the first marks

    waits = await rig.turn("prune")
    assert waits.state == "waiting" and waits.plan["sweep"] > 0 and "at once" in waits.explanation
    assert not await rig.upkeep.begin(PROJECT, rig.policy(), "prune", every_s=86_400)
    await rig.agree("large", by=(await rig.person("ann"), MACHINE), policy="protect")
    assert await rig.upkeep.begin(PROJECT, rig.policy(), "prune", every_s=86_400)
    await rig.work("protect-prune")
    [done] = rig.rows("select * from mover.protect_turn where kind = 'prune'")
    assert done.state == "done" and done.counts["swept"] == waits.plan["sweep"] and done.counts["freed_bytes"] > 0
    assert rig.states()[new] == "checked"
    rig.restic("check", "--read-data")


@pytest.mark.slow
async def test_a_row_that_points_to_anothers_snapshot_removes_no_file(rig: Keeping) -> None:
    """A row can be made up by whoever has the daemon's database role; the repository's own tag says whose it is."""
    foreign = rig.repository.snapshot(
        Folder({}), hostname="h", username="u", tags=["nightly"], time=datetime(2001, 1, 1, tzinfo=UTC), paths=["/x"],
    ).snapshot_id  # fmt: skip
    made_up = rig.row(repository_id=foreign, state="forgotten", forgotten_at=datetime(2026, 1, 1, tzinfo=UTC))
    await rig.turn()
    assert rig.repository.snapshot_ids() == [foreign]
    assert rig.rows("select purged_at from mover.snapshot where id = %s", made_up)[0].purged_at is None


async def test_the_breaker_lets_only_so_many_go_in_a_day(rig: Keeping) -> None:
    """A mistake in the rules, or somebody's patience, is seen before it has cost a tenth."""
    rig.policy(keep=KEEP_ONE, breaker_percent=10)
    rig.rows_of([timedelta(days=400 - day) for day in range(300)])
    async with rig.database.project(PROJECT) as conn:
        assert await rig.retention.retain(conn, rig.policy(), "run:r1") == 30
    async with rig.database.project(PROJECT) as conn:
        assert await rig.retention.retain(conn, rig.policy(), "run:r1") == 0
    rig.rows("update mover.snapshot set trashed_at = trashed_at - interval '1 day' where trashed_at is not null")
    async with rig.database.project(PROJECT) as conn:
        assert await rig.retention.retain(conn, rig.policy(), "run:r1") == 27
    await rig.agree("large", by=(await rig.person("ann"), MACHINE), policy="protect")
    async with rig.database.project(PROJECT) as conn:
        assert await rig.retention.retain(conn, rig.policy(), "run:r1") == 300 - 30 - 27 - 1


async def test_nothing_goes_while_the_clock_cannot_be_trusted(rig: Keeping, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded later than now means that the database's clock went back."""
    rig.policy(keep=KEEP_ONE)
    rig.rows_of([40 * DAY, 30 * DAY, 20 * DAY])
    rig.row("run:r2", age=-1 * DAY)
    async with rig.database.project(PROJECT) as conn:
        assert await rig.retention.retain(conn, rig.policy(), "run:r1") == 0
    assert not rig.upkeep._clocks_agree(datetime.now(UTC) + HOUR, rig.policy())
    assert rig.upkeep._clocks_agree(datetime.now(UTC), rig.policy())


# --- turns ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_file_that_could_not_be_removed_goes_with_the_next_turn(
    rig: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, locked out or without its tier between the row and the file: the row says forgotten, and is asked
    again until the file went."""
    rig.policy(keep=KEEP_ONE)
    gone, _ = rig.snapshot(age=30 * DAY), rig.snapshot(age=20 * DAY)
    await rig.turn()
    rig.rows("update mover.snapshot set trash_until = now() where state = 'trashed'")

    def away(*_: object) -> None:
        raise TierUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(Repository, "forget", away)
        assert (await rig.turn()).state == "done"
    assert rig.states()[gone] == "forgotten" and len(rig.repository.snapshot_ids()) == 2
    with pytest.raises(Conflict, match="forgotten"):
        await rig.holds.hold(MACHINE, gone, REASON)
    await rig.turn()
    assert len(rig.repository.snapshot_ids()) == 1
    rig.restic("check", "--read-data")


async def test_the_trash_is_not_emptied_while_the_clocks_differ(rig: Keeping) -> None:
    """Whichever of the two was moved: nothing is removed on its word."""
    rig.policy(keep=KEEP_ONE)
    gone, _ = rig.snapshot(age=30 * DAY), rig.snapshot(age=20 * DAY)
    await rig.turn()
    rig.rows("update mover.snapshot set trash_until = now() where state = 'trashed'")

    class Ahead:
        def now(self) -> datetime:
            return datetime.now(UTC) + 400 * DAY

    moved = Protecting(msgspec.structs.replace(rig.site, clock=Ahead()))  # type: ignore[arg-type]
    rig.handlers["protect-keep"], rig.handlers["protect-prune"] = moved.upkeep.keep, moved.upkeep.prune
    assert (await rig.turn()).counts["forgotten"] == 0 and rig.states()[gone] == "trashed"
    waits = await rig.turn("prune")
    assert waits.state == "waiting" and "clocks differ" in waits.explanation


async def test_a_turn_begins_once_and_again_when_its_time_has_come(rig: Keeping) -> None:
    """However many daemons look."""
    began = await asyncio.gather(*(rig.upkeep.begin_due(PROJECT) for _ in range(4)))
    assert sum(began) == len(rig.rows("select 1 from mover.shard where kind in ('protect-keep', 'protect-prune')"))
    assert await rig.upkeep.begin_due(PROJECT) == 0
    await rig.work("protect-keep")
    assert await rig.upkeep.begin_due(PROJECT) == 0
    rig.rows("update mover.protect_turn set started_at = now() - interval '61 minutes' where kind = 'keep'")
    assert await rig.upkeep.begin_due(PROJECT) == 1


async def test_a_turn_of_a_policy_that_is_gone_ends_and_one_that_failed_says_why(rig: Keeping) -> None:
    await rig.upkeep.begin_due(PROJECT)
    shard = await rig.claim("protect-prune")
    async with rig.database.project(PROJECT) as conn:
        await rig.upkeep.failed(conn, shard, TierUnavailable("the tier is away"))
    [prune] = rig.rows("select * from mover.protect_turn where kind = 'prune'")
    assert (prune.state, prune.explanation) == ("failed", "the tier is away")
    assert "protect-prune failed" in rig.actions()

    del rig.site.policies._by_name["protect"]
    await rig.work("protect-keep")
    [keep] = rig.rows("select * from mover.protect_turn where kind = 'keep'")
    assert keep.state == "failed" and "no such policy" in keep.explanation


async def test_what_waits_is_a_metric_that_disappears_when_it_is_over(rig: Keeping) -> None:
    """Alarms are made of these."""

    def gauge(name: str, **labels: str) -> float | None:
        return metrics.REGISTRY.get_sample_value(name, labels)

    rig.policy(keep=KeepRules(last=3))
    rig.row(doubt="flood", missing_at=datetime(2026, 1, 1, tzinfo=UTC))
    await rig.in_force()
    rig.policy(keep=KEEP_ONE)
    ann = await rig.person("ann")
    asked = await rig.shortenings.ask(ann, wire.ShorteningRequest("shorten", "fewer", policy="protect"))
    await rig.upkeep.measure(PROJECT)
    waiting = "mover_protect_shortenings_waiting"
    assert (
        gauge("mover_snapshots_doubtful", policy="protect") == gauge("mover_snapshots_missing", policy="protect") == 1
    )
    assert gauge(waiting, kind="file") == gauge(waiting, kind="shorten") == 1

    await rig.shortenings.withdraw(ann, asked.id)
    assert (await rig.shortenings.withdraw(ann, asked.id)).state == "withdrawn"
    rig.policy(keep=KeepRules(last=3))
    await rig.in_force()
    await rig.upkeep.measure(PROJECT)
    assert gauge(waiting, kind="shorten") is None and not gauge(waiting, kind="file")


# --- two persons ----------------------------------------------------------------------------------------------------


async def test_longer_rules_hold_at_once_and_shorter_ones_wait_for_two(rig: Keeping) -> None:
    """Whoever can edit the file can lengthen; the shorter text changes nothing but an alarm."""
    rig.policy(keep=KeepRules(last=5))
    assert (await rig.in_force())["keep"]["last"] == 5
    rig.policy(keep=KeepRules(last=7))
    assert (await rig.in_force())["keep"]["last"] == 7
    rig.policy(keep=KeepRules(last=2), trash_s=3600)
    assert (await rig.in_force())["keep"]["last"] == 7

    seen = await rig.upkeep.view(PROJECT)
    assert seen.policies[0].shorter == ["keep.last", "trash_s"]
    done = await rig.agree("shorten", by=(await rig.person("ann"), MACHINE), policy="protect")
    assert done.state == "applied" and done.approved_by == "uid:0"
    held = await rig.in_force()
    assert (held["keep"]["last"], held["trash_s"]) == (2, 3600)


async def test_a_shortening_is_for_exactly_what_was_asked(rig: Keeping) -> None:
    """The file was edited once more after the approval: that is another change."""
    rig.policy(keep=KeepRules(last=7))
    await rig.in_force()
    rig.policy(keep=KeepRules(last=5))
    asked = await rig.shortenings.ask(
        await rig.person("ann"), wire.ShorteningRequest("shorten", "fewer", policy="protect")
    )
    assert asked.shorter == ["keep.last"] and asked.state == "asked"
    rig.policy(keep=KeepRules(last=1))
    await rig.shortenings.approve(MACHINE, asked.id)
    rig.let_pass(asked.id)
    await rig.turn()
    assert (await rig.in_force())["keep"]["last"] == 5


async def test_a_shortening_shortens_nothing_that_became_longer_since(rig: Keeping) -> None:
    """Two persons agreed to fewer of the last; that the file promised years meanwhile, and does no more, they never
    saw."""
    rig.policy(keep=KeepRules(last=7))
    await rig.in_force()
    rig.policy(keep=KeepRules(last=5))
    ann = await rig.person("ann")
    asked = await rig.shortenings.ask(ann, wire.ShorteningRequest("shorten", "fewer", policy="protect"))
    await rig.shortenings.approve(MACHINE, asked.id)
    for keep in (KeepRules(last=7, yearly=10), KeepRules(last=5)):
        rig.policy(keep=keep)
        assert (await rig.in_force())["keep"]["yearly"] == 10
    rig.let_pass(asked.id)
    assert await rig.shortenings.apply_due(PROJECT) == 0
    held = (await rig.in_force())["keep"]
    assert (held["last"], held["yearly"]) == (7, 10)

    await rig.shortenings.withdraw(ann, asked.id)
    again = await rig.agree("shorten", by=(ann, MACHINE), policy="protect")
    assert again.state == "applied" and (await rig.in_force())["keep"]["yearly"] == 0


async def test_neither_approval_nor_time_alone_is_enough(rig: Keeping) -> None:
    rig.policy(keep=KeepRules(last=7))
    await rig.in_force()
    rig.policy(keep=KeepRules(last=5))
    ann = await rig.person("ann")
    asked = await rig.shortenings.ask(ann, wire.ShorteningRequest("shorten", "fewer", policy="protect"))
    assert asked.not_before - asked.requested_at == 3 * DAY
    same = await rig.shortenings.ask(ann, wire.ShorteningRequest("shorten", "again", policy="protect"))
    assert same.id == asked.id
    await rig.shortenings.approve(MACHINE, asked.id)
    assert await rig.shortenings.apply_due(PROJECT) == 0
    rig.rows("update mover.protect_request set approved_at = null, approved_by = null, approved_person = null")
    rig.let_pass(asked.id)
    assert await rig.shortenings.apply_due(PROJECT) == 0
    await rig.shortenings.withdraw(ann, asked.id)
    with pytest.raises(Conflict, match="withdrawn"):
        await rig.shortenings.approve(MACHINE, asked.id)
    assert (await rig.in_force())["keep"]["last"] == 7


async def test_a_person_with_many_tokens_is_one_person(rig: Keeping) -> None:
    """Tokens that a token made, their tokens, and who made it: one pair of hands."""
    snapshot = rig.row()
    ann, bob = await rig.person("ann"), await rig.person("bob")
    other = await rig.person("second", maker=ann)
    third = await rig.person("third", maker=other)
    sibling = await rig.person("sibling", maker=ann)
    body = wire.ShorteningRequest("forget", "not needed", subjects=[snapshot])
    asked = await rig.shortenings.ask(other, body)
    for hands in (other, ann, third, sibling):
        with pytest.raises(Denied, match="one person"):
            await rig.shortenings.approve(hands, asked.id)
    assert (await rig.shortenings.approve(bob, asked.id)).state == "approved"
    assert (await rig.shortenings.approve(bob, asked.id)).approved_by == "bob"
    with pytest.raises(Conflict, match="approved already"):
        await rig.shortenings.approve(MACHINE, asked.id)


async def test_a_token_made_for_the_occasion_approves_nothing(rig: Keeping) -> None:
    """Root on the machine may make a second person; it has to be there before as long as the delay is."""
    snapshot = rig.row()
    ann, new = await rig.person("ann"), await rig.person("new", old=False)
    body = wire.ShorteningRequest("forget", "not needed", subjects=[snapshot])
    asked = await rig.shortenings.ask(ann, body)
    with pytest.raises(Denied, match="too short before"):
        await rig.shortenings.approve(new, asked.id)
    asked = await rig.shortenings.ask(new, body)
    with pytest.raises(Denied, match="too short before"):
        await rig.shortenings.approve(ann, asked.id)


async def test_what_cannot_be_asked_for(rig: Keeping) -> None:
    ann, viewer = await rig.person("ann"), await rig.person("vic", role="viewer")
    operator = await rig.person("olga", role="operator")
    await rig.in_force()
    ask = rig.shortenings.ask
    for body in (
        wire.ShorteningRequest("shorten", "why not", subjects=["x"]),
        wire.ShorteningRequest("forget", "why not", policy="protect"),
        wire.ShorteningRequest("forget", "why not", subjects=["x"], policy="protect"),
        wire.ShorteningRequest("untag", "why not", subjects=["x"]),
    ):
        with pytest.raises(RequestInvalid):
            await ask(ann, body)
    with pytest.raises(Conflict, match="not everything"):
        await ask(ann, wire.ShorteningRequest("forget", "why not", subjects=["snapshot-none"]))
    with pytest.raises(Conflict, match="shortens nothing"):
        await ask(ann, wire.ShorteningRequest("shorten", "why not", policy="protect"))
    with pytest.raises(Denied):
        await ask(viewer, wire.ShorteningRequest("large", "why not", policy="protect"))
    asked = await ask(ann, wire.ShorteningRequest("large", "why not", policy="protect"))
    with pytest.raises(Denied, match="only an admin"):
        await rig.shortenings.approve(operator, asked.id)
    with pytest.raises(NotFound):
        await rig.shortenings.approve(ann, "shortening-none")
    rig.rows("update mover.protect_request set lapses_at = now()")
    assert (await rig.shortenings.view(PROJECT, asked.id)).state == "lapsed"
    with pytest.raises(Conflict, match="lapsed"):
        await rig.shortenings.approve(MACHINE, asked.id)
    assert [s.id for s in (await rig.shortenings.list(PROJECT, None, 10)).shortenings] == [asked.id]
    plan = await rig.shortenings.plan(ann, wire.ShorteningRequest("large", "why not", policy="protect"))
    assert plan.steps[0].subject == "protect"


async def test_the_trash_is_emptied_early_by_two_persons(rig: Keeping) -> None:
    rig.policy(keep=KEEP_ONE)
    gone = rig.row(age=30 * DAY)
    rig.row(age=20 * DAY)
    async with rig.database.project(PROJECT) as conn:
        await rig.retention.retain(conn, rig.policy(), "run:r1")
    await rig.agree("empty-trash", gone, by=(await rig.person("ann"), MACHINE))
    [row] = rig.rows("select trash_until <= now() as over from mover.snapshot where id = %s", gone)
    assert row.over


async def test_tags_keep_and_are_taken_away_by_two(rig: Keeping) -> None:
    rig.policy(keep=KeepRules(last=1, tags=("paper",)))
    tagged, _ = rig.row(age=30 * DAY), rig.row(age=20 * DAY)
    seen = await rig.holds.tag(MACHINE, tagged, wire.TagRequest(["paper", "2026"]))
    assert seen.tags == ["2026", "paper"]
    async with rig.database.project(PROJECT) as conn:
        assert await rig.retention.retain(conn, rig.policy(), "run:r1") == 0
    await rig.agree("untag", tagged, by=(await rig.person("ann"), MACHINE), tags=["paper"])
    assert (await rig.protecting.snapshots.view(PROJECT, tagged)).tags == ["2026"]
    async with rig.database.project(PROJECT) as conn:
        assert await rig.retention.retain(conn, rig.policy(), "run:r1") == 1


async def test_a_plan_of_a_shortening_says_what_would_go(rig: Keeping) -> None:
    """Whoever approves reads what it costs."""
    rig.policy(keep=KeepRules(last=3))
    rig.rows_of([30 * DAY, 20 * DAY, 10 * DAY])
    await rig.in_force()
    rig.policy(keep=KEEP_ONE)
    plan = await rig.shortenings.plan(MACHINE, wire.ShorteningRequest("shorten", "fewer", policy="protect"))
    assert plan.counts == {"keep": 1, "forget": 2}
    assert (await rig.retention.forget_plan(PROJECT)).counts == {"keep": 3, "forget": 0}


async def test_a_lock_that_leaves_the_file_stays_in_force(rig: Keeping) -> None:
    """The daemon starts with the locks that hold; the file's wish waits for two persons, and is seen."""
    rig.policy(lock_s=30 * 86_400)
    book = await policies_in_force(rig.database, PROJECT, rig.site.policies, node="n1")
    assert book.get("protect", ProtectPolicy) == rig.policy()

    declared = rig.policy(lock_s=None)
    book = await policies_in_force(rig.database, PROJECT, rig.site.policies, node="n1")
    assert book.get("protect", ProtectPolicy).lock_s == 30 * 86_400
    assert (await rig.upkeep.view(PROJECT)).policies[0].shorter == ["lock_s", "lock_strength"]

    site = msgspec.structs.replace(rig.site, policies=book, declared=rig.site.policies)
    started = Protecting(site)  # as after a restart: what is asked for is what the file says
    asked = await started.shortenings.ask(
        await rig.person("ann"), wire.ShorteningRequest("shorten", "the bucket is full", policy="protect")
    )
    assert asked.shorter == ["lock_s", "lock_strength"]
    await started.shortenings.approve(MACHINE, asked.id)
    rig.let_pass(asked.id)
    await started.shortenings.apply_due(PROJECT)
    book = await policies_in_force(rig.database, PROJECT, rig.site.policies, node="n1")
    assert book.get("protect", ProtectPolicy) == declared


async def test_a_copy_and_immutable_files_that_leave_the_file_stay_and_a_lost_file_is_told(rig: Keeping) -> None:
    """The two words that once were only an alarm. A policy without a file has nobody who renews and judges."""
    both = rig.policy(append_only="chattr", copy=SecondRule(repository="other", prefix="two", every_s=60))
    book = await policies_in_force(rig.database, PROJECT, rig.site.policies, node="n1")
    assert book.get("protect", ProtectPolicy) == both

    rig.policy(append_only=None, copy=None)
    book = await policies_in_force(rig.database, PROJECT, rig.site.policies, node="n1")
    assert book.get("protect", ProtectPolicy) == both
    assert (await rig.upkeep.view(PROJECT)).policies[0].shorter == ["copy", "lock_strength"]

    rig.site.policies._by_name.pop("protect")
    assert (await rig.upkeep.view(PROJECT)).policies[0].shorter == ["file"]
    await rig.upkeep.measure(PROJECT)
    assert metrics.SHORTENINGS_WAITING.labels("file")._value.get() == 1


# --- many -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_ten_thousand_snapshots_are_listed_a_page_at_a_time_at_a_bounded_cost(rig: Keeping) -> None:
    """What a page costs does not depend on how many there are, nor on how deep one has read."""
    ids = rig.rows_of([timedelta(hours=12_000 - at) for at in range(10_000)])
    rig.rows("update mover.snapshot set state = 'trashed', trash_until = now() where sequence %% 100 = 0")
    rig.rows("update mover.snapshot set tags = '{all}' || case when sequence %% 50 = 0 then '{best}'::text[] end")
    rig.rows("analyze mover.snapshot, mover.tagged_snapshot")
    snapshots = rig.protecting.snapshots
    deep = await snapshots.list(PROJECT, after=ids[5000], limit=100)
    assert [one.id for one in deep.snapshots] == ids[4900:5000][::-1] and deep.next == ids[4900]
    assert (await snapshots.list(PROJECT, run="r1", after=ids[2], limit=100)).next is None
    seen = (await snapshots.list(PROJECT, state="trashed", policy="protect")).snapshots
    assert len(seen) == 100 and {one.state for one in seen} == {"trashed"}
    tagged = (await snapshots.list(PROJECT, tag="best", limit=1000)).snapshots
    assert {int(one.id.removeprefix("snapshot-")) % 50 for one in tagged} == {0} and len(tagged) == 200
    first, last = [(await snapshots.view(PROJECT, ids[at])).recorded_at for at in (100, 150)]
    between = {"since": first, "until": last}
    some = await snapshots.list(PROJECT, series="run:r1", **between)
    assert [one.id for one in some.snapshots] == ids[100:150][::-1] and some.next is None
    assert [one.id for one in (await snapshots.list(PROJECT, tag="best", **between)).snapshots] == ["snapshot-150"]
    for wrong in ({"run": "r1", "state": "trashed"}, {"policy": "protect"}, {"since": datetime(2026, 1, 1)}):
        with pytest.raises(RequestInvalid):
            await snapshots.list(PROJECT, **wrong)  # type: ignore[arg-type]

    values = {
        "at": datetime.now(UTC) - timedelta(hours=7000), "before": 5000, "since": datetime.min.replace(tzinfo=UTC),
        "limit": 101, "series": "run:r1", "policy": "protect", "state": "trashed", "tag": "all",
    }  # fmt: skip
    for name in ("page", "page_of_series", "page_of_state", "page_of_tag"):
        async with rig.database.project(PROJECT) as conn:
            cursor = await conn.execute("explain (analyze, buffers, format text) " + SNAPSHOTS[name], values)
            plan = "\n".join(row[0] for row in await cursor.fetchall())
        assert "Index Scan" in plan and "Sort" not in plan and "Seq Scan" not in plan, plan


@pytest.mark.slow
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_thousands_of_one_series_are_judged_and_simulated_in_seconds(rig: Keeping, count: int) -> None:
    rig.policy(keep=KeepRules(last=20, daily=30, monthly=12))
    rig.rows_of([timedelta(hours=12_000 - at) for at in range(count)])
    began = datetime.now(UTC)
    async with rig.database.project(PROJECT) as conn:
        assert await rig.retention.retain(conn, rig.policy(), "run:r1") == count // 10  # the breaker's tenth
    plan = await rig.retention.forget_plan(PROJECT)
    assert plan.truncated and plan.counts["forget"] > 0.8 * count
    found = await rig.retention.simulate(PROJECT, wire.SimulationRequest(keep=KeepRules(last=5), run="r1"))
    assert found.standing == 0.9 * count and found.leaving_count > 0.8 * count and "keep.last" in found.shorter
    assert (datetime.now(UTC) - began).total_seconds() < 240


async def test_a_simulation_changes_nothing(rig: Keeping) -> None:
    rig.policy(keep=KeepRules(last=3))
    rig.rows_of([30 * DAY, 20 * DAY, 10 * DAY])
    before: Any = (rig.states(), await rig.in_force())
    found = await rig.retention.simulate(PROJECT, wire.SimulationRequest(keep=KEEP_ONE, past_days=28, ahead_days=7))
    assert [moment.kept for moment in found.moments][:4] == [1, 1, 2, 2] and found.leaving_count == 2
    assert (rig.states(), await rig.in_force()) == before
