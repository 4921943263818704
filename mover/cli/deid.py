"""`mover deid`: de-identify a folder without catalog or daemon."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command("deid")
@click.argument("source_dir", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--to", "out_dir", required=True, type=click.Path(path_type=Path), help="Folder for the clean files.")
@click.option("--crosswalk", required=True, type=click.Path(path_type=Path),
              help="File that ties names to numbers; written 0600, outside the output folder.")  # fmt: skip
@click.option("--map", "map_path", type=click.Path(path_type=Path), help="Also write source,output as CSV (0600).")
@click.option("--thumbnails", is_flag=True, help="Render a small JPEG beside each slide.")
@click.option("--plan", "plan_only", is_flag=True, help="Look, judge and prove, but write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    source_dir: Path,
    out_dir: Path,
    crosswalk: Path,
    map_path: Path | None,
    thumbnails: bool,
    plan_only: bool,
    as_json: bool,
) -> None:
    """De-identify every slide below SOURCE_DIR.

    Slides become TO/<number>/<number>.svs or .ndpi. What is not understood is listed in the crosswalk as
    quarantined and never written. Exit status: 0 when all was handled, 1 when some was quarantined.
    """
    import msgspec
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mover.deid.oneshot import OneShotReport, deidentify_folder
    from mover.errors import MoverError

    columns = (TextColumn("de-identifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("files", total=None)
            report: OneShotReport = deidentify_folder(
                source_dir,
                out_dir,
                crosswalk,
                map_path=map_path,
                plan_only=plan_only,
                thumbnails=thumbnails,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except MoverError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_status)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _print(report, crosswalk, plan_only=plan_only)
    sys.exit(1 if report.quarantined else 0)


def _print(report: object, crosswalk: Path, *, plan_only: bool) -> None:
    from mover.deid.oneshot import OneShotReport

    assert isinstance(report, OneShotReport)
    done = "would be de-identified" if plan_only else "de-identified"
    click.echo(f"{report.files} files: {report.deidentified} {done}, {report.quarantined} quarantined")
    for reason, count in sorted(report.reasons.items()):
        click.echo(f"  {count:6} {reason}")
    for planned in report.planned:
        click.echo(f"file {planned.position}: {planned.status} {planned.reason or planned.family or ''}".rstrip())
        for decision in planned.decisions:
            times = f" x{decision.times}" if decision.times > 1 else ""
            shape = f" [{decision.shape}]" if decision.shape else ""
            click.echo(f"    {decision.action:7} {decision.code} {decision.place}{shape}{times}: {decision.reason}")
    if not plan_only:
        click.echo(f"crosswalk: {crosswalk} (keep it secret)")
