"""Landed software itself, out of this repository's history: on today's schema, and as the site that today's finds.

What `test_landed` opens are rows and files; here daemons run. `landed/commits.txt` has the commit of each landed state.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mover.catalog import backups
from mover.catalog.dumping import Dumper
from mover.catalog.migrate import landing_of
from mover.catalog.postgres import Embedded
from mover.demo.site import Site
from mover.demo.story import open_again, remove_all
from mover.model import wire
from mover.sdk import SyncClient
from tests.upgrade.later import next_state
from tests.upgrade.test_landed import LANDED

# they take the machine's memory and its loop devices, one after the other
pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("demo")]

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
COMMITS = dict(line.split() for line in (HERE / "landed/commits.txt").read_text("utf-8").splitlines())
NEWEST = f"{len(LANDED):02}"
STORY_S = 1800
REFUSAL_S = 300
WORK_S = 900

Software = Callable[[str], Path]


@pytest.fixture(scope="module")
def software(tmp_path_factory: pytest.TempPathFactory) -> Software:
    """The tree of a landed state, as its commit has it."""

    def tree(state: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"software-{state}"
        if not folder.exists():
            packed = folder.with_suffix(".tar")
            command = ["git", "-C", str(REPOSITORY), "archive", f"--output={packed}", COMMITS[state]]
            if subprocess.run(command, capture_output=True).returncode:
                pytest.skip(f"needs the history of this repository: {COMMITS[state]}")
            with tarfile.open(packed) as tar:
                tar.extractall(folder, filter="data")
            packed.unlink()
        return folder

    return tree


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "site"
    remove_all(Site(tmp_path / "site"))


def run(tree: Path, *words: str, timeout: float, **more: str) -> subprocess.CompletedProcess[str]:
    """By the software of that tree: neither this one's folder nor its path is looked at."""
    own = {**os.environ, "PYTHONPATH": str(tree), **more}
    return subprocess.run([sys.executable, *words], cwd=tree, env=own, capture_output=True, text=True, timeout=timeout)


def told_by(tree: Path, root: Path, *before: str) -> None:
    done = run(tree, str(HERE / "older.py"), str(root), *before, timeout=STORY_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_landed_state_from_the_fifth_on_has_its_commit() -> None:
    assert sorted(COMMITS) == [f"{n:02}" for n in range(5, len(LANDED) + 1)]


def test_the_landed_software_works_on_the_schema_of_the_next_state_and_the_one_before_refuses(
    software: Software, root: Path
) -> None:
    """Its daemon starts on a database that today's software migrated, with one column more in every table and one word
    more in every enum: batches, records, runs, protection and cleanup go as they did. What is two states back says so
    and touches nothing. Then today's goes on with what the landed one did in between."""
    today = ["env", f"--chdir={REPOSITORY}", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", "tests.upgrade.later"]
    told_by(software(NEWEST), root, *today)
    newest = next_state()[-1].file
    schema = answer(root, "db-status")
    assert (schema["newest"], schema["missing"], schema["own_landing"]) == (newest, [], len(LANDED))
    assert schema["later"][-1] == newest and schema["landing"] == landing_of(newest) == len(LANDED) + 1
    assert answer(root, "doctor")["healthy"] and answer(root, "status")["project"] == "demo"
    assert errors_of(Site(root)) == []

    site = Site(root)
    before = facts(site)
    refused = run(software(f"{len(LANDED) - 1:02}"), "-m", "mover", "daemon", "--config", str(site.config),
                  timeout=REFUSAL_S)  # fmt: skip
    assert refused.returncode != 0 and "schema-mismatch" in refused.stdout + refused.stderr
    assert facts(site) == before
    goes_on(root)


def test_a_site_that_stands_in_the_middle_of_its_life_is_carried_on(software: Software, root: Path) -> None:
    """Left by the fifth state's own software: a run that is staged, a repository with a snapshot, packs in quarantine,
    slides in the archive."""
    told_by(software("05"), root)
    goes_on(root)
    [backup] = backups.listed(root / "state" / backups.FOLDER)
    assert backup.schema == LANDED[4] and backup.rows > 300, "nothing was dumped before the migrations"


# --- today's daemon on a site that another left ---------------------------------------------------------------------


def goes_on(root: Path) -> None:
    site = Site(root)
    open_again(site)
    url = site.running_url()
    assert url is not None
    try:
        with site.client(url) as admin, site.client(url, site.operator.read_text().strip()) as operator:
            finish_what_is_staged(operator, site)
            keep_the_repository(admin, operator)
            read_the_archive(operator)
            decide_about_quarantine(operator)
            assert admin.audit.verify().whole
    finally:
        site.stop()
    assert errors_of(site) == []


def finish_what_is_staged(operator: SyncClient, site: Site) -> None:
    [staged] = [one for one in operator.runs.list().runs if one.state == "ready"]
    assert staged.out is not None and operator.runs.check(staged.id, read=True).findings == []
    (Path(staged.out) / "weights.bin").write_bytes(b"trained over an upgrade" * 1000)
    operator.runs.finish(staged.id, wire.FinishRequest(code=str(site.code), exit=0))
    done = operator.runs.wait(staged.id, until=frozenset({"protected", "ready"}), timeout_s=WORK_S)
    assert done.state == "protected", done
    operator.runs.clean(staged.id)
    assert operator.runs.wait(staged.id, until=frozenset({"cleaned"}), timeout_s=WORK_S).state == "cleaned"
    assert not Path(staged.root or "/").exists()


def keep_the_repository(admin: SyncClient, operator: SyncClient) -> None:
    """Both snapshots come back, the older one by bytes that a landed daemon wrote; upkeep finds nothing broken."""
    snapshots = operator.snapshots.list().snapshots
    assert len({one.run for one in snapshots}) == 2
    for kind in ("keep", "prune", "whole"):
        turn = admin.turns.wait(admin.turns.request(wire.TurnRequest(kind=kind)).id, timeout_s=WORK_S)
        assert turn.state == "done", turn


def read_the_archive(operator: SyncClient) -> None:
    asked = operator.verifications.request(wire.VerificationRequest(tier="archive"), key="over-an-upgrade")
    done = operator.verifications.wait(asked.id, timeout_s=WORK_S)
    assert (done.state, done.findings) == ("complete", {}) and done.checked > 5


def decide_about_quarantine(operator: SyncClient) -> None:
    causes = operator.quarantine.list().causes
    for cause in causes:
        operator.quarantine.decide(cause.id, "exclude", reason="not of this upgrade", standing=False)
    assert causes and operator.quarantine.list().causes == []


# --- what is looked at ----------------------------------------------------------------------------------------------


def answer(root: Path, words: str) -> dict[str, Any]:
    status, _, body = (root / f"{words}.told").read_text().partition("\n")
    assert status == "0", body
    found: dict[str, Any] = json.loads(body)
    return found


def facts(site: Site) -> dict[str, Any]:
    embedded = Embedded(site.state)
    try:
        return {**Dumper(embedded.start().superuser_dsn).facts()}
    finally:
        embedded.stop()


def errors_of(site: Site) -> list[str]:
    return [line for line in site.log.read_text().splitlines() if '"level": "error"' in line]
