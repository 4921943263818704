"""ICC profiles: the colour is kept, words are kept only where they are colour management's own.

A profile is kept byte for byte when every text in it is made of known words: names of standards, of makers and of
colour spaces, versions, years of copyright. Otherwise the texts that are not are overwritten by blanks of the same
length, so that every other byte, and so the colour, stays where it was (PS3.15 code D). Layouts that can hold text and
that no reader needs (profile sequences, named colours, dictionaries, private types) are taken out of the tag table.

Types by ICC.1:2022 section 10, and ICC.1:2001 for `desc`, `ncl2`, `data`, `scrn` and the like.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from mover.errors import PlaceUnknown

HEADER_BYTES: Final = 128
TAGS: Final = 128
RECORDS: Final = 256

# Lengths of the types that hold numbers: (fixed part, size of a repeated one), None where a list's own lengths say.
_NUMBERS: Final[dict[bytes, tuple[int, int] | None]] = {
    b"XYZ ": (8, 12), b"curv": (12, 2), b"para": (12, 4), b"sf32": (8, 4), b"uf32": (8, 4), b"ui08": None,
    b"ui16": None, b"ui32": None, b"mft1": None, b"mft2": None, b"mAB ": None, b"mBA ": None, b"chrm": (12, 8),
    b"meas": (36, 0), b"view": (36, 0), b"sig ": (12, 0), b"cicp": (12, 0), b"dtim": (20, 0), b"vcgt": None,
}  # fmt: skip
# Short numbers: a run of letters among them is text in disguise.
_PLAIN: Final = frozenset({b"XYZ ", b"para", b"sf32", b"uf32", b"ui08", b"ui16", b"ui32", b"chrm", b"vcgt"})
_TEXTS: Final = frozenset({b"desc", b"text", b"mluc"})

# fmt: off
_WORDS: Final = frozenset("""
    a abstract adapted adaptation adobe agfa akoya all and aperio apple applied argyll artifex as at at2 axio axioscan
    balance based basiccolor basic biosystems black blackpoint blue bradford brightfield bt bt709 built by c cam cameras
    canon cc cc0 characterization chromaticity cie cielab cmyk color colorimetric colormatch colorspace colour
    company compensation compliant computer condition conditions consortium copyright corp corporation cs cs2
    d50 d55 d65 dci default description device diagnostics digital display displayp3 distribute domain dp200 dp600 dot
    dx eastman ebu eci equivalent european epson embedded encoding facebook film flat fluorescence for free from fuji
    gain gamma generated generic gimp gmbh google gray graphics grayscale green grey greyscale gt gt450 hamamatsu
    hewlett hewlett-packard hp huron hdtv icc iec image imaging in inc incorporated initiative input intent
    international is it itu kg kgaa kodak lab lab/xyz lcd lcms leica license light linear little littlecms ltd
    limited m macbeth made management matrix medical media metamorphosis micro microscope microscopy microsystems
    microsoft mirax monitor motic n/a nanozoomer no none ntsc observer of olympus or output p3 packard pal pannoramic
    pathology perceptual perkinelmer permission philips photonics photo point primaries profile prophoto public r
    reading rec rec709 red reference relative rendering reserved rgb rights roche romm s2 saturation scan scanner
    scanners scanscope scope sensor simplified smpte software space srgb standard systems tech the thorlabs to toyo
    transmitted transparent ufs ultra undefined unknown use used v v2 v4 ventana versa version view viewing vision
    white whitepoint wide widegamut with x x-rite xrite xyz zeiss 3dhistech
    freely fast
""".split())
# fmt: on
_TOKENS: Final = re.compile(
    r"v?[0-9]{1,2}(\.[0-9]{1,3}){0,3}"  # versions and small numbers
    r"|(19|20)[0-9]{2}(-(19|20)[0-9]{2})?"  # years of copyright
    r"|(iec)?61966([-.]2([-.]1)?)?|icc\.1:[0-9]{4}(-[0-9]{2})?|bt\.?[0-9]{3,4}|rec\.?[0-9]{3,4}"
    r"|srgb[-_ ]?(iec)?61966[-_.]2[-_.]1|adobe ?rgb|d[0-9]{2}|c[0-9]{4,5}(-[0-9]{2})?|vs[0-9]{2,3}"
)
# Dates, times and numbers that no list of words makes harmless.
_SUSPECT: Final = re.compile(
    r"[0-9]{5,}|@|[0-9]{4}[-/.:][0-9]{1,2}[-/.:][0-9]{1,2}|[0-9]{1,2}[-/.:][0-9]{1,2}[-/.:][0-9]{2,4}"
    r"|[0-9]{1,2}:[0-9]{2}|\b[0-9]+[\s,;]+[0-9]"
)
_STANDARDS: Final = re.compile(
    r"IEC ?61966[-.]2[-.]1|ICC\.1:[0-9]{4}(-[0-9]{2})?|\bv?[0-9]{1,2}(\.[0-9]{1,3}){1,3}", re.I
)
_BETWEEN: Final = re.compile(r"[\s,;:()\[\]/\"'|+&*©®™_]+")


class _Tag(Struct, frozen=True):
    at: int
    size: int
    signature: bytes


def clean_icc(profile: bytes, removed: Iterable[str] = ()) -> tuple[bytes, list[str]]:
    """The profile as it may pass, and the texts that may not. Equal bytes come back where every text is known and
    repeats nothing of `removed` (folded strings).

    Raises PlaceUnknown for a profile that is not whole: its tag table must lie inside it, and no two tags share bytes
    but as a whole."""
    tags = read_tags(profile)
    folded = tuple(removed)
    out = bytearray(profile[: struct.unpack_from(">I", profile)[0]])
    gone: list[str] = []
    keep: list[bytes] = []
    for index, tag in enumerate(tags):
        entry = profile[132 + 12 * index : 144 + 12 * index]
        kind = profile[tag.at : tag.at + 4]
        if kind in _TEXTS:
            bad = [text for text in texts_of(profile, tag) if not is_known(text) or _repeats(text, folded)]
            if bad or not _is_tidy(profile, tag):
                out[tag.at : tag.at + tag.size] = _blank(profile, tag)
            gone += bad
            keep.append(entry)
        elif _is_numbers(profile, tag):
            keep.append(entry)
        else:
            out[tag.at : tag.at + tag.size] = bytes(tag.size)
            gone.append(profile[tag.at + 8 : tag.at + tag.size].decode("latin-1"))
    _write_table(out, keep, len(tags))
    gone += _clear_pockets(out, tags)
    if bytes(out) != profile:
        out[84:100] = bytes(16)  # the profile's own digest, which no longer holds
        gone.append(profile[len(out) :].decode("latin-1"))
    return bytes(out), [text for text in gone if text.strip("\0 ")]


def known_texts(profile: bytes) -> list[str]:
    """The texts that may pass."""
    texts = (text for tag in read_tags(profile) if profile[tag.at : tag.at + 4] in _TEXTS
             for text in texts_of(profile, tag))  # fmt: skip
    return [text for text in texts if is_known(text)]


def read_tags(profile: bytes) -> list[_Tag]:
    if len(profile) < 132 or profile[36:40] != b"acsp":
        raise PlaceUnknown("an ICC profile that is not whole")
    (size,) = struct.unpack_from(">I", profile)
    (count,) = struct.unpack_from(">I", profile, HEADER_BYTES)
    if not 132 <= size <= len(profile) or count > TAGS or 132 + 12 * count > size:
        raise PlaceUnknown("an ICC profile that is not whole")
    tags = []
    for index in range(count):
        signature, at, length = struct.unpack_from(">4sII", profile, 132 + 12 * index)
        if at < 132 + 12 * count or length < 8 or at + length > size:
            raise PlaceUnknown("an ICC profile with a tag outside itself")
        tags.append(_Tag(at, length, signature))
    spans = sorted({(tag.at, tag.at + tag.size) for tag in tags})
    if any(start < end for (_, end), (start, _) in zip(spans, spans[1:], strict=False)):
        raise PlaceUnknown("an ICC profile whose tags overlap")
    return tags


def texts_of(profile: bytes, tag: _Tag) -> list[str]:
    """What a text tag says. Whatever its lengths claim, all its bytes are read."""
    body = profile[tag.at : tag.at + tag.size]
    if body[:4] == b"text":
        return [body[8:].decode("latin-1").strip("\0")]
    if body[:4] == b"desc":
        return _described(body)
    texts = []
    for at, length in _records(body):
        texts.append(body[at : at + length].decode("utf-16-be", "replace").strip("\0"))
    return texts


def _described(body: bytes) -> list[str]:
    """ICC.1:2001 6.5.17: ASCII, then UTF-16, then 67 bytes of a Macintosh script."""
    ascii_bytes = int.from_bytes(body[8:12], "big")
    text = body[12 : 12 + ascii_bytes]
    at = 12 + len(text)
    wide_units = int.from_bytes(body[at + 4 : at + 8], "big")
    wide = body[at + 8 : at + 8 + 2 * wide_units]
    at += 8 + len(wide)
    script = body[at + 3 : at + 70]
    texts = [text.decode("latin-1"), wide.decode("utf-16-be", "replace"), script.decode("latin-1"),
             body[at + 70 :].decode("latin-1")]  # fmt: skip
    return [text.strip("\0") for text in texts if text.strip("\0 ")]


def _records(body: bytes) -> list[tuple[int, int]]:
    """mluc (ICC.1:2022 10.15): where each language's text lies, within the tag."""
    count, size = struct.unpack_from(">II", body.ljust(16, b"\0"), 8)
    if count > RECORDS or size != 12 or 16 + 12 * count > len(body):
        raise PlaceUnknown("an ICC profile whose texts have an impossible table")
    found = []
    for index in range(count):
        length, at = struct.unpack_from(">II", body, 20 + 12 * index)
        if at < 16 + 12 * count or at + length > len(body):
            raise PlaceUnknown("an ICC profile with a text outside its tag")
        found.append((at, length))
    return found


def _is_tidy(profile: bytes, tag: _Tag) -> bool:
    """Whether a text tag's other bytes are zeros: nothing between its texts, nothing reserved in use."""
    body = profile[tag.at : tag.at + tag.size]
    if any(body[4:8]):
        return False
    if body[:4] != b"mluc":
        return True
    rest = bytearray(body)
    for at, length in _records(body):
        rest[at : at + length] = bytes(length)
    count = int.from_bytes(body[8:12], "big")
    codes = [body[16 + 12 * index : 20 + 12 * index] for index in range(count)]
    return not any(rest[16 + 12 * count :]) and all(re.fullmatch(rb"[a-z]{2}([A-Z]{2}|\0\0)|\0{4}", c) for c in codes)


def _blank(profile: bytes, tag: _Tag) -> bytes:
    """A text tag of the same size and type that says nothing."""
    kind, room = profile[tag.at : tag.at + 4], tag.size
    if kind == b"text":
        return (b"text\0\0\0\0" + b" " * max(0, room - 9)).ljust(room, b"\0")[:room]
    if kind == b"desc":
        letters = max(1, min(int.from_bytes(profile[tag.at + 8 : tag.at + 12], "big"), room - 90))
        blank = b"desc\0\0\0\0" + struct.pack(">I", letters) + b" " * (letters - 1) + bytes(1)
        return blank.ljust(room, b"\0")[:room]
    if room < 30:
        return (b"mluc" + struct.pack(">III", 0, 0, 12)).ljust(room, b"\0")[:room]
    letters = (room - 28) // 2
    head = b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", 2 * letters, 28)
    return (head + " ".encode("utf-16-be") * letters).ljust(room, b"\0")


def _is_numbers(profile: bytes, tag: _Tag) -> bool:
    """A type that holds numbers, exactly as long as its numbers, with nothing in its reserved bytes."""
    kind = profile[tag.at : tag.at + 4]
    if kind not in _NUMBERS or any(profile[tag.at + 4 : tag.at + 8]):
        return False
    if kind in _PLAIN and re.search(rb"[\x20-\x7e]{5,}", profile[tag.at + 8 : tag.at + tag.size]):
        return False
    length = _NUMBERS[kind]
    if length is None:
        return True
    fixed, each = length
    rest = tag.size - fixed
    if kind == b"curv":
        (count,) = struct.unpack_from(">I", profile[tag.at : tag.at + tag.size].ljust(12, b"\0"), 8)
        return 0 <= rest - 2 * count <= 3 and not any(profile[tag.at + 12 + 2 * count : tag.at + tag.size])
    return rest == 0 if not each else rest >= 0 and rest % each == 0


def _write_table(out: bytearray, keep: list[bytes], before: int) -> None:
    """The tag table without what was taken out; the room that is left is zero."""
    table = struct.pack(">I", len(keep)) + b"".join(keep)
    out[HEADER_BYTES : HEADER_BYTES + 4 + 12 * before] = table.ljust(4 + 12 * before, b"\0")


def _clear_pockets(out: bytearray, tags: list[_Tag]) -> list[str]:
    """Zeros for the header's reserved end and for every byte between tags; what stood there."""
    spans = sorted({(tag.at, tag.at + tag.size) for tag in tags})
    starts = [132 + 12 * len(tags), *(end for _, end in spans)]
    ends = [*(start for start, _ in spans), len(out)]
    found = []
    for start, end in [(100, HEADER_BYTES), *zip(starts, ends, strict=True)]:
        if any(out[start:end]):
            found.append(out[start:end].decode("latin-1"))
            out[start:end] = bytes(end - start)
    return found


def is_known(text: str) -> bool:
    """Whether every word of a text is colour management's own."""
    if _SUSPECT.search(_STANDARDS.sub(" ", text)):
        return False
    return all(_is_known_word(word.strip(".-!?")) for word in _BETWEEN.split(text.strip("\0").casefold()))


def unknown_words(text: str) -> list[str]:
    """What of a text says anything: its words but those of colour management."""
    return [word for word in _BETWEEN.split(text) if not _is_known_word(word.strip(".-!?\0").casefold())]


def _is_known_word(word: str) -> bool:
    if not word or word in _WORDS or _TOKENS.fullmatch(word) is not None:
        return True
    return "-" in word and all(part in _WORDS for part in word.split("-"))


def _repeats(text: str, removed: tuple[str, ...]) -> bool:
    folded = text.casefold()
    return any(item in folded for item in removed)
