"""The worker of a node: a feeder that enqueues due shards, and Procrastinate running them.

A job run twice is harmless: claiming a shard raises its epoch, and only the holder of the newest epoch can
finish it. Two bounds: the backlog in the queue (`BACKLOG`), and what runs at once (`concurrency`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException

from mover import metrics
from mover.catalog.database import Connection, Database
from mover.catalog.dsn import Source, ask
from mover.clock import SYSTEM, Clock, end_if_cancelled, monotonic_s
from mover.decide import retries
from mover.errors import AttemptsExhausted, CatalogUnavailable, LeaseLost, MoverError
from mover.jobs.shards import (
    SQL,
    Shard,
    claim_shard,
    fail_shard,
    hold_shard,
    put_back_shard,
)
from mover.log import get_logger

BACKLOG = 200
LEASE_S = 30.0
RENEW_S = 8.0
POLL_S = 1.0
SWEEP_S = 60.0
STALLED_S = 60
GRACE_S = 5.0
CLAIMS_MAX = 1000

Handler = Callable[[Shard], Awaitable[None]]
FailureHandler = Callable[[Connection, Shard, MoverError], Awaitable[None]]

log = get_logger("jobs")


class Worker:
    """Runs shards of the given queues until cancelled.

    `handlers` maps a shard's kind to what does it; the handler itself calls `finish_shard` in its last
    transaction. `on_failed` fails the shard's subject in the very transaction that fails the shard: a crash
    leaves both to do again, never a subject that waits for a shard nobody will run.
    """

    def __init__(
        self,
        database: Database,
        queue: Source,
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
        connector = procrastinate.PsycopgConnector(conninfo=partial(ask, queue), min_size=1, max_size=concurrency + 2)
        self._app = procrastinate.App(connector=connector)
        self._task = self._app.task(name="run-shard")(self._run_shard)

    def serve(self, queue: str) -> None:
        """One queue more, from now on. Its first jobs are found by looking, not by being told."""
        if queue not in self._queues:
            self._queues.append(queue)
            self._due.set()

    async def run(self) -> None:
        """Serve until cancelled; running shards are abandoned to their leases, which the next start voids."""
        async with self._app.open_async(), asyncio.TaskGroup() as group:
            await self._void_earlier_leases()
            group.create_task(self._feed(), name="shard feeder")
            group.create_task(self._listen(), name="shard listener")
            group.create_task(self._sweep(), name="stalled job sweep")
            group.create_task(self._serve_queue(), name="queue worker")

    async def _serve_queue(self) -> None:
        """Procrastinate's own worker ends with the connections of the catalog, as when its server is restarted. It is
        begun again; what it ran comes again by its lapsed lease."""
        while True:
            end_if_cancelled()
            try:
                await self._serve_once()
            except ConnectorException:
                log.warning("queue worker begins again", code=CatalogUnavailable.code)
            await self._clock.sleep(POLL_S)

    async def _serve_once(self) -> None:
        """While it registers itself the worker may lose a cancellation (see
        `clock.end_if_cancelled`), so it is asked again, later than an orderly end takes."""
        serving = asyncio.ensure_future(
            self._app.run_worker_async(
                queues=self._queues,
                concurrency=self._concurrency,
                install_signal_handlers=False,
                delete_jobs="always",
                shutdown_graceful_timeout=GRACE_S,
            )
        )
        try:
            await asyncio.shield(serving)
        finally:
            while not serving.done():
                serving.cancel()
                await asyncio.wait({serving}, timeout=GRACE_S + 1)

    # --- the feeder -----------------------------------------------------------------------------------

    async def _feed(self) -> None:
        while True:
            end_if_cancelled()
            self._due.clear()
            try:
                await self._enqueue_due()
            except (CatalogUnavailable, ConnectorException):
                log.warning("feeder waits", code=CatalogUnavailable.code)
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
            end_if_cancelled()
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
        """Queue jobs of dead workers are removed, at the start too; their shards come again by lapsed leases."""
        manager = self._app.job_manager
        while True:
            end_if_cancelled()
            try:
                for job in await manager.get_stalled_jobs(seconds_since_heartbeat=STALLED_S):
                    await manager.finish_job(job, procrastinate.jobs.Status.FAILED, delete_job=True)
            except ConnectorException:
                log.warning("sweep waits", code=CatalogUnavailable.code)
            await self._clock.sleep(SWEEP_S)

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
            outcome = await self._outcome(held)
        except LeaseLost:
            outcome = "lost"
            metrics.LEASES_LOST.labels(held.kind).inc()
            log.warning("shard lost to another worker", shard=held.id, kind=held.kind)
        except CatalogUnavailable as error:
            # nothing could be written down, so nothing is: the lapsed lease brings the shard again
            outcome = "failed"
            log.warning("shard left to its lease", shard=held.id, kind=held.kind, code=error.code)
        metrics.SHARDS_DONE.labels(held.kind, outcome).inc()
        metrics.SHARD_SECONDS.labels(held.kind).observe(monotonic_s() - began_s)
        self._due.set()

    async def _outcome(self, shard: Shard) -> str:
        """Do it, and write a failure down; LeaseLost when it is another's to do or to fail."""
        try:
            await self._hold_while(shard)
        except LeaseLost:
            raise
        except MoverError as error:
            await self._settle(shard, error)
        except Exception as error:
            # a bug: keep its type and place, stop the job, let a person look (house style 8)
            log.exception("shard failed unforeseen", shard=shard.id, kind=shard.kind)
            await self._settle(shard, MoverError(f"unforeseen {type(error).__name__}", where=shard.kind))
        else:
            log.info("shard done", shard=shard.id, kind=shard.kind)
            return "done"
        return "failed"

    async def _hold_while(self, shard: Shard) -> None:
        """Run the handler while a second task renews the lease; losing the lease cancels the handler."""
        if shard.claims > CLAIMS_MAX:
            raise AttemptsExhausted(f"claimed {shard.claims} times and never finished", where=shard.id)
        handler = asyncio.ensure_future(self._handlers[shard.kind](shard))
        renewal = asyncio.ensure_future(self._renew(shard))
        try:
            await asyncio.wait({handler, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if renewal.done() and renewal.exception() is not None and not handler.done():
                handler.cancel()
                await asyncio.gather(handler, return_exceptions=True)
                renewal.result()
            await handler
        finally:
            renewal.cancel()
            handler.cancel()
            await asyncio.gather(renewal, handler, return_exceptions=True)

    async def _renew(self, shard: Shard) -> None:
        """Until somebody else has the shard (LeaseLost), or it is finished and needs no lease any more."""
        while True:
            end_if_cancelled()
            await self._clock.sleep(RENEW_S)
            try:
                async with self._database.project(shard.project) as conn:
                    if not await hold_shard(conn, shard, lease_s=LEASE_S):
                        return
            except CatalogUnavailable:
                # the lease may lapse meanwhile; then the next renewal, or the finish, finds it lost
                continue

    async def _settle(self, shard: Shard, error: MoverError) -> None:
        metrics.ERRORS.labels(error.code).inc()
        foreseen = type(error) is not MoverError
        delay_s = retries.delay_s(error.retry, foreseen=foreseen, failures=shard.failures + 1)
        async with self._database.project(shard.project) as conn:
            if delay_s is not None:
                await put_back_shard(conn, shard, code=error.code, error=error.what, delay_s=delay_s)
            else:
                await self._fail(conn, shard, error)
        if delay_s is not None:
            log.warning(
                "shard waits to be tried again", shard=shard.id, kind=shard.kind, code=error.code, delay_s=delay_s
            )
        else:
            log.error("shard failed", shard=shard.id, kind=shard.kind, code=error.code, what=error.what)

    async def _fail(self, conn: Connection, shard: Shard, error: MoverError) -> None:
        await fail_shard(conn, shard, code=error.code, error=error.what)
        handler = self._on_failed.get(shard.kind)
        if handler is not None:
            await handler(conn, shard, error)
