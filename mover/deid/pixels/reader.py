"""The eye: where text stands in a grey picture, and whether a place reads as text.

Two small networks of PP-OCR (Apache-2.0), which the package `rapidocr-onnxruntime` ships, run by onnxruntime alone:
the detector draws a map of how likely each pixel is the core of a line of text (Differentiable Binarization), the
recogniser spells one line. The package's own code is not used: it wants OpenCV and a desktop's libraries.

One thread per session: a session without a thread pool survives the fork of the parsing child, so that the zygote
loads the models once (`preload`). Nothing that was spelled ever leaves this module but as a count of characters.
"""

from __future__ import annotations

import importlib.util
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec import Struct
from PIL import Image

from mover.deid.pixels.words import Box
from mover.errors import TextReaderMissing

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME: Final = "PP-OCRv4"
PACKAGE: Final = "rapidocr_onnxruntime"
DETECTOR: Final = "ch_PP-OCRv4_det_infer.onnx"
RECOGNISER: Final = "ch_PP-OCRv4_rec_infer.onnx"

CORE: Final = 0.3  # a pixel of the map belongs to a line's core from here on
UNCLIP: Final = 1.7  # cores are drawn smaller than the line by this ratio of area to outline
LINE_PX: Final = 48  # what the recogniser wants a line's height to be
MAX_LINE_PX: Final = 1280  # and the widest line it is given
MAX_PLACES: Final = 400  # of one look; a picture with more is no picture with a few lines of text


class Place(Struct, frozen=True):
    """Where the detector saw text, in the pixels of the picture it was shown."""

    box: Box
    score: float


class Reading(Struct, frozen=True):
    """What the recogniser made of one place: how many letters and digits, and how sure it was."""

    characters: int
    confidence: float


def available() -> bool:
    return _folder() is not None and importlib.util.find_spec("onnxruntime") is not None


def preload() -> None:
    """Load both models now; for the zygote, before it forks. Without the extra this does nothing."""
    if available():
        _session(DETECTOR)
        _session(RECOGNISER)


def detect(picture: NDArray[np.uint8]) -> list[Place]:
    """Lines of text in a picture, grey or in colours, whose sides are multiples of 32."""
    heat = _session(DETECTOR).run(None, {"x": _normal(picture)})[0][0, 0]
    return _places(heat)


def read(line: NDArray[np.uint8]) -> Reading:
    """How a place reads, upright. Letters and digits of any script count, all else does not."""
    height, width = line.shape[:2]
    wide = max(16, min(MAX_LINE_PX, round(width * LINE_PX / height)))
    scaled = np.asarray(Image.fromarray(line).resize((wide, LINE_PX), Image.Resampling.BILINEAR))
    chances = _session(RECOGNISER).run(None, {"x": _normal(scaled)})[0][0]
    return _spell(chances)


def _normal(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    plane = picture.astype(np.float32) * (2 / 255) - 1
    if plane.ndim == 3:  # the networks were taught with blue first
        return np.ascontiguousarray(plane[:, :, ::-1].transpose(2, 0, 1)[None])
    return np.ascontiguousarray(np.broadcast_to(plane, (1, 3, *plane.shape)))


def _places(heat: NDArray[np.float32]) -> list[Place]:
    found = []
    for box in _components(heat > CORE)[:MAX_PLACES]:
        core = heat[box.top : box.bottom, box.left : box.right]
        score = float(core[core > CORE].mean())
        wide, high = box.right - box.left, box.bottom - box.top
        grow = wide * high * UNCLIP / (2 * (wide + high))
        found.append(Place(_grown(box, grow, heat.shape), score))
    return found


def _grown(box: Box, by: float, shape: tuple[int, ...]) -> Box:
    step = int(np.ceil(by))
    return Box(
        max(0, box.left - step),
        max(0, box.top - step),
        min(shape[1], box.right + step),
        min(shape[0], box.bottom + step),
    )


def _components(mask: NDArray[np.bool_]) -> list[Box]:
    """Bounding boxes of 8-connected areas, by runs per row and a union of those that touch; largest first."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    parent = list(range(len(rows)))

    def root(one: int) -> int:
        while parent[one] != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    first = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    runs = list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))
    for row in range(1, mask.shape[0]):
        above, here = int(first[row - 1]), int(first[row])
        last_above, last = here, int(first[row + 1])
        while above < last_above and here < last:
            if runs[above][1] <= runs[here][2] and runs[here][1] <= runs[above][2]:
                parent[root(here)] = root(above)
            if runs[above][2] < runs[here][2]:
                above += 1
            else:
                here += 1
    boxes: dict[int, Box] = {}
    for one, (row, start, stop) in enumerate(runs):
        key = root(one)
        old = boxes.get(key)
        boxes[key] = (
            Box(start, row, stop, row + 1)
            if old is None
            else Box(min(old.left, start), old.top, max(old.right, stop), row + 1)
        )
    return sorted(boxes.values(), key=lambda box: -box.area)


def _spell(chances: NDArray[np.float32]) -> Reading:
    """Greedy CTC: class 0 is the blank, the last one the space; a repeat counts once."""
    best = chances.argmax(axis=1)
    kept = (best != 0) & (np.diff(best, prepend=-1) != 0)
    letters = [i for i in np.nonzero(kept)[0].tolist() if _alphabet()[int(best[i])].isalnum()]
    if not letters:
        return Reading(0, 0.0)
    return Reading(len(letters), float(chances[letters, best[letters]].mean()))


@lru_cache(maxsize=1)
def _alphabet() -> tuple[str, ...]:
    """The recogniser's classes, which stand in the model file itself."""
    lines = _session(RECOGNISER).get_modelmeta().custom_metadata_map["character"].splitlines()
    return ("", *lines, " ")


@lru_cache(maxsize=2)
def _session(model: str) -> Any:
    folder = _folder()
    if folder is None or importlib.util.find_spec("onnxruntime") is None:
        raise TextReaderMissing("a picture that may carry text has nobody to read it")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(os.path.join(folder, model), options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=1)
def _folder() -> str | None:
    """Where the package keeps its models; found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    return os.path.join(places[0], "models") if places else None
