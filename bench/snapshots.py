"""P10, P11, P12: protecting what a training run leaves, beside the snapshot tools that people use.

One checkpoint tree (sixteen shards of float32 weights, four hundred logs) goes through three legs with each tool:
the first snapshot, the second after half the shards changed by a twentieth and one grew in the middle, and the
restore of that. Repositories are made before the clock starts. Ours is encrypted and in the format of restic, so
every run of ours ends, off the clock, with stock `restic check --read-data`: one error and the run does not count.

Ours is clocked inside: a daemon has the repository open and the parent's digests in its catalog. The whole process
stands beside. All three legs are warm, the repository of a restore too.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from bench import corpora, peers, results
from bench.context import (
    ENVIRONMENT,
    Context,
    Judged,
    inside,
    ours_step,
    present,
    rounded,
    seen_inside,
    slug,
)
from bench.corpora import Checkpoint
from bench.measure import Run, RunFailed, Step, Tally, Work, run
from bench.ours import PASSWORD, made_repository
from bench.peers import Peer
from bench.places import Place
from bench.results import Claim

WHOLE, RESTIC, BORG = "ours", "restic", "borg, no encryption"
OURS = inside(WHOLE)
LEGS = ("first", "second", "restore")
MEMORY_MB = 500
SIZE_SHARE_MAX = 1.03
SMALL_ROUNDS = 3


class Tool(Struct, frozen=True):
    """A snapshot tool: its commands in a folder of its own. `made` prepares the repository there, off the clock;
    `checked` asks somebody else whether what was written is whole, and raises RunFailed."""

    name: str
    needs: tuple[str, ...]
    made: Callable[[Path], None]
    snapshot: Callable[[Path, Path], Step]
    restore: Callable[[Path, Path], Step]
    repository: str
    env: Callable[[Path], Mapping[str, str]]
    checked: Callable[[Path], None] = lambda base: None

    @property
    def peer(self) -> Peer:
        return Peer(self.name, self.needs, lambda source, target, scratch: (), tier=self.name == WHOLE)


# --- the tools ------------------------------------------------------------------------------------------


def _restic_env(base: Path, repository: str = "repository") -> dict[str, str]:
    return {
        "RESTIC_REPOSITORY": str(base / repository),
        "RESTIC_CACHE_DIR": str(base / "cache"),
        "RESTIC_PASSWORD": PASSWORD,
    }


def _restic(*words: str) -> Step:
    return Step((peers.find("restic") or "restic", "-q", *words))


def _make_restic(base: Path) -> None:
    _said(_restic("init", "--repository-version", "2"), _restic_env(base))


def _read_by_restic(base: Path) -> None:
    """The oracle that we did not write: every pack of ours read, authenticated and hashed by stock restic."""
    if peers.find("restic"):
        _said(_restic("check", "--read-data", "--no-cache"), _restic_env(base, "tier"))


def _borg_env(base: Path) -> dict[str, str]:
    return {"BORG_BASE_DIR": str(base / "borg"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


def _borg(*words: str) -> Step:
    return Step((peers.find("borg") or "borg", *words))


def _make_borg(base: Path) -> None:
    (base / "borg").mkdir()
    _said(_borg("init", "-e", "none", str(base / "repository")), _borg_env(base))


def _borg_snapshot(tree: Path, base: Path) -> Step:
    return _borg("create", "-C", "none", str(base / "repository") + "::{now:%H%M%S%f}", str(tree))


def _borg_restore(base: Path, target: Path) -> Step:
    """borg writes into the folder that it stands in, and wants the archive's name."""
    borg, repository = shlex.quote(peers.find("borg") or "borg"), shlex.quote(str(base / "repository"))
    last = f"$({borg} list --short --last 1 {repository})"
    return Step(("sh", "-c", f"set -e; cd {shlex.quote(str(target))}; exec {borg} extract {repository}::{last}"))


TOOLS = (
    Tool(
        WHOLE, (), made_repository,
        snapshot=lambda tree, base: ours_step("snapshot", str(tree), str(base / "tier")),
        restore=lambda base, target: ours_step("restore", str(base / "tier"), str(target / "back")),
        repository="tier", env=lambda base: {}, checked=_read_by_restic,
    ),
    Tool(
        RESTIC, ("restic",), _make_restic,
        snapshot=lambda tree, base: _restic("backup", str(tree)),
        restore=lambda base, target: _restic("restore", "latest", "--target", str(target)),
        repository="repository", env=_restic_env,
    ),
    Tool(
        BORG, ("borg",), _make_borg, snapshot=_borg_snapshot, restore=_borg_restore,
        repository="repository", env=_borg_env,
    ),
)  # fmt: skip


def _said(step: Step, env: Mapping[str, str]) -> None:
    done = subprocess.run(step.argv, env={**os.environ, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise RunFailed(f"{Path(step.argv[0]).name} {step.argv[2]}: status {done.returncode}: {last}")


# --- the race of three legs -----------------------------------------------------------------------------


def checkpoints(context: Context) -> None:
    size = context.sizes.checkpoint_bytes
    place = context.large_place("p10", 6 * size)
    tree = corpora.checkpoint(place.folder / "tree", size)
    load_before = os.getloadavg()[0]
    here, missing = _present(context)
    courses = {tool.name: _Legs(context, place, tree, tool) for tool in here}
    for number in range(context.sizes.rounds):
        for tool in here if number % 2 == 0 else reversed(here):
            courses[tool.name].run(number)
    for leg, work in zip(LEGS, _works(size), strict=True):
        tallies = [courses[tool.name].tally(leg) for tool in here]
        found = _judged(context, place, tallies, size, missing=missing, load_before=load_before)
        id = f"P{10 + LEGS.index(leg)}"
        found.claim(id, work, tool=OURS, against=[RESTIC], goal=3.0)
        found.claim(f"{id}-borg", work, tool=OURS, against=[BORG], goal=2.5 if leg == "restore" else 2.0)
    for leg in LEGS[:2]:
        _claim_size(context, f"P{10 + LEGS.index(leg)}-size", {name: legs.sizes[leg] for name, legs in courses.items()})
    place.remove()


def _works(size: int) -> tuple[str, str, str]:
    tree = f"a checkpoint tree of {size / 1e6:.0f} MB"
    return (
        f"first snapshot of {tree}",
        f"second snapshot of {tree}, half the shards 5 % changed, one grown in the middle",
        f"restore of the second snapshot of {tree}",
    )


class _Legs:
    """One tool's way through the three legs, round by round, and what it left."""

    def __init__(self, context: Context, place: Place, tree: Checkpoint, tool: Tool) -> None:
        self._context, self._place, self._tree, self._tool = context, place, tree, tool
        self._runs: dict[str, list[Run]] = {leg: [] for leg in LEGS}
        self._failure = ""
        self.sizes: dict[str, float] = {}

    def tally(self, leg: str) -> Tally:
        return Tally(self._tool.name, tuple(self._runs[leg]), self._failure)

    def run(self, number: int) -> None:
        """One round; a leg that fails takes the tool out of the race, visibly."""
        if self._failure:
            return
        base = self._place.fresh(slug(self._tool.name, number))
        try:
            done = self._legs(base)
            self._tool.checked(base)
        except RunFailed as failure:
            self._failure = str(failure)
            self._context.told(f"{self._tool.name}: failed: {failure}")
            return
        finally:
            shutil.rmtree(base, ignore_errors=True)
        for leg, one in done.items():
            self._runs[leg].append(one)
            self._context.told(f"{self._tool.name}, {leg}: {one.seconds:.2f} s, {one.cpu_s:.2f} CPU s")

    def _legs(self, base: Path) -> dict[str, Run]:
        tool, done = self._tool, {}
        tool.made(base)
        for version, leg in ((1, "first"), (2, "second")):
            self._tree.put(version)
            self._settle(self._tree.corpus.folder)
            done[leg] = self._measured(tool.snapshot(self._tree.corpus.folder, base), base)
            self.sizes[leg] = corpora.count(base / tool.repository)[1] / 1e6
        back = base / "restored"
        back.mkdir()
        self._settle(base / tool.repository)
        done["restore"] = self._measured(tool.restore(base, back), base)
        self._compare(back)
        return done

    def _measured(self, step: Step, base: Path) -> Run:
        work = Work((step,), synced=str(base), env={**ENVIRONMENT, **self._tool.env(base)})
        return run(work, scratch=self._context.scratch)

    def _settle(self, folder: Path) -> None:
        os.sync()
        corpora.warm(folder)

    def _compare(self, back: Path) -> None:
        """Each tool has its own idea of the folders above; below them names and bytes must be the source's."""
        found = next((Path(at) for at, _, names in os.walk(back) if names), back)
        if corpora.digest(found) != corpora.digest(self._tree.corpus.folder):
            raise RunFailed("restored other bytes than those that were protected")


def _present(context: Context) -> tuple[list[Tool], dict[str, str]]:
    _, missing = present([tool.peer for tool in TOOLS])
    for name, reason in missing.items():
        context.told(f"{name}: skipped, {reason}")
    return [tool for tool in TOOLS if tool.name not in missing], missing


def _judged(
    context: Context,
    place: Place,
    tallies: Sequence[Tally],
    size_bytes: int,
    *,
    missing: dict[str, str],
    load_before: float,
    thousands: float = 0,
) -> Judged:
    """Rates in GB/s, or in thousand files where `thousands` says how many there were."""
    failed = {tally.tool: f"failed: {tally.failure}" for tally in tallies if tally.failure}
    whole = [tally for tally in tallies if tally.runs]
    seen = [seen_inside(tally) for tally in whole if tally.tool == WHOLE]
    return Judged(
        context=context,
        tallies={tally.tool: tally for tally in [*whole, *seen]},
        amount=thousands or size_bytes / 1e9,
        unit="thousand files/s" if thousands else "GB/s",
        cpu_amount=thousands or size_bytes / 1e9,
        cpu_unit="CPU s/1000 files" if thousands else "CPU s/GB",
        condition="warm; ours encrypted, and read by stock restic after every run",
        place=place.kind,
        missing={**missing, **failed},
        load_before=load_before,
    )


def _claim_size(context: Context, id: str, sizes: Mapping[str, float]) -> None:
    if not sizes.get(WHOLE) or not sizes.get(RESTIC):
        context.failures[id] = "needs ours and restic"
        return
    ratio = sizes[WHOLE] / sizes[RESTIC]
    context.claim(
        Claim(
            id=id,
            work=f"size of the repository after the {'second' if id.startswith('P11') else 'first'} snapshot",
            unit="MB",
            ours=rounded(sizes[WHOLE]),
            peers={name: rounded(size) for name, size in sizes.items() if name != WHOLE and size},
            limit=None,
            limit_name="",
            ratio=rounded(ratio),
            against=RESTIC,
            goal=SIZE_SHARE_MAX,
            met=results.judge(ratio, SIZE_SHARE_MAX, "lower"),
            better="lower",
            condition="files as they are long, not as they are allocated",
            stamp=results.stamp(load_before=os.getloadavg()[0]),
        )
    )


# --- many small files -----------------------------------------------------------------------------------


def small(context: Context) -> None:
    count = context.sizes.protect_files
    place = context.many_place("p10-small", need_bytes=count * 30_000, files=3 * count)
    corpus = corpora.many(place.folder / "corpus", count, low=200, high=4000)
    load_before = os.getloadavg()[0]
    here, missing = _present(context)
    runs: dict[str, list[Run]] = {tool.name: [] for tool in here}
    failures: dict[str, str] = {}
    corpora.warm(corpus.folder)
    for number in range(min(SMALL_ROUNDS, context.sizes.rounds)):
        for tool in here if number % 2 == 0 else reversed(here):
            if tool.name in failures:
                continue
            try:
                runs[tool.name].append(_first(context, place, corpus.folder, tool, number, count))
            except RunFailed as failure:
                failures[tool.name] = str(failure)
                context.told(f"{tool.name}: failed: {failure}")
    tallies = [Tally(name, tuple(done), failures.get(name, "")) for name, done in runs.items()]
    found = _judged(
        context, place, tallies, corpus.size_bytes, missing=missing, load_before=load_before, thousands=count / 1000
    )
    work = f"first snapshot of {count:,} small files"
    found.claim("P10-small", work, tool=OURS, against=[RESTIC], goal=2.0)
    place.remove()


def _first(context: Context, place: Place, tree: Path, tool: Tool, number: int, files: int) -> Run:
    base = place.fresh(slug(tool.name, number))
    tool.made(base)
    os.sync()
    work = Work((tool.snapshot(tree, base),), synced=str(base), env={**ENVIRONMENT, **tool.env(base)})
    done = run(work, scratch=context.scratch)
    if tool.name == WHOLE and done.counted["files"] != files:
        raise RunFailed(f"protected {done.counted['files']:.0f} of {files} files")
    tool.checked(base)
    context.told(f"{tool.name}: {done.seconds:.2f} s, {done.cpu_s:.2f} CPU s, {done.memory_mb:.0f} MB")
    return done


# --- memory ---------------------------------------------------------------------------------------------


def memory(context: Context) -> None:
    """The most that ours ever holds, as work grows: large sparse files with islands of data, and many small ones."""
    found: dict[str, float] = {}
    for size in context.sizes.protect_growth_bytes:
        place = context.large_place(f"p10-memory-{size}", size // 8 + (64 << 20))
        corpora.islands(place.folder / "corpus" / "archive.bin", size)
        found[f"{size / 1e9:g} GB"] = _held(context, place)
    for count in context.sizes.protect_growth_files:
        place = context.many_place(f"p10-memory-{count}", need_bytes=count * 12_000, files=2 * count)
        corpora.many(place.folder / "corpus", count, low=200, high=2000)
        found[f"{count:,} files"] = _held(context, place)
    most = max(found, key=lambda name: found[name])
    context.claim(
        Claim(
            id="P10-memory",
            work="memory of a first snapshot, the most of any size",
            unit="MB",
            ours=found[most],
            peers={name: value for name, value in found.items() if name != most},
            limit=MEMORY_MB,
            limit_name="promised",
            ratio=rounded(found[most] / MEMORY_MB),
            against=f"{MEMORY_MB} MB",
            goal=1.0,
            met=found[most] <= MEMORY_MB,
            better="lower",
            ours_tool=most,
            condition="proportional share (Pss) of the whole process tree, sampled",
            stamp=results.stamp(load_before=os.getloadavg()[0]),
        )
    )


def _held(context: Context, place: Place) -> float:
    base = place.fresh("work")
    made_repository(base)
    step = TOOLS[0].snapshot(place.folder / "corpus", base)
    done = run(Work((step,), synced=str(base), env=ENVIRONMENT), scratch=context.scratch)
    _read_by_restic(base)
    context.told(json.dumps({"memory_mb": round(done.memory_mb), "seconds": round(done.seconds, 1), **done.counted}))
    place.remove()
    return rounded(done.memory_mb)
