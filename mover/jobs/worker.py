"""The worker of a node: a feeder that enqueues due shards, and Procrastinate running them.

A job run twice is harmless: claiming a shard raises its epoch, and only the holder of the newest epoch can
finish it. Two bounds: the backlog in the queue (`BACKLOG`), and what runs at once (`concurrency`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued

from mover import metrics
from mover.catalog.database import Database
from mover.clock import SYSTEM, Clock, monotonic_s
from mover.errors import AttemptsExhausted, CatalogUnavailable, LeaseLost, MoverError
from mover.jobs.shards import (
    SQL,
    Shard,
    claim_shard,
    fail_shard,
    put_back_shard,
    renew_shard,
)
from mover.log import get_logger

BACKLOG = 200
LEASE_S = 30.0
RENEW_S = 8.0
POLL_S = 1.0
SWEEP_S = 60.0
STALLED_S = 60
FAILURES_MAX = 5
CLAIMS_MAX = 1000

Handler = Callable[[Shard], Awaitable[None]]
FailureHandler = Callable[[Shard, MoverError], Awaitable[None]]

log = get_logger("jobs")


class Worker:
    """Runs shards of the given queues until cancelled.

    `handlers` maps a shard's kind to what does it; the handler itself calls `finish_shard` in its last
    transaction. `on_failed` is told, after the shard is marked failed, so that the workflow can fail its
    subject; it must be idempotent.
    """

    def __init__(
        self,
        database: Database,
        queue_dsn: str,
        *,
        handlers: dict[str, Handler],
        on_failed: dict[str, FailureHandler],
        queues: list[str],
        holder: str,
        concurrency: int = 2,
        clock: Clock = SYSTEM,
    ) -> None:
        self._database = database
        self._handlers = handlers
        self._on_failed = on_failed
        self._queues = queues
        self._holder = holder
        self._concurrency = concurrency
        self._clock = clock
        self._due = asyncio.Event()
        connector = procrastinate.PsycopgConnector(conninfo=queue_dsn, min_size=1, max_size=concurrency + 2)
        self._app = procrastinate.App(connector=connector)
        self._task = self._app.task(name="run-shard")(self._run_shard)

    async def run(self) -> None:
        """Serve until cancelled; running shards are abandoned to their leases, which the next start voids."""
        async with self._app.open_async(), asyncio.TaskGroup() as group:
            await self._void_earlier_leases()
            group.create_task(self._feed(), name="shard feeder")
            group.create_task(self._listen(), name="shard listener")
            group.create_task(self._sweep(), name="stalled job sweep")
            group.create_task(
                self._app.run_worker_async(
                    queues=self._queues,
                    concurrency=self._concurrency,
                    install_signal_handlers=False,
                    delete_jobs="always",
                    shutdown_graceful_timeout=5,
                ),
                name="queue worker",
            )

    # --- the feeder -----------------------------------------------------------------------------------

    async def _feed(self) -> None:
        while True:
            self._due.clear()
            try:
                await self._enqueue_due()
            except CatalogUnavailable as error:
                log.warning("feeder waits", code=error.code)
            try:
                async with asyncio.timeout(POLL_S):
                    await self._due.wait()
            except TimeoutError:
                continue

    async def _enqueue_due(self) -> None:
        async with self._database.instance() as conn:
            due = await (
                await conn.execute(SQL["due"], {"queues": self._queues, "limit": BACKLOG})
            ).fetchall()
        for row in due:
            # the queueing lock keeps one waiting job per shard, whatever number of feeders runs
            deferrer = self._task.configure(
                queue=row.queue, queueing_lock=row.shard_id, priority=row.priority
            )
            try:
                await deferrer.defer_async(shard=row.shard_id, project=row.project_id)
            except AlreadyEnqueued:
                continue

    async def _listen(self) -> None:
        """Notifications are hints that make the feeder look at once; the poll is the truth."""
        while True:
            try:
                async with self._database.dedicated() as conn:
                    await conn.execute("listen mover_shards")
                    async for _ in conn.notifies():
                        self._due.set()
            except CatalogUnavailable as error:
                log.warning("listener reconnects", code=error.code)
            await self._clock.sleep(POLL_S)

    async def _void_earlier_leases(self) -> None:
        node = self._holder.split("/", 1)[0]
        async with self._database.instance() as conn:
            row = await (
                await conn.execute(SQL["void_leases"], {"node": node, "holder": self._holder})
            ).fetchone()
        if row and row.voided:
            log.info("shards taken back from an earlier process", count=row.voided)

    async def _sweep(self) -> None:
        """Queue jobs of dead workers are removed; their shards come again by their lapsed leases."""
        manager = self._app.job_manager
        while True:
            await self._clock.sleep(SWEEP_S)
            for job in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_S):
                await manager.finish_job(job, procrastinate.jobs.Status.FAILED, delete_job=True)

    # --- one shard --------------------------------------------------------------------------------------

    async def _run_shard(self, shard: str, project: str) -> None:
        async with self._database.project(project) as conn:
            held = await claim_shard(conn, shard, holder=self._holder, lease_s=LEASE_S)
        if held is None:
            return
        log.info("shard begins", shard=held.id, kind=held.kind, subject=held.subject_id, epoch=held.epoch)
        began_s = monotonic_s()
        outcome = "done"
        try:
            await self._hold_while(held)
        except LeaseLost:
            outcome = "lost"
            metrics.LEASES_LOST.labels(held.kind).inc()
            log.warning("shard lost to another worker", shard=held.id, kind=held.kind)
        except MoverError as error:
            outcome = "failed"
            await self._settle(held, error)
        except Exception as error:
            # a bug: keep its type and place, stop the job, let a person look (house style 8)
            outcome = "failed"
            log.exception("shard failed unforeseen", shard=held.id, kind=held.kind)
            await self._settle(held, MoverError(f"unforeseen {type(error).__name__}", where=held.kind))
        else:
            log.info("shard done", shard=held.id, kind=held.kind)
        metrics.SHARDS_DONE.labels(held.kind, outcome).inc()
        metrics.SHARD_SECONDS.labels(held.kind).observe(monotonic_s() - began_s)
        self._due.set()

    async def _hold_while(self, shard: Shard) -> None:
        """Run the handler while a second task renews the lease; losing the lease cancels the handler."""
        if shard.claims > CLAIMS_MAX:
            raise AttemptsExhausted(f"claimed {shard.claims} times and never finished", where=shard.id)
        handler = asyncio.ensure_future(self._handlers[shard.kind](shard))
        renewal = asyncio.ensure_future(self._renew(shard))
        try:
            await asyncio.wait({handler, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if not handler.done():
                handler.cancel()
                await asyncio.gather(handler, return_exceptions=True)
                renewal.result()
            handler.result()
        finally:
            renewal.cancel()
            handler.cancel()
            await asyncio.gather(renewal, handler, return_exceptions=True)

    async def _renew(self, shard: Shard) -> None:
        while True:
            await self._clock.sleep(RENEW_S)
            try:
                async with self._database.project(shard.project) as conn:
                    await renew_shard(conn, shard, lease_s=LEASE_S)
            except CatalogUnavailable:
                # the lease may lapse meanwhile; then the next renewal, or the finish, finds it lost
                continue

    async def _settle(self, shard: Shard, error: MoverError) -> None:
        metrics.ERRORS.labels(error.code).inc()
        again = error.retry != "never" or type(error) is MoverError
        if again and shard.failures + 1 < FAILURES_MAX:
            delay_s = min(60.0, 0.5 * 2**shard.failures)
            log.warning("shard waits to be tried again", shard=shard.id, kind=shard.kind, code=error.code)
            async with self._database.project(shard.project) as conn:
                await put_back_shard(conn, shard, code=error.code, error=error.what, delay_s=delay_s)
            return
        log.error("shard failed", shard=shard.id, kind=shard.kind, code=error.code)
        async with self._database.project(shard.project) as conn:
            await fail_shard(conn, shard, code=error.code, error=error.what)
        handler = self._on_failed.get(shard.kind)
        if handler is not None:
            await handler(shard, error)
