"""`mover status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.command("status")
@with_client
def command(*, mover: SyncClient, out: Output) -> None:
    """How the daemon is doing, and who you are to it."""
    from mover.cli.output import counts, state

    seen = mover.status()
    tiers = ", ".join(f"{t.name} {state('online' if t.online else 'offline')}" for t in seen.tiers)
    out.facts(
        seen,
        [
            ("daemon", f"{seen.node}, version {seen.version}"),
            ("you", f"{seen.actor}, {seen.role} of project {seen.project}"),
            ("database", seen.database),
            ("work", counts(seen.shards)),
            ("tiers", tiers),
            *(("see to", warning) for warning in seen.warnings),
        ],
    )
