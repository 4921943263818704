"""Every fault between us and a store ends in success by bounded resending or in an error with a name, never in a
wrong object that somebody could take for a right one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta

import msgspec
import pytest
from blake3 import blake3

from mover.clock import monotonic_s
from mover.demo.seaweed import Seaweed
from mover.errors import (
    DigestMismatch,
    EntryMissing,
    IntegrityError,
    MoverError,
    ShortRead,
    TierDenied,
    TierError,
    TierUnavailable,
)
from mover.model.recipe import Copy, Recipe
from mover.tiers import object_wire
from mover.tiers.object import ObjectTier
from mover.tiers.object_place import RESENDS
from mover.transfer.engine import Transfer
from tests.support.faultproxy import Fault, FaultProxy, Kind
from tests.support.seaweed import object_tier

LARGE = os.urandom(9 << 20)  # above the limit for one request: two parts or ranges
KEY = "n/1/slide"


@pytest.fixture
def proxy(weed: Seaweed) -> Iterator[FaultProxy]:
    with FaultProxy(weed.endpoint) as running:
        yield running


@pytest.fixture
def tier(weed: Seaweed, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> ObjectTier:
    """A tier behind the proxy, already tried, that pauses shortly between its tries."""
    monkeypatch.setattr(object_wire, "FIRST_PAUSE_S", 0.01)
    made = object_tier(weed, endpoint=proxy.endpoint)
    made.check_identity()
    return made


def filled(tier: ObjectTier, data: bytes, proxy: FaultProxy, fault: Fault) -> bytearray:
    """Opened in peace; the fault befalls the ranges, which our own sockets fetch."""
    tier.put(KEY, [data])
    buffer = bytearray(len(data))
    with tier.open(KEY) as source:
        proxy.faults.append(fault)
        source.read_into(0, memoryview(buffer))
    return buffer


PASSING: list[tuple[Kind, str, int]] = [
    ("status", "PUT", 0),
    ("cut_request", "PUT", 1 << 20),
    ("flip_request", "PUT", 12345),
    ("lose_answer", "PUT", 0),
    ("status", "POST", 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method", "at"), PASSING)
def test_a_part_is_sent_again_until_it_has_arrived(
    tier: ObjectTier, proxy: FaultProxy, kind: Kind, method: str, at: int
) -> None:
    """A 503, a cut body, a flipped byte (the store compares the CRC-32), a lost answer."""
    proxy.faults.append(Fault(kind, method, "partNumber=1|uploads" if method == "PUT" else "uploads", at=at))
    tier.put(KEY, [LARGE], size_bytes=len(LARGE))
    assert tier.read(KEY) == LARGE and proxy.faults[0].befell == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["status", "cut_request", "flip_request", "lose_answer"])
def test_a_part_that_never_arrives_is_an_error_after_a_bounded_number_of_tries(
    tier: ObjectTier, proxy: FaultProxy, kind: Kind
) -> None:
    """And no object, and no upload, is left behind."""
    proxy.faults.append(Fault(kind, "PUT", "partNumber=1", times=0, at=7))
    with pytest.raises((TierUnavailable, DigestMismatch)):
        tier.put(KEY, [LARGE], size_bytes=len(LARGE))
    assert proxy.faults[0].befell == RESENDS + 1
    with pytest.raises(EntryMissing):
        tier.stat(KEY)
    assert tier.control is not None and list(tier.control.uploads(tier.where.prefix)) == []


@pytest.mark.parametrize(("status", "code", "expected"), [(403, "AccessDenied", TierDenied), (507, "X", TierError)])
def test_what_no_repetition_mends_is_not_repeated(
    tier: ObjectTier, proxy: FaultProxy, status: int, code: str, expected: type[MoverError]
) -> None:
    """A person mends a refused key; sending gigabytes again does not."""
    proxy.faults.append(Fault("status", "PUT", "partNumber=1", times=0, status=status, code=code))
    with pytest.raises(expected):
        tier.put(KEY, [LARGE], size_bytes=len(LARGE))
    assert proxy.faults[0].befell == 1


@pytest.mark.parametrize(
    ("kind", "at"), [("status", 0), ("cut_answer", 100_000), ("lose_answer", 0), ("throttle", 0)]
)
def test_a_range_is_asked_for_again_from_where_it_was_cut(
    tier: ObjectTier, proxy: FaultProxy, kind: Kind, at: int
) -> None:
    """Of the same version (If-Match), so that two halves are never of two objects."""
    data = LARGE[: 1 << 20]
    fault = Fault(kind, "GET", "slide", at=at, rate_bytes_s=8 << 20)
    assert filled(tier, data, proxy, fault) == data and fault.befell == 1


def test_a_range_that_always_ends_early_is_a_short_read(tier: ObjectTier, proxy: FaultProxy) -> None:
    """I7: never a buffer that is only half the object's."""
    with pytest.raises((ShortRead, TierUnavailable)):
        filled(tier, LARGE[: 1 << 20], proxy, Fault("cut_answer", "GET", "slide", times=0, at=0))
    with pytest.raises((IntegrityError, TierUnavailable)):
        list(tier.stream(KEY))


def test_a_store_that_goes_deaf_is_left_after_a_bounded_time(
    tier: ObjectTier, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing comes: the connection's own timeout ends each try."""
    monkeypatch.setattr(object_wire, "IDLE_TIMEOUT", timedelta(seconds=0.1))
    deaf = Fault("stall", "GET", "slide", times=0, seconds=30)
    began_s = monotonic_s()
    with pytest.raises(TierUnavailable):
        filled(tier, LARGE[: 1 << 20], proxy, deaf)
    assert monotonic_s() - began_s < 30 and deaf.befell == RESENDS + 1


@pytest.mark.slow
def test_small_objects_survive_a_busy_store_and_a_lost_answer(tier: ObjectTier, proxy: FaultProxy) -> None:
    """By the store's library. A repetition that finds its own bytes under the name is the same upload."""
    proxy.faults += [Fault("status", "PUT", "a/1"), Fault("lose_answer", "PUT", "b/1"), Fault("status", "GET", "a/1")]
    tier.put("a/1", [b"abc"])
    assert tier.read("a/1") == b"abc"
    attempt = tier.attempt("b/1/x", size_bytes=3)
    attempt.write([b"abc"])
    assert b"".join(attempt.stream_cold()) == b"abc" and all(fault.befell == 1 for fault in proxy.faults)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["status", "cut_answer"])
def test_a_listing_that_fails_never_ends_early(tier: ObjectTier, proxy: FaultProxy, kind: Kind) -> None:
    """I7: a short listing would look like entries that vanished."""
    tier.put("a", [b"x"])
    proxy.faults.append(Fault(kind, "GET", "list-type=2", times=0, at=10, status=403, code="AccessDenied"))
    with pytest.raises(TierError):
        list(tier.list())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "method"), [("flip_answer", "GET"), ("flip_request", "PUT")])
def test_a_byte_that_flips_is_caught_by_the_digest_where_nothing_else_notices(
    tier: ObjectTier, proxy: FaultProxy, kind: Kind, method: str
) -> None:
    """On its way back, or on its way to a store that compares no checksum: the cold re-read's BLAKE3 sees it, and
    the attempt is removed."""
    tier.put("source", [LARGE], size_bytes=len(LARGE))
    tier.traits = msgspec.structs.replace(tier.traits, checksum_rejection=False)
    proxy.faults.append(Fault(kind, method, "n/1/slide", times=0, at=4321))
    with tier.open("source") as source, pytest.raises(DigestMismatch):
        Transfer().run_recipe(
            Recipe(source_bytes=len(LARGE), segments=(Copy(0, len(LARGE)),)),
            source=source,
            source_tier=tier,
            target=tier,
            key=KEY,
        )
    with pytest.raises(EntryMissing):
        tier.stat(KEY)


@pytest.mark.slow
def test_views_of_several_ranges_come_in_order_whatever_befalls_them(tier: ObjectTier, proxy: FaultProxy) -> None:
    """Ranges are fetched ahead by threads; the digest needs them in order."""
    data = os.urandom((24 << 20) + 5)
    tier.put(KEY, [data], size_bytes=len(data))
    proxy.faults += [Fault("cut_answer", "GET", "slide", at=50_000), Fault("status", "GET", "slide")]
    hasher = blake3()
    for view in tier.views(KEY):
        hasher.update(view)
    assert hasher.digest() == blake3(data).digest() and all(fault.befell == 1 for fault in proxy.faults)
