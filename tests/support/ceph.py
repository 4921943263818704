"""Ceph's RADOS Gateway as a second opinion on S3: one monitor, one manager, one OSD in memory, one gateway.

From Debian's own packages, installed where we are root; otherwise skipped, and the reason said. Everything it writes
stands in one folder; every daemon is ended by its own process handle.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mover.clock import monotonic_s, pause
from mover.demo.seaweed import Seaweed

PACKAGES = ["radosgw", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph-common"]
ACCESS, SECRET = "MOVERTESTS", "rgw-tests-only-0123456789"
REGION, BUCKET = "default", "tests"
INSTALL_S, READY_S, CALL_S = 600.0, 120.0, 60.0

CONFIG = """
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon2},v1:127.0.0.1:{mon1}]
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {at}/keyring
run dir = {at}
admin socket = {at}/$name.asok
log file = {at}/$name.log
pid file = {at}/$name.pid
mon data = {at}/mon
mgr data = {at}/mgr
osd data = {at}/osd
public addr = 127.0.0.1
cluster addr = 127.0.0.1
osd objectstore = memstore
memstore device bytes = 4294967296
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:{gateway}
"""
# With authentication off the gateway never connects (-13): so every daemon has its key.
KEYS = {
    "mon.": ["mon", "allow *"],
    "client.admin": ["mon", "allow *", "osd", "allow *", "mgr", "allow *", "mds", "allow *"],
    "osd.0": ["mon", "allow profile osd", "mgr", "allow profile osd", "osd", "allow *"],
    "mgr.x": ["mon", "allow profile mgr", "osd", "allow *", "mds", "allow *"],
    "client.rgw.a": ["mon", "allow rw", "osd", "allow rwx", "mgr", "allow rw"],
}


@contextmanager
def running_ceph(folder: Path) -> Iterator[Seaweed]:
    """The same few facts as of SeaweedFS, so that `tests.support.seaweed.object_tier` opens tiers on it."""
    _install()
    cluster = _Cluster(folder)
    try:
        cluster.start()
        yield cluster.told()
    finally:
        cluster.stop()


def _install() -> None:
    if shutil.which("radosgw") and shutil.which("ceph-mon"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("Ceph is not installed, and only root on Debian can install it: apt-get install radosgw")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S, env=environment)
    if told.returncode:
        pytest.skip(f"apt-get could not install Ceph: {told.stderr.strip()[-200:]}")


class _Cluster:
    def __init__(self, folder: Path) -> None:
        self._at = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._mon2, self._mon1, self._gateway = _free_ports(3)
        self._fsid = str(uuid.uuid4())

    def start(self) -> None:
        at = self._at
        for name in ("mon", "mgr", "osd"):
            (at / name).mkdir(parents=True, exist_ok=True)
        config = CONFIG.format(at=at, fsid=self._fsid, mon1=self._mon1, mon2=self._mon2, gateway=self._gateway)
        (at / "ceph.conf").write_text(config)
        self._make_keys()
        places = f"[v2:127.0.0.1:{self._mon2},v1:127.0.0.1:{self._mon1}]"
        _call("monmaptool", "--create", "--fsid", self._fsid, "--addv", "a", places, str(at / "map"))
        self._ceph("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(at / "map"), "--keyring", str(at / "keyring"))
        self._daemon("ceph-mon", "-i", "a")
        self._ceph("ceph", "--connect-timeout", "30", "-s")
        self._ceph("ceph", "osd", "new", self._osd_uuid, "0")
        for name in ("osd.0", "mgr.x", "client.rgw.a"):
            self._ceph("ceph", "auth", "import", "-i", str(at / f"{name}.keyring"))
        self._ceph("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", self._osd_uuid)
        self._daemon("ceph-mgr", "-i", "x")
        self._daemon("ceph-osd", "-i", "0")
        self._daemon("radosgw", "-n", "client.rgw.a")
        self._wait_for_gateway()
        self._ceph(
            "radosgw-admin", "-n", "client.admin", "user", "create", "--uid=mover", "--display-name=mover",
            f"--access-key={ACCESS}", f"--secret-key={SECRET}",
        )  # fmt: skip
        self._make_bucket()

    def stop(self) -> None:
        for process in reversed(self._daemons):
            process.kill()
            process.wait()

    def told(self) -> Seaweed:
        keys = self._at / "credentials"
        keys.write_text(f"[default]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n")
        keys.chmod(0o600)
        return Seaweed(
            folder=str(self._at), endpoint=self._endpoint, region=REGION, bucket=BUCKET, credentials_file=str(keys),
            log_file=str(self._at / "client.rgw.a.log"), pid=self._daemons[-1].pid, started=0, sockets="",
            ports=(self._gateway,),
        )  # fmt: skip

    @property
    def _endpoint(self) -> str:
        return f"http://127.0.0.1:{self._gateway}"

    def _make_keys(self) -> None:
        """One ring for all, and one file a daemon for the monitor to import."""
        ring, self._osd_uuid = self._at / "keyring", str(uuid.uuid4())
        ring.touch()
        for name, rights in KEYS.items():
            caps = [word for at in range(0, len(rights), 2) for word in ("--cap", rights[at], rights[at + 1])]
            one = str(self._at / f"{name}.keyring")
            _call("ceph-authtool", "--create-keyring", one, "--gen-key", "-n", name, *caps)
            _call("ceph-authtool", str(ring), "--import-keyring", one)

    def _ceph(self, program: str, *words: str) -> None:
        _call(program, "-c", str(self._at / "ceph.conf"), *words)

    def _daemon(self, program: str, *words: str) -> None:
        command = [program, "-c", str(self._at / "ceph.conf"), "-f", "--setuser", "root", "--setgroup", "root", *words]
        with open(self._at / "out.log", "ab") as out:
            self._daemons.append(subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL))

    def _wait_for_gateway(self) -> None:
        deadline = monotonic_s() + READY_S
        while monotonic_s() < deadline:
            dead = [one.args for one in self._daemons if one.poll() is not None]
            assert not dead, f"ended at once: {dead}; see {self._at}"
            try:
                socket.create_connection(("127.0.0.1", self._gateway), timeout=1).close()
                return
            except OSError:
                pause(0.2)
        raise AssertionError(f"the gateway did not answer; see {self._at}")

    def _make_bucket(self) -> None:
        from botocore.config import Config

        from mover.tiers.credentials import quiet_session

        client = quiet_session().create_client(
            "s3", endpoint_url=self._endpoint, region_name=REGION, aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET, config=Config(proxies={}, s3={"addressing_style": "path"}),
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET)


def _call(*command: str) -> None:
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CALL_S)
    assert told.returncode == 0, f"{command[0]}: {told.stderr.strip()[-500:]}"


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports
