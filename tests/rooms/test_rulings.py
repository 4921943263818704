"""A withdrawn slide comes back when two people say so, or its bytes go for good; nothing of either happens alone."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from blake3 import blake3
from click.testing import CliRunner, Result

from mover.access import Access
from mover.api import make_app, serve
from mover.catalog import selections
from mover.catalog.database import Database, refusals
from mover.cli import command
from mover.decide import retries
from mover.deid.vault import Vault
from mover.errors import Conflict, Denied, NotFound, RunRefused
from mover.ingest import rulings as module
from mover.ingest.rulings import Rulings
from mover.model import wire
from mover.model.access import Identity, Role
from mover.model.sidecar import sidecar_key, slide_folder
from mover.sandbox import Sandbox
from mover.settings import Listen
from mover.transfer import Transfer
from tests.api.small_rooms import small_rooms
from tests.rooms.rig import OTHER, PROJECT, Rig, who
from tests.rooms.test_records import OUTCOMES, Ward, number
from tests.rooms.test_search_again import planted, rows, stand
from tests.support import objects
from tests.support.chance import drawn_as_such
from tests.support.persons import person
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
CODE = "identifier-found-later"
FALSE = wire.RulingRequest(action="reinstate", reason="Kowalczyk is the stain's maker")
GONE = wire.RulingRequest(action="remove", reason="the label's name is in its header")
NEWS = OUTCOMES.replace("PRAD;8;91", "PRAD;9;91")
GRANT = wire.RulingDecision(decision="grant", reason="looked at it with the pathologist")


class Killed(BaseException):
    """Between two of our own steps; nothing catches it."""


def by(house: Ward | Rig, name: str, project: str = PROJECT) -> Identity:
    """Cora and Dora are custodians, everybody else works here."""
    return person(house.dsns, name, "custodian" if name in ("cora", "dora") else "operator", project=project)


@pytest.fixture
async def ward(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> AsyncIterator[Ward]:
    yield Ward(tmp_path, dsns, database, vault, sandbox)


@pytest.fixture(autouse=True)
def _drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_as_such(monkeypatch)


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    made = Rig(tmp_path, dsns, database, vault, sandbox)
    made.rulings = Rulings(database, made.tiers, Transfer(), node="n1")  # type: ignore[attr-defined]
    made.handlers |= made.rulings.handlers()  # type: ignore[attr-defined]
    made.on_failed |= made.rulings.failure_handlers()  # type: ignore[attr-defined]
    return made


async def test_tokens_that_one_person_made_are_one_person(ward: Ward) -> None:
    """A stolen admin token makes a token for `bob`, and bob agrees: that is one pair of hands."""
    rulings = Rulings(ward.database, {"archive": ward.archive}, Transfer(), node="n1")
    access = Access(ward.database, project=PROJECT, node="n1", own_uid=990)
    machine = Identity(actor="uid:0", role="admin", project=PROJECT)

    async def token(actor: str, maker: Identity, role: Role = "custodian") -> Identity:
        made = await access.make_token(maker, wire.TokenRequest(actor=actor, role=role))
        return await access.authenticate(made.secret or "")

    eve, ann = await token("eve", machine, "admin"), await token("ann", machine)
    bob = await token("bob", eve)
    await ward.work(await planted(ward))
    asked = await rulings.ask(eve, number(1), FALSE)
    with pytest.raises(Denied, match="less than a day"):
        await rulings.decide(ann, asked.id, GRANT)
    rows(ward, "update mover.token set created_at = now() - interval '2 days' where actor <> 'eve'")
    with pytest.raises(Denied, match="less than a day"):
        await rulings.decide(ann, asked.id, GRANT)
    rows(ward, "update mover.token set created_at = now() - interval '2 days'")
    with pytest.raises(Denied, match="one person"):
        await rulings.decide(bob, asked.id, GRANT)
    with pytest.raises(Denied, match="only a custodian"):
        await rulings.decide(by(ward, "bert"), asked.id, GRANT)
    assert (await rulings.decide(ann, asked.id, GRANT)).state == "done"


async def test_two_people_rule_by_the_command_line_each_with_their_own_token(ward: Ward) -> None:
    """What proves a person goes all the way from the token to the database, and the answer back."""
    await ward.work(await planted(ward))
    access = Access(ward.database, project=PROJECT, node="n1", own_uid=990)
    rulings = Rulings(ward.database, {"archive": ward.archive}, Transfer(), node="n1")
    rooms = dataclasses.replace(small_rooms(), rulings=rulings)
    server = await serve(make_app(rooms, access, version="0"), Listen(None, "127.0.0.1", 0, None))
    for actor, role in (("ann", "admin"), ("cora", "custodian")):
        body = wire.TokenRequest(actor=actor, role=role)  # type: ignore[arg-type]
        made = await access.make_token(Identity(actor="uid:0", role="admin", project=PROJECT), body)
        (ward.root / actor).write_text(made.secret or "")
    rows(ward, "update mover.token set created_at = now() - interval '2 days'")

    async def mover(actor: str, *words: str) -> Result:
        where = ["--url", server.urls[0], "--token-file", str(ward.root / actor)]
        given = [*where, "slide", *words, "--reason", "I looked"]
        return await asyncio.to_thread(CliRunner().invoke, command, given)

    assert (await mover("ann", "reinstate", number(1))).exit_code == 0
    [asked] = (await rulings.list(PROJECT)).rulings
    assert isinstance((await mover("ann", "grant", asked.id)).exception, Denied)
    done = await mover("cora", "grant", asked.id)
    await server.stop()
    assert done.exception is None and (await rulings.view(PROJECT, asked.id)).state == "done"
    assert rows(ward, "select 1 from mover.slide_withdrawal") == []


# --- back --------------------------------------------------------------------------------------------------------


async def test_a_false_alarm_is_taken_back_by_two_people_and_not_raised_again(ward: Ward) -> None:
    """The slide is used again, its pack is what it was, and next month's tables with the same name leave it alone."""
    record_set = await planted(ward)
    rows(ward, "insert into mover.slide_grant (project_id, number) values ('other', %s)", number(1))
    await ward.work(record_set)
    rulings = Rulings(ward.database, {"archive": ward.archive}, Transfer(), node="n1")
    asked = await rulings.ask(by(ward, "ann"), number(1), FALSE)
    with pytest.raises(Conflict):
        await rulings.ask(by(ward, "bob"), number(1), FALSE)
    with pytest.raises(Denied):
        await rulings.decide(by(ward, "ann"), asked.id, GRANT)
    done = await rulings.decide(by(ward, "cora"), asked.id, GRANT)

    assert (done.state, done.asked_by, done.decided_by) == ("done", "ann", "cora")
    [pack] = rows(ward, "select state, reason from mover.pack where number = %s", number(1))
    assert (pack.state, pack.reason) in (("published", None), ("duplicate", None))
    for project in ("demo", "other"):
        async with ward.database.project(project) as conn:
            assert (await selections.resolve_numbers(conn, project, [number(1)]))[1] == []
    said = rows(ward, "select project_id, body::jsonb ->> 'action' as action from mover.audit_record"
                      " where starts_with(body::jsonb ->> 'action', 'slide re') order by at")  # fmt: skip
    assert [(row.project_id, row.action) for row in said] == [
        ("demo", "slide reinstate asked"), ("other", "slide reinstated"), ("demo", "slide reinstate granted"),
    ]  # fmt: skip
    with pytest.raises(Conflict):
        await rulings.decide(by(ward, "dora"), asked.id, GRANT)

    [batch] = rows(ward, "select id from mover.batch")
    again = await ward.aligned(batch.id, ward.write(outcomes=NEWS, folder="again"))
    assert (again.withdrawn, again.slides_aligned) == ([], 3)
    searched = rows(ward, "select outcome, strings from mover.slide_search where number = %s order by at", number(1))
    assert [row.outcome for row in searched] == ["found", "clean"]


async def test_another_word_withdraws_a_reinstated_slide_again(ward: Ward) -> None:
    """Two people judged the words that were known then, and no others."""
    record_set = await planted(ward)
    await ward.work(record_set)
    rulings = Rulings(ward.database, {"archive": ward.archive}, Transfer(), node="n1")
    asked = await rulings.ask(by(ward, "ann"), number(1), FALSE)
    await rulings.decide(by(ward, "cora"), asked.id, GRANT)
    rows(ward, "update mover.slide_search set sought = sought[1:0] where outcome = 'found'")
    [batch] = rows(ward, "select id from mover.batch")
    again = await ward.aligned(batch.id, ward.write(outcomes=NEWS, folder="again"))

    assert [one.number for one in again.withdrawn] == [number(1)]


async def test_only_what_was_found_is_excused_and_not_all_that_was_sought(ward: Ward) -> None:
    """Two people judged a name in a slide. The patient's number, sought then and not there, was judged by nobody."""
    record_set = await planted(ward)
    await ward.work(record_set)
    rulings = Rulings(ward.database, {"archive": ward.archive}, Transfer(), node="n1")
    asked = await rulings.ask(by(ward, "ann"), number(1), FALSE)
    await rulings.decide(by(ward, "cora"), asked.id, GRANT)
    for key in (sidecar_key(number(1)), f"slides/{number(1)}/1/{number(1)}.svs"):
        ward.archive.remove(key)
    stand(ward, 1, b"seen with Kowalczyk, 99845614")
    [batch] = rows(ward, "select id from mover.batch")
    again = await ward.aligned(batch.id, ward.write(outcomes=NEWS, folder="again"))

    assert [one.number for one in again.withdrawn] == [number(1)]


async def test_what_is_declined_stays_withdrawn(ward: Ward) -> None:
    record_set = await planted(ward)
    await ward.work(record_set)
    rulings = Rulings(ward.database, {"archive": ward.archive}, Transfer(), node="n1")
    asked = await rulings.ask(by(ward, "ann"), number(1), FALSE)
    body = wire.RulingDecision(decision="decline", reason="it is the patient's name")
    with pytest.raises(Denied):
        await rulings.decide(by(ward, "ann"), asked.id, body)
    assert (await rulings.decide(by(ward, "cora"), asked.id, body)).state == "declined"

    assert len(rows(ward, "select 1 from mover.slide_withdrawal")) == 1
    [page] = (await rulings.list("demo")).rulings
    assert page.state == "declined" and (await rulings.list("demo", open=True)).rulings == []
    assert (await rulings.list("demo", number=page.number)).rulings == [page]
    assert (await rulings.list("demo", number="Z" * 17)).rulings == []
    with pytest.raises(NotFound):
        await rulings.view("other", asked.id)


async def test_nobody_asks_about_a_slide_that_is_not_his_to_judge(ward: Ward) -> None:
    """One that stands, one of nobody's, one whose words came with another project's records, an erased patient's."""
    record_set = await planted(ward)
    await ward.work(record_set)
    rows(ward, "insert into mover.slide_grant (project_id, number) values ('other', %s)", number(1))
    rulings = Rulings(ward.database, {"archive": ward.archive}, Transfer(), node="n1")
    with pytest.raises(Conflict, match="not withdrawn"):
        await rulings.ask(by(ward, "ann"), number(2), FALSE)
    with pytest.raises(NotFound):
        await rulings.ask(by(ward, "eve", "other"), number(2), FALSE)
    with pytest.raises(Conflict, match="another project"):
        await rulings.ask(by(ward, "eve", "other"), number(1), FALSE)
    rows(ward, "update mover.slide_withdrawal set reason = 'subject-erased'")
    with pytest.raises(Conflict, match="never comes back"):
        await rulings.ask(by(ward, "ann"), number(1), FALSE)


async def test_who_asked_before_persons_were_written_down_asks_again(ward: Ward) -> None:
    """Two names are not two persons. To decline is always possible, so nobody is stuck."""
    await ward.work(await planted(ward))
    rulings = Rulings(ward.database, {"archive": ward.archive}, Transfer(), node="n1")
    asked = await rulings.ask(by(ward, "ann"), number(1), FALSE)
    rows(ward, "update mover.slide_ruling set asked_person = null")
    with pytest.raises(Conflict, match="ask again"):
        await rulings.decide(by(ward, "cora"), asked.id, GRANT)
    declined = wire.RulingDecision(decision="decline", reason="from before")
    assert (await rulings.decide(by(ward, "cora"), asked.id, declined)).state == "declined"
    assert len(rows(ward, "select 1 from mover.slide_withdrawal")) == 1


# --- gone --------------------------------------------------------------------------------------------------------


async def withdrawn(rig: Rig) -> str:
    """A slide of three files in the archive, withdrawn."""
    for n in (1, 2, 3):
        path = rig.folder / "intake" / "b1" / "s" / f"im{n}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects.ct(n))
    await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()
    [slide] = rig.rows("select number from mover.slide")
    rig.rows("insert into mover.slide_withdrawal (number, reason, found_by) values (%s, %s, 'x')", slide.number, CODE)
    return str(slide.number)


async def grant(rig: Rig, number: str) -> wire.Ruling:
    asked = await rig.rulings.ask(by(rig, "ann"), number, GONE)  # type: ignore[attr-defined]
    granted: wire.Ruling = await rig.rulings.decide(by(rig, "cora"), asked.id, GRANT)  # type: ignore[attr-defined]
    return granted


async def granted_without_our_code(rig: Rig, ruling: str) -> None:
    """A custodian's honest word, as the database hears it when nobody has looked before."""
    cora = by(rig, "cora")
    async with rig.database.project(PROJECT) as conn:
        with refusals():
            await conn.execute("select mover.ruling_decide(%s, true, 'so', 0, %s, 'x', 'n1', '')", (ruling, cora.proof))


async def worked(rig: Rig) -> None:
    """With every attempt that a shard has."""
    while rig.rows("select 1 from mover.shard where state = 'waiting'"):
        rig.due()
        await rig.work()


def files(rig: Rig, number: str) -> list[str]:
    return sorted(entry.key for entry in rig.tiers["archive"].list(slide_folder(number)))


async def vouched(rig: Rig) -> set[str]:
    async with rig.database.project(PROJECT) as conn:
        found = await conn.execute("select key from mover.vouched('archive', ''::bytea)")
        return {bytes(row[0]).decode() for row in await found.fetchall()}


async def test_the_bytes_of_a_withdrawn_slide_go_for_good(rig: Rig) -> None:
    """What is to go is written down with its digest first; afterwards nothing is missed, and nothing comes back."""
    number = await withdrawn(rig)
    keys = files(rig, number)
    assert len(await vouched(rig)) == 3 and len(keys) == 4
    ruling = await grant(rig, number)
    for stranger in ("k", keys[0].replace(number, "Z" * 17), f"slides/{number}/other"):
        with pytest.raises(psycopg.errors.CheckViolation, match="did not speak of this file"):
            rig.rows("insert into mover.slide_removal (project_id, ruling_id, place, tier, key, digest, size_bytes)"
                     " values (%s, %s, 9, 'archive', %s, %s, 1)", PROJECT, ruling.id, stranger, "ab" * 32)  # fmt: skip
    await rig.work()

    assert (await rig.rulings.view(PROJECT, ruling.id)).state == "done"  # type: ignore[attr-defined]
    assert files(rig, number) == [] and await vouched(rig) == set()
    removed = rig.rows("select * from mover.slide_removal order by place")
    assert [row.key for row in removed][0] == sidecar_key(number) and sorted(row.key for row in removed) == keys
    assert {row.state for row in removed} == {"removed"}
    assert (await rig.batches.slide(PROJECT, number)).removed_at is not None
    actions = [one for one in rig.actions() if one.startswith("slide remov")]
    assert actions == ["slide remove asked", "slide remove granted", "slide removal begun", "slide removed"]
    with pytest.raises(Conflict, match="removed"):
        await rig.rulings.ask(by(rig, "ann"), number, FALSE)  # type: ignore[attr-defined]
    await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()
    assert files(rig, number) == []


async def test_no_bytes_go_while_a_run_holds_them(rig: Rig) -> None:
    number = await withdrawn(rig)
    rig.rows("delete from mover.slide_withdrawal")
    run = await rig.request([number], key="k")
    await rig.work()
    assert rig.run(run.id).state == "ready"
    rig.rows("insert into mover.slide_withdrawal (number, reason, found_by) values (%s, %s, 'x')", number, CODE)
    asked = await rig.rulings.ask(by(rig, "ann"), number, GONE)  # type: ignore[attr-defined]
    with pytest.raises(Conflict, match="1 runs hold the slide"):
        await rig.rulings.decide(by(rig, "cora"), asked.id, GRANT)  # type: ignore[attr-defined]
    with pytest.raises(Conflict, match="runs hold the slide"):
        await granted_without_our_code(rig, asked.id)
    assert len(files(rig, number)) == 4


async def test_a_file_that_is_not_what_the_catalog_says_stops_the_removal(rig: Rig) -> None:
    """Nobody knows what that is, so nobody removes it; the slide stays withdrawn, and can be asked about again."""
    number = await withdrawn(rig)
    strange = rig.folder / "archive" / files(rig, number)[0]
    strange.chmod(0o600)
    strange.write_bytes(b"somebody else's")
    ruling = await grant(rig, number)
    await worked(rig)

    failed = await rig.rulings.view(PROJECT, ruling.id)  # type: ignore[attr-defined]
    assert failed.state == "failed" and "digest-mismatch" in str(failed.explanation)
    assert len(files(rig, number)) == 4 and rig.rows("select 1 from mover.slide_removal") == []
    assert (await rig.rulings.ask(by(rig, "ann"), number, GONE)).state == "asked"  # type: ignore[attr-defined]


async def test_a_file_that_was_written_anew_after_it_was_read_stays(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    number = await withdrawn(rig)
    ruling = await grant(rig, number)
    inner = module._read

    def then_changed(*given: object) -> object:
        found = inner(*given)  # type: ignore[arg-type]
        path = rig.folder / "archive" / found[-1]["key"]
        path.chmod(0o600)
        path.write_bytes(b"another")
        return found

    monkeypatch.setattr(module, "_read", then_changed)
    monkeypatch.setattr(retries, "OUTAGE_FAILURES_MAX", 3)  # a day's tries take a minute
    await worked(rig)

    assert (await rig.rulings.view(PROJECT, ruling.id)).state == "failed"  # type: ignore[attr-defined]
    assert len(files(rig, number)) == 1 and rig.rows("select 1 from mover.slide_withdrawal where removed_at is null")


async def test_a_removal_that_was_cut_off_goes_on_by_its_list(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    number = await withdrawn(rig)
    ruling = await grant(rig, number)
    inner, gone = module._remove, []

    def dying(*given: object) -> None:
        inner(*given)  # type: ignore[arg-type]
        gone.append(given)
        if len(gone) == 2:
            raise Killed

    monkeypatch.setattr(module, "_remove", dying)
    with pytest.raises(Killed):
        await rig.rulings.remove(await rig.claim("slide-remove"))  # type: ignore[attr-defined]
    assert len(files(rig, number)) == 2 and sidecar_key(number) not in files(rig, number)
    rig.lapse()
    await rig.rulings.remove(await rig.claim("slide-remove"))  # type: ignore[attr-defined]

    done = await rig.rulings.view(PROJECT, ruling.id)  # type: ignore[attr-defined]
    assert files(rig, number) == [] and done.state == "done"
    assert rig.actions().count("slide removal begun") == rig.actions().count("slide removed") == 1
    assert OTHER not in {row.project_id for row in rig.rows("select project_id from mover.slide_ruling")}


async def test_a_slide_that_kept_manifests_name_goes_only_by_who_knows_how_many_and_the_runs_say_so(
    rig: Rig,
) -> None:
    """Privacy beats the promise to stage a dataset again; but nobody breaks it unawares, which the database sees to."""
    number = await withdrawn(rig)
    rig.rows("delete from mover.slide_withdrawal")
    run = await rig.request([number], key="k")
    await rig.work()
    rig.rows("update mover.run set state = 'cancelled'")
    rig.rows("insert into mover.slide_withdrawal (number, reason, found_by) values (%s, %s, 'x')", number, CODE)
    rulings: Rulings = rig.rulings  # type: ignore[attr-defined]
    asked = await rulings.ask(by(rig, "ann"), number, GONE)
    assert asked.manifests == 1
    for told in (0, 2):
        with pytest.raises(Conflict, match="1 kept manifests name the slide") as refused:
            await rulings.decide(by(rig, "cora"), asked.id, msgspec.structs.replace(GRANT, manifests=told))
        assert refused.value.details == [{"run": run.id}] and "--manifests 1" in refused.value.advice
    with pytest.raises(Conflict, match="how many kept manifests"):
        await granted_without_our_code(rig, asked.id)
    assert (await rig.runs.view(PROJECT, run.id)).removed == []
    rig.rows("update mover.slide_ruling set state = 'granted', decided_by = 'cora', decided_person = 'cora'")
    with pytest.raises(psycopg.errors.CheckViolation, match="two persons"):
        rig.rows("insert into mover.slide_removal (project_id, ruling_id, place, tier, key, digest, size_bytes)"
                 " values (%s, %s, 0, 'archive', 'k', %s, 1)", PROJECT, asked.id, "ab" * 32)  # fmt: skip
    rig.rows("update mover.slide_ruling set state = 'asked', decided_by = null, decided_person = null")
    await rulings.decide(by(rig, "cora"), asked.id, msgspec.structs.replace(GRANT, manifests=1))
    await rig.work()

    assert files(rig, number) == [] and (await rulings.view(PROJECT, asked.id)).manifests == 1
    assert (await rig.runs.view(PROJECT, run.id)).removed == [number]
    with pytest.raises(RunRefused) as offenders:
        await rig.runs.request(who(), wire.RunRequest(like=run.id), key="k2")
    assert offenders.value.details == [{"number": number, "why": "removed"}]


async def test_a_removal_takes_every_copy_and_waits_for_one_that_is_being_made(rig: Rig) -> None:
    """A copy that nobody thought of would keep the name for good."""
    number = await withdrawn(rig)
    rig.rows("delete from mover.slide_withdrawal")
    rig.rows("insert into mover.slide_copy (number, tier) values (%s, 'protect')", number)
    rig.rows("insert into mover.slide_withdrawal (number, reason, found_by) values (%s, %s, 'x')", number, CODE)
    keys = files(rig, number)
    for key in keys:
        rig.tiers["protect"].put(key, [rig.tiers["archive"].read(key)])  # type: ignore[attr-defined]
    aside = ".mover/quarantine/finding-1"
    rig.tiers["archive"].put(aside, [b"what rotted"])  # type: ignore[attr-defined]
    rig.rows("insert into mover.verification (id, project_id, tier, scope, strangers, created_by)"
             " values ('v', %s, 'archive', 'tier', false, 'x')", PROJECT)  # fmt: skip
    rig.rows("insert into mover.verification_finding (id, project_id, verification_id, tier, key, kind, source,"
             " subject, found, found_bytes, quarantine)"
             " values ('f', %s, 'v', 'archive', 'k', 'bit-rot', 'slide', %s, %s, 11, %s)",
             PROJECT, number, blake3(b"what rotted").hexdigest(), aside)  # fmt: skip
    ruling = await grant(rig, number)
    await rig.work("slide-remove")
    waiting = await rig.rulings.view(PROJECT, ruling.id)  # type: ignore[attr-defined]
    assert (waiting.state, waiting.explanation) == ("granted", "it waits: a copy to protect is under way")
    with pytest.raises(psycopg.errors.CheckViolation, match="not gone"):
        rig.rows("update mover.slide_withdrawal set removed_at = now()")
    assert files(rig, number) == keys
    rig.rows("update mover.slide_copy set state = 'failed', reason = %s", CODE)
    rig.due()
    await rig.work("slide-remove")

    assert files(rig, number) == [] == [one.key for one in rig.tiers["protect"].list(slide_folder(number))]
    assert not (rig.folder / "archive" / aside).exists()
    assert (await rig.rulings.view(PROJECT, ruling.id)).state == "done"  # type: ignore[attr-defined]
    with pytest.raises(psycopg.errors.CheckViolation, match="not gone"):
        rig.rows("update mover.slide_withdrawal set removed_at = null")
