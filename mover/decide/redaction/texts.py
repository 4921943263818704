"""Strings of removed values, and the masked shapes of them that people may see."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Final

from mover.decide.folding import Vocabulary
from mover.model.slides import Value

MIN_HARVEST: Final = 5
# From here on a text in base64 may be a picture; so many pieces of so many letters of it are sought.
_PACKED: Final = 1024
_PIECES: Final = 64
_PIECE: Final = 48
_WRITTEN: Final = ("utf-8", "utf-16-le", "utf-16-be")

# Words the writer itself puts into output, or that are a scanner's own and say nothing about anybody. A removed
# string made only of these proves nothing when it is found; one that is only a part of such a word (Matsu of
# Hamamatsu) is sought, everywhere but inside that word.
SCANNER_WORDS: Final = (
    "Aperio Image Library", "Aperio Leica Biosystems GT450", "Aperio ScanScope", "JPEG/RGB", "J2K/YUV16", "J2K/KDU",
    "USM Filter", "COVERSLIP", "Coverslip", "AppMag", "StripeWidth", "Parmset", "LineCameraSkew", "LineAreaXOffset",
    "LineAreaYOffset", "Exposure Time", "Exposure Scale", "DisplayColor", "OriginalWidth", "OriginalHeight",
    "Originalheight", "Filtered", "Hamamatsu", "NDP.scan", "NanoZoomer", "Hamamatsu NanoZoomer Digital Pathology",
    "Hamamatsu JPEG Library, version", "Product", "system.version", "Objective.Lens.Magnificant", "ccd.width",
    "ccd.height", "target.white.intensity", "variable.exposuretime", "cube.kind", "colorfilterID", "Adobe",
    "label", "macro", "thumbnail", "slide", "Gamma", "ICC Profile", "ScanScope", "GT450 DX", "sRGB built-in",
    "No copyright, use freely", "Created by OpenJPEG version", "Creator: JasPer Version", "Kakadu-v",
    "Kdu-Layer-Info: log_2{Delta-D(squared-error)/Delta-L(bytes)}, L(bytes)", "LEAD Technologies Inc.",
    "Intel(R) JPEG Library, version",
)  # fmt: skip
SCANNERS: Final = Vocabulary(SCANNER_WORDS)


def shape_of(value: Value | str) -> str:
    """The masked form a person may see: letters become A or a, digits 9, the rest stays or turns to "?"."""
    if isinstance(value, tuple):
        return f"{len(value)} number{'s' * (len(value) != 1)}" if value else ""
    text = decode_text(value)
    if value and not text.isprintable() and isinstance(value, bytes):
        return f"{len(value)} bytes"
    masked = "".join(_mask(character) for character in text[:32])
    return masked + ("…" if len(text) > 32 else "")


def _mask(character: str) -> str:
    if character.isdigit():
        return "9"
    if character.isalpha():
        return "A" if character.isupper() else "a"
    return character if character in " -_./:;,^()" else "?"


def strings_of(value: Value | str) -> Iterable[str]:
    """Every string of at least five characters a removed value may say: the whole, its parts, and what it
    says when it is UTF-16, base64 or hexadecimal. Plain small measures are not identifiers. Of bytes in base64
    come pieces from their whole length: the slashes part no words."""
    if _is_packed(value):
        yield from _pieces(value)
        return
    texts = _numbers_as_texts(value) if isinstance(value, tuple) else _readings(value)
    for text in texts:
        whole = " ".join(text.split())
        for part in (whole, *re.split(r"[\s,;|=_/\\^<>\"&?\0]+", text)):
            part = part.strip(" .:'()[]{}\0")
            if len(part) >= MIN_HARVEST and not _is_measure(part):
                yield part[:4096]


def _is_packed(value: Value | str) -> bool:
    """A long text in base64 of something that is no text: a picture, a profile, a table."""
    if isinstance(value, tuple) or len(value) < _PACKED:
        return False
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    if not re.fullmatch(rb"[A-Za-z0-9+/\r\n]+={0,2}\s*", raw):
        return False
    head = base64.b64decode(raw[:64])[:36]
    return not any(_mostly_printable(head.decode(codec, "replace").replace("\ufffd", "\1")) for codec in _WRITTEN)


def _pieces(value: Value | str) -> Iterable[str]:
    text = "".join(decode_text(value).split())
    step = max(_PIECE, len(text) // _PIECES)
    return (text[at : at + _PIECE] for at in range(0, len(text) - _PIECE, step))


def _numbers_as_texts(value: tuple[int, ...] | tuple[float, ...]) -> list[str]:
    """Numbers of eight digits as written, and what the list says when it is text in disguise."""
    whole = [item for item in value if isinstance(item, int) and 0 <= item < 1 << 32]
    texts = [f"{item:d}" for item in whole if item >= 10_000_000]
    for order in ("little", "big"):
        packed = b"".join(item.to_bytes(4, order) for item in whole)
        texts += _readings(packed.replace(b"\0", b""))
    return texts


def _readings(value: bytes | str) -> list[str]:
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    texts = [decode_text(value)] if _mostly_printable(decode_text(value)) else []
    texts += [run.decode("ascii") for run in re.findall(rb"[\x20-\x7e]{5,}", raw)[:256]] if not texts else []
    for codec in ("utf-16-le", "utf-16-be"):
        if raw[:64].count(0) * 3 > len(raw[:64]):
            texts.append(raw[: len(raw) // 2 * 2].decode(codec, "ignore"))
    for token in re.findall(rb"[A-Za-z0-9+/]{8,}={0,2}", raw)[:256]:
        texts += _decoded_token(token)
    return [text for text in texts if _mostly_printable(text)]


def _decoded_token(token: bytes) -> list[str]:
    found = []
    try:
        found.append(base64.b64decode(token + b"=" * (-len(token) % 4), validate=True).decode("utf-8"))
    except (binascii.Error, ValueError):
        pass
    if re.fullmatch(rb"([0-9a-fA-F]{2}){5,}", token):
        try:
            found.append(bytes.fromhex(token.decode()).decode("utf-8"))
        except ValueError:
            pass
    return [text for text in found if _mostly_printable(text)]


def decode_text(value: Value | str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return ""
    raw = value.rstrip(b"\0")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _mostly_printable(text: str) -> bool:
    clean = [character for character in text if character.isprintable() or character in "\r\n\t\0"]
    return len(text) >= MIN_HARVEST and len(clean) == len(text)


def _is_measure(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d{1,4}\.\d{1,6}", text) is not None
