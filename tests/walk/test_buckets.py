"""Buckets by ranges of keys and by inventories: the same truth as the tier's own listing, or an error."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mover.catalog.database import Database
from mover.deid.vault import Vault
from mover.demo.seaweed import Seaweed
from mover.errors import DigestMismatch, FormatUnsupported, LimitExceeded, RequestInvalid, ShortRead, TierError
from mover.model import wire
from mover.model.tiers import Entry, Fingerprint
from mover.tiers.object import ObjectTier
from mover.walk import listing as module
from mover.walk.inventory import Inventory, Manifest, read_manifest
from mover.walk.listing import Listing, Parts
from mover.walk.reader import Seen, Task
from tests.rooms.rig import PROJECT
from tests.support.postgres import Dsns
from tests.support.seaweed import object_tier
from tests.walk.test_scans import Ward, drift


class Shelf:
    """A bucket in memory that lists as S3 does, in the order of keys."""

    def __init__(self, keys: list[str], *, levels: bool = True) -> None:
        self.keys = sorted(keys)
        self._levels = levels

    def list(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
        for key in self.keys:
            if key.startswith(prefix + "/" if prefix else "") and key > after:
                yield Entry(key, "file", Fingerprint(len(key), 5, f'"{key}"'))

    def level(self, prefix: str = "") -> Any:
        if not self._levels:
            raise LimitExceeded("too many")
        start = prefix + "/" if prefix else ""
        inside = [key.removeprefix(start) for key in self.keys if key.startswith(start)]
        names = tuple(sorted({start + key.partition("/")[0] for key in inside if "/" in key}))
        return type("Level", (), {"prefixes": names})


def listed(shelf: Any, prefix: bytes = b"") -> tuple[list[bytes], int]:
    """All names of all ranges, in the order of ranges, and how many ranges there were."""
    lookers = Listing(shelf, Parts(b"scan", sealed=True, key=b""), prefix=prefix, threads=1)
    try:
        [first] = lookers.look(Task(prefix))
        parts = [seen for folder in first.folders for seen in lookers.look(Task(folder))]
        assert all(folder.startswith(prefix + b"/") for folder in first.folders)
        return [name for seen in parts for name in seen.names], len(first.folders)
    finally:
        lookers.close()


SHELVES: dict[str, list[str]] = {
    "nothing": [],
    "one": ["a"],
    "one level down": [f"slides/{number:04}/1/x.svs" for number in range(300)],
    "objects between folders": [*(f"d{n}/x" for n in range(20)), *(f"d{n}" for n in range(20)), "d1-", "zz", "a"],
    "no text we know": [*(f"ö{n}/x" for n in range(12)), "z\U0001f9ec", "é/1", "\x01/2"],
    "few folders": ["a/1", "b/2", "c/3"],
}


@pytest.mark.parametrize("name", SHELVES)
@pytest.mark.parametrize("levels", [True, False])
def test_ranges_hold_every_key_once(name: str, levels: bool) -> None:
    """A key between two ranges would be called gone."""
    shelf = Shelf(SHELVES[name], levels=levels)
    found, ranges = listed(shelf)
    assert found == [key.encode() for key in shelf.keys]
    assert ranges > 8 or not levels or name in ("nothing", "one", "few folders")


def test_a_prefix_is_listed_without_its_neighbours() -> None:
    shelf = Shelf([f"{top}/{n}/x" for top in ("a", "ab", "a.b", "b") for n in range(30)])
    found, _ = listed(shelf, b"a")
    assert found == [key.encode() for key in shelf.keys if key.startswith("a/")]


def test_a_store_that_lists_in_another_order_is_refused() -> None:
    """Its ranges would end too early, and what they lack would be called gone."""

    class Shuffled(Shelf):
        def list(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
            yield from reversed([*super().list(prefix, after=after)])

    with pytest.raises(TierError, match="order"):
        listed(Shuffled(SHELVES["few folders"]))


def test_a_store_that_begins_later_than_it_was_told_is_refused() -> None:
    """A real one does, where a range begins with a folder's own name: everything in that folder was missing."""

    class Skipping(Shelf):
        def list(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
            yield from islice(super().list(prefix, after=after), 2 if after else 0, None)

    shelf = Skipping(SHELVES["one level down"])
    with pytest.raises(TierError, match="begins later"):
        listed(shelf)


def test_a_folder_that_is_deleted_while_its_range_waits_is_no_fault_of_the_store() -> None:
    shelf = Shelf(SHELVES["one level down"])
    lookers = Listing(shelf, Parts(b"scan", sealed=True, key=b""), prefix=b"", threads=1)
    [first] = lookers.look(Task(b""))
    follows = first.folders[1].split(b"\0")[3].decode()
    shelf.keys = [key for key in shelf.keys if not key.startswith(follows)]
    parts = [seen for folder in first.folders for seen in lookers.look(Task(folder))]
    lookers.close()
    assert sum(seen.entries for seen in parts) == len(shelf.keys) == 299


def test_a_listing_that_breaks_off_ends_the_walk_of_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Shelf):
        def list(self, prefix: str = "", *, after: str = "") -> Iterator[Entry]:
            yield from list(super().list(prefix, after=after))[:3]
            raise TierError("503")

    monkeypatch.setattr(module, "LOOK_S", 5.0)
    lookers = Listing(Broken(SHELVES["one"]), Parts(b"scan", sealed=False, key=b""), prefix=b"", threads=2)
    try:
        lookers.hand([Task(b"/\0\0\0")])
        with pytest.raises(TierError, match="503"):
            for _ in range(5):
                lookers.take()
    finally:
        lookers.close()


# --- a real store --------------------------------------------------------------------------------------------


class Bucket(Ward):
    def __init__(self, folder: Path, dsns: Dsns, database: Database, vault: Vault, tier: ObjectTier) -> None:
        super().__init__(folder, dsns, database, vault)
        self.tiers["archive"] = self.store = tier

    def put(self, *keys: str) -> None:
        for key in keys:
            self.store.put(key, [key.encode()], size_bytes=len(key.encode()))


@pytest.fixture
async def bucket(
    tmp_path: Path, dsns: Dsns, database: Database, vault: Vault, tier_rows: None, weed: Seaweed
) -> AsyncIterator[Bucket]:
    yield Bucket(tmp_path, dsns, database, vault, object_tier(weed))


@pytest.mark.slow
async def test_a_bucket_is_scanned_and_its_drift_told(bucket: Bucket) -> None:
    bucket.put(*(f"slides/{number:03}/1/{number}.svs" for number in range(24)), "top", "slides/note")
    first = await bucket.scan("archive")
    assert (first.method, first.state, drift(first)) == ("listing", "complete", (0, 26, 0, 0))
    entries = bucket.entries()
    assert {key.decode(): (row.size_bytes, row.mtime_ns, row.mark) for key, row in entries.items()} == {
        e.key: (e.fingerprint.size_bytes, e.fingerprint.mtime_ns, e.fingerprint.mark) for e in bucket.store.list()
    }
    again = await bucket.scan("archive")
    assert (again.listings_same, drift(again)) == (again.listings, (26, 0, 0, 0))
    bucket.verify("slides/003/1/3.svs", "slides/004/1/4.svs")
    bucket.store.remove("slides/003/1/3.svs")
    bucket.store.remove("slides/004/1/4.svs")
    bucket.store.put("slides/004/1/4.svs", [b"other bytes"], size_bytes=11)
    bucket.put("slides/030/1/30.svs")
    third = await bucket.scan("archive")
    assert (third.state, drift(third)) == ("complete", (24, 1, 1, 1))
    assert await bucket.codes(third) == [
        ("changed-verified", "slides/004/1/4.svs"), ("gone-verified", "slides/003/1/3.svs")
    ]  # fmt: skip
    part = await bucket.scan("archive", prefix="slides/004")
    assert drift(part) == (1, 0, 0, 0)


# --- inventories ---------------------------------------------------------------------------------------------

SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """As S3 writes it: every field quoted, keys URL-encoded, no header."""
    lines = [
        ",".join(
            f'"{cell}"' for cell in (
                "b", quote_plus(row["key"], safe="/"), "", row["is_latest"], row["is_delete_marker"], row["size"],
                row["at"].strftime("%Y-%m-%dT%H:%M:%S.000Z"), row["e_tag"],
            )
        )
        for row in rows
    ]  # fmt: skip
    return gzip.compress("".join(f"{line}\n" for line in lines).encode())


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    columns = {name: [row[name] for row in rows] for name in ("key", "size", "e_tag", "is_latest", "is_delete_marker")}
    columns["last_modified_date"] = [row["at"] for row in rows]
    made = io.BytesIO()
    pq.write_table(pa.table(columns), made)
    return made.getvalue()


WRITERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {"CSV": as_csv, "Parquet": as_parquet}


def inventory(store: ObjectTier, written: str, rows: list[dict[str, Any]], *, at: datetime, files: int = 2) -> str:
    """An inventory of the rows on the tier itself; the manifest's key."""
    prefix = store.where.prefix.strip("/") + "/"
    named = []
    for number in range(files):
        data = WRITERS[written](rows[number::files])
        key = f"inventory/{at.timestamp()}/{number}"
        store.put(key, [data], size_bytes=len(data))
        named.append({"key": prefix + key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()})
    manifest = {
        "sourceBucket": store.where.bucket, "destinationBucket": "arn:aws:s3:::b", "version": "2016-11-30",
        "creationTimestamp": str(int(at.timestamp() * 1000)), "fileFormat": written, "fileSchema": SCHEMA,
        "files": named,
    }  # fmt: skip
    key = f"inventory/{at.timestamp()}/manifest.json"
    data = json.dumps(manifest).encode()
    store.put(key, [data], size_bytes=len(data))
    return key


def rows_of(store: ObjectTier, *, prefix: str = "slides") -> list[dict[str, Any]]:
    """What the store would write down of what it holds now, in no order, with what must be left out of it."""
    own = store.where.prefix.strip("/") + "/"
    found = [
        {"key": own + entry.key, "size": entry.fingerprint.size_bytes, "e_tag": entry.fingerprint.mark.strip('"'),
         "at": datetime.fromtimestamp(entry.fingerprint.mtime_ns / 1e9, UTC), "is_latest": True,
         "is_delete_marker": False}
        for entry in store.list(prefix)
    ]  # fmt: skip
    old = {**found[0], "is_latest": False, "size": 1}
    deleted = {**found[0], "key": own + "slides/deleted", "is_delete_marker": True}
    foreign = {**found[0], "key": "another-tier/x"}
    return [old, deleted, foreign, *reversed(found)]


@pytest.mark.slow
@pytest.mark.parametrize("written", WRITERS)
async def test_an_inventory_says_what_a_listing_would(bucket: Bucket, written: str) -> None:
    bucket.put("slides/a b+c&é,\"q\".svs", *(f"slides/{number}" for number in range(9)))
    rows = rows_of(bucket.store)
    key = inventory(bucket.store, written, rows, at=datetime.now(UTC))
    scan = await bucket.scan("archive", inventory=key)
    assert (scan.method, scan.state, drift(scan)) == ("inventory", "complete", (0, 10, 0, 0))
    # S3 writes whole seconds, so the same entries by listing must be the same by fingerprint
    entries = {row.key: row for row in bucket.entries().values()}
    assert {bytes(key).decode(): (row.size_bytes, row.mark) for key, row in entries.items()} == {
        e.key: (e.fingerprint.size_bytes, e.fingerprint.mark) for e in bucket.store.list("slides")
    }


@pytest.mark.slow
async def test_an_old_inventory_does_not_speak_against_what_was_learnt_later(bucket: Bucket) -> None:
    """Inventories are hours old; what came since is in none of them."""
    bucket.put(*(f"slides/{number}" for number in range(4)))
    key = inventory(bucket.store, "CSV", rows_of(bucket.store), at=datetime.now(UTC) - timedelta(hours=5))
    bucket.put("slides/new")
    await bucket.scan("archive", prefix="slides")
    scan = await bucket.scan("archive", inventory=key)
    assert (scan.state, drift(scan)[1:]) == ("complete", (0, 0, 0))
    assert set(bucket.entries()) == {b"slides/new", *(b"slides/%d" % number for number in range(4))}


class Files:
    """A tier that holds a few files in memory."""

    name, zone, kind = "archive", "deidentified", "object"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def stat(self, key: str) -> Entry:
        return Entry(key, "file", Fingerprint(len(self.files[key]), 0, ""))

    def read(self, key: str) -> bytes:
        return self.files[key]

    def stream(self, key: str, *, cold: bool = False, step_bytes: int = 1000) -> Iterator[bytes]:
        data = self.files[key]
        for at in range(0, len(data), 1000):
            yield data[at : at + 1000]


ROW = {"key": "slides/1", "size": 3, "e_tag": "abc", "is_latest": "true", "is_delete_marker": "false",
       "at": datetime(2026, 1, 2, tzinfo=UTC)}  # fmt: skip


def read(data: bytes, *, md5: str = "", size: int | None = None, schema: str = SCHEMA) -> list[Seen]:
    digest = md5 or hashlib.md5(data).hexdigest()
    told = {"key": "f", "size": len(data) if size is None else size, "MD5checksum": digest}
    manifest = Manifest("b", "1", "CSV", schema, [json_file(told)])
    lookers = Inventory(Files({"f": data}), Parts(b"s", sealed=True, key=b""), manifest, prefix="", threads=1)  # type: ignore[arg-type]
    try:
        return list(lookers.look(Task(b"/\x000")))
    finally:
        lookers.close()


def json_file(told: dict[str, Any]) -> Any:
    import msgspec

    from mover.walk.inventory import File

    return msgspec.convert(told, File)


def test_a_whole_inventory_file_is_read() -> None:
    rows = [{**ROW, "key": f"slides/{number}"} for number in range(5000)]
    assert sum(seen.entries for seen in read(as_csv(rows))) == 5000


@pytest.mark.parametrize(
    ("data", "more", "error"),
    [
        (as_csv([ROW]), {"md5": "0" * 32}, DigestMismatch),
        (as_csv([ROW]), {"size": 5}, DigestMismatch),
        (as_csv([ROW] * 500)[:-12], {}, ShortRead),
        (as_csv([ROW]) + b"more", {}, ShortRead),
        (gzip.compress(b'"too","few"\n'), {}, ShortRead),
        (gzip.compress(b"x" * (1 << 22)), {}, ShortRead),
    ],
    ids=["another file", "another size", "cut", "longer", "fields", "one endless line"],
)
def test_a_damaged_inventory_never_reads_as_fewer_objects(
    data: bytes, more: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        read(data, **more)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"sourceBucket": "other"}, RequestInvalid), ({"fileFormat": "ORC"}, FormatUnsupported),
        ({"fileSchema": "Bucket, Key"}, FormatUnsupported), ({"files": [{"key": "x"}]}, RequestInvalid),
        ({"creationTimestamp": "yesterday"}, RequestInvalid),
    ],
)  # fmt: skip
def test_a_manifest_that_is_not_understood_is_refused(change: dict[str, Any], error: type[Exception]) -> None:
    whole = {
        "sourceBucket": "b", "creationTimestamp": "1", "fileFormat": "CSV", "fileSchema": SCHEMA, "files": [],
    } | change  # fmt: skip
    with pytest.raises(error):
        read_manifest(Files({"m": json.dumps(whole).encode()}), "m", bucket="b")  # type: ignore[arg-type]


async def test_an_inventory_is_of_a_bucket_and_of_all_of_it(bucket: Bucket) -> None:
    for body in (
        wire.ScanRequest(tier="flash", inventory="m"),
        wire.ScanRequest(tier="archive", inventory="m", prefix="slides"),
    ):
        with pytest.raises(RequestInvalid):
            await bucket.scans.declare(PROJECT, "ann", body)
