"""What msgspec has to know of each type before threads decode.

It learns a type when it is first used, and shows it to others before all of it is there, since a type may hold itself.
Two threads that decode a type of types for the first time at once end the process (msgspec 0.22: a segmentation fault
in `json_decode_struct_map_inner`, met in a daemon whose first tables were matched while somebody asked for them). So
whoever starts threads lets all types be learned first, by one.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec


def learn() -> int:
    """How many types there are that can be decoded. The others are values that never cross a boundary."""
    return sum(map(_learned, dict.fromkeys(_below(msgspec.Struct))))


def _learned(shape: type) -> bool:
    try:
        msgspec.msgpack.Decoder(shape)
    except (TypeError, NameError):
        return False
    return True


def _below(shape: type) -> Iterator[type]:
    inner: list[type] = shape.__subclasses__()
    for one in inner:
        yield one
        yield from _below(one)
