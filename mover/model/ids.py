"""Ids and slide numbers.

An id names a row for ever and is never reused: `<kind>-<26 characters>` (48 bits of server time, 80 random
bits, Crockford base32, as ULID lays them out). A *number* names a slide: 80 random bits and a check
character, never derived from anything about the patient (45 CFR 164.514(c)).
"""

from __future__ import annotations

import re

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

KINDS = frozenset(
    [
        "batch",
        "pack",
        "records",
        "table",
        "row",
        "cohort",
        "selection",
        "run",
        "snapshot",
        "scan",
        "alarm",
        "shard",
        "proof",
        "token",
        "account",
        "session",
        "dump",
        "drill",
        "renewal",
        "node",
        "record",
        "sealed",
        "transfer",
        "release",
        "verification",
        "finding",
        "rule",
        "adoption",
        "ruling",
        "proposal",
        "restore",
        "hold",
        "shortening",
        "turn",
        "folder",
        "change",
        "acceptance",
        "retirement",
    ]
)

NUMBER_BITS = 80

_BASE32_DIGITS = str.maketrans(CROCKFORD, "0123456789abcdefghijklmnopqrstuv")
_ID = re.compile(r"^[a-z]+-[0-9a-hjkmnp-tv-z]{26}$")
_NUMBER = re.compile(rf"^[{CROCKFORD}]{{17}}$")


def encode_base32(value: int, *, length: int) -> str:
    return "".join(CROCKFORD[(value >> shift) & 31] for shift in range(5 * (length - 1), -1, -5))


def make_id(kind: str, *, now_ms: int, entropy: bytes) -> str:
    """`kind-…` from the server's time and 10 random bytes; sorts by time of making."""
    if kind not in KINDS or len(entropy) != 10:
        raise ValueError("an id needs a known kind and 10 random bytes")
    value = (now_ms & ((1 << 48) - 1)) << 80 | int.from_bytes(entropy, "big")
    return f"{kind}-{encode_base32(value, length=26).lower()}"


def is_id(text: str, kind: str) -> bool:
    return text.startswith(kind + "-") and _ID.match(text) is not None


def make_number(entropy: bytes) -> str:
    """A slide number from 10 random bytes: 16 base32 characters and a Luhn mod 32 check character."""
    if len(entropy) != 10:
        raise ValueError("a number needs 10 random bytes")
    body = encode_base32(int.from_bytes(entropy, "big"), length=16)
    return body + _check_character(body)


def is_number(text: str) -> bool:
    return _NUMBER.match(text) is not None and _check_character(text[:16]) == text[16]


def number_value(number: str) -> int:
    """The random bits of a number; numbers sort as their values do."""
    return int(number[:16].translate(_BASE32_DIGITS), 32)


def _check_character(body: str) -> str:
    """Luhn mod N with N = 32: finds every single wrong character and most swapped neighbours."""
    total, factor = 0, 2
    for character in reversed(body):
        addend = factor * CROCKFORD.index(character)
        factor = 3 - factor
        total += addend // 32 + addend % 32
    return CROCKFORD[-total % 32]
