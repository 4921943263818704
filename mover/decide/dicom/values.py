"""What becomes of one value: dates that move, numbers and words of an allowed form, text of a machine.

Pure functions over a value's bytes. They return the new bytes, or None where the value may not stay. None of them
uses `\\d`, which knows every script's digits.
"""

from __future__ import annotations

import re
import struct
from datetime import date, timedelta
from typing import Final

_DATE: Final = re.compile(rb"([0-9]{4})([.]?)(0[1-9]|1[0-2])\2([0-3][0-9])")
_MOMENT: Final = re.compile(rb"([0-9]{8})([0-9]{0,6}(?:\.[0-9]{1,6})?)?([+-][0-9]{4})?")
_TIME: Final = re.compile(rb"([0-2][0-9])(?::?([0-5][0-9])(?::?([0-5][0-9]|60)(?:\.([0-9]{1,6}))?)?)?")
_MEASURE: Final = re.compile(rb" *[-+]?[0-9]{0,16}(\.[0-9]{0,20})?([eE][-+]?[0-9]{1,3})? *")
_WORD: Final = re.compile(rb" *[A-Z0-9_ ]{0,16} *")
_PLAIN: Final = re.compile(rb"[A-Za-z0-9 ._+/()\-:,=#%*&<>;'\"\[\]^@!?|~$]{0,64}")
_TERM: Final = re.compile(rb"[A-Za-z0-9 ._+/()\-:,=#%*]{0,32}")
_OPEN: Final = re.compile(rb"[A-Za-z0-9_ /+.\-]{0,16}")
_NOT_MADE: Final = re.compile(rb"[\^@]|[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{2,4}")
_LONG_NUMBER: Final = re.compile(rb"[0-9]{5}")
_AGE: Final = re.compile(rb"([0-9]{3})([DWMY]) *")
SECONDS_A_DAY: Final = 86400


def parts(raw: bytes) -> list[bytes]:
    return raw.split(b"\\")


def even(value: bytes, pad: bytes = b" ") -> bytes:
    return value + pad if len(value) % 2 else value


def shift_dates(raw: bytes, days: int) -> bytes | None:
    """DA, also the old form with dots, moved; values that are no dates are left out."""
    return _joined(_shifted(one.strip(b" \0"), days) for one in parts(raw))


def _shifted(one: bytes, days: int) -> bytes | None:
    match = _DATE.fullmatch(one)
    if not match:
        return None
    try:
        moved = date(int(match[1]), int(match[3]), int(match[4])) + timedelta(days=days)
    except (ValueError, OverflowError):
        return None
    return b"%04d%02d%02d" % (moved.year, moved.month, moved.day)


def shift_moments(raw: bytes, days: int, origin_s: int | None) -> bytes | None:
    """DT: the date moves; the time goes, or is counted from `origin_s` of its day where that is given."""
    return _joined(_moment(one.strip(b" \0"), days, origin_s) for one in parts(raw))


def _moment(one: bytes, days: int, origin_s: int | None) -> bytes | None:
    match = _MOMENT.fullmatch(one)
    if not match:
        return None
    day = _shifted(match[1], days)
    clock = rebase_times(match[2], origin_s) if match[2] and origin_s is not None else None
    if day is None or clock is None:
        return day
    if clock < match[2].split(b".")[0]:
        return day + clock
    earlier = _shifted(match[1], days - 1)  # before the origin: the counted time is of the day before
    return earlier + clock if earlier else day


def rebase_times(raw: bytes, origin_s: int | None) -> bytes | None:
    """TM counted from the study's own time, so that intervals stay and the hour of the day does not."""
    if origin_s is None:
        return None
    return _joined(_rebased(one.strip(b" \0"), origin_s) for one in parts(raw))


def _rebased(one: bytes, origin_s: int) -> bytes | None:
    seconds = seconds_of(one)
    if seconds is None:
        return None
    left = (seconds - origin_s) % SECONDS_A_DAY
    fraction = one.split(b".")[1] if b"." in one else b""
    clock = b"%02d%02d%02d" % (left // 3600, left // 60 % 60, left % 60)
    return clock + b"." + fraction if fraction else clock


def seconds_of(one: bytes) -> int | None:
    match = _TIME.fullmatch(one)
    if not match or int(match[1]) > 23:
        return None
    return int(match[1]) * 3600 + int(match[2] or 0) * 60 + min(59, int(match[3] or 0))


def _joined(values: object) -> bytes | None:
    kept = [one for one in values if one is not None]  # type: ignore[attr-defined]
    return even(b"\\".join(kept)) if kept else None


def measure(raw: bytes) -> bytes | None:
    """DS and IS: numbers and nothing else. A value without a number in it says nothing and stays, too."""
    if len(raw) <= 4096 or raw.count(b"\\") > 16:
        return raw if all(_MEASURE.fullmatch(one.rstrip(b"\0")) for one in parts(raw)) else None
    return raw if all(_MEASURE.fullmatch(one.rstrip(b"\0")) for one in parts(raw)) else None


def word(raw: bytes) -> bytes | None:
    """CS of the standard's repertoire; a run of five digits is no word."""
    fine = all(_WORD.fullmatch(one.rstrip(b"\0")) for one in parts(raw))
    return raw if fine and not _LONG_NUMBER.search(raw) else None


def plain(raw: bytes) -> bytes | None:
    """Printable ASCII of at most 64 characters a value: for what makers write and everybody needs unchanged."""
    return raw if all(_PLAIN.fullmatch(one.rstrip(b" \0")) for one in parts(raw)) else None


def open_word(raw: bytes) -> bytes | None:
    """CS (PS3.5 6.2) where makers add values of their own: at most 16 characters each, no long number."""
    fine = all(_OPEN.fullmatch(one.rstrip(b" \0")) for one in parts(raw))
    return raw if fine and not _LONG_NUMBER.search(raw) else None


def maker(raw: bytes) -> bytes | None:
    """What a maker calls itself and its models: plain, without a long number, a date or a person's marks."""
    kept = plain(raw)
    return None if kept is None or _LONG_NUMBER.search(kept) or _NOT_MADE.search(kept) else kept


def term(raw: bytes) -> bytes | None:
    fine = all(_TERM.fullmatch(one.rstrip(b" \0")) for one in parts(raw))
    return raw if fine and not _LONG_NUMBER.search(raw) else None


def age(raw: bytes) -> bytes | None:
    """AS: above 89 everybody is 90 (45 CFR 164.514(b)(2))."""
    match = _AGE.fullmatch(raw)
    if not match:
        return None
    return b"090Y" if match[2] == b"Y" and int(match[1]) > 89 else raw


_BINARY: Final = {"SL": "i", "UL": "I", "SV": "q", "UV": "Q", "FL": "f", "FD": "d", "US": "H", "SS": "h"}
_SIZES: Final = {"SL": 4, "UL": 4, "SV": 8, "UV": 8, "FL": 4, "FD": 8, "US": 2, "SS": 2, "AT": 4}


def whole(kind: str, raw: bytes) -> bool:
    """Whether a binary value is made of whole numbers of its kind."""
    return len(raw) % _SIZES.get(kind, 1) == 0


def numbers_of(kind: str, raw: bytes, *, big: bool) -> list[str]:
    """A short binary value as the digits a person would write."""
    size = _SIZES[kind]
    if kind == "AT" or not raw or len(raw) % size:
        return []
    values = struct.unpack(("> " if big else "< ").strip() + f"{len(raw) // size}{_BINARY[kind]}", raw)
    return [f"{one:.17g}".lstrip("-") if isinstance(one, float) else str(abs(one)) for one in values]
