"""Lists of a hospital that has many of everything: filtered, and page by page from where the one before ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import msgspec
import psycopg
import pytest

from bench.hospital import PER_BATCH, Scale, fill
from mover.catalog.database import Database
from mover.ingest.batches import SQL as SLIDES
from mover.ingest.batches import Batches
from mover.ingest.records import Records
from mover.model import wire
from mover.oversight.usage import SQL as USAGE
from mover.policy import PolicyBook
from tests.support.postgres import PROJECT, Dsns

SCALE = Scale(1000, few=3, some=30, thousands=60, many=200)
pytestmark = pytest.mark.slow

Pages = Callable[[str | None], Awaitable[Any]]


@pytest.fixture
async def batches(dsns: Dsns, tier_rows: None, database: Database) -> AsyncIterator[Batches]:
    """Filled with every key, check and trigger at work: a row that the daemon could not have written is refused."""
    fill(dsns.superuser, PROJECT, SCALE, guarded=True)
    yield Batches(database, None, {}, PolicyBook([]), node="n1")  # type: ignore[arg-type]


async def whole(pages: Pages) -> list[Any]:
    """Every page; the loop ends because each key is further than the one before."""
    found, after = [], None
    while True:
        page = await pages(after)
        found += next(value for name, value in _fields(page) if name != "next")
        if page.next is None:
            return found
        assert after is None or page.next != after
        after = page.next


def _fields(page: Any) -> list[tuple[str, Any]]:
    return [(name, getattr(page, name)) for name in page.__struct_fields__]


async def test_every_page_of_a_list_goes_on_where_the_one_before_ended(batches: Batches, database: Database) -> None:
    """Nothing twice, nothing left out, newest first where there is time."""
    folders = await whole(lambda after: batches.list(PROJECT, after, 3))
    assert len(folders) == SCALE.slides // PER_BATCH
    assert [one.created_at for one in folders] == sorted((one.created_at for one in folders), reverse=True)
    assert sum(one.packs["published"] for one in folders) == SCALE.slides
    assert sum(one.packs.get("quarantined", 0) + one.packs.get("excluded", 0) for one in folders) == SCALE.slides // 50
    assert [one.state for one in folders] == ["failed", "working", "complete", "complete"]
    assert all(len(one.proofs) == (one.state == "complete") for one in folders)
    packs = await whole(lambda after: batches.packs(PROJECT, folders[-1].id, "published", after, 100))
    assert len(packs) == PER_BATCH and all(len(pack.proofs) == 2 for pack in packs)

    tables = Records(database, None, {}, None, PolicyBook([]), site="ward", node="n1")  # type: ignore[arg-type]
    sets = await whole(lambda after: tables.list(PROJECT, None, after, 3))
    assert [one.id for one in sets] == sorted({one.id for one in sets}, reverse=True)
    assert len(sets) == SCALE.slides // PER_BATCH and {one.state for one in sets} == {"aligned"}
    of_newest = await whole(lambda after: tables.list(PROJECT, folders[0].id, after, 3))
    assert [one.id for one in of_newest] == [sets[0].id]


async def test_slides_are_found_by_batch_family_state_and_time(batches: Batches, dsns: Dsns) -> None:
    """Each filter names what a look at all of them names, however the statement finds it."""
    with psycopg.connect(dsns.superuser) as conn:
        conn.execute("set session_replication_role = replica")  # its bytes are gone: there were none
        conn.execute("update mover.slide_withdrawal set removed_at = now() where number ="
                     " (select min(number) from mover.slide_withdrawal)")  # fmt: skip

    async def found(**only: Any) -> list[str]:
        asked = wire.SlideFilter(**only)
        return [one.number for one in await whole(lambda after: batches.slides(PROJECT, after, 90, only=asked))]

    slides = await whole(lambda after: batches.slides(PROJECT, after, 90))
    assert len(slides) == SCALE.slides and [one.number for one in slides] == sorted(one.number for one in slides)
    numbers = {
        "removed": [one.number for one in slides if one.removed_at],
        "withdrawn": [one.number for one in slides if one.withdrawn and not one.removed_at],
        "aligned": [one.number for one in slides if not one.withdrawn and one.aligned is not None],
        "published": [one.number for one in slides if not one.withdrawn and one.aligned is None],
    }
    assert {state: await found(state=state) for state in numbers} == numbers
    assert len(numbers["removed"]) == 1 and len(numbers["published"]) > 1
    ndpi = [one.number for one in slides if one.family == "hamamatsu-ndpi"]
    assert await found(family="hamamatsu-ndpi") == ndpi and await found(family="never-seen") == []

    newest, *_, oldest = (await batches.list(PROJECT)).batches
    packs = await whole(lambda after: batches.packs(PROJECT, oldest.id, "published", after, 100))
    of_oldest = sorted(pack.number for pack in packs)
    assert await found(batch=oldest.id) == of_oldest
    assert await found(batch=oldest.id, family="hamamatsu-ndpi") == sorted({*of_oldest} & {*ndpi})
    assert await found(batch=oldest.id, state="removed") == sorted({*of_oldest} & {*numbers["removed"]})
    assert await found(batch="batch-none") == []
    early, late = await found(until=newest.created_at), await found(since=newest.created_at)
    assert late == await found(batch=newest.id) and sorted([*early, *late]) == [one.number for one in slides]
    assert await found(since=datetime.now(UTC) + timedelta(days=1)) == []


async def test_what_people_look_for_is_found_by_its_index(batches: Batches, database: Database) -> None:
    """Below row level security, and at any size: of a million slides nobody reads all for a page of two hundred."""
    everything = {"after": "", "limit": 200} | msgspec.structs.asdict(wire.SlideFilter())
    repeated = {"tier": "archive", "digest": None, "spare": None, "limit": 20, "names": True, "keys": 3}
    asked: list[tuple[LiteralString, dict[str, Any], str]] = [
        (SLIDES["slides"], everything, "slide_pkey"),
        (SLIDES["slides"], everything | {"family": "philips-isyntax"}, "slide_family"),
        (SLIDES["slides"], everything | {"since": datetime.now(UTC)}, "slide_created"),
        (SLIDES["slides_of_batch"], everything | {"batch": "batch-1"}, "pack_batch"),
        (USAGE["duplicates"], repeated, "entry_digest"),
    ]
    for statement, values, index in asked:
        async with database.project(PROJECT) as conn:
            await conn.execute("set local enable_seqscan = off")
            rows = await (await conn.execute(b"explain " + statement.encode(), values, prepare=False)).fetchall()
        plan = "\n".join(row[0] for row in rows)
        assert index in plan and "Seq Scan on entry" not in plan and "Seq Scan on slide" not in plan, plan
