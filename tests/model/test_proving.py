"""Ranges of a stream are proved while it goes by, however it is cut."""

from __future__ import annotations

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from mover.model.proving import Prover


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=8), st.lists(st.integers(0, 200), max_size=12))
def test_exactly_the_ranges_that_hold_other_bytes_or_none_are_told(
    data: bytes, cuts: list[int], bounds: list[int]
) -> None:
    bounds = sorted(bounds)
    ranges = [(f"{at}-{end}", at, end - at) for at, end in zip(bounds[::2], bounds[1::2], strict=False)]
    told = [(name, at, length, blake3(data[at : at + length]).hexdigest()) for name, at, length in ranges]
    prover = Prover(told)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, end in zip(edges, edges[1:], strict=False):
        prover.update(data[start:end])
    assert prover.wrong() == [name for name, at, length in ranges if at + length > len(data)]

    other = bytes(byte ^ 1 for byte in data)
    prover = Prover(told)
    prover.update(memoryview(other))
    assert set(prover.wrong()) == {name for name, at, length in ranges if length or at > len(data)}
