"""What only a custodian asks of the vault: reveal, export, erase, import.

**Reveal and export** hand out originals as they are sealed for the two key files; nothing is opened here. A request
is signed with the secret of both files, so that a custodian's token alone gets nothing, and every request leaves its
record, refused or answered, with names of ours only.

**Erasure**, in order, and what a kill between leaves: tombstones are written to their file and synced (the next start
erases what they name); the published slides are withdrawn; rows go and the record is written in one transaction.

**Import** never overwrites. A line that contradicts what stands, or another line, is reported by its number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from psycopg.errors import UniqueViolation

from mover import audit, metrics
from mover.catalog import queries
from mover.catalog.database import Connection, Database
from mover.decide import crosswalks
from mover.decide.folding import canonical_name
from mover.deid.identity import entity_key
from mover.deid.tombstones import Stone, read_stones, write_stones
from mover.deid.vault import PATIENT, SEAL_LIMIT, Vault, new_pseudonym
from mover.deid.vaultkeys import PublicKey, ask_bytes
from mover.errors import Denied, NotFound, RequestInvalid, SettingsInvalid
from mover.model import wire
from mover.randomness import new_offset_days

TABLES = {"uids": "uid", "patients": "subject"}
_Q = queries.load(__file__)


class Custody:
    """`vault` is the vault's own connection, `database` the daemon's; `stones` the file of tombstones."""

    def __init__(
        self, vault: Vault, vault_database: Database, database: Database, *, site: str, node: str, stones: Path,
        public: Callable[[], PublicKey | None],
    ) -> None:  # fmt: skip
        self._vault, self._vault_database, self._database = vault, vault_database, database
        self._site, self._node, self._stones, self._public = site, node, stones, public

    async def status(self, project: str) -> wire.VaultStatus:
        async with self._vault_database.project(project) as conn:
            ring = await _Q.one(conn, "ring")
        public = self._public()
        return wire.VaultStatus(
            site=self._site, generation=ring.generation, rekeying=ring.oldest < ring.generation,
            pair=public.pair.hex() if public else None,
        )  # fmt: skip

    # --- reveal and export ------------------------------------------------------------------------------------

    async def reveal(
        self, project: str, actor: str, body: wire.VaultRevealRequest, *, request: str = ""
    ) -> wire.VaultCopies:
        names = list(dict.fromkeys(body.names))
        await self._check(project, actor, "reveal", body.purpose, names, body.signature, request=request)
        known = await self._of_project(project, names)
        copies: list[wire.VaultCopy] = []
        found: set[str] = set()
        async with self._vault_database.project(project) as conn:
            for kind in ("number", "subject"):
                for row in await _Q.many(conn, "by_drawn", table=kind, site=self._site, drawn=sorted(known)):
                    found.add(row.drawn)
                    if row.copy is not None:
                        copies.append(wire.VaultCopy(kind=kind, name=row.drawn, copy=bytes(row.copy)))
            sealed = {copy.name for copy in copies}
            await self._record(
                conn, project, actor, "vault revealed", reason=body.purpose, request=request,
                details={"names": sorted(found), "unknown": len(names) - len(found)},
            )  # fmt: skip
        metrics.VAULT_LOOKS.inc()
        return wire.VaultCopies(
            site=self._site, copies=copies, unknown=[name for name in names if name not in found],
            unsealed=sorted(found - sealed),
        )  # fmt: skip

    async def export(
        self, project: str, actor: str, body: wire.VaultExportRequest, *, request: str = ""
    ) -> wire.VaultCopies:
        """One page; its record stands in the transaction that reads it."""
        table = TABLES[body.what]
        await self._check(project, actor, "export", body.purpose, [body.what], body.signature, request=request)
        record = self._text(actor, "vault exported", body.purpose, request, {"what": body.what, "limit": body.limit})
        async with self._vault_database.project(project) as conn:
            rows = await _Q.many(
                conn, "list_rows", table=table, owner=self._site, kind="", lookup=_cursor(body.after),
                limit=body.limit, project=project, node=self._node, record=record,
            )  # fmt: skip
        rows = [row for row in rows if row.owner == self._site]
        mine = await self._of_project(project, sorted({row.subject for row in rows if row.subject}))
        shown = [row for row in rows if row.subject in mine]
        metrics.VAULT_LOOKS.inc()
        return wire.VaultCopies(
            site=self._site,
            copies=[
                wire.VaultCopy(kind=table, name=row.drawn, copy=bytes(row.copy))  # type: ignore[arg-type]
                for row in shown if row.copy is not None
            ],
            unsealed=[row.drawn for row in shown if row.copy is None],
            skipped=len(rows) - len(shown),
            next=bytes(rows[-1].lookup).hex() if len(rows) == body.limit else None,
        )  # fmt: skip

    async def _check(
        self, project: str, actor: str, action: str, purpose: str, what: Sequence[str], signature: str, *, request: str
    ) -> None:
        """Raises Denied, with its record, unless both key files signed exactly this. The record counts what was asked
        for: a word that is no name of ours may be a patient's."""
        public = self._public()
        if public is None:
            refusal = "this site has no pair of key files"
            hint = "Make it with `mover vault keys new`; what was sealed before is sealed for it then."
        elif not _is_hex(signature) or not public.is_signed(bytes.fromhex(signature), ask_bytes(action, purpose, what)):
            refusal, hint = "both key files of the pair in use are needed", f"The pair is {public.pair.hex()}."
        else:
            return
        async with self._vault_database.project(project) as conn:
            await self._record(
                conn, project, actor, f"vault {action} refused", reason=purpose, request=request,
                details={"why": refusal, "asked": len(what)},
            )  # fmt: skip
        raise Denied(refusal, hint=hint)

    async def _of_project(self, project: str, names: Sequence[str]) -> set[str]:
        """Those numbers and subjects that the project has a slide of: another project's do not exist (D18)."""
        wanted = list(names)
        async with self._vault_database.instance() as conn:
            tied = await _Q.many(conn, "tied", site=self._site, subjects=wanted)
        numbers = sorted({*wanted, *(row.number for row in tied)})
        async with self._database.project(project) as conn:
            granted = {row.number for row in await _Q.many(conn, "granted", numbers=numbers)}
            subjects = {row.subject for row in await _Q.many(conn, "aligned_subjects", subjects=wanted)}
        return granted.intersection(wanted) | subjects | {row.subject for row in tied if row.number in granted}

    # --- erasure ----------------------------------------------------------------------------------------------

    async def plan_erase(self, project: str, actor: str, body: wire.VaultEraseRequest) -> wire.VaultErased:
        stones, numbers = await self._stones_of(project, body.subject)
        async with self._database.project(project) as conn:
            return await self._told(conn, project, body.subject, stones, numbers, planned=True)

    async def erase(
        self, project: str, actor: str, body: wire.VaultEraseRequest, *, request: str = ""
    ) -> wire.VaultErased:
        """Asked again after a kill it does what is left."""
        stones, numbers = await self._stones_of(project, body.subject)
        await asyncio.to_thread(write_stones, self._stones, self._vault.key, stones)
        async with self._database.project(project) as conn:
            told = await self._told(conn, project, body.subject, stones, numbers, planned=False)
        for holder in {project, *told.other_projects}:
            async with self._database.project(holder) as conn:
                slides = [row.number for row in await _Q.many(conn, "published", numbers=numbers)]
                await conn.execute(_Q["withdraw"], {"numbers": slides, "by": "erasure"})
        async with self._vault_database.project(project) as conn:
            gone = await self._bury(conn, stones)
            await self._record(
                conn, project, actor, "vault erased", reason=body.purpose, request=request, subject=body.subject,
                details={"rows": gone, "kinds": told.rows, "withdrawn": told.withdrawn},
            )  # fmt: skip
        return told

    async def _stones_of(self, project: str, subject: str) -> tuple[list[Stone], list[str]]:
        """What is one patient's, and the numbers of its scans."""
        if subject not in await self._of_project(project, [subject]):
            raise NotFound("no such subject in this project")
        async with self._database.project(project) as conn:
            aligned = [row.number for row in await _Q.many(conn, "slides_of_subject", subject=subject)]
        drawn: dict[str, set[str]] = {"number": set(aligned), "subject": set(), "entity": set(), "uid": set()}
        stones = []
        async with self._vault_database.instance() as conn:
            for row in await _Q.many(conn, "of_subject", site=self._site, subject=subject):
                drawn[row.kind].add(row.drawn)
            for kind, names in drawn.items():
                for part in _slices(sorted(names)):
                    rows = await _Q.many(conn, "by_drawn", table=kind, site=self._site, drawn=part)
                    stones += [self._stone(kind, row.lookup, row.generation, row.drawn) for row in rows]
        numbers = sorted(drawn["number"])
        return stones + await self._sealed_stones(project, numbers), numbers

    async def _sealed_stones(self, project: str, numbers: list[str]) -> list[Stone]:
        """The sealed names of the packs that became these slides, in every project that has one."""
        async with self._database.project(project) as conn:
            holders = await _Q.many(conn, "holders", numbers=numbers)
        stones = []
        for holder in sorted({project, *(row.project_id for row in holders)}):
            async with self._database.project(holder) as conn:
                packs = await _Q.many(conn, "packs_of", numbers=numbers)
            ids = sorted({id for pack in packs for id in (pack.entry, pack.barcode)})
            generation = self._vault.key.generation
            async with self._vault_database.project(holder) as conn:
                for part in _slices(ids):
                    rows = await _Q.many(conn, "read_sealed", generation=generation, project=holder, ids=part)
                    stones += [self._stone("sealed", r.lookup, r.generation, r.id, holder) for r in rows if r.body]
        return stones

    def _stone(self, kind: Any, lookup: bytes, generation: int, stood_for: str, project: str = "") -> Stone:
        return Stone(
            site=self._site, kind=kind, lookup=bytes(lookup), generation=generation, stood_for=stood_for,
            project=project,
        )  # fmt: skip

    async def _told(
        self, conn: Connection, project: str, subject: str, stones: list[Stone], numbers: list[str], *, planned: bool
    ) -> wire.VaultErased:
        holders = await _Q.many(conn, "holders", numbers=numbers)
        others: dict[str, list[str]] = {}
        for row in holders:
            if row.project_id != project:
                others.setdefault(row.project_id, []).append(row.number)
        rows: dict[str, int] = {}
        for stone in stones:
            rows[stone.kind] = rows.get(stone.kind, 0) + 1
        return wire.VaultErased(
            subject=subject, planned=planned, rows=rows,
            withdrawn=[row.number for row in await _Q.many(conn, "published", numbers=numbers)],
            other_projects={name: sorted(set(found)) for name, found in sorted(others.items())},
            runs=sorted({row.run_id for row in holders if row.run_id}),
        )  # fmt: skip

    async def _bury(self, conn: Connection, stones: Iterable[Stone]) -> int:
        gone = 0
        for part in _slices([one for one in stones if one.site == self._site]):
            values = {
                "site": self._site, "kinds": [one.kind for one in part], "lookups": [one.lookup for one in part],
                "generations": [one.generation for one in part], "stood_for": [one.stood_for for one in part],
                "projects": [one.project for one in part],
            }  # fmt: skip
            gone += (await _Q.one(conn, "bury", **values)).gone
        return gone

    async def honour(self, project: str) -> int:
        """At every start, before anything is asked of the vault: its key is the right one, and what the file of
        tombstones names is gone, whatever backup the database came from. Answers how many rows went once more."""
        await self._vault.find_number("")  # of two key files, the one that the vault is of
        key = self._vault.key
        async with self._vault_database.instance() as conn:
            if not (await _Q.one(conn, "claim", generation=key.generation, check=key.check())).ours:
                raise SettingsInvalid("this is not the key of this vault", hint="Put the vault's own key file back.")
        gone = 0
        stones = read_stones(self._stones, key)
        while part := await asyncio.to_thread(lambda: list(islice(stones, SEAL_LIMIT))):
            now = [
                msgspec.structs.replace(
                    one, lookup=key.lookup(one.lookup, since=one.generation), generation=key.generation
                )
                for one in part
            ]
            async with self._vault_database.project(project) as conn:
                count = await self._bury(conn, now)
                if count:
                    await self._record(
                        conn, project, "daemon", "vault erased again", reason="a restored backup",
                        details={"rows": count},
                    )  # fmt: skip
            gone += count
        return gone

    # --- import -----------------------------------------------------------------------------------------------

    async def import_rows(
        self, project: str, actor: str, body: wire.VaultImportRequest, *, plan: bool, request: str = ""
    ) -> wire.VaultImported:
        """Insert-or-get of another's crosswalk. Nothing that stands is overwritten."""
        lines = [
            crosswalks.Line(
                line=row.line, patient=entity_key("patient", row.patient).removeprefix(PATIENT),
                pseudonym=row.pseudonym.strip(), offset_days=row.offset_days, file=canonical_name(row.file),
                number=row.number.strip(),
            )
            for row in body.rows
        ]  # fmt: skip
        standing = await self._standing(lines)
        verdict = crosswalks.judge_lines(lines, standing)
        taken = 0
        if not plan:
            try:
                taken = await self._take(verdict.new)
            except UniqueViolation:
                # somebody minted what we looked for meanwhile: the look is repeated by the next request
                raise RequestInvalid("the vault changed while the lines were judged", hint="Send them again.") from None
            async with self._vault_database.project(project) as conn:
                await self._record(
                    conn, project, actor, "vault imported", reason=body.purpose, request=request,
                    details={"taken": taken, "same": verdict.same, "refused": len(verdict.problems)},
                )  # fmt: skip
        return wire.VaultImported(
            planned=plan, taken=len(verdict.new) if plan else taken, same=verdict.same,
            problems=[wire.VaultImportProblem(line=p.line, code=p.code, shape=p.shape) for p in verdict.problems],
        )  # fmt: skip

    async def _standing(self, lines: Sequence[crosswalks.Line]) -> crosswalks.Standing:
        patients = sorted({line.patient for line in lines if line.patient})
        files = sorted({line.file for line in lines if line.file})
        subjects, erased = await self._vault.known_subjects(patients)
        promises = await self._vault.known_promises(files)
        async with self._vault_database.instance() as conn:
            taken = set()
            wanted = [("subject", {line.pseudonym for line in lines}), ("number", {line.number for line in lines}),
                      ("promise", {line.number for line in lines})]  # fmt: skip
            for table, drawn in wanted:
                rows = await _Q.many(conn, "by_drawn", table=table, site=self._site, drawn=sorted(drawn))
                taken |= {row.drawn for row in rows}
        return crosswalks.Standing(
            subjects=subjects, promises=promises, taken=frozenset(taken), erased=frozenset(erased)
        )

    async def _take(self, lines: Sequence[crosswalks.Line]) -> int:
        offsets = {
            line.patient: (line.pseudonym or new_pseudonym(), line.offset_days or new_offset_days())
            for line in lines if line.patient
        }  # fmt: skip
        return await self._vault.take_subjects(offsets) + await self._vault.take_promises(
            {line.file: line.number for line in lines if line.file}
        )

    # --- small ------------------------------------------------------------------------------------------------

    async def _record(
        self, conn: Connection, project: str, actor: str, action: str, *, reason: str, request: str = "",
        subject: str = "vault", details: dict[str, Any],
    ) -> None:  # fmt: skip
        await audit.record(
            conn, project=project, node=self._node, actor=actor, action=action, subject=subject, reason=reason,
            request=request, details=details,
        )  # fmt: skip

    def _text(self, actor: str, action: str, reason: str, request: str, details: dict[str, Any]) -> str:
        return record_text(actor, action, reason, details, request=request)


def record_text(actor: str, action: str, reason: str, details: dict[str, Any], *, request: str = "") -> str:
    """A record's body for the functions of the schema that write it themselves; in the form of `audit.record`."""
    body = {"actor": actor, "action": action, "subject": "vault", "reason": reason, "request": request}
    return msgspec.json.encode(body | {"details": details}, order="sorted").decode()


def _slices(items: Sequence[Any]) -> Iterator[Any]:
    for start in range(0, len(items), SEAL_LIMIT):
        yield items[start : start + SEAL_LIMIT]


def _cursor(text: str) -> bytes:
    if not text:
        return b""
    if not _is_hex(text):
        raise RequestInvalid("`after` is not the `next` of an earlier page")
    return bytes.fromhex(text)


def _is_hex(text: str) -> bool:
    return bool(text) and len(text) % 2 == 0 and set(text) <= set("0123456789abcdef")
