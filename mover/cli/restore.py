"""`mover restore`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from mover.cli.common import plan_option, with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.command("restore")
@click.argument("snapshot")
@click.option("--to", required=True, metavar="FOLDER", help="A new folder; nothing is overwritten.")
@click.option("--path", default="/", show_default=True, help="Only this path of the snapshot.")
@plan_option
@with_client
def command(*, mover: SyncClient, out: Output, snapshot: str, to: str, path: str, plan: bool) -> None:
    """Bring a snapshot, or a path of it, into a new folder."""
    from mover.cli.output import size

    target = os.path.abspath(to)
    if plan:
        out.plan(mover.snapshots.plan_restore(snapshot, to=target, path=path))
        return
    done = mover.snapshots.restore(snapshot, to=target, path=path)
    what = f"{done.files} files, {size(done.bytes)} in {done.seconds:.1f} s"
    out.facts(done, [("restored", what), ("to", done.to)])
