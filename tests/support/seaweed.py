"""A real S3 on loopback for the tests: the demo's SeaweedFS, one server a session, a fresh prefix a test.

The server is shared by all processes of pytest-xdist; the last one to leave stops it. Each holds a shared lock
while it uses the server, so that a process that was killed does not count as a user.
"""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest
from botocore.config import Config

from mover.demo import seaweed
from mover.errors import SettingsInvalid
from mover.model.tiers import LockMode, TierRole, Zone
from mover.tiers.credentials import quiet_session, read_credentials
from mover.tiers.object import ObjectTier


@contextmanager
def shared_weed(shared: Path) -> Iterator[seaweed.Seaweed]:
    """The session's server in `shared`, a folder that all test processes of the session know."""
    told = shared / "weed.told"
    with open(shared / "weed.gate", "wb") as gate, open(shared / "weed.users", "wb") as users:
        fcntl.flock(gate, fcntl.LOCK_EX)
        if not told.exists():
            told.write_bytes(msgspec.json.encode(_started(shared / "weed")))
        server = msgspec.json.decode(told.read_bytes(), type=seaweed.Seaweed)
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield server
        finally:
            fcntl.flock(gate, fcntl.LOCK_EX)
            if _is_last(users):
                seaweed.stop(server)
                told.unlink()


def _is_last(users: IO[bytes]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _started(folder: Path) -> seaweed.Seaweed:
    try:
        return seaweed.start(folder, bucket="tests")
    except SettingsInvalid as missing:
        pytest.skip(f"{missing.what}: {missing.advice}")


def locked_bucket(server: seaweed.Seaweed, *, mode: LockMode = "GOVERNANCE") -> seaweed.Seaweed:
    """The same server with a new bucket that keeps every new version for a day."""
    client = bucket_client(server)
    bucket = f"locked-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    set_default_lock(client, bucket, mode)
    return msgspec.structs.replace(server, bucket=bucket)


def set_default_lock(client: Any, bucket: str, mode: LockMode | None) -> None:
    """None takes the default retention away, as an administrator (or a thief) might."""
    rule = {"Rule": {"DefaultRetention": {"Mode": mode, "Days": 1}}} if mode else {}
    client.put_object_lock_configuration(
        Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", **rule}
    )


@cache
def bucket_client(server: seaweed.Seaweed) -> Any:
    """The store's own API with the tests' credential: what an attacker who stole it would use."""
    keys = read_credentials(Path(server.credentials_file))
    return quiet_session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=keys.access_key_id,
        aws_secret_access_key=keys.secret_access_key,
        config=Config(proxies={}, s3={"addressing_style": "path"}),
    )


def object_tier(
    server: seaweed.Seaweed,
    name: str = "archive",
    *,
    zone: Zone = "deidentified",
    role: TierRole = "archive",
    prefix: str = "",
    endpoint: str = "",
    ca_file: Path | None = None,
) -> ObjectTier:
    """An established tier in a prefix of its own; `endpoint` is that of a proxy before the server."""
    tier = ObjectTier(
        name,
        zone,
        url=f"s3://{server.bucket}/{prefix or secrets.token_hex(6)}",
        endpoint=endpoint or server.endpoint,
        region=server.region,
        credentials_file=server.credentials_file,
        ca_file=ca_file,
        role=role,
    )
    tier.establish()
    return tier
