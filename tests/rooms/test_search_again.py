"""Published slides searched again for what their patients' records brought: found, withdrawn, and taken by nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from blake3 import blake3
from psycopg.rows import namedtuple_row

from mover.catalog import selections
from mover.catalog.database import Database
from mover.deid.vault import Vault
from mover.errors import RunRefused
from mover.ingest import searchagain
from mover.model import wire
from mover.model.sidecar import Sidecar, decode_sidecar, encode_sidecar, sidecar_key
from mover.sandbox import Sandbox
from tests.rooms.rig import Rig
from tests.rooms.test_records import IMAGERY, NAMES, OUTCOMES, PROJECT, Ward, number
from tests.support.facts import insert
from tests.support.postgres import Dsns
from tests.support.slides import svs

pytestmark = pytest.mark.usefixtures("tier_rows")
CODE = "identifier-found-later"
HEAD = b"II*\0 Aperio Image Library |AppMag = 40|OriginalWidth = 99845|Note = "
TILES = bytes(range(256)) * 40 + b"KATARZYNA KOWALCZYK"  # pixels may spell anything


@pytest.fixture
async def ward(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> AsyncIterator[Ward]:
    yield Ward(tmp_path, dsns, database, vault, sandbox)


def rows(ward: Ward, statement: str, *values: object) -> list[Any]:
    with psycopg.connect(ward.dsns.superuser, row_factory=namedtuple_row) as conn:
        cursor = conn.execute(statement, values)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def stand(ward: Ward, n: int, note: bytes, *, ranges: bool = True) -> None:
    """The slide in the archive: what was written for it, its tiles, and more that was written."""
    key = f"slides/{number(n)}/1/{number(n)}.svs"
    data = HEAD + note + TILES + b"<xml/>"
    digest = blake3(data).hexdigest()
    literals = ((0, len(HEAD + note)), (len(HEAD + note + TILES), 6)) if ranges else None
    sidecar = Sidecar(
        number=number(n), site="ward", family="aperio-svs", extension="svs", key=key, size_bytes=len(data),
        blake3=digest, segments=(), facts={}, evidence={}, created_at="", software="", literals=literals,
    )  # fmt: skip
    ward.archive.put(key, [data])
    ward.archive.put(sidecar_key(number(n)), [encode_sidecar(sidecar)])
    rows(ward, "update mover.slide set digest = %s, key = %s where number = %s", digest, key, number(n))


def run_with(ward: Ward, n: int, *, project: str, name: str) -> None:
    """A run that holds the slide now."""
    with psycopg.connect(ward.dsns.superuser) as conn:
        insert(conn, "run", project_id=project, id=name, tier="flash", policy="stage", requested_by="ann",
               state="staging")  # fmt: skip
        insert(conn, "run_entry", project_id=project, run_id=name, path="a.svs", number=number(n), size_bytes=1,
               digest="ab" * 32, archive_tier="archive", archive_key="k")  # fmt: skip


async def planted(ward: Ward) -> str:
    """A batch whose first slide names its patient in a place that was kept; its record set waits."""
    batch = await ward.batch("b1", NAMES)
    waiting = await ward.declare(batch, ward.write())
    for n, note in ((1, b"seen with Kowalczyk on Monday"), (2, b"nothing"), (3, b"64189"), (5, b"none")):
        stand(ward, n, note, ranges=n != 5)
    ward.complete(batch)
    return waiting.id


async def test_a_slide_that_names_its_patient_is_withdrawn_when_the_records_come(ward: Ward) -> None:
    """Its own file never said the name, so no earlier search could find it (I2)."""
    record_set = await planted(ward)
    rows(ward, "insert into mover.slide_grant (project_id, number) values ('other', %s)", number(1))
    run_with(ward, 1, project="demo", name="run-here")
    run_with(ward, 1, project="other", name="run-there")

    found = await ward.work(record_set)

    assert [(one.number, one.runs) for one in found.withdrawn] == [(number(1), ["run-here"])]
    [pack] = rows(ward, "select state, reason from mover.pack where number = %s", number(1))
    assert (pack.state, pack.reason) == ("quarantined", CODE)
    # its rows are late, as those of every image in quarantine; the other slides are aligned
    assert (found.state, found.slides_aligned, found.ledger["images"]["late"]) == ("aligned", 2, 2)
    said = rows(ward, "select project_id, body::jsonb -> 'details' as details from mover.audit_record"
                      " where body::jsonb ->> 'action' = 'slides withdrawn' order by project_id")  # fmt: skip
    assert [(row.project_id, row.details["runs"]) for row in said] == [("demo", ["run-here"]), ("other", ["run-there"])]


async def test_the_proof_says_how_much_was_sought_in_how_much(ward: Ward) -> None:
    """An auditor asks not whether but how; a slide that could not be searched is counted, never called clean."""
    record_set = await planted(ward)

    await ward.work(record_set)

    [proof] = rows(ward, "select count, bytes, details, verifier from mover.proof where subject_id = %s"
                         " and kind = 'deidentified'", record_set)  # fmt: skip
    searched = {row.number: row for row in rows(ward, "select * from mover.slide_search")}
    assert {n: searched[number(n)].outcome for n in (1, 2, 3)} == {1: "found", 2: "clean", 3: "clean"}
    assert proof.count == 3 and proof.bytes == sum(row.bytes for row in searched.values()) < 4 * (len(HEAD) + 50)
    assert proof.details["strings_sought"] >= 9 and proof.details["forms_sought"] > 100
    assert (proof.details["withdrawn"], proof.details["unsearched"]) == (1, 0)
    # nobody's row reaches the last slide, so nothing is known to seek in it
    assert number(5) not in searched


@pytest.mark.slow
async def test_a_slide_that_says_not_where_its_words_stand_is_counted_as_unsearched(ward: Ward) -> None:
    batch = await ward.batch("b1", NAMES)
    record_set = (await ward.declare(batch, ward.write())).id
    stand(ward, 1, b"Kowalczyk", ranges=False)
    stand(ward, 2, b"nothing")
    ward.archive.remove(f"slides/{number(2)}/1/{number(2)}.svs")
    ward.complete(batch)

    found = await ward.work(record_set)

    searched = {row.number: row.outcome for row in rows(ward, "select * from mover.slide_search")}
    assert found.state == "aligned" and set(searched.values()) == {"unsearched"} and len(searched) == 3


@pytest.mark.slow
async def test_nobody_takes_a_withdrawn_slide_any_more(ward: Ward) -> None:
    """Neither by number nor by expression, in this project or another."""
    record_set = await planted(ward)
    rows(ward, "insert into mover.slide_grant (project_id, number) values ('other', %s)", number(1))
    await ward.work(record_set)

    for project, there in (("demo", 3), ("other", 0)):
        async with ward.database.project(project) as conn:
            usable, offenders = await selections.resolve_numbers(conn, project, [number(1)])
            assert (usable, [one["why"] for one in offenders]) == ([], ["quarantined"])
            assert (await selections.count(conn, "mpp > 0"))[0] == there


async def test_a_kill_between_search_and_withdrawal_ends_withdrawn_all_the_same(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker dies with the hit in its hands; the next one finds it again, and tells of it once."""
    record_set = await planted(ward)
    inner = searchagain.SearchAgain._withdraw
    deaths = []

    async def dying(self: Any, *given: Any) -> None:
        await inner(self, *given)
        if not deaths:
            deaths.append(1)
            raise asyncio.CancelledError

    monkeypatch.setattr(searchagain.SearchAgain, "_withdraw", dying)
    with pytest.raises(asyncio.CancelledError):
        await ward.records.match(await ward.claim(record_set))
    assert rows(ward, "select * from mover.slide_withdrawal") == []
    assert number(1) not in {row.number for row in rows(ward, "select number from mover.slide_search")}

    rows(ward, "update mover.shard set state = 'waiting', lease_until = null")
    found = await ward.work(record_set)

    assert [one.number for one in found.withdrawn] == [number(1)]
    assert len(rows(ward, "select * from mover.slide_search")) == 3
    said = rows(ward, "select 1 from mover.audit_record where body::jsonb ->> 'action' = 'slides withdrawn'")
    assert len(said) == 1


@pytest.mark.slow
async def test_a_search_goes_on_where_it_was_killed(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand slides are not read twice."""
    record_set = await planted(ward)
    read: list[str] = []
    inner = searchagain._windows

    def reading(tier: Any, slide: Any) -> Any:
        read.append(slide.number)
        if len(read) == 3:
            raise asyncio.CancelledError
        return inner(tier, slide)

    monkeypatch.setattr(searchagain, "_windows", reading)
    monkeypatch.setattr(searchagain, "SLIDES_PER_SLICE", 1)
    with pytest.raises(asyncio.CancelledError):
        await ward.records.match(await ward.claim(record_set))
    rows(ward, "update mover.shard set state = 'waiting', lease_until = null")
    await ward.work(record_set)

    assert sorted(read[:2] + read[3:]) == [number(1), number(2), number(3)] and read.count(read[2]) == 2


@pytest.mark.slow
async def test_what_tables_say_of_a_patient_is_sought_in_the_slides_of_earlier_batches_too(ward: Ward) -> None:
    """The first export had the record number only; the next month's has the name."""
    first = await ward.batch("b1", NAMES[:2], quarantined=())
    ward.complete(first)
    for n in (1, 2):
        stand(ward, n, b"Katarzyna" if n == 1 else b"nothing")
    nameless = OUTCOMES.replace("Katarzyna Kowalczyk", "")
    await ward.aligned(first, ward.write(outcomes=nameless))
    assert rows(ward, "select * from mover.slide_withdrawal") == []

    second = await ward.batch("b2", ["D19-9_1.svs"], first=9, quarantined=())
    stand(ward, 9, b"nothing")
    ward.complete(second)
    imagery = IMAGERY.replace("D19-1_Kowalczyk_2.SVS,D19-1", "D19-9_1.svs,D19-9")
    outcomes = OUTCOMES.replace("D19-1;", "D19-9;")
    found = await ward.aligned(second, ward.write(imagery=imagery, outcomes=outcomes, folder="b2"))

    assert [one.number for one in found.withdrawn] == [number(1)]


# --- runs and packs ---------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    return Rig(tmp_path, dsns, database, vault, sandbox)


def withdraw(rig: Rig, *numbers: str) -> None:
    for one in numbers:
        values = (one, CODE, "records-x")
        rig.rows("insert into mover.slide_withdrawal (number, reason, found_by) values (%s, %s, %s)", *values)


@pytest.mark.slow
async def test_a_run_that_was_asked_for_before_stages_no_withdrawn_slide(rig: Rig) -> None:
    """Its selection was frozen before; the list stays as it is, and no byte goes to flash."""
    first, second = rig.slides([100, 200])
    run = await rig.request([first, second], key="a")
    withdraw(rig, first)
    await rig.work("run-stage", "run-seal")

    assert (rig.run(run.id).state, rig.run(run.id).reason) == ("failed", CODE)
    with pytest.raises(RunRefused):
        await rig.request([first], key="b")


@pytest.mark.slow
async def test_a_run_staged_before_a_withdrawal_does_not_become_ready_after_it(rig: Rig) -> None:
    [first] = rig.slides([100])
    run = await rig.request([first], key="a")
    await rig.work("run-stage")
    withdraw(rig, first)
    await rig.work("run-seal")

    assert (rig.run(run.id).state, rig.run(run.id).reason) == ("failed", CODE)


@pytest.mark.slow
async def test_a_withdrawn_scan_that_is_declared_again_stays_in_quarantine(rig: Rig) -> None:
    """Its slide stands in the archive still, and adopting that one would undo the withdrawal."""
    folder = rig.folder / "intake" / "b1"
    folder.mkdir()
    (folder / "one.svs").write_bytes(svs())
    batch = await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()
    [pack] = rig.rows("select number from mover.pack")
    sidecar = decode_sidecar(rig.tiers["archive"].read(sidecar_key(pack.number)))
    # header and directories are ours, tiles are copies: what is searched again is small, and whole
    assert sidecar.literals and sidecar.literals[0][0] == 0
    assert 0 < sum(length for _, length in sidecar.literals) < sidecar.size_bytes
    withdraw(rig, pack.number)
    rig.rows("update mover.pack set state = 'quarantined', reason = %s", CODE)

    await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()

    [again] = rig.rows("select state, reason from mover.pack")
    assert (again.state, again.reason) == ("quarantined", CODE)
    assert (await rig.batches.view(PROJECT, batch.id)).reasons == {CODE: 1}
