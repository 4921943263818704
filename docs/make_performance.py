"""Writes docs/performance.md from bench/results/latest.json and bench/why.toml: `python docs/make_performance.py`.

A test keeps the two equal. The pictures that it shows are written by the bench itself, beside the results.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench.limits import SAYS  # noqa: E402 - the bench is not installed, it lies beside
from bench.results import Claim, Results, read  # noqa: E402

HEAD = """\
# Performance

Made from `bench/results/latest.json` and `bench/why.toml` by `docs/make_performance.py`; `make bench` measures
again (about fifteen minutes), `make bench-full` at larger sizes. How it is measured stands in `bench/README.md`.

Every comparison is of one run on one machine: the same bytes, the tools in turns (A B C, C B A, ...), medians, a fresh
output folder each time, and a sync of the output's file system on the clock for every tool. Ours are whole processes,
start-up included, unless a line says otherwise. A ratio is ours over theirs; numbers of two machines, or of a machine
that does something else meanwhile, do not compare.
"""

SMOKE = """\
**These sizes only show that the bench works: every figure below is start-up and noise.** `make bench` measures.\
"""


def page(results: Results, why: dict[str, str]) -> str:
    parts = [HEAD, _run(results), _overview(results), _limits(results)]
    parts += [_claim(claim, why.get(claim.id, "")) for claim in results.claims]
    return "\n".join(parts)


def _run(results: Results) -> str:
    machine, stamp = results.machine, results.stamp
    lines = [
        "## The run",
        "",
        *([SMOKE, ""] if results.scale == "smoke" else []),
        f"{stamp.at}, commit `{stamp.commit}`, scale `{results.scale}`, {results.seconds:.0f} s; load "
        f"{stamp.load_before:g} before, {stamp.load_after:g} after (1 minute, our own work included).",
        "",
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB; {machine.filesystem} on {machine.device}; "
        f"kernel {machine.kernel}, Python {machine.python}.",
        "",
        "Versions: " + "; ".join(f"{name}: {said}" for name, said in machine.versions.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _overview(results: Results) -> str:
    met = sum(claim.met for claim in results.claims)
    rows = "".join(
        f"| [{claim.id}](#{_anchor(claim)}) | {claim.work} | {claim.ours:.4g} {claim.unit} | {claim.ratio:.2f} x "
        f"{claim.against} | {_goal(claim)} | {_verdict(claim)} |\n"
        for claim in results.claims
    )
    head = "| claim | work | ours | ratio | goal | |\n|---|---|---|---|---|---|\n"
    return f"## Claims: {met} of {len(results.claims)} met\n\n{head}{rows}"


def _limits(results: Results) -> str:
    rows = "".join(f"| {name} | {SAYS.get(name, '')} | {value:g} |\n" for name, value in results.limits.items())
    return f"## What the machine can do, measured in the same run\n\n| limit | what | value |\n|---|---|---|\n{rows}"


def _claim(claim: Claim, why: str) -> str:
    goal = f"Goal {_goal(claim)} of {claim.against}: **{claim.ratio:.2f}, {_verdict(claim)}**."
    where = "; ".join(part for part in (claim.condition, claim.place) if part)
    lines = [
        f"## {claim.id}: {claim.work}",
        "",
        f"![{claim.id}](../bench/results/{claim.id}.svg)",
        "",
        f"{goal} {where[:1].upper()}{where[1:]}." if where else goal,
        "",
        f"| tool | {claim.unit} | {claim.cpu_unit} | peak MB | rounds, s |",
        "|---|---|---|---|---|",
    ]
    if claim.stamp is not None:
        stamp = claim.stamp
        lines[4] += f" {stamp.at}, `{stamp.commit}`, load {stamp.load_before:g} to {stamp.load_after:g}."
    values = {claim.ours_tool: claim.ours, **claim.peers}
    lines += [_row(claim, name, value) for name, value in values.items()]
    if claim.limit is not None:
        lines += [f"| limit: {claim.limit_name} | {claim.limit:.4g} | | | |"]
    lines += [f"| {name} | {reason} | | | |" for name, reason in claim.missing.items()]
    if why:
        lines += ["", f"{'What stands in the way' if not claim.met else 'Note'}: {' '.join(why.split())}"]
    return "\n".join([*lines, ""])


def _row(claim: Claim, name: str, value: float) -> str:
    cpu, memory = claim.cpu.get(name), claim.memory_mb.get(name)
    rounds = ", ".join(f"{seconds:.3g}" for seconds in claim.rounds.get(name, []))
    said = f"**{name}**" if name == claim.ours_tool else name
    said += " (disturbed by other work)" if name in claim.disturbed else ""
    weight = [f"{'' if cpu is None else f'{cpu:.2f}'}", f"{'' if memory is None else f'{memory:.0f}'}"]
    return f"| {' | '.join([said, f'{value:.4g}', *weight, rounds])} |"


def _goal(claim: Claim) -> str:
    return f"{'≥' if claim.better == 'higher' else '≤'} {claim.goal:g}"


def _verdict(claim: Claim) -> str:
    verdict = "met" if claim.met else "missed"
    return f"{verdict}, disturbed" if claim.disturbed else verdict


def _anchor(claim: Claim) -> str:
    """As renderers of Markdown make it from the heading."""
    heading = f"{claim.id}: {claim.work}".lower()
    return "".join(letter for letter in heading if letter.isalnum() or letter in " -_").replace(" ", "-")


def why() -> dict[str, str]:
    return tomllib.loads((ROOT / "bench" / "why.toml").read_text("utf-8"))


def made() -> str:
    return page(read(), why())


if __name__ == "__main__":
    Path(__file__).with_name("performance.md").write_text(made(), "utf-8")
