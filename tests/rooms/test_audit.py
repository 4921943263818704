"""The audit out of the database's reach: signed checkpoints on other tiers, and packs that hold by themselves."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from blake3 import blake3

from mover import audit, signing
from mover.api.audit import Trail
from mover.audit import chain
from mover.audit.packcheck import Checked, check_pack
from mover.catalog.database import Database
from mover.cli.audit import sheet_of
from mover.decide.needs import Need
from mover.deid.certificate import verify as verify_certificate
from mover.deid.vault import Vault
from mover.errors import Conflict, NotFound, RequestInvalid
from mover.ingest.certificates import Certificates
from mover.model import auditpack, wire
from mover.model.policy import AuditPolicy
from mover.oversight import Answers
from mover.policy import Loaded, PolicyBook
from mover.sandbox import Sandbox
from tests.rooms.rig import POLICIES, PROJECT, Rig
from tests.support.postgres import Dsns
from tests.support.slides import svs

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
POLICY = AuditPolicy(name="audit", targets=("archive", "protect"), every_s=10)
BARCODE = "D19-293983_Kowalczyk"


class House:
    """A rig with the audit as the daemon puts it together."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.key = rig.folder / "audit.key"
        self.fingerprint = signing.new_key(self.key)
        self.checkpoints = audit.Checkpoints(
            rig.database,
            rig.tiers,
            [POLICY],
            key_file=self.key,
            site="ward",  # type: ignore[arg-type]
        )
        self.trail = Trail(rig.database, self.checkpoints, node="n1", site="ward", key_file=self.key)

    async def record(self, subject: str = "x") -> None:
        async with self.rig.database.project(PROJECT) as conn:
            await audit.record(conn, project=PROJECT, node="n1", actor="ann", action="looked", subject=subject)

    async def checkpoint(self) -> int:
        """As if the time between two had passed."""
        self.rig.rows("update mover.checkpoint set at = at - interval '1 hour'")
        return await self.checkpoints.keep(PROJECT)

    def file(self, tier: str, n: int) -> Path:
        return self.rig.folder / tier / ".mover" / "audit" / PROJECT / f"{n:012d}.json"

    def answers(self) -> Answers:
        async def nothing_waits(project: str) -> list[Need]:
            return []

        return Answers(self.rig.database, verify=self.trail.verify, needs=nothing_waits)

    async def pack(self, run: str) -> bytes:
        return b"".join([piece async for piece in self.trail.pack(PROJECT, run, by="cora", request="r1")])


@pytest.fixture
def house(tmp_path: Path, dsns: Dsns, database: Database) -> House:
    return House(Rig(tmp_path, dsns, database))


# --- checkpoints ---------------------------------------------------------------------------------------------


async def test_heads_go_to_every_tier_once_they_have_moved(house: House) -> None:
    """Written once, by the same bytes; nothing new is said of chains that have not grown."""
    await house.record()
    assert await house.checkpoint() == 2
    assert await house.checkpoint() == 0
    await house.record()
    assert await house.checkpoint() == 2

    assert house.file("archive", 2).read_bytes() == house.file("protect", 2).read_bytes()
    page = await house.trail.checkpoints(PROJECT, None, 1)
    [newest] = page.checkpoints
    assert (newest.n, newest.records, newest.tiers) == (2, 2, ["archive", "protect"]) and page.next == "2"
    assert [one.n for one in (await house.trail.checkpoints(PROJECT, page.next, 9)).checkpoints] == [1]
    verdict = await house.trail.verify(PROJECT)
    assert verdict.whole and {one.tier: one.newest for one in verdict.checkpoints} == {"archive": 2, "protect": 2}
    assert verdict.checkpoints[0].signers == [house.fingerprint] and verdict.uncovered == 0
    await house.record()
    assert (await house.trail.verify(PROJECT)).uncovered == 1


async def test_a_tier_that_was_away_gets_what_it_missed(house: House) -> None:
    """The other tier has its copies meanwhile; being away is no sign of a forgery."""
    place = house.rig.folder / "protect"
    place.rename(house.rig.folder / "away")
    await house.record()
    assert await house.checkpoint() == 1
    (house.rig.folder / "away").rename(place)
    assert await house.checkpoint() == 1
    assert house.file("protect", 1).read_bytes() == house.file("archive", 1).read_bytes()


REWRITTEN = "delete from mover.audit_record; delete from mover.audit_head"
TAMPERINGS: dict[str, Callable[[House], None]] = {
    "a copy is changed": lambda h: h.file("archive", 1).write_bytes(
        h.file("archive", 1).read_bytes().replace(b'"seq":2', b'"seq":1')
    ),
    "a copy is gone": lambda h: h.file("archive", 1).unlink(),
    "a genuine copy stands for another": lambda h: h.file("archive", 1).write_bytes(
        h.file("archive", 2).read_bytes()
    ),
    "a copy is rubbish": lambda h: h.file("protect", 2).write_bytes(b"{}"),
    "the end is cut off in the database": lambda h: h.rig.rows(
        "delete from mover.audit_record where seq > 2; update mover.audit_head set seq = 2,"
        " hash = (select hash from mover.audit_record where seq = 2)"
    ) and None,
}  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS)
async def test_what_is_done_to_copies_or_behind_them_is_seen(house: House, tamper: Callable[[House], None]) -> None:
    for count in (2, 2):
        for _ in range(count):
            await house.record()
        await house.checkpoint()
    tamper(house)
    verdict = await house.trail.verify(PROJECT)
    assert not verdict.whole
    assert verdict.broken or any(one.problems for one in verdict.checkpoints)


async def test_a_database_whose_owner_wrote_all_anew_does_not_fit_the_tiers(house: House) -> None:
    """Inside the database nothing is wrong: hashes, heads and checkpoints fit each other. The tiers tell."""
    for _ in range(3):
        await house.record()
    await house.checkpoint()
    house.rig.rows(REWRITTEN)
    house.rig.rows("delete from mover.checkpoint_copy")
    house.rig.rows("delete from mover.checkpoint")
    for _ in range(3):
        await house.record("another story")
    assert await house.checkpoint() == 0  # its new checkpoint meets the old one, and neither is lost

    verdict = await house.trail.verify(PROJECT)
    assert not verdict.whole and {link["problem"] for link in verdict.broken} == {"rewritten"}


async def test_records_that_come_while_the_chains_are_read_break_nothing(house: House) -> None:
    """A compliance officer asks a hospital that works; every false alarm would cost the next one its hearing."""
    for _ in range(5):
        await house.record()
    writing = asyncio.create_task(_write_for_ever(house))
    try:
        for _ in range(8):
            assert (await house.trail.verify(PROJECT)).broken == []
    finally:
        writing.cancel()
        await asyncio.wait([writing])


async def _write_for_ever(house: House) -> None:
    while True:
        await house.record()


async def test_records_are_found_by_actor_action_and_time(house: House) -> None:
    await house.record("a")
    await house.record("b")
    page = await house.trail.page(PROJECT, audit.Wanted(), after=None, limit=9)
    second, first = page.records
    by = {"actor": "ann", "action": "loo", "since": first.at, "until": second.at}
    found = await house.trail.page(PROJECT, audit.Wanted(**by), after=None, limit=9)  # type: ignore[arg-type]
    assert [one.body["subject"] for one in found.records] == ["a"]
    for other in ({"actor": "bob"}, {"action": "ooked"}, {"subject": "c"}):
        assert not (await house.trail.page(PROJECT, audit.Wanted(**other), after=None, limit=9)).records


async def test_who_reads_data_is_on_record_once_an_hour(house: House) -> None:
    """A table that is paged through is one reading; another reader, or another thing, is another."""
    for by, subject in (("ann", "run-1"), ("ann", "run-1"), ("bob", "run-1"), ("ann", "run-2")):
        await house.trail.accessed(PROJECT, "manifest", subject, by=by, request="r1")
    page = await house.trail.page(PROJECT, audit.Wanted(action="manifest read"), after=None, limit=9)
    said = [(one.body["actor"], one.body["subject"]) for one in page.records]
    assert said == [("ann", "run-2"), ("bob", "run-1"), ("ann", "run-1")]


async def test_events_leave_as_fhir_in_their_order_and_only_those_that_are_wanted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices that never stand in memory together, the same each time it is asked; by the words of the search."""
    monkeypatch.setattr(chain, "SLICE_LIMIT", 2)
    for subject in "abcde":
        await house.record(subject)

    async def told(**wanted: Any) -> list[dict[str, Any]]:
        pieces = [piece async for piece in house.trail.events(PROJECT, audit.Wanted(**wanted))]
        assert max(piece.count(b"\n") for piece in pieces) <= 2
        return [msgspec.json.decode(line) for line in b"".join(pieces).splitlines()]

    events = await told()
    assert [one["extension"][0]["valueString"] for one in events] == [f"{PROJECT}/n1/{n}" for n in range(1, 6)]
    assert events == await told() and len({one["id"] for one in events}) == 5
    assert [one["entity"][0]["what"]["display"] for one in await told(subject="c")] == ["c"]
    assert await told(action="danced") == []
    [_, second, _, fourth, _] = [one.at for one in house.rig.rows("select at from mover.audit_record order by seq")]
    between = await told(since=second, until=fourth)
    assert [one["entity"][0]["what"]["display"] for one in between] == ["b", "c"]


async def test_whoever_takes_the_audit_slowly_holds_no_transaction_and_gets_it_as_it_stood(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that stops in the middle would keep vacuum back and one of ten connections; and one that is slower than
    the house writes would never come to the end."""
    monkeypatch.setattr(chain, "SLICE_LIMIT", 2)
    for subject in "abcde":
        await house.record(subject)
    for begun in (house.trail.export(PROJECT), house.trail.events(PROJECT, audit.Wanted())):
        pieces = [await anext(begun)]
        assert (
            house.rig.rows(
                "select pid from pg_stat_activity where datname = current_database() and state = 'idle in transaction'"
            )
            == []
        )
        pieces += [piece async for piece in begun]
        assert len(b"".join(pieces).splitlines()) == 5
    slowly = house.trail.export(PROJECT)
    taken = [await anext(slowly)]
    await house.record("later")
    taken += [piece async for piece in slowly]
    assert [msgspec.json.decode(line)["seq"] for line in b"".join(taken).splitlines()] == [1, 2, 3, 4, 5]


# --- packs ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def packed(
    tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox
) -> tuple[House, str, bytes]:
    """Two slides go all the way to a ready run: scanned, de-identified, certified, staged, a checkpoint made."""
    rig = Rig(tmp_path, dsns, database, vault, sandbox)
    (tmp_path / "intake" / "b1").mkdir()
    for name, data in ((BARCODE, svs()), ("two", svs(size=(384, 256)))):
        (tmp_path / "intake" / "b1" / f"{name}.svs").write_bytes(data)
    signing.new_key(tmp_path / "certificate.key")
    batch = await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))
    await rig.work()
    book = PolicyBook([Loaded(policy=p, file="", text="", digest="") for p in POLICIES])
    certificates = Certificates(database, book, sandbox, key_file=tmp_path / "certificate.key", site="ward", node="n1")
    await certificates.issue(PROJECT, "ann", "operator", batch.id)
    rig.rows("insert into mover.policy (name, digest, kind, text) values ('stage', %s, 'stage', 'kind: stage')",
             blake3(b"kind: stage").hexdigest())  # fmt: skip
    numbers = [row.number for row in rig.rows("select number from mover.slide")]
    run = await rig.request(numbers, key="k")
    await rig.work()
    house = House(rig)
    await house.checkpoint()
    return house, run.id, await house.pack(run.id)


def judged(folder: Path, data: bytes, **how: object) -> Checked:
    file = folder / "run.audit"
    file.write_bytes(data)
    return check_pack(file, certificate=lambda body: verify_certificate(body).problems, **how)  # type: ignore[arg-type]


async def test_a_pack_shows_how_a_run_came_to_its_data_and_names_nobody(
    packed: tuple[House, str, bytes], tmp_path: Path
) -> None:
    house, run, data = packed
    found = judged(tmp_path, data, trusted=[house.fingerprint.replace(" ", "")])

    assert found.whole and found.problems == () and found.trusted
    assert (found.run, found.slides, found.site) == (run, 2, "ward") and found.files >= 3
    assert {"certificate", "policy", "proof", "record", "checkpoint", "slide"} <= found.lines.keys()
    assert [one["action"] for one in found.about_run][-2:] == ["run ready", "audit pack made"]
    assert found.notes == ("1 record at the end, younger than the last checkpoint",)
    text = zstandard.ZstdDecompressor().stream_reader(data).read().decode()
    paper = sheet_of(tmp_path / "run.audit", found)
    assert paper == sheet_of(tmp_path / "run.audit", found) and b"whole: every line is as it was signed" in paper
    assert b"run ready, by daemon, record " in paper and b"<script" not in paper
    text += paper.decode()
    assert [word for word in (BARCODE, "Kowalczyk", "293983", "two.svs", "S24-771001") if word in text] == []


async def test_any_byte_that_is_flipped_is_found(packed: tuple[House, str, bytes], tmp_path: Path) -> None:
    """Of the file as it travels, and of every kind of line inside it, signed anew with the forger's own key."""
    house, _, data = packed
    chance = random.Random(7)
    for _ in range(60):
        at, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        assert not judged(tmp_path, data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]).whole, at
    cut, rubbish = (judged(tmp_path, one) for one in (data[: len(data) // 2], b"no pack"))
    assert not cut.whole and any("cut off " in problem for problem in cut.problems)
    assert not rubbish.whole and any(problem.endswith("or is no audit pack") for problem in rubbish.problems)


def _lines_of(data: bytes) -> list[bytes]:
    return zstandard.ZstdDecompressor().stream_reader(data).read().splitlines(keepends=True)


def _resigned(lines: list[bytes], key: Path) -> bytes:
    """What a forger with a key makes of lines of his own."""
    body = b"".join(lines)
    digest = blake3(body).hexdigest()
    signature = signing.sign(auditpack.signed_bytes(len(lines), digest), signing.load_key(key))
    end = msgspec.json.encode(auditpack.End(lines=len(lines), blake3=digest, signature=signature)) + b"\n"
    return zstandard.ZstdCompressor().compress(body + end)


def _forgeries(lines: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    def of(kind: str) -> list[int]:
        return [at for at, line in enumerate(lines) if f'"kind":"{kind}"'.encode() in line]

    records = of("record")
    middle = records[len(records) // 2]
    yield "a record is changed", [*lines[:middle], lines[middle].replace(b"ann", b"eve", 1).replace(
        b"daemon", b"deamon", 1), *lines[middle + 1 :]]  # fmt: skip
    yield "a record is dropped", [*lines[:middle], *lines[middle + 1 :]]
    yield "two records change places", [
        *lines[: middle - 1], lines[middle], lines[middle - 1], *lines[middle + 1 :]
    ]  # fmt: skip
    yield "the chain is cut before the checkpoint", [
        line for at, line in enumerate(lines) if at not in records[-4:]
    ]  # fmt: skip
    yield "a file of the manifest is another", _each(lines, "manifest", b'\\"size_bytes\\":', b'\\"size_bytes\\":1')
    yield "a manifest line is gone", _without(lines, of("manifest")[-1])
    yield "a slide has other digests", _each(lines, "slide", b'"digests":[', b'"digests":["f"],"were":[')
    yield "a slide is gone", _without(lines, of("slide")[0])
    yield "a proof is gone", [line for at, line in enumerate(lines) if at not in of("proof")]
    yield "a policy says something else", _each(lines, "policy", b"kind: stage", b"kind: stagE")
    yield "a certificate says something else", _each(lines, "certificate", b"ward", b"wart")
    yield "the run is another", _each(lines, "run", b'"kind":"run","id":"', b'"kind":"run","id":"x')
    yield "a checkpoint is changed", _each(lines, "checkpoint", b'\\"n\\":1', b'\\"n\\":2')


def _each(lines: list[bytes], kind: str, old: bytes, new: bytes) -> list[bytes]:
    return [line.replace(old, new, 1) if f'"kind":"{kind}"'.encode() in line else line for line in lines]


def _without(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], *lines[at + 1 :]]


async def test_lines_forged_and_signed_again_contradict_each_other(
    packed: tuple[House, str, bytes], tmp_path: Path
) -> None:
    """Even with the site's own key: records, manifest, proofs and checkpoints hold each other. With another key the
    reader who knows the site's fingerprint sees that alone."""
    house, _, data = packed
    lines = _lines_of(data)[:-1]
    assert judged(tmp_path, _resigned(lines, house.key)).whole
    for what, forged in _forgeries(lines):
        assert forged != lines, what
        assert not judged(tmp_path, _resigned(forged, house.key)).whole, what
    signing.new_key(tmp_path / "forger.key")
    stranger = _resigned(lines, tmp_path / "forger.key")
    assert judged(tmp_path, stranger).whole
    assert not judged(tmp_path, stranger, trusted=[house.fingerprint]).whole


async def test_a_run_that_was_never_sealed_or_is_anothers_has_no_pack(house: House) -> None:
    [slide] = house.rig.slides([100])
    run = await house.rig.request([slide], key="k")
    with pytest.raises(Conflict):
        await house.pack(run.id)
    with pytest.raises(NotFound):
        await house.pack("run-of-nobody")
    assert "audit pack made" not in house.rig.actions()


# --- what a compliance officer asks --------------------------------------------------------------------------


async def test_every_question_is_answered_from_rows(packed: tuple[House, str, bytes]) -> None:
    """Of a hospital in which two slides went all the way: a sentence each, rows in the columns that are said, and no
    name in any of them."""
    house, run, _ = packed
    answers = house.answers()
    numbers = [row.number for row in house.rig.rows("select number from mover.slide order by 1")]
    about = {"slide": numbers[0], "id": run}
    said = {}
    for one in (await answers.questions()).questions:
        told = said[one.code] = await answers.answer(PROJECT, one.code, about.get(one.about or ""))
        assert told.answer and told.proof and "{" not in "".join(told.proof)
        assert all(len(row) == len(told.columns) for row in told.rows)
        assert BARCODE not in str(told) and "two.svs" not in str(told)
    assert len(said) == 10
    assert said["clean"].tone == "good" and "second pass found none" in said["clean"].answer
    assert [row[2] for row in said["history"].rows][-2:] == ["run ready", "audit pack made"]
    young = "fit the signed copies on archive, protect; 1 record younger than"
    assert said["log"].tone == "good" and young in said["log"].answer
    assert {row[0] for row in said["places"].rows} == {"intake", "archive", "flash"}
    assert said["places"].answer.startswith("In the identified zone on intake; de-identified on archive, flash")
    assert said["last-copy"].tone == "warn" and "2 stand on one tier only" in said["last-copy"].answer
    assert said["drills"].tone == "warn" and said["deletions"].rows == []
    assert ["policy", "stage"] in [row[1:3] for row in said["made"].rows]
    whose = await answers.answer(PROJECT, "made", numbers[0])
    assert {row[1] for row in whose.rows} >= {"verified", "deidentified"}
    with pytest.raises(RequestInvalid, match="about one slide"):
        await answers.answer(PROJECT, "clean", None)
    with pytest.raises(NotFound):
        await answers.answer(PROJECT, "dance", None)


async def test_what_speaks_against_it_is_what_is_answered(packed: tuple[House, str, bytes]) -> None:
    """A withdrawal, a drill that failed, a changed record, a person who looks at names: each turns its answer."""
    house, _, _ = packed
    answers, rig = house.answers(), house.rig
    [number, other] = [row.number for row in rig.rows("select number from mover.slide order by 1")]
    rig.rows(
        "insert into mover.slide_withdrawal (number, reason, found_by) values (%s, 'found-later', 'records-1')", number
    )
    assert (await answers.answer(PROJECT, "clean", number)).tone == "bad"
    assert (await answers.answer(PROJECT, "clean", other)).tone == "good"
    assert (await answers.answer(PROJECT, "clean", "0" * 17)).tone == "warn"

    rig.rows(
        "insert into mover.dump (id, project_id, policy, why, created_by) values ('dump-1', %s, 'd', 'x', 'x')", PROJECT
    )
    rig.rows("insert into mover.dump_drill (id, project_id, dump_id, kind, passed, explanation, seconds, created_by,"
             " finished_at) values ('drill-1', %s, 'dump-1', 'restore', false, 'two tables differ', 71, 'x', now())",
             PROJECT)  # fmt: skip
    drilled = await answers.answer(PROJECT, "drills", None)
    assert drilled.tone == "bad" and "took 71 s; IT FAILED" in drilled.answer

    before = int(next(row for row in (await answers.answer(PROJECT, "identity", None)).rows if row[1] == "tier")[5])
    assert before == 0
    rig.rows("insert into mover.token (id, project_id, hash, actor, role, person) values"
             " ('token-c', %s, 'c', 'cora', 'custodian', 'token-c'), ('token-v', %s, 'v', 'vic', 'viewer', 'token-v')",
             PROJECT, PROJECT)  # fmt: skip
    async with rig.database.project(PROJECT) as conn:
        await audit.record(
            conn, project=PROJECT, node="n1", actor="cora", action="unseal", subject="x", reason="a call"
        )
    identity = await answers.answer(PROJECT, "identity", None)
    assert [row[0] for row in identity.rows if row[1] == "token"] == ["cora"] and "1 look " in identity.answer

    rig.rows("insert into mover.slide_ruling (id, project_id, number, action, state, reason, asked_by, asked_person,"
             " decided_by, decided_person, decided_at) values ('ruling-1', %s, %s, 'remove', 'done', 'consent', 'ann',"
             " 'p1', 'cora', 'p2', now())", PROJECT, number)  # fmt: skip
    gone = await answers.answer(PROJECT, "deletions", number)
    assert [row[3:5] for row in gone.rows] == [["ann", "cora"]]
    assert (await answers.answer(PROJECT, "deletions", other)).rows == []

    rig.rows("update mover.audit_record set body = replace(body, 'ann', 'eve') where seq = 1")
    assert (await answers.answer(PROJECT, "log", None)).tone == "bad"
