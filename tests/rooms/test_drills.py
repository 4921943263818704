"""Drills and checks of a real repository: what comes back, and what does not, is found before anybody needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mover import metrics
from mover.catalog.database import Database
from mover.model.policy import FolderRule, ProtectPolicy
from mover.policy import Loaded
from tests.rooms.rig import POLICIES, PROJECT, Rig, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]


@pytest.fixture
async def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    """A folder of three files is protected."""
    rig = Rig(tmp_path, dsns, database)
    path = tmp_path / "plans"
    path.mkdir()
    for name, size in (("a", 10), ("b", 3000), ("c", 70_000)):
        (path / name).write_bytes(name.encode() * size)
    [protect] = [p for p in POLICIES if isinstance(p, ProtectPolicy)]
    rule = FolderRule(name="plans", path=str(path))
    policy = msgspec.structs.replace(
        protect, folders=(rule,), sample_percent=100.0, recovery_point_s=60, recovery_time_s=3600
    )
    rig.book._by_name["protect"] = Loaded(policy=policy, file="p.yaml", text="", digest="")
    await rig.protecting.folders.begin_due(PROJECT)
    await rig.protecting.folders.ask(who(), "plans")
    await rig.protecting.folders.begin_due(PROJECT)
    await rig.work()
    return rig


async def turns(rig: Rig) -> dict[str, Any]:
    """Drill, sample and whole check, each once."""
    rig.rows("update mover.protect_turn set started_at = now() - interval '90 days'")
    assert await rig.protecting.drills.begin_due(PROJECT) == 3
    await rig.work()
    return {row.kind: row for row in rig.rows("select * from mover.protect_turn")}


async def test_a_drill_restores_random_files_and_finds_them_equal(rig: Rig) -> None:
    found = await turns(rig)
    assert {kind: row.state for kind, row in found.items()} == {"drill": "done", "sample": "done", "whole": "done"}
    assert found["drill"].counts["files"] == 3 and found["drill"].counts["bytes"] == 73_010
    assert found["whole"].counts["packs"] > 0 and found["whole"].counts["damaged"] == 0
    assert await rig.protecting.drills.begin_due(PROJECT) == 0, "none is due again so soon"


@pytest.mark.usefixtures("damaged_on_purpose")
async def test_a_flipped_byte_is_found_by_drill_and_checks_and_named_by_path(rig: Rig) -> None:
    """A backup that nobody read is a hope."""
    for pack in (rig.folder / "protect" / "data").rglob("*"):
        if pack.is_file():
            content = bytearray(pack.read_bytes())
            for place in range(40, len(content) - 200, 50):
                content[place] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(content)
    found = await turns(rig)
    assert {kind: row.state for kind, row in found.items()} == {
        "drill": "failed",
        "sample": "failed",
        "whole": "failed",
    }
    assert "did not come back" in found["drill"].explanation
    [snapshot] = rig.rows("select id, repository_id from mover.snapshot")
    assert found["whole"].counts["damaged"] > 0 and f"snapshot {snapshot.id}" in found["whole"].explanation
    ours, theirs = await rig.protecting.snapshots.check(PROJECT), await rig.protecting.snapshots.check("another")
    assert ours.problems[0] == f"snapshot {snapshot.id} ({snapshot.repository_id[:8]}): /", "the root's list is lost"
    assert theirs.problems[0] == "1 snapshots that are not on this project's record"
    assert metrics.REPOSITORY_DAMAGE.labels("protect")._value.get() > 0


async def test_a_file_that_the_catalog_remembers_otherwise_fails_the_drill(rig: Rig) -> None:
    """The digest of the catalog was taken when the file was read, not from the repository: it is a second witness."""
    rig.rows("update mover.artifact set digest = repeat('0', 64) where path = 'plans/b'")
    found = await turns(rig)
    assert (found["drill"].state, found["drill"].counts["wrong"]) == ("failed", 1)
    assert found["whole"].state == "done"


async def test_a_missed_recovery_target_is_an_alarm(rig: Rig) -> None:
    """The point is the age of the oldest change that no snapshot holds; the time is what was measured."""
    await turns(rig)
    await rig.protecting.drills.measure(PROJECT)
    missed = metrics.RECOVERY_MISSED
    assert (missed.labels("protect", "point")._value.get(), missed.labels("protect", "time")._value.get()) == (0, 0)
    (rig.folder / "plans" / "d").write_bytes(b"new")
    rig.protecting.folders._seen.clear()
    await rig.protecting.folders.begin_due(PROJECT)
    rig.rows("update mover.protected_folder set seen_since = now() - interval '2 minutes'")
    rig.rows("update mover.protect_turn set counts = counts || '{\"milliseconds\": 5000000}' where kind = 'drill'")
    await rig.protecting.drills.measure(PROJECT)
    assert metrics.RECOVERY_POINT.labels("protect")._value.get() >= 120
    assert (missed.labels("protect", "point")._value.get(), missed.labels("protect", "time")._value.get()) == (1, 1)
