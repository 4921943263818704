"""Retrying happens in one place, within a bound, and never twice for what cannot be repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from mover import metrics
from mover.errors import EntryExists, EntryMissing, TierDenied, TierFull, TierUnavailable
from mover.tiers import identity
from mover.tiers.posix import PosixTier
from mover.tiers.wrappers import Backoff, Fault, FaultyTier, ReadOnlyTier, RetryTier


@pytest.fixture
def tier(tmp_path: Path) -> PosixTier:
    identity.establish(tmp_path, name="flash", zone="deidentified")
    made = PosixTier("flash", "deidentified", tmp_path)
    made.put("entry", [b"0123456789"])
    return made


def retried(tier: PosixTier, *faults: Fault, attempts: int = 3) -> tuple[RetryTier, list[float]]:
    pauses: list[float] = []
    backoff = Backoff(attempts=attempts, first_s=1, longest_s=3)
    return RetryTier(FaultyTier(tier, faults), sleep=pauses.append, backoff=backoff), pauses


def test_a_tier_that_comes_back_is_asked_again(tier: PosixTier) -> None:
    """With growing pauses up to a bound."""
    again, pauses = retried(tier, *(Fault("stat", "fail", nth=n) for n in (1, 2, 3, 4)), attempts=5)
    assert again.stat("entry").fingerprint.size_bytes == 10
    assert pauses == [1, 2, 3, 3]


def test_a_tier_that_stays_away_ends_in_its_error(tier: PosixTier) -> None:
    """R10: bounded."""
    again, pauses = retried(tier, *(Fault("read", "fail", nth=n) for n in range(1, 9)))
    with pytest.raises(TierUnavailable):
        again.read("entry")
    assert pauses == [1, 2]


def test_tries_that_the_next_one_mended_are_counted_all_the_same(tier: PosixTier) -> None:
    """A tier that fails every second call slows everything down and raises nothing: the metric shows it."""
    name, labels = "mover_tier_errors_total", {"tier": "flash", "code": "tier-unavailable"}
    before = metrics.REGISTRY.get_sample_value(name, labels) or 0
    again, _ = retried(tier, Fault("stat", "fail", nth=1), Fault("stat", "fail", nth=2))
    again.stat("entry")
    with pytest.raises(EntryMissing):
        again.stat("missing")
    assert metrics.REGISTRY.get_sample_value(name, labels) == before + 2


def test_what_trying_cannot_mend_is_not_tried_again(tier: PosixTier) -> None:
    """A missing entry, a taken name, a full disk."""
    again, pauses = retried(tier, Fault("put", "full", nth=2))
    with pytest.raises(EntryMissing):
        again.stat("missing")
    with pytest.raises(EntryExists):
        again.put("entry", [b"other"])
    with pytest.raises(TierFull):
        again.put("new", [b"x"])
    assert pauses == []


def test_a_stream_is_tried_again_only_before_its_first_piece(tier: PosixTier) -> None:
    """Later the caller has bytes already; starting over would give some of them twice."""
    again, pauses = retried(
        tier, Fault("stream", "fail"), Fault("list", "fail", nth=1), Fault("list", "fail", nth=3, at=1)
    )
    assert list(again.stream("entry", step_bytes=4)) == [b"0123", b"4567", b"89"]
    assert [entry.key for entry in again.list()] == ["entry"]
    assert pauses == [1, 1]
    tier.put("second", [b"x"])
    with pytest.raises(TierUnavailable):
        list(again.list())


def test_a_put_whose_answer_was_lost_is_recognised(tier: PosixTier) -> None:
    """About half of what seemed to fail had happened: the bytes there decide."""
    again, _ = retried(tier, Fault("put", "lost"))
    again.put("new", [b"da", b"ta"])
    assert tier.read("new") == b"data"


def test_a_put_of_an_iterator_is_never_repeated(tier: PosixTier) -> None:
    """What was taken from it is gone: a second try would write a shorter file."""
    again, pauses = retried(tier, Fault("put", "fail"))
    with pytest.raises(TierUnavailable):
        again.put("new", iter([b"data"]))
    assert pauses == []


def test_a_read_only_view_refuses_every_change(tier: PosixTier) -> None:
    """And shows everything."""
    view = ReadOnlyTier(tier)
    assert view.read("entry") == b"0123456789"
    for call in (lambda: view.put("x", [b"x"]), lambda: view.remove("entry"), lambda: view.attempt("x", size_bytes=1)):
        with pytest.raises(TierDenied):
            call()


def test_scripted_faults_do_what_they_say(tier: PosixTier) -> None:
    """The tests that stand on these faults are worth what the faults are worth."""
    faulty = FaultyTier(
        tier, [Fault("stream", "flip", at=5), Fault("stream", "cut", nth=2, at=5), Fault("read", "cut", at=2)]
    )
    assert b"".join(faulty.stream("entry", step_bytes=3)) == b"012344" + b"6789"
    assert b"".join(faulty.stream("entry", step_bytes=3)) == b"01234"
    assert b"".join(faulty.stream("entry")) == b"0123456789"
    assert faulty.read("entry") == b"01"
