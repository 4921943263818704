"""What every race shares: places, settling, turning tools into contestants and tallies into claims."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from bench import corpora, results
from bench.corpora import Corpus
from bench.measure import Contestant, RunFailed, Step, Tally, Work, race
from bench.peers import Peer
from bench.places import Place, demand_room, fresh_filesystem, plain
from bench.results import Claim
from mover.tiers import identity

REPOSITORY = Path(__file__).parent.parent
# both packages, wherever the bench was started
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY)}
WARM_EACH_RUN_FILES = 1000

Better = Literal["higher", "lower"]
Figure = Literal["rate", "cpu", "memory"]


class Sizes(Struct, frozen=True):
    """How much work each race does. `rounds` is for the close contestants; slow peers have their own bound."""

    name: str
    rounds: int
    limits_bytes: int
    slides: tuple[int, ...]
    large_bytes: int  # one file beyond 2 GB; 0 leaves that claim out
    small_files: int
    tiny_files: int
    durable_files: int
    object_bytes: int
    objects: int
    walk_files: int
    walk_growth: tuple[int, ...]
    growth_files: tuple[int, ...]
    growth_bytes: tuple[int, ...]
    reflink_bytes: tuple[int, ...]
    svs_bytes: int
    dicom_objects: int
    checkpoint_bytes: int
    protect_files: int
    protect_growth_bytes: tuple[int, ...]
    protect_growth_files: tuple[int, ...]
    cohort_slides: int
    run_slides: int  # of a run, and how large each is
    run_slide_bytes: int
    run_files: int  # of a root that is checked
    tar_files: int  # of a run in tars
    pack_slides: int  # of a run whose audit is packed
    page_slides: int  # of the hospital whose pages are looked at
    cohort_repeated: int  # their blocks over and over, up to so many; 0 leaves that claim out


MB, GB = 1_000_000, 1_000_000_000

SMOKE = Sizes(
    name="smoke", rounds=1, limits_bytes=32 * MB, slides=(12 * MB, 9 * MB), large_bytes=0, small_files=60,
    tiny_files=200, durable_files=150, object_bytes=20 * MB, objects=20, walk_files=300, walk_growth=(200, 400),
    growth_files=(50, 100), growth_bytes=(9 * MB,), reflink_bytes=(9 * MB, 18 * MB), svs_bytes=8 * MB, dicom_objects=12,
    checkpoint_bytes=32 * MB, protect_files=300, protect_growth_bytes=(64 * MB,), protect_growth_files=(200,),
    cohort_slides=2_000, run_slides=10, run_slide_bytes=1 * MB, run_files=400, tar_files=60, pack_slides=1_000,
    page_slides=1_000, cohort_repeated=0,
)  # fmt: skip
USUAL = Sizes(
    name="usual", rounds=5, limits_bytes=1 * GB, slides=(500 * MB, 700 * MB, 900 * MB), large_bytes=0,
    small_files=5_000, tiny_files=50_000, durable_files=20_000, object_bytes=256 * MB, objects=1_000,
    walk_files=200_000, walk_growth=(100_000, 1_000_000), growth_files=(1_000, 10_000, 50_000),
    growth_bytes=(100 * MB, 1 * GB), reflink_bytes=(16 * MB, 1 * GB), svs_bytes=500 * MB,
    dicom_objects=1_000, checkpoint_bytes=770 * MB, protect_files=200_000, protect_growth_bytes=(1 * GB, 4 * GB),
    protect_growth_files=(10_000, 50_000), cohort_slides=1_000_000, run_slides=20, run_slide_bytes=250 * MB,
    run_files=100_000, tar_files=20_000, pack_slides=100_000, page_slides=100_000,
    cohort_repeated=10_000_000,
)  # fmt: skip
FULL = msgspec.structs.replace(
    USUAL, name="full", rounds=7, limits_bytes=4 * GB, large_bytes=6 * GB, small_files=8_000, tiny_files=200_000,
    objects=2_000, walk_growth=(100_000, 1_000_000, 10_000_000), growth_files=(1_000, 10_000, 100_000, 1_000_000),
    growth_bytes=(100 * MB, 1 * GB, 4 * GB, 16 * GB),
    protect_growth_bytes=(1 * GB, 4 * GB, 16 * GB, 100 * GB), protect_growth_files=(50_000, 200_000, 1_000_000),
    reflink_bytes=(16 * MB, 1 * GB, 16 * GB),
)  # fmt: skip


class Context(Struct, frozen=True):
    """One run of the bench. `finished` collects claims race by race, so that a later failure loses none."""

    root: Path
    sizes: Sizes
    limits: dict[str, float]
    told: Callable[[str], None]
    finished: list[Claim] = []
    failures: dict[str, str] = {}

    @property
    def scratch(self) -> Path:
        made = self.root / "scratch"
        made.mkdir(parents=True, exist_ok=True)
        return made

    # --- places ---

    def large_place(self, name: str, need_bytes: int) -> Place:
        """For few large files: the root's own file system."""
        demand_room(self.root, need_bytes, what=name)
        return plain(self.root, name)

    def many_place(self, name: str, *, need_bytes: int, files: int) -> Place:
        """For many files: a file system of its own where possible (see `places`)."""
        demand_room(self.root, need_bytes, what=name)
        made = fresh_filesystem(self.root, name, kind="ext4", size_bytes=need_bytes, files=files)
        return made or plain(self.root, name, kept=True)

    # --- races ---

    def contest(self, contestants: Sequence[Contestant], *, rounds: int = 0) -> list[Tally]:
        return race(contestants, rounds=rounds or self.sizes.rounds, scratch=self.scratch, told=self.told)

    def claim(self, one: Claim) -> None:
        self.finished.append(one)
        verdict = "met" if one.met else "MISSED"
        self.told(f"{one.id}: {one.ours:g} {one.unit}, {one.ratio:.2f} x {one.against} (goal {one.goal:g}): {verdict}")


class Course(Struct, frozen=True):
    """The same for every tool of a race: where from, where to, warm or cold, what is kept. `discard` removes an
    output once it was checked: right for few large files, wrong for many (see `places`). `source` is what tools
    are told to read where that is not the corpus's folder (a prefix of a bucket)."""

    context: Context
    corpus: Corpus
    place: Place
    cold: bool = False
    discard: bool = False
    env: dict[str, str] = msgspec.field(default_factory=lambda: dict(ENVIRONMENT))
    servers: tuple[int, ...] = ()
    source: str = ""
    warmed: set[int] = set()

    def enter(self, peer: Peer) -> Contestant:
        """A tool as a contestant that copies the corpus to a fresh folder each time."""

        def prepare(number: int) -> Work:
            target = self.place.fresh(self.output(peer, number))
            if peer.tier:
                identity.establish(target, name="target", zone="deidentified")
            self.settle(number)
            return Work(
                peer.steps(self.source or str(self.corpus.folder), str(target), str(self.context.scratch)),
                synced=str(target) if peer.synced else "",
                own_clock=peer.own_clock,
                env=self.env,
                servers=self.servers,
            )

        def check(number: int) -> None:
            target = self.place.folder / self.output(peer, number)
            found = corpora.count(target)
            if found != (self.corpus.files, self.corpus.size_bytes):
                raise RunFailed(f"made {found[0]} files of {found[1]} bytes")
            if peer.tier and number == 0 and corpora.digest(target) != corpora.digest(self.corpus.folder):
                raise RunFailed("made other bytes than those of the source")
            if self.discard:
                shutil.rmtree(target)

        return Contestant(peer.name, prepare, check, peer.rounds)

    def output(self, peer: Peer, number: int) -> str:
        return f"{self.corpus.folder.name}-{slug(peer.name, number)}"

    def settle(self, number: int) -> None:
        """Nothing dirty; the corpus where it is said to be. Many files are read once a round: who moved them
        last left them warm."""
        os.sync()
        if self.cold:
            corpora.cool(self.corpus.folder)
        elif self.corpus.files < WARM_EACH_RUN_FILES or number not in self.warmed:
            corpora.warm(self.corpus.folder)
            self.warmed.add(number)

    @property
    def condition(self) -> str:
        return "cold source" if self.cold else "warm source"


def slug(name: str, number: int) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{number}"


def ours(name: str, verb: str, *flags: str, rounds: int = 0) -> Peer:
    """A verb of `bench.ours` as a tool: a whole process, start-up included. What it says of itself becomes a tool
    of its own in the results (see `inside`)."""

    def steps(source: str, target: str, scratch: str) -> tuple[Step, ...]:
        return (ours_step(verb, source, target, *flags),)

    return Peer(name, (), steps, rounds, tier=True)


def ours_step(*words: str) -> Step:
    return Step((sys.executable, "-m", "bench.ours", *words))


def inside(name: str) -> str:
    """What a tool of ours is called where its own clock counts: the work in a daemon that runs already, without
    loading Python, drivers and parsers. Starting its worker processes stays on that clock."""
    return f"{name} (in a daemon)"


def seen_inside(tally: Tally) -> Tally:
    runs = [
        msgspec.structs.replace(run, seconds=run.counted["seconds"], cpu_s=run.counted["cpu_s"]) for run in tally.runs
    ]
    return Tally(inside(tally.tool), tuple(runs), inner=True)


def present(peers: Sequence[Peer]) -> tuple[list[Peer], dict[str, str]]:
    """Those that can run here, and what the others miss: they are shown as skipped, never left out."""
    missing = {peer.name: f"not installed: {', '.join(peer.missing())}" for peer in peers if peer.missing()}
    return [peer for peer in peers if peer.name not in missing], missing


# --- tallies to claims ----------------------------------------------------------------------------------


class Judged(Struct, frozen=True):
    """A race that was run: its tallies and how to read them. `amount` is what one run moved, in the unit's
    measure (GB or thousand files); CPU is told per `cpu_amount`, which `cpu_unit` names."""

    context: Context
    tallies: dict[str, Tally]
    amount: float
    unit: str
    cpu_amount: float
    cpu_unit: str
    condition: str
    place: str
    missing: dict[str, str]
    load_before: float

    def figures(self, figure: Figure, *, inner: bool = True) -> dict[str, float]:
        ran = {name: tally for name, tally in self.tallies.items() if tally.runs and (inner or not tally.inner)}
        if figure == "cpu":
            return {name: rounded(tally.cpu_s / self.cpu_amount) for name, tally in ran.items()}
        if figure == "memory":
            return {name: rounded(tally.memory_mb) for name, tally in ran.items()}
        return {name: rounded(self.amount / tally.seconds) for name, tally in ran.items()}

    def claim(
        self,
        id: str,
        work: str,
        *,
        tool: str,
        against: Sequence[str],
        goal: float,
        figure: Figure = "rate",
        limit: str = "",
        peers: Sequence[str] = (),
    ) -> None:
        """One claim from this race. `against` names tools (the best counts) or one limit; `peers` are the others
        worth seeing beside (all, when none are named)."""
        better: Better = "higher" if figure == "rate" else "lower"
        values = self.figures(figure)
        if tool not in values:
            self.context.failures[id] = self.tallies[tool].failure if tool in self.tallies else "did not run"
            return
        limits = {name: value for name, value in self.context.limits.items() if name in (limit, *against)}
        name, other = results.best({**values, **limits}, against, better)
        if not name:
            self.context.failures[id] = f"nothing to compare with ran: {', '.join(against)}"
            return
        ratio = values[tool] / other
        shown = [one for one in values if one != tool and (not peers or one in peers or one in against)]
        self.context.claim(
            Claim(
                id=id,
                work=work,
                unit={"rate": self.unit, "cpu": self.cpu_unit, "memory": "MB"}[figure],
                ours=values[tool],
                peers={one: values[one] for one in shown},
                limit=limits.get(limit),
                limit_name=limit if limit in limits else "",
                ratio=rounded(ratio),
                against=name,
                goal=goal,
                met=results.judge(ratio, goal, better),
                better=better,
                ours_tool=tool,
                condition=self.condition,
                place=self.place,
                cpu=_only(self.figures("cpu"), [tool, *shown]),
                cpu_unit=self.cpu_unit,
                memory_mb=_only(self.figures("memory"), [tool, *shown]),
                rounds={one: [rounded(run.seconds) for run in self.tallies[one].runs] for one in [tool, *shown]},
                disturbed=[one for one in [tool, *shown] if self.tallies[one].disturbed],
                missing=self.missing,
                stamp=results.stamp(load_before=self.load_before),
            )
        )


def compete(
    course: Course,
    tools: Sequence[Peer],
    *,
    amount: float,
    unit: str,
    rounds: int = 0,
    cpu: tuple[float, str] = (0, ""),
) -> Judged:
    """Race the tools that are here over the course; those that are not are carried along as missing. CPU is told
    per GB of the corpus unless `cpu` says per what else."""
    load_before = os.getloadavg()[0]
    here, missing = present(tools)
    for name, reason in missing.items():
        course.context.told(f"{name}: skipped, {reason}")
    tallies = course.context.contest([course.enter(tool) for tool in here], rounds=rounds)
    failed = {tally.tool: f"failed: {tally.failure}" for tally in tallies if tally.failure}
    daemons = {tool.name for tool in here if tool.tier}
    tallies += [seen_inside(tally) for tally in tallies if tally.tool in daemons and tally.runs]
    return Judged(
        context=course.context,
        tallies={tally.tool: tally for tally in tallies},
        amount=amount,
        unit=unit,
        cpu_amount=cpu[0] or course.corpus.size_bytes / 1e9,
        cpu_unit=cpu[1] or "CPU s/GB",
        condition=course.condition,
        place=course.place.kind,
        missing={**missing, **failed},
        load_before=load_before,
    )


def _only(values: dict[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: values[name] for name in names if name in values}


def rounded(value: float) -> float:
    """Four significant digits: more would be noise."""
    if not value or not math.isfinite(value):
        return value
    return round(value, 3 - math.floor(math.log10(abs(value))))
