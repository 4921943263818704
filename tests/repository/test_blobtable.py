"""The table of blobs answers as a dictionary does, also while it grows under who asks, in less than half its room."""

from __future__ import annotations

import hashlib
import threading
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.repository.blobtable import BlobTable

IDS = st.integers(0, 3000).map(lambda number: hashlib.sha256(number.to_bytes(4, "big")).digest())
PLACES = st.integers(0, (1 << 128) - 1)


def blob_id(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


@given(st.lists(st.tuples(IDS, PLACES), max_size=60), st.lists(IDS, max_size=20))
def test_it_answers_as_a_dictionary_does(added: list[tuple[bytes, int]], asked: list[bytes]) -> None:
    table, known = BlobTable(), dict[bytes, int]()
    for one, place in added:
        assert table.setdefault(one, place) == known.setdefault(one, place)
    assert len(table) == len(known)
    for one in [*known, *asked, b"short"]:
        assert table.get(one) == known.get(one) and (one in table) == (one in known)


def test_it_grows_and_forgets_nothing() -> None:
    table = BlobTable()
    for number in range(50_000):
        table.setdefault(blob_id(number), number << 96 | number)
    assert [table.get(blob_id(number)) for number in range(50_000)] == [n << 96 | n for n in range(50_000)]
    assert not any(blob_id(number) in table for number in range(50_000, 60_000))


def test_ids_that_all_meet_in_one_slot_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mover.repository.blobtable.hash", lambda _: -1, raising=False)
    table = BlobTable()
    for number in range(900):
        table.setdefault(blob_id(number), number)
    assert [table.get(blob_id(number)) for number in range(900)] == list(range(900))
    assert table.get(blob_id(900)) is None


def test_who_asks_while_it_grows_finds_what_was_added_before() -> None:
    """Readers hold no lock: a slot must name an entry that is whole, in slots that fit each other. What nobody added is
    not there, whatever comes meanwhile: a snapshot would lean on it."""
    table, added, wrong = BlobTable(), [0], list[int]()
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            newest = added[0]
            for number in range(max(0, newest - 50), newest):
                if table.get(blob_id(number)) != number:
                    wrong.append(number)
            for number in range(-50, 0):
                if table.get(blob_id(number)) is not None or blob_id(number) in table:
                    wrong.append(number)

    def traced(*_: object) -> object:
        """As under a debugger: threads switch between any two lines."""
        return traced

    threading.settrace(traced)  # type: ignore[arg-type]
    asking = [threading.Thread(target=ask) for _ in range(3)]
    try:
        for one in asking:
            one.start()
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
    for number in range(20_000):
        table.setdefault(blob_id(number), number)
        added[0] = number + 1
    ended.set()
    for one in asking:
        one.join()
    assert not wrong


def test_a_blob_takes_less_than_half_of_a_dictionarys_room() -> None:
    def room(known: BlobTable | dict[bytes, int]) -> float:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(40_000):
                known.setdefault(blob_id(number), number << 96 | 1 << 70)
            return (tracemalloc.get_traced_memory()[0] - before) / 40_000
        finally:
            tracemalloc.stop()

    assert room(BlobTable()) < 80 and room(BlobTable()) * 2 < room({})
