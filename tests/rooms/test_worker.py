"""The worker on the real database: what it leaves when a handler fails, is overtaken or ends late."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest

from mover.catalog.database import Connection, Database
from mover.errors import MoverError, RequestInvalid, TierUnavailable
from mover.jobs import NewShard, Shard, Worker, add_shards, finish_shard, in_thread
from mover.jobs import worker as workers
from mover.jobs.shards import claim_shard, others_running, postpone_shard
from mover.jobs.threads import in_stoppable_thread
from tests.support.postgres import Dsns

PROJECT = "demo"


class Bench:
    """One worker without its queue: shards are handed to it one by one."""

    def __init__(self, database: Database, dsns: Dsns) -> None:
        self.database, self.dsns = database, dsns
        self.failed: list[str] = []

    def worker(
        self, do: Callable[[Shard], Awaitable[None]], *, on_failed: workers.FailureHandler | None = None
    ) -> Worker:
        handlers = {} if on_failed is None else {"work": on_failed}
        return Worker(
            self.database, self.dsns.daemon, handlers={"work": do}, on_failed=handlers, queues=["q"], holder="n/1"
        )

    async def add(self) -> str:
        async with self.database.project(PROJECT) as conn:
            await add_shards(conn, PROJECT, [NewShard("q", "work", "subject")])
        return str(self.rows("select id from mover.shard order by created_at desc limit 1")[0][0])

    async def claim(self, shard: str) -> Shard | None:
        async with self.database.project(PROJECT) as conn:
            return await claim_shard(conn, shard, holder="n/2", lease_s=30)

    def rows(self, statement: str) -> list[Any]:
        with psycopg.connect(self.dsns.superuser) as conn:
            cursor = conn.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def state(self) -> tuple[Any, ...]:
        return tuple(self.rows("select state::text, failures, error_code from mover.shard")[0])


@pytest.fixture
def bench(database: Database, dsns: Dsns) -> Bench:
    return Bench(database, dsns)


async def refuse(_: Shard) -> None:
    raise RequestInvalid("a verdict")


async def test_a_shard_fails_together_with_its_subject_or_not_at_all(bench: Bench) -> None:
    """A process that dies between the two would leave a batch or a run that waits for ever."""

    async def die(conn: Connection, shard: Shard, error: MoverError) -> None:
        await conn.execute("insert into mover.cohort (id, project_id, name, version, expression, created_by)"
                           " values ('c', 'demo', 'c', 1, 'true', 'x')")  # fmt: skip
        raise SystemExit("killed between the two")

    shard = await bench.add()
    with pytest.raises(SystemExit):
        await bench.worker(refuse, on_failed=die)._run_shard(shard, PROJECT)

    assert bench.state()[0] == "running"
    assert bench.rows("select id from mover.cohort") == []

    async def note(conn: Connection, shard: Shard, error: MoverError) -> None:
        bench.failed.append(error.code)

    bench.rows("update mover.shard set lease_until = now() - interval '1 s'")
    await bench.worker(refuse, on_failed=note)._run_shard(shard, PROJECT)

    assert bench.state() == ("failed", 1, "request-invalid")
    assert bench.failed == ["request-invalid"]


async def test_an_outage_is_waited_out(bench: Bench) -> None:
    """A bucket that is away for a minute must not fail a batch of a thousand slides."""

    async def away(_: Shard) -> None:
        raise TierUnavailable("the tier is away")

    shard = await bench.add()
    for _ in range(8):
        await bench.worker(away)._run_shard(shard, PROJECT)
        bench.rows("update mover.shard set not_before = now()")

    assert bench.state() == ("waiting", 8, "tier-unavailable")


async def test_what_nobody_foresaw_is_tried_a_handful_of_times(bench: Bench) -> None:
    """A bug ends in a failure that a person sees, not in an endless loop."""

    async def stumble(_: Shard) -> None:
        raise KeyError("a bug")

    shard = await bench.add()
    for _ in range(5):
        await bench.worker(stumble)._run_shard(shard, PROJECT)
        bench.rows("update mover.shard set not_before = now()")

    assert bench.state() == ("failed", 5, "error")


async def test_a_failure_after_the_work_was_finished_changes_nothing(bench: Bench) -> None:
    """The answer to a commit may be lost; the shard is done all the same and is not failed a second time."""

    async def finish_then_fail(shard: Shard) -> None:
        async with bench.database.project(PROJECT) as conn:
            await finish_shard(conn, shard)
        raise TierUnavailable("what came after")

    await bench.worker(finish_then_fail)._run_shard(await bench.add(), PROJECT)

    assert bench.state() == ("done", 0, None)


async def test_work_after_the_finish_needs_no_lease(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgetting old snapshots follows the finish; the renewal must not take the finished shard for a lost one."""
    monkeypatch.setattr(workers, "RENEW_S", 0.02)
    ended = asyncio.Event()

    async def finish_and_go_on(shard: Shard) -> None:
        async with bench.database.project(PROJECT) as conn:
            await finish_shard(conn, shard)
        await asyncio.sleep(0.15)
        ended.set()

    await bench.worker(finish_and_go_on)._run_shard(await bench.add(), PROJECT)

    assert ended.is_set()


async def test_a_handler_that_lost_its_lease_is_not_left_while_its_thread_writes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread cannot be stopped; its transaction, which fences others out, must not end before it does."""
    monkeypatch.setattr(workers, "RENEW_S", 0.02)
    began, may_end, written = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        may_end.wait(120)
        written.set()

    async def work(_: Shard) -> None:
        await in_thread(write)

    running = asyncio.ensure_future(bench.worker(work)._run_shard(shard := await bench.add(), PROJECT))
    await asyncio.to_thread(began.wait, 120)
    bench.rows("update mover.shard set lease_until = now() - interval '1 s'")
    while await bench.claim(shard) is None:  # a renewal may have come first
        bench.rows("update mover.shard set lease_until = now() - interval '1 s'")
    await asyncio.sleep(0.1)
    assert not running.done()
    may_end.set()
    await running

    assert written.is_set()
    assert bench.state()[0] == "running"


async def test_a_thread_that_can_be_stopped_is_stopped_and_waited_for() -> None:
    """A tar may take minutes; who lost its lease, or closes the house, does not wait for all of it."""
    began, stop, seen = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        began.set()
        stop.wait(120)
        time.sleep(0.05)  # whoever does not wait for us leaves first
        seen.set()

    running = asyncio.ensure_future(in_stoppable_thread(stop, write))
    await asyncio.to_thread(began.wait, 120)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stop.is_set() and seen.is_set()


async def test_putting_off_is_neither_a_try_nor_a_failure(bench: Bench) -> None:
    """Cleanup waits while somebody still works on its run; waiting must not use its attempts up."""
    first, second = await bench.add(), await bench.add()
    held = await bench.claim(first)
    other = await bench.claim(second)
    assert held is not None and other is not None

    async with bench.database.project(PROJECT) as conn:
        assert await others_running(conn, held) == 1
        await postpone_shard(conn, held, delay_s=60)
        assert await others_running(conn, other) == 0

    assert bench.rows(f"select state::text, claims, failures from mover.shard where id = '{first}'") == [
        ("waiting", 0, 0)
    ]
