"""The units we ship: hardened, and without the options that were found to break us."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "systemd"
DAEMONS = ["mover.service", "mover-identified.service"]
WATCHER = "mover-watcher.service"
UNITS = [*DAEMONS, WATCHER]
EXPOSURE_AT_MOST = 2.0


def options(unit: str) -> list[tuple[str, str]]:
    lines = (FOLDER / unit).read_text("utf-8").splitlines()
    return [
        (name, value) for name, _, value in (line.partition("=") for line in lines if re.match(r"^[A-Z]\w+=", line))
    ]


@pytest.mark.parametrize("unit", UNITS)
def test_the_exposure_of_a_unit_stays_small(unit: str) -> None:
    """The daemon reads other people's files; what it could be turned into must be little."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here (Debian package: systemd)")
    command = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(FOLDER / unit)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze cannot judge offline: {said.stderr.strip()[:100]}")
    assert float(found[1]) <= EXPOSURE_AT_MOST


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_waits_for_readiness_and_a_hung_daemon_is_killed(unit: str) -> None:
    said = dict(options(unit))
    assert said["Type"] == "notify" and int(said["WatchdogSec"]) > 0 and said["Restart"] == "on-failure"
    assert said["KillMode"] == "mixed"  # the daemon stops its own PostgreSQL, in order
    assert said["ExecStart"].split()[1:3] == ["watch" if unit == WATCHER else "daemon", "--config"]


def test_the_options_that_break_us_are_not_there() -> None:
    """Each was tried: no meminfo for compute engines, no setgid folders restored, no I/O priority."""
    said = options("mover.service")
    assert ("ProcSubset", "pid") not in said and ("RestrictSUIDSGID", "yes") not in said
    assert not any(
        name == "SystemCallFilter" and value.startswith("~") and "@resources" in value for name, value in said
    )


def test_parsers_may_lock_themselves_in() -> None:
    """Landlock and seccomp are system calls that a careless filter would refuse; then nothing confines a parser."""
    for unit in DAEMONS:
        allowed = " ".join(value for name, value in options(unit) if name == "SystemCallFilter")
        assert {"seccomp", "landlock_create_ruleset", "landlock_restrict_self"} <= set(allowed.split())


def test_the_two_zones_are_two_users_and_only_one_has_the_keys() -> None:
    """D20: whoever takes over mover.service finds no key and no intake; who opens names also signs certificates."""
    clean, identified = dict(options("mover.service")), dict(options("mover-identified.service"))
    assert clean["User"] != identified["User"]
    loaded = [value.split(":")[0] for name, value in options("mover-identified.service") if name == "LoadCredential"]
    assert "LoadCredential" not in clean and loaded == ["vault.key", "certificate.key"]
    assert identified["CapabilityBoundingSet"] == ""


@pytest.mark.parametrize("unit", UNITS)
def test_no_secret_comes_by_environment(unit: str) -> None:
    assert not any(name.startswith("Environment") for name, _ in options(unit))


def test_the_watcher_has_two_rights_that_the_daemons_have_not_and_no_network() -> None:
    """A mark on a whole file system takes an administrator's right: who takes over the daemon must not find it."""
    said = dict(options(WATCHER))
    assert set(said["CapabilityBoundingSet"].split()) == {"CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"}
    assert said["PrivateNetwork"] == "yes" and said["RestrictAddressFamilies"] == "AF_UNIX"
    for unit in DAEMONS:
        assert "CAP_SYS_ADMIN" not in dict(options(unit))["CapabilityBoundingSet"]


def test_parsers_may_give_up_the_rights_of_a_namespace_of_their_own() -> None:
    """capset is one of @privileged, and the last line that names a call counts: refused, no slide would ever be read
    by the daemon that is there to read them."""
    filters = [value for name, value in options("mover-identified.service") if name == "SystemCallFilter"]
    assert filters[-1] == "capset" and "@privileged" in filters[-2]


def test_the_watchers_system_calls_are_added_after_their_group_is_taken_away() -> None:
    """systemd reads the lines in order: the other way round the watcher could watch nothing."""
    filters = [value for name, value in options(WATCHER) if name == "SystemCallFilter"]
    assert "@privileged" in filters[-2] and filters[-2].startswith("~")
    assert {"fanotify_init", "fanotify_mark", "open_by_handle_at"} <= set(filters[-1].split())
