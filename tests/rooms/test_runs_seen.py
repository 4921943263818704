"""What is told of runs while they are on their way, and what telling it costs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mover.catalog.database import Database
from mover.catalog.queries import Queries
from mover.errors import RequestInvalid
from mover.model import wire
from mover.model.manifest import parse_manifest
from mover.runs import site
from tests.rooms.rig import PROJECT, Rig, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]

TALLY = """
    select count(*) as files, sum(size_bytes) as bytes, count(staged_at) as staged_files,
           coalesce(sum(size_bytes) filter (where staged_at is not null), 0) as staged_bytes,
           count(*) filter (where staged_how = 'linked') as linked_files
      from mover.run_entry where run_id = %s
"""


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


async def follow(rig: Rig, run: str, seen: list[str]) -> None:
    """As a job does that reads what has come: page by page, and again after the last cursor."""
    cursor: str | None = None
    while True:
        ended = (await rig.runs.view(PROJECT, run)).state == "ready"
        page = await rig.runs.ready(PROJECT, run, cursor, 3)
        seen += [entry.path for entry in page.entries]
        cursor = page.cursor
        if ended and not page.entries:
            return
        await asyncio.sleep(0)


async def test_who_follows_a_run_that_four_workers_stage_is_told_every_file_once_and_its_tally_is_what_a_count_says(
    rig: Rig,
) -> None:
    """Transactions commit in another order than their paths have; the tally is kept and never counted."""
    slides = rig.slides([100] * 24)
    first = await rig.request(slides[:6], key="1")
    await rig.work()
    run = await rig.request(slides, key="2")
    seen: list[str] = []
    async with asyncio.timeout(120), asyncio.TaskGroup() as group:
        group.create_task(follow(rig, run.id, seen))
        group.create_task(rig.crowd(4))

    paths = [row.path for row in rig.rows("select path from mover.run_entry where run_id = %s", run.id)]
    assert sorted(seen) == sorted(paths) and len(seen) == 25
    for one in (first.id, run.id):
        [tally] = rig.rows("select * from mover.run_tally where run_id = %s", one)
        [counted] = rig.rows(TALLY, one)
        assert {name: getattr(tally, name) for name in counted._fields} == counted._asdict()
    assert (await rig.runs.view(PROJECT, run.id)).linked_count == 6
    rig.rows(
        "update mover.run_entry set staged_at = null, staged_how = null where run_id = %s and number is not null",
        run.id,
    )
    assert [e.path for e in (await rig.runs.ready(PROJECT, run.id)).entries] == ["records.parquet"]
    assert (await rig.runs.view(PROJECT, run.id)).staged_count == 1


async def test_a_transaction_that_stages_first_and_commits_last_puts_nothing_behind_a_cursor(rig: Rig) -> None:
    """The turn is taken with the run's row: who comes second waits for whoever was first to commit."""
    run = await rig.request(rig.slides([10, 20]), key="1")
    low, high = [row.path for row in rig.rows("select path from mover.run_entry order by path")]
    stage = "update mover.run_entry set staged_at = now(), staged_how = 'copied' where path = %s"

    async def second() -> None:
        async with rig.database.project(PROJECT) as conn:
            await conn.execute(stage, [low])

    async with rig.database.project(PROJECT) as conn:
        await conn.execute(stage, [high])
        waiting = asyncio.create_task(second())
        async with asyncio.timeout(60):
            while not rig.rows(
                "select 1 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
            ):
                assert not waiting.done()
                await asyncio.sleep(0.01)
        before = await rig.runs.ready(PROJECT, run.id)
        assert before.entries == [] and before.cursor is None
    await waiting

    page = await rig.runs.ready(PROJECT, run.id, None, 1)
    assert [entry.path for entry in page.entries] == [high] and page.next == page.cursor
    page = await rig.runs.ready(PROJECT, run.id, page.cursor, 10)
    assert [entry.path for entry in page.entries] == [low] and page.next is None
    assert (await rig.runs.ready(PROJECT, run.id, page.cursor)).entries == []
    for nonsense in ("data/x.svs", ":x", "-1:x"):
        with pytest.raises(RequestInvalid):
            await rig.runs.ready(PROJECT, run.id, nonsense)


async def test_nobody_but_who_wants_the_manifest_reads_it(
    rig: Rig, dsns: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of 100,000 files has 25 MB, and a heartbeat comes every few minutes. So a life is lived without the right to
    read that column, but for the snapshot, which holds it, and the cleanup, which compares the root with it."""
    with psycopg.connect(dsns.superuser) as conn:
        found = conn.execute("select column_name from information_schema.columns where table_name = 'run'").fetchall()
        columns = ", ".join(name for (name,) in found if name != "manifest")
        conn.execute("revoke select on mover.run from mover_daemon")
        conn.execute(f"grant select ({columns}) on mover.run to mover_daemon")  # type: ignore[arg-type]
    run = await rig.request(rig.slides([1000, 2000]), key="1")
    await rig.work()
    assert (await rig.runs.heartbeat(PROJECT, run.id)).state == "ready"
    assert len((await rig.runs.ready(PROJECT, run.id)).entries) == 3
    assert (await rig.runs.view(PROJECT, run.id)).proofs
    await rig.protecting.runs.plan_finish(who(), run.id, wire.FinishRequest())
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    again = await rig.runs.request(who(), wire.RunRequest(like=run.id), key="2")
    assert [one.state for one in (await rig.runs.list(PROJECT)).runs] == [again.state, "finishing"]
    await rig.runs.cancel(who(), again.id)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await rig.manifest(run.id)

    rig.rows("grant select on mover.run to mover_daemon")
    assert parse_manifest(await rig.manifest(run.id)).header.count == 3
    monkeypatch.setattr(site, "PIECE_CHARS", 7)
    assert parse_manifest(await rig.manifest(run.id)).header.count == 3
    await rig.work()
    await rig.runs.clean(who(), run.id)
    await rig.work()
    ended = await rig.runs.list(PROJECT)
    assert [(one.state, one.strays_count) for one in ended.runs] == [("cleaned", 0)] * 2


async def test_a_page_of_runs_asks_as_much_as_one_run_and_strays_come_in_pages(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job decides how many strangers there are, and a project how many runs."""
    [slide] = rig.slides([1000])
    for number in range(4):
        run = await rig.request([slide], key=str(number))
        await rig.work("run-stage", "run-seal")
        out = rig.folder / "flash" / "runs" / run.id / "data"
        out.chmod(0o755)
        for stranger in range(130):
            (out / f"{stranger:03}").write_bytes(b"x")
        await rig.runs.finish(who(), run.id, wire.FinishRequest())
        await rig.work("run-protect")
        await rig.runs.clean(who(), run.id)
        await rig.work()

    seen = await rig.runs.view(PROJECT, run.id)
    assert (seen.state, seen.strays_count, len(seen.strays)) == ("cleaned", 130, 100)
    paths: list[str] = []
    page = await rig.runs.strays(PROJECT, run.id, None, 60)
    while page.next:
        paths += [stray.path for stray in page.strays]
        page = await rig.runs.strays(PROJECT, run.id, page.next, 60)
    paths += [stray.path for stray in page.strays]
    assert paths == sorted(set(paths)) and len(paths) == 130 and paths[:100] == [s["path"] for s in seen.strays]

    asked: list[str] = []
    many = Queries.many

    async def counted(self: Queries, conn: Any, name: str, /, **parameters: object) -> list[Any]:
        asked.append(name)
        return await many(self, conn, name, **parameters)

    monkeypatch.setattr(Queries, "many", counted)
    one = await rig.runs.list(PROJECT, None, 1)
    of_one = len(asked)
    every = await rig.runs.list(PROJECT, None, 10)
    assert len(asked) == 2 * of_one and len(every.runs) == 4 and every.runs[0] == one.runs[0] == seen
