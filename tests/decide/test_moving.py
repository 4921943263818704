"""The judgement of the general verb, as tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.decide.moving import (
    FINAL,
    RELEASE,
    TRANSFER,
    End,
    Facts,
    Pace,
    Round,
    Standing,
    check_release,
    check_transfer,
    clean_prefix,
    clock_went_back,
    csv_cell,
    estimate_s,
    is_due,
    judge_release,
    judge_space,
    judge_way,
    matches,
    name_problem,
    needs_second_person,
    next_state,
    parse_when,
    target_key,
)
from mover.errors import ExpressionInvalid, IllegalTransition
from mover.model.names import key_text, name_text, text_key

NAS = End("nas", "posix", "deidentified", "source", False, "in")
COLD = End("cold", "object", "deidentified", "archive", False, "kept")


def codes(source: End, target: End, *, release: bool = False, overlapping: bool = False) -> list[str]:
    return [one.code for one in judge_way(source, target, release=release, overlapping=overlapping)]


# --- states ------------------------------------------------------------------------------------------------


def test_final_states_are_those_that_end_an_attempt() -> None:
    """A failed or incomplete transfer may be taken up again; nothing else leads out of an end."""
    assert {state for state, after in TRANSFER.items() if not after} == {"refused", "done", "aborted"}
    assert FINAL - {"refused", "done", "aborted"} == {"incomplete", "failed"}
    assert all(state in TRANSFER for after in TRANSFER.values() for state in after)
    assert all(state in RELEASE for after in RELEASE.values() for state in after)


def test_what_the_table_does_not_say_is_refused() -> None:
    check_transfer("moving", "paused", subject="t")
    with pytest.raises(IllegalTransition, match="done cannot become moving"):
        check_transfer("done", "moving", subject="t")
    with pytest.raises(IllegalTransition):
        check_release("waiting", "purging", subject="r")


def test_nothing_purged_was_not_held_before() -> None:
    """Only from `held`, or from a release that was given up half-way and waits its hold out, does a purge begin."""
    assert {before for before, after in RELEASE.items() if "purging" in after} == {"held", "failed"}
    assert RELEASE["purged"] == ()


@pytest.mark.parametrize(
    ("round_", "next_"),
    [
        (Round("copy", "moving", waiting=0, failed=0, moved=3), "done"),
        (Round("copy", "moving", waiting=0, failed=1, moved=3), "incomplete"),
        (Round("copy", "moving", waiting=2, failed=0, moved=3), "again"),
        (Round("move", "moving", waiting=0, failed=1, moved=3), "releasing"),
        (Round("move", "moving", waiting=0, failed=3, moved=0), "incomplete"),
        (Round("copy", "canary", waiting=7, failed=0, moved=3), "waiting"),
        (Round("move", "canary", waiting=7, failed=3, moved=0), "waiting"),
    ],
)
def test_what_follows_the_last_shard(round_: Round, next_: str) -> None:
    assert next_state(round_) == next_


# --- the way ---------------------------------------------------------------------------------------------------


def test_a_plain_way_has_nothing_against_it() -> None:
    assert codes(NAS, COLD) == codes(NAS, COLD, release=True) == []


@pytest.mark.parametrize(
    ("source", "target", "release", "code"),
    [
        ({"zone": "identified"}, {}, False, "zone-crossing"),
        ({"zone": "identified"}, {}, True, "release-original"),
        ({"zone": "identified"}, {"zone": "identified"}, False, "identified-not-yet"),
        ({}, {"zone": "identified"}, False, "identified-not-yet"),
        ({}, {"read_only": True}, False, "target-read-only"),
        ({}, {"role": "protect"}, False, "target-owned"),
        ({}, {"prefix": "slides/x"}, False, "target-owned"),
        ({}, {"role": "flash", "prefix": "runs"}, False, "target-owned"),
        ({"read_only": True}, {}, True, "release-read-only"),
        ({"kind": "object"}, {}, True, "release-unsupported"),
        ({"role": "flash", "prefix": "runs/run-1"}, {}, True, "release-owned"),
        ({"role": "archive", "prefix": ""}, {}, True, "release-owned"),
        ({"role": "protect"}, {}, True, "release-owned"),
    ],
)
def test_each_refusal_has_its_code(source: dict, target: dict, release: bool, code: str) -> None:
    replace = msgspec.structs.replace
    assert code in codes(replace(NAS, **source), replace(COLD, **target), release=release)


def test_places_inside_each_other_are_refused() -> None:
    assert codes(NAS, COLD, overlapping=True) == ["places-overlap"]


# --- names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "prefix", "to", "found"),
    [
        ("in/a/b", "in", "kept", "kept/a/b"),
        ("in/a/b", "", "", "in/a/b"),
        ("in/a/b", "in/a/b", "kept", "kept/b"),
        ("a", "", "x/y", "x/y/a"),
    ],
)
def test_where_an_entry_goes(key: str, prefix: str, to: str, found: str) -> None:
    assert target_key(key, prefix=prefix, to=to) == found


@pytest.mark.parametrize(
    ("key", "kind", "code"),
    [
        ("ok/ü.svs", "object", None), ("\udcff", "object", "name-not-text"), ("\udcff", "posix", None),
        ("a" * 1025, "object", "name-too-long"), ("a" * 256, "posix", "name-too-long"),
        ("a\nb", "object", "name-control"), (".mover/tier.json", "posix", "name-reserved"),
    ],
)  # fmt: skip
def test_names_a_tier_cannot_hold(key: str, kind: str, code: str | None) -> None:
    found = name_problem(key, kind=kind)  # type: ignore[arg-type]
    assert (found.code if found else None) == code


@given(st.binary(min_size=1, max_size=40).filter(lambda raw: b"\0" not in raw))
def test_any_name_survives_its_way_through_text(raw: bytes) -> None:
    """Requests and reports are JSON; names are bytes."""
    key = name_text(raw)
    text = key_text(key)
    assert text_key(text) == key
    assert not any(ord(c) < 32 or 0xD800 <= ord(c) < 0xE000 for c in text)


def test_a_folder_has_one_spelling() -> None:
    assert [clean_prefix(p) for p in ("/a//b/", "./a/./b", "", "../a", "a\0b")] == ["a/b", "a/b", "", None, None]


# --- time, space, release ----------------------------------------------------------------------------------------


def test_an_estimate_counts_what_is_slower_and_guesses_nothing() -> None:
    assert estimate_s(10, 10, []) is None
    history = [Pace(entries=100, bytes=1000, seconds=10)]
    assert estimate_s(100, 10, history) == 10.0       # many small ones
    assert estimate_s(1, 5000, history) == 50.0       # one large one


def test_space_is_judged_where_it_is_known() -> None:
    assert judge_space(5, None, tier="bucket") is None and judge_space(5, 5, tier="t") is None
    refused = judge_space(6, 5, tier="t")
    assert refused is not None and refused.code == "no-space"


@pytest.mark.parametrize(
    ("entries", "tier_entries", "waits"),
    [(100, None, False), (101, None, True), (101, 20_000, False), (201, 20_000, True), (100, 10, False)],
)
def test_beyond_a_share_of_the_tier_a_second_person_is_asked(
    entries: int, tier_entries: int | None, waits: bool
) -> None:
    assert (needs_second_person(entries, tier_entries=tier_entries) is not None) == waits


@pytest.mark.parametrize(
    "bounds",
    [{"free_entries": 1_000_000_000}, {"percent": 100.0}, {"hold_s": 0, "entries": 1}],
    ids=["entries", "percent", "hold"],
)
def test_nobody_lifts_the_bounds_of_his_own_release(bounds: dict[str, Any]) -> None:
    """I8: a request that names its own blast radius and hold would make the second person a formality. A policy's
    are the administrator's."""
    said: dict[str, Any] = {"entries": 5000, "tier_entries": 6000, **bounds}
    assert needs_second_person(**said, by_policy=False) is not None
    if "hold_s" not in bounds:
        assert needs_second_person(**said, by_policy=True) is None


GOOD = Standing(
    verified=True, held_by_row=False, owned=False, links=1, source_unchanged=True, copy_equal=True
)  # fmt: skip


@given(
    st.builds(
        Standing, verified=st.booleans(), held_by_row=st.booleans(), owned=st.booleans(), links=st.integers(1, 3),
        source_unchanged=st.booleans(), copy_equal=st.booleans(),
    )
)  # fmt: skip
def test_a_source_leaves_only_when_everything_stands(found: Standing) -> None:
    """The law of release: one doubt keeps it."""
    assert (judge_release(found) is None) == (found == GOOD)


def test_time_that_went_back_is_seen() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert not clock_went_back(now, None) and not clock_went_back(now, now + timedelta(seconds=4))
    assert clock_went_back(now, now + timedelta(seconds=6))


def test_a_policy_is_due_after_its_time_and_never_beside_itself() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    earlier = now - timedelta(seconds=60)
    assert is_due(now, last=None, every_s=60, running=False) and is_due(now, last=earlier, every_s=60, running=False)
    assert not is_due(now, last=earlier, every_s=61, running=False)
    assert not is_due(now, last=None, every_s=60, running=True)
    assert not is_due(now, last=None, every_s=None, running=False)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("plain", "plain"), ("=1+1", "'=1+1"), ("@x", "'@x"), ('a"b', '"a""b"'), ("a,b", '"a,b"'),
        ("-1,2", "\"'-1,2\""), ("", ""),
    ],
)  # fmt: skip
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    assert csv_cell(text) == cell


# --- conditions ----------------------------------------------------------------------------------------------------

DAY = 86_400.0
OLD = Facts("in/Old.svs", "file", 2_000_000, 0.0, "ab" * 32, 90 * DAY)
NEW = Facts("in/new.txt", "file", 10, 100 * DAY, None, None)


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("age > 90d and size > 1MB and name like '%.svs'", True, False),
        ("age <= 0s", False, True),
        ("name ilike 'old.%'", True, False),
        ("key like 'in/%'", True, True),
        ("size between 1B and 1kB", False, True),
        ("size > 1MiB", True, False),
        ("mtime < '1970-01-02'", True, False),
        ("kind in ('symlink', 'other')", False, False),
        ("not (name = 'Old.svs')", False, True),
        ("digest is null", False, True),
        ("verified > 9d", True, False),          # unknown is no
        ("not verified > 9d", False, False),     # and its opposite is no either, as in SQL
        ("verified > 9d or digest is null", True, True),
        ("age > 1w or size < 1kB", True, True),
    ],
)
def test_conditions_select_as_they_read(text: str, old: bool, new: bool) -> None:
    condition = parse_when(text)
    assert (matches(condition, OLD, now_s=100 * DAY), matches(condition, NEW, now_s=100 * DAY)) == (old, new)


@pytest.mark.parametrize(
    ("text", "where", "word"),
    [
        ("", "character 1", "empty"),
        ("age > 90", "character 7", "needs a unit"),
        ("age > 1MB", "character 7", "no unit"),
        ("age > 90d and sise > 1", "character 15", "no such column"),
        ("size > 5d", "character 8", "no unit"),
        ("size > 1MB; drop table x", "character 13", "not a condition"),
        ("lower(name) = 'x'", "character 1", "column on one side"),
        ("size > (select 1)", "character 16", "size"),
        ("sampled(0.1)", "character 1", "not part"),
        ("kind = 'folder-ish'", "character 8", "never"),
        ('name = "x"', "character 8", "value"),
        ("age > 1d or", "character 10", "not a condition"),
    ],
)
def test_a_mistake_is_told_at_its_character(text: str, where: str, word: str) -> None:
    with pytest.raises(ExpressionInvalid) as caught:
        parse_when(text)
    assert caught.value.where == where and word in caught.value.what


@pytest.mark.parametrize("text", ["(" * 40 + "age > 1d" + ")" * 40, "not " * 50 + "age > 1d", "age > 1d and " * 2000])
def test_a_condition_is_bounded(text: str) -> None:
    with pytest.raises(ExpressionInvalid):
        parse_when(text)


def test_a_day_is_the_utc_day_of_any_time() -> None:
    for seconds in (0, -1, 951_782_400, 1_709_164_799, 4_102_444_800):
        day = datetime.fromtimestamp(seconds, UTC).date().isoformat()
        assert matches(parse_when(f"mtime = '{day}'"), Facts("a", "file", 1, seconds), now_s=0)
