"""Take a key file apart: sections in brackets, `key = value` lines, comments.

Two readers must agree about it: GLib (OpenSlide) and Windows profile calls (the scanners' own programs). Nothing is
judged here, and nothing is lost: what is no key is kept as `rest`, so that it can be sought in the output.
"""

from __future__ import annotations

import codecs
from typing import Final

from mover.errors import StructureInvalid
from mover.model.folders import KeyLine, KeyText

TEXT_BYTES: Final = 1 << 20
LINES: Final = 100_000
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(data: bytes) -> str:
    """By its mark; without one as UTF-8, else as the Western code page Windows would have used."""
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(codec, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def parse(data: bytes) -> KeyText:
    if len(data) > TEXT_BYTES:
        raise StructureInvalid(f"an index text above {TEXT_BYTES} bytes")
    found: list[KeyLine] = []
    sections: dict[str, None] = {}
    rest: list[str] = []
    section = None
    lines = decode(data).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if len(lines) > LINES:
        raise StructureInvalid(f"an index text of more than {LINES} lines")
    for line in lines:
        bare = line.strip(" \t\0\v\f")
        if not bare:
            continue
        if bare.startswith("[") and bare.endswith("]"):
            section = bare[1:-1]
            sections.setdefault(section)
        elif bare[0] not in "#;" and "=" in bare and section is not None:
            key, _, value = bare.partition("=")
            found.append(KeyLine(section, key.strip(), value.strip()))
        else:
            rest.append(bare)
    values = {(line.section, line.key): line.value for line in found}
    return KeyText(tuple(found), tuple(sections), tuple(rest), values)


def number(text: KeyText, section: str, key: str, low: int, high: int, default: int | None = None) -> int:
    """A key that must hold one whole number of this range."""
    value = text.get(section, key)
    if value is None and default is not None:
        return default
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 12:
        raise StructureInvalid("a key the picture needs is no whole number")
    if not low <= int(value) <= high:
        raise StructureInvalid("a key the picture needs is out of its range")
    return int(value)
