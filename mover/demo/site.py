"""The demo's own installation: its settings, secrets, policies and processes, all under one folder.

Everything here is what `mover init` would write for a real site, with the demo's paths in it. The daemon and
the bucket stay up for a while after the story, so that a person can look around; a small process ends them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import yaml
from msgspec import Struct

from mover.clock import monotonic_s, pause
from mover.deid.vault import VaultKey
from mover.demo import places, seaweed
from mover.errors import CatalogUnavailable, Conflict, MoverError
from mover.policy import default_folder
from mover.randomness import new_secret
from mover.sdk import SyncClient
from mover.settings import SOCKET_PATH_LIMIT
from mover.signing import new_key

READY_S = 120.0
STOP_S = 30.0
BUCKET = "archive"
URLS_FILE = "urls"                          # written by the daemon once it answers


class Process(Struct, frozen=True):
    """A process of ours, told from a later one with the same number by its start time."""

    pid: int
    started: int


class Site:
    """Names below the demo's root. Making one touches nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.config = self.root / "mover.yaml"
        self.policies = self.root / "policies"
        self.state = self.root / "state"
        self.log = self.root / "daemon.log"
        self.token = self.state / "admin-token"
        self.operator = self.state / "operator-token"    # carries the rights of whoever runs the demo
        self.password = self.state / "repository-password"
        self.report = self.root / "report.json"
        self.bucket = self.root / "bucket"
        self.code = self.root / "home" / "training-code"
        self.restored = self.root / "home" / "restored"
        self._daemon = self.root / "daemon.process"
        self._linger = self.root / "linger.process"

    # --- files --------------------------------------------------------------------------------------------

    def write(self, where: places.Places, server: seaweed.Seaweed) -> None:
        """Settings, policies and secrets of a fresh site. Anything of an earlier one is gone before."""
        self.state.mkdir(mode=0o700, parents=True)
        VaultKey.create(self.state / "vault.key")
        new_key(self.state / "certificate.key")
        write_secret(self.password, new_secret())
        write_secret(self.token, "mvr_" + new_secret())
        shutil.copytree(default_folder(), self.policies)
        self._declare_roots()
        self.restored.mkdir(parents=True, exist_ok=True)
        self.write_settings(where, server)

    def write_settings(self, where: places.Places, server: seaweed.Seaweed) -> None:
        settings = {
            "version": 1,
            "site": "demo-hospital",
            "project": "demo",
            "node": "demo",
            "state_dir": str(self.state),
            "listen": self._listen(),
            "policies": str(self.policies),
            "tiers": {
                "intake": {"kind": "posix", "zone": "identified", "role": "source", "path": where.source.path,
                           "read_only": True},
                "archive": {"kind": "object", "zone": "deidentified", "role": "archive",
                            "url": f"s3://{server.bucket}", "endpoint": server.endpoint, "region": server.region,
                            "credentials_file": server.credentials_file},
                "flash": {"kind": "posix", "zone": "deidentified", "role": "flash", "path": where.flash.path},
                "protect": {"kind": "posix", "zone": "deidentified", "role": "protect", "path": where.protect.path},
            },
            "workers": {"shards": 2, "parsers": 2},
        }  # fmt: skip
        # what a person added meanwhile stays
        settings |= {name: said for name, said in self._said().items() if name in ("access", "receivers")}
        text = "# Written by `mover demo`; a real site's comes from `mover init`.\n" + yaml.safe_dump(
            settings, sort_keys=False
        )
        self.config.write_text(text)

    def _listen(self) -> dict[str, str]:
        """For browsers; and for who makes accounts of people that are to be two: the socket, where its path may be."""
        local = str(self.state / "mover.sock")
        here = len(os.fsencode(local)) <= SOCKET_PATH_LIMIT
        return {"tcp": "127.0.0.1:0"} | ({"unix": local} if here else {})

    def _said(self) -> dict[str, object]:
        return yaml.safe_load(self.config.read_text()) if self.config.exists() else {}

    def _declare_roots(self) -> None:
        """Code and restores of the demo lie under its own home folder."""
        path = self.policies / "protect.yaml"
        text = path.read_text()
        declared = text.replace("roots: []", f"roots: [{msgspec.json.encode(str(self.root / 'home')).decode()}]")
        if declared == text:
            raise MoverError("the protect policy of the demo does not read as expected", where=path.name)
        path.write_text(declared)

    def repository(self) -> dict[str, str]:
        """Where stock restic finds the snapshots."""
        settings = yaml.safe_load(self.config.read_text())
        prefix = yaml.safe_load((self.policies / "protect.yaml").read_text()).get("prefix", "")
        path = Path(settings["tiers"]["protect"]["path"]) / prefix
        return {"path": str(path), "password_file": str(self.password)}

    # --- processes ------------------------------------------------------------------------------------------

    def start_daemon(self) -> str:
        """Start it in a session of its own and wait until it answers; the URL."""
        return self.await_daemon(self.spawn_daemon())

    def spawn_daemon(self) -> subprocess.Popen[bytes]:
        """Start it and do not wait: whoever kills daemons wants to meet them at work."""
        (self.state / URLS_FILE).unlink(missing_ok=True)
        with open(self.log, "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "mover", "daemon", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=seaweed.without_proxies(dict(os.environ)),
            )  # fmt: skip
        _save(self._daemon, child.pid)
        return child

    def await_daemon(self, child: subprocess.Popen[bytes]) -> str:
        urls = self.state / URLS_FILE
        deadline = monotonic_s() + READY_S
        while monotonic_s() < deadline:
            if urls.exists():
                return _pages(urls.read_text())
            if child.poll() is not None:
                break
            pause(0.02)
        raise CatalogUnavailable(
            "the daemon did not come up", where=str(self.log), hint="The last lines of that log say why."
        )

    def client(self, url: str, token: str | None = None) -> SyncClient:
        return SyncClient(url, token=token or self.token.read_text().strip())

    def running_url(self) -> str | None:
        """The URL of a daemon that is up."""
        urls = self.state / URLS_FILE
        return _pages(urls.read_text()) if _alive(self._daemon) and urls.exists() else None

    def linger(self, duration_s: int) -> None:
        """Leave everything up for a while; a detached process ends it then."""
        child = subprocess.Popen(
            [sys.executable, "-m", "mover.demo.linger", str(self.root), str(duration_s)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        _save(self._linger, child.pid)

    def keep_up(self) -> None:
        """Nobody ends what runs but `make stop`."""
        _end(self._linger, signal.SIGKILL)

    def stop(self) -> None:
        """End every process of the demo: those of a killed run too."""
        _end(self._linger, signal.SIGKILL)
        self.stop_services()

    def stop_services(self) -> None:
        self.stop_daemon()
        seaweed.stop_leftover(self.bucket)

    def stop_daemon(self) -> None:
        _end(self._daemon, signal.SIGTERM)
        _stop_postgres(self.state)


def write_secret(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")


def _stop_postgres(state: Path) -> None:
    """A daemon that was killed leaves its PostgreSQL behind on purpose; here nobody will adopt it."""
    from mover.catalog.postgres import Embedded

    if (state / "postgres").exists():
        Embedded(state).stop()


def _save(path: Path, pid: int) -> None:
    path.write_bytes(msgspec.json.encode(Process(pid, start_time(pid))))


def _alive(path: Path) -> Process | None:
    try:
        process = msgspec.json.decode(path.read_bytes(), type=Process)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return process if process.started and start_time(process.pid) == process.started else None


def _end(path: Path, number: signal.Signals) -> None:
    process = _alive(path)
    if process is None:
        path.unlink(missing_ok=True)
        return
    try:
        os.kill(process.pid, number)
    except PermissionError as error:
        raise Conflict(
            "a demo of another user runs here", where=str(path.parent), hint="Let that user or root stop it."
        ) from error
    deadline = monotonic_s() + STOP_S
    while start_time(process.pid) == process.started and monotonic_s() < deadline:
        pause(0.05)
    if start_time(process.pid) == process.started:
        os.killpg(process.pid, signal.SIGKILL)
    path.unlink(missing_ok=True)


def start_time(pid: int) -> int:
    """Ticks since boot at which the process began; 0 when there is none, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def _pages(urls: str) -> str:
    """Of the addresses at which a daemon answers, the one for browsers, where there is one."""
    told = urls.split()
    return next((url for url in told if url.startswith("http")), told[0])
