"""The manifest, version 1: equal content, equal root; anything odd is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.errors import StructureInvalid
from mover.model.manifest import (
    ManifestEntry,
    ManifestShard,
    encode_manifest,
    make_manifest,
    manifest_root,
    parse_manifest,
)

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


SHARDS = (ManifestShard("data/0.tar", 4096, "cd" * 32, 2),)


def wrapped(*offsets: int, shard: str = "data/0.tar") -> list[ManifestEntry]:
    return [ManifestEntry(f"data/{at}", 600, "ab" * 32, shard=shard, offset=at) for at in offsets]


def test_files_in_tars_have_the_root_of_the_same_files_without():
    """Which dataset it is does not depend on how it is wrapped; which tars they are has a root of its own."""
    bare = [ManifestEntry(f"data/{at}", 600, "ab" * 32) for at in (512, 2048)]
    header, data = make_manifest(wrapped(512, 2048), run="r", cohort=None, created="t", shards=SHARDS)
    parsed = parse_manifest(data)
    assert parsed.header == header and header.version == 2 and header.root == manifest_root(bare)
    assert {(entry.path, entry.offset) for entry in parsed.entries} == {("data/512", 512), ("data/2048", 2048)}
    assert parse_manifest(encode_manifest(bare, run="r", cohort=None, created="t")).header.version == 1


@pytest.mark.parametrize(
    "entries",
    [wrapped(512), wrapped(512, 1000), wrapped(512, 3500), wrapped(512, 0), wrapped(512, 2048, shard="data/1.tar")],
    ids=["one too few", "in one another", "beyond the end", "before the first header", "in no tar of the list"],
)
def test_a_file_without_a_place_of_its_own_in_a_tar_does_not_pass(entries):
    _, data = make_manifest(entries, run="r", cohort=None, created="t", shards=SHARDS)
    with pytest.raises(StructureInvalid):
        parse_manifest(data)
