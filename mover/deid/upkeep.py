"""Work on all rows of the vault: a re-key, and the pair of key files made, replaced.

Everything goes slice by slice. A slice is read (which leaves a record), sealed anew, looked at once more, and written
in one transaction; a row that somebody else changed meanwhile stays as it is. Killed at any point, the same command
goes on: rows that are done are known by their generation, or by the pair that their copy names.

**A re-key** begins with one statement that every daemon sees: from then on each call that comes with the old key is
refused, and the daemon reads the key files again. The new file opens both generations. It ends, in one transaction
that counts, when no row of the generation before is left; before that every row was opened with the new key alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Final

import msgspec
import psycopg
from msgspec import Struct

from mover import audit
from mover.catalog import queries
from mover.catalog.database import Connection, Database
from mover.deid.custody import record_text
from mover.deid.vault import OTHER_GENERATION, SealedSubject, copy_place, place
from mover.deid.vaultkeys import PublicKey, RevealKey, VaultKey
from mover.errors import SettingsInvalid, VaultConflict

SLICE: Final = 500
TABLES: Final = ("sealed", "number", "subject", "entity", "uid", "promise", "tombstone")
COPIED: Final = ("number", "subject", "entity", "uid")

_Q = queries.load(__file__.replace("upkeep", "custody"))


class Renewed(Struct, frozen=True):
    """A row as it will be."""

    lookup: bytes
    body: bytes
    copy: bytes | None


class Counted(Struct, frozen=True):
    """What a pass found and what it changed."""

    rows: int
    changed: int


class Upkeep:
    """`project` is where records about the whole vault stand, and `node` whose chain they continue."""

    def __init__(self, database: Database, *, project: str, node: str, actor: str) -> None:
        self._database, self._project, self._node, self._actor = database, project, node, actor

    # --- re-key -----------------------------------------------------------------------------------------------

    async def rekey(self, new: VaultKey, *, seen: Callable[[str, int], None] | None = None) -> Counted:
        """Every row to the new key. Raises VaultConflict, and ends nothing, when one opens under neither."""
        if not new.holds_before():
            raise SettingsInvalid("the new key does not open what the old one sealed", hint="It ended its re-key once.")
        await self._begin(new)
        changed = 0
        for table in TABLES:
            changed += (await self._pass(table, partial(_rekeyed, new, table), new.generation, seen)).changed
        alone = new.retired()
        rows = 0
        for table in TABLES:
            rows += (await self._pass(table, partial(_checked, alone, table), new.generation, None)).rows
        behind = await self._turn("end_rekey", new.generation, "vault re-keyed", rows=rows, changed=changed)
        if behind:
            raise VaultConflict(f"{behind} rows came meanwhile", hint="Run the re-key again: it goes on.")
        return Counted(rows, changed)

    async def _begin(self, new: VaultKey) -> None:
        """Only with the key that the vault has, or goes on with the one it was begun with: a vault that had turned to
        a stranger's key could not be opened by anybody."""
        before = new.generation - 1
        if await self.generation() == before:
            await self._probe(new)
            async with self._database.instance() as conn:
                await _Q.one(conn, "claim", generation=before, check=new.check(generation=before))
        checks = {"before": new.check(generation=before), "after": new.check()}
        if not await self._turn("begin_rekey", before, "vault re-key begun", **checks):
            raise SettingsInvalid("this is not the key of this vault", hint="Put the vault's own key file back.")

    async def _probe(self, new: VaultKey) -> None:
        """One slice of every table, before the vault knows any key: is the new one the successor of theirs?"""
        for table in TABLES:
            async for project in self._owners(table):
                async with self._database.project(project) as conn:
                    for row in await self._list(conn, project, table, ("", "", b"")):
                        _rekeyed(new, table, row)

    async def _turn(self, statement: str, generation: int, action: str, **given: Any) -> int:
        counts = {name: one for name, one in given.items() if isinstance(one, int)}
        record = record_text(self._actor, action, "re-key", {"generation": generation, **counts})
        values = {**given, "generation": generation, "project": self._project, "node": self._node, "record": record}
        try:
            async with self._database.project(self._project) as conn:
                row = await _Q.one(conn, statement, **values)
        except psycopg.DatabaseError as error:
            if error.sqlstate != OTHER_GENERATION:
                raise
            raise SettingsInvalid("this key is not of the generation of the vault", hint="Name the newest key file as "
                                  "--old, or the one of the re-key that was begun as --new.") from error  # fmt: skip
        return int(row[0])

    # --- the two key files ------------------------------------------------------------------------------------

    async def adopt(self, key: VaultKey, public: PublicKey) -> Counted:
        """Originals that the everyday key opens are sealed for the pair instead. What the work needs stays."""
        total = Counted(0, 0)
        for table in COPIED:
            done = await self._pass(table, partial(_adopted, key, public, table), None, None)
            total = Counted(total.rows + done.rows, total.changed + done.changed)
        await self._say("vault pair adopted", total)
        return total

    async def rotate(self, old: RevealKey, public: PublicKey) -> Counted:
        """Every copy from one pair to another."""
        total = Counted(0, 0)
        for table in COPIED:
            done = await self._pass(table, partial(_rotated, old, public, table), None, None)
            total = Counted(total.rows + done.rows, total.changed + done.changed)
        await self._say("vault pair rotated", total)
        return total

    async def generation(self) -> int:
        async with self._database.project(self._project) as conn:
            return int((await _Q.one(conn, "ring")).generation)

    # --- slices -----------------------------------------------------------------------------------------------

    async def _pass(
        self, table: str, renew: Callable[[Any], Renewed | None], generation: int | None,
        seen: Callable[[str, int], None] | None,
    ) -> Counted:  # fmt: skip
        rows = changed = 0
        async for project in self._owners(table):
            owner, kind, lookup = "", "", b""
            while True:
                async with self._database.project(project) as conn:
                    found = await self._list(conn, project, table, (owner, kind, lookup))
                    pairs = [(row, renewed) for row in found if (renewed := renew(row)) is not None]
                    changed += await _replace(conn, table, pairs, generation) if pairs else 0
                rows += len(found)
                if seen is not None:
                    seen(table, changed)
                if len(found) < SLICE:
                    break
                owner, kind, lookup = found[-1].owner, found[-1].kind, bytes(found[-1].lookup)
        return Counted(rows, changed)

    async def _owners(self, table: str) -> AsyncIterator[str]:
        """Sealed names are seen project by project; everything else is the site's."""
        if table != "sealed":
            yield self._project
            return
        async with self._database.project(self._project) as conn:
            projects = await _Q.many(conn, "projects")
        for row in projects:
            yield row.id

    async def _list(self, conn: Connection, project: str, table: str, after: tuple[str, str, bytes]) -> list[Any]:
        record = record_text(self._actor, "vault rows sealed anew", "upkeep", {"table": table})
        return await _Q.many(
            conn, "list_rows", table=table, owner=after[0], kind=after[1], lookup=after[2], limit=SLICE,
            project=project, node=self._node, record=record,
        )  # fmt: skip

    async def _say(self, action: str, total: Counted) -> None:
        async with self._database.project(self._project) as conn:
            await audit.record(
                conn, project=self._project, node=self._node, actor=self._actor, action=action, subject="vault",
                details={"rows": total.rows, "changed": total.changed},
            )  # fmt: skip


async def _replace(
    conn: Connection, table: str, pairs: list[tuple[Any, Renewed]], generation: int | None
) -> int:
    rows = [row for row, _ in pairs]
    values = {
        "table": table, "owners": [row.owner for row in rows], "kinds": [row.kind for row in rows],
        "lookups": [row.lookup for row in rows], "was": [row.generation for row in rows],
        "new_lookups": [new.lookup for _, new in pairs], "bodies": [new.body for _, new in pairs],
        "copies": [new.copy for _, new in pairs],
        "generation": rows[0].generation if generation is None else generation,
    }  # fmt: skip
    return int((await _Q.one(conn, "replace_rows", **values)).changed)


def _place(table: str, row: Any, lookup: bytes) -> bytes:
    return place(table, row.owner, row.drawn if table == "subject" else row.kind, lookup)


def _rekeyed(new: VaultKey, table: str, row: Any) -> Renewed | None:
    if row.generation == new.generation:
        return None
    was = bytes(row.lookup)
    lookup = new.lookup(was, since=row.generation)
    body = bytes(row.body)
    if body:
        plain = new.open(body, place=_place(table, row, was), generation=row.generation)
        body = new.seal(plain, place=_place(table, row, lookup))
        if new.open(body, place=_place(table, row, lookup)) != plain:
            raise VaultConflict("a row that was sealed does not open again", hint="This machine's memory is failing.")
    return Renewed(lookup, body, row.copy)


def _checked(alone: VaultKey, table: str, row: Any) -> None:
    """The row opens under the new key alone; the others' are counted at the end."""
    if row.generation == alone.generation and row.body:
        alone.open(bytes(row.body), place=_place(table, row, bytes(row.lookup)))


def _adopted(key: VaultKey, public: PublicKey, table: str, row: Any) -> Renewed | None:
    if row.copy is not None or not row.body:
        return None
    lookup = bytes(row.lookup)
    original, daily = key.open(bytes(row.body), place=_place(table, row, lookup), generation=row.generation), b""
    if table == "subject":
        sealed = msgspec.msgpack.decode(original, type=int | SealedSubject)
        if isinstance(sealed, int):
            return None  # of the first form: the original was never kept
        original, daily = sealed.name, key.seal(
            msgspec.msgpack.encode(sealed.offset_days), place=_place(table, row, lookup)
        )  # fmt: skip
    copy = public.sealer().seal(original, place=copy_place(table, row.owner, row.drawn))
    return Renewed(lookup, daily, copy)


def _rotated(old: RevealKey, public: PublicKey, table: str, row: Any) -> Renewed | None:
    if row.copy is None or bytes(row.copy).startswith(public.pair):
        return None
    where = copy_place(table, row.owner, row.drawn)
    original = old.open(bytes(row.copy), place=where)
    return Renewed(bytes(row.lookup), bytes(row.body), public.sealer().seal(original, place=where))
