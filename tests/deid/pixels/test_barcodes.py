"""A barcode is an identifier in bars: found in every kind and direction, masked like text, never taken for anatomy."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import zxingcpp
from PIL import Image

from mover.deid.deidentify import SLIDE_LIMITS
from mover.deid.dicom import ObjectSurvey, PreparedObject, prepare_objects, survey_objects
from mover.deid.pixels import judge_pixels, reader
from mover.deid.pixels.barcodes import find_barcodes
from mover.model.deid import DicomRules, PixelRules
from mover.sandbox import Sandbox
from tests.deid.dicom.support import aliases_of
from tests.support.dicoms import Order, plant
from tests.support.pixelfacts import applied, facts_of
from tests.support.slides import run_recipe

KINDS = [zxingcpp.Code128, zxingcpp.Code39, zxingcpp.QRCode, zxingcpp.DataMatrix, zxingcpp.PDF417, zxingcpp.Aztec]
needs_eyes = pytest.mark.skipif(not reader.available(), reason="no package with the networks is installed")


def code(kind: Any = zxingcpp.Code128, text: str = "ACC77100112") -> np.ndarray:
    made = np.asarray(zxingcpp.create_barcode(text, kind).to_image(scale=2))
    return made if made.ndim == 2 else np.ascontiguousarray(made[:, :, 0])


def noise(shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(90, 12, shape).clip(0, 255).astype(np.uint8)


def covered(boxes: Any, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("colours", [False, True], ids=["grey", "colours"])
def test_a_code_is_found_whole_in_every_direction(kind: Any, turns: int, colours: bool) -> None:
    """A strip of bars that stays can still be read: the box holds every dark module."""
    bars = code(kind)
    picture, ink = noise((300, 500)), np.zeros((300, 500), bool)
    picture[60 : 60 + bars.shape[0], 70 : 70 + bars.shape[1]] = bars
    ink[60 : 60 + bars.shape[0], 70 : 70 + bars.shape[1]] = bars < 128
    picture, ink = np.ascontiguousarray(np.rot90(picture, turns)), np.rot90(ink, turns)
    shown = np.repeat(picture[:, :, None], 3, 2) if colours else picture
    hidden = covered(find_barcodes(shown), picture.shape)
    assert (hidden & ink).sum() > 0.9 * ink.sum()
    picture[hidden] = 90
    assert not find_barcodes(picture)


@pytest.mark.parametrize(
    ("kind", "degrees"), [(kind, 5) for kind in KINDS] + [(zxingcpp.QRCode, 30), (zxingcpp.DataMatrix, 30)]
)
def test_a_code_may_lie_as_aslant_as_the_docs_say(kind: Any, degrees: int) -> None:
    """A page lies in a scanner a little beside; a square code is stuck on anyhow."""
    bars = Image.fromarray(np.kron(code(kind), np.ones((2, 2), np.uint8)))
    aslant = bars.rotate(degrees, expand=True, fillcolor=255, resample=Image.Resampling.BICUBIC)
    assert find_barcodes(np.pad(np.asarray(aslant), 40, constant_values=255))


@pytest.mark.parametrize("seed", range(6))
def test_noise_and_stripes_are_no_code(seed: int) -> None:
    """Ribs, grids and speckle: what is masked without need is lost."""
    rng = np.random.default_rng(seed)
    stripes = np.repeat(np.repeat(np.where(rng.random((1, 120)) > 0.5, 220, 30), 3, 1), 200, 0)
    squares = np.kron(np.where(rng.random((50, 60)) > 0.5, 220, 30), np.ones((4, 4)))
    for picture in (noise((256, 256), seed), stripes + rng.normal(0, 6, stripes.shape), squares):
        assert not find_barcodes(np.clip(picture, 0, 255).astype(np.uint8))


def with_code() -> bytes:
    """A capture of a screen with a code on it and no letter."""
    data = plant(Order("SC", seed=5, rows=200, columns=400)).data
    dataset = pydicom.dcmread(io.BytesIO(data))
    bars, picture = code(), dataset.pixel_array.copy()
    picture[40 : 40 + bars.shape[0], 50 : 50 + bars.shape[1]] = bars[..., None] if picture.ndim == 3 else bars
    pixels = picture.tobytes()
    assert data.count(dataset.PixelData) == 1 and len(pixels) == len(dataset.PixelData)
    return data.replace(dataset.PixelData, pixels)


def grey_of(dataset: Any) -> np.ndarray:
    picture = dataset.pixel_array
    return picture if picture.ndim == 2 else np.ascontiguousarray(picture[:, :, 0])


@pytest.mark.slow
@needs_eyes
def test_a_code_in_an_object_is_blanked_and_the_rest_stays() -> None:
    dataset = pydicom.dcmread(io.BytesIO(with_code()))
    source, facts = facts_of(dataset)
    verdict = judge_pixels(source, facts, PixelRules())
    after = applied(source, verdict, dataset).pixel_array
    mask = covered(verdict.boxes, after.shape[:2])
    assert verdict.masked and "zxing" in verdict.detector and mask.mean() < 0.6
    assert np.array_equal(after[~mask], dataset.pixel_array[~mask])
    assert zxingcpp.read_barcodes(grey_of(dataset)) and not find_barcodes(after)


@pytest.mark.slow
@needs_eyes
def test_codes_are_read_behind_the_fences_of_the_parsing_child(tmp_path: Path) -> None:
    """A library that starts threads or opens files late would end the child there, and the batch with it."""
    (tmp_path / "in.dcm").write_bytes(with_code())
    fd = os.open(tmp_path / "in.dcm", os.O_RDONLY)
    try:
        with Sandbox(("mover.deid.dicom.child",), limits=SLIDE_LIMITS) as sandbox:
            [seen] = survey_objects(sandbox, [fd])
            assert isinstance(seen, ObjectSurvey)
            [made] = prepare_objects(
                sandbox, [fd], aliases=aliases_of(seen), rules=DicomRules(), pixels=PixelRules()
            )  # fmt: skip
    finally:
        os.close(fd)
    assert isinstance(made, PreparedObject)
    out = pydicom.dcmread(io.BytesIO(run_recipe((tmp_path / "in.dcm").read_bytes(), made.plan.recipe.segments)))
    assert not zxingcpp.read_barcodes(grey_of(out))
