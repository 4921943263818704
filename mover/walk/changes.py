"""Scans of changes: only the folders that a watcher pointed to, and what is new below them.

Hints never make anything be skipped wrongly, so such a scan is refused where they have a gap since the last complete
scan, it is recorded as what it is, and it ends as `caught-up`, never as `complete`.

At its beginning the scan makes the hints its own, and waits until the watcher has handed over everything from before
it was asked for. A hint that comes later is a row beside. It reads each hinted folder as a walk does; of the folders
in it those that are not known, and all of them below a `deep` one, which came, went or moved. A hinted folder that is
not there is no finding: what was known of it is gone. Killed, it goes on with its hints and its frontier.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import psycopg

from mover.catalog.database import translated
from mover.clock import monotonic_s, pause
from mover.decide.drift import Verdict, judge_changes
from mover.errors import ChangesUnknown
from mover.walk import hints
from mover.walk.ledger import FINDINGS_MAX, SETTLE_PAGE, CatalogLedger
from mover.walk.reader import Seen

WAIT_S = 20.0  # for the watcher's word
LOOK_S = 0.005
FEW_FOLDERS = 512  # read in this thread
SILENT_S = 30.0  # a watcher that was not heard of for so long is not there
_GONE = frozenset({"folder-vanished", "folder-replaced"})


class Pointed:
    """What a scan of changes was pointed to: folders, of which the deep ones mean all that is below them."""

    def __init__(self, folders: Iterable[tuple[bytes, bool]]) -> None:
        found = dict(folders)
        self._deep = {folder for folder, deep in found.items() if deep}
        self.first = [folder for folder in found if not self._is_below_deep(folder)]
        self._first = frozenset(self.first)
        self._all = frozenset(found)

    def enters_all(self, folder: bytes) -> bool:
        """Whether every folder in it is to be read: it is deep, or was found new by this scan itself."""
        return folder in self._deep or folder not in self._first or self._is_below_deep(folder)

    @property
    def few(self) -> bool:
        return len(self.first) <= FEW_FOLDERS

    def begins_with(self, folder: bytes) -> bool:
        return folder in self._first

    def covers(self, key: bytes) -> bool:
        """Whether the entry's folder was read."""
        folder = key.rpartition(b"/")[0]
        return folder in self._all or self._is_below_deep(folder)

    def _is_below_deep(self, folder: bytes) -> bool:
        while folder:
            folder = folder.rpartition(b"/")[0]
            if folder in self._deep:
                return True
        return False


def refuse_gap(state: Any, *, tier: str) -> None:
    """Raises ChangesUnknown unless everything since the last complete scan was heard; `state` is SQL "state"."""
    if state.number is None:
        raise ChangesUnknown("no complete scan of the tier has a beginning to go on from", where=tier)
    if state.since is None:
        raise ChangesUnknown("no watcher has ever watched this tier", where=tier)
    if not state.unbroken:
        raise ChangesUnknown(
            f"changes since the last complete scan were not all heard (the watch began anew: {state.reason})",
            where=tier,
        )
    if (state.now - state.heard_at).total_seconds() > SILENT_S:
        raise ChangesUnknown("the tier's watcher is not running", where=tier)


class ChangesLedger(CatalogLedger):
    """A ledger whose frontier begins with the hints, and that judges only what they point to. Deidentified tiers."""

    def begin(self) -> int:
        self._wait_for_word()
        left = super().begin()
        with self._transaction() as conn:
            self.pointed = self._taken(conn)
        return left

    def _wait_for_word(self) -> None:
        """Until the watcher has handed over what happened before the scan was asked for."""
        limit_s, told = monotonic_s() + WAIT_S, False
        while True:
            with translated():
                state: Any = self._look.execute(hints.SQL["state"], {"tier": self.place.tier}).fetchone()
                asked: Any = self._look.execute(
                    "select created_at, state from mover.scan where id = %s", [self.place.scan]
                ).fetchone()
            if asked is None or asked.state != "waiting":
                return  # it has taken its hints already
            refuse_gap(state, tier=self.place.tier)
            if state.heard_at >= asked.created_at:
                return
            if not told:
                with translated():
                    self._look.execute(hints.SQL["ask"])
                told = True
            if monotonic_s() > limit_s:
                raise ChangesUnknown("the tier's watcher does not hand over what it hears", where=self.place.tier)
            pause(LOOK_S)

    def _enter(self, conn: psycopg.Connection[Any]) -> None:
        conn.execute(hints.SQL["take"], {"tier": self.place.tier, "scan": self.place.scan})
        state = conn.execute(hints.SQL["state"], {"tier": self.place.tier}).fetchone()
        refuse_gap(state, tier=self.place.tier)
        conn.execute(hints.SQL["enter"], {"scan": self.place.scan, "keys": self._taken(conn).first})

    def _taken(self, conn: psycopg.Connection[Any]) -> Pointed:
        rows = conn.execute(hints.SQL["taken"], {"tier": self.place.tier, "scan": self.place.scan})
        return Pointed((bytes(row.folder), row.deep) for row in rows)

    def look(self, seen: Seen) -> Seen:
        """Leaves out folders that are known and were not pointed to; those that begin the frontier come by
        themselves. A folder that is not there is what the hint meant."""
        found = [one for one in seen.findings if one.code not in _GONE or one.key != seen.folder]
        folders = [one for one in seen.folders if not self.pointed.begins_with(one)]
        if folders and not self.pointed.enters_all(seen.folder):
            known = self.known(folders)
            folders = [one for one in folders if one not in known]
        return msgspec.structs.replace(seen, folders=folders, findings=found)

    # --- what is gone --------------------------------------------------------------------------------------

    def settle(self) -> Verdict:
        began_s, place = monotonic_s(), self.place
        with self._transaction() as conn:
            row = self._one(conn, "scan", scan=place.scan)
            known = self._one(conn, "known_entries", tier=place.tier, **place.bounds).count
            gone: int | None = None
            verified: int | None = None
            verdict = judge_changes(row.findings, known=known, left=known, empty_ok=place.empty_ok)
            if verdict.judge_gone:
                with conn.transaction() as trial:
                    gone, verified = self._judge_gone(conn, row.started_at)
                    left = self._one(conn, "known_entries", tier=place.tier, **place.bounds).count
                    verdict = judge_changes(row.findings, known=known, left=left, empty_ok=place.empty_ok)
                    if not verdict.judge_gone:
                        gone = verified = None
                        raise psycopg.Rollback(trial)
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
            "limit": FINDINGS_MAX,
        }  # fmt: skip
        self._run(conn, "steer")
        gone = verified = after = 0
        while rows := conn.execute(
            hints.SQL["hinted_listings"], {**of, "after_id": after, "page": SETTLE_PAGE}
        ).fetchall():
            after = rows[-1].id
            lost = [row.id for row in rows if row.lost]
            for name, ids in (("settle_changed", [row.id for row in rows if not row.lost]), ("settle_lost", lost)):
                row = self._one(conn, name, ids=ids, **of)
                gone, verified = gone + row.gone, verified + row.verified
            conn.execute(hints.SQL["drop_listings"], {"ids": lost})
        unseen = self._judge_unseen(conn, of)
        return gone + unseen[0], verified + unseen[1]

    def _judge_unseen(self, conn: psycopg.Connection[Any], of: dict[str, Any]) -> tuple[int, int]:
        """Entries that no walk has seen have no listing to be found by: their folders are compared here."""
        gone = verified = after = 0
        while rows := conn.execute(hints.SQL["unseen"], {**of, "after_id": after, "page": SETTLE_PAGE}).fetchall():
            after = rows[-1].id
            ids = [row.id for row in rows if self.pointed.covers(bytes(row.key))]
            found = conn.execute(hints.SQL["settle_unseen"], {**of, "ids": ids}).fetchone()
            assert found is not None
            gone, verified = gone + found.gone, verified + found.verified
        return gone, verified
