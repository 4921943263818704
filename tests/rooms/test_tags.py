"""Tags of slides on the real catalog: a change, its undo, what expressions see of it; and what nobody used for long."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from mover.catalog import factcolumns
from mover.catalog.database import Database
from mover.clock import monotonic_s
from mover.cohorts import Cohorts
from mover.decide.tags import TAGS_MAX, why_not_tag
from mover.errors import Conflict, Denied, LimitExceeded, NotFound, RequestInvalid
from mover.model import wire
from mover.model.access import Identity
from mover.model.ids import make_number
from mover.oversight import Oversight, Tags, looked_at
from tests.support.facts import DIGEST, insert
from tests.support.postgres import Dsns

pytestmark = pytest.mark.usefixtures("tier_rows")
ANN = Identity(actor="ann", role="admin", project="demo")
BOB = Identity(actor="bob", role="operator", project="demo")
EVE = Identity(actor="eve", role="admin", project="other")
DAY_S = 86_400


def number(n: int) -> str:
    return make_number(n.to_bytes(10, "big"))


def slides(dsns: Dsns, count: int, *, days: int = 0, first: int = 0, project: str = "demo") -> list[str]:
    """Published so many days ago; the last bits of the size tell one from the other."""
    numbers = [number(first + n) for n in range(count)]
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute(
            "insert into mover.slide"
            " (number, site, family, extension, size_bytes, digest, tier, key, facts, created_at)"
            " select n, 'ward', 'aperio', 'svs', 98 + at, %s, 'archive', 'slides/' || n || '/1/' || n || '.svs', %s,"
            " now() - make_interval(days => %s) from unnest(%s::text[]) with ordinality as t (n, at)",
            [DIGEST, Jsonb({"vendor": "aperio"}), days, numbers],
        )
        conn.execute("insert into mover.slide_grant (project_id, number) select %s, n from unnest(%s::text[]) as n",
                     [project, numbers])  # fmt: skip
    return numbers


def wanted(tag: str, action: Any = "add", **chosen: Any) -> wire.TagChangeRequest:
    return wire.TagChangeRequest(tag=tag, action=action, **chosen)


async def having(database: Database, expression: str, *, project: str = "demo") -> int:
    return (await Cohorts(database, node="n1").count(project, expression))[0]


async def test_a_change_is_planned_made_found_by_expressions_and_taken_back(dsns: Dsns, database: Database) -> None:
    """The whole way: what stands afterwards is what stood before, and every step is on record."""
    made = slides(dsns, 10)
    tags = Tags(database, node="n1")
    body = wanted("look-again", expression="size_bytes < 104", reason="out of focus")
    plan = await tags.plan_change(ANN, body)
    assert plan.counts == {"tag": 5} and plan.bytes == sum(range(99, 104)) and plan.steps[0].subject == made[0]
    assert (await tags.list("demo")).tags == []  # a plan changes nothing

    first = await tags.change(ANN, body, request="r1")
    assert (first.count, first.action, first.chosen) == (5, "add", "where size_bytes < 104")
    again = await tags.change(ANN, wanted("look-again", numbers=made[3:7]))
    assert again.count == 2  # two of the four have it already
    assert (await tags.plan_change(ANN, wanted("look-again", numbers=made[:3]))).counts == {"as they are already": 3}
    for expression, count in (
        ("tag = 'look-again'", 7), ("tag <> 'look-again'", 3), ("tag in ('look-again', 'nothing')", 7),
        ("tag is null", 3), ("tag is not null and size_bytes = 99", 1), ("slide.tag = 'nothing'", 0),
    ):  # fmt: skip
        assert await having(database, expression) == count, expression
    cohorts = Cohorts(database, node="n1")
    await cohorts.build_columns()  # from now on read from blocks, and tags are as current as before
    assert await having(database, "tag = 'look-again'") == 7
    explained = await cohorts.explain("demo", "tag = 'look-again' and tag is not null")
    assert explained.columns == ["tag"] and [one.count for one in explained.clauses] == [7, 7, 7]
    assert explained.clauses[1].words == "is tagged 'look-again'"
    named = [one for one in (await cohorts.columns("demo", values=True)).columns if one.name == "tag"]
    assert [one.values for one in named] == [["look-again"]]

    off = await tags.change(BOB, wanted("look-again", "remove", numbers=made[:2]))
    assert off.count == 2
    plan = await tags.plan_undo("demo", first.id)
    assert plan.counts == {"untag": 3, "leave": 2}
    assert any("bob" in step.reason for step in plan.steps) and any("2 of 5" in step.reason for step in plan.steps)
    back = await tags.undo(ANN, first.id)
    assert (back.undoes, back.count, back.action) == (first.id, 3, "remove") and "2 of 5" in back.reason
    assert (await tags.undo(ANN, first.id)).id == back.id  # twice is once
    with pytest.raises(Conflict):
        await tags.plan_undo("demo", first.id)
    assert await having(database, "tag = 'look-again'") == 2  # what the second change put
    redone = await tags.undo(BOB, back.id)
    assert redone.count == 3 and await having(database, "tag = 'look-again'") == 5

    page = await tags.changes("demo", tag="look-again", after=None, limit=3)
    assert [one.id for one in page.changes] == [redone.id, back.id, off.id] and page.next == off.id
    older = await tags.changes("demo", tag=None, after=page.next, limit=3)
    assert [(one.id, one.undone_by) for one in older.changes] == [(again.id, None), (first.id, back.id)]
    with psycopg.connect(dsns.superuser) as conn:
        rows = conn.execute("select body::jsonb ->> 'action' from mover.audit_record order by seq").fetchall()
    assert [row[0] for row in rows] == [
        "tag put", "tag put", "tag taken off", "tag change taken back", "tag change taken back",
    ]  # fmt: skip

    for room_call in (tags.undo(EVE, first.id), tags.plan_undo("other", first.id)):
        with pytest.raises(NotFound):
            await room_call
    assert (await tags.list("other")).tags == [] and await having(database, "tag is not null", project="other") == 0
    with pytest.raises(RequestInvalid):
        await tags.change(EVE, wanted("look-again", numbers=made[:1]))


async def test_what_cannot_be_a_tag_or_names_no_slide_changes_nothing(dsns: Dsns, database: Database) -> None:
    made = slides(dsns, 2)
    tags = Tags(database, node="n1")
    for body in (
        wanted("look-again", numbers=[*made, "no-such-slide"]),
        wanted("look-again"),
        wanted("look-again", numbers=made, expression="size_bytes > 0"),
        wanted("Mueller", numbers=made),
        wanted("look-again", cold=wire.ColdChoice("intake", DAY_S)),
    ):
        with pytest.raises(RequestInvalid):
            await tags.plan_change(ANN, body)
        with pytest.raises(RequestInvalid):
            await tags.change(ANN, body)
    assert (await tags.changes("demo", tag=None, after=None, limit=9)).changes == []
    with psycopg.connect(dsns.superuser) as conn:
        insert(conn, "tag_change", project_id="demo", id="change-many", tag="x", action="add", chosen="a list",
               count=1, bytes=1, reason="", created_by="ann")  # fmt: skip
        conn.execute(
            "insert into mover.slide_tag"
            " select 'demo', 't' || n, %s, true, 'change-many' from generate_series(1, %s) n",
            [made[0], TAGS_MAX],
        )
    with pytest.raises(LimitExceeded):  # I10
        await tags.change(ANN, wanted("one-more", numbers=made))
    assert (await tags.change(ANN, wanted("t7", numbers=made))).count == 1


@pytest.mark.parametrize("tag", ["look-again", "q3:keep", "paper-2026", "x", "a.b_c-d", "top-100"])
def test_words_of_people_are_tags(tag: str) -> None:
    assert not why_not_tag(tag)


@pytest.mark.parametrize(
    "tag",
    ["", "Mueller", "müller", "two words", "s23-12345", "mrn0012345", "a-1957-03-02", "a-2.3.57", "4711", "x" * 41,
     "a\n", "n12-34-567", "../x", "'x'", "s24-1234", "b12.3456", "sch-24-1234x", "x1234.56", "b24-1", "s-2024-7",
     "s2024", "paper-1961", "x0815"],
)  # fmt: skip
def test_what_reads_like_an_identifier_is_no_tag(tag: str) -> None:
    """D10: a tag stands in lists, expressions and the audit. What it is refused for does not repeat it."""
    why = why_not_tag(tag)
    assert why and (len(tag) < 2 or tag not in why)


async def test_a_word_that_no_slide_has_yet_is_an_admin_s(dsns: Dsns, database: Database) -> None:
    """I2: by its shape "muster-mann.hans" is as good a word as "look-again". Refused alike whoever it names, before
    anything of it is written."""
    made = slides(dsns, 2)
    tags = Tags(database, node="n1")
    for tag in ("muster-mann.hans", "smith-john"):
        body = wanted(tag, numbers=made)
        for asked in (tags.plan_change(BOB, body), tags.change(BOB, body)):
            with pytest.raises(Denied) as refused:
                await asked
            assert tag not in str(refused.value)
    await tags.change(ANN, wanted("look-again", numbers=made[:1]))
    assert (await tags.change(BOB, wanted("look-again", numbers=made))).count == 1
    assert (await tags.change(BOB, wanted("look-again", "remove", numbers=made))).count == 2
    with pytest.raises(Denied):  # what is in no list any more is new again; taking back is not saying
        await tags.plan_change(BOB, wanted("look-again", numbers=made))
    removed = (await tags.changes("demo", tag=None, after=None, limit=1)).changes[0]
    assert (await tags.undo(BOB, removed.id)).count == 2


async def test_a_choice_of_no_slide_leaves_nothing_behind(dsns: Dsns, database: Database) -> None:
    """I2: what was chosen stands in the change and the audit for ever. A folder without slides is any text."""
    slides(dsns, 1, days=400)
    tags = Tags(database, node="n1")
    for chosen in (
        {"cold": wire.ColdChoice("archive", DAY_S, folder="jane miller 1961")},
        {"cold": wire.ColdChoice("archive", DAY_S, folder="slid")},
        {"expression": "size_bytes < 5"},
    ):
        for asked in (tags.plan_change(ANN, wanted("cold", **chosen)), tags.change(ANN, wanted("cold", **chosen))):
            with pytest.raises(RequestInvalid, match="no slide is chosen"):
                await asked
    real = wanted("cold", cold=wire.ColdChoice("archive", DAY_S, folder="slides"))
    assert (await tags.change(ANN, real)).chosen == "not used for 1 days on archive below slides"
    with psycopg.connect(dsns.superuser) as conn:
        [told] = conn.execute("select string_agg(body, '') from mover.audit_record").fetchone() or [""]
        [changes] = conn.execute("select count(*) from mover.tag_change").fetchone() or [0]
    assert "jane" not in told and changes == 1


async def test_cold_is_what_nobody_staged_looked_at_or_wrote(
    dsns: Dsns, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same judgement in every view; a selection of it can be tagged and nothing else happens."""
    old = slides(dsns, 4, days=2000)
    slides(dsns, 2, days=3, first=100)
    async with database.project("demo") as conn:
        await factcolumns.place(conn, "demo", old)
        await looked_at(conn, "demo", old[1])
        await looked_at(conn, "demo", old[1])
    with psycopg.connect(dsns.superuser) as plain:
        insert(plain, "cohort", project_id="demo", id="cohort-c", name="prostate", version=1, expression="x",
               created_by="ann")  # fmt: skip
        for at, root in enumerate(("a", "b")):
            insert(plain, "selection", project_id="demo", id=f"selection-{root}", count=1, bytes=1, root=root,
                   cohort_id="cohort-c" if root == "a" else None)  # fmt: skip
            insert(plain, "selection_list", project_id="demo", root=root, block=0, offsets=[2 + at])
            insert(plain, "run", project_id="demo", id=f"run-{root}{'0' * 25}", selection_id=f"selection-{root}",
                   tier="flash", policy="stage", requested_by="ann", state="failed",
                   ready_at=f"{2026 - 3 * at}-11-01T00:00:00Z", finished_at=f"{2026 - 3 * at}-11-02T00:00:00Z",
                   lease_until="2020-01-01Z")  # fmt: skip
        plain.execute(
            "update mover.run set ready_at = now() - interval '9 days', finished_at = now() - interval '8 days'"
            " where selection_id = 'selection-a'"
        )
        keys = [f"runs/run-a{'0' * 25}/data/x.svs", f"runs/run-b{'0' * 25}/data/x.svs", "loose", "kept/old", "kept/new"]
        for key in keys:
            insert(plain, "entry", project_id="demo", tier="flash", key=key.encode(), kind="file", size_bytes=10,
                   mtime_ns=0, mark="1", scan_id="scan-1")  # fmt: skip
        plain.execute("update mover.entry set scan_id = null where key = 'kept/new'")  # a transfer brought it just now
    room = Oversight(database, tiers=None, warnings=None, node="n1")  # type: ignore[arg-type]

    async def cold(tier: str, **more: Any) -> wire.ColdPage:
        asked: dict[str, Any] = {
            "by": "folder",
            "older_s": 180 * DAY_S,
            "folder": "",
            "after": None,
            "limit": 100,
        } | more
        return await room.cold("demo", tier, **asked)

    found = await cold("archive", by="slide")
    assert [(one.name, one.how) for one in found.items] == [(old[0], "written"), (old[3], "staged")]
    assert found.items[1].used_at.year == 2023  # staged last for a run that ended then
    first = await cold("archive", by="slide", limit=1)
    assert first.next and (await cold("archive", by="slide", limit=1, after=first.next)).items == found.items[1:]
    assert [one.name for one in (await cold("flash", by="run")).items] == [f"run-b{'0' * 25}"]
    assert [one.name for one in (await cold("flash", by="cohort", older_s=DAY_S)).items] == [None, "prostate"]
    folders = await cold("flash")
    assert {(one.name, one.count) for one in folders.items} == {("runs/", 1), (None, 1), ("kept/", 1)}
    below = await cold("flash", folder="runs", limit=1)
    assert [(one.name, one.how) for one in below.items] == [(f"run-b{'0' * 25}/", "staged")] and below.next is None
    half = await cold("flash", limit=2)
    assert [*half.items, *(await cold("flash", limit=2, after=half.next)).items] == folders.items
    for wrong in ({"tier": "intake"}, {"tier": "flash", "after": "x"}, {"tier": "flash", "folder": "a\\b"}):
        with pytest.raises(RequestInvalid):
            await cold(**wrong)

    ages = {one.tier: one for one in (await room.ages("demo")).tiers}
    assert ages["archive"].count == 6 and ages["archive"].oldest_s / DAY_S > 1999 and set(ages) == {"archive", "flash"}
    assert ages["flash"].count == 5 and sum(one.bytes for one in ages["flash"].by_age) == 50
    fresh = Oversight(database, tiers=None, warnings=None, node="n1")  # type: ignore[arg-type]
    one, other = await asyncio.gather(fresh.ages("demo"), fresh.ages("demo"))
    assert one is other and one is await fresh.ages("demo")  # not counted anew for each page, nor for all at once
    assert (await room.ages("other")).tiers == []

    tags = Tags(database, node="n1")
    body = wanted("cold", cold=wire.ColdChoice("archive", 180 * DAY_S))
    assert (await tags.plan_change(ANN, body)).counts == {"tag": 2}
    made = await tags.change(ANN, body)
    assert made.count == 2 and made.chosen == "not used for 180 days on archive"
    assert all(one.whole for one in ages.values())
    monkeypatch.setattr("mover.oversight.cold.ENTRIES_MAX", 3)  # I7: what was not looked at is not told as counted
    room._ages.clear()
    cut = {one.tier: one for one in (await room.ages("demo")).tiers}
    assert folders.whole and found.whole and not (await cold("flash")).whole
    assert not (await cold("flash", older_s=30_000 * DAY_S)).whole, "where nothing is cold, too"
    assert (cut["flash"].count, cut["flash"].whole, cut["archive"].whole) == (3, False, True)
    monkeypatch.setattr("mover.oversight.cold.LISTS_MAX", 0)
    assert not (await cold("archive", by="slide")).whole
    with pytest.raises(LimitExceeded, match="not known for sure"):
        await tags.change(ANN, wanted("colder", cold=wire.ColdChoice("archive", 180 * DAY_S)))
    assert await having(database, "tag = 'cold'") == 2


@pytest.mark.soak
async def test_a_hundred_thousand_slides_are_one_change_in_seconds(dsns: Dsns, database: Database) -> None:
    """As many as a department scans in a month. Generous: the machine may be busy."""
    slides(dsns, 100_000)
    tags = Tags(database, node="n1")
    await Cohorts(database, node="n1").build_columns()
    began = monotonic_s()
    made = await tags.change(ANN, wanted("all", expression="size_bytes > 0"))
    changed_s = monotonic_s() - began
    assert made.count == 100_000 and await having(database, "tag = 'all'") == 100_000
    assert (await tags.undo(ANN, made.id)).count == 100_000 and await having(database, "tag = 'all'") == 0
    took_s = monotonic_s() - began
    print(f"changed in {changed_s:.1f} s, with two counts and the undo in {took_s:.1f} s")
    assert took_s < 120
