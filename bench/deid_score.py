"""`python -m bench.deid_score`: how clean and how whole the files of a planted pack come out, ours beside the peers.

A pack is a folder with `originals/` and `truth.json`; the scorer is a program that is not ours and knows what was
planted. Both are given (or lie below MOVER_SAMPLES); nothing of them is in this repository. FINAL is the share of
files whose output is there, opens, leaks nothing and lost nothing. A peer that is not installed is named as such, and
one that takes only some kinds of files is given only these.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from bench import results
from bench.peers import PEERS, find

KINDS = ("wsi", "dicom", "csv")
TIMEOUT_S = 1800
KEPT = results.RESULTS / "deid_score.json"
OURS = "mover deid"


class Kind(Struct, frozen=True):
    """What the scorer says of one kind of files; `of` leaves out what a rule may drop."""

    files: int
    covered: int
    final: int
    of: int
    leak_free: int
    broken: int
    leaks: int
    planted: int


class Score(Struct, frozen=True):
    """`side` counts identifiers in whatever else the tool wrote, by file. `failed` says why a tool has no score."""

    tool: str
    version: str
    seconds: float
    kinds: dict[str, Kind]
    side: dict[str, int] = {}
    failed: str = ""


class Scores(Struct, frozen=True):
    pack: str
    stamp: results.Stamp
    machine: results.Machine
    scores: list[Score]
    missing: dict[str, str]


class Tool(Struct, frozen=True):
    """`run(originals, out, side)` writes outputs under the source's own relative names, or a map beside them."""

    name: str
    kinds: tuple[str, ...]
    program: str
    package: str
    run: Callable[[Path, Path, Path], None]


# --- the tools -----------------------------------------------------------------------------------------


def _call(*words: str | Path, log: Path, allowed: Sequence[int] = (0,)) -> None:
    with open(log, "ab") as said:
        done = subprocess.run(
            [str(word) for word in words], stdout=said, stderr=said, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S
        )  # fmt: skip
    if done.returncode not in allowed:
        raise ToolFailed(f"ended with status {done.returncode}")


class ToolFailed(Exception):
    """A tool that did not get to its end; what it wrote so far is scored all the same."""


def _ours(profile: Path | None) -> Callable[[Path, Path, Path], None]:
    def run(originals: Path, out: Path, side: Path) -> None:
        mover = (sys.executable, "-m", "mover", "deid")
        key = out.parent / "key"
        _call(*mover, "certify", "--new-key", key, log=side / "log.txt")
        chosen = ("--profile", profile) if profile else ()
        _call(
            *mover, originals, "--to", out, "--crosswalk", out.parent / "crosswalk.json", "--map",
            out.parent / "map.csv", *chosen, "--certificate", side / "certificate.json", "--sign-key", key,
            log=side / "log.txt", allowed=(0, 1),
        )  # fmt: skip

    return run


def _pathsafe(originals: Path, out: Path, side: Path) -> None:
    _call(
        find("pathsafe"), "deidentify", "-y", "-o", out / "wsi", "--certificate", side / "certificate.json",
        originals / "wsi", log=side / "log.txt", allowed=(0, 1),
    )  # fmt: skip


def _dicognito(originals: Path, out: Path, side: Path) -> None:
    """In place on a copy, so that its outputs keep the names the scorer knows them by. Its console command fails; the
    module runs."""
    shutil.copytree(originals / "dicom", out / "dicom")
    _call(PEERS / "bin" / "python", "-m", "dicognito", "--in-place", out / "dicom", log=side / "log.txt")


def _dicom_anonymizer(originals: Path, out: Path, side: Path) -> None:
    for folder in sorted({path.parent for path in (originals / "dicom").rglob("*") if path.is_file()}):
        target = out / folder.relative_to(originals)
        target.mkdir(parents=True)
        for path in sorted(folder.iterdir()):
            if path.is_file():
                _call(find("dicom-anonymizer"), path, target / path.name, log=side / "log.txt", allowed=(0, 1))


def _dcm_anon(originals: Path, out: Path, side: Path) -> None:
    _call(
        find("dcm-anon"), "--continue-on-error", "--audit-log", side / "audit.json", originals / "dicom", out / "dicom",
        log=side / "log.txt",
    )  # fmt: skip


_DEID = """
import sys
from pathlib import Path
from deid.dicom import get_identifiers, replace_identifiers
source, target = map(Path, sys.argv[1:])
for path in sorted(p for p in source.rglob("*") if p.is_file()):
    folder = target / path.parent.relative_to(source)
    folder.mkdir(parents=True, exist_ok=True)
    replace_identifiers([str(path)], save=True, overwrite=True, output_folder=str(folder), remove_private=True)
"""


def _deid(originals: Path, out: Path, side: Path) -> None:
    """Its default recipe over each file."""
    _call(PEERS / "bin" / "python", "-c", _DEID, originals / "dicom", out / "dicom", log=side / "log.txt")


def tools(profile: Path | None) -> list[Tool]:
    return [
        Tool(OURS, KINDS, "python3", "", _ours(profile)),
        Tool("PathSafe", ("wsi",), "pathsafe", "pathsafe", _pathsafe),
        Tool("dicognito", ("dicom",), "dicognito", "dicognito", _dicognito),
        Tool("dicom-anonymizer", ("dicom",), "dicom-anonymizer", "dicom-anonymizer", _dicom_anonymizer),
        Tool("dcm-anonymizer", ("dicom",), "dcm-anon", "dcm-anonymizer", _dcm_anon),
        Tool("deid (pydicom)", ("dicom",), "deid", "deid", _deid),
    ]


# Tools of the field that no package index here has, or that are no program for a folder.
ELSEWHERE = {
    "ImageDePHI": "not on this package index",
    "wsi-anon": "no wheel; its library is built from C by hand",
    "Orthanc": "a server, not raced here",
}


# --- running and scoring -------------------------------------------------------------------------------


def race(pack: Path, scorer: Path, chosen: Sequence[Tool]) -> list[Score]:
    return [_one(tool, pack, scorer) for tool in chosen]


def _one(tool: Tool, pack: Path, scorer: Path) -> Score:
    with tempfile.TemporaryDirectory(prefix="deid-score-") as scratch:
        place = Path(scratch)
        out, side = place / "out", place / "side"
        side.mkdir()
        if tool.name != OURS:
            out.mkdir()
        began, failed = time.monotonic(), ""
        try:
            tool.run(pack / "originals", out, side)
        except (ToolFailed, subprocess.TimeoutExpired) as error:
            failed = str(error)
        seconds = round(time.monotonic() - began, 2)
        out.mkdir(exist_ok=True)
        scored = _scored(pack, scorer, place, tool)
    kinds = {kind: msgspec.convert(found, type=Kind, strict=False) for kind, found in scored["summary"].items()}
    side_hits = {Path(name).suffix or "(none)": count for name, count in scored["side"].items()}
    return Score(tool.name, _version(tool), seconds, kinds, side_hits, failed)


def _scored(pack: Path, scorer: Path, place: Path, tool: Tool) -> dict[str, dict[str, dict[str, int]]]:
    """The scorer's own report. File names of the pack stay out of what is kept: they are identifiers in a real one."""
    arguments = ["--originals", pack / "originals", "--truth", pack / "truth.json", "--outputs", place / "out"]
    arguments += ["--side", place / "side", "--json", place / "score.json", "--domains", ",".join(tool.kinds)]
    if (place / "map.csv").exists():
        arguments += ["--map", place / "map.csv"]
    subprocess.run([sys.executable, scorer, *arguments], check=True, capture_output=True, timeout=TIMEOUT_S)
    found: dict[str, dict[str, dict[str, int]]] = msgspec.json.decode((place / "score.json").read_bytes())
    return found


def _version(tool: Tool) -> str:
    if not tool.package:
        from mover import __version__

        return __version__
    asked = f"import importlib.metadata as m; print(m.version({tool.package!r}))"
    done = subprocess.run([PEERS / "bin" / "python", "-c", asked], capture_output=True, text=True)
    return done.stdout.strip()


def as_table(scores: Scores) -> str:
    """For docs/deidentification.md: files that came out clean and whole, and what leaked."""
    lines = ["| tool | slides | DICOM | tables | identifiers left | seconds |", "|---|---|---|---|---|---|"]
    for score in scores.scores:
        cells = [_cell(score.kinds.get(kind)) for kind in KINDS]
        leaks = sum(kind.leaks for kind in score.kinds.values())
        planted = sum(kind.planted for kind in score.kinds.values())
        side = sum(score.side.values())
        left = f"{leaks} of {planted}" + (f", {side} in its own files" if side else "")
        note = f" ({score.failed})" if score.failed else ""
        lines.append(f"| {score.tool} {score.version}{note} | {' | '.join(cells)} | {left} | {score.seconds:.1f} |")
    lines += [f"| {name} | | | | not raced: {why} | |" for name, why in sorted(scores.missing.items())]
    return "\n".join(lines) + "\n"


def _cell(kind: Kind | None) -> str:
    return f"{kind.final} of {kind.of}" if kind else "–"


def main(words: Sequence[str] | None = None) -> int:
    asked = _asked(words)
    samples = Path(os.environ["MOVER_SAMPLES"]) if "MOVER_SAMPLES" in os.environ else None
    pack = asked.pack or (samples / "planted_dev" if samples else None)
    scorer = asked.scorer or (samples / "score_deid.py" if samples else None)
    if pack is None or scorer is None or not scorer.is_file() or not (pack / "truth.json").is_file():
        print("no pack and scorer: give --pack and --scorer, or set MOVER_SAMPLES", file=sys.stderr)
        return 2
    load = os.getloadavg()[0]
    known = tools(asked.profile)
    there = [tool for tool in known if not tool.package or find(tool.program)]
    missing = ELSEWHERE | {tool.name: "not installed" for tool in known if tool not in there}
    scored = race(pack, scorer, there)
    with tempfile.TemporaryDirectory() as folder:
        machine = results.machine(Path(folder), caches_dropped=False)
    found = Scores(pack.name, results.stamp(load_before=load), machine, scored, missing)
    asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    print(as_table(found))
    ours = next(score for score in scored if score.tool == OURS)
    return 0 if all(kind.final == kind.of and not kind.leaks for kind in ours.kinds.values()) and not ours.side else 1


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.deid_score", description=__doc__.partition("\n")[0])
    parser.add_argument("--pack", type=Path, help="folder with originals/ and truth.json")
    parser.add_argument("--scorer", type=Path, help="the program that knows what was planted")
    parser.add_argument("--profile", type=Path, help="a policy of kind deid for ours")
    parser.add_argument("--json", type=Path, default=KEPT, help="where the scores are kept")
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main())
