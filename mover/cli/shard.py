"""`mover shard`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient

STATES = ("waiting", "running", "done", "failed", "cancelled")


@click.group("shard", cls=WholeLines)
def command() -> None:
    """Work as it is dispatched: what runs, waits, failed."""


@command.command("list")
@click.option("--subject", metavar="ID", help="Of one batch, run, transfer or other thing.")
@click.option("--kind", help="Of one kind, such as run-stage.")
@click.option("--state", type=click.Choice(STATES), help="In one state.")
@after_option
@limit_option
@with_client
def list_shards(
    *, mover: SyncClient, out: Output, subject: str | None, kind: str | None, state: str | None, after: str | None,
    limit: int,
) -> None:  # fmt: skip
    """Shards, the newest first: who holds them, how often they failed, and why."""
    from mover.cli import output

    page = mover.oversight.shards(subject=subject, kind=kind, state=state, after=after, limit=limit)
    rows = [
        (s.id, s.kind, output.state(s.state), s.subject, s.members, s.holder, f"{s.failures} of {s.claims}", s.code)
        for s in page.shards
    ]
    out.table(page, "shard kind state of members> holder failed> why", rows, empty="no work yet")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("nodes")
@with_client
def nodes(*, mover: SyncClient, out: Output) -> None:
    """The daemons that carry the work: when each was seen, and what it runs."""
    seen = mover.oversight.nodes()
    rows = [(n.id, n.version, n.seen_at, n.shards) for n in seen.nodes]
    out.table(seen, "node version seen shards>", rows, empty="no daemon was seen within a month")
