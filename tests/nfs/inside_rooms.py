"""Walk, carrier, stage and seal with a real PostgreSQL, on a real NFSv4.2 mount: run in the guest by `test_soak.py`."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from blake3 import blake3

from mover.catalog.database import Database
from mover.clock import SystemClock
from mover.model.moving import Item, Outcome
from mover.runs.roots import FlashRoots
from mover.runs.runs import Flash, Runs
from mover.runs.stage import Stage
from mover.tiers import identity, mounts
from mover.tiers.guard import Guard
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import GuardedTier
from mover.transfer import Transfer
from mover.transfer.carrier import Carrier
from mover.walk.bench import stage_posix
from tests.nfs.inside_server import SERVER, Server, mounted
from tests.rooms.rig import PROJECT, Rig
from tests.support.postgres import Dsns, add_tiers, fresh_database, running_server

pytestmark = pytest.mark.skipif("MOVER_NFS_GUEST" not in os.environ, reason="runs in the guest of test_soak.py")


@pytest.fixture(scope="module")
def server() -> Server:
    return Server.running()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Path]:
    with mounted("big", "rooms", options="acregmin=2,acregmax=2,acdirmin=2,acdirmax=2") as point:
        yield point


@pytest.fixture
def tier(client: Path) -> PosixTier:
    root = client / "carried"
    root.mkdir(exist_ok=True)
    identity.establish(root, name="flash", zone="deidentified")
    return PosixTier("flash", "deidentified", root)


def files(root: Path) -> dict[str, bytes]:
    """Everything below a root but what is ours, read."""
    return {
        os.path.relpath(os.path.join(at, name), root): Path(at, name).read_bytes()
        for at, _, names in os.walk(root)
        for name in names
        if ".mover" not in at
    }


def test_many_small_files_are_carried_there_and_back(tier: PosixTier, tmp_path: Path) -> None:
    """In groups, by a worker process: no rename without replacing, no syncfs to believe, a round trip for each call."""
    identity.establish(tmp_path, name="archive", zone="deidentified")
    local = PosixTier("archive", "deidentified", tmp_path)
    for number in range(150):
        folder = tmp_path / f"f{number % 3}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(os.urandom(number * 40))
    guarded = GuardedTier(tier, Guard("flash", probe=lambda: os.statvfs(tier.root)))
    carrier = Carrier(Transfer(), processes=1)
    try:
        for source, target, prefix in ((local, guarded, ""), (guarded, local, "back/")):
            items = [
                Item(number, entry.key, prefix + entry.key, entry.kind, entry.fingerprint)
                for number, entry in enumerate(source.list())
                if not entry.key.startswith("back/")
            ]
            began = time.monotonic()
            outcomes: list[Outcome] = [
                one for some in carrier.carry(items, source=source, target=target) for one in some
            ]
            print(f"carried {len(items)} to {target.name} in {time.monotonic() - began:.1f} s")
            assert {one.state for one in outcomes} == {"moved"}, [one for one in outcomes if one.state != "moved"]
            assert len(outcomes) == 150
    finally:
        carrier.close()
    here = {key: data for key, data in files(tmp_path).items() if not key.startswith("back/")}
    assert files(SERVER / "big/carried") == here
    assert files(tmp_path / "back") == here


# --- a run, with its catalog -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dsns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dsns]:
    folder = tmp_path_factory.mktemp("catalog")
    with running_server(folder) as running, fresh_database(running) as made:
        add_tiers(made)
        yield made


@pytest.fixture
async def database(dsns: Dsns) -> AsyncIterator[Database]:
    opened = await Database.open(dsns.daemon, name="test", max_size=4)
    yield opened
    await opened.close()


def test_a_walk_puts_all_of_a_mount_into_the_catalog_and_no_passing_name(
    tier: PosixTier, client: Path, dsns: Dsns
) -> None:
    """By the walk's own reading processes, staged and merged: the server's names are the truth."""
    for number in range(400):
        (SERVER / "big/walked" / f"{number % 7}").mkdir(parents=True, exist_ok=True)
        (SERVER / "big/walked" / f"{number % 7}" / f"{number}").write_bytes(b"x" * number)
    held = os.open(client / "walked/0/0", os.O_RDONLY)
    os.unlink(client / "walked/0/0")
    staged = stage_posix(client / "walked", dsns.daemon, project=PROJECT, tier="flash", processes=1, merge=True)
    os.close(held)
    print("walked:", staged)
    assert (staged.totals.entries, staged.totals.findings) == (399, 0)
    with psycopg.connect(dsns.superuser) as conn:
        rows = conn.execute("select key, size_bytes from mover.entry where tier = 'flash'").fetchall()
    assert {bytes(key): size for key, size in rows} == {b"%d/%d" % (n % 7, n): n for n in range(1, 400)}


class Watch(SystemClock):
    """The real clock, and how long it was asked to wait."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        await super().sleep(duration_s)


async def test_a_run_is_staged_and_sealed_on_nfs(
    server: Server, dsns: Dsns, database: Database, tmp_path: Path
) -> None:
    """From the archive into the content store, linked into the root, the cache time waited out, compared, sealed;
    then what stands on the server is the manifest and nothing else."""
    (tmp_path / "flash").mkdir()
    with mounted("big", "flash", options="acregmin=2,acregmax=2,acdirmin=2,acdirmax=2") as point:
        (point / "runs-of-rig").mkdir()
        (tmp_path / "flash").rmdir()
        (tmp_path / "flash").symlink_to(point / "runs-of-rig")
        rig = Rig(tmp_path, dsns, database)
        assert not rig.tiers["flash"].traits.reflink and rig.tiers["flash"].traits.filesystem == "nfs4"
        guard = Guard("flash", probe=lambda: os.statvfs(point))
        roots = FlashRoots(
            rig.roots.root, reflink=False, check_identity=rig.tiers["flash"].check_identity, nfs=True, guard=guard
        )
        flash = {"flash": Flash(roots, "/flash", None, mounts.stands_on(point).attribute_cache_s)}
        clock = Watch()
        rig.runs = Runs(database, flash, rig.book, node="n1")
        stage = Stage(database, rig.tiers, flash, rig.carrier, node="n1", clock=clock)
        rig.handlers |= {"run-stage": stage.stage, "run-seal": stage.seal}

        numbers = rig.slides([70_000, 5, 3_000_000])
        run = await rig.request(numbers, key="k")
        await rig.work()

        assert (await rig.runs.view(PROJECT, run.id)).state == "ready"
        assert clock.slept == [2.0]
        root = SERVER / "big/runs-of-rig/runs" / run.id
        manifest = {
            row.path: row.digest
            for row in rig.rows("select path, digest from mover.run_entry where run_id = %s", run.id)
        }
        standing = files(root)
        assert {path: blake3(data).hexdigest() for path, data in standing.items() if path in manifest} == manifest
        assert standing.keys() == manifest.keys() | {"manifest.jsonl", "RUN.json"}
        assert not guard.hung
