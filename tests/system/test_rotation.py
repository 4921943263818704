"""Passwords of the database change under a daemon that works: nothing is restarted and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mover.catalog.migrate import migrate
from mover.catalog.postgres import DAEMON, DATABASE, VAULT, Embedded, EmbeddedServer
from mover.deid.vault import VaultKey
from mover.errors import MoverError
from mover.model import wire
from mover.sdk import SyncClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
WAIT_S = 300.0
# the pool's, the listeners', the queue's, the vault's
KINDS = {(DAEMON, "mover"), (DAEMON, "mover-listen"), (DAEMON, ""), (VAULT, "mover-vault")}
FILES = {DAEMON: "dsn", VAULT: "vault-dsn"}


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with suppress(MoverError):
            if found := look():
                return found
        time.sleep(0.05)
    raise AssertionError(what)


class Site:
    """A daemon of both zones on a server that asks for passwords."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder, self.server = folder, server
        self.config, self.log = folder / "mover.yaml", folder / "daemon.log"
        (folder / "ward").mkdir()
        (folder / "ward" / "a.bin").write_bytes(b"a")
        tier = {"kind": "posix", "zone": "identified", "role": "source", "path": "ward", "read_only": True}
        self.config.write_text(yaml.safe_dump({
            "version": 1, "site": "ward", "project": "demo", "state_dir": "state", "vault_key": "vault.key",
            "database": {"embedded": False, "dsn_file": "dsn", "vault_dsn_file": "vault-dsn"}, "tiers": {"ward": tier},
        }))  # fmt: skip
        VaultKey.create(folder / "vault.key")
        for role in FILES:
            self.say(role, "wren-first")
            self.change(role, "wren-first")

    def say(self, role: str, password: str) -> None:
        """As an administrator does: a new file in the place of the old one."""
        fresh = self.folder / "fresh"
        host = str(self.server.socket_dir)
        fresh.write_text(make_conninfo("", host=host, port="5432", user=role, dbname=DATABASE, password=password))
        fresh.chmod(0o600)
        fresh.rename(self.folder / FILES[role])

    def change(self, role: str, password: str) -> None:
        words = sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(password))
        with psycopg.connect(self.server.superuser_dsn, autocommit=True) as conn:
            conn.execute(words)

    def ask(self, query: str) -> list[Any]:
        with psycopg.connect(self.server.superuser_dsn, autocommit=True) as conn:
            return conn.execute(query).fetchall()

    def connected(self) -> set[tuple[str, str]]:
        return set(self.ask("select usename, application_name from pg_stat_activity where usename like 'mover%'"))

    @contextmanager
    def daemon(self) -> Iterator[SyncClient]:
        with open(self.log, "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "mover", "daemon", "--config", str(self.config)],
                cwd=ROOT, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        try:
            urls = self.folder / "state" / "urls"
            until(urls.exists, "the daemon did not come up")
            with SyncClient(urls.read_text().split()[-1]) as client:
                yield client
            child.send_signal(signal.SIGHUP)
            until(lambda: '"reloaded"' in self.log.read_text(), "SIGHUP is a reload")
            assert child.poll() is None, self.log.read_text()[-2000:]
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(WAIT_S)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    embedded = Embedded(tmp_path / "server")
    server = embedded.start()
    migrate(server.superuser_dsn)
    try:
        (tmp_path / "site").mkdir()
        yield Site(tmp_path / "site", server)
    finally:
        embedded.stop()


def scanned(client: SyncClient) -> str:
    asked = client.scans.declare(wire.ScanRequest(tier="ward"))
    return client.scans.wait(asked.id, timeout_s=WAIT_S).state


def test_passwords_of_the_database_are_rotated_under_a_daemon_that_works(site: Site) -> None:
    """The pool, the vault's, the queue's and every listener come back by the new password alone: all connections are
    ended at once, which is the worst a rotation can do, and a scan of an identified tier needs each of them."""
    with site.daemon() as client:
        assert scanned(client) == "complete"
        until(lambda: site.connected() >= KINDS, "the daemon has its connections")
        for role in FILES:
            site.change(role, "wren-second")
        # what is connected stays, what needs a new connection waits: nobody has to hurry with the file
        waits = client.scans.declare(wire.ScanRequest(tier="ward"))
        site.ask("select pg_terminate_backend(pid) from pg_stat_activity where usename like 'mover%'")
        until(lambda: "catalog-refused" in site.log.read_text(), "the daemon that works is not let in, and waits")
        for role in FILES:
            site.say(role, "wren-second")
        done = until(lambda: client.scans.wait(waits.id, timeout_s=WAIT_S), "work goes on")
        assert done.state == "complete" and scanned(client) == "complete"
        until(lambda: site.connected() >= KINDS, "each kind of connection came back")
    assert "wren" not in site.log.read_text()
