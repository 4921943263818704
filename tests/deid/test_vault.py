"""The vault ties names to numbers: once, sealed, and never looked into without a record."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pytest

from mover import audit
from mover.catalog.database import Database
from mover.deid import vault as vault_module
from mover.deid.identity import Identity
from mover.deid.vault import Vault, VaultKey
from mover.errors import NotFound, RequestInvalid, SettingsInvalid, VaultConflict
from mover.model.ids import is_number
from tests.support.postgres import Dsns

NAME = b"Mustermann^Erika 1955-04-01.svs"
DIGEST = "ab" * 32


async def test_sealing_the_same_name_twice_gives_the_same_id(vault: Vault) -> None:
    """A repeated shard must meet the rows of its first try, not make new ones."""
    first = await vault.seal_many("demo", "entry", [("a", b"1"), ("b", b"2")])
    again = await vault.seal_many("demo", "entry", [("b", b"other"), ("c", b"3"), ("b", b"2")])
    assert again[0] == again[2] == first[1] and again[1] not in first
    opened = await vault.unseal("demo", [first[1]], purpose="the test looks", actor="ann")
    assert opened == {first[1]: b"2"}


async def test_two_daemons_sealing_at_once_agree(vault: Vault) -> None:
    """Insert-or-get under contention, in opposite order: no deadlock, one id a name."""
    items = [(f"name {index}", b"x") for index in range(300)]
    many = await asyncio.gather(
        *(vault.seal_many("demo", "entry", items[:: 1 if turn % 2 else -1]) for turn in range(4))
    )
    assert all(sorted(ids) == sorted(many[0]) for ids in many)
    assert len(set(many[0])) == 300


async def test_find_answers_without_making(vault: Vault) -> None:
    assert await vault.find("demo", "folder", "a") is None
    (made,) = await vault.seal_many("demo", "folder", [("a", b"1")])
    assert await vault.find("demo", "folder", "a") == made
    assert await vault.find("demo", "entry", "a") is None
    assert await vault.find("other", "folder", "a") is None


async def test_every_look_leaves_a_record_of_who_why_and_what(vault: Vault, database: Database) -> None:
    """The compliance officer's first question is who saw whom (D10)."""
    (made,) = await vault.seal_many("demo", "entry", [("a", NAME)])
    await vault.unseal("demo", [made], purpose="call the ward back", actor="ann")
    async with database.project("demo") as conn:
        page = await audit.page(conn, "demo")
        assert (await audit.verify(conn, "demo")).whole
    assert [line.body | {"details": 0} for line in page.records] == [
        {
            "action": "unseal",
            "actor": "ann",
            "reason": "call the ward back",
            "request": "",
            "subject": made,
            "details": 0,
        }
    ]
    assert page.records[0].body["details"] == {"ids": [made]}


async def test_without_a_record_there_is_no_look(vault: Vault, dsns: Dsns) -> None:
    """When the audit cannot be written, nothing is opened."""
    (made,) = await vault.seal_many("demo", "entry", [("a", NAME)])
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("revoke execute on function mover.audit_append from mover_vault")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await vault.unseal("demo", [made], purpose="looking around", actor="eve")


async def test_another_projects_names_do_not_exist(vault: Vault) -> None:
    (made,) = await vault.seal_many("demo", "entry", [("a", NAME)])
    with pytest.raises(NotFound):
        await vault.unseal("other", [made], purpose="looking around", actor="eve")
    with pytest.raises(RequestInvalid):
        await vault.unseal("demo", [made], purpose=" ", actor="eve")


async def test_a_row_moved_to_another_place_does_not_open(vault: Vault, dsns: Dsns) -> None:
    """The database's owner cannot make one person's row answer for another's."""
    ids = await vault.seal_many("demo", "entry", [("a", b"Erika"), ("b", b"Max")])
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("update vault.sealed set body = (select body from vault.sealed where id = %s) where id = %s", ids)
    with pytest.raises(VaultConflict):
        await vault.unseal("demo", [ids[1]], purpose="the test looks", actor="ann")


async def test_a_scan_has_one_number_whoever_asks_first(vault: Vault) -> None:
    """Eight daemons meet the same bytes: one number, minted once (D19, I6)."""
    answers = await asyncio.gather(*(vault.mint_number(DIGEST, body=NAME) for _ in range(8)))
    assert len({number for number, _ in answers}) == 1
    assert sum(minted for _, minted in answers) == 1
    assert is_number(answers[0][0])
    assert await vault.find_number(DIGEST) == answers[0][0]
    assert await vault.find_number("cd" * 32) is None


async def test_a_number_that_is_taken_is_drawn_again(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scans never share a number, not even when chance repeats itself."""
    taken, _ = await vault.mint_number(DIGEST, body=b"1")
    fresh = vault_module.new_number()
    draws = iter([taken, taken, fresh])
    monkeypatch.setattr(vault_module, "new_number", lambda: next(draws))
    assert await vault.mint_number("cd" * 32, body=b"2") == (fresh, True)


async def test_a_broken_random_source_ends_in_an_error_not_in_a_loop(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, _ = await vault.mint_number(DIGEST, body=b"1")
    monkeypatch.setattr(vault_module, "new_number", lambda: taken)
    with pytest.raises(VaultConflict):
        await vault.mint_number("cd" * 32, body=b"2")


async def test_a_patient_keeps_pseudonym_and_offset(vault: Vault) -> None:
    """Dates of one patient move together, in every batch and project, and never by zero days."""
    first = await vault.mint_subject("PAT-1")
    many = await vault.mint_subjects([f"PAT-{index}" for index in range(200)])
    assert (many["PAT-1"].pseudonym, many["PAT-1"].offset_days) == first
    assert len({subject.pseudonym for subject in many.values()}) == 200
    assert all(1 <= abs(subject.offset_days) <= 365 for subject in many.values())
    assert len({subject.offset_days for subject in many.values()}) > 50
    assert not any("PAT-" in subject.pseudonym for subject in many.values())


async def test_many_scans_get_their_numbers_at_once(vault: Vault) -> None:
    """A batch asks for all of its numbers; those that stand already stay."""
    taken, _ = await vault.mint_number(DIGEST, body=NAME)
    minted = await vault.mint_numbers({DIGEST: NAME, "cd" * 32: b"2", "ef" * 32: b"3"})
    assert minted[DIGEST] == taken and len(set(minted.values())) == 3
    assert await vault.find_number("ef" * 32) == minted["ef" * 32]


async def test_an_accession_and_a_uid_are_replaced_by_the_same_whoever_asks(vault: Vault) -> None:
    """A series published today must hang on the study that was published last year: one graph, one case (D19)."""
    keys, uids = ["case|d19-1", "block|d19-1 a", "slide|d19-1 a 3"], [f"1.2.840.{n}" for n in range(1200)]
    answers = await asyncio.gather(*(vault.mint_keys(keys[:: 1 if n % 2 else -1]) for n in range(4)))
    graphs = await asyncio.gather(*(vault.mint_uids(uids[:: 1 if n % 2 else -1]) for n in range(4)))

    assert all(answer == answers[0] for answer in answers) and all(graph == graphs[0] for graph in graphs)
    assert len(set(answers[0].values())) == 3 and all(is_number(text) for text in answers[0].values())
    assert len(set(graphs[0].values())) == 1200
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in graphs[0].values())
    assert await vault.mint_uids([]) == {}


async def test_a_patient_is_no_key(vault: Vault) -> None:
    """A patient has a date offset besides; two pseudonyms of one patient would break every link."""
    with pytest.raises(RequestInvalid):
        await vault.mint_keys(["patient|1"])


async def test_the_aliases_of_a_pack_hold_all_that_its_files_name(vault: Vault) -> None:
    """What is missing here would be refused by the plan; the patient is the one whom the tables know."""
    seen = [
        Identity(entities=("patient|pat-1", "case|d19-1"), uids=("1.2.3", "1.2.4"), words=("Erika",)),
        Identity(entities=("patient|pat-1", "slide|d19-1 a 3"), uids=("1.2.3",)),
    ]
    made = await vault.aliases(seen, number="N")
    assert made.number == "N"
    assert (made.subjects["patient|pat-1"].pseudonym, len(made.subjects)) == ((await vault.mint_subject("pat-1"))[0], 1)
    assert set(made.keys) == {"case|d19-1", "slide|d19-1 a 3"} and set(made.uids) == {"1.2.3", "1.2.4"}
    assert await vault.aliases(seen, number="N") == made


async def test_an_offset_sealed_before_names_were_sealed_beside_it_still_opens(vault: Vault, dsns: Dsns) -> None:
    """Dates published under it must go on moving by the same days."""
    made = await vault.mint_subject("PAT-1")
    lookup = vault.keyed("subject|ward|PAT-1")
    where = vault_module.place("subject", "ward", made[0], lookup)
    old = vault._key.seal(vault_module.msgspec.msgpack.encode(-77), place=where)
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("update vault.subject set body = %s where lookup = %s", (old, lookup))
    assert await vault.mint_subject("PAT-1") == (made[0], -77)


async def test_lookups_depend_on_the_key_and_on_the_site(dsns: Dsns) -> None:
    """Without the key, names cannot be tried; two sites do not share numbers."""
    database = await Database.open(dsns.vault, name="test")
    key = VaultKey(bytes(32))
    ward, clinic = (Vault(database, key, site=site, node="n") for site in ("ward", "clinic"))
    assert VaultKey(b"1" * 32).keyed("x") != key.keyed("x") != key.keyed("y")
    assert (await ward.mint_number(DIGEST, body=b""))[0] != (await clinic.mint_number(DIGEST, body=b""))[0]
    await database.close()


def test_a_key_file_is_private_and_never_overwritten(tmp_path: Path) -> None:
    """Overwriting it would close the crosswalk for ever."""
    path = tmp_path / "vault.key"
    made = VaultKey.create(path)
    assert path.stat().st_mode & 0o777 == 0o600 and len(path.read_bytes()) == 32
    assert VaultKey.load(path).keyed("x") == made.keyed("x")
    with pytest.raises(SettingsInvalid, match="already"):
        VaultKey.create(path)
    assert list(tmp_path.iterdir()) == [path]
    path.chmod(0o640)
    with pytest.raises(SettingsInvalid, match="read by others"):
        VaultKey.load(path)


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_key_of_another_length_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vault.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(SettingsInvalid):
        VaultKey.load(path)


def test_sealing_twice_never_gives_the_same_bytes() -> None:
    """Equal names must not be seen to be equal."""
    key = VaultKey(bytes(32))
    assert key.seal(NAME, place=b"p") != key.seal(NAME, place=b"p")
    assert key.open(key.seal(NAME, place=b"p"), place=b"p") == NAME
    with pytest.raises(VaultConflict):
        key.open(key.seal(NAME, place=b"p"), place=b"q")


async def test_equal_numbers_of_two_hospitals_are_two_patients(vault: Vault) -> None:
    """Tables, which name no issuer, mean the one that came first; that holds across packs and projects."""
    ours, theirs = "patient|4711^^^hospital b", "patient|4711^^^hospital a"
    first = (await vault.aliases([Identity(entities=(ours,))], number="N")).subjects[ours]
    other = (await vault.aliases([Identity(entities=(theirs,))], number="M")).subjects[theirs]
    again = await vault.aliases([Identity(entities=(ours,)), Identity(entities=("patient|4711",))], number="N")

    assert other.pseudonym != first.pseudonym and set(again.subjects.values()) == {first}
    assert (await vault.mint_subjects(["4711"]))["4711"] == first
