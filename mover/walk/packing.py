"""One part of a folder as one row of PostgreSQL's binary COPY, made column by column.

A row per entry costs a microsecond on each side of the connection; a row per part of a folder, with its columns
as arrays, costs a fifth of that. Layouts: PostgreSQL's documentation of COPY (binary format); arrays as
`array_recv` reads them: dimensions, a null flag, the element type's oid, then length and lower bound, then each
element behind its length.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

COLUMNS = "scan_id, folder, part, digest, entries, whole, names, modes, sizes, mtimes, inodes, ctimes, marks"
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"

# the numeric columns of entries, in the order in which a listing's digest takes them
SIZE, MTIME, INODE, CTIME, MODE = range(5)
REGULAR, FOLDER, SYMLINK = 8, 4, 10  # type bits of st_mode, shifted by 12

_BYTEA, _INT8, _INT2, _TEXT = 17, 20, 21, 25
_ARRAY = struct.Struct(">iiiiii")
_EMPTY = struct.Struct(">iii")
_LENGTH = struct.Struct(">i")
_INTEGER = struct.Struct(">ii")  # length and value of an integer column
_FIELDS = struct.pack(">h", 13)  # how many fields a tuple has
_LENGTHS = [_LENGTH.pack(length) for length in range(512)]
_ELEMENT8 = np.dtype([("length", ">i4"), ("value", ">i8")])
_ELEMENT2 = np.dtype([("length", ">i4"), ("value", ">i2")])

Columns = NDArray[np.int64]  # (entries, 5)


class PackedColumns:
    """The numeric columns of many entries, packed at once; `tail` cuts out the fields of one part."""

    def __init__(self, columns: Columns) -> None:
        self._wide = np.empty((4, len(columns)), _ELEMENT8)
        self._wide["length"] = 8
        self._wide["value"] = columns[:, SIZE : CTIME + 1].T
        self._plain = columns[:, MODE] == REGULAR
        self._columns = columns

    def tail(self, start: int, stop: int) -> bytes:
        """From `modes` to `marks`."""
        modes = NULL if self._plain[start:stop].all() else int2_array(self._columns[start:stop, MODE])
        wide = (_array(_INT8, stop - start, self._wide[row, start:stop].tobytes()) for row in range(4))
        return b"".join((modes, *wide, NULL))


class Part(NamedTuple):
    """What is said of a part whatever it holds."""

    number: int
    digest: bytes
    entries: int


def row(scan: bytes, folder: bytes, part: Part, *, whole: bool, names: bytes, tail: bytes) -> bytes:
    """One tuple of COPY. `names` is `bytea_array(...)`, `tail` is `PackedColumns.tail` or `object_tail`."""
    return b"".join(
        (_FIELDS, _field(scan), _field(folder), _INTEGER.pack(4, part.number), _field(part.digest),
         _INTEGER.pack(4, part.entries), _field(b"\1" if whole else b"\0"), names, tail)
    )  # fmt: skip


def same_row(scan: bytes, folder: bytes, part: Part) -> bytes:
    """A part that is as the catalog knows it: no columns."""
    return row(scan, folder, part, whole=False, names=NULL, tail=6 * NULL)


def bytea_array(names: Sequence[bytes]) -> bytes:
    """Names or tags; none is longer than 511 bytes but whole keys of objects may be."""
    try:
        body = b"".join([_LENGTHS[len(name)] + name for name in names])
    except IndexError:
        body = b"".join([_field(name) for name in names])
    return _array(_BYTEA, len(names), body)


def object_tail(sizes: Sequence[int], mtimes: Sequence[int], marks: Sequence[str]) -> bytes:
    """Of objects: all are plain, none has an inode."""
    wide = [_array(_INT8, len(column), _elements8(column)) for column in (sizes, mtimes)]
    texts = _array(_TEXT, len(marks), b"".join([_field(mark.encode()) for mark in marks]))
    return b"".join((NULL, *wide, NULL, NULL, texts))


def int2_array(values: NDArray[np.int64]) -> bytes:
    packed = np.empty(len(values), _ELEMENT2)
    packed["length"], packed["value"] = 2, values
    return _array(_INT2, len(values), packed.tobytes())


def _elements8(values: Sequence[int]) -> bytes:
    packed = np.empty(len(values), _ELEMENT8)
    packed["length"], packed["value"] = 8, values
    return packed.tobytes()


def _array(oid: int, count: int, body: bytes) -> bytes:
    if count == 0:
        return _field(_EMPTY.pack(0, 0, oid))
    return _ARRAY.pack(20 + len(body), 1, 0, oid, count, 1) + body


def _field(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value
