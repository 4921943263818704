"""Deletion is switched on tier by tier. Where it is not, every way to delete says so; what is ours alone still goes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mover.catalog.database import Database
from mover.demo.seaweed import Seaweed
from mover.errors import EntryLocked, EntryMissing, TransferRefused
from mover.ingest.rulings import _remove as remove_of_ruling
from mover.model import wire
from mover.model.policy import CleanPolicy
from mover.protect import dumpfiles
from mover.randomness import new_id
from mover.runs.content import ContentStore
from mover.tiers import identity
from mover.tiers.locking import AppendOnlyTier, FreeingTier, LockingTier, object_locks
from mover.tiers.port import PruneTier
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import RetryTier
from tests.rooms.keeping_rig import DAY, KEEP_ONE, Keeping
from tests.rooms.moving_rig import ANN, MovingRig
from tests.rooms.rig import PROJECT, Rig, who
from tests.support.postgres import Dsns
from tests.support.seaweed import object_tier

pytestmark = pytest.mark.usefixtures("tier_rows")
OFF = "is not switched on"
MOVER = Path(dumpfiles.__file__).parents[1]


def switch(tier: Any, *, on: bool) -> None:
    tier.deletes = on


def folder_tier(folder: Path) -> PosixTier:
    identity.establish(folder, name="archive", zone="deidentified")
    return PosixTier("archive", "deidentified", folder, role="archive")


# --- the ladder ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["posix", "object"])
def test_no_rung_and_no_wrapper_removes_where_it_is_off(kind: str, tmp_path: Path, weed: Seaweed) -> None:
    """The question is asked by the tier itself, so that no caller can forget it; a wrapper that goes past the tier to
    the bucket's versions asks it, too. What we made and promised nobody goes: else killed attempts would fill it."""
    bare: Any
    if kind == "posix":
        bare = folder_tier(tmp_path)
    else:
        bare = object_tier(weed, prefix=tmp_path.name)
    ways: dict[str, Callable[[], PruneTier]] = {"bare": lambda: bare, "retry": lambda: RetryTier(bare, sleep=print)}
    locks = object_locks(bare)
    if locks is not None:
        ways["freeing"] = lambda: FreeingTier(bare, locks)
        ways["locking"] = lambda: LockingTier(bare, locks, retain_s=0, mode="GOVERNANCE", passing=("x",))
    else:
        ways["sealed"] = lambda: AppendOnlyTier(bare, bare, lambda _: None, passing=("x",))
    switch(bare, on=False)
    for name, made in ways.items():
        key = f"kept/{name}"
        bare.put(key, [b"bytes"], size_bytes=5)
        with pytest.raises(EntryLocked, match=f"deletion on tier {bare.name} {OFF}") as refused:
            made().remove(key)
        assert "deletes: true" in refused.value.advice and bare.read(key) == b"bytes"
        attempt = bare.attempt(f"unfinished/{name}", size_bytes=5)
        attempt.write([b"bytes"])
        attempt.abandon()
        with pytest.raises(EntryMissing):
            bare.stat(f"unfinished/{name}")
        made().tidy(key)
        with pytest.raises(EntryMissing):
            bare.stat(key)
    switch(bare, on=True)
    bare.put("kept/on", [b"bytes"], size_bytes=5)
    bare.remove("kept/on")


def test_dumps_and_slides_go_by_the_same_question(tmp_path: Path) -> None:
    """Rotation tries again after the next dump, a granted removal waits and says why; an unfinished dump is ours."""
    tier = folder_tier(tmp_path)
    switch(tier, on=False)
    dump, key = new_id("dump"), "slides/1/a.svs"
    for one in (dumpfiles.file_key("dumps", dump, "a"), dumpfiles.sidecar_key("dumps", dump), key):
        tier.put(one, [b"bytes"], size_bytes=5)
    row = SimpleNamespace(key=key, mark=tier.stat(key).fingerprint.mark, size_bytes=5)
    with pytest.raises(EntryLocked, match=OFF):
        remove_of_ruling(tier, row)
    with pytest.raises(EntryLocked, match=OFF):
        dumpfiles.remove(tier, "dumps", dump)
    assert len(list(tier.list())) == 3
    dumpfiles.remove(tier, "dumps", dump, unfinished=True)
    assert [entry.key for entry in tier.list()] == [key]


# --- the workflows ---------------------------------------------------------------------------------------------


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


@pytest.mark.slow
async def test_a_run_stays_on_flash_until_deletion_is_switched_on_and_then_goes_by_itself(rig: Rig) -> None:
    """Asked for by a person it is refused at once; begun by the end of a run it waits, and the run and the plan say
    why. A run that never was ready is our own unfinished work. Idle content, strays and damage stay as well."""
    slides = rig.slides([1000])
    run = await rig.request(slides, key="1")
    await rig.work()
    switch(rig.roots, on=False)
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    await rig.runs.cancel(who(), run.id)
    await rig.work()
    waiting, root = await rig.runs.view(PROJECT, run.id), rig.roots.run_root(run.id)
    assert (waiting.state, root.exists()) == ("cleaning", True)
    assert waiting.explanation is not None and OFF in waiting.explanation
    with pytest.raises(EntryLocked, match=OFF):
        await rig.runs.clean(who(), run.id)
    first = (await rig.runs.plan_clean(PROJECT, run.id)).steps[0]
    assert first.action == "wait" and OFF in first.reason

    unready = await rig.request(slides, key="2")
    await rig.work("run-stage")
    await rig.runs.cancel(who(), unready.id)
    await rig.work()
    assert rig.run(unready.id).state == "cleaned" and not rig.roots.run_root(unready.id).exists()

    store = ContentStore(rig.database, rig.stage._flash, node="n1")
    await store.make_room(PROJECT, "flash", 1 << 50)
    [content] = rig.rows("select digest from mover.content")
    assert rig.roots.content_standing([content.digest])
    for refused in (lambda: rig.roots.evict([content.digest]), lambda: rig.roots.purge(".mover/strays/run-1")):
        with pytest.raises(EntryLocked, match=OFF):
            refused()
    assert await store.purge(PROJECT, "flash", CleanPolicy(name="clean", flash="flash", aside_s=0)) == 0

    switch(rig.roots, on=True)
    rig.due()
    await rig.work()
    assert rig.run(run.id).state == "cleaned" and not root.exists()


@pytest.mark.slow
async def test_nothing_leaves_a_repository_whose_tier_keeps_everything(
    tmp_path: Path, dsns: Dsns, database: Database
) -> None:
    """Rules go on to judge, and the trash fills; no file goes, and plans and turns say why. Snapshots, locks and
    indexes go on."""
    rig = Keeping(tmp_path, dsns, database)
    rig.policy(keep=KEEP_ONE, prune_grace_s=0)
    old, *_ = [rig.snapshot(age=age * DAY) for age in (30, 20, 10)]
    await rig.turn()
    rig.rows("update mover.snapshot set trash_until = now() where id = %s", old)
    switch(rig.tiers["protect"], on=False)
    assert (await rig.turn()).counts["forgotten"] == 0 and len(rig.repository.snapshot_ids()) == 3
    waits = await rig.turn("prune")
    assert waits.state == "waiting" and OFF in waits.explanation
    for kind in ("keep", "prune"):
        plan = await rig.protecting.turns.plan_request(who(), wire.TurnRequest(policy="protect", kind=kind))
        assert plan.steps[0].action == "wait" and OFF in plan.steps[0].reason
    with pytest.raises(EntryLocked, match=OFF):
        rig.repository.forget(rig.repository.snapshot_ids())
    rig.snapshot()
    rig.repository.rebuild_index()
    assert len(rig.repository.snapshot_ids()) == 4
    assert [entry.key for entry in rig.tiers["protect"].list() if entry.key.startswith("locks/")] == []

    switch(rig.tiers["protect"], on=True)
    assert (await rig.turn()).counts["forgotten"] == 1 and (await rig.turn("prune")).state == "done"


@pytest.mark.slow
async def test_sources_are_copied_and_not_moved_and_a_held_release_stays_held(
    tmp_path: Path, dsns: Dsns, database: Database
) -> None:
    """Refused before a byte is copied; what was released before stays in the trash, and comes back when asked."""
    rig = MovingRig(tmp_path, dsns, database)
    rig.fill("nas", {"in/a.svs": b"a" * 3000})
    seen = await rig.moved(prefix="in", to_prefix="kept", verb="move")
    switch(rig.tiers["nas"], on=False)
    switch(rig.releases._trash["nas"], on=False)
    with pytest.raises(TransferRefused, match=OFF):
        await rig.ask(prefix="in", to_prefix="more", verb="move")
    rig.rows("update mover.release set hold_until = now() - interval '1 s'")
    assert await rig.releases.begin_purges() == 0
    [release] = (await rig.view(seen.id)).releases
    assert release.state == "held" and release.explanation is not None and OFF in release.explanation
    assert set(rig.trash("nas")) == {"in/a.svs"}
    await rig.transfers.restore(ANN, seen.id)
    await rig.work()
    assert set(rig.files("nas")) == {"in/a.svs"}
    rig.carrier.close()


# --- what may be added -----------------------------------------------------------------------------------------

# every place in rooms that work on tiers where names go: asked by the tier or its roots before, or ours alone
PLACES = {
    "ingest/rulings.py": 1,  # tier.remove: asked
    "ingest/publish.py": 1,  # tidy: attempts that no sidecar names
    "ingest/adoptions.py": 1,  # tidy: the sidecar of an adoption that was not concluded
    "moving/release.py": 3,  # purge: asked; empty folders of the trash
    "moving/trash.py": 3,  # called by release, or the second name of a file that has both
    "moving/verify.py": 2,  # tidy: hidden in a bucket that keeps versions; the second name of a file
    "protect/drills.py": 1,  # a scratch folder of the state directory
    "repository/files.py": 1,  # replaced, and the one way of all removals
}


def test_a_new_way_to_delete_is_seen() -> None:
    """Whoever adds a call that removes names on tiers decides here whether it asks, or is ours alone."""
    call = re.compile(r"(?:tier\)?|archive|trash|self)\.(?:remove|tidy)\(|os\.unlink\(|\.rmtree\(|remove_tree\(")
    found: Counter[str] = Counter()
    for room in ("ingest", "moving", "protect"):
        for path in (MOVER / room).rglob("*.py"):
            found[str(path.relative_to(MOVER))] += len(call.findall(path.read_text("utf-8")))
    found["repository/files.py"] = len(call.findall((MOVER / "repository/files.py").read_text("utf-8")))
    assert {name: count for name, count in found.items() if count} == PLACES
