"""What systemd is told, and the metrics' names."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from mover import metrics
from mover.systemd import Notifier


def test_every_notification_arrives_as_sd_notify_words(tmp_path: Path) -> None:
    """`Type=notify` waits for READY; a missing WATCHDOG kills us."""
    address = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        notifier = Notifier(address)
        notifier.ready("5 tiers\nonline")
        notifier.status("working")
        notifier.watchdog()
        notifier.extend_start(2.5)
        notifier.stopping()
        heard = [listener.recv(1024).decode() for _ in range(5)]
    assert heard == [
        "READY=1\nSTATUS=5 tiers online", "STATUS=working", "WATCHDOG=1", "EXTEND_TIMEOUT_USEC=2500000", "STOPPING=1",
    ]  # fmt: skip


def test_starts_are_given_up_only_where_nothing_was_waited_for() -> None:
    """A daemon that gives up after waiting half a minute for a server must never use up its starts: it would be down
    until a person comes, long after the server is back."""
    for file in sorted((Path(__file__).parents[1] / "systemd").glob("*.service")):
        said = dict(re.findall(r"^(StartLimit\w+|RestartSec)=(\d+)$", file.read_text("utf-8"), flags=re.MULTILINE))
        apart_s = 30 + int(said["RestartSec"])
        assert int(said["StartLimitIntervalSec"]) < apart_s * (int(said["StartLimitBurst"]) - 1), file.name


def test_an_abstract_socket_is_understood() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("")  # the kernel chooses an abstract name
        Notifier("@" + listener.getsockname()[1:].decode()).ready()
        assert listener.recv(64) == b"READY=1"


def test_without_a_listener_nothing_happens(tmp_path: Path) -> None:
    """Work never depends on the service manager."""
    Notifier(None).ready()
    Notifier(str(tmp_path / "gone")).watchdog()


def test_a_manager_that_reads_nothing_stops_no_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket holds few words. Whoever waited for it would answer nobody else meanwhile."""
    monkeypatch.setattr("mover.systemd.PATIENCE_S", 0.001)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "n"))
        for _ in range(2 + int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())):
            Notifier(str(tmp_path / "n")).watchdog()


def test_metric_names_carry_their_unit_and_our_name() -> None:
    units = re.compile(r"^mover_[a-z_]+(_total|_seconds|_bytes|_ratio)$")
    plain = {
        "mover_info", "mover_shards", "mover_runs", "mover_tier_online", "mover_database_up", "mover_tier_stuck_calls",
        "mover_verify_open_findings", "mover_snapshots_missing", "mover_snapshots_doubtful", "mover_snapshots_trashed",
        "mover_protect_shortenings_waiting", "mover_repository_damage", "mover_recovery_target_missed",
        "mover_tier_immutable", "mover_release_stopped", "mover_archive_slides_uncopied", "mover_archive_files_damaged",
    }  # fmt: skip
    assert {name for name in metrics.names() if not units.match(name)} == plain
    assert b"mover_http_requests_total" in metrics.render()
