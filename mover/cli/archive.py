"""`mover archive`: second copies, locks and damage of published slides, as archive policies want them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient


@click.group("archive", cls=WholeLines)
def command() -> None:
    """Second copies, locks and damage of published slides.

    Which tiers, and how often, is said by policies of the kind `archive`.
    """


@command.command("list")
@with_client
def list_archives(*, mover: SyncClient, out: Output) -> None:
    """How the slides of each archive policy stand."""
    from mover.cli.output import size

    found = mover.archives.list()
    rows = [
        (
            one.policy, one.tier, one.second_copy or "none", one.slides, size(one.bytes), one.copied, one.late,
            one.damaged + one.doubted, one.locked_until or "", _when(one.turn),
        )
        for one in found
    ]  # fmt: skip
    headings = "policy tier second-copy slides> bytes> copied> late> damaged> locked-until turn"
    out.table(found, headings, rows, empty="no policy keeps an archive")
    for one in found:
        if one.turn is not None and one.turn.explanation:
            out.note(f"{one.policy}: {one.turn.explanation}")


@command.command("keep")
@click.argument("policy")
@with_client
def keep(*, mover: SyncClient, out: Output, policy: str) -> None:
    """Copy and lock what POLICY finds due now, instead of at its next time."""
    asked = mover.archives.keep(policy)
    out.facts(asked, [("policy", asked.policy), ("slides", asked.slides), ("copied", asked.copied)])
    out.note("it begins within seconds; follow it: mover archive list")


def _when(turn: wire.ArchiveTurn | None) -> str:
    if turn is None:
        return "never"
    return f"{turn.state} {turn.finished_at or turn.started_at:%Y-%m-%d %H:%M}"
