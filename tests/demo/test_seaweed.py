"""The demo's object store: on loopback only, gone when stopped, found again after a kill."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import obstore
import pytest
from obstore.store import S3Store

from mover.demo import seaweed


def store_of(server: seaweed.Seaweed) -> S3Store:
    keys = seaweed.load_credentials(Path(server.credentials_file))
    return S3Store(
        server.bucket,
        endpoint=server.endpoint,
        region=server.region,
        access_key_id=keys.access_key_id,
        secret_access_key=keys.secret_access_key,
        client_options={"allow_http": True},
    )


@pytest.mark.slow
def test_what_is_put_comes_back(weed: seaweed.Seaweed) -> None:
    store, data = store_of(weed), os.urandom(9 << 20)
    obstore.put(store, "slide", data, chunk_size=5 << 20)
    assert bytes(obstore.get(store, "slide").bytes()) == data
    assert bytes(obstore.get_range(store, "slide", start=5_000_000, length=77)) == data[5_000_000:5_000_077]


@pytest.mark.slow
def test_it_listens_on_loopback_only_and_tells_its_keys_to_nobody(weed: seaweed.Seaweed) -> None:
    own = set()
    for fd in os.listdir(f"/proc/{weed.pid}/fd"):
        with suppress(FileNotFoundError):  # a living server closes descriptors while we look
            own.add(os.readlink(f"/proc/{weed.pid}/fd/{fd}"))
    listening = [
        fields
        for table in ("tcp", "tcp6")
        for fields in (line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:])
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in own
    ]
    assert listening and all(fields[1].startswith("0100007F:") for fields in listening)
    for name in ("ident.json", "credentials.json", "weed.json"):
        assert (Path(weed.folder) / name).stat().st_mode & 0o077 == 0
    command = Path(f"/proc/{weed.pid}/cmdline").read_bytes()
    secret = seaweed.load_credentials(Path(weed.credentials_file)).secret_access_key
    assert secret.encode() not in command and b"-master.telemetry=false" in command


@pytest.mark.slow
def test_a_server_left_by_a_killed_run_is_ended_and_its_objects_stay(tmp_path: Path) -> None:
    """`make serve` opens again what a demo left; only a fresh start empties the folder."""
    folder = tmp_path / "w"
    script = (
        "from pathlib import Path; from mover.demo import seaweed; import os, signal, obstore; "
        "from tests.demo.test_seaweed import store_of; "
        f"running = seaweed.start(Path({str(folder)!r})); obstore.put(store_of(running), 'kept', b'bytes'); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    left = msgspec.json.decode((folder / "weed.json").read_bytes(), type=seaweed.Seaweed)
    assert seaweed._started(left.pid) == left.started
    again = seaweed.start(folder, fresh=False)
    try:
        assert seaweed._started(left.pid) == 0 and not Path(left.sockets).exists()
        assert bytes(obstore.get(store_of(again), "kept").bytes()) == b"bytes"
    finally:
        seaweed.stop(again)
    assert seaweed._started(again.pid) == 0 and seaweed._fixed_sockets((*left.ports, *again.ports)) == []
    assert seaweed.stop_leftover(folder) is False


def test_a_stranger_with_a_recycled_pid_is_left_alone(tmp_path: Path) -> None:
    """A pid alone says nothing: this very process stands in for an innocent one."""
    state = seaweed.Seaweed(
        folder=str(tmp_path), endpoint="", region="", bucket="", credentials_file="", log_file="",
        pid=os.getpid(), started=1, sockets=str(tmp_path / "sockets"), ports=(),
    )  # fmt: skip
    (tmp_path / "weed.json").write_bytes(msgspec.json.encode(state))
    assert seaweed.stop_leftover(tmp_path) is False


def test_proxies_are_told_to_leave_loopback_alone() -> None:
    kept = seaweed.without_proxies({"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "internal"})
    assert kept["NO_PROXY"].split(",") == ["internal", "127.0.0.1", "localhost", "::1"]
    assert kept["no_proxy"] and kept["HTTP_PROXY"] == "http://proxy:3128"
