"""An S3 Inventory instead of a listing: files in which the store wrote down its objects, some hours ago.

The manifest names the files with their MD5, which is checked over the bytes as they are read: a truncated or
exchanged file never looks like objects that are gone. What the inventory says is as old as its manifest says: an
entry that the catalog learnt of later is neither changed nor gone because of it.

Formats: Amazon S3 User Guide, "Inventory lists". CSV is gzipped, without a header, keys URL-encoded; Parquet names
its columns.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
import pyarrow.parquet
from msgspec import Struct

from mover.errors import DigestMismatch, FormatUnsupported, RequestInvalid, ShortRead
from mover.model.names import name_text
from mover.model.source import ByteSource
from mover.model.tiers import Entry, Fingerprint
from mover.tiers.port import ReadTier
from mover.walk.listing import Parts, Threads
from mover.walk.reader import PART, Seen, Task

MANIFEST_BYTES = 64 << 20
LINE_BYTES = 64 << 10
PIECE_BYTES = 1 << 20
CONTROL_PREFIX = ".mover/"
NEEDED = ("Key", "Size", "LastModifiedDate", "ETag")
_PARQUET = {"Key": "key", "Size": "size", "LastModifiedDate": "last_modified_date", "ETag": "e_tag",
            "IsLatest": "is_latest", "IsDeleteMarker": "is_delete_marker"}  # fmt: skip


class File(Struct, frozen=True):
    key: str
    size: int
    md5: str = msgspec.field(name="MD5checksum")


class Manifest(Struct, frozen=True, rename="camel"):
    source_bucket: str
    creation_timestamp: str  # milliseconds since 1970, as text
    file_format: str
    file_schema: str
    files: list[File]

    @property
    def created_at(self) -> datetime:
        return datetime.fromtimestamp(int(self.creation_timestamp) / 1000, UTC)

    @property
    def columns(self) -> list[str]:
        return [name.strip() for name in self.file_schema.split(",")]


def read_manifest(tier: ReadTier, key: str, *, bucket: str) -> Manifest:
    """Raises RequestInvalid when it is no manifest of this bucket, FormatUnsupported for what is not read here."""
    if tier.stat(key).fingerprint.size_bytes > MANIFEST_BYTES:
        raise RequestInvalid(f"an inventory's manifest over {MANIFEST_BYTES} bytes")
    try:
        manifest = msgspec.json.decode(tier.read(key), type=Manifest)
        int(manifest.creation_timestamp)
    except (msgspec.DecodeError, ValueError):
        raise RequestInvalid("this is no manifest of an S3 Inventory", where=tier.name) from None
    if manifest.source_bucket != bucket:
        raise RequestInvalid("the inventory is of another bucket", where=tier.name)
    if manifest.file_format not in ("CSV", "Parquet"):
        raise FormatUnsupported(f"an inventory in {manifest.file_format} is not read: choose CSV or Parquet")
    columns = manifest.columns if manifest.file_format == "CSV" else list(_PARQUET)
    if missing := sorted(set(NEEDED) - set(columns)):
        raise FormatUnsupported(f"the inventory lacks the fields {', '.join(missing)}")
    return manifest


class Inventory(Threads):
    """The lookers of one scan by inventory. The first task is the whole tier: it becomes one task per file."""

    def __init__(self, tier: ReadTier, parts: Parts, manifest: Manifest, *, prefix: str, threads: int = 2) -> None:
        self._tier = tier
        self._parts = parts
        self._manifest = manifest
        self._prefix = prefix
        super().__init__(threads=threads)

    def look(self, task: Task) -> Iterator[Seen]:
        if not task.folder:
            tasks = [b"/\0%d" % number for number in range(len(self._manifest.files))]
            yield Seen(b"", 0, True, b"", folders=tasks)
            return
        file = self._manifest.files[int(task.folder.split(b"\0")[1])]
        yield from self._parts.cut(task, self._entries(file))

    def _entries(self, file: File) -> Iterator[Entry]:
        rows = self._csv(file) if self._manifest.file_format == "CSV" else self._parquet(file)
        for row in rows:
            entry = self._entry(row)
            if entry is not None:
                yield entry

    def _entry(self, row: dict[str, Any]) -> Entry | None:
        """None for what the tier's own listing would not show."""
        key = row["Key"]
        if not _true(row.get("IsLatest", True)) or _true(row.get("IsDeleteMarker", False)):
            return None
        if not key.startswith(self._prefix) or key.startswith(self._prefix + CONTROL_PREFIX):
            return None
        etag = str(row["ETag"]).strip('"')
        return Entry(
            key.removeprefix(self._prefix), "file",
            Fingerprint(int(row["Size"] or 0), _nanoseconds(row["LastModifiedDate"]), f'"{etag}"'),
        )  # fmt: skip

    # --- CSV ----------------------------------------------------------------------------------------------

    def _csv(self, file: File) -> Iterator[dict[str, Any]]:
        columns = self._manifest.columns
        for cells in csv.reader(_lines(self._checked(file)), strict=True):
            if len(cells) != len(columns):
                raise ShortRead("a line of the inventory has another number of fields than its manifest says")
            row = dict(zip(columns, cells, strict=True))
            row["Key"] = name_text(unquote_to_bytes(row["Key"].replace("+", " ")))
            yield row

    def _checked(self, file: File) -> Iterator[bytes]:
        """The file's bytes; at their end they must have been the manifest's."""
        digest, size = hashlib.md5(usedforsecurity=False), 0
        for piece in self._tier.stream(self._own_key(file), step_bytes=PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
            yield piece
        if (size, digest.hexdigest()) != (file.size, file.md5.lower()):
            raise DigestMismatch("a file of the inventory is not the one its manifest names", where=self._tier.name)

    def _own_key(self, file: File) -> str:
        """The manifest names keys of the bucket; the tier may be a prefix of it."""
        if not file.key.startswith(self._prefix):
            raise RequestInvalid("a file of the inventory lies outside the tier", where=self._tier.name)
        return file.key.removeprefix(self._prefix)

    # --- Parquet ------------------------------------------------------------------------------------------

    def _parquet(self, file: File) -> Iterator[dict[str, Any]]:
        for _ in self._checked(file):
            pass  # first whole: what a footer says of bytes that are not the manifest's is not believed
        with self._tier.open(self._own_key(file)) as source:
            found = pyarrow.parquet.ParquetFile(_Opened(source))
            names = {column: name for column, name in _PARQUET.items() if name in found.schema_arrow.names}
            if missing := sorted(set(NEEDED) - set(names)):
                raise FormatUnsupported(f"the inventory lacks the fields {', '.join(missing)}")
            for batch in found.iter_batches(batch_size=PART, columns=list(names.values())):
                for row in batch.to_pylist():
                    yield {column: row[name] for column, name in names.items()}


class _Opened(io.RawIOBase):
    """A `ByteSource` as pyarrow reads files."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size_bytes}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._source.size_bytes - self._at))
        view[:count] = self._source.read(self._at, count)
        self._at += count
        return count


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Of gzipped text; a line without an end, or a stream without one, is refused."""
    unpack = zlib.decompressobj(wbits=31)
    rest = b""
    for piece in pieces:
        while piece:
            text = rest + unpack.decompress(piece, PIECE_BYTES)
            *whole, rest = text.split(b"\n")
            if len(rest) > LINE_BYTES:
                raise ShortRead("a line of the inventory has no end")
            yield from (name_text(line) for line in whole)
            piece = unpack.unconsumed_tail
    rest += unpack.flush()
    if not unpack.eof or unpack.unused_data:
        raise ShortRead("a file of the inventory ends in the middle, or goes on after its end")
    yield from (name_text(line) for line in rest.split(b"\n") if line)


def _true(value: object) -> bool:
    return value is True or str(value).lower() == "true"


def _nanoseconds(value: Any) -> int:
    at = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    # as the listing's own times: whole microseconds, without a float in between
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
