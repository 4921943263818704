"""Tables declared, held for their images, matched, stripped and written down at once: the whole room, for real."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import yaml

from mover.catalog.database import Database
from mover.clock import SystemClock
from mover.cohorts import Cohorts
from mover.deid.vault import Vault
from mover.errors import Conflict, EntryMissing, LeaseLost, NotFound, PolicyInvalid, RequestInvalid, TierUnavailable
from mover.ingest import records
from mover.ingest.quarantine import Quarantine
from mover.ingest.records import Records
from mover.jobs.shards import Shard, claim_shard
from mover.model import wire
from mover.model.ids import make_number
from mover.model.names import encode_names
from mover.model.policy import RecordsPolicy
from mover.oversight.needs import facts_of
from mover.policy import Loaded, PolicyBook
from mover.sandbox import Sandbox
from mover.tiers import identity as identities
from mover.tiers.port import ReadTier
from mover.tiers.posix import PosixTier
from tests.support.facts import DIGEST, insert
from tests.support.postgres import Dsns

pytestmark = pytest.mark.usefixtures("tier_rows")
PROJECT = "demo"

POLICY: dict[str, Any] = {
    "kind": "records",
    "name": "records",
    "from": "intake",
    "tables": [
        {
            "name": "imagery",
            "columns": {
                "file": {"class": "image"},
                "case": {"class": "case"},
                "stain": {"class": "enum", "values": ["HE", "HER2"], "map": {"h&e": "HE"}},
                "operator": {"class": "block"},  # any text that is withheld may say what belongs together
            },
        },
        {
            "name": "outcomes",
            "one_row_per": "case",
            "columns": {
                "case": {"class": "case"},
                "MRN": {"class": "patient"},
                "name": {"class": "drop"},
                "diagnosis": {"class": "enum", "values": ["PRAD", "BRCA"]},
                "gleason": {"class": "integer", "minimum": 2, "maximum": 10},
                "age": {"class": "age", "quasi": True},
            },
        },
    ],
}
IMAGERY = """file,case,stain,operator
C:\\scans\\D19-1_Kowalczyk_1.svs,D19-1,H&E,rscanoperator90
D19-1_Kowalczyk_2.SVS,D19-1,HER2,rscanoperator90
D20-2_Brown_1.svs,D20-2,HE,mtechnician47
D20-2_Brown_1.svs,D20-2,HE,mtechnician47
D21-3_Green_1.svss,D21-3,HE,mtechnician47
D22-4_Blue_1.svs,D22-4,HE,mtechnician47
"""
OUTCOMES = """case;MRN;name;diagnosis;gleason;age
D19-1;99845614;Katarzyna Kowalczyk;PRAD;8;91
D20-2;64189189;James Brown;PRAD;6;50
D20-2;64189189;James Brown;BRCA;6;50
D21-3;44995416;Gary Green;PRAD;9;50
D22-4;11223344;Bernd Blue;PRAD;9;50
"""
NAMES = ["D19-1_Kowalczyk_1.svs", "D19-1_Kowalczyk_2.svs", "D20-2_Brown_1.svs", "D22-4_Blue_1.svs", "stray_9.svs"]
PLANTED = ["kowalczyk", "katarzyna", "brown", "green_1", "d19-1", "d20-2", "99845614", "64189189", "rscanoperator90",
           "mtechnician47", "imagery.csv"]  # fmt: skip


EXTRA_COLUMN = "".join(
    f"{line};{'Notiz Kowalczyk' if n == 0 else 'x'}\n" for n, line in enumerate(OUTCOMES.splitlines())
)
SLIDE_FACTS = '{"mpp_x": 0.25, "width": 1000}'


def number(n: int) -> str:
    return make_number(n.to_bytes(10, "big"))


class Ward:
    """A project with an intake tier, a batch of five packs (the fourth in quarantine) and the room under test."""

    def __init__(self, root: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> None:
        self.root, self.dsns, self.database, self.vault, self.sandbox = root, dsns, database, vault, sandbox
        self.policy = msgspec.convert(POLICY, RecordsPolicy)
        folder = Path(tempfile.mkdtemp(prefix="archive-", dir=root.parent))
        identity = identities.establish(folder, name="archive", zone="deidentified")
        self.archive = PosixTier("archive", "deidentified", folder, role="archive", identity=identity)
        self.records = self.room()
        self.cohorts = Cohorts(database, node="n1")

    def room(self) -> Records:
        book = PolicyBook([Loaded(policy=self.policy, file="records.yaml", text="", digest="")])
        tiers: dict[str, ReadTier] = {
            "intake": PosixTier("intake", "identified", self.root, read_only=True), "archive": self.archive
        }  # fmt: skip
        return Records(self.database, self.vault, tiers, self.sandbox, book, site="ward", node="n1")

    def write(self, *, imagery: str = IMAGERY, outcomes: str = OUTCOMES, folder: str = "b1") -> dict[str, str]:
        (self.root / folder).mkdir(exist_ok=True)
        (self.root / folder / "imagery.csv").write_bytes(imagery.encode("utf-8-sig"))
        (self.root / folder / "outcomes.csv").write_bytes(outcomes.encode("utf-16"))
        return {name: f"{folder}/{name}.csv" for name in ("imagery", "outcomes")}

    async def batch(self, name: str, names: list[str], *, first: int = 1, quarantined: tuple[int, ...] = (3,)) -> str:
        """A batch that is still being worked on; `complete` ends it."""
        batch = f"batch-{name}"
        sealed = await self.vault.seal_many(
            PROJECT, "entry", [(f"{batch}{n}", encode_names([f"{name}/{n}"])) for n in names]
        )
        with psycopg.connect(self.dsns.superuser) as conn:
            insert(conn, "batch", project_id=PROJECT, id=batch, tier="intake", policy="images", folder=batch,
                   state="working", created_by="ann")  # fmt: skip
            for index, entry in enumerate(sealed):
                self._pack(conn, batch, index, entry, None if index in quarantined else number(first + index))
        return batch

    def _pack(self, conn: psycopg.Connection[Any], batch: str, index: int, entry: str, minted: str | None) -> None:
        pack, of = f"pack-{batch}-{index:02}", {"project_id": PROJECT}
        common = {**of, "id": pack, "batch_id": batch, "entry": entry, "barcode": f"sealed-{pack}"}
        if minted is None:
            insert(conn, "pack", **common, state="quarantined", reason="structure-invalid")
            return
        insert(conn, "slide", number=minted, site="ward", family="aperio", extension="svs", size_bytes=100,
               digest=DIGEST, tier="archive", key=f"slides/{minted}", facts=SLIDE_FACTS)  # fmt: skip
        insert(conn, "slide_grant", **of, number=minted)
        for kind in ("verified", "deidentified"):
            insert(conn, "proof", **of, id=f"{kind}-{pack}", kind=kind, subject_id=pack, count=1, bytes=1, root=DIGEST,
                   verifier="test")  # fmt: skip
        insert(conn, "pack", **common, state="published", number=minted, verified_proof=f"verified-{pack}",
               deidentified_proof=f"deidentified-{pack}")  # fmt: skip

    def complete(self, batch: str) -> None:
        """What the image work's last transaction does, the shards for waiting sets included."""
        with psycopg.connect(self.dsns.superuser) as conn:
            [(packs,)] = conn.execute("select count(*) from mover.pack where batch_id = %s", [batch]).fetchall()
            insert(conn, "proof", project_id=PROJECT, id=f"proof-{batch}", kind="complete", subject_id=batch,
                   count=packs, bytes=1, root=DIGEST, verifier="test")  # fmt: skip
            conn.execute("update mover.batch set state = 'complete', complete_proof = %s, finished_at = now()"
                         " where id = %s", [f"proof-{batch}", batch])  # fmt: skip
            conn.execute(
                "insert into mover.shard (id, project_id, queue, kind, subject_id) select 'shard-' || id, project_id,"
                " 'tier:intake', 'records-match', id from mover.record_set where batch_id = %s"
                " and state = 'waiting-for-images'",
                [batch],
            )

    async def declare(self, batch: str, files: dict[str, str]) -> wire.RecordSet:
        return await self.records.declare(PROJECT, "ann", wire.RecordsRequest(batch=batch, files=files))

    async def claim(self, record_set: str) -> Shard:
        async with self.database.project(PROJECT) as conn:
            cursor = await conn.execute(
                "select id from mover.shard where subject_id = %s and state <> 'done' order by created_at", [record_set]
            )
            [row] = await cursor.fetchall()
            shard = await claim_shard(conn, row.id, holder="n1/test", lease_s=60)
        assert shard is not None
        return shard

    async def work(self, record_set: str) -> wire.RecordSet:
        await self.records.match(await self.claim(record_set))
        return await self.records.view(PROJECT, record_set)

    async def aligned(self, batch: str, files: dict[str, str]) -> wire.RecordSet:
        return await self.work((await self.declare(batch, files)).id)

    def facts(self) -> dict[str, tuple[str | None, dict[str, Any]]]:
        with psycopg.connect(self.dsns.superuser) as conn:
            found = conn.execute("select number, subject, facts from mover.aligned order by number").fetchall()
        return {number: (subject, facts) for number, subject, facts in found}


@pytest.fixture
async def ward(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> AsyncIterator[Ward]:
    yield Ward(tmp_path, dsns, database, vault, sandbox)


EXPECTED = {
    "images": {"matched": 2, "conflict": 1, "late": 1, "image-without-row": 1},
    "imagery": {"matched": 3, "duplicate": 1, "row-without-image": 1, "late": 1},
    "outcomes": {"matched": 1, "conflict": 2, "row-without-image": 1, "late": 1},
}


async def test_tables_wait_for_their_images_and_then_align_them(ward: Ward) -> None:
    """The data manager may come first; nothing is matched by halves, and the numbers are what people ask for."""
    batch = await ward.batch("b1", NAMES)
    waiting = await ward.declare(batch, ward.write())
    assert (waiting.state, waiting.version) == ("waiting-for-images", 1)
    ward.complete(batch)

    found = await ward.work(waiting.id)

    assert (found.state, found.slides_aligned, found.k) == ("aligned", 3, 1)
    assert found.ledger == EXPECTED
    assert found.totals == {"images": 5, "imagery": 6, "outcomes": 5}
    assert all(sum(states.values()) == found.totals[table] for table, states in found.ledger.items())
    # nothing of these slides says what to search again, so none was
    assert sorted((proof.kind, proof.count) for proof in found.proofs) == [("aligned", 16), ("deidentified", 0)]
    facts = ward.facts()
    subject, first = facts[number(1)]
    assert first == {"stain": "HE", "diagnosis": "PRAD", "gleason": 8, "age": 90}
    assert subject is not None and facts[number(2)][0] == subject
    # the diagnosis in conflict is not used, the stain of the same slide is
    assert facts[number(3)] == (None, {"stain": "HE"})
    with psycopg.connect(ward.dsns.superuser) as conn:
        blocks = dict(conn.execute("select number, block from mover.aligned").fetchall())
        minted = conn.execute("select pseudonym, subject from vault.entity where kind = 'block'").fetchall()
    # two slides of one block, a third of another; each tied to its patient, with whom it is erased
    assert blocks[number(1)] == blocks[number(2)] != blocks[number(3)]
    assert set(minted) == {(blocks[number(1)], subject), (blocks[number(3)], None)}


async def test_nothing_of_the_tables_identity_stands_outside_the_vault(ward: Ward) -> None:
    """The ordinary schema, read by a superuser as a whole, holds no planted name, number or path (I2)."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    await ward.aligned(batch, ward.write())

    with psycopg.connect(ward.dsns.superuser) as conn:
        tables = conn.execute("select schemaname, tablename from pg_tables where schemaname in ('mover', 'queue')")
        text = "".join(
            str(conn.execute(f'select t::text from {schema}."{table}" t').fetchall())  # type: ignore[arg-type]
            for schema, table in tables.fetchall()
        ).casefold()

    assert "prad" in text
    assert [name for name in PLANTED if name in text] == []


async def test_the_ledger_is_paged_and_filtered_line_by_line(ward: Ward) -> None:
    """A data manager mends an export by its lines; every line comes exactly once."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    record_set = (await ward.aligned(batch, ward.write())).id

    lines, after = [], None
    while True:
        page = await ward.records.ledger(PROJECT, record_set, None, None, after, 5)
        lines += page.lines
        after = page.next
        if after is None:
            break
    conflicts = await ward.records.ledger(PROJECT, record_set, "outcomes", "conflict", None, 100)

    assert len(lines) == 16 and len({(line.table, line.line) for line in lines}) == 16
    assert [(line.line, line.reason, line.number) for line in conflicts.lines] == [
        (3, "rows-differ", number(3)),
        (4, "rows-differ", number(3)),
    ]
    misspelt = [line for line in lines if line.state == "row-without-image" and line.table == "imagery"]
    assert [(line.line, line.reason) for line in misspelt] == [(6, "extension-unknown")]
    with pytest.raises(RequestInvalid):
        await ward.records.ledger(PROJECT, record_set, None, "orphan", None, 5)


async def test_the_same_bytes_are_the_same_set_and_corrected_ones_the_next_version(ward: Ward) -> None:
    """A repeated request must not double anything; a correction replaces what stood, and only by its batch."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    files = ward.write()
    first = await ward.aligned(batch, files)

    again = await ward.declare(batch, files)
    settled = OUTCOMES.replace("D20-2;64189189;James Brown;BRCA;6;50\n", "").replace("PRAD;8;91", "PRAD;7;91")
    second = await ward.aligned(batch, ward.write(outcomes=settled, folder="corrected"))

    assert again.id == first.id
    assert (second.version, second.state) == (2, "aligned")
    assert ward.facts()[number(1)][1]["gleason"] == 7
    assert ward.facts()[number(3)][1] == {"stain": "HE", "diagnosis": "PRAD", "gleason": 6, "age": 50}
    assert [r.id for r in (await ward.records.list(PROJECT, batch)).records] == [second.id, first.id]


async def test_a_version_that_loses_a_row_takes_its_facts_back(ward: Ward) -> None:
    """The newest version wins also where it says nothing any more: a withdrawn diagnosis must not linger."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    await ward.aligned(batch, ward.write())

    await ward.aligned(
        batch, ward.write(imagery=IMAGERY.replace("D20-2_Brown_1.svs", "D20-2_Brown_7.svs"), folder="v2")
    )

    assert ward.facts()[number(3)] == (None, {})


async def test_an_older_version_that_comes_late_changes_nothing(ward: Ward) -> None:
    """Two versions wait; the newer one is matched first. What the older says is late, and its ledger shows it."""
    batch = await ward.batch("b1", NAMES)
    old = await ward.declare(batch, ward.write())
    new = await ward.declare(batch, ward.write(outcomes=OUTCOMES.replace("PRAD;8;91", "PRAD;7;91"), folder="v2"))
    ward.complete(batch)
    await ward.work(new.id)

    late = await ward.work(old.id)

    assert (late.state, late.slides_aligned) == ("aligned", 0)
    assert late.totals == {"images": 5, "imagery": 6, "outcomes": 5}
    assert late.ledger["imagery"] == {"late": 4, "duplicate": 1, "row-without-image": 1}
    assert ward.facts()[number(1)][1]["gleason"] == 7


async def test_rows_for_images_of_an_earlier_batch_are_late_and_change_nothing_there(ward: Ward) -> None:
    """Cumulative exports name last month's slides; only their own batch's tables may align them."""
    first = await ward.batch("b1", NAMES)
    ward.complete(first)
    await ward.aligned(first, ward.write())
    before = ward.facts()
    second = await ward.batch("b2", ["D23-5_Grey_1.svs"], first=50, quarantined=())
    ward.complete(second)

    found = await ward.aligned(
        second, ward.write(imagery=IMAGERY + "D23-5_Grey_1.svs,D23-5,HE,x\n", outcomes=OUTCOMES, folder="cumulative")
    )

    assert found.ledger["images"] == {"matched": 1}
    assert found.ledger["imagery"] == {"matched": 1, "late": 3, "duplicate": 1, "row-without-image": 2}
    assert {n: f for n, f in ward.facts().items() if n != number(50)} == before


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"outcomes": EXTRA_COLUMN}, "place-unknown"),
        ({"imagery": IMAGERY + '"unclosed'}, "structure-invalid"),
        ({"imagery": IMAGERY.replace("H&E", "Kowalczyk").replace(",HE,", ",Brown,")}, "place-unknown"),
    ],
)  # fmt: skip
async def test_a_table_that_may_not_pass_quarantines_the_set_whole(
    ward: Ward, tables: dict[str, str], reason: str
) -> None:
    """Nothing of it is used, nothing is half-written, and the explanation holds no identifier."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    files = ward.write(**tables)

    found = await ward.aligned(batch, files)
    plan = await ward.records.plan_declare(PROJECT, "ann", wire.RecordsRequest(batch=batch, files=files))

    assert (found.state, found.reason, found.ledger) == ("quarantined", reason, {})
    assert found.explanation and "table" in found.explanation
    assert [name for name in PLANTED if name in found.explanation.casefold()] == []
    assert [(step.action, step.reason) for step in plan.steps] == [("quarantine", found.explanation)]
    assert ward.facts() == {}
    assert (await ward.declare(batch, files)).id == found.id


async def test_tables_that_change_after_they_were_declared_are_not_used(ward: Ward) -> None:
    """What was declared is what is matched; a file swapped meanwhile waits for a person to declare it again."""
    batch = await ward.batch("b1", NAMES)
    files = ward.write()
    declared = await ward.declare(batch, files)
    ward.complete(batch)
    ward.write(outcomes=OUTCOMES.replace("PRAD;8", "PRAD;9"))

    found = await ward.work(declared.id)
    fresh = await ward.aligned(batch, files)

    assert (found.state, found.reason) == ("quarantined", "changed-while-reading")
    assert (fresh.version, fresh.state) == (2, "aligned")


async def test_new_images_of_a_batch_make_the_same_tables_a_new_version(ward: Ward) -> None:
    """A batch declared again with more images must not be answered with the ledger of fewer."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    files = ward.write()
    first = await ward.aligned(batch, files)

    async def waits() -> list[str | None]:
        async with ward.database.project(PROJECT) as conn:
            return [one.subject for one in await facts_of(conn) if one.code == "facts-missing" and one.count]

    assert await waits() == []
    with psycopg.connect(ward.dsns.superuser, autocommit=True) as conn:
        conn.execute("update mover.batch set finished_at = now() + interval '1 hour' where id = %s", [batch])
        assert await waits() == [], "a batch that only ended anew published nothing"
        conn.execute("update mover.slide set created_at = now() + interval '1 hour' where number in"
                     " (select min(number) from mover.pack where batch_id = %s)", [batch])  # fmt: skip
    assert await waits() == [first.id]

    assert (await ward.declare(batch, files)).version == first.version + 1
    assert await waits() == []


async def test_a_plan_counts_what_would_happen_and_changes_nothing(ward: Ward) -> None:
    """The same words before and after: plan first, then apply."""
    batch = await ward.batch("b1", NAMES)
    body = wire.RecordsRequest(batch=batch, files=ward.write())

    plan = await ward.records.plan_declare(PROJECT, "ann", body)

    told = {f"{table} {state}": n for table, states in EXPECTED.items() for state, n in states.items()}
    assert plan.counts == {**told, "slides aligned": 3}
    assert ward.facts() == {} and (await ward.records.list(PROJECT)).records == []
    with psycopg.connect(ward.dsns.superuser) as conn:
        assert conn.execute("select count(*) from vault.subject").fetchone() == (0,)


async def test_a_worker_that_lost_its_lease_writes_nothing(ward: Ward) -> None:
    """A paused process that wakes up late must not commit beside the one that took over (D14)."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    declared = await ward.declare(batch, ward.write())
    paused = await ward.claim(declared.id)
    with psycopg.connect(ward.dsns.superuser) as conn:
        conn.execute("update mover.shard set lease_until = now() - interval '1 s' where id = %s", [paused.id])
    taken = await ward.claim(declared.id)

    with pytest.raises(LeaseLost):
        await ward.records.match(paused)
    assert ward.facts() == {}
    await ward.records.match(taken)

    assert (await ward.records.view(PROJECT, declared.id)).state == "aligned"


async def test_a_source_that_is_away_is_tried_again_and_not_quarantined(ward: Ward) -> None:
    """An unmounted intake says nothing about the tables."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    declared = await ward.declare(batch, ward.write())
    shard = await ward.claim(declared.id)
    ward.root.rename(ward.root.with_name("away"))

    with pytest.raises(TierUnavailable):
        await ward.room().match(shard)
    assert (await ward.records.view(PROJECT, declared.id)).state == "matching"
    ward.root.with_name("away").rename(ward.root)
    await ward.records.match(shard)

    assert (await ward.records.view(PROJECT, declared.id)).state == "aligned"


async def test_who_may_see_names_chooses_tables_from_what_lies_there_and_the_look_is_on_record(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody types a path of a server that he cannot see; and what is a person's name stays out of every record."""
    files = ward.write()
    (ward.root / "old Kowalczyk.CSV").write_text("a\n1\n")
    os.utime(ward.root / "old Kowalczyk.CSV", (1, 1))
    for other in ("slide.svs", "odd\\name.csv"):
        (ward.root / other).write_bytes(b"x")
    look = wire.TablesLook("declare the tables")

    seen = await ward.records.found(PROJECT, "olga", look)

    paths = [one.path for one in seen.found]
    assert {*files.values()} < {*paths} and paths[-1] == "old Kowalczyk.CSV" and seen.whole
    assert [one for one in paths if "svs" in one or "odd" in one] == [] and seen.tables == list(files)
    with psycopg.connect(ward.dsns.superuser) as conn:
        [(record,)] = conn.execute("select body::jsonb from mover.audit_record").fetchall()
    assert (record["actor"], record["action"], record["subject"]) == ("olga", "tables listed", "intake")
    assert record["reason"] == "declare the tables" and "Kowalczyk" not in str(record)
    for folder in ("../vault", "/etc/../.."):
        with pytest.raises(RequestInvalid, match="below the source tier"):
            await ward.records.found(PROJECT, "olga", msgspec.structs.replace(look, folder=folder))
    monkeypatch.setattr(records, "FOUND_MAX", 1)
    cut = await ward.records.found(PROJECT, "olga", look)
    assert len(cut.found) == 1 and not cut.whole
    monkeypatch.setattr(records, "LOOKED_MAX", 0)
    assert (await ward.records.found(PROJECT, "olga", look)).found == []


async def test_two_declarations_at_once_are_one_version(ward: Ward) -> None:
    """A client that repeats a request it believes lost must not make two sets."""
    batch = await ward.batch("b1", NAMES)
    files = ward.write()

    sets = await asyncio.gather(*(ward.declare(batch, files) for _ in range(3)))

    assert {one.id for one in sets} == {sets[0].id}


async def test_what_cannot_be_declared_is_refused_before_anything_is_kept(ward: Ward) -> None:
    """Missing tables, missing files, unknown batches, paths outside the tier and clashing facts."""
    batch = await ward.batch("b1", NAMES)
    files = ward.write()

    for error, body in [
        (RequestInvalid, wire.RecordsRequest(batch=batch, files={"imagery": files["imagery"]})),
        (RequestInvalid, wire.RecordsRequest(batch=batch, files={**files, "more": "b1/more.csv"})),
        (EntryMissing, wire.RecordsRequest(batch=batch, files={**files, "imagery": "b1/Kowalczyk.csv"})),
        (RequestInvalid, wire.RecordsRequest(batch=batch, files={**files, "imagery": "../Kowalczyk.csv"})),
        (NotFound, wire.RecordsRequest(batch="batch-unknown", files=files)),
    ]:
        with pytest.raises(error) as refused:
            await ward.records.declare(PROJECT, "ann", body)
        assert "Kowalczyk" not in f"{refused.value} {refused.value.details}"

    with psycopg.connect(ward.dsns.superuser) as conn:
        insert(conn, "fact_column", project_id=PROJECT, name="gleason", type="text", table_name="old")
    with pytest.raises(Conflict):
        await ward.declare(batch, files)
    assert (await ward.records.list(PROJECT)).records == []


async def test_a_contradictory_policy_is_refused_when_tables_are_declared(ward: Ward) -> None:
    """The types of a policy cannot say everything; the room checks before it opens a file."""
    ward.policy = msgspec.structs.replace(ward.policy, tables=ward.policy.tables[1:])
    body = wire.RecordsRequest(batch=await ward.batch("b1", NAMES), files={"outcomes": "b1/outcomes.csv"})

    with pytest.raises(PolicyInvalid):
        await ward.room().declare(PROJECT, "ann", body)


async def test_every_step_left_an_audit_record_without_names(ward: Ward) -> None:
    """Who declared, who looked into the vault and why, what came of it."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    found = await ward.aligned(batch, ward.write())

    with psycopg.connect(ward.dsns.superuser) as conn:
        rows = conn.execute("select body::jsonb ->> 'action', body::jsonb ->> 'subject', body from mover.audit_record"
                            " order by seq").fetchall()  # fmt: skip
    actions = [action for action, _, _ in rows]
    assert actions == ["records declared", "unseal", "unseal", "records aligned"]
    assert rows[0][1] == rows[-1][1] == found.id
    assert [name for name in PLANTED if any(name in body.casefold() for *_, body in rows)] == []


async def test_another_project_sees_none_of_it(ward: Ward) -> None:
    """Projects are apart in the database (D18)."""
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    found = await ward.aligned(batch, ward.write())

    assert (await ward.records.list("other")).records == []
    with pytest.raises(NotFound):
        await ward.records.view("other", found.id)
    assert (await ward.cohorts.count("other", "family = 'aperio'")) == (0, 0)


async def test_sets_that_wait_for_a_column_are_tried_by_a_draft_and_declared_again_once_it_is_followed(
    ward: Ward,
) -> None:
    """One rule, made from the refusal itself: it is known before what it would let pass, and nobody has to remember
    which tables waited. What nobody changed is not read again and again."""
    extra = OUTCOMES.replace("age\n", "age;ward phone\n", 1).replace(";91\n", ";91;555\n", 1)
    lines = extra.splitlines()
    wide = "\n".join([*lines[:2], *(f"{line};555" for line in lines[2:])]) + "\n"
    batch = await ward.batch("b1", NAMES)
    ward.complete(batch)
    waits = await ward.aligned(batch, ward.write(outcomes=wide))
    assert (waits.state, waits.reason) == ("quarantined", "place-unknown")
    text = yaml.safe_dump(POLICY, sort_keys=False)
    book = PolicyBook([Loaded(policy=ward.policy, file="records.yaml", text=text, digest="d")])
    quarantine = Quarantine(ward.database, book, node="n1")
    [cause] = [one for one in (await quarantine.causes(PROJECT)).causes if one.kind == "records"]

    draft = await quarantine.draft(PROJECT, cause.id, wire.QuarantineDraftRequest(column="ward phone"))
    assert (draft.policy, draft.table, draft.digest) == ("records", "outcomes", "d")
    listed = msgspec.convert(yaml.safe_load(draft.text), RecordsPolicy)
    broad = await quarantine.draft(PROJECT, cause.id, wire.QuarantineDraftRequest())
    assert yaml.safe_load(broad.text)["tables"][1]["others"] == "drop"
    told = {name: await ward.records.plan_policy(PROJECT, "ann", policy)
            for name, policy in (("as it is", ward.policy), ("drafted", listed))}  # fmt: skip
    assert told["drafted"].counts == {"sets that wait": 1, "would pass": 1, "would wait on": 0}
    assert told["drafted"].steps[0].reason == "3 slides would be aligned"
    assert told["as it is"].counts["would wait on"] == 1 and "not listed" in told["as it is"].steps[0].reason
    looks = "select count(*) from mover.audit_record"
    with psycopg.connect(ward.dsns.superuser) as conn:
        before = conn.execute(looks).fetchall()
        again = await ward.records.plan_policy(PROJECT, "ann", listed)
        assert again == told["drafted"] and conn.execute(looks).fetchall() == before, "asked at each key, read once"
        assert await ward.records.plan_policy(PROJECT, "bob", listed) == told["drafted"]
        actors = "select body::jsonb ->> 'actor' from mover.audit_record order by at desc, seq desc limit 2"
        assert {row[0] for row in conn.execute(actors).fetchall()} == {"bob"}, "who looks at names is on record"
        before = conn.execute(looks).fetchall()
        ward.records._clock = Later()
        await ward.records.plan_policy(PROJECT, "bob", listed)
        assert conn.execute(looks).fetchall() > before, "what was said a minute ago is not told as now"

    assert await ward.records.declare_due(PROJECT) == 0, "nobody followed another policy since"
    ward.policy = listed
    ward.records = ward.room()
    with psycopg.connect(ward.dsns.superuser) as conn:
        conn.execute("insert into mover.node (id, version) values ('n1', '1') on conflict do nothing")
        conn.execute("insert into mover.policy (name, digest, kind, text) values ('records', 'd2', 'records', 'x')")
        conn.execute("insert into mover.policy_stand (node, name, digest) values ('n1', 'records', 'd2')")
    assert await ward.records.declare_due(PROJECT) == 1 and await ward.records.declare_due(PROJECT) == 0
    newest = (await ward.records.list(PROJECT, batch)).records[0]
    assert newest.version == 2 and (await ward.work(newest.id)).state == "aligned"
    assert [one for one in (await quarantine.causes(PROJECT)).causes if one.kind == "records"] == []
    with pytest.raises(NotFound):
        await quarantine.draft(PROJECT, cause.id, wire.QuarantineDraftRequest())


class Later(SystemClock):
    def monotonic_s(self) -> float:
        return super().monotonic_s() + records.TRIED_FOR_S


async def test_tables_that_cannot_be_read_again_hold_up_no_others(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """One damaged set, one of a policy that is followed elsewhere and one that is away now, each older than the rest:
    the rest goes on, what was away comes again, and the daemon's loop meets no error that it does not know."""
    monkeypatch.setattr(records, "TRIED_AT_ONCE", 1)
    batch = await ward.batch("b1", NAMES)
    gone, elsewhere, away, well = [
        (await ward.declare(batch, ward.write(outcomes=f"{OUTCOMES}#{n}", folder=f"b{n}"))).id for n in range(4)
    ]
    with psycopg.connect(ward.dsns.superuser) as conn:
        for n, one in enumerate((elsewhere, away, well)):
            insert(conn, "batch", project_id=PROJECT, id=f"batch-o{n}", tier="intake", policy="images",
                   folder=f"batch-o{n}", state="working", created_by="ann")  # fmt: skip
            conn.execute("update mover.record_set set batch_id = %s, version = 1 where id = %s", [f"batch-o{n}", one])
        conn.execute("update mover.record_set set state = 'quarantined', reason = 'place-unknown',"
                     " finished_at = now() - interval '1 minute'")  # fmt: skip
        conn.execute("update mover.record_set set policy = 'elsewhere' where id = %s", [elsewhere])
        conn.execute("update vault.sealed set body = '' where id = (select source from mover.record_set where id = %s)",
                     [gone])  # fmt: skip
        conn.execute("insert into mover.node (id, version) values ('n1', '1') on conflict do nothing")
        for name in ("records", "elsewhere"):
            insert(conn, "policy", name=name, digest="d2", kind="records", text="x")
            insert(conn, "policy_stand", node="n1", name=name, digest="d2")
    ward.policy = msgspec.structs.replace(ward.policy, minimum_k=7)
    ward.records = ward.room()
    declare, tried = ward.records.declare, []

    async def refused(project: str, actor: str, body: wire.RecordsRequest) -> wire.RecordSet:
        tried.append(body.batch)
        if tried.count("batch-o1") == 1 and body.batch == "batch-o1":
            raise TierUnavailable("away")
        return await declare(project, actor, body)

    monkeypatch.setattr(ward.records, "declare", refused)

    found = [await ward.records.declare_due(PROJECT) for _ in range(6)]

    assert found == [1, 1, 1, 0, 1, 0]
    assert tried == ["batch-o1", "batch-o2", "batch-o1"], "what was away comes again after the others"
    newest = {one.batch: one.version for one in (await ward.records.list(PROJECT)).records[:2]}
    assert newest == {"batch-o1": 2, "batch-o2": 2}
    [step] = (await ward.records.plan_policy(PROJECT, "ann", ward.policy)).steps
    assert (step.action, step.subject) == ("wait", gone) and "not kept any more" in step.reason
