"""A real daemon that made its files immutable and gave the means to undo it away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from mover.model import wire
from mover.tiers.immutable import CAP_LINUX_IMMUTABLE, has_capability, is_immutable, set_immutable
from tests.system.test_dumps_killed import until
from tests.system.ward import Ward

pytestmark = [
    pytest.mark.slow, pytest.mark.xdist_group("dumps"),
    pytest.mark.skipif(not has_capability(), reason="only who may set the immutable attribute can start such a daemon"),
]  # fmt: skip


@pytest.fixture
def ward(make_ward: Callable[[Path], Ward], tmp_path: Path) -> Iterator[Ward]:
    (tmp_path / "source").mkdir()
    made = make_ward(tmp_path / "source")
    protect = made.site.policies / "protect.yaml"
    protect.write_text(protect.read_text().rstrip("\n") + "\nappend_only: chattr\n")
    yield made
    made.stop()
    for path in files(made):
        with open(path, "rb") as file:
            set_immutable(file.fileno(), on=False)


def files(ward: Ward) -> list[Path]:
    return [p for p in ward.protect.rglob("*") if p.is_file()]


def test_the_daemon_has_not_the_right_to_undo_what_it_keeps_and_says_so(ward: Ward) -> None:
    """Whoever takes over its process finds files that it cannot change; the hourly probe tries as the thief would."""
    with ward.start() as client:

        def lock() -> wire.TierLock | None:
            [tier] = [t for t in client.tiers() if t.name == "protect"]
            return tier.lock if tier.lock is not None and tier.lock.probed_at is not None else None

        found = until(lock, "no probe answered")
        assert (found.state, found.means, found.succeeded) == ("immutable", "immutable files", [])
        pid = msgspec.json.decode((ward.root / "daemon.process").read_bytes())["pid"]
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(("CapEff", "CapPrm", "CapBnd")):
                assert not int(line.split()[1], 16) >> CAP_LINUX_IMMUTABLE & 1, line
        ward.quiet()
        assert "protect is not immutable" not in " ".join(client.status().warnings)
    ward.stop()
    word = "append_only: chattr\n"
    file = ward.site.policies / "protect.yaml"
    file.write_text(file.read_text().replace(word, ""))
    with ward.start() as client:  # one person's edit takes nothing away: the means are there as before
        [policy] = client.snapshots.protection().policies
        assert (policy.policy, policy.shorter) == ("protect", ["lock_strength"])
        assert [t.lock.means for t in client.tiers() if t.lock is not None] == ["immutable files"]
    kept = [p for p in files(ward) if "keys" in p.parts or p.name == "config"]
    assert len(kept) == 2
    for path in kept:
        with open(path, "rb") as file:
            assert is_immutable(file.fileno())
