"""`mover cohort`: step 3, what to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.sdk import SyncClient


@click.group("cohort", cls=WholeLines)
def command() -> None:
    """Step 3: save and count cohorts by expression."""


@command.command("save")
@click.argument("name")
@click.argument("expression")
@with_client
def save(*, mover: SyncClient, out: Output, name: str, expression: str) -> None:
    """Save EXPRESSION as NAME, for example: mover cohort save prostate "diagnosis = 'PRAD' and gleason >= 7"."""
    _show(out, mover.cohorts.save(name, expression))


@command.command("list")
@with_client
def list_cohorts(*, mover: SyncClient, out: Output) -> None:
    """The saved cohorts."""
    from mover.cli.output import size

    found = mover.cohorts.list()
    rows = [(f"{c.name}@{c.version}", c.count, size(c.bytes), c.expression, c.created_at) for c in found]
    out.table(
        found, "cohort slides> bytes> expression saved", rows, empty="no cohorts yet: mover cohort save NAME EXPRESSION"
    )


@command.command("show")
@click.argument("cohort")
@with_client
def show(*, mover: SyncClient, out: Output, cohort: str) -> None:
    """One cohort by name, name@version or id."""
    _show(out, mover.cohorts.get(cohort))


@command.command("columns")
@with_client
def columns(*, mover: SyncClient, out: Output) -> None:
    """What an expression may ask about."""
    found = mover.cohorts.columns()
    rows = [(c.name, c.type, c.table, ", ".join(c.allowed or [])) for c in found]
    out.table(found, "column type table values", rows, empty="no columns yet: no record set is aligned")


@command.command("count")
@click.argument("expression")
@with_client
def count(*, mover: SyncClient, out: Output, expression: str) -> None:
    """How many slides and bytes EXPRESSION names today; nothing is saved."""
    from mover.cli.output import size

    found = mover.cohorts.count(expression)
    out.facts(found, [("slides", found.count), ("bytes", size(found.bytes))])


def _show(out: Output, cohort: object) -> None:
    from mover.cli.output import size
    from mover.model import wire

    assert isinstance(cohort, wire.Cohort)
    out.facts(
        cohort,
        [
            ("cohort", f"{cohort.name}@{cohort.version}"),
            ("expression", cohort.expression),
            ("slides", cohort.count),
            ("bytes", size(cohort.bytes)),
            ("id", cohort.id),
            ("saved", cohort.created_at),
        ],
    )
    out.note(f"on flash: mover run request --cohort {cohort.name}@{cohort.version}")
