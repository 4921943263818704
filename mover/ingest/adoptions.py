"""An already filled deidentified tier: scanned as if it were a source, and what is clean of it becomes slides.

No byte of it is moved, changed or deleted. Every file gets a verdict about the bytes that were read, stored with their
digest, and the whole a root over all of them (`decide.adoption`). A slide that is clean with all of its files is then
registered where it lies: under a number of ours, with a sidecar that vouches for its files by the names they have; the
broker's names stand in the report beside the number. What is not clean stays out, with its reasons. What the report
shows of a file's inside is places and masked shapes; its name is shown as the tier shows it to anybody.

Order, and what a kill between leaves:
  1. verdicts of a slice with the numbers of its clean slides, in one transaction -> the files that have none yet go on
  2. a slide's files are still what they were, and its sidecar is put          -> found again by the same number
  3. slide, files, grant, proof, outcome and audit record in one transaction   -> all of it, or none
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
from blake3 import blake3
from psycopg.errors import UniqueViolation
from psycopg.types.json import Jsonb

from mover import __version__, audit
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.adoption import Judged, adoptable, stands_for, summary, why_not_here
from mover.decide.packs import FoundPack, members_of
from mover.decide.survey import PlaceSeen
from mover.errors import (
    ChangedWhileReading,
    Conflict,
    EntryExists,
    EntryMissing,
    LimitExceeded,
    MoverError,
    NotFound,
    RequestInvalid,
)
from mover.ingest.adopting import VERIFIER, FileSeen, Onlooker, SlideSeen
from mover.ingest.batches import SQL
from mover.ingest.outcomes import file_rows, slide_row
from mover.jobs import FailureHandler, Handler, NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.names import name_bytes, shown_name
from mover.model.sidecar import Sidecar, decode_sidecar, encode_sidecar, sidecar_key
from mover.model.tiers import Entry, Fingerprint
from mover.randomness import new_id, new_number
from mover.sandbox import Sandbox
from mover.tiers.guard import guarded
from mover.tiers.port import PruneTier, ReadTier, prunable
from mover.transfer import Transfer

SCAN: Final = "adopt-scan"
REGISTER: Final = "adopt-register"
SLICE_BYTES: Final = 64 << 30  # looked at between two transactions, or
SLICE: Final = 16  # slides
LISTED_MAX: Final = 1_000_000  # entries of one adoption
REPORT_SLICE: Final = 500
PAGE_MAX: Final = 1000

_Q = load(__file__)
log = get_logger("ingest")


class Adoptions:
    def __init__(
        self,
        database: Database,
        tiers: Mapping[str, ReadTier],
        sandbox: Sandbox,
        transfer: Transfer,
        *,
        site: str,
        node: str,
        spool: Path,
    ) -> None:
        self._database, self._tiers, self._node = database, tiers, node
        self._onlooker = Onlooker(sandbox, transfer, site=site, spool=spool)

    def handlers(self) -> dict[str, Handler]:
        return {SCAN: self.scan, REGISTER: self.register_slides}

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {SCAN: self.failed, REGISTER: self.failed}

    # --- ask and look ---------------------------------------------------------------------------------------

    async def request(
        self, project: str, actor: str, body: wire.AdoptionRequest, *, request: str = ""
    ) -> wire.Adoption:
        """Begin a scan; of a place that is being scanned already, that scan."""
        tier = self._tiers.get(body.tier)
        if tier is None:
            raise RequestInvalid(f"the tier {body.tier} is not configured on this node")
        prefix = "/".join(part for part in body.prefix.split("/") if part)
        async with self._database.project(project) as conn:
            place = await _Q.one(conn, "place", tier=body.tier)
        why, hint = why_not_here(zone=tier.zone, role=place.role)
        if why:
            raise RequestInvalid(why, where=body.tier, hint=hint)
        if body.register:
            prunable(tier)  # sidecars are put there
        await in_thread(guarded, lambda _: tier.check_identity(), tier)
        async with self._database.project(project) as conn:
            standing = await _Q.one(conn, "standing", tier=body.tier, prefix=prefix, trust_names=body.trust_names)
            if standing is not None:
                return await self._view(conn, standing.id)
            id = new_id("adoption")
            await conn.execute(_Q["insert"], {
                "id": id, "project": project, "tier": body.tier, "prefix": prefix, "actor": actor,
                "trust_names": body.trust_names, "reason": body.reason, "register": body.register,
            })  # fmt: skip
            await add_shards(conn, project, [NewShard(tier_queue(body.tier), SCAN, id)])
            answer = await self._view(conn, id)
            await self._audit(
                conn, project, actor, "adoption requested", id, reason=body.reason, request=request,
                details={"tier": body.tier, "names trusted": body.trust_names, "register": body.register},
            )  # fmt: skip
        return answer

    async def register(
        self, project: str, actor: str, id: str, body: wire.AdoptionRegister, *, request: str = ""
    ) -> wire.Adoption:
        """Somebody has seen the verdicts: what is clean becomes slides."""
        async with self._database.project(project) as conn:
            row = await _Q.one(conn, "get", id=id)
            if row is None:
                raise NotFound("no such adoption", where=id)
            if row.state in ("registering", "complete"):
                return await self._view(conn, id)
            prunable(self._tiers[row.tier])  # sidecars are put there
            if await _Q.one(conn, "take", id=id) is None:
                raise Conflict(f"the adoption is {row.state}", where=id, hint="Wait for its scan, or scan again.")
            await add_shards(conn, project, [NewShard(tier_queue(row.tier), REGISTER, id)])
            answer = await self._view(conn, id)
            await self._audit(conn, project, actor, "adoption applied", id, reason=body.reason, request=request)
        return answer

    async def view(self, project: str, id: str) -> wire.Adoption:
        async with self._database.project(project) as conn:
            return await self._view(conn, id)

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.AdoptionPage:
        bound = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "page", after=after, limit=bound)
            found = [await self._told(conn, row) for row in rows]
        return wire.AdoptionPage(adoptions=found, next=rows[-1].id if len(rows) == bound else None)

    async def report(self, project: str, id: str) -> AsyncIterator[bytes]:
        """Every file with its verdict, as JSON lines; a slice at a time."""
        await self.view(project, id)
        after = b""
        while True:
            async with self._database.project(project) as conn:
                rows = await _Q.many(conn, "files", id=id, after=after, limit=REPORT_SLICE)
            yield b"".join(_line(row, number=row.number, slide=row.outcome, why=row.why) for row in rows)
            if len(rows) < REPORT_SLICE:
                return
            after = bytes(rows[-1].key)

    async def _view(self, conn: Connection, id: str) -> wire.Adoption:
        row = await _Q.one(conn, "get", id=id)
        if row is None:
            raise NotFound("no such adoption", where=id)
        return await self._told(conn, row)

    async def _told(self, conn: Connection, row: Any) -> wire.Adoption:
        counted = await _Q.many(conn, "counts", id=row.id)
        outcomes = await _Q.many(conn, "outcomes", id=row.id)
        return wire.Adoption(
            id=row.id, tier=row.tier, prefix=row.prefix, state=row.state, trust_names=row.trust_names,
            reason=row.reason, explanation=row.explanation, verdicts={one.verdict: one.count for one in counted},
            slides={one.outcome: one.count for one in outcomes}, bytes=sum(one.bytes for one in counted),
            root=row.root, judged_by=row.judged_by, created_by=row.created_by, created_at=row.created_at,
            finished_at=row.finished_at,
        )  # fmt: skip

    # --- scan -----------------------------------------------------------------------------------------------

    async def scan(self, shard: Shard) -> None:
        """Every file below the prefix; the files of a slide together, some slides in one transaction."""
        async with self._database.project(shard.project) as conn:
            row = await _Q.one(conn, "get", id=shard.subject_id)
        tier = self._tiers[row.tier]
        entries = await in_thread(guarded, lambda _: _listed(tier, row.prefix), tier)
        entries, known = await self._apart(shard, row, entries)
        slides, left = adoptable(entries.values(), folder=row.prefix)
        beside = [*known, *(_refused(key, why, entries) for key, why in left)]
        for at in range(0, len(beside), REPORT_SLICE):
            await self._write(shard, row, beside[at : at + REPORT_SLICE])
        for slice in _slices(slides):
            done = await self._done(shard, row, [key for pack in slice for key in pack.keys])
            fresh = [pack for pack in slice if not done.issuperset(_own(pack))]
            seen = [await self._look(tier, row, pack) for pack in fresh]
            if seen:
                await self._write(shard, row, seen)
        await self._scanned(shard, row)

    async def _apart(
        self, shard: Shard, row: Any, entries: Mapping[str, Entry]
    ) -> tuple[dict[str, Entry], tuple[SlideSeen, ...]]:
        """Files of slides that stand need no look: their own folders are the archive's."""
        own = {name_bytes(key): key for key in entries if stands_for(key)}
        known: set[str] = set()
        ordered = list(own)
        for at in range(0, len(ordered), REPORT_SLICE):
            async with self._database.project(shard.project) as conn:
                await renew_shard(conn, shard, lease_s=LEASE_S)
                found = await _Q.many(conn, "vouched", tier=row.tier, keys=ordered[at : at + REPORT_SLICE])
            known.update(own[bytes(one.key)] for one in found)
        told = (FileSeen(key, entries[key].fingerprint, None, Judged("known")) for key in sorted(known))
        rest = {key: entry for key, entry in entries.items() if key not in known}
        return rest, tuple(SlideSeen(files=(one,)) for one in told)

    async def _done(self, shard: Shard, row: Any, keys: Sequence[str]) -> set[str]:
        by_bytes = {name_bytes(key): key for key in keys}
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            found = await _Q.many(conn, "judged", id=row.id, keys=list(by_bytes))
        return {by_bytes[bytes(one.key)] for one in found}

    async def _look(self, tier: ReadTier, row: Any, pack: FoundPack) -> SlideSeen:
        return await in_thread(
            guarded,
            lambda _: self._onlooker.look(
                tier, pack, below=row.prefix, trust_names=row.trust_names, number=new_number()
            ),
            tier,
        )

    async def _write(self, shard: Shard, row: Any, slides: Sequence[SlideSeen]) -> None:
        common = {"project": shard.project, "id": row.id}
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            for one in slides:
                await conn.cursor().executemany(_Q["add_file"], [common | _verdict(one, file) for file in one.files])
                if one.sidecar is not None:
                    await conn.execute(_Q["add_slide"], common | _clean(one, one.sidecar))

    async def _scanned(self, shard: Shard, row: Any) -> None:
        root, after, counts = blake3(), b"", dict[str, int]()
        async with self._database.project(shard.project) as conn:
            while rows := await _Q.many(conn, "files", id=row.id, after=after, limit=REPORT_SLICE):
                for one in rows:
                    root.update(_line(one))
                    counts[one.verdict] = counts.get(one.verdict, 0) + 1
                after = bytes(rows[-1].key)
            if not counts:
                raise EntryMissing("nothing stands below the prefix", where=row.tier)
            values = {"id": row.id, "root": root.hexdigest(), "judged_by": f"mover {__version__}"}
            now = await _Q.one(conn, "scanned", **values)
            if now is not None and now.state == "registering":
                await add_shards(conn, shard.project, [NewShard(tier_queue(row.tier), REGISTER, row.id)])
            await finish_shard(conn, shard)
            await self._audit(
                conn, shard.project, "daemon", "adoption scanned", row.id, details={**counts, "root": values["root"]}
            )
        log.info("adoption scanned", count=sum(counts.values()))

    # --- register -------------------------------------------------------------------------------------------

    async def register_slides(self, shard: Shard) -> None:
        async with self._database.project(shard.project) as conn:
            row = await _Q.one(conn, "get", id=shard.subject_id)
        tier = prunable(self._tiers[row.tier])
        await in_thread(guarded, lambda _: tier.check_identity(), tier)
        count = 0
        while True:
            async with self._database.project(shard.project) as conn:
                await renew_shard(conn, shard, lease_s=LEASE_S)
                slides = await _Q.many(conn, "open_slides", id=row.id, limit=SLICE)
            for one in slides:
                await self._register(shard, row, tier, one)
            count += len(slides)
            if len(slides) < SLICE:
                break
        async with self._database.project(shard.project) as conn:
            await conn.execute(_Q["complete"], {"id": row.id})
            outcomes = {one.outcome: one.count for one in await _Q.many(conn, "outcomes", id=row.id)}
            await finish_shard(conn, shard)
            await self._audit(conn, shard.project, "daemon", "adoption complete", row.id, details=outcomes)
        log.info("adoption complete", count=count)

    async def _register(self, shard: Shard, row: Any, tier: PruneTier, one: Any) -> None:
        """One clean slide to its outcome."""
        sidecar = decode_sidecar(one.sidecar.encode())
        marks = {key: msgspec.convert(mark, type=Fingerprint) for key, mark in one.marks.items()}
        code = ""
        try:
            standing = await self._standing(shard, one.scan)
            if standing is None and not (code := await self._withdrawn(shard, sidecar)):
                await in_thread(guarded, lambda _: _vouch(tier, sidecar, marks), tier)
                standing = await self._commit(shard, row, one, sidecar)
                if standing is None:
                    return
        except (ChangedWhileReading, EntryMissing, EntryExists) as error:
            code, standing = error.code, await self._standing(shard, one.scan)
        if standing is not None and standing.number == sidecar.number:
            return  # whoever has our lease by now was quicker
        # what vouches for no slide goes before the word that there is none: whoever is killed between comes here again
        await in_thread(guarded, lambda _: _unvouch(tier, sidecar), tier)
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            if code:
                await self._refuse(conn, shard, row, sidecar.number, code)
            else:
                await self._duplicate(conn, shard, row, sidecar.number, standing)

    async def _standing(self, shard: Shard, scan: str) -> Any:
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            return await _Q.one(conn, "slide_of", scan=scan)

    async def _withdrawn(self, shard: Shard, sidecar: Sidecar) -> str:
        """Why one of these very files may not stand in a slide, "" for none."""
        digests = [sidecar.blake3, *(file.blake3 for file in sidecar.files)]
        async with self._database.project(shard.project) as conn:
            found = await _Q.one(conn, "withdrawn_bytes", digests=digests)
        return found.reason if found is not None else ""

    async def _commit(self, shard: Shard, row: Any, one: Any, sidecar: Sidecar) -> Any:
        """None, or the slide that took the scan's place meanwhile; then nothing is written."""
        project, number = shard.project, sidecar.number
        try:
            async with self._database.project(project) as conn:
                await renew_shard(conn, shard, lease_s=LEASE_S)
                await conn.execute(_Q["lock_scan"], {"scan": one.scan})
                standing = await _Q.one(conn, "slide_of", scan=one.scan)
                if standing is not None:
                    return standing
                await conn.execute(SQL["grant_slide"], {"project": project, "number": number})
                await SQL.one(conn, "insert_slide", **slide_row(sidecar, row.tier))
                if sidecar.files:
                    await conn.cursor().executemany(SQL["insert_file"], file_rows(sidecar, row.tier))
                proof = await proofs.add(
                    conn, project=project, kind="adopted", subject=number, count=1 + len(sidecar.files),
                    bytes=sidecar.total_bytes, root=sidecar.root, verifier=VERIFIER,
                    details={**one.evidence, "adoption": row.id, "names trusted": row.trust_names},
                )  # fmt: skip
                await self._settle(conn, row, number, "registered", proof=proof)
                await self._audit(
                    conn, project, "daemon", "slide adopted", number, reason=row.reason,
                    details={"adoption": row.id, "family": sidecar.family, "bytes": sidecar.total_bytes},
                )  # fmt: skip
        except UniqueViolation as error:
            raise EntryExists("a slide of other bytes is known by this name", where=number) from error
        return None

    async def _duplicate(self, conn: Connection, shard: Shard, row: Any, number: str, standing: Any) -> None:
        """The scan is a slide already: this project gets it, unless it was withdrawn."""
        if standing.withdrawn is not None:
            await self._settle(conn, row, number, "refused", reason=standing.withdrawn)
            await conn.execute(_Q["renumber"], {"id": row.id, "number": number, "standing": None})
            return
        await conn.execute(SQL["grant_slide"], {"project": shard.project, "number": standing.number})
        await self._settle(conn, row, number, "duplicate", reason=None)
        await conn.execute(_Q["renumber"], {"id": row.id, "number": number, "standing": standing.number})
        await self._audit(
            conn, shard.project, "daemon", "slide adopted again", standing.number, details={"adoption": row.id}
        )

    async def _refuse(self, conn: Connection, shard: Shard, row: Any, number: str, code: str) -> None:
        await self._settle(conn, row, number, "refused", reason=code)
        await self._audit(conn, shard.project, "daemon", "slide not adopted", number, reason=code,
                          details={"adoption": row.id})  # fmt: skip
        log.warning("slide not adopted", number=number, code=code)

    async def _settle(
        self, conn: Connection, row: Any, number: str, outcome: str, *, reason: str | None = None,
        proof: str | None = None,
    ) -> None:  # fmt: skip
        values = {"id": row.id, "number": number, "outcome": outcome, "reason": reason, "proof": proof}
        await conn.execute(_Q["settle"], values)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        await conn.execute(_Q["fail"], {"id": shard.subject_id, "explanation": f"{error.code}: {error.what}"})
        await self._audit(conn, shard.project, "daemon", "adoption failed", shard.subject_id, reason=error.code)

    async def _audit(
        self, conn: Connection, project: str, actor: str, action: str, subject: str, *, reason: str = "",
        request: str = "", details: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        await audit.record(
            conn, project=project, node=self._node, actor=actor, action=action, subject=subject, reason=reason,
            request=request, details=details,
        )  # fmt: skip


# --- the tier (blocking) ------------------------------------------------------------------------------------


def _listed(tier: ReadTier, prefix: str) -> dict[str, Entry]:
    """All entries, because which files are one slide only all of them say."""
    tier.check_identity()
    found = {entry.key: entry for entry in islice(tier.list(prefix), LISTED_MAX + 1)}
    if len(found) > LISTED_MAX:
        raise LimitExceeded(f"more than {LISTED_MAX} entries below one prefix", where=tier.name,
                            hint="Adopt its folders one after the other.")  # fmt: skip
    return found


def _vouch(tier: PruneTier, sidecar: Sidecar, marks: Mapping[str, Fingerprint]) -> None:
    """The sidecar beside files that are still what was judged; again after a kill, the one that stands is it."""
    for key, seen in marks.items():
        if tier.stat(key).fingerprint != seen:
            raise ChangedWhileReading("a file changed after it was judged", where=sidecar.number)
    try:
        tier.put(sidecar_key(sidecar.number), [encode_sidecar(sidecar)])
    except EntryExists:
        if decode_sidecar(tier.read(sidecar_key(sidecar.number))) != sidecar:
            raise


def _unvouch(tier: PruneTier, sidecar: Sidecar) -> None:
    """Ours, and no other that stands in its place."""
    with suppress(EntryMissing):
        if decode_sidecar(tier.read(sidecar_key(sidecar.number))) == sidecar:
            tier.tidy(sidecar_key(sidecar.number))


# --- small tools --------------------------------------------------------------------------------------------


def _slices(slides: Sequence[FoundPack]) -> Iterator[list[FoundPack]]:
    """So many slides, or so many bytes."""
    some: list[FoundPack] = []
    held = 0
    for one in slides:
        if some and (len(some) == SLICE or held + one.size_bytes > SLICE_BYTES):
            yield some
            some, held = [], 0
        some.append(one)
        held += one.size_bytes
    if some:
        yield some


def _own(pack: FoundPack) -> Iterable[str]:
    return members_of(pack.keys).files


def _refused(key: str, why: str, entries: Mapping[str, Entry]) -> SlideSeen:
    judged = Judged("refused", (PlaceSeen("file", "unknown", why),))
    return SlideSeen(files=(FileSeen(key, entries[key].fingerprint, None, judged),))


def _verdict(slide: SlideSeen, file: FileSeen) -> dict[str, Any]:
    if file.judged.verdict == "known":
        number: str | None = stands_for(file.key)
    else:
        number = slide.sidecar.number if slide.sidecar is not None and file.key in slide.sidecar.keys else None
    return {
        "key": name_bytes(file.key), "verdict": file.judged.verdict, "family": file.family,
        "digest": file.digest.blake3 if file.digest is not None else None,
        "size_bytes": file.seen.size_bytes if file.seen is not None else 0,
        "reasons": Jsonb(summary(file.judged.reasons)), "number": number,
    }  # fmt: skip


def _clean(slide: SlideSeen, sidecar: Sidecar) -> dict[str, Any]:
    marks = {file.key: msgspec.to_builtins(file.seen) for file in slide.files if file.key in sidecar.keys}
    return {
        "number": sidecar.number, "scan": slide.scan, "sidecar": encode_sidecar(sidecar).decode(),
        "evidence": Jsonb(sidecar.evidence), "marks": Jsonb(marks),
    }  # fmt: skip


def _line(row: Any, **more: Any) -> bytes:
    """`more` is what became of the file since: no part of the root over the verdicts."""
    told = {
        "key": shown_name(row.key.decode("utf-8", "surrogateescape")), "verdict": row.verdict, "family": row.family,
        "size_bytes": row.size_bytes, "blake3": row.digest, "reasons": row.reasons,
    }  # fmt: skip
    return msgspec.json.encode(told | {name: value for name, value in more.items() if value is not None}) + b"\n"
