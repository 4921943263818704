"""The NFS promises on a real NFSv4.2 server and client, in a throw-away machine (see `guest.py`).

No NFS client is built into many kernels, and a server's outage, a restart or an export taken back can be had only
from a real one. What runs inside are `inside_mount.py` and `inside_rooms.py`; here they are started, their console is
shown line by line, and their failures fail this test.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.nfs import guest

pytestmark = pytest.mark.soak

TIMEOUT_S = 1500.0
# so many at least: a guest that collects nothing must not pass
INSIDE = {"tests/nfs/inside_mount.py": 20, "tests/nfs/inside_rooms.py": 3}


@pytest.fixture(scope="session")
def unpacked() -> Path:
    try:
        return guest.prepare()
    except guest.Missing as error:
        pytest.skip(f"no NFS guest: {error}")


@pytest.mark.parametrize("inside", INSIDE)
def test_tiers_keep_their_promises_on_a_real_nfs_mount(
    unpacked: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], inside: str
) -> None:
    """Publishing, late errors, stale handles, passing names, other clients, root_squash, a server that is gone;
    engine, carrier, walk, stage and seal."""
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        with capfd.disabled():
            print(f"  guest | {line}", flush=True)

    status = guest.boot(unpacked, tmp_path, arguments=inside, timeout_s=TIMEOUT_S, line=show)
    said = "\n".join(lines[-200:])
    assert status is not None, f"the guest never came to an end:\n{said}"
    assert status == 0, f"inside the guest pytest ended with {status}:\n{said}"
    passed = re.search(r"(\d+) passed", said)
    assert passed is not None and int(passed[1]) >= INSIDE[inside], said
