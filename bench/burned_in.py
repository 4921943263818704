"""How much burned-in text is found and blanked, and how often a picture without any is touched.

    .venv/bin/python -m bench.burned_in [--pictures FOLDER] [--rounds 3] [--out bench/results/burned_in.json]

Words, numbers and dates of invented people are drawn into radiology pictures of FOLDER (DICOM files; by default the
test files that pydicom ships) and into synthetic slices: several heights, greys, faces, corners, smooth and not.
The whole of `judge_pixels` is then run, and a word counts as *hidden* when nine tenths of its ink were blanked, and
as *readable* when the recogniser still spells it, or when the place still looks like the word (correlation above
one half). Pictures without any planted word tell of false alarms. One JSON document comes out.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mover.deid.pixels import Box, PixelFacts, PixelVerdict, Span, judge_pixels, reader
from mover.errors import MoverError
from mover.model.deid import PixelRules
from mover.model.recipe import Copy
from mover.model.source import MemorySource

HEIGHTS = (7, 8, 10, 12, 14, 20, 28)
GREYS = (1.0, 0.66, 0.4, 0.0)  # of the picture's range
FACES = ("", "DejaVuSans.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif.ttf")
TURNS = (0, 0, 0, 0, 0, 1, 2, 3)  # quarter turns of the writing: rarely any
LEAST_CONTRAST = 0.18  # of the range; fainter words are not planted, nobody would read them
SMALLEST = 64  # pictures below this many pixels a side carry no line
CLASSES_WITH_TEXT = ("US", "IVUS")  # pictures that carry real text: no ground for planting or false alarms
NAMES = "Harrowgate Pellinore Quintessa Vasquelle Drummond Isolde Brackenbury Zimmermann Ogilvie Tarkington".split()


def pictures(folder: Path) -> Iterator[tuple[str, Any]]:
    """One-channel pictures of a folder's objects, the first frame of each, and a few synthetic slices."""
    import pydicom

    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from tests.support.dicoms import anatomy

    seen: set[bytes] = set()
    for path in sorted(folder.glob("*.dcm")):
        try:
            dataset = pydicom.dcmread(path, force=True)
            if dataset.get("Modality", "") in CLASSES_WITH_TEXT or "PixelData" not in dataset:
                continue
            samples = dataset.pixel_array
        except (RuntimeError, ValueError, AttributeError, TypeError, KeyError, NotImplementedError, OSError):
            continue
        if int(dataset.get("NumberOfFrames", 1) or 1) > 1:
            samples = samples[0]
        if samples.ndim != 2 or min(samples.shape) < SMALLEST or samples.dtype.kind not in "iu":
            continue
        if (
            str(dataset.get("Modality")) in ("SEG", "RTDOSE", "OT")
            or dataset.PhotometricInterpretation != "MONOCHROME2"
        ):
            continue
        key = np.ascontiguousarray(samples[::7, ::7]).tobytes()
        if key not in seen:
            seen.add(key)
            yield path.stem, samples
    for seed, (rows, columns) in enumerate(((128, 128), (256, 256), (320, 480), (512, 512), (700, 600), (1024, 1024))):
        yield f"synthetic-{rows}x{columns}", (anatomy(rows, columns, seed=seed) * 2000).astype(np.int16)


def facts_of(samples: Any) -> tuple[MemorySource, PixelFacts]:
    little = np.ascontiguousarray(samples).astype(samples.dtype.newbyteorder("<"))
    bits = little.dtype.itemsize * 8
    facts = PixelFacts(
        rows=samples.shape[0],
        columns=samples.shape[1],
        frames=((Span(0, little.nbytes),),),
        transfer_syntax="1.2.840.10008.1.2.1",
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        bits_allocated=bits,
        bits_stored=bits,
        signed=little.dtype.kind == "i",
        modality="CT",
    )
    return MemorySource(little.tobytes()), facts


class Word:
    def __init__(self, text: str, box: Box, ink: Any) -> None:
        self.text, self.box, self.ink = text, box, ink


def planted(samples: Any, rng: random.Random, *, height: int, grey: float) -> tuple[Any, list[Word]]:
    """Up to three words in a corner or anywhere, in one face; those of too little contrast are left out."""
    turns = rng.choice(TURNS)
    canvas = np.rot90(samples, turns).astype(np.float64)
    low, high = float(samples.min()), float(samples.max())
    value = low + grey * (high - low)
    font = face_of(rng.choice(FACES), height)
    texts = [rng.choice(NAMES), str(rng.randint(10**6, 10**8)), f"{rng.randint(1930, 2024)}-{rng.randint(10, 12)}-17"]
    pen = ImageDraw.Draw(Image.new("L", canvas.shape[::-1]))
    widest = max(int(pen.textlength(text, font=font)) for text in texts)
    pitch, smooth = round(height * 1.35), rng.random() < 0.6
    left = rng.choice([3, max(3, canvas.shape[1] - widest - 4), rng.randint(0, max(0, canvas.shape[1] - widest - 1))])
    top = rng.choice([3, max(3, canvas.shape[0] - 3 * pitch - 4), rng.randint(0, max(0, canvas.shape[0] - 3 * pitch))])
    words: list[tuple[str, Any]] = []
    for line, text in enumerate(texts):
        sheet = Image.new("L", canvas.shape[::-1])
        draw = ImageDraw.Draw(sheet)
        draw.fontmode = "L" if smooth else "1"
        draw.text((left, top + line * pitch), text, fill=255, font=font)
        ink = np.asarray(sheet, np.float64) / 255
        if not fits(ink, canvas, value, high - low):
            continue
        canvas = canvas * (1 - ink) + value * ink
        words.append((text, ink))
    back = [(text, np.rot90(ink, -turns)) for text, ink in words]
    out = np.rot90(np.round(canvas), -turns).astype(samples.dtype)
    return np.ascontiguousarray(out), [Word(text, box_of(ink), ink > 0.5) for text, ink in back]


def fits(ink: Any, canvas: Any, value: float, span: float) -> bool:
    on = ink > 0.5
    if on.sum() < 20 or on[-1].any() or on[:, -1].any():
        return False
    around = np.abs(canvas[box_slices(box_of(ink))] - value)
    return bool(np.median(around) >= LEAST_CONTRAST * span and np.percentile(around, 25) >= LEAST_CONTRAST * span / 2)


def box_of(ink: Any) -> Box:
    rows, columns = np.nonzero((ink > 0.2).any(axis=1))[0], np.nonzero((ink > 0.2).any(axis=0))[0]
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def box_slices(box: Box) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)


def face_of(name: str, height: int) -> Any:
    if name:
        try:
            return ImageFont.truetype(name, height)
        except OSError:
            pass
    return ImageFont.load_default(height)


def outcome(samples: Any, verdict: PixelVerdict, source: MemorySource) -> Any:
    if verdict.segments is None:
        return samples
    value = b"".join(source.read(s.offset, s.length) if isinstance(s, Copy) else s.data for s in verdict.segments)
    return np.frombuffer(value, samples.dtype.newbyteorder("<"), samples.size).reshape(samples.shape)


def still_there(after: Any, boxes: tuple[Box, ...], word: Word) -> tuple[bool, bool]:
    """Whether the word is hidden, and whether it can be read yet."""
    blanked = np.zeros(after.shape, bool)
    for box in boxes:
        blanked[box_slices(box)] = True
    covered = float(blanked[word.ink].mean())
    place = box_slices(word.box)
    return covered >= 0.9, covered < 0.5 or alike(after[place], word.ink[place])


def alike(place: Any, ink: Any) -> bool:
    a, b = place.astype(np.float64) - place.mean(), ink - ink.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return bool(size > 1e-6 and abs((a * b).sum() / size) > 0.5)


def run(folder: Path, rounds: int) -> dict[str, Any]:
    rng = random.Random(20260)
    rules = PixelRules()
    grounds = list(pictures(folder))
    tally: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    refused, shares, missed, alarms = 0, [], [], []
    spent = {"clean": 0.0, "planted": 0.0}
    for name, samples in grounds:
        source, facts = facts_of(samples)
        start = process_time()
        try:
            if judge_pixels(source, facts, rules).masked:
                alarms.append(name)
        except MoverError as error:
            alarms.append(f"{name}: {error.code}")
        spent["clean"] += process_time() - start
    made = 0
    for turn in range(rounds):
        for name, samples in grounds:
            height, grey = HEIGHTS[(turn + made) % len(HEIGHTS)], rng.choice(GREYS)
            before, words = planted(samples, rng, height=height, grey=grey)
            if not words:
                continue
            made += 1
            source, facts = facts_of(before)
            start = process_time()
            try:
                verdict = judge_pixels(source, facts, rules)
            except MoverError:
                refused += 1
                continue
            spent["planted"] += process_time() - start
            after = outcome(before, verdict, source)
            shares.append(float((before != after).mean()))
            for word in words:
                hidden, readable = still_there(after, verdict.boxes, word)
                row = tally[f"{height} px"]
                row["words"] += 1
                row["hidden"] += hidden
                row["readable"] += readable
                if not hidden:
                    missed.append([name, height, grey, word.text, "readable" if readable else "rest"])
    words = sum(row["words"] for row in tally.values())
    return {
        "detector": reader.NAME,
        "pictures": len(grounds),
        "planted_pictures": made,
        "words": words,
        "hidden": sum(row["hidden"] for row in tally.values()) / max(1, words),
        "readable": sum(row["readable"] for row in tally.values()) / max(1, words),
        "refused_pictures": refused,
        "false_alarms": alarms,
        "by_height": {key: dict(row) for key, row in sorted(tally.items(), key=lambda item: int(item[0].split()[0]))},
        "changed_share_median": float(np.median(shares)) if shares else 0.0,
        "changed_share_worst": max(shares, default=0.0),
        "cpu_s_per_clean_picture": spent["clean"] / max(1, len(grounds)),
        "cpu_s_per_planted_picture": spent["planted"] / max(1, made),
        "missed": missed,
    }


def main() -> None:
    import pydicom.data

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    shipped = Path(pydicom.data.__file__).parent / "test_files"
    parser.add_argument("--pictures", type=Path, default=shipped)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    report = json.dumps(run(given.pictures, given.rounds), indent=1)
    print(report)
    if given.out:
        given.out.write_text(report + "\n", "utf-8")


if __name__ == "__main__":
    main()
