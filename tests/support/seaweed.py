"""A real S3 on loopback for the tests: the demo's SeaweedFS, one server a session, a fresh prefix a test."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mover.demo import seaweed
from mover.errors import SettingsInvalid
from mover.model.tiers import TierRole, Zone
from mover.tiers.object import ObjectTier


@contextmanager
def running_weed(folder: Path) -> Iterator[seaweed.Seaweed]:
    try:
        server = seaweed.start(folder, bucket="tests")
    except SettingsInvalid as missing:
        pytest.skip(f"{missing.what}: {missing.advice}")
    try:
        yield server
    finally:
        seaweed.stop(server)


def object_tier(
    server: seaweed.Seaweed,
    name: str = "archive",
    *,
    zone: Zone = "deidentified",
    role: TierRole = "archive",
    prefix: str = "",
) -> ObjectTier:
    """An established tier in a prefix of its own."""
    tier = ObjectTier(
        name,
        zone,
        url=f"s3://{server.bucket}/{prefix or secrets.token_hex(6)}",
        endpoint=server.endpoint,
        region=server.region,
        credentials_file=server.credentials_file,
        role=role,
    )
    tier.establish()
    return tier
