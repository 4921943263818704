"""Large objects in parts: found again after a kill, completed once, settled when an answer is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from mover.clock import SYSTEM, pause
from mover.demo.seaweed import Seaweed
from mover.errors import EntryExists, EntryMissing, IllegalTransition, TierUnavailable
from mover.tiers.object import ObjectTier, PartedAttempt
from mover.tiers.object_parts import PART_STEP_BYTES, PARTS_MAX, part_bytes
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.seaweed import object_tier

SIZE = 32 << 20
PART = 16 << 20


def parted(tier: ObjectTier, key: str = "n/1/slide", *, size: int = SIZE, resume: str = "") -> PartedAttempt:
    attempt = tier.attempt(key, size_bytes=size, resume=resume)
    assert isinstance(attempt, PartedAttempt)
    return attempt


def small_parts(tier: ObjectTier) -> tuple[PartedAttempt, list[tuple[int, str]], bytes]:
    """An upload of two small parts: the first is 5 MiB (S3 API: the least), the last a few bytes."""
    attempt = parted(tier)
    attempt.begin()
    pieces = [os.urandom(5 << 20), b"the end"]
    return attempt, [(n, attempt.put_part(n, p)) for n, p in enumerate(pieces, start=1)], b"".join(pieces)


@pytest.mark.parametrize("size", [1, 32 << 20, 100 << 30, (5 << 40) - 1])
def test_parts_hold_whole_segments_and_are_never_too_many(size: int) -> None:
    """S3 counts ten thousand parts; segment digests are of 16 MiB."""
    length = part_bytes(size)
    assert length % PART_STEP_BYTES == 0 and -(-size // length) <= PARTS_MAX and length <= 5 << 30


def test_what_is_small_comes_without_parts(weed: Seaweed) -> None:
    """A journal for each small object would cost more than sending it again."""
    tier = object_tier(weed)
    assert not hasattr(tier.attempt("a", size_bytes=1 << 20), "put_part")
    with pytest.raises(IllegalTransition):
        parted(tier).put_part(1, b"x")


KILLED = """
import os, signal, sys
from pathlib import Path
from mover.tiers.object import ObjectTier
prefix, endpoint, keys = sys.argv[1:]
tier = ObjectTier("archive", "deidentified", url=f"s3://tests/{prefix}", endpoint=endpoint, credentials_file=keys)
attempt = tier.attempt("n/1/slide", size_bytes=48 << 20)
print(attempt.begin(), flush=True)
attempt.put_part(2, b"2" * (16 << 20))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_after_a_kill_only_the_missing_parts_are_sent(weed: Seaweed) -> None:
    """The upload's id, which the journal holds, is all that is left of the first process."""
    tier = object_tier(weed)
    before = subprocess.run(
        [sys.executable, "-c", KILLED, tier.where.prefix, weed.endpoint, weed.credentials_file],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    upload = before.stdout.strip()
    assert before.returncode == -9 and upload, before.stderr
    attempt = parted(tier, size=48 << 20, resume=upload)
    assert attempt.begin() == upload
    held = attempt.parts()
    assert {number: size for number, (_, size) in held.items()} == {2: PART}
    sent = {number: attempt.put_part(number, str(number).encode() * PART) for number in (3, 1)}
    attempt.complete([(n, e) for n, e in {**sent, 2: held[2][0]}.items()])
    wanted = blake3(b"".join(str(n).encode() * PART for n in (1, 2, 3))).hexdigest()
    assert blake3(b"".join(bytes(view) for view in attempt.stream_cold())).hexdigest() == wanted


def test_an_upload_that_is_gone_is_begun_anew(weed: Seaweed) -> None:
    """The sweep came by, or the bucket's lifecycle: another id says that nothing of the old one counts."""
    tier = object_tier(weed)
    first = parted(tier)
    upload = first.begin()
    first.abandon()
    again = parted(tier, resume=upload)
    assert again.begin() != upload and again.parts() == {}
    again.abandon()
    with pytest.raises(IllegalTransition):
        again.parts()


def test_a_part_sent_twice_counts_once_or_is_sent_again(weed: Seaweed) -> None:
    """SeaweedFS lists a part that was sent again twice, in no order. What is completed is what its etag says."""
    tier = object_tier(weed)
    attempt = parted(tier)
    attempt.begin()
    assert attempt.put_part(1, b"second") == attempt.put_part(1, b"second")
    assert list(attempt.parts()) == [1]
    attempt.put_part(1, b"other bytes")
    assert attempt.parts() == {}
    etag = attempt.put_part(1, memoryview(b"second"))
    attempt.complete([(1, etag)])
    assert tier.read("n/1/slide") == b"second"


def test_a_completion_replaces_nothing(weed: Seaweed) -> None:
    """R8: somebody else's bytes under that name stay, and abandoning does not remove them."""
    tier = object_tier(weed)
    attempt, parts, _ = small_parts(tier)
    tier.put("n/1/slide", [b"somebody else's"])
    with pytest.raises(EntryExists):
        attempt.complete(parts)
    attempt.abandon()
    assert tier.read("n/1/slide") == b"somebody else's"
    assert list(tier.control.uploads(tier.where.prefix)) == []  # type: ignore[union-attr]


def test_where_a_completion_overwrites_the_name_is_asked_for_first(weed: Seaweed) -> None:
    """Ceph RGW 16 takes If-None-Match on a completion and overwrites: the probe says so, and the name decides."""
    tier = object_tier(weed)
    tier.traits = msgspec.structs.replace(tier.traits, conditional_complete=False)
    attempt, parts, _ = small_parts(tier)
    tier.put("n/1/slide", [b"somebody else's"])
    with pytest.raises(EntryExists):
        attempt.complete(parts)
    assert tier.read("n/1/slide") == b"somebody else's"


def test_abandoning_after_completion_removes_what_is_ours_and_nothing_later(weed: Seaweed) -> None:
    """Known by the etag of our own parts."""
    tier = object_tier(weed)
    attempt, parts, _ = small_parts(tier)
    attempt.complete(parts)
    attempt.abandon()
    with pytest.raises(EntryMissing):
        tier.stat("n/1/slide")
    attempt, parts, _ = small_parts(tier)
    attempt.complete(parts)
    tier.remove("n/1/slide")
    tier.put("n/1/slide", [b"somebody else's"])
    attempt.abandon()
    assert tier.read("n/1/slide") == b"somebody else's"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lose_answer", "error_body", "status", "cut_request"])
def test_a_completion_whose_answer_says_nothing_is_settled_by_asking(weed: Seaweed, kind: str) -> None:
    """Case 39: about half had happened. Each of them ends in one whole object."""
    with FaultProxy(weed.endpoint) as proxy:
        tier = object_tier(weed, endpoint=proxy.endpoint)
        attempt, parts, data = small_parts(tier)
        proxy.faults.append(Fault(kind, "POST", "uploadId", times=1, code="InternalError", status=500))  # type: ignore[arg-type]
        attempt.complete(parts)
        assert tier.read("n/1/slide") == data and proxy.faults[0].befell == 1


@pytest.mark.slow
def test_a_completion_that_happened_while_every_answer_was_lost_is_found_by_its_etag(weed: Seaweed) -> None:
    """All answers to the completion are lost, also those of its repetitions."""
    with FaultProxy(weed.endpoint) as proxy:
        tier = object_tier(weed, endpoint=proxy.endpoint)
        attempt, parts, data = small_parts(tier)
        proxy.faults.append(Fault("lose_answer", "POST", "uploadId", times=0))
        attempt.complete(parts)
        assert tier.read("n/1/slide") == data
        attempt.abandon()
        with pytest.raises(EntryMissing):
            tier.stat("n/1/slide")


@pytest.mark.slow
def test_a_completion_that_never_happened_is_unavailable_and_can_be_tried_again(weed: Seaweed) -> None:
    """The parts are still there: the next try completes them."""
    with FaultProxy(weed.endpoint) as proxy:
        tier = object_tier(weed, endpoint=proxy.endpoint)
        attempt, parts, data = small_parts(tier)
        proxy.faults.append(Fault("status", "POST", "uploadId", times=0))
        with pytest.raises(TierUnavailable):
            attempt.complete(parts)
        proxy.faults.clear()
        attempt.complete(parts)
        assert tier.read("n/1/slide") == data


def test_broken_off_uploads_are_aborted_by_age_and_only_the_tiers_own(weed: Seaweed) -> None:
    """They cost money and nobody sees them in a listing. A neighbour's prefix is not ours."""
    tier, neighbour = object_tier(weed), object_tier(weed, "other")
    mine, theirs = parted(tier), parted(neighbour)
    mine.begin()
    theirs.begin()
    now_s = SYSTEM.now().timestamp()
    assert tier.sweep_temporaries(older_than_s=3600, now_s=now_s) == 0
    assert tier.sweep_temporaries("elsewhere", older_than_s=0, now_s=now_s + 5) == 0
    assert tier.sweep_temporaries(older_than_s=0, now_s=now_s + 5) == 1
    assert theirs.parts() == {}
    with pytest.raises(TierUnavailable, match="gone"):
        mine.parts()
    source = object_tier(weed, "scans", role="source")
    parted(source).begin()
    assert source.sweep_temporaries(older_than_s=0, now_s=now_s + 5) == 0


@pytest.mark.slow
def test_an_upload_that_still_grows_is_not_swept(weed: Seaweed) -> None:
    """A hundred gigabytes over a slow line are older than any age, and alive."""
    tier = object_tier(weed)
    attempt = parted(tier)
    attempt.begin()
    pause(1.1)  # stores tell whole seconds
    between_s = SYSTEM.now().timestamp()
    pause(1.1)
    attempt.put_part(1, b"x")
    assert tier.sweep_temporaries(older_than_s=0, now_s=between_s) == 0
    assert tier.sweep_temporaries(older_than_s=0, now_s=between_s + 10) == 1
