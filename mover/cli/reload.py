"""`mover reload`: what was changed in files is taken now, and the outcome is said. `systemctl reload` calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.command("reload")
@with_client
def command(*, mover: SyncClient, out: Output) -> int:
    """Take changed settings and policies now; say what waits for a restart.

    New tiers, policies, the log level, the certificate and the files with DSNs are taken while work goes on. Other
    settings wait for a restart, and are named. Settings with a mistake change nothing: exit status 1."""
    told = mover.reload()
    parts = (("taken", told.taken), ("waits for a restart", told.restart), ("not taken", told.refused))
    out.facts(told, [(what, one) for what, ones in parts for one in ones] or [("taken", "nothing was left to take")])
    if told.restart:
        out.note("Restart when nothing hurries: what is on its way goes on afterwards.")
    return int(bool(told.refused))
