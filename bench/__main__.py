"""`python -m bench`: measure the claims beside their peers, print them, keep them. See README.md."""

from __future__ import annotations

import argparse
import compileall
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import psycopg
from rich.console import Console

from bench import (
    asking,
    audit,
    cohorts,
    corpora,
    deid,
    dicom,
    files,
    limits,
    objects,
    pages,
    pictures,
    results,
    runs,
    snapshots,
    tables,
    walks,
)
from bench.context import FULL, REPOSITORY, SMOKE, USUAL, Context, Sizes
from bench.places import NoRoom, demand_room, remove_leftovers
from bench.results import LATEST, Results
from mover.errors import MoverError

# what --only names -> the race; in the order in which they are run
RACES: dict[str, Callable[[Context], None]] = {
    "P1": files.slides,
    "P1-large": files.large,
    "P2": files.cold,
    "P3": files.small,
    "P4": files.tiny,
    "P5": files.durable,
    "reflink": files.reflink,
    "P6": objects.objects,
    "P8": walks.walks,
    "P9": deid.deidentified,
    "P10": snapshots.checkpoints,
    "P10-small": snapshots.small,
    "P10-memory": snapshots.memory,
    "asking": asking.asking,
    "P13": runs.staging,
    "P13-shards": runs.tars,
    "P14-check": runs.checks,
    "P15": dicom.objects,
    "P16": cohorts.cohorts,
    "P17": audit.packs,
    "P18": pages.pages,
    "growth": files.growth,
}
ALIASES = {"P7": "P6", "P11": "P10", "P12": "P10", "memory": "growth"}  # raced together


def main(words: Sequence[str] | None = None) -> int:
    asked = _asked(words)
    console = Console(width=None if sys.stdout.isatty() else 160)
    sizes = SMOKE if asked.smoke else FULL if asked.full else USUAL
    if asked.rounds:
        sizes = msgspec.structs.replace(sizes, rounds=asked.rounds)
    root = Path(asked.root).absolute() / "bench-data"
    try:
        found, failures = run(root, sizes, only=_chosen(asked.only), told=_teller(console))
    except NoRoom as error:
        console.print(str(error), style="red", highlight=False)
        return 2
    kept = LATEST if asked.merge or not (asked.only or asked.smoke) else LATEST.with_name("partial.json")
    path = Path(asked.results or kept)
    if asked.merge and path.exists():
        found = results.merged(results.read(path), found)
    results.write(found, path)
    for claim in found.claims:
        (path.parent / f"{claim.id}.svg").write_text(pictures.picture(claim), "utf-8")
    tables.show(found, failures, console)
    console.print(f"kept in {os.path.relpath(path)}; docs/performance.md is made from latest.json", highlight=False)
    return 1 if failures else 0


def run(
    root: Path, sizes: Sizes, *, only: Sequence[str] = tuple(RACES), told: Callable[[str], None]
) -> tuple[Results, dict[str, str]]:
    """All chosen races below `root`, which is emptied before and after. A race that fails names itself among the
    failures and ends no other."""
    began, load_before = time.monotonic(), os.getloadavg()[0]
    remove_leftovers(root)
    demand_room(root.parent, 3 * sizes.limits_bytes, what="measuring the device")
    root.mkdir(parents=True)
    try:
        told(f"load {load_before:.2f}; measuring what the machine can do")
        compileall.compile_dir(REPOSITORY / "mover", quiet=1)  # or the first run alone would pay for it
        context = Context(root, sizes, limits.measure(root, size_bytes=sizes.limits_bytes), told)
        dropped = corpora.forget_names()
        for name in only:
            told(f"--- {name}, load {os.getloadavg()[0]:.2f}")
            _race(name, context)
        found = Results(
            scale=sizes.name,
            stamp=results.stamp(load_before=load_before),
            seconds=round(time.monotonic() - began, 1),
            machine=results.machine(root, caches_dropped=dropped),
            limits=context.limits,
            claims=context.finished,
        )
        return found, context.failures
    finally:
        remove_leftovers(root)


def _race(name: str, context: Context) -> None:
    try:
        RACES[name](context)
    except (NoRoom, MoverError, OSError, subprocess.CalledProcessError, psycopg.Error) as error:
        context.failures[name] = str(error)
        context.told(f"{name} ended: {error}")


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the large sizes: an hour or more, and 150 GB")
    parser.add_argument("--smoke", action="store_true", help="sizes that only show that the bench works")
    parser.add_argument("--only", default="", help=f"some races, by comma: {', '.join([*RACES, *ALIASES])}")
    parser.add_argument("--root", default=".", help="a folder on the file system to measure (default: here)")
    parser.add_argument("--rounds", type=int, default=0, help="turns of the close contestants")
    parser.add_argument("--merge", action="store_true", help="with --only: replace these claims in the kept results")
    parser.add_argument("--results", default="", help="another file for the results, and place for the pictures")
    return parser.parse_args(words)


def _chosen(only: str) -> list[str]:
    named = [ALIASES.get(name, name) for name in filter(None, only.split(","))]
    unknown = set(named) - set(RACES)
    if unknown:
        raise SystemExit(f"no such race: {', '.join(sorted(unknown))}; there are {', '.join(RACES)}")
    return [name for name in RACES if name in named or not named]


def _teller(console: Console) -> Callable[[str], None]:
    began = time.monotonic()

    def tell(line: str) -> None:
        console.print(f"[dim]{time.monotonic() - began:6.1f}[/] ", end="")
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    return tell


if __name__ == "__main__":
    sys.exit(main())
