"""Lanes: several threads over one stream of pieces, and what must stay in order does."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest

from mover.transfer.lanes import Lanes, LanesStopped, Turn
from tests.support.leftovers import Leftovers


def run(pieces: int, work: Callable[[int, list[Turn]], None], *, count: int = 4, turns: int = 1) -> None:
    Lanes(range(pieces), lambda: work, count=count, name="test", turns=turns).run()


@pytest.mark.parametrize("seed", range(5))
def test_turns_come_in_order_however_long_the_work_beside_them_takes(seed: int) -> None:
    """A digest over pieces in another order is a digest of other bytes."""
    first: list[int] = []
    second: list[int] = []
    waits = [random.Random(seed * 1000 + number).random() / 2000 for number in range(60)]

    def work(piece: int, turns: list[Turn]) -> None:
        time.sleep(waits[piece])
        with turns[0]:
            first.append(piece)
        time.sleep(waits[-piece - 1])
        with turns[1]:
            second.append(piece)

    run(60, work, turns=2)
    assert first == second == list(range(60))


def test_pieces_are_worked_beside_each_other() -> None:
    """Else lanes were only a slower loop: four must meet at a gate that opens for four."""
    gate = threading.Barrier(4, timeout=60)

    def work(piece: int, turns: list[Turn]) -> None:
        gate.wait()
        with turns[0]:
            pass

    run(8, work)


@pytest.mark.parametrize("before_its_turn", [True, False])
def test_the_first_failure_ends_all_lanes_and_is_the_one_raised(before_its_turn: bool) -> None:
    """Whoever waits for a turn that never comes is woken; nothing after the failure has a turn."""
    had: list[int] = []

    def work(piece: int, turns: list[Turn]) -> None:
        if piece == 5 and before_its_turn:
            raise ValueError("five")
        with turns[0]:
            had.append(piece)
        if piece == 5:
            raise ValueError("five")

    before, pieces = Leftovers(), 100_000
    with pytest.raises(ValueError, match="five"):
        run(pieces, work)
    # how many had their turn before the failure was told is the scheduler's affair
    assert had[:5] == [0, 1, 2, 3, 4] and len(had) < pieces and had == sorted(had)
    assert before.now() == []


def test_a_failing_stream_of_pieces_is_raised_too() -> None:
    """The list of holes may fail half-way; ending early would be a short copy called whole."""

    def pieces():  # type: ignore[no-untyped-def]
        yield from range(3)
        raise OSError("the list broke off")

    def work(piece: int, turns: list[Turn]) -> None:
        with turns[0]:
            pass

    with pytest.raises(OSError, match="broke off"):
        Lanes(pieces(), lambda: work, count=3, name="test").run()


def test_stopped_from_outside_it_never_ends_as_if_it_were_done() -> None:
    """A follower's failure stops the lanes; what was not written must not look written."""
    lanes: Lanes[int]

    def work(piece: int, turns: list[Turn]) -> None:
        with turns[0]:
            if piece == 3:
                lanes.stop(LanesStopped())

    lanes = Lanes(range(1000), lambda: work, count=2, name="test")
    with pytest.raises(LanesStopped):
        lanes.run()
