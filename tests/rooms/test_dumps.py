"""The vault and the catalog, dumped sealed to two tiers, proved, drilled, rotated; and slides that wait for a dump."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from mover import metrics
from mover.catalog import proofs
from mover.catalog.database import Database
from mover.catalog.postgres import EmbeddedServer
from mover.deid.vault import Vault
from mover.deid.vaultkeys import VaultKey, new_pair
from mover.demo.seaweed import Seaweed
from mover.errors import CatalogError, Conflict, Denied, IntegrityError, NotFound, TierFull
from mover.model import wire
from mover.model.policy import KeepRules
from mover.protect import dumpdrills, dumpfiles
from mover.randomness import new_id
from mover.sandbox import Sandbox
from mover.tiers.wrappers import Fault, FaultyTier
from tests.rooms.dump_rig import DUMP, KEY, SITE, Keeping, flip, records
from tests.rooms.rig import PROJECT, Rig, who
from tests.support.postgres import Dsns
from tests.support.seaweed import locked_bucket, object_tier
from tests.support.slides import svs

# a restore sweeps what killed ones left on the server: no other worker restores there meanwhile
pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow, pytest.mark.xdist_group("dumping")]

NAME = "Mustermann^Erika MRN-4711-0815"


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


@pytest.fixture
def keeping(rig: Rig, server: EmbeddedServer) -> Keeping:
    return Keeping(rig, server)


async def made(keeping: Keeping) -> wire.Dump:
    """A dump, asked for and worked on until nothing is due."""
    asked = await keeping.dumps.request(who(), wire.DumpRequest())
    await keeping.rig.work("dump-make")
    return await keeping.dumps.view(PROJECT, asked.id)


# --- making -----------------------------------------------------------------------------------------------


async def test_a_dump_stands_on_two_tiers_with_one_digest_and_a_proof(keeping: Keeping) -> None:
    dump = await made(keeping)
    assert dump.state == "verified" and dump.pair == keeping.pair.pair.hex() and dump.tables > 50 and dump.rows > 0
    assert {(c.tier, c.state) for c in dump.copies} == {("archive", "whole"), ("protect", "whole")}
    one, other = keeping.sealed("archive"), keeping.sealed("protect")
    assert one.read_bytes() == other.read_bytes() and one.stat().st_size == dump.size_bytes
    [proof] = keeping.rig.rows("select kind::text, count, root from mover.proof where subject_id = %s", dump.id)
    assert proof == ("verified", 2, dump.digest)
    assert [r["subject"] for r in records(keeping.rig, "dump verified")] == [dump.id]


async def test_neither_names_nor_rows_can_be_read_from_a_dump(keeping: Keeping, vault: Vault) -> None:
    """It travels further than the database: whoever holds a copy holds nothing."""
    await vault.seal_many(PROJECT, "entry", [(NAME, NAME.encode())])
    dump = await made(keeping)
    content = b"".join(path.read_bytes() for path in keeping.files("protect"))
    forms = [NAME.encode(), NAME.encode().hex().encode(), base64.b64encode(NAME.encode())[:-4], b"PGDMP", b"sealed-"]
    assert [form for form in forms if form in content] == [] and dump.size_bytes


async def test_without_a_pair_of_key_files_no_dump_is_made_and_it_says_how_to_make_one(keeping: Keeping) -> None:
    """A dump that the daemon itself could open would be the vault once more, in a worse place."""
    keeping.public = None
    dump = await made(keeping)
    assert (dump.state, dump.reason) == ("failed", "settings-invalid")
    assert keeping.files("archive") == [] and metrics.DUMPS.labels("failed")._value.get() >= 1
    assert [r["reason"] for r in records(keeping.rig, "dump failed")] == ["settings-invalid"]


async def test_a_dump_that_breaks_off_leaves_no_file_and_no_success(
    keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump is killed in the middle: what came until then is no dump (R3, R14)."""

    def broken(self: object, moment: object) -> Iterator[bytes]:
        yield b"PGDMP and then nothing"
        raise CatalogError("pg_dump ended with status -9")

    monkeypatch.setattr("mover.catalog.dumping.Dumper.stream", broken)
    dump = await made(keeping)
    assert (dump.state, dump.reason) == ("failed", "catalog") and keeping.files("archive") == []


async def test_one_that_was_cut_off_after_its_first_copy_goes_on_with_the_second(keeping: Keeping) -> None:
    """The second tier is away for a while: the database is not dumped again, and nothing is left over."""
    faulty = FaultyTier(keeping.rig.tiers["protect"], [Fault("put", "fail")])  # type: ignore[arg-type]
    keeping.tier("protect", faulty)
    asked = await keeping.dumps.request(who(), wire.DumpRequest())
    await keeping.rig.work("dump-make")
    waiting = await keeping.dumps.view(PROJECT, asked.id)
    first = keeping.sealed("archive")
    assert (waiting.state, waiting.reason) == ("making", "tier-unavailable")
    assert [c.tier for c in waiting.copies] == ["archive"]
    keeping.rig.due()
    await keeping.rig.work("dump-make")
    assert (await keeping.dumps.view(PROJECT, asked.id)).state == "verified" and keeping.sealed("archive") == first


async def test_a_full_tier_is_said_and_leaves_nothing_half_written(keeping: Keeping) -> None:
    faulty = FaultyTier(keeping.rig.tiers["archive"], [Fault("put", "full", at=1000)])  # type: ignore[arg-type]
    keeping.tier("archive", faulty)
    asked = await keeping.dumps.request(who(), wire.DumpRequest())
    await keeping.rig.work("dump-make")
    seen = await keeping.dumps.view(PROJECT, asked.id)
    assert (seen.state, seen.reason) == ("making", TierFull.code) and keeping.files("archive") == []
    keeping.rig.due()
    await keeping.rig.work("dump-make")
    assert (await keeping.dumps.view(PROJECT, asked.id)).state == "verified" and len(keeping.files("archive")) == 2


async def test_a_tier_that_stores_another_byte_than_it_was_sent_never_gets_a_verified_dump(keeping: Keeping) -> None:
    """Every common tool believes its own write; this one reads back cold."""
    faulty = FaultyTier(keeping.rig.tiers["archive"], [Fault("put", "flip", at=900)])  # type: ignore[arg-type]
    keeping.tier("archive", faulty)
    asked = await keeping.dumps.request(who(), wire.DumpRequest())
    await keeping.rig.work("dump-make")
    assert (await keeping.dumps.view(PROJECT, asked.id)).state != "verified"
    keeping.rig.due()
    await keeping.rig.work("dump-make")
    dump = await keeping.dumps.view(PROJECT, asked.id)
    assert dump.state == "verified" and len(keeping.files("archive")) == 2  # what was wrong is gone


async def test_one_that_is_being_made_is_that_one(keeping: Keeping) -> None:
    """Twice asked is once made; and two daemons begin one."""
    first = await keeping.dumps.request(who(), wire.DumpRequest())
    second = await keeping.dumps.request(who(), wire.DumpRequest())
    assert first.id == second.id and await keeping.dumps.begin_due(PROJECT) == 0


# --- schedule and rotation --------------------------------------------------------------------------------


async def test_the_first_dump_is_due_at_once_and_the_next_a_day_later(keeping: Keeping) -> None:
    assert await keeping.dumps.begin_due(PROJECT) == 1
    await keeping.rig.work("dump-make")
    assert await keeping.dumps.begin_due(PROJECT) == 0
    keeping.age(days=1)
    assert await keeping.dumps.begin_due(PROJECT) >= 1


async def test_what_no_rule_keeps_goes_from_both_tiers_and_the_newest_two_stay(keeping: Keeping) -> None:
    """`last: 1` would leave one; the one before it stays whatever the rules say."""
    dumps = [await made(keeping) for _ in range(4)]
    states = {d.id: d.state for d in (await keeping.dumps.list(PROJECT)).dumps}
    assert [states[d.id] for d in dumps] == ["gone", "gone", "verified", "verified"]
    for tier in ("archive", "protect"):
        assert len([p for p in keeping.files(tier) if p.suffix == ".sealed"]) == 2
    kept = await keeping.dumps.view(PROJECT, dumps[2].id)
    assert kept.reasons == ["it is held"] and len(list(records(keeping.rig, "dump removed"))) == 2


async def test_who_writes_rows_makes_no_dump_go(keeping: Keeping) -> None:
    """The daemon's database role in a thief's hands: rows of dumps that never were displaced every real one, and a row
    without an id removed all that stood below the prefix. What counts is what the vault signed."""
    real = [await made(keeping) for _ in range(3)][1:]
    files = [keeping.files(tier) for tier in ("archive", "protect")]
    async with keeping.rig.database.project(PROJECT) as conn:
        for forged in (*(new_id("dump") for _ in range(3)), ""):
            proof = await proofs.add(
                conn, project=PROJECT, kind="verified", subject=forged, count=2, bytes=1, root="00", verifier="me"
            )
            await conn.execute(
                "insert into mover.dump (id, project_id, policy, why, created_by, state, proof, taken_at)"
                " values (%s, %s, 'dump', 'w', 'me', 'verified', %s, now() - interval '9 days')",
                (forged, PROJECT, proof),
            )
    assert await keeping.dumps.rotate(PROJECT, DUMP) == 0
    assert [keeping.files(tier) for tier in ("archive", "protect")] == files
    assert [(await keeping.dumps.view(PROJECT, one.id)).state for one in real] == ["verified"] * 2


async def test_a_dump_that_stands_is_not_made_over(keeping: Keeping) -> None:
    """A catalog that was restored from a dump has that very dump as being made: to begin it anew removed it."""
    dump = await made(keeping)
    files = [keeping.files(tier) for tier in ("archive", "protect")]
    keeping.rig.rows("delete from mover.dump_copy")
    keeping.rig.rows("update mover.dump set state = 'making', proof = null")
    keeping.rig.rows("update mover.shard set state = 'waiting', finished_at = null where kind = 'dump-make'")
    await keeping.rig.work("dump-make")
    seen = await keeping.dumps.view(PROJECT, dump.id)
    assert (seen.state, seen.reason) == ("failed", Conflict.code)
    assert [keeping.files(tier) for tier in ("archive", "protect")] == files


@pytest.mark.parametrize("name", ["", "dump-1", "../slides", "run-01j00000000000000000000000"])
def test_nothing_is_removed_by_what_is_no_id_of_a_dump(rig: Rig, name: str) -> None:
    with pytest.raises(IntegrityError, match="not the id of a dump"):
        dumpfiles.remove(rig.tiers["archive"], "dumps", name)  # type: ignore[arg-type]


async def test_on_a_bucket_under_lock_a_dump_goes_when_the_lock_has_run_out_and_not_before(
    rig: Rig, server: EmbeddedServer, weed: Seaweed
) -> None:
    """A plain delete there would hide it, call that gone, and pay for it for ever."""
    rig.tiers["archive"] = bucket = object_tier(locked_bucket(weed, mode="COMPLIANCE"))
    keeping = Keeping(rig, server)
    dumps = [await made(keeping) for _ in range(3)]
    seen = await keeping.dumps.view(PROJECT, dumps[0].id)
    assert seen.state == "verified" and "no rule keeps it" in seen.reasons[0]
    assert {c.tier: c.state for c in seen.copies} == {"archive": "whole", "protect": "gone"}
    assert len([e for e in bucket.list("dumps") if e.key.endswith(".sealed")]) == 3


# --- drills -----------------------------------------------------------------------------------------------


async def drilled(keeping: Keeping, dump: str) -> wire.DumpDrill:
    await keeping.dumps.request_drill(who(), dump)
    await keeping.rig.work("dump-drill")
    return (await keeping.dumps.view(PROJECT, dump)).drills[0]


async def test_without_the_key_files_a_drill_reads_and_says_that_it_did_not_open(keeping: Keeping) -> None:
    """Green over nothing is the worst answer there is: what was not tried is not called restored."""
    drill = await drilled(keeping, (await made(keeping)).id)
    assert (drill.kind, drill.passed) == ("read", True) and "not tried" in (drill.explanation or "")


async def test_with_the_key_files_a_drill_restores_every_table_and_leaves_no_database(
    rig: Rig, server: EmbeddedServer, vault: Vault
) -> None:
    keeping = Keeping(rig, server, drill_keys=True)
    await vault.seal_many(PROJECT, "entry", [(NAME, NAME.encode())])
    dump = await made(keeping)
    drill = await drilled(keeping, dump.id)
    assert (drill.kind, drill.passed, drill.explanation) == ("restore", True, None)
    assert (drill.tables, drill.rows) == (dump.tables, dump.rows)
    assert rig.rows("select datname from pg_database where starts_with(datname, 'mover_drill_')") == []


@pytest.mark.parametrize("place", ["head", "middle", "end"])
async def test_a_flipped_byte_in_a_copy_is_found_and_the_dump_counts_no_more(keeping: Keeping, place: str) -> None:
    """Wherever it is. A new dump is due at once, and the whole copy stays until two newer ones are whole."""
    dump = await made(keeping)
    path = keeping.sealed("protect")
    flip(path, {"head": 5, "middle": path.stat().st_size // 2, "end": -1}[place])
    drill = await drilled(keeping, dump.id)
    seen = await keeping.dumps.view(PROJECT, dump.id)
    assert drill.passed is False and seen.state == "damaged"
    assert {c.tier: c.state for c in seen.copies} == {"archive": "whole", "protect": "damaged"}
    assert "protect" in (seen.explanation or "") and list(records(keeping.rig, "dump found damaged"))
    assert not (await keeping.dumps.release()).allowed
    keeping.age(hours=1)
    assert await keeping.dumps.begin_due(PROJECT) == 1


async def test_a_copy_that_is_gone_is_found_too(keeping: Keeping) -> None:
    dump = await made(keeping)
    keeping.sealed("archive").unlink()
    assert (await drilled(keeping, dump.id)).passed is False


async def test_drills_begin_by_themselves_once_in_a_while(keeping: Keeping) -> None:
    await made(keeping)
    assert await keeping.dumps.begin_due(PROJECT) == 0
    keeping.age(hours=2)
    assert await keeping.dumps.begin_due(PROJECT) >= 1
    await keeping.rig.work("dump-drill")
    assert keeping.rig.rows("select passed from mover.dump_drill") == [(True,)]


async def test_only_what_stands_can_be_drilled(keeping: Keeping) -> None:
    with pytest.raises(NotFound):
        await keeping.dumps.request_drill(who(), "dump-none")


# --- restore ----------------------------------------------------------------------------------------------


async def test_a_person_with_both_files_restores_the_latest_by_its_sidecar_alone(keeping: Keeping) -> None:
    """The catalog is lost: nothing but a tier, the two files and the vault's key is needed."""
    await made(keeping)
    latest = await made(keeping)
    tier = keeping.rig.tiers["protect"]
    told = dumpdrills.trusted(tier, "dumps", None, key=KEY, site=SITE)
    assert told.dump == latest.id
    compared = dumpdrills.drill(keeping.dumper, tier, told, "dumps", key=keeping.pair)
    assert compared.different == () and compared.tables == latest.tables


async def test_nothing_is_restored_over_a_database_that_is_not_empty(keeping: Keeping) -> None:
    await made(keeping)
    tier = keeping.rig.tiers["archive"]
    told = dumpdrills.trusted(tier, "dumps", None, key=KEY, site=SITE)
    with pytest.raises(Conflict):
        dumpdrills.restore(keeping.dumper, tier, told, "dumps", key=keeping.pair)


async def test_another_pair_opens_nothing(keeping: Keeping, tmp_path: Path) -> None:
    await made(keeping)
    tier = keeping.rig.tiers["archive"]
    told = dumpdrills.trusted(tier, "dumps", None, key=KEY, site=SITE)
    with pytest.raises(Denied, match="sealed for the pair"):
        dumpdrills.drill(keeping.dumper, tier, told, "dumps", key=new_pair(tmp_path / "c", tmp_path / "d"))


async def test_a_dump_that_somebody_else_sealed_for_our_pair_is_not_restored(keeping: Keeping) -> None:
    """The public part is public: who can write to the tier could put a database of his own there."""
    await made(keeping)
    tier = keeping.rig.tiers["archive"]
    [path] = [p for p in keeping.files("archive") if p.suffix == ".json"]
    forged = msgspec.json.decode(path.read_bytes(), type=dumpfiles.Sidecar)
    forged = dumpfiles.sign(msgspec.structs.replace(forged.told, dump="dump-zzz"), VaultKey(bytes(32)))
    (path.parent / "dump-zzz.json").write_bytes(msgspec.json.encode(forged))
    with pytest.raises(IntegrityError, match="not signed with this vault's key"):
        dumpdrills.trusted(tier, "dumps", "dump-zzz", key=KEY, site=SITE)


# --- the gate ---------------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    return Rig(tmp_path, dsns, database, vault, sandbox)


async def test_no_slide_is_released_while_the_newest_dump_is_too_old_and_it_goes_on_by_itself(
    whole: Rig, server: EmbeddedServer
) -> None:
    """R15: a slide whose crosswalk could be lost tomorrow is not given out today; nobody has to ask again."""
    keeping = Keeping(whole, server)
    folder = whole.folder / "intake" / "b1"
    folder.mkdir()
    (folder / "one.svs").write_bytes(svs())
    batch = await whole.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1"), again=True)

    await whole.work("batch-walk", "pack-deidentify")
    seen = await whole.batches.view(PROJECT, batch.id)
    assert seen.state == "working" and seen.packs == {"found": 1} and "dump-overdue" in (seen.explanation or "")
    assert "no verified dump" in ((await keeping.dumps.list(PROJECT)).release_stopped or "")
    await keeping.dumps.measure()
    assert metrics.RELEASE_STOPPED._value.get() == 1

    await made(keeping)
    whole.due()
    await whole.work("pack-deidentify")
    assert (await whole.batches.view(PROJECT, batch.id)).state == "complete"
    await keeping.dumps.measure()
    assert metrics.RELEASE_STOPPED._value.get() == 0

    keeping.age(hours=37)
    assert "37.0 h old" in ((await keeping.dumps.list(PROJECT)).release_stopped or "")
    assert whole.rows("select failures from mover.shard where kind = 'pack-deidentify'") == [(0,)]


async def test_the_strictest_of_two_policies_decides(keeping: Keeping) -> None:
    await made(keeping)
    assert (await keeping.dumps.release()).allowed
    keeping.use(msgspec.structs.replace(DUMP, name="dump-far", keep=KeepRules(last=3)))
    assert not (await keeping.dumps.release()).allowed


async def test_without_a_dump_policy_slides_are_released(rig: Rig) -> None:
    """`mover status` warns; a site that never asked for dumps does not stand still."""
    assert (await rig.protecting.dumps.release()).allowed
