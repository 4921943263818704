"""What changed, told from the real audit and the real shards, through two daemons' rooms on one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from mover import audit
from mover.catalog.database import Database
from mover.jobs.shards import NewShard, add_shards, claim_shard
from mover.model import wire
from mover.model.access import Identity, Role
from mover.model.ids import make_id
from mover.oversight import changes
from mover.oversight.changes import Changes
from mover.randomness import new_id
from tests.rooms.rig import OTHER, PROJECT
from tests.support.postgres import Dsns

pytestmark = [pytest.mark.usefixtures("tier_rows"), pytest.mark.slow]
Heard = wire.Changed | wire.ChangesReset
RUN = make_id("run", now_ms=1, entropy=bytes(10))


def somebody(role: Role = "operator", project: str = PROJECT) -> Identity:
    return Identity(actor="ann", role=role, project=project)


async def decide(
    database: Database, subject: str, *, action: str = "run ready", project: str = PROJECT, node: str = "n1"
) -> None:
    async with database.project(project) as conn:
        await audit.record(conn, project=project, node=node, actor="ann", action=action, subject=subject)


class Ear:
    """Hears a stream until what is wanted came."""

    def __init__(self, room: Changes, identity: Identity, after: int = 0) -> None:
        self.stream: AsyncIterator[Heard] = room.events(identity, after=after)
        self.heard: list[Heard] = []

    async def until(self, wanted: Callable[[Heard], bool]) -> Heard:
        async with asyncio.timeout(60):
            while True:
                self.heard.append(await anext(self.stream))
                if wanted(self.heard[-1]):
                    return self.heard[-1]

    async def begun(self) -> wire.Changed:
        first = await self.until(lambda one: True)
        assert isinstance(first, wire.Changed)
        return first


def of(noun: str, *ids: str) -> Callable[[Heard], bool]:
    return lambda one: isinstance(one, wire.Changed) and noun in one.nouns and set(ids) <= set(one.nouns[noun] or ())


@contextmanager
def looking(*rooms: Changes) -> Iterator[None]:
    tasks = [asyncio.create_task(room.run()) for room in rooms]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


async def test_a_change_is_told_at_every_daemon_to_whom_it_concerns_and_resumed_at_any(
    database: Database, dsns: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decisions by the audit, work by its shards; nobody hears of another project, or of what their role may not read;
    a database that broke every connection is asked again, and what happened meanwhile is told."""
    monkeypatch.setattr(changes, "LOOK_S", 0.02)
    monkeypatch.setattr(changes, "WORK_S", 0.02)
    one, two = Changes(database), Changes(database)
    here, there = Ear(one, somebody()), Ear(two, somebody("viewer"))
    foreign, custodian = Ear(one, somebody(project=OTHER)), Ear(one, somebody("custodian"))
    for ear in (here, there, foreign, custodian):
        assert (await ear.begun()).nouns == {}
    with looking(one, two):
        await decide(database, RUN)
        for ear in (here, there):
            await ear.until(of("runs", RUN))
        last = here.heard[-1].id

        batch = new_id("batch")
        async with database.project(PROJECT) as conn:
            await add_shards(conn, PROJECT, [NewShard("tier:intake", "batch-walk", batch)])
        async with database.project(PROJECT) as conn:
            row = await (await conn.execute("select id from mover.shard where subject_id = %s", [batch])).fetchone()
            assert row is not None and await claim_shard(conn, row.id, holder="n1/1", lease_s=60)
        await here.until(of("batches", batch))
        assert here.heard[-1].nouns.keys() >= {"shards"}  # type: ignore[union-attr]

        with psycopg.connect(dsns.superuser, autocommit=True) as conn:
            # of this test's database alone: others' connections bear the same name
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'test' and datname = current_database()"
            )
        other = new_id("run")
        async with asyncio.timeout(60):
            while True:
                try:
                    await decide(database, other, node="n2")
                except (psycopg.Error, changes.CatalogUnavailable):
                    continue
                break
        for ear in (here, there):
            await ear.until(of("runs", other))

        await decide(database, new_id("token"), action="token made")
        await custodian.until(of("audit"))
        await decide(database, RUN, project=OTHER)
        await foreign.until(of("runs", RUN))
    for ear in (here, there):
        assert not any(
            isinstance(heard, wire.Changed) and {"tokens", "audit"} & heard.nouns.keys() for heard in ear.heard
        )
    assert {noun for heard in custodian.heard for noun in heard.nouns} <= {"audit", "status", "batches", "quarantine"}  # type: ignore[union-attr]
    assert all(set(heard.nouns) <= {"runs", "archives", "status"} for heard in foreign.heard)  # type: ignore[union-attr]

    resumed = await Ear(two, somebody(), last).begun()
    assert set(resumed.nouns["runs"] or ()) >= {other}
    for ear in (here, there, foreign, custodian):
        await ear.stream.aclose()  # type: ignore[attr-defined]
    assert one._watched == {}


async def test_too_long_ago_and_too_much_at_once_are_told_as_a_reset(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LOOK_S", 0.02)
    monkeypatch.setattr(changes, "RECORDS_MAX", 3)
    room = Changes(database)
    ear = Ear(room, somebody())
    now = (await ear.begun()).id
    for long_ago in (1, now - changes.RESUME_MS - 60_000, now + 60_000):
        assert isinstance(await Ear(room, somebody(), long_ago).until(lambda one: True), wire.ChangesReset)
    async with database.project(PROJECT) as conn:
        for _ in range(4):
            await audit.record(conn, project=PROJECT, node="n1", actor="ann", action="run ready", subject=new_id("run"))
    with looking(room):
        await ear.until(lambda one: isinstance(one, wire.ChangesReset))
    assert isinstance(await Ear(room, somebody(), now).until(lambda one: True), wire.ChangesReset)
