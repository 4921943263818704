"""What a walk writes into the catalog, and when; read `conductor` first.

One transaction holds the parts that came (one COPY into the staging table), the frontier after them and the counts,
behind the shard's fence. So a kill leaves the last commit: no part without its folder still in the frontier, no
folder out of the frontier whose parts are not staged. On an identified tier names are sealed in the vault before
the transaction that holds their tags.

After the walk the staging table is merged slice by slice: listings, then entries, then the slice is dropped, in one
transaction. A part that was staged twice (its folder was being read when the walk was killed) is merged twice, and
the second time changes and counts nothing.

Everything here blocks and belongs in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Protocol, Self

import psycopg
from msgspec import Struct
from psycopg.rows import namedtuple_row

from mover.catalog.database import translated
from mover.catalog.queries import load
from mover.clock import monotonic_s
from mover.decide.drift import Sight, Verdict, judge
from mover.errors import NotFound
from mover.walk import hints, packing
from mover.walk.conductor import Step
from mover.walk.reader import Found, Seen

SQL = load(__file__)
COPY_BYTES = 256 << 10
MERGE_ENTRIES = 50_000
MERGE_PARTS = 20_000
SETTLE_PAGE = 5_000
FINDINGS_MAX = 1000  # of one scan, by name; all are counted
GONE_DAYS = 90  # after which what is gone is forgotten

Fence = Callable[[psycopg.Connection[Any]], None]


class Names(Protocol):
    """The names of one identified tier, which the catalog knows by tags only. Blocks; one project, one tier."""

    def tags(self, keys: Sequence[bytes]) -> list[bytes]:
        """32 bytes each, the same for the same key, and nobody without the vault's key can try names."""

    def seal(self, keys: Sequence[bytes]) -> None:
        """Durable when this returns; a key that is sealed already stays."""

    def open(self, tags: Sequence[bytes]) -> list[bytes]:
        """The keys, on record."""

    def secret(self) -> bytes:
        """32 bytes that key the digests of listings."""


class Place(Struct, frozen=True):
    """What is scanned. `prefix` as the reader spells it, `tag` as the catalog does."""

    scan: str
    project: str
    tier: str
    number: int
    prefix: bytes
    tag: bytes
    empty_ok: bool = False
    # what was seen is so old: a later word about an entry holds against it
    as_of: datetime | None = None

    @property
    def bounds(self) -> dict[str, bytes]:
        """Below the prefix: from its first possible key up to the key after its last."""
        return {"prefix": self.tag, "first": self.tag + b"/", "after": self.tag + b"0"}


class CatalogLedger:
    """One scan's ledger. Use it with `with`: the connections are its own."""

    def __init__(
        self, dsn: str, place: Place, *, names: Names | None = None, fence: Fence = lambda conn: None
    ) -> None:
        self.place = place
        self._dsn = dsn
        self._names = names
        self._fence = fence
        self._scan = place.scan.encode()
        self._pieces: list[bytes] = []
        self._size = 0
        self._copy: Any = None
        self._copying: Any = None

    def __enter__(self) -> Self:
        with translated():
            self._conn = psycopg.connect(self._dsn, row_factory=namedtuple_row, application_name="mover-walk")
            self._look = psycopg.connect(
                self._dsn, row_factory=namedtuple_row, application_name="mover-walk-look", autocommit=True
            )
            # this connection is nobody else's and only reads: one round trip for each question instead of four
            self._look.execute("select set_config('mover.project', %s, false)", [self.place.project])
        self._fresh = False
        return self

    def __exit__(self, *_: object) -> None:
        # what was not committed is not there; the server ends the transaction with the connection
        self._conn.close()
        self._look.close()

    # --- the walk -----------------------------------------------------------------------------------------

    def begin(self) -> int:
        """Take up the scan; how many folders of it may be walked. A new one begins with its prefix."""
        with self._transaction() as conn:
            row = self._one(conn, "scan", scan=self.place.scan)
            if row is None:
                raise NotFound("no such scan", where=self.place.scan)
            if row.state == "waiting":
                self._enter(conn)
            if row.state in ("waiting", "walking"):
                self._run(conn, "begin", scan=self.place.scan)
            left = self._one(conn, "left", scan=self.place.scan).free
            self._fresh = self._one(conn, "is_fresh", tier=self.place.tier).fresh
        return int(left) if row.state != "merging" else 0

    def _enter(self, conn: psycopg.Connection[Any]) -> None:
        """A walk of the whole tier answers all hints that were there before it began."""
        self._run(conn, "enter", scan=self.place.scan, key=self._sealed([self.place.prefix])[0])
        if not self.place.tag:
            conn.execute(hints.SQL["take"], {"tier": self.place.tier, "scan": self.place.scan})

    def load(self, limit: int) -> list[bytes]:
        with self._transaction() as conn:
            rows = conn.execute(SQL["load"], {"scan": self.place.scan, "limit": limit}).fetchall()
        keys = sorted(bytes(row.key) for row in rows)
        return self._names.open(keys) if self._names is not None and keys else keys

    def reopened(self) -> set[bytes]:
        with self._transaction() as conn:
            tags = [bytes(row.parent) for row in conn.execute(SQL["reopened"], {"scan": self.place.scan})]
        return set(self._names.open(tags) if self._names is not None and tags else tags)

    def known(self, folders: Sequence[bytes]) -> Mapping[bytes, list[bytes]]:
        if self._fresh:
            return {}
        keys = dict(zip(self._tags(folders), folders, strict=True))
        found: dict[bytes, list[bytes]] = {}
        with translated():
            rows: Any = self._look.execute(SQL["known"], {"tier": self.place.tier, "folders": list(keys)}, binary=True)
            for row in rows:
                found.setdefault(keys[row.folder], []).append(row.digest)
        return found

    def write(self, seen: Seen) -> None:
        if not seen.digest:
            return  # nothing was seen: what is known of the folder stays as it is
        piece = seen.row or self._sealed_row(seen)
        self._pieces.append(piece)
        self._size += len(piece)
        if self._size >= COPY_BYTES:
            self._send()

    def commit(self, step: Step) -> int:
        scan, released = self.place.scan, 0
        with translated():
            conn = self._end_copy()
            for name, folders in (("done", step.done), ("found", step.found), ("spilled", step.spilled)):
                if folders:
                    keys = self._sealed(folders) if name == "found" else self._tags(folders)
                    self._run(conn, name, scan=scan, keys=keys)
            for parent, folders in step.parked.items():
                self._run(conn, "parked", scan=scan, parent=self._tags([parent])[0], keys=self._sealed(folders))
            if step.released:
                released = self._run(conn, "released", scan=scan, keys=self._tags(step.released))
            if step.findings:
                self._note(conn, step.findings)
            totals = {name: getattr(step.totals, name) for name in step.totals.__struct_fields__}
            self._run(conn, "count", scan=scan, seconds=step.seconds, **totals)
            self._fence(conn)
            conn.commit()
        return released

    def _note(self, conn: psycopg.Connection[Any], findings: Sequence[Found]) -> None:
        some = findings[:FINDINGS_MAX]
        self._run(
            conn, "note", scan=self.place.scan, limit=FINDINGS_MAX,
            codes=[found.code for found in some], keys=self._sealed([found.key for found in some]),
        )  # fmt: skip

    def _send(self) -> None:
        """Into the transaction's one COPY, which begins with the first part."""
        with translated():
            if self._copying is None:
                self._begin(self._conn)
                table = f"copy mover.entry_stage ({packing.COLUMNS}) from stdin (format binary)"
                self._copying = self._conn.cursor().copy(table)
                self._copy = self._copying.__enter__()
                self._pieces.insert(0, packing.HEADER)
            self._copy.write(b"".join(self._pieces))
        self._pieces, self._size = [], 0

    def _end_copy(self) -> psycopg.Connection[Any]:
        if self._pieces:
            self._send()
        if self._copying is None:
            self._begin(self._conn)
            return self._conn
        self._copy.write(packing.TRAILER)
        copying, self._copying, self._copy = self._copying, None, None
        copying.__exit__(None, None, None)
        return self._conn

    # --- names --------------------------------------------------------------------------------------------

    def _tags(self, keys: Sequence[bytes]) -> list[bytes]:
        return list(keys) if self._names is None else self._names.tags(keys)

    def _sealed(self, keys: Sequence[bytes]) -> list[bytes]:
        """As the catalog may hold them; on an identified tier they are in the vault when this returns."""
        if self._names is not None:
            self._names.seal(keys)
        return self._tags(keys)

    def _sealed_row(self, seen: Seen) -> bytes:
        folder = self._sealed([seen.folder])[0]
        part = packing.Part(seen.part, seen.digest, seen.entries)
        if seen.same:
            return packing.same_row(self._scan, folder, part)
        prefix = seen.folder + b"/" if seen.folder and not seen.whole else b""
        tags = self._sealed([prefix + name for name in seen.names])
        return packing.row(
            self._scan, folder, part, whole=True, names=packing.bytea_array(tags), tail=seen.tail
        )

    # --- the merge ----------------------------------------------------------------------------------------

    def merge(self, *, stopped: Callable[[], bool] = lambda: False) -> bool:
        """All that is staged, into listings and entries. False when it was stopped before the end."""
        with self._transaction() as conn:
            self._run(conn, "merging", scan=self.place.scan)
        while not stopped():
            if not self._merge_slice():
                return True
        return False

    def _merge_slice(self) -> bool:
        began_s = monotonic_s()
        with self._transaction() as conn:
            row = self._one(conn, "slice", scan=self.place.scan, parts=MERGE_PARTS, entries=MERGE_ENTRIES)
            if row.last is None:
                return False
            self._run(conn, "steer")
            of = {
                "scan": self.place.scan, "tier": self.place.tier, "number": self.place.number, "last": row.last,
                "limit": FINDINGS_MAX, "as_of": self.place.as_of,
            }  # fmt: skip
            known = conn.execute(SQL["same_listings"], of).fetchall()
            same = sum(row.entries for row in known)
            if known:
                self._run(conn, "merge_same", ids=[row.id for row in known], **of)
            self._run(conn, "merge_listings", **of)
            new = self._run(conn, "merge_fresh", **of) if self._fresh else 0
            drift = {"new": new, "same": same, "changed": 0, "changed_verified": 0}
            if not self._fresh or new < self._one(conn, "staged_entries", **of).count:
                self._compare(conn, of, drift)
            self._run(conn, "drop_slice", **of)
            self._run(conn, "merged", scan=self.place.scan, seconds=monotonic_s() - began_s, **drift)
            self._fence(conn)
        return True

    def _compare(self, conn: psycopg.Connection[Any], of: dict[str, Any], drift: dict[str, int]) -> None:
        self._run(conn, "slice_table")
        if not self._run(conn, "fill_slice", **of):
            return
        self._run(conn, "analyze_slice")
        self._run(conn, "note_drift", **of)
        changed = conn.execute(SQL["merge_changed"], of).fetchall()
        drift["changed"] += len(changed)
        drift["changed_verified"] += sum(row.verified for row in changed)
        row = self._one(conn, "merge_unchanged", **of)
        drift["same"] += row.same
        drift["new"] += row.back + self._run(conn, "merge_new", **of)

    def settle(self) -> Verdict:
        """After the merge: what was not seen is gone, if the scan may say so."""
        began_s, place = monotonic_s(), self.place
        with self._transaction() as conn:
            row = self._one(conn, "scan", scan=place.scan)
            known = self._one(conn, "known_entries", tier=place.tier, **place.bounds).count
            verdict = judge(
                Sight(
                    entries=row.entries, findings=row.findings, known=known, part=bool(place.tag),
                    sealed=self._names is not None, empty_ok=place.empty_ok,
                )
            )  # fmt: skip
            gone = verified = None
            if verdict.judge_gone:
                gone, verified = self._judge_gone(conn, self.place.as_of or row.started_at)
            self._run(
                conn, "settled", scan=place.scan, gone=gone, gone_verified=verified,
                explanation=verdict.reason or None, seconds=monotonic_s() - began_s,
            )  # fmt: skip
            if verdict.complete:
                conn.execute(hints.SQL["drop_taken"], {"tier": place.tier, "scan": place.scan})
            self._fence(conn)
        return verdict

    def _judge_gone(self, conn: psycopg.Connection[Any], started_at: Any) -> tuple[int, int]:
        """Entries first, then the listings they pointed to."""
        of = {
            "scan": self.place.scan, "tier": self.place.tier, "number": self.place.number, "started_at": started_at,
            "limit": FINDINGS_MAX, **self.place.bounds,
        }  # fmt: skip
        self._run(conn, "steer")
        gone = verified = 0
        for pages, name in (("changed_listings", "settle_changed"), ("lost_listings", "settle_lost")):
            for ids in self._pages(conn, pages, of):
                row = self._one(conn, name, ids=ids, **of)
                gone, verified = gone + row.gone, verified + row.verified
        row = self._one(conn, "settle_unseen", **of)
        gone, verified = gone + row.gone, verified + row.verified
        self._run(conn, "drop_listings", **of)
        self._run(conn, "drop_gone", tier=self.place.tier, days=GONE_DAYS)
        return gone, verified

    def _pages(self, conn: psycopg.Connection[Any], name: str, of: dict[str, Any]) -> Iterator[list[int]]:
        after = 0
        while rows := conn.execute(SQL[name], {**of, "after_id": after, "page": SETTLE_PAGE}).fetchall():
            after = rows[-1].id
            yield [row.id for row in rows]

    # --- the connection -----------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[Any]]:
        with translated():
            try:
                self._begin(self._conn)
                yield self._conn
                self._conn.commit()
            except BaseException:
                if not self._conn.closed:
                    self._conn.rollback()
                raise

    def _begin(self, conn: psycopg.Connection[Any]) -> None:
        conn.execute("select set_config('mover.project', %s, true)", [self.place.project])

    def _run(self, conn: psycopg.Connection[Any], name: str, **parameters: object) -> int:
        return conn.execute(SQL[name], parameters).rowcount

    def _one(self, conn: psycopg.Connection[Any], name: str, **parameters: object) -> Any:
        return conn.execute(SQL[name], parameters).fetchone()
