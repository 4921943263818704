"""`mover events`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient

IDS_SHOWN = 8


@click.command("events")
@click.option("--after", type=click.IntRange(0), default=0, metavar="EVENT", help="Only what came after this event.")
@with_client
def command(*, mover: SyncClient, out: Output, after: int) -> None:
    """What changes, as it changes: nouns and ids.

    Of the project, until Ctrl-C; what a thing is like now, its own command shows. With --json a line each."""
    from datetime import UTC, datetime

    import msgspec

    from mover.model import wire

    for event in mover.events(after=after):
        at = f"{datetime.fromtimestamp(event.id / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
        if out.as_json:
            click.echo(msgspec.json.encode(event))
        elif isinstance(event, wire.ChangesReset):
            out.note(f"{at}  more changed than can be told: look at all of it")
        else:
            for noun, ids in event.nouns.items():
                out.note(f"{at}  {noun:<14}  {_shown(ids)}".rstrip())


def _shown(ids: list[str] | None) -> str:
    if ids is None:
        return ""
    more = f" and {len(ids) - IDS_SHOWN} more" if len(ids) > IDS_SHOWN else ""
    return " ".join(ids[:IDS_SHOWN]) + more
