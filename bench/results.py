"""What a run of the bench leaves: `bench/results/latest.json`, machine facts first, then the claims.

A claim compares one figure of ours with one of somebody else (the best of the peers it names, a physical limit,
or another figure of ours). Everything needed to doubt it stands beside it: every round, CPU, memory, load.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from bench import peers
from bench.places import filesystem

HERE = Path(__file__).parent
RESULTS = HERE / "results"
LATEST = RESULTS / "latest.json"


class Machine(Struct, frozen=True):
    """No host name and no path: facts that explain figures, nothing that names the machine."""

    cpu: str
    cores: int
    memory_gb: float
    kernel: str
    python: str
    filesystem: str
    device: str
    caches_dropped: bool
    versions: dict[str, str]


class Stamp(Struct, frozen=True):
    """When, of which commit, and how busy the machine was before and after (1-minute load)."""

    at: str
    commit: str
    load_before: float
    load_after: float


class Claim(Struct, frozen=True, kw_only=True):
    """`ratio` is ours over against; `met` is ratio >= goal, or <= goal where `better` is "lower". Names in
    `peers` are tools; `ours_tool` is the name of ours in `cpu`, `memory_mb` and `rounds`."""

    id: str
    work: str
    unit: str
    ours: float
    peers: dict[str, float]
    limit: float | None
    limit_name: str
    ratio: float
    against: str
    goal: float
    met: bool
    better: Literal["higher", "lower"] = "higher"
    ours_tool: str = "ours"
    condition: str = ""
    place: str = ""
    cpu: dict[str, float] = {}
    cpu_unit: str = "CPU s/GB"
    memory_mb: dict[str, float] = {}
    rounds: dict[str, list[float]] = {}
    disturbed: list[str] = []
    missing: dict[str, str] = {}
    stamp: Stamp | None = None


class Results(Struct, frozen=True, kw_only=True):
    version: int = 1
    scale: str
    stamp: Stamp
    seconds: float
    machine: Machine
    limits: dict[str, float]
    claims: list[Claim]


def read(path: Path = LATEST) -> Results:
    return msgspec.json.decode(path.read_bytes(), type=Results)


def write(results: Results, path: Path = LATEST) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def merged(old: Results, new: Results) -> Results:
    """New claims take the place of old ones of the same id; each keeps its own stamp, so the mix is visible."""
    fresh = {claim.id: claim for claim in new.claims}
    kept = [fresh.pop(claim.id, claim) for claim in old.claims]
    return msgspec.structs.replace(new, limits={**old.limits, **new.limits}, claims=[*kept, *fresh.values()])


# --- the machine ----------------------------------------------------------------------------------------


def machine(root: Path, *, caches_dropped: bool) -> Machine:
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        kernel=platform.release(),
        python=platform.python_version(),
        filesystem=filesystem(root),
        device=_device(root),
        caches_dropped=caches_dropped,
        versions=peers.versions(),
    )


def stamp(*, load_before: float) -> Stamp:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Stamp(now, _commit(), round(load_before, 2), round(os.getloadavg()[0], 2))


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _device(root: Path) -> str:
    """The block device behind the root: its kernel name and size. Virtual ones do not know whether they spin."""
    device = os.stat(root).st_dev
    place = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not place.exists():
        return "no block device"
    disk = place.resolve()
    disk = disk.parent if (disk / "partition").exists() else disk
    return f"{disk.name}, {int(_line(disk / 'size') or 0) * 512 / 1e9:.0f} GB"


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _commit() -> str:
    if not shutil.which("git"):
        return "unknown"
    words = ["git", "-C", str(HERE.parent), "describe", "--always", "--abbrev=12", "--exclude=*"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


# --- judging --------------------------------------------------------------------------------------------


def judge(ratio: float, goal: float, better: Literal["higher", "lower"]) -> bool:
    return ratio >= goal if better == "higher" else ratio <= goal


def best(values: dict[str, float], names: Sequence[str], better: Literal["higher", "lower"]) -> tuple[str, float]:
    """The strongest of the named tools that ran, and its value; ("", nan) when none did."""
    ran = {name: values[name] for name in names if name in values}
    if not ran:
        return "", float("nan")
    name = (max if better == "higher" else min)(ran, key=lambda one: ran[one])
    return name, ran[name]
