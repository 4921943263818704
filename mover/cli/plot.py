"""`mover plot`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mover.cli.common import with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.group("plot", cls=WholeLines)
def command() -> None:
    """Figures for reports, as SVG or PNG, with the numbers of the pages."""


def _plot(name: str, *more: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A command with the options that all figures have; the file's name says which kind it becomes."""
    options = (
        click.option("-o", "--to", required=True, type=click.Path(dir_okay=False, path_type=Path),
                     help="The file to write: NAME.svg or NAME.png."),
        click.option("--theme", type=click.Choice(["light", "dark"]), default="light", help="Ink on paper, or not."),
        click.option("--width", type=click.IntRange(240, 1600), help="How wide; a PNG has two pixels for each."),
        click.option("--height", type=click.IntRange(240, 1600), help="How high."),
    )  # fmt: skip

    def made(function: Any) -> Any:
        function = with_client(function)
        for option in reversed((*more, *options)):
            function = option(function)
        return command.command(name)(function)

    return made


_TIER = click.option("--tier", required=True, help="The tier.")
_FOLDER = click.option("--folder", default="", help="Only what stands below this folder.")


@_plot("fill", _TIER, click.option("--days", type=click.IntRange(1, 730), default=30, help="How far back."))
def fill(*, mover: SyncClient, out: Output, to: Path, **asked: Any) -> None:
    """How full a tier was, and where that leads."""
    _write(out, to, mover.plots.fill(**_asked(to, asked)))


@_plot(
    "pace",
    click.option("--source", help="Only what left this tier."),
    click.option("--target", help="Only what came to this tier."),
    click.option("--minutes", type=click.IntRange(1, 10_080), default=60, help="How far back."),
)
def pace(*, mover: SyncClient, out: Output, to: Path, **asked: Any) -> None:
    """How fast bytes went between tiers."""
    _write(out, to, mover.plots.pace(**_asked(to, asked)))


@_plot("treemap", _TIER, _FOLDER)
def treemap(*, mover: SyncClient, out: Output, to: Path, **asked: Any) -> None:
    """What fills a deidentified tier, by folder, coloured by age."""
    _write(out, to, mover.plots.treemap(**_asked(to, asked)))


@_plot("ages", _TIER, _FOLDER)
def ages(*, mover: SyncClient, out: Output, to: Path, **asked: Any) -> None:
    """What fills a tier, by size of file and by age."""
    _write(out, to, mover.plots.ages(**_asked(to, asked)))


@_plot(
    "distribution",
    click.option("--column", required=True, help="The column, as `mover cohort columns` names it."),
    click.option("--expression", default="", help="Only the slides that this selects."),
)
def distribution(*, mover: SyncClient, out: Output, to: Path, **asked: Any) -> None:
    """The values of one column among the slides of a cohort."""
    _write(out, to, mover.plots.distribution(**_asked(to, asked)))


@_plot("calendar", click.option("--policy", help="Only the snapshots of this policy."))
def calendar(*, mover: SyncClient, out: Output, to: Path, **asked: Any) -> None:
    """The snapshots of a year by day, coloured by the rule that keeps them."""
    _write(out, to, mover.plots.calendar(**_asked(to, asked)))


@_plot("ledger", click.argument("id"))
def ledger(*, mover: SyncClient, out: Output, to: Path, **asked: Any) -> None:
    """What became of the rows of a set of tables, and of its images."""
    _write(out, to, mover.plots.ledger(**_asked(to, asked)))


@_plot("run", click.argument("id"))
def run(*, mover: SyncClient, out: Output, to: Path, **asked: Any) -> None:
    """Where a run is in its life."""
    _write(out, to, mover.plots.run(**_asked(to, asked)))


def _asked(to: Path, asked: dict[str, Any]) -> dict[str, Any]:
    kind = to.suffix.lower().removeprefix(".")
    if kind not in ("svg", "png"):
        raise click.BadParameter("a figure is written to NAME.svg or NAME.png", param_hint="--to")
    return {name: value for name, value in asked.items() if value is not None} | {"format": kind}


def _write(out: Output, to: Path, data: bytes) -> None:
    to.write_bytes(data)
    out.facts({"bytes": len(data), "file": str(to)}, [("bytes", str(len(data))), ("file", str(to))])
