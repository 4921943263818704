"""Every other page's commands, page by page, against a site that has worked: what can be typed also answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mover.model import wire
from tests.demo.conftest import hospital
from tests.docs.commands import PAGES, ROOT, Line, lines, program
from tests.docs.walking import Walk
from tests.system.conftest import worked
from tests.system.ward import Ward, ending

__all__ = ["hospital", "worked"]
pytestmark = [pytest.mark.soak, pytest.mark.slow]

FOLLOWED_ELSEWHERE = {"your-own-hospital.md", "compliance.md"}
# Read by `test_commands.py` and not typed here, and why.
ONLY_READ = {
    "mover --config /etc": "a site in its usual place: tests/install/test_boot.py",
    "mover init": "the page of the hospital begins with it",
    "mover units": "this machine's units are not a site's: tests/install/test_units.py",
    "mover db": "with the daemon stopped: tests/upgrade, tests/catalog/test_upgrades.py",
    "mover support": "tests/system/test_support_bundle.py",
    "mover deid": "beside a site: tests/cli/test_deid.py, tests/cli/test_certify.py",
    "mover vault": "takes key files and their owners: tests/cli/test_vault.py",
    "mover audit accept-restore": "wants a database that was restored: tests/system/test_lost_machine.py",
    "mover audit approve-restore": "as above", "mover scan start TIER": "as above",
    "mover audit retire": "wants a site that says for how long: tests/system/test_records_retired.py",
    "mover audit approve-retirement": "as above",
    "mover tier remove": "with the daemon stopped: tests/rooms/test_new_tiers.py",
    "mover protect copy --wait": "wants a policy with a second home: tests/rooms/test_copies.py",
    "mover --project other": "wants a second project: tests/system/test_document.py",
    "mover account add ann": "the page of the hospital makes ann",
    "mover copy archive:slides flash:mirror": "tests/rooms/test_transfers.py",
    "mover move nas:old": "wants a file server: tests/rooms/test_transfers_release.py",
    "mover copy nas:scans": "as above", "mover policy plan": "as above", "mover transfer report": "as above",
    "mover policy set night": "is refused on the page, and here",
    "mover folder": "wants a folder in the policy: tests/rooms/test_folders.py",
    "mover restore --run": "TIME is any time: tests/rooms/test_restores.py",
    "mover restore SNAPSHOT --to FOLDER": "the README's restore stands for it",
    "mover cohort split": "wants more slides than a small hospital has: tests/rooms/test_splits.py",
    "mover slide tile": "its numbers are of a large slide: tests/rooms/test_viewing.py",
    "mover slide view NUMBER -o part": "as above",
    "mover run request --like RUN": "tests/rooms/test_runs.py",
    "mover run request --cohort high-grade@1": "the README's run stands for it",
    "mover snapshot show ID": "ID of which noun stands beside it",
}  # fmt: skip

# what the page on policies lets somebody change
CHANGED = {
    "protect": ("last: 20", "last: 5"),
    "clean": ("automatic: false", "automatic: true"),
    "verify": ("share_per_day: 0.0333", "share_per_day: 0.07"),
}


def typed(page: Path) -> list[Line]:
    return [line for line in lines(page) if line.typed and not line.pattern and program(line.text) == "mover"]


def test_the_commands_of_the_pages_answer(
    worked: Ward,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,  # noqa: F811
) -> None:
    ward = Ward.copy(tmp_path / "site", worked)
    (tmp_path / "cold").mkdir()
    ward.site.code.mkdir(parents=True)
    (ward.site.code / "train.py").write_text("print('training')\n")
    for name, (old, new) in CHANGED.items():
        text = (ward.site.policies / f"{name}.yaml").read_text()
        assert old in text
        (tmp_path / f"{name}.yaml").write_text(text.replace(old, new))
    places = {
        "$R": "records/2026-11-batch-01",
        "$PWD/.demo/home": str(ward.site.root / "home"),
        "--expected 35": "--expected 14",
        "/etc/mover/policies/examples": str(ROOT / "policies" / "examples"),
        "/etc/mover/policies": str(ward.site.policies),
        "/mnt/cold": str(tmp_path / "cold"),
        "diagnosis = 'PRAD' and gleason >= 7": "scanned_year >= 2000",
    }
    walk = Walk(places, dict[str, Callable[[], None] | str](ONLY_READ))
    for name, value in {
        "MOVER_CONFIG": ward.site.config,
        "MOVER_TOKEN_FILE": tmp_path / "token",
        "COLUMNS": 400,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("MOVER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with ending([ward]), ward.start() as client:
        # who asks brings the rights with which code and restores are opened
        mine = client.tokens.make(
            wire.TokenRequest(actor="ana", role="admin", posix_uid=os.getuid(), posix_gid=os.getgid())
        )
        (tmp_path / "token").write_text(mine.secret or "")
        walk.seen["NUMBER"] = client.slides.list(state="aligned").slides[0].number
        wrong = []
        for page in PAGES:  # the README first: it makes the run that others look at
            for line in typed(page) if page.name not in FOLLOWED_ELSEWHERE else ():
                try:
                    walk.step(line, capsys, monkeypatch)
                except AssertionError as error:
                    wrong.append(str(error))
    if wrong:
        pytest.fail("\n".join(wrong))
    assert walk.followed > 25
