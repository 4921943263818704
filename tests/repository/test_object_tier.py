"""The same repository on an S3 bucket, where stock restic reads it through its own S3 backend."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from mover.demo import seaweed
from mover.repository.repository import create_repository, open_repository
from tests.repository.conftest import PASSWORD, Restic, listing, take
from tests.support.seaweed import object_tier

pytestmark = pytest.mark.slow


def test_a_repository_in_a_bucket_is_written_by_us_checked_by_restic_and_restored_by_both(
    tmp_path: Path, restic: Restic, weed: seaweed.Seaweed
) -> None:
    """The protect tier may be an object store: same keys, same bytes, no local path involved."""
    (tmp_path / "out" / "logs").mkdir(parents=True)
    (tmp_path / "out" / "model.pt").write_bytes(random.Random(5).randbytes(20 << 20))
    (tmp_path / "out" / "logs" / "a").write_text("step\n" * 100)
    tier = object_tier(weed, prefix="protect")
    result = take(create_repository(tier, PASSWORD, prefix="repo"), tmp_path / "out")
    repository = open_repository(tier, PASSWORD, prefix="repo")

    assert repository.check(True).errors == []
    repository.restore(result.snapshot_id, tmp_path / "ours", path="/artifacts")
    assert listing(tmp_path / "ours") == listing(tmp_path / "out")

    keys = seaweed.load_credentials(Path(weed.credentials_file))
    where = {
        "RESTIC_REPOSITORY": f"s3:{weed.endpoint}/{weed.bucket}/protect/repo",
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_DEFAULT_REGION": weed.region,
    }
    assert "no errors were found" in restic("check", "--read-data", **where).stdout
    restic("restore", "latest", "--target", str(tmp_path / "theirs"), **where)
    assert listing(tmp_path / "theirs" / "artifacts") == listing(tmp_path / "out")

    assert repository.forget([result.snapshot_id]) == [result.snapshot_id]
    assert repository.snapshots() == []
