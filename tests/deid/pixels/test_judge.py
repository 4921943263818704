"""Burned-in text: found in every kind of stored pixel, blanked on every frame, and nothing else touched."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import pydicom
import pytest

from mover.deid.pixels import Box, PixelFacts, judge_pixels, reader
from mover.deid.pixels.policy import outside
from mover.errors import LimitExceeded, MoverError, RedactionUnproven, TextReaderMissing
from mover.model.deid import PixelRules
from tests.support.dicoms import Order, Planted, plant
from tests.support.pixelfacts import applied, facts_of

RULES = PixelRules()
needs_eyes = pytest.mark.skipif(not reader.available(), reason="the extra `ocr` is not installed")


def opened(planted: Planted) -> Any:
    return pydicom.dcmread(io.BytesIO(planted.data))


def judged(order: Order) -> tuple[Planted, Any, Any, Any]:
    """The planted object, its dataset before and after, and the verdict."""
    planted = plant(order)
    dataset = opened(planted)
    source, facts = facts_of(dataset)
    verdict = judge_pixels(source, facts, RULES)
    return planted, dataset, applied(source, verdict, dataset), verdict


def hidden(planted: Planted, verdict: Any) -> bool:
    """Does every word's middle lie in a box, end to end?"""
    for word in planted.burned:
        row = (word.top + word.bottom) // 2
        covered = np.zeros(4096, bool)
        for box in verdict.boxes:
            if box.top <= row < box.bottom:
                covered[box.left : box.right] = True
        if not covered[word.left + 2 : word.right - 2].all():
            return False
    return bool(planted.burned)


@pytest.mark.slow
@needs_eyes
@pytest.mark.parametrize(
    "order",
    [
        Order("CT", seed=1, burned_px=10),
        Order("CT", seed=2, burned_px=12, syntax="big"),
        Order("CR", seed=3, burned_px=14, rows=200, columns=240),
        Order("MR", seed=4, burned_px=10, frames=3, syntax="implicit"),
        Order("SC", seed=5, burned_px=16, rows=160, columns=200, syntax="jpeg", comments=False),
        Order("CT", seed=6, burned_px=10, syntax="jpeg2000"),
        Order("CR", seed=7, burned_px=12, syntax="rle"),
    ],
    ids=lambda order: f"{order.kind}-{order.syntax}-{order.burned_px}",
)
def test_words_are_hidden_and_every_other_pixel_stays(order: Order) -> None:
    """Whatever the depth, byte order and compression: what lies outside the boxes reads as it did."""
    planted, before, after, verdict = judged(order)
    assert hidden(planted, verdict)
    old, new = before.pixel_array, after.pixel_array
    untouched = np.ones(old.shape, bool).reshape(-1, *planted.picture.shape)
    for box in verdict.boxes:
        untouched[:, box.top : box.bottom, box.left : box.right] = False
    assert old.shape == new.shape and np.array_equal(
        old[untouched.reshape(old.shape)], new[untouched.reshape(old.shape)]
    )
    assert untouched.mean() > 0.6


@pytest.mark.slow
@needs_eyes
@pytest.mark.parametrize("kind", ["CT", "MR", "CR", "SC", "THUMBNAIL"])
def test_a_picture_without_text_keeps_every_pixel(kind: Any) -> None:
    """A false alarm destroys anatomy without need."""
    for seed in range(2):
        _, _, _, verdict = judged(Order(kind, seed=seed, burned_px=0))
        assert not verdict.masked and verdict.frames_read == 1


@pytest.mark.slow
@needs_eyes
def test_ultrasound_is_blank_outside_its_regions_and_read_inside() -> None:
    """Names stand in the frame of an ultrasound's screen; the machine itself says where the picture is."""
    planted, before, after, verdict = judged(Order("US", seed=9, rows=180, columns=240, burned_px=14, syntax="jpeg"))
    top = planted.order.rows // 3
    assert Box(0, 0, 240, top) in verdict.boxes and hidden(planted, verdict)
    assert len(np.unique(after.pixel_array[:top].reshape(-1, 3), axis=0)) == 1
    assert after.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1" and after.PhotometricInterpretation == "RGB"


@pytest.mark.slow
@needs_eyes
def test_a_palette_that_shows_ink_and_ground_alike_hides_no_text() -> None:
    """Two numbers in one colour: nobody sees the word on a screen, and everybody finds it in the file."""
    planted = plant(Order("CR", seed=11, burned_px=14, rows=160, columns=200))
    dataset = opened(planted)
    source, facts = facts_of(dataset)
    black = msgspec.structs.replace(facts, photometric="PALETTE COLOR", palettes=(), modality="US")
    assert hidden(planted, judge_pixels(source, black, RULES))


@pytest.mark.slow
@needs_eyes
def test_an_object_that_says_text_is_burned_in_waits_when_none_is_found() -> None:
    """The object knows better than our eyes."""
    dataset = opened(plant(Order("CT", seed=1)))
    source, facts = facts_of(dataset)
    with pytest.raises(RedactionUnproven):
        judge_pixels(source, msgspec.structs.replace(facts, burned_in="YES"), RULES)


@pytest.mark.parametrize(
    ("changed", "rules"),
    [
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.66.4"}, RULES),
        ({"kind": "float"}, RULES),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.77.1.6", "image_type": ("ORIGINAL", "PRIMARY", "VOLUME")}, RULES),
        ({"burned_in": "NO"}, PixelRules(burned_in="trust")),
    ],
)
def test_what_cannot_carry_text_is_not_looked_at(changed: dict[str, Any], rules: PixelRules) -> None:
    source, facts = facts_of(opened(plant(Order("CT", seed=1))))
    verdict = judge_pixels(source, msgspec.structs.replace(facts, **changed), rules)
    assert not verdict.masked and verdict.frames_read == 0


def test_a_profile_that_refuses_pictures_refuses_them() -> None:
    source, facts = facts_of(opened(plant(Order("CT", seed=1))))
    for kind, rules in (("CT", PixelRules(burned_in="refuse")), ("US", PixelRules(ultrasound="refuse"))):
        with pytest.raises(RedactionUnproven):
            judge_pixels(source, msgspec.structs.replace(facts, modality=kind), rules)


def test_without_a_reader_no_picture_that_may_carry_text_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra must refuse, not pass unread (I9)."""
    monkeypatch.setattr(reader, "available", lambda: False)
    source, facts = facts_of(opened(plant(Order("CT", seed=1))))
    with pytest.raises(TextReaderMissing):
        judge_pixels(source, facts, RULES)


@pytest.mark.slow
@needs_eyes
@pytest.mark.parametrize(
    "changed",
    [
        {"rows": 0},
        {"bits_allocated": 12},
        {"bits_stored": 40},
        {"samples": 4},
        {"frames": ()},
        {"rows": 129},
        {"rows": 60000, "columns": 60000},
        {"transfer_syntax": "1.2.840.10008.1.2.4.90"},
        {"transfer_syntax": "1.2.840.10008.1.2.4.102"},
        {"transfer_syntax": "1.2.840.10008.1.2.5"},
        {"bits_allocated": 1, "bits_stored": 1},
    ],
)
def test_impossible_facts_end_in_a_refusal(changed: dict[str, Any]) -> None:
    """Facts come from untrusted bytes: they may lie about everything."""
    source, facts = facts_of(opened(plant(Order("CT", seed=1))))
    with pytest.raises(MoverError) as refusal:
        judge_pixels(source, msgspec.structs.replace(facts, **changed), RULES)
    assert refusal.value.exit_status == 6 or isinstance(refusal.value, LimitExceeded)


def test_outside_and_regions_make_the_whole_picture_without_overlap() -> None:
    """Blanking must neither miss a corner nor touch a region, however regions overlap."""
    rng = np.random.default_rng(3)
    for _ in range(60):
        rows, columns = (int(n) for n in rng.integers(1, 40, 2))
        regions = []
        for _ in range(int(rng.integers(0, 5))):
            x, y = sorted(rng.integers(0, columns + 1, 2)), sorted(rng.integers(0, rows + 1, 2))
            regions.append(Box(int(x[0]), int(y[0]), int(x[1]), int(y[1])))
        count = np.zeros((rows, columns), int)
        for box in outside(regions, rows, columns):
            count[box.top : box.bottom, box.left : box.right] += 1
        inside = np.zeros((rows, columns), bool)
        for box in regions:
            inside[box.top : box.bottom, box.left : box.right] = True
        assert np.array_equal(count == 1, ~inside) and count.max() <= 1


def test_facts_are_plain_values() -> None:
    """They are made by the walker in the child; nothing of the file but numbers crosses."""
    facts = PixelFacts(rows=1, columns=1, frames=(), transfer_syntax="", sop_class="")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(facts), type=PixelFacts) == facts
