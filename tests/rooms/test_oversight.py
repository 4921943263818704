"""One look over all rooms, on the real catalog: what waits, how full, how fast, and what works."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import psycopg
import pytest

from mover import metrics
from mover.catalog.database import Database
from mover.errors import NotFound, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import Policy
from mover.oversight import Oversight, last, moving
from mover.oversight.levels import _step
from tests.support.facts import NUMBER, whole_project
from tests.support.postgres import Dsns

pytestmark = pytest.mark.usefixtures("tier_rows")
GIB = 1 << 30
ANN = Identity(actor="ann", role="operator", project="demo")


def tier(name: str, *, role: str = "flash", free: int = 60 * GIB, online: bool = True) -> wire.Tier:
    return wire.Tier(name=name, kind="posix", zone="deidentified", role=role, online=online,
                     capacity_bytes=100 * GIB, free_bytes=free)  # fmt: skip


class Machine:
    """What a daemon would ask of its tiers and of itself."""

    def __init__(self, database: Database) -> None:
        self.seen = [tier("flash"), tier("protect", role="protect", online=False)]
        self.room = Oversight(database, tiers=self.tiers, warnings=self.warnings, node="n1-all")

    async def tiers(self) -> list[wire.Tier]:
        return self.seen

    async def warnings(self, tiers: list[wire.Tier]) -> list[str]:
        return ["no policy of kind dump"]


def change(dsns: Dsns, *statements: str) -> None:
    with psycopg.connect(dsns.superuser, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)  # type: ignore[arg-type]


async def test_what_waits_is_told_to_its_project_and_to_who_may_read_it(dsns: Dsns, database: Database) -> None:
    """Another project's trouble is nobody's business, and a custodian's page says nothing of runs."""
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        whole_project(conn, "demo", mark="a", number=NUMBER)
    change(
        dsns,
        "update mover.batch set complete_proof = null, state = 'failed'",
        "update mover.shard set state = 'failed', finished_at = now()",
    )
    room = Machine(database).room
    found = {one.code: one for one in (await room.needs(ANN)).needs}
    assert {"batch-failed", "work-failed", "tier-away", "warning"} <= set(found)
    assert found["batch-failed"].subject == "batch-a" and found["tier-away"].subject == "protect"
    other = (await room.needs(Identity(actor="bob", role="operator", project="other"))).needs
    assert {one.code for one in other} == {"tier-away", "warning"}
    custodian = (await room.needs(Identity(actor="cy", role="custodian", project="demo"))).needs
    theirs = {"batch-failed", "packs-quarantined", "quarantine-asked", "ruling-asked", "loss-asked", "retirement-asked"}
    assert {one.code for one in custodian} <= theirs


async def test_what_is_on_its_way_says_until_when_and_what_must_come_again_when_it_came_last(
    dsns: Dsns, database: Database
) -> None:
    """Whoever is woken asks: shall I wait for it? And a backup that nobody has seen for a week is none."""
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        whole_project(conn, "demo", mark="a", number=NUMBER)
    change(
        dsns,
        "update mover.batch set state = 'working', complete_proof = null",
        "update mover.transfer set state = 'moving', bytes = 400, moved_bytes = 100,"
        " created_at = now() - interval '1 hour'",
        "update mover.restore set state = 'restoring'",
        "update mover.scan set state = 'complete', finished_at = now() - interval '2 days'",
    )
    async with database.project("demo") as conn:
        found = {one.noun: one for one in await moving(conn, lambda action: True)}
        for_viewer = await moving(conn, lambda action: action == "transfers.read")
        times = {one.what: one.at for one in await last(conn, lambda action: action != "dumps.read")}
        [now] = await (await conn.execute("select now() as at")).fetchall()
    assert {"batch", "transfer", "restore"} <= set(found)
    transfer = found["transfer"]
    assert (transfer.done, transfer.total, transfer.state) == (100, 400, "moving") and transfer.until is not None
    assert abs((transfer.until - now.at).total_seconds() - 3 * 3600) < 60
    assert [one.noun for one in for_viewer] == ["transfer"]
    assert set(times) == {"snapshot", "restore drill", "checkpoint", "scan"}
    assert times["scan"] is not None and 47 < (now.at - times["scan"]).total_seconds() / 3600 < 49


async def test_levels_become_a_forecast_and_a_need(dsns: Dsns, database: Database) -> None:
    machine = Machine(database)
    change(
        dsns,
        "insert into mover.tier_level select 'flash', now() - n * interval '1 day', 107374182400,"
        " 53687091200 + n * 4294967296 from generate_series(1, 8) n",
    )
    machine.seen = [tier("flash", free=50 * GIB)]
    await machine.room.sample()
    await machine.room.sample()  # the same interval again: one line
    [told] = (await machine.room.levels(30)).tiers
    assert told.tier == "flash" and len(told.at) == 9 and told.used_bytes[-1] == 50 * GIB
    assert told.forecast is not None and told.forecast.likely_s is not None
    assert 11 < told.forecast.likely_s / 86_400 < 14
    [filling] = [one for one in (await machine.room.needs(ANN)).needs if one.code == "tier-filling"]
    assert filling.severity == "soon" and filling.subject == "flash"


async def test_pace_is_what_was_written_between_two_turns(dsns: Dsns, database: Database) -> None:
    """Of every daemon together; a tier that nobody registered is no row."""
    machine = Machine(database)
    await machine.room.sample()
    change(dsns, "delete from mover.tier_pace")  # what other tests of this process moved
    metrics.BYTES_MOVED.labels("archive", "flash").inc(6 * GIB)
    metrics.BYTES_MOVED.labels("archive", "no-such-tier").inc(1)
    await machine.room.sample()
    await machine.room.sample()
    change(dsns, "update mover.tier_pace set at = at - interval '1 minute'")
    seen = await machine.room.pace(60)
    [pair] = [p for p in seen.pairs if p.source == "archive"]
    assert pair.target == "flash" and len(pair.bytes_s) == len(seen.at) == 60 * 60 // seen.step_s
    assert round(sum(pair.bytes_s) * seen.step_s) == 6 * GIB
    assert seen.at[1] - seen.at[0] == timedelta(seconds=seen.step_s)


async def test_old_samples_go(dsns: Dsns, database: Database) -> None:
    """I10: what is sampled for ever must not be kept for ever."""
    change(
        dsns,
        "insert into mover.tier_pace values (now() - interval '9 days', 'n1-all', 'archive', 'flash', 5)",
        "insert into mover.tier_level values ('flash', now() - interval '3 years', 5, 5)",
    )
    await Machine(database).room.sample()
    with psycopg.connect(dsns.superuser) as conn:
        assert conn.execute("select count(*) from mover.tier_pace where bytes = 5").fetchone() == (0,)
        assert conn.execute("select count(*) from mover.tier_level where free_bytes = 5").fetchone() == (0,)


async def test_shards_are_told_by_page_with_what_holds_them_up(dsns: Dsns, database: Database) -> None:
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        whole_project(conn, "demo", mark="a", number=NUMBER)
    change(
        dsns,
        "insert into mover.shard (id, project_id, queue, kind, subject_id, members)"
        " select 'shard-z' || n, 'demo', 'tier-flash', 'run-stage', 'run-a', '{}' from generate_series(1, 5) n",
        "update mover.shard s set state = 'running', holder = 'n1-all-both/1', claims = 2, failures = 1,"
        " error_code = 'tier-busy', error = 'the tier is busy',"
        " members = array(select path from mover.run_entry where run_id = 'run-a')"
        " where id = 'shard-z3'",
    )
    room = Machine(database).room
    asked = {"subject": "run-a", "kind": "run-stage", "state": None}
    first = await room.shards("demo", **asked, after=None, limit=3)
    rest = await room.shards("demo", **asked, after=first.next, limit=3)
    assert [one.id for one in first.shards + rest.shards] == [f"shard-z{n}" for n in (5, 4, 3, 2, 1)]
    assert rest.next is None
    slow = first.shards[2]
    assert (slow.failures, slow.code, slow.holder) == (1, "tier-busy", "n1-all-both/1")
    assert slow.members and slow.bytes is not None and slow.done_bytes is not None
    running = await room.shards("demo", subject=None, kind=None, state="running", after=None, limit=9)
    assert [one.id for one in running.shards] == ["shard-z3"] and running.shards[0].bytes is None
    assert (await room.shards("other", **asked, after=None, limit=9)).shards == []
    change(dsns, "insert into mover.node (id, version) values ('n1-all', '1.2') on conflict (id) do nothing")
    assert [(n.id, n.shards) for n in (await room.nodes("demo")).nodes if n.id == "n1-all"] == [("n1-all", 1)]
    assert [n.shards for n in (await room.nodes("other")).nodes if n.id == "n1-all"] == [0]


async def test_what_fills_a_tier_is_told_by_folder_by_size_and_age_and_by_content(
    dsns: Dsns, database: Database
) -> None:
    """Folders of identified tiers are names: not told, and not asked for."""
    change(
        dsns,
        "insert into mover.entry (project_id, tier, key, kind, size_bytes, mtime_ns, mark, digest, gone_at)"
        " select 'demo', t, convert_to(k, 'utf8'), 'file', s, (extract(epoch from now()) - age) * 1e9, '1', d, gone"
        "  from (values ('flash'), ('intake')) tiers (t),"
        f" (values ('a/x', 100, 60, repeat('1', 64), null), ('a/b/y', 100, 60, repeat('1', 64), null),"
        f"  ('a0/z', 5, 999999999, repeat('2', 64), null), ('top', {2 * GIB}, 60, null, null),"
        "  ('a/gone', 7, 60, repeat('1', 64), now())) files (k, s, age, d, gone)",
    )
    room = Machine(database).room
    whole = await room.usage("demo", "flash", folder="")
    assert (whole.count, whole.bytes, whole.whole) == (4, 2 * GIB + 205, True)
    assert [(f.name, f.count, f.bytes) for f in whole.folders or []] == [
        (None, 1, 2 * GIB), ("a/", 2, 200), ("a0/", 1, 5),
    ]  # fmt: skip
    assert {(c.size, c.age, c.count) for c in whole.cells} == {(0, 0, 2), (0, 6, 1), (5, 0, 1)}
    below = await room.usage("demo", "flash", folder="a/")
    assert below.folder == "a/" and [(f.name, f.bytes) for f in below.folders or []] == [("b/", 100), (None, 100)]
    named = await room.usage("demo", "intake", folder="")
    assert named.folders is None and named.count == 4
    with pytest.raises(RequestInvalid):
        await room.usage("demo", "intake", folder="a")
    with pytest.raises(NotFound):
        await room.usage("demo", "no-such-tier", folder="")
    [twice] = (await room.duplicates("demo", "flash", after=None, limit=9)).duplicates
    assert (twice.count, twice.spare_bytes, sorted(twice.keys or [])) == (2, 100, ["a/b/y", "a/x"])
    first = await room.duplicates("demo", "intake", after=None, limit=1)
    assert first.duplicates[0].keys is None
    assert (await room.duplicates("demo", "intake", after=first.next, limit=1)).duplicates == []
    assert (await room.usage("other", "flash", folder="")).count == 0


@pytest.mark.parametrize(("span_s", "points"), [(3600, 180), (86_400, 180), (7 * 86_400, 180), (730 * 86_400, 180)])
def test_a_picture_has_a_bounded_number_of_points(span_s: int, points: int) -> None:
    assert 20 <= span_s / _step(span_s) <= points


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"kind": "images", "name": "images", "from": "intake", "to": "archive"}, "wait: 2 packs wait for"),
        ({"kind": "images", "name": "images", "from": "intake", "to": "archive", "require_thumbnail": False},
         "pass on: 2 packs would no longer wait for a thumbnail"),
        ({"kind": "images", "name": "others", "from": "intake", "to": "archive"}, "know: no pack of its batches"),
        ({"kind": "deid"}, "may be judged again: 2 packs"),
        ({"kind": "stage", "name": "stage", "from": "archive", "to": "flash"}, "know: 1 runs of the last 30 days"),
        ({"kind": "clean", "name": "clean", "from": "flash", "automatic": True}, "runs that finish from now on go by"),
        ({"kind": "clean", "name": "clean", "from": "archive"}, "know: no run on this tier"),
        ({"kind": "budget", "name": "slow", "read_bytes_s": 1}, "let go: in the last hour at most 0 bytes"),
        ({"kind": "budget", "name": "none"}, "know: it limits no bytes"),
        ({"kind": "verify", "name": "look", "tier": "archive", "share_per_day": 0.1}, "about every 10 days, 1 bytes"),
        ({"kind": "archive", "name": "two", "tier": "archive", "second_copy": "flash"}, "copy: 1 of them"),
        ({"kind": "alarm", "name": "tell", "to": ["pager"], "severity": "now"}, "tell: now: protect is not there"),
        ({"kind": "alarm", "name": "tell", "to": ["pager"], "codes": ["run-failed"]}, "know: nothing of now"),
        ({"kind": "dump", "name": "night", "to": ["archive", "protect"]}, "know: nothing now"),
        ({"kind": "audit", "name": "ends", "to": ["archive"]}, "know: the ends of all chains"),
    ],
    ids=lambda one: "-".join(map(str, one.values()))[:30] if isinstance(one, dict) else "",
)  # fmt: skip
async def test_each_kind_of_policy_is_tried_before_anybody_follows_it_or_says_why_it_cannot_be(
    dsns: Dsns, database: Database, said: dict[str, object], told: str
) -> None:
    """Nobody saves a rule to see what it does. By what stands and waits now; nothing of it is another afterwards."""
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        whole_project(conn, "demo", mark="a", number=NUMBER)
    change(
        dsns,
        "set session_replication_role = replica",
        "update mover.run set state = 'protected', protected_proof = 'x'",
        "update mover.pack set state = 'quarantined', reason = 'pack-incomplete', cause = repeat('2', 16),"
        " kind = 'svs', explanation = 'the thumbnail is missing'",
        "insert into mover.pack (id, project_id, batch_id, barcode, entry, state, reason, explanation, kind, cause)"
        " select 'pack-2', project_id, batch_id, 'b2', 'e2', state, reason, explanation, kind, cause from mover.pack",
    )
    plan = await Machine(database).room.trial(ANN, msgspec.convert(said, Policy))
    assert any(told in f"{step.action}: {step.reason}" for step in plan.steps), plan.steps
    assert bool(plan.counts) == any(step.action != "know" for step in plan.steps)
