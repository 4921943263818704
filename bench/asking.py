"""P14: asking for runs over HTTP: a list of a hundred thousand names, whole and with one that is wrong, and two hundred
requests at once on a tier that fits forty, while others watch runs of theirs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import msgspec
import psycopg
from msgspec import Struct

from bench import results
from bench.context import Context, rounded
from bench.database import Catalog
from bench.results import Claim
from mover.api import Limits, Rooms, make_app, serve
from mover.api.rooms import AccessRoom
from mover.catalog.database import Database
from mover.catalog.postgres import DAEMON
from mover.clock import monotonic_s
from mover.model.access import Identity
from mover.model.ids import make_number
from mover.model.policy import StagePolicy
from mover.policy import Loaded, PolicyBook
from mover.runs.roots import FlashRoots
from mover.runs.runs import Flash, Runs
from mover.settings import Listen

PROJECT = "bench"
ASKED = "asked for"
NAMES, NAMES_S = 100_000, 2.0
AT_ONCE, FIT, AT_ONCE_S = 200, 40, 1.0
# event streams that are open meanwhile
WATCHERS = 50
SLIDE_BYTES, SLIDES_EACH = 1000, 10
# whole lists, one after the other, each shorter by a name than the one before
ACCEPTED = 3
# a daemon that has been asked before: every connection knows its statements
WARMING = 6

_SLIDES = """
    insert into mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts)
    select n, 'ward', 'aperio-svs', 'svs', %(size)s, encode(sha256(n::bytea), 'hex'), 'bench', 'slides/' || n, '{}'
      from unnest(%(numbers)s::text[]) n
"""


class _Access:
    """One operator; who asks is not what is measured."""

    async def authenticate(self, secret: str) -> Identity:
        return Identity(actor="bench", role="operator", project=PROJECT)


class Answer(Struct, frozen=True):
    status: int
    seconds: float
    body: dict[str, Any]


def asking(context: Context) -> None:
    load_before = os.getloadavg()[0]
    with Catalog(context.root / "catalog-p14") as catalog:
        numbers = [make_number(at.to_bytes(10, "big")) for at in range(NAMES)]
        _generate(catalog.dsn, numbers)
        accepted, names, at_once = asyncio.run(_measure(context, catalog, numbers))
    work = f"a list of {NAMES} names frozen to a run"
    _claim(context, "P14-accepted", work, max(accepted), NAMES_S, {"ours": [*map(rounded, accepted)]}, load_before)
    worst = max(names.values())
    told = {"each kind of offender": [rounded(seconds) for seconds in names.values()]}
    work = f"a list of {NAMES} names refused with every offender named: {', '.join(names)}; the slowest"
    _claim(context, "P14-refusal", work, worst, NAMES_S, told, load_before)
    p99 = at_once[-(len(at_once) // 100) - 1]
    work = f"{AT_ONCE} requests at once on a tier that fits {FIT}, {WATCHERS} watchers beside: the answer of 99 in 100"
    _claim(context, "P14-at-once", work, p99, AT_ONCE_S, {"ours": [rounded(one) for one in at_once]}, load_before)


async def _measure(
    context: Context, catalog: Catalog, numbers: list[str]
) -> tuple[list[float], dict[str, float], list[float]]:
    """Seconds of lists that are accepted and by kind of offender, and of each of many requests at once, in order."""
    database = await Database.open(catalog.server.dsn(DAEMON), name="bench")
    runs = _runs(context.root / "flash-p14", database)
    rooms, limits = cast(Rooms, SimpleNamespace(runs=runs)), Limits(burst=100_000)
    app = make_app(rooms, cast(AccessRoom, _Access()), version="bench", limits=limits)
    server = await serve(app, Listen(None, "127.0.0.1", 0, None), limits=limits)
    connector = aiohttp.TCPConnector(limit=0)
    try:
        async with aiohttp.ClientSession(server.urls[0], connector=connector) as session:
            names = await _names(session, numbers)
            for turn in range(WARMING):
                await _at_once(session, numbers, f"warming-{turn}")
                _forget(catalog.dsn)
            async with _watched(session, numbers):
                found = await _at_once(session, numbers, "measured")
            _judge(catalog.dsn)
            _forget(catalog.dsn)
            _widen(catalog.dsn, runs)
            accepted = [await _accepted(session, numbers[at:], f"accepted/{at}") for at in range(ACCEPTED)]
    finally:
        await server.stop()
        await database.close()
    return accepted, names, sorted(one.seconds for one in found)


async def _accepted(session: aiohttp.ClientSession, numbers: list[str], key: str) -> float:
    answer = await _ask(session, numbers, key)
    if answer.status != 202 or answer.body["count"] != len(numbers):
        raise SystemExit(f"a whole list was answered with {answer.status}")
    return answer.seconds


@asynccontextmanager
async def _watched(session: aiohttp.ClientSession, numbers: list[str]) -> AsyncIterator[None]:
    """While it is open, as many streams follow one run that is staged: a look every second."""
    asked = await _ask(session, numbers[:SLIDES_EACH], "watched")
    headers = {"Authorization": "Bearer bench"}
    async with AsyncExitStack() as streams:
        opened = [
            await streams.enter_async_context(session.get(f"/v1/runs/{asked.body['id']}/events", headers=headers))
            for _ in range(WATCHERS)
        ]
        if any(one.status != 200 for one in opened):
            raise SystemExit("a watcher was refused")
        readers = [asyncio.create_task(_drained(one)) for one in opened]
        yield
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _drained(stream: aiohttp.ClientResponse) -> None:
    async for _ in stream.content:
        pass


async def _names(session: aiohttp.ClientSession, numbers: list[str]) -> dict[str, float]:
    unknown = [make_number((at + NAMES).to_bytes(10, "big")) for at in range(NAMES)]
    lists = {
        "one unknown": [*numbers[:-1], unknown[0]],
        "all unknown": unknown,
        "all malformed": [f"S26-{at:06d}" for at in range(NAMES)],
        "all the same": numbers[:1] * NAMES,
    }
    seconds = {}
    for kind, files in lists.items():
        answer = await _ask(session, files, kind.replace(" ", "-"))
        expected = {"one unknown": 1, "all the same": NAMES - 1}.get(kind, NAMES)
        if answer.status != 422 or len(answer.body["details"]) != expected:
            raise SystemExit(f"{kind}: {len(answer.body['details'])} offenders were named, of {expected}")
        seconds[kind] = answer.seconds
    return seconds


async def _at_once(session: aiohttp.ClientSession, numbers: list[str], mark: str) -> list[Answer]:
    files = numbers[:SLIDES_EACH]
    return await asyncio.gather(*(_ask(session, files, f"{mark}/{at}", priority=at % 3) for at in range(AT_ONCE)))


async def _ask(session: aiohttp.ClientSession, files: list[str], key: str, **more: Any) -> Answer:
    began = monotonic_s()
    headers = {"Authorization": "Bearer bench", "Idempotency-Key": key}
    async with session.post("/v1/runs", json={"files": files, **more}, headers=headers) as response:
        raw = await response.read()
        seconds = monotonic_s() - began
        body: dict[str, Any] = await response.json(content_type=None) if raw else {}
    return Answer(response.status, seconds, body)


def _runs(folder: Path, database: Database) -> Runs:
    folder.mkdir(parents=True, exist_ok=True)
    capacity = FIT * SLIDES_EACH * SLIDE_BYTES + SLIDE_BYTES
    roots = FlashRoots(folder, reflink=False, check_identity=lambda: None)
    policy = Loaded(policy=StagePolicy(name="stage", archive="bench", flash="bench"), file="", text="", digest="")
    return Runs(database, {"bench": Flash(roots, str(folder), capacity)}, PolicyBook([policy]), node="bench")


def _widen(dsn: str, runs: Runs) -> None:
    """From here on the tier has room for everything that is asked for."""
    flash = runs._site.flash
    flash["bench"] = msgspec.structs.replace(flash["bench"], capacity_bytes=None)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update mover.tier set capacity_bytes = null")


def _generate(dsn: str, numbers: list[str]) -> None:
    capacity = FIT * SLIDES_EACH * SLIDE_BYTES + SLIDE_BYTES
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("update mover.tier set capacity_bytes = %s", [capacity])
        conn.execute(_SLIDES, {"numbers": numbers, "size": SLIDE_BYTES})
        conn.execute("insert into mover.slide_grant (project_id, number) select 'bench', number from mover.slide")
        # as the daemon does within a minute of a slide's coming
        conn.execute(
            "insert into mover.slide_place (project_id, place, number)"
            " select 'bench', row_number() over () - 1, number from mover.slide"
        )
        conn.execute("vacuum analyze mover.slide, mover.slide_grant, mover.slide_place")


def _forget(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update mover.run set state = 'refused', reason = 'warming', reserved_bytes = 0")


def _judge(dsn: str) -> None:
    """As many as fit, and not one more."""
    with psycopg.connect(dsn) as conn:
        [(held,)] = conn.execute("select count(*) from mover.run where reserved_bytes > 0").fetchall()
    if held != FIT:
        raise SystemExit(f"{held} runs were let in where {FIT} fit")


def _claim(
    context: Context, id: str, work: str, seconds: float, asked: float, rounds: dict[str, list[float]], load: float
) -> None:
    ratio = seconds / asked
    context.claim(
        Claim(
            id=id, work=work, unit="s", ours=rounded(seconds), peers={}, limit=asked, limit_name=ASKED,
            ratio=rounded(ratio), against=ASKED, goal=1.0, met=results.judge(ratio, 1.0, "lower"), better="lower",
            condition="over HTTP, client and daemon on one machine", rounds=rounds,
            stamp=results.stamp(load_before=load),
        )
    )  # fmt: skip
