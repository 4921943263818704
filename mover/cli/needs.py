"""`mover needs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.command("needs")
@with_client
def command(*, mover: SyncClient, out: Output) -> None:
    """What waits for a person, the most urgent first."""
    seen = mover.oversight.needs()
    rows = [(n.severity, n.words, n.subject, n.since, n.hint) for n in seen.needs]
    out.table(seen, "when what id since do", rows, empty="nothing waits for you")
