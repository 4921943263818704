"""The same repository on an S3 bucket, where stock restic reads it through its own S3 backend."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mover.demo import seaweed
from mover.repository.repository import create_repository, open_repository
from tests.repository.conftest import PASSWORD, Restic, listing, make_tier, take
from tests.support.seaweed import object_tier

pytestmark = pytest.mark.slow


def stock_words(weed: seaweed.Seaweed, prefix: str) -> dict[str, str]:
    """How stock restic finds the repository in the bucket."""
    keys = seaweed.load_credentials(Path(weed.credentials_file))
    return {
        "RESTIC_REPOSITORY": f"s3:{weed.endpoint}/{weed.bucket}/{prefix}/repo",
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_DEFAULT_REGION": weed.region,
    }


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

    where = stock_words(weed, "protect")
    assert "no errors were found" in restic("check", "--read-data", **where).stdout
    restic("restore", "latest", "--target", str(tmp_path / "theirs"), **where)
    assert listing(tmp_path / "theirs" / "artifacts") == listing(tmp_path / "out")

    assert repository.forget([result.snapshot_id]) == [result.snapshot_id]
    assert repository.snapshots() == []


def test_in_a_bucket_too_the_forgotten_goes_after_its_grace_and_the_lost_comes_back_from_a_copy(
    tmp_path: Path, restic: Restic, weed: seaweed.Seaweed
) -> None:
    """Prune, copy, check by name and repair over the S3 port; a posix tier is the second repository."""
    kept_source, lost_source = tmp_path / "kept", tmp_path / "lost"
    for seed, folder in enumerate((kept_source, lost_source)):
        folder.mkdir()
        (folder / "model.pt").write_bytes(random.Random(seed).randbytes(3 << 20))
    tier = object_tier(weed, prefix="pruned")
    repository = create_repository(tier, PASSWORD, prefix="repo")
    kept = take(repository, kept_source).snapshot_id
    before = {entry.key for entry in tier.list("repo/data")}
    repository.forget([take(repository, lost_source).snapshot_id])
    now, grace = datetime(2030, 1, 1, tzinfo=UTC), timedelta(days=2)

    assert repository.prune(grace=grace, now=now).marked == 2
    assert "no errors were found" in restic("check", "--read-data", **stock_words(weed, "pruned")).stdout
    assert repository.prune(grace=grace, now=now + grace + timedelta(minutes=1)).swept == 2
    assert {entry.key for entry in tier.list("repo/data")} == before

    second = create_repository(make_tier(tmp_path / "second"), b"other", prefix="copies")
    copy = repository.copy_to(second, kept)
    assert second.check(True, copy.snapshot_id).ok
    victim = max(tier.list("repo/data"), key=lambda entry: entry.fingerprint.size_bytes)
    content = bytearray(tier.read(victim.key))
    content[5000] ^= 1
    tier.remove(victim.key)
    tier.put(victim.key, [bytes(content)], size_bytes=len(content))
    (damage,) = [each for each in repository.check(False, sample=1.0).damage if each.hits]
    assert (damage.snapshots, damage.paths) == ((kept,), ("/artifacts/model.pt",))

    assert repository.repair_from(second).complete
    assert repository.check(True).ok
    assert "no errors were found" in restic("check", "--read-data", **stock_words(weed, "pruned")).stdout
    restic("restore", kept, "--target", str(tmp_path / "back"), **stock_words(weed, "pruned"))
    assert listing(tmp_path / "back" / "artifacts") == listing(kept_source)
