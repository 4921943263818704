"""The promises of every tier, and those of object tiers, on the stores of other makers: Azure Blob (Azurite) and Ceph.

Long, because the stores are installed first: part of `make soak`. Where npm or apt cannot, they skip and say so.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mover.clock import SYSTEM
from mover.demo.seaweed import Seaweed
from mover.errors import ChangedWhileReading, EntryExists, TierDenied, TierUnavailable
from mover.model.tiers import Traits
from mover.tiers.object import ObjectTier, PartedAttempt
from tests.contract import test_tiers as contract
from tests.support.azurite import Azurite, azure_tier, running_azurite
from tests.support.ceph import running_ceph
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.seaweed import locked_bucket, object_tier

pytestmark = [pytest.mark.soak, pytest.mark.xdist_group("object-stores")]

# the whole suite of the port runs here again, with this module's `tier`
globals().update(
    {name: test for name, test in vars(contract).items() if name.startswith("test_") and "another_name" not in name}
)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with running_azurite(tmp_path_factory.mktemp("azurite")) as running:
        yield running


@pytest.fixture(scope="module")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with running_ceph(tmp_path_factory.mktemp("ceph")) as running:
        yield running


def _azure(request: pytest.FixtureRequest) -> ObjectTier:
    return azure_tier(request.getfixturevalue("azurite"), prefix=secrets.token_hex(6))


def _ceph(request: pytest.FixtureRequest) -> ObjectTier:
    return object_tier(request.getfixturevalue("ceph"))


MAKERS: dict[str, Callable[[pytest.FixtureRequest], ObjectTier]] = {"azure": _azure, "ceph": _ceph}


@pytest.fixture(params=MAKERS)
def tier(request: pytest.FixtureRequest) -> ObjectTier:
    return MAKERS[request.param](request)


# --- both -----------------------------------------------------------------------------------------------------


def test_a_listing_goes_on_after_a_key(tier: ObjectTier) -> None:
    """Azurite gives keys from before the offset as well; a resumed listing must not count them twice."""
    for name in ("a", "b/one", "b/two", "c"):
        tier.put(name, [b"x"])
    assert [entry.key for entry in tier.list(after="b/one")] == ["b/two", "c"]
    assert tier.prefixes() == ["b"] and [entry.key for entry in tier.level().entries] == ["a", "c"]
    assert [entry.key for entry in tier.level("b").entries] == ["b/one", "b/two"]


def test_an_object_replaced_while_open_is_noticed(tier: ObjectTier) -> None:
    """Case 43, by If-Match on each range."""
    tier.put("name", [bytes(1 << 20), b"first version"])
    with tier.open("name") as source:
        view = memoryview(bytearray(5))
        source.read_into(1 << 20, view)
        assert bytes(view) == b"first"
        tier.remove("name")
        tier.put("name", [bytes(1 << 20), b"other version"])
        for late in (lambda: source.read(1 << 20, 5), lambda: source.read_into(1 << 20, view)):
            with pytest.raises(ChangedWhileReading):
                late()


# --- Azure ----------------------------------------------------------------------------------------------------


def test_azure_is_told_by_trying(azurite: Azurite) -> None:
    """What obstore does for Azure: conditional small puts and ranges; nothing resumable."""
    tier = azure_tier(azurite, prefix="traits")
    assert tier.traits == Traits(conditional_put=True, range_read=True)
    assert not isinstance(tier.attempt("a", size_bytes=1 << 30), PartedAttempt) and tier.control is None
    assert tier.sweep_temporaries(older_than_s=0, now_s=SYSTEM.now().timestamp()) == 0


def test_azure_keys_that_were_replaced_are_used(azurite: Azurite, tmp_path: Path) -> None:
    """A wrong key is refused; the right one, written to the same file, serves at once."""
    path = tmp_path / "keys"
    path.write_text('{"account_name": "devstoreaccount1", "account_key": "c2VjcmV0"}')
    path.chmod(0o600)
    tier = ObjectTier(
        "archive", "deidentified", url="az://tests/keys", endpoint=azurite.endpoint, credentials_file=path
    )
    with pytest.raises((TierDenied, TierUnavailable)):
        tier.read("x")
    path.write_bytes(azurite.credentials_file.read_bytes())
    tier.establish()
    tier.check_identity()


# --- Ceph -----------------------------------------------------------------------------------------------------


def test_ceph_is_told_by_trying(ceph: Seaweed, record_property: Callable[[str, object], None]) -> None:
    """RGW 16 completes over a name that is taken and takes wrong checksums: nothing may be built on either."""
    traits = object_tier(ceph).traits
    record_property("traits", [name for name in traits.__struct_fields__ if getattr(traits, name) is True])
    assert traits.conditional_put and traits.range_read and traits.multipart
    assert not traits.versioning and not traits.object_lock


def test_a_lock_on_ceph_is_found_by_trying_to_delete(ceph: Seaweed) -> None:
    """The flag alone proves nothing: a version is asked to go, and refused. RGW 16 takes a second conditional put in a
    bucket with versions, so there it is no archive: the probe says that too."""
    bucket = locked_bucket(ceph)
    traits = object_tier(bucket, role="source").traits
    assert traits.object_lock and traits.versioning
    if not traits.conditional_put:
        with pytest.raises(TierDenied, match="cannot be an archive"):
            object_tier(bucket)


def test_on_ceph_a_completion_replaces_nothing_and_a_lost_answer_is_settled(ceph: Seaweed) -> None:
    """Whatever the gateway's version makes of If-None-Match there."""
    with FaultProxy(ceph.endpoint) as proxy:
        tier = object_tier(ceph, endpoint=proxy.endpoint)
        assert tier.traits.multipart
        for key, taken in (("taken", True), ("free", False)):
            attempt = tier.attempt(key, size_bytes=64 << 20)
            assert isinstance(attempt, PartedAttempt)
            attempt.begin()
            pieces = [os.urandom(5 << 20), b"end"]
            parts = [(n, attempt.put_part(n, piece)) for n, piece in enumerate(pieces, start=1)]
            again = tier.attempt(key, size_bytes=64 << 20, resume=attempt.begin())
            assert isinstance(again, PartedAttempt)
            again.begin()
            assert again.parts() == {n: (etag, len(pieces[n - 1])) for n, etag in parts}
            if taken:
                tier.put(key, [b"somebody else's"])
                with pytest.raises(EntryExists):
                    again.complete(parts)
                again.abandon()
                assert tier.read(key) == b"somebody else's"
            else:
                proxy.faults.append(Fault("lose_answer", "POST", "uploadId"))
                again.complete(parts)
                assert tier.read(key) == b"".join(pieces)
