"""`mover tier add` beside a daemon that runs: a folder and a bucket are taken, worked on, and there after a restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mover.demo.seaweed import Seaweed
from mover.model import wire
from mover.tiers import identity
from tests.system.ward import WAIT_S, Ward

pytestmark = pytest.mark.slow


def add(ward: Ward, name: str, *words: str) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "mover", "--config", str(ward.site.config), "tier", "add", name, *words, "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert told.stdout, told.stderr
    return told.returncode, json.loads(told.stdout)


def test_tiers_are_added_to_a_daemon_that_runs_and_worked_on_at_once(ward: Ward, weed: Seaweed) -> None:
    """Nobody ends runs and moves for a further shelf. What is refused is not left for the next start to fail by."""
    nas, taken = ward.root / "nas", ward.root / "taken"
    for folder in (nas, taken):
        folder.mkdir()
    (nas / "a.bin").write_bytes(os.urandom(100_000))
    identity.establish(taken, name="other", zone="deidentified")
    client = ward.start()
    bucket = ["--url", f"s3://{weed.bucket}/{ward.bucket_prefix}-cold", "--endpoint", weed.endpoint,
              "--region", weed.region, "--credentials-file", str(weed.credentials_file)]  # fmt: skip

    folder = ward.site.config.with_suffix(".d")
    status, planned = add(ward, "nas", "--role", "source", "--path", str(nas), "--plan")
    assert status == 0 and "deletes: false" in planned["text"] and not folder.exists()
    for words in (["nas", "--role", "source", "--path", str(nas)], ["cold", "--role", "archive", *bucket]):
        status, said = add(ward, *words, "--timeout", "300")
        assert (status, said["daemon"]["taken"]) == (0, True), said
    status, said = add(ward, "third", "--role", "archive", "--path", str(taken), "--timeout", "300")
    assert status == 1 and "already belongs to tier other" in said["daemon"]["why"]
    assert sorted(path.name for path in folder.iterdir()) == ["cold.yaml", "nas.yaml"]
    status, said = add(ward, "within", "--role", "archive", "--path", str(ward.source))
    assert status == 1 and said["findings"] and len(list(folder.iterdir())) == 2

    asked = client.transfers.request(
        wire.TransferRequest(sources=[wire.TransferSource(tier="nas", prefix="")], to="cold"), key="first"
    )
    assert client.transfers.wait(asked.id, timeout_s=WAIT_S).state == "done"
    told = client.status().warnings
    assert [line for line in told if "not switched on for cold, nas" in line or "nas, cold" in line], told
    ward.stop()

    assert {"nas", "cold"} <= {tier.name for tier in ward.start().tiers() if tier.online}
