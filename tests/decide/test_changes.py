"""What pages are told to ask again: by noun, by id, by role; bounded whatever happens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mover.decide.access import ROLES
from mover.decide.changes import _OF_KIND, _OF_WORD, IDS_MAX, heard_by, merged, readable, told
from mover.model.ids import KINDS, make_id, make_number

RUN = make_id("run", now_ms=1, entropy=bytes(10))
PACK = make_id("pack", now_ms=1, entropy=bytes(10))
NUMBER = make_number(bytes(10))
# rows inside of others, never the subject of a decision or of a shard
INSIDE = {"table", "row", "shard", "proof", "node", "record", "sealed"}
# time itself changes these, or nobody shows them
BY_THEMSELVES = {"alarms", "answers", "metrics", "session", "status", "audit", "shards"}


def test_every_kind_of_id_is_told_of_under_nouns_that_somebody_may_read() -> None:
    """A new kind of thing must not be the one that pages never hear of."""
    assert set(_OF_KIND) | INSIDE >= set(KINDS)
    nouns = {noun for touched in (*_OF_KIND.values(), *_OF_WORD.values()) for noun in (touched.own, *touched.others)}
    assert nouns - {""} <= readable()
    assert readable() - nouns <= BY_THEMSELVES


def test_records_and_work_are_told_by_noun_and_id() -> None:
    every = {"status": None, "audit": None}
    assert told([("run ready", RUN)]) == {"runs": frozenset({RUN}), "archives": None, **every}
    # a pack's page is its batch's, and which that is stands in no record
    assert told([("pack published", PACK)]) == {"batches": None, "quarantine": None, "slides": None, **every}
    assert told([("slide removed", NUMBER)])["slides"] == frozenset({NUMBER})
    assert told([("policy: changed", "stage")]) == {"policies": None, **every}
    # that somebody read it is no change of it
    assert told([("manifest read", RUN)]) == every
    assert told([("something new", "a-thing")]) == every
    assert told([], [RUN]) == {"runs": frozenset({RUN}), "shards": None}
    assert told([]) == {}


def test_who_may_not_read_a_noun_hears_nothing_of_it() -> None:
    nouns = told([("token made", make_id("token", now_ms=1, entropy=bytes(10))), ("run ready", RUN)])
    heard = {role: set(heard_by(role, None, nouns)) for role in ROLES}
    assert heard["viewer"] == {"runs", "archives", "status"}
    assert heard["admin"] == {"runs", "archives", "status", "tokens", "accounts", "audit"}
    assert heard["custodian"] == {"status", "audit"}
    assert set(heard_by("admin", frozenset({"runs.read"}), nouns)) == {"runs"}


IDS = st.none() | st.frozensets(st.integers(0, 200).map(str), max_size=IDS_MAX)
NOUNS = st.dictionaries(st.sampled_from(sorted(readable())), IDS)


@given(NOUNS, NOUNS)
def test_what_a_slow_reader_has_not_read_stays_small_and_loses_nothing(known: dict, more: dict) -> None:
    both = merged(known, more)
    assert both.keys() == known.keys() | more.keys()
    for noun, ids in both.items():
        said = [one[noun] for one in (known, more) if noun in one]
        assert ids is None or (None not in said and ids == frozenset().union(*said) and len(ids) <= IDS_MAX)
        assert ids is not None or None in said or len(frozenset().union(*said)) > IDS_MAX
