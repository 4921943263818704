"""What every tier promises, whatever it is made of: one suite over posix and object, wrapped and plain."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from mover.errors import EntryExists, EntryMissing, RequestInvalid, ShortRead, StructureInvalid, TierUnavailable
from mover.tiers import identity
from mover.tiers.object import ObjectTier
from mover.tiers.port import PruneTier, ReadTier, WriteTier
from mover.tiers.posix import PosixTier
from mover.tiers.staging import StagingTier
from mover.tiers.wrappers import FaultyTier, RetryTier, put_same
from tests.support.seaweed import object_tier

LARGE = 20 << 20  # above the object tier's limit for one request


def _posix(request: pytest.FixtureRequest) -> StagingTier:
    root = request.getfixturevalue("tmp_path") / "tier"
    root.mkdir()
    identity.establish(root, name="archive", zone="deidentified")
    return PosixTier("archive", "deidentified", root)


def _object(request: pytest.FixtureRequest) -> StagingTier:
    return object_tier(request.getfixturevalue("weed"))


def _retried(request: pytest.FixtureRequest) -> StagingTier:
    return RetryTier(FaultyTier(_posix(request), ()), sleep=lambda _: None)


MAKERS: dict[str, Callable[[pytest.FixtureRequest], StagingTier]] = {
    "posix": _posix,
    "object": _object,
    "wrapped": _retried,
}


@pytest.fixture(params=MAKERS)
def tier(request: pytest.FixtureRequest) -> StagingTier:
    return MAKERS[request.param](request)


def test_a_tier_is_every_rung_of_the_ladder(tier: StagingTier) -> None:
    """Callers ask for the smallest rung that serves them."""
    assert isinstance(tier, ReadTier) and isinstance(tier, WriteTier)
    assert isinstance(tier, PruneTier) and isinstance(tier, StagingTier)
    tier.check_identity()


def test_what_was_put_is_read_back_whole_in_parts_and_as_a_stream(tier: StagingTier) -> None:
    """The base of everything else."""
    data = bytes(range(256)) * 40
    tier.put("a/b/data", [data[:5000], data[5000:]], size_bytes=len(data))
    assert tier.read("a/b/data") == data
    assert tier.read("a/b/data", 100, 17) == data[100:117]
    assert tier.read("a/b/data", 10_000) == data[10_000:]
    for cold in (False, True):
        assert b"".join(tier.stream("a/b/data", cold=cold, step_bytes=4096)) == data


@pytest.mark.slow
def test_large_content_comes_back_the_same(tier: StagingTier) -> None:
    """Multipart, several reads, O_DIRECT with a tail that fills no block."""
    data = os.urandom(LARGE + 12345)
    tier.put("large", (data[at : at + 999_999] for at in range(0, len(data), 999_999)), size_bytes=len(data))
    assert b"".join(tier.stream("large", cold=True)) == data
    with tier.open("large") as source:
        assert source.read(LARGE - 10, 100) == data[LARGE - 10 : LARGE + 90]


def test_empty_content_is_an_entry_too(tier: StagingTier) -> None:
    """An empty log is an artifact; it must not vanish on the way."""
    tier.put("empty", [], size_bytes=0)
    assert (tier.read("empty"), list(tier.stream("empty", cold=True))) == (b"", [])
    assert tier.stat("empty").fingerprint.size_bytes == 0


def test_an_existing_name_is_never_overwritten(tier: StagingTier) -> None:
    """R8: not with other bytes, not with the same, not with large ones."""
    tier.put("name", [b"first"])
    for chunks in ([b"second"], [b"first"], [bytes(9 << 20)]):
        with pytest.raises(EntryExists):
            tier.put("name", chunks)
    assert tier.read("name") == b"first"


def test_equal_bytes_may_be_put_again_by_those_who_ask(tier: StagingTier) -> None:
    """A killed writer is run again (D13); only a different object is a conflict."""
    put_same(tier, "twice", b"same")
    put_same(tier, "twice", b"same")
    with pytest.raises(EntryExists):
        put_same(tier, "twice", b"other")


@pytest.mark.parametrize("announced", [3, 5_000_000_000])
def test_content_of_another_size_than_announced_leaves_nothing(tier: StagingTier, announced: int) -> None:
    """R3: a source that ended early must not become an entry."""
    with pytest.raises(ShortRead):
        tier.put("wrong", [b"four"], size_bytes=announced)
    with pytest.raises(EntryMissing):
        tier.stat("wrong")
    assert list(tier.list()) == []


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_source_that_fails_leaves_nothing(tier: StagingTier, size: int) -> None:
    """The source's own error reaches the caller, and the name stays free."""

    def failing() -> Iterator[bytes]:
        for _ in range(0, size, 1 << 20):
            yield bytes(min(size, 1 << 20))
        raise EntryMissing("the source went away")

    with pytest.raises(EntryMissing, match="the source went away"):
        tier.put("partial", failing())
    assert list(tier.list()) == []
    tier.put("partial", [b"whole"])


def test_what_is_not_there_is_missing(tier: StagingTier) -> None:
    """I7: never an empty answer."""
    with pytest.raises(EntryMissing):
        tier.stat("nothing")
    with pytest.raises(EntryMissing):
        tier.read("nothing")
    with pytest.raises(EntryMissing):
        list(tier.stream("nothing"))
    with pytest.raises(EntryMissing):
        tier.remove("nothing")
    with pytest.raises(EntryMissing), tier.open("nothing"):
        pass


def test_reading_beyond_the_end_is_an_error(tier: StagingTier) -> None:
    """Exactly the asked bytes or an error, never less."""
    tier.put("ten", [b"0123456789"])
    with pytest.raises(ShortRead):
        tier.read("ten", 5, 6)
    with tier.open("ten") as source:
        assert (source.size_bytes, source.read(8, 2), source.read(10, 0)) == (10, b"89", b"")
        for offset, length in ((8, 3), (-1, 1), (0, -1)):
            with pytest.raises(StructureInvalid):
                source.read(offset, length)


def test_an_open_entry_knows_its_zone_and_fingerprint(tier: StagingTier) -> None:
    """The engine asks both of the entry itself, so that no caller can claim another."""
    tier.put("entry", [b"x"])
    with tier.open("entry") as source:
        assert source.zone == "deidentified"
        assert source.fingerprint() == tier.stat("entry").fingerprint


def test_listing_shows_every_file_and_nothing_of_ours(tier: StagingTier) -> None:
    """Identity, probes and temporary names are not entries."""
    names = {"top", "a/one", "a/two", "a/b/c/deep", "ab/other"}
    for name in names:
        tier.put(name, [name.encode()])
    assert tier.traits.conditional_put
    assert {entry.key for entry in tier.list()} == names
    assert {entry.key for entry in tier.list("a")} == {"a/one", "a/two", "a/b/c/deep"}
    assert {(e.kind, e.fingerprint.size_bytes) for e in tier.list("a/b")} == {("file", 10)}


def test_removing_takes_exactly_one_entry(tier: StagingTier) -> None:
    """By exact key; a neighbour whose name begins alike stays."""
    tier.put("a/one", [b"1"])
    tier.put("a/one-more", [b"2"])
    tier.remove("a/one")
    assert [entry.key for entry in tier.list()] == ["a/one-more"]


@pytest.mark.parametrize(
    "key", ["", "/", "/etc/passwd", "../x", "a/../../x", "a//b", "a/./b", "a/", "ok\0x", "x" * 300]
)
def test_keys_that_lead_elsewhere_are_refused(tier: StagingTier, key: str) -> None:
    """Names from outside are data, never paths; ctypes would cut `ok\\0x` to `ok`."""
    for call in (tier.stat, tier.read, tier.remove, lambda k: tier.put(k, [b"x"])):
        with pytest.raises(RequestInvalid):
            call(key)


def test_an_attempt_shows_nothing_before_it_is_published(tier: StagingTier) -> None:
    """R3 on posix; on object tiers the sidecar publishes, so only posix has a name to hide."""
    attempt = tier.attempt("slides/1/slide", size_bytes=4)
    attempt.write([b"data"])
    attempt.seal()
    assert b"".join(attempt.stream_cold()) == b"data"
    if tier.kind == "posix":
        assert list(tier.list()) == []
    attempt.publish()
    assert tier.read("slides/1/slide") == b"data"


def test_an_abandoned_attempt_leaves_nothing(tier: StagingTier) -> None:
    """At any point, and also twice."""
    for steps in range(3):
        attempt = tier.attempt(f"gone-{steps}", size_bytes=4)
        for step in (lambda a=attempt: a.write([b"data"]), attempt.seal)[:steps]:
            step()
        attempt.abandon()
        attempt.abandon()
    assert list(tier.list()) == []


def _renamed_posix(request: pytest.FixtureRequest) -> StagingTier:
    made = _posix(request)
    assert isinstance(made, PosixTier)
    return PosixTier("flash", "deidentified", made.root)


def _renamed_object(request: pytest.FixtureRequest) -> StagingTier:
    weed = request.getfixturevalue("weed")
    made = object_tier(weed, prefix="shared")
    assert made.establish() == made.establish()
    return ObjectTier(
        "flash",
        "deidentified",
        url=f"s3://{weed.bucket}/shared",
        endpoint=weed.endpoint,
        credentials_file=weed.credentials_file,
    )


@pytest.mark.parametrize("make", [_renamed_posix, _renamed_object])
def test_a_tier_under_another_name_is_refused(
    make: Callable[[pytest.FixtureRequest], StagingTier], request: pytest.FixtureRequest
) -> None:
    """D11: two tiers swapped in a configuration must not take each other's bytes."""
    other = make(request)
    with pytest.raises(TierUnavailable):
        other.check_identity()
    with pytest.raises(TierUnavailable):
        other.put("x", [b"x"])
