"""What a prune does to each pack, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.pruning import PackFacts, PackState, PruneRules, plan_prune

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GRACE = timedelta(days=2)
RULES = PruneRules(grace=GRACE, waste_share=0.25, repack_bytes=1000)


def facts(state: PackState, used: int, *, marked: timedelta | None = None, name: str = "p") -> PackFacts:
    return PackFacts(name, 100, used, state, None if marked is None else NOW - marked)


@pytest.mark.parametrize(
    ("pack", "action"),
    [
        (facts("live", 100), "keep"),
        (facts("live", 76), "keep"),
        (facts("live", 75), "repack"),
        (facts("live", 1), "repack"),
        (facts("live", 0), "mark"),
        (facts("stray", 0), "mark"),
        (facts("marked", 0), "mark"),  # by somebody who wrote no time
        (facts("marked", 0, marked=timedelta(0)), "wait"),
        (facts("marked", 0, marked=GRACE - timedelta(microseconds=1)), "wait"),
        (facts("marked", 0, marked=GRACE), "sweep"),
        (facts("marked", 0, marked=timedelta(days=-400)), "wait"),  # a mark from the future
        (facts("marked", 1, marked=timedelta(days=400)), "unmark"),
    ],
)
def test_each_pack_has_one_verdict_with_its_reason(pack: PackFacts, action: str) -> None:
    """Swept is only what was marked a whole grace ago and nobody needs."""
    (verdict,) = plan_prune([pack], RULES, now=NOW)

    assert verdict.action == action and verdict.reason


def test_the_most_wasteful_are_rewritten_first_and_no_more_than_the_share_allows() -> None:
    """Bounded work, most room won for it; the rest stays as it is until the next prune."""
    packs = [facts("live", used, name=f"p{used}") for used in (60, 10, 40)]

    verdicts = plan_prune(packs, PruneRules(GRACE, 0.25, 50), now=NOW)

    assert [(verdict.pack_id, verdict.action) for verdict in verdicts] == [
        ("p10", "repack"),
        ("p40", "repack"),
        ("p60", "keep"),
    ]


@given(
    st.lists(
        st.builds(
            PackFacts,
            pack_id=st.uuids().map(str),
            size_bytes=st.just(100),
            used_bytes=st.integers(0, 100),
            state=st.sampled_from(["live", "marked", "stray"]),
            marked_at=st.none() | st.datetimes(timezones=st.just(UTC)),
        ),
        unique_by=lambda pack: pack.pack_id,
    )
)
def test_no_needed_pack_is_ever_marked_or_swept_and_none_is_forgotten(packs: list[PackFacts]) -> None:
    """The law that all else hangs on."""
    verdicts = {verdict.pack_id: verdict for verdict in plan_prune(packs, RULES, now=NOW)}

    assert verdicts.keys() == {pack.pack_id for pack in packs}
    for pack in packs:
        if pack.used_bytes and pack.state != "stray":
            assert verdicts[pack.pack_id].action in ("keep", "repack", "unmark")
        if verdicts[pack.pack_id].action == "sweep":
            assert pack.marked_at is not None and pack.marked_at + GRACE <= NOW
