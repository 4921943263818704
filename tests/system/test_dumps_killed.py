"""A whole site whose vault is dumped, killed at any point, lost, and restored from a tier and two files."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mover.catalog.postgres import Embedded
from mover.clock import monotonic_s, pause
from mover.deid.tombstones import Stone, write_stones
from mover.deid.vaultkeys import RevealKey, VaultKey, encode_file, new_pair, write_new
from mover.model import wire
from tests.support.slides import svs
from tests.system.ward import WAIT_S, Ward

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dumps")]

SEED = 5


@pytest.fixture
def dumped(make_ward: Callable[[Path], Ward], tmp_path: Path) -> Ward:
    """A site with two slides to take in, a pair of key files, and a dump policy: bucket and folder."""
    folder = tmp_path / "source" / "b1"
    folder.mkdir(parents=True)
    for name, size in (("one", (320, 256)), ("two", (384, 256))):
        (folder / f"{name}.svs").write_bytes(svs(size=size))
    ward = make_ward(tmp_path / "source")
    pair: RevealKey = new_pair(tmp_path / "a", tmp_path / "b")
    write_new(ward.site.state / "vault.public", encode_file(pair.public))
    policy = {"kind": "dump", "name": "dump", "to": ["archive", "protect"], "keep": {"last": 2}}
    (ward.site.policies / "dump.yaml").write_text(yaml.safe_dump(policy))
    images = ward.site.policies / "images.yaml"
    images.write_text(images.read_text().replace("require_thumbnail: true", "require_thumbnail: false"))
    return ward


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = monotonic_s() + WAIT_S
    while monotonic_s() < deadline:
        if (found := look()) is not None:
            return found
        pause(0.2)
    raise AssertionError(what)


def verified(client: Any) -> wire.Dump | None:
    dumps = client.dumps.list().dumps
    return dumps[0] if dumps and dumps[0].state == "verified" else None


def command(ward: Ward, *words: str) -> dict[str, Any]:
    told = subprocess.run(
        [sys.executable, "-m", "mover", "--config", str(ward.site.config), "vault", *words, "--json"],
        capture_output=True, text=True, check=False, timeout=120, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    return dict(json.loads(told.stdout))


@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.soak)])
def test_a_dump_killed_anywhere_is_made_in_the_end_and_then_slides_are_released(dumped: Ward, kills: int) -> None:
    """Until a dump is verified no slide is released. The power goes in the middle, again and again; what is left is
    the old dump or the new one, on both tiers."""
    chance = random.Random(SEED)
    dumped.start()
    # rows enough for a second's work, so that there is a middle to be hit
    dumped.change("create table mover.bulk as select g, md5(g::text) as text from generate_series(1, 400000) as g")
    for _ in range(kills):
        with dumped.start() as client:
            client.dumps.make(wire.DumpRequest())
        dumped.kill("dump", after_s=chance.random() * 1.2)
    assert len(dumped.kills) >= kills // 2, "too few kills met a dump at work"
    with dumped.start() as client:
        batch = client.batches.declare(wire.BatchRequest(folder="b1", expected_count=2))
        dump = until(lambda: verified(client), "no dump was verified")
        assert client.batches.wait(batch.id, timeout_s=WAIT_S).state == "complete"
        assert client.dumps.list().release_stopped is None
        assert [warning for warning in client.status().warnings if "dump" in warning or "release" in warning] == []
        dumped.quiet()
        whole = {one.id for one in client.dumps.list().dumps if one.state == "verified"}
    folder = dumped.protect / "dumps"
    keys = [str(p.relative_to(dumped.protect)) for p in folder.rglob("*") if p.is_file() and "mover-tmp" not in p.name]
    objects = [key for key in dumped.objects() if key.startswith("dumps/")]
    assert dump.id in whole and sorted(objects) == sorted(keys) and len(keys) == 2 * len(whole)
    assert {key.split("/")[1].removesuffix(".json") for key in keys} == whole


def test_a_lost_catalog_and_vault_come_back_from_one_tier_and_two_files_and_stay_erased(
    dumped: Ward, tmp_path: Path
) -> None:
    """The machine is gone: what remains are the tiers, the vault's key, two key files in two safes, the tombstones."""
    keys = ("--key-a", str(tmp_path / "a"), "--key-b", str(tmp_path / "b"))
    with dumped.start() as client:
        batch = client.batches.declare(wire.BatchRequest(folder="b1", expected_count=2))
        assert client.batches.wait(batch.id, timeout_s=WAIT_S).state == "complete"
        slides = {s.number for s in client.slides.list().slides}
        dump = client.dumps.wait(client.dumps.make(wire.DumpRequest()).id, timeout_s=WAIT_S)
        assert dump.state == "verified"
        drilled = command(dumped, "drill", *keys, "--purpose", "the yearly drill")
        assert drilled["dump"] == dump.id and drilled["different"] == [] and drilled["recorded"]
        seen = client.dumps.view(dump.id)
        assert (seen.drills[0].kind, seen.drills[0].passed) == ("restore", True)
    [row] = dumped.look("select number, lookup from vault.number order by number limit 1")
    dumped.stop()
    # what was erased after the dump: the file of tombstones knows, the dump does not
    key = VaultKey.load(dumped.site.state / "vault.key")
    stone = Stone(site="demo-hospital", kind="number", lookup=bytes(row.lookup), generation=1, stood_for=row.number)
    write_stones(dumped.site.state / "vault.tombstones", key, [stone])
    shutil.rmtree(dumped.site.state / "postgres")
    lost = dumped.site.state / "vault.public"
    public = lost.read_bytes()
    lost.unlink()

    told = command(dumped, "restore", "--tier", "protect", *keys, "--purpose", "the disk is lost")

    assert told["dump"] == dump.id and told["different"] == [] and told["erased_again"] == 1
    assert lost.read_bytes() == public and lost.stat().st_mode & 0o777 == 0o600
    with dumped.start() as client:
        assert {s.number for s in client.slides.list().slides} == slides
        assert client.batches.view(batch.id).state == "complete"
        left = {r.number for r in dumped.look("select number from vault.number")}
        assert left == slides - {row.number}
        actions = [r.action for r in dumped.look("select body::jsonb ->> 'action' as action from mover.audit_record")]
        assert "vault restored" in actions and "vault erased again" in actions
        assert client.audit.verify().whole
    dumped.stop()
    assert Embedded(dumped.site.state)._data.exists()
