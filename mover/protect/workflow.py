"""Step 4: protect what a run leaves, prove it by reading it back, restore it (shard `run-protect`).

Order: snapshot written (packs, index, snapshot file) -> row `written` -> every blob of it read back from the
tier, decrypted and hashed -> row `checked`, proof and `protected` in one transaction -> retention. A crash
leaves a correct snapshot that nobody refers to, or whose row is never checked; the run is protected again, which
costs little (equal blobs are stored once), and then what was cut off is forgotten. A snapshot that is not whole
protects nothing: the run goes back to `ready` with the reason, and nothing of it is cleaned (I5).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

from blake3 import blake3
from msgspec import Struct

from mover import __version__, audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.clock import SYSTEM, Clock, monotonic_s, pause
from mover.decide import retention
from mover.decide.lifecycle import check_transition
from mover.errors import (
    Conflict,
    Denied,
    IntegrityError,
    MoverError,
    NotFound,
    RepositoryLocked,
    RequestInvalid,
    TierError,
)
from mover.jobs import NewShard, Shard, add_shards, finish_shard, in_thread
from mover.jobs.shards import renew_shard, tier_queue
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model import wire
from mover.model.access import Identity
from mover.model.names import path_text
from mover.model.policy import CleanPolicy, ProtectPolicy
from mover.policy import PolicyBook
from mover.protect.layout import Layout, lay_out
from mover.protect.places import restore_place
from mover.randomness import new_id
from mover.repository.facts import CheckResult, RestoreResult, SnapshotResult
from mover.repository.reading import Requester
from mover.repository.repository import Repository, create_repository, open_repository
from mover.tiers.guard import guarded
from mover.tiers.port import PruneTier, ReadTier
from mover.transfer.budgets import UNLIMITED, Budgets

SQL = load(__file__)
PAGE_MAX = 1000
PLAN_STEPS_MAX = 1000
# who forgets holds the repository alone, for moments
LOCK_PATIENCE_S = 60.0
LOCK_PAUSE_S = 0.25
Answer = TypeVar("Answer")
Found = list[Any]  # in a class that has a method `list`, the word means that method

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


class RunPlace(Struct, frozen=True):
    """Where a flash tier's run roots are, for the daemon and for jobs."""

    root: Path
    seen_as: str


class Protection:
    def __init__(
        self,
        database: Database,
        tiers: Mapping[str, ReadTier],
        flash: dict[str, RunPlace],
        policies: PolicyBook,
        password_file: Path,
        *,
        forbidden: list[Path],
        node: str,
        clock: Clock = SYSTEM,
        budgets: Budgets = UNLIMITED,
    ) -> None:
        self._budgets = budgets
        self._database = database
        self._tiers = tiers
        self._flash = flash
        self._policies = policies
        self._password_file = password_file
        self._forbidden = forbidden
        self._node = node
        self._clock = clock
        self._repositories: dict[tuple[str, str], Repository] = {}
        self._opening = threading.Lock()

    # --- run-protect ----------------------------------------------------------------------------------------

    async def protect(self, shard: Shard) -> None:
        policy = self._policies.default(ProtectPolicy)
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            run = await SQL.one(conn, "lock_run", id=shard.subject_id)
            if await SQL.one(conn, "protecting", id=run.id) is None:
                await finish_shard(conn, shard)
                return
        try:
            flash = self._tiers[run.tier]  # its folders are read beside its port: let go when it hangs
            layout = await in_thread(guarded, lambda _: self._lay_out(run, policy), flash)
            await self._own_up(shard, run, policy)
            snapshot, result = await self._snapshot(shard, run, policy, layout)
            check = await in_thread(self._check, policy, result.snapshot_id)
        except (Denied, RequestInvalid, NotFound) as error:
            await self._give_back(shard, error.code, error.what)
            return
        if not result.complete:
            lost = len(result.torn) + len(result.unreadable)
            # it protects nothing, and yet it may hold the only copy of what was deleted since: it stays
            async with self._database.project(shard.project) as conn:
                await conn.execute(SQL["keep"], {"id": snapshot, "reasons": ["incomplete"]})
            await self._give_back(shard, "protection-incomplete", f"{lost} files changed while read or cannot be read")
            return
        await self._prove(shard, run, policy, snapshot, result, check)

    def _lay_out(self, run: Any, policy: ProtectPolicy) -> Layout:
        place = self._flash[run.tier]
        return lay_out(
            run, finish=run.finish or {}, roots=policy.roots, flash_root=place.root, seen_as=place.seen_as,
            forbidden=self._forbidden,
        )  # fmt: skip

    async def _own_up(self, shard: Shard, run: Any, policy: ProtectPolicy) -> None:
        """Snapshots of this run whose attempt was cut off before their row get it now: what the catalog knows
        it can forget, once a later one is proved."""
        if shard.claims == 1:
            return
        found = await asyncio.to_thread(lambda: self._repository(policy).snapshots())
        async with self._database.project(shard.project) as conn:
            rows = await SQL.many(conn, "known", run=run.id)
            known = {row.repository_id for row in rows}
            for cut_off in (s for s in found if f"run:{run.id}" in s.tags and s.snapshot_id not in known):
                nothing = {"files": 0, "bytes": 0, "added": 0, "missing": []}
                await self._insert(conn, run, policy, cut_off.snapshot_id, **nothing)

    async def _insert(
        self, conn: Connection, run: Any, policy: ProtectPolicy, repository_id: str, **counted: object
    ) -> str:
        row = {"id": new_id("snapshot"), "project": run.project_id, "run": run.id, "tier": policy.repository,
               "repository_id": repository_id, "policy": policy.name}  # fmt: skip
        await conn.execute(SQL["insert_snapshot"], {**row, **counted})
        return str(row["id"])

    async def _snapshot(
        self, shard: Shard, run: Any, policy: ProtectPolicy, layout: Layout
    ) -> tuple[str, SnapshotResult]:
        flash = self._tiers[run.tier]
        result = await in_thread(guarded, lambda _: _patiently(lambda: self._write(run, policy, layout)), flash)
        links = await in_thread(self._links, policy, result.snapshot_id)
        artifacts = [(e.path, e.size_bytes, e.blake3) for e in result.entries] + links
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            snapshot = await self._insert(
                conn, run, policy, result.snapshot_id, files=result.files, bytes=result.bytes,
                added=result.added_bytes, missing=list(layout.missing),
            )  # fmt: skip
            async with conn.cursor() as cursor:
                await cursor.executemany(
                    SQL["insert_artifact"],
                    [
                        {"project": shard.project, "snapshot": snapshot, "path": path_text(layout.run_path(path)),
                         "size_bytes": size, "digest": digest}
                        for path, size, digest in artifacts
                    ],
                )  # fmt: skip
        return snapshot, result

    def _write(self, run: Any, policy: ProtectPolicy, layout: Layout) -> SnapshotResult:
        return self._repository(policy).snapshot(
            layout.source,
            hostname=socket.gethostname(),
            username=run.requested_by,
            tags=[f"run:{run.id}", f"project:{run.project_id}"],
            time=self._clock.now(),
            paths=[f"/runs/{run.id}"],
            progress=_Paying(self._budgets, policy.flash),
        )

    def _links(self, policy: ProtectPolicy, snapshot_id: str) -> list[tuple[str, int, str]]:
        """Symlinks hold no content; their target is what must not change."""
        return [
            (entry.path, 0, path_text(f"link:{entry.target}"))
            for entry in self._repository(policy).ls(snapshot_id, "/", recursive=True)
            if entry.kind == "symlink"
        ]

    def _check(self, policy: ProtectPolicy, snapshot_id: str) -> CheckResult:
        check = _patiently(lambda: self._repository(policy).check(True, snapshot_id))
        if not check.ok:
            raise IntegrityError(f"{len(check.errors)} objects of a fresh snapshot do not read back", where=snapshot_id)
        return check

    async def _prove(
        self,
        shard: Shard,
        run: Any,
        policy: ProtectPolicy,
        snapshot: str,
        result: SnapshotResult,
        check: CheckResult,
    ) -> None:
        clean = self._policies.default(CleanPolicy)
        async with self._database.project(shard.project) as conn:
            locked = await SQL.one(conn, "lock_run", id=run.id)
            check_transition(locked.state, "protected", subject=run.id)
            await conn.execute(SQL["checked"], {"id": snapshot})
            await conn.execute(SQL["cut_off"], {"run": run.id})
            lines = "".join(f"{e.path}\0{e.size_bytes}\0{e.blake3}\n" for e in result.entries)
            proof = await proofs.add(
                conn,
                project=shard.project,
                kind="protected",
                subject=run.id,
                count=result.files,
                bytes=result.bytes,
                root=blake3(lines.encode("utf-8", "surrogateescape")).hexdigest(),
                verifier=f"mover.protect {__version__}",
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
            forgotten = await self._retain(conn, policy, run.id)
            await finish_shard(conn, shard)
            await self._record(
                conn, shard.project, "run protected", run.id, snapshot=snapshot, files=result.files, forgotten=forgotten
            )
        metrics.SNAPSHOTS.labels(policy.repository).inc()
        metrics.SNAPSHOT_ADDED_BYTES.labels(policy.repository).inc(result.added_bytes)
        log.info("run protected", run=run.id, snapshot=snapshot, count=result.files, bytes=result.bytes)
        await self._forget(shard.project, policy)

    async def _give_back(self, shard: Shard, code: str, what: str) -> None:
        async with self._database.project(shard.project) as conn:
            await SQL.one(conn, "back_to_ready", id=shard.subject_id, reason=code, explanation=what)
            await finish_shard(conn, shard)
            await self._record(conn, shard.project, "run not protected", shard.subject_id, reason=code)
        log.warning("run not protected", run=shard.subject_id, code=code)

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """The attempts are used up: the run waits in `ready` with the reason; nothing is cleaned."""
        await SQL.one(conn, "back_to_ready", id=shard.subject_id, reason=error.code, explanation=error.what)
        await self._record(conn, shard.project, "run not protected", shard.subject_id, reason=error.code)

    # --- retention ------------------------------------------------------------------------------------------

    async def _retain(self, conn: Connection, policy: ProtectPolicy, run: str) -> int:
        """Per policy and run, on the order of record and the server's clock (D12); reasons with each verdict."""
        verdicts = retention.plan(await self._recorded(conn, run), policy.keep)
        for verdict in verdicts:
            statement = "keep" if verdict.keep else "forget"
            await conn.execute(SQL[statement], {"id": verdict.id, "reasons": list(verdict.reasons)})
        return sum(not v.keep for v in verdicts)

    async def _recorded(self, conn: Connection, run: str) -> list[retention.SnapshotRecord]:
        rows = await SQL.many(conn, "of_run", run=run)
        # the newest one is what proves the run protected: no rule forgets it
        newest = rows[-1].id if rows else None
        return [retention.SnapshotRecord(r.id, r.sequence, r.recorded_at, held=r.id == newest) for r in rows]

    async def _forget(self, project: str, policy: ProtectPolicy) -> None:
        """Snapshot files of forgotten rows go after the row says so; their packs stay until a prune."""
        page = await self.list(project)
        forgotten = [s.repository_id for s in page.snapshots if s.state == "forgotten"]
        if not forgotten:
            return
        try:
            await in_thread(self._repository(policy).forget, forgotten)
        except (RepositoryLocked, TierError) as error:
            # somebody snapshots or restores, or the tier went away; the rows say `forgotten`, and the next
            # protection tries again
            log.info("forgetting waits", tier=policy.repository, code=error.code)

    async def forget_plan(self, project: str) -> wire.Plan:
        """What the keep rules would forget now, with the reason of each verdict."""
        policy = self._policies.default(ProtectPolicy)
        steps = []
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "list", run=None, limit=PAGE_MAX)
            for run in sorted({r.run_id for r in rows if r.state == "checked"}):
                for verdict in retention.plan(await self._recorded(conn, run), policy.keep):
                    action = "keep" if verdict.keep else "forget"
                    steps.append(wire.PlanStep(action=action, subject=verdict.id, reason="; ".join(verdict.reasons)))
        counts = {action: sum(s.action == action for s in steps) for action in ("keep", "forget")}
        return wire.Plan(
            step="forget", counts=counts, bytes=0, steps=steps[:PLAN_STEPS_MAX], truncated=len(steps) > PLAN_STEPS_MAX
        )  # fmt: skip

    # --- look and restore -------------------------------------------------------------------------------------

    async def list(self, project: str, run: str | None = None) -> wire.SnapshotPage:
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "list", run=run, limit=PAGE_MAX)
        return wire.SnapshotPage(snapshots=[_snapshot(row) for row in rows])

    async def view(self, project: str, snapshot: str) -> wire.Snapshot:
        return _snapshot(await self._get(project, snapshot))

    async def files(
        self, project: str, snapshot: str, path: str = "/", after: str | None = None, limit: int = PAGE_MAX
    ) -> wire.SnapshotFiles:
        """Everything below a folder of a snapshot, in order of path, as the repository's trees tell it."""
        row = await self._get(project, snapshot)
        bound = min(limit, PAGE_MAX)
        async with self._database.project(project) as conn:
            rows = await SQL.many(conn, "digests", snapshot=row.id)
        digests = {r.path: r.digest for r in rows}
        found = await asyncio.to_thread(self._ls, row, path, after or "", bound)
        files = [
            wire.SnapshotFile(path=path_text(e.path), type=e.kind, size_bytes=e.size_bytes,
                              digest=digests.get(path_text(Layout.path_in_run(e.path))))
            for e in found
        ]  # fmt: skip
        return wire.SnapshotFiles(files=files, next=files[-1].path if len(files) == bound else None)

    def _ls(self, row: Any, path: str, after: str, bound: int) -> Found:
        repository = self._repository_of(row)
        entries = (e for e in repository.ls(row.repository_id, path, recursive=True) if e.path > after)
        return sorted(entries, key=lambda e: e.path)[:bound]

    async def restore(self, identity: Identity, snapshot: str, body: wire.RestoreRequest) -> wire.Restore:
        """To a new place, verified blob by blob; what stands there already is refused, never overwritten."""
        row = await self._get(identity.project, snapshot)
        roots = self._policies.default(ProtectPolicy).roots
        began_s = monotonic_s()
        result = await asyncio.to_thread(lambda: _patiently(lambda: self._restore(row, body, identity, roots)))
        if not result.complete:
            raise IntegrityError(
                f"{len(result.damaged)} files could not be restored", where=row.id,
                details=[{"path": path_text(path)} for path in result.damaged[:PLAN_STEPS_MAX]],
            )  # fmt: skip
        async with self._database.project(identity.project) as conn:
            await self._record(
                conn, identity.project, "snapshot restored", row.id, actor=identity.actor, files=result.files
            )
        metrics.RESTORED_BYTES.labels(row.tier).inc(result.bytes)
        return wire.Restore(
            snapshot=row.id, to=body.to, files=result.files, bytes=result.bytes,
            seconds=round(monotonic_s() - began_s, 3),
        )  # fmt: skip

    async def plan_restore(self, identity: Identity, snapshot: str, body: wire.RestoreRequest) -> wire.Plan:
        row = await self._get(identity.project, snapshot)
        roots = self._policies.default(ProtectPolicy).roots
        await asyncio.to_thread(self._check_place, body.to, identity, roots)
        entries = await asyncio.to_thread(
            lambda: list(self._repository_of(row).ls(row.repository_id, body.path, recursive=True))
        )
        steps = [
            wire.PlanStep(action="restore", subject=path_text(e.path), reason=f"to {body.to}", bytes=e.size_bytes)
            for e in entries
        ]
        return wire.Plan(
            step="restore", counts={"restore": len(steps)}, bytes=sum(s.bytes for s in steps),
            steps=steps[:PLAN_STEPS_MAX], truncated=len(steps) > PLAN_STEPS_MAX,
        )  # fmt: skip

    def _restore(
        self, row: Any, body: wire.RestoreRequest, identity: Identity, roots: tuple[str, ...]
    ) -> RestoreResult:
        requester = _requester(identity)
        with self._place(body.to, identity, roots) as target:
            return self._repository_of(row).restore(row.repository_id, target, path=body.path, owner=requester)

    def _place(self, to: str, identity: Identity, roots: tuple[str, ...]) -> AbstractContextManager[Path]:
        return restore_place(
            to, requester=_requester(identity), local=not identity.token_id, roots=roots,
            forbidden=self._forbidden,
        )  # fmt: skip

    def _check_place(self, to: str, identity: Identity, roots: tuple[str, ...]) -> None:
        with self._place(to, identity, roots):
            pass

    async def plan_finish(self, identity: Identity, run: str, body: wire.FinishRequest) -> wire.Plan:
        """What would be protected, and which parts are missing; opens nothing."""
        policy = self._policies.default(ProtectPolicy)
        async with self._database.project(identity.project) as conn:
            row = await SQL.one(conn, "run", id=run)
        if row is None:
            raise NotFound("no such run", where=run)
        if row.ready_at is None:
            raise Conflict(f"the run is {row.state}; only a ready run is finished", where=run)
        place = self._flash[row.tier]
        finish = {"artifacts": body.artifacts, "code": body.code, "logs": body.logs, "environment": body.environment}
        layout = await asyncio.to_thread(
            lambda: lay_out(
                row,
                finish=finish,
                roots=policy.roots,
                flash_root=place.root,
                seen_as=place.seen_as,
                forbidden=self._forbidden,
            )  # fmt: skip
        )
        steps = [wire.PlanStep(action="protect", subject=name, reason=why) for name, why in layout.parts]
        steps += [wire.PlanStep(action="missing", subject=part, reason="not in finish") for part in layout.missing]
        return wire.Plan(
            step="protect", counts={"protect": len(layout.parts), "missing": len(layout.missing)}, bytes=0, steps=steps
        )

    async def check(self, project: str) -> wire.Check:
        """Read every object of the repository and compare it with its name."""
        policy = self._policies.default(ProtectPolicy)
        check = await asyncio.to_thread(lambda: _patiently(lambda: self._repository(policy).check(True)))
        return wire.Check(
            whole=check.ok, tier=policy.repository, snapshots=check.snapshots, blobs=check.blobs,
            bytes=check.bytes_read, problems=check.errors[:PLAN_STEPS_MAX],
        )  # fmt: skip

    # --- small tools ------------------------------------------------------------------------------------------

    def _repository_of(self, row: Any) -> Repository:
        return self._repository(self._policies.get(row.policy, ProtectPolicy))

    def _repository(self, policy: ProtectPolicy) -> Repository:
        """Open once: the key costs a scrypt. A repository that does not exist yet is created."""
        place = (policy.repository, policy.prefix)
        with self._opening:
            if place not in self._repositories:
                tier = self._tiers[policy.repository]
                assert isinstance(tier, PruneTier)
                password = self._password_file.read_bytes().strip()
                try:
                    repository = open_repository(tier, password, prefix=policy.prefix)
                except NotFound:
                    repository = create_repository(tier, password, prefix=policy.prefix)
                self._repositories[place] = repository
            return self._repositories[place]

    async def _get(self, project: str, snapshot: str) -> Any:
        async with self._database.project(project) as conn:
            row = await SQL.one(conn, "get", id=snapshot)
        if row is None:
            raise NotFound("no such snapshot", where=snapshot)
        return row

    async def _record(
        self,
        conn: Connection,
        project: str,
        action: str,
        subject: str,
        *,
        actor: str = "daemon",
        reason: str = "",
        **details: object,
    ) -> None:
        await audit.record(
            conn, project=project, node=self._node, actor=actor, action=action, subject=subject, reason=reason,
            details=dict(details),
        )  # fmt: skip


def _requester(identity: Identity) -> Requester | None:
    if identity.posix_uid is None or identity.posix_gid is None:
        return None
    return Requester(identity.posix_uid, identity.posix_gid)


def _patiently(call: Callable[[], Answer]) -> Answer:
    """Blocking. Nobody who wants to protect, look or restore is sent away because somebody forgets just now."""
    deadline_s = monotonic_s() + LOCK_PATIENCE_S
    while True:
        try:
            return call()
        except RepositoryLocked:
            if monotonic_s() > deadline_s:
                raise
            pause(LOCK_PAUSE_S)


def _snapshot(row: Any) -> wire.Snapshot:
    return wire.Snapshot(
        id=row.id, repository_id=row.repository_id, run=row.run_id, state=row.state, tier=row.tier,
        policy=row.policy, files=row.files, bytes=row.bytes, added_bytes=row.added_bytes,
        missing=list(row.missing), reasons=list(row.reasons), recorded_at=row.recorded_at,
    )  # fmt: skip
