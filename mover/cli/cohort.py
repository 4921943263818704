"""`mover cohort`: step 3, what to train on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mover.cli.common import after_option, limit_option, with_client
from mover.cli.watching import WholeLines

if TYPE_CHECKING:
    from mover.cli.output import Output
    from mover.model import wire
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
@after_option
@limit_option
@with_client
def list_cohorts(*, mover: SyncClient, out: Output, after: str | None, limit: int) -> None:
    """The saved cohorts."""
    from mover.cli.output import size

    page = mover.cohorts.list(after=after, limit=limit)
    rows = [(f"{c.name}@{c.version}", c.count, size(c.bytes), c.expression, c.created_at) for c in page.cohorts]
    out.table(
        page, "cohort slides> bytes> expression saved", rows, empty="no cohorts yet: mover cohort save NAME EXPRESSION"
    )
    if page.next:
        out.note(f"more: --after {page.next}")


@command.command("show")
@click.argument("cohort")
@with_client
def show(*, mover: SyncClient, out: Output, cohort: str) -> None:
    """One cohort by name, name@version or id."""
    _show(out, mover.cohorts.get(cohort))


@command.command("columns")
@click.option("--values", is_flag=True, help="Show what the newest slides have most often, too.")
@with_client
def columns(*, mover: SyncClient, out: Output, values: bool) -> None:
    """What an expression may ask about."""
    found = mover.cohorts.columns(values=values)
    rows = [(c.name, c.type, c.table, ", ".join(map(str, (c.values if values else c.allowed) or []))) for c in found]
    out.table(found, "column type table values", rows, empty="no columns yet: no record set is aligned")


@command.command("count")
@click.argument("expression")
@with_client
def count(*, mover: SyncClient, out: Output, expression: str) -> None:
    """How many slides and bytes EXPRESSION names today; nothing is saved."""
    from mover.cli.output import size

    found = mover.cohorts.count(expression)
    out.facts(found, [("slides", found.count), ("bytes", size(found.bytes))])


@command.command("explain")
@click.argument("expression")
@with_client
def explain(*, mover: SyncClient, out: Output, expression: str) -> None:
    """EXPRESSION in words, how many slides each clause selects alone, and how they are found."""
    from mover.cli.output import size

    found = mover.cohorts.explain(expression)
    rows = [(f"{c.count:,}", "  " * c.depth + c.words) for c in found.clauses]
    out.table(found, "slides> clause", rows, empty="")
    out.note(f"selects {found.count:,} of {found.slides:,} slides, {size(found.bytes)}")
    late = f"; {found.row_by_row:,} slides were written since and are read row by row" if found.row_by_row else ""
    out.note(f"reads the columns {', '.join(found.columns)}{late}")
    for line in found.plan:
        out.note(f"  {line}")


@command.command("describe")
@click.argument("expression", required=False)
@click.option("--column", "columns", multiple=True, help="Only this column; may be said again.")
@with_client
def describe(*, mover: SyncClient, out: Output, expression: str | None, columns: tuple[str, ...]) -> None:
    """How the values of columns are spread over what EXPRESSION names today, or over all slides."""
    from mover.cli.output import size

    found = mover.cohorts.describe(expression, columns=columns)
    if out.as_json:
        out.json(found)
        return
    out.note(f"{found.count:,} slides, {size(found.bytes)}")
    for one in found.columns:
        many = f"{one.distinct:,}" if one.distinct is not None else "very many"
        out.note(f"\n[bold]{one.column}[/] ({one.type}): {one.known:,} known, {one.missing:,} missing, {many} values")
        _bars(_counts(one), one.known)


@command.command("freeze")
@click.argument("cohort")
@with_client
def freeze(*, mover: SyncClient, out: Output, cohort: str) -> None:
    """Write down the slides that COHORT (name, name@version or id) names now; the list never changes."""
    from mover.cli.output import size

    found = mover.cohorts.freeze(cohort)
    shown = [("selection", found.id), ("slides", found.count), ("bytes", size(found.bytes)), ("root", found.root)]
    out.facts(found, shown)
    out.note(f"its numbers: mover cohort numbers {found.id}")


@command.command("split")
@click.argument("cohort")
@click.option("--train", type=float, default=0.7, show_default=True, help="Its fraction of the slides.")
@click.option("--val", type=float, default=0.15, show_default=True, help="Its fraction; 0 for none.")
@click.option("--test", type=float, default=0.15, show_default=True, help="Its fraction.")
@click.option("--by", metavar="COLUMN", help="Every part has this column's values in the same shares.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another deals otherwise.")
@click.option("--unknown-patients", type=click.Choice(["refuse", "allow"]), default="refuse", show_default=True,
              help="Slides whose patient nobody knows.")  # fmt: skip
@with_client
def split(
    *,
    mover: SyncClient,
    out: Output,
    cohort: str,
    train: float,
    val: float,
    test: float,
    by: str | None,
    seed: int,
    unknown_patients: str,
) -> None:
    """Deal COHORT out in train, val and test: no patient, block or content in two of them."""
    from mover.cli.output import size

    parts = {name: part for name, part in (("train", train), ("val", val), ("test", test)) if part}
    found = mover.cohorts.split(cohort, parts, by=by, seed=seed, unknown_patients=unknown_patients)
    rows = [(one.name, one.count, one.groups, size(one.bytes), one.selection) for one in found.parts]
    out.table(found, "part slides> groups> bytes> selection", rows, empty="")
    for one in found.shares if by and not out.as_json else ():
        out.note(f"  {one.part:>6}  {one.value or '(missing)'}: {one.count:,} of {one.wanted:,.1f}")
    if found.unknown_patients:
        out.note(f"{found.unknown_patients:,} slides have no patient: each was taken for somebody of its own")
    words = " ".join(f"--split {one.name}={one.selection}" for one in found.parts)
    out.note(f"on flash: mover run request {words}")


@command.command("numbers")
@click.argument("selection")
@with_client
def numbers(*, mover: SyncClient, out: Output, selection: str) -> None:
    """The slide numbers of a frozen list, one a line."""
    from mover.cli.output import say

    found: list[str] = []
    after: str | None = None
    while not found or after is not None:
        page = mover.cohorts.selection(selection, after=after, limit=1000)
        found += page.numbers
        after = page.next
        if not page.numbers:
            break
    out.show(found, lambda: say("\n".join(found)))


def _counts(one: wire.Distribution) -> list[tuple[str, int]]:
    """Few values by name, in order where they are numbers; many numbers in steps."""
    if one.histogram and (one.distinct is None or one.distinct > len(one.histogram)):
        return [(f"{b.low:g} to {b.high:g}", b.count) for b in one.histogram]
    numbers = all(isinstance(v.value, int | float) for v in one.values)
    values = sorted(one.values, key=lambda v: v.value) if numbers else one.values
    return [(str(v.value), v.count) for v in values]


def _bars(counted: list[tuple[str, int]], known: int) -> None:
    """A row a value, as long as its share of the largest."""
    from mover.cli.output import say

    most = max((count for _, count in counted), default=0)
    width = max((len(name) for name, _ in counted), default=0)
    for name, count in counted:
        bar = "#" * round(30 * count / most) if most else ""
        say(f"  {name:>{width}}  {count:>11,}  {100 * count / max(1, known):5.1f} %  {bar}")


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
