"""Walks through a running daemon: an identified folder, a bucket and a flash tier, by the face that people use."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover.model import wire
from mover.sdk import SyncClient
from tests.system.ward import WAIT_S, Ward

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("scans")]


def test_every_tier_of_a_site_can_be_scanned_and_scanned_again(ward: Ward) -> None:
    with ward.start() as client:
        tiers = {tier.name for tier in client.tiers()}
        files = [path for path in Path(ward.source).rglob("*") if path.is_file()]
        for tier in sorted(tiers):
            first = scanned(client, wire.ScanRequest(tier=tier))
            assert (first.state, first.findings, first.drift.new) == ("complete", 0, first.entries), (tier, first)
            again = scanned(client, wire.ScanRequest(tier=tier))
            assert (again.state, again.drift.same, again.drift.new, again.drift.gone) == (
                "complete", first.entries, 0, 0
            )  # fmt: skip
            assert again.listings_same == again.listings
            if tier == "intake":
                assert first.entries == len(files) > 10
        folder = next(path for path in Path(ward.source).iterdir() if path.is_dir())
        part = scanned(client, wire.ScanRequest(tier="intake", prefix=folder.name))
        assert (part.state, part.prefix, part.drift.gone) == ("complete", None, None)
        assert part.drift.same == sum(path.is_file() for path in folder.rglob("*"))


def scanned(client: SyncClient, body: wire.ScanRequest) -> wire.Scan:
    declared = client.scans.declare(body)
    done: wire.Scan = client.scans.wait(declared.id, timeout_s=WAIT_S)
    return done
