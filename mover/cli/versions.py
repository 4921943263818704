"""`mover versions`."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from mover.cli.common import as_of_option, limit_option, with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.command("versions")
@click.argument("path")
@click.option("--run", help="Only in snapshots of this run.")
@click.option("--series", help="Only in snapshots of this series (folder:ID; `mover snapshot list` names it).")
@as_of_option
@click.option("--all", "every", is_flag=True, help="Every snapshot that holds it, not only changes.")
@click.option("--after", type=click.IntRange(1), help="Go on after this line: the `next` of the page before.")
@limit_option
@with_client
def command(
    *, mover: SyncClient, out: Output, path: str, run: str | None, series: str | None, as_of: datetime | None,
    every: bool, after: int | None, limit: int,
) -> None:  # fmt: skip
    """The versions of a path, over the snapshots that hold it."""
    from mover.cli.output import size

    page = mover.snapshots.versions(
        path, run=run, series=series, as_of=as_of, every=every, after=after,
        limit=limit,
    )  # fmt: skip
    rows = [
        (v.recorded_at, v.change, "" if v.size_bytes is None else size(v.size_bytes), (v.digest or "")[:16], v.snapshot,
         v.run or v.series)
        for v in page.versions
    ]  # fmt: skip
    out.table(page, "recorded change bytes> blake3 snapshot of", rows, empty="no checked snapshot holds this path")
    if page.next:
        out.note(f"more: --after {page.next}")
