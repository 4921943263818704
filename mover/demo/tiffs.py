"""Writing TIFF the way scanners do: data first, directory after it, values after the directory."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import BinaryIO

import msgspec

BYTE, ASCII, SHORT, LONG, RATIONAL, UNDEFINED, LONG8 = 1, 2, 3, 4, 5, 7, 16
_FORMATS = {SHORT: "H", LONG: "I", LONG8: "Q"}
_SIZES = {BYTE: 1, ASCII: 1, SHORT: 2, LONG: 4, RATIONAL: 8, UNDEFINED: 1, LONG8: 8}


class Tag(msgspec.Struct, frozen=True):
    code: int
    kind: int
    count: int
    data: bytes


def numbers(code: int, kind: int, *values: int) -> Tag:
    return Tag(code=code, kind=kind, count=len(values), data=struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values))


def text(code: int, value: str) -> Tag:
    data = value.encode("utf-8") + b"\0"
    return Tag(code=code, kind=ASCII, count=len(data), data=data)


def blob(code: int, data: bytes, *, kind: int = UNDEFINED) -> Tag:
    return Tag(code=code, kind=kind, count=len(data) // _SIZES[kind], data=data)


class TiffFile:
    """An open file being written. `chain` is where the next directory's offset must be stored."""

    def __init__(self, stream: BinaryIO, *, big: bool) -> None:
        self.stream = stream
        self.big = big
        self.at = 0
        self.put(b"II\x2b\0\x08\0\0\0" if big else b"II\x2a\0")
        self.chain = self.at
        self.put(b"\0" * (8 if big else 4))

    @property
    def offset_kind(self) -> int:
        return LONG8 if self.big else LONG

    def put(self, data: bytes) -> int:
        """Append; the offset it landed at."""
        start = self.at
        self.stream.write(data)
        self.at += len(data)
        return start

    def put_pieces(self, pieces: list[bytes], *, slack: dict[int, bytes] | None = None) -> list[int]:
        """Append pieces, `slack[n]` being left unreferenced before piece n; the offset of each piece."""
        offsets: list[int] = []
        run: list[bytes] = []
        at = self.at
        for n, piece in enumerate(pieces):
            if slack and n in slack:
                run.append(slack[n])
                at += len(slack[n])
            offsets.append(at)
            run.append(piece)
            at += len(piece)
        self.stream.writelines(run)
        self.at = at
        return offsets

    def directory(self, tags: Iterable[Tag]) -> None:
        """Write a directory, its long values behind it, and link it into the chain."""
        ordered = sorted(tags, key=lambda tag: tag.code)
        if self.at % 8:
            self.put(b"\0" * (8 - self.at % 8))
        start, inline = self.at, 8 if self.big else 4
        head, entry = (8, 20) if self.big else (2, 12)
        spill_at = start + head + entry * len(ordered) + inline
        entries, spill = bytearray(), bytearray()
        for tag in ordered:
            entries += struct.pack("<HHQ" if self.big else "<HHI", tag.code, tag.kind, tag.count)
            if len(tag.data) <= inline:
                entries += tag.data.ljust(inline, b"\0")
            else:
                entries += (spill_at + len(spill)).to_bytes(inline, "little")
                spill += tag.data + b"\0" * (len(tag.data) % 2)
        self.put(len(ordered).to_bytes(head, "little") + bytes(entries))
        link = self.put(b"\0" * inline)
        self.put(bytes(spill))
        self._link(start, inline)
        self.chain = link

    def _link(self, start: int, width: int) -> None:
        self.stream.seek(self.chain)
        self.stream.write(start.to_bytes(width, "little"))
        self.stream.seek(self.at)
