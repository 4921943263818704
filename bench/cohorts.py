"""P16: counting a cohort over a million slides and ten, as the project's own role with row level security on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from statistics import median
from typing import LiteralString, TypeVar

import psycopg
from msgspec import Struct

from bench import results
from bench.context import Context, rounded
from bench.database import Catalog
from bench.places import demand_room
from bench.results import Claim
from mover.catalog import factcolumns, selections
from mover.catalog.database import Database
from mover.catalog.postgres import DAEMON
from mover.clock import monotonic_s
from mover.decide.vectors import BLOCK

T = TypeVar("T")

PROJECT = "bench"
ISSUE = "diagnosis in ('PRAD','BRCA') and gleason >= 7 and scanner like 'AT2%' and sampled(0.1, seed=7)"
QUESTIONS = (
    ISSUE,
    "diagnosis = 'LUAD'",
    "age between 50 and 60 and not sex = 'F'",
    "stage is null or size_mm > 24.5 or slide.mpp < 0.3",
    "vendor = 'hamamatsu' and received_year >= 2020 and stain in ('H&E', 'PAS')",
)
ASKED, ASKED_MS = "asked for", {"P16": 300.0, "P16-large": 1000.0}
BYTES_PER_SLIDE = 3_000  # rows, their indexes and the log
SLICE = 250_000
COHORTS, COHORT_SLIDES = 100, 100_000
ROUNDS = 7

# Slides of a ward that digitises its archive: seven columns of records, eight of the slides themselves. What a
# number hashes to decides, so that every run asks the same.
_SLIDES: tuple[LiteralString, ...] = (
    """create temporary table made on commit drop as
       select upper(substr(md5('slide ' || i), 1, 17)) as number, i, hashint4(i) & 2147483647 as h,
              hashint4(i + 1000000007) & 2147483647 as k
         from generate_series(%(first)s::integer, %(last)s::integer) i""",
    """insert into mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts)
       select number, 'ward', case when h %% 4 = 0 then 'hamamatsu' else 'aperio' end,
              case when h %% 4 = 0 then 'ndpi' else 'svs' end, 200000000 + h::bigint * 2,
              encode(sha256(number::bytea), 'hex'), 'bench', 'slides/' || number,
              jsonb_build_object('vendor', case when h %% 4 = 0 then 'hamamatsu' else 'aperio' end,
                'width', 20000 + h %% 90000, 'height', 20000 + k %% 70000, 'levels', 3 + k %% 7, 'compression', 'jpeg',
                'mpp_x', (array[0.2205, 0.2528, 0.5029])[1 + k %% 3], 'objective', (array[20, 40])[1 + k %% 2])
         from made""",
    "insert into mover.slide_grant (project_id, number) select 'bench', number from made",
    """insert into mover.aligned (project_id, number, subject, facts, record_set_id)
       select 'bench', number, 'S' || substr(number, 1, 16), jsonb_strip_nulls(jsonb_build_object(
                'diagnosis', (array['PRAD', 'BRCA', 'LUAD', 'COAD', 'SKCM'])[1 + h %% 5],
                'gleason', case when h %% 5 = 0 then 6 + k %% 5 end, 'sex', (array['F', 'M'])[1 + k %% 2],
                'stage', (array['I', 'II', 'IIA', 'III', 'IV', null])[1 + h %% 6], 'age', 20 + (h / 7) %% 71,
                'scanner', (array['AT2', 'AT2 DX', 'GT450', 'S360'])[1 + (h / 11) %% 4],
                'stain', (array['H&E', 'H&E', 'H&E', 'PAS', 'Ki-67'])[1 + (k / 13) %% 5],
                'received_year', 2005 + (k / 17) %% 21, 'size_mm', ((k / 19) %% 2500) / 100.0)), 'bench'
         from made where h %% 10 <> 3""",
    "insert into mover.fact_mark (project_id, number) select 'bench', number from made",
)
_COLUMNS = [
    ("diagnosis", "text", ["PRAD", "BRCA", "LUAD", "COAD", "SKCM"]), ("gleason", "integer", None),
    ("stage", "text", ["I", "II", "IIA", "III", "IV"]), ("sex", "text", ["F", "M"]), ("age", "integer", None),
    ("scanner", "text", ["AT2", "AT2 DX", "GT450", "S360"]), ("stain", "text", ["H&E", "PAS", "Ki-67"]),
    ("received_year", "year", None), ("size_mm", "number", None),
]  # fmt: skip
# The same question over documents, as it was asked before: no operator of jsonb is leakproof, so none of them may use
# an index under row level security. The sample is left out, which can only help it.
BY_DOCUMENT: LiteralString = """
select count(*), coalesce(sum(s.size_bytes + s.files_bytes), 0)
  from mover.slide_grant g join mover.slide s on s.number = g.number
  left join mover.aligned a on a.project_id = g.project_id and a.number = g.number
 where g.project_id = 'bench' and not exists (select from mover.slide_withdrawal w where w.number = g.number)
   and a.facts ->> 'diagnosis' in ('PRAD', 'BRCA') and a.facts ->> 'scanner' like 'AT2%'
   and case when jsonb_typeof(a.facts -> 'gleason') = 'number' then (a.facts ->> 'gleason')::numeric end >= 7
"""
BY_COLUMN = "diagnosis in ('PRAD', 'BRCA') and scanner like 'AT2%' and gleason >= 7"


class Measured(Struct, frozen=True):
    slides: int
    rounds_ms: dict[str, list[float]]
    describe_ms: float
    plans: list[str]
    documents_ms: float | None = None


def cohorts(context: Context) -> None:
    """One catalog; at the end its blocks are repeated to ten million slides."""
    slides, load_before = context.sizes.cohort_slides, os.getloadavg()[0]
    demand_room(context.root, slides * BYTES_PER_SLIDE, what="a catalog of slides")
    with Catalog(context.root / "catalog-p16") as catalog:
        context.told(f"P16: making {slides} slides")
        generate(catalog.dsn, 0, slides)
        asyncio.run(_with_database(catalog, lambda database: _built(context, catalog.dsn, database)))
        found = asyncio.run(_with_database(catalog, lambda database: measure(database, slides, documents=True)))
        _claim_count(context, found, "P16", load_before=load_before)
        _claim_selections(context, catalog, slides, load_before=load_before)
        if context.sizes.cohort_repeated and slides >= BLOCK:
            many = repeat(catalog.dsn, slides, context.sizes.cohort_repeated)
            found = asyncio.run(_with_database(catalog, lambda database: measure(database, many)))
            _claim_count(context, found, "P16-large", load_before=load_before)


async def _with_database(catalog: Catalog, work: Callable[[Database], Awaitable[T]]) -> T:
    """As the role that the daemon has: it owns nothing, so row level security binds it."""
    database = await Database.open(catalog.server.dsn(DAEMON), name="bench", max_size=2)
    try:
        return await work(database)
    finally:
        await database.close()


def generate(dsn: str, first: int, last: int) -> None:
    """Slides, grants and documents of facts, without their triggers and keys: those are not what is measured."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        conn.cursor().executemany(
            "insert into mover.fact_column (project_id, name, type, table_name, allowed)"
            " values ('bench', %s, %s, 'outcomes', %s) on conflict do nothing", _COLUMNS,
        )  # fmt: skip
        for start in range(first, last, SLICE):
            with conn.transaction():
                for statement in _SLIDES:
                    bounds = {"first": start, "last": min(start + SLICE, last) - 1} if "%(first)s" in statement else {}
                    conn.execute(statement, bounds)
        conn.execute("vacuum analyze mover.slide, mover.slide_grant, mover.aligned, mover.fact_mark")


def repeat(dsn: str, slides: int, wanted: int) -> int:
    """Whole blocks over and over, each a row of its own; how many slides that is. Their documents are not there: a
    count does not read them."""
    whole, blocks = slides // BLOCK, -(-wanted // BLOCK)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("delete from mover.fact_block where block >= %s", [whole])
        for start in range(whole, blocks, whole):
            conn.execute(
                "insert into mover.fact_block select project_id, name, block + %(start)s, body from mover.fact_block"
                " where block < least(%(whole)s, %(blocks)s - %(start)s)",
                {"start": start, "whole": whole, "blocks": blocks},
            )
        last = "insert into mover.slide_place (project_id, place, number) values ('bench', %s, 'the last one')"
        conn.execute(last, [blocks * BLOCK - 1])
        conn.execute("vacuum analyze mover.slide_place, mover.fact_block")
    return blocks * BLOCK


async def measure(database: Database, slides: int, *, documents: bool = False) -> Measured:
    rounds_ms = {question: await _timed(database, question) for question in QUESTIONS}
    documents_ms = await _by_document(database) if documents else None
    began = monotonic_s()
    async with database.project(PROJECT) as conn:
        shown = {f"record:{name}": type_ for name, type_, _ in _COLUMNS}
        await selections.spreads(conn, ISSUE, shown)
        describe_ms = rounded(1000 * (monotonic_s() - began))
        plans = await factcolumns.plans(conn, ["record:diagnosis", "record:gleason", "record:scanner"])
    return Measured(slides, rounds_ms, describe_ms, plans, documents_ms)


async def _built(context: Context, dsn: str, database: Database) -> None:
    began = monotonic_s()
    await build(database)
    seconds = monotonic_s() - began
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("vacuum analyze mover.slide_place, mover.fact_block, mover.fact_mark")
        [(size,)] = conn.execute("select pg_total_relation_size('mover.fact_block')").fetchall()
    context.told(f"P16: columns made in {seconds:.1f} s, {size / 1e6:.1f} MB")


async def build(database: Database) -> None:
    """As the daemon does it: places, then blocks, a few a transaction."""
    more = True
    while more:
        async with database.project(PROJECT) as conn:
            more = await factcolumns.place_marked(conn, PROJECT)
    built = 1
    while built:
        async with database.project(PROJECT) as conn:
            built = await factcolumns.build(conn, PROJECT)


async def _timed(database: Database, question: str) -> list[float]:
    """The first is thrown away: it reads from the disk."""
    seconds = []
    for _ in range(ROUNDS + 1):
        began = monotonic_s()
        async with database.project(PROJECT) as conn:
            await selections.count(conn, question)
        seconds.append(monotonic_s() - began)
    return [rounded(1000 * one) for one in seconds[1:]]


async def _by_document(database: Database) -> float:
    """Once warm; both ways must agree."""
    async with database.project(PROJECT) as conn:
        for _ in range(2):
            began = monotonic_s()
            [row] = await (await conn.execute(BY_DOCUMENT)).fetchall()
            seconds = monotonic_s() - began
        if tuple(map(int, row)) != await selections.count(conn, BY_COLUMN):
            raise SystemExit("the count by columns differs from the count by documents")
    return rounded(1000 * seconds)


def _claim_count(context: Context, found: Measured, id: str, *, load_before: float) -> None:
    asked = ASKED_MS[id]
    medians = {question: median(rounds) for question, rounds in found.rounds_ms.items()}
    slowest = max(medians, key=lambda one: medians[one])
    ratio = medians[slowest] / asked
    for line in found.plans:
        context.told(f"{id}: {line}")
    context.told(f"{id}: nine columns described in {found.describe_ms:g} ms; {medians}")
    context.claim(
        Claim(
            id=id,
            work=f"count of a cohort over {found.slides} slides and its bytes, the slowest of {len(medians)} questions",
            unit="ms",
            ours=medians[slowest],
            peers={} if found.documents_ms is None else {"documents, row by row": found.documents_ms},
            limit=asked,
            limit_name=ASKED,
            ratio=rounded(ratio),
            against=ASKED,
            goal=1.0,
            met=results.judge(ratio, 1.0, "lower"),
            better="lower",
            condition="warm, as the project's role with row level security on",
            rounds={"ours": found.rounds_ms[slowest], **found.rounds_ms},
            stamp=results.stamp(load_before=load_before),
        )
    )


def _claim_selections(context: Context, catalog: Catalog, slides: int, *, load_before: float) -> None:
    """A hundred cohorts, each another sample: what they add to the database."""
    each = min(COHORT_SLIDES, slides // 10)
    cohorts = COHORTS if slides >= 10 * COHORT_SLIDES else 3
    before = _weight(catalog.dsn)
    frozen = asyncio.run(_with_database(catalog, lambda database: _freeze(database, cohorts, each / slides)))
    per_slide = (_weight(catalog.dsn) - before) / frozen
    context.claim(
        Claim(
            id="P16-selections",
            work=f"{cohorts} frozen cohorts of about {each} slides each: what the catalog grows by",
            unit="bytes/slide",
            ours=rounded(per_slide),
            peers={},
            limit=150.0,
            limit_name="a row a slide",
            ratio=rounded(per_slide / 150),
            against="a row a slide",
            goal=0.1,
            met=results.judge(per_slide / 150, 0.1, "lower"),
            better="lower",
            condition="table, toast and index of what was written",
            stamp=results.stamp(load_before=load_before),
        )
    )


async def _freeze(database: Database, cohorts: int, fraction: float) -> int:
    """How many slides were frozen in all."""
    frozen = 0
    for seed in range(cohorts):
        async with database.project(PROJECT) as conn:
            made = await selections.freeze(conn, PROJECT, expression=f"sampled({fraction:.6f}, seed = {seed})")
        frozen += made.count
    return frozen


def _weight(dsn: str) -> int:
    tables = ("selection", "selection_list", "slide_place", "slide", "slide_grant", "aligned")
    with psycopg.connect(dsn) as conn:
        return sum(
            int(conn.execute("select pg_total_relation_size(%s::regclass)", [f"mover.{name}"]).fetchall()[0][0])
            for name in tables
        )
