"""When a file that claims to be clean is believed."""

from __future__ import annotations

import pytest

from mover.decide.adoption import PLACES_MAX, CleanLook, judge_clean
from mover.decide.survey import Fate, PlaceSeen
from mover.model.ids import make_number

NUMBER = make_number(b"0123456789")


def place(fate: Fate, reason: str = "not on the allow-list") -> PlaceSeen:
    return PlaceSeen("level page tag 315", fate, reason, "Aaaa")


@pytest.mark.parametrize(
    ("look", "verdict"),
    [
        (CleanLook("aperio-svs", same=True, places=(place("dropped"),)), "clean"),
        (CleanLook("aperio-svs"), "clean"),
        (CleanLook("aperio-svs", places=(place("rewritten", "written anew from structure"), place("kept"))), "clean"),
        (CleanLook("aperio-svs", places=(place("rewritten", "its picture is blank"),)), "suspect"),
        (CleanLook("aperio-svs", places=(place("unknown"),)), "suspect"),
        (CleanLook("aperio-svs", removed=1), "suspect"),
        (CleanLook("", code="structure-invalid", what="it ends early"), "refused"),
    ],
)  # fmt: skip
def test_only_what_would_lose_nothing_is_clean(look: CleanLook, verdict: str) -> None:
    assert judge_clean(look, "slide_1.svs", trust_names=False).verdict == verdict


@pytest.mark.parametrize(
    ("key", "clean"),
    [
        ("slide_1.svs", True), (f"slides/{NUMBER}/1/{NUMBER}.svs", True), ("batch2024/IM0001.tif", True),
        ("7f3b2c1d-aaaa-4bbb-8ccc-0123456789ab.svs", True), ("9" * 64 + ".svs", True),
        ("S24-771001.svs", False), ("Quincy/slide_1.svs", False), ("48213311.svs", False),
        (f"{NUMBER[:-1]}{'0' if NUMBER[-1] != '0' else '1'}.svs", False),
    ],
)  # fmt: skip
def test_a_name_is_judged_like_the_file(key: str, clean: bool) -> None:
    """A number of ours or a random name says nothing; what could be an accession number waits for who knows it."""
    judged = judge_clean(CleanLook("aperio-svs", same=True), key, trust_names=False)
    assert (judged.verdict == "clean") is clean
    assert not any(word in repr(judged.reasons) for word in ("771001", "Quincy", "48213311"))
    assert judge_clean(CleanLook("aperio-svs", same=True), key, trust_names=True).verdict == "clean"


def test_the_reasons_of_one_file_are_bounded() -> None:
    look = CleanLook("aperio-svs", places=tuple(place("unknown", f"r{at}") for at in range(PLACES_MAX * 2)))
    assert len(judge_clean(look, "Quincy.svs", trust_names=False).reasons) == PLACES_MAX
