"""A real daemon, killed with its database again and again while it moves: nothing lost, nothing doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from mover.catalog.postgres import Embedded
from mover.deid.vault import VaultKey
from mover.model import wire
from mover.sdk import SyncClient

SITE = """\
version: 1
site: ward
project: demo
state_dir: state
policies: policies
listen: {unix: mover.sock}
tiers:
  nas: {kind: posix, zone: deidentified, role: source, path: nas}
  cold: {kind: posix, zone: deidentified, role: archive, path: cold}
"""
# one percent and a week are what a request may ask for by itself; a policy says more
POLICY = """\
kind: move
name: all-of-it
from: nas
to: cold
prefix: in
to_prefix: kept
release: {hold_s: 3600, entries: 10000}
"""
READY_S = 180.0
FILES, LARGE_BYTES = 3000, 60 << 20


class Site:
    """One daemon with two writable folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("nas", "cold", "policies", "state"):
            (root / name).mkdir()
        (root / "mover.yaml").write_text(SITE)
        (root / "policies/all-of-it.yaml").write_text(POLICY)
        VaultKey.create(root / "state/vault.key")
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> SyncClient:
        (self.root / "state/urls").unlink(missing_ok=True)
        with open(self.root / "log", "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "mover", "daemon", "--config", str(self.root / "mover.yaml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + READY_S
        while not (self.root / "state/urls").exists():
            assert time.monotonic() < deadline and self._child.poll() is None, (self.root / "log").read_text()[-2000:]
            time.sleep(0.05)
        return SyncClient((self.root / "state/urls").read_text().split()[0])

    def kill(self) -> None:
        """The daemon, its workers and its PostgreSQL, at once."""
        assert self._child is not None
        with suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        Embedded(self.root / "state").kill()
        self._child.wait()

    def stop(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait(120)
        Embedded(self.root / "state").kill()

    def files(self, tier: str, below: str = "") -> dict[str, str]:
        """What stands under a final name; temporary ones are swept when they are old."""
        root = self.root / tier / below
        return {
            str(path.relative_to(root)): blake3(path.read_bytes()).hexdigest()
            for path in root.rglob("*")
            if path.is_file() and (below or ".mover" not in path.parts) and "/.mover-tmp-" not in str(path)
        }


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.stop()


# how much was done when the daemon is killed: files written (under whatever name), entries recorded, sources released
POINTS = (("moved", 0), ("written", 200), ("written", 1500), ("moved", 1500), ("released", 0), ("released", 1000))


def await_point(site: Site, client: SyncClient, transfer: str, point: tuple[str, int]) -> wire.Transfer:
    word, least = point
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        seen: wire.Transfer = client.transfers.view(transfer)
        moved = seen.counts.get("moved", 0) + seen.counts.get("present", 0)
        released = sum(one.counts.get("released", 0) for one in seen.releases)
        written = sum(len(files) for _, _, files in os.walk(site.root / "cold")) if word == "written" else 0
        if {"moved": moved, "written": written, "released": released}[word] >= least and (
            word != "released" or seen.releases
        ):
            return seen
        time.sleep(0.05)  # real time: what is killed are real processes
    raise AssertionError(f"{point} was never reached: {seen}")


@pytest.mark.slow
@pytest.mark.parametrize("points", [POINTS[1::2], pytest.param(POINTS, marks=pytest.mark.soak)])
def test_a_move_killed_again_and_again_ends_with_every_file_once(
    site: Site, points: tuple[tuple[str, int], ...]
) -> None:
    """Killed in planning, in copying, after it, and twice in release."""
    for number in range(FILES):
        path = site.root / f"nas/in/{number % 7}/{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(number.to_bytes(4, "big") * (number % 500 + 1))
    (site.root / "nas/in/large.svs").write_bytes(os.urandom(1 << 20) * (LARGE_BYTES >> 20))
    wanted = site.files("nas", "in")
    body = wire.TransferRequest(policy="all-of-it")
    client = site.start()
    asked = client.transfers.request(body, key="the-one")
    seen_at_kill = []
    for point in points:
        seen_at_kill.append(await_point(site, client, asked.id, point))
        client.close()
        site.kill()
        stands = [*site.files("nas").values(), *site.files("nas", ".mover/trash").values()]
        assert sorted(stands) == sorted(wanted.values()), "a source is in exactly one place"
        client = site.start()
        assert client.transfers.request(body, key="the-one").id == asked.id
    done = client.transfers.wait(asked.id, timeout_s=300)
    print("killed at", [(one.state, one.counts, [r.counts for r in one.releases]) for one in seen_at_kill])
    assert done.state == "done" and done.counts.get("moved", 0) + done.counts.get("present", 0) == FILES + 1
    assert site.files("cold", "kept") == wanted
    assert site.files("nas") == {} and done.releases[0].counts == {"released": FILES + 1}
    lines: list[bytes] = []
    client.transfers.report(asked.id, lines.append)
    rows = [msgspec.json.decode(line) for line in b"".join(lines).splitlines()]
    assert {row["source"].removeprefix("nas:in/"): row["digest"] for row in rows} == wanted
    assert client.audit.verify().whole
    client.transfers.restore(asked.id)
    deadline = time.monotonic() + 180
    while client.transfers.view(asked.id).releases[0].state != "restored" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert site.files("nas", "in") == wanted
    client.close()
