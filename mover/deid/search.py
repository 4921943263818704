"""Search bytes for what was removed, in every form it could have kept.

A removed string may survive as itself, folded, in another encoding, reversed, as hexadecimal, base64, percent or
XML escapes, as its digits alone, or inside a compressed payload. `Seeker` knows the forms of all harvested
strings; `find` answers how many strings are found, never which: a value has no business in an error.
"""

from __future__ import annotations

import base64
import re
import unicodedata
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from typing import Final
from urllib.parse import quote
from xml.sax.saxutils import escape

import numpy as np

from mover.errors import RedactionUnproven

PAYLOADS: Final = 100_000
PAYLOAD_BYTES: Final = 4 << 20
PAYLOADS_BYTES: Final = 64 << 20
_DEPTH: Final = 3
_SHORTEST: Final = 5
_SHORTEST_CODED: Final = 6
_TABLE_BITS: Final = 22
_FEW: Final = 4096
_WIDE: Final = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


class Seeker:
    """All forms of all strings, ready to be sought in many haystacks."""

    def __init__(self, strings: Iterable[str], *, around: Iterable[str] = ()) -> None:
        """`around` are words (folded) that rightly stand in the haystacks: a string that is a part of one is sought
        everywhere but inside it."""
        self.strings = tuple(strings)
        words = tuple(around)
        parts = {text for text in self.strings if any(text.casefold() in word for word in words)}
        # short forms first: most haystacks are shorter than most forms
        self._plain = sorted(
            {form for text in self.strings if text not in parts for form in plain_forms(text)}, key=_by_length
        )
        self._partial = sorted({form for text in parts for form in plain_forms(text)} - set(self._plain))
        self._words = re.compile(rb"(?<![a-z0-9])(?:%s)(?![a-z0-9])" % b"|".join(_escaped(words)))
        self._coded = sorted({form for text in self.strings for form in coded_forms(text)}, key=_by_length)
        self._lengths = [len(form) for form in self._plain], [len(form) for form in self._coded]

    @cached_property
    def _windows(self) -> tuple[np.ndarray, np.ndarray]:
        """A table of a long haystack's four-byte windows rules most forms out before the real search."""
        return _windows_in(self._plain), _windows_in([form.lower() for form in self._coded])

    @property
    def forms(self) -> int:
        return len(self._plain) + len(self._partial) + len(self._coded)

    def find(self, haystack: bytes) -> int:
        """How many forms occur in these bytes or in a payload packed inside them."""
        return sum(self._find_flat(layer) + self._find_partial(layer) for layer in (haystack, *payloads(haystack)))

    def forms_in(self, haystack: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Each form that occurs, with the layer it occurs in as it was sought there: for who has to judge a hit."""
        for layer in (haystack, *payloads(haystack)):
            folded = layer.lower()
            yield from ((form, folded) for form in chain(self._plain, self._partial) if form in folded)
            yield from ((form, layer) for form in self._coded if form in layer)

    def _find_flat(self, haystack: bytes) -> int:
        folded = haystack.lower()
        if len(haystack) < 1 << 16 and self.forms < _FEW:
            fits = [bisect_right(lengths, len(haystack)) for lengths in self._lengths]
            found = sum(form in folded for form in self._plain[: fits[0]])
            return found + sum(form in haystack for form in self._coded[: fits[1]])
        table = _windows_of(folded)
        plain, coded = (np.flatnonzero(table[windows].all(axis=1)).tolist() for windows in self._windows)
        return sum(self._plain[one] in folded for one in plain) + sum(self._coded[one] in haystack for one in coded)

    def _find_partial(self, haystack: bytes) -> int:
        if not self._partial:
            return 0
        rest = self._words.sub(b"\0", haystack.lower())
        return sum(form in rest for form in self._partial)


def _escaped(words: tuple[str, ...]) -> list[bytes]:
    return [re.escape(word.encode()) for word in sorted(words, key=len, reverse=True)]


def _by_length(form: bytes) -> tuple[int, bytes]:
    return len(form), form


def plain_forms(text: str) -> Iterator[bytes]:
    """Forms sought without regard to case; haystacks are lowered byte by byte, so these are too."""
    shapes = {text, fold_accents(text), text.replace(" ", "_"), text.replace(" ", ""), text.replace("_", " ")}
    shapes |= {escape(text, {"'": "&apos;", '"': "&quot;"}), escape(text, {"'": "&#39;"})}
    digits = "".join(character for character in text if character.isdigit())
    if len(digits) >= 8 and len(digits) >= len(text) - 4:
        shapes.add(digits)
    for shape in shapes:
        for cased in {shape, shape.lower(), shape.upper(), shape.casefold()}:
            for codec in ("utf-8", "latin-1", "cp1252", "cp1250", "mac-roman"):
                form = cased.encode(codec, "ignore").lower()
                if len(form) >= max(_SHORTEST, len(cased) - 1):
                    yield form


def coded_forms(text: str) -> Iterator[bytes]:
    """Forms sought exactly as they are."""
    for cased in {text, text.lower(), text.upper(), fold_accents(text)}:
        raw = cased.encode("utf-8", "surrogatepass")
        wide = [cased.encode(codec, "surrogatepass") for codec in _WIDE]
        forms = [*wide, raw.hex().encode(), raw.hex().upper().encode()]
        forms += [quote(raw).encode(), quote(raw).lower().encode()]
        if len(cased) >= 6:
            forms.append(cased[::-1].encode("utf-8", "surrogatepass"))
        for body in (raw, *wide[:2]):
            forms += base64_forms(body)
        yield from (form for form in forms if len(form) >= _SHORTEST_CODED and form != raw)


def base64_forms(raw: bytes) -> Iterator[bytes]:
    """What of a base64 text depends on `raw` alone, for each of the three ways it can lie in it."""
    for lead in range(3):
        encoded = base64.b64encode(bytes(lead) + raw).rstrip(b"=")
        whole = (len(raw) + lead) % 3 == 0
        core = encoded[(0, 2, 3)[lead] : len(encoded) if whole else -1]
        yield core
        yield core.translate(bytes.maketrans(b"+/", b"-_"))


def fold_accents(text: str) -> str:
    for letter, plain in (("ł", "l"), ("Ł", "L"), ("ø", "o"), ("Ø", "O"), ("ß", "ss"), ("æ", "ae"), ("đ", "d")):
        text = text.replace(letter, plain)
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def payloads(data: bytes, depth: int = _DEPTH) -> Iterator[bytes]:
    """What zlib, gzip and base64 runs inside these bytes unpack to, a few layers deep.

    Raises RedactionUnproven when there is more of it than can be looked into."""
    if not depth:
        return
    for inner in _unpacked(data):
        yield inner
        yield from payloads(inner, depth - 1)


def _unpacked(data: bytes) -> Iterator[bytes]:
    found, unpacked_bytes = 0, 0
    for inner in chain(_inflated(data), _from_base64(data)):
        found, unpacked_bytes = found + 1, unpacked_bytes + len(inner)
        if found > PAYLOADS or unpacked_bytes > PAYLOADS_BYTES:
            raise RedactionUnproven("more packed payloads than can be looked into")
        yield inner


def _inflated(data: bytes) -> Iterator[bytes]:
    for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", data):
        inner = _inflate(data[match.start() : match.start() + PAYLOAD_BYTES])
        if len(inner) > 8:
            yield inner


def _from_base64(data: bytes) -> Iterator[bytes]:
    for match in re.finditer(rb"[A-Za-z0-9+/_-]{16,}", data):
        run = match.group().translate(bytes.maketrans(b"-_", b"+/"))
        yield base64.b64decode(run[: len(run) // 4 * 4])


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(47).decompress(data, PAYLOAD_BYTES)
    except zlib.error:
        return b""


def _windows_in(forms: list[bytes]) -> np.ndarray:
    """Eight windows of each form, spread over it; every form is at least as long as one."""
    joined = b"".join(forms)
    ends = np.cumsum([len(form) for form in forms], dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    last = (ends - starts - 4).clip(0)
    spread = starts[:, None] + last[:, None] * np.arange(8) // 7
    return _hashes(joined + bytes(4))[spread] if forms else np.zeros((0, 8), np.uint32)


def _windows_of(data: bytes) -> np.ndarray:
    table = np.zeros(1 << _TABLE_BITS, bool)
    for start in range(0, len(data), 1 << 22):
        table[_hashes(data[start : start + (1 << 22) + 3])] = True
    return table


def _hashes(data: bytes) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8).astype(np.uint32)
    words = raw[:-3] | raw[1:-2] << 8 | raw[2:-1] << 16 | raw[3:] << 24
    return (words * np.uint32(2654435761)) >> np.uint32(32 - _TABLE_BITS)
