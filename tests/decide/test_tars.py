"""Which files stand in which tar: the same set gives the same tars, whatever else there is."""

from __future__ import annotations

import io
import random
import tarfile

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from mover.decide.tars import MEMBERS_MAX, File, Tar, cut, member_name
from mover.errors import RequestInvalid
from mover.model.ids import make_number, number_value
from mover.model.tar import header, header_bytes


def some(count: int, *, seed: int, size_bytes: int = 1000) -> list[File]:
    chance = random.Random(seed)
    numbers = [make_number(chance.randbytes(10)) for _ in range(count)]
    return [File(f"data/{one}.svs", one, size_bytes, blake3(one.encode()).hexdigest()) for one in numbers]


def made_of(tars: list[Tar]) -> set[str]:
    return {tar.made_of for tar in tars}


FILES = st.builds(
    lambda values, sizes, splits: [
        File(f"data/{split}/{number}.svs" if split else f"data/{number}.svs", number, size, "ab" * 32, split)
        for value, size, split in zip(values, sizes, splits, strict=False)
        for number in [make_number(value)]
    ],
    st.lists(st.binary(min_size=10, max_size=10), unique=True, max_size=40),
    st.lists(st.integers(0, 5000), min_size=40, max_size=40),
    st.lists(st.sampled_from([None]) | st.sampled_from(["train", "test"]), min_size=40, max_size=40),
)


@given(FILES, st.integers(2048, 20_000), st.randoms())
@settings(max_examples=60)
def test_every_file_stands_in_one_tar_of_its_split_and_no_order_matters(
    files: list[File], shard_bytes: int, chance: random.Random
) -> None:
    """Nothing lost, nothing twice, none across; and no tar above the limit but one that holds a single slide."""
    tars = cut(files, shard_bytes=shard_bytes)
    assert sorted(member.file.path for tar in tars for member in tar.members) == sorted(one.path for one in files)
    for tar in tars:
        assert {member.file.split for member in tar.members} == {tar.members[0].file.split}
        assert tar.path.startswith(f"data/{tar.members[0].file.split}/" if tar.members[0].file.split else "data/0")
        assert tar.size_bytes <= shard_bytes or len(tar.members) == 1
        numbers = [number_value(member.file.number) for member in tar.members]
        assert numbers == sorted(numbers)
    assert len({tar.path for tar in tars}) == len(tars)
    shuffled = chance.sample(files, len(files))
    assert cut(shuffled, shard_bytes=shard_bytes) == tars


def test_a_slide_that_comes_or_goes_changes_the_one_tar_of_its_range() -> None:
    """Who repeats most of a cohort shares most tars, where the difference is small."""
    files = some(4000, seed=1)
    before = cut(files, shard_bytes=100_000)
    after = cut(files[1:], shard_bytes=100_000)
    assert len(before) > 50 and len(made_of(before) & made_of(after)) >= len(before) - 2
    sizes = [tar.size_bytes for tar in before]
    assert sum(sizes) / len(sizes) > 50_000 and max(sizes) <= 100_000


def test_no_tar_holds_more_files_than_stand_in_memory_while_it_is_made() -> None:
    tars = cut(some(MEMBERS_MAX + 1, seed=2, size_bytes=1), shard_bytes=1 << 40)
    assert len(tars) == 2 and all(len(tar.members) <= MEMBERS_MAX for tar in tars)


def test_the_files_of_a_slide_stand_side_by_side_under_its_key() -> None:
    """A reader takes what stands before the first dot for the sample, and all of it comes together (WebDataset)."""
    number = make_number(b"a" * 10)
    several = [
        File(f"data/{number}/{name}", number, 10, "ab" * 32)
        for name in ("im2.dcm", f"{number}.dcm", f"{number}/Data%0.dat", "svs")
    ]
    [tar] = cut([*several, *some(3, seed=3)], shard_bytes=1 << 20)
    names = [member.name for member in tar.members if member.file.number == number]
    assert names == [f"{number}.{end}" for end in (f"{number}%2FData%250.dat", "dcm", "im2.dcm", "svs")]
    at = [member.file.number for member in tar.members].index(number)
    assert [member.file.number for member in tar.members][at : at + 4] == [number] * 4
    twice = [File(f"data/{number}/{name}", number, 1, "ab" * 32) for name in (f"{number}.svs", "svs")]
    with pytest.raises(RequestInvalid, match="one name"):
        cut(twice, shard_bytes=1 << 20)
    inner = File(f"data/{number}/a/b.dat", number, 1, "ab" * 32)
    assert member_name(inner) == f"{number}.a%2Fb.dat"


@pytest.mark.parametrize(
    ("name", "size_bytes"), [("a.svs", 5), ("a" * 101 + ".svs", 5), ("ä.svs", 5), ("a.svs", 9 << 30), ("a" * 300, 0)]
)
def test_every_header_is_as_long_as_was_thought_and_tells_any_reader_the_same(name: str, size_bytes: int) -> None:
    made = header(name, size_bytes)
    assert len(made) == header_bytes(name, size_bytes) and len(made) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(made + bytes(1024))) as opened:
        read = opened.firstmember
    assert read is not None
    assert (read.name, read.size, read.mode, read.mtime, read.uid, read.gid) == (name, size_bytes, 0o444, 0, 0, 0)


def test_what_a_tar_is_made_of_and_its_headers_stay_what_they_are_for_ever() -> None:
    """A golden: whoever changes a byte of the format changes its name, or old runs are repeated under other digests."""
    [tar] = cut(some(3, seed=4), shard_bytes=1 << 20)
    headers = b"".join(header(member.name, member.file.size_bytes) for member in tar.members)
    assert tar.made_of == "71266393fa98b0c4529e4603faf6494077484ee2923fc1552086c2fd28486995"
    assert blake3(headers).hexdigest() == "85b00c21f8bb59b3e8d0ad6e1d43a31aa12878102c8ba74a7a3ca3441dcac977"
    assert [member.offset for member in tar.members] == [512, 2048, 3584] and tar.size_bytes == 5632
