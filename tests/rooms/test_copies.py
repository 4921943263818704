"""A policy that keeps two repositories: the second holds what the first keeps, and heals it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from mover.catalog.database import Database
from mover.errors import Denied
from mover.model import wire
from mover.model.access import Identity
from mover.model.policy import FolderRule, ProtectPolicy, SecondRule
from mover.policy import Loaded
from mover.protect.restores import Restores
from mover.tiers import identity
from mover.tiers.posix import PosixTier
from tests.repository.conftest import listing
from tests.rooms.rig import POLICIES, PROJECT, Rig, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]


@pytest.fixture
async def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    """A folder of two versions is protected, and copied."""
    rig = Rig(tmp_path, dsns, database)
    root = tmp_path / "second"
    root.mkdir()
    mark = identity.establish(root, name="second", zone="deidentified")
    rig.tiers["second"] = PosixTier("second", "deidentified", root, role="protect", identity=mark)
    path = tmp_path / "plans"
    path.mkdir()
    [protect] = [p for p in POLICIES if isinstance(p, ProtectPolicy)]
    policy = msgspec.structs.replace(
        protect, folders=(FolderRule(name="plans", path=str(path)),), copy=SecondRule(repository="second"),
        sample_percent=100.0,
    )  # fmt: skip
    rig.book._by_name["protect"] = Loaded(policy=policy, file="p.yaml", text="", digest="")
    await rig.protecting.folders.begin_due(PROJECT)
    for content in (b"first" * 1000, b"second, and longer" * 1000):
        (path / "a").write_bytes(content)
        await rig.protecting.folders.ask(who(), "plans")
        await rig.protecting.folders.begin_due(PROJECT)
        await rig.work()
    assert (await turn(rig, "copy")).counts["copied"] == 2
    return rig


async def turn(rig: Rig, kind: str) -> Any:
    rig.rows("update mover.protect_turn set started_at = now() - interval '90 days'")
    await rig.protecting.copies.begin_due(PROJECT)
    if kind != "copy":
        await rig.protecting.drills.begin_due(PROJECT)
    await rig.work()
    [found] = rig.rows("select state, counts, explanation from mover.protect_turn where kind = %s", kind)
    return found


def restic(rig: Rig, tier: str, *words: str) -> str:
    environ = {**os.environ, "RESTIC_PASSWORD": "secret", "RESTIC_REPOSITORY": str(rig.folder / tier)}
    done = subprocess.run(["restic", "--no-cache", *words], env=environ, check=True, capture_output=True, text=True)
    return done.stdout


async def test_what_is_kept_stands_in_both_repositories_and_a_stock_restic_reads_both(rig: Rig) -> None:
    for tier in ("protect", "second"):
        restic(rig, tier, "check", "--read-data")
        assert len(json.loads(restic(rig, tier, "snapshots", "--json"))) == 2
    again = await turn(rig, "copy")
    assert (again.state, again.counts["copied"], again.counts["left"]) == ("done", 0, 0)


async def test_every_pack_of_the_first_may_be_lost_and_the_check_brings_all_of_it_back(rig: Rig) -> None:
    """Two copies are worth what the repair is worth."""
    for pack in (rig.folder / "protect" / "data").rglob("*"):
        if pack.is_file():
            pack.unlink()
    await turn(rig, "whole")
    checks = rig.rows("select state, counts, explanation from mover.protect_turn where kind in ('sample', 'whole')")
    assert [row.state for row in checks] == ["done", "done"]
    [first] = [row for row in checks if row.explanation]  # whichever came first found it, and the other nothing
    assert "repaired" in first.explanation and first.counts["repaired"] > 0
    restic(rig, "protect", "check", "--read-data")
    again = await turn(rig, "whole")
    assert (again.state, again.counts["damaged"]) == ("done", 0)


async def test_a_snapshot_whose_file_was_repaired_is_kept_under_its_new_id_and_can_be_repaired_again(rig: Rig) -> None:
    """Its row stayed missing for ever, and every prune waited for it."""
    [first] = rig.rows("select id, repository_id from mover.snapshot order by sequence limit 1")
    ids = [first.repository_id]
    for _ in range(2):
        (rig.folder / "protect" / "snapshots" / ids[-1]).write_bytes(b"rotten")
        await turn(rig, "whole")
        rig.rows("update mover.protect_turn set started_at = now() - interval '90 days'")
        await rig.protecting.upkeep.begin_due(PROJECT)
        await rig.work()
        [row] = rig.rows("select repository_id, was, missing_at from mover.snapshot where id = %s", first.id)
        assert row.missing_at is None and row.was == ids and row.repository_id not in ids
        ids.append(row.repository_id)
    assert rig.actions().count("snapshot repaired") == 2
    [prune] = rig.rows("select state from mover.protect_turn where kind = 'prune'")
    assert prune.state == "done"
    again = await turn(rig, "copy")
    assert (again.state, again.counts["copied"]) == ("done", 0)
    rig.rows(
        "update mover.snapshot set state = 'forgotten', forgotten_at = now(), purged_at = now() where id = %s", first.id
    )
    await turn(rig, "copy")
    assert len(json.loads(restic(rig, "second", "snapshots", "--json"))) == 1, "by whichever id it went there"


async def test_who_holds_the_daemons_role_makes_no_row_stand_for_anothers_file(rig: Rig) -> None:
    """Else the one that is let go would take the other's file with it."""
    one, other = (row.repository_id for row in rig.rows("select repository_id from mover.snapshot order by sequence"))
    moved = "select mover.snapshot_moved('protect', %s, %s, 'n1') as moved"
    for attempt in ((one, other), (one, "no id")):
        with pytest.raises(psycopg.errors.Error, match="another one's"):
            async with rig.database.project(PROJECT) as conn:
                await conn.execute(moved, attempt)
    async with rig.database.project(PROJECT) as conn:
        await conn.execute(moved, (one, "ab" * 32))
    with pytest.raises(psycopg.errors.Error, match="another one's"):
        async with rig.database.project(PROJECT) as conn:
            await conn.execute(moved, (other, one))
    [row] = rig.rows("select missing_at from mover.snapshot where repository_id = %s", "ab" * 32)
    assert row.missing_at is not None, "it counts for nothing until its file was seen"


@pytest.mark.usefixtures("damaged_on_purpose")
async def test_what_neither_has_is_said_and_nothing_is_called_repaired(rig: Rig) -> None:
    for tier in ("protect", "second"):
        for folder in (rig.folder / tier / "data").iterdir():
            shutil.rmtree(folder)
            folder.mkdir()
    found = await turn(rig, "whole")
    assert found.state == "failed" and found.counts["damaged"] > 0


# --- a restore that needs the second -------------------------------------------------------------------------


ROOT = Identity(actor="root", role="admin", project=PROJECT, posix_uid=os.geteuid(), posix_gid=os.getegid())


async def restored(rig: Rig, to: Path, **more: Any) -> wire.Restore:
    newest = rig.rows("select id from mover.snapshot order by sequence desc limit 1")[0].id
    body = wire.RestoreRequest(snapshot=newest, to=str(to), path="/plans", **more)
    asked = await rig.protecting.restores.request(ROOT, body, key=str(to))
    await rig.work("restore")
    return await rig.protecting.restores.view(PROJECT, asked.id)


def lose(rig: Rig, tier: str, what: str) -> None:
    """Of a repository: its packs, its index, its snapshot files, its keys, or all there is."""
    root = rig.folder / tier
    if what == "everything":
        for path in list(root.iterdir()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (root / what).rglob("*"):
        if path.is_file():
            path.unlink()


SOAK = pytest.mark.soak


@pytest.mark.usefixtures("damaged_on_purpose")
@pytest.mark.parametrize(
    "what", ["data", "everything", *(pytest.param(one, marks=SOAK) for one in ("index", "snapshots", "keys"))]
)
async def test_a_restore_goes_on_from_the_second_repository_and_says_so(rig: Rig, what: str) -> None:
    """Whatever the first has lost: with the second whole, everything comes back, and in place by the same digest."""
    plans = rig.folder / "plans"
    wanted = listing(plans)
    body = wire.RestoreRequest(
        snapshot=rig.rows("select id from mover.snapshot order by sequence desc limit 1")[0].id, to=str(plans),
        path="/plans", in_place=True,
    )  # fmt: skip
    (plans / "a").write_bytes(b"spoilt")
    agreed = (await rig.protecting.restores.plan_request(ROOT, body)).digest
    lose(rig, "protect", what)
    rig.protecting.restores._site.repositories._opened.clear()  # as after a start

    done = await restored(rig, rig.folder / "back")
    plan = await rig.protecting.restores.plan_request(ROOT, body)
    in_place = await restored(rig, plans, in_place=True, agreed=agreed)

    for one in (done, in_place):
        assert (one.state, one.damaged_count, one.left_count) == ("complete", 0, 0), one
        assert any("second repository, on second" in words for words in one.warnings)
    assert listing(rig.folder / "back") == wanted == listing(plans)
    assert plan.digest == agreed and plan.counts["lost"] == 0
    whole = what not in ("data", "index")
    assert [step.subject for step in plan.steps if step.action == "read-copy"] == ["second"] * whole
    restic(rig, "second", "check", "--read-data")


@pytest.mark.usefixtures("damaged_on_purpose")
async def test_what_neither_repository_gives_is_named_and_a_failure_is_the_firsts(rig: Rig) -> None:
    """The copy helps where it can; where not, a person hears what ails the first."""
    lose(rig, "protect", "data")
    lose(rig, "second", "data")
    seen = await restored(rig, rig.folder / "back")
    assert (seen.state, seen.reason) == ("failed", "repository-damaged") and "neither" in (seen.explanation or "")
    lose(rig, "protect", "snapshots")
    lose(rig, "second", "snapshots")
    gone = await restored(rig, rig.folder / "none")
    assert (gone.state, gone.reason) == ("failed", "not-found")


async def test_nothing_is_restored_into_a_repository(rig: Rig) -> None:
    """A stolen token with a uid of its own choice would replace packs; the second repository is one, too."""
    site = msgspec.structs.replace(
        rig.protecting.restores._site, kept_clear=(rig.folder / "protect", rig.folder / "second")
    )
    newest = rig.rows("select id from mover.snapshot order by sequence desc limit 1")[0].id
    for to in ("protect/back", "protect", "second/data/00", ""):
        body = wire.RestoreRequest(snapshot=newest, to=str(rig.folder / to), in_place=to == "")
        with pytest.raises(Denied):
            await Restores(site).plan_request(ROOT, body)


async def test_the_second_forgets_only_what_the_first_has_let_go_of(rig: Rig) -> None:
    """Not what is in the trash, and not what merely vanished from the first: that is what a copy is for."""
    first, second = rig.rows("select id from mover.snapshot order by sequence")
    rig.rows("update mover.snapshot set state = 'trashed', trash_until = now() where id = %s", first.id)
    assert (await turn(rig, "copy")).counts["forgotten"] == 0
    rig.rows("update mover.snapshot set missing_at = now() where id = %s", second.id)
    assert (await turn(rig, "copy")).counts["forgotten"] == 0
    rig.rows("update mover.snapshot set state = 'forgotten', forgotten_at = now() where id = %s", first.id)
    assert (await turn(rig, "copy")).counts["forgotten"] == 0, "its file still stands in the first"
    rig.rows("update mover.snapshot set purged_at = now() where id = %s", first.id)
    assert (await turn(rig, "copy")).counts["forgotten"] == 1
    assert len(json.loads(restic(rig, "second", "snapshots", "--json"))) == 1
    restic(rig, "second", "check", "--read-data")
