"""What a second reading means, and what may be done about it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.verification import Known, Look, Place, is_due, judge, obstacle, of_archive, portion_bytes
from mover.model.policy import ArchivePolicy, VerifyPolicy
from mover.model.tiers import Fingerprint

GOOD, BAD = "a" * 64, "b" * 64
SEEN, LATER = Fingerprint(10, 1, "i:1"), Fingerprint(10, 2, "i:2")
ARCHIVE = Place("posix", "archive")


@pytest.mark.parametrize(
    ("known", "look", "kind"),
    [
        (Known(GOOD, 10, SEEN), Look(SEEN, GOOD), None),
        (Known(GOOD, 10, SEEN), Look(LATER, GOOD), None),  # touched, or restored
        (Known(GOOD, 10, SEEN), Look(SEEN, BAD), "bit-rot"),
        (Known(GOOD, 10, SEEN), Look(LATER, BAD), "changed"),
        (Known(GOOD, 10), Look(SEEN, BAD), "bit-rot"),  # a slide that nobody looked at since it was published
        (Known(GOOD, 11), Look(SEEN, BAD), "changed"),
        (Known(GOOD, 10, SEEN), Look(), "missing"),
        (Known(None), Look(), "missing"),
        (Known(None), Look(SEEN), "stranger"),
        (Known(GOOD, 10, SEEN), Look(code="tier"), "unreadable"),
        (Known(GOOD, 10, SEEN), Look(SEEN, code="not-a-file"), "unreadable"),
        (Known(GOOD, 10, SEEN), Look(code="changed-while-reading"), "changed"),
    ],
)
def test_each_look_has_one_name(known: Known, look: Look, kind: str | None) -> None:
    verdict = judge(known, look)
    assert verdict.kind == kind and verdict.reason


@given(
    st.sampled_from([Known(GOOD, 10, SEEN), Known(GOOD, 10), Known(None)]),
    st.sampled_from([None, SEEN, LATER]),
    st.sampled_from(["", GOOD, BAD]),
    st.sampled_from(["", "tier", "changed-while-reading"]),
)
def test_nothing_is_whole_but_what_was_read_with_the_digest_of_the_catalog(
    known: Known, seen: Fingerprint | None, digest: str, code: str
) -> None:
    """I7 in one line: whatever else happened, silence is not success."""
    if digest and seen is None:
        return
    verdict = judge(known, Look(seen, digest, code))
    assert (verdict.kind is None) == (known.digest == digest == GOOD and not code)


@pytest.mark.parametrize(
    ("kind", "place", "more", "repaired"),
    [
        ("bit-rot", ARCHIVE, {}, True),
        ("missing", ARCHIVE, {}, True),
        ("unreadable", ARCHIVE, {}, True),
        ("changed", ARCHIVE, {}, True),  # only we write there
        ("changed", Place("posix", "source"), {}, False),  # people write there
        ("bit-rot", Place("posix", "source"), {}, True),
        ("bit-rot", Place("posix", "source", read_only=True), {}, False),
        ("stranger", ARCHIVE, {}, False),
        ("bit-rot", ARCHIVE, {"second_copy": False}, False),
        ("bit-rot", Place("posix", "flash"), {"scope": "run"}, False),
        ("bit-rot", Place("object", "archive"), {}, False),
        ("missing", Place("object", "archive"), {}, True),
        ("bit-rot", Place("object", "archive", versioning=True), {}, True),
    ],
)
def test_what_may_be_repaired_and_what_stands_in_the_way(
    kind: Any, place: Place, more: dict[str, Any], repaired: bool
) -> None:
    """Nothing is ever overwritten, and nobody's work undone."""
    said = obstacle(kind, place, **({"scope": "tier", "second_copy": True} | more))
    assert (said == "") == repaired


@pytest.mark.parametrize(
    ("last", "known", "due"), [(None, 0, False), (None, 86_400, True), (86_399, 10**9, False), (86_400, 0, True)]
)
def test_a_policy_is_due_once_an_interval_and_not_on_its_first_day(
    last: float | None, known: float, due: bool
) -> None:
    policy = VerifyPolicy(name="verify", tier="archive")
    assert is_due(policy, last_age_s=last, known_for_s=known) == due


@given(total=st.integers(1, 10**15), share=st.floats(0.001, 1), every=st.integers(60, 10 * 86_400))
def test_the_portions_of_the_days_cover_the_whole_in_the_time_their_share_says(
    total: int, share: float, every: int
) -> None:
    """A thirtieth a day is all in a month, however often the readings come."""
    policy = VerifyPolicy(name="verify", tier="archive", share_per_day=share, every_s=every)
    portion = portion_bytes(policy, total)
    readings = 86_400 / every / share
    assert 1 <= portion <= total
    assert portion == total or (portion + 1) * readings >= total * (1 - 1e-9)


def test_of_two_copies_each_is_read_and_mended_from_the_other() -> None:
    """One that stands alone is left to a verify policy of its own: there is nothing to mend it from."""
    two = ArchivePolicy(name="kept", tier="a", second_copy="b", share_per_day=0.5)
    assert [(one.name, one.tier, one.repair_from, one.share_per_day) for one in of_archive(two)] == [
        ("kept/a", "a", "b", 0.5), ("kept/b", "b", "a", 0.5),
    ]  # fmt: skip
    assert of_archive(ArchivePolicy(name="kept", tier="a")) == ()
