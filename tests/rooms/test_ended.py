"""Work that ended long ago goes from the catalog; what is still to be done cannot."""

from __future__ import annotations

import psycopg
import pytest

from mover import metrics
from mover.catalog.database import Database
from mover.jobs.ended import forget_ended, measure
from tests.support.postgres import Dsns

pytestmark = pytest.mark.usefixtures("tier_rows")


def add(dsns: Dsns, mark: str, state: str, days: float | None, *, count: int = 1, project: str = "demo") -> None:
    with psycopg.connect(dsns.superuser, autocommit=True) as conn:
        conn.execute(
            "insert into mover.shard (id, project_id, queue, kind, subject_id, state, created_at, finished_at)"
            " select 'shard-' || %s || n, %s, 'archive', 'batch-walk', 'batch-1', %s, now() - interval '9 years',"
            " now() - make_interval(secs => 86400 * %s) from generate_series(1, %s) n",
            [mark, project, state, days, count],
        )  # fmt: skip


def standing(dsns: Dsns) -> set[str]:
    with psycopg.connect(dsns.superuser) as conn:
        return {id_.removeprefix("shard-") for (id_,) in conn.execute("select id from mover.shard").fetchall()}


async def test_what_ended_long_ago_goes_in_pieces_what_failed_later_and_what_waits_never(
    dsns: Dsns, database: Database
) -> None:
    """A catalog that only grows is slow in its third year (I10); one that forgets what is due loses slides (I7)."""
    with psycopg.connect(dsns.superuser, autocommit=True) as conn:
        conn.execute("insert into mover.project (id) values ('other') on conflict do nothing")
    add(dsns, "old", "done", 91, count=7)
    add(dsns, "given-up", "cancelled", 91)
    add(dsns, "young", "done", 89)
    add(dsns, "failed", "failed", 91)
    add(dsns, "long-failed", "failed", 401)
    add(dsns, "waiting", "waiting", None)
    add(dsns, "running", "running", None)
    add(dsns, "there", "done", 91, project="other")
    assert await forget_ended(database, done_days=90, failed_days=400, piece=2) == 10
    assert standing(dsns) == {"young1", "failed1", "waiting1", "running1"}
    assert await forget_ended(database, done_days=90, failed_days=400) == 0
    async with database.project("demo") as conn:
        await conn.execute("delete from mover.shard where state in ('waiting', 'running')")
    assert standing(dsns) == {"young1", "failed1", "waiting1", "running1"}
    await measure(database, "demo")
    assert 90.9 < metrics.SHARD_OLDEST._value.get() / 86_400 < 91.1


async def test_the_oldest_are_found_by_their_index(database: Database) -> None:
    """Every hour, among millions that are young."""
    async with database.project("demo") as conn:
        await conn.execute("set local enable_seqscan = off")
        rows = await (
            await conn.execute(
                "explain select id from mover.shard where finished_at < now() - interval '90 days'"
                " and (state in ('done', 'cancelled') or finished_at < now() - interval '400 days')"
                " order by finished_at limit 10"
            )
        ).fetchall()
    assert "shard_ended" in " ".join(row[0] for row in rows)
