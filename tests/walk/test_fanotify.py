"""What the kernel says of events, byte by byte: nothing beyond its own lengths is ever read."""

from __future__ import annotations

import random
import struct

import pytest

from mover.walk import fanotify
from mover.walk.fanotify import BadEvents, Event, parsed
from mover.walk.watcher import is_hidden


def handle(text: bytes, kind: int = 1) -> bytes:
    return struct.pack("=Ii", len(text), kind) + text


def record(kind: int, body: bytes, *, length: int | None = None) -> bytes:
    """Padded to four bytes, as the kernel does."""
    size = 4 + 8 + len(body)
    padded = -(-size // 4) * 4
    said = padded if length is None else length
    return struct.pack("=BBH", kind, 0, said) + b"fsidfsid" + body + bytes(padded - size)


def event(mask: int, *records: bytes, version: int = 3, length: int | None = None) -> bytes:
    body = b"".join(records)
    said = 24 + len(body) if length is None else length
    return struct.pack("=IBBHQii", said, version, 0, 24, mask, -1, 1) + body


PLACED = event(fanotify.CREATE, record(2, handle(b"parent") + b"odd\n\xff name\0"))


def test_folder_name_and_child_are_told_apart() -> None:
    both = event(
        fanotify.MODIFY, record(2, handle(b"parent") + b"a\0"), record(1, handle(b"child-handle")),
    )  # fmt: skip
    own = event(fanotify.ATTRIB | fanotify.ON_DIR, record(3, handle(b"itself")))
    assert parsed(PLACED + both + own + event(fanotify.OVERFLOW)) == [
        Event(fanotify.CREATE, handle(b"parent"), b"odd\n\xff name"),
        Event(fanotify.MODIFY, handle(b"parent"), b"a", handle(b"child-handle")),
        Event(fanotify.ATTRIB | fanotify.ON_DIR, handle(b"itself")),
        Event(fanotify.OVERFLOW),
    ]


def test_a_record_of_a_kind_that_is_not_known_is_passed_over() -> None:
    """Newer kernels add records; their lengths say where the next one is."""
    assert parsed(event(fanotify.CREATE, record(99, b"whatever"), record(2, handle(b"p") + b"n\0"))) == [
        Event(fanotify.CREATE, handle(b"p"), b"n")
    ]


@pytest.mark.parametrize(
    "rubbish",
    [
        PLACED[:10],
        PLACED[:-1],
        event(1, version=2),
        event(1, length=4),
        event(1, length=4096),
        event(1, b"\x02\0"),
        event(1, record(2, handle(b"p") + b"n\0", length=0)),
        event(1, record(2, handle(b"p") + b"n\0", length=400)),
        event(1, record(2, b"")),
        event(1, record(2, struct.pack("=Ii", 4_000_000_000, 1))),
        event(1, record(2, struct.pack("=Ii", 64, 1) + b"short")),
        event(1, record(2, handle(b"p") + b"../up\0")),
        event(1, record(2, handle(b"p") + b"n" * 256 + b"\0")),
    ],
)
def test_what_is_cut_off_or_rubbish_is_refused(rubbish: bytes) -> None:
    """The watcher then says that it does not know what changed."""
    with pytest.raises(BadEvents):
        parsed(rubbish)


def test_no_bytes_whatever_end_in_anything_but_events_or_a_refusal() -> None:
    chance = random.Random(7)
    refused = 0
    for _ in range(2000):
        found = bytearray(PLACED * 2)
        for _ in range(chance.randint(1, 6)):
            found[chance.randrange(len(found))] = chance.randrange(256)
        try:
            assert len(parsed(bytes(found[: chance.randrange(len(found))]))) <= 2
        except BadEvents:
            refused += 1
    assert refused > 500


def test_what_no_walk_shows_is_no_hint() -> None:
    hidden = [b".mover", b".mover/content", b"a/.mover-tmp-1/b", b"a/.nfs" + b"0" * 24]
    assert all(map(is_hidden, hidden))
    assert not any(map(is_hidden, [b"", b"a/.mover", b".moverx", b"a/.nfs-notes"]))
