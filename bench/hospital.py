"""A large hospital as rows: slides with their packs, proofs, tables, runs, snapshots and history, in seconds.

For the pages that are measured and walked at that size. Every row keeps what the catalog asks of it: `guarded` fills
with all its keys and triggers at work, which is slow and shows that; without them the same rows come in a tenth of
the time. Nothing has bytes: what runs and snapshots rest on belongs to another node, which is not there.
"""

from __future__ import annotations

import time
from hashlib import blake2b

import psycopg
from msgspec import Struct

from mover.catalog.queries import load
from mover.decide.quarantine import cause_of
from mover.model.ids import encode_base32, make_number

PER_BATCH = 250
DAY_MS = 86_400_000
HISTORY_MS = 100 * DAY_MS  # from the oldest slide to now
# why packs are held back: a code, and what people read
CAUSES = (
    *(("format-unknown", f"a file that no scanner module knows: {name}") for name in ("zvi", "czi", "lif", "vsi")),
    *(("key-unknown", f"a key that no rule knows: {name}") for name in ("Scan Remark", "Ward", "Tray Text", "Tray Id")),
    ("thumbnail-missing", "the thumbnail is missing"), ("not-declared", "nobody declared this pack"),
    ("text-burned-in", "text stands in the pixels"), ("digest-mismatch", "the file changed while it was read"),
    ("image-broken", "a tile cannot be decoded"), ("barcode-twice", "two packs have one barcode"),
)  # fmt: skip
# tables that are large enough for the planner to want to know
LARGE = (
    "slide", "slide_grant", "slide_place", "pack", "proof", "ledger", "aligned", "batch", "run", "run_entry", "entry",
    "shard", "snapshot", "audit_record",
)  # fmt: skip

_Q = load(__file__)


class Scale(Struct, frozen=True):
    """How much there is beside the slides."""

    slides: int
    few: int = 4
    some: int = 400
    thousands: int = 4000
    many: int = 20_000


def fill(dsn: str, project: str, scale: Scale, *, guarded: bool = False) -> None:
    """As the superuser, in one transaction. Once for each database: the same rows again are refused."""
    sizes = {"project": project, "few": scale.few, "some": scale.some, "thousands": scale.thousands}
    causes = [(cause_of(code, said, "svs").id, code, said) for code, said in CAUSES]
    words = sizes | dict(zip(("causes", "codes", "words"), map(list, zip(*causes, strict=True)), strict=True))
    words["many"] = min(scale.many, scale.slides)
    with psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor) as conn:
        with conn.transaction():
            if not guarded:
                conn.execute("set local session_replication_role = replica")
            conn.execute("select set_config('mover.project', %(project)s, true)", words)
            for name, statement in _Q.texts.items():
                if name == "marks" and guarded:
                    continue  # the triggers made them
                if name == "history":
                    _history(conn, project, scale)
                    continue
                conn.execute(statement, words)
                if name == "made":
                    _number(conn, scale.slides)
        conn.execute("analyze " + ", ".join(f"mover.{table}" for table in LARGE))


def _number(conn: psycopg.Connection[tuple[object, ...]], slides: int) -> None:
    """Numbers as the site mints them, the same each time."""
    newest_ms = time.time_ns() // 1_000_000
    step_ms = HISTORY_MS / slides
    with conn.cursor() as cursor, cursor.copy("copy made from stdin") as copy:
        for at in range(slides):
            drawn = blake2b(b"slide %d" % at, digest_size=26).digest()
            at_ms = newest_ms - round((slides - at) * step_ms)
            mark = encode_base32(at_ms, length=10).lower() + drawn[10:18].hex()
            moment = time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime(at_ms / 1000))
            h, k = (int.from_bytes(drawn[part : part + 4], "big") & 0x7FFFFFFF for part in (18, 22))
            copy.write_row((at, make_number(drawn[:10]), mark, moment, h, k, at // PER_BATCH))
    conn.execute("analyze made")


def _history(conn: psycopg.Connection[tuple[object, ...]], project: str, scale: Scale) -> None:
    conn.execute(
        "select set_config('bench.project', %s, true), set_config('bench.records', %s, true)",
        [project, str(5 * scale.thousands)],
    )
    conn.execute(_Q["history"])
