"""Splits of a run: what is in two of them refuses it before the first byte; what is apart is staged apart."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from mover.catalog import selections
from mover.catalog.database import Database
from mover.cohorts import Cohorts
from mover.errors import RequestInvalid, RunRefused
from mover.model import wire
from mover.model.ids import make_number
from mover.model.manifest import parse_manifest
from mover.model.policy import StagePolicy
from mover.policy import Loaded, PolicyBook
from mover.runs.guard import Guard
from mover.runs.runs import Flash, Runs
from mover.runs.site import RunSite
from tests.rooms.rig import OTHER, PROJECT, Rig, who
from tests.support.facts import insert
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]


@pytest.fixture
def rig(tmp_path: Any, dsns: Dsns, database: Database) -> Rig:
    rig = Rig(tmp_path, dsns, database)
    with psycopg.connect(dsns.superuser) as conn:
        for project in (PROJECT, OTHER):
            insert(conn, "batch", project_id=project, id=f"b-{project}", tier="intake", policy="images", folder="f",
                   created_by="ann")  # fmt: skip
            insert(conn, "record_set", project_id=project, id=f"r-{project}", batch_id=f"b-{project}", policy="records",
                   version=1, source="s", created_by="ann")  # fmt: skip
    return rig


def say(rig: Rig, number: str, *, subject: str | None = None, block: str | None = None, project: str = PROJECT) -> None:
    """What a record set of the project says of a slide."""
    with psycopg.connect(rig.dsns.superuser) as conn:
        insert(conn, "aligned", project_id=project, number=number, subject=subject, block=block, facts="{}",
               record_set_id=f"r-{project}")  # fmt: skip


def scanned(rig: Rig, number: str, subject: str) -> None:
    """What the scan itself said to the vault."""
    with psycopg.connect(rig.dsns.superuser) as conn:
        tie = "insert into vault.tie select site, number, %s from mover.slide where number = %s"
        conn.execute(tie, [subject, number])


def files(**splits: list[str]) -> wire.RunRequest:
    return wire.RunRequest(splits={name: wire.SplitSource(files=numbers) for name, numbers in splits.items()})


async def refused(rig: Rig, body: wire.RunRequest, *, key: str = "k") -> list[dict[str, Any]]:
    with pytest.raises(RunRefused) as caught:
        await rig.runs.request(who(), body, key=key)
    with pytest.raises(RunRefused) as planned:
        await rig.runs.plan_request(who(), body)
    assert planned.value.details == caught.value.details
    return list(caught.value.details or [])


async def test_a_planted_leak_of_each_kind_refuses_the_whole_run_and_names_both_sides(rig: Rig) -> None:
    """Each is a way in which a model is tested on what it learnt. The patient may be known from tables, from the scan
    itself, or from one for the one slide and from the other for the other; no answer says who it is."""
    a, b, c, d, e, f, g, h, alone = rig.slides([900 + n for n in range(9)], projects=(PROJECT, OTHER))
    say(rig, a, subject="SA")
    say(rig, b, subject="SA")  # by tables
    say(rig, c, subject="SC")
    scanned(rig, d, "SC")  # by a table, and by the scan
    say(rig, e, subject="SE", block="B1")
    say(rig, f, subject="SF", block="B1")  # one block, though tables call it two patients'
    say(rig, g, subject="SG")
    say(rig, h, subject="SH")
    with psycopg.connect(rig.dsns.superuser) as conn:
        conn.execute("update mover.slide set digest = (select digest from mover.slide where number = %s)"
                     " where number = %s", [g, h])  # fmt: skip
    say(rig, alone, subject="SA", project=OTHER)  # another project's records are not this one's knowledge

    told = await refused(rig, files(train=[a, c, e, g, alone], test=[b, d, f, h], val=[a]))

    def pair(one: str, other: str, why: str, *, at: str = "train", beside: str = "test") -> list[dict[str, Any]]:
        return [
            {"number": one, "split": at, "why": why, "with": other, "with_split": beside},
            {"number": other, "split": beside, "why": why, "with": one, "with_split": at},
        ]

    beside_a = {"number": b, "split": "test", "why": "same-patient", "with": a, "with_split": "val"}
    expected = [
        *pair(a, a, "same-slide", beside="val"), *pair(g, h, "same-digest"), *pair(e, f, "same-block"),
        *pair(c, d, "same-patient"), beside_a, {"number": alone, "split": "train", "why": "unknown-patient"},
    ]  # fmt: skip
    assert sorted(told, key=json.dumps) == sorted(expected, key=json.dumps)
    [run] = rig.rows("select state::text, explanation, offenders from mover.run")
    assert run.state == "refused" and len(run.offenders) == len(told) and "SA" not in json.dumps(run.offenders)
    assert "2 slides stand in two splits" in run.explanation and "unknown_patients: allow" in run.explanation
    assert rig.rows("select path from mover.run_entry") == [] and not (rig.folder / "flash" / "runs").exists()
    # the question itself is on record, also of who only planned; and holds no pseudonym
    judged = rig.rows("select body::text from mover.audit_record where body::text like %s", "%splits judged%")
    assert len(judged) == 2 and all("same-patient" in row.body and "SA" not in row.body for row in judged)


async def test_what_is_apart_is_staged_apart_and_repeated_so(rig: Rig) -> None:
    """A job reads `data/train` and `data/test`; the same key judges nothing again, and a repeated run keeps each slide
    on its side, whatever records say by then."""
    a, b, c = rig.slides([900, 901, 902])
    for number, subject in ((a, "SA"), (b, "SA"), (c, "SC")):
        say(rig, number, subject=subject)
    async with rig.database.project(PROJECT) as conn:
        frozen = await selections.freeze(conn, PROJECT, numbers=[a, b])
    train = wire.SplitSource(selection=frozen.selection_id)
    body = wire.RunRequest(splits={"train": train, "test": wire.SplitSource(expression="subject = 'SC'")})

    run = await rig.runs.request(who(), body, key="k")
    assert (await rig.runs.request(who(), body, key="k")).id == run.id
    assert rig.actions().count("splits judged") == 1
    like = await rig.runs.request(who(), wire.RunRequest(like=run.id, layout="flat"), key="l")
    await rig.work()

    data = rig.folder / "flash" / "runs" / run.id / "data"
    assert {path.relative_to(data).as_posix() for path in data.rglob("*.svs")} == {
        f"train/{a}.svs", f"train/{b}.svs", f"test/{c}.svs",
    }  # fmt: skip
    manifest = parse_manifest(await rig.manifest(run.id))
    assert {(e.slide, e.split) for e in manifest.entries if e.slide} == {(a, "train"), (b, "train"), (c, "test")}
    records = pq.read_table(data.parent / "records.parquet").to_pylist()
    assert [row["split"] for row in records] == ["test", "train", "train"]
    entries = "select number, split, path from mover.run_entry where run_id = %s and number is not null order by number"
    assert [(row.number, row.split) for row in rig.rows(entries, like.id)] == [(a, "train"), (b, "train"), (c, "test")]
    assert [row.path for row in rig.rows(entries, like.id)] == [f"data/{number}.svs" for number in (a, b, c)]


async def test_what_names_nothing_or_twice_or_without_splits_is_told_with_its_split(rig: Rig) -> None:
    """The requester gets back what he sent, of the split in which he sent it; the catalog keeps masked shapes."""
    [a] = rig.slides([900])
    say(rig, a, subject="SA")
    told = await refused(rig, files(train=[a, a, "Meier.svs"], test=[]))
    assert [(one["split"], one["why"], one.get("name")) for one in told] == [
        ("test", "empty", None), ("train", "duplicate", a), ("train", "malformed", "Meier.svs"),
    ]  # fmt: skip
    assert "Meier" not in json.dumps([row.offenders for row in rig.rows("select offenders from mover.run")])
    for wrong in (
        wire.RunRequest(files=[a], layout="split"),
        wire.RunRequest(splits={"train": wire.SplitSource(), "test": wire.SplitSource(files=[a])}),
    ):
        with pytest.raises(RequestInvalid):
            await rig.runs.request(who(), wrong, key="other")


async def test_unknown_patients_pass_where_the_policy_says_so(rig: Rig) -> None:
    """A site without records may still train, knowing what it does not know; what is known is judged all the same."""
    a, b, c = rig.slides([900, 901, 902])
    scanned(rig, a, "SA")
    scanned(rig, c, "SA")
    told = await refused(rig, files(train=[a], test=[b]))
    assert [(one["number"], one["why"]) for one in told] == [(b, "unknown-patient")]

    allowing = StagePolicy(name="stage", archive="archive", flash="flash", unknown_patients="allow")
    book = PolicyBook([Loaded(policy=allowing, file="stage.yaml", text="", digest="")])
    rig.runs = Runs(rig.database, {"flash": Flash(rig.roots, "", None)}, book, node="n1")
    assert (await rig.runs.request(who(), files(train=[a], test=[b]), key="m")).state == "staging"
    told = await refused(rig, files(train=[a, b], test=[c]), key="n")
    assert {(one["number"], one["why"]) for one in told} == {(a, "same-patient"), (c, "same-patient")}


async def test_a_cohort_is_dealt_out_by_patients_and_a_run_takes_what_was_dealt(rig: Rig) -> None:
    """From one saved question to a run that the guard lets pass: no patient, block or copy in two parts, every part
    with its share of the rare, the same again for the same seed."""
    slides = rig.slides([900 + n for n in range(36)])
    with psycopg.connect(rig.dsns.superuser) as conn:
        insert(conn, "fact_column", project_id=PROJECT, name="diagnosis", type="text", table_name="outcomes")
        for at, number in enumerate(slides):
            facts = json.dumps({"diagnosis": "rare" if at % 3 == 0 else "usual"})
            insert(conn, "aligned", project_id=PROJECT, number=number, subject=f"S{at // 2}" if at else None,
                   block="B1" if at in (4, 9) else None, facts=facts, record_set_id=f"r-{PROJECT}")  # fmt: skip
        copied = "update mover.slide set digest = (select digest from mover.slide where number = %s) where number = %s"
        conn.execute(copied, [slides[20], slides[31]])
    scanned(rig, slides[0], "S0")
    cohorts = Cohorts(rig.database, node="n1")
    saved = await cohorts.save(PROJECT, "ann", wire.CohortRequest(name="all", expression="family = 'aperio-svs'"))
    asked = wire.SplitRequest(parts={"train": 0.5, "val": 0.25, "test": 0.25}, by="diagnosis", seed=7)

    dealt = await cohorts.split(who(), saved.id, asked)
    again = await cohorts.split(who(), saved.id, asked)

    assert [part.root for part in dealt.parts] == [part.root for part in again.parts]
    assert sum(part.count for part in dealt.parts) == 36 and dealt.unknown_patients == 0
    assert {(s.part, s.value) for s in dealt.shares} == {
        (part, value) for part in ("train", "val", "test") for value in ("rare", "usual")
    }  # fmt: skip
    assert sum(part.groups for part in dealt.parts) == 16 and dealt.worst <= 2
    run = await rig.runs.request(
        who(),
        wire.RunRequest(splits={part.name: wire.SplitSource(selection=part.selection) for part in dealt.parts}),
        key="k",
    )
    assert (run.state, run.count) == ("staging", 36)
    assert rig.actions().count("cohort split") == 2

    [stranger] = rig.slides({36: 990})
    with pytest.raises(RequestInvalid, match="1 of 37 slides have no patient"):
        await cohorts.split(who(), saved.id, asked)
    with pytest.raises(RequestInvalid, match="no such column"):
        await cohorts.split(who(), saved.id, wire.SplitRequest(parts=asked.parts, by="subject"))
    allowed = wire.SplitRequest(parts=asked.parts, unknown_patients="allow")
    taken = await cohorts.split(who(), saved.id, allowed)
    assert (sum(part.count for part in taken.parts), taken.unknown_patients) == (37, 1)


GIVEN = "unnest(%(n)s::text[]) with ordinality as t (number, at)"
# pairs of one patient and block; the first half is known by what scans said, the other by tables
PLANTED = (
    "insert into mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts) select number,"
    f" 'ward', 'aperio-svs', 'svs', 1, lpad(to_hex(at), 64, '0'), 'archive', number, '{{}}' from {GIVEN}",
    f"insert into mover.slide_grant select 'demo', number from {GIVEN}",
    "insert into mover.aligned (project_id, number, subject, block, facts, record_set_id) select 'demo', number,"
    f" 'S' || (at - 1) / 2, 'B' || (at - 1) / 2, '{{}}', 'r-demo' from {GIVEN} where at > %(tied)s",
    f"insert into vault.tie select 'ward', number, 'S' || (at - 1) / 2 from {GIVEN} where at <= %(tied)s",
)


async def test_a_hundred_thousand_slides_are_judged_by_a_handful_of_statements(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every slide is looked at, and none by a question of its own: two planted patients among 50,000 are found."""
    count, asked = 100_000, 0
    numbers = [make_number(n.to_bytes(10, "big")) for n in range(1 << 40, (1 << 40) + count)]
    with psycopg.connect(rig.dsns.superuser) as conn:
        conn.execute("set local session_replication_role = replica")
        for statement in PLANTED:
            conn.execute(statement, {"n": numbers, "tied": count // 2})
    execute = psycopg.AsyncCursor.execute

    async def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        return await execute(self, *args, **kwargs)

    monkeypatch.setattr(psycopg.AsyncCursor, "execute", counted)
    train, test = numbers[: count // 2 - 1] + numbers[-1:], numbers[count // 2 - 1 : -1]
    sources = {"train": wire.SplitSource(files=train), "test": wire.SplitSource(files=test)}

    site = RunSite(rig.database, {}, rig.book, "n1")
    judged = await Guard(site, cohort=None).judge(who(), sources, subject="plan", unknown="refuse")  # type: ignore[arg-type]

    assert {(one["number"], one["why"]) for one in judged.offenders} == {
        (numbers[count // 2 - 2], "same-patient"), (numbers[count // 2 - 1], "same-patient"),
        (numbers[-2], "same-block"), (numbers[-1], "same-block"),
    }  # fmt: skip
    # the lists are resolved ten thousand at a time; the judgement is one statement
    assert asked < 2 * count / selections.NUMBERS_SLICE + 20
