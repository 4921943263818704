"""Batches walked and packs published, with workers that were paused, overtaken or cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.deid.vault import Vault
from mover.errors import EntryMissing, LeaseLost
from mover.model import wire
from mover.model.sidecar import slide_folder
from mover.sandbox import Sandbox
from mover.tiers.wrappers import Fault, FaultyTier
from tests.rooms.rig import PROJECT, Rig
from tests.support.postgres import Dsns
from tests.support.slides import svs

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
SLIDE = svs()
OTHER_SLIDE = svs(size=(384, 256))


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, sandbox: Sandbox) -> Rig:
    return Rig(tmp_path, dsns, database, vault, sandbox)


def put(rig: Rig, **slides: bytes) -> None:
    for name, data in slides.items():
        path = rig.folder / "intake" / "b1" / f"{name}.svs"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


async def declare(rig: Rig, *, again: bool = True, count: int | None = None) -> wire.Batch:
    return await rig.batches.declare(PROJECT, "ann", wire.BatchRequest(folder="b1", expected_count=count), again=again)


async def test_a_folder_without_an_image_never_completes(rig: Rig) -> None:
    """Green over nothing is the worst answer there is (I7): tables alone, or nothing at all."""
    folder = rig.folder / "intake" / "b1"
    folder.mkdir()
    (folder / "imagery.csv").write_text("a\n")

    batch = await declare(rig)
    await rig.work()
    found = await rig.batches.view(PROJECT, batch.id)

    assert (found.state, found.found_count) == ("failed", None)
    assert found.explanation and "no slide image" in found.explanation
    with pytest.raises(EntryMissing):
        await rig.batches.plan_declare(PROJECT, "ann", wire.BatchRequest(folder="b1"))


async def test_a_folder_that_vanished_after_it_was_declared_fails_the_batch(rig: Rig) -> None:
    put(rig, one=SLIDE)
    batch = await declare(rig)
    (rig.folder / "intake" / "b1" / "one.svs").unlink()
    (rig.folder / "intake" / "b1").rmdir()

    await rig.work()

    assert (await rig.batches.view(PROJECT, batch.id)).state == "failed"


async def test_tables_of_a_failed_batch_say_what_they_wait_for(rig: Rig) -> None:
    """`waiting-for-images` for ever, without a word, is a silent failure."""
    put(rig, one=SLIDE)
    batch = await declare(rig, count=2)
    await rig.work()
    rig.rows("insert into mover.record_set (id, project_id, batch_id, policy, version, source, created_by)"
             " values ('records-1', 'demo', %s, 'records', 1, 's', 'ann')", batch.id)  # fmt: skip
    from mover.ingest.records import _Q

    async with rig.database.project(PROJECT) as conn:
        row = await (await conn.execute(_Q["get"], {"id": "records-1"})).fetchone()

    assert (await rig.batches.view(PROJECT, batch.id)).state == "failed"
    assert row is not None and row.explanation == "its batch failed; declare the batch again"


async def test_a_walk_that_wakes_up_late_takes_no_batch_back(rig: Rig) -> None:
    """A worker paused before its first statement must not turn a complete batch into one that is walked for ever."""
    put(rig, one=SLIDE)
    batch = await declare(rig)
    paused = await rig.claim("batch-walk")
    rig.lapse()
    taken = await rig.claim("batch-walk")
    await rig.packs.walk(taken)
    await rig.work()
    assert (await rig.batches.view(PROJECT, batch.id)).state == "complete"

    with pytest.raises(LeaseLost):
        await rig.packs.walk(paused)

    assert (await rig.batches.view(PROJECT, batch.id)).state == "complete"


async def test_a_pack_worker_that_wakes_up_late_changes_nothing(rig: Rig) -> None:
    put(rig, one=SLIDE)
    batch = await declare(rig)
    await rig.work("batch-walk")
    paused = await rig.claim("pack-deidentify")
    rig.lapse()
    taken = await rig.claim("pack-deidentify")

    with pytest.raises(LeaseLost):
        await rig.packs.deidentify(paused)
    assert [r.state for r in rig.rows("select state from mover.pack")] == ["found"]
    await rig.packs.deidentify(taken)

    assert (await rig.batches.view(PROJECT, batch.id)).packs == {"published": 1}
    assert rig.actions().count("pack published") == 1


async def test_the_same_scan_under_two_names_is_one_slide_even_when_both_are_made_at_once(rig: Rig) -> None:
    """Two shards, one number: one publishes, the other is a duplicate, and neither sweeps the other away."""
    put(rig, one=SLIDE, two=SLIDE)
    batch = await declare(rig)
    await rig.work("batch-walk")
    shards = [await rig.claim("pack-deidentify")]
    rig.rows("update mover.shard set priority = -1, created_at = now() + interval '1 s' where id = %s", shards[0].id)
    shards.append(await rig.claim("pack-deidentify"))

    await asyncio.gather(*(rig.packs.deidentify(shard) for shard in shards))

    found = await rig.batches.view(PROJECT, batch.id)
    assert (found.state, found.packs) == ("complete", {"published": 1, "duplicate": 1})
    [slide] = rig.rows("select number, key from mover.slide")
    kept = {entry.key for entry in rig.tiers["archive"].list(slide_folder(slide.number))}
    assert slide.key in kept and len(kept) == 3
    assert sorted(a for a in rig.actions() if a.startswith("pack")) == ["pack duplicate", "pack published"]


async def test_an_attempt_that_another_one_swept_away_is_no_verdict_about_the_pack(rig: Rig) -> None:
    """The winner of two attempts removes what no sidecar names: the loser adopts the winner's slide."""
    put(rig, one=SLIDE)
    await declare(rig)
    await rig.work("batch-walk")
    archive = rig.tiers["archive"]
    shard = await rig.claim("pack-deidentify")
    inner = rig.packs.publisher._write

    def overtaken(*arguments: object) -> object:
        """Another worker does the whole pack between our look for a sidecar and our own writing."""
        sidecar = inner(*arguments)  # type: ignore[arg-type]
        rig.packs.publisher._sweep(archive, sidecar)  # type: ignore[arg-type]
        raise EntryMissing("swept away")

    rig.packs.publisher._write = overtaken  # type: ignore[method-assign, assignment]
    await rig.packs.deidentify(shard)

    assert [r.state for r in rig.rows("select state from mover.pack")] == ["published"]


async def test_an_archive_that_refuses_to_remove_leftovers_still_has_the_slide(rig: Rig) -> None:
    """A bucket under object lock refuses deletes; what was published and read back is published."""
    put(rig, one=SLIDE)
    await declare(rig)
    await rig.work("batch-walk")
    archive = rig.tiers["archive"]
    shard = await rig.claim("pack-deidentify")
    number = (await rig.packs._vault.mint_number(_digest(rig), body=b""))[0]
    archive.put(f"{slide_folder(number)}/old/left.svs", [b"left"])  # type: ignore[attr-defined]
    rig.tiers["archive"] = FaultyTier(archive, [Fault("remove", "fail", n) for n in range(1, 9)])  # type: ignore[arg-type]

    await rig.packs.deidentify(shard)

    assert [r.state for r in rig.rows("select state from mover.pack")] == ["published"]


async def test_a_lost_answer_to_the_sidecar_or_the_thumbnail_is_no_verdict(rig: Rig) -> None:
    """About half of what was not answered has happened; the next attempt finds and adopts it."""
    put(rig, one=SLIDE)
    batch = await declare(rig)
    await rig.work("batch-walk")
    plain = rig.tiers["archive"]
    for nth in (1, 2):
        rig.tiers["archive"] = FaultyTier(plain, [Fault("put", "lost", nth)])  # type: ignore[arg-type]
        await rig.work()
        assert [r.state for r in rig.rows("select state from mover.pack")] == ["found"]
        waiting = await rig.batches.view(PROJECT, batch.id)
        assert waiting.explanation and waiting.explanation.startswith("tried again after tier-unavailable")
        rig.due()
    rig.tiers["archive"] = plain
    await rig.work()

    found = await rig.batches.view(PROJECT, batch.id)
    assert (found.state, found.packs, found.explanation) == ("complete", {"published": 1}, None)
    [slide] = rig.rows("select number, key from mover.slide")
    assert len(list(plain.list(slide_folder(slide.number)))) == 3


async def test_shards_of_a_round_that_failed_close_no_later_one(rig: Rig) -> None:
    """A batch fails while another of its shards still works; declared again, the old shard ends beside the new
    walk and must not complete the batch under it."""
    put(rig, one=SLIDE, two=OTHER_SLIDE)
    batch = await declare(rig)
    await rig.work("batch-walk")
    old = await rig.claim("pack-deidentify")
    rig.rows("update mover.batch set state = 'failed' where id = %s", batch.id)
    rig.rows("update mover.shard set state = 'failed' where state = 'waiting'")
    await declare(rig)

    await rig.packs.deidentify(old)
    assert (await rig.batches.view(PROJECT, batch.id)).state == "declared"
    await rig.work()

    found = await rig.batches.view(PROJECT, batch.id)
    assert (found.state, found.packs) == ("complete", {"published": 2})
    assert rig.actions().count("pack published") == 2


def _digest(rig: Rig) -> str:
    return blake3((rig.folder / "intake" / "b1" / "one.svs").read_bytes()).hexdigest()
