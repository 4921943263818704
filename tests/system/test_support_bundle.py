"""The support bundle of a site that has worked, with identifiers planted wherever somebody could have left one."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mover.demo import generate, planted
from tests.system.ward import Ward

pytestmark = pytest.mark.slow


def bundle(ward: Ward, target: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mover", "--config", str(ward.site.config), "support", "bundle"]
    return subprocess.run(
        [*command, "-o", str(target), *more], capture_output=True, text=True, timeout=120, check=False
    )


def opened(target: Path) -> dict[str, Any]:
    with tarfile.open(target) as tar:
        files = {one.name.split("/")[1]: tar.extractfile(one) for one in tar.getmembers()}
        return {name: file.read() for name, file in files.items() if file}


def plant(ward: Ward, known: list[planted.Planted], log: Path) -> None:
    """In the log (fields, words, lines of others), in errors of shards, in settings and policies."""
    values = [one.value for one in known]
    lines = [{"event": "pack published", "level": "info", "room": "packs", "tier": "archive", "seconds": 1.5}]
    for value in values:
        lines.append({"event": f"could not read {value}", "reason": value, "tier": value, "seen": value, "what": value})
    log.write_text("\n".join([*map(json.dumps, lines), *(f"Traceback: {value}" for value in values)]) + "\n")
    ward.change(
        "insert into mover.shard (id, project_id, queue, kind, subject_id, state, error_code, error)"
        " select 'shard-planted', id, 'archive', 'batch-walk', %s, 'failed', %s, %s from mover.project",
        values[0], values[1], values[2],
    )  # fmt: skip
    # a name of the site's own, which passes as one: the vault knows it
    image = next(one.value for one in known if one.kind == "file-name")
    ward.change_settings(lambda s: s.update(node=image, hooks_dir=f"/srv/{values[0]}"))
    policy = ward.site.policies / "images.yaml"
    policy.write_text(policy.read_text() + f"marker: {json.dumps(values[3])}\n")


def test_a_bundle_says_what_a_helper_needs_and_holds_no_planted_identifier(
    settled: Ward, hospital: generate.Hospital, tmp_path: Path
) -> None:
    """It leaves the house by mail: one name in it, and the help costs more than the fault (I2)."""
    known = planted.load(Path(hospital.planted))
    log, target = tmp_path / "daemon.log", tmp_path / "b.tar.gz"
    with settled.start():
        plant(settled, known, log)
        said = bundle(settled, target, "--log", str(log), "--lines", "20000")
    files = opened(target)
    assert said.returncode == 0, (said.stdout, said.stderr)
    assert not planted.search_everything(list(files.values()) + [said.stdout.encode()], known)
    assert target.stat().st_mode & 0o777 == 0o600
    told = {name: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    assert told["contents.json"]["searched"] and told["contents.json"]["left_out"] >= 1
    assert told["log.json"]["lines"][0] == {
        "event": "pack published", "level": "info", "room": "packs", "tier": "archive", "seconds": 1.5
    }  # fmt: skip
    assert told["log.json"]["other"] == len(known)
    assert told["settings.json"]["tiers"]["archive"]["kind"] == "object"
    assert {one["kind"] for one in told["policies.json"]} >= {"images", "records", "protect"}
    assert any(one["name"] == "mover_database_up" and one["value"] == 1 for one in told["metrics.json"])
    assert any(one["file"] == "0001_start.sql" for one in told["database.json"]["migrations"])
    assert any(one["name"] == "shard" and one["size_bytes"] for one in told["database.json"]["tables"])
    assert {"failed", "done"} <= {one["state"] for one in told["work.json"]["work"]}
    assert any(one["about"] == "database" and one["verdict"] == "good" for one in told["findings.json"])
    check_without_daemon(settled, known, target, tmp_path)


def check_without_daemon(ward: Ward, known: list[planted.Planted], target: Path, tmp_path: Path) -> None:
    """A bundle is asked for when the daemon does not start, and when its settings are not understood."""
    ward.stop()
    log = tmp_path / "daemon.log"
    down = bundle(ward, tmp_path / "down.tar.gz", "--log", str(log), "--lines", "2", "--json")
    made = json.loads(down.stdout)
    assert down.returncode == 1 and made["sections"]["metrics"].startswith("absent: service-unreachable")
    assert made["searched"] and not made["sections"]["database"].startswith("absent")
    again = bundle(ward, target)
    assert again.returncode != 0 and "already" in again.stderr
    ward.site.config.write_text(f"version: 1\nsite: {json.dumps(known[0].value)}\n")
    broken = bundle(ward, tmp_path / "broken.tar.gz", "--log", str(log), "--json")
    files = opened(tmp_path / "broken.tar.gz")
    assert broken.returncode == 1 and not json.loads(broken.stdout)["searched"]
    assert not planted.search_everything(list(files.values()), known)
    assert any(one["about"] == "settings" and one["verdict"] == "bad" for one in json.loads(files["findings.json"]))
