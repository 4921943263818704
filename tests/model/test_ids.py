"""Ids and numbers: random, checkable, never derived."""

from hypothesis import given
from hypothesis import strategies as st

from mover.model.ids import CROCKFORD, is_id, is_number, make_id, make_number

ENTROPY = st.binary(min_size=10, max_size=10)


@given(ENTROPY)
def test_a_made_number_is_a_number(entropy: bytes):
    assert is_number(make_number(entropy))


@given(ENTROPY, st.integers(0, 16), st.sampled_from(CROCKFORD))
def test_one_wrong_character_is_found(entropy: bytes, place: int, other: str):
    """A typed-in slide number must not name another slide by accident."""
    number = make_number(entropy)
    if other != number[place]:
        assert not is_number(number[:place] + other + number[place + 1 :])


def test_80_random_bits_stand_in_a_number():
    assert make_number(b"\xff" * 10)[:16] == "Z" * 16


@given(ENTROPY, st.integers(0, 2**48 - 1))
def test_ids_sort_by_time_and_know_their_kind(entropy: bytes, now_ms: int):
    made = make_id("run", now_ms=now_ms, entropy=entropy)
    assert is_id(made, "run") and not is_id(made, "pack")
    assert now_ms == 2**48 - 1 or made < make_id("run", now_ms=now_ms + 1, entropy=entropy)
