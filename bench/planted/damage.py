"""Planted files broken at random: bits turned, ranges zeroed, moved, doubled, cut off. A find comes again by seed."""

from __future__ import annotations

import random

# where structure stands: most hits go there, because a picture's own bytes break nothing but a picture
HEAD = 4096
TAIL = 8192
WORST_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One to six kinds of damage, one after the other."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        if len(out) < 16:
            break
        rng.choice((_turned, _turned, _number, _cut, _zeroed, _moved, _doubled))(out, rng)
    return bytes(out)


def _place(out: bytearray, rng: random.Random) -> int:
    where = rng.random()
    if where < 0.4:
        return rng.randrange(min(HEAD, len(out)))
    if where < 0.8:
        return max(0, len(out) - 1 - rng.randrange(min(TAIL, len(out))))
    return rng.randrange(len(out))


def _turned(out: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 3, 12])):
        out[_place(out, rng)] ^= 1 << rng.randrange(8)


def _number(out: bytearray, rng: random.Random) -> None:
    at = _place(out, rng)
    width = min(rng.choice([1, 2, 4, 8]), len(out) - at)
    out[at : at + width] = bytes([rng.choice(WORST_NUMBERS)]) * width


def _cut(out: bytearray, rng: random.Random) -> None:
    del out[_place(out, rng) :]


def _zeroed(out: bytearray, rng: random.Random) -> None:
    at = _place(out, rng)
    length = min(rng.choice([4, 64, 1024]), len(out) - at)
    out[at : at + length] = bytes(length)


def _moved(out: bytearray, rng: random.Random) -> None:
    at, length = _place(out, rng), rng.choice([1, 2, 4, 100])
    del out[at : at + length]


def _doubled(out: bytearray, rng: random.Random) -> None:
    at, length = _place(out, rng), rng.choice([1, 2, 12, 20, 200])
    out[at:at] = out[at : at + length]
