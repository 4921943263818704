"""Published slides searched for what their patients' records brought later: the part that runs in a confined child.

The haystacks are the slides' stored bytes that no tile or pixel copy brought, as the archive holds them now; they come
in one descriptor, one slide after the other. What goes back are counts: which word was found is nobody's business.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from mover.decide.searchagain import tells
from mover.deid.search import Seeker
from mover.errors import ShortRead
from mover.sandbox import Sandbox

VERIFIER: Final = "search-again 1"
TIMEOUT_S: Final = 600.0
# so large a haystack costs one table of windows; far more would fill it
HAYSTACK_BYTES: Final = 256 << 10
# no form of a word is longer: two haystacks cut from one range share so much
OVERLAP: Final = 4096


class Pile(Struct, frozen=True, array_like=True):
    """Bytes of one slide, cut where words may not go on: ranges (offset, length) of the descriptor."""

    number: str
    ranges: tuple[tuple[int, int], ...]


class Task(Struct, frozen=True, array_like=True):
    """Some words, and the slides they are sought in."""

    words: tuple[str, ...]
    piles: tuple[Pile, ...]


class Found(Struct, frozen=True, array_like=True):
    """`words`: which of those that were sought are there, each by itself."""

    number: str
    strings: int
    forms: int
    bytes: int
    found: bool
    words: tuple[str, ...] = ()


def search_piles(sandbox: Sandbox, fd: int, tasks: Sequence[Task]) -> list[Found]:
    """What was found where (blocking). Raises RedactionUnproven when there is more packed than can be looked into."""
    answer = sandbox.run("mover.deid.searchagain:look", (msgspec.msgpack.encode(tasks),), (fd,), timeout_s=TIMEOUT_S)
    return msgspec.msgpack.decode(answer, type=list[Found])


def look(fd: int, order: bytes) -> bytes:
    tasks = msgspec.msgpack.decode(order, type=list[Task])
    return msgspec.msgpack.encode([found for task in tasks for found in _look(fd, task)])


def _look(fd: int, task: Task) -> Iterator[Found]:
    seeker = Seeker(task.words)
    for pile in task.piles:
        hit = False
        words: set[str] = set()
        for haystack in haystacks(fd, pile.ranges):
            if _holds(seeker, haystack):
                hit = True
                words |= {word for word in set(task.words) - words if _holds(Seeker((word,)), haystack)}
        searched = sum(length for _, length in pile.ranges)
        yield Found(pile.number, len(task.words), seeker.forms, searched, hit, tuple(sorted(words)))


def _holds(seeker: Seeker, haystack: bytes) -> bool:
    return seeker.find(haystack) > 0 and any(tells(form, layer) for form, layer in seeker.forms_in(haystack))


def haystacks(fd: int, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """The ranges in pieces: small ones together with zeros between them, long ones cut with an overlap."""
    small: list[bytes] = []
    held = 0
    for at, length in ranges:
        if length > HAYSTACK_BYTES:
            for start in range(at, at + length - OVERLAP, HAYSTACK_BYTES - OVERLAP):
                yield _read(fd, start, min(HAYSTACK_BYTES, at + length - start))
            continue
        small.append(_read(fd, at, length))
        held += length
        if held >= HAYSTACK_BYTES:
            yield b"\0\0\0\0".join(small)
            small, held = [], 0
    if small:
        yield b"\0\0\0\0".join(small)


def _read(fd: int, at: int, length: int) -> bytes:
    data = os.pread(fd, length, at)
    if len(data) != length:
        raise ShortRead("a slide's bytes are fewer than they were")
    return data
