"""`ByteSource`: how scanners, parsers and the engine see bytes, wherever these live."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class ByteSource(Protocol):
    """Random-access bytes of a known size.

    `read` returns exactly `length` bytes or raises `ShortRead`; it never returns less. Reads outside
    `0..size_bytes` raise `StructureInvalid`. Callers bound their lengths before they ask.
    """

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...


class MemorySource:
    """A ByteSource over bytes that are already in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        from mover.errors import StructureInvalid

        if offset < 0 or length < 0 or offset + length > len(self._data):
            raise StructureInvalid(
                f"read of {length} bytes at {offset} leaves the {len(self._data)} bytes there are"
            )
        return self._data[offset : offset + length]
