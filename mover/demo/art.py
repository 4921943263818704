"""The pictures around a slide: label with names and barcode, macro of the whole glass, thumbnail.

They are made to be read: a person (or an OCR engine) finds the patient's name in the label and in
the macro, and a barcode reader finds the case number. That is what must be gone afterwards.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mover.demo.plan import Case, Pack
from mover.demo.texture import Pixels

LABEL = (387, 463)
MACRO = (1280, 431)

# Code 39: nine bars and spaces per character, w(ide) or n(arrow).
_CODE39 = {
    "0": "nnnwwnwnn", "1": "wnnwnnnnw", "2": "nnwwnnnnw", "3": "wnwwnnnnn", "4": "nnnwwnnnw",
    "5": "wnnwwnnnn", "6": "nnwwwnnnn", "7": "nnnwnnwnw", "8": "wnnwnnwnn", "9": "nnwwnnwnn",
    "A": "wnnnnwnnw", "B": "nnwnnwnnw", "C": "wnwnnwnnn", "D": "nnnnwwnnw", "E": "wnnnwwnnn",
    "F": "nnwnwwnnn", "G": "nnnnnwwnw", "H": "wnnnnwwnn", "I": "nnwnnwwnn", "J": "nnnnwwwnn",
    "K": "wnnnnnnww", "L": "nnwnnnnww", "M": "wnwnnnnwn", "N": "nnnnwnnww", "O": "wnnnwnnwn",
    "P": "nnwnwnnwn", "Q": "nnnnnnwww", "R": "wnnnnnwwn", "S": "nnwnnnwwn", "T": "nnnnwnwwn",
    "U": "wwnnnnnnw", "V": "nwwnnnnnw", "W": "wwwnnnnnn", "X": "nwnnwnnnw", "Y": "wwnnwnnnn",
    "Z": "nwwnwnnnn", "-": "nwnnnnwnw", " ": "nwwnnnwnn", "*": "nwnnwnwnn",
}  # fmt: skip


def barcode_text(pack: Pack) -> str:
    return f"{pack.case}-{pack.block}"


def draw_label(pack: Pack, case: Case) -> Image.Image:
    picture = Image.new("RGB", LABEL, (250, 249, 244))
    pen = ImageDraw.Draw(picture)
    lines = [
        (case.person.name, 24),
        (f"MRN {case.person.mrn}", 26),
        (f"DOB {case.person.born:%m/%d/%Y}", 26),
        (pack.case, 38),
        (f"{pack.block}   {pack.stain}", 30),
        (case.pathologist, 22),
    ]
    y = 14
    for text, size in lines:
        pen.text((16, y), text, fill=(12, 12, 20), font=ImageFont.load_default(size))
        y += size + 14
    _draw_code39(pen, barcode_text(pack), left=14, top=y + 10, width=LABEL[0] - 28, height=96)
    return picture


def draw_macro(pack: Pack, case: Case, overview: Pixels) -> Image.Image:
    """The whole glass: label turned at the left, tissue at the right, operator's pencil at the rim."""
    picture = Image.new("RGB", MACRO, (206, 208, 212))
    label = draw_label(pack, case).resize((330, 395), Image.Resampling.BILINEAR)
    picture.paste(label, (12, 18))
    tissue = Image.fromarray(overview)
    tissue.thumbnail((780, 380), Image.Resampling.BILINEAR)
    picture.paste(tissue, (400 + (840 - tissue.width) // 2, (MACRO[1] - tissue.height) // 2))
    pen = ImageDraw.Draw(picture)
    pen.text((900, 402), f"{pack.operator} {pack.serial}", fill=(40, 40, 46), font=ImageFont.load_default(20))
    return picture


def draw_thumbnail(overview: Pixels, *, box: tuple[int, int] = (1024, 768)) -> Image.Image:
    picture = Image.fromarray(overview)
    picture.thumbnail(box, Image.Resampling.BILINEAR)
    return picture


def as_pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture.convert("RGB"))


def _draw_code39(pen: ImageDraw.ImageDraw, text: str, *, left: int, top: int, width: int, height: int) -> None:
    modules: list[tuple[bool, int]] = []
    for character in f"*{text}*":
        for place, wide in enumerate(_CODE39[character]):
            modules.append((place % 2 == 0, 3 if wide == "w" else 1))
        modules.append((False, 1))
    unit = max(1, width // sum(size for _, size in modules))
    x = left
    for dark, size in modules:
        if dark:
            pen.rectangle((x, top, x + size * unit - 1, top + height), fill=(0, 0, 0))
        x += size * unit
