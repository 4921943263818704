"""A colour profile keeps its colour; of its words only colour management's own stay."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from mover.decide.redaction import icc
from mover.deid.secondlook import colour
from mover.errors import IdentityError, PlaceUnknown, RedactionUnproven
from tests.support import slides

PLAIN = slides.icc()
SECRET = "Quincy-Oster MRN60338241"


def with_tag(signature: bytes, body: bytes, profile: bytes = PLAIN) -> bytes:
    """The same profile with one tag more: the others move by one entry of the table."""
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = []
    for index in range(count):
        name, at, size = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        entries.append(struct.pack(">4sII", name, at + 12, size))
    rest = profile[132 + 12 * count :]
    rest += bytes(-len(rest) % 4)
    at = 144 + 12 * count + len(rest)
    entries.append(struct.pack(">4sII", signature, at, len(body)))
    whole = profile[4:128] + struct.pack(">I", count + 1) + b"".join(entries) + rest + body
    return struct.pack(">I", len(whole) + 4) + whole


def described(words: str, wide: str = "", script: bytes = b"") -> bytes:
    text = words.encode() + b"\0"
    body = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text
    body += struct.pack(">II", 0, len(wide)) + wide.encode("utf-16-be")
    return body + struct.pack(">HB", 0, len(script)) + script.ljust(67, b"\0")


def several(*texts: str) -> bytes:
    wide = [text.encode("utf-16-be") for text in texts]
    at = 16 + 12 * len(wide)
    table = b""
    for one in wide:
        table += b"enUS" + struct.pack(">II", len(one), at)
        at += len(one)
    return b"mluc\0\0\0\0" + struct.pack(">II", len(wide), 12) + table + b"".join(wide)


KNOWN = [
    "sRGB IEC61966-2.1", "Copyright (c) 1998 Hewlett-Packard Company", "IEC http".replace(" http", ""),
    "Reference Viewing Condition in IEC61966-2.1", "Copyright 1999 Adobe Systems Incorporated", "Adobe RGB (1998)",
    "No copyright, use freely", "ScanScope v1", "GT450 v1.0.1", "Display P3", "Aperio ScanScope AT2 RGB", "NanoZoomer",
    "Generic RGB Profile", "Copyright Apple Inc., 2017", "D65 adapted",
]  # fmt: skip
TEXTS = {
    "text": lambda words: b"text\0\0\0\0" + words.encode() + b"\0",
    "desc": described,
    "desc wide": lambda words: described("sRGB", words),
    "desc script": lambda words: described("sRGB", "", words.encode()[:60]),
    "mluc": several,
    "mluc second": lambda words: several("sRGB", words),
    "profile sequence": lambda words: b"pseq\0\0\0\0" + struct.pack(">I", 1) + bytes(20) + described(words) * 2,
    "named colours": lambda words: b"ncl2\0\0\0\0" + struct.pack(">III", 0, 1, 0) + words.encode().ljust(96, b"\0"),
    "dictionary": lambda words: b"dict\0\0\0\0" + words.encode("utf-16-be"),
    "data": lambda words: b"data\0\0\0\0\0\0\0\0" + words.encode(),
    "numbers in disguise": lambda words: b"ui08\0\0\0\0" + words.encode(),
    "XYZ in disguise": lambda words: b"XYZ \0\0\0\0" + words.encode()[:24].ljust(24),
    "a curve with a pocket": lambda words: b"curv\0\0\0\0\0\0\0\0" + words.encode(),
    "a private type": lambda words: b"quin\0\0\0\0" + words.encode(),
}


@pytest.mark.parametrize("words", KNOWN)
@pytest.mark.parametrize("kind", ["text", "desc", "mluc"])
def test_a_profile_of_known_words_is_kept_byte_for_byte(kind: str, words: str) -> None:
    """Equal profiles are how people see that colour was not touched."""
    profile = with_tag(b"tst1", TEXTS[kind](words))
    assert icc.clean_icc(profile) == (profile, [])
    colour.check(profile)


@pytest.mark.parametrize("kind", TEXTS)
def test_words_of_nobodys_list_are_gone_in_every_type_of_tag(kind: str) -> None:
    profile = with_tag(b"tst1", TEXTS[kind](SECRET))
    cleaned, texts = icc.clean_icc(profile)
    assert len(cleaned) == len(profile)
    for codec in ("utf-8", "utf-16-be"):
        assert SECRET.encode(codec) not in cleaned and b"MRN60338241" not in cleaned
    assert any(SECRET[:20] in text or SECRET.encode("utf-16-be").decode("latin-1") in text for text in texts)
    colour.check(cleaned)


def test_the_colour_is_the_same_when_words_are_gone() -> None:
    """What the profile is for: pixels come out as before."""
    profile = with_tag(b"dmnd", described(SECRET), with_tag(b"vued", several(SECRET)))
    cleaned, _ = icc.clean_icc(profile)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    pixels = Image.fromarray(slides.tissue(64, 64))
    shown = [
        ImageCms.applyTransform(
            pixels, ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(one)), lab, "RGB", "LAB")
        ).tobytes()
        for one in (profile, cleaned)
    ]  # fmt: skip
    assert shown[0] == shown[1]


POCKETS = {
    "the header's reserved end": lambda: PLAIN[:100] + SECRET.encode() + PLAIN[100 + len(SECRET) :],
    "behind the end": lambda: PLAIN + SECRET.encode(),
    "between tags": lambda: between(),
}


def between() -> bytes:
    """Two tags with room between them that no tag claims."""
    profile = bytearray(with_tag(b"tst1", b"text\0\0\0\0" + SECRET.encode() + b"\0"))
    (count,) = struct.unpack_from(">I", profile, 128)
    struct.pack_into(">I", profile, 132 + 12 * (count - 1) + 8, 8)
    return bytes(profile)


@pytest.mark.parametrize("pocket", POCKETS)
def test_bytes_that_no_tag_claims_are_zeros_afterwards(pocket: str) -> None:
    cleaned, texts = icc.clean_icc(POCKETS[pocket]())
    assert SECRET.encode() not in cleaned
    assert any(SECRET in text for text in texts)


@pytest.mark.parametrize(
    "words",
    ["Quincy", "scanned 11:22:33", "04/03/2024", "2024.03.04", "a@b.example", "12 34 56", "60338241", "Dr. House"],
)
def test_what_could_be_a_name_a_date_or_a_number_is_not_known(words: str) -> None:
    assert not icc.is_known(words)


def test_a_known_word_that_was_removed_elsewhere_goes_too() -> None:
    """A name of the patient that happens to be on the list."""
    profile = with_tag(b"tst1", described("Leica scanner"))
    cleaned, texts = icc.clean_icc(profile, ["leica"])
    assert b"Leica" not in cleaned and texts == ["Leica scanner"]


@pytest.mark.parametrize(
    "damage", [lambda p: p[:-9], lambda p: p[:100], lambda p: p[:128] + b"\xff" * 8, lambda p: b""]
)
def test_a_profile_that_is_not_whole_is_refused(damage: object) -> None:
    with pytest.raises(PlaceUnknown):
        icc.clean_icc(damage(PLAIN))  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, len(PLAIN) - 1), value=st.binary(min_size=1, max_size=12))
def test_a_damaged_profile_is_cleaned_or_refused_and_cleaning_it_again_changes_nothing(at: int, value: bytes) -> None:
    profile = bytearray(PLAIN)
    profile[at : at + len(value)] = value
    try:
        cleaned, _ = icc.clean_icc(bytes(profile))
    except IdentityError:
        return
    assert icc.clean_icc(cleaned) == (cleaned, [])


@pytest.mark.parametrize("words", ["taken 2024-03-04", "60338241", "a@b.example", "11 22 33"])
def test_the_second_look_reads_the_profile_with_another_library(words: str) -> None:
    with pytest.raises(RedactionUnproven):
        colour.check(with_tag(b"dmnd", described(words)))
    with pytest.raises(RedactionUnproven):
        colour.check(PLAIN[:60])
