"""Azure Blob by Azurite, Microsoft's own emulator, from npm into a folder of the session's. Skips and says why."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
from msgspec import Struct

from mover.clock import monotonic_s, pause
from mover.tiers.object import ObjectTier

# the account that every Azurite knows; its key is printed in Microsoft's documentation
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
INSTALL_S, READY_S = 300.0, 30.0


class Azurite(Struct, frozen=True):
    endpoint: str
    container: str
    credentials_file: Path


@contextmanager
def running_azurite(folder: Path) -> Iterator[Azurite]:
    binary = _binary(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--silent", "--location", str(folder / "data"), "--blobHost", "127.0.0.1", "--blobPort"]
    process = subprocess.Popen([*command, str(port), "--skipApiVersionCheck", "--disableTelemetry"])
    try:
        _wait(process, port)
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        credentials = folder / "azure.json"
        credentials.write_text(json.dumps({"account_name": ACCOUNT, "account_key": KEY}))
        credentials.chmod(0o600)
        _make_container(port)
        yield Azurite(endpoint, "tests", credentials)
    finally:
        process.kill()
        process.wait()


def _binary(folder: Path) -> str:
    found = shutil.which("azurite-blob")
    if found:
        return found
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("neither azurite-blob nor npm, which could install it, is on PATH")
    told = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "--prefix", str(folder), "azurite"],
        capture_output=True, text=True, check=False, timeout=INSTALL_S,
    )  # fmt: skip
    if told.returncode:
        pytest.skip(f"npm could not install azurite: {told.stderr.strip()[-200:]}")
    return str(folder / "node_modules" / ".bin" / "azurite-blob")


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = monotonic_s() + READY_S
    while monotonic_s() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            pause(0.05)
    raise AssertionError("Azurite did not start")


def _make_container(port: int) -> None:
    """obstore makes no containers. Signed by SharedKey: learn.microsoft.com, "Authorize with Shared Key"."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{name}:{value}\n" for name, value in headers.items())
    text = "PUT" + "\n" * 12 + named + f"/{ACCOUNT}/{ACCOUNT}/tests\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()).decode()
    headers |= {"authorization": f"SharedKey {ACCOUNT}:{signature}", "content-length": "0"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("PUT", f"/{ACCOUNT}/tests?restype=container", headers=headers)
    assert connection.getresponse().status == 201
    connection.close()


def azure_tier(server: Azurite, name: str = "archive", *, prefix: str) -> ObjectTier:
    tier = ObjectTier(
        name,
        "deidentified",
        url=f"az://{server.container}/{prefix}",
        endpoint=server.endpoint,
        credentials_file=server.credentials_file,
    )
    tier.establish()
    return tier
