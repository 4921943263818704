"""Step 5: the run root goes, strays are moved aside, and a listing proves it (shard `run-clean`).

Order: the plan is made from what stands there now; every stray is recorded before it is moved, and moved
before anything is removed; the root goes last; then the proof of emptiness and `cleaned` in one transaction.
A crash leaves either the old root or a part of it, and the next attempt plans again from what is left.
"""

from __future__ import annotations

from typing import Any

from blake3 import blake3

from mover import __version__, audit, metrics
from mover.catalog import proofs
from mover.catalog.database import Connection, Database
from mover.catalog.queries import load
from mover.decide.cleanup import CleanStep, Standing, plan_cleanup
from mover.errors import IntegrityError, MoverError, NotProtected
from mover.jobs import Shard, finish_shard, in_thread
from mover.jobs.shards import others_running, postpone_shard, renew_shard
from mover.jobs.worker import LEASE_S
from mover.log import get_logger
from mover.model.manifest import ManifestEntry, manifest_root
from mover.model.names import path_text
from mover.runs.roots import FlashRoots, hash_file, run_key
from mover.runs.runs import Runs
from mover.runs.site import Flash, entries_of, lock, step, strays_of

SQL = load(__file__)
# until it is looked again whether somebody still works on the run
OTHERS_S = 1.0

log = get_logger("runs")


async def plan_for(database: Database, run: Any, roots: FlashRoots) -> list[CleanStep]:
    """What cleanup would do with everything that stands in the root now, and why. Artifacts are hashed, so no
    transaction is open meanwhile."""
    async with database.project(run.project_id) as conn:
        entries = await entries_of(conn, run.id)
        artifacts = await SQL.many(conn, "artifacts", run=run.id)
    digests = {e.path: e.digest for e in entries}
    own = await in_thread(roots.within, lambda _: _own_files(roots, run))
    standing = await in_thread(roots.standing, run.id, manifest=digests, own=own)
    return plan_cleanup(
        standing,
        manifest={e.path: e.size_bytes for e in entries},
        artifacts=_as_standing(standing, {a.path: a.digest for a in artifacts}),
    )


def _as_standing(standing: list[Standing], protected: dict[str, str]) -> dict[str, str]:
    """Protected digests by the names that stand there: the catalog keeps those that are no text escaped."""
    texts = {one.path: path_text(one.path) for one in standing}
    return {path: protected[text] for path, text in texts.items() if text in protected}


def _own_files(roots: FlashRoots, run: Any) -> dict[str, str]:
    """Digests of what the seal wrote: the manifest is known to the catalog; RUN.json is the daemon's own,
    in a folder only the daemon can write."""
    own = {}
    if run.manifest is not None:
        own["manifest.jsonl"] = blake3(run.manifest.encode()).hexdigest()
    identity = roots.run_root(run.id) / "RUN.json"
    if identity.is_file() and not identity.is_symlink():
        own["RUN.json"] = hash_file(identity)
    return own


class Clean:
    def __init__(self, database: Database, flash: dict[str, Flash], runs: Runs, *, node: str) -> None:
        self._database = database
        self._flash = flash
        self._runs = runs
        self._node = node

    async def clean(self, shard: Shard) -> None:
        run = await self._begin(shard)
        if run is None:
            return
        roots = self._flash[run.tier].roots
        await in_thread(roots.check_identity)
        steps = await plan_for(self._database, run, roots)
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            await self._record_strays(conn, run, steps)
            await self._record_plan(conn, shard, run, steps)
        await in_thread(self._apply, roots, run.id, steps)
        await self._prove(shard, run, steps)
        await self._runs.admit_waiting(run.tier)

    async def _begin(self, shard: Shard) -> Any:
        """The run to clean, or None when there is nothing to do now. Nothing else touches its root from here on:
        a run that ends here is never staged or protected again, and whoever still works on it is waited for."""
        async with self._database.project(shard.project) as conn:
            await renew_shard(conn, shard, lease_s=LEASE_S)
            run = await lock(conn, shard.subject_id)
            if run.state not in ("protected", "cancelled", "failed", "cleaning"):
                await self._end(conn, shard, run)
                return None
            # D6: the state machine alone is not believed; the proof row is looked at again before bytes go
            if run.ready_proof is not None and run.protected_proof is None:
                raise NotProtected("cleanup asked for without a proof of protection", where=run.id)
            if await others_running(conn, shard):
                await postpone_shard(conn, shard, delay_s=OTHERS_S)
                return None
            if run.state != "cleaning":
                await step(conn, run.id, run.state, "cleaning", reason=run.reason, why=run.explanation)
            return run

    async def _end(self, conn: Connection, shard: Shard, run: Any) -> None:
        if run.state != "cleaned":
            log.warning("cleanup skipped", run=run.id, state=run.state)
        await finish_shard(conn, shard)

    async def _record_strays(self, conn: Connection, run: Any, steps: list[CleanStep]) -> None:
        for stray in (one for one in steps if one.action == "stray"):
            await conn.execute(
                SQL["put_stray"],
                {
                    "project": run.project_id,
                    "run": run.id,
                    "path": path_text(stray.path),
                    "size_bytes": stray.size_bytes,
                    "why": stray.reason,
                    "moved_to": f".mover/strays/{run.id}/{path_text(stray.path)}",
                },
            )

    async def _record_plan(self, conn: Connection, shard: Shard, run: Any, steps: list[CleanStep]) -> None:
        """Before the first byte goes: an attempt that is cut off proves nothing, and its successor sees only what
        was left. The trail holds what each of them set out to remove."""
        removed = [s for s in steps if s.action == "remove"]
        await audit.record(
            conn,
            project=shard.project,
            node=self._node,
            actor="daemon",
            action="run cleanup begun",
            subject=run.id,
            details={
                "attempt": shard.epoch,
                "remove": len(removed),
                "bytes": sum(s.size_bytes for s in removed),
                "strays": len(steps) - len(removed),
            },
        )

    def _apply(self, roots: FlashRoots, run: str, steps: list[CleanStep]) -> None:
        """Nothing but what was judged is removed, and only as it was judged; whatever appeared or changed since
        is a stranger too: then the removal stops, and the next attempt plans from what is left."""
        roots.unseal(run)
        roots.withdraw(run)
        for stray in (one for one in steps if one.action == "stray"):
            roots.move_stray(run, stray.path)
        roots.remove(run, {one.path: one.mark for one in steps if one.action == "remove"})
        # a tier that went away meanwhile would look empty too
        roots.check_identity()
        if not roots.is_gone(run):
            raise IntegrityError("the run root still stands after its removal", where=run)

    async def _prove(self, shard: Shard, run: Any, steps: list[CleanStep]) -> None:
        removed = [s for s in steps if s.action == "remove"]
        async with self._database.project(shard.project) as conn:
            # of all attempts: each records a stray before it moves it
            strays = await strays_of(conn, run.id)
            proof = await proofs.add(
                conn,
                project=shard.project,
                kind="cleaned",
                subject=run.id,
                count=len(removed),
                bytes=sum(s.size_bytes for s in removed),
                root=manifest_root(ManifestEntry(path_text(s.path), s.size_bytes, s.reason) for s in removed),
                verifier=f"mover.runs.clean {__version__}",
                details={"strays": len(strays), "root": run_key(run.id), "listing": "absent", "attempt": shard.epoch},
            )
            await conn.execute(SQL["cleaned"], {"id": run.id, "proof": proof})
            await finish_shard(conn, shard)
            await audit.record(
                conn,
                project=shard.project,
                node=self._node,
                actor="daemon",
                action="run cleaned",
                subject=run.id,
                details={"removed": len(removed), "strays": len(strays)},
            )
        metrics.STRAYS.inc(len(strays))
        log.info("run cleaned", run=run.id, count=len(removed), strays=len(strays))

    async def failed(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        """Cleanup that failed for good leaves the rest of the root where it is, and the run where it came from, with
        the reason: who waits for it learns why, and asking again tries again."""
        run = await lock(conn, shard.subject_id)
        why = f"not cleaned: {error.code}: {error.what}"
        if run.state == "cleaning":
            back = "protected" if run.protected_proof else "failed"
            await step(conn, run.id, "cleaning", back, reason="cleanup-failed", why=why)
        else:
            await conn.execute(SQL["explain"], {"id": run.id, "explanation": why})
        await audit.record(
            conn,
            project=shard.project,
            node=self._node,
            actor="daemon",
            action="run cleanup failed",
            subject=shard.subject_id,
            reason=error.code,
        )
