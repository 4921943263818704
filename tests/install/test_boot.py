"""The package on a clean Debian under a real systemd, in the order in which an administrator meets it.

One machine is booted and installed once; each test leaves both daemons running for the next.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.install.conftest import newer
from tests.install.machine import Machine, debian, wait

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("machine")]

DAEMONS = ["mover.service", "mover-identified.service"]
FILES, FILE_BYTES = 250, 1_000_000  # at the ten million bytes a second of its policy, most of half a minute
TEMPORARY = ".mover-tmp-"


@pytest.fixture(scope="module")
def machine(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    root = tmp_path_factory.mktemp("machine") / "root"
    root.mkdir()
    debian(root)
    subprocess.run(["cp", str(package), str(root / "mover.deb")], check=True)
    made = Machine(root)
    try:
        made.boot()
        yield made
    finally:
        made.power_off()


@pytest.fixture(scope="module")
def installed(machine: Machine) -> str:
    return machine.run("apt-get", "install", "-y", "--no-install-recommends", "/mover.deb").stdout


@pytest.fixture(scope="module")
def site(machine: Machine, installed: str) -> Machine:
    machine.run("sh", text=(Path(__file__).parent / "site.sh").read_text())
    machine.run("mover", "units", "write")
    machine.run("systemctl", "start", *DAEMONS)
    return machine


def mover(machine: Machine, *words: str, check: bool = True) -> Any:
    said = machine.run("mover", "--config", "/etc/mover/mover.yaml", *words, "--json", check=check)
    return json.loads(said.stdout) if said.returncode == 0 else None


def running(machine: Machine, unit: str) -> bool:
    return machine.show(unit, "ActiveState", "SubState") == ["active", "running"]


def test_an_installation_starts_nothing_and_says_what_comes_next(machine: Machine, installed: str) -> None:
    """The first command must not be one that acts."""
    assert "mover init --config /etc/mover" in installed
    for unit in DAEMONS:
        assert machine.show(unit, "ActiveState", "UnitFileState") == ["inactive", "disabled"]
    assert machine.run("mover", "--version").stdout.startswith("mover ")
    assert machine.run("dpkg", "--verify", "mover").stdout == ""
    assert "RequiresMountsFor" not in machine.run("systemctl", "cat", "mover").stdout


def test_without_settings_a_start_fails_and_says_so(machine: Machine, installed: str) -> None:
    told = machine.run("systemctl", "start", "mover", check=False)
    assert told.returncode != 0 and "ssertion" in told.stderr


def test_both_daemons_are_ready_and_say_how_they_are(site: Machine) -> None:
    for unit in DAEMONS:
        assert running(site, unit)
        assert site.show(unit, "StatusText", "Type")[0].startswith("serving unix:///run/")
    assert mover(site, "status")


def test_keys_and_names_are_seen_by_one_process_alone(site: Machine) -> None:
    """Even by root's rights: CAP_DAC_OVERRIDE is one of the clean daemon's. What is not there cannot be opened."""

    def seen(unit: str, path: str) -> str:
        pid = site.show(unit, "MainPID")[0]
        return site.run("nsenter", f"--target={pid}", "--mount", "--wd=/", "base64", path, check=False).stdout

    secrets = {
        "/intake/name": "mover-identified.service",
        "/run/credentials/mover-identified.service/vault.key": "mover-identified.service",
        "/var/lib/mover-identified/urls": "mover-identified.service",
        "/run/credentials/mover.service/repository-password": "mover.service",
    }
    for path, owner in secrets.items():
        assert [unit for unit in DAEMONS if seen(unit, path)] == [owner], path
    assert seen("mover.service", "/etc/mover/vault.key") == seen("mover.service", "/etc/shadow") == ""
    assert seen("mover.service", "/etc/mover/credentials/repository-password") == ""
    for path in ("/etc/mover/vault-dsn", "/etc/mover/dsn-identified"):
        assert site.run("test", "-s", path) and seen("mover.service", path) == "", path
        assert seen("mover-identified.service", path), path
    listed = site.run("stat", "-c", "%a %U", "/run/credentials/mover-identified.service/vault.key").stdout.split()
    assert listed == ["400", "mover-identified"]


def test_what_is_not_declared_is_read_only(site: Machine) -> None:
    def writable(unit: str, folder: str) -> bool:
        pid = site.show(unit, "MainPID")[0]
        words = ["nsenter", f"--target={pid}", "--mount", "--wd=/", "touch", f"{folder}/.tried"]
        return site.run(*words, check=False).returncode == 0

    assert [writable("mover.service", at) for at in ("/flash", "/archive", "/etc/mover/policies")] == [True] * 3
    assert [writable("mover.service", at) for at in ("/etc/mover", "/srv", "/intake")] == [False] * 3
    assert [writable("mover-identified.service", at) for at in ("/intake", "/flash", "/etc/mover")] == [False] * 3


def test_a_hung_daemon_is_killed_and_comes_back(site: Machine) -> None:
    """Stopped in mid-air: it feeds no watchdog and answers no signal but the last."""
    folder = site.root / "etc/systemd/system/mover.service.d"
    (folder / "watchdog.conf").write_text("[Service]\nWatchdogSec=10\nTimeoutAbortSec=5\nRestartSec=1\n")
    site.run("systemctl", "daemon-reload")
    site.run("systemctl", "restart", "mover")
    before = site.show("mover", "MainPID")[0]
    site.run("systemctl", "kill", "--kill-whom=main", "--signal=STOP", "mover")
    wait(lambda: running(site, "mover") and site.show("mover", "MainPID")[0] != before, "a daemon that came back")
    assert "Watchdog timeout" in site.journal("mover") and "watchdog" in site.journal("mover")
    (folder / "watchdog.conf").unlink()
    site.run("systemctl", "daemon-reload")
    site.run("systemctl", "restart", "mover")


def test_a_reload_takes_what_changed_and_a_mistake_changes_nothing(site: Machine) -> None:
    settings, pid = site.root / "etc/mover/mover.yaml", site.show("mover", "MainPID")
    before = settings.read_text()
    tier = "  second: {kind: posix, zone: deidentified, role: archive, path: /archive/second}\n"
    site.run("install", "-d", "-o", "mover", "/archive/second")
    try:
        settings.write_text(before + tier)
        site.run("systemctl", "reload", "mover")
        assert "second" in {one["name"] for one in mover(site, "status")["tiers"]}
        settings.write_text(before + tier + "nonsense: true\n")
        told = site.run("systemctl", "reload", "mover", check=False)
        assert told.returncode != 0 and "nonsense" in site.journal("mover")
        settings.write_text(before + tier)  # a command reads it, too, to find the daemon
        assert "second" in {one["name"] for one in mover(site, "status")["tiers"]}
        assert running(site, "mover.service") and site.show("mover", "MainPID") == pid
    finally:
        settings.write_text(before)
    site.run("systemctl", "restart", "mover")


def test_a_file_server_that_is_away_at_boot_keeps_nobody_elses_work_waiting(site: Machine) -> None:
    """As after a power cut, where storage comes back last. No server answers to this name; while the site was set up,
    a folder stood for what it has."""
    settings, fstab = site.root / "etc/mover/mover.yaml", site.root / "etc/fstab"
    before = settings.read_text(), fstab.read_text() if fstab.exists() else ""
    site.run("install", "-d", "-o", "mover", "/far/slides")
    try:
        fstab.write_text(before[1] + "nas.ward.example:/slides /far nfs nofail,_netdev 0 0\n")
        settings.write_text(before[0] + "  far: {kind: posix, zone: deidentified, role: source, path: /far/slides}\n")
        site.run("mover", "units", "write")
        site.run("systemctl", "restart", "mover")
        assert {one["name"]: one["online"] for one in mover(site, "status")["tiers"]}["far"]
        site.run("systemctl", "stop", "mover")
        site.run("rm", "-r", "/far/slides")
        site.run("systemctl", "start", "mover")
        assert running(site, "mover.service") and site.show("far.mount", "ActiveState") != ["active"]
        there = {one["name"]: one["online"] for one in mover(site, "status")["tiers"]}
        assert not there["far"] and there["nas"] and there["archive"]
        assert "tier-away" in {one["code"] for one in mover(site, "needs")["needs"]}
    finally:
        settings.write_text(before[0])
        fstab.write_text(before[1])
        site.run("mover", "units", "write")
        site.run("systemctl", "restart", "mover")


def test_a_database_that_is_away_at_boot_is_waited_for(site: Machine) -> None:
    """Longer than a start may take by the unit's own word, and without a start being counted as failed."""
    site.run("systemctl", "stop", *DAEMONS, "site-postgres")
    for unit in DAEMONS:
        site.run("systemctl", "start", "--no-block", unit)
        wait(lambda unit=unit: "waits for the database" in site.show(unit, "StatusText")[0], f"{unit} that waits")  # type: ignore[misc]
        assert site.show(unit, "ActiveState", "NRestarts") == ["activating", "0"]
    site.run("systemctl", "start", "site-postgres")
    for unit in DAEMONS:
        wait(lambda unit=unit: running(site, unit), f"{unit} that runs")  # type: ignore[misc]
        assert site.show(unit, "NRestarts") == ["0"]


def begin_work(site: Machine, name: str) -> str:
    """A copy that its budget makes slow; its id, once some of it is done."""
    source = site.root / "nas" / name
    source.mkdir()
    for number in range(FILES):
        (source / f"{number:04}.bin").write_bytes(number.to_bytes(4, "big") * (FILE_BYTES // 4))
    site.run("chown", "-R", "mover", f"/nas/{name}")
    begun = mover(site, "copy", f"nas:{name}", f"archive:{name}")
    wait(lambda: 0 < moved(site, begun["id"]) < FILES * FILE_BYTES, "work in progress")
    return str(begun["id"])


def moved(site: Machine, id_: str) -> int:
    found = mover(site, "transfer", "show", id_, check=False)
    return int(found["done_bytes"]) if found else 0


def state(site: Machine, id_: str) -> str:
    found = mover(site, "transfer", "show", id_, check=False)
    return str(found["state"]) if found else "nobody answers"


def check_whole(site: Machine, name: str) -> None:
    # what a killed process was writing keeps a name of its own, and goes with the next sweep
    made = sorted(path for path in (site.root / "archive" / name).iterdir() if not path.name.startswith(TEMPORARY))
    assert [path.name for path in made] == [f"{number:04}.bin" for number in range(FILES)]
    for number, path in enumerate(made):
        assert path.read_bytes() == number.to_bytes(4, "big") * (FILE_BYTES // 4)


def test_work_goes_on_after_a_kill_without_anybody_asking(site: Machine) -> None:
    """kill -9 of everything the unit runs, in mid-copy."""
    id_ = begin_work(site, "killed")
    restarts = int(site.show("mover", "NRestarts")[0])
    site.run("systemctl", "kill", "--signal=KILL", "mover")
    wait(lambda: running(site, "mover") and int(site.show("mover", "NRestarts")[0]) > restarts, "a restart")
    wait(lambda: state(site, id_) == "done", "the end of the copy")
    check_whole(site, "killed")


def test_a_stop_under_work_is_in_time_and_clean(site: Machine) -> None:
    """A node that is drained waits for its slowest service; one that is killed at the end lost what was in flight."""
    id_ = begin_work(site, "stopped")
    site.run("systemctl", "stop", "mover")
    result, status = site.show("mover", "Result", "ExecMainStatus")
    assert (result, status) == ("success", "0")
    site.run("systemctl", "start", "mover")
    wait(lambda: state(site, id_) == "done", "the end of the copy")
    check_whole(site, "stopped")


def test_an_upgrade_in_mid_work_and_the_way_back_lose_nothing(
    site: Machine, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The daemon runs from its own files until it was drained; then a link says which release runs."""
    made = newer(package, tmp_path_factory.mktemp("newer") / "newer.deb")
    subprocess.run(["mv", str(made), str(site.root / "newer.deb")], check=True)
    id_ = begin_work(site, "upgraded")
    old = site.run("readlink", "/opt/mover/current").stdout.strip()
    site.run("apt-get", "install", "-y", "--no-install-recommends", "/newer.deb")
    new = site.run("readlink", "/opt/mover/current").stdout.strip()
    assert new == old.rpartition("-")[0] + "-2" and all(running(site, unit) for unit in DAEMONS)
    assert site.run("mover-release", "list").stdout.splitlines() == [f"- {old}", f"* {new}"]
    assert (
        f"/opt/mover/{new}/bin/python3" in site.run("cat", f"/proc/{site.show('mover', 'MainPID')[0]}/cmdline").stdout
    )
    site.run("mover-release", "use", old)
    assert site.run("readlink", "/opt/mover/current").stdout.strip() == old
    assert all(running(site, unit) for unit in DAEMONS)
    wait(lambda: state(site, id_) == "done", "the end of the copy")
    check_whole(site, "upgraded")


TRIAL = """version: 1
site: ward
project: main
role: both
state_dir: /srv/trial
listen: {unix: /run/mover/mover.sock}
tiers:
  flash: {kind: posix, zone: deidentified, role: flash, path: /flash}
"""
KEYS = """
from pathlib import Path
from mover.deid.vault import VaultKey
from mover.signing import new_key
VaultKey.create(Path("/srv/trial/vault.key"))
new_key(Path("/srv/trial/certificate.key"))
"""


def test_one_daemon_with_its_own_database_runs_as_the_same_unit_with_the_watcher_beside_it(site: Machine) -> None:
    """How most people begin. PostgreSQL inherits none of the daemon's rights: the watcher could not see it."""
    settings = site.root / "etc/mover/mover.yaml"
    before = settings.read_text()
    site.run("systemctl", "stop", *DAEMONS)
    site.run("install", "-d", "-o", "mover", "-m", "700", "/srv/trial")
    site.run("runuser", "-u", "mover", "--", "/opt/mover/current/bin/python3", "-", text=KEYS)
    try:
        settings.write_text(TRIAL)
        site.run("mover", "units", "write")
        site.run("systemctl", "start", "mover", "mover-watcher")
        assert running(site, "mover.service") and running(site, "mover-watcher.service")
        pid = (site.root / "srv/trial/postgres/data/postmaster.pid").read_text().split()[0]
        assert "CapPrm:\t0000000000000000" in site.run("cat", f"/proc/{pid}/status").stdout
        site.run("systemctl", "stop", "mover")
        assert site.show("mover", "Result") == site.show("mover-watcher", "Result") == ["success"]
    finally:
        settings.write_text(before)
        site.run("mover", "units", "write")
        site.run("systemctl", "start", *DAEMONS)


def test_an_uninstall_leaves_everything_of_the_site_and_says_where(site: Machine) -> None:
    said = site.run("apt-get", "remove", "-y", "mover").stdout
    for place in ("/etc/mover/mover.yaml", "/var/lib/mover-identified", "/intake", "/archive", "/protect"):
        assert place in said
    said = site.run("apt-get", "purge", "-y", "mover").stdout
    assert "left as it is: /etc/mover" in said and "left as it is: /var/lib/mover-identified" in said
    for kept in ("etc/mover/vault.key", "etc/mover/mover.yaml", "var/lib/mover/audit.key", "archive/killed/0000.bin",
                 "intake/name"):  # fmt: skip
        assert (site.root / kept).exists(), kept
    assert not (site.root / "opt/mover").exists()
    assert not (site.root / "etc/systemd/system/mover.service.d").exists()
