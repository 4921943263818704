"""What custodians do with the vault: two key files reveal, an erasure stays, a re-key loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mover.catalog.database import Database
from mover.catalog.postgres import EmbeddedServer
from mover.deid import upkeep as upkeep_module
from mover.deid.custody import Custody
from mover.deid.identity import Identity
from mover.deid.upkeep import Upkeep
from mover.deid.vault import Vault, copy_place
from mover.deid.vaultkeys import (
    PublicKey,
    PublicPart,
    RevealKey,
    VaultKey,
    ask_bytes,
    encode_file,
    new_pair,
    next_path,
    write_new,
    write_over,
)
from mover.errors import CatalogUnavailable, Denied, NotFound, SettingsInvalid, SubjectErased, VaultConflict
from mover.model import wire
from mover.model.names import decode_names, encode_names
from mover.randomness import new_number
from tests.support.postgres import Dsns, add_tiers

PATIENT = "PAT-Mustermann-4711"
UID = "1.2.840.99999.4711"
NAME = "Mustermann^Erika 1955-04-01.svs"
PURPOSE = "the ward asks for a second look"
DIGEST = "ab" * 32


class Site:
    """One site's vault with the files around it."""

    def __init__(self, folder: Path, dsns: Dsns, database: Database, own: Database) -> None:
        self.folder, self.dsns, self.database, self.own = folder, dsns, database, own
        self.key_file, self.public_file = folder / "vault.key", folder / "vault.public"
        if not self.key_file.exists():
            VaultKey.create(self.key_file)
        self.vault = self.open_vault()
        self.custody = Custody(
            self.vault, own, database, site="ward", node="n1", stones=folder / "stones", public=self.public
        )
        self.upkeep = Upkeep(own, project="demo", node="n1-vault", actor="carol")

    def open_vault(self) -> Vault:
        self.public = PublicPart(self.public_file)
        return Vault(
            self.own, VaultKey.newest(self.key_file), site="ward", node="n1", public=self.public,
            renew=lambda generation: VaultKey.another(self.key_file, generation),
        )  # fmt: skip

    def make_pair(self, name: str = "key") -> RevealKey:
        pair = new_pair(self.folder / f"{name}-a", self.folder / f"{name}-b")
        write_over(self.public_file, encode_file(pair.public))
        return pair

    def rows(self, statement: str, *values: object) -> list[Any]:
        with psycopg.connect(self.dsns.superuser) as conn:
            cursor = conn.execute(statement, values)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def publish(self, number: str, project: str = "demo") -> None:
        add_tiers(self.dsns)
        self.rows("with g as (insert into mover.slide_grant (project_id, number) values (%s, %s))"
                  " insert into mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts)"
                  " values (%s, 'ward', 'dicom', 'dcm', 1, %s, 'archive', %s, '{}')",
                  project, number, number, DIGEST, f"slides/{number}")  # fmt: skip

    async def scan(self, patient: str = PATIENT, *, digest: str = DIGEST) -> tuple[str, str]:
        """A published DICOM scan of a patient: its number and the patient's pseudonym."""
        number, _ = await self.vault.mint_number(digest, body=encode_names([NAME]))
        seen = Identity(entities=(f"patient|{patient}", f"case|{patient} case"), uids=(f"{UID}.{patient[-4:]}",))
        made = await self.vault.aliases([seen], number=number)
        self.publish(number)
        return number, made.subjects[f"patient|{patient}"].pseudonym

    def ask(self, key: RevealKey | None, *names: str) -> wire.VaultRevealRequest:
        signature = key.sign(ask_bytes("reveal", PURPOSE, names)).hex() if key else ""
        return wire.VaultRevealRequest(names=list(names), purpose=PURPOSE, signature=signature)

    def records(self, action: str) -> list[str]:
        found = self.rows("select body from mover.audit_record where body::jsonb ->> 'action' = %s", action)
        return [body for (body,) in found]

    async def state(self) -> tuple[object, ...]:
        """Who stands for whom, as everybody who works sees it."""
        return (
            await self.vault.mint_number(DIGEST, body=b""),
            await self.vault.mint_subjects([f"P{n}" for n in range(30)]),
            await self.vault.mint_keys([f"case|c{n}" for n in range(30)]),
            await self.vault.mint_uids([f"1.2.{n}" for n in range(120)]),
            await self.vault.seal_many("demo", "entry", [(f"n{n}", b"x") for n in range(30)]),
        )


@pytest.fixture
async def site(tmp_path: Path, dsns: Dsns, database: Database) -> AsyncIterator[Site]:
    own = await Database.open(dsns.vault, name="test-vault", max_size=4)
    yield Site(tmp_path, dsns, database, own)
    await own.close()


# --- two key files ----------------------------------------------------------------------------------------


async def test_originals_are_opened_by_both_key_files_and_by_nothing_the_daemon_has(site: Site) -> None:
    """Neither custodian alone, nor whoever takes the daemon's machine, learns who a pseudonym is."""
    pair = site.make_pair()
    number, subject = await site.scan()
    told = await site.custody.reveal("demo", "carol", site.ask(pair, number, subject, "S" + "0" * 16))
    opened = {c.name: pair.open(c.copy, place=copy_place(c.kind, "ward", c.name)) for c in told.copies}

    assert opened[subject] == PATIENT.encode() and decode_names(opened[number]) == [NAME]
    assert told.unknown == ["S" + "0" * 16]
    [record] = site.records("vault revealed")
    assert PURPOSE in record and number in record and subject in record and "carol" in record and "Muster" not in record
    bodies = [site.rows(f"select body from vault.{table}") for table in ("number", "uid", "entity")]
    assert bodies == [[(b"",)]] * 3


@pytest.mark.parametrize("how", ["none", "one twice", "another pair"])
async def test_one_key_file_or_a_wrong_one_is_refused_and_the_refusal_is_recorded(site: Site, how: str) -> None:
    """An attempt is what the compliance officer wants to hear of."""
    pair = site.make_pair()
    number, _ = await site.scan()
    a, b = site.folder / "key-a", site.folder / "key-b"
    other = new_pair(site.folder / "other-a", site.folder / "other-b")
    with pytest.raises(Denied):
        RevealKey.join(a, a)
    with pytest.raises(Denied):
        RevealKey.join(a, site.folder / "other-b")
    signed = {"none": None, "one twice": RevealKey(bytes(32)), "another pair": other}[how]
    with pytest.raises(Denied, match="both key files"):
        await site.custody.reveal("demo", "eve", site.ask(signed, number))
    [record] = site.records("vault reveal refused")
    assert "eve" in record and PURPOSE in record
    assert RevealKey.join(a, b).pair == RevealKey.join(b, a).pair == pair.pair
    assert a.stat().st_mode & 0o777 == b.stat().st_mode & 0o777 == 0o600


async def test_a_signature_is_for_what_was_asked(site: Site) -> None:
    """Two persons agreed to one name; a third cannot use their yes for another."""
    pair = site.make_pair()
    number, subject = await site.scan()
    asked = site.ask(pair, number)
    with pytest.raises(Denied):
        await site.custody.reveal("demo", "eve", wire.VaultRevealRequest([subject], asked.purpose, asked.signature))


async def test_another_projects_subjects_do_not_exist(site: Site) -> None:
    pair = site.make_pair()
    number, subject = await site.scan()
    told = await site.custody.reveal("other", "carol", site.ask(pair, number, subject))
    assert told.copies == [] and told.unknown == [number, subject]
    with pytest.raises(NotFound):
        await site.custody.plan_erase("other", "carol", wire.VaultEraseRequest(subject, PURPOSE))


@pytest.mark.slow
async def test_what_was_sealed_before_there_was_a_pair_is_sealed_for_it(site: Site) -> None:
    """A site that begins with one daemon and no custodians must be able to get them later; and new ones after that."""
    number, subject = await site.scan()
    before = await site.state()
    pair = site.make_pair()
    assert (await site.custody.reveal("demo", "c", site.ask(pair, subject))).unsealed == [subject]
    public = PublicKey(pair.public)
    done = await site.upkeep.adopt(site.vault.key, public)
    assert done.changed > 120 and (await site.upkeep.adopt(site.vault.key, public)).changed == 0
    newer = site.make_pair("newer")
    assert (await site.upkeep.rotate(pair, PublicKey(newer.public))).changed == done.changed

    told = await site.custody.reveal("demo", "c", site.ask(newer, subject))
    place = copy_place("subject", "ward", subject)
    assert newer.open(told.copies[0].copy, place=place) == PATIENT.encode()
    with pytest.raises(Denied):
        pair.open(told.copies[0].copy, place=place)
    with pytest.raises(VaultConflict):
        newer.open(told.copies[0].copy, place=copy_place("subject", "ward", "S2"))
    assert await site.state() == (before[0][:1] + (False,), *before[1:])  # type: ignore[index]


async def test_the_maps_of_a_project_are_exported_page_by_page(site: Site) -> None:
    """MIDI-B compares UIDs and patient ids before and after; nobody else's rows are in it."""
    pair = site.make_pair()
    await site.scan()
    await site.vault.mint_uids(["9.9.9"])  # nobody's
    for what, original in (("uids", f"{UID}.4711"), ("patients", PATIENT)):
        signature = pair.sign(ask_bytes("export", PURPOSE, [what])).hex()
        found, skipped, after = [], 0, ""
        while after is not None:
            body = wire.VaultExportRequest(what, PURPOSE, signature, after, 1)  # type: ignore[arg-type]
            page = await site.custody.export("demo", "carol", body)
            found += [pair.open(c.copy, place=copy_place(c.kind, "ward", c.name)) for c in page.copies]
            skipped, after = skipped + page.skipped, page.next
        assert found == [original.encode()] and skipped == (1 if what == "uids" else 0)
        with pytest.raises(Denied):
            await site.custody.export("demo", "eve", wire.VaultExportRequest(what, PURPOSE))  # type: ignore[arg-type]
    assert len(site.records("vault exported")) >= 3 and len(site.records("vault export refused")) == 2


# --- what the database shows ------------------------------------------------------------------------------


@pytest.mark.slow
async def test_no_original_stands_in_a_dump_of_the_database(site: Site, server: EmbeddedServer) -> None:
    """A dump is what is mailed to a consultant."""
    await site.scan("PAT-Early-0815", digest="cd" * 32)
    pair = site.make_pair()
    number, subject = await site.scan()
    await site.vault.seal_many("demo", "entry", [(NAME, NAME.encode())])
    await site.custody.reveal("demo", "carol", site.ask(pair, number, subject))
    command = [str(server.bin_dir / "pg_dump"), "--inserts", "--dbname", site.dsns.superuser]
    run = asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=60)
    dump = (await run).stdout.lower()
    assert number.lower().encode() in dump
    for value in (PATIENT, "PAT-Early-0815", "Mustermann", "Erika", UID, NAME, f"{PATIENT} case"):
        for form in (value.lower().encode(), value.encode().hex().encode(), value.lower().encode().hex().encode()):
            assert form not in dump, value


def test_the_vaults_role_reads_and_writes_no_table(dsns: Dsns) -> None:
    """Insert-or-get without a list: who takes the daemon's connection cannot walk through the crosswalk."""
    with psycopg.connect(dsns.superuser) as conn:
        tables = [name for (name,) in conn.execute("select tablename from pg_tables where schemaname = 'vault'")]
    assert len(tables) == 10
    with psycopg.connect(dsns.vault, autocommit=True) as conn:
        for table in tables:
            for statement in ("select * from vault.{}", "delete from vault.{}", "insert into vault.{} default values"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    conn.execute(statement.format(table))  # type: ignore[arg-type]


async def test_a_list_leaves_its_record(site: Site) -> None:
    """The one function that lists writes the record itself."""
    await site.scan()
    with psycopg.connect(site.dsns.vault) as conn:
        conn.execute("select set_config('mover.project', 'demo', true)")
        record = '{"action": "l"}'
        listed = conn.execute("select * from vault.list_rows('uid', '', '', '', 10, 'demo', 'n9', %s)", [record])
        assert len(listed.fetchall()) == 1
    assert site.records("l")


# --- erasure ----------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_an_erased_subject_stays_erased_when_a_backup_comes_back(site: Site) -> None:
    """The right to be forgotten ends where an old backup remembers."""
    pair = site.make_pair()
    number, subject = await site.scan()
    _, kept = await site.scan("PAT-Other-0815", digest="cd" * 32)
    saved = {t: site.rows(f"select * from vault.{t}") for t in ("number", "subject", "entity", "uid", "tie")}
    plan = await site.custody.plan_erase("demo", "carol", wire.VaultEraseRequest(subject, PURPOSE))
    told = await site.custody.erase("demo", "carol", wire.VaultEraseRequest(subject, PURPOSE))
    assert plan.rows == told.rows == {"number": 1, "subject": 1, "entity": 1, "uid": 1}
    assert told.withdrawn == [number] == [n for (n,) in site.rows("select number from mover.slide_withdrawal")]

    # the restore: everything is back, and no tombstone
    site.rows("delete from vault.tombstone")
    for table, rows in saved.items():
        for row in rows:
            marks = ", ".join(["%s"] * len(row))
            site.rows(f"insert into vault.{table} values ({marks}) on conflict do nothing", *row)
    assert len(site.rows("select 1 from vault.subject")) == 2
    assert await site.custody.honour("demo") == 4 and await site.custody.honour("demo") == 0

    assert [p for (p,) in site.rows("select pseudonym from vault.subject")] == [kept]
    assert (await site.custody.reveal("demo", "c", site.ask(pair, subject))).unknown == [subject]
    text = (site.folder / "stones").read_text()
    assert subject in text and "Muster" not in text and (site.folder / "stones").stat().st_mode & 0o777 == 0o600
    [record] = site.records("vault erased")
    assert subject in record and "Muster" not in record and len(site.records("vault erased again")) == 1


async def test_an_erased_scan_or_patient_is_not_taken_in_again(site: Site) -> None:
    """The same slide scanned into next month's batch must not tie the link anew."""
    _, subject = await site.scan()
    await site.custody.erase("demo", "carol", wire.VaultEraseRequest(subject, PURPOSE))
    with pytest.raises(SubjectErased):
        await site.vault.mint_number(DIGEST, body=b"")
    with pytest.raises(SubjectErased):
        await site.vault.aliases([Identity(entities=(f"patient|{PATIENT}",), uids=("1.2.3",))], number="")
    first, second = [(await site.vault.mint_subject(PATIENT))[0] for _ in range(2)]
    assert len({first, second, subject}) == 3 and site.rows("select * from vault.subject") == []


async def test_the_names_of_an_erased_subjects_packs_are_gone_and_others_of_the_batch_open(site: Site) -> None:
    """One erasure must not stop the tables of a whole batch."""
    number, subject = await site.scan()
    entry, barcode, other = await site.vault.seal_many(
        "demo", "entry", [("e", encode_names([NAME])), ("b", NAME.encode()), ("o", b"other")]
    )
    with psycopg.connect(site.dsns.superuser) as conn:
        conn.execute("insert into mover.batch (id, project_id, tier, policy, folder, created_by) values"
                     " ('batch-1', 'demo', 'intake', 'p', 'f', 'me')")  # fmt: skip
        conn.execute("insert into mover.pack (id, project_id, batch_id, barcode, entry, state, number)"
                     " values ('pack-1', 'demo', 'batch-1', %s, %s, 'duplicate', %s)",
                     [barcode, entry, number])  # fmt: skip
    told = await site.custody.erase("demo", "carol", wire.VaultEraseRequest(subject, PURPOSE))
    opened = await site.vault.unseal("demo", [entry, barcode, other], purpose=PURPOSE, actor="d")
    assert told.rows["sealed"] == 2 and opened[other] == b"other"
    assert decode_names(opened[entry]) == [f"erased/{entry}.svs"] and b"Muster" not in opened[barcode]


async def test_a_tombstone_that_the_vault_did_not_write_stops_the_start(site: Site) -> None:
    """Otherwise whoever may write one file erases patients, or brings them back."""
    _, subject = await site.scan()
    await site.custody.erase("demo", "carol", wire.VaultEraseRequest(subject, PURPOSE))
    stones = site.folder / "stones"
    stones.write_text(stones.read_text() + '{"torn')  # a kill in the middle of a line
    assert await site.custody.honour("demo") == 0
    stones.write_text(stones.read_text().replace(subject, "S" + "0" * 16))
    with pytest.raises(SettingsInvalid, match="did not write"):
        await site.custody.honour("demo")


# --- import -----------------------------------------------------------------------------------------------


async def test_a_brokers_crosswalk_is_taken_over_and_overwrites_nothing(site: Site) -> None:
    """Pseudonyms that are out in the world must be used from now on, and one typing error must not move a patient."""
    _, standing = await site.scan()
    number, taken = new_number(), new_number()
    rows = [
        wire.VaultImportRow(2, "MRN_77", "BROKER-1", -12), wire.VaultImportRow(3, "MRN 78", "BROKER-2"),
        wire.VaultImportRow(4, PATIENT.lower(), "BROKER-3"), wire.VaultImportRow(5, "mrn 79", standing),
        wire.VaultImportRow(6, "80", "80"), wire.VaultImportRow(7, "81", "B-4"), wire.VaultImportRow(8, "82", "B-4"),
        wire.VaultImportRow(9, "83", "Müller, Änne"), wire.VaultImportRow(10, "84", ""),
        wire.VaultImportRow(11, file="In/S26-1.SVS", number=number), wire.VaultImportRow(12, file="x.svs", number="A1"),
        wire.VaultImportRow(13, file="y.svs", number=taken), wire.VaultImportRow(14, file="z.svs", number=taken),
    ]  # fmt: skip
    await site.vault.mint_subject(PATIENT.casefold())
    body = wire.VaultImportRequest(rows, PURPOSE)
    plan = await site.custody.import_rows("demo", "carol", body, plan=True)
    assert plan.taken == 3 and await site.custody.import_rows("demo", "carol", body, plan=True) == plan
    told = await site.custody.import_rows("demo", "carol", body, plan=False)
    codes = {p.line: p.code for p in told.problems}
    assert (told.taken, told.problems) == (3, plan.problems)
    assert codes == {
        4: "patient-has-another", 5: "pseudonym-taken", 6: "pseudonym-is-original", 7: "lines-contradict",
        8: "lines-contradict", 9: "pseudonym-shape", 10: "pseudonym-shape", 12: "number-shape",
        13: "lines-contradict", 14: "lines-contradict",
    }  # fmt: skip
    assert "Müller" not in str(told) and "lle" not in str(told.problems)

    assert await site.vault.mint_subject("mrn_77") == ("BROKER-1", -12) == await site.vault.mint_subject("mrn 77")
    assert (await site.vault.mint_number("12" * 32, body=encode_names(["other/s26-1.svs"])))[0] == number
    # a file of the same name in another folder: nobody can say here which of them the broker meant
    with pytest.raises(VaultConflict, match="imported crosswalk"):
        await site.vault.mint_number("34" * 32, body=encode_names(["S26-1.svs"]))
    assert await site.vault.find_number("34" * 32) is None
    again = await site.custody.import_rows("demo", "carol", wire.VaultImportRequest(rows[:2], PURPOSE), plan=False)
    assert (again.taken, again.same) == (0, 2)


# --- re-key -----------------------------------------------------------------------------------------------


def following(site: Site) -> VaultKey:
    """The next key, in its file beside the one in use."""
    path = next_path(site.key_file)
    if not path.exists():
        write_new(path, VaultKey.load(site.key_file).successor().to_file())
    return VaultKey.load(path)


@pytest.mark.slow
async def test_a_rekey_changes_every_row_and_nothing_that_anybody_sees(site: Site) -> None:
    """Also not for a daemon that runs through it, and not for the tags that the catalog holds."""
    first = await site.state()
    number, _ = first[0]  # type: ignore[misc]
    tag = site.vault.tag("demo", "entry", "n1")
    old = site.rows("select lookup, body from vault.uid order by replacement")
    new = following(site)
    done = await site.upkeep.rekey(new)
    assert done.rows == done.changed == 1 + 30 + 30 + 120 + 30

    assert await site.state() == ((number, False), *first[1:])
    assert (await site.vault.find_tags("demo", "entry", [tag]))[tag] == first[4][1]  # type: ignore[index]
    renewed = site.rows("select lookup, body from vault.uid order by replacement")
    assert not {bytes(a) for a, _ in old} & {bytes(a) for a, _ in renewed}
    assert new.retired().lookup(VaultKey.load(site.key_file).keyed("uid|ward|1.2.1")) in {bytes(a) for a, _ in renewed}
    write_over(site.key_file, new.retired().to_file())
    next_path(site.key_file).unlink()
    reopened = site.open_vault()
    opened = await reopened.unseal("demo", first[4][:3], purpose=PURPOSE, actor="d")  # type: ignore[index]
    assert list(opened.values()) == [b"x"] * 3
    twice = following(site)
    assert (await site.upkeep.rekey(twice)).changed == done.changed and twice.generation == 3
    assert await site.state() == ((number, False), *first[1:])


@pytest.mark.slow
async def test_the_old_key_finds_and_seals_nothing_after_the_rekey_began(site: Site) -> None:
    """A daemon without the new file must stop, not give one scan two numbers."""
    await site.state()
    new = following(site)
    stale = Vault(site.own, VaultKey.load(site.key_file), site="ward", node="n2")
    await site.upkeep.rekey(new)
    for work in (stale.mint_number(DIGEST, body=b""), stale.find_many("demo", "entry", ["n1"])):
        with pytest.raises(CatalogUnavailable, match="re-keyed"):
            await work
    with pytest.raises(SettingsInvalid):
        await site.upkeep.rekey(new.successor().successor())


async def test_a_rekey_that_never_began_stops_nobody(site: Site) -> None:
    """Killed between making the new file and the first statement; the daemon starts in between."""
    subject = await site.vault.mint_subject("P1")
    following(site)
    restarted = Site(site.folder, site.dsns, site.database, site.own)
    assert await restarted.custody.honour("demo") == 0
    assert await restarted.vault.mint_subject("P1") == subject and restarted.vault.key.generation == 1


@pytest.mark.slow
async def test_a_rekey_with_a_strangers_key_does_not_begin(site: Site) -> None:
    """A vault that had turned to a key nobody has would be closed for ever."""
    first = await site.state()
    for strange in (VaultKey(bytes(32)).successor(), VaultKey.load(site.key_file).successor().successor()):
        with pytest.raises((SettingsInvalid, VaultConflict)):
            await site.upkeep.rekey(strange)
    await site.custody.honour("demo")
    with pytest.raises((SettingsInvalid, VaultConflict)):
        await site.upkeep.rekey(VaultKey(bytes(32)).successor())
    assert (await site.state())[1:] == first[1:]
    new = following(site)
    await site.upkeep.rekey(new)
    with pytest.raises((SettingsInvalid, VaultConflict)):
        await site.upkeep.rekey(VaultKey.load(site.key_file).successor())
    other = Custody(Vault(site.own, VaultKey(bytes(32)).successor(), site="ward", node="n"), site.own, site.database,
                    site="ward", node="n", stones=site.folder / "none", public=lambda: None)  # fmt: skip
    with pytest.raises(SettingsInvalid, match="not the key"):
        await other.honour("demo")


@pytest.mark.slow
async def test_work_goes_on_while_the_vault_is_rekeyed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two daemons mint the same scans all the while: one scan, one number (D19)."""
    monkeypatch.setattr(upkeep_module, "SLICE", 7)
    other = site.open_vault()
    uids = [f"1.2.{n}" for n in range(120)]
    first = await site.vault.mint_uids(uids[:60])

    async def mint(vault: Vault) -> dict[str, str]:
        made: dict[str, str] = {}
        for n in range(0, 120, 5):
            made |= await vault.mint_uids(uids[: n + 5])
        return made

    new = following(site)
    one, two, done = await asyncio.gather(mint(site.vault), mint(other), site.upkeep.rekey(new))
    assert one == two and one | first == one and len(set(one.values())) == 120
    assert {g for (g,) in site.rows("select generation from vault.uid")} == {2}
    assert site.rows("select generation, oldest from vault.ring") == [(2, 2)]


async def test_an_erasure_before_a_rekey_holds_after_it(site: Site) -> None:
    _, subject = await site.scan()
    await site.custody.erase("demo", "carol", wire.VaultEraseRequest(subject, PURPOSE))
    await site.upkeep.rekey(following(site))
    with pytest.raises(SubjectErased):
        await site.vault.mint_number(DIGEST, body=b"")
    assert await site.custody.honour("demo") == 0


KILLED = """
import asyncio, sys
from pathlib import Path
from mover.catalog.database import Database
from mover.deid import upkeep as module
from mover.deid.vaultkeys import VaultKey
module.SLICE = 5
async def main():
    own = await Database.open(sys.argv[1], name="upkeep", max_size=2)
    work = module.Upkeep(own, project="demo", node="n1-vault", actor="carol")
    print("begun", flush=True)
    await work.rekey(VaultKey.load(Path(sys.argv[2])), seen=lambda table, count: print(table, count, flush=True))
asyncio.run(main())
"""


def killed_after(arguments: list[str], lines: int) -> set[str]:
    """The first words of so many lines of a process; then it is killed."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        words = {running.stdout.readline().partition(" ")[0] for _ in range(lines)}
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
    return words


@pytest.mark.slow
async def test_a_rekey_killed_again_and_again_ends_whole(site: Site) -> None:
    """At every kill each row opens under one of the two keys, and in the end all under the new one."""
    first = await site.state()
    following(site)
    seen: set[str] = set()
    halves = set()
    for lines in (4, 16, 24, 30, 36):
        arguments = [sys.executable, "-c", KILLED, site.dsns.vault, str(next_path(site.key_file))]
        seen |= await asyncio.to_thread(killed_after, arguments, lines)
        assert (await site.state())[1:] == first[1:]
        halves.add(tuple(sorted(g for (g,) in site.rows("select distinct generation from vault.uid"))))
    await site.upkeep.rekey(VaultKey.load(next_path(site.key_file)))
    assert (1, 2) in halves and "uid" in seen
    assert (await site.state())[1:] == first[1:]
    for table in ("sealed", "number", "subject", "entity", "uid"):
        assert {g for (g,) in site.rows(f"select distinct generation from vault.{table}")} == {2}
