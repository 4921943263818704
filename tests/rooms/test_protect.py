"""Protection of a run on a real repository: what must never be forgotten, and what must not stand in its way."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mover.catalog.database import Database
from mover.model import wire
from mover.model.policy import KeepRules, ProtectPolicy
from mover.policy import Loaded
from tests.rooms.rig import POLICIES, PROJECT, Rig, who
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]


@pytest.fixture
def rig(tmp_path: Path, dsns: Dsns, database: Database) -> Rig:
    return Rig(tmp_path, dsns, database)


async def finished(rig: Rig) -> str:
    """A ready run that left a model, finished and protected."""
    run = await rig.request(rig.slides([1000]), key="1")
    await rig.work()
    (rig.folder / "flash" / "runs" / run.id / "out" / "model.pt").write_bytes(b"weights")
    await rig.runs.finish(who(), run.id, wire.FinishRequest())
    await rig.work()
    return run.id


async def test_no_keep_rule_forgets_the_snapshot_that_proves_a_run_protected(rig: Rig) -> None:
    """With rules that fit nothing, the fresh snapshot was forgotten in the transaction that called the run
    protected, and cleanup would have followed (I5)."""
    [protect] = [p for p in POLICIES if isinstance(p, ProtectPolicy)]
    strict = msgspec.structs.replace(protect, keep=KeepRules(tags=("golden",)))
    rig.protecting.runs._site.policies._by_name["protect"] = Loaded(policy=strict, file="p.yaml", text="", digest="")

    run = await finished(rig)
    await rig.runs.clean(who(), run)
    await rig.work()

    [snapshot] = (await rig.protecting.snapshots.list(PROJECT, run=run)).snapshots
    assert snapshot.state == "checked"
    assert snapshot.reasons == ["on record for less than 7 days"]
    found = await rig.runs.view(PROJECT, run)
    assert (found.state, found.strays) == ("cleaned", [])
    files = (await rig.protecting.snapshots.files(PROJECT, snapshot.id)).files
    assert "/artifacts/model.pt" in {f.path for f in files}


async def test_what_a_job_still_writes_after_its_snapshot_is_never_removed(rig: Rig) -> None:
    """A lease may lapse under a living job: what it changed since is moved aside, not deleted (I1, I5)."""
    run = await finished(rig)
    out = rig.folder / "flash" / "runs" / run / "out"
    (out / "model.pt").write_bytes(b"better weights")
    (out / "late.pt").write_bytes(b"late")

    await rig.runs.clean(who(), run)
    await rig.work()

    found = await rig.runs.view(PROJECT, run)
    assert found.state == "cleaned"
    assert sorted((s["path"], s["why"]) for s in found.strays) == [
        ("out/late.pt", "stranger"), ("out/model.pt", "changed")
    ]  # fmt: skip
    kept = rig.folder / "flash" / ".mover" / "strays" / run / "out"
    assert ((kept / "model.pt").read_bytes(), (kept / "late.pt").read_bytes()) == (b"better weights", b"late")
