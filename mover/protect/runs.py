"""Step 4: protect what a run leaves, and prove it by reading it back (shard `run-protect`).

Order: snapshot written (packs, index, snapshot file) -> row `written` -> every blob of it read back from the
tier, decrypted and hashed -> row `checked`, proof and `protected` in one transaction -> retention. A crash
leaves a correct snapshot that nobody refers to, or whose row is never checked; the run is protected again, which
costs little (equal blobs are stored once), and then what was cut off is forgotten. A snapshot that is not whole
protects nothing: the run goes back to `ready` with the reason, and nothing of it is cleaned (I5).
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Any

from mover import metrics
from mover.catalog import proofs
from mover.catalog.database import Connection
from mover.catalog.queries import load
from mover.decide.finishing import check_paths
from mover.decide.lifecycle import check_transition
from mover.errors import Conflict, Denied, MoverError, NotFound, RequestInvalid
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import path_text
from mover.model.policy import CleanPolicy, ProtectPolicy
from mover.protect import taking
from mover.protect.layout import Layout, lay_out
from mover.protect.retention import Retention, series_of
from mover.protect.site import ProtectSite, patiently
from mover.protect.taking import (
    EARLIER_FILES_MAX,
    VERIFIER,
    check_fresh,
    insert_artifacts,
    insert_snapshot,
    links_of,
    root_of,
)
from mover.repository.facts import CheckResult, SnapshotResult
from mover.tiers.guard import guarded
from mover.transfer.budgets import Budgets

SQL = load(__file__)

log = get_logger("protect")


class _Paying:
    """What a snapshot reads from the flash is paid for as it goes; its packs pay on their own tier."""

    def __init__(self, budgets: Budgets, tier: str) -> None:
        self._budgets, self._tier = budgets, tier
        self._files, self._bytes = 0, 0

    def __call__(self, files: int, size_bytes: int) -> None:
        """Totals so far; a file that is read again takes its bytes back first."""
        new_files, new_bytes = max(0, files - self._files), max(0, size_bytes - self._bytes)
        self._files, self._bytes = max(files, self._files), max(size_bytes, self._bytes)
        self._budgets.take(self._tier, direction="read", bytes_=new_bytes, files=new_files)


class RunProtection:
    def __init__(self, site: ProtectSite, retention: Retention) -> None:
        self._site, self._retention = site, retention

    async def plan_finish(self, identity: Identity, run: str, body: wire.FinishRequest) -> wire.Plan:
        """What would be protected, and which parts are missing; opens nothing. Denied where `finish` would be."""
        policy = self._site.policies.default(ProtectPolicy)
        async with self._site.database.project(identity.project) as conn:
            row = await SQL.one(conn, "run", id=run)
        if row is None:
            raise NotFound("no such run", where=run)
        if row.ready_at is None:
            raise Conflict(f"the run is {row.state}; only a ready run is finished", where=run)
        place = self._site.flash.get(row.tier)
        out = f"{place.seen_as}/runs/{run}/out" if place else None
        check_paths(identity, body, run=run, run_uid=row.posix_uid, own_out=out)
        finish = {"artifacts": body.artifacts, "code": body.code, "logs": body.logs, "environment": body.environment}
        layout = await asyncio.to_thread(self._lay_out, row, finish, policy, "", planned=True)
        steps = [wire.PlanStep(action="protect", subject=name, reason=why) for name, why in layout.parts]
        steps += [wire.PlanStep(action="missing", subject=part, reason="not in finish") for part in layout.missing]
        return wire.Plan(
            step="protect", counts={"protect": len(layout.parts), "missing": len(layout.missing)}, bytes=0, steps=steps
        )

    async def protect(self, shard: Shard) -> None:
        policy = self._site.policies.default(ProtectPolicy)
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            run = await SQL.one(conn, "lock_run", id=shard.subject_id)
            if await SQL.one(conn, "protecting", id=run.id) is None:
                await finish_shard(conn, shard)
                return
            manifest = (await SQL.one(conn, "manifest", id=run.id)).manifest
        try:
            flash = self._site.tiers[run.tier]  # its folders are read beside its port: let go when it hangs
            layout = await in_thread(guarded, lambda _: self._lay_out(run, run.finish or {}, policy, manifest), flash)
            await self._own_up(shard, run, policy)
            snapshot, result = await self._snapshot(shard, run, policy, layout)
            check = await in_thread(check_fresh, self._site.repositories.of(policy), result.snapshot_id)
        except (Denied, RequestInvalid, NotFound) as error:
            await self._give_back(shard, error.code, error.what)
            return
        if not result.complete:
            lost = len(result.torn) + len(result.unreadable)
            # it protects nothing, and yet it may hold the only copy of what was deleted since: it stays
            async with self._site.database.project(shard.project) as conn:
                await conn.execute(taking.SQL["incomplete"], {"id": snapshot})
            await self._give_back(shard, "protection-incomplete", f"{lost} files changed while read or cannot be read")
            return
        await self._prove(shard, run, policy, snapshot, result, check)

    def _lay_out(
        self, run: Any, finish: dict[str, Any], policy: ProtectPolicy, manifest: str, *, planned: bool = False
    ) -> Layout:
        place = self._site.flash[run.tier]
        return lay_out(
            run, finish=finish, manifest=manifest, roots=policy.roots, flash_root=place.root, seen_as=place.seen_as,
            forbidden=self._site.forbidden, planned=planned,
        )  # fmt: skip

    async def _own_up(self, shard: Shard, run: Any, policy: ProtectPolicy) -> None:
        """Snapshots of this run whose attempt was cut off before their row get it now: what the catalog knows
        it can forget, once a later one is proved."""
        if shard.claims == 1:
            return
        found = await asyncio.to_thread(lambda: self._site.repositories.of(policy).snapshots())
        async with self._site.database.project(shard.project) as conn:
            rows = await SQL.many(conn, "known", run=run.id)
            known = {row.repository_id for row in rows}
            for cut_off in (s for s in found if f"run:{run.id}" in s.tags and s.snapshot_id not in known):
                await insert_snapshot(conn, policy, **_of(run), repository_id=cut_off.snapshot_id, files=0, bytes_=0)

    async def _snapshot(
        self, shard: Shard, run: Any, policy: ProtectPolicy, layout: Layout
    ) -> tuple[str, SnapshotResult]:
        flash = self._site.tiers[run.tier]
        earlier, digests = await self._earlier(shard, run, policy)
        write = partial(self._write, run, policy, layout, parent=earlier, digests=digests, resuming=shard.claims > 1)
        result = await in_thread(guarded, lambda _: patiently(write), flash)
        links = await in_thread(links_of, self._site.repositories.of(policy), result.snapshot_id)
        artifacts = [(e.path, e.size_bytes, e.blake3) for e in result.entries] + links
        async with self._site.database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            snapshot = await insert_snapshot(
                conn, policy, **_of(run), repository_id=result.snapshot_id, files=result.files, bytes_=result.bytes,
                added=result.added_bytes, missing=layout.missing,
            )  # fmt: skip
            files = [(path_text(layout.run_path(path)), size, digest) for path, size, digest in artifacts]
            await insert_artifacts(conn, shard.project, snapshot, files)
        return snapshot, result

    async def _earlier(self, shard: Shard, run: Any, policy: ProtectPolicy) -> tuple[str | None, dict[str, str]]:
        """What an earlier attempt at this run stored. A name that is no text finds no digest, and is read again."""
        series = {"series": series_of(run.id), "policy": policy.name, "tier": policy.repository}
        async with self._site.database.project(shard.project) as conn:
            found = await SQL.one(conn, "earlier", **series, most=EARLIER_FILES_MAX)
            rows = await taking.SQL.many(conn, "digests", snapshot=found.id) if found else []
        return found and found.repository_id, {Layout.path_in_snapshot(row.path): row.digest for row in rows}

    def _write(
        self, run: Any, policy: ProtectPolicy, layout: Layout, *, parent: str | None, digests: dict[str, str],
        resuming: bool,
    ) -> SnapshotResult:  # fmt: skip
        return self._site.repositories.of(policy).snapshot(
            layout.source,
            hostname=socket.gethostname(),
            username=run.requested_by,
            tags=[f"run:{run.id}", f"project:{run.project_id}"],
            time=self._site.clock.now(),
            paths=[f"/runs/{run.id}"],
            parent=parent,
            parent_digests=digests,
            resuming=resuming,
            progress=_Paying(self._site.budgets, policy.flash),
        )

    async def _prove(
        self,
        shard: Shard,
        run: Any,
        policy: ProtectPolicy,
        snapshot: str,
        result: SnapshotResult,
        check: CheckResult,
    ) -> None:
        clean = self._site.policies.default(CleanPolicy)
        async with self._site.database.project(shard.project) as conn:
            locked = await SQL.one(conn, "lock_run", id=run.id)
            check_transition(locked.state, "protected", subject=run.id)
            await conn.execute(taking.SQL["checked"], {"id": snapshot})
            await conn.execute(taking.SQL["cut_off"], {"series": series_of(run.id)})
            proof = await proofs.add(
                conn,
                project=shard.project,
                kind="protected",
                subject=run.id,
                count=result.files,
                bytes=result.bytes,
                root=root_of(result),
                verifier=VERIFIER,
                details={
                    "snapshot": snapshot,
                    "repository": result.snapshot_id,
                    "blobs": check.blobs,
                    "bytes_read": check.bytes_read,
                },
            )
            await conn.execute(SQL["protected"], {"id": run.id, "proof": proof})
            if locked.clean_after or clean.automatic:
                await conn.execute(SQL["cleaning"], {"id": run.id})
                await add_shards(conn, shard.project, [NewShard(tier_queue(run.tier), "run-clean", run.id)])
            await self._retention.retain(conn, policy, series_of(run.id))
            await finish_shard(conn, shard)
            await self._site.record(conn, shard.project, "run protected", run.id, snapshot=snapshot, files=result.files)
        metrics.SNAPSHOTS.labels(policy.repository).inc()
        metrics.SNAPSHOT_ADDED_BYTES.labels(policy.repository).inc(result.added_bytes)
        metrics.BYTES_MOVED.labels(run.tier, policy.repository).inc(result.added_bytes)
        log.info("run protected", run=run.id, snapshot=snapshot, count=result.files, bytes=result.bytes)

    async def _give_back(self, shard: Shard, code: str, what: str) -> None:
        async with self._site.database.project(shard.project) as conn:
            await SQL.one(conn, "back_to_ready", id=shard.subject_id, reason=code, explanation=what)
            await finish_shard(conn, shard)
            await self._site.record(conn, shard.project, "run not protected", shard.subject_id, reason=code)
        log.warning("run not protected", run=shard.subject_id, code=code)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """The attempts are used up: the run waits in `ready` with the reason; nothing is cleaned."""
        await SQL.one(conn, "back_to_ready", id=shard.subject_id, reason=error.code, explanation=error.what)
        await self._site.record(conn, shard.project, "run not protected", shard.subject_id, reason=error.code)


def _of(run: Any) -> dict[str, Any]:
    """Whose snapshot it is."""
    return {"project": run.project_id, "run": run.id, "series": series_of(run.id)}
