"""`mover alarm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model.wire import AlarmTelling
    from mover.sdk import SyncClient


@click.group("alarm", cls=WholeLines)
def command() -> None:
    """What was told to whom; try a receiver."""


@command.command("list")
@click.option("--standing", is_flag=True, help="Only what is not over.")
@after_option
@limit_option
@with_client
def list_alarms(*, mover: SyncClient, out: Output, standing: bool, after: str | None, limit: int) -> None:
    """Alarms, newest first, and whether each receiver has its word."""
    page = mover.oversight.alarms(standing=standing, after=after, limit=limit)
    rows = [
        (a.opened_at, a.severity, a.words, a.closed_at or "stands", "; ".join(map(_told, a.tellings)) or "nobody yet")
        for a in page.alarms
    ]
    out.table(page, "opened when what over told", rows, empty="no alarms")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("test")
@click.argument("receiver")
@with_client
def test(*, mover: SyncClient, out: Output, receiver: str) -> int:
    """Send RECEIVER a test now. Exit status 9 when it did not take it."""
    tried = mover.oversight.try_alarm(receiver)
    word = "[green]took it[/]" if tried.told else "[red]did not take it[/]"
    out.facts(tried, [("receiver", receiver), ("answer", word), ("why", tried.problem)])
    return 0 if tried.told else 9


def _told(telling: AlarmTelling) -> str:
    word = "told" if telling.told_at else "given up" if telling.given_up_at else f"tried {telling.attempts} times"
    return f"{telling.receiver}: {telling.event}, {word}"
