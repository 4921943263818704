"""`mover-release`: which release runs is a link, changed after looking and in order, and back again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mover.cli.db import LACKING
from tests.install.conftest import PACKAGING

SYSTEMCTL = """#!/bin/sh
case "$*" in "start {broken}") exit 1 ;; esac
case $* in *is-active*)
    for last; do :; done
    case $last in {active}) echo {state}; exit 0 ;; esac
    echo inactive; exit 3 ;;
esac
echo "$*" >>"{log}"
"""


class Here:
    """The script with its places below one folder, and a systemctl that writes down what it is told."""

    def __init__(self, folder: Path) -> None:
        self.prefix, self.etc, self.log = folder / "opt", folder / "etc", folder / "log"
        places = {"/opt/mover": self.prefix, "/etc/mover": self.etc, "/run/systemd/system": folder / "run"}
        places["/etc/systemd/system"] = folder / "units"
        text = (PACKAGING / "release").read_text()
        for place, ours in places.items():
            text = text.replace(place, str(ours))
        for made in (self.prefix, self.etc, folder / "run", folder / "units", folder / "bin"):
            made.mkdir()
        self.script = folder / "mover-release"
        self.script.write_text(text)
        self.systemctl = folder / "bin" / "systemctl"
        self.running("none")

    def running(self, *units: str, broken: str = "none", state: str = "active") -> None:
        said = SYSTEMCTL.format(active=" | ".join(units), broken=broken, log=self.log, state=state)
        self.systemctl.write_text(said)
        self.systemctl.chmod(0o755)
        self.log.write_text("")

    def release(self, name: str, *, understands: bool = True, stock: bool = False, built: str = "one") -> Path:
        folder = self.prefix / "stock" / name if stock else self.prefix / name
        (folder / "bin").mkdir(parents=True)
        (folder / "sources").write_text(built)
        (folder / "bin" / "mover").write_text(f'#!/bin/sh\necho {name} "$@"\nexit {0 if understands else 1}\n')
        (folder / "bin" / "mover").chmod(0o755)
        return folder

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.systemctl.parent}:{os.defpath}"}
        return subprocess.run(
            ["sh", str(self.script), *words], env=environment, capture_output=True, text=True, check=False
        )

    @property
    def current(self) -> str:
        return os.readlink(self.prefix / "current")

    @property
    def told(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def test_what_runs_is_drained_and_started_again_in_order(here: Here) -> None:
    """What feeds the others stops first and starts last: nothing is handed over to who is not there."""
    here.release("0.1.0-1")
    here.release("0.1.0-2")
    assert here("use", "0.1.0-1").returncode == 0 and here.told == ["daemon-reload"]
    here.running("mover.service", "mover-identified.service")
    assert here("use", "0.1.0-2").returncode == 0 and here.current == "0.1.0-2"
    order = ["stop mover-identified.service", "stop mover.service", "daemon-reload"]
    assert here.told == [*order, "start mover.service", "start mover-identified.service"]
    assert here("list").stdout.splitlines() == ["- 0.1.0-1", "* 0.1.0-2"]
    assert here("use", "0.1.0-1").returncode == 0 and here.current == "0.1.0-1"


def test_the_way_back_starts_what_the_failed_way_forward_had_stopped(here: Here) -> None:
    """The first that does not start ends the upgrade; by then the others are stopped, and no longer seen as running."""
    here.release("0.1.0-1")
    here.release("0.1.0-2")
    here("use", "0.1.0-1")
    here.running("mover.service", "mover-identified.service", broken="mover.service")
    said = here("use", "0.1.0-2")
    assert said.returncode == 1 and "mover-release use 0.1.0-1" in said.stderr
    here.running("none")
    assert here("use", "0.1.0-1").returncode == 0
    assert here.told[-2:] == ["start mover.service", "start mover-identified.service"]
    here.running("none")
    assert here("use", "0.1.0-2").returncode == 0 and here.told == ["daemon-reload"]


def test_a_failed_release_asked_for_again_is_started_again(here: Here) -> None:
    """`apt -f install` asks for it: told that all is well, nobody would look at a site that stands still. What systemd
    is about to start again runs, too."""
    for name in ("1", "2", "3"):
        here.release(name)
        assert here("use", name).returncode == 0
    here.release("4")
    here.running("mover.service", broken="mover.service", state="activating")
    assert here("use", "4").returncode == 1 and "stop mover.service" in here.told
    here.running("none")
    assert here("use", "4").returncode == 0 and here.told[-1] == "start mover.service"
    assert here("list").stdout.splitlines() == ["  2", "- 3", "* 4"]
    assert here("use", "4").returncode == 0 and here.told[-1] == "start mover.service" and len(here.told) == 3


def test_previous_is_the_release_before_and_links_and_halves_are_none(here: Here) -> None:
    """Typed at 3 a.m.: the same release once more, or a link to itself, would be no way back."""
    here.release("1")
    here.release("2")
    (here.release("3.partial") / "sources").unlink()
    assert here("use", "previous").returncode == 1
    for name in ("1", "2"):
        assert here("use", name).returncode == 0
    assert here("use", "previous").returncode == 0 and here.current == "1"
    assert here("list").stdout.splitlines() == ["* 1", "- 2"]
    assert here("use", "previous").returncode == 0 and here.current == "2"
    here.running("mover.service")
    for name in ("current", "3.partial", "current.new"):
        assert here("use", name).returncode == 1 and here.current == "2" and here.told == []


def test_the_same_release_again_changes_nothing(here: Here) -> None:
    here.release("0.1.0-1")
    here("use", "0.1.0-1")
    here.running("mover.service")
    assert here("use", "0.1.0-1").returncode == 0 and here.told == []


def test_a_release_that_does_not_understand_the_settings_stops_nothing(here: Here) -> None:
    """Found out before the drain: an upgrade at night must not end in two releases that both do not run."""
    here.release("0.1.0-1")
    here.release("0.2.0-1", understands=False)
    here("use", "0.1.0-1")
    (here.etc / "mover.yaml").write_text("version: 1\n")
    here.running("mover.service")
    said = here("use", "0.2.0-1")
    assert said.returncode == 1 and "0.1.0-1 goes on" in said.stderr
    assert here.current == "0.1.0-1" and here.told == []


def test_a_release_that_waits_for_the_servers_schema_stops_nothing(here: Here) -> None:
    """A server of the site's own is migrated by a person, beneath the release that runs. Found out only by the start,
    it would be found out with nothing running."""
    here.release("0.1.0-1")
    new = here.release("0.2.0-1")
    lacking = f'#!/bin/sh\ncase "$*" in *"identified.yaml db status"*) exit {LACKING} ;; esac\n'
    (new / "bin" / "mover").write_text(lacking)
    here("use", "0.1.0-1")
    for name in ("mover", "identified"):
        (here.etc / f"{name}.yaml").write_text("version: 1\ndatabase: {embedded: false, dsn_file: dsn}\n")
    here.running("mover.service")
    said = here("use", "0.2.0-1")
    assert said.returncode == 3 and here.current == "0.1.0-1" and here.told == []
    assert f"{new}/bin/mover --config {here.etc}/identified.yaml db migrate --admin DSN" in said.stderr
    for status in (1, 4, 7):  # 1: a traceback, which was taken for a schema that waits, and for success by the package
        broken = f'#!/bin/sh\ncase "$*" in *"db status"*) echo gone >&2; exit {status} ;; esac\n'
        (new / "bin" / "mover").write_text(broken)
        said = here("use", "0.2.0-1")
        assert said.returncode == 1 and "gone" in said.stderr and "migrate" not in said.stderr and here.told == []
    (here.etc / "identified.yaml").write_text("version: 1\n# embedded: false\n")
    assert here("use", "0.2.0-1").returncode == 0 and here.current == "0.2.0-1"


def test_older_ones_than_the_way_back_go(here: Here) -> None:
    for number in (1, 2, 3):
        here.release(f"0.1.0-{number}")
        here("use", f"0.1.0-{number}")
    assert here("list").stdout.splitlines() == ["- 0.1.0-2", "* 0.1.0-3"]


def test_what_a_package_takes_away_does_not_go_from_below_what_runs(here: Here) -> None:
    """dpkg removes the old files before it configures the new ones; links keep them, and take no room."""
    stock = here.release("0.1.0-1", stock=True)
    assert here("adopt", "0.1.0-1").returncode == 0
    own = here.prefix / "0.1.0-1/bin/mover"
    assert own.stat().st_ino == (stock / "bin/mover").stat().st_ino
    (stock / "bin/mover").unlink()
    assert own.exists() and here.current == "0.1.0-1"


def test_another_build_of_the_same_release_is_refused(here: Here) -> None:
    here.release("0.1.0-1")
    here.release("0.1.0-1", stock=True, built="two")
    said = here("adopt", "0.1.0-1")
    assert said.returncode == 1 and "RELEASE=" in said.stderr


def test_leaving_says_what_stays_and_takes_the_releases_only(here: Here) -> None:
    here.release("0.1.0-1")
    here("use", "0.1.0-1")
    (here.prefix / "stock").mkdir()
    here.running("mover.service")
    assert "0.1.0-1 units where" in here("leave").stdout
    assert here.told[0] == "stop mover.service" and [path.name for path in here.prefix.iterdir()] == ["stock"]


@pytest.mark.parametrize("words", [("use", "../etc"), ("use", "stock"), ("use",), ("burn",), ("use", "0.9.0-1")])
def test_what_is_no_release_is_refused(here: Here, words: tuple[str, ...]) -> None:
    assert here(*words).returncode != 0 and not (here.prefix / "current").exists()
