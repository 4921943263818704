"""`mover tier`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.group("tier", cls=WholeLines)
def command() -> None:
    """Where bytes live."""


@command.command("list")
@with_client
def list_tiers(*, mover: SyncClient, out: Output) -> None:
    """The tiers: zone, role, whether they are there, and how full they are."""
    from mover.cli.output import size, state

    tiers = mover.tiers()
    rows = [
        (
            t.name,
            t.kind,
            t.zone,
            t.role,
            state("online" if t.online else "offline"),
            size(t.capacity_bytes) if t.capacity_bytes is not None else "",
            size(t.free_bytes) if t.free_bytes is not None else "",
            size(t.reserved_bytes) if t.reserved_bytes else "",
            ", ".join(name for name, has in sorted(t.traits.items()) if has is True),
            (state(t.lock.state) if t.lock else ""),
            (t.lock.explanation if t.lock else None) or t.explanation,
        )
        for t in tiers
    ]
    out.table(
        tiers, "tier kind zone role state capacity> free> reserved> can kept why", rows, empty="no tiers in mover.yaml"
    )
