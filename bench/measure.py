"""One measured run of one tool, and turns: every tool once a round, the order reversed in every second round.

A run is settled before (nothing dirty, the corpus warm or cold as asked), gets a fresh output folder, and ends
with the file system of that folder synced, for every tool alike.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

REAPER = Path(__file__).with_name("reaper.py")
OTHERS_SHARE_MAX = 0.25  # of one core, by other people's processes, before a figure is marked


class Step(Struct, frozen=True):
    """A command; `silent` throws its listing away; with `says_nothing` any output is a found difference."""

    argv: tuple[str, ...]
    silent: bool = False
    says_nothing: bool = False


class Work(Struct, frozen=True):
    """What one run does: its commands, then the sync of `synced` (unless ""), all on the clock; with `own_clock`
    the seconds are those that the tool itself prints."""

    steps: tuple[Step, ...]
    synced: str = ""
    own_clock: bool = False
    env: dict[str, str] = {}
    servers: tuple[int, ...] = ()


class Run(Struct, frozen=True):
    """One measurement. `others` is the share of one core that foreign processes took meanwhile. `counted` is
    what the tool said of itself on its last line, for figures that only it can know."""

    seconds: float
    cpu_s: float
    server_cpu_s: float
    memory_mb: float
    others: float
    load: float
    counted: dict[str, float] = {}


class Tally(Struct, frozen=True):
    """A tool's runs in one race, and their medians. `inner`: of the same runs, by the tool's own clock."""

    tool: str
    runs: tuple[Run, ...]
    failure: str = ""
    inner: bool = False

    @property
    def seconds(self) -> float:
        return statistics.median(run.seconds for run in self.runs)

    @property
    def cpu_s(self) -> float:
        return statistics.median(run.cpu_s for run in self.runs)

    @property
    def memory_mb(self) -> float:
        return max(run.memory_mb for run in self.runs)

    @property
    def disturbed(self) -> bool:
        return statistics.median(run.others for run in self.runs) > OTHERS_SHARE_MAX

    def counted(self, name: str) -> float:
        return statistics.median(run.counted[name] for run in self.runs)


class RunFailed(Exception):
    """A tool did not do its work; the message says what it said."""


def run(work: Work, *, scratch: Path) -> Run:
    """Carry it out under the reaper. RunFailed when a step failed or found a difference."""
    steps: list[dict[str, object]] = [
        {"argv": list(step.argv), "silent": step.silent, "says_nothing": step.says_nothing} for step in work.steps
    ]
    if work.synced:
        steps.append({"syncfs": work.synced})
    output = scratch / "said.txt"
    job = {"steps": steps, "env": work.env, "servers": work.servers, "output": str(output)}
    load = os.getloadavg()[0]
    report = json.loads(_reaped(json.dumps(job).encode()))
    if report["failure"]:
        raise RunFailed(f"{report['failure']}: {_last_words(report['said'], scratch)}")
    counted = _counted(report["said"])
    return Run(
        seconds=counted["seconds"] if work.own_clock else report["seconds"],
        cpu_s=report["cpu_s"],
        server_cpu_s=report["server_cpu_s"],
        memory_mb=report["memory_bytes"] / 1e6,
        others=report["others_cpu_s"] / report["seconds"],
        load=load,
        counted=counted,
    )


def _reaped(job: bytes) -> bytes:
    """The reaper's report. Who interrupts the bench ends the tool with it: it leads a process group of its own."""
    command = [sys.executable, "-I", "-S", str(REAPER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as reaper:
        try:
            said, _ = reaper.communicate(job)
        except BaseException:
            os.killpg(reaper.pid, signal.SIGKILL)
            raise
    if reaper.returncode:
        raise RunFailed(f"the reaper ended with status {reaper.returncode}")
    return said


def _last_words(said: str, scratch: Path) -> str:
    """The line that names the error, else the last one; without paths of this machine, for it is kept."""
    lines = [line.strip() for line in said.splitlines() if line.strip(" ^~\t")]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Unavailable|Missing)\b", line)]
    words = (named or lines or [""])[-1]
    for folder in (scratch.parent, REAPER.parent.parent, Path(sys.prefix)):
        words = words.replace(f"{folder}/", "")
    return words[-300:]


def _counted(said: str) -> dict[str, float]:
    """The numbers of a last line that is a JSON object."""
    last = said.rstrip().rpartition("\n")[2]
    if not last.startswith("{"):
        return {}
    try:
        return {name: float(value) for name, value in json.loads(last).items() if isinstance(value, int | float)}
    except json.JSONDecodeError:
        return {}


class Contestant(Struct, frozen=True):
    """A tool in a race: `prepare(n)` settles what it needs and gives the work of its n-th run, `check` looks at
    what came out, off the clock. `rounds` below the race's own is for peers that are slow and far behind."""

    name: str
    prepare: Callable[[int], Work]
    check: Callable[[int], None] = lambda number: None
    rounds: int = 0


def race(
    contestants: Sequence[Contestant], *, rounds: int, scratch: Path, told: Callable[[str], None]
) -> list[Tally]:
    """Every contestant once a round, in turns: A B C, C B A, A B C ... One that fails drops out, visibly."""
    runs: dict[str, list[Run]] = {one.name: [] for one in contestants}
    failures: dict[str, str] = {}
    for number in range(rounds):
        for one in contestants if number % 2 == 0 else reversed(contestants):
            if one.name in failures or number >= (one.rounds or rounds):
                continue
            try:
                done = run(one.prepare(number), scratch=scratch)
                one.check(number)
            except RunFailed as failure:
                failures[one.name] = str(failure)
                told(f"{one.name}: failed: {failure}")
                continue
            runs[one.name].append(done)
            told(f"{one.name}: {done.seconds:.2f} s, {done.cpu_s:.2f} CPU s, {done.memory_mb:.0f} MB")
    return [Tally(one.name, tuple(runs[one.name]), failures.get(one.name, "")) for one in contestants]
