"""What of a Hamamatsu NDPI slide may pass."""

from __future__ import annotations

import re
from typing import Final

from mover.decide.redaction.desk import STRUCTURAL, Check, Desk, OutTag, among, black_white, decimal, within
from mover.model.slides import Page, Place

_NANOMETRES: Final = within(-200_000_000, 200_000_000)
_HAMAMATSU: Final[dict[int, tuple[int, Check]]] = {
    **{code: rule for code, rule in STRUCTURAL.items() if code not in (254, 317, 347, 532, 32997, 34675)},
    278: (4, within(1, 1 << 31)),  # RowsPerStrip
    532: (4, black_white),
    65420: (3, among(1)),  # format flag
    65421: (11, within(0.001, 200)),  # SourceLens
    65422: (9, _NANOMETRES),  # offset from the glass's centre
    65423: (9, _NANOMETRES),
    65424: (9, _NANOMETRES),  # focal plane
    65435: (4, within(0, 99)),  # colour multipliers
    65436: (4, within(0, 99)),
    65437: (4, within(0, 99)),
    65438: (4, within(0, 99)),
    65441: (4, within(0, 99)),  # CaptureMode: tells readers how samples are stored
    65444: (4, within(1, 100)),  # JpegQuality
    65451: (11, within(0, 2000)),  # emission wavelength
}

_VENDOR_NUMBERS: Final = frozenset(range(65420, 65500))

_HAMAMATSU_TEXT: Final[dict[int, re.Pattern[bytes]]] = {
    271: re.compile(rb"Hamamatsu\0?"),
    272: re.compile(rb"(C\d{4,5}(-\d{2})?|NanoZoomer [A-Z0-9]{1,5})\0?"),
    305: re.compile(rb"NDP\.scan( U\d{1,2})? \d{1,2}(\.\d{1,3}){1,3}\0?"),
}


_NDPI_KEYS: Final[dict[str, re.Pattern[str]]] = {
    "Product": re.compile(r"C[0-9]{4,5}(-[0-9]{2})?"),
    "system.version": re.compile(r"[0-9]{1,2}(\.[0-9]{1,3}){0,2}"),
    "Objective.Lens.Magnificant": decimal(3),
    "ccd.width": re.compile(r"[0-9]{1,5}"),
    "ccd.height": re.compile(r"[0-9]{1,5}"),
    "target.white.intensity": re.compile(r"[0-9]{1,3}"),
    "variable.exposuretime": re.compile(r"[0-9]{1,2}"),
    "cube.kind": re.compile(r"[0-9]{1,2}"),
    "colorfilterID": re.compile(r"[0-9]{1,2}"),
}


class HamamatsuDesk(Desk):
    rules = _HAMAMATSU
    keys = {65449: _NDPI_KEYS}

    def judge_own(self, page: Page, place: Place) -> bool:
        if place.tag not in _HAMAMATSU_TEXT:
            return False
        value = place.value
        if isinstance(value, bytes) and _HAMAMATSU_TEXT[place.tag].fullmatch(value):
            self.tags[page.index].append(OutTag(place.tag, 2, value.rstrip(b"\0") + b"\0"))
            self.note(place.name, "keep", "K", "a model or program name of the known form", "")
        else:
            self.note(place.name, "drop", "X", "listed, but the value is outside its type", value)
            self.remove(value)
        return True

    def text_rule(self, tag: int) -> re.Pattern[str] | None:
        rule = _HAMAMATSU_TEXT.get(tag)
        return re.compile(rule.pattern.decode(), re.ASCII) if rule else None

    def harvests(self, place: Place) -> bool:
        """Some of a vendor's numbers repeat positions that are kept."""
        return place.tag not in _VENDOR_NUMBERS

    def describe(self, page: Page, kept: dict[str, str], header: str) -> OutTag | None:
        if not kept:
            return None
        return OutTag(65449, 2, "".join(f"{key}={text}\r\n" for key, text in kept.items()).encode() + b"\0")
