"""A daemon that is not root but holds what `systemd/mover.service` gives it: its runs can be used by their jobs, what
jobs leave is protected, and nobody reads through it what he may not read himself.

Before, only uid 0 handed anything over, and out/ was read with CAP_DAC_OVERRIDE: a run was `ready` for nobody, and its
snapshot held whatever a job had linked into its out/.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mover.catalog.database import Database
from tests.rooms.rig import Rig
from tests.support.folders import open_the_way
from tests.support.postgres import Dsns

HOUSE = Path(__file__).parents[2]
SERVICE, JOB, OTHER = 64_011, 64_012, 64_013
UNIT = tuple(
    re.findall(r"^AmbientCapabilities=(.*)$", (HOUSE / "systemd/mover.service").read_text("utf-8"), re.M)[0].split()
)
DROP_IN = (*UNIT, "CAP_SETUID", "CAP_SETGID")

pytestmark = [
    pytest.mark.usefixtures("tier_rows"), pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process as another user"),
    pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not here (Debian package: util-linux)"),
]  # fmt: skip


def privileges(uid: int, capabilities: tuple[str, ...] = ()) -> list[str]:
    words = ",".join(["-all", *("+" + one.removeprefix("CAP_").lower() for one in capabilities)])
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", f"--inh-caps={words}",
            f"--ambient-caps={words}", f"--bounding-set={words}"]  # fmt: skip


class Service:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, do: str, **said: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"do": do, "job": [JOB, JOB], **said}), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


@pytest.fixture
def site(tmp_path: Path, dsns: Dsns, database: Database) -> Path:
    """Tiers that are the service's, slides, a declared root, and on the flash's file system somebody else's secret."""
    rig = Rig(tmp_path, dsns, database)
    rig.slides([1000, 2000])
    for name in ("shared", "secrets"):
        (tmp_path / name).mkdir(mode=0o711)
    open_the_way(tmp_path)
    subprocess.run(["chown", "-R", f"{SERVICE}:{SERVICE}", tmp_path], check=True)
    make(tmp_path / "secrets/other", OTHER, b"what only another user may read")
    return tmp_path


def make(path: Path, uid: int, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)
    os.chown(path, uid, uid)


@contextmanager
def service(site: Path, dsns: Dsns, capabilities: tuple[str, ...]) -> Iterator[Service]:
    words = [str(site), dsns.database, dsns.superuser, dsns.daemon, dsns.vault, str(site / "shared")]
    process = subprocess.Popen(
        [*privileges(SERVICE, capabilities), sys.executable, "-m", "tests.security.service", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HOUSE,
        env={**os.environ, "PYTHONPATH": str(HOUSE), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    try:
        yield Service(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=120)


def as_job(command: str, folder: Path, uid: int = JOB) -> subprocess.CompletedProcess[str]:
    """In the folder, as a job would: no right but its user's."""
    return subprocess.run(
        [*privileges(uid), "sh", "-ec", command], cwd=folder, capture_output=True, text=True, check=False
    )


def numbers(dsns: Dsns) -> list[str]:
    with psycopg.connect(dsns.superuser) as conn:
        return [row[0] for row in conn.execute("select number from mover.slide order by number")]


def protected(dsns: Dsns) -> set[str]:
    with psycopg.connect(dsns.superuser) as conn:
        found = conn.execute(
            "select a.path from mover.artifact a join mover.snapshot s on s.id = a.snapshot_id"
            " where s.state = 'checked'"
        )
        return {row[0] for row in found}


def test_with_the_units_rights_a_run_is_its_jobs_and_nobody_elses(site: Path, dsns: Dsns) -> None:
    with service(site, dsns, UNIT) as ask:
        found = ask("stage", files=numbers(dsns), key="1")
        assert (found["state"], found["explanation"]) == ("ready", None)
        root = site / "flash/runs" / found["run"]

        # the job reads data/ and writes out/; another user does neither; the job changes nothing of data/
        assert as_job("cat data/*/* records.parquet manifest.jsonl RUN.json > /dev/null; umask 077; mkdir out/deep;"
                      " echo mine > out/deep/private", root).returncode == 0  # fmt: skip
        assert as_job("ls data", root, OTHER).returncode and as_job("touch data/x", root).returncode
        assert (root / "out").stat().st_uid == JOB

        # a file of somebody else, under a name in out/, where the machine lets users make such names
        os.link(site / "secrets/other", root / "out/taken")
        found = ask("finish", run=found["run"])
        assert (found["state"], found["reason"]) == ("ready", "protection-incomplete")
        assert not protected(dsns)
        (root / "out/taken").unlink()
        # elsewhere than in out/ the job's rights would have to be taken on, which takes more than the unit has
        make(site / "shared/mine", JOB, b"mine too")
        found = ask("finish", run=found["run"], artifacts=[str(site / "shared/mine")])
        assert (found["state"], found["reason"]) == ("ready", "denied")
        assert "may become that user" in found["explanation"]

        assert ask("finish", run=found["run"])["state"] == "protected"
        assert "out/deep/private" in protected(dsns)
        found = ask("clean", run=found["run"])
        assert (found["state"], found["explanation"]) == ("cleaned", None)
        assert not root.exists()


def test_with_the_drop_in_other_paths_are_opened_with_the_jobs_rights_and_none_of_ours(site: Path, dsns: Dsns) -> None:
    """setuid(2) takes no capability from who was not root: a child that kept CAP_DAC_OVERRIDE under the job's name read
    everything."""
    make(site / "shared/mine", JOB, b"mine")
    make(site / "shared/theirs", OTHER, b"theirs")
    with service(site, dsns, DROP_IN) as ask:
        run = ask("stage", files=numbers(dsns), key="1")["run"]
        found = ask("finish", run=run, artifacts=[str(site / "shared/theirs")])
        assert (found["state"], found["reason"]) == ("ready", "protection-incomplete")
        assert ask("finish", run=run, artifacts=[str(site / "shared/mine")])["state"] == "protected"
    assert "out/mine" in protected(dsns) and "out/theirs" not in protected(dsns)


def test_a_root_that_cannot_be_given_to_its_job_never_becomes_ready(site: Path, dsns: Dsns) -> None:
    """Found: it was `ready`, and the job could neither read nor write. Nothing is staged for nobody."""
    with service(site, dsns, tuple(one for one in UNIT if one != "CAP_CHOWN")) as ask:
        found = ask("stage", files=numbers(dsns), key="1")
    assert found["state"] in ("failed", "cleaned") and "CAP_CHOWN" in found["explanation"]
    assert not [path for path in (site / "flash/.mover/content").rglob("*") if path.is_file()]
