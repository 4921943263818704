"""Identifiers at random tags, depths, representations and encodings are never found in an output.

The writer of these files follows no rule: names as UTF-16 in a table of doubles, numbers in base64 as a code's
meaning, anything behind the dataset. An object either comes out without them or not at all.
"""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import DicomDictionary

from mover.deid.search import Seeker
from mover.errors import MoverError
from tests.deid.dicom.raw import BIG, EXPLICIT, IMPLICIT, Pen, ct, part10
from tests.deid.dicom.support import prepare

NAMES = ["Quarringtonova", "Müllenbächer", "Łukasiewicz", "Иваненко", "山田太郎兵衛"]
NUMBERS = ["88413377", "A17-553201"]
CLASSES = [f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "4", "88.33", "77.1.6", "481.3", "66.4", "20", "128")]
STANDARD = [
    tag for tag, entry in DicomDictionary.items() if entry[0] and tag >> 16 not in (0, 2, 4, 0x28, 0xFFFE, 0x7FE0)
]
PRIVATE = [group << 16 | number for group in (9, 0x19, 0x6001, 0x6000, 0x5000) for number in (0x1001, 0x1010, 0x3000)]
OWN = {0x00080005, 0x00080016, 0x00080018, 0x00100010, 0x00100020, 0x0020000D, 0x0020000E}
BINARY = frozenset("US SS UL SL FL FD OF OD OL AT SV UV OV".split())
ENCODINGS = [
    lambda text: text.encode(), lambda text: text.encode("utf-16-le"), lambda text: text.encode("utf-16-be"),
    lambda text: text.encode().hex().encode(), lambda text: base64.b64encode(text.encode()),
    lambda text: text[::-1].encode(), lambda text: text.upper().encode(), lambda text: quote(text).encode(),
    lambda text: b"XX" + text.encode() + b"YY", lambda text: text.encode() * 3,
    lambda text: text.encode("iso2022_jp", "replace"), lambda text: text.encode("iso8859-5", "replace"),
]  # fmt: skip


@st.composite
def element(draw: st.DrawFn, pen: Pen, words: list[str], depth: int = 0) -> tuple[int, bytes]:
    tag = draw(st.sampled_from(STANDARD) if draw(st.integers(0, 9)) else st.sampled_from(PRIVATE))
    entry = DicomDictionary.get(tag)
    vr = entry[0].split(" or ")[0] if entry else draw(st.sampled_from(["LO", "UT", "OB", "UN"]))
    if vr == "SQ":
        many = draw(st.integers(1, 3)) if depth < 4 else 0
        inside = dict(draw(element(pen, words, depth + 1)) for _ in range(many))
        body = b"".join(inside[one] for one in sorted(inside))
        return tag, pen.sequence(tag, [body], open_end=draw(st.booleans()))
    if not draw(st.integers(0, 9)):
        vr = draw(st.sampled_from(["LO", "UT", "UN", "OB", "SH", "PN"]))
    raw = draw(st.sampled_from(ENCODINGS))(draw(st.sampled_from(words)))
    return tag, pen.element(tag, vr, raw + bytes(-len(raw) % 8) if vr in BINARY else raw)


@st.composite
def planted(draw: st.DrawFn) -> tuple[bytes, list[str]]:
    pen = Pen(draw(st.sampled_from([EXPLICIT, IMPLICIT, BIG])))
    words = [draw(st.sampled_from(NAMES)), draw(st.sampled_from(NUMBERS))]
    sop_class = draw(st.sampled_from(CLASSES))
    elements = ct(pen, name=words[0] + "^Given", number=words[1])
    elements[0x00080016] = pen.element(0x00080016, "UI", sop_class)
    if ".88." in sop_class or ".481." in sop_class:
        elements = {tag: one for tag, one in elements.items() if tag >> 16 not in (0x28, 0x7FE0)}
    for _ in range(draw(st.integers(1, 12))):
        tag, body = draw(element(pen, words))
        if tag not in OWN:
            elements[tag] = body
    hide = draw(st.sampled_from(ENCODINGS))
    preamble = hide(words[0]).ljust(128, b"\0")[:128]
    tail = draw(st.sampled_from([b"", hide(words[1]), pen.element(0xFFFCFFFC, "OB", hide(words[0]))]))
    return part10(elements, syntax=pen.syntax, sop_class=sop_class, preamble=preamble, tail=tail), words


def clean_or_refused(examples: int) -> None:
    came_out: list[bool] = []

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(planted())
    def law(file: tuple[bytes, list[str]]) -> None:
        data, words = file
        try:
            _, out = prepare(data)
        except MoverError:
            came_out.append(False)
            return
        assert not Seeker(words).find(out)
        came_out.append(True)

    law()
    assert sum(came_out) > len(came_out) / 2, "hardly anything was let through to be searched"


def test_planted_identifiers_never_come_out() -> None:
    """The one promise everything else is for."""
    clean_or_refused(60)


@pytest.mark.soak
def test_planted_identifiers_never_come_out_of_thousands() -> None:
    clean_or_refused(5000)
