"""Of a long film every frame is searched for edges, and those that show something new are read."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.deid.pixels import PixelFacts, Span, films, judge_pixels, reader
from mover.deid.pixels.films import MAX_FRAMES, SUSPECTS, Edges, shown, suspects
from mover.errors import LimitExceeded, RedactionUnproven
from mover.model.deid import PixelRules
from mover.model.source import MemorySource
from tests.support.dicoms import burn

HIGH, WIDE, COUNT = 160, 224, 90
needs_eyes = pytest.mark.skipif(not reader.available(), reason="no package with the networks is installed")


def film(*, word_on: int | None = None, colours: bool = False) -> tuple[MemorySource, PixelFacts]:
    """A bright and a dark stripe walk through the picture, so that the brightest and the darkest of each pixel hide
    a grey word which one frame shows."""
    shape = (COUNT, HIGH, WIDE, 3) if colours else (COUNT, HIGH, WIDE)
    frames = np.full(shape, 90, np.uint8)
    for index in range(COUNT):
        at = index * WIDE // COUNT
        frames[index, :, at : at + 8] = 230
        frames[index, :, (at + WIDE // 2) % WIDE :][:, :8] = 10
        if index == word_on:
            burn(frames[index], ["Quincy", "771001"], size_px=18, value=150, seed=3)
    each = frames[0].size
    spans = tuple((Span(index * each, each),) for index in range(COUNT))
    facts = PixelFacts(rows=HIGH, columns=WIDE, frames=spans, transfer_syntax="1.2.840.10008.1.2.1",
                       sop_class="1.2.840.10008.5.1.4.1.1.12.1", samples=3 if colours else 1,
                       photometric="RGB" if colours else "MONOCHROME2")  # fmt: skip
    return MemorySource(frames.tobytes()), facts


def at(index: int) -> np.ndarray:
    return np.frombuffer(film(word_on=index)[0].read(index * HIGH * WIDE, HIGH * WIDE), np.uint8).reshape(HIGH, WIDE)


@pytest.mark.parametrize("index", [7, 44, 61])
def test_a_frame_that_alone_shows_a_word_is_shown(index: int) -> None:
    source, facts = film(word_on=index)
    wanted = at(index)
    assert any(np.array_equal(frame.samples, wanted) for frame in shown(source, facts, PixelRules()))
    assert len(list(shown(source, facts, PixelRules()))) <= 5 + SUSPECTS


def test_a_film_too_large_to_be_read_whole_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames stand in memory together: a child that died of them would say nothing of the reason."""
    source, facts = film()
    rules = PixelRules(films="every")
    assert len(list(shown(source, facts, rules))) == COUNT
    monkeypatch.setattr(films, "SHOWN_BYTES", COUNT * HIGH * WIDE - 1)
    with pytest.raises(LimitExceeded, match="every frame"):
        list(shown(source, facts, rules))
    assert len(list(shown(source, facts, PixelRules()))) < COUNT


@pytest.mark.slow
@needs_eyes
@pytest.mark.parametrize("colours", [False, True], ids=["grey", "colours"])
def test_a_word_on_one_frame_of_many_is_blanked(colours: bool) -> None:
    source, facts = film(word_on=61, colours=colours)
    assert judge_pixels(source, facts, PixelRules()).masked
    assert not judge_pixels(*film(colours=colours), PixelRules()).masked


def test_a_profile_may_want_every_frame_read_or_none_pass_by_samples() -> None:
    source, facts = film()
    assert len(list(shown(source, facts, PixelRules(films="every")))) == COUNT
    with pytest.raises(RedactionUnproven, match="every frame"):
        list(shown(source, facts, PixelRules(films="refuse")))
    short = msgspec.structs.replace(facts, frames=facts.frames[:20])
    assert len(list(shown(source, short, PixelRules(films="refuse")))) == 20


def test_a_film_of_more_frames_than_can_be_searched_waits() -> None:
    source, facts = film()
    endless = msgspec.structs.replace(facts, frames=facts.frames[:1] * (MAX_FRAMES + 1))
    with pytest.raises(RedactionUnproven, match="frames"):
        next(shown(source, endless, PixelRules()))


def blocks(*rows: Any) -> np.ndarray:
    made = np.zeros((12, 40), bool)
    for row in rows:
        made[row, 4:20] = True
    return made


@given(st.lists(st.lists(st.sampled_from([0, 4, 8]), max_size=2), min_size=1, max_size=30))
def test_afterwards_no_frame_has_edges_where_nothing_was_shown(rows: list[list[int]]) -> None:
    """Three rows can be new: three frames at most are needed to have shown them all, however many there are."""
    edges = Edges()
    for one in rows:
        edges.add(blocks(*one))
    found = suspects(edges, blocks())
    everything = {row for one in rows for row in one}
    assert {row for index in found for row in rows[index]} == everything and len(found) <= len(everything)
