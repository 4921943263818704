"""The manifest, version 1: equal content, equal root; anything odd is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.errors import StructureInvalid
from mover.model.manifest import ManifestEntry, encode_manifest, manifest_root, parse_manifest

ENTRIES = st.lists(
    st.builds(
        ManifestEntry,
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
        st.integers(0, 2**52),
        st.just("ab" * 32),
    ),
    unique_by=lambda e: e.path,
    max_size=6,
)


@given(ENTRIES, st.randoms())
def test_the_root_does_not_know_the_run_nor_the_order(entries, random):
    shuffled = random.sample(entries, len(entries))
    one = encode_manifest(entries, run="run-a", cohort=None, created="t1")
    other = encode_manifest(shuffled, run="run-b", cohort="x = 1", created="t2")
    assert parse_manifest(one).header.root == parse_manifest(other).header.root == manifest_root(shuffled)


@given(ENTRIES.filter(bool))
def test_what_was_encoded_is_read_back(entries):
    data = encode_manifest(entries, run="run-a", cohort=None, created="t")
    assert {e.path for e in parse_manifest(data).entries} == {e.path for e in entries}


def test_a_changed_line_does_not_pass():
    data = encode_manifest([ManifestEntry("data/a", 1, "00" * 32)], run="r", cohort=None, created="t")
    with pytest.raises(StructureInvalid):
        parse_manifest(data.replace(b'"size_bytes":1', b'"size_bytes":2'))


def test_an_unknown_version_is_refused():
    data = encode_manifest([], run="r", cohort=None, created="t")
    with pytest.raises(StructureInvalid):
        parse_manifest(data.replace(b'"version":1', b'"version":2'))
