"""The site's own PostgreSQL is away, before a start and under a daemon that works: an upgrade of it, or a power cut."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from psycopg.conninfo import make_conninfo

from mover.catalog.migrate import migrate
from mover.catalog.postgres import Embedded
from mover.errors import CatalogRefused, MoverError
from mover.model import wire
from mover.sdk import SyncClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WAIT_S = 300.0
# the daemon as it is, but for the half minute that each pool waits for its server
IMPATIENT = """
import psycopg_pool
from mover.catalog.database import Database
psycopg_pool.AsyncConnectionPool.__init__.__kwdefaults__["timeout"] = 2.0
Database.open.__func__.__kwdefaults__["timeout_s"] = 2.0
from mover.cli import main
main()
"""


class Manager:
    """What a service manager hears, all the time."""

    def __init__(self, address: Path) -> None:
        self._heard: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(address))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while said := self._socket.recv(4096):
            self._heard.put(said.decode())

    def hear(self, wanted: str) -> str:
        deadline = time.monotonic() + WAIT_S
        while wanted not in (said := self._heard.get(timeout=WAIT_S)):
            assert time.monotonic() < deadline, f"{wanted} was never said"
        return said

    def forget(self) -> None:
        """What was said until now."""
        while not self._heard.empty():
            self._heard.get()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self._socket.getsockname())


def until(look: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not look():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def settle(folder: Path, dsns: dict[str, str]) -> Path:
    (folder / "ward").mkdir()
    (folder / "ward" / "a.bin").write_bytes(b"a")
    for name, dsn in dsns.items():
        (folder / name).write_text(dsn)
        (folder / name).chmod(0o600)
    tier = {"kind": "posix", "zone": "deidentified", "role": "archive", "path": "ward"}
    config = folder / "mover.yaml"
    config.write_text(yaml.safe_dump({
        "version": 1, "site": "ward", "project": "demo", "role": "clean", "state_dir": "state",
        "database": {"embedded": False, **{f"{name.replace('-', '_')}_file": name for name in dsns}},
        "tiers": {"ward": tier},
    }))  # fmt: skip
    return config


def scanned(client: SyncClient) -> str:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            asked = client.scans.declare(wire.ScanRequest(tier="ward"))
            return client.scans.wait(asked.id, timeout_s=WAIT_S).state
        except MoverError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


def start(folder: Path, config: Path) -> subprocess.Popen[bytes]:
    surroundings = {
        **os.environ, "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(folder / "n"), "WATCHDOG_USEC": "3000000"
    }  # fmt: skip
    with (folder / "log").open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-c", IMPATIENT, "daemon", "--config", str(config)],
            cwd=ROOT, stdout=out, stderr=out, env=surroundings,
        )  # fmt: skip


def test_a_database_that_does_not_let_us_in_fails_the_start_and_says_what_helps(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It was waited for without a word: an installation hung, the boot did not end, and the server counted five failed
    logins a second."""
    tmp_path = tmp_path_factory.mktemp("refused")
    embedded = Embedded(tmp_path / "pg")
    server = embedded.start()
    migrate(server.superuser_dsn)
    wrong = make_conninfo(server.daemon_dsn, password="wren")
    config = settle(tmp_path, {"dsn": wrong, "vault-dsn": server.vault_dsn})
    manager = Manager(tmp_path / "n")
    child = start(tmp_path, config)
    try:
        assert "asks for a password" in manager.hear("STATUS=does not start: the database lets us not in")
        child.wait(WAIT_S)
    finally:
        child.kill()
        child.wait()
        embedded.stop()
        manager.close()
    log = (tmp_path / "log").read_text()
    assert child.returncode == CatalogRefused.exit_status and "stand in the DSN's file" in " ".join(log.split()), log
    assert "wren" not in log


def test_a_database_that_is_away_at_the_start_and_again_later_is_waited_for_by_one_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Each end of the daemon would be one of the few starts that systemd gives it before a person has to come: at
    night the storage of a hospital would stand still because its database was upgraded."""
    # a long path would give its socket another folder at each start, which no DSN follows
    tmp_path = tmp_path_factory.mktemp("away")
    embedded = Embedded(tmp_path / "pg")
    server = embedded.start()
    migrate(server.superuser_dsn)
    config = settle(tmp_path, {"dsn": server.daemon_dsn, "vault-dsn": server.vault_dsn})
    embedded.stop()
    manager, log = Manager(tmp_path / "n"), tmp_path / "log"
    child = start(tmp_path, config)
    try:
        assert manager.hear("EXTEND_TIMEOUT_USEC=") == "EXTEND_TIMEOUT_USEC=120000000"
        for _ in range(2):
            assert "s: no server listens there" in manager.hear("STATUS=waits for the database: no connection to the ")
        assert "no server listens there" in log.read_text()
        child.send_signal(signal.SIGHUP)
        embedded.start()
        serving = manager.hear("READY=1").splitlines()[1]
        urls = tmp_path / "state" / "urls"
        until(urls.exists, "it says where it answers")
        until(lambda: '"reloaded"' in log.read_text(), "a reload that was asked for during the start")
        with SyncClient(urls.read_text().split()[-1]) as client:
            assert scanned(client) == "complete"
            embedded.kill()
            manager.hear("STATUS=the database is away")
            until(lambda: b"queue worker begins again" in log.read_bytes(), "the queue's worker met it, too")
            manager.forget()
            for _ in range(3):
                manager.hear("WATCHDOG=1")
            embedded.start()
            manager.hear(serving)
            assert scanned(client) == "complete" and child.poll() is None
        child.send_signal(signal.SIGTERM)
        child.wait(WAIT_S)
    finally:
        child.kill()
        child.wait()
        embedded.stop()
        manager.close()
    assert child.returncode == 0, log.read_text()[-2000:]
