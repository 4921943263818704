"""P13 and P14: runs staged as a daemon stages them, with a real catalog, real shards and the engine's processes; and
a root checked by the job that reads it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import msgspec
import psycopg
from blake3 import blake3
from msgspec import Struct

from bench import corpora, results
from bench.context import Context, rounded
from bench.database import Catalog
from bench.measure import RunFailed, Step, Work
from bench.measure import run as run_tool
from bench.peers import find
from bench.places import demand_room
from bench.results import Claim
from mover.catalog.database import Database
from mover.catalog.postgres import DAEMON
from mover.clock import monotonic_s
from mover.jobs import Worker
from mover.model import wire
from mover.model.access import Identity
from mover.model.ids import make_number
from mover.model.manifest import ManifestEntry, make_manifest, parse_manifest
from mover.model.moving import Item
from mover.model.policy import StagePolicy
from mover.model.tiers import TierRole
from mover.policy import Loaded, PolicyBook
from mover.runs.clean import Clean
from mover.runs.fetch import OPTIONS
from mover.runs.hooks import Hooks
from mover.runs.roots import FlashRoots, content_key
from mover.runs.runs import Flash, Runs
from mover.runs.stage import Stage
from mover.sdk import check
from mover.tiers import identity
from mover.tiers.port import ReadTier
from mover.tiers.posix import PosixTier
from mover.transfer import Carrier, Transfer

PROJECT, WHO = "bench", Identity(actor="bench", role="operator", project="bench")
PROCESSES, SHARDS = 2, 2  # as a daemon has them, by default
LOOK_S = 0.01
SHARED_TENTHS = 9
ROUNDS = 3  # each moves the corpus five times
CHECK_S = 3.0
ASKED = "asked for"
Layout = Literal["flat", "shards"]
LAYOUTS: tuple[Layout, ...] = ("flat", "shards")
TAR_FILE_BYTES, TAR_ROUNDS = 50_000, 3
TAR_CLAIMS = (
    ("P13-shards", "staged", "staged, read back, sealed", 8.0),
    ("P13-shards-read", "read", "read cold by a job", 11.0),
)


class Slide(Struct, frozen=True):
    number: str
    key: str
    size_bytes: int
    digest: str


class House(Struct, frozen=True):
    """What a daemon has for runs: an archive, fresh flash tiers whenever they are asked for, and its worker."""

    folder: Path
    dsn: str
    database: Database
    tiers: dict[str, ReadTier]
    flash: dict[str, Flash]
    runs: Runs
    carrier: Carrier

    async def stage(
        self, slides: Sequence[Slide], tier: str, key: str, *, layout: Layout | None = None
    ) -> tuple[float, wire.Run]:
        """From the request to `ready`."""
        began = monotonic_s()
        body = wire.RunRequest(files=[slide.number for slide in slides], policy=f"stage-{tier}", layout=layout)
        run = await self.runs.request(WHO, body, key=key)
        while run.state not in ("ready", "failed"):
            await asyncio.sleep(LOOK_S)
            run = await self.runs.view(PROJECT, run.id)
        if run.state == "failed":
            raise RunFailed(f"the run failed: {run.reason}")
        return monotonic_s() - began, run

    async def clean(self, run: wire.Run) -> None:
        """To its end, as one that never was ready: there is nothing to protect."""
        async with self.database.project(PROJECT) as conn:
            await conn.execute("update mover.run set state = 'cancelled', ready_proof = null where id = %s", [run.id])
        run = await self.runs.clean(WHO, run.id)
        while run.state != "cleaned":
            await asyncio.sleep(LOOK_S)
            run = await self.runs.view(PROJECT, run.id)

    def carry(self, slides: Sequence[Slide], tier: str) -> float:
        """The same files by the engine alone, to a tier of their own."""
        source = self.tiers["archive"]
        items = [
            Item(number, one.key, content_key(one.digest), "file", source.stat(one.key).fingerprint, one.digest)
            for number, one in enumerate(slides)
        ]
        began = monotonic_s()
        moved = 0
        for outcomes in self.carrier.carry(items, source=source, target=self.tiers[tier], options=OPTIONS):  # type: ignore[arg-type]
            moved += sum(one.state == "moved" for one in outcomes)
        if moved != len(slides):
            raise RunFailed(f"the engine moved {moved} of {len(slides)} files")
        return monotonic_s() - began


def staging(context: Context) -> None:
    """P13: staging beside the engine, and a restage of which nine tenths stand already beside a full one."""
    sizes = context.sizes
    large, small = max(10, sizes.run_slides), max(20, sizes.small_files)
    need = 5 * max(large * sizes.run_slide_bytes, small * corpora.SMALL_BYTES)
    demand_room(context.root, need, what="runs")
    for name, number, each in (("P13", large, sizes.run_slide_bytes), ("P13-small", small, corpora.SMALL_BYTES)):
        asyncio.run(_in_house(context, name, partial(_staging, context, name, number, each)))


async def _staging(context: Context, id: str, number: int, each: int, house: House) -> None:
    load_before = os.getloadavg()[0]
    more = max(1, number * (10 - SHARED_TENTHS) // 10)
    slides = plant(house, number + more, each)
    full, moved = slides[:number], slides[more:]
    rounds: dict[str, list[float]] = {"ours": [], "engine": [], "restage": [], "cleaned": []}
    peers: dict[str, list[float]] = {}
    for turn in range(min(ROUNDS, context.sizes.rounds)):
        tiers = [f"{id.lower()}-{turn}-{word}" for word in ("engine", "runs")]
        for tier in tiers:
            add_flash(house, tier)
        for word in ("engine", "ours") if turn % 2 == 0 else ("ours", "engine"):
            os.sync()
            corpora.warm(house.folder / "archive")
            if word == "engine":
                rounds["engine"].append(await asyncio.to_thread(house.carry, full, tiers[0]))
            else:
                seconds, first = await house.stage(full, tiers[1], f"{id}/{turn}/full")
                rounds["ours"].append(seconds)
        os.sync()
        seconds, again = await house.stage(moved, tiers[1], f"{id}/{turn}/shared")
        rounds["restage"].append(seconds)
        if again.linked_count != number - more:
            raise RunFailed(f"{again.linked_count} of {number - more} files were linked")
        for run in (first, again):
            if not check(str(run.root), expected_root=run.manifest_root).whole:
                raise RunFailed("a root is not what was sealed")
            await house.clean(run)
        seconds, again = await house.stage(moved, tiers[1], f"{id}/{turn}/cleaned")
        rounds["cleaned"].append(seconds)
        if again.linked_count != number:
            raise RunFailed(f"{again.linked_count} of {number} files were linked after a cleanup")
        for name, took in _peers(context, house, full, moved).items():
            peers.setdefault(name, []).append(took)
        for tier in tiers:
            shutil.rmtree(house.folder / tier)
    context.told(f"{id}: {rounds} {peers}")
    _claim_staging(context, id, number, each, rounds, peers, load_before)


def _claim_staging(
    context: Context, id: str, number: int, each: int, rounds: dict[str, list[float]], peers: dict[str, list[float]],
    load_before: float,
) -> None:  # fmt: skip
    ours, engine, restage, cleaned = (median(rounds[name]) for name in ("ours", "engine", "restage", "cleaned"))
    gigabytes, what = number * each / 1e9, f"{number} slides of {each / 1e6:g} MB"
    common: dict[str, Any] = {
        "limit": None, "limit_name": "", "condition": "warm archive, one node, from the request to ready",
        "rounds": rounds | peers, "stamp": results.stamp(load_before=load_before),
    }  # fmt: skip
    context.claim(
        Claim(
            id=id, work=f"{what}: staged, read back, sealed", unit="GB/s", ours=rounded(gigabytes / ours),
            peers={"the engine alone": rounded(gigabytes / engine)}, ratio=rounded(engine / ours),
            against="the engine alone", goal=0.85, met=results.judge(engine / ours, 0.85, "higher"), **common,
        )
    )  # fmt: skip
    rates = {name: rounded(gigabytes / median(took)) for name, took in peers.items()}
    context.claim(
        Claim(
            id=f"{id}-shared", work=f"{what}, of which {SHARED_TENTHS} in 10 stand on the flash tier: staged again",
            unit="GB/s", ours=rounded(gigabytes / restage), peers={"a full stage": rounded(gigabytes / ours)} | rates,
            ratio=rounded(ours / restage), against="a full stage", goal=8.0,
            met=results.judge(ours / restage, 8.0, "higher"), **common,
        )
    )  # fmt: skip
    context.claim(
        Claim(
            id=f"{id}-cleaned", work=f"{what}, all on the flash tier, the runs that had them cleaned: staged again",
            unit="GB/s", ours=rounded(gigabytes / cleaned), peers={"a full stage": rounded(gigabytes / ours)},
            ratio=rounded(ours / cleaned), against="a full stage", goal=8.0,
            met=results.judge(ours / cleaned, 8.0, "higher"), **common,
        )
    )  # fmt: skip


def _peers(context: Context, house: House, full: Sequence[Slide], moved: Sequence[Slide]) -> dict[str, float]:
    """Seconds of tools that bring the second list into a folder that holds the first. Neither checks a byte, and what
    the list does not name stays there."""
    listed = context.scratch / "second.txt"
    listed.write_text("".join(f"{slide.key}\n" for slide in moved))
    source, seconds = str(house.folder / "archive"), {}
    for name, words in (
        ("rsync -a --files-from", ("rsync", "-a", "--whole-file", f"--files-from={listed}", f"{source}/")),
        ("rclone copy --files-from", ("rclone", "copy", "--no-traverse", f"--files-from={listed}", source)),
    ):
        program = find(words[0])
        if not program:
            continue
        target = house.folder / "peer"
        for slide in full:
            (target / slide.key).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(house.folder / "archive" / slide.key, target / slide.key)
        os.sync()
        work = Work((Step((program, *words[1:], str(target)), silent=True),), synced=str(target))
        seconds[name] = run_tool(work, scratch=context.scratch).seconds
        shutil.rmtree(target)
    return seconds


# --- P13-shards: many small files, by themselves and in tars ------------------------------------------------------


def tars(context: Context) -> None:
    """P13-shards: the same small files laid out by themselves and in tars: staged, and read cold by a job."""
    files = context.sizes.tar_files
    demand_room(context.root, 5 * files * TAR_FILE_BYTES, what="runs in tars")
    asyncio.run(_in_house(context, "P13-shards", partial(_tars, context, files)))


async def _tars(context: Context, files: int, house: House) -> None:
    load_before, slides = os.getloadavg()[0], plant(house, files, TAR_FILE_BYTES)
    rounds: dict[str, list[float]] = {f"{layout}-{what}": [] for layout in LAYOUTS for what in ("staged", "read")}
    for turn in range(min(TAR_ROUNDS, context.sizes.rounds)):
        for layout in LAYOUTS if turn % 2 == 0 else LAYOUTS[::-1]:
            tier = f"{layout}-{turn}"
            add_flash(house, tier)
            os.sync()
            corpora.warm(house.folder / "archive")
            seconds, run = await house.stage(slides, tier, f"tars/{turn}/{layout}", layout=layout)
            rounds[f"{layout}-staged"].append(seconds)
            rounds[f"{layout}-read"].append(await asyncio.to_thread(_read_cold, Path(str(run.root)), files))
            shutil.rmtree(house.folder / tier)
    context.told(f"P13-shards: {rounds}")
    for id, what, name, goal in TAR_CLAIMS:
        ours, alone = (median(rounds[f"{layout}-{what}"]) for layout in reversed(LAYOUTS))
        context.claim(
            Claim(
                id=id, work=f"{files} files of {TAR_FILE_BYTES // 1000} kB in tars: {name}", unit="files/s",
                ours=rounded(files / ours), peers={"by themselves": rounded(files / alone)}, limit=None, limit_name="",
                ratio=rounded(alone / ours), against="by themselves", goal=goal,
                met=results.judge(alone / ours, goal, "higher"), rounds=rounds,
                condition="warm archive; names and bytes cold when read",
                stamp=results.stamp(load_before=load_before),
            )
        )  # fmt: skip


def _read_cold(root: Path, files: int) -> float:
    """As one worker of a job reads all of it, in the manifest's order: each file, or each tar as a stream."""
    manifest = parse_manifest((root / "manifest.jsonl").read_bytes())
    names = [shard.path for shard in manifest.header.shards or ()] or [e.path for e in manifest.entries if e.slide]
    corpora.cool(root / "data")
    corpora.forget_names()
    began, found = monotonic_s(), 0
    for name in names:
        if not name.endswith(".tar"):
            found += len((root / name).read_bytes()) == TAR_FILE_BYTES
            continue
        with tarfile.open(root / name, "r|", bufsize=1 << 20) as opened:
            for member in opened:
                found += len(opened.extractfile(member).read()) == TAR_FILE_BYTES  # type: ignore[union-attr]
    if found != files:
        raise RunFailed(f"{found} of {files} files were read")
    return monotonic_s() - began


# --- P14: what a job waits for before its first batch --------------------------------------------------


def checks(context: Context) -> None:
    """P14: the default layout, a folder for each slide: as many folders as files."""
    load_before, files = os.getloadavg()[0], context.sizes.run_files
    demand_room(context.root, files * 3 * 4096, what="a root of many files")
    root = _sealed_root(context.root / "root-p14", files)
    rounds: dict[str, list[float]] = {"ours": [], "cold": []}
    for _ in range(context.sizes.rounds):
        if corpora.forget_names():
            rounds["cold"].append(_check(root, files))
        rounds["ours"].append(_check(root, files))
    shutil.rmtree(root)
    seconds, cold = median(rounds["ours"]), rounds["cold"]
    context.claim(
        Claim(
            id="P14-check", work=f"a root of {files} files checked: names, sizes, times, manifest", unit="s",
            ours=rounded(seconds), peers={"with cold names": rounded(median(cold))} if cold else {}, limit=CHECK_S,
            limit_name=ASKED, ratio=rounded(seconds / CHECK_S), against=ASKED, goal=1.0,
            met=results.judge(seconds / CHECK_S, 1.0, "lower"), better="lower", condition="warm names",
            rounds=rounds, stamp=results.stamp(load_before=load_before),
        )
    )  # fmt: skip


def _check(root: Path, files: int) -> float:
    began = monotonic_s()
    checked = check(root)
    if not checked.whole or checked.count != files:
        raise RunFailed("a root is not what was sealed")
    return monotonic_s() - began


def _sealed_root(root: Path, files: int) -> Path:
    entries = []
    for number in range(files):
        name = make_number(number.to_bytes(10, "big"))
        path, data = f"data/{name}/{name}.svs", name.encode()
        (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(data)
        entries.append(ManifestEntry(path, len(data), blake3(data).hexdigest(), slide=name, archive=f"archive/{name}"))
    header, manifest = make_manifest(entries, run="run-bench", cohort=None, created="2026-01-01T00:00:00Z")
    (root / "manifest.jsonl").write_bytes(manifest)
    promised = {"run": header.run, "manifest_root": header.root, "count": header.count, "bytes": header.bytes}
    (root / "RUN.json").write_bytes(msgspec.json.encode(promised | {"sealed_at": "2100-01-01T00:00:00Z"}))
    return root


# --- a house ------------------------------------------------------------------------------------------------


async def _in_house(context: Context, name: str, work: Callable[[House], Awaitable[None]]) -> None:
    folder = context.root / f"house-{name.lower()}"
    folder.mkdir(parents=True)
    try:
        with Catalog(folder / "catalog") as catalog:
            async with _house(folder, catalog) as house:
                await work(house)
    finally:
        shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def _house(folder: Path, catalog: Catalog) -> AsyncIterator[House]:
    dsn = catalog.server.dsn(DAEMON)
    database = await Database.open(dsn, name="bench", max_size=10)
    carrier, flash = Carrier(Transfer(), processes=PROCESSES), dict[str, Flash]()
    tiers: dict[str, ReadTier] = {"archive": _tier(folder, catalog.dsn, "archive")}
    runs = Runs(database, flash, _Policies(flash), node="bench")
    house = House(folder, catalog.dsn, database, tiers, flash, runs, carrier)
    stage = Stage(database, tiers, flash, carrier, node="bench")
    hooks = Hooks(database, PolicyBook([]), flash, node="bench")
    working = asyncio.create_task(_work(house, stage, Clean(database, flash, runs, hooks=hooks, node="bench")))
    try:
        yield house
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        carrier.close()
        await database.close()


class _Policies(PolicyBook):
    """A policy for each flash tier of the race, whenever it was made."""

    def __init__(self, flash: Mapping[str, Flash]) -> None:
        super().__init__([])
        self._flash = flash

    def get(self, name: str, kind: Any) -> Any:
        return StagePolicy(name=name, archive="archive", flash=name.removeprefix("stage-"))

    def all(self) -> list[Loaded]:
        policies = [self.get(f"stage-{tier}", StagePolicy) for tier in self._flash]
        return [Loaded(policy=policy, file="", text="", digest="") for policy in policies]


async def _work(house: House, stage: Stage, clean: Clean) -> None:
    """A daemon's worker without its queue: it looks for due shards itself."""
    worker = Worker(
        house.database, house.dsn,
        handlers={"run-stage": stage.stage, "run-seal": stage.seal, "run-clean": clean.clean},
        on_failed={"run-stage": stage.failed, "run-seal": stage.failed, "run-clean": clean.failed},
        queues=[], holder="bench/x",
    )  # fmt: skip
    in_hand: dict[asyncio.Task[None], str] = {}
    async with asyncio.TaskGroup() as group:
        while True:
            async with house.database.project(PROJECT) as conn:
                due = await (await conn.execute(
                    "select id from mover.shard where state = 'waiting' and not_before <= now()"
                    " order by priority desc, created_at limit 16"
                )).fetchall()  # fmt: skip
            in_hand = {task: id for task, id in in_hand.items() if not task.done()}
            for row in due:
                if len(in_hand) < SHARDS and row.id not in in_hand.values():
                    in_hand[group.create_task(worker._run_shard(row.id, PROJECT))] = row.id
            await asyncio.sleep(LOOK_S)


def _tier(folder: Path, dsn: str, name: str) -> PosixTier:
    root = folder / name
    root.mkdir()
    mark = identity.establish(root, name=name, zone="deidentified")
    role: TierRole = "archive" if name == "archive" else "flash"
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "insert into mover.tier (name, kind, zone, role, identity, traits)"
            " values (%s, 'posix', 'deidentified', %s, %s, '{}')", [name, role, mark],
        )  # fmt: skip
    return PosixTier(name, "deidentified", root, role=role, identity=mark)


def add_flash(house: House, name: str) -> None:
    tier = _tier(house.folder, house.dsn, name)
    roots = FlashRoots(tier.root, reflink=tier.traits.reflink, check_identity=tier.check_identity)
    house.tiers[name], house.flash[name] = tier, Flash(roots, str(tier.root), None)


def plant(house: House, count: int, size_bytes: int) -> list[Slide]:
    """Slides that no two of which are alike, in the archive and in the catalog."""
    pool = os.urandom(size_bytes)
    made = []
    for slide in _slides(count, size_bytes):
        path = house.folder / "archive" / slide.key
        path.parent.mkdir(parents=True)
        data = slide.number.encode() + pool[len(slide.number) :]
        path.write_bytes(data)
        made.append(msgspec.structs.replace(slide, digest=blake3(data).hexdigest()))
    _know(house, made)
    return made


def _slides(count: int, size_bytes: int) -> Iterator[Slide]:
    for at in range(count):
        number = make_number(at.to_bytes(10, "big"))
        yield Slide(number, f"slides/{number}/1/{number}.svs", size_bytes, blake3(number.encode()).hexdigest())


def _know(house: House, slides: Sequence[Slide]) -> None:
    with psycopg.connect(house.dsn) as conn, conn.cursor() as cursor:
        statement = (
            "copy mover.slide (number, site, family, extension, size_bytes, digest, tier, key, facts) from stdin"
        )
        with cursor.copy(statement) as rows:
            for one in slides:
                values = (one.number, "ward", "aperio-svs", "svs", one.size_bytes, one.digest, "archive", one.key, "{}")
                rows.write_row(values)
        cursor.execute("insert into mover.slide_grant (project_id, number) select 'bench', number from mover.slide")
    with psycopg.connect(house.dsn, autocommit=True) as conn:
        conn.execute("vacuum analyze mover.slide, mover.slide_grant")
