"""What is printed: one table of claims, readable at three in the morning; what was skipped or failed below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.results import Claim, Results


def show(results: Results, failures: Mapping[str, str], console: Console) -> None:
    console.print(_claims(results.claims))
    console.print(_limits(results))
    for name, reason in _missing(results.claims).items():
        console.print(f"skipped: {name}: {reason}", style="yellow", highlight=False)
    for id, reason in failures.items():
        console.print(f"not measured: {id}: {reason}", style="red", highlight=False)
    stamp = results.stamp
    console.print(
        f"{stamp.at}, commit {stamp.commit}, load {stamp.load_before} before and {stamp.load_after} after, "
        f"{results.seconds:.0f} s, scale {results.scale}",
        highlight=False,
    )


def _claims(claims: Sequence[Claim]) -> Table:
    table = Table(title="ours beside the peers: same bytes, same run, medians", title_justify="left", expand=False)
    table.add_column("claim")
    table.add_column("work", max_width=44)
    table.add_column("ours", justify="right", no_wrap=True)
    table.add_column("against", max_width=26)
    table.add_column("theirs", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("goal", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("CPU", justify="right", no_wrap=True)
    table.add_column("MB", justify="right", no_wrap=True)
    for claim in claims:
        table.add_row(*_row(claim))
    return table


def _row(claim: Claim) -> list[Text | str]:
    sign = "≥" if claim.better == "higher" else "≤"
    verdict = Text("met", "green") if claim.met else Text("missed", "bold red")
    if claim.disturbed:
        verdict.append(" disturbed", "yellow")
    cpu = claim.cpu.get(claim.ours_tool)
    memory = claim.memory_mb.get(claim.ours_tool)
    return [
        claim.id,
        claim.work,
        f"{claim.ours:.4g} {_short(claim.unit)}",
        claim.against,
        f"{claim.ours / claim.ratio:.4g}" if claim.ratio else "-",
        f"{claim.ratio:.2f}",
        f"{sign} {claim.goal:g}",
        verdict,
        f"{cpu:.3g} {claim.cpu_unit.removeprefix('CPU ')}" if cpu is not None else "-",
        f"{memory:.0f}" if memory is not None else "-",
    ]


def _short(unit: str) -> str:
    return unit.replace("thousand files/s", "k/s").replace("thousand entries/s", "k/s")


def _limits(results: Results) -> Table:
    table = Table(title="what the machine can do, same run", title_justify="left")
    for name in results.limits:
        table.add_column(name, justify="right")
    table.add_row(*(f"{value:g}" for value in results.limits.values()))
    return table


def _missing(claims: Sequence[Claim]) -> dict[str, str]:
    return {name: reason for claim in claims for name, reason in claim.missing.items()}
