"""Writes docs/why.md from bench/results/side_by_side.json: `python docs/make_why.py`. A test keeps the two equal."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.side_by_side import KEPT, Mishap, Report  # noqa: E402 - the bench is not installed, it lies beside

PAGE = ROOT / "docs" / "why.md"
VERDICTS = {"held": "right data, or none", "said": "says so", "silent": "**silently wrong**"}
HEAD = """\
# Why not a script around rclone or rsync?

Both are excellent at copying. What goes wrong around training is not the copying: it is the set. Below, everyday
mishaps are played to all three on the same slides, by `python -m bench.side_by_side` (two minutes; it builds the small
hospital of the demo and takes it away again). Made from `bench/results/side_by_side.json` by `docs/make_why.py`.

*Silently wrong*: exit status 0, and the job trains on something else than was asked for. *Says so*: an exit status
that a script may look at; what was copied stands there all the same. `archive` and `flash` are plain folders for the
peers; for ours the archive is a bucket, and flash has a daemon's content store.
"""
TAIL = """\
## What this does not show

Both peers compare digests when asked to (`rclone copy --checksum`, `rsync -c`): then a flip on flash is found and
mended, at the price of reading both sides for every job. A flip in the archive they cannot see: no record says what
was written there. Ours shares what stands on flash with the next run as long as its inode did not move since it was
read; rot below the file system moves nothing, and is found by `mover verify`, which a policy repeats. A fresh folder
for every job and a test of exit statuses mend two of the four; the rest of such a script is a list of what was
promised, by digest, who may look at it, and when it may go. That is what this project is.
"""


def made(report: Report) -> str:
    versions = "; ".join(report.versions.values())
    played = f"Played {report.stamp.at[:10]} at {report.stamp.commit}: {versions}.\n"
    return "\n".join([HEAD, played, *(_mishap(one) for one in report.mishaps), TAIL])


def _mishap(mishap: Mishap) -> str:
    rows = [
        f"| {one.tool} | {_code(one.command)} | {one.status} | {one.stands} | {VERDICTS[one.verdict]} |"
        for one in mishap.outcomes
    ]
    head = ["| tool | command | ended | what stands there | |", "|---|---|---|---|---|"]
    return "\n".join([f"## {mishap.title}", "", mishap.story, "", *head, *rows, ""])


def _code(command: str) -> str:
    return "; then ".join(f"`{part}`" for part in command.split("; then "))


def kept() -> Report:
    return msgspec.json.decode(KEPT.read_bytes(), type=Report)


if __name__ == "__main__":
    PAGE.write_text(made(kept()), "utf-8")
