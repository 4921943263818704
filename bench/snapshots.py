"""Snapshots beside stock restic: the same tree, the same disk, the same durability, in turns.

    python bench/snapshots.py FOLDER [--megabytes 800] [--rounds 3]

FOLDER must be on the file system to measure. Per round: ours, restic, restic, ours; a `sync` is inside every
timed region. Prints one JSON document: medians in seconds, all runs, and the machine's facts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from mover.repository.facts import Disk, Folder
from mover.repository.repository import create_repository
from mover.tiers import identity
from mover.tiers.posix import PosixTier

PASSWORD = "bench"
Times = dict[str, float]


def make_tree(folder: Path, megabytes: int) -> None:
    """A training run's artifacts: sixteen incompressible shards and four hundred logs."""
    folder.mkdir(parents=True)
    chance = random.Random(1)
    for shard in range(16):
        (folder / f"shard{shard:02}.pt").write_bytes(chance.randbytes((megabytes << 20) // 16))
    for log in range(400):
        lines = (f"step {step} loss {chance.random():.6f}\n" for step in range(1000))
        (folder / f"log{log:03}.txt").write_text("".join(lines))


def change_tree(folder: Path) -> None:
    """Bytes inserted near the start of every fourth shard: the second snapshot."""
    for shard in range(0, 16, 4):
        path = folder / f"shard{shard:02}.pt"
        content = path.read_bytes()
        path.write_bytes(content[:1000] + b"inserted" + content[1000:])


def timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    os.sync()
    return round(time.monotonic() - start, 3)


def ours(base: Path, tree: Path) -> Times:
    root = base / "tier"
    root.mkdir(parents=True)
    identity.establish(root, name="protect", zone="deidentified")
    tier = PosixTier("protect", "deidentified", root, role="protect")
    repository = create_repository(tier, PASSWORD.encode())
    source = Folder({"artifacts": Disk(tree)})
    taken = []

    def snapshot() -> None:
        parent = taken[-1] if taken else None
        result = repository.snapshot(
            source,
            hostname="bench",
            username="bench",
            tags=[],
            time=datetime.now(UTC),
            paths=["/artifacts"],
            parent=parent.snapshot_id if parent else None,
            parent_digests={entry.path: entry.blake3 for entry in parent.entries} if parent else None,
        )
        taken.append(result)

    first = timed(snapshot)
    change_tree(tree)
    second = timed(snapshot)
    last = taken[-1].snapshot_id
    restore = timed(lambda: repository.restore(last, base / "back", path="/artifacts"))
    check = timed(lambda: repository.check(True, last))
    return {"first": first, "second": second, "restore": restore, "check_cold": check}


def restic(base: Path, tree: Path) -> Times:
    base.mkdir(parents=True)
    places = {"RESTIC_REPOSITORY": str(base / "repo"), "RESTIC_CACHE_DIR": str(base / "cache")}
    environment = {**os.environ, **places, "RESTIC_PASSWORD": PASSWORD}

    def run(*words: str) -> None:
        subprocess.run(["restic", "-q", *words], env=environment, check=True, stdout=subprocess.DEVNULL)

    run("init", "--repository-version", "2")
    first = timed(lambda: run("backup", str(tree)))
    change_tree(tree)
    second = timed(lambda: run("backup", str(tree)))
    restore = timed(lambda: run("restore", "latest", "--target", str(base / "back")))
    check = timed(lambda: run("check", "--read-data"))
    return {"first": first, "second": second, "restore": restore, "check_cold": check}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("--megabytes", type=int, default=800)
    words.add_argument("--rounds", type=int, default=3)
    asked = words.parse_args()
    runs: dict[str, list[Times]] = {"ours": [], "restic": []}
    number = 0
    for _ in range(asked.rounds):
        for name, measure in (("ours", ours), ("restic", restic), ("restic", restic), ("ours", ours)):
            number += 1
            base = asked.folder / f"run{number}"
            make_tree(base / "tree", asked.megabytes)
            os.sync()
            runs[name].append({**measure(base / "work", base / "tree"), "load": os.getloadavg()[0]})
    for done_number in range(1, number + 1):  # deleting between runs would slow the creations of the next
        shutil.rmtree(asked.folder / f"run{done_number}")
    medians = {
        name: {step: statistics.median(run[step] for run in done) for step in done[0] if step != "load"}
        for name, done in runs.items()
    }
    ratios = {step: round(medians["restic"][step] / medians["ours"][step], 2) for step in medians["ours"]}
    version = subprocess.run(["restic", "version"], capture_output=True, text=True, check=True).stdout.strip()
    machine = {"cpus": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version()}
    print(
        json.dumps(
            {
                "megabytes": asked.megabytes,
                "median_s": medians,
                "restic_over_ours": ratios,
                "runs": runs,
                "restic": version,
                "machine": machine,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
