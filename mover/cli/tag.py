"""`mover tag`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mover.cli.common import Span, after_option, limit_option, plan_option, with_client
from mover.cli.watching import WholeLines
from mover.model.amounts import counted

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
    from mover.sdk import SyncClient

OLDER_S = 180 * 86_400


@click.group("tag", cls=WholeLines)
def command() -> None:
    """Words on slides: put on, taken off, undone.

    They find slides again: in cohorts and move policies as tag = 'x'. No name of anybody is a tag: all may read them.
    """


@command.command("list")
@with_client
def list_tags(*, mover: SyncClient, out: Output) -> None:
    """The tags of the project, with how many slides have each."""
    from mover.cli.output import size

    tags = mover.tags.list()
    rows = [(one.tag, one.slides, size(one.bytes), one.changed_at) for one in tags]
    out.table(tags, "tag slides> bytes> changed", rows, empty="no tags yet: mover tag add TAG --where EXPRESSION")


def _change(action: str, doc: str) -> None:
    @command.command(action, help=doc)
    @click.argument("tag")
    @click.option("--where", "expression", help="Slides that this cohort expression selects.")
    @click.option("--slide", "numbers", multiple=True, help="Slides by number, separated by commas or said again.")
    @click.option("--cold", "tier", help="Slides on this tier that nobody used for --older.")
    @click.option("--older", "older_s", type=Span(), default=OLDER_S, help="With --cold: for so long. [default: 180d]")
    @click.option("--folder", default="", help="With --cold: only below it.")
    @click.option("--reason", default="", help="Why; it stands beside the change.")
    @plan_option
    @with_client
    def change(
        *, mover: SyncClient, out: Output, tag: str, expression: str | None, numbers: tuple[str, ...],
        tier: str | None, older_s: int, folder: str, reason: str, plan: bool,
    ) -> None:  # fmt: skip
        from mover.model import wire

        listed = [one.strip() for one in ",".join(numbers).split(",") if one.strip()] or None
        cold = wire.ColdChoice(tier, older_s, folder) if tier is not None else None
        body = wire.TagChangeRequest(tag, action, expression, listed, cold, reason)  # type: ignore[arg-type]
        if plan:
            out.plan(mover.tags.plan_change(body))
            return
        _show(out, mover.tags.change(body))


_change("add", "Put TAG on slides, as one change that can be undone.")
_change("remove", "Take TAG off slides, as one change that can be undone.")


@command.command("changes")
@click.option("--tag", help="Only of this tag.")
@after_option
@limit_option
@with_client
def changes(*, mover: SyncClient, out: Output, tag: str | None, after: str | None, limit: int) -> None:
    """Who put which tag on how many slides, newest first."""
    page = mover.tags.changes(tag=tag, after=after, limit=limit)
    rows = [
        (one.id, one.action, one.tag, one.count, one.chosen, one.created_by, one.created_at, one.undone_by)
        for one in page.changes
    ]
    out.table(page, "change what tag slides> chosen by at undone", rows, empty="no tag was ever put on a slide")
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("undo")
@click.argument("change")
@plan_option
@with_client
def undo(*, mover: SyncClient, out: Output, change: str, plan: bool) -> None:
    """Take a whole change back. What somebody changed since stays as it is, and is told."""
    if plan:
        out.plan(mover.tags.plan_undo(change))
        return
    _show(out, mover.tags.undo(change))


def _show(out: Output, made: wire.TagChange) -> None:
    from mover.cli.output import size

    facts: list[tuple[str, Any]] = [
        ("change", made.id),
        ("tag", made.tag),
        ("put on" if made.action == "add" else "taken off", f"{counted(made.count, 'slide')}, {size(made.bytes)}"),
        ("chosen", made.chosen),
        ("why" if not made.undoes else "left", made.reason or None),
    ]
    out.facts(made, facts)
    if not made.count:
        out.note("they were so already: nothing was changed")
    else:
        out.note(f"undo: mover tag undo {made.id}")
