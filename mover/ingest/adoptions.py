"""An already filled deidentified tier, scanned as if it were a source: data that claims to be clean is looked at too.

Nothing is moved, changed or deleted. Every file gets a verdict about the bytes that were read (`decide.adoption`),
stored with their digest, and the whole a root over all of them. A scan that is cut off goes on with the files that have
no verdict yet. What the report shows of a file's inside is places and masked shapes; its name is shown as the tier
shows it to anybody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec
from blake3 import blake3
from psycopg.types.json import Jsonb

from mover import __version__, audit
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.adoption import CleanLook, Judged, judge_clean, summary
from mover.decide.packs import canonical_name, split_suffix
from mover.decide.quarantine import kind_of
from mover.decide.survey import PlaceSeen
from mover.errors import (
    EntryMissing,
    IdentityError,
    IntegrityError,
    LimitExceeded,
    MoverError,
    NotFound,
    RequestInvalid,
)
from mover.jobs import FailureHandler, Handler, NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.names import name_bytes, shown_name
from mover.model.tiers import Entry
from mover.randomness import new_id
from mover.sandbox import Sandbox
from mover.tiers.guard import guarded
from mover.tiers.port import ReadTier
from mover.tiers.staging import FileEntry
from mover.transfer import Transfer

KIND: Final = "adopt-scan"
SLICE: Final = 16  # files between two transactions
REPORT_SLICE: Final = 500
PAGE_MAX: Final = 1000
LOOK_S: Final = 600.0
# slides of several files and DICOM objects need their neighbours to be judged
UNJUDGED: Final = ("mirax", "vms", "dicom")

_Q = load(__file__)
log = get_logger("ingest")


class Adoptions:
    def __init__(
        self, database: Database, tiers: Mapping[str, ReadTier], sandbox: Sandbox, transfer: Transfer, *, node: str
    ) -> None:
        self._database, self._tiers, self._sandbox = database, tiers, sandbox
        self._transfer, self._node = transfer, node

    def handlers(self) -> dict[str, Handler]:
        return {KIND: self.scan}

    def failure_handlers(self) -> dict[str, FailureHandler]:
        return {KIND: self.failed}

    # --- ask and look ---------------------------------------------------------------------------------------

    async def request(
        self, project: str, actor: str, body: wire.AdoptionRequest, *, request: str = ""
    ) -> wire.Adoption:
        """Begin a verify-only scan; of a place that is being scanned already, that scan."""
        tier = self._tiers.get(body.tier)
        if tier is None:
            raise RequestInvalid(f"the tier {body.tier} is not configured on this node")
        if tier.zone != "deidentified":
            raise RequestInvalid(
                "only what stands on a deidentified tier can be adopted", where=body.tier,
                hint="Declare identified data as a batch: mover batch ready FOLDER.",
            )  # fmt: skip
        prefix = "/".join(part for part in body.prefix.split("/") if part)
        async with self._database.project(project) as conn:
            standing = await _Q.one(conn, "standing", tier=body.tier, prefix=prefix)
            if standing is not None:
                return await self._view(conn, standing.id)
            id = new_id("adoption")
            await conn.execute(_Q["insert"], {
                "id": id, "project": project, "tier": body.tier, "prefix": prefix, "actor": actor,
                "trust_names": body.trust_names, "reason": body.reason,
            })  # fmt: skip
            await add_shards(conn, project, [NewShard(tier_queue(body.tier), KIND, id)])
            answer = await self._view(conn, id)
            await self._audit(
                conn, project, actor, "adoption requested", id, reason=body.reason, request=request,
                details={"tier": body.tier, "names trusted": body.trust_names},
            )  # fmt: skip
        return answer

    async def view(self, project: str, id: str) -> wire.Adoption:
        async with self._database.project(project) as conn:
            return await self._view(conn, id)

    async def list(self, project: str, after: str | None = None, limit: int = 100) -> wire.AdoptionPage:
        bound = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            rows = await _Q.many(conn, "page", after=after, limit=bound)
            found = [_adoption(row, await _Q.many(conn, "counts", id=row.id)) for row in rows]
        return wire.AdoptionPage(adoptions=found, next=rows[-1].id if len(rows) == bound else None)

    async def report(self, project: str, id: str) -> AsyncIterator[bytes]:
        """Every file with its verdict, as JSON lines; a slice at a time."""
        await self.view(project, id)
        after = b""
        while True:
            async with self._database.project(project) as conn:
                rows = await _Q.many(conn, "files", id=id, after=after, limit=REPORT_SLICE)
            yield b"".join(_line(row) for row in rows)
            if len(rows) < REPORT_SLICE:
                return
            after = bytes(rows[-1].key)

    async def _view(self, conn: Connection, id: str) -> wire.Adoption:
        row = await _Q.one(conn, "get", id=id)
        if row is None:
            raise NotFound("no such adoption", where=id)
        return _adoption(row, await _Q.many(conn, "counts", id=id))

    # --- scan -----------------------------------------------------------------------------------------------

    async def scan(self, shard: Shard) -> None:
        """Every file below the prefix, slice by slice; each slice is one transaction that proves the lease."""
        async with self._database.project(shard.project) as conn:
            row = await _Q.one(conn, "get", id=shard.subject_id)
        tier = self._tiers[row.tier]
        listing = await in_thread(guarded, lambda _: _listing(tier, row.prefix), tier)
        while entries := await in_thread(guarded, lambda _: list(islice(listing, SLICE)), tier):
            keys = {entry.key: name_bytes(entry.key) for entry in entries}
            async with self._database.project(shard.project) as conn:
                await renew_shard(conn, shard, lease_s=LEASE_S)
                done = await _Q.many(conn, "judged", id=row.id, keys=list(keys.values()))
            standing = {bytes(one.key) for one in done}
            fresh = [entry for entry in entries if keys[entry.key] not in standing]
            files = [await self._file(tier, row, entry, keys[entry.key]) for entry in fresh]
            async with self._database.project(shard.project) as conn:
                await renew_shard(conn, shard, lease_s=LEASE_S)
                async with conn.cursor() as cursor:
                    await cursor.executemany(_Q["add_file"], [{"project": shard.project, **one} for one in files])
        await self._complete(shard, row)

    async def _file(self, tier: ReadTier, row: Any, entry: Entry, key: bytes) -> dict[str, Any]:
        below = entry.key[len(row.prefix) :].lstrip("/")
        family, digest, judged = "", None, Judged("refused", (_gone(),))
        try:
            look, digest = await in_thread(guarded, lambda _: self._look(tier, entry), tier)
            family = look.family
            judged = judge_clean(look, below, trust_names=row.trust_names)
        except EntryMissing:
            pass
        if entry.kind == "file" and kind_of((entry.key,)) in UNJUDGED:
            judged = Judged("unjudged", (_neighbours(),))
        return {
            "id": row.id, "key": key, "verdict": judged.verdict, "family": family, "digest": digest,
            "size_bytes": entry.fingerprint.size_bytes, "reasons": Jsonb(summary(judged.reasons)),
        }  # fmt: skip

    def _look(self, tier: ReadTier, entry: Entry) -> tuple[CleanLook, str | None]:
        """One look in the sandbox, and the digest of the bytes it was about (blocking)."""
        if entry.kind != "file":
            return CleanLook("", code="entry-refused", what="a link, a pipe or a device"), None
        with tier.open(entry.key) as opened:
            if not isinstance(opened, FileEntry):
                raise RequestInvalid(
                    "files are parsed through a descriptor, which this tier has none of", where=tier.name,
                    hint="Adopt from a posix tier; of an object store, mount or copy the prefix first.",
                )  # fmt: skip
            seen = opened.fingerprint()
            digest = self._transfer.digest(opened, tier=tier.name).blake3
            suffix = split_suffix(canonical_name(entry.key))[1]
            try:
                answer = self._sandbox.run(
                    "mover.deid.survey_child:clean", (suffix,), (opened.fileno(),), timeout_s=LOOK_S
                )
                look = msgspec.msgpack.decode(answer, type=CleanLook)
            except (IdentityError, IntegrityError, LimitExceeded) as refusal:
                look = CleanLook("", code=refusal.code, what=refusal.what)
            if opened.fingerprint() != seen:
                look = CleanLook(look.family, code="changed-while-reading", what="the file changed under the look")
        return look, digest

    async def _complete(self, shard: Shard, row: Any) -> None:
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
            await conn.execute(_Q["complete"], values)
            await finish_shard(conn, shard)
            await self._audit(
                conn, shard.project, "daemon", "adoption scanned", row.id, details={**counts, "root": values["root"]}
            )
        log.info("adoption scanned", count=sum(counts.values()))

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


def _listing(tier: ReadTier, prefix: str) -> Iterator[Entry]:
    tier.check_identity()
    return iter(tier.list(prefix))


def _gone() -> PlaceSeen:
    return PlaceSeen("file", "unknown", "entry-missing: it vanished while it was to be looked at")


def _neighbours() -> PlaceSeen:
    return PlaceSeen("file", "unknown", "DICOM objects and slides of several files are judged as batches only")


def _line(row: Any) -> bytes:
    told = {
        "key": shown_name(row.key.decode("utf-8", "surrogateescape")), "verdict": row.verdict, "family": row.family,
        "size_bytes": row.size_bytes, "blake3": row.digest, "reasons": row.reasons,
    }  # fmt: skip
    return msgspec.json.encode(told) + b"\n"


def _adoption(row: Any, counted: list[Any]) -> wire.Adoption:
    return wire.Adoption(
        id=row.id, tier=row.tier, prefix=row.prefix, state=row.state, trust_names=row.trust_names, reason=row.reason,
        explanation=row.explanation, verdicts={one.verdict: one.count for one in counted},
        bytes=sum(one.bytes for one in counted), root=row.root, judged_by=row.judged_by, created_by=row.created_by,
        created_at=row.created_at, finished_at=row.finished_at,
    )  # fmt: skip
