"""Plain folders that a protect policy names, on a real repository: begun when due, whole, read by a stock restic."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from mover.catalog.database import Database
from mover.errors import NotFound
from mover.model.policy import FolderRule, ProtectPolicy
from mover.policy import Loaded
from mover.protect import folders
from tests.rooms.rig import POLICIES, PROJECT, Rig, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database, monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(folders, "LOOK_S", 0.0)
    return Rig(tmp_path, dsns, database)


def name_folder(rig: Rig, **how: object) -> Path:
    path = rig.folder / "plans"
    path.mkdir(exist_ok=True)
    [protect] = [p for p in POLICIES if isinstance(p, ProtectPolicy)]
    rule = FolderRule(name="plans", path=str(path), **how)  # type: ignore[arg-type]
    policy = msgspec.structs.replace(protect, folders=(rule,))
    rig.book._by_name["protect"] = Loaded(policy=policy, file="p.yaml", text="", digest="")
    return path


async def turn(rig: Rig) -> int:
    began = await rig.protecting.folders.begin_due(PROJECT)
    await rig.work()
    return began


def restored(rig: Rig, snapshot: str) -> dict[str, bytes]:
    """By a stock restic, which also reads every byte of the repository."""
    [row] = rig.rows("select repository_id from mover.snapshot where id = %s", snapshot)
    environ = {**os.environ, "RESTIC_PASSWORD": "secret", "RESTIC_REPOSITORY": str(rig.folder / "protect")}
    target = rig.folder / f"back-{snapshot}"
    for words in (["check", "--read-data"], ["restore", row.repository_id, "--target", str(target)]):
        subprocess.run(["restic", "--no-cache", *words], env=environ, check=True, capture_output=True)
    return {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}


async def test_a_folder_is_protected_by_its_schedule_and_a_stock_restic_restores_it(rig: Rig) -> None:
    """The first snapshot does not wait for the schedule; the second does."""
    path = name_folder(rig, cron="0 2 * * *")
    (path / "a").write_bytes(b"one")
    assert await turn(rig) == 1
    assert await turn(rig) == 0
    [folder] = (await rig.protecting.folders.list(PROJECT)).folders
    assert (folder.state, folder.files, folder.reason, folder.unprotected_since) == ("idle", 1, None, None)
    assert folder.next_at is not None and folder.snapshot is not None
    assert restored(rig, folder.snapshot) == {"plans/a": b"one"}
    [proof] = rig.rows("select kind, count from mover.proof where subject_id = %s", folder.snapshot)
    assert (proof.kind, proof.count) == ("protected", 1)

    rig.rows("update mover.protected_folder set started_at = now() - interval '2 days'")
    assert await turn(rig) == 1
    assert len(rig.rows("select 1 from mover.snapshot where series = %s", folders.series_of(folder.id))) == 2


async def test_a_change_is_protected_after_it_settled_and_only_what_changed_is_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = name_folder(rig, settled_s=600)
    for name in ("a", "b"):
        (path / name).write_bytes(name.encode() * 1000)
        os.utime(path / name, (1_700_000_000, 1_700_000_000))
    assert await turn(rig) == 0, "it has not stood still yet"
    rig.rows("update mover.protected_folder set seen_since = now() - interval '11 minutes'")
    assert await turn(rig) == 1
    [first] = (await rig.protecting.folders.list(PROJECT)).folders
    assert first.unprotected_since is None

    (path / "b").write_bytes(b"changed")
    assert await turn(rig) == 0
    [changed] = (await rig.protecting.folders.list(PROJECT)).folders
    assert changed.unprotected_since is not None, "the recovery point is told before anything is protected"
    rig.rows("update mover.protected_folder set seen_since = now() - interval '11 minutes'")
    assert await turn(rig) == 1
    [second] = (await rig.protecting.folders.list(PROJECT)).folders
    assert second.snapshot is not None and second.snapshot != first.snapshot
    assert restored(rig, second.snapshot) == {"plans/a": b"a" * 1000, "plans/b": b"changed"}
    assert await turn(rig) == 0


async def test_a_folder_that_is_away_protects_nothing_and_says_so(rig: Rig) -> None:
    """An unmounted file system must not become the newest snapshot of a folder (I7)."""
    path = name_folder(rig)
    path.rmdir()
    await rig.protecting.folders.begin_due(PROJECT)
    await rig.protecting.folders.ask(who(), "plans")
    assert await turn(rig) == 1
    [folder] = (await rig.protecting.folders.list(PROJECT)).folders
    assert (folder.state, folder.reason, folder.snapshot) == ("idle", "not-found", None)
    assert rig.rows("select 1 from mover.snapshot") == []


async def test_a_folder_in_an_identified_tier_is_refused(rig: Rig) -> None:
    """The daemon must not become the deputy that copies originals into snapshots (I2)."""
    path = name_folder(rig)
    path.rmdir()
    path.symlink_to(rig.folder / "intake")
    (rig.folder / "intake" / "SMITH.svs").write_bytes(b"original")
    await rig.protecting.folders.begin_due(PROJECT)
    await rig.protecting.folders.ask(who(), "plans")
    assert await turn(rig) == 1
    [folder] = (await rig.protecting.folders.list(PROJECT)).folders
    assert (folder.reason, folder.snapshot) == ("denied", None)
    assert rig.rows("select 1 from mover.snapshot") == []


async def test_a_file_that_cannot_be_read_makes_the_snapshot_incomplete_and_the_folder_stays_unprotected(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is kept, and nobody is told that all of it is."""
    path = name_folder(rig)
    (path / "a").write_bytes(b"one")
    deep = path
    for _ in range(205):
        deep = deep / "d"
    deep.mkdir(parents=True)
    await rig.protecting.folders.begin_due(PROJECT)
    await rig.protecting.folders.ask(who(), "plans")
    assert await turn(rig) == 1
    [folder] = (await rig.protecting.folders.list(PROJECT)).folders
    assert (folder.reason, folder.snapshot) == ("protection-incomplete", None)
    assert folder.unprotected_since is not None
    [row] = rig.rows("select state, doubt from mover.snapshot")
    assert row.doubt == "incomplete"


async def test_asking_for_a_folder_that_no_policy_names_is_an_error_that_says_where_to_look(rig: Rig) -> None:
    name_folder(rig)
    with pytest.raises(NotFound) as refused:
        await rig.protecting.folders.ask(who(), "nowhere")
    assert "mover folder list" in refused.value.advice
