"""The catalog's view of what is protected, from the repository alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from mover.catalog.database import Database
from mover.model import wire
from mover.model.policy import FolderRule, KeepRules, ProtectPolicy
from mover.policy import Loaded
from tests.rooms.rig import POLICIES, PROJECT, Rig, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
VIEW = (
    "select s.series, a.path, a.size_bytes, a.digest from mover.snapshot s"
    " join mover.artifact a on a.snapshot_id = s.id where s.state = 'checked' order by 1, 2, 4"
)


@pytest.fixture
async def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    """A run and a folder of two versions are protected."""
    rig = Rig(tmp_path, dsns, database)
    path = tmp_path / "plans"
    path.mkdir()
    [protect] = [p for p in POLICIES if isinstance(p, ProtectPolicy)]
    rule = FolderRule(name="plans", path=str(path))
    policy = msgspec.structs.replace(protect, folders=(rule,), keep=KeepRules(last=1))
    rig.book._by_name["protect"] = Loaded(policy=policy, file="p.yaml", text="", digest="")
    await rig.protecting.folders.begin_due(PROJECT)
    for content in (b"first", b"second, and longer"):
        (path / "a").write_bytes(content)
        (path / "b").symlink_to("a") if not (path / "b").exists() else None
        await rig.protecting.folders.ask(who(), "plans")
        await rig.protecting.folders.begin_due(PROJECT)
        await rig.work()
    run = await rig.request(rig.slides([1000]), key="1")
    await rig.work()
    (tmp_path / "flash" / "runs" / run.id / "out" / "model.pt").write_bytes(b"weights")
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    return rig


def lose_catalog(rig: Rig) -> None:
    """What the catalog knew of snapshots is gone; the run's own row points at a proof, and stays."""
    rig.rows("update mover.protected_folder set snapshot_id = null")
    for table in ("artifact", "hold", "snapshot_series", "snapshot"):
        rig.rows(f"delete from mover.{table}")


async def rebuild(rig: Rig) -> dict[str, int]:
    await rig.protecting.rebuild.request(who())
    await rig.work()
    [turn] = rig.rows("select state, counts from mover.protect_turn where kind = 'rebuild'")
    assert turn.state == "done"
    counts: dict[str, int] = turn.counts
    return counts


async def test_a_lost_catalog_is_rebuilt_equal_from_the_repository_alone(rig: Rig) -> None:
    before = rig.rows(VIEW)
    assert {(row.path, row.digest) for row in before} >= {("plans/b", "link:a")}
    assert {row.path for row in before} >= {"plans/a", "out/model.pt"}
    assert (await rebuild(rig))["recorded"] == 0, "what is known is not recorded twice"
    lose_catalog(rig)
    assert rig.rows(VIEW) == []

    found = await rebuild(rig)
    assert (found["recorded"], found["damaged"]) == (3, 0)
    assert rig.rows(VIEW) == before
    assert rig.rows("select count(*) as n from mover.proof where kind = 'protected'")[0].n >= 3
    assert (await rebuild(rig))["recorded"] == 0


def back_up_something_else(folder: Path) -> None:
    """By a stock restic, into the same repository."""
    own = folder / "own"
    own.mkdir()
    (own / "x").write_bytes(b"x" * 100)
    environ = {**os.environ, "RESTIC_PASSWORD": "secret", "RESTIC_REPOSITORY": str(folder / "protect")}
    subprocess.run(["restic", "--no-cache", "backup", str(own)], env=environ, check=True, capture_output=True)


def flip_a_byte(pack: Path) -> None:
    content = bytearray(pack.read_bytes())
    content[10] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(content)


@pytest.mark.usefixtures("damaged_on_purpose")
async def test_what_other_clients_made_and_what_is_damaged_is_told_apart(rig: Rig) -> None:
    """A stranger's snapshot has no series of ours; what cannot be read, content or tree, makes its snapshot incomplete
    and leaves the others whole."""
    lose_catalog(rig)
    packs = [path for path in (rig.folder / "protect" / "data").rglob("*") if path.is_file()]
    back_up_something_else(rig.folder)
    for pack in sorted(packs, key=lambda path: path.stat().st_mtime)[:2]:  # of the folder's first version: data, trees
        flip_a_byte(pack)

    found = await rebuild(rig)
    assert (found["found"], found["known"]) == (4, 1), "the stranger's is left alone"
    assert found["damaged"] >= 1 and found["recorded"] >= 1
    assert len(rig.rows("select 1 from mover.snapshot where doubt = 'incomplete'")) == found["damaged"]
