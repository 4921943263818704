"""The search must find a removed string in every dress, and must say how many, never which."""

from __future__ import annotations

import base64
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mover.deid.search import Seeker, base64_forms, payloads

NAME = "Grünwald-Øster 60338241"

DRESSES = {
    "as it is": NAME.encode(),
    "latin-1": NAME.encode("latin-1"),
    "upper case": NAME.upper().encode(),
    "folded": b"grunwald-oster 60338241",
    "underscores": NAME.replace(" ", "_").encode(),
    "no spaces": NAME.replace(" ", "").encode(),
    "utf-16": NAME.encode("utf-16-le"),
    "utf-16 big": NAME.encode("utf-16-be"),
    "hex": NAME.encode().hex().encode(),
    "HEX": NAME.encode().hex().upper().encode(),
    "reversed": NAME[::-1].encode(),
    "percent": b"Gr%C3%BCnwald-%C3%98ster%2060338241",
    "base64 0": base64.b64encode(NAME.encode()),
    "base64 1": base64.b64encode(b"x" + NAME.encode() + b"tail"),
    "base64 2": base64.b64encode(b"xy" + NAME.encode() + b"tail"),
    "base64 url": base64.urlsafe_b64encode(NAME.encode()),
    "base64 of utf-16": base64.b64encode(NAME.encode("utf-16-le")),
    "deflated": zlib.compress(b"some words before " * 9 + NAME.encode()),
    "deflated in base64": base64.b64encode(zlib.compress(b"words before it " * 9 + NAME.encode())),
}


@pytest.mark.parametrize("dress", DRESSES)
@pytest.mark.parametrize("around", [0, 200_000], ids=["small", "large"])
def test_a_string_is_found_in_every_dress(dress: str, around: int) -> None:
    """Small haystacks are searched directly, large ones through the table of windows: both must find it."""
    padding = bytes(range(256)) * (around // 256)
    assert Seeker([NAME]).find(b"\x01\x02 " + padding + DRESSES[dress] + b" \x03" + padding) > 0


def test_digits_alone_are_found_when_there_are_eight() -> None:
    assert Seeker(["603-38-2417"]).find(b"id 603382417 end")


def test_xml_escapes_are_found() -> None:
    assert Seeker(["O'Hara & Sons"]).find(b"<a>O&apos;Hara &amp; Sons</a>")


def test_what_is_not_there_is_not_found() -> None:
    assert Seeker([NAME, "771001"]).find(bytes(range(256)) * 4000) == 0


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=5, max_size=40), st.integers(0, 9)
)
def test_any_text_is_found_as_itself_and_in_base64(words: str, lead: int) -> None:
    """Whatever somebody is called, wherever it falls in the base64 text."""
    seeker = Seeker([words])
    assert seeker.find(b"\x00" + words.encode() + b"\x00") > 0
    assert seeker.find(base64.b64encode(b"\x01" * lead + words.encode() + b"\x01\x02\x03")) > 0


@given(st.binary(min_size=6, max_size=30), st.integers(0, 2), st.binary(max_size=5))
def test_base64_forms_do_not_depend_on_what_surrounds_them(secret: bytes, lead: int, tail: bytes) -> None:
    encoded = base64.b64encode(bytes(lead) + secret + tail)
    assert any(form in encoded for form in base64_forms(secret))


def test_payloads_are_bounded_by_layers() -> None:
    """A bomb of boxes in boxes ends after three."""
    data = b"words in the middle of it all"
    for _ in range(6):
        data = zlib.compress(data + bytes(64))
    assert len(list(payloads(data))) <= 3


@pytest.mark.parametrize("text", [b"Hamamatsu Matsu", b"Hamamatsu", b"make=HAMAMATSU\0", b"Hamamatsus", b"xmatsu"])
def test_a_part_of_a_listed_word_is_sought_everywhere_but_inside_it(text: bytes) -> None:
    """Ms Matsu's slides pass although Hamamatsu made them; her name beside it does not."""
    rest = text.lower().replace(b"hamamatsu", b"", 1) if not text.endswith(b"s") else text.lower()
    found = Seeker(["Matsu"], around=["hamamatsu"]).find(text)
    assert bool(found) == (b"matsu" in rest)


def test_what_holds_a_listed_word_is_sought_as_ever() -> None:
    """An identifier may begin with a maker's name."""
    seeker = Seeker(["Matsu", "Hamamatsu-771001"], around=["hamamatsu"])
    assert seeker.find(b"id Hamamatsu-771001") and seeker.find(zlib.compress(b"of  Matsu, the daughter"))
