"""Is it still there, and does it come back? Drills and checks, as turns of a policy like keeping and pruning.

A *drill* (shard `protect-drill`) restores a few random files of a random kept snapshot the way a person would, to a
scratch folder, and compares them with the digests of the catalog: it measures what bringing back the newest snapshots
would take. A *sample* (`protect-sample`) reads a random share of the packs, a *whole* check (`protect-whole`) all of
them; damage is named by snapshot and path. Where the policy keeps a second repository, a *copy* (`protect-copy`)
carries to it what is not there yet, and damage is repaired from it in the turn that found it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from mover import metrics
from mover.catalog.database import Connection
from mover.catalog.instance import server_now
from mover.catalog.queries import load
from mover.clock import monotonic_s
from mover.errors import IntegrityError, MoverError, NotFound, RepositoryLocked, TierError
from mover.jobs import Shard, in_thread
from mover.log import get_logger
from mover.model.policy import ProtectPolicy
from mover.protect.damage import hits_told
from mover.protect.layout import Layout
from mover.protect.site import ProtectSite, patiently, second_of
from mover.protect.upkeep import Upkeep
from mover.repository.facts import RepairResult
from mover.transfer.digest import digest_stream

SQL = load(__file__)
FILES = 8  # of one drill
FILE_MAX_BYTES = 256 << 20
LINES_MAX = 20

log = get_logger("protect")


class Tried(Struct, frozen=True):
    """Files of one snapshot that came back: `wrong` of them as something else, or not at all."""

    files: int
    bytes: int
    seconds: float
    wrong: tuple[str, ...]


class Drills:
    def __init__(self, site: ProtectSite, upkeep: Upkeep) -> None:
        self._site, self._upkeep = site, upkeep

    async def begin_due(self, project: str) -> int:
        """Drills and checks whose time has come; how many began."""
        began = 0
        for policy in self._upkeep.policies():
            began += await self._upkeep.begin(project, policy, "drill", every_s=policy.drill_every_s)
            began += await self._upkeep.begin(project, policy, "sample", every_s=policy.sample_every_s)
            began += await self._upkeep.begin(project, policy, "whole", every_s=policy.whole_every_s)
        return began

    # --- drills -----------------------------------------------------------------------------------------------------

    async def drill(self, shard: Shard) -> None:
        policy = await self._upkeep.policy_of(shard)
        if policy is None:
            return
        async with self._site.database.project(shard.project) as conn:
            snapshot = await SQL.one(conn, "any_snapshot", policy=policy.name)
            values = {"snapshot": snapshot and snapshot.id, "most": FILE_MAX_BYTES, "limit": FILES}
            rows = await SQL.many(conn, "any_files", **values)
        if not rows:
            await self._upkeep.end(shard, policy, "done", "there is nothing to restore yet", {}, {})
            return
        try:
            tried = await in_thread(self._try, policy, snapshot, rows)
        except (RepositoryLocked, TierError) as error:
            await self._upkeep.end(shard, policy, "waiting", error.what, {}, {})
            return
        await self._judge(shard, policy, snapshot, tried)

    async def _judge(self, shard: Shard, policy: ProtectPolicy, snapshot: Any, tried: Tried) -> None:
        counts = {"files": tried.files, "bytes": tried.bytes, "milliseconds": round(tried.seconds * 1000),
                  "wrong": len(tried.wrong)}  # fmt: skip
        metrics.RESTORE_DRILLS.labels(policy.name, "wrong" if tried.wrong else "equal").inc()
        if not tried.wrong:
            await self._upkeep.end(shard, policy, "done", None, {}, counts)
            return
        log.error("restore drill failed", policy=policy.name, snapshot=snapshot.id, count=len(tried.wrong))
        why = f"{len(tried.wrong)} of {tried.files} files of {snapshot.id} did not come back as they were protected"
        await self._upkeep.end(shard, policy, "failed", why, {}, counts)

    def _try(self, policy: ProtectPolicy, snapshot: Any, rows: Sequence[Any]) -> Tried:
        """Blocking. Each file by the same way that a person's restore goes; the scratch folder is gone at the end."""
        began_s, size_bytes, wrong = monotonic_s(), 0, []
        scratch = Path(tempfile.mkdtemp(prefix="mover-drill-"))
        try:
            for number, row in enumerate(rows):
                try:
                    size_bytes += self._bring_back(policy, snapshot, row, scratch / str(number))
                except (IntegrityError, NotFound):
                    wrong.append(row.path)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return Tried(len(rows), size_bytes, monotonic_s() - began_s, tuple(wrong))

    def _bring_back(self, policy: ProtectPolicy, snapshot: Any, row: Any, target: Path) -> int:
        """Bytes of one file that came back equal. IntegrityError for one that did not."""
        path = _in_repository(snapshot, row.path)
        repository = self._site.repositories.of(policy)
        result = patiently(lambda: repository.restore(snapshot.repository_id, target, path=path))
        if result.damaged or _digest(target / os.path.basename(path)) != row.digest:
            raise IntegrityError("a restored file is not the one that was protected", where=snapshot.id)
        return result.bytes

    # --- checks -----------------------------------------------------------------------------------------------------

    async def sample(self, shard: Shard) -> None:
        await self._check(shard, share=True)

    async def whole(self, shard: Shard) -> None:
        await self._check(shard, share=False)

    async def _check(self, shard: Shard, *, share: bool) -> None:
        policy = await self._upkeep.policy_of(shard)
        if policy is None:
            return
        part = policy.sample_percent / 100 if share else None
        try:
            repository = self._site.repositories.of(policy)
            found = await in_thread(lambda: patiently(lambda: repository.check(True, sample=part)))
            repaired = None if found.ok else await self._repair(shard, policy)
        except (RepositoryLocked, TierError) as error:
            await self._upkeep.end(shard, policy, "waiting", error.what, {}, {})
            return
        counts = {"packs": found.packs, "bytes": found.bytes_read, "damaged": len(found.damage) or len(found.errors)}
        metrics.REPOSITORY_DAMAGE.labels(policy.name).set(counts["damaged"])
        if found.ok:
            await self._upkeep.end(shard, policy, "done", None, {}, counts)
            return
        log.error("repository damaged", policy=policy.name, count=counts["damaged"], tier=policy.repository)
        if repaired is None or not repaired.complete:
            async with self._site.database.project(shard.project) as conn:
                lines = await hits_told(conn, found) or found.errors
            await self._upkeep.end(shard, policy, "failed", "; ".join(lines[:LINES_MAX]), {}, counts)
            return
        counts["repaired"] = repaired.salvaged + repaired.fetched
        metrics.REPOSITORY_DAMAGE.labels(policy.name).set(0)
        why = f"damage was repaired, {repaired.fetched} objects from the second repository"
        await self._upkeep.end(shard, policy, "done", why, {}, counts)

    async def _repair(self, shard: Shard, policy: ProtectPolicy) -> RepairResult | None:
        """None where the policy keeps no second repository."""
        other = second_of(self._site, policy)
        if other is None:
            return None
        async with self._site.database.project(shard.project) as conn:
            now = await server_now(conn)
        repository = self._site.repositories.of(policy)
        repaired = await in_thread(lambda: patiently(lambda: repository.repair_from(other, now=now)))
        async with self._site.database.project(shard.project) as conn:
            for was, found in repaired.snapshots.items():
                values = {"tier": policy.repository, "was": was, "now": found, "node": self._site.node}
                await conn.execute(SQL["moved"], values)
        return repaired

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        await self._upkeep.failed(conn, shard, error)

    # --- targets ----------------------------------------------------------------------------------------------------

    async def measure(self, project: str) -> None:
        """Gauges of recovery time and recovery point, and of the targets that are missed."""
        for policy in self._upkeep.policies():
            async with self._site.database.project(project) as conn:
                row = await SQL.one(conn, "recovery", policy=policy.name)
            point_s, time_s = row.point_s or 0.0, row.time_s
            metrics.RECOVERY_POINT.labels(policy.name).set(point_s)
            if time_s is not None:
                metrics.RECOVERY_TIME.labels(policy.name).set(time_s)
            missed = {
                "point": policy.recovery_point_s is not None and point_s > policy.recovery_point_s,
                "time": policy.recovery_time_s is not None and time_s is not None and time_s > policy.recovery_time_s,
            }
            for kind, is_missed in missed.items():
                metrics.RECOVERY_MISSED.labels(policy.name, kind).set(is_missed)


def _in_repository(snapshot: Any, path: str) -> str:
    return Layout.path_in_snapshot(path) if snapshot.run_id else f"/{path}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return digest_stream(iter(lambda: file.read(8 << 20), b"")).blake3
