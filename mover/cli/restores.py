"""`mover restores`: follow and give up what `mover restore` began."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, timeout_option, wait_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.group("restores", cls=WholeLines)
def command() -> None:
    """Restores on their way and done: follow, give up."""


@command.command("list")
@after_option
@limit_option
@with_client
def list_restores(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """The restores of the project, newest first."""
    from mover.cli.output import size, state

    page = mover.restores.list(after=after, limit=limit)
    rows = [(r.id, state(r.state), r.files, size(r.bytes), r.snapshot, r.to, r.created_at) for r in page.restores]
    out.table(page, "restore state files> bytes> snapshot to asked", rows, empty="none yet: mover restore SNAPSHOT")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("restore")
@wait_option
@timeout_option
@with_client
def show(*, mover: SyncClient, out: Output, restore: str, wait: bool, timeout_s: float | None) -> int:
    """One restore: how far, how fast, what is damaged, what was moved aside."""
    from mover.cli.restore import show_restore, status_of, wait_for

    seen = wait_for(mover, out, restore, timeout_s) if wait else mover.restores.view(restore)
    show_restore(out, seen)
    return status_of(seen)


@command.command("cancel")
@click.argument("restore")
@with_client
def cancel(*, mover: SyncClient, out: Output, restore: str) -> None:
    """Stop it between two pieces. What has landed stays; the rest is swept away."""
    from mover.cli.restore import show_restore

    show_restore(out, mover.restores.cancel(restore))
