"""What runs in the parsing child (D16): tables in by descriptor, ledger and documents out.

Two calls read the same sealed bytes. `survey` says what has to be looked up before anything may be released
(patients, cases, image names of other batches); `align` gets the answers and releases. What `survey` returns is
as sensitive as the tables: it travels over a socket pair between two of our own processes and nowhere else.
"""

from __future__ import annotations

import os
from typing import cast

import msgspec
from msgspec import Struct

from mover.decide import alignment, searchagain
from mover.decide.alignment import Aligned, NamedImage, Prepared, Subject
from mover.errors import MoverError, ShortRead, StructureInvalid
from mover.model.policy import RecordsPolicy, TableRule
from scanners import tables as scanner

# strangers beyond this are not looked up: they stay rows without an image, and the report says how many
MAX_STRANGERS = 1_000_000


class Request(Struct, frozen=True):
    """The descriptors stand in the order of the policy's tables."""

    policy: RecordsPolicy
    images: list[NamedImage]
    elsewhere: list[str] = []
    subjects: dict[str, Subject] = {}
    case_subjects: dict[str, Subject] = {}
    blocks: dict[str, str] = {}
    this_year: int = 0


class Survey(Struct, frozen=True):
    patients: list[str]
    cases: list[str]
    blocks: dict[str, str | None]
    strangers: list[str]


class Answer(Struct, frozen=True):
    """`skipped`: per table the lines that were no rows (comments, blank lines, repeated headers)."""

    aligned: Aligned
    skipped: dict[str, dict[str, int]]


def survey(*given: object) -> bytes:
    """f(fd, …, request): what must be known before facts may be released."""
    request, tables = _read(given)
    prepared = _prepare(request, tables)
    return msgspec.msgpack.encode(
        Survey(
            patients=alignment.patients(prepared),
            cases=alignment.cases(prepared),
            blocks=alignment.blocks(prepared),
            strangers=alignment.strangers(prepared)[:MAX_STRANGERS],
        )
    )


def align(*given: object) -> bytes:
    """f(fd, …, request): the ledger and the documents, without identifiers."""
    request, tables = _read(given)
    aligned = alignment.align(
        _prepare(request, tables),
        subjects=request.subjects,
        case_subjects=request.case_subjects,
        blocks=request.blocks,
        this_year=request.this_year,
    )
    skipped = {name: table.skipped for name, table in tables.items()}
    return msgspec.msgpack.encode(Answer(aligned=aligned, skipped=skipped))


def words(*given: object) -> bytes:
    """f(fd, …, request): what is sought in the published slides of the rows' patients."""
    request, tables = _read(given)
    cells = {name: (table.header, [row.cells for row in table.rows]) for name, table in tables.items()}
    return msgspec.msgpack.encode(searchagain.dictionaries(_prepare(request, tables), cells))


def _read(given: tuple[object, ...]) -> tuple[Request, dict[str, scanner.Table]]:
    *fds, body = given
    request = msgspec.msgpack.decode(cast(bytes, body), type=Request)
    rules = request.policy.tables
    return request, {rule.name: _read_one(cast(int, fd), rule) for fd, rule in zip(fds, rules, strict=True)}


def _read_one(fd: int, rule: TableRule) -> scanner.Table:
    try:
        return scanner.read(_Descriptor(fd), encoding=rule.encoding, delimiter=rule.delimiter, comment=rule.comment)
    except MoverError as error:
        place = f"table {rule.name}, {error.where}" if error.where else f"table {rule.name}"
        raise type(error)(error.what, where=place, hint=error.advice, details=error.details) from None


def _prepare(request: Request, tables: dict[str, scanner.Table]) -> Prepared:
    rows = {name: (table.header, [(row.line, row.cells) for row in table.rows]) for name, table in tables.items()}
    return alignment.prepare(request.policy, rows, request.images, elsewhere=frozenset(request.elsewhere))


class _Descriptor:
    """A ByteSource over an open descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.size_bytes = os.fstat(fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise StructureInvalid(f"a read of {length} bytes at {offset} leaves the table")
        data = bytearray()
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                raise ShortRead("the table is shorter than it was")
            data += more
        return bytes(data)
