"""`docs/your-own-hospital.md`, followed from its first line to its last: whoever has only the page gets there."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mover.catalog.postgres import Embedded
from mover.clock import monotonic_s, pause
from mover.demo.generate import Hospital
from mover.demo.seaweed import Seaweed, without_proxies
from tests.demo.conftest import hospital
from tests.docs.commands import ROOT
from tests.docs.walking import Walk

__all__ = ["hospital"]
PAGE = ROOT / "docs" / "your-own-hospital.md"
READY_S = 300.0
# Why these are read (`test_commands.py`) and not followed here.
ONLY_READ = {
    "apt install": "a package is installed into a machine of its own: tests/install/test_boot.py",
    "mover units write": "drop-ins are the machine's, and no tier of a unit is below /tmp: tests/install/test_units.py",
    "restic": "Debian's restic is not on every machine; followed where it is",
}


class Service:
    """What `systemctl enable --now mover` starts."""

    def __init__(self, root: Path) -> None:
        self.state = root / "var" / "lib" / "mover"
        self.config = root / "etc" / "mover" / "mover.yaml"
        self.log = root / "journal"
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = without_proxies({name: text for name, text in os.environ.items() if name != "MOVER_CONFIG"})
        command = [sys.executable, "-m", "mover", "daemon", "--config", str(self.config)]
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        deadline = monotonic_s() + READY_S
        while not (self.state / "urls").exists():
            assert self._child.poll() is None and monotonic_s() < deadline, self.log.read_text()
            pause(0.05)

    def restart(self) -> None:
        self._end()
        (self.state / "urls").unlink(missing_ok=True)
        self.start()

    def _end(self) -> None:
        if self._child is not None:
            self._child.terminate()
            self._child.wait(60)

    def stop(self) -> None:
        self._end()
        if (self.state / "postgres").exists():
            Embedded(self.state).stop()


@pytest.fixture
def machine(tmp_path: Path, hospital: Hospital) -> Iterator[Path]:  # noqa: F811
    """The places of the page below a folder of ours, with one finished batch on the file server."""
    for place in ("etc/mover", "flash", "protect", "media/one", "media/two"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "var" / "lib" / "mover").mkdir(mode=0o700, parents=True)
    source, intake = Path(hospital.source), tmp_path / "srv" / "intake"
    for part in ("2026-11-batch-01", "records/2026-11-batch-01"):
        shutil.copytree(source / part, intake / part)
    yield tmp_path


@pytest.mark.slow
def test_the_page_leads_from_nothing_to_a_run_that_is_cleaned(
    machine: Path, weed: Seaweed, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(machine)
    shutil.copy(weed.credentials_file, machine / "keys")
    me = f"{os.getuid()} -g {os.getgid()}"
    walk = Walk(
        {
            **{
                place: f"{machine}{place}"
                for place in ("/etc/mover", "/flash", "/protect", "/srv", "/var/lib", "/media")
            },
            "s3://slides/prod": f"s3://{weed.bucket}/{secrets.token_hex(6)}",
            "https://s3.hospital.example": weed.endpoint,
            "-o mover -g mover": f"-o {me}",
        },
        {"systemctl enable": service.start, "systemctl restart": service.restart, **ONLY_READ},
    )
    if shutil.which("restic"):
        del walk.instead["restic"]
    monkeypatch.setenv("COLUMNS", "400")
    for name in ("MOVER_URL", "MOVER_TOKEN_FILE", "MOVER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(machine)
    try:
        walk.follow(PAGE, capsys, monkeypatch)
    finally:
        service.stop()
    assert walk.followed > 45 and set(walk.seen) >= {"BATCH", "RUN", "RECORDS", "SNAPSHOT", "NUMBER"}
    restored = machine / "flash" / "mover" / "back" / "artifacts" / "model.txt"
    assert restored.read_bytes() == (machine / "etc" / "mover" / "answers.yaml").read_bytes()
    assert not list((machine / "flash/mover/runs").iterdir())


def test_the_page_says_how_many_packs_the_batch_has() -> None:
    """Somebody types the example with their own number; ours must fit the hospital that the test has."""
    assert set(re.findall(r"--expected (\d+)", PAGE.read_text("utf-8"))) == {"14"}
